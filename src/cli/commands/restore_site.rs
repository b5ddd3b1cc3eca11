//! `restore SNAP --site FILE`: the plan, the question, the report.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast::ops::backup::Interrupt;
use holdfast::ops::quiesce::{SiteLock, recover};
use holdfast::ops::restore_site::plan::TreePlan;
use holdfast::ops::restore_site::queries::QueryReport;
use holdfast::ops::restore_site::{
    DatabaseAction, SiteEvent, SiteRestoreOptions, SiteRestorePlan, SiteRestoreReport, prepare,
};
use holdfast::site::SiteFile;
use holdfast::stats::Stats;
use serde_json::{Value, json};

use super::backup::own_program;
use super::restore::{ownership, tell};
use super::{Context, code, hooks, summary};
use crate::cli::args::Restore;
use crate::cli::open::{self, Opened, Usage};
use crate::cli::output::{self, Output};
use crate::cli::progress::{self, Progress, Sample};

/// Rows of a query that are shown to people; all that are kept stand in the JSON.
const ROWS_SHOWN: usize = 20;

/// Restores a whole site.
pub(super) fn run(context: &Context<'_>, args: &Restore) -> anyhow::Result<u8> {
    let Some(site) = context.site_file()? else {
        return Err(Usage(
            "give --target for files, --into for a database, or --site for a whole site".into(),
        )
        .into());
    };
    if args.place.contains(':') {
        let text = "a whole site is restored from a whole snapshot; for a part of it give --only, or --target";
        return Err(Usage(text.into()).into());
    }
    if !args.files.include.is_empty() || !args.files.exclude.is_empty() || args.files.in_place {
        let text = "--include, --exclude and --in-place go with --target; for a part of a site give --only or --skip";
        return Err(Usage(text.into()).into());
    }
    let flags = &args.whole;
    let how = How {
        dry_run: flags.dry_run,
        yes: flags.yes,
    };
    may_go_on(how)?;
    let opened = open::open(context.global, Some(&site), context.signals)?;
    let mut options = options(site, &args.place);
    options.delta = flags.delta;
    options.delete = flags.delete;
    options.safety_backup = flags.no_safety_backup.then_some(false);
    options.end_sessions = flags.end_sessions;
    options.allow_incomplete = flags.allow_incomplete;
    options.only.clone_from(&flags.only);
    options.skip.clone_from(&flags.skip);
    options.from_start = flags.from_start;
    options.ownership = ownership(args.files.owner);
    options.special = args.files.devices;
    if let Some(jobs) = args.workers.and_then(|jobs| usize::try_from(jobs).ok()) {
        options.jobs = jobs;
    }
    let interrupt = context.interrupt();
    carry_out(context, &opened, &options, &interrupt, how, json!({}))
}

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Show what would be done, and end.
    pub(super) dry_run: bool,
    /// Nobody is asked.
    pub(super) yes: bool,
}

/// Refuses what would have to be asked where nobody can be asked.
pub(super) fn may_go_on(how: How) -> anyhow::Result<()> {
    if !how.dry_run && !how.yes && !asks() {
        let text = "nobody can be asked here whether the site is to be replaced: give --yes, or --dry-run to see what would be done";
        return Err(Usage(text.into()).into());
    }
    Ok(())
}

/// Options of a restore by whoever runs this command.
pub(super) fn options(site: SiteFile, snapshot: &str) -> SiteRestoreOptions {
    let mut options = SiteRestoreOptions::new(Arc::new(site), snapshot);
    options.host = open::host();
    options.user = open::user();
    options.environment = Arc::new(|name| std::env::var_os(name));
    options.state_folder = open::state_folder();
    options
}

/// Plans, asks, restores and reports; `more` goes into the summary. The hooks of the site are told.
pub(super) fn carry_out(
    context: &Context<'_>,
    opened: &Opened,
    options: &SiteRestoreOptions,
    interrupt: &Interrupt,
    how: How,
    more: Value,
) -> anyhow::Result<u8> {
    let mut report = Vec::new();
    let done = restore(context, opened, options, interrupt, how, more, &mut report);
    if !how.dry_run {
        hooks::tell(&options.site.name, &options.site.hooks, &done, &mut report);
    }
    done
}

