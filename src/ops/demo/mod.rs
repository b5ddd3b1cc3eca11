//! `demo`: a sample site in a scratch folder is backed up, changed, backed up again, verified, restored elsewhere and compared.
//!
//! It does what an administrator would do, through the same operations, and compares what came back without holdfast's own records.
//!
//! Failure: the scratch folder goes and the servers stop when the run ends, however it ends; [`DemoCleanup`] is for a process that ends at
//! once. Nothing outside of the folder is written.

mod compare;
mod sample;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use tempfile::TempDir;

use crate::backend::open_url;
use crate::crypto::{Secret32, SystemRandom};
use crate::error::{Error, Result};
use crate::ops::archive::{DatabaseRestoreOptions, restore_database};
use crate::ops::backup::{BackupOptions, BackupSummary, Environment, Interrupt, backup};
use crate::ops::init::{FirstKey, InitOptions, init};
use crate::ops::restore::{RestoreOptions, restore};
use crate::ops::scratch_cluster::{Cluster, Programs, Servers};
use crate::ops::verify::{Depth, FindingKind, VerifyOptions, VerifySummary, verify};
use crate::site::SiteFile;
use crate::source::postgres::pgtools::VERSION_FOLDERS;
use crate::stats::Stats;
use crate::store::{Ambient, Repository};
use crate::target::files::Ownership;

/// What the demo is to do.
#[derive(Clone)]
pub struct DemoOptions {
    /// Where the scratch folder is made.
    pub temp: PathBuf,
    /// Files of the sample share.
    pub files: u32,
    /// Leave the scratch folder behind.
    pub keep: bool,
    /// The value of `PATH`, where server programs are looked for after the usual place.
    pub path: Option<OsString>,
    /// The environment that looking for `pg_dump` needs.
    pub environment: Environment,
    /// This host.
    pub host: String,
    /// This user.
    pub user: String,
}

impl std::fmt::Debug for DemoOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DemoOptions")
            .field("temp", &self.temp)
            .field("files", &self.files)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

/// What has to go when the process ends at once.
#[derive(Clone, Debug, Default)]
pub struct DemoCleanup {
    servers: Servers,
    folder: Arc<Mutex<Option<PathBuf>>>,
}

impl DemoCleanup {
    /// Stops the servers and removes the scratch folder.
    pub fn now(&self) {
        self.servers.kill();
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &*folder {
            // Nothing more can be done.
            drop(fs::remove_dir_all(folder));
        }
    }
}

/// What happens, as it happens.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DemoEvent {
    /// A step begins.
    Begins {
        /// What it does, for people.
        step: &'static str,
    },
    /// The sample site is there.
    SiteMade(SiteMade),
    /// A day has passed.
    DayPassed(DayPassed),
    /// A snapshot was made.
    BackedUp(BackedUp),
    /// Every byte was verified.
    Verified(VerifySummary),
    /// The share was restored and compared.
    FilesCompared(FilesCompared),
    /// A database was restored into the other server and compared.
    DatabaseCompared(DatabaseCompared),
}

/// A restored share beside the original.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FilesCompared {
    /// Names that were compared: content, owner, permissions, times, links.
    pub entries: u64,
    /// Bytes that were compared.
    pub bytes: u64,
    /// What differs.
    pub differences: Vec<String>,
    /// How long the restore took.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
}

/// A restored database beside the original.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DatabaseCompared {
    /// Its name.
    pub name: String,
    /// Tables.
    pub tables: u64,
    /// Rows that were compared.
    pub rows: u64,
    /// Sequences, large objects, indexes, constraints, owners and rights that were compared.
    pub others: u64,
    /// What differs.
    pub differences: Vec<String>,
    /// How long the restore took.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
}

/// The sample site.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SiteMade {
    /// The scratch folder.
    pub folder: PathBuf,
    /// Version of the server.
    pub server: String,
    /// Databases.
    pub databases: u64,
    /// Their tables.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// What the server says that they take on disk.
    pub database_bytes: u64,
    /// Files of the share.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
}

/// What a day changed on the share; in the databases it is about as much.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DayPassed {
    /// Files changed inside.
    pub changed: u32,
    /// New files.
    pub added: u32,
    /// Removed files.
    pub removed: u32,
    /// Files with another name.
    pub renamed: u32,
    /// Rows before.
    pub rows_before: u64,
    /// Rows after.
    pub rows_after: u64,
}

