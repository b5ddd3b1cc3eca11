//! `site new`, `site check`, `site start` and `site extract`.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context as _;

use holdfast::ops::backup::now;
use holdfast::ops::quiesce::{SitePlace, start_site};
use holdfast::ops::site_check::{Check, SiteCheckOptions, Verdict, site_check};
use holdfast::ops::site_extract::site_text;
use holdfast::site::SiteFile;
use holdfast::site::profiles::profile;
use serde_json::json;

use super::{Context, code};
use crate::cli::args::{Site, SiteExtract, SiteNew};
use crate::cli::open::{self, Usage};
use crate::cli::output::Output;
use crate::cli::progress;

/// Prints or checks a site file.
pub(super) fn run(context: &Context<'_>, args: &Site) -> anyhow::Result<u8> {
    match args {
        Site::New(args) => new(context, args),
        Site::Check => check(context),
        Site::Start => start(context),
        Site::Extract(args) => extract(context, args),
    }
}

fn new(context: &Context<'_>, args: &SiteNew) -> anyhow::Result<u8> {
    let text = profile(&args.profile).unwrap_or_default();
    let mut output = Output::new(context.global.json);
    if output.is_json() {
        let summary = json!({"profile": args.profile, "site_toml": text});
        output.message("summary", &summary)?;
    } else {
        output.bytes(text.as_bytes())?;
    }
    output.flush()?;
    Ok(0)
}

fn start(context: &Context<'_>) -> anyhow::Result<u8> {
    let Some(site) = context.site_file()? else {
        return Err(Usage("there is no site to start: give --site FILE".into()).into());
    };
    let place = open::state_folder().map(|folder| SitePlace::new(&folder, &site.name));
    let Some(place) = place else {
        return Err(
            Usage("nothing is known of this host: set XDG_STATE_HOME or HOME".into()).into(),
        );
    };
    let lock = place.lock()?;
    let mut output = Output::new(context.global.json);
    let mut notes = Vec::new();
    let done = start_site(&lock, site.quiesce.as_ref(), &mut |note| {
        notes.push(note.to_owned());
        if !context.global.json {
            progress::note(note);
        }
    })?;
    let good = done.problems.is_empty();
    if output.is_json() {
        let summary = json!({
            "site": site.name,
            "started": done.started && good,
            "notes": notes,
            "problems": done.problems,
        });
        output.message("summary", &summary)?;
    } else {
        for problem in &done.problems {
            progress::warning(problem);
        }
        output.line(match (good, done.started) {
            (true, true) => format!("site {} was started", site.name),
            (true, false) => format!("site {} has no start commands", site.name),
            (false, _) => format!("site {} IS NOT UP", site.name),
        })?;
    }
    output.flush()?;
    Ok(u8::from(!good))
}

/// The site file of a snapshot, to a new file or to stdout.
fn extract(context: &Context<'_>, args: &SiteExtract) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let found = site_text(&opened.repository, &args.snapshot)?;
    let mut output = Output::new(context.global.json);
    match &args.output {
        Some(path) => {
            let mut file = std::fs::File::create_new(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
            file.write_all(found.text.as_bytes())
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        None if output.is_json() => {}
        None => output.bytes(found.text.as_bytes())?,
    }
    if output.is_json() {
        let fields = json!({
            "snapshot": found.snapshot,
            "site_toml": found.text,
            "fill_in_lines": found.redacted_lines,
        });
        output.message("summary", &fields)?;
    }
    output.flush()?;
    if !found.redacted_lines.is_empty() && !context.global.quiet {
        let lines: Vec<String> = found
            .redacted_lines
            .iter()
            .map(ToString::to_string)
            .collect();
        progress::warning(&format!(
            "passwords are never stored: fill in again what is *** in line {}",
            lines.join(", ")
        ));
    }
    Ok(code(opened.damaged, false))
}

fn check(context: &Context<'_>) -> anyhow::Result<u8> {
    let Some(site) = context.site_file()? else {
        return Err(Usage("there is no site file to check: give --site FILE".into()).into());
    };
    let mut output = Output::new(context.global.json);
    let mut worst = Verdict::Good;
    let mut failed = None;
    let mut checks = 0u64;
    let (looked_at, opened) = repository(context, &site);
    let damaged = opened.as_ref().is_some_and(|opened| opened.damaged);
    let kdf_ms = opened.as_ref().map_or(0, |o| o.repository.kdf_ms());
    let mut each = |check: Check| {
        worst = worst.max(check.verdict);
        checks += 1;
        if failed.is_none() {
            failed = show(&mut output, &check).err();
        }
    };
    each(looked_at);
    let options = SiteCheckOptions {
        site: &site,
        environment: Arc::new(|name| std::env::var_os(name)),
        repository: opened.as_ref().map(|opened| &*opened.repository),
        now: now().seconds,
    };
    site_check(&options, &mut each);
    if let Some(error) = failed {
        return Err(error);
    }
    if output.is_json() {
        let summary =
            json!({"site": site.name, "checks": checks, "verdict": worst, "kdf_ms": kdf_ms});
        output.message("summary", &summary)?;
    } else {
        output.line("")?;
        output.line(match worst {
            Verdict::Good => "a backup would take everything",
            Verdict::Note => "a backup would take everything; see the notes",
            Verdict::Skips => "a backup would LEAVE OUT what is marked",
            Verdict::Fails => "a backup would FAIL in what is marked",
        })?;
    }
    output.flush()?;
    Ok(match worst {
        Verdict::Fails => 1,
        Verdict::Skips => code(damaged, true),
        Verdict::Good | Verdict::Note => code(damaged, false),
    })
}

/// Opens the repository, if one is named.
fn repository(context: &Context<'_>, site: &SiteFile) -> (Check, Option<open::Opened>) {
    let Ok(place) = open::place(context.global, Some(site)) else {
        let mut check = Check::new("repository", "");
        check.add(Verdict::Note, "no repository is named, here or by --repo");
        return (check, None);
    };
    let mut check = Check::new("repository", &place);
    match open::open(context.global, Some(site), context.signals) {
        Ok(opened) => {
            let key = opened.repository.key();
            let id = opened.repository.format().id;
            check.add(
                Verdict::Good,
                format!("repository {id} opens with the {}", key.kind.name()),
            );
            for warning in opened.repository.warnings() {
                check.add(Verdict::Note, warning.to_string());
            }
            (check, Some(opened))
        }
        Err(error) => {
            check.add(Verdict::Fails, format!("{error:#}"));
            (check, None)
        }
    }
}

fn show(output: &mut Output, check: &Check) -> anyhow::Result<()> {
    if output.is_json() {
        output.message("check", check)?;
        return Ok(output.flush()?);
    }
    output.line(format!(
        "{} {} {}",
        mark(check.verdict),
        check.kind,
        check.name
    ))?;
    for finding in &check.findings {
        for line in finding.text.lines() {
            output.line(format!("    {} {line}", mark(finding.verdict)))?;
        }
    }
    Ok(output.flush()?)
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "ok   ",
        Verdict::Note => "note ",
        Verdict::Skips => "MISS ",
        Verdict::Fails => "FAIL ",
    }
}
