//! `stats`.

use std::cell::RefCell;

use holdfast::ops::stats::{
    ClassTotals, RepositoryStats, SnapshotStats, StatsOptions, StatsSummary, stats,
};

use super::{Context, code, summary, tell_damage};
use crate::cli::args::Stats;
use crate::cli::output::{self, Output, Table};

/// Shows what a repository or a snapshot takes.
pub(super) fn run(context: &Context<'_>, args: &Stats) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let options = StatsOptions {
        snapshot: args.snapshot.clone(),
        scratch: std::env::temp_dir(),
    };
    let output = RefCell::new(Output::new(context.global.json));
    let found = stats(&opened.repository, &options, &mut |damage| {
        tell_damage(&output, damage);
    })?;
    let mut output = output.into_inner();
    if output.is_json() {
        summary(&mut output, &opened, &found)?;
    } else {
        match &found {
            StatsSummary::Repository(found) => show_repository(&mut output, found)?,
            StatsSummary::Snapshot(found) => show_snapshot(&mut output, found)?,
        }
    }
    output.flush()?;
    let damaged = match &found {
        StatsSummary::Repository(found) => found.damaged,
        StatsSummary::Snapshot(found) => found.damaged,
    };
    Ok(code(opened.damaged || damaged > 0, false))
}

fn show_repository(output: &mut Output, found: &RepositoryStats) -> anyhow::Result<()> {
    output.line(format!(
        "{} with {}, {} to restore",
        output::counted(found.snapshots, "snapshot", "snapshots"),
        output::counted(found.files, "file", "files"),
        output::bytes(found.restore_bytes)
    ))?;
    output.line(format!(
        "stored in {}: {:.1} times less (duplicates {:.1}, compression {:.1})",
        output::bytes(found.repository_bytes),
        found.total_ratio,
        found.dedup_ratio,
        found.compression_ratio
    ))?;
    output.line("")?;
    let mut objects = Table::new(&["objects", ">number", ">size"]);
    for kind in found.objects.iter().filter(|kind| kind.objects > 0) {
        objects.row(vec![
            kind.kind.clone(),
            output::count(kind.objects),
            output::bytes(kind.bytes),
        ]);
    }
    show_table(output, &objects)?;
    show_classes(output, &found.classes)?;
    if found.chunks_twice > 0 {
        output.line(format!(
            "{} stored more than once",
            output::counted(found.chunks_twice, "chunk is", "chunks are")
        ))?;
    }
    Ok(())
}

fn show_snapshot(output: &mut Output, found: &SnapshotStats) -> anyhow::Result<()> {
    output.line(format!("snapshot {}", found.snapshot))?;
    output.line(format!(
        "{}, {}, {}, {} others; {} to restore",
        output::counted(found.files, "file", "files"),
        output::counted(found.directories, "directory", "directories"),
        output::counted(found.symlinks, "symbolic link", "symbolic links"),
        found.special,
        output::bytes(found.restore_bytes)
    ))?;
    output.line(format!(
        "{} of different content: duplicates {:.1}, compression {:.1}",
        output::bytes(found.unique_bytes),
        found.dedup_ratio,
        found.compression_ratio
    ))?;
    output.line("")?;
    show_classes(output, &found.classes)
}

fn show_classes(output: &mut Output, classes: &[ClassTotals]) -> anyhow::Result<()> {
    let mut table = Table::new(&["content", ">chunks", ">size", ">stored"]);
    for class in classes.iter().filter(|class| class.chunks > 0) {
        let name = match class.class.as_str() {
            "tree" => "metadata",
            "small" => "small files",
            "file" => "files",
            "table" => "tables",
            other => other,
        };
        table.row(vec![
            name.to_owned(),
            output::count(class.chunks),
            output::bytes(class.unique_bytes),
            output::bytes(class.stored_bytes),
        ]);
    }
    show_table(output, &table)
}

fn show_table(output: &mut Output, table: &Table) -> anyhow::Result<()> {
    for line in table.lines() {
        output.line(line)?;
    }
    Ok(output.line("")?)
}