/// A snapshot.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BackedUp {
    /// Its id.
    pub snapshot: String,
    /// New and changed files.
    pub files_read: u64,
    /// Files taken over.
    pub files_unmodified: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes that the repository did not have.
    pub bytes_new: u64,
    /// Bytes written.
    pub bytes_stored: u64,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
}

fn seconds<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((elapsed.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// How the demo came out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DemoSummary {
    /// What differs, in words; nothing if all is well.
    pub differences: Vec<String>,
    /// The scratch folder, if it was kept.
    pub kept: Option<PathBuf>,
    /// How long all of it took.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
}

/// Runs the demo.
pub fn demo(
    options: &DemoOptions,
    interrupt: &Interrupt,
    cleanup: &DemoCleanup,
    tell: &mut dyn FnMut(&DemoEvent),
) -> Result<DemoSummary> {
    let begun = Instant::now();
    let programs = Programs::find(&VERSION_FOLDERS, options.path.as_deref())?;
    let scratch = scratch(options, cleanup)?;
    let mut stage = Stage {
        options,
        interrupt,
        folder: scratch.path().to_owned(),
        tell,
        differences: Vec::new(),
    };
    let outcome = stage.play(&programs, &cleanup.servers);
    let differences = stage.differences;
    let kept = options.keep.then(|| scratch.keep());
    outcome?;
    Ok(DemoSummary {
        differences,
        kept,
        seconds: begun.elapsed(),
    })
}

fn scratch(options: &DemoOptions, cleanup: &DemoCleanup) -> Result<TempDir> {
    let failed = |error| {
        let temp = options.temp.display();
        Error::local(format!("cannot make a scratch folder in {temp}"), error)
    };
    let scratch = tempfile::Builder::new()
        .prefix("holdfast-demo-")
        .tempdir_in(&options.temp)
        .map_err(failed)?;
    // The server's account must reach its folder, and nobody has to list this one.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711)).map_err(failed)?;
    if !options.keep {
        let mut folder = cleanup
            .folder
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *folder = Some(scratch.path().to_owned());
    }
    Ok(scratch)
}

/// What every step needs.
struct Stage<'a> {
    options: &'a DemoOptions,
    interrupt: &'a Interrupt,
    folder: PathBuf,
    tell: &'a mut dyn FnMut(&DemoEvent),
    differences: Vec<String>,
}

