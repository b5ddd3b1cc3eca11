//! The quiet window as the run sees it.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::guardian::{Answer, Ask, Plan, Why, guard, settle};
use super::moment::{Moment, ProcessIdentity, since_boot};
use super::place::{Pending, SiteLock};
use super::steps::{self, Started, Step, Stopped};
use crate::error::{Error, Result};
use crate::format::snapshot::QuietWindow;
use crate::site::config::run::{CommandSetting, QuiesceSettings};

/// How long the guardian may take to say that it is there.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often an interrupt is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a quiet window needs.
#[derive(Debug)]
pub struct QuietOptions<'a> {
    /// The lock of the run.
    pub lock: &'a SiteLock,
    /// How the site is stopped and started.
    pub settings: &'a QuiesceSettings,
    /// The program that is the guardian, called with `guardian`; none: a thread of this process is, which a `kill -9` ends too.
    pub guardian: Option<PathBuf>,
    /// Who is told by the guardian when the run died.
    pub on_failure: Option<&'a CommandSetting>,
}

/// A moment at which something of the site had been read.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl Mark {
    /// Now.
    pub fn now() -> Self {
        Self(since_boot())
    }
}

/// A guardian that waits, and later the window. Dropped, it starts what it stopped.
#[derive(Debug)]
pub struct Quiet {
    shared: Arc<Shared>,
    plan: Plan,
    place: super::SitePlace,
    /// What the guardian said after the end.
    window: Option<(QuietWindow, u64)>,
    stop_asked: bool,
}

/// What the threads of the run share.
#[derive(Debug)]
struct Shared {
    asks: Mutex<Asks>,
    heard: Mutex<Heard>,
    news: Condvar,
}

#[derive(Debug)]
struct Asks {
    pipe: Option<PipeWriter>,
    start_asked: bool,
    child: Option<Child>,
}

