//! Runs the shell commands of a site file: stop, start, checks, hooks.
//!
//! A command is given to `/bin/sh -c` in a process group of its own, so that a Ctrl-C meant for holdfast does not reach it and its time limit
//! reaches all that it started. Its output goes into a file in memory: a daemon that a start command leaves behind neither blocks holdfast nor
//! dies of a closed pipe. What it writes after the command's end is refused (`EPERM`), so that the file does not grow for ever.
//!
//! Invariants:
//!
//! 1. A command that does not end in time is ended with its children: TERM, after a grace KILL (test `what_hangs_is_ended_with_its_children`).
//! 2. It is over when the shell is, whoever holds its output open (test `a_daemon_is_left_behind`).
//! 3. Memory is bounded while a command runs, whatever it prints (test `only_the_end_of_the_output_is_kept`).
//! 4. No error and no `Debug` output holds the text of a command (test `debug_shows_no_command`).

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::config::run::CommandSetting;

/// How much of the end of its output is kept.
const OUTPUT_BYTES_MAX: u64 = 16 << 10;

/// What a running command may have printed before all but the end of it is thrown away.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long a command has after TERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How a command ended.
#[derive(Debug)]
pub enum Ending {
    /// It ended by itself.
    Exited(ExitStatus),
    /// It was ended after this time.
    TimedOut(Duration),
    /// The run was asked to end, and ended the command.
    Stopped,
    /// It could not be started or not be waited for.
    Failed(io::Error),
}

/// A command that was run.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub ending: Ending,
    /// The end of what it wrote to stdout and stderr.
    pub output: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Finished {
    /// Whether it ended by itself with this status.
    pub fn ended_with(&self, status: i32) -> bool {
        matches!(&self.ending, Ending::Exited(ended) if ended.code() == Some(status))
    }

    /// Whether it ended well.
    pub fn is_good(&self) -> bool {
        self.ended_with(0)
    }

    /// The last line of the output that is not empty.
    pub fn last_line(&self) -> &str {
        self.output
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default()
            .trim()
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ending {
            Ending::Exited(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "ended with status {code}")?,
                (None, Some(signal)) => write!(f, "was ended by signal {signal}")?,
                (None, None) => write!(f, "ended")?,
            },
            Ending::TimedOut(limit) => {
                write!(f, "took longer than {} s and was ended", limit.as_secs())?;
            }
            Ending::Stopped => f.write_str("was ended because the run was asked to end")?,
            Ending::Failed(error) => write!(f, "could not be run: {error}")?,
        }
        match self.last_line() {
            "" => Ok(()),
            line => write!(f, "; it said: {line}"),
        }
    }
}

/// What else a command is given.
#[derive(Default)]
pub struct Surroundings<'a> {
    /// Variables beside those of this process.
    pub environment: &'a [(&'a str, &'a str)],
    /// What it reads on stdin; nothing otherwise.
    pub stdin: Option<&'a [u8]>,
    /// Whether the run was asked to end; the command is ended then.
    pub stop: Option<&'a dyn Fn() -> bool>,
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// Runs a command to its end, or to its time limit.
pub fn run(setting: &CommandSetting, surroundings: &Surroundings<'_>) -> Finished {
    let started = Instant::now();
    let mut output = None;
    let ending = start(setting, surroundings, &mut output).and_then(|mut child| {
        let look = || output.as_ref().map_or(Ok(()), shorten);
        wait(
            &mut child,
            started,
            setting.timeout,
            surroundings.stop,
            &look,
        )
    });
    Finished {
        ending: ending.unwrap_or_else(Ending::Failed),
        output: output.map(close).unwrap_or_default(),
        elapsed: started.elapsed(),
    }
}

fn start(
    setting: &CommandSetting,
    surroundings: &Surroundings<'_>,
    output: &mut Option<File>,
) -> io::Result<Child> {
    let file = memory_file()?;
    fcntl_setfl(&file, OFlags::APPEND)?;
    let stdin = match surroundings.stdin {
        None => Stdio::null(),
        Some(bytes) => {
            let mut file = memory_file()?;
            file.write_all(bytes)?;
            file.rewind()?;
            Stdio::from(file)
        }
    };
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg(setting.command.expose())
        .envs(surroundings.environment.iter().copied())
        .stdin(stdin)
        .stdout(append(&file)?)
        .stderr(append(&file)?)
        .process_group(0)
        .spawn()?;
    *output = Some(file);
    Ok(child)
}

fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(File::from(memfd_create("holdfast", flags)?))
}

/// Another handle of the file; all write at its end.
fn append(file: &File) -> io::Result<Stdio> {
    file.try_clone().map(Stdio::from)
}

fn wait(
    child: &mut Child,
    started: Instant,
    limit: Duration,
    stop: Option<&dyn Fn() -> bool>,
    look: &dyn Fn() -> io::Result<()>,
) -> io::Result<Ending> {
    loop {
        look()?;
        if let Some(status) = child.try_wait()? {
            return Ok(Ending::Exited(status));
        }
        let late = started.elapsed() >= limit;
        let stopped = stop.is_some_and(|stop| stop());
        if late || stopped {
            end_group(child, GRACE)?;
            return Ok(if late {
                Ending::TimedOut(limit)
            } else {
                Ending::Stopped
            });
        }
        thread::sleep(LOOK);
    }
}

