//! `demo`.

use std::sync::Arc;

use holdfast::ops::demo::{DemoCleanup, DemoEvent, DemoOptions, demo};
use holdfast::stats::Stats;

use super::Context;
use crate::cli::args::Demo;
use crate::cli::open;
use crate::cli::output::{self, Output};
use crate::cli::progress;

/// Plays the demo.
pub(super) fn run(context: &Context<'_>, args: &Demo) -> anyhow::Result<u8> {
    let options = DemoOptions {
        temp: std::env::temp_dir(),
        files: args.files,
        keep: args.keep,
        path: std::env::var_os("PATH"),
        environment: Arc::new(|name| std::env::var_os(name).filter(|_| !name.starts_with("PG"))),
        host: open::host(),
        user: open::user(),
    };
    let interrupt = context.interrupt();
    let cleanup = DemoCleanup::default();
    let last = cleanup.clone();
    context.signals.at_last(move || last.now());
    let mut output = Output::new(context.global.json);
    let mut failed = None;
    let stats = Arc::new(Stats::default());
    let summary = demo(&options, &stats, &interrupt, &cleanup, &mut |event| {
        if failed.is_none() {
            failed = show(&mut output, event).err();
        }
    });
    let summary = summary?;
    if let Some(error) = failed {
        return Err(error);
    }
    if output.is_json() {
        output.message("summary", &summary)?;
    } else {
        for difference in &summary.differences {
            output.line(format!("  DIFFERS: {difference}"))?;
        }
        output.line("")?;
        output.line(match summary.differences.is_empty() {
            true => format!(
                "No difference was found. {}",
                output::duration(summary.seconds)
            ),
            false => "NOT all of it came back as it was.".to_owned(),
        })?;
        match &summary.kept {
            Some(folder) => output.line(format!("Everything is kept in {}", folder.display()))?,
            None => output.line("Nothing was left behind; --keep leaves the folder to look at.")?,
        }
    }
    output.flush()?;
    Ok(u8::from(!summary.differences.is_empty()))
}

fn show(output: &mut Output, event: &DemoEvent) -> anyhow::Result<()> {
    if output.is_json() {
        output.message("demo", event)?;
        return Ok(output.flush()?);
    }
    match event {
        DemoEvent::Begins { step } => progress::note(step),
        DemoEvent::SiteMade(site) => {
            output.line(format!("a sample site in {}", site.folder.display()))?;
            output.line(format!(
                "  {} databases on PostgreSQL {}: {} tables, {} rows, {}",
                site.databases,
                site.server.split(' ').next().unwrap_or_default(),
                site.tables,
                output::count(site.rows),
                output::bytes(site.database_bytes)
            ))?;
            output.line(format!(
                "  a share with {} files, {}",
                output::count(site.files),
                output::bytes(site.file_bytes)
            ))?;
        }
        DemoEvent::DayPassed(day) => output.line(format!(
            "{} files changed, {} new, {} removed, {} renamed; about 2 % of the rows",
            day.changed, day.added, day.removed, day.renamed
        ))?,
        DemoEvent::BackedUp(backup) => output.line(format!(
            "  read {}, new {}, stored {}, {}",
            output::bytes(backup.bytes_read),
            output::bytes(backup.bytes_new),
            output::bytes(backup.bytes_stored),
            output::duration(backup.seconds)
        ))?,
    }
    Ok(output.flush()?)
}