/// Restores; `report` becomes the summary that `--json` prints.
fn restore(
    context: &Context<'_>,
    opened: &Opened,
    options: &SiteRestoreOptions,
    interrupt: &Interrupt,
    how: How,
    more: Value,
    report: &mut Vec<u8>,
) -> anyhow::Result<u8> {
    let mut options = options.clone();
    if !how.dry_run {
        options.lock = lock(&options.site)?.map(Arc::new);
        options.guardian = Some(own_program()?);
    }
    let prepared = prepare(&opened.repository, &options, interrupt)?;
    let mut output = Output::new(context.global.json);
    let plan = prepared.plan();
    if output.is_json() {
        output.message("plan", plan)?;
    } else if how.dry_run || !how.yes {
        show_plan(&mut output, plan)?;
    }
    output.flush()?;
    if how.dry_run {
        if !plan.problems.is_empty() {
            anyhow::bail!("it can't be done: {}", plan.problems.join("; "));
        }
        if output.is_json() {
            summary(&mut output, opened, &json!({"dry_run": true}))?;
            output.flush()?;
        }
        return Ok(code(opened.damaged, false));
    }
    if plan.problems.is_empty() && !how.yes && !confirmed(&plan.site)? {
        anyhow::bail!("not confirmed; nothing was changed");
    }
    let stats = Arc::new(Stats::default());
    let output = Mutex::new(output);
    let progress = Progress::start(context.global, &stats, sample);
    let quiet = context.global.quiet;
    let restored = prepared.run(&stats, interrupt, &|event| say(&output, event, quiet));
    drop(progress);
    let restored = restored?;
    let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    let code = match restored.exit_code() {
        0 => code(opened.damaged, false),
        other => other,
    };
    let mut fields = serde_json::to_value(&restored)?;
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    report.extend(output::json_line("summary", &fields)?);
    match output.is_json() {
        true => {
            summary(&mut output, opened, &fields)?;
        }
        false if context.is_silent(code) => {}
        false => show(&mut output, &restored)?,
    }
    output.flush()?;
    Ok(code)
}

/// Takes the lock of the site, and starts a site that a dead run has left stopped, unless a restore left it so on purpose.
fn lock(site: &SiteFile) -> anyhow::Result<Option<SiteLock>> {
    let lock = open::site_lock(site)?;
    if let Some(lock) = &lock
        && lock.place().held()?.is_none()
    {
        for problem in recover(lock, &mut |note| progress::warning(note))?.problems {
            progress::warning(&problem);
        }
    }
    Ok(lock)
}

/// Whether somebody can be asked.
fn asks() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn confirmed(site: &str) -> anyhow::Result<bool> {
    let mut stderr = std::io::stderr();
    write!(
        stderr,
        "This replaces the site. Type its name ({site}) to go on: "
    )?;
    stderr.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == site)
}

fn sample(stats: &Stats) -> Sample {
    Sample {
        done: stats.bytes_read.get(),
        expected: stats.bytes_expected.get(),
        details: vec![
            output::counted(stats.files_new.get(), "file", "files"),
            output::counted(stats.rows.get(), "row", "rows"),
        ],
    }
}

fn say(output: &Mutex<Output>, event: &SiteEvent, quiet: bool) {
    let (word, text) = match event {
        SiteEvent::Trouble(trouble) => return tell(output, trouble),
        SiteEvent::Step(text) => ("step", text),
        SiteEvent::Note(text) => ("note", text),
    };
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    if !output.is_json() {
        if !quiet || word == "note" {
            progress::note(text);
        }
        return;
    }
    if let Err(error) = output.message(word, &json!({"text": text})) {
        // The summary fails too, and ends the command.
        tracing::debug!("{error}");
    }
}

fn show_plan(output: &mut Output, plan: &SiteRestorePlan) -> anyhow::Result<()> {
    let short = plan.snapshot.get(..12).unwrap_or_default();
    output.line(format!(
        "snapshot {short} of {} at {} to the site {}",
        plan.snapshot_site, plan.taken, plan.site
    ))?;
    let mut step = 0;
    let mut numbered = |output: &mut Output, text: String| {
        step += 1;
        output.line(format!("{step:>3}. {text}"))
    };
    if plan.stop_commands > 0 {
        let text = output::counted(plan.stop_commands.try_into()?, "command", "commands");
        numbered(output, format!("stop the site: {text}"))?;
    }
    if let Some(name) = &plan.safety_backup {
        numbered(output, format!("back the target up as {name}"))?;
    }
    for database in &plan.databases {
        let how = match (database.done, database.exists, plan.delta) {
            (true, _, _) => "done already",
            (false, false, _) => "create",
            (false, true, false) => "replace",
            (false, true, true) => "make equal",
        };
        numbered(
            output,
            format!(
                "database {}: {how} {} ({}): {}, {}",
                database.name,
                database.database,
                database.to,
                output::counted(database.tables, "table", "tables"),
                output::counted(database.rows, "row", "rows")
            ),
        )?;
    }
    for text in &plan.relocations {
        output.line(format!("     relocate {text}"))?;
    }
    for tree in &plan.trees {
        numbered(output, tree_line(tree))?;
        for name in tree.extra_examples.iter().filter(|_| tree.delete) {
            output.line(format!("     remove {name}"))?;
        }
        let named = u64::try_from(tree.extra_examples.len())?;
        if tree.delete && tree.extra > named {
            output.line(format!("     and {} more", tree.extra - named))?;
        }
    }
    if plan.post_commands > 0 {
        let text = output::counted(plan.post_commands.try_into()?, "command", "commands");
        numbered(output, format!("after the restore: {text}"))?;
    }
    if plan.start_commands > 0 {
        let text = output::counted(plan.start_commands.try_into()?, "command", "commands");
        numbered(output, format!("start the site: {text}"))?;
    }
    for query in &plan.queries {
        numbered(output, format!("query {query}"))?;
    }
    for session in &plan.sessions {
        output.line(format!("in use: {session}"))?;
    }
    for note in &plan.notes {
        output.line(format!("note: {note}"))?;
    }
    for problem in &plan.problems {
        output.line(format!("PROBLEM: {problem}"))?;
    }
    Ok(())
}