#[derive(Debug, Default)]
struct Heard {
    ready: bool,
    stopped: Option<Stopped>,
    started: Option<(Started, Why)>,
    /// The guardian has gone.
    gone: bool,
    /// Nobody waits any more.
    over: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Quiet {
    /// Starts the guardian. Nothing is stopped yet.
    pub fn prepare(options: &QuietOptions<'_>) -> Result<Self> {
        let place = options.lock.place().clone();
        if let Some(held) = place.held()? {
            return Err(Error::Message(format!(
                "site {} is stopped: {held}; bring that to its end, or start the site as it is with `holdfast site start`",
                place.site()
            )));
        }
        let settings = options.settings;
        let plan = Plan {
            site: place.site().to_owned(),
            state: place.state_folder().to_owned(),
            stop: Step::all(&settings.stop),
            start: Step::all(&settings.start),
            attempts: settings.start_attempts,
            window_ms: u64::try_from(settings.window_max.as_millis()).unwrap_or(u64::MAX),
            on_failure: options.on_failure.map(Step::of),
        };
        let cannot = |e| Error::local("the guardian that starts the site again can't be run", e);
        // Both ends of both pipes close on exec, so no other child holds the guardian's pipe open.
        let (asks_read, asks_write) = pipe().map_err(cannot)?;
        let (answers_read, answers_write) = pipe().map_err(cannot)?;
        let child = match &options.guardian {
            Some(program) => Some(
                Command::new(program)
                    .arg0("holdfast")
                    .arg("guardian")
                    .stdin(Stdio::from(asks_read))
                    .stdout(Stdio::from(answers_write))
                    .spawn()
                    .map_err(cannot)?,
            ),
            None => {
                in_this_process(asks_read, answers_write);
                None
            }
        };
        let shared = Arc::new(Shared {
            asks: Mutex::new(Asks {
                pipe: Some(asks_write),
                start_asked: false,
                child,
            }),
            heard: Mutex::default(),
            news: Condvar::new(),
        });
        let listening = shared.clone();
        thread::spawn(move || listening.listen(answers_read));
        let quiet = Self {
            shared,
            plan,
            place,
            window: None,
            stop_asked: false,
        };
        let mut line =
            Zeroizing::new(serde_json::to_vec(&quiet.plan).expect("a plan is plain data"));
        line.push(b'\n');
        let sent = locked(&quiet.shared.asks)
            .pipe
            .as_mut()
            .expect("the pipe was just made")
            .write_all(&line);
        sent.map_err(cannot)?;
        if quiet
            .shared
            .wait(Some(READY_WITHIN), &|heard| heard.ready)
            .is_none()
        {
            quiet.shared.kill();
            return Err(Error::Message(
                "the guardian that starts the site again does not answer; nothing was stopped"
                    .into(),
            ));
        }
        Ok(quiet)
    }

    /// Stops the site. After an error it is started again; also, at once, when `is_over` says that the run is about to end.
    pub fn stop(&mut self, is_over: impl Fn() -> bool + Send + 'static) -> Result<()> {
        self.place.set_pending(Some(&Pending {
            run: ProcessIdentity::own(),
            guardian: self.shared.guardian(),
            since: Moment::now(),
            start: self.plan.start.clone(),
            attempts: self.plan.attempts,
            problems: Vec::new(),
            held: None,
        }))?;
        self.stop_asked = true;
        self.shared.ask(Ask::Stop);
        self.shared.clone().watch(is_over);
        let heard = self.shared.wait(None, &|heard| heard.stopped.is_some());
        let stopped = heard.map(|heard| heard.stopped.clone());
        let problem = match stopped {
            Some(stopped) => stopped.and_then(|stopped| stopped.problem),
            None => Some("the guardian that runs the stop commands was killed".into()),
        };
        let Some(problem) = problem else {
            return Ok(());
        };
        let problems = self.end().problems;
        let after = match problems.is_empty() {
            true => "the site was started again".to_owned(),
            false => format!("AND THE SITE IS NOT UP: {}", problems.join("; ")),
        };
        Err(Error::Message(format!("{problem}; {after}")))
    }

    /// Starts the site, if that has not happened yet, waits for it and returns what the window came to.
    pub fn end(&mut self) -> QuietWindow {
        if let Some((window, _)) = &self.window {
            return window.clone();
        }
        if !self.stop_asked {
            self.shared.close();
            let nothing = QuietWindow::default();
            self.window = Some((nothing.clone(), u64::MAX));
            return nothing;
        }
        self.shared.ask(Ask::Start);
        let limit = steps::start_limit(&self.plan.start, self.plan.attempts);
        let done = self
            .shared
            .wait(Some(limit), &|heard| heard.started.is_some());
        let stopped = done.as_ref().and_then(|heard| heard.stopped.clone());
        let heard = done.and_then(|heard| heard.started.clone());
        let (started, why) = heard.unwrap_or_else(|| (self.start_alone(), Why::Asked));
        self.shared.close();
        for retried in &started.retried {
            tracing::warn!("{retried}");
        }
        let mut problems = started.problems.clone();
        for problem in &problems {
            tracing::error!("SITE {} IS NOT UP: {problem}", self.place.site());
        }
        if why == Why::Expired {
            problems.push(format!(
                "window-max ({} s) was over before everything had been read: the site was started meanwhile",
                self.plan.window_ms / 1000
            ));
        }
        let stopped = stopped.or_else(|| locked(&self.shared.heard).stopped.clone());
        let stopped = stopped.unwrap_or_default();
        let window = QuietWindow {
            stop_begun: stopped.begun.timestamp(),
            stopped: stopped.ended.timestamp(),
            start_begun: started.begun.timestamp(),
            started: started.ended.timestamp(),
            problems,
        };
        self.window = Some((window.clone(), started.begun.since_boot));
        window
    }

    /// From now on the site is not started when this run dies, but only when somebody asks; the reason is for people.
    pub fn hold(&self, why: &str) -> Result<()> {
        let Some(mut pending) = self.place.pending()? else {
            return Ok(());
        };
        pending.held = Some(why.to_owned());
        self.place.set_pending(Some(&pending))
    }

    /// Ends the window and leaves the site stopped, which has to be held.
    pub fn leave_stopped(mut self) {
        self.window = Some((QuietWindow::default(), u64::MAX));
        self.shared.close();
    }

    /// Whether the site was at rest until this moment; known when the window has ended.
    pub fn was_quiet(&self, mark: Mark) -> bool {
        self.window
            .as_ref()
            .is_some_and(|(_, start_begun)| mark.0 <= *start_begun)
    }

    /// Starts the site without the guardian.
    fn start_alone(&self) -> Started {
        tracing::warn!("the guardian was killed or hangs; this run starts the site itself");
        self.shared.kill();
        let started = steps::start(&self.plan.site, &self.plan.start, self.plan.attempts);
        if let Err(e) = settle(&self.place, &started) {
            tracing::warn!("{e}");
        }
        started
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.end();
    }
}

fn in_this_process(asks: PipeReader, answers: PipeWriter) {
    thread::spawn(move || {
        if let Err(e) = guard(asks, answers) {
            tracing::error!("{e}");
        }
    });
}

impl Shared {
    fn guardian(&self) -> Option<ProcessIdentity> {
        let asks = locked(&self.asks);
        let child = asks.child.as_ref()?;
        Some(ProcessIdentity::of(child.id()))
    }

