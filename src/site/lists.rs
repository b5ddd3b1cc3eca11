//! Path lists: from lines and globs to the paths that exist, and what was not there.
//!
//! One path or glob a line; a line that starts with `#` is a comment; nothing is expanded but `*`, `?`, `[…]` and `**`
//! (`*` also takes names that start with a dot, because a backup should rather take more). A line that names an existing
//! path is that path, whatever signs it holds. A directory stands for its whole tree, which is walked later, not here.
//! Symbolic links are not followed in the last place of a path and not by `**`. Names are bytes, not UTF-8.
//!
//! Invariant: a line either gives a path or is among `unmatched` or `unreadable`
//! (test `every_line_is_accounted_for`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use super::config::{CertificatesSettings, FilesSettings, ListSource, PathSetting};
use super::profiles;
use super::reader::check_absolute;

/// The largest list file that is read.
const LIST_BYTES_MAX: u64 = 16 << 20;

/// How deep `**` goes: far below any real tree, and an end for one that is made to have none.
const DEPTH_MAX: usize = 256;

/// Why a list can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The list could not be read.
    #[error("cannot read list {}", path.display())]
    Read {
        /// The list file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Lines that can't be used, one text for each.
    #[error("{}", .0.join("\n"))]
    Lines(Vec<String>),
}

/// A line of a list, or a path of the site file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// The path or glob, absolute.
    pub pattern: OsString,
    /// The file that it stands in.
    pub file: PathBuf,
    /// The line that it stands on, counted from 1.
    pub line: usize,
}

/// What a list came to.
#[derive(Debug, Default)]
pub struct Expanded {
    /// The paths that exist, sorted, none of them twice or below another one that is a directory.
    pub paths: Vec<PathBuf>,
    /// The lines that match nothing on this host.
    pub unmatched: Vec<ListEntry>,
    /// The directories that a glob could not look into.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// Parses a list; `file` is what errors and entries call it.
pub fn parse_list(bytes: &[u8], file: &Path) -> Result<Vec<ListEntry>, ListError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut entries = Vec::new();
    let mut faults = Vec::new();
    for (position, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let pattern = line.trim_ascii();
        if pattern.is_empty() || pattern.starts_with(b"#") {
            continue;
        }
        let line = position + 1;
        match check_absolute(Path::new(OsStr::from_bytes(pattern)))
            .and_then(|()| check_pattern(pattern))
        {
            Ok(()) => entries.push(ListEntry {
                pattern: OsString::from_vec(pattern.to_vec()),
                file: file.to_owned(),
                line,
            }),
            Err(reason) => {
                let shown = String::from_utf8_lossy(pattern);
                faults.push(format!("{}:{line}:1: {shown:?} {reason}", file.display()));
            }
        }
    }
    if faults.is_empty() {
        Ok(entries)
    } else {
        Err(ListError::Lines(faults))
    }
}

/// Reads the list that a site file names.
pub fn read_list(source: &ListSource) -> Result<Vec<ListEntry>, ListError> {
    let path = match source {
        ListSource::File(path) => path,
        ListSource::Builtin(name) => {
            let text = profiles::builtin_list(name).unwrap_or("");
            return parse_list(text.as_bytes(), &PathBuf::from(format!("builtin:{name}")));
        }
    };
    let read_error = |cause| ListError::Read {
        path: path.clone(),
        cause,
    };
    if fs::metadata(path).map_err(read_error)?.len() > LIST_BYTES_MAX {
        return Err(read_error(io::Error::new(
            ErrorKind::FileTooLarge,
            "too large for a list of paths",
        )));
    }
    parse_list(&fs::read(path).map_err(read_error)?, path)
}

/// Makes entries of the paths that stand in the site file itself.
pub fn entries_of(paths: &[PathSetting], site_file: &Path) -> Vec<ListEntry> {
    let entry = |setting: &PathSetting| ListEntry {
        pattern: OsString::from(&setting.text),
        file: site_file.to_owned(),
        line: setting.line,
    };
    paths.iter().map(entry).collect()
}

