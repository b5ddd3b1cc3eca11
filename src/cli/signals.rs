//! Ctrl-C and SIGTERM: the first one asks the command to end cleanly, a second one ends the process.
//!
//! A command that has nothing to clean up is ended by the first one. Where a passphrase is being typed, the terminal shows again what is
//! typed before the process ends.
//!
//! Threads: one thread waits for signals for the whole run.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as SignalIterator;

use super::EXIT_INTERRUPTED;

/// What the thread that waits for signals shares with the command.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    /// What asks the command to end; none if it has nothing to clean up.
    ask: Option<Box<dyn Fn() + Send>>,
    asked: bool,
    /// What must not be left behind when the process ends at once.
    last: Option<Box<dyn Fn() + Send>>,
    /// How the terminal is to be left, while a passphrase is being typed.
    terminal: Option<Termios>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

/// Starts waiting for signals.
pub(super) fn start() -> anyhow::Result<Signals> {
    let signals = Signals::default();
    let mut waiting = SignalIterator::new([SIGINT, SIGTERM, SIGHUP])?;
    let shared = signals.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _signal in waiting.forever() {
                shared.arrived();
            }
        })?;
    Ok(signals)
}

impl Signals {
    /// From now on the first signal calls `ask`, and the command ends by itself.
    pub(super) fn ask_first(&self, ask: impl Fn() + Send + 'static) {
        self.shared().ask = Some(Box::new(ask));
    }

    /// What is called when the process ends at once.
    pub(super) fn at_last(&self, last: impl Fn() + Send + 'static) {
        self.shared().last = Some(Box::new(last));
    }

    /// Says how the terminal is to be left if a signal arrives, or that it is as it was.
    pub(super) fn restore_terminal(&self, terminal: Option<Termios>) {
        self.shared().terminal = terminal;
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self) {
        let mut shared = self.shared();
        if let Some(terminal) = &shared.terminal
            && let Err(errno) = tcsetattr(std::io::stdin(), OptionalActions::Flush, terminal)
        {
            tracing::debug!("the terminal stays silent: {errno}");
        }
        match &shared.ask {
            Some(ask) if !shared.asked => ask(),
            _ => {
                if let Some(last) = &shared.last {
                    last();
                }
                std::process::exit(EXIT_INTERRUPTED.into());
            }
        }
        shared.asked = true;
        super::progress::interrupted();
    }
}
