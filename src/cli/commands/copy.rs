//! `copy`.

use std::cell::RefCell;
use std::sync::Arc;

use holdfast::ops::copy::{CopiedSnapshot, CopyEvent, CopyOptions, CopySummary, copy};
use holdfast::stats::Stats;
use serde_json::json;

use super::{Context, code};
use crate::cli::args::Copy;
use crate::cli::open;
use crate::cli::output::{self, Output, WriteError};
use crate::cli::progress::{self, Progress, Sample};

/// Copies snapshots.
pub(super) fn run(context: &Context<'_>, args: &Copy) -> anyhow::Result<u8> {
    let site = context.site_file()?;
    let source = open::open(context.global, site.as_ref(), context.signals)?;
    let target = open::open_second(
        args.second.to.as_deref(),
        args.second.to_key_file.as_deref(),
        site.as_ref(),
        context.signals,
    )?;
    let options = CopyOptions {
        snapshots: args.snapshots.clone(),
        workers: args.workers.and_then(|number| usize::try_from(number).ok()),
        level: args
            .compression
            .or_else(|| site.as_ref()?.limits.compression),
        ..CopyOptions::default()
    };
    let stats = Arc::new(Stats::default());
    let interrupt = context.interrupt();
    let output = RefCell::new(Output::new(context.global.json));
    let progress = Progress::start(context.global, &stats, sample);
    let summary = copy(
        &source.repository,
        &target.repository,
        &options,
        &stats,
        &interrupt,
        &mut |event| tell(context, &output, &event),
    );
    drop(progress);
    let summary = summary?;
    let damaged = source.damaged || target.damaged || !summary.damage.is_empty();
    let code = code(damaged, false);
    let mut output = output.into_inner();
    if output.is_json() {
        output.message(
            "summary",
            &json!({
                "snapshots_copied": summary.copied.len(),
                "snapshots_skipped": summary.present.len(),
                "damage": summary.damage,
                "chunks_read": summary.chunks_read,
                "chunks_sent": summary.chunks_sent,
                "bytes_read": stats.bytes_read.get(),
                "bytes_new": stats.bytes_new.get(),
                "bytes_stored": stats.bytes_stored.get(),
                "seconds": (summary.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
                "kdf_ms": source.repository.kdf_ms() + target.repository.kdf_ms(),
            }),
        )?;
    } else if !context.is_silent(code) {
        show(&mut output, &summary, &stats)?;
    }
    output.flush()?;
    Ok(code)
}

/// Tells of a snapshot as soon as it is done.
pub(super) fn tell(context: &Context<'_>, output: &RefCell<Output>, event: &CopyEvent<'_>) {
    let mut output = output.borrow_mut();
    if let CopyEvent::Damaged { snapshot, what } = event
        && !output.is_json()
    {
        return progress::warning(&match snapshot {
            Some(id) => format!("snapshot {} is not copied: {what}", id.short()),
            None => format!("damage in the source: {what}"),
        });
    }
    let told = match output.is_json() {
        true => tell_json(&mut output, event),
        false if context.global.quiet => Ok(()),
        false => progress::suspended(|| tell_people(&mut output, event)),
    };
    if let Err(error) = told {
        // The summary fails too, and ends the command.
        tracing::debug!("{error}");
    }
}

fn tell_json(output: &mut Output, event: &CopyEvent<'_>) -> Result<(), WriteError> {
    match event {
        CopyEvent::Copied(copied) => output.message(
            "copied",
            &json!({
                "from": copied.from.to_string(),
                "snapshot": copied.snapshot.to_string(),
                "name": copied.record.name,
                "site": copied.record.site,
                "chunks_read": copied.chunks_read,
                "chunks_sent": copied.chunks_sent,
            }),
        ),
        CopyEvent::Present { snapshot, there } => output.message(
            "present",
            &json!({
                "from": snapshot.id.to_string(),
                "snapshot": there.to_string(),
            }),
        ),
        CopyEvent::Damaged { snapshot, what } => output.message(
            "damage",
            &json!({
                "snapshot": snapshot.map(|id| id.to_string()),
                "what": what,
            }),
        ),
    }
}

fn tell_people(output: &mut Output, event: &CopyEvent<'_>) -> Result<(), WriteError> {
    if let CopyEvent::Copied(copied) = event {
        output.line(line(copied))?;
        output.flush()?;
    }
    Ok(())
}

fn line(copied: &CopiedSnapshot) -> String {
    let name = copied.record.name.as_deref();
    format!(
        "{} of {} copied as {}{}: {} read, {} sent",
        copied.from.short(),
        copied.record.site,
        copied.snapshot.short(),
        name.map(|name| format!(" ({name})")).unwrap_or_default(),
        output::counted(copied.chunks_read, "chunk", "chunks"),
        output::count(copied.chunks_sent)
    )
}

pub(super) fn sample(stats: &Stats) -> Sample {
    Sample {
        done: stats.bytes_read.get() + stats.bytes_unmodified.get(),
        expected: stats.bytes_expected.get(),
        details: vec![format!(
            "{} stored",
            output::bytes(stats.bytes_stored.get())
        )],
    }
}

fn show(output: &mut Output, summary: &CopySummary, stats: &Stats) -> Result<(), WriteError> {
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    output.line(format!(
        "{} copied, {} there already, {}",
        output::counted(number(summary.copied.len()), "snapshot", "snapshots"),
        output::count(number(summary.present.len())),
        output::duration(summary.elapsed)
    ))?;
    if !summary.copied.is_empty() {
        output.line(format!(
            "  read    {} in {}",
            output::bytes(stats.bytes_read.get()),
            output::counted(summary.chunks_read, "chunk", "chunks")
        ))?;
        output.line(format!(
            "  stored  {} for {} of new content",
            output::bytes(stats.bytes_stored.get()),
            output::bytes(stats.bytes_new.get())
        ))?;
    }
    Ok(())
}