/// Finds what a `[[files]]` section names: its lists first, then its own paths.
pub fn expand_files(settings: &FilesSettings, site_file: &Path) -> Result<Expanded, ListError> {
    let mut entries = Vec::new();
    for source in &settings.lists {
        entries.extend(read_list(source)?);
    }
    entries.extend(entries_of(&settings.paths, site_file));
    Ok(expand(&entries))
}

/// Finds what a `[[certificates]]` section names.
pub fn expand_certificates(settings: &CertificatesSettings, site_file: &Path) -> Expanded {
    expand(&entries_of(&settings.paths, site_file))
}

/// Says why a pattern can't be used.
pub(super) fn check_pattern(pattern: &[u8]) -> Result<(), &'static str> {
    for part in pattern.split(|byte| *byte == b'/') {
        if is_glob(part) {
            let text = str::from_utf8(part).or(Err(
                "is a glob that is not UTF-8; only plain paths can be any bytes",
            ))?;
            compile(text).or(Err("is no glob: a [ without its ]?"))?;
        }
    }
    Ok(())
}

fn is_glob(part: &[u8]) -> bool {
    part.iter().any(|byte| b"*?[".contains(byte))
}

fn compile(part: &str) -> Result<GlobMatcher, globset::Error> {
    // Braces mean themselves; globset would take them for alternatives.
    let mut pattern = String::with_capacity(part.len());
    let mut in_class = false;
    for c in part.chars() {
        match c {
            '{' | '}' if !in_class => pattern.extend(['[', c, ']']),
            _ => {
                in_class = (c == '[' || in_class) && c != ']';
                pattern.push(c);
            }
        }
    }
    let glob = GlobBuilder::new(&pattern).literal_separator(true).build()?;
    Ok(glob.compile_matcher())
}

/// Finds the paths that the entries name on this host.
pub fn expand(entries: &[ListEntry]) -> Expanded {
    let mut expanded = Expanded::default();
    // Whether the path is a directory, for each path found.
    let mut found: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for entry in entries {
        let mut hits = Vec::new();
        let unreadable_before = expanded.unreadable.len();
        expand_entry(entry, &mut hits, &mut expanded.unreadable);
        if hits.is_empty() && expanded.unreadable.len() == unreadable_before {
            expanded.unmatched.push(entry.clone());
        }
        found.extend(hits);
    }
    expanded.paths = without_nested(found);
    expanded
}

/// Drops what lies below a directory that is taken as a whole.
fn without_nested(found: BTreeMap<PathBuf, bool>) -> Vec<PathBuf> {
    let directories: BTreeSet<&PathBuf> = found
        .iter()
        .filter(|(_, dir)| **dir)
        .map(|(path, _)| path)
        .collect();
    let is_nested = |path: &Path| {
        path.ancestors()
            .skip(1)
            .any(|above| directories.contains(&above.to_owned()))
    };
    found
        .keys()
        .filter(|path| !is_nested(path))
        .cloned()
        .collect()
}

fn expand_entry(
    entry: &ListEntry,
    hits: &mut Vec<(PathBuf, bool)>,
    unreadable: &mut Vec<(PathBuf, io::Error)>,
) {
    let path = Path::new(&entry.pattern);
    if let Some(is_directory) = look(path) {
        hits.push((path.components().collect(), is_directory));
        return;
    }
    let parts: Vec<&OsStr> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    if parts.iter().any(|part| is_glob(part.as_bytes())) {
        walk(PathBuf::from("/"), &parts, 0, hits, unreadable);
    }
}

/// Whether something is there, and whether it is a directory. What can't be looked at counts as there: the reader
/// then names it with the cause.
fn look(path: &Path) -> Option<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Some(metadata.is_dir()),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => None,
            _ => Some(false),
        },
    }
}