    /// Asks; `start` only once.
    fn ask(&self, ask: Ask) {
        let mut asks = locked(&self.asks);
        if ask == Ask::Start && std::mem::replace(&mut asks.start_asked, true) {
            return;
        }
        let line = serde_json::to_string(&ask).expect("plain data");
        let Some(pipe) = &mut asks.pipe else {
            return;
        };
        // A guardian that was killed is seen by the end of its answers.
        if let Err(e) = writeln!(pipe, "{line}") {
            tracing::debug!("the guardian does not listen: {e}");
        }
    }

    /// Waits for something; none if the guardian has gone before, or the time is over.
    fn wait(
        &self,
        limit: Option<Duration>,
        wanted: &dyn Fn(&Heard) -> bool,
    ) -> Option<MutexGuard<'_, Heard>> {
        let begun = Instant::now();
        let mut heard = locked(&self.heard);
        loop {
            if wanted(&heard) {
                return Some(heard);
            }
            if heard.gone || limit.is_some_and(|limit| begun.elapsed() >= limit) {
                return None;
            }
            let (guard, _) = self
                .news
                .wait_timeout(heard, Duration::from_millis(500))
                .unwrap_or_else(PoisonError::into_inner);
            heard = guard;
        }
    }

    /// Reads the guardian's answers to their end.
    fn listen(&self, answers: impl Read) {
        for line in BufReader::new(answers).lines() {
            let answer = line.map(|line| serde_json::from_str::<Answer>(&line));
            let Ok(Ok(answer)) = answer else {
                break;
            };
            let mut heard = locked(&self.heard);
            match answer {
                Answer::Ready => heard.ready = true,
                Answer::Stopped(stopped) => heard.stopped = Some(stopped),
                Answer::Started(started, why) => heard.started = Some((started, why)),
            }
            self.news.notify_all();
        }
        locked(&self.heard).gone = true;
        self.news.notify_all();
    }

    /// Asks for the start as soon as somebody wants the run to end: it may hang in a read.
    fn watch(self: Arc<Self>, is_over: impl Fn() -> bool + Send + 'static) {
        thread::spawn(move || {
            loop {
                let heard = locked(&self.heard);
                if heard.over || heard.gone || heard.started.is_some() {
                    return;
                }
                drop(heard);
                if is_over() {
                    return self.ask(Ask::Start);
                }
                thread::sleep(LOOK_EVERY);
            }
        });
    }

    fn kill(&self) {
        if let Some(child) = &mut locked(&self.asks).child
            && let Err(e) = child.kill()
        {
            tracing::debug!("the guardian has ended: {e}");
        }
    }

    /// Lets the guardian end.
    fn close(&self) {
        locked(&self.heard).over = true;
        let mut asks = locked(&self.asks);
        asks.pipe = None;
        if let Some(child) = &mut asks.child
            && let Err(e) = child.wait()
        {
            tracing::debug!("the guardian was not waited for: {e}");
        }
    }
}