impl Stage<'_> {
    fn play(&mut self, programs: &Programs, servers: &Servers) -> Result<()> {
        self.begin("starting two private PostgreSQL servers")?;
        let (site, elsewhere) = self.start_servers(programs, servers)?;
        self.begin("making a sample site")?;
        let rows = self.make_site(&site)?;
        let repository = self.make_repository()?;
        self.begin("first backup")?;
        self.back_up(&repository, &site)?;
        self.begin("a day passes")?;
        self.pass_a_day(&site, rows)?;
        self.begin("second backup")?;
        let snapshot = self.back_up(&repository, &site)?;
        self.begin("verifying every byte")?;
        self.verify(&repository)?;
        self.begin("restoring the share elsewhere and comparing it")?;
        self.restore_share(&repository, &snapshot)?;
        self.begin("restoring the databases into another server and comparing them")?;
        for (name, _) in sample::DATABASES {
            self.restore_database(&repository, &snapshot, name, (&site, &elsewhere))?;
        }
        Ok(())
    }

    fn begin(&mut self, step: &'static str) -> Result<()> {
        if self.interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        (self.tell)(&DemoEvent::Begins { step });
        Ok(())
    }

    /// Starts the server of the site and the one that everything is restored into, both at the same time.
    fn start_servers(&self, programs: &Programs, servers: &Servers) -> Result<(Cluster, Cluster)> {
        let keep = self.options.keep;
        let folder = &self.folder;
        let start = |name: &str| Cluster::start(programs, folder.join(name), keep, servers);
        std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| start("restored-server"));
            let site = start("server")?;
            let elsewhere = elsewhere
                .join()
                .unwrap_or_else(|_| Err(Error::Message("starting a server panicked".into())))?;
            Ok((site, elsewhere))
        })
    }

    fn share(&self) -> PathBuf {
        self.folder.join("share")
    }

    /// Fills share and databases, and returns the rows.
    fn make_site(&mut self, site: &Cluster) -> Result<u64> {
        let begun = Instant::now();
        let mut session = site.connect("postgres")?;
        sample::fill(&mut session, sample::ROLES)?;
        for (name, _) in sample::DATABASES {
            sample::fill(&mut session, &format!("CREATE DATABASE \"{name}\""))?;
        }
        let share = self.share();
        let files = self.options.files;
        let file_bytes = in_parallel(&sample::DATABASES, site, || {
            sample::make_share(&share, files)
        })?;
        let contents = contents(site)?;
        let rows = contents.iter().map(|(_, content)| content.rows).sum();
        let bytes = session.query_one(
            "SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'",
            &[],
        );
        let bytes: i64 = bytes
            .map_err(|error| Error::Message(error.to_string()))?
            .get(0);
        let made = SiteMade {
            folder: self.folder.clone(),
            server: session.facts().version.clone(),
            databases: u64::try_from(contents.len()).unwrap_or(0),
            tables: contents.iter().map(|(_, content)| content.tables).sum(),
            rows,
            database_bytes: u64::try_from(bytes).unwrap_or(0),
            files: files.into(),
            file_bytes,
            seconds: begun.elapsed(),
        };
        (self.tell)(&DemoEvent::SiteMade(made));
        Ok(rows)
    }

    fn make_repository(&self) -> Result<Arc<Repository>> {
        let place = self.folder.join("repository").display().to_string();
        let options = InitOptions {
            place: &place,
            key: FirstKey::KeyFile(Secret32::generate(&mut SystemRandom)),
            label: "demo",
            chunk_bytes: None,
            table_chunk_bytes: None,
            dedup_from: None,
        };
        let backend = Arc::from(open_url(&place)?);
        Ok(Arc::new(
            init(backend, &options, Ambient::default())?.repository,
        ))
    }

    /// The site file that describes the sample site.
    fn site_file(&self, site: &Cluster) -> Result<SiteFile> {
        let mut text = format!(
            "[site]\nname = \"demo\"\nrequire-all = true\n\n[[share]]\nname = \"QlikShare\"\npath = \"{}\"\n",
            self.share().display()
        );
        for (name, _) in sample::DATABASES {
            let conninfo = site.conninfo(name);
            text.push_str(&format!(
                "\n[[database]]\nname = \"{name}\"\nconninfo = \"{conninfo}\"\n"
            ));
        }
        let path = self.folder.join("site.toml");
        fs::write(&path, &text)
            .map_err(|error| Error::local("cannot write the site file", error))?;
        SiteFile::parse(&text, &path).map_err(|error| Error::Message(error.to_string()))
    }

    fn back_up(&mut self, repository: &Arc<Repository>, site: &Cluster) -> Result<String> {
        let site = self.site_file(site)?;
        let mut options = BackupOptions::new(self.options.host.clone());
        options.user.clone_from(&self.options.user);
        options.site_name.clone_from(&site.name);
        options.site = Some(Arc::new(site));
        options.scratch.clone_from(&self.folder);
        options.environment = self.options.environment.clone();
        let stats = Arc::new(Stats::default());
        let summary = backup(repository, &options, &stats, self.interrupt)?;
        if !summary.complete {
            self.differences.push("the snapshot is incomplete".into());
        }
        self.differences.extend(summary.damage.iter().cloned());
        let backed_up = BackedUp::from(&summary);
        let snapshot = backed_up.snapshot.clone();
        (self.tell)(&DemoEvent::BackedUp(backed_up));
        Ok(snapshot)
    }

    fn pass_a_day(&mut self, site: &Cluster, rows_before: u64) -> Result<()> {
        let share = self.share();
        let changes = in_parallel(&sample::CHANGES, site, || sample::change_share(&share))?;
        let contents = contents(site)?;
        let passed = DayPassed {
            changed: changes.changed,
            added: changes.added,
            removed: changes.removed,
            renamed: changes.renamed,
            rows_before,
            rows_after: contents.iter().map(|(_, content)| content.rows).sum(),
        };
        (self.tell)(&DemoEvent::DayPassed(passed));
        Ok(())
    }
}

