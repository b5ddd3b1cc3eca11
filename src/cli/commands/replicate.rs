//! `replicate`: copy, and restore on the other side.

use std::cell::RefCell;
use std::sync::Arc;

use holdfast::error::Error;
use holdfast::ops::copy::{CopyOptions, copy};
use holdfast::site::SiteFile;
use holdfast::stats::Stats;
use holdfast::store::StoreError;
use serde_json::json;

use super::restore_site::{How, carry_out, may_go_on, options as restore_options};
use super::{Context, copy as copying};
use crate::cli::args::Replicate;
use crate::cli::open::{self, Usage};
use crate::cli::output::Output;
use crate::cli::progress::Progress;

/// Brings the second site to the state of a snapshot.
pub(super) fn run(context: &Context<'_>, args: &Replicate) -> anyhow::Result<u8> {
    let site = context.site_file()?;
    let settings = site.as_ref().and_then(|site| site.replicate.as_ref());
    let other = args.to_site.clone().or_else(|| settings?.site.clone());
    let Some(other) = other else {
        let text =
            "which site is the second one? give --to-site, or site in [replicate] of the site file";
        return Err(Usage(text.into()).into());
    };
    let other = SiteFile::load(&other)?;
    let how = How {
        dry_run: false,
        yes: args.yes,
    };
    may_go_on(how)?;
    let source = open::open(context.global, site.as_ref(), context.signals)?;
    let target = open::open_second(
        args.second.to.as_deref(),
        args.second.to_key_file.as_deref(),
        site.as_ref(),
        context.signals,
    )?;
    let interrupt = context.interrupt();
    let options = CopyOptions {
        snapshots: vec![args.snapshot.clone()],
        level: site.as_ref().and_then(|site| site.limits.compression),
        ..CopyOptions::default()
    };
    let stats = Arc::new(Stats::default());
    let output = RefCell::new(Output::new(context.global.json));
    let progress = Progress::start(context.global, &stats, copying::sample);
    let copied = copy(
        &source.repository,
        &target.repository,
        &options,
        &stats,
        &interrupt,
        &mut |event| copying::tell(context, &output, &event),
    );
    drop(progress);
    let copied = copied?;
    output.into_inner().flush()?;
    let sent = copied.copied.first().map(|one| one.snapshot);
    let there = sent.or_else(|| copied.present.first().map(|(_, there)| *there));
    let Some(there) = there else {
        let what = copied.damage.join("; ");
        return Err(Error::Store(StoreError::damaged("the source", what)).into());
    };
    let mut options = restore_options(other, &there.to_string());
    options.delta = true;
    options.delete = true;
    options.end_sessions = args.end_sessions;
    options.allow_incomplete = args.allow_incomplete;
    options.only.clone_from(&args.only);
    options.skip.clone_from(&args.skip);
    let more = json!({
        "copied": {
            "snapshot": there.to_string(),
            "present": sent.is_none(),
            "chunks_read": copied.chunks_read,
            "chunks_sent": copied.chunks_sent,
            "bytes_stored": stats.bytes_stored.get(),
            "seconds": copied.elapsed.as_secs_f64(),
        },
    });
    let code = carry_out(context, &target, &options, &interrupt, how, more)?;
    let damaged = source.damaged || !copied.damage.is_empty();
    Ok(match (code, damaged) {
        (0 | 3, true) => super::code(true, false),
        (code, _) => code,
    })
}
