//! Checks of this host: PID files, processes, systemd units, free space, certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Found, Outcome};
use crate::site::SiteFile;
use crate::site::command::{Ending, Surroundings, run};
use crate::site::config::run::CommandSetting;
use crate::site::config::{Confidential, PathSetting};
use crate::site::lists::{entries_of, expand, expand_certificates};
use crate::site::secrets::COMMAND_TIMEOUT;
use crate::source::certificates::{expiring, read_certificates};
use crate::store::Repository;

/// The largest PID file that is read.
const PID_FILE_BYTES_MAX: u64 = 4 << 10;

/// Fails with what was found; holds where that is nothing.
fn none_of(found: &[String], good: String) -> Found {
    match found {
        [] => (Outcome::Holds, good),
        found => (Outcome::Fails, found.join("; ")),
    }
}

fn paths(settings: &[PathSetting], site_file: &Path) -> (Vec<PathBuf>, Vec<String>) {
    let expanded = expand(&entries_of(settings, site_file));
    let unreadable = expanded
        .unreadable
        .iter()
        .map(|(path, error)| format!("{}: {error}", path.display()))
        .collect();
    (expanded.paths, unreadable)
}

/// No file names a process that does not run.
pub(super) fn stale_pid_files(settings: &[PathSetting], site_file: &Path) -> Found {
    let (paths, mut problems) = paths(settings, site_file);
    for path in &paths {
        match pid_in(path) {
            Ok(pid) if runs(pid) => {}
            Ok(pid) => problems.push(format!(
                "{} names process {pid}, which does not run: remove it",
                path.display()
            )),
            Err(reason) => problems.push(format!("{}: {reason}", path.display())),
        }
    }
    none_of(&problems, format!("{} PID files, none stale", paths.len()))
}

/// None of the files exists.
pub(super) fn no_pid_files(settings: &[PathSetting], site_file: &Path) -> Found {
    let (paths, mut problems) = paths(settings, site_file);
    for path in &paths {
        problems.push(match pid_in(path) {
            Ok(pid) if runs(pid) => format!("{}: process {pid} runs", path.display()),
            Ok(pid) => format!(
                "{} is left over from process {pid}: remove it",
                path.display()
            ),
            Err(reason) => format!("{}: {reason}", path.display()),
        });
    }
    none_of(&problems, "none is there".into())
}

fn pid_in(path: &Path) -> Result<u32, String> {
    let metadata = fs::metadata(path).map_err(|e| e.to_string())?;
    if !metadata.is_file() || metadata.len() > PID_FILE_BYTES_MAX {
        return Err("is no PID file".into());
    }
    let text = fs::read(path).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&text);
    let first = text.split_whitespace().next().unwrap_or_default();
    first
        .parse()
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| "holds no process number".into())
}

/// One that has ended and that nobody has waited for yet does not run.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// No process of these names runs.
pub(super) fn no_process(names: &[String]) -> Found {
    let own = std::process::id();
    let entries = match fs::read_dir("/proc") {
        Ok(entries) => entries,
        Err(error) => return (Outcome::Unknown, format!("cannot read /proc: {error}")),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        // What ended meanwhile can't be read and does not run.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let short = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let hit = names.iter().find(|name| is_named(name, &line, &short));
        if let Some(name) = hit
            && pid != own
            && runs(pid)
        {
            found.push(format!("{name} runs as process {pid}"));
        }
    }
    none_of(&found, format!("none of {} runs", names.join(", ")))
}

/// Whether a process goes by a name: its program's, or a part of its command line where the name has a blank or a slash.
fn is_named(name: &str, command_line: &[u8], short: &str) -> bool {
    let mut parts = command_line
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy);
    if name.contains(['/', ' ']) {
        let line: Vec<_> = parts.collect();
        return line.join(" ").contains(name);
    }
    let program = parts.next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    // A process may rewrite its command line: `nginx: worker process`.
    let program = program.split(':').next().unwrap_or_default();
    program == name || short.trim_end() == name
}

