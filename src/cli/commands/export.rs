//! `export`.

use std::path::Path;

use clap::ValueEnum;
use holdfast::ops::browse::{Damage, Place};
use holdfast::ops::dated::{DatedOptions, DatedSummary, export_dated};
use holdfast::ops::export::{ExportSummary, TarOptions, TarOutput, export_tar};
use holdfast::ops::export_database::{
    DatabaseExportSummary, DatabasePlace, export_directory, export_script,
};
use holdfast::target::files::RestoreOptions;
use holdfast::target::postgres::ExportOptions;
use holdfast::target::tar::Compression;
use jiff::tz::TimeZone;

use super::{Context, code, summary};
use crate::cli::args::{Export, Format};
use crate::cli::open::Usage;
use crate::cli::output::{self, Output};
use crate::cli::progress;

/// Writes the archive.
pub(super) fn run(context: &Context<'_>, args: &Export) -> anyhow::Result<u8> {
    check_flags(args)?;
    let compression = match args.format {
        Format::Dated => return run_dated(context, args),
        Format::Sql | Format::PgDirectory => return run_database(context, args),
        Format::Tar => Compression::None,
        Format::TarZst => Compression::Zstd(None),
        Format::TarGz => Compression::Gzip(None),
    };
    let to_stdout = args.output == Path::new("-");
    if to_stdout && context.global.json {
        return Err(Usage("an archive on stdout leaves no room for --json".into()).into());
    }
    let opened = context.repository()?;
    let options = TarOptions {
        place: Place::parse(&args.place)?,
        compression,
    };
    let target = match to_stdout {
        true => TarOutput::Stream(Box::new(std::io::stdout())),
        false => TarOutput::File(args.output.clone()),
    };
    let interrupt = context.interrupt();
    let exported = export_tar(
        &opened.repository,
        &options,
        target,
        &interrupt,
        &mut |damage: &Damage| progress::warning(&damage.to_string()),
    )?;
    let code = code(opened.damaged || exported.damaged > 0, false);
    if to_stdout {
        if !context.global.quiet {
            progress::note(&in_words(&exported));
        }
    } else {
        let mut output = Output::new(context.global.json);
        match output.is_json() {
            true => summary(&mut output, &opened, &exported)?,
            false if context.is_silent(code) => {}
            false => output.line(in_words(&exported))?,
        }
        output.flush()?;
    }
    Ok(code)
}

/// Flags that the form has no use for are mistakes.
fn check_flags(args: &Export) -> anyhow::Result<()> {
    let (sql, database) = match args.format {
        Format::Sql => (true, true),
        Format::PgDirectory => (false, true),
        _ => (false, false),
    };
    let useless = [
        ("--database", args.database.is_some() && !database),
        (
            "--target-version",
            args.target_version.is_some() && !database,
        ),
        ("--create", args.create && !sql),
        ("--no-owner", args.no_owner && !sql),
        ("--no-privileges", args.no_privileges && !sql),
        (
            "--owner",
            args.owner.is_some() && args.format != Format::Dated,
        ),
    ];
    match useless.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let hint = match (args.format, *flag) {
                (Format::PgDirectory, "--owner") => "",
                (Format::PgDirectory, _) => "; pg_restore has such a flag",
                _ => "",
            };
            let format = args.format.to_possible_value();
            let format = format.as_ref().map_or("", |value| value.get_name());
            Err(Usage(format!("{flag} means nothing with --format {format}{hint}")).into())
        }
    }
}