fn walk(
    base: PathBuf,
    parts: &[&OsStr],
    depth: usize,
    hits: &mut Vec<(PathBuf, bool)>,
    unreadable: &mut Vec<(PathBuf, io::Error)>,
) {
    let Some((part, rest)) = parts.split_first() else {
        if let Some(is_directory) = look(&base) {
            hits.push((base, is_directory));
        }
        return;
    };
    if depth > DEPTH_MAX {
        unreadable.push((base, io::Error::new(ErrorKind::InvalidFilename, "too deep")));
        return;
    }
    if !is_glob(part.as_bytes()) {
        return walk(base.join(part), rest, depth, hits, unreadable);
    }
    let any_depth = part.as_bytes() == b"**";
    // `**` stands for no directory, too; at the end it stands for everything below.
    if any_depth && !rest.is_empty() {
        walk(base.clone(), rest, depth, hits, unreadable);
    }
    let Some(matcher) = part.to_str().and_then(|part| compile(part).ok()) else {
        return;
    };
    let names = match names_in(&base) {
        Ok(names) => names,
        Err(error) => {
            if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
                unreadable.push((base, error));
            }
            return;
        }
    };
    for (name, is_directory) in names {
        let path = base.join(&name);
        if any_depth {
            if is_directory && !rest.is_empty() {
                walk(path, parts, depth + 1, hits, unreadable);
            } else if rest.is_empty() {
                hits.push((path, is_directory));
            }
        } else if matcher.is_match(Path::new(&name)) {
            walk(path, rest, depth + 1, hits, unreadable);
        }
    }
}

