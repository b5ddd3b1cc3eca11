//! The sample site: a share like that of an analytics server, three databases, and what a day changes in them.
//!
//! Everything follows from a seed, so that two runs make the same site.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::crypto::{Random, SeededRandom};
use crate::error::{Error, Result};
use crate::source::postgres::PgSession;

/// What one of so many files and rows goes through in a day.
const CHANGED_OF: u32 = 50;

const WORDS: [&str; 64] = [
    "account",
    "and",
    "app",
    "audit",
    "balance",
    "between",
    "cache",
    "chart",
    "client",
    "column",
    "connection",
    "customer",
    "data",
    "date",
    "delivery",
    "dimension",
    "document",
    "engine",
    "error",
    "event",
    "export",
    "field",
    "filter",
    "for",
    "from",
    "function",
    "group",
    "import",
    "index",
    "invoice",
    "item",
    "key",
    "label",
    "license",
    "load",
    "measure",
    "node",
    "object",
    "of",
    "order",
    "owner",
    "price",
    "product",
    "proxy",
    "query",
    "region",
    "reload",
    "request",
    "result",
    "return",
    "row",
    "rule",
    "schema",
    "select",
    "server",
    "session",
    "sheet",
    "status",
    "table",
    "task",
    "the",
    "user",
    "value",
    "year",
];

/// The databases and what fills them.
pub(super) const DATABASES: [(&str, &str); 3] = [
    ("QSR", include_str!("sql/QSR.sql")),
    ("SenseServices", include_str!("sql/SenseServices.sql")),
    ("Licenses", include_str!("sql/Licenses.sql")),
];

/// Roles that all of them use.
pub(super) const ROLES: &str = include_str!("sql/roles.sql");

/// What a day changes in each database.
pub(super) const CHANGES: [(&str, &str); 3] = [
    ("QSR", include_str!("sql/QSR-day2.sql")),
    ("SenseServices", include_str!("sql/SenseServices-day2.sql")),
    ("Licenses", include_str!("sql/Licenses-day2.sql")),
];

/// Fills a database.
pub(super) fn fill(session: &mut PgSession, sql: &str) -> Result<()> {
    session
        .batch_execute(sql)
        .map_err(|error| Error::Message(error.to_string()))
}

/// Makes choices.
struct Dice(SeededRandom);

