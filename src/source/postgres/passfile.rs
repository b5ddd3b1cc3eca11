//! The password file of libpq: `host:port:database:user:password` lines.
//!
//! Only a regular file that nobody else can read is used; libpq refuses others with a warning, and so
//! do we. A missing file is no error.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::{fs, io};

use zeroize::Zeroizing;

/// What a connection asks the file for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) host: &'a str,
    pub(super) port: &'a str,
    pub(super) dbname: &'a str,
    pub(super) user: &'a str,
}

/// What came out of a look-up; the last two explain a failed login.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Found(Zeroizing<String>),
    /// No line fits.
    NoEntry,
    /// The file is not there, or was refused: why.
    Unusable(String),
}

/// Looks a password up in a file.
pub(super) fn look_up(file: &Path, wanted: Wanted<'_>) -> Lookup {
    let metadata = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Lookup::Unusable(format!("password file {} does not exist", file.display()));
        }
        Err(error) => return unusable(file, &error.to_string()),
    };
    if !metadata.is_file() {
        return unusable(file, "is not a plain file");
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return unusable(
            file,
            "has group or world access; permissions should be u=rw (0600) or less",
        );
    }
    match fs::read(file).map(Zeroizing::new) {
        Ok(bytes) => find(
            &Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()),
            wanted,
        ),
        Err(error) => unusable(file, &error.to_string()),
    }
}

fn unusable(file: &Path, why: &str) -> Lookup {
    let message = format!("password file {} {why}", file.display());
    tracing::warn!("{message}");
    Lookup::Unusable(message)
}

/// Returns the password of the first line that fits.
fn find(text: &str, wanted: Wanted<'_>) -> Lookup {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(password) = password_of(line, wanted) {
            return Lookup::Found(password);
        }
    }
    Lookup::NoEntry
}

fn password_of(line: &str, wanted: Wanted<'_>) -> Option<Zeroizing<String>> {
    let mut rest = line;
    for value in [wanted.host, wanted.port, wanted.dbname, wanted.user] {
        let (field, after) = split_field(rest)?;
        if field != "*" && unescape(field).as_str() != value {
            return None;
        }
        rest = after;
    }
    Some(unescape(rest)).filter(|password| !password.is_empty())
}

/// Splits at the first colon that no backslash protects.
fn split_field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return Some((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    plain
}

/// Writes a field so that [`split_field`] and libpq read it back.
pub(super) fn escape(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.replace('\\', "\\\\").replace(':', "\\:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted {
        host: "db1",
        port: "5432",
        dbname: "QSR",
        user: "me",
    };

    fn check(text: &str, expected: Option<&str>) {
        let found = match find(text, WANTED) {
            Lookup::Found(password) => Some(password.to_string()),
            _ => None,
        };
        assert_eq!(found.as_deref(), expected, "{text}");
    }

    #[test]
    fn lines_that_fit_and_lines_that_do_not() {
        check("db1:5432:QSR:me:secret", Some("secret"));
        check("*:*:*:*:secret\n", Some("secret"));
        check("db1:5432:QSR:me:with:colon", Some("with:colon"));
        check(r"db1:5432:QSR:me:a\:b\\c", Some(r"a:b\c"));
        check(r"d\b1:5432:QSR:me:x", Some("x"));
        check("#db1:5432:QSR:me:no\ndb1:5432:QSR:me:yes\r\n", Some("yes"));
        check(
            "db2:*:*:*:no\n*:5432:*:me:first\n*:*:*:*:second",
            Some("first"),
        );
        check(r"\*:*:*:*:x", None);
        check("db1:5432:QSR:me", None);
        check("db1:5432:QSR:me:", None);
        check("", None);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("pgpass");
        fs::write(&file, "*:*:*:*:secret").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("mode set");
        let Lookup::Unusable(why) = look_up(&file, WANTED) else {
            panic!("used a readable file")
        };
        assert!(why.contains("group or world access"), "{why}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("mode set");
        assert!(matches!(look_up(&file, WANTED), Lookup::Found(_)));
        assert!(matches!(
            look_up(&folder.path().join("none"), WANTED),
            Lookup::Unusable(_)
        ));
    }

    #[test]
    fn escaped_fields_come_back() {
        for text in [r"a:b\c", "", ":", r"\"] {
            let line = format!("{}:rest", &*escape(text));
            let (field, _) = split_field(&line).expect("a field");
            assert_eq!(unescape(field).as_str(), text);
        }
    }
}
