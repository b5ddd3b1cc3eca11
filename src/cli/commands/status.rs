//! `status`.

use anyhow::Context as _;
use holdfast::ops::backup::now;
use holdfast::ops::status::{
    ComponentStatus, Level, Remark, Status as Found, StatusOptions, age_text, monitor_line,
    prometheus, status, write_atomically,
};
use serde_json::json;

use super::{Context, code, summary};
use crate::cli::args::Status;
use crate::cli::open::{self, Opened};
use crate::cli::output::{self, Output, Table};
use crate::cli::progress;

/// What a monitor is told when the repository can't be looked at.
const MONITOR_CRITICAL: u8 = 2;

/// Looks, and says what it found to whoever asks.
pub(super) fn run(context: &Context<'_>, args: &Status) -> anyhow::Result<u8> {
    let looked = look(context, args);
    if let Some(file) = &args.prometheus {
        let found = looked.as_ref().ok().map(|(_, found)| found);
        write_atomically(file, &prometheus(found, now().seconds))
            .with_context(|| format!("cannot write the metrics to {}", file.display()))?;
    }
    let mut output = Output::new(context.global.json);
    if args.monitor {
        let (line, code) = match &looked {
            Ok((_, found)) => (
                monitor_line(found),
                match found.level {
                    Level::Ok => 0,
                    Level::Warning => 1,
                    Level::Critical => MONITOR_CRITICAL,
                },
            ),
            Err(error) => {
                let text = format!("{error:#}").replace(['|', '\n'], " ");
                (format!("HOLDFAST CRITICAL - {text}"), MONITOR_CRITICAL)
            }
        };
        output.line(line)?;
        output.flush()?;
        return Ok(code);
    }
    let (opened, found) = looked?;
    let code = code(opened.damaged || found.damaged > 0, found.level > Level::Ok);
    if output.is_json() {
        show_json(&mut output, &opened, &found)?;
    } else if !context.is_silent(code) {
        show(&mut output, &found)?;
    }
    output.flush()?;
    Ok(code)
}

fn look(context: &Context<'_>, args: &Status) -> anyhow::Result<(Opened, Found)> {
    let site = context.site_file()?;
    let opened = open::open(context.global, site.as_ref(), context.signals)?;
    let options = StatusOptions {
        site: site.as_ref(),
        only: args.of.clone(),
        now: now().seconds,
    };
    let found = status(&opened.repository, &options, &mut |error| {
        progress::warning(&error.to_string());
    })?;
    Ok((opened, found))
}

fn show_json(output: &mut Output, opened: &Opened, found: &Found) -> anyhow::Result<()> {
    for component in &found.components {
        output.message("component", component)?;
    }
    for certificate in &found.certificates {
        output.message("certificate", certificate)?;
    }
    for exercise in &found.exercises {
        output.message("exercise", exercise)?;
    }
    for remark in &found.remarks {
        output.message("remark", remark)?;
    }
    let fields = json!({
        "level": found.level,
        "repository": found.repository,
        "components": found.components.len(),
        "damaged": found.damaged,
    });
    summary(output, opened, &fields)
}

fn mark(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warning => "WARNING",
        Level::Critical => "CRITICAL",
    }
}

fn show(output: &mut Output, found: &Found) -> anyhow::Result<()> {
    let mut table = Table::new(&["", "site", "component", "last good", "age", ">size"]);
    for component in &found.components {
        table.row(vec![
            mark(component.level).into(),
            component.site.clone(),
            place(component),
            component
                .last_good
                .clone()
                .unwrap_or_else(|| "never".into()),
            component.age.map(age_text).unwrap_or_default(),
            output::bytes(component.bytes),
        ]);
    }
    for line in table.lines() {
        output.line(line)?;
    }
    for component in &found.components {
        for remark in &component.remarks {
            say(output, remark, &format!("{}: ", place(component)))?;
        }
    }
    for certificate in &found.certificates {
        let end = output::local_time(holdfast::format::node::Timestamp {
            seconds: certificate.not_after,
            nanos: 0,
        });
        let word = match certificate.level {
            Level::Critical => "ended",
            _ => "ends",
        };
        output.line(format!(
            "{}: certificate {} ({}) {word} {end}",
            mark(certificate.level),
            certificate.subject,
            certificate.path
        ))?;
    }
    for remark in &found.remarks {
        say(output, remark, "")?;
    }
    let now = now().seconds;
    for exercise in &found.exercises {
        let scope = match &exercise.snapshot {
            Some(id) => format!("snapshot {id}"),
            None => "everything".into(),
        };
        let result = match exercise.damaged {
            0 => "good".to_owned(),
            number => output::counted(number, "problem", "problems"),
        };
        output.line(format!(
            "{} ({}) of {scope}, {} ago on {}: {result}",
            exercise.kind,
            exercise.depth,
            age_text(now.saturating_sub(exercise.finished)),
            exercise.host
        ))?;
    }
    let repository = &found.repository;
    let free = repository
        .free_bytes
        .map(|free| format!(", {} free", output::bytes(free)))
        .unwrap_or_default();
    output.line(format!(
        "repository: {} in {}, {} more in 7 days, {} in 30 days{free}",
        output::bytes(repository.bytes),
        output::counted(repository.snapshots, "snapshot", "snapshots"),
        output::bytes(repository.grown_7_days),
        output::bytes(repository.grown_30_days),
    ))?;
    output.line(match found.level {
        Level::Ok => "all is well",
        Level::Warning => "somebody should look at the warnings",
        Level::Critical => "somebody must look at this now",
    })?;
    Ok(())
}

fn say(output: &mut Output, remark: &Remark, place: &str) -> anyhow::Result<()> {
    output.line(format!("{}: {place}{}", mark(remark.level), remark.text))?;
    Ok(())
}

fn place(component: &ComponentStatus) -> String {
    format!(
        "{}/{}",
        component.kind,
        component.name.trim_start_matches('/')
    )
}
