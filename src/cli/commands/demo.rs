//! `demo`.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use holdfast::ops::demo::{DemoCleanup, DemoEvent, DemoOptions, DemoSummary, demo};

use super::Context;
use crate::cli::args::Demo;
use crate::cli::open;
use crate::cli::output::{self, Output};

/// How wide the first column is.
const LABEL_WIDTH: usize = 16;

/// Plays the demo.
pub(super) fn run(context: &Context<'_>, args: &Demo) -> anyhow::Result<u8> {
    let options = DemoOptions {
        temp: std::env::temp_dir(),
        files: args.files,
        keep: args.keep,
        path: std::env::var_os("PATH"),
        environment: Arc::new(|name| std::env::var_os(name).filter(|_| !name.starts_with("PG"))),
        host: open::host(),
        user: open::user(),
    };
    let interrupt = context.interrupt();
    let cleanup = DemoCleanup::default();
    let last = cleanup.clone();
    context.signals.at_last(move || last.now());
    let mut screen = Screen {
        output: Output::new(context.global.json),
        steps: std::io::stderr().is_terminal() && !context.global.quiet,
        backups: 0,
    };
    let mut failed = None;
    let summary = demo(&options, &interrupt, &cleanup, &mut |event| {
        if failed.is_none() {
            failed = screen.show(event).err();
        }
    });
    screen.step("");
    let summary = summary?;
    match failed {
        Some(error) => return Err(error),
        None => screen.end(&summary)?,
    }
    Ok(u8::from(!summary.differences.is_empty()))
}

/// What is shown, line by line; on a terminal also the step that is being done, in a line that goes when it is over.
struct Screen {
    output: Output,
    steps: bool,
    backups: u32,
}

impl Screen {
    fn step(&self, step: &str) {
        if self.steps {
            let dots = if step.is_empty() { "" } else { " …" };
            // A closed stderr must not end the demo.
            drop(write!(std::io::stderr(), "\r\x1b[K{step}{dots}"));
        }
    }

    fn show(&mut self, event: &DemoEvent) -> anyhow::Result<()> {
        if self.output.is_json() {
            self.output.message("demo", event)?;
            return Ok(self.output.flush()?);
        }
        self.step("");
        match event {
            DemoEvent::Begins { step } => self.step(step),
            DemoEvent::SiteMade(site) => {
                self.output.line(format!(
                    "A sample site in {} ({})",
                    site.folder.display(),
                    output::duration(site.seconds)
                ))?;
                let version = site.server.split(' ').next().unwrap_or_default();
                self.row(
                    "databases",
                    &format!(
                        "{} on a private PostgreSQL {version}: {} tables, {} rows, {}",
                        site.databases,
                        site.tables,
                        output::count(site.rows),
                        output::bytes(site.database_bytes)
                    ),
                )?;
                self.row(
                    "share",
                    &format!(
                        "{} files, {}",
                        output::count(site.files),
                        output::bytes(site.file_bytes)
                    ),
                )?;
                self.output.line("")?;
                self.output.line(format!(
                    "{:LABEL_WIDTH$}{:>10}{:>10}{:>10}{:>9}",
                    "", "read", "new", "stored", "time"
                ))?;
            }
            DemoEvent::DayPassed(day) => self.row(
                "a day passes",
                &format!(
                    "{} files changed, {} new, {} removed, {} renamed; 2 % of the rows",
                    day.changed, day.added, day.removed, day.renamed
                ),
            )?,
            DemoEvent::BackedUp(backup) => {
                self.backups += 1;
                let label = match self.backups {
                    1 => "first backup",
                    _ => "second backup",
                };
                self.output.line(format!(
                    "{label:<LABEL_WIDTH$}{:>10}{:>10}{:>10}{:>9}",
                    output::bytes(backup.bytes_read),
                    output::bytes(backup.bytes_new),
                    output::bytes(backup.bytes_stored),
                    output::duration(backup.seconds)
                ))?;
            }
            DemoEvent::Verified(found) => {
                self.output.line("")?;
                let elapsed = Duration::try_from_secs_f64(found.seconds).unwrap_or_default();
                self.row(
                    "verified",
                    &format!(
                        "{} chunks in {} packs, {} files, {} rows: {} ({})",
                        output::count(found.chunks),
                        output::count(found.packs),
                        output::count(found.files),
                        output::count(found.rows),
                        match found.damaged + found.affected {
                            0 => "no damage",
                            _ => "DAMAGE",
                        },
                        output::duration(elapsed)
                    ),
                )?;
            }
            DemoEvent::FilesCompared(files) => self.row(
                "restored share",
                &format!(
                    "{} entries, {}: {} ({})",
                    output::count(files.entries),
                    output::bytes(files.bytes),
                    verdict(
                        &files.differences,
                        "bytes, owners, times, links as they were"
                    ),
                    output::duration(files.seconds)
                ),
            )?,
            DemoEvent::DatabaseCompared(database) => self.row(
                &database.name,
                &format!(
                    "{} tables, {} rows, {} other objects: {} ({})",
                    output::count(database.tables),
                    output::count(database.rows),
                    output::count(database.others),
                    verdict(&database.differences, "all as they were"),
                    output::duration(database.seconds)
                ),
            )?,
        }
        Ok(self.output.flush()?)
    }

    fn row(&mut self, label: &str, text: &str) -> anyhow::Result<()> {
        Ok(self.output.line(format!("{label:<LABEL_WIDTH$}{text}"))?)
    }

    fn end(&mut self, summary: &DemoSummary) -> anyhow::Result<()> {
        if self.output.is_json() {
            self.output.message("summary", summary)?;
            return Ok(self.output.flush()?);
        }
        for difference in &summary.differences {
            self.row("DIFFERS", difference)?;
        }
        self.output.line("")?;
        let elapsed = output::duration(summary.seconds);
        self.output.line(match summary.differences.is_empty() {
            true => format!("Everything came back as it was. All of it took {elapsed}."),
            false => format!("NOT everything came back as it was. All of it took {elapsed}."),
        })?;
        self.output.line(match &summary.kept {
            Some(folder) => format!("Everything is kept in {}", folder.display()),
            None => "Nothing is left behind; --keep leaves it all to look at.".to_owned(),
        })?;
        Ok(self.output.flush()?)
    }
}

fn verdict<'a>(differences: &[String], good: &'a str) -> &'a str {
    match differences.is_empty() {
        true => good,
        false => "DIFFERENT",
    }
}