/// The names in a directory, sorted, and whether each is a directory itself and not a link to one.
fn names_in(directory: &Path) -> io::Result<Vec<(OsString, bool)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        names.push((entry.file_name(), is_directory));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::site::config::Missing;

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in [
            "etc/a.conf",
            "etc/b.conf",
            "etc/.hidden.conf",
            "etc/sub/deep/c.conf",
            "etc/sub/d.txt",
            "etc/x[1]",
            "etc/{y}",
            "opt/f",
        ] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        fs::write(root.join("etc").join(OsStr::from_bytes(b"n\xff.conf")), "").unwrap();
        symlink(root.join("etc/sub"), root.join("etc/link")).unwrap();
        symlink("nowhere", root.join("etc/dangling")).unwrap();
        dir
    }

    /// Expands lines relative to the sample; gives what was found relative to it, and the unmatched line numbers.
    fn run(root: &Path, lines: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<usize>) {
        let mut text = Vec::new();
        for line in lines {
            text.extend_from_slice(root.as_os_str().as_bytes());
            text.push(b'/');
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        let expanded = expand(&parse_list(&text, Path::new("x.list")).unwrap());
        assert!(expanded.unreadable.is_empty(), "{:?}", expanded.unreadable);
        let relative = |path: &PathBuf| {
            path.strip_prefix(root)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec()
        };
        let unmatched = expanded.unmatched.iter().map(|entry| entry.line).collect();
        (expanded.paths.iter().map(relative).collect(), unmatched)
    }

    #[test]
    fn globs_find_what_is_there() {
        let dir = sample();
        let check = |line: &str, expected: &[&str]| {
            let (found, unmatched) = run(dir.path(), &[line.as_bytes()]);
            let found: Vec<String> = found
                .iter()
                .map(|path| String::from_utf8_lossy(path).into_owned())
                .collect();
            assert_eq!(found, expected, "{line}");
            assert_eq!(unmatched.is_empty(), !expected.is_empty(), "{line}");
        };
        check("etc/a.conf", &["etc/a.conf"]);
        check("etc//./a.conf", &["etc/a.conf"]);
        check("etc/[ab].conf", &["etc/a.conf", "etc/b.conf"]);
        check("etc/?.conf", &["etc/a.conf", "etc/b.conf"]);
        check(
            "etc/*.conf",
            &[
                "etc/.hidden.conf",
                "etc/a.conf",
                "etc/b.conf",
                "etc/n\u{fffd}.conf",
            ],
        );
        check("*/f", &["opt/f"]);
        check("etc/**/*.txt", &["etc/sub/d.txt"]);
        check("**/c.conf", &["etc/sub/deep/c.conf"]);
        check("etc/sub/**", &["etc/sub/d.txt", "etc/sub/deep"]);
        check("etc/sub", &["etc/sub"]);
        check("etc/link/d.txt", &["etc/link/d.txt"]);
        check("etc/link", &["etc/link"]);
        check("etc/dangl*", &["etc/dangling"]);
        check("etc/x[1]", &["etc/x[1]"]);
        check("etc/{y}", &["etc/{y}"]);
        check("etc/{?}", &["etc/{y}"]);
        check("etc/a.conf/b", &[]);
        check("etc/none*", &[]);
        check("none/*/x", &[]);
    }

    #[test]
    fn names_are_bytes() {
        let dir = sample();
        let (found, unmatched) = run(dir.path(), &[b"etc/n\xff.conf", b"etc/m\xff.conf"]);
        assert_eq!(found, [b"etc/n\xff.conf".to_vec()]);
        assert_eq!(unmatched, [2]);
        let error = parse_list(b"/etc/\xff*\n", Path::new("x.list")).unwrap_err();
        assert!(error.to_string().starts_with("x.list:1:1: "), "{error}");
    }

    #[test]
    fn every_line_is_accounted_for() {
        let dir = sample();
        let lines: [&[u8]; 6] = [
            b"etc/a.conf",
            b"etc/none",
            b"etc/a.conf",
            b"etc/sub",
            b"etc/sub/d.txt",
            b"opt/*.none",
        ];
        let (found, unmatched) = run(dir.path(), &lines);
        assert_eq!(found, [b"etc/a.conf".to_vec(), b"etc/sub".to_vec()]);
        assert_eq!(unmatched, [2, 6]);
    }

    #[test]
    fn comments_blank_lines_and_line_ends() {
        let text = b"\xef\xbb\xbf# head\r\n\r\n  /etc/hosts \r\n\t# more\n/etc/a#b\n/last";
        let entries = parse_list(text, Path::new("x.list")).unwrap();
        let found: Vec<(&str, usize)> = entries
            .iter()
            .map(|e| (e.pattern.to_str().unwrap(), e.line))
            .collect();
        assert_eq!(found, [("/etc/hosts", 3), ("/etc/a#b", 5), ("/last", 6)]);
    }

    #[test]
    fn bad_lines_are_named_all_at_once() {
        let error = parse_list(b"etc/hosts\n/ok\n~/x\n/a/../b\n/c[d\n", Path::new("x.list"))
            .unwrap_err()
            .to_string();
        let lines: Vec<&str> = error
            .lines()
            .map(|line| line.split(": ").next().unwrap())
            .collect();
        assert_eq!(
            lines,
            ["x.list:1:1", "x.list:3:1", "x.list:4:1", "x.list:5:1"],
            "{error}"
        );
    }

    #[test]
    fn a_files_section_is_its_lists_and_its_paths() {
        let dir = sample();
        let root = dir.path();
        let list = root.join("x.list");
        fs::write(
            &list,
            format!("{}/etc/a.conf\n{}/none\n", root.display(), root.display()),
        )
        .unwrap();
        let mut settings = FilesSettings {
            name: "config".to_owned(),
            lists: vec![ListSource::File(list.clone())],
            paths: vec![PathSetting {
                text: format!("{}/opt/*", root.display()),
                line: 7,
            }],
            missing: Missing::Warn,
        };
        let expanded = expand_files(&settings, Path::new("site.toml")).unwrap();
        assert_eq!(
            expanded.paths,
            [root.join("etc/a.conf"), root.join("opt/f")]
        );
        let unmatched: Vec<(&Path, usize)> = expanded
            .unmatched
            .iter()
            .map(|e| (e.file.as_path(), e.line))
            .collect();
        assert_eq!(unmatched, [(list.as_path(), 2)]);
        settings
            .lists
            .push(ListSource::File(root.join("none.list")));
        assert!(expand_files(&settings, Path::new("site.toml")).is_err());
    }

    #[test]
    fn a_missing_list_is_an_error_that_names_it() {
        let error = read_list(&ListSource::File(PathBuf::from("/nonexistent/x.list"))).unwrap_err();
        assert_eq!(error.to_string(), "cannot read list /nonexistent/x.list");
        assert!(
            !read_list(&ListSource::Builtin("eclecticiq"))
                .unwrap()
                .is_empty()
        );
    }
}
