//! The flags of `restore`, and their help.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum, ValueHint};

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Restore a whole site, or files into a directory, or a database into a server.

A site: `holdfast restore SNAP --site FILE` puts everything to its place. FILE is the site file of the target: databases, shares, \
files and certificates go where it says that those of the same names are. The plan is shown first, and has to be confirmed, by \
--yes where nobody can be asked; --dry-run ends after it. Then the site is stopped ([quiesce]), backed up into the \
repository, and each database is restored beside the one that it replaces, which stays as it is until all of them are complete. \
Files are restored in place and only what differs; lists of files go to their absolute paths. [relocate] tells databases about \
their new place, [restore] has commands and queries for the end. Whatever fails before the first change leaves the site as it \
was, and started; later on the message says what to type, and the same command goes on where it ended.

Files: `holdfast restore SNAP[:PATH] --target DIR` puts what is below PATH into the directory, or PATH itself if it is a file; \
without PATH the whole tree comes, with its top folders, databases as their archived files. Nothing is ever written outside \
of the directory. What exists already stays and is named, unless --in-place is given: then only what differs is written, \
and nothing is removed.

A database: `holdfast restore SNAP --database NAME --into 'host=db1 dbname=NAME'`. The database is created if it is missing, \
and refused if it holds anything; --clean replaces it in one moment when the new one is complete. Roles and tablespaces that the server lacks are created before (--globals). What could \
not be restored is listed, and the exit code is 3.")]
#[command(group = clap::ArgGroup::new("where").args(["target", "into"]))]
pub(super) struct Restore {
    /// A snapshot, or a file or directory in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub(super) place: String,
    /// The directory that files are restored into; it is created if it is missing
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) target: Option<PathBuf>,
    #[command(flatten)]
    pub(super) whole: RestoreSite,
    #[command(flatten)]
    pub(super) files: RestoreFiles,
    #[command(flatten)]
    pub(super) database: RestoreDatabase,
    /// Threads, or connections to the server [default: one for each core]
    #[arg(long, visible_alias = "jobs", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) workers: Option<u32>,
}

/// Everything to its place: neither --target nor --into, but --site.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "A site")]
pub(super) struct RestoreSite {
    /// Show what would be done, and end
    #[arg(long, conflicts_with = "where")]
    pub(super) dry_run: bool,
    /// Do it without asking
    #[arg(long, short, conflicts_with = "where")]
    pub(super) yes: bool,
    /// Load only tables whose rows differ, where the definitions are equal
    #[arg(long, conflicts_with = "where")]
    pub(super) delta: bool,
    /// Remove files of shares that the snapshot does not have
    #[arg(long, conflicts_with = "where")]
    pub(super) delete: bool,
    /// Do not back the target up before
    #[arg(long, conflicts_with_all = ["where", "delta"])]
    pub(super) no_safety_backup: bool,
    /// End sessions that use the databases; without it they are named and nothing is done
    #[arg(long, conflicts_with = "where")]
    pub(super) end_sessions: bool,
    /// A database takes its place although something of the archive could not be restored
    #[arg(long, conflicts_with = "where")]
    pub(super) allow_incomplete: bool,
    /// Only this component, as QSR or databases/QSR; may be given several times
    #[arg(long, value_name = "COMPONENT", conflicts_with = "where")]
    pub(super) only: Vec<String>,
    /// All but this component; may be given several times
    #[arg(long, value_name = "COMPONENT", conflicts_with = "where")]
    pub(super) skip: Vec<String>,
    /// Do not go on where an earlier run ended, do all of it again
    #[arg(long, conflicts_with = "where")]
    pub(super) from_start: bool,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Files")]
pub(super) struct RestoreFiles {
    /// Only what matches this gitignore pattern, below what is restored; may be given several times
    #[arg(long, short, value_name = "PATTERN", conflicts_with = "into")]
    pub(super) include: Vec<String>,
    /// Leave out what matches this gitignore pattern
    #[arg(long, short, value_name = "PATTERN", conflicts_with = "into")]
    pub(super) exclude: Vec<String>,
    /// Replace files in the directory that differ from the archived ones
    #[arg(long, conflicts_with = "into")]
    pub(super) in_place: bool,
    /// Whose files they become [default: names for root, leave for others]
    #[arg(long, value_enum, value_name = "WHOSE", conflicts_with = "into")]
    pub(super) owner: Option<Owner>,
    /// Also create devices
    #[arg(long, conflicts_with = "into")]
    pub(super) devices: bool,
    /// Wait until the disk has everything, and fail if it could not be written; without it the system writes it by and by
    #[arg(long, conflicts_with = "into")]
    pub(super) sync: bool,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "A database")]
