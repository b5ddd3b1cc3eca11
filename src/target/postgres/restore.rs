//! The restore of one database, from globals to the comparison.
//!
//! What is looked at before anything is created: whether the target is empty, whether the archive can be planned, which roles and tablespaces are missing.
//! Then: globals → database → pre-data → rows, large objects → sequences → post-data → privileges → materialized views → comparison → event triggers.
//!
//! Invariants: (1) nothing is restored over something (`refuses_a_database_that_holds_anything`); (2) what could not be restored is in the report, with the
//! server's reason (`what_fails_is_reported`).
//!
//! Failure: a restore that dies leaves a database that is not complete, under the name that was asked for; `clean` replaces it, and never leaves one
//! (`swap`).
//!
//! Threads: called from one thread, blocks until the end; opens up to `jobs` + 1 connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::analyze::analyze;
use super::archive::DatabaseArchive;
use super::check::Check;
use super::crew::Crew;
use super::data::qualified;
use super::data::{Load, Loaded, set_sequences};
use super::ddl::{DdlSession, DdlSettings, statement_text};
use super::error::RestoreError;
use super::globals::{
    ExistingGlobals, GlobalStatement, GlobalSubject, Globals, created_roles, is_predefined_role,
    select_globals,
};
use super::large_objects;
use super::older::for_server;
use super::plan::{Plan, PlanOptions, Statement, Step};
use super::post_data::PostData;
use super::report::{OnError, Phase, Recorder, RestoreReport, is_damage};
use super::selection::{Selected, Selection, SelectionFailure};
use super::sql::{is_connection_limit, quote_identifier, statements};
use super::swap::{Final, SwapOptions, comment_on, replace_database};
use super::target_database::{
    RestoreTarget, drop_if_exists, existing_database, existing_globals, existing_relations,
    existing_schemas, extension_versions, offered_extensions, require_empty, shown, some_of,
};
use super::toc::Toc;
use crate::source::postgres::{ConnectOptions, Connector, PgError, PgSession};
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
    /// Names that tablespaces get instead of their own.
    pub tablespaces: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What of the database; everything by default.
    pub selection: Selection,
    /// Replace what is there: the whole database, by one that is complete ([`replace_database`]), or the chosen tables, views and sequences; with rows
    /// alone, delete the rows that are there.
    pub clean: bool,
    /// How a whole database is replaced.
    pub swap: SwapOptions,
    /// The database must be a new one: an empty one that is there is not used.
    pub create: bool,
    /// Create extensions in the versions that they had.
    pub recorded_extensions: bool,
    /// Leave out `ANALYZE` at the end.
    pub no_analyze: bool,
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
    let is_part = options.selection.is_partial() || options.selection.data_only;
    if options.clean && !is_part {
        return replace_database(target, archive, options);
    }
    let report = RestoreReport {
        database: target.database().to_owned(),
        source_version: archive.description().server_version.clone(),
        ..RestoreReport::default()
    };
    let recorder = Recorder::new(report, options.on_error, Arc::clone(&options.interrupted));
    let ended = restore(target, archive, options, &recorder, None);
    let mut report = recorder.into_report();
    match ended {
        Ok(_none_left) => {}
        Err(RestoreError::Halted) => report.stopped = true,
        // Of a whole database a part is left behind.
        Err(error) if !is_part && (report.created || !report.tables.is_empty()) => {
            return Err(error.left_incomplete(&report.database));
        }
        Err(error) => return Err(error),
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Chooses, and restores what was chosen.
///
/// With a mark it is the comment of the database from its creation on, and what is for the last moment is returned instead of done.
pub(super) fn restore(
    target: &RestoreTarget,
    archive: &dyn DatabaseArchive,
    options: &RestoreOptions,
    recorder: &Recorder,
    mark: Option<&str>,
) -> Result<Vec<Final>, RestoreError> {
    let toc = Toc::parse(&archive.schema_dump().map_err(RestoreError::Archive)?)?;
    let selected = options
        .selection
        .apply(toc)
        .map_err(|failure| match failure {
            SelectionFailure::Selection(error) => RestoreError::Selection(error),
            SelectionFailure::Plan(error) => RestoreError::Plan(error),
        })?;
    for object in &selected.left_out {
        recorder.note(format!(
            "{object} belongs to what was chosen and does not come along"
        ));
    }
    Restore {
        target,
        archive: &selected.archive(archive, &options.selection),
        selected: &selected,
        options,
        recorder,
        mark,
    }
    .run()
}

struct Restore<'a> {
    target: &'a RestoreTarget,
    archive: &'a dyn DatabaseArchive,
    selected: &'a Selected,
    options: &'a RestoreOptions,
    recorder: &'a Recorder,
    mark: Option<&'a str>,
}

