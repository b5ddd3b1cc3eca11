//! `drill`.

use std::sync::Arc;

use holdfast::ops::backup::now;
use holdfast::ops::drill::{
    ComponentDrill, DrillCleanup, DrillEvent, DrillOptions, DrillSummary, drill,
};
use holdfast::ops::sampling::Sampling;
use holdfast::site::config::Confidential;
use holdfast::stats::Stats;

use super::{Context, code, summary};
use crate::cli::args::Drill;
use crate::cli::open;
use crate::cli::output::{self, Output};
use crate::cli::progress::{self, Progress, Sample};

/// Restores, compares and removes.
pub(super) fn run(context: &Context<'_>, args: &Drill) -> anyhow::Result<u8> {
    let site = context.site_file()?;
    let opened = open::open(context.global, site.as_ref(), context.signals)?;
    let settings = site.as_ref().map(|site| &site.drill);
    let seed = u64::try_from(now().seconds).unwrap_or(0);
    let options = DrillOptions {
        snapshot: args.snapshot.clone(),
        server: args
            .server
            .clone()
            .map(Confidential::new)
            .or_else(|| settings.and_then(|settings| settings.server.clone())),
        scratch: args
            .scratch
            .clone()
            .or_else(|| settings.and_then(|settings| settings.scratch.clone()))
            .unwrap_or_else(std::env::temp_dir),
        sample: args
            .sample
            .map_or_else(Sampling::all, |percent| Sampling::new(percent, seed)),
        queries: site.as_ref().map(|site| site.restore.queries.clone()),
        jobs: args.workers.and_then(|number| usize::try_from(number).ok()),
        environment: Arc::new(|name| std::env::var_os(name)),
        host: open::host(),
    };
    let interrupt = context.interrupt();
    let cleanup = DrillCleanup::default();
    let last = cleanup.clone();
    context.signals.at_last(move || last.now());
    let stats = Arc::new(Stats::default());
    let mut output = Output::new(context.global.json);
    let quiet = context.global.quiet;
    let mut failed = None;
    let progress = Progress::start(context.global, &stats, sample);
    let drilled = drill(
        &opened.repository,
        &options,
        &stats,
        &interrupt,
        &cleanup,
        &mut |event| {
            if failed.is_none() {
                failed = show(&mut output, event, quiet).err();
            }
        },
    );
    drop(progress);
    let drilled = drilled?;
    if let Some(error) = failed {
        return Err(error);
    }
    let code = code(opened.damaged || drilled.damaged > 0, !drilled.good);
    if output.is_json() {
        summary(&mut output, &opened, &drilled)?;
    } else if !context.is_silent(code) {
        show_end(&mut output, &drilled)?;
    }
    output.flush()?;
    Ok(code)
}

fn sample(stats: &Stats) -> Sample {
    Sample {
        done: stats.bytes_read.get(),
        expected: stats.bytes_expected.get(),
        details: Vec::new(),
    }
}

fn show(output: &mut Output, event: &DrillEvent, quiet: bool) -> anyhow::Result<()> {
    match event {
        DrillEvent::NotNoted(error) => {
            progress::warning(&format!(
                "the drill could not be noted in the ledger: {error}"
            ));
            return Ok(());
        }
        DrillEvent::Component(component) if output.is_json() => {
            output.message("component", component)?;
        }
        DrillEvent::Query(query) if output.is_json() => output.message("query", query)?,
        DrillEvent::Component(component) if quiet && component.problem_count == 0 => {}
        DrillEvent::Query(query) if quiet && query.good == Some(true) => {}
        DrillEvent::Component(component) => {
            progress::suspended(|| show_component(output, component))?;
        }
        DrillEvent::Query(query) => {
            let word = match query.good {
                Some(true) => "ok   ",
                Some(false) => "FAIL ",
                None => "     ",
            };
            let mut lines = query.text.lines();
            let first = lines.next().unwrap_or_default();
            output.line(format!(
                "{word} query {} ({}): {first}",
                query.name, query.database
            ))?;
            for line in lines {
                output.line(format!("        {line}"))?;
            }
        }
    }
    Ok(output.flush()?)
}

fn show_component(output: &mut Output, component: &ComponentDrill) -> anyhow::Result<()> {
    let elapsed = std::time::Duration::try_from_secs_f64(component.seconds).unwrap_or_default();
    let what = match component.kind {
        "databases" => format!(
            "{}, {} read back",
            output::counted(component.items, "table", "tables"),
            output::counted(component.rows, "row", "rows")
        ),
        _ => format!(
            "{}, {}",
            output::counted(component.items, "file", "files"),
            output::bytes(component.bytes)
        ),
    };
    output.line(format!(
        "{} {}/{}: {what}, {}",
        match component.problem_count {
            0 => "ok   ",
            _ => "FAIL ",
        },
        component.kind,
        component.name.trim_start_matches('/'),
        output::duration(elapsed)
    ))?;
    for problem in &component.problems {
        output.line(format!("        {problem}"))?;
    }
    let more = component.problem_count - u64::try_from(component.problems.len())?;
    if more > 0 {
        output.line(format!("        and {} more", output::count(more)))?;
    }
    for note in &component.notes {
        output.line(format!("        note: {note}"))?;
    }
    Ok(())
}

fn show_end(output: &mut Output, drilled: &DrillSummary) -> anyhow::Result<()> {
    let elapsed = std::time::Duration::try_from_secs_f64(drilled.seconds).unwrap_or_default();
    let part = match drilled.sample_percent {
        100 => String::new(),
        percent => format!(" (a sample of {percent}%)"),
    };
    output.line(format!(
        "restored and compared {}, {} with {}{part}, {}",
        output::counted(drilled.files, "file", "files"),
        output::counted(drilled.tables, "table", "tables"),
        output::counted(drilled.rows, "row", "rows"),
        output::duration(elapsed)
    ))?;
    output.line(match (drilled.good, drilled.damaged) {
        (true, _) => "everything came back as it was".to_owned(),
        (false, 0) => output::counted(drilled.problems, "thing", "things") + " did NOT come back",
        (false, _) => "the repository is DAMAGED; run holdfast verify".to_owned(),
    })?;
    Ok(())
}