/// None of the systemd units is active.
pub(super) fn no_unit(units: &[String], limit: Duration) -> Found {
    let mut found = Vec::new();
    for unit in units {
        // The name goes by the environment, so that nothing in it means anything to the shell.
        let setting = CommandSetting {
            service: None,
            command: Confidential::new("exec systemctl is-active -- \"$HOLDFAST_UNIT\"".into()),
            timeout: limit,
        };
        let surroundings = Surroundings {
            environment: &[("HOLDFAST_UNIT", unit)],
            ..Surroundings::default()
        };
        let finished = run(&setting, &surroundings);
        // A pattern gives a line for each unit that it matches, and none where nothing is loaded.
        let states: Vec<&str> = finished.output.split_whitespace().collect();
        let is_down = |state: &&str| matches!(*state, "inactive" | "failed" | "unknown");
        let is_up = |state: &&str| {
            matches!(
                *state,
                "active" | "activating" | "deactivating" | "reloading"
            )
        };
        let none_matched = states.is_empty() && (finished.ended_with(3) || finished.ended_with(4));
        let is_answer = states.iter().all(|state| is_down(state) || is_up(state));
        let ended = matches!(finished.ending, Ending::Exited(_));
        if !ended || !none_matched && (states.is_empty() || !is_answer) {
            let text = format!("cannot ask systemd about {unit}: systemctl {finished}");
            return (Outcome::Unknown, text);
        }
        let up: Vec<&str> = states.iter().copied().filter(is_up).collect();
        match up.as_slice() {
            [] => {}
            [state] => found.push(format!("{unit} is {state}")),
            [_, ..] => found.push(format!("{} units of {unit} are up", up.len())),
        }
    }
    none_of(&found, format!("none of {} is active", units.join(", ")))
}

/// So many bytes are free where the repository is.
pub(super) fn free_space(repository: Option<&Repository>, wanted: u64) -> Found {
    let Some(repository) = repository else {
        return (
            Outcome::Unknown,
            "the repository could not be opened".into(),
        );
    };
    match repository.backend().free_bytes() {
        Ok(None) => (
            Outcome::Holds,
            "the repository's store does not say how much is free".into(),
        ),
        Ok(Some(free)) if free >= wanted => (Outcome::Holds, format!("{} free", mebibytes(free))),
        Ok(Some(free)) => (
            Outcome::Fails,
            format!(
                "{} free where the repository is, {} wanted",
                mebibytes(free),
                mebibytes(wanted)
            ),
        ),
        Err(error) => (Outcome::Unknown, error.to_string()),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// No certificate of the site ends within this time.
pub(super) fn certificates_valid_for(site: &SiteFile, time: Duration, now: i64) -> Found {
    let mut problems = Vec::new();
    let mut count = 0;
    for settings in &site.certificates {
        let expanded = expand_certificates(settings, &site.path);
        let password = settings
            .password
            .as_ref()
            .map(|source| source.read("the password of .pfx files", COMMAND_TIMEOUT));
        let password = match password.transpose() {
            Ok(password) => password.map(|loaded| loaded.value),
            Err(error) => return (Outcome::Unknown, error.to_string()),
        };
        let facts = read_certificates(
            &expanded.paths,
            password.as_ref().map(|secret| secret.expose()),
        );
        count += facts.iter().filter(|f| f.not_after.is_some()).count();
        for fact in expiring(&facts, now, time) {
            let end = fact.not_after.unwrap_or_default();
            let days = end.abs_diff(now) / 86_400;
            let path = String::from_utf8_lossy(&fact.path);
            problems.push(match end > now {
                true => format!("{path}: {} ends in {days} days", fact.subject),
                false => format!("{path}: {} ended {days} days ago", fact.subject),
            });
        }
    }
    none_of(
        &problems,
        format!("{count} certificates, none ends so soon"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes() {
        let line = b"/usr/sbin/nginx\0-g\0daemon off;\0";
        assert!(is_named("nginx", line, "nginx\n"));
        assert!(is_named("nginx -g", line, ""));
        assert!(is_named("/usr/sbin/nginx", line, ""));
        assert!(!is_named("ngin", line, "nginx\n"));
        assert!(is_named("nginx", b"nginx: worker process\0", "nginx\n"));
        assert!(is_named("java", b"\0", "java\n"));
        assert!(!is_named("daemon", line, "nginx\n"));
    }
}
