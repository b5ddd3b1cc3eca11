//! The restore of one database, from globals to the comparison.
//!
//! What is looked at before anything is created: whether the target is empty, whether the archive can be planned, which roles and tablespaces are missing.
//! Then: globals → database → pre-data → rows, large objects → sequences → post-data → privileges → event triggers and materialized views → comparison.
//!
//! Invariants: (1) nothing is restored over something (`refuses_a_database_that_holds_anything`); (2) what could not be restored is in the report, with the
//! server's reason (`what_fails_is_reported`).
//!
//! Failure: a restore that dies leaves a database that is not complete, under the name that was asked for; dropping it is the user's.
//!
//! Threads: called from one thread, blocks until the end; opens up to `jobs` + 1 connections.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::archive::DatabaseArchive;
use super::check::Check;
use super::data::{Load, LoadedViaRoot, set_sequences};
use super::ddl::{DdlSession, DdlSettings, statement_text};
use super::error::RestoreError;
use super::globals::{
    ExistingGlobals, GlobalStatement, GlobalSubject, Globals, created_roles, is_predefined_role,
    select_globals,
};
use super::large_objects;
use super::plan::{Plan, PlanOptions, Step};
use super::report::{OnError, Phase, Recorder, RestoreReport, is_damage};
use super::schedule::Schedule;
use super::target_database::{
    RestoreTarget, existing_database, existing_globals, extension_versions, offered_extensions,
    require_empty,
};
use super::toc::Toc;
use crate::source::postgres::{ConnectOptions, Connector, PgSession};
use crate::stats::Stats;

/// How a database is restored.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Connections that load rows and build indexes side by side; 0 counts as 1.
    pub jobs: usize,
    /// Which roles and tablespaces are brought along.
    pub globals: Globals,
    /// Everything belongs to the connected role.
    pub no_owner: bool,
    /// No `GRANT` and `REVOKE`.
    pub no_privileges: bool,
    /// Everything goes to the default tablespace.
    pub no_tablespaces: bool,
    /// What to do when something cannot be restored.
    pub on_error: OnError,
    /// Compare what was restored; the secret of the row digests, at least 192 bytes.
    pub check: Option<Arc<[u8]>>,
    /// Counters that the terminal reads.
    pub stats: Arc<Stats>,
    /// Set to stop.
    pub interrupted: Arc<AtomicBool>,
}

