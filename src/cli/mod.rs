//! Commands and flags to plain option structs; the only place that knows clap, the terminal and the environment.
//!
//! It does no work of its own: every command is a function of `ops`, and what it returns is shown here, for people or as JSON.
//!
//! | part | holds |
//! |---|---|
//! | [`args`], `restore_args` | the flags as they are typed, and their help |
//! | [`open`] | from flags and environment to an open repository; the key and the prompt for a passphrase |
//! | [`output`] | stdout: lines for people or JSON, sizes, times, tables |
//! | [`progress`] | what is shown while a command works |
//! | [`signals`] | Ctrl-C and SIGTERM |
//! | [`commands`] | one file for each command |
//!
//! Invariants:
//! 1. An error is told once, with its causes, and gives the exit code of its kind (`it/cli.rs`).
//! 2. A reader of stdout that goes away ends the command quietly (`a_closed_pipe_is_no_error`).

mod args;
mod commands;
mod open;
mod output;
mod progress;
mod restore_args;
mod signals;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;
use holdfast::error::Error;
use holdfast::store::StoreError;
use tracing_subscriber::EnvFilter;

pub(crate) use args::{Args, Global};

/// Committed, or done, but something is missing.
const EXIT_SKIPPED: u8 = 3;
/// The repository is damaged.
const EXIT_DAMAGED: u8 = 4;
/// Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Reads the command line; help, version and usage errors are printed here.
pub(crate) fn parse() -> Result<Args, ExitCode> {
    Args::try_parse().map_err(|error| {
        // Nobody is left to tell if even this can't be printed.
        drop(error.print());
        match error.use_stderr() {
            true => ExitCode::from(2),
            false => ExitCode::SUCCESS,
        }
    })
}

/// Starts the log on stderr: warnings, with `-v` what happens, with `-vv` and more how.
pub(crate) fn start_tracing(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, 0) => "error",
        (_, 0) => "warn",
        (_, 1) => "holdfast=info,warn",
        (_, 2) => "holdfast=debug,info",
        (_, _) => "holdfast=trace,debug",
    };
    let filter = EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_unset| level.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(progress::log_writer)
        .with_target(global.verbose > 1)
        .without_time()
        .with_ansi(output::colours_on_stderr())
        .init();
}

/// Runs the command and returns its exit code.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    if let Err(error) = holdfast::crypto::disable_core_dumps() {
        tracing::warn!("core dumps of this process can't be switched off: {error}");
    }
    choose_kernel()?;
    if commands::is_guardian(&args) {
        // It hears no signal, so nothing that listens to them is started.
        holdfast::ops::quiesce::guardian()?;
        return Ok(0);
    }
    let signals = signals::start()?;
    commands::run(args, &signals)
}

/// Reads which form of the chunker is asked for.
fn choose_kernel() -> anyhow::Result<()> {
    let Some(name) = std::env::var_os("HOLDFAST_KERNEL").filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    holdfast::ops::backup::choose_kernel(&name.to_string_lossy())
        .map_err(|error| open::Usage(format!("HOLDFAST_KERNEL: {error}")).into())
}

/// Tells why the command failed, once, with its causes, and returns the exit code of the failure.
pub(crate) fn explain(failure: &anyhow::Error) -> u8 {
    if is_broken_pipe(failure) {
        return 0;
    }
    let text = failure_text(failure);
    let mut stderr = std::io::stderr().lock();
    // A closed stderr must not change the exit code.
    drop(writeln!(stderr, "holdfast: {text}"));
    exit_code(failure)
}

/// An error with its causes, in one line.
fn failure_text(failure: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in failure.chain() {
        let cause = cause.to_string();
        // A cause that its error quotes already, or that only passes on another one, is not said twice.
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

fn exit_code(failure: &anyhow::Error) -> u8 {
    failure
        .chain()
        .find_map(|cause| {
            if let Some(error) = cause.downcast_ref::<Error>() {
                Some(error.exit_code())
            } else if let Some(error) = cause.downcast_ref::<StoreError>() {
                Some(error.exit_code())
            } else {
                cause.downcast_ref::<open::Usage>().map(|_usage| 2)
            }
        })
        .unwrap_or(1)
}

fn is_broken_pipe(failure: &anyhow::Error) -> bool {
    failure.chain().any(|cause| {
        // Nothing else that a command writes to is a pipe; what a server or a child does comes as words.
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn errors_keep_their_exit_codes_below_a_context() {
        let check = |failure: anyhow::Error, code: u8| {
            assert_eq!(exit_code(&failure.context("on the way")), code);
        };
        check(Error::Interrupted.into(), 130);
        check(
            StoreError::NoRepository {
                place: "/srv".into(),
            }
            .into(),
            10,
        );
        check(open::Usage("no repository".into()).into(), 2);
        check(anyhow::anyhow!("anything"), 1);
        let closed = std::io::Error::from(ErrorKind::BrokenPipe);
        let closed = Err::<(), _>(output::WriteError(closed)).context("ls");
        assert!(is_broken_pipe(&closed.unwrap_err()));
    }
}
