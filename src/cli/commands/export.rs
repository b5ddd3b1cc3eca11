//! `export`.

use std::path::Path;

use holdfast::ops::browse::{Damage, Place};
use holdfast::ops::dated::{DatedOptions, export_dated};
use holdfast::ops::export::{ExportSummary, TarOptions, TarOutput, export_tar};
use holdfast::target::files::RestoreOptions;
use holdfast::target::tar::Compression;
use jiff::tz::TimeZone;

use super::{Context, code, summary};
use crate::cli::args::{Export, Format};
use crate::cli::open::Usage;
use crate::cli::output::{self, Output};
use crate::cli::progress;

/// Writes the archive or the folder.
pub(super) fn run(context: &Context<'_>, args: &Export) -> anyhow::Result<u8> {
    match args.format {
        Format::Dated => dated(context, args),
        Format::Tar => tar(context, args, Compression::None),
        Format::TarZst => tar(context, args, Compression::Zstd(None)),
        Format::TarGz => tar(context, args, Compression::Gzip(None)),
    }
}

fn dated(context: &Context<'_>, args: &Export) -> anyhow::Result<u8> {
    let place = Place::parse(&args.place)?;
    if !place.path.is_empty() {
        return Err(
            Usage("a dated folder is made of a whole snapshot: leave out the path".into()).into(),
        );
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
    let mut output = Output::new(context.global.json);
    if output.is_json() {
        summary(&mut output, &opened, &exported)?;
    } else {
        output.line(format!(
            "exported {}, {} into {}",
            output::counted(exported.files, "file", "files"),
            output::bytes(exported.bytes),
            exported.folder.display()
        ))?;
        if !exported.left_out.is_empty() {
            let names = exported.left_out.join(", ");
            output.line(format!("  without what has no place in it: {names}"))?;
        }
        for (path, reason) in &exported.failures {
            output.line(format!("  NOT written: {path}: {reason}"))?;
        }
    }
    output.flush()?;
    let damaged = opened.damaged || exported.damaged > 0;
    Ok(code(damaged, exported.failed > 0))
}

fn tar(context: &Context<'_>, args: &Export, compression: Compression) -> anyhow::Result<u8> {
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
    if to_stdout {
        if !context.global.quiet {
            progress::note(&in_words(&exported));
        }
    } else {
        let mut output = Output::new(context.global.json);
        match output.is_json() {
            true => summary(&mut output, &opened, &exported)?,
            false => output.line(in_words(&exported))?,
        }
        output.flush()?;
    }
    Ok(code(opened.damaged || exported.damaged > 0, false))
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