/// Restores one database and, as far as wanted, the globals of its cluster.
///
/// An error means that the restore could not begin or go on at all; objects that could not be restored are in the report.
pub fn restore_database(
    target: &RestoreTarget,
    archive: &dyn DatabaseArchive,
    options: &RestoreOptions,
) -> Result<RestoreReport, RestoreError> {
    let started = Instant::now();
    let report = RestoreReport {
        database: target.database().to_owned(),
        source_version: archive.description().server_version.clone(),
        ..RestoreReport::default()
    };
    let recorder = Recorder::new(report, options.on_error, Arc::clone(&options.interrupted));
    let ended = Restore {
        target,
        archive,
        options,
        recorder: &recorder,
    }
    .run();
    let mut report = recorder.into_report();
    match ended {
        Ok(()) => {}
        Err(RestoreError::Halted) => report.stopped = true,
        Err(error) => return Err(error),
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

struct Restore<'a> {
    target: &'a RestoreTarget,
    archive: &'a dyn DatabaseArchive,
    options: &'a RestoreOptions,
    recorder: &'a Recorder,
}

impl Restore<'_> {
    fn run(&self) -> Result<(), RestoreError> {
        let toc = Toc::parse(&self.archive.schema_dump().map_err(RestoreError::Archive)?)?;
        let plan = self.plan(&toc)?;
        drop(toc);
        let mut maintenance = self.target.maintenance()?;
        self.note_versions(&maintenance);
        let connector = self.target.connector(&maintenance);
        let exists = self.look_at_database(&mut maintenance, &connector)?;
        let existing = existing_globals(&mut maintenance)?;
        let globals = self.globals(&existing)?;
        self.note_extensions(&mut maintenance)?;
        self.note_missing(&plan, &existing, &globals)?;

        self.apply_globals(&mut maintenance, &globals)?;
        let tablespaces = existing_globals(&mut maintenance)?.tablespaces;
        self.note_tablespaces(&plan, &tablespaces);
        let settings = self.create(&mut maintenance, &plan, exists, tablespaces)?;
        drop(maintenance);

        let mut session = DdlSession::open(&connector, &settings)?;
        self.serial(&mut session, &plan.pre_data, Phase::PreData)?;
        self.compare_extensions(session.session())?;
        let via_root = self.data(&connector)?;
        self.post_data(&connector, &settings, &plan.post_data)?;
        session.session().ping()?;
        self.serial(&mut session, &plan.privileges, Phase::Privileges)?;
        self.serial(&mut session, &plan.last, Phase::Last)?;
        self.check(&connector, &via_root)
    }

    fn plan(&self, toc: &Toc) -> Result<Plan, RestoreError> {
        let options = PlanOptions {
            database: Some(self.target.database().as_bytes().to_vec()),
            no_owner: self.options.no_owner,
            no_privileges: self.options.no_privileges,
            no_tablespaces: self.options.no_tablespaces,
        };
        let plan = Plan::new(toc, &options)?;
        for table in &plan.changed {
            self.recorder.note(format!(
                "{table}: the column option pg_attver of the source's minor release was left out"
            ));
        }
        for entry in &plan.not_planned {
            self.recorder.note(format!("{entry} of schema.dump was not used: rows, sequences and large objects come from the archive itself"));
        }
        Ok(plan)
    }

    fn note_versions(&self, maintenance: &PgSession) {
        let (source, target) = (self.archive.description(), maintenance.facts());
        self.recorder
            .report()
            .server_version
            .clone_from(&target.version);
        if target.version_num / 10_000 < source.server_version_num / 10_000 {
            self.recorder.note(format!(
                "the target runs PostgreSQL {}, older than the archive's {}: statements that it does not know will fail",
                target.version, source.server_version
            ));
        }
    }

    /// Whether the database is there; an error when it must not be used.
    fn look_at_database(
        &self,
        maintenance: &mut PgSession,
        connector: &Connector,
    ) -> Result<bool, RestoreError> {
        let database = self.target.database();
        let Some(existing) = existing_database(maintenance, database)? else {
            return Ok(false);
        };
        let mut session = connector.connect(&ConnectOptions::restore())?;
        require_empty(&mut session, database)?;
        let info = self.archive.description();
        if existing.encoding != info.encoding {
            return Err(RestoreError::Encoding {
                database: database.to_owned(),
                has: existing.encoding,
                wanted: info.encoding.clone(),
            });
        }
        if existing.collate != info.collate || existing.ctype != info.ctype {
            self.recorder.note(format!(
                "database \"{database}\" was there, with locale {}/{}; the archived one has {}/{}: texts may sort differently",
                existing.collate, existing.ctype, info.collate, info.ctype
            ));
        }
        Ok(true)
    }

    fn globals(&self, existing: &ExistingGlobals) -> Result<Vec<GlobalStatement>, RestoreError> {
        if self.options.globals == Globals::None {
            return Ok(Vec::new());
        }
        match self.archive.globals().map_err(RestoreError::Archive)? {
            Some(script) => Ok(select_globals(&script, existing, self.options.globals)),
            None => {
                self.recorder
                    .note("the archive has no roles and tablespaces of the cluster");
                Ok(Vec::new())
            }
        }
    }

    /// Lists the extensions whose packages are not installed on the target, before anything is created.
    fn note_extensions(&self, maintenance: &mut PgSession) -> Result<(), RestoreError> {
        let offered = offered_extensions(maintenance)?;
        let archived = self.archive.description().extensions.iter();
        let missing: Vec<String> = archived
            .map(|(name, _)| name)
            .filter(|name| !offered.contains(*name))
            .cloned()
            .collect();
        if !missing.is_empty() {
            self.recorder.note(format!("the target does not offer these extensions of the archive: {}; install their packages", missing.join(", ")));
            self.recorder.report().extensions_missing = missing;
        }
        Ok(())
    }

    /// Versions of extensions are not part of a schema: the target creates its own.
    fn compare_extensions(&self, session: &mut PgSession) -> Result<(), RestoreError> {
        let restored = extension_versions(session)?;
        for (name, archived) in &self.archive.description().extensions {
            if let Some(restored) = restored.get(name).filter(|restored| *restored != archived) {
                self.recorder.note(format!(
                    "extension {name} is of version {restored}, it was of version {archived}"
                ));
            }
        }
        Ok(())
    }

    /// Lists the roles that will be missing, before anything is created.
    fn note_missing(
        &self,
        plan: &Plan,
        existing: &ExistingGlobals,
        globals: &[GlobalStatement],
    ) -> Result<(), RestoreError> {
        let created = created_roles(globals);
        let mut needed = plan.roles();
        let options = self.large_object_options();
        let collect = &mut |object| {
            needed.extend(
                large_objects::roles(&object, options)
                    .into_iter()
                    .map(String::into_bytes),
            );
            Ok(())
        };
        self.archive
            .large_objects(collect)
            .map_err(RestoreError::Archive)?;
        let missing: Vec<String> = needed
            .into_iter()
            .filter(|role| {
                !existing.roles.contains(role)
                    && !created.contains(role)
                    && !is_predefined_role(role)
            })
            .map(|role| String::from_utf8_lossy(&role).into_owned())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        tracing::warn!(roles = %missing.join(", "), "the target lacks roles that the archive needs");
        if self.options.on_error == OnError::Stop {
            return Err(RestoreError::RolesMissing(missing));
        }
        self.recorder.report().roles_missing = missing;
        Ok(())
    }

    fn apply_globals(
        &self,
        maintenance: &mut PgSession,
        globals: &[GlobalStatement],
    ) -> Result<(), RestoreError> {
        for statement in globals {
            self.recorder.check_interrupt()?;
            let Ok(sql) = std::str::from_utf8(&statement.sql) else {
                self.recorder.fail(
                    Phase::Globals,
                    statement.label(),
                    "the statement is not UTF-8",
                    None,
                )?;
                continue;
            };
            match maintenance.batch_execute(sql) {
                Ok(()) => {
                    let mut report = self.recorder.report();
                    report.statements += 1;
                    if let GlobalSubject::CreateRole(role) = &statement.subject {
                        report
                            .roles_created
                            .push(String::from_utf8_lossy(role).into_owned());
                    }
                }
                Err(error) => self
                    .recorder
                    .refused(Phase::Globals, statement.label(), error)?,
            }
        }
        Ok(())
    }

    fn note_tablespaces(&self, plan: &Plan, existing: &BTreeSet<Vec<u8>>) {
        let missing: Vec<String> = plan
            .tablespaces()
            .difference(existing)
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        if !missing.is_empty() {
            self.recorder.note(format!("tablespaces that the target lacks: {}; what was in them goes to the default tablespace", missing.join(", ")));
            self.recorder.report().tablespaces_missing = missing;
        }
    }

    /// Creates the database, unless an empty one is there, and gives it to its owner.
    fn create(
        &self,
        maintenance: &mut PgSession,
        plan: &Plan,
        exists: bool,
        tablespaces: BTreeSet<Vec<u8>>,
    ) -> Result<DdlSettings, RestoreError> {
        let database = self.target.database();
        let encoding = &self.archive.description().encoding;
        let statements = plan.database.iter().flat_map(|step| {
            step.statements
                .iter()
                .map(move |statement| (step, statement))
        });
        for (n, (step, statement)) in statements.enumerate() {
            let creates = n == 0;
            if creates && exists {
                continue;
            }
            let without_tablespace = plan
                .database_tablespace
                .as_ref()
                .filter(|(name, _)| {
                    creates && (self.options.no_tablespaces || !tablespaces.contains(name))
                })
                .map(|(_, sql)| sql);
            let sql = without_tablespace.unwrap_or(&statement.sql);
            let refused = |reason: String| RestoreError::Create {
                database: database.to_owned(),
                reason,
            };
            let text = statement_text(sql, &plan.session.encoding, "")
                .ok_or_else(|| refused("its statement is not UTF-8".to_owned()))?;
            match maintenance.batch_execute(&text) {
                Ok(()) => {
                    let mut report = self.recorder.report();
                    report.statements += 1;
                    report.created |= creates;
                }
                Err(error) if creates => {
                    return Err(error.server_error().map_or_else(
                        || refused(error.to_string()),
                        |said| refused(said.to_string()),
                    ));
                }
                Err(error) => self.recorder.refused(
                    Phase::Database,
                    format!("owner of {}", step.label),
                    error,
                )?,
            }
        }
        Ok(DdlSettings {
            dump: plan.session.clone(),
            server_encoding: encoding.clone(),
            tablespaces,
        })
    }

    fn serial(
        &self,
        session: &mut DdlSession,
        steps: &[Step],
        phase: Phase,
    ) -> Result<(), RestoreError> {
        steps
            .iter()
            .try_for_each(|step| session.run(step, phase, self.recorder))
    }

    fn large_object_options(&self) -> large_objects::Options {
        large_objects::Options {
            no_owner: self.options.no_owner,
            no_privileges: self.options.no_privileges,
        }
    }

    /// Rows, large objects and sequences; large objects beside the rows, because nothing depends on them.
    fn data(&self, connector: &Connector) -> Result<LoadedViaRoot, RestoreError> {
        let load = Load {
            archive: self.archive,
            connector,
            recorder: self.recorder,
            stats: &self.options.stats,
            jobs: self.options.jobs,
        };
        let info = self.archive.description();
        let (loaded, objects) = thread::scope(|scope| {
            let objects = scope.spawn(|| {
                let mut session = connector.connect(&ConnectOptions::restore())?;
                large_objects::restore(
                    self.archive,
                    &mut session,
                    self.large_object_options(),
                    self.recorder,
                )
            });
            let loaded = load.run();
            (
                loaded,
                objects.join().expect("a worker that panics is our bug"),
            )
        });
        let via_root = loaded?;
        match objects {
            Err(RestoreError::Archive(error)) if is_damage(&error) => {
                self.recorder
                    .damaged(Phase::LargeObjects, "large objects", &error)?
            }
            objects => objects?,
        }
        let mut session = connector.connect(&ConnectOptions::restore())?;
        set_sequences(&mut session, &info.sequences, self.recorder)?;
        Ok(via_root)
    }

    fn post_data(
        &self,
        connector: &Connector,
        settings: &DdlSettings,
        steps: &[Step],
    ) -> Result<(), RestoreError> {
        let shared = PostData {
            schedule: Mutex::new((Schedule::new(steps), false)),
            changed: Condvar::new(),
        };
        let workers = self.options.jobs.clamp(1, steps.len().max(1));
        let results: Vec<Result<(), RestoreError>> = thread::scope(|scope| {
            let work = || {
                let result = self.post_data_worker(connector, settings, steps, &shared);
                if result.is_err() {
                    shared.stop();
                }
                result
            };
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a worker that panics is our bug"))
                .collect()
        });
        results.into_iter().collect()
    }

    fn post_data_worker(
        &self,
        connector: &Connector,
        settings: &DdlSettings,
        steps: &[Step],
        shared: &PostData<'_>,
    ) -> Result<(), RestoreError> {
        let mut session = DdlSession::open(connector, settings)?;
        while let Some(n) = shared.next_step() {
            session.run(&steps[n], Phase::PostData, self.recorder)?;
            shared.finished(n);
        }
        Ok(())
    }

    fn check(&self, connector: &Connector, via_root: &LoadedViaRoot) -> Result<(), RestoreError> {
        let Some(secret) = &self.options.check else {
            return Ok(());
        };
        let info = self.archive.description();
        let check = Check {
            info,
            connector,
            recorder: self.recorder,
            secret,
            via_root,
            jobs: self.options.jobs,
        };
        let report = check.run()?;
        self.recorder.report().check = Some(report);
        Ok(())
    }
}

/// The schedule, shared by workers, and whether one of them gave up.
struct PostData<'a> {
    schedule: Mutex<(Schedule<'a>, bool)>,
    changed: Condvar,
}

impl<'a> PostData<'a> {
    fn lock(&self) -> MutexGuard<'_, (Schedule<'a>, bool)> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a step that may run; `None` at the end.
    fn next_step(&self) -> Option<usize> {
        let mut guard = self.lock();
        loop {
            if guard.1 || guard.0.is_done() {
                return None;
            }
            if let Some(n) = guard.0.next_step() {
                return Some(n);
            }
            guard = self
                .changed
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finished(&self, n: usize) {
        self.lock().0.finished(n);
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.lock().1 = true;
        self.changed.notify_all();
    }
}