fn tree_line(tree: &TreePlan) -> String {
    let to = match (tree.kind, tree.to.as_str()) {
        (_, "") => "where its database says".to_owned(),
        ("shares", to) => to.to_owned(),
        (_, _) => "their absolute paths".to_owned(),
    };
    let mut text = format!(
        "{}/{} to {to}: {}, {}: {} new, {} differ",
        tree.kind,
        tree.name,
        output::counted(tree.files, "file", "files"),
        output::bytes(tree.bytes),
        output::count(tree.new),
        output::count(tree.changed)
    );
    if tree.extra > 0 {
        let what = match tree.delete {
            true => "are not in the snapshot and removed",
            false => "are not in the snapshot and stay",
        };
        text.push_str(&format!(", {} {what}", output::count(tree.extra)));
    }
    text
}

fn show(output: &mut Output, restored: &SiteRestoreReport) -> anyhow::Result<()> {
    let elapsed = std::time::Duration::try_from_secs_f64(restored.seconds).unwrap_or_default();
    output.line(format!(
        "restored the site {}, {}",
        restored.site,
        output::duration(elapsed)
    ))?;
    for database in &restored.databases {
        let what = match database.action {
            DatabaseAction::Created => "created",
            DatabaseAction::Replaced => "replaced",
            DatabaseAction::Refilled => "made equal",
            DatabaseAction::Unchanged => "equal, left alone",
            DatabaseAction::DoneBefore => "done by an earlier run",
        };
        let mut line = format!("  database {}: {what}", database.name);
        if database.tables > 0 {
            line.push_str(&format!(
                ", {}, {}",
                output::counted(database.tables, "table", "tables"),
                output::counted(database.rows, "row", "rows")
            ));
        }
        if let Some(why) = &database.why_whole {
            line.push_str(&format!("; all of it, because {why}"));
        }
        output.line(line)?;
        for change in &database.relocated {
            output.line(format!(
                "    relocated {}: {}",
                change.what,
                output::counted(change.rows, "row", "rows")
            ))?;
            for (before, after) in &change.values {
                output.line(format!("      {before} -> {after}"))?;
            }
        }
        if let Some(report) = &database.report {
            for note in &report.notes {
                output.line(format!("    {note}"))?;
            }
            for failure in &report.failures {
                output.line(format!(
                    "    NOT restored: {}: {}",
                    failure.object, failure.reason
                ))?;
            }
        }
    }
    for tree in &restored.trees {
        if tree.done_before {
            output.line(format!("  {}: done by an earlier run", tree.component))?;
            continue;
        }
        let summary = &tree.summary;
        let mut line = format!(
            "  {} to {}: {}, {} of them there already, {} written",
            tree.component,
            tree.to,
            output::counted(summary.files, "file", "files"),
            output::count(summary.files_unchanged),
            output::bytes(summary.bytes_written)
        );
        for (number, what) in [
            (tree.removed, "removed"),
            (summary.skipped, "NOT restored as archived"),
            (summary.damaged, "LOST to damage"),
        ] {
            if number > 0 {
                line.push_str(&format!(", {} {what}", output::count(number)));
            }
        }
        output.line(line)?;
    }
    for query in &restored.queries {
        show_query(output, query)?;
    }
    if let Some(name) = &restored.safety_backup {
        output.line(format!("  what was there before: snapshot {name}"))?;
    }
    if let Some(down) = restored.down_seconds {
        let down = std::time::Duration::try_from_secs_f64(down).unwrap_or_default();
        output.line(format!(
            "  the site was stopped for {}",
            output::duration(down)
        ))?;
    }
    for problem in &restored.problems {
        output.line(format!("  PROBLEM: {problem}"))?;
    }
    Ok(())
}

fn show_query(output: &mut Output, query: &QueryReport) -> anyhow::Result<()> {
    output.line(format!(
        "  query {}: {}{}",
        query.name,
        output::counted(query.row_count, "row", "rows"),
        match &query.problem {
            Some(problem) => format!("; WRONG: {problem}"),
            None => String::new(),
        }
    ))?;
    for row in query.rows.iter().take(ROWS_SHOWN) {
        let values = query.columns.iter().zip(row);
        let values: Vec<String> = values
            .map(|(column, value)| format!("{column}={}", value.as_deref().unwrap_or("NULL")))
            .collect();
        output.line(format!("    {}", values.join(", ")))?;
    }
    let shown = u64::try_from(query.rows.len().min(ROWS_SHOWN))?;
    if query.row_count > shown {
        output.line(format!("    and {} more", query.row_count - shown))?;
    }
    Ok(())
}
