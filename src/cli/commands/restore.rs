//! `restore`: files into a directory, a database into a server.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast::ops::archive::{DatabaseRestoreOptions, restore_database};
use holdfast::ops::restore::{RestoreOptions, RestoreSummary, Trouble, TroubleKind, restore};
use holdfast::ops::sampling::Sampling;
use holdfast::source::postgres::ConnInfo;
use holdfast::stats::Stats;
use holdfast::target::files::Ownership;
use holdfast::target::postgres::{
    Globals, OnError, Pattern, RestoreOptions as DatabaseOptions, RestoreReport, RestoreTarget,
    Selection, SelectionError, SwapOptions,
};
use serde_json::json;

use super::{Context, code, restore_site, summary};
use crate::cli::args::{self, Owner, Restore};
use crate::cli::open::Usage;
use crate::cli::output::{self, Output};
use crate::cli::progress::{self, Progress, Sample};

/// Restores files or a database.
pub(super) fn run(context: &Context<'_>, args: &Restore) -> anyhow::Result<u8> {
    match (&args.target, &args.database.into) {
        (Some(target), _) => files(context, args, target),
        (None, Some(into)) => database(context, args, into),
        (None, None) => restore_site::run(context, args),
    }
}

/// Whose files restored ones become.
pub(super) fn ownership(owner: Option<Owner>) -> Ownership {
    match owner {
        Some(Owner::Names) => Ownership::ByName,
        Some(Owner::Numbers) => Ownership::ByNumber,
        Some(Owner::Leave) => Ownership::Leave,
        None if rustix::process::geteuid().is_root() => Ownership::ByName,
        None => Ownership::Leave,
    }
}

fn files(context: &Context<'_>, args: &Restore, target: &Path) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let options = RestoreOptions {
        include: args.files.include.clone(),
        exclude: args.files.exclude.clone(),
        ownership: ownership(args.files.owner),
        special: args.files.devices,
        in_place: args.files.in_place,
        sample: Sampling::all(),
        amid_others: false,
        sync: args.files.sync,
        threads: args.workers.and_then(|number| usize::try_from(number).ok()),
    };
    let stats = Arc::new(Stats::default());
    let interrupt = context.interrupt();
    let output = Mutex::new(Output::new(context.global.json));
    let progress = Progress::start(context.global, &stats, sample);
    let restored = restore(
        &opened.repository,
        &args.place,
        target,
        &options,
        &stats,
        &interrupt,
        &|trouble| tell(&output, trouble),
    );
    drop(progress);
    let restored = restored?;
    let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    let damaged = opened.damaged || restored.exit_code() == 4;
    let code = code(damaged, restored.exit_code() == 3);
    match output.is_json() {
        true => summary(&mut output, &opened, &restored)?,
        false if context.is_silent(code) => {}
        false => show(&mut output, &restored, target)?,
    }
    output.flush()?;
    Ok(code)
}

/// A start option behind the user's own; backslashes protect what would split a value.
fn start_option(own: &str, name: &str, value: &str) -> String {
    let mut options = own.trim().to_owned();
    if !options.is_empty() {
        options.push(' ');
    }
    options.push_str(&format!("-c {name}="));
    for c in value.chars() {
        if c.is_whitespace() || c == '\\' {
            options.push('\\');
        }
        options.push(c);
    }
    options
}

