//! The flags as they are typed, and their help.
//!
//! Invariants: no type of this module goes into the library (nothing else names clap).

use std::ffi::OsString;
use std::path::PathBuf;

use holdfast::format::node::Timestamp;
use holdfast::source::postgres::rights::Loss;

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum, ValueHint};

pub(super) use super::restore_args::{ExtensionVersions, Globals, OnErrorArg, Owner, Restore};

const LONG_ABOUT: &str = "\
holdfast backs up a whole site - several PostgreSQL databases, file shares, configuration files and \
certificates - as one snapshot into a repository that is deduplicated, compressed and encrypted, \
and gives all of it, a part of it or one file back.

A first backup:

  export HOLDFAST_REPO=/srv/backup/site HOLDFAST_KEY_FILE=/etc/holdfast/key
  holdfast init
  holdfast backup /etc /srv/data --database 'host=db1 dbname=app'
  holdfast snapshots
  holdfast restore latest:paths/etc --target /tmp/etc

`holdfast demo` shows all of it on a sample site and leaves nothing behind.";

const AFTER_LONG_HELP: &str = "\
SNAP is an id or the beginning of one, a name given with --name, `latest`, `latest~2` (the third \
last), or a date such as 2026-11-20 (the newest snapshot up to that day).

Environment:
  HOLDFAST_REPO                the repository, as --repo
  HOLDFAST_KEY_FILE            a key file that opens it; the unattended way
  HOLDFAST_PASSPHRASE_FILE     a file whose first line is the passphrase
  HOLDFAST_PASSPHRASE_COMMAND  a shell command that prints the passphrase
  HOLDFAST_PASSPHRASE          the passphrase itself
  HOLDFAST_TO_KEY_FILE         the key of a second repository (copy, replicate); HOLDFAST_TO_PASSPHRASE… likewise
  HOLDFAST_LOG                 what is logged to stderr, for example holdfast=debug
  HOLDFAST_KERNEL              the form of the chunker instead of the fastest: scalar, avx2, neon (all cut alike; for tests)

Exit codes:
    0  good
    1  failed
    2  usage
    3  done, but items were skipped or a component failed
    4  damage was found in the repository
    5  the snapshot was forgotten while it was read
   10  no repository there
   11  another holdfast works on this site on this host
   12  wrong key or passphrase
  130  interrupted";

