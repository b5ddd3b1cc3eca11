//! `restore`.

use std::sync::{Arc, Mutex, PoisonError};

use holdfast::ops::restore::{RestoreOptions, RestoreSummary, Trouble, TroubleKind, restore};
use holdfast::stats::Stats;
use holdfast::target::files::Ownership;
use serde_json::json;

use super::{Context, code, summary};
use crate::cli::args::{Owner, Restore};
use crate::cli::output::{self, Output};
use crate::cli::progress::{self, Progress, Sample};

/// Restores files.
pub(super) fn run(context: &Context<'_>, args: &Restore) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let owner = args
        .owner
        .unwrap_or(match rustix::process::geteuid().is_root() {
            true => Owner::Names,
            false => Owner::Leave,
        });
    let options = RestoreOptions {
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        ownership: match owner {
            Owner::Names => Ownership::ByName,
            Owner::Numbers => Ownership::ByNumber,
            Owner::Leave => Ownership::Leave,
        },
        special: args.devices,
        in_place: args.in_place,
        threads: args.workers.and_then(|number| usize::try_from(number).ok()),
    };
    let stats = Arc::new(Stats::default());
    let interrupt = context.interrupt();
    let output = Mutex::new(Output::new(context.global.json));
    let progress = Progress::start(context.global, &stats, sample);
    let restored = restore(
        &opened.repository,
        &args.place,
        &args.target,
        &options,
        &stats,
        &interrupt,
        &|trouble| tell(&output, trouble),
    );
    drop(progress);
    let restored = restored?;
    let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    match output.is_json() {
        true => summary(&mut output, &opened, &restored)?,
        false => show(&mut output, &restored, args)?,
    }
    output.flush()?;
    let damaged = opened.damaged || restored.exit_code() == 4;
    Ok(code(damaged, restored.exit_code() == 3))
}

fn sample(stats: &Stats) -> Sample {
    Sample {
        done: stats.bytes_read.get(),
        expected: stats.bytes_expected.get(),
        details: vec![output::counted(stats.files_new.get(), "file", "files")],
    }
}

fn tell(output: &Mutex<Output>, trouble: &Trouble) {
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

fn show(output: &mut Output, restored: &RestoreSummary, args: &Restore) -> anyhow::Result<()> {
    let elapsed = std::time::Duration::try_from_secs_f64(restored.seconds).unwrap_or_default();
    output.line(format!(
        "restored {} into {}, {} at {}, {}",
        output::counted(restored.files + restored.links, "file", "files"),
        args.target.display(),
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