/// What is restored of a database, as it was typed.
fn restore_options(args: &Restore) -> anyhow::Result<DatabaseOptions> {
    let flags = &args.database;
    let patterns = |texts: &[String]| -> anyhow::Result<Vec<Pattern>> {
        let parsed: Result<Vec<Pattern>, SelectionError> =
            texts.iter().map(|text| Pattern::parse(text)).collect();
        parsed.map_err(|error| Usage(error.to_string()).into())
    };
    let (schemas, tables) = (patterns(&flags.schema)?, patterns(&flags.table)?);
    let rename = match (&flags.rename, tables.as_slice()) {
        (None, _) => None,
        (Some(to), [table]) => Some(new_name(to, table)?),
        (Some(_), _) => return Err(Usage("--as needs exactly one --table".into()).into()),
    };
    let tablespaces = flags.tablespace_map.iter();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(DatabaseOptions {
        jobs: args
            .workers
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or(cores),
        globals: match flags.globals {
            args::Globals::Missing => Globals::Missing,
            args::Globals::None => Globals::None,
            args::Globals::All => Globals::All,
        },
        no_owner: flags.no_owner,
        no_privileges: flags.no_privileges,
        no_tablespaces: flags.no_tablespaces,
        tablespaces: tablespaces
            .map(|(old, new)| (old.clone().into_bytes(), new.clone().into_bytes()))
            .collect(),
        selection: Selection {
            schemas,
            tables,
            rename,
            schema_only: flags.schema_only,
            data_only: flags.data_only,
        },
        clean: flags.clean,
        swap: SwapOptions {
            keep: flags.keep_old.clone(),
            incomplete: flags.replace_incomplete,
        },
        create: flags.create,
        recorded_extensions: flags.extension_versions == args::ExtensionVersions::Recorded,
        no_analyze: flags.no_analyze,
        on_error: match flags.on_error {
            _ if flags.stop_on_error => OnError::Stop,
            args::OnErrorArg::Stop => OnError::Stop,
            args::OnErrorArg::Continue => OnError::Continue,
        },
        ..DatabaseOptions::default()
    })
}

/// The schema and name of --as; the schema of --table where it names none.
fn new_name(to: &str, table: &Pattern) -> anyhow::Result<(String, String)> {
    let wrong = |text: &str| -> anyhow::Error { Usage(text.into()).into() };
    let to = Pattern::parse(to).map_err(|error| wrong(&error.to_string()))?;
    let (schema, name) = to
        .exact()
        .ok_or_else(|| wrong("--as is a name, without * and ?"))?;
    let of_table = table.exact().and_then(|(schema, _)| schema);
    let schema = schema.or(of_table);
    let schema = schema.ok_or_else(|| wrong("--as needs a schema, because --table has none"))?;
    Ok((schema, name))
}

fn database(context: &Context<'_>, args: &Restore, into: &str) -> anyhow::Result<u8> {
    let flags = &args.database;
    if args.place.contains(':') {
        return Err(Usage("a database is named by --database, not by a path".into()).into());
    }
    let info = ConnInfo::parse(into)?;
    let mut settings = info.resolve(&|name| std::env::var_os(name))?;
    if let Some(role) = &flags.role {
        settings.options = start_option(&settings.options, "role", role);
    }
    let target = RestoreTarget::new(&info, settings)?;
    let name = flags.database.as_deref().unwrap_or(target.database());
    let options = DatabaseRestoreOptions {
        restore: restore_options(args)?,
        check: flags.check,
    };
    let opened = context.repository()?;
    let stats = Arc::new(Stats::default());
    let interrupt = context.interrupt();
    let output = Mutex::new(Output::new(context.global.json));
    let progress = Progress::start(context.global, &stats, sample);
    let restored = restore_database(
        &opened.repository,
        &args.place,
        name,
        &target,
        &options,
        &stats,
        &interrupt,
        &|trouble| tell(&output, trouble),
    );
    drop(progress);
    let restored = restored?;
    let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    let damaged = opened.damaged || restored.exit_code() == 4;
    let code = match restored.exit_code() {
        1 if !damaged => 1,
        other => code(damaged, other == 3),
    };
    match output.is_json() {
        true => summary(&mut output, &opened, &restored)?,
        false if context.is_silent(code) => {}
        false => show_database(&mut output, &restored.report)?,
    }
    output.flush()?;
    Ok(code)
}