impl Dice {
    fn number(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number()).unwrap_or(0) % limit.max(1)
    }

    /// Most files are small, a few are large: half of all sizes lie below 4 KiB, one in a thousand above 2 MiB.
    fn size(&mut self) -> usize {
        let doublings = match self.below(1000) {
            0 => 12,
            1..20 => 9,
            20..150 => 6,
            150..500 => 4,
            _ => 2,
        };
        let least = 512 << (doublings - 2);
        least + self.below(least * 3)
    }

    fn words(&mut self, bytes: usize, separator: char) -> Vec<u8> {
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            // The product of two throws prefers the first words, as languages do.
            let word = self.below(64) * self.below(64) / 64;
            text.push_str(WORDS[word]);
            match self.below(12) {
                0 => text.push('\n'),
                1 => text.push_str(&format!("={};", self.number() % 10_000)),
                _ => text.push(separator),
            }
        }
        text.truncate(bytes);
        text.into_bytes()
    }

    fn noise(&mut self, bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        self.0.fill(&mut noise);
        noise
    }

    fn guid(&mut self) -> String {
        let mut text = String::new();
        for (position, byte) in self.noise(16).iter().enumerate() {
            if matches!(position, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

/// A folder of the share, how often a file goes into it, and what such a file is like.
const FOLDERS: [(usize, &str); 5] = [
    (10, "Apps"),
    (55, "StaticContent/Extensions"),
    (15, "StaticContent/AppContent"),
    (15, "ArchivedLogs"),
    (5, "CustomData"),
];

/// Makes a share of `files` files, and returns their bytes.
pub(super) fn make_share(share: &Path, files: u32) -> Result<u64> {
    let failed = |error| Error::local(format!("cannot make the share {}", share.display()), error);
    let mut dice = Dice(SeededRandom::new(20_261_120));
    let mut bytes = 0;
    for number in 0..files {
        bytes += make_file(share, number, &mut dice).map_err(failed)?;
    }
    oddities(share).map_err(failed)?;
    Ok(bytes)
}

fn make_file(share: &Path, number: u32, dice: &mut Dice) -> io::Result<u64> {
    let mut throw = dice.below(100);
    let folder = FOLDERS.iter().find(|(share, _)| {
        let here = throw < *share;
        throw = throw.saturating_sub(*share);
        here
    });
    let folder = folder.map_or("CustomData", |(_, folder)| folder);
    let size = dice.size();
    let (name, content) = match folder {
        // Apps are compressed inside.
        "Apps" => (dice.guid(), dice.noise(size * 4)),
        "StaticContent/Extensions" => {
            let kind = ["js", "css", "html", "qext"][dice.below(4)];
            let name = format!("extension-{:03}/lib/{number:05}.{kind}", number % 120);
            (name, dice.words(size, ' '))
        }
        "StaticContent/AppContent" => (
            format!("{:02}/picture {number}.png", number % 40),
            dice.noise(size),
        ),
        "ArchivedLogs" => {
            let name = format!(
                "node{}/2026-11-{:02}/{number:05}.log",
                number % 3,
                number % 28 + 1
            );
            (name, dice.words(size * 4, '\t'))
        }
        _ => (format!("{number:05}.csv"), dice.words(size * 2, ',')),
    };
    let path = share.join(folder).join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, &content)?;
    if number.is_multiple_of(10) {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    }
    Ok(u64::try_from(content.len()).unwrap_or(u64::MAX))
}

/// What a tree has beside plain files.
fn oddities(share: &Path) -> io::Result<()> {
    let folder = share.join("StaticContent/odd names");
    fs::create_dir_all(folder.join("empty folder"))?;
    fs::write(folder.join("an empty file"), "")?;
    fs::write(
        folder.join("naïve — 日本語.txt"),
        "a name with letters of several alphabets\n",
    )?;
    symlink("../AppContent", folder.join("link to a folder"))?;
    symlink("nowhere", folder.join("link to nothing"))?;
    fs::hard_link(
        folder.join("an empty file"),
        folder.join("the same empty file"),
    )?;
    // A file of 64 MiB that holds a few bytes: what is between them takes no space and must come back as a hole.
    let mut sparse = File::create(folder.join("sparse.bin"))?;
    sparse.write_all(b"begin")?;
    sparse.set_len(64 << 20)?;
    Ok(())
}

/// What a day changed on the share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) changed: u32,
    pub(super) added: u32,
    pub(super) removed: u32,
    pub(super) renamed: u32,
}

/// Changes two files of a hundred: half of them inside, the others are new, gone or renamed.
pub(super) fn change_share(share: &Path) -> Result<Changes> {
    let failed = |error| {
        Error::local(
            format!("cannot change the share {}", share.display()),
            error,
        )
    };
    let mut files = Vec::new();
    list(share, &mut files).map_err(failed)?;
    files.sort();
    let mut dice = Dice(SeededRandom::new(20_261_121));
    let mut changes = Changes::default();
    for path in files {
        if !dice.number().is_multiple_of(CHANGED_OF) {
            continue;
        }
        match dice.below(8) {
            0 => fs::remove_file(&path).map(|()| changes.removed += 1),
            1 => fs::rename(&path, with_suffix(&path, " (renamed)")).map(|()| changes.renamed += 1),
            2 | 3 => {
                let new = with_suffix(&path, " (new)");
                let size = dice.size();
                fs::write(new, dice.words(size, ' ')).map(|()| changes.added += 1)
            }
            _ => edit(&path, &mut dice).map(|()| changes.changed += 1),
        }
        .map_err(failed)?;
    }
    Ok(changes)
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != "odd names" {
            list(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Writes a few bytes into the middle and adds some at the end.
fn edit(path: &Path, dice: &mut Dice) -> io::Result<()> {
    let mut content = fs::read(path)?;
    let at = dice.below(content.len());
    let patch = dice.words(64, ' ');
    for (byte, new) in content.iter_mut().skip(at).zip(patch) {
        *byte = new;
    }
    content.extend(dice.words(200, ' '));
    fs::write(path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_the_same_every_time_and_a_day_changes_little_of_it() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bytes = make_share(a.path(), 400).unwrap();
        assert_eq!(make_share(b.path(), 400).unwrap(), bytes);
        let mut names = Vec::new();
        list(a.path(), &mut names).unwrap();
        assert_eq!(names.len(), 400);
        for name in &names {
            let other = b.path().join(name.strip_prefix(a.path()).unwrap());
            assert!(
                fs::read(name).unwrap() == fs::read(other).unwrap(),
                "{}",
                name.display()
            );
        }
        let changes = change_share(a.path()).unwrap();
        let all = changes.changed + changes.added + changes.removed + changes.renamed;
        assert!((2..20).contains(&all), "{changes:?}");
        assert_eq!(change_share(b.path()).unwrap(), changes);
    }
}