/// Ends a child that leads a process group, and its group: TERM first, after the grace KILL.
pub(super) fn end_group(child: &mut Child, grace: Duration) -> io::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        if !grace.is_zero() {
            signal(pid, Signal::TERM)?;
            let deadline = Instant::now() + grace;
            while Instant::now() < deadline && (child.try_wait()?.is_none() || is_alive(pid)) {
                thread::sleep(LOOK);
            }
        }
        signal(pid, Signal::KILL)?;
    }
    child.wait().map(drop)
}

/// The group is gone if all of it ended meanwhile.
fn signal(pid: Pid, signal: Signal) -> io::Result<()> {
    match kill_process_group(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether any process of a group runs. Those that have ended and that nobody waits for are still members.
fn is_alive(group: Pid) -> bool {
    if test_kill_process_group(group).is_err() {
        return false;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    let group = group.as_raw_nonzero().to_string();
    processes.flatten().any(|entry| {
        let text = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name of the program stands in parentheses and may hold anything.
        let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let mut fields = fields.split(' ');
        let (state, _parent, of) = (fields.next(), fields.next(), fields.next());
        of == Some(group.as_str()) && !matches!(state, Some("Z" | "X"))
    })
}

/// Throws away the older part of what a command printed, if it is much.
fn shorten(mut file: &File) -> io::Result<()> {
    if file.metadata()?.len() <= FILE_BYTES_MAX {
        return Ok(());
    }
    let end = tail(file)?;
    file.set_len(0)?;
    file.write_all(&end)
}

/// The end of what stands in the file.
fn tail(file: &File) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len();
    let from = len.saturating_sub(OUTPUT_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len - from).unwrap_or_default()];
    // The position is not moved: it is shared with those who write.
    let read = file.read_at(&mut bytes, from)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Lets nobody write any more and returns the end of what was written.
fn close(file: File) -> String {
    if let Err(errno) = fcntl_add_seals(&file, SealFlags::GROW) {
        tracing::debug!("the output of a command stays open: {errno}");
    }
    match tail(&file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(its output can't be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::config::Confidential;

    fn setting(text: &str, limit: Duration) -> CommandSetting {
        CommandSetting {
            service: None,
            command: Confidential::new(text.to_owned()),
            timeout: limit,
        }
    }

    fn run_text(text: &str) -> Finished {
        run(
            &setting(text, Duration::from_secs(30)),
            &Surroundings::default(),
        )
    }

    #[test]
    fn endings_and_output() {
        for (text, shown) in [
            ("exit 0", "ended with status 0"),
            (
                "echo out; echo err >&2; exit 3",
                "ended with status 3; it said: err",
            ),
            ("kill -9 $$", "was ended by signal 9"),
            (
                "nonesuch-command",
                "ended with status 127; it said: /bin/sh: 1: nonesuch-command: not found",
            ),
        ] {
            assert_eq!(run_text(text).to_string(), shown, "{text}");
        }
        let long = run_text("head -c 100000 /dev/zero | tr '\\0' x; echo end");
        assert_eq!(long.output.len() as u64, OUTPUT_BYTES_MAX);
        assert!(long.output.ends_with("xend\n"));
    }

    #[test]
    fn stdin_and_variables() {
        let surroundings = Surroundings {
            environment: &[("HOLDFAST_SITE", "a b")],
            stdin: Some(b"report\n"),
            stop: None,
        };
        let limit = Duration::from_secs(30);
        let finished = run(
            &setting("cat; echo \"$HOLDFAST_SITE\"", limit),
            &surroundings,
        );
        assert_eq!(finished.output, "report\na b\n");
    }

    #[test]
    fn what_hangs_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let text = format!("(sleep 2; touch {}) & wait", marker.display());
        let finished = run(
            &setting(&text, Duration::from_millis(200)),
            &Surroundings::default(),
        );
        assert!(
            matches!(finished.ending, Ending::TimedOut(_)),
            "{finished:?}"
        );
        thread::sleep(Duration::from_millis(2500));
        assert!(!marker.exists(), "a child of the command went on");
    }

    #[test]
    fn only_the_end_of_the_output_is_kept() {
        let finished = run_text("seq 1 1000000; echo last");
        assert!(finished.is_good());
        assert!(finished.output.ends_with("\n1000000\nlast\n"));
    }

    #[test]
    fn a_run_that_ends_ends_its_command() {
        let surroundings = Surroundings {
            stop: Some(&|| true),
            ..Surroundings::default()
        };
        let finished = run(&setting("sleep 60", Duration::from_secs(60)), &surroundings);
        assert!(matches!(finished.ending, Ending::Stopped), "{finished:?}");
    }

    #[test]
    fn a_daemon_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let text = format!(
            "(sleep 1; echo late; echo later; touch {}) & echo started",
            marker.display()
        );
        let finished = run_text(&text);
        assert!(finished.is_good() && finished.elapsed < Duration::from_secs(1));
        assert_eq!(finished.last_line(), "started");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !marker.exists() {
            assert!(Instant::now() < deadline, "the daemon died");
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn debug_shows_no_command() {
        let setting = setting("echo hunter2 >/dev/null; exit 1", Duration::from_secs(30));
        let finished = run(&setting, &Surroundings::default());
        assert!(!format!("{setting:?} {finished:?} {finished}").contains("hunter2"));
    }
}
