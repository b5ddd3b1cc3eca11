//! One file for each command: flags to options, the call, and what is shown of the result.

mod backup;
mod browse;
mod cat;
mod copy;
mod demo;
mod diff;
mod drill;
mod export;
mod hooks;
mod init;
mod key;
mod restore;
mod restore_site;
mod shell;
mod site;
mod snapshots;
mod stats;
mod status;
mod verify;

use std::cell::RefCell;

use holdfast::error::Error;
use holdfast::ops::backup::Interrupt;
use holdfast::ops::browse::Damage;
use holdfast::site::SiteFile;
use holdfast::store::StoreError;
use serde::Serialize;
use serde_json::json;

use super::args::{Args, Command, Global};
use super::open::{self, Opened};
use super::output::{Output, WriteError};
use super::progress;
use super::signals::Signals;
use super::{EXIT_DAMAGED, EXIT_SKIPPED};

/// What every command is given.
pub(super) struct Context<'a> {
    /// The flags of all commands.
    pub(super) global: &'a Global,
    /// Ctrl-C.
    pub(super) signals: &'a Signals,
}

impl Context<'_> {
    /// A flag that the first Ctrl-C sets; the command watches it from now on and ends by itself.
    pub(super) fn interrupt(&self) -> Interrupt {
        let interrupt = Interrupt::default();
        let asked = interrupt.clone();
        self.signals.ask_first(move || asked.set());
        interrupt
    }

    /// Whether the report for people is left out: with `--quiet` a good end says nothing, as cron wants it; any other end does.
    pub(super) fn is_silent(&self, code: u8) -> bool {
        self.global.quiet && !self.global.json && code == 0
    }

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

/// Whether this process is to start a site again when a run dies.
pub(super) fn is_guardian(args: &Args) -> bool {
    matches!(args.command, Command::Guardian)
}

/// Runs a command and returns its exit code.
pub(super) fn run(args: Args, signals: &Signals) -> anyhow::Result<u8> {
    let context = Context {
        global: &args.global,
        signals,
    };
    let done = dispatch(&context, args.command);
    done.map_err(|failure| name_repository(&context, failure))
}

/// What a backend says names an object; which repository it is of is said before it.
fn name_repository(context: &Context<'_>, failure: anyhow::Error) -> anyhow::Error {
    let of_backend = |cause: &(dyn std::error::Error + 'static)| {
        let of_store = |error: &StoreError| matches!(error, StoreError::Backend(_));
        let error = cause.downcast_ref::<Error>();
        error.is_some_and(|error| matches!(error, Error::Store(error) if of_store(error)))
            || cause.downcast_ref().is_some_and(of_store)
    };
    if !failure.chain().any(of_backend) {
        return failure;
    }
    let site = context.site_file().ok().flatten();
    match open::place(context.global, site.as_ref()) {
        Ok(place) => failure.context(format!("repository {place}")),
        Err(_unnamed) => failure,
    }
}

fn dispatch(context: &Context<'_>, command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Init(args) => init::run(context, &args),
        Command::Site(args) => site::run(context, &args),
        Command::Backup(args) => backup::run(context, args),
        Command::Snapshots(args) => snapshots::run(context, &args),
        Command::Ls(args) => browse::ls(context, &args),
        Command::Cat(args) => cat::cat(context, &args),
        Command::Find(args) => browse::find(context, &args),
        Command::Diff(args) => diff::run(context, &args),
        Command::Restore(args) => restore::run(context, &args),
        Command::Export(args) => export::run(context, &args),
        Command::Copy(args) => copy::run(context, &args),
        Command::Verify(args) => verify::run(context, &args),
        Command::Drill(args) => drill::run(context, &args),
        Command::Stats(args) => stats::run(context, &args),
        Command::Status(args) => status::run(context, &args),
        Command::Manifest(args) => cat::manifest(context, &args),
        Command::Key(args) => key::run(context, &args),
        Command::Demo(args) => demo::run(context, &args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        // Taken care of before anything else is begun.
        Command::Guardian => Ok(0),
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

/// Tells damage that a command goes on after: as JSON on stdout, for people on stderr.
pub(super) fn tell_damage(output: &RefCell<Output>, damage: &Damage) {
    let mut output = output.borrow_mut();
    if !output.is_json() {
        return progress::warning(&damage.to_string());
    }
    let fields = json!({
        "path": damage.path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned()),
        "what": damage.error.to_string(),
    });
    // A closed stdout is met again by the next line that matters.
    drop(output.message("damage", &fields));
}

/// The summary of a command as JSON, with what every command that opens a repository says.
pub(super) fn summary(
    output: &mut Output,
    opened: &Opened,
    fields: &impl Serialize,
) -> anyhow::Result<()> {
    let mut fields = serde_json::to_value(fields)?;
    if let Some(object) = fields.as_object_mut() {
        object.insert("kdf_ms".into(), opened.repository.kdf_ms().into());
    }
    Ok(output.message("summary", &fields)?)
}

/// An error of stdout as an operation passes it on.
pub(super) fn unwritten(error: WriteError) -> Error {
    Error::Local {
        what: "cannot write to stdout".into(),
        source: error.0,
    }
}
