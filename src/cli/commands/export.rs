//! `export`.

use std::path::Path;

use holdfast::ops::browse::{Damage, Place};
use holdfast::ops::dated::{DatedOptions, DatedSummary, export_dated};
use holdfast::ops::export::{ExportSummary, TarOptions, TarOutput, export_tar};
use holdfast::target::files::RestoreOptions;
use holdfast::target::tar::Compression;
use jiff::tz::TimeZone;

use super::{Context, code, summary};
use crate::cli::args::{Export, Format};
use crate::cli::open::Usage;
use crate::cli::output::{self, Output};
use crate::cli::progress;

/// Writes the archive.
pub(super) fn run(context: &Context<'_>, args: &Export) -> anyhow::Result<u8> {
    let compression = match args.format {
        Format::Dated => return run_dated(context, args),
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
