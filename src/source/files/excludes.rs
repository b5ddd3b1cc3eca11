//! What is left out: patterns in the syntax of gitignore, and cache directories.
//!
//! Patterns match paths relative to the tree's root (of a list: to `/`), as bytes, so that names that are not UTF-8 match like any other.
//! As in git a pattern with `!` takes an entry in again, but not below a directory that is left out.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{Mode, OFlags};

/// The name of the file that marks a cache.
pub(super) const CACHEDIR_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHEDIR_SIGNATURE: &[u8; 43] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Compiled patterns.
#[derive(Debug)]
pub(super) struct Excludes(Option<Gitignore>);

impl Excludes {
    /// Compiles `patterns`; the error names the pattern.
    pub(super) fn new(patterns: &[String]) -> Result<Self, String> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            builder
                .add_line(None, pattern)
                .map_err(|error| format!("exclude pattern {pattern:?}: {error}"))?;
        }
        let built = builder
            .build()
            .map_err(|error| format!("exclude patterns: {error}"))?;
        Ok(Self(Some(built)))
    }

    /// Whether the entry `name` of the directory `directory` (relative, may be empty) is left out.
    pub(super) fn matches(&self, directory: &[u8], name: &[u8], is_directory: bool) -> bool {
        let Some(patterns) = &self.0 else {
            return false;
        };
        let mut path = Vec::with_capacity(directory.len() + name.len() + 1);
        path.extend_from_slice(directory);
        if !directory.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        patterns
            .matched(Path::new(OsStr::from_bytes(&path)), is_directory)
            .is_ignore()
    }
}

/// Whether the directory holds a `CACHEDIR.TAG` with the signature of the Cache Directory Tagging Specification.
pub(super) fn is_cache(directory: impl AsFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(tag) = rustix::fs::openat(directory, CACHEDIR_TAG, flags, Mode::empty()) else {
        return false;
    };
    let mut head = [0; CACHEDIR_SIGNATURE.len()];
    matches!(rustix::io::pread(&tag, &mut head, 0), Ok(len) if len == head.len())
        && &head == CACHEDIR_SIGNATURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_git() {
        type Case<'a> = (&'a [&'a str], &'a [u8], &'a [u8], bool, bool);
        let cases: &[Case<'_>] = &[
            (&["*.tmp"], b"", b"a.tmp", false, true),
            (&["*.tmp"], b"x/y", b"a.tmp", false, true),
            (&["*.tmp", "!keep.tmp"], b"x", b"keep.tmp", false, false),
            (&["/top"], b"", b"top", false, true),
            (&["/top"], b"x", b"top", false, false),
            (&["cache/"], b"x", b"cache", true, true),
            (&["cache/"], b"x", b"cache", false, false),
            (&["a/**/b"], b"a/x/y", b"b", false, true),
            (&["*.tmp"], b"\xff", b"\xfe.tmp", false, true),
            (&["# comment", ""], b"", b"# comment", false, false),
            (&[], b"", b"a", false, false),
        ];
        for (patterns, directory, name, is_directory, expected) in cases {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            let excludes = Excludes::new(&patterns).unwrap();
            assert_eq!(
                excludes.matches(directory, name, *is_directory),
                *expected,
                "{patterns:?} {name:?}"
            );
        }
        assert!(Excludes::new(&["[z-a]".to_owned()]).is_err());
    }
}
