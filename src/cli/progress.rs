//! What is shown while a command works: on a terminal a line that is drawn ten times a second, elsewhere a line every half minute.
//!
//! All that goes to stderr goes through here, so that a warning does not land in the middle of a progress line.
//!
//! Threads: one thread draws; it ends when the [`Progress`] is dropped.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast::stats::Stats;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::Global;
use super::output;

const DRAW_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(30);
/// The rate is that of the last so many drawings.
const RATE_OVER: usize = 50;

/// The progress line on the terminal, if there is one.
static ACTIVE: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Where the log goes.
#[derive(Debug)]
pub(super) struct LogWriter;

/// Makes the log's writer.
pub(super) fn log_writer() -> LogWriter {
    LogWriter
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        suspended(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Calls `f` while the progress line is not on the terminal.
pub(super) fn suspended<T>(f: impl FnOnce() -> T) -> T {
    let bar = ACTIVE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*bar {
        Some(bar) => bar.suspend(f),
        None => f(),
    }
}

/// Tells a warning.
pub(super) fn warning(text: &str) {
    note(&format!("warning: {text}"));
}

/// Tells something beside the results.
pub(super) fn note(text: &str) {
    // In one piece, so that no progress line comes between; a closed stderr must not end a backup.
    drop(LogWriter.write_all(format!("holdfast: {text}\n").as_bytes()));
}

/// Tells that a signal arrived and the command is about to end.
pub(super) fn interrupted() {
    note("interrupted, ending cleanly; a second Ctrl-C ends at once");
}

/// How far a command is.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Bytes dealt with.
    pub(super) done: u64,
    /// Bytes that there are, as far as known.
    pub(super) expected: u64,
    /// What else there is to say.
    pub(super) details: Vec<String>,
}

/// Shows progress until it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    stop: Option<Sender<()>>,
    drawing: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to show what `sample` makes of the counters.
    pub(super) fn start(
        global: &Global,
        stats: &Arc<Stats>,
        sample: impl Fn(&Stats) -> Sample + Send + 'static,
    ) -> Self {
        if global.quiet || global.json {
            return Self {
                stop: None,
                drawing: None,
            };
        }
        let (stop, stopped) = mpsc::channel();
        let stats = stats.clone();
        let terminal = io::stderr().is_terminal();
        let draw = move || {
            let bar = terminal.then(bar);
            *ACTIVE.lock().unwrap_or_else(PoisonError::into_inner) = bar.clone();
            let mut rates = Rates::new();
            let every = if terminal { DRAW_EVERY } else { LINE_EVERY };
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let line = rates.line(&sample(&stats));
                match &bar {
                    Some(bar) => bar.set_message(line),
                    None => note(&line),
                }
            }
            if let Some(bar) = ACTIVE.lock().unwrap_or_else(PoisonError::into_inner).take() {
                bar.finish_and_clear();
            }
        };
        let drawing = std::thread::Builder::new()
            .name("progress".into())
            .spawn(draw);
        Self {
            stop: Some(stop),
            drawing: drawing.ok(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(drawing) = self.drawing.take() {
            // A drawing that panicked has told so already.
            drop(drawing.join());
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{spinner} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_wrong| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(DRAW_EVERY);
    bar
}

/// The newest samples, for the rate and what is left.
struct Rates {
    begun: Instant,
    samples: std::collections::VecDeque<(Instant, u64)>,
}

impl Rates {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            samples: [(Instant::now(), 0)].into(),
        }
    }

    fn line(&mut self, sample: &Sample) -> String {
        let now = Instant::now();
        self.samples.push_back((now, sample.done));
        if self.samples.len() > RATE_OVER {
            self.samples.pop_front();
        }
        let (then, before) = *self.samples.front().unwrap_or(&(self.begun, 0));
        line(
            sample,
            now - self.begun,
            sample.done.saturating_sub(before),
            now - then,
        )
    }
}

/// One line: `12.3 s · 36 % · 1.20 GiB of 3.31 GiB · 245 MiB/s · 9 s left · details`.
fn line(sample: &Sample, elapsed: Duration, lately: u64, over: Duration) -> String {
    let mut parts = vec![output::duration(elapsed)];
    let known = sample.expected > sample.done && sample.done > 0;
    if known {
        // Whole percent, rounded down, so that 100 is never shown too early.
        let percent = u128::from(sample.done) * 100 / u128::from(sample.expected);
        parts.push(format!("{percent} %"));
        parts.push(format!(
            "{} of {}",
            output::bytes(sample.done),
            output::bytes(sample.expected)
        ));
    } else {
        parts.push(output::bytes(sample.done));
    }
    parts.push(output::rate(lately, over));
    if known && lately > 0 {
        let left = (sample.expected - sample.done) as f64 / lately as f64 * over.as_secs_f64();
        if let Ok(left) = Duration::try_from_secs_f64(left.ceil()) {
            parts.push(format!("{} left", output::duration(left)));
        }
    }
    parts.extend(sample.details.iter().cloned());
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let check = |done: u64, expected: u64, wanted: &str| {
            let sample = Sample {
                done,
                expected,
                details: vec!["2 files".into()],
            };
            let found = line(
                &sample,
                Duration::from_secs(20),
                10 << 20,
                Duration::from_secs(5),
            );
            assert_eq!(found, wanted);
        };
        check(
            30 << 20,
            90 << 20,
            "20 s · 33 % · 30.0 MiB of 90.0 MiB · 2.00 MiB/s · 30 s left · 2 files",
        );
        check(30 << 20, 0, "20 s · 30.0 MiB · 2.00 MiB/s · 2 files");
    }
}
