//! Shares, lists of paths, certificates: are they there, can they be read.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Check, Verdict};
use crate::site::config::{CertificatesSettings, FilesSettings, Missing, ShareSettings};
use crate::site::lists::{Expanded, expand_certificates, expand_files};
use crate::site::secrets::COMMAND_TIMEOUT;
use crate::source::certificates::{CertificateFacts, expiring, read_certificates};
use crate::source::files::rights_note;

/// How many entries of a share are tried: enough to see whether this user may read it.
const TRIED_MAX: usize = 500;

/// Looks at a share.
pub(super) fn share(settings: &ShareSettings) -> Check {
    let mut check = Check::new("share", &settings.name);
    let path = &settings.path;
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            check.add(
                Verdict::Fails,
                format!("cannot read {}: {error}", path.display()),
            );
            return check;
        }
    };
    match mount_of(path) {
        Some(mount) => check.add(Verdict::Good, format!("{} on {mount}", path.display())),
        None => check.add(Verdict::Good, path.display().to_string()),
    }
    if let Ok(Some(note)) = rights_note(path) {
        check.add(Verdict::Note, note);
    }
    let (mut count, mut unreadable) = (0, Vec::new());
    for entry in entries.take(TRIED_MAX) {
        count += 1;
        match entry {
            Ok(entry) => {
                if let Err(error) = can_read(&entry.path()) {
                    unreadable.push(format!("{} ({error})", entry.path().display()));
                }
            }
            Err(error) => unreadable.push(error.to_string()),
        }
    }
    if count == 0 && !settings.allow_empty {
        check.add(
            Verdict::Fails,
            "it is empty: is the share mounted? (allow-empty = true if it may be)",
        );
    }
    check.add_names(Verdict::Skips, "cannot be read", &unreadable);
    check
}

/// Looks at a list of files.
pub(super) fn list(settings: &FilesSettings, site_file: &Path) -> Check {
    let mut check = Check::new("files", &settings.name);
    match expand_files(settings, site_file) {
        Ok(expanded) => paths(&mut check, &expanded, settings.missing),
        Err(error) => check.add(Verdict::Fails, with_causes(&error)),
    }
    check
}

/// Looks at certificates.
pub(super) fn certificates(settings: &CertificatesSettings, site_file: &Path, now: i64) -> Check {
    let mut check = Check::new("certificates", &settings.name);
    let expanded = expand_certificates(settings, site_file);
    paths(&mut check, &expanded, settings.missing);
    let password = settings
        .password
        .as_ref()
        .map(|source| source.read("the password of .pfx files", COMMAND_TIMEOUT));
    let password = match password {
        Some(Ok(loaded)) => {
            if let Some(warning) = loaded.warning {
                check.add(Verdict::Note, warning);
            }
            Some(loaded.value)
        }
        Some(Err(error)) => {
            check.add(Verdict::Note, with_causes(&error));
            None
        }
        None => None,
    };
    let password = password.as_ref().map(|secret| secret.expose());
    let facts = read_certificates(&expanded.paths, password);
    let ending: Vec<_> = expiring(&facts, now, settings.warn_before_expiry);
    for facts in &facts {
        let verdict = match ending.contains(&facts) {
            true => Verdict::Note,
            false => Verdict::Good,
        };
        check.add(verdict, certificate(facts, now));
    }
    check
}

fn paths(check: &mut Check, expanded: &Expanded, missing: Missing) {
    let (mut readable, mut unreadable) = (0, Vec::new());
    for path in &expanded.paths {
        match can_read(path) {
            Ok(()) => readable += 1,
            Err(error) => unreadable.push(format!("{} ({error})", path.display())),
        }
    }
    for (path, error) in &expanded.unreadable {
        unreadable.push(format!("{} ({error})", path.display()));
    }
    check.add(Verdict::Good, format!("{readable} paths found"));
    check.add_names(Verdict::Skips, "cannot be read", &unreadable);
    let unmatched: Vec<String> = expanded
        .unmatched
        .iter()
        .map(|entry| {
            let pattern = entry.pattern.to_string_lossy();
            format!("{pattern} ({}:{})", entry.file.display(), entry.line)
        })
        .collect();
    let verdict = match missing {
        Missing::Ok => Verdict::Good,
        Missing::Warn => Verdict::Note,
        Missing::Error => Verdict::Fails,
    };
    check.add_names(verdict, "not on this host", &unmatched);
}

