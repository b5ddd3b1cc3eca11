//! The holdfast command: parse, start tracing, run, exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match cli::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::start_tracing(&args.global);
    match cli::run(args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(cli::explain(&failure)),
    }
}
