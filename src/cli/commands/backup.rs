//! `backup`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use holdfast::format::snapshot::{Component, ComponentState, ReferenceResult};
use holdfast::ops::backup::{BackupOptions, BackupSummary, backup};
use holdfast::ops::quiesce::recover;
use holdfast::site::SiteFile;
use holdfast::source::postgres::replay::resume_all;
use holdfast::stats::Stats;
use serde_json::{Value, json};

use super::{Context, code, hooks, snapshots};
use crate::cli::args::Backup;
use crate::cli::open::{self, Usage};
use crate::cli::output::{self, Output};
use crate::cli::progress::{self, Progress, Sample};

/// Takes the snapshot.
pub(super) fn run(context: &Context<'_>, args: Backup) -> anyhow::Result<u8> {
    let site = context.site_file()?;
    if site.is_none() && args.paths.is_empty() && args.database.is_empty() {
        return Err(
            Usage("there is nothing to back up: give paths, --database or --site".into()).into(),
        );
    }
    let hooks = site
        .as_ref()
        .map(|site| (site.name.clone(), site.hooks.clone()));
    let mut report = Vec::new();
    let done = take(context, args, site, &mut report);
    if let Some((site, hooks)) = hooks {
        hooks::tell(&site, &hooks, &done, &mut report);
    }
    done
}

/// Takes it; `report` becomes what `--json` prints.
fn take(
    context: &Context<'_>,
    args: Backup,
    site: Option<SiteFile>,
    report: &mut Vec<u8>,
) -> anyhow::Result<u8> {
    let lock = match &site {
        Some(site) => open::site_lock(site)?,
        None => None,
    };
    // Before anything that may fail: a site that stands still comes first.
    let mut problems = match &lock {
        Some(lock) => recover(lock, &mut |note| progress::warning(note))?.problems,
        None => Vec::new(),
    };
    for problem in &problems {
        progress::warning(problem);
    }
    let limits = site.as_ref().map(|site| site.limits).unwrap_or_default();
    let rate = args.limit_rate.or(limits.rate);
    let opened = open::open_limited(context.global, site.as_ref(), context.signals, rate)?;
    let mut options = options(args, site)?;
    options.low_priority |= limits.low_priority;
    options.lock = lock.map(Arc::new);
    options.guardian = Some(own_program()?);
    let interrupt = context.interrupt();
    // Who ends at once leaves no standby paused.
    context.signals.at_last(resume_all);
    let stats = Arc::new(Stats::default());
    let progress = Progress::start(context.global, &stats, sample);
    let summary = backup(&opened.repository, &options, &stats, &interrupt);
    drop(progress);
    let mut summary = summary?;
    for damage in &summary.damage {
        progress::warning(damage);
    }
    problems.append(&mut summary.problems);
    summary.problems = problems;
    let damaged = opened.damaged || !summary.damage.is_empty();
    let code = code(damaged, !summary.complete || !summary.problems.is_empty());
    for (message_type, fields) in messages(&summary, opened.repository.kdf_ms()) {
        report.extend(output::json_line(message_type, &fields)?);
    }
    let mut output = Output::new(context.global.json);
    match output.is_json() {
        true => output.bytes(report)?,
        false if context.is_silent(code) => {}
        false => show(&mut output, &summary, stats.torn.get())?,
    }
    output.flush()?;
    Ok(code)
}

/// This program, which is the guardian of a site too.
pub(super) fn own_program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?;
    // After an update its file is gone, but this process can still be executed.
    Ok(match program.exists() {
        true => program,
        false => "/proc/self/exe".into(),
    })
}

fn options(args: Backup, site: Option<SiteFile>) -> anyhow::Result<BackupOptions> {
    let mut excludes = args.exclude;
    for file in &args.exclude_file {
        excludes.extend(patterns(file)?);
    }
    let mut options = BackupOptions::new(open::host());
    if let Some(site) = &site {
        options.site_name = site.name.clone();
    }
    options.site = site.map(Arc::new);
    options.paths = args
        .paths
        .iter()
        .map(|path| absolute(path))
        .collect::<Result<_, _>>()?;
    options.databases = args.database;
    options.accept = args.accept;
    options.name = args.name;
    options.tags = args.tag;
    options.excludes = excludes;
    options.one_file_system = args.one_file_system;
    options.cachedir_tag = args.exclude_caches;
    options.force_read = args.force_read;
    options.low_priority = args.low_priority;
    options.no_stop = args.no_stop;
    let limit = |number: Option<u32>| number.and_then(|number| usize::try_from(number).ok());
    options.readers = limit(args.readers);
    options.workers = limit(args.workers);
    let limits = options
        .site
        .as_ref()
        .map(|site| site.limits)
        .unwrap_or_default();
    options.connections = limit(args.connections.or(limits.connections));
    options.connections_max = limit(args.connections_max.or(limits.connections_max));
    options.level = args.compression.or(limits.compression);
    options.user = open::user();
    options.environment = Arc::new(|name| std::env::var_os(name));
    Ok(options)
}

/// The path as it will stand in the snapshot: absolute, without `.` and `..`, symbolic links on the way as they are named.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(path)
        .with_context(|| format!("cannot make {} an absolute path", path.display()))?;
    let has_parent = absolute
        .components()
        .any(|part| part == std::path::Component::ParentDir);
    if !has_parent {
        return Ok(absolute);
    }
    // What `..` means behind a symbolic link only the file system knows.
    absolute
        .canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))
}