/// Verification, restores and comparisons.
impl Stage<'_> {
    fn verify(&mut self, repository: &Arc<Repository>) -> Result<()> {
        let options = VerifyOptions {
            depth: Depth::EndToEnd,
            ..VerifyOptions::default()
        };
        let found = Mutex::new(Vec::new());
        let stats = Arc::new(Stats::default());
        let summary = verify(repository, &options, &stats, self.interrupt, &|finding| {
            keep(&found, finding.kind != FindingKind::Note, finding);
        })?;
        self.differences
            .extend(found.into_inner().unwrap_or_else(PoisonError::into_inner));
        (self.tell)(&DemoEvent::Verified(summary));
        Ok(())
    }

    fn restore_share(&mut self, repository: &Arc<Repository>, snapshot: &str) -> Result<()> {
        let begun = Instant::now();
        let target = self.folder.join("restored-share");
        let options = RestoreOptions {
            ownership: match rustix::process::geteuid().is_root() {
                true => Ownership::ByName,
                false => Ownership::Leave,
            },
            ..RestoreOptions::default()
        };
        let troubles = Mutex::new(Vec::new());
        let stats = Arc::new(Stats::default());
        let place = format!("{snapshot}:shares/QlikShare");
        restore(
            repository,
            &place,
            &target,
            &options,
            &stats,
            self.interrupt,
            &|trouble| keep(&troubles, true, trouble),
        )?;
        let seconds = begun.elapsed();
        let compared = compare::trees(&self.share(), &target)?;
        let mut differences = troubles
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        differences.extend(compared.differences);
        self.differences.extend(differences.iter().cloned());
        (self.tell)(&DemoEvent::FilesCompared(FilesCompared {
            entries: compared.entries,
            bytes: compared.bytes,
            differences,
            seconds,
        }));
        Ok(())
    }

    fn restore_database(
        &mut self,
        repository: &Arc<Repository>,
        snapshot: &str,
        name: &str,
        (site, elsewhere): (&Cluster, &Cluster),
    ) -> Result<()> {
        if self.interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        let begun = Instant::now();
        let target = elsewhere.target(name)?;
        let options = DatabaseRestoreOptions {
            restore: crate::target::postgres::RestoreOptions {
                jobs: std::thread::available_parallelism().map_or(2, usize::from),
                ..crate::target::postgres::RestoreOptions::default()
            },
            ..DatabaseRestoreOptions::default()
        };
        let troubles = Mutex::new(Vec::new());
        let stats = Arc::new(Stats::default());
        let summary = restore_database(
            repository,
            snapshot,
            name,
            &target,
            &options,
            &stats,
            self.interrupt,
            &|trouble| keep(&troubles, true, trouble),
        )?;
        let seconds = begun.elapsed();
        let original = compare::database(&mut site.connect(name)?)?;
        let restored = compare::database(&mut elsewhere.connect(name)?)?;
        let mut differences = troubles
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let failures = summary.report.failures.iter();
        differences.extend(failures.map(|f| format!("{}: {}", f.object, f.reason)));
        differences.extend(original.differences(&restored));
        let named = differences.iter().map(|text| format!("{name}: {text}"));
        self.differences.extend(named);
        let parts = u64::try_from(original.parts.len()).unwrap_or(u64::MAX);
        (self.tell)(&DemoEvent::DatabaseCompared(DatabaseCompared {
            name: name.to_owned(),
            tables: original.tables,
            rows: original.rows,
            others: parts.saturating_sub(original.tables),
            differences,
            seconds,
        }));
        Ok(())
    }
}

/// Keeps what an operation says from several threads.
fn keep(said: &Mutex<Vec<String>>, wanted: bool, text: &dyn std::fmt::Display) {
    if wanted {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push(text.to_string());
    }
}

impl From<&BackupSummary> for BackedUp {
    fn from(summary: &BackupSummary) -> Self {
        let totals = &summary.totals;
        Self {
            snapshot: summary.snapshot.to_string(),
            files_read: totals.files_new + totals.files_changed,
            files_unmodified: totals.files_unmodified,
            rows: totals.rows,
            bytes_read: totals.bytes_read,
            bytes_new: totals.bytes_new,
            bytes_stored: totals.bytes_stored,
            seconds: summary.elapsed,
        }
    }
}

/// Runs one script in each database, each in a thread of its own, and `beside` in this one.
fn in_parallel<T>(
    scripts: &[(&str, &str)],
    site: &Cluster,
    beside: impl FnOnce() -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        let run = |(name, sql): &(&str, &str)| {
            let mut session = site.connect(name)?;
            sample::fill(&mut session, sql)
        };
        let threads: Vec<_> = scripts
            .iter()
            .map(|script| scope.spawn(move || run(script)))
            .collect();
        let done = beside();
        for thread in threads {
            let joined = thread.join();
            joined.unwrap_or_else(|_| Err(Error::Message("filling a database panicked".into())))?;
        }
        done
    })
}

/// What all databases of the site hold.
fn contents(site: &Cluster) -> Result<Vec<(&'static str, compare::DatabaseContent)>> {
    let names = sample::DATABASES.iter();
    names
        .map(|(name, _)| Ok((*name, compare::database(&mut site.connect(name)?)?)))
        .collect()
}
