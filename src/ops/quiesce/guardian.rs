//! The guardian: the process that runs the stop and start commands, and that outlives the run.
//!
//! It is told what to do through a pipe whose only write end the run holds. It alone runs the commands, so that nothing is started twice and
//! nothing is started while a stop command of a dead run still works. The run asks for `stop` and for `start`; end-of-file, or the end of
//! `window-max`, is the same as `start`.
//!
//! Layout of the pipe: a line with the [`Plan`] as JSON, then a line for each [`Ask`]. Answers go back the same way, one [`Answer`] a line.
//!
//! A run that has begun to change the site says so in the state file; when it dies then, the site is left stopped.
//!
//! Failure: killed too, it leaves the state file, by which the next run or `site start` starts the site. A run that finds its guardian gone
//! starts the site itself.
//!
//! Threads: one reads the pipe, so that end-of-file is seen while a command runs.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use zeroize::Zeroizing;

use super::place::SitePlace;
use super::steps::{self, Started, Step, Stopped};
use crate::error::{Error, Result};

/// What the guardian must know. It holds commands, so it is handed over by the pipe and never as an argument.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) site: String,
    /// The state folder.
    pub(super) state: std::path::PathBuf,
    pub(super) stop: Vec<Step>,
    pub(super) start: Vec<Step>,
    pub(super) attempts: u32,
    pub(super) window_ms: u64,
    /// Who is told when the run died.
    pub(super) on_failure: Option<Step>,
}

/// What the run asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Run the stop commands.
    Stop,
    /// Run the start commands, also if the stop commands are not through.
    Start,
}

/// What the guardian says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It has the plan and waits.
    Ready,
    /// The stop commands are through, or one of them failed.
    Stopped(Stopped),
    /// The start commands are through.
    Started(Started, Why),
}

/// Why the site was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Why {
    /// The run asked for it.
    Asked,
    /// The window was open for too long.
    Expired,
    /// The run has gone.
    Gone,
}

/// Is the guardian: reads the plan and what is asked for from stdin, answers on stdout. For the process that the run starts.
pub fn guardian() -> Result<()> {
    let lost = |e| Error::local("the guardian cannot leave the terminal", e);
    // A handler that only notes the signal keeps it from ending this process, and children do not inherit it.
    let noted = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, noted.clone()).map_err(lost)?;
    }
    rustix::process::setsid().map_err(|errno| lost(errno.into()))?;
    guard(std::io::stdin(), std::io::stdout())
}

/// Serves one run.
pub(super) fn guard(
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
) -> Result<()> {
    let mut input = BufReader::new(input);
    let mut line = Zeroizing::new(Vec::new());
    input
        .read_until(b'\n', &mut line)
        .map_err(|e| Error::local("the guardian cannot read its plan", e))?;
    let plan: Plan = serde_json::from_slice(&line)
        .map_err(|e| Error::local("the guardian does not understand its plan", e.into()))?;
    let (sender, asks) = sync_channel(8);
    std::thread::spawn(move || read_asks(input, &sender));
    let answers = Answers(Mutex::new(Box::new(output)));
    answers.give(&Answer::Ready);
    match asks.recv() {
        Ok(Ask::Stop) => {}
        // Nothing was stopped, so nothing is started.
        Ok(Ask::Start) | Err(_) => return Ok(()),
    }
    serve(&plan, &asks, &answers)
}

fn read_asks(input: impl BufRead, asks: &SyncSender<Ask>) {
    for line in input.lines() {
        let Ok(line) = line else {
            return;
        };
        let Ok(ask) = serde_json::from_str(&line) else {
            return;
        };
        if asks.send(ask).is_err() {
            return;
        }
    }
}

struct Answers(Mutex<Box<dyn Write + Send>>);

impl Answers {
    fn give(&self, answer: &Answer) {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = serde_json::to_string(answer).expect("an answer is plain data");
        // A run that has gone hears nothing; its end is seen where it is read.
        if let Err(e) = writeln!(output, "{line}").and_then(|()| output.flush()) {
            tracing::debug!("the run does not listen any more: {e}");
        }
    }
}