fn patterns(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the patterns in {}", file.display()))?;
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

fn sample(stats: &Stats) -> Sample {
    let files = stats.files_new.get() + stats.files_changed.get() + stats.files_unmodified.get();
    let mut details = vec![output::counted(files, "file", "files")];
    let rows = stats.rows.get();
    if rows > 0 {
        details.push(output::counted(rows, "row", "rows"));
    }
    details.push(format!(
        "{} stored",
        output::bytes(stats.bytes_stored.get())
    ));
    let skipped = stats.skipped.get();
    if skipped > 0 {
        details.push(format!("{} skipped", output::count(skipped)));
    }
    Sample {
        done: stats.bytes_read.get() + stats.bytes_unmodified.get(),
        expected: stats.bytes_expected.get(),
        details,
    }
}

fn show(output: &mut Output, summary: &BackupSummary, torn: u64) -> anyhow::Result<()> {
    let totals = &summary.totals;
    let missing: Vec<&Component> = summary
        .components
        .iter()
        .filter(|component| component.state != ComponentState::Complete)
        .collect();
    output.line(format!(
        "snapshot {} {}, {}",
        summary.snapshot.short(),
        match summary.complete {
            true => "is complete",
            false => "is INCOMPLETE",
        },
        output::duration(summary.elapsed)
    ))?;
    output.line(format!(
        "  files   {} new, {} changed, {} unmodified",
        output::count(totals.files_new),
        output::count(totals.files_changed),
        output::count(totals.files_unmodified)
    ))?;
    if totals.tables > 0 {
        output.line(format!(
            "  tables  {}, {}",
            output::count(totals.tables),
            output::counted(totals.rows, "row", "rows")
        ))?;
    }
    output.line(format!(
        "  read    {} at {}",
        output::bytes(totals.bytes_read),
        output::rate(totals.bytes_read, summary.elapsed)
    ))?;
    output.line(format!(
        "  stored  {} for {} of new content",
        output::bytes(totals.bytes_stored),
        output::bytes(totals.bytes_new)
    ))?;
    for (number, what) in [
        (totals.skipped, "left out because it could not be read"),
        (torn, "changed while it was read"),
    ] {
        if number > 0 {
            output.line(format!(
                "  {}  {what}",
                output::counted(number, "item", "items")
            ))?;
        }
    }
    if let Some(window) = &summary.window {
        output.line(format!("  {}", snapshots::window_line(window)))?;
    }
    let loud = summary.components.iter();
    let loud = loud.filter(|component| component.quiet == Some(false));
    let loud: Vec<String> = loud.map(snapshots::place).collect();
    if !loud.is_empty() {
        output.line(format!("  NOT read at rest: {}", loud.join(", ")))?;
    }
    for warning in &summary.warnings {
        output.line(format!("  warning: {warning}"))?;
    }
    for reference in &summary.references {
        show_reference(output, reference)?;
    }
    for problem in &summary.problems {
        output.line(format!("  PROBLEM: {problem}"))?;
    }
    for component in missing {
        output.line(format!(
            "  {} {}{}{}",
            snapshots::state_word(component.state),
            snapshots::place(component),
            if component.message.is_empty() {
                ""
            } else {
                ": "
            },
            component.message
        ))?;
    }
    Ok(())
}

fn show_reference(output: &mut Output, reference: &ReferenceResult) -> anyhow::Result<()> {
    let name = &reference.name;
    if !reference.problem.is_empty() {
        output.line(format!(
            "  warning: reference {name} could not be checked: {}",
            reference.problem
        ))?;
        return Ok(());
    }
    let lost = reference.rows_without_file + reference.files_without_row;
    output.line(format!(
        "  {}reference {name}: {}, {}; {} without a file, {} without a row",
        if lost > 0 { "warning: " } else { "" },
        output::counted(reference.rows, "row", "rows"),
        output::counted(reference.files, "file", "files"),
        output::count(reference.rows_without_file),
        output::count(reference.files_without_row)
    ))?;
    for example in &reference.examples {
        output.line(format!("    {example}"))?;
    }
    Ok(())
}

/// What `--json` prints.
fn messages(summary: &BackupSummary, kdf_ms: u64) -> Vec<(&'static str, Value)> {
    let components = summary.components.iter();
    let mut messages: Vec<(&'static str, Value)> = components
        .map(|component| ("component", snapshots::component_json(component)))
        .collect();
    messages.extend(summary.references.iter().map(|reference| {
        let fields = json!({
            "name": reference.name,
            "database": reference.database,
            "rows": reference.rows,
            "files": reference.files,
            "rows_without_file": reference.rows_without_file,
            "files_without_row": reference.files_without_row,
            "examples": reference.examples,
            "problem": reference.problem,
        });
        ("reference", fields)
    }));
    let totals = &summary.totals;
    let fields = json!({
        "snapshot": summary.snapshot.to_string(),
        "complete": summary.complete,
        "files_new": totals.files_new,
        "files_changed": totals.files_changed,
        "files_unmodified": totals.files_unmodified,
        "tables": totals.tables,
        "rows": totals.rows,
        "bytes_read": totals.bytes_read,
        "bytes_new": totals.bytes_new,
        "bytes_stored": totals.bytes_stored,
        "skipped": totals.skipped,
        "seconds": (summary.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
        "kdf_ms": kdf_ms,
        "damage": summary.damage,
        "window": summary.window.as_ref().map(snapshots::window_json),
        "warnings": summary.warnings,
        "problems": summary.problems,
    });
    messages.push(("summary", fields));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        let here = std::env::current_dir().unwrap();
        let check = |path: &str, expected: PathBuf| {
            assert_eq!(absolute(Path::new(path)).unwrap(), expected, "{path}");
        };
        check("/etc/./hosts", "/etc/hosts".into());
        check("some/where", here.join("some/where"));
        check("/usr/../etc", "/etc".into());
        assert!(absolute(Path::new("nowhere/../x")).is_err());
    }
}
