//! `snapshots`.

use std::collections::HashSet;
use std::time::Duration;

use holdfast::format::id::ObjectHash;
use holdfast::format::node::Timestamp;
use holdfast::format::snapshot::{Component, ComponentState, QuietWindow, Record};
use holdfast::ops::snapshots::{self, Snapshot};
use serde_json::{Value, json};

use super::{Context, code};
use crate::cli::args::Snapshots;
use crate::cli::output::{self, Output, Table};
use crate::cli::progress;

/// Lists the snapshots, the oldest first.
pub(super) fn run(context: &Context<'_>, args: &Snapshots) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let mut damaged = opened.damaged;
    let state = opened.repository.read_state()?;
    let mut all = snapshots::list(&opened.repository, &state, &mut |error| {
        damaged = true;
        progress::warning(&error.to_string());
    })?;
    let superseded = superseded(&all);
    all.retain(|snapshot| is_wanted(&snapshot.record, args));
    let mut output = Output::new(context.global.json);
    if output.is_json() {
        for snapshot in &all {
            let mut fields = as_json(snapshot);
            if superseded.contains(&snapshot.id) {
                fields["superseded"] = true.into();
            }
            output.message("snapshot", &fields)?;
        }
        let summary = json!({"snapshots": all.len(), "kdf_ms": opened.repository.kdf_ms()});
        output.message("summary", &summary)?;
    } else if all.is_empty() {
        output.line("no snapshots")?;
    } else if args.long {
        for snapshot in &all {
            show_long(&mut output, snapshot)?;
        }
    } else {
        for line in table(&all, &superseded).lines() {
            output.line(line)?;
        }
    }
    output.flush()?;
    Ok(code(damaged, false))
}

fn is_wanted(record: &Record, args: &Snapshots) -> bool {
    args.of.as_ref().is_none_or(|site| *site == record.site)
        && args.tag.iter().all(|tag| record.tags.contains(tag))
}

/// Snapshots whose name means a newer one.
fn superseded(all: &[Snapshot]) -> HashSet<ObjectHash> {
    let mut newest = HashSet::new();
    let older = all.iter().rev().filter(|snapshot| {
        let name = snapshot.record.name.as_ref();
        name.is_some_and(|name| !newest.insert(name.clone()))
    });
    older.map(|snapshot| snapshot.id).collect()
}

fn table(all: &[Snapshot], superseded: &HashSet<ObjectHash>) -> Table {
    let mut table = Table::new(&[
        "id",
        "date",
        "site",
        "name",
        "components",
        ">files",
        ">size",
        ">new",
    ]);
    for snapshot in all {
        let record = &snapshot.record;
        table.row(vec![
            snapshot.id.short(),
            output::local_time(record.started),
            record.site.clone(),
            match (&record.name, superseded.contains(&snapshot.id)) {
                (Some(name), true) => format!("{name} (superseded)"),
                (name, _) => name.clone().unwrap_or_default(),
            },
            components(record),
            output::count(record.subtree.files),
            output::bytes(record.subtree.bytes),
            output::bytes(record.totals.bytes_stored),
        ]);
    }
    table
}

/// `5 complete`, or what is not.
fn components(record: &Record) -> String {
    let number = |state| {
        let of_state = record.components.iter().filter(|c| c.state == state);
        of_state.count()
    };
    let states = [
        (ComponentState::Complete, "complete"),
        (ComponentState::Incomplete, "incomplete"),
        (ComponentState::Failed, "FAILED"),
    ];
    let parts: Vec<String> = states
        .into_iter()
        .map(|(state, word)| (number(state), word))
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    match parts.is_empty() {
        true => "none".into(),
        false => parts.join(", "),
    }
}

/// Where a component stands in the tree, for people.
pub(super) fn place(component: &Component) -> String {
    let name = component.name.trim_start_matches('/');
    format!("{}/{name}", component.kind.folder())
}

/// The word for a state.
pub(super) fn state_word(state: ComponentState) -> &'static str {
    match state {
        ComponentState::Complete => "complete",
        ComponentState::Incomplete => "incomplete",
        ComponentState::Failed => "failed",
    }
}

/// What people read of a quiet window.
pub(super) fn window_line(window: &QuietWindow) -> String {
    let seconds = |from, to| output::duration(between(from, to));
    format!(
        "stopped for {}: down {} to {}, read for {}",
        seconds(window.stop_begun, window.started),
        output::local_time(window.stop_begun),
        output::local_time(window.started),
        seconds(window.stopped, window.start_begun),
    )
}

/// A quiet window as `--json` shows it.
pub(super) fn window_json(window: &QuietWindow) -> Value {
    let seconds = between(window.stop_begun, window.started).as_secs_f64();
    json!({
        "stop_begun": output::rfc3339(window.stop_begun),
        "stopped": output::rfc3339(window.stopped),
        "start_begun": output::rfc3339(window.start_begun),
        "started": output::rfc3339(window.started),
        "seconds": (seconds * 1000.0).round() / 1000.0,
        "problems": window.problems,
    })
}

/// From one moment to a later one; nothing if the clock was set back.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    let nanos = |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let elapsed = u64::try_from(nanos(to) - nanos(from));
    Duration::from_nanos(elapsed.unwrap_or_default())
}