fn serve(plan: &Plan, asks: &Receiver<Ask>, answers: &Answers) -> Result<()> {
    let window = Duration::from_millis(plan.window_ms);
    let begun = Instant::now();
    let ended_early = Cell::new(None);
    let is_over = || {
        if ended_early.get().is_none() {
            ended_early.set(match asks.try_recv() {
                Ok(_) => Some(Why::Asked),
                Err(TryRecvError::Disconnected) => Some(Why::Gone),
                Err(TryRecvError::Empty) if begun.elapsed() >= window => Some(Why::Expired),
                Err(TryRecvError::Empty) => None,
            });
        }
        ended_early.get().is_some()
    };
    let mut stopped = steps::stop(&plan.site, &plan.stop, &is_over);
    if ended_early.get() == Some(Why::Expired) {
        stopped.problem = Some(format!(
            "window-max ({} s) was over while the stop commands ran",
            window.as_secs()
        ));
    }
    answers.give(&Answer::Stopped(stopped));
    let why = ended_early.get().unwrap_or_else(|| {
        match asks.recv_timeout(window.saturating_sub(begun.elapsed())) {
            Ok(_) => Why::Asked,
            Err(RecvTimeoutError::Timeout) => Why::Expired,
            Err(RecvTimeoutError::Disconnected) => Why::Gone,
        }
    });
    if why == Why::Gone
        && let Ok(Some(held)) = plan.place().held()
    {
        tell(&format!(
            "site {} stays stopped: {held}; `holdfast site start` starts it as it is",
            plan.site
        ));
        return Ok(());
    }
    match why {
        Why::Asked => {}
        Why::Expired => tell(&format!(
            "site {} has been stopped for {} s (window-max); starting it",
            plan.site,
            window.as_secs()
        )),
        Why::Gone => tell(&format!(
            "the run that stopped site {} has ended without starting it; starting it",
            plan.site
        )),
    }
    let started = steps::start(&plan.site, &plan.start, plan.attempts);
    if why != Why::Asked {
        tell_started(&plan.site, &started);
    }
    settle(&plan.place(), &started)?;
    answers.give(&Answer::Started(started.clone(), why));
    if why == Why::Gone {
        tell_hook(plan, &started);
    }
    Ok(())
}

impl Plan {
    fn place(&self) -> SitePlace {
        SitePlace::new(&self.state, &self.site)
    }
}

/// Keeps in mind what is still down, or that nothing is.
pub(super) fn settle(place: &SitePlace, started: &Started) -> Result<()> {
    if started.problems.is_empty() {
        return place.set_pending(None);
    }
    let Some(mut pending) = place.pending()? else {
        return Ok(());
    };
    pending.problems.clone_from(&started.problems);
    place.set_pending(Some(&pending))
}

/// Tells people; where the run has gone nobody else does.
fn tell(text: &str) {
    let line = format!("holdfast: {text}\n");
    // A closed stderr must not keep the site down.
    drop(std::io::stderr().write_all(line.as_bytes()));
}

fn tell_started(site: &str, started: &Started) {
    for retried in &started.retried {
        tell(retried);
    }
    for problem in &started.problems {
        tell(&format!("SITE {site} IS NOT UP: {problem}"));
    }
    if started.problems.is_empty() {
        tell(&format!("site {site} was started"));
    }
}

/// Runs the failure hook for a run that can't do it any more.
fn tell_hook(plan: &Plan, started: &Started) {
    let Some(hook) = &plan.on_failure else {
        return;
    };
    let report = serde_json::json!({
        "message_type": "guardian",
        "site": plan.site,
        "message": "the run ended without starting the site; no snapshot was made",
        "started": started.problems.is_empty(),
        "problems": started.problems,
    });
    let environment = steps::environment(&plan.site, "on-failure");
    if let Err(how) = hook.run(&environment, format!("{report}\n").as_bytes(), &|| false) {
        tell(&format!("warning: the on-failure hook failed: {how}"));
    }
}