pub(super) struct RestoreDatabase {
    /// The database of the snapshot [default: the one that --into names]
    #[arg(long, short, value_name = "NAME", requires = "into")]
    pub(super) database: Option<String>,
    /// Server and name that it gets, as libpq is told of it: 'host=db2 dbname=app'
    #[arg(long, value_name = "CONNINFO")]
    pub(super) into: Option<String>,
    /// Which roles and tablespaces are brought along
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Globals::Missing, requires = "into")]
    pub(super) globals: Globals,
    /// Everything belongs to the connected role
    #[arg(long, requires = "into")]
    pub(super) no_owner: bool,
    /// No GRANT and REVOKE
    #[arg(long, requires = "into")]
    pub(super) no_privileges: bool,
    /// Everything goes to the default tablespace
    #[arg(long, requires = "into")]
    pub(super) no_tablespaces: bool,
    /// A tablespace gets another name, which must be there; may be given several times
    #[arg(long, requires = "into", value_name = "OLD=NEW", value_parser = old_and_new, conflicts_with = "no_tablespaces")]
    pub(super) tablespace_map: Vec<(String, String)>,
    /// Do everything as this role
    #[arg(long, requires = "into", value_name = "ROLE")]
    pub(super) role: Option<String>,
    /// Only what is in this schema (* and ? match); the database may hold other things
    #[arg(long, requires = "into", value_name = "SCHEMA")]
    pub(super) schema: Vec<String>,
    /// Only this table, view or sequence and what belongs to it, as [SCHEMA.]NAME (* and ? match)
    #[arg(long, requires = "into", value_name = "TABLE")]
    pub(super) table: Vec<String>,
    /// The one table of --table gets this name, beside the live one: its indexes, constraints and sequences get new names too
    #[arg(
        long = "as",
        requires = "table",
        value_name = "[SCHEMA.]NAME",
        conflicts_with = "data_only"
    )]
    pub(super) rename: Option<String>,
    /// Definitions, no rows
    #[arg(long, requires = "into", conflicts_with = "data_only")]
    pub(super) schema_only: bool,
    /// Rows, into tables that are there and empty
    #[arg(long, requires = "into")]
    pub(super) data_only: bool,
    /// Replace what is there: the database, by one that is restored beside it and takes its name when it is complete; or the chosen tables; with --data-only delete their rows
    #[arg(long, requires = "into")]
    pub(super) clean: bool,
    /// With --clean the old database is not dropped, it gets this name
    #[arg(long, requires = "clean", value_name = "NAME", conflicts_with_all = ["schema", "table", "data_only"])]
    pub(super) keep_old: Option<String>,
    /// With --clean replace the database although something of the archive could not be restored
    #[arg(long, requires = "clean", conflicts_with_all = ["schema", "table", "data_only"])]
    pub(super) replace_incomplete: bool,
    /// The database must be new: an empty one that is there is not used
    #[arg(long, requires = "into", conflicts_with_all = ["schema", "table", "data_only"])]
    pub(super) create: bool,
    /// Versions in which extensions are created
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = ExtensionVersions::Default, requires = "into")]
    pub(super) extension_versions: ExtensionVersions,
    /// No ANALYZE at the end
    #[arg(long, requires = "into")]
    pub(super) no_analyze: bool,
    /// What to do when something can't be restored
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnErrorArg::Continue, requires = "into")]
    pub(super) on_error: OnErrorArg,
    /// The same as --on-error stop
    #[arg(long, requires = "into", hide = true)]
    pub(super) stop_on_error: bool,
    /// Read all rows back and compare them with the archive
    #[arg(long, requires = "into")]
    pub(super) check: bool,
}

/// Reads `OLD=NEW`.
fn old_and_new(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok((old.to_owned(), new.to_owned()))
        }
        _ => Err("give it as OLD=NEW".into()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ExtensionVersions {
    /// The target's own
    Default,
    /// Those that they had
    Recorded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnErrorArg {
    /// Go on with the rest and report it
    Continue,
    /// Stop at the first
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Globals {
    /// Those that the server lacks
    Missing,
    /// None
    None,
    /// All; attributes and passwords of existing roles become the archived ones
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Owner {
    /// The archived names where they exist here, else the archived numbers
    Names,
    /// The archived numbers
    Numbers,
    /// Whoever restores
    Leave,
}