fn show_database(output: &mut Output, report: &RestoreReport) -> anyhow::Result<()> {
    let elapsed = std::time::Duration::try_from_secs_f64(report.seconds).unwrap_or_default();
    output.line(format!(
        "{} {}: {}, {}, {}",
        match report.not_swapped {
            None => "restored database",
            Some(_) => "did NOT replace database",
        },
        report.database,
        output::counted(report.tables.len().try_into()?, "table", "tables"),
        output::counted(report.rows, "row", "rows"),
        output::duration(elapsed)
    ))?;
    output.line(format!(
        "  {}, {}, {}",
        output::counted(report.statements, "statement", "statements"),
        output::counted(report.sequences, "sequence", "sequences"),
        output::counted(report.large_objects, "large object", "large objects")
    ))?;
    for (names, what) in [
        (&report.roles_created, "roles created"),
        (&report.roles_missing, "roles MISSING"),
        (
            &report.tablespaces_missing,
            "tablespaces missing, the default one is used",
        ),
        (&report.extensions_missing, "extensions MISSING"),
    ] {
        if !names.is_empty() {
            output.line(format!("  {what}: {}", names.join(", ")))?;
        }
    }
    for note in &report.notes {
        output.line(format!("  {note}"))?;
    }
    for failure in &report.failures {
        output.line(format!(
            "  NOT restored: {}: {}",
            failure.object, failure.reason
        ))?;
    }
    if let Some(reason) = &report.not_swapped {
        output.line(format!(
            "  {reason}; --replace-incomplete replaces it all the same"
        ))?;
    }
    if report.stopped {
        output.line("  stopped at the first failure")?;
    }
    if let Some(check) = &report.check {
        output.line(format!(
            "  compared {}, {}: {}",
            output::counted(check.tables, "table", "tables"),
            output::counted(check.rows, "row", "rows"),
            match check.differences.len() {
                0 => "all as archived".to_owned(),
                number => format!("{number} DIFFER"),
            }
        ))?;
        for difference in &check.differences {
            output.line(format!(
                "  DIFFERS: {}: archived {}; restored {}",
                difference.object, difference.archived, difference.restored
            ))?;
        }
    }
    Ok(())
}

fn sample(stats: &Stats) -> Sample {
    Sample {
        done: stats.bytes_read.get(),
        expected: stats.bytes_expected.get(),
        details: vec![output::counted(stats.files_new.get(), "file", "files")],
    }
}

pub(super) fn tell(output: &Mutex<Output>, trouble: &Trouble) {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    if !output.is_json() {
        return progress::warning(&trouble.to_string());
    }
    let word = match trouble.kind {
        TroubleKind::Damaged => "damaged",
        TroubleKind::Skipped => "skipped",
    };
    let fields = json!({"path": trouble.path, "what": trouble.what});
    if let Err(error) = output.message(word, &fields) {
        // The summary fails too, and ends the command.
        tracing::debug!("{error}");
    }
}

fn show(output: &mut Output, restored: &RestoreSummary, target: &Path) -> anyhow::Result<()> {
    let elapsed = std::time::Duration::try_from_secs_f64(restored.seconds).unwrap_or_default();
    output.line(format!(
        "restored {} into {}, {} at {}, {}",
        output::counted(restored.files + restored.links, "file", "files"),
        target.display(),
        output::bytes(restored.bytes_written),
        output::rate(restored.bytes_written, elapsed),
        output::duration(elapsed)
    ))?;
    output.line(format!(
        "  {}, {}",
        output::counted(restored.directories, "directory", "directories"),
        output::counted(
            restored.others,
            "link or special file",
            "links and special files"
        )
    ))?;
    for (number, what) in [
        (restored.files_unchanged, "there already and not written"),
        (
            restored.left_out,
            "left out: sockets, and devices without --devices",
        ),
        (restored.skipped, "NOT restored as archived; see above"),
        (
            restored.damaged,
            "LOST to damage of the repository; see above",
        ),
    ] {
        if number > 0 {
            output.line(format!(
                "  {} {what}",
                output::counted(number, "item", "items")
            ))?;
        }
    }
    Ok(())
}
