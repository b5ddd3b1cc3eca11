//! One file for each command: flags to options, the call, and what is shown of the result.

mod backup;
mod demo;
mod init;
mod shell;
mod site;
mod snapshots;

use super::args::{Args, Command, Global};
use super::open::{self, Opened};
use super::signals::Signals;
use super::{EXIT_DAMAGED, EXIT_SKIPPED};
use holdfast::site::SiteFile;

/// What every command is given.
pub(super) struct Context<'a> {
    /// The flags of all commands.
    pub(super) global: &'a Global,
    /// Ctrl-C.
    pub(super) signals: &'a Signals,
}

impl Context<'_> {
    /// The site file, if one is named.
    pub(super) fn site_file(&self) -> anyhow::Result<Option<SiteFile>> {
        open::site_file(self.global)
    }

    /// The repository, for commands that need nothing else of the site file.
    pub(super) fn repository(&self) -> anyhow::Result<Opened> {
        let site = self.site_file()?;
        open::open(self.global, site.as_ref(), self.signals)
    }
}

/// Runs a command and returns its exit code.
pub(super) fn run(args: Args, signals: &Signals) -> anyhow::Result<u8> {
    let context = Context {
        global: &args.global,
        signals,
    };
    match args.command {
        Command::Init(args) => init::run(&context, &args),
        Command::Site(args) => site::run(&context, &args),
        Command::Backup(args) => backup::run(&context, args),
        Command::Snapshots(args) => snapshots::run(&context, &args),
        Command::Demo(args) => demo::run(&context, &args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
    }
}

/// The exit code of a command that went through: damage goes before what was skipped.
pub(super) fn code(damaged: bool, skipped: bool) -> u8 {
    match (damaged, skipped) {
        (true, _) => EXIT_DAMAGED,
        (false, true) => EXIT_SKIPPED,
        (false, false) => 0,
    }
}
