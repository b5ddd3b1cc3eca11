//! `cat` and `manifest`: what goes to stdout as it is.

use std::cell::RefCell;

use anyhow::bail;
use holdfast::ops::browse::{Damage, Place};
use holdfast::ops::cat::cat as cat_op;
use holdfast::ops::manifest::manifest as manifest_op;
use serde_json::json;

use super::{Context, code, summary, tell_damage};
use crate::cli::args::{Cat, Manifest};
use crate::cli::open::Usage;
use crate::cli::output::{self, Output};
use crate::cli::progress;

/// Writes a file.
pub(super) fn cat(context: &Context<'_>, args: &Cat) -> anyhow::Result<u8> {
    if context.global.json {
        bail!(Usage(
            "cat writes the bytes of a file, so it has no --json".into()
        ));
    }
    let opened = context.repository()?;
    let place = Place::parse(&args.place)?;
    let mut output = Output::new(false);
    let written = cat_op(
        &opened.repository,
        &place,
        &mut output,
        &mut |damage: &Damage| progress::warning(&damage.to_string()),
    )?;
    output.flush()?;
    Ok(code(opened.damaged || written.damaged > 0, false))
}

/// Writes digests and paths; with `--json` one object for each line.
pub(super) fn manifest(context: &Context<'_>, args: &Manifest) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let place = Place::parse(&args.place)?;
    let output = RefCell::new(Output::new(context.global.json));
    let json = context.global.json;
    let mut lines = Lines {
        output: &output,
        json,
        rest: Vec::new(),
    };
    let listed = manifest_op(&opened.repository, &place, &mut lines, &mut |damage| {
        tell_damage(&output, damage);
    })?;
    let mut output = output.into_inner();
    if json {
        summary(&mut output, &opened, &listed)?;
    }
    output.flush()?;
    for (count, what) in [
        (
            listed.inexpressible,
            "left out: the form can't express its name",
        ),
        (listed.without_digest, "left out: archived without a digest"),
    ] {
        if count > 0 && !json {
            progress::note(&format!(
                "{} {what}",
                output::counted(count, "file", "files")
            ));
        }
    }
    Ok(code(opened.damaged || listed.damaged > 0, false))
}

/// Takes the lines of a manifest.
struct Lines<'a> {
    output: &'a RefCell<Output>,
    json: bool,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl std::io::Write for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut output = self.output.borrow_mut();
        if !self.json {
            output.bytes(bytes).map_err(|error| error.0)?;
            return Ok(bytes.len());
        }
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            let (digest, path) = text.split_once("  ").unwrap_or(("", &text));
            let fields = json!({"b3": digest.trim_start_matches('\\'), "path": unescape(path, digest.starts_with('\\'))});
            output.message("file", &fields).map_err(|error| error.0)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.borrow_mut().flush().map_err(|error| error.0)
    }
}

/// A path as it was before `b3sum`'s escapes.
fn unescape(path: &str, escaped: bool) -> String {
    if !escaped {
        return path.to_owned();
    }
    let mut out = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        out.push(match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => '\\',
            },
            (c, false) => c,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_b3sum_are_undone() {
        assert_eq!(unescape("a\\nb\\\\c", true), "a\nb\\c");
        assert_eq!(unescape("a\\nb", false), "a\\nb");
    }
}