/// Whether a directory can be listed, or a file opened. What is neither is not opened: a pipe would block, a device might act.
fn can_read(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        fs::read_dir(path).map(drop)
    } else if metadata.is_file() {
        File::open(path).map(drop)
    } else {
        Ok(())
    }
}

fn certificate(facts: &CertificateFacts, now: i64) -> String {
    let path = String::from_utf8_lossy(&facts.path);
    let mut text = format!("{path}: {}", facts.kind.word());
    if !facts.subject.is_empty() {
        text.push_str(&format!(" {}", facts.subject));
    }
    if let Some(end) = facts.not_after {
        let days = Duration::from_secs(end.abs_diff(now)).as_secs() / 86_400;
        match end > now {
            true => text.push_str(&format!(", ends in {days} days")),
            false => text.push_str(&format!(", EXPIRED {days} days ago")),
        }
    }
    if let Some(other) = &facts.matches_key {
        text.push_str(&format!(", belongs to {}", String::from_utf8_lossy(other)));
    }
    if let Some(note) = &facts.note {
        text.push_str(&format!(" ({note})"));
    }
    text
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The file system that holds a path: `nfs4 server:/export, mounted at /mnt/qlik`.
fn mount_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mount_in(&mounts, &path)
}

fn mount_in(mounts: &str, path: &Path) -> Option<String> {
    let entry = |line: &str| {
        // 36 35 98:0 /root /mount/point options … - type source super-options
        let (left, right) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(left.split(' ').nth(4)?));
        let mut right = right.split(' ');
        Some((point, right.next()?.to_owned(), unescape(right.next()?)))
    };
    let mounts = mounts.lines().filter_map(entry);
    // A later mount hides an earlier one at the same place.
    let (point, kind, source) = mounts
        .filter(|(point, ..)| path.starts_with(point))
        .max_by_key(|(point, ..)| point.components().count())?;
    Some(format!("{kind} {source}, mounted at {}", point.display()))
}

/// Blanks and the like stand as octal numbers in mountinfo.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_is_named() {
        let mounts = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      40 21 0:5 / /mnt/my\\040share rw shared:1 - nfs4 server:/export rw\n\
                      41 21 0:6 / /mnt/other rw - cifs //nas/other rw\n";
        let check = |path: &str, expected: &str| {
            assert_eq!(mount_in(mounts, Path::new(path)).as_deref(), Some(expected));
        };
        check(
            "/mnt/my share/Apps",
            "nfs4 server:/export, mounted at /mnt/my share",
        );
        check("/mnt/otherwise", "ext4 /dev/sda1, mounted at /");
    }

    fn settings(path: &Path, allow_empty: bool) -> ShareSettings {
        ShareSettings {
            name: "Apps".into(),
            path: path.to_owned(),
            exclude: Vec::new(),
            readers: None,
            one_file_system: false,
            cachedir_tag: false,
            allow_empty,
            snapshot: None,
            discovery: None,
        }
    }

    #[test]
    fn a_share_that_is_gone_or_empty_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let verdict = |path: &Path, allow_empty| share(&settings(path, allow_empty)).verdict;
        assert_eq!(verdict(&path.join("gone"), false), Verdict::Fails);
        assert_eq!(verdict(path, false), Verdict::Fails);
        assert_eq!(verdict(path, true), Verdict::Good);
        fs::write(path.join("file"), "").unwrap();
        assert_eq!(verdict(path, false), Verdict::Good);
    }
}
