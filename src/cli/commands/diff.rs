//! `diff`.

use std::cell::RefCell;

use holdfast::ops::browse::{Place, kind_word};
use holdfast::ops::diff::{Change, DiffOptions, DiffSummary, Difference, diff};
use serde_json::json;

use super::{Context, code, summary, tell_damage, unwritten};
use crate::cli::args::Diff;
use crate::cli::output::{self, Output, WriteError};

/// Shows what changed.
pub(super) fn run(context: &Context<'_>, args: &Diff) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let options = DiffOptions {
        before: Place::parse(&args.before)?,
        after: Place::parse(&args.after)?,
        path: Vec::new(),
    };
    let output = RefCell::new(Output::new(context.global.json));
    let found = diff(
        &opened.repository,
        &options,
        &mut |difference| {
            let only_metadata =
                matches!(difference.change, Change::Modified { content: false, .. });
            match only_metadata && !args.metadata && !context.global.json {
                true => Ok(()),
                false => show(&mut output.borrow_mut(), difference).map_err(unwritten),
            }
        },
        &mut |damage| tell_damage(&output, damage),
    )?;
    let mut output = output.into_inner();
    match output.is_json() {
        true => summary(&mut output, &opened, &found)?,
        false => show_summary(&mut output, &found, args.metadata)?,
    }
    output.flush()?;
    Ok(code(opened.damaged || found.damaged > 0, false))
}

fn show(output: &mut Output, difference: &Difference) -> Result<(), WriteError> {
    let change = &difference.change;
    if output.is_json() {
        let fields = json!({
            "path": String::from_utf8_lossy(&difference.path),
            "type": kind_word(difference.kind),
            "change": change.word(),
            "detail": change.detail(),
            "size_before": difference.size.0,
            "size_after": difference.size.1,
        });
        return output.message("difference", &fields);
    }
    output.bytes(format!("{} ", change.sign()).as_bytes())?;
    let terminal = output.is_terminal();
    output.bytes(&output::name(&difference.path, terminal))?;
    match change.detail() {
        Some(detail) => output.line(format!("  ({detail})")),
        None => output.line(""),
    }
}

fn show_summary(output: &mut Output, found: &DiffSummary, metadata: bool) -> anyhow::Result<()> {
    output.line("")?;
    output.line(format!(
        "{} added ({}), {} removed ({}), {} modified, {} replaced by something else",
        output::count(found.added),
        output::bytes(found.bytes_added),
        output::count(found.removed),
        output::bytes(found.bytes_removed),
        output::count(found.modified),
        output::count(found.type_changed)
    ))?;
    if found.tables_changed + found.tables_equal > 0 {
        output.line(format!(
            "{} with other rows, {} with equal rows",
            output::counted(found.tables_changed, "table", "tables"),
            output::count(found.tables_equal)
        ))?;
    }
    if found.metadata > 0 {
        let hint = if metadata {
            ""
        } else {
            " (--metadata lists them)"
        };
        output.line(format!(
            "{} with other metadata only{hint}",
            output::counted(found.metadata, "entry", "entries")
        ))?;
    }
    Ok(())
}