/// Back up whole sites: PostgreSQL databases, shares, configuration and certificates in one snapshot.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, long_about = LONG_ABOUT, after_long_help = AFTER_LONG_HELP, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command understands.
#[derive(Debug, ClapArgs)]
pub(crate) struct Global {
    /// The repository: a path or file:///path [env: HOLDFAST_REPO; else the site file]
    #[arg(long, short = 'r', global = true, value_name = "URL", value_hint = ValueHint::DirPath, help_heading = "Global options")]
    pub(super) repo: Option<String>,
    /// The site file: what is backed up, and the repository and its key
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Global options")]
    pub(super) site: Option<PathBuf>,
    /// The key file that opens the repository [env: HOLDFAST_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Global options")]
    pub(super) key_file: Option<PathBuf>,
    /// Print JSON, one object a line; the last one is the summary
    #[arg(long, global = true, help_heading = "Global options")]
    pub(super) json: bool,
    /// No progress and no warnings about single items; no report either where all is good
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(super) quiet: bool,
    /// Log what happens to stderr; -vv and -vvv say more
    #[arg(long, short, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub(super) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a repository in an empty place
    Init(Init),
    /// Write a site file, or check one
    #[command(subcommand)]
    Site(Site),
    /// Back up a site, paths or databases as one snapshot
    Backup(Backup),
    /// List the snapshots
    Snapshots(Snapshots),
    /// List what a snapshot holds
    Ls(Ls),
    /// Write a file or a table of a snapshot to stdout
    Cat(Cat),
    /// Find files in one, several or all snapshots
    Find(Find),
    /// Show what changed between two snapshots
    Diff(Diff),
    /// Show what a repository or a snapshot takes
    Stats(Stats),
    /// Print digests and paths of a snapshot's files, as b3sum --check reads them
    Manifest(Manifest),
    /// Restore a whole site, files, or a database into a server
    Restore(Restore),
    /// Write a snapshot or a part of it as a tar archive, or as a dated folder
    Export(Export),
    /// Copy snapshots into another repository, only what is missing there
    Copy(Copy),
    /// Bring a second site to the state of a snapshot: copy, and restore there what differs
    Replicate(Replicate),
    /// Look for damage
    Verify(Verify),
    /// Restore into scratch space and a scratch server, compare, and remove it all
    Drill(Drill),
    /// Say whether everything is backed up and good; for people and monitors
    Status(Status),
    /// Show what opens the repository
    #[command(subcommand)]
    Key(Key),
    /// Show what holdfast does on a sample site, and leave nothing behind
    Demo(Demo),
    /// Print a script that completes commands and flags in a shell
    Completions(Completions),
    /// Print the manual page, or write the pages of all commands
    Man(Man),
    /// Start a site again when the run that stopped it dies; for holdfast itself
    #[command(hide = true)]
    Guardian,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Create a repository in an empty place.

It is encrypted, and opened by a key file or by a passphrase. With --key-file (or HOLDFAST_KEY_FILE, or key-file in the \
site file) a key file that does not exist is created; otherwise a passphrase is taken from the environment or asked for.

The recovery key that is printed opens the repository too, when the key file or the passphrase is lost. It is shown once: \
keep it on paper, away from the repository.")]
pub(super) struct Init {
    /// How the repository is protected
    #[arg(long, value_enum, default_value_t = Encryption::Aes256Gcm, value_name = "HOW")]
    pub(super) encryption: Encryption,
    /// Name equal content as that repository does, so that copies between the two need not decrypt to know what is missing
    #[arg(long, value_name = "URL", value_hint = ValueHint::DirPath)]
    pub(super) dedup_from: Option<String>,
    /// The key file of that repository [env: HOLDFAST_FROM_KEY_FILE; HOLDFAST_FROM_PASSPHRASE… as for the repository]
    #[arg(long, value_name = "FILE", requires = "dedup_from", value_hint = ValueHint::FilePath)]
    pub(super) dedup_from_key_file: Option<PathBuf>,
    /// Average size of the pieces that files are cut into: smaller finds more duplicates, larger needs less memory [default: 16K]
    #[arg(long, value_name = "SIZE", value_parser = super::output::parse_size, conflicts_with = "dedup_from")]
    pub(super) chunk_size: Option<u64>,
    /// The same for rows of tables and large objects [default: 16K]
    #[arg(long, value_name = "SIZE", value_parser = super::output::parse_size, conflicts_with = "dedup_from")]
    pub(super) table_chunk_size: Option<u64>,
    /// What the key is called in `key list`
    #[arg(long, value_name = "TEXT")]
    pub(super) label: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Encryption {
    /// AES-256-GCM
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    /// None: everybody who reaches the repository can read it
    None,
}

#[derive(Debug, Subcommand)]
pub(super) enum Site {
    /// Print a commented site file to start from
    New(SiteNew),
    /// Reach every source of a site file (--site) and say what would be taken or missed
    #[command(long_about = "\
Reach every source of a site file (--site) and say what would be taken or missed.

Every database is connected to: version, rights, what the role can't read, whether there is a pg_dump that fits. Every \
share, list and certificate is looked for, and the repository is opened. Nothing is read or changed.

Exit code 1 if something would fail, 3 if something would be left out.")]
    Check,
    /// Start the services of a site (--site), as after a backup that was killed
    #[command(long_about = "\
Start the services of a site (--site).

If a backup was killed while the site was stopped, its start commands are run, and file-system snapshots that it left are \
removed; else the start commands of the site file are run. They must bear that a service runs already, as `systemctl start` does.

A backup that is under way has the site in its hands: exit code 11. A service that can't be started is named: exit code 1.

In a systemd unit this belongs into ExecStopPost=, for the case that the backup was killed ($EXIT_CODE is not \"exited\"): it also \
starts a site that an unfinished restore has left stopped.")]
    Start,
    /// Get the site file back out of a snapshot, for a bare machine
    #[command(long_about = "\
Get the site file back out of a snapshot, for a bare machine.

It is as it was typed, but for passwords: they were taken out before it was stored, and *** stands where they were. What has to \
be filled in again is named on stderr.")]
    Extract(SiteExtract),
}

#[derive(Debug, ClapArgs)]
pub(super) struct SiteExtract {
    /// The snapshot
    #[arg(value_name = "SNAP")]
    pub(super) snapshot: String,
    /// The file that is written; one that is there is not replaced [default: stdout]
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct SiteNew {
    /// The kind of site
    #[arg(long, default_value = "plain", value_parser = profiles())]
    pub(super) profile: String,
}

fn profiles() -> clap::builder::PossibleValuesParser {
    let value = |profile: &holdfast::site::profiles::Profile| {
        clap::builder::PossibleValue::new(profile.name).help(profile.summary)
    };
    let values: Vec<_> = holdfast::site::profiles::PROFILES
        .iter()
        .map(value)
        .collect();
    values.into()
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Back up a site, paths or databases as one snapshot.

What is taken is named by the site file (--site; `holdfast site new` prints one), by paths and by --database, or all of \
them together. All databases are opened before the files are read, each as one state; files that did not change since the \
last snapshot are recognised and not read again.

What can't be read is counted, named and left out, and the exit code is 3. A component that fails, such as a database that \
can't be reached, leaves the others whole. Ctrl-C ends a run cleanly; the next one reuses what was stored.

With [quiesce] in the site file the site is stopped, read and started again. A stop command that fails ends the run with exit \
code 1, and the site is started. It is started also after an error, Ctrl-C, a kill or when window-max is over; databases stream \
on from their open snapshots. A start command that fails is tried again; at last it is named and the exit code is 3, the \
snapshot is kept. Only one run works on a site on one host: exit code 11.")]
pub(super) struct Backup {
    /// Files and directories
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(super) paths: Vec<PathBuf>,
    /// A database, as libpq is told of it: 'host=db1 dbname=app user=backup' or postgresql://…; passwords belong into ~/.pgpass
    #[arg(long, short, value_name = "CONNINFO")]
    pub(super) database: Vec<String>,
    /// What may be missing of --database because its role can't see it, without making the backup incomplete; may be given several times
    #[arg(long, value_name = "WHAT", requires = "database", value_parser = accepted_loss)]
    pub(super) accept: Vec<Loss>,
    /// A name for the snapshot; it takes the name over from an older one, which stays
    #[arg(long, value_name = "NAME", value_parser = snapshot_name)]
    pub(super) name: Option<String>,
    /// A tag of the snapshot; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub(super) tag: Vec<(String, String)>,
    /// Leave out what matches this gitignore pattern; for the paths of the command line
    #[arg(long, short, value_name = "PATTERN")]
    pub(super) exclude: Vec<String>,
    /// Leave out what matches the patterns in this file, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) exclude_file: Vec<PathBuf>,
    /// Do not enter other file systems that are mounted below the paths of the command line
    #[arg(long, short = 'x')]
    pub(super) one_file_system: bool,
    /// Leave out directories that are tagged as caches (CACHEDIR.TAG)
    #[arg(long)]
    pub(super) exclude_caches: bool,
    /// Read every file, also those that look unchanged
    #[arg(long)]
    pub(super) force_read: bool,
    /// Threads that read files of slow shares [default: as many as the share needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) readers: Option<u32>,
    /// Threads that compute [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) workers: Option<u32>,
    /// Connections to one cluster that copy rows at a time [default: 4, for a server on this host no more than it has cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) connections: Option<u32>,
    /// All connections to one cluster that may be open at a time, also those that hold snapshots [default: half of what it has free]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub(super) connections_max: Option<u32>,
    /// Bytes a second that are written to the repository, at most: 10M [default: rate in the site file's [limits], else no limit]
    #[arg(long, value_name = "SIZE", value_parser = super::output::parse_size)]
    pub(super) limit_rate: Option<u64>,
    /// How hard to compress: fast, balanced, max, or a level from 1 to 19 [default: compression in the site file's [limits], else fast]
    #[arg(long, value_name = "HOW", value_parser = holdfast::site::compression::level)]
    pub(super) compression: Option<i32>,
    /// Leave the site running although the site file says how to stop it ([quiesce]); the record says of each part that it was not at rest
    #[arg(long)]
    pub(super) no_stop: bool,
    /// Give way to others in processor and disk time [default: low-priority in the site file's [limits]]
    #[arg(long)]
    pub(super) low_priority: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Snapshots {
    /// Only snapshots of this site (for paths of the command line: of this host)
    #[arg(long, value_name = "NAME")]
    pub(super) of: Option<String>,
    /// Only snapshots with this tag
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub(super) tag: Vec<(String, String)>,
    /// Say what each component came to
    #[arg(long, short)]
    pub(super) long: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Ls {
    /// A snapshot, or a file or directory in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub(super) place: OsString,
    /// Also list what is in directories below
    #[arg(long, short = 'R')]
    pub(super) recursive: bool,
    /// Permissions, owner, size and time of each
    #[arg(long, short)]
    pub(super) long: bool,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Write a file of a snapshot to stdout. If PATH is the folder of a table, all its parts are written, one after the other, as \
COPY gave them. Every byte was checked; at the first damage it ends with exit code 4.")]
pub(super) struct Cat {
    /// A file of a snapshot, or the folder of a table
    #[arg(value_name = "SNAP:PATH")]
    pub(super) place: OsString,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Find files in one, several or all snapshots.

What is printed, ID:PATH, can be given to cat, ls and restore.")]
pub(super) struct Find {
    /// A glob for the name, or for the whole path if it holds a /; any of several
    #[arg(value_name = "GLOB")]
    pub(super) patterns: Vec<String>,
    /// Only in this snapshot; may be given several times [default: in all of them]
    #[arg(long, short, value_name = "SNAP")]
    pub(super) snapshot: Vec<String>,
    /// A glob for the name
    #[arg(long, value_name = "GLOB")]
    pub(super) name: Vec<String>,
    /// A glob for the whole path; * also stands for /
    #[arg(long, value_name = "GLOB")]
    pub(super) path: Vec<String>,
    /// Letter case does not matter
    #[arg(long, short)]
    pub(super) ignore_case: bool,
    /// Modified after this time: 2026-11-20, '2026-11-20 12:30' (local) or 2026-11-20T12:30:00Z
    #[arg(long, value_name = "TIME", value_parser = super::output::parse_time)]
    pub(super) newer: Option<Timestamp>,
    /// Modified before this time
    #[arg(long, value_name = "TIME", value_parser = super::output::parse_time)]
    pub(super) older: Option<Timestamp>,
    /// Only of this kind
    #[arg(long = "type", short = 't', value_enum, value_name = "KIND")]
    pub(super) kind: Vec<Kind>,
    /// Files of at least this size: 10M
    #[arg(long, value_name = "SIZE", value_parser = super::output::parse_size)]
    pub(super) min_size: Option<u64>,
    /// Files of at most this size
    #[arg(long, value_name = "SIZE", value_parser = super::output::parse_size)]
    pub(super) max_size: Option<u64>,
    /// Permissions, owner, size and time of each
    #[arg(long, short)]
    pub(super) long: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Regular files and parts of tables
    #[value(name = "file", alias = "f")]
    File,
    /// Directories
    #[value(name = "dir", alias = "d")]
    Directory,
    /// Symbolic links
    #[value(name = "symlink", alias = "l")]
    Symlink,
    /// Pipes, sockets and devices
    #[value(name = "special")]
    Special,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Show what changed between two snapshots, or between two places in them.

+ added, - removed, M other content, U only other metadata, T something else stands there now. Tables are compared by their \
rows, in whatever order they are.")]
pub(super) struct Diff {
    /// The older one
    #[arg(value_name = "SNAP[:PATH]")]
    pub(super) before: OsString,
    /// The newer one
    #[arg(value_name = "SNAP[:PATH]")]
    pub(super) after: OsString,
    /// Also say what changed only in its metadata
    #[arg(long, short)]
    pub(super) metadata: bool,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Write a snapshot or a part of it in a form that other programs read: a tar archive, to a file or to stdout; a dated folder; \
a database as a script for psql or as a folder for pg_restore.

`holdfast export latest:shares/Apps --format tar.zst -o apps.tar.zst`. `--format dated -o DIR` makes the folder \
DIR/YYYY-MM-DD with QlikShare, Certificates and Database in it.

`holdfast export latest --database QSR --format sql -o - | psql -X -v ON_ERROR_STOP=1 -d QSR` fills an empty database; \
`--format pg-directory -o DIR` makes a folder for `pg_restore -j 4 -d QSR DIR` of PostgreSQL 10 to 18. Roles and tablespaces are \
not in them: `holdfast cat latest:clusters/NAME/globals.sql`.

What is written appears under its name when it is complete; what is there is never replaced.")]
pub(super) struct Export {
    /// A snapshot, or a file or directory in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub(super) place: OsString,
    /// The form
    #[arg(long, short, value_enum, default_value_t = Format::Tar)]
    pub(super) format: Format,
    /// The file to write, - for stdout; with dated the directory that the folder comes into, with pg-directory the folder
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) output: PathBuf,
    /// Whose files they become, with dated [default: names for root, leave for others]
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub(super) owner: Option<Owner>,
    /// The database, with sql and pg-directory [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub(super) database: Option<String>,
    /// The script creates the database and connects to it, with sql
    #[arg(long)]
    pub(super) create: bool,
    /// Leave out who owns what, with sql
    #[arg(long)]
    pub(super) no_owner: bool,
    /// Leave out GRANT and REVOKE, with sql
    #[arg(long)]
    pub(super) no_privileges: bool,
    /// The PostgreSQL that it is for, with sql and pg-directory: 15, 9.6 [default: that of the source]
    #[arg(long, value_name = "VERSION", value_parser = server_version)]
    pub(super) target_version: Option<u32>,
}

/// Reads a version of PostgreSQL as its number.
fn server_version(text: &str) -> Result<u32, String> {
    let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major @ 10..=99), _) => Ok(major * 10_000),
        (Some(9), Some(minor @ 0..=6)) => Ok(90_000 + minor * 100),
        _ => Err("a version is written as 15 or as 9.6".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// As it is
    #[value(name = "tar")]
    Tar,
    /// Compressed with zstd
    #[value(name = "tar.zst")]
    TarZst,
    /// Compressed with gzip
    #[value(name = "tar.gz")]
    TarGz,
    /// A folder YYYY-MM-DD/{QlikShare,Certificates,Database}
    #[value(name = "dated")]
    Dated,
    /// A database as a script for psql
    #[value(name = "sql")]
    Sql,
    /// A database as a folder for pg_restore
    #[value(name = "pg-directory")]
    PgDirectory,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Copy snapshots into another repository, which may have other keys, other sizes of chunks, or no encryption.

What is there already is not sent again, and snapshots that are there are not copied again: without SNAP all that the other \
repository lacks are copied. Every chunk is checked on the way, and sealed anew with the other repository's keys. A copy that was \
interrupted goes on where it ended.

Where the other repository was created with `init --dedup-from` this one, equal content has the same ids in both, and only \
what is missing is even read; otherwise files that changed since the last copy are read whole.

A snapshot of which something is damaged is named and not copied, and the exit code is 4; the others are copied.")]
pub(super) struct Copy {
    /// The snapshots [default: all that the other repository lacks]
    #[arg(value_name = "SNAP")]
    pub(super) snapshots: Vec<String>,
    #[command(flatten)]
    pub(super) second: Second,
    /// Threads that compute [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) workers: Option<u32>,
    /// How hard to compress what is sent: fast, balanced, max, or a level from 1 to 19 [default: as for backup]
    #[arg(long, value_name = "HOW", value_parser = holdfast::site::compression::level)]
    pub(super) compression: Option<i32>,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Bring a second site to the state of a snapshot: copy the snapshot into the second repository, and restore it from there into the site \
that the other site file (--to-site) describes.

Only what is missing in the second repository is sent, only tables whose rows differ are loaded, only files that differ are written, \
and files of shares that the snapshot does not have are removed. The other site file says where its databases and shares are, how it \
is stopped and started, and what is told to its databases about their place ([relocate]). It is backed up before, into the second \
repository.

`holdfast replicate --site /etc/holdfast/site.toml --yes` after the nightly backup keeps a passive site; see [replicate] in the site file. \
This host must reach the databases and shares of the second site. Where it does not, let `holdfast copy` run here, and \
`holdfast restore latest --site FILE --delta --delete --yes` there.")]
pub(super) struct Replicate {
    /// The snapshot
    #[arg(value_name = "SNAP", default_value = "latest")]
    pub(super) snapshot: String,
    #[command(flatten)]
    pub(super) second: Second,
    /// The site file of the second site [default: `site` in the site file's [replicate]]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) to_site: Option<PathBuf>,
    /// Do it without asking
    #[arg(long, short)]
    pub(super) yes: bool,
    /// End sessions that use the databases of the second site; without it they are named and nothing is done
    #[arg(long)]
    pub(super) end_sessions: bool,
    /// A database takes its place although something of the archive could not be restored
    #[arg(long)]
    pub(super) allow_incomplete: bool,
    /// Only this component, as QSR or databases/QSR; may be given several times
    #[arg(long, value_name = "COMPONENT")]
    pub(super) only: Vec<String>,
    /// All but this component; may be given several times
    #[arg(long, value_name = "COMPONENT")]
    pub(super) skip: Vec<String>,
}

/// A second repository.
#[derive(Debug, ClapArgs)]
pub(super) struct Second {
    /// The other repository [default: `to` in the site file's [replicate]]
    #[arg(long, value_name = "URL", value_hint = ValueHint::DirPath)]
    pub(super) to: Option<String>,
    /// The key file of the other repository [env: HOLDFAST_TO_KEY_FILE; HOLDFAST_TO_PASSPHRASE… as for the repository]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) to_key_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Look for damage in the repository.

Without a flag the log, the index, all records and trees are read, and every chunk that a tree names must be in the index and \
every pack there with its length. --data reads every byte; --end-to-end also puts every file and table together and \
compares its digest. --against compares a restored directory with the snapshot. --no-key needs no key and only finds out whether every object still has the hash that it is named by.

Every damage has a line of its own. Exit code 4 if there is any.")]
pub(super) struct Verify {
    /// Only what this snapshot needs [default: all of them]
    #[arg(long, value_name = "SNAP")]
    pub(super) snapshot: Option<String>,
    /// Only that every object still has the hash that names it
    #[arg(long, group = "depth", conflicts_with = "snapshot")]
    pub(super) no_key: bool,
    /// Every byte of the repository
    #[arg(long, group = "depth")]
    pub(super) data: bool,
    /// Every byte of the repository, and every file and table against its digest
    #[arg(long, group = "depth")]
    pub(super) end_to_end: bool,
    /// Compare this directory with what a restore of --snapshot SNAP[:PATH] [default: latest] would write
    #[arg(long, group = "depth", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) against: Option<PathBuf>,
    /// Whose files they must be, with --against [default: names for root, leave for others]
    #[arg(long, value_enum, value_name = "WHOSE", requires = "against")]
    pub(super) owner: Option<Owner>,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) workers: Option<u32>,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Restore a snapshot into scratch space and a scratch server, compare it with the archive, and remove it all.

Files are restored below --scratch and compared name by name. Databases are restored into a private PostgreSQL server that is \
started from the installed programs and that nobody else reaches, or with --server into a server where the role may create \
databases; every row is read back and compared. The queries of [[restore.query]] are asked. The result is noted in the \
repository, where `status` finds it.

Exit code 3 if something did not come back as it was, 4 if the repository is damaged.")]
pub(super) struct Drill {
    /// A snapshot
    #[arg(value_name = "SNAP", default_value = "latest")]
    pub(super) snapshot: String,
    /// A server whose role may create databases [default: the site file's, else a private one]
    #[arg(long, value_name = "CONNINFO")]
    pub(super) server: Option<String>,
    /// Where the scratch folder is made [default: the site file's, else TMPDIR]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) scratch: Option<PathBuf>,
    /// Only about this part of the files and databases, another one each time: 10%
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub(super) sample: Option<u32>,
    /// Threads, and connections to the server [default: one for each core]
    #[arg(long, visible_alias = "jobs", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) workers: Option<u32>,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Say whether everything is backed up and good.

For each component: its last good snapshot and how old that is, its size against the median of the ones before; certificates \
that end soon; when the repository was last verified, how deep, and the last drill; its size and growth. With a site file \
(--site) every component that it names must be there, and its [status] section says when to warn.

--monitor prints one line and ends with 0 (ok), 1 (warning) or 2 (critical), as monitoring plugins do. Otherwise the exit code is 0, \
or 3 if there is a warning or worse.")]
pub(super) struct Status {
    /// Only this site [default: the site file's, else all of them]
    #[arg(long, value_name = "NAME")]
    pub(super) of: Option<String>,
    /// One line and an exit code for a monitor: 0 ok, 1 warning, 2 critical
    #[arg(long, conflicts_with = "json")]
    pub(super) monitor: bool,
    /// Also write metrics for Prometheus into this file, all at once
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) prometheus: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Stats {
    /// A snapshot to look into [default: the repository]
    #[arg(value_name = "SNAP")]
    pub(super) snapshot: Option<String>,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Print digests and paths of a snapshot's files, as b3sum --check reads them.

The paths are those that a restore creates: `holdfast manifest latest | (cd RESTORED && b3sum --check)`. Names that the \
form can't express are counted on stderr.")]
pub(super) struct Manifest {
    /// A snapshot, or a file or directory in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub(super) place: OsString,
}

#[derive(Debug, ClapArgs)]
#[command(long_about = "\
Show what holdfast does on a sample site, and leave nothing behind.

In a scratch folder below TMPDIR a private PostgreSQL server is started from the installed programs, three databases and a \
share are made, backed up, changed by 2 %, backed up again, verified end to end, restored elsewhere and compared. No other \
server, file or setting is touched. It needs the package postgresql.")]
pub(super) struct Demo {
    /// Leave the scratch folder behind
    #[arg(long)]
    pub(super) keep: bool,
    /// Files of the sample share
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) files: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// List the keys
    List,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Man {
    /// Write holdfast.1 and one page for each command into this directory instead
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) directory: Option<PathBuf>,
}

fn parse_percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse() {
        Ok(percent @ 1..=100) => Ok(percent),
        _ => Err("give it as 1% to 100%".into()),
    }
}

/// Refuses names that would be taken for something else.
fn snapshot_name(text: &str) -> Result<String, String> {
    holdfast::ops::snapshots::check_name(text).map(|()| text.to_owned())
}

/// Reads the name of a loss.
fn accepted_loss(text: &str) -> Result<Loss, String> {
    let found = Loss::ALL.into_iter().find(|loss| loss.name() == text);
    found.ok_or_else(|| format!("it is one of {}", Loss::ALL.map(Loss::name).join(", ")))
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag has the form KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn tags_have_a_key_and_a_value() {
        assert_eq!(parse_tag("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_tag("a="), Ok(("a".into(), String::new())));
        assert_eq!(parse_percent("10%"), Ok(10));
        assert!(parse_percent("0").is_err() && parse_percent("101%").is_err());
        assert!(parse_tag("=b").is_err() && parse_tag("a").is_err());
    }
}