/// Writes a database for PostgreSQL's own programs.
fn run_database(context: &Context<'_>, args: &Export) -> anyhow::Result<u8> {
    let to_stdout = args.output == Path::new("-");
    if to_stdout && args.format == Format::PgDirectory {
        return Err(Usage(
            "a folder can't go to stdout: say which one, or take --format sql".into(),
        )
        .into());
    }
    if to_stdout && context.global.json {
        return Err(Usage("a script on stdout leaves no room for --json".into()).into());
    }
    let place = DatabasePlace {
        place: Place::parse(&args.place)?,
        database: args.database.clone(),
    };
    let opened = context.repository()?;
    let interrupt = context.interrupt();
    let mut damage = |damage: &Damage| progress::warning(&damage.to_string());
    let repository = &opened.repository;
    let exported = match args.format {
        Format::PgDirectory => export_directory(
            repository,
            &place,
            args.target_version,
            &args.output,
            &interrupt,
            &mut damage,
        )?,
        _ => {
            let options = ExportOptions {
                create: args.create,
                no_owner: args.no_owner,
                no_privileges: args.no_privileges,
                target_version: args.target_version,
            };
            let output = match to_stdout {
                true => TarOutput::Stream(Box::new(std::io::stdout())),
                false => TarOutput::File(args.output.clone()),
            };
            export_script(
                repository,
                &place,
                &options,
                output,
                &interrupt,
                &mut damage,
            )?
        }
    };
    let code = code(opened.damaged || exported.damaged > 0, false);
    if to_stdout {
        if !context.global.quiet {
            progress::note(&database_in_words(&exported));
        }
        return Ok(code);
    }
    let mut output = Output::new(context.global.json);
    match output.is_json() {
        true => summary(&mut output, &opened, &exported)?,
        false if context.is_silent(code) => {}
        false => output.line(database_in_words(&exported))?,
    }
    output.flush()?;
    Ok(code)
}

fn database_in_words(exported: &DatabaseExportSummary) -> String {
    let of = &exported.exported;
    let mut text = format!(
        "exported {}: {}, {}",
        exported.database,
        output::counted(of.tables, "table", "tables"),
        output::counted(of.rows, "row", "rows")
    );
    if of.large_objects > 0 {
        text.push_str(", ");
        text.push_str(&output::counted(
            of.large_objects,
            "large object",
            "large objects",
        ));
    }
    text.push_str(&format!(", {}", output::bytes(of.bytes)));
    text
}

/// Makes the dated folder.
fn run_dated(context: &Context<'_>, args: &Export) -> anyhow::Result<u8> {
    if args.output == Path::new("-") {
        return Err(Usage("the dated form is a folder: say in which one it is made".into()).into());
    }
    let place = Place::parse(&args.place)?;
    if !place.path.is_empty() {
        let text = "the dated form is made of a whole snapshot, not of a path in it";
        return Err(Usage(text.into()).into());
    }
    let opened = context.repository()?;
    let options = DatedOptions {
        snapshot: place.snapshot,
        target: args.output.clone(),
        zone: TimeZone::system(),
        restore: RestoreOptions {
            ownership: super::restore::ownership(args.owner),
            ..RestoreOptions::default()
        },
    };
    let interrupt = context.interrupt();
    let exported = export_dated(
        &opened.repository,
        &options,
        &interrupt,
        &mut |damage: &Damage| progress::warning(&damage.to_string()),
    )?;
    for (path, reason) in &exported.failures {
        progress::warning(&format!("{path}: {reason}"));
    }
    let damaged = opened.damaged || exported.damaged > 0;
    let code = code(damaged, exported.failed > 0);
    let mut output = Output::new(context.global.json);
    match output.is_json() {
        true => summary(&mut output, &opened, &exported)?,
        false if context.is_silent(code) => {}
        false => output.line(dated_in_words(&exported))?,
    }
    output.flush()?;
    Ok(code)
}

fn dated_in_words(exported: &DatedSummary) -> String {
    let mut text = format!(
        "made {}: {}, {}",
        exported.folder.display(),
        output::counted(exported.files, "file", "files"),
        output::bytes(exported.bytes)
    );
    if !exported.left_out.is_empty() {
        text.push_str("; without a place in it: ");
        text.push_str(&exported.left_out.join(", "));
    }
    text
}

fn in_words(exported: &ExportSummary) -> String {
    let mut text = format!(
        "exported {}, {}",
        output::counted(exported.files, "file", "files"),
        output::bytes(exported.bytes)
    );
    if exported.bytes_written > 0 {
        text.push_str(&format!(", as {}", output::bytes(exported.bytes_written)));
    }
    if exported.sockets > 0 {
        let sockets = output::counted(exported.sockets, "socket", "sockets");
        text.push_str(&format!("; {sockets} left out"));
    }
    text
}
