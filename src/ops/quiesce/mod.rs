//! The quiet window: the site is stopped, read, and started again, whatever happens to the run.
//!
//! | part | holds |
//! |---|---|
//! | `window` | what a run does: [`Quiet::prepare`], [`Quiet::stop`], [`Quiet::end`] |
//! | `guardian` | the process that runs the stop and start commands and outlives the run |
//! | `steps` | commands in order, with time limits and attempts |
//! | `snapshots` | file-system snapshots of shares |
//! | `place` | the lock of a run and the state files |
//! | `recover` | what is done about a run that died; `site start` |
//! | `moment` | clocks that two processes share |
//!
//! Invariants:
//! 1. What is stopped is started: after an error, Ctrl-C, a panic, `kill -9`, a read that hangs; by the guardian, and where that is killed
//!    too by the next run or `site start` (`it/quiet.rs`).
//! 2. It is started once: the guardian runs the commands and the run asks; only a run whose guardian has gone starts the site itself.
//! 3. No other child of the run holds the guardian's pipe: it closes on exec (`a_child_does_not_keep_the_guardian_waiting`).
//! 4. Nothing is stopped before the state file is durable, and it is removed only after everything is up.
//!
//! Start commands may be run for a service that is up: after a failing stop command, or when a run died between the start and its note.
//! They must bear that, as `systemctl start` does.
//!
//! Threads: the guardian's answers are read by a thread of their own; another one asks for the start as soon as the run is about to end.

mod guardian;
mod moment;
mod place;
mod recover;
mod snapshots;
mod steps;
#[cfg(test)]
mod tests;
mod window;

pub use guardian::guardian;
pub use place::{SiteLock, SitePlace};
pub use recover::{Recovered, recover, start_site};
pub use snapshots::FsSnapshots;
pub use window::{Mark, Quiet, QuietOptions};
