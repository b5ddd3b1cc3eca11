//! `verify`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast::ops::sampling::Sampling;
use holdfast::ops::verify::{
    AgainstOptions, Depth, DifferenceKind, Finding, FindingKind, VerifyOptions, VerifySummary,
    against, verify, without_key,
};
use holdfast::stats::Stats;
use serde_json::{Value, json};

use super::{Context, code};
use crate::cli::args::Verify;
use crate::cli::open;
use crate::cli::output::{self, Output};
use crate::cli::progress::{self, Progress, Sample};

/// Looks for damage.
pub(super) fn run(context: &Context<'_>, args: &Verify) -> anyhow::Result<u8> {
    match &args.against {
        Some(directory) => compare(context, args, directory),
        None => look(context, args),
    }
}

/// Compares a directory with a snapshot.
fn compare(context: &Context<'_>, args: &Verify, directory: &Path) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let options = AgainstOptions {
        ownership: super::restore::ownership(args.owner),
        sample: Sampling::all(),
        threads: args.workers.and_then(|number| usize::try_from(number).ok()),
    };
    let stats = Arc::new(Stats::default());
    let interrupt = context.interrupt();
    let output = Mutex::new(Output::new(context.global.json));
    let progress = Progress::start(context.global, &stats, sample);
    let found = against(
        &opened.repository,
        args.snapshot.as_deref().unwrap_or("latest"),
        directory,
        &options,
        &stats,
        &interrupt,
        &|difference| {
            let word = match difference.kind {
                DifferenceKind::Differs => "differs",
                DifferenceKind::Damaged => "damaged",
            };
            let fields = json!({"path": difference.path, "what": difference.what});
            print(&output, word, &fields, &difference.to_string());
        },
    );
    drop(progress);
    let found = found?;
    let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    let code = code(opened.damaged || found.exit_code() == 4, false);
    if output.is_json() {
        super::summary(&mut output, &opened, &found)?;
    } else if !context.is_silent(code) {
        let elapsed = std::time::Duration::try_from_secs_f64(found.seconds).unwrap_or_default();
        output.line(format!(
            "compared {}, {} and {} others, {} read, {}",
            output::counted(found.files, "file", "files"),
            output::counted(found.directories, "directory", "directories"),
            output::count(found.others),
            output::bytes(found.bytes_read),
            output::duration(elapsed)
        ))?;
        output.line(match found.differences + found.damaged {
            0 => "no difference".to_owned(),
            number => output::counted(number, "difference", "differences"),
        })?;
    }
    output.flush()?;
    Ok(code)
}

fn look(context: &Context<'_>, args: &Verify) -> anyhow::Result<u8> {
    let threads = args.workers.and_then(|number| usize::try_from(number).ok());
    let stats = Arc::new(Stats::default());
    let output = Mutex::new(Output::new(context.global.json));
    let tell = |finding: &Finding| tell(&output, finding);
    let mut damaged = false;
    let mut kdf_ms = 0;
    let found = if args.no_key {
        let site = context.site_file()?;
        let backend = open::backend(&open::place(context.global, site.as_ref())?)?;
        let interrupt = context.interrupt();
        let _progress = Progress::start(context.global, &stats, sample);
        without_key(&*backend, threads, &stats, &interrupt, &tell)
    } else {
        let opened = context.repository()?;
        damaged = opened.damaged;
        kdf_ms = opened.repository.kdf_ms();
        let options = VerifyOptions {
            snapshot: args.snapshot.clone(),
            depth: match (args.data, args.end_to_end) {
                (_, true) => Depth::EndToEnd,
                (true, false) => Depth::Data,
                (false, false) => Depth::Structure,
            },
            threads,
            host: Some(open::host()),
        };
        let interrupt = context.interrupt();
        let _progress = Progress::start(context.global, &stats, sample);
        verify(&opened.repository, &options, &stats, &interrupt, &tell)
    };
    let found = found?;
    let code = code(damaged || found.exit_code() == 4, false);
    let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    if output.is_json() {
        let mut fields = serde_json::to_value(&found)?;
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("kdf_ms".into(), json!(kdf_ms));
        }
        output.message("summary", &fields)?;
    } else if !context.is_silent(code) {
        show(&mut output, &found, args)?;
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

fn tell(output: &Mutex<Output>, finding: &Finding) {
    let (word, mark) = match finding.kind {
        FindingKind::Damaged => ("damaged", "DAMAGED"),
        FindingKind::Affected => ("affected", "LOST   "),
        FindingKind::Note => ("note", "note   "),
    };
    let fields = json!({"object": finding.object, "path": finding.path, "what": finding.what});
    print(output, word, &fields, &format!("{mark} {finding}"));
}

/// What is found goes to stdout at once: it is what the command is for.
fn print(output: &Mutex<Output>, message_type: &str, fields: &Value, line: &str) {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    let printed = match output.is_json() {
        true => output.message(message_type, fields),
        false => progress::suspended(|| output.line(line).and_then(|()| output.flush())),
    };
    if let Err(error) = printed {
        // The summary fails too, and ends the command.
        tracing::debug!("{error}");
    }
}

fn show(output: &mut Output, found: &VerifySummary, args: &Verify) -> anyhow::Result<()> {
    let read = match found.bytes_read {
        0 => String::new(),
        read => format!(", {} read", output::bytes(read)),
    };
    let elapsed = std::time::Duration::try_from_secs_f64(found.seconds).unwrap_or_default();
    output.line(format!(
        "looked at {}, {} and {}{read}, {}",
        output::counted(found.packs, "pack", "packs"),
        output::counted(found.objects, "other object", "other objects"),
        output::counted(found.chunks, "chunk", "chunks"),
        output::duration(elapsed)
    ))?;
    if !args.no_key {
        let rows = match found.rows {
            0 => String::new(),
            rows => format!(", {} counted", output::counted(rows, "row", "rows")),
        };
        output.line(format!(
            "{} with {}{rows}",
            output::counted(found.snapshots, "snapshot", "snapshots"),
            output::counted(found.files, "file", "files")
        ))?;
    }
    if found.unchecked > 0 {
        output.line(format!(
            "{} could not be looked at without a key",
            output::counted(found.unchecked, "log entry", "log entries")
        ))?;
    }
    output.line(match (found.damaged, found.affected) {
        (0, 0) => "no damage".to_owned(),
        (damaged, affected) => format!(
            "{} damaged, {} cannot be restored",
            output::counted(damaged, "object is", "objects are"),
            output::counted(affected, "file", "files")
        ),
    })?;
    Ok(())
}
