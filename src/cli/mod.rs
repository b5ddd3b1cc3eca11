//! Commands and flags to plain option structs; the only place that knows clap, the terminal and the environment.
