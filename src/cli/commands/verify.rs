//! `verify`.

use std::sync::{Arc, Mutex, PoisonError};

use holdfast::ops::verify::{
    Depth, Finding, FindingKind, VerifyOptions, VerifySummary, verify, without_key,
};
use holdfast::stats::Stats;
use serde_json::json;

use super::{Context, code};
use crate::cli::args::Verify;
use crate::cli::open;
use crate::cli::output::{self, Output};
use crate::cli::progress::{self, Progress, Sample};

/// Looks for damage.
pub(super) fn run(context: &Context<'_>, args: &Verify) -> anyhow::Result<u8> {
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
        };
        let interrupt = context.interrupt();
        let _progress = Progress::start(context.global, &stats, sample);
        verify(&opened.repository, &options, &stats, &interrupt, &tell)
    };
    let found = found?;
    let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    if output.is_json() {
        let mut fields = serde_json::to_value(&found)?;
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("kdf_ms".into(), json!(kdf_ms));
        }
        output.message("summary", &fields)?;
    } else {
        show(&mut output, &found, args)?;
    }
    output.flush()?;
    Ok(code(damaged || found.exit_code() == 4, false))
}

fn sample(stats: &Stats) -> Sample {
    Sample {
        done: stats.bytes_read.get(),
        expected: stats.bytes_expected.get(),
        details: Vec::new(),
    }
}

/// Damage goes to stdout: it is what the command is for.
fn tell(output: &Mutex<Output>, finding: &Finding) {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    let told = if output.is_json() {
        let word = match finding.kind {
            FindingKind::Damaged => "damaged",
            FindingKind::Affected => "affected",
            FindingKind::Note => "note",
        };
        let fields = json!({"object": finding.object, "path": finding.path, "what": finding.what});
        output.message(word, &fields)
    } else {
        match finding.kind {
            FindingKind::Note => {
                progress::note(&finding.to_string());
                Ok(())
            }
            FindingKind::Damaged => progress::suspended(|| {
                output.line(format!("DAMAGED {finding}"))?;
                output.flush()
            }),
            FindingKind::Affected => progress::suspended(|| {
                output.line(format!("LOST    {finding}"))?;
                output.flush()
            }),
        }
    };
    if let Err(error) = told {
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