fn show_long(output: &mut Output, snapshot: &Snapshot) -> anyhow::Result<()> {
    let record = &snapshot.record;
    output.line(format!("snapshot {}", snapshot.id))?;
    output.line(format!(
        "  taken {} to {} by {}@{} with {}",
        output::local_time(record.started),
        output::local_time(record.finished),
        record.user,
        record.host,
        record.program
    ))?;
    let mut names = vec![format!("site {}", record.site)];
    names.extend(record.name.iter().map(|name| format!("name {name}")));
    names.extend(record.tags.iter().map(|(k, v)| format!("{k}={v}")));
    output.line(format!("  {}", names.join(", ")))?;
    output.line(format!(
        "  {}, {}; {} new, {} stored",
        output::counted(record.subtree.files, "file", "files"),
        output::bytes(record.subtree.bytes),
        output::bytes(record.totals.bytes_new),
        output::bytes(record.totals.bytes_stored),
    ))?;
    if let Some(from) = &record.copied_from {
        output.line(format!(
            "  copied {} from snapshot {} of repository {}",
            output::local_time(from.copied),
            from.snapshot.short(),
            from.repository
        ))?;
    }
    for cluster in &record.clusters {
        output.line(match cluster.atomic {
            true => format!(
                "  cluster {}: all databases are of one moment",
                cluster.cluster
            ),
            false => format!(
                "  cluster {}: its databases are {} ms apart",
                cluster.cluster, cluster.spread_ms
            ),
        })?;
    }
    if let Some(window) = &record.window {
        output.line(format!("  {}", window_line(window)))?;
        for problem in &window.problems {
            output.line(format!("      PROBLEM: {problem}"))?;
        }
    }
    for warning in &record.warnings {
        output.line(format!("  warning: {warning}"))?;
    }
    for component in &record.components {
        show_component(output, component)?;
    }
    Ok(output.line("")?)
}

fn show_component(output: &mut Output, component: &Component) -> anyhow::Result<()> {
    let content = match component.tables {
        0 => format!(
            "{}, {}",
            output::counted(component.totals.files, "file", "files"),
            output::bytes(component.totals.bytes)
        ),
        tables => format!(
            "{}, {}",
            output::counted(tables, "table", "tables"),
            output::counted(component.rows, "row", "rows")
        ),
    };
    let quiet = match component.quiet {
        Some(true) => "  at rest",
        Some(false) => "  NOT at rest",
        None => "",
    };
    output.line(format!(
        "  {}  {}  {content}{quiet}",
        place(component),
        state_word(component.state)
    ))?;
    let problems = [
        (component.skipped, "skipped"),
        (component.torn, "changed while being read"),
    ];
    for (number, what) in problems.into_iter().filter(|(number, _)| *number > 0) {
        output.line(format!(
            "      {} {what}",
            output::counted(number, "item", "items")
        ))?;
    }
    if !component.message.is_empty() {
        output.line(format!("      {}", component.message))?;
    }
    for note in &component.notes {
        output.line(format!("      {note}"))?;
    }
    Ok(())
}

/// A snapshot as `--json` shows it.
fn as_json(snapshot: &Snapshot) -> Value {
    let record = &snapshot.record;
    let components: Vec<Value> = record.components.iter().map(component_json).collect();
    let clusters: Vec<Value> = record
        .clusters
        .iter()
        .map(|cluster| {
            json!({"cluster": cluster.cluster, "atomic": cluster.atomic, "spread_ms": cluster.spread_ms})
        })
        .collect();
    let tags: serde_json::Map<String, Value> = record
        .tags
        .iter()
        .map(|(key, value)| (key.clone(), value.clone().into()))
        .collect();
    let totals = &record.totals;
    json!({
        "id": snapshot.id.to_string(),
        "log": snapshot.seq,
        "started": output::rfc3339(record.started),
        "finished": output::rfc3339(record.finished),
        "site": record.site,
        "name": record.name,
        "tags": tags,
        "host": record.host,
        "user": record.user,
        "program": record.program,
        "complete": record.is_complete(),
        "files": record.subtree.files,
        "directories": record.subtree.directories,
        "bytes": record.subtree.bytes,
        "tables": totals.tables,
        "rows": totals.rows,
        "bytes_read": totals.bytes_read,
        "bytes_new": totals.bytes_new,
        "bytes_stored": totals.bytes_stored,
        "skipped": totals.skipped,
        "clusters": clusters,
        "components": components,
        "copied_from": record.copied_from.as_ref().map(|from| json!({
            "repository": from.repository.to_string(),
            "snapshot": from.snapshot.to_string(),
            "copied": output::rfc3339(from.copied),
        })),
        "window": record.window.as_ref().map(window_json),
        "warnings": record.warnings,
    })
}

/// A component as `--json` shows it.
pub(super) fn component_json(component: &Component) -> Value {
    json!({
        "kind": component.kind.folder(),
        "name": component.name,
        "state": state_word(component.state),
        "message": component.message,
        "started": output::rfc3339(component.started),
        "finished": output::rfc3339(component.finished),
        "files": component.totals.files,
        "directories": component.totals.directories,
        "bytes": component.totals.bytes,
        "tables": component.tables,
        "rows": component.rows,
        "skipped": component.skipped,
        "torn": component.torn,
        "notes": component.notes,
        "origin": component.origin,
        "quiet": component.quiet,
    })
}