impl Restore<'_> {
    fn run(&self) -> Result<Vec<Final>, RestoreError> {
        let mut plan = self.plan(&self.selected.toc)?;
        let mut finals = self.finals(&mut plan)?;
        let mut maintenance = self.target.maintenance()?;
        self.note_versions(&maintenance);
        let connector = self.target.connector(&maintenance);
        let exists = self.look_at_database(&mut maintenance, &connector, &mut plan)?;
        if exists && (self.options.selection.is_partial() || self.options.selection.data_only) {
            // The database is somebody's: its owner stays.
            plan.database.clear();
        }
        let existing = existing_globals(&mut maintenance)?;
        let globals = self.globals(&existing)?;
        if self.options.selection.is_all() {
            self.note_extensions(&mut maintenance)?;
        }
        self.note_missing(&plan, &existing, &globals)?;

        self.apply_globals(&mut maintenance, &globals)?;
        let tablespaces = existing_globals(&mut maintenance)?.tablespaces;
        self.note_tablespaces(&plan, &tablespaces);
        let settings = self.create(&mut maintenance, &plan, exists, tablespaces)?;
        drop(maintenance);

        let mut session = DdlSession::open(&connector, &settings)?;
        self.make_room(session.session(), exists)?;
        self.serial(&mut session, &plan.pre_data, Phase::PreData)?;
        if self.options.selection.is_all() {
            self.compare_extensions(session.session())?;
        }
        // Where there are few connections, the others need this one.
        session.close();
        let loaded = self.data(&connector)?;
        PostData::new(&plan.post_data, self.recorder).run(
            &connector,
            &settings,
            self.options.jobs,
        )?;
        let mut session = DdlSession::open(&connector, &settings)?;
        self.serial(&mut session, &plan.privileges, Phase::Privileges)?;
        self.serial(&mut session, &plan.last, Phase::Last)?;
        session.close();
        if !self.options.no_analyze && !self.options.selection.schema_only {
            analyze(
                &connector,
                self.archive.description(),
                &self.options.selection,
                self.options.jobs,
                self.recorder,
            )?;
        }
        self.check(&connector, &loaded)?;
        let ours = match self.mark {
            Some(_) => Vec::new(),
            None => std::mem::take(&mut finals),
        };
        let mut session = DdlSession::open(&connector, &settings)?;
        self.serial(&mut session, &plan.event_triggers, Phase::Last)?;
        for last in ours {
            if let Err(error) = session.session().batch_execute(&last.sql) {
                self.recorder.refused(Phase::Database, last.label, error)?;
            }
        }
        session.close();
        Ok(finals)
    }

    /// Takes out of the plan what would be in the way before the end: a limit of connections keeps our own out. The settings of the database become
    /// statements of their own, so that one that is refused does not cost the others.
    fn finals(&self, plan: &mut Plan) -> Result<Vec<Final>, RestoreError> {
        let (mut finals, mut refused) = (Vec::new(), Vec::new());
        let session = &plan.session;
        let mut last = |step: &Step, sql: &[u8]| match statement_text(sql, &session.encoding, "") {
            Some(text) => finals.push(Final {
                label: step.label.clone(),
                sql: text.into_owned(),
                comment: step.kind == b"COMMENT",
            }),
            None => refused.push(step.label.clone()),
        };
        plan.pre_data.retain_mut(|step| {
            if step.kind == b"DATABASE PROPERTIES" {
                let mut split = Vec::new();
                for statement in &step.statements {
                    for sql in statements(&statement.sql, session.standard_strings) {
                        match is_connection_limit(&sql) {
                            true => last(step, &sql),
                            false => split.push(Statement {
                                kind: statement.kind,
                                sql,
                            }),
                        }
                    }
                }
                step.statements = split;
            }
            let mark = self.mark.is_some() && step.about_database && step.kind == b"COMMENT";
            if mark {
                step.statements
                    .iter()
                    .for_each(|statement| last(step, &statement.sql));
            }
            !mark
        });
        for label in refused {
            self.recorder
                .fail(Phase::Database, label, "the statement is not UTF-8", None)?;
        }
        Ok(finals)
    }

    fn plan(&self, toc: &Toc) -> Result<Plan, RestoreError> {
        let versions = self.archive.description().extensions.iter();
        let versions = versions.filter(|_| self.options.recorded_extensions);
        let options = PlanOptions {
            database: Some(self.target.database().as_bytes().to_vec()),
            no_owner: self.options.no_owner,
            no_privileges: self.options.no_privileges,
            no_tablespaces: self.options.no_tablespaces,
            tablespaces: self.options.tablespaces.clone(),
            extension_versions: versions
                .map(|(name, version)| (name.clone().into_bytes(), version.clone().into_bytes()))
                .collect(),
        };
        let mut plan = Plan::new(toc, &options)?;
        for table in &plan.changed {
            self.recorder.note(format!(
                "{table}: the column option pg_attver of the source's minor release was left out"
            ));
        }
        for entry in &plan.not_planned {
            self.recorder.note(format!("{entry} of schema.dump was not used: rows, sequences and large objects come from the archive itself"));
        }
        if self.options.selection.data_only {
            for steps in [
                &mut plan.pre_data,
                &mut plan.post_data,
                &mut plan.privileges,
                &mut plan.last,
                &mut plan.event_triggers,
            ] {
                steps.clear();
            }
        }
        Ok(plan)
    }

    fn note_versions(&self, maintenance: &PgSession) {
        let (source, target) = (self.archive.description(), maintenance.facts());
        self.recorder
            .report()
            .server_version
            .clone_from(&target.version);
        if self.options.selection.is_all() {
            let lacking = source.not_included.iter();
            lacking.for_each(|what| self.recorder.note(format!("not in the archive: {what}")));
        }
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
        plan: &mut Plan,
    ) -> Result<bool, RestoreError> {
        let database = self.target.database();
        let selection = &self.options.selection;
        let Some(existing) = existing_database(maintenance, database)? else {
            if selection.data_only {
                return Err(RestoreError::Unfit(format!(
                    "there is no database \"{database}\" with tables that rows alone could go into"
                )));
            }
            return Ok(false);
        };
        if self.options.create && !self.options.clean {
            return Err(RestoreError::Unfit(format!(
                "database \"{database}\" is there already, and --create asks for a new one; add --clean to replace it"
            )));
        }
        let whole = !selection.is_partial() && !selection.data_only;
        let mut session = connector.connect(&ConnectOptions::restore())?;
        if whole {
            require_empty(&mut session, database)?;
        } else {
            self.look_at_objects(&mut session, plan)?;
        }
        let info = self.archive.description();
        if existing.encoding != info.encoding {
            if !whole {
                self.recorder.note(format!(
                    "the database has encoding {}, the archived one had {}",
                    existing.encoding, info.encoding
                ));
                return Ok(true);
            }
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

    /// What is restored into a database that is used: what it makes must not be there, what it fills must be.
    fn look_at_objects(
        &self,
        session: &mut PgSession,
        plan: &mut Plan,
    ) -> Result<(), RestoreError> {
        let database = self.target.database().to_owned();
        if self.options.selection.data_only {
            return self.look_at_tables(session);
        }
        let there = existing_relations(session)?;
        let objects: Vec<String> = self
            .selected
            .relations
            .iter()
            .map(|(name, _)| shown(name))
            .filter(|name| there.contains(name))
            .collect();
        if !objects.is_empty() && !self.options.clean {
            return Err(RestoreError::Exists {
                database,
                objects: some_of(&objects),
            });
        }
        // A schema that is there stays as it is.
        let schemas = existing_schemas(session)?;
        plan.pre_data.retain(|step| {
            let name = step.label.strip_prefix("SCHEMA ");
            step.kind != b"SCHEMA" || name.is_none_or(|name| !schemas.contains(name))
        });
        Ok(())
    }

    fn look_at_tables(&self, session: &mut PgSession) -> Result<(), RestoreError> {
        let (mut absent, mut filled) = (Vec::new(), Vec::new());
        let there = existing_relations(session)?;
        for table in &self.archive.description().tables {
            let name = format!("{}.{}", table.schema, table.name);
            if !there.contains(&name) {
                absent.push(name);
            } else if !self.options.clean {
                let sql = format!(
                    "SELECT EXISTS (SELECT FROM ONLY {})",
                    qualified(&table.schema, &table.name)
                );
                if session.query_one(&sql, &[])?.get(0) {
                    filled.push(name);
                }
            }
        }
        if !absent.is_empty() {
            return Err(RestoreError::Unfit(format!(
                "rows alone need their tables, and these are not there: {}",
                some_of(&absent)
            )));
        }
        if !filled.is_empty() {
            return Err(RestoreError::Unfit(format!(
                "these tables hold rows already: {}; --clean deletes them first",
                some_of(&filled)
            )));
        }
        Ok(())
    }

    /// Drops what shall be replaced, all or nothing, and makes the schemas of what was chosen.
    fn make_room(&self, session: &mut PgSession, exists: bool) -> Result<(), RestoreError> {
        let selection = &self.options.selection;
        let mut statements = Vec::new();
        if exists && self.options.clean && selection.data_only {
            let tables = self.archive.description().tables.iter();
            let names: Vec<String> = tables.map(|t| qualified(&t.schema, &t.name)).collect();
            if !names.is_empty() {
                let shown = "rows of the chosen tables".to_owned();
                statements.push((shown, format!("TRUNCATE ONLY {}", names.join(", ONLY "))));
            }
        } else if exists && self.options.clean && selection.is_partial() {
            for (name, sql) in self.selected.relations.iter().rev() {
                let sql = String::from_utf8_lossy(sql).into_owned();
                if let Some(sql) = drop_if_exists(&sql) {
                    statements.push((shown(name), sql));
                }
            }
        }
        // A table takes its sequences along; what depends on one keeps it from going first.
        statements.sort_by_key(|(_, sql)| sql.starts_with("DROP SEQUENCE"));
        if !statements.is_empty() {
            session.batch_execute("BEGIN")?;
            for (object, sql) in &statements {
                if let Err(error) = session.batch_execute(sql) {
                    let reason = error
                        .server_error()
                        .map_or_else(|| error.to_string(), ToString::to_string);
                    session.batch_execute("ROLLBACK")?;
                    return Err(RestoreError::Drop {
                        object: object.clone(),
                        reason,
                    });
                }
            }
            session.batch_execute("COMMIT")?;
        }
        if selection.is_partial() && !selection.data_only && !selection.tables.is_empty() {
            let there = existing_schemas(session)?;
            for schema in &self.selected.schemas {
                let name = String::from_utf8_lossy(schema).into_owned();
                if !there.contains(&name) {
                    let quoted = String::from_utf8_lossy(&quote_identifier(schema)).into_owned();
                    session.batch_execute(&format!("CREATE SCHEMA {quoted}"))?;
                    self.recorder.note(format!("schema {name} was created"));
                }
            }
        }
        Ok(())
    }

    fn globals(&self, existing: &ExistingGlobals) -> Result<Vec<GlobalStatement>, RestoreError> {
        if self.options.globals == Globals::None || self.options.selection.data_only {
            return Ok(Vec::new());
        }
        match self.archive.globals().map_err(RestoreError::Archive)? {
            Some(script) => {
                let mut globals = select_globals(&script, existing, self.options.globals);
                // What stands for a mapped tablespace is the target's own.
                globals.retain(|statement| match &statement.subject {
                    GlobalSubject::CreateTablespace(name) | GlobalSubject::Tablespace(name) => {
                        !self.options.tablespaces.contains_key(name)
                    }
                    _ => true,
                });
                Ok(globals)
            }
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
            let sql = &for_server(
                &step.kind,
                sql,
                maintenance.version_num(),
                plan.session.standard_strings,
            );
            let text = statement_text(sql, &plan.session.encoding, "")
                .ok_or_else(|| refused("its statement is not UTF-8".to_owned()))?;
            match maintenance.batch_execute(&text) {
                Ok(()) => {
                    let mut report = self.recorder.report();
                    report.statements += 1;
                    report.created |= creates;
                }
                Err(error) if creates => {
                    return Err(refused(self.why_not_created(maintenance, &error)));
                }
                Err(error) => self.recorder.refused(
                    Phase::Database,
                    format!("owner of {}", step.label),
                    error,
                )?,
            }
        }
        if let Some(mark) = self.mark {
            maintenance.batch_execute(&comment_on(database, Some(mark)))?;
        }
        Ok(DdlSettings {
            dump: plan.session.clone(),
            server_encoding: encoding.clone(),
            tablespaces,
        })
    }

    fn why_not_created(&self, maintenance: &PgSession, error: &PgError) -> String {
        let said = error
            .server_error()
            .map_or_else(|| error.to_string(), ToString::to_string);
        let role = &maintenance.endpoint().user;
        match error.code() {
            Some("42501") => format!(
                "{said}; ALTER ROLE \"{role}\" CREATEDB, or create it empty and restore into it"
            ),
            _ => said,
        }
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
    fn data(&self, connector: &Connector) -> Result<Loaded, RestoreError> {
        let load = Load {
            archive: self.archive,
            connector,
            recorder: self.recorder,
            stats: &self.options.stats,
            jobs: self.options.jobs,
            binary: Mutex::default(),
        };
        let info = self.archive.description();
        let crew = Crew::new(connector, self.recorder);
        let (loaded, objects) = thread::scope(|scope| {
            let objects = scope.spawn(|| {
                let Some((mut session, _place)) = crew.join(ConnectOptions::restore(), &|| true)?
                else {
                    return Ok(());
                };
                large_objects::restore(
                    self.archive,
                    &mut session,
                    self.large_object_options(),
                    self.recorder,
                )
            });
            let loaded = load.run(&crew);
            (
                loaded,
                objects.join().expect("a worker that panics is our bug"),
            )
        });
        let loaded = loaded?;
        match objects {
            Err(RestoreError::Archive(error)) if is_damage(&error) => {
                self.recorder
                    .damaged(Phase::LargeObjects, "large objects", &error)?
            }
            objects => objects?,
        }
        let mut session = connector.connect(&ConnectOptions::restore())?;
        set_sequences(&mut session, &info.sequences, self.recorder)?;
        Ok(loaded)
    }

    fn check(&self, connector: &Connector, loaded: &Loaded) -> Result<(), RestoreError> {
        let Some(secret) = &self.options.check else {
            return Ok(());
        };
        let info = self.archive.description();
        let check = Check {
            info,
            connector,
            recorder: self.recorder,
            secret,
            loaded,
            jobs: self.options.jobs,
            partial: !self.options.selection.is_all(),
        };
        let report = check.run()?;
        self.recorder.report().check = Some(report);
        Ok(())
    }
}
