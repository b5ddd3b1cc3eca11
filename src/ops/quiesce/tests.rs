use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::site::config::Confidential;
use crate::site::config::run::{CommandSetting, QuiesceSettings};

fn commands(texts: &[String]) -> Vec<CommandSetting> {
    let setting = |text: &String| CommandSetting {
        service: None,
        command: Confidential::new(text.clone()),
        timeout: Duration::from_secs(60),
    };
    texts.iter().map(setting).collect()
}

/// A site whose commands write a line each into a log.
fn settings(log: &Path, window_max: Duration) -> QuiesceSettings {
    let line = |text: &str| format!("echo {text} >> {}", log.display());
    QuiesceSettings {
        stop: commands(&[line("stop-a"), line("stop-b")]),
        start: commands(&[line("start-b"), line("start-a")]),
        window_max,
        start_attempts: 2,
    }
}

fn lines(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn prepare(lock: &SiteLock, settings: &QuiesceSettings) -> Quiet {
    Quiet::prepare(&QuietOptions {
        lock,
        settings,
        guardian: None,
        on_failure: None,
    })
    .unwrap()
}

const LONG: Duration = Duration::from_secs(600);
const ALL: [&str; 4] = ["stop-a", "stop-b", "start-b", "start-a"];

#[test]
fn stopped_once_and_started_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let place = SitePlace::new(folder.path(), "s");
    let lock = place.lock().unwrap();
    let settings = settings(&log, LONG);
    let mut quiet = prepare(&lock, &settings);
    assert!(place.pending().unwrap().is_none());
    quiet.stop(|| false).unwrap();
    assert_eq!(place.pending().unwrap().unwrap().start.len(), 2);
    let early = Mark::now();
    assert_eq!(lines(&log), ALL[..2]);
    let window = quiet.end();
    assert_eq!(window.problems, [""; 0]);
    assert!(window.stop_begun <= window.stopped && window.stopped <= window.start_begun);
    assert!(quiet.was_quiet(early) && !quiet.was_quiet(Mark::now()));
    drop(quiet);
    assert_eq!(lines(&log), ALL);
    assert!(place.pending().unwrap().is_none());
}

#[test]
fn nothing_is_started_that_was_not_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let lock = SitePlace::new(folder.path(), "s").lock().unwrap();
    drop(prepare(&lock, &settings(&log, LONG)));
    assert_eq!(lines(&log), [""; 0]);
}

#[test]
fn a_run_that_ends_early_starts_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let lock = SitePlace::new(folder.path(), "s").lock().unwrap();
    let settings = settings(&log, LONG);
    let quiet = {
        let mut quiet = prepare(&lock, &settings);
        quiet.stop(|| true).ok();
        quiet
    };
    let begun = Instant::now();
    while lines(&log).len() < 2 || !lines(&log).ends_with(&["start-a".into()]) {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    drop(quiet);
    assert!(lines(&log).ends_with(&["start-b".into(), "start-a".into()]));
}

#[test]
fn a_failing_stop_command_is_named_and_the_site_started() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let lock = SitePlace::new(folder.path(), "s").lock().unwrap();
    let mut settings = settings(&log, LONG);
    settings.stop[1].command = Confidential::new("echo no such unit; exit 5".into());
    let error = prepare(&lock, &settings).stop(|| false).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("it ended with status 5; it said: no such unit")
            && text.contains("started again"),
        "{text}"
    );
    assert_eq!(lines(&log), ["stop-a", "start-b", "start-a"]);
}

#[test]
fn a_window_that_is_open_for_too_long_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let lock = SitePlace::new(folder.path(), "s").lock().unwrap();
    let settings = settings(&log, Duration::from_millis(300));
    let mut quiet = prepare(&lock, &settings);
    quiet.stop(|| false).unwrap();
    let early = Mark::now();
    let begun = Instant::now();
    while lines(&log).len() < 4 {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    let late = Mark::now();
    let window = quiet.end();
    assert!(window.problems[0].starts_with("window-max"), "{window:?}");
    assert!(quiet.was_quiet(early) && !quiet.was_quiet(late));
    assert_eq!(lines(&log), ALL);
}

#[test]
fn a_child_does_not_keep_the_guardian_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let lock = SitePlace::new(folder.path(), "s").lock().unwrap();
    let settings = settings(&folder.path().join("log"), LONG);
    let before = pipes_of_a_child();
    let _quiet = prepare(&lock, &settings);
    assert_eq!(pipes_of_a_child(), before);
}

/// How many pipes a child inherits.
fn pipes_of_a_child() -> usize {
    let output = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .matches("pipe:")
        .count()
}

#[test]
fn what_a_dead_run_left_is_started_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let place = SitePlace::new(folder.path(), "s");
    let lock = place.lock().unwrap();
    let settings = settings(&log, LONG);
    place
        .set_pending(Some(&place::Pending {
            run: moment::ProcessIdentity::of(u32::MAX),
            guardian: Some(moment::ProcessIdentity::of(u32::MAX)),
            since: moment::Moment::now(),
            start: steps::Step::all(&settings.start),
            attempts: 1,
            problems: Vec::new(),
            held: None,
        }))
        .unwrap();
    let remove = commands(&[format!("echo removed >> {}", log.display())]);
    place
        .set_leftovers(&[place::Leftover {
            shares: vec!["Apps".into()],
            remove: steps::Step::of(&remove[0]),
        }])
        .unwrap();
    let mut notes = Vec::new();
    let recovered = recover(&lock, &mut |note| notes.push(note.to_owned())).unwrap();
    assert!(recovered.started && recovered.problems.is_empty());
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert_eq!(lines(&log), ["start-b", "start-a", "removed"]);
    let again = recover(&lock, &mut |_| panic!("nothing is left")).unwrap();
    assert_eq!(again, Recovered::default());
    assert!(
        start_site(&lock, Some(&settings), &mut |_| ())
            .unwrap()
            .started
    );
    assert_eq!(lines(&log).len(), 5);
}
