//! The steps of a restore, from the stop commands to the queries.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::databases::{chain, sessions};
use super::delta::{Difference, compare};
use super::plan::SessionOnTarget;
use super::prepare::{Prepared, PreparedDatabase, PreparedTree};
use super::queries::{QueryReport, run_query};
use super::relocate::{Relocated, relocate};
use super::services::Services;
use super::trees::Surveyor;
use super::{
    DatabaseAction, DatabaseDone, OnEvent, SiteEvent, SiteRestoreReport, TreeDone, in_use,
};
use crate::error::{Error, Result};
use crate::format::id::ObjectHash;
use crate::format::snapshot::{ComponentKind, ComponentState};
use crate::ops::archive::{SnapshotArchive, restore_error};
use crate::ops::backup::{BackupOptions, Interrupt, backup};
use crate::ops::discover::mapped;
use crate::ops::restore::{RestoreOptions as FileOptions, Trouble, restore};
use crate::ops::snapshots::{self, TAG_SAFETY, open_reader};
use crate::site::config::{Missing, SiteFile};
use crate::source::postgres::{ConnectOptions, Connector, PgSession};
use crate::stats::Stats;
use crate::store::StoreError;
use crate::target::postgres::refill::{Refill, refill};
use crate::target::postgres::{
    Globals, OnError, Replacement, RestoreOptions, RestoreReport, SwapOptions,
};

/// How long sessions may take to leave after the stop commands.
const LEAVE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Prepared {
    /// Does it. An error means that the target is as it was, or, where the message says so, that it has to be gone on with.
    pub fn run(
        mut self,
        stats: &Arc<Stats>,
        interrupt: &Interrupt,
        each: OnEvent<'_>,
    ) -> Result<SiteRestoreReport> {
        if !self.plan.problems.is_empty() {
            return Err(Error::Message(self.plan.problems.join("; ")));
        }
        let site = self.options.site.clone();
        let begun = Instant::now();
        let mut run = Run {
            services: Services::new(&site, &self.options, interrupt),
            report: SiteRestoreReport {
                snapshot: self.plan.snapshot.clone(),
                site: site.name.clone(),
                ..SiteRestoreReport::default()
            },
            prepared: &mut self,
            site: &site,
            stats,
            interrupt,
            each,
            touched: false,
        };
        run.touched = run.prepared.progress.changed;
        let loaded = match run.before_the_change() {
            Ok(loaded) => loaded,
            Err(error) => return Err(run.as_it_was(error)),
        };
        if let Err(error) = run.change(loaded) {
            return Err(match run.touched {
                true => run.half_done(error),
                false => {
                    run.prepared.file.remove();
                    run.as_it_was(error)
                }
            });
        }
        run.after_the_change();
        let Run {
            services,
            mut report,
            ..
        } = run;
        report.down_seconds = services.down.map(|down| down.as_secs_f64());
        report.commands = services.into_reports();
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }
}

/// A database that is ready to take its place.
enum Loaded {
    /// Beside the old one.
    Beside(Box<(Replacement, RestoreReport)>),
    /// In a transaction that is open.
    Within(Box<Refill>),
    /// Nothing is to be done.
    Done,
}

struct Run<'a> {
    prepared: &'a mut Prepared,
    site: &'a Arc<SiteFile>,
    stats: &'a Arc<Stats>,
    interrupt: &'a Interrupt,
    each: OnEvent<'a>,
    services: Services<'a>,
    report: SiteRestoreReport,
    /// Whether anything of the target was changed, by this run or the one that it goes on with.
    touched: bool,
}

impl Run<'_> {
    fn step(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::info!("{text}");
        (self.each)(&SiteEvent::Step(text));
    }

    fn note(&self, text: impl Into<String>) {
        (self.each)(&SiteEvent::Note(text.into()));
    }

    /// Everything that leaves the target as it is.
    fn before_the_change(&mut self) -> Result<Vec<(usize, Loaded)>> {
        if self.prepared.plan.stop_commands > 0 {
            self.step("stopping the site");
        }
        if let Some(held) = self.services.stop()? {
            self.note(format!("the site is stopped already: {held}"));
            self.touched = true;
        }
        self.nobody_is_there()?;
        let safety = self.safety_backup()?;
        self.report.safety_backup = self.prepared.progress.safety.clone();
        let differences = self.differences(safety)?;
        let mut loaded = Vec::new();
        for (n, difference) in differences.into_iter().enumerate() {
            match self.load(n, difference) {
                Ok(one) => loaded.push((n, one)),
                Err(error) => {
                    for (_, other) in loaded {
                        self.abandon(other);
                    }
                    return Err(error);
                }
            }
        }
        Ok(loaded)
    }

    fn abandon(&self, loaded: Loaded) {
        if let Loaded::Beside(beside) = loaded
            && let Some(left) = beside.0.abandon()
        {
            self.note(left);
        }
    }

    /// Starts the site again after a failure that changed nothing.
    fn as_it_was(&mut self, error: Error) -> Error {
        let stopped = self.services.are_stopped();
        if self.touched {
            // An earlier run has changed something already.
            return self.half_done(error);
        }
        let problems = self.services.start();
        let state = match (stopped, problems.is_empty()) {
            (_, false) => format!(
                "nothing of the site was changed, but it was not started again: {}",
                problems.join("; ")
            ),
            (true, true) => "nothing of the site was changed, and it was started again".into(),
            (false, true) => "nothing of the site was changed".into(),
        };
        self.with(error, &state)
    }

    /// The words of an error and what became of the site, in one message where the error has no kind of its own.
    fn with(&self, error: Error, state: &str) -> Error {
        match error {
            Error::Message(text) => Error::Message(format!("{text}; {state}")),
            error => {
                self.note(state);
                error
            }
        }
    }

    /// What is to be typed after a failure in the middle.
    fn half_done(&mut self, error: Error) -> Error {
        self.services.leave();
        let site = self.site.path.display();
        let short = self.prepared.plan.snapshot.get(..12).unwrap_or_default();
        let (started, start) = match self.site.quiesce {
            Some(_) => (
                "parts of the site are new and others old, and it was not started",
                format!(", or start it as it is: holdfast site start --site {site}"),
            ),
            None => ("parts of the site are new and others old", String::new()),
        };
        let back = match &self.prepared.progress.safety {
            Some(name) => {
                format!(", or back to what was there before: holdfast restore {name} --site {site}")
            }
            None => String::new(),
        };
        let state = format!(
            "{started}; go on, when the cause is mended, with: holdfast restore {short} --site {site}{back}{start}"
        );
        self.with(error, &state)
    }

    /// Refuses databases that somebody uses, also after the stop commands.
    fn nobody_is_there(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut found: Vec<SessionOnTarget> = Vec::new();
            for database in &self.prepared.databases {
                if self.prepared.is_done(&database.path) || !database.exists {
                    continue;
                }
                let at = database
                    .target
                    .maintenance()
                    .and_then(|mut session| sessions(&mut session, database.target.database()));
                found.extend(at.map_err(restore_error)?);
            }
            if found.is_empty() || self.prepared.options.end_sessions {
                return Ok(());
            }
            let waits = self.services.are_stopped() && begun.elapsed() < LEAVE;
            if !waits || self.interrupt.is_set() {
                return in_use(&found).map_or(Ok(()), |text| Err(Error::Message(text)));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Takes the target as it is into the repository.
    fn safety_backup(&mut self) -> Result<Option<ObjectHash>> {
        let Some(name) = self.prepared.plan.safety_backup.clone() else {
            return Ok(None);
        };
        self.step(format!("backing the target up as {name}"));
        let mut site = SiteFile::clone(self.site);
        // What is not there yet has nothing to save.
        site.require_all = false;
        site.quiesce = None;
        site.preflight.clear();
        site.references.clear();
        site.shares
            .retain(|share| !share.path.as_os_str().is_empty() || share.discovery.is_some());
        for share in &mut site.shares {
            share.allow_empty = true;
            share.snapshot = None;
        }
        for files in &mut site.files {
            files.missing = Missing::Ok;
        }
        for certificates in &mut site.certificates {
            certificates.missing = Missing::Ok;
        }
        let prepared = &mut *self.prepared;
        let mut options = BackupOptions::new(prepared.options.host.clone());
        options.site_name.clone_from(&site.name);
        options.site = Some(Arc::new(site));
        options.name = Some(name.clone());
        let short = prepared.plan.snapshot.get(..12).unwrap_or_default();
        options.tags = vec![
            (TAG_SAFETY.0.into(), TAG_SAFETY.1.into()),
            ("restores".into(), short.to_owned()),
        ];
        options.user.clone_from(&prepared.options.user);
        options.environment = prepared.options.environment.clone();
        let stats = Arc::default();
        let taken = backup(&prepared.repository, &options, &stats, self.interrupt)?;
        for component in &taken.components {
            let path = format!("{}/{}", component.kind.folder(), component.name);
            match component.state {
                ComponentState::Complete => {}
                ComponentState::Incomplete => (self.each)(&SiteEvent::Note(format!(
                    "the backup of the target is incomplete in {path}: {}",
                    component.message
                ))),
                ComponentState::Failed if prepared.is_there(component.kind, &component.name) => {
                    return Err(Error::Message(format!(
                        "the target could not be backed up before the restore, {path} failed: {}; mend it, or do without by --no-safety-backup",
                        component.message
                    )));
                }
                ComponentState::Failed => (self.each)(&SiteEvent::Note(format!(
                    "{path} is not there yet, so that nothing of it was backed up"
                ))),
            }
        }
        prepared.progress.safety = Some(name);
        Ok(Some(taken.snapshot))
    }

    /// What is to be done with each database.
    fn differences(&mut self, safety: Option<ObjectHash>) -> Result<Vec<Difference>> {
        let whole = || Difference::More(String::new());
        let prepared = &*self.prepared;
        let Some(safety) = safety.filter(|_| prepared.options.delta) else {
            return Ok(prepared.databases.iter().map(|_| whole()).collect());
        };
        self.step("comparing the databases");
        let mut damage = |e: StoreError| tracing::warn!("{e}");
        let state = prepared.repository.read_state()?;
        let all = snapshots::list(&prepared.repository, &state, &mut damage)?;
        let now = snapshots::resolve_live(&state, &all, &safety.to_string())?;
        let reader = open_reader(&prepared.repository, &state, Some(now.id), &mut damage)?;
        let mut found = Vec::new();
        for database in &prepared.databases {
            let taken = now.record.components.iter().any(|component| {
                component.kind == ComponentKind::Database
                    && component.name == database.name
                    && component.state != ComponentState::Failed
            });
            found.push(match taken {
                false => Difference::More("there is none".into()),
                true => {
                    let root = &now.record.root;
                    let now = SnapshotArchive::open(reader.clone(), root, &database.name)?;
                    compare(&database.archive, &now)?
                }
            });
        }
        Ok(found)
    }

    fn database_options(&self) -> RestoreOptions {
        let options = &self.prepared.options;
        RestoreOptions {
            jobs: options.jobs,
            globals: Globals::Missing,
            clean: true,
            on_error: OnError::Continue,
            swap: SwapOptions::default(),
            stats: self.stats.clone(),
            interrupted: self.interrupt.flag(),
            ..RestoreOptions::default()
        }
    }

    /// Loads one database, so that it only has to take its place.
    fn load(&mut self, n: usize, difference: Difference) -> Result<Loaded> {
        if self.interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        let database = &self.prepared.databases[n];
        let mut done = DatabaseDone {
            name: database.name.clone(),
            ..DatabaseDone::default()
        };
        let relocates = self.relocates(&database.name);
        let loaded = if self.prepared.is_done(&database.path) {
            done.action = DatabaseAction::DoneBefore;
            Loaded::Done
        } else {
            match difference {
                Difference::Nothing if !relocates => {
                    done.action = DatabaseAction::Unchanged;
                    Loaded::Done
                }
                Difference::Nothing => self.load_rows(database, &[], &mut done)?,
                Difference::Rows(tables) => self.load_rows(database, &tables, &mut done)?,
                Difference::More(why) => self.load_whole(database, why, &mut done)?,
            }
        };
        self.report.databases.push(done);
        Ok(loaded)
    }

    fn relocates(&self, name: &str) -> bool {
        self.site.relocate.iter().any(|r| r.database == name)
    }

    fn load_rows(
        &self,
        database: &PreparedDatabase,
        tables: &[usize],
        done: &mut DatabaseDone,
    ) -> Result<Loaded> {
        self.step(format!(
            "database {}: loading {} tables that differ",
            database.name,
            tables.len()
        ));
        let options = self.database_options();
        let session = database.target.maintenance().map_err(restore_error)?;
        let connector = database.target.connector(&session);
        drop(session);
        let filled = refill(&connector, &database.archive, tables, &options);
        match filled.map_err(restore_error)? {
            Err(why) => self.load_whole(database, why, done),
            Ok(mut refill) => {
                done.action = DatabaseAction::Refilled;
                done.tables = u64::try_from(tables.len()).unwrap_or(u64::MAX);
                done.rows = refill.rows;
                done.relocated = self.relocate(&database.name, refill.session())?;
                Ok(Loaded::Within(Box::new(refill)))
            }
        }
    }

    fn load_whole(
        &self,
        database: &PreparedDatabase,
        why: String,
        done: &mut DatabaseDone,
    ) -> Result<Loaded> {
        self.step(format!("database {}: restoring", database.name));
        let options = self.database_options();
        let (beside, report) = Replacement::restore(&database.target, &database.archive, &options)
            .map_err(restore_error)?;
        if !report.is_complete() && (report.stopped || !self.prepared.options.allow_incomplete) {
            let text = not_restored(&database.name, &report);
            self.abandon(Loaded::Beside(Box::new((beside, report))));
            return Err(Error::Message(text));
        }
        match self.relocate_beside(&database.name, &beside.connector()) {
            Ok(relocated) => done.relocated = relocated,
            Err(error) => {
                self.abandon(Loaded::Beside(Box::new((beside, report))));
                return Err(error);
            }
        }
        done.action = match database.exists {
            true => DatabaseAction::Replaced,
            false => DatabaseAction::Created,
        };
        done.tables = u64::try_from(report.tables.len()).unwrap_or(u64::MAX);
        done.rows = report.rows;
        done.why_whole = (!why.is_empty() && database.exists).then_some(why);
        Ok(Loaded::Beside(Box::new((beside, report))))
    }

    fn relocate_beside(&self, name: &str, connector: &Connector) -> Result<Vec<Relocated>> {
        if !self.relocates(name) {
            return Ok(Vec::new());
        }
        let failed = |e: crate::source::postgres::PgError| {
            Error::Message(format!("the relocation of database {name:?} failed: {e}"))
        };
        let mut session = connector
            .connect(&ConnectOptions::default())
            .map_err(failed)?;
        session.batch_execute("BEGIN").map_err(failed)?;
        let relocated = self.relocate(name, &mut session)?;
        session.batch_execute("COMMIT").map_err(failed)?;
        session.close();
        Ok(relocated)
    }

    fn relocate(&self, name: &str, session: &mut PgSession) -> Result<Vec<Relocated>> {
        let mut all = Vec::new();
        for settings in self.site.relocate.iter().filter(|r| r.database == name) {
            let done = relocate(session, settings);
            all.extend(done.map_err(|e| Error::Message(e.0))?);
        }
        Ok(all)
    }

    /// Changes the target; what is done is remembered.
    fn change(&mut self, loaded: Vec<(usize, Loaded)>) -> Result<()> {
        let short = self.prepared.plan.snapshot.get(..12).unwrap_or_default();
        self.services.hold(&format!(
            "the restore of snapshot {short} has not come to its end"
        ))?;
        if self.interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        self.prepared.progress.changed = true;
        self.remember()?;
        let mut loaded = loaded.into_iter();
        while let Some((n, one)) = loaded.next() {
            if let Err(error) = self.take_place(n, one) {
                for (_, other) in loaded {
                    self.abandon(other);
                }
                return Err(error);
            }
        }
        self.touched = true;
        for n in 0..self.prepared.trees.len() {
            self.tree(n)?;
        }
        for command in &self.site.restore.post_commands {
            self.step("running a command after the restore");
            self.services.post(command)?;
        }
        Ok(())
    }

    fn remember(&self) -> Result<()> {
        let progress = &self.prepared.progress;
        let written = self.prepared.file.write(progress);
        written.map_err(|e| Error::local("cannot write how far the restore is", e))
    }

    fn done(&mut self, path: String) -> Result<()> {
        if !self.prepared.is_done(&path) {
            self.prepared.progress.done.push(path);
            self.remember()?;
        }
        Ok(())
    }

    fn take_place(&mut self, n: usize, loaded: Loaded) -> Result<()> {
        let database = &self.prepared.databases[n];
        match loaded {
            Loaded::Done => {}
            Loaded::Within(refill) => {
                // Of a commit that fails nobody knows at once what it did.
                self.touched = true;
                refill.commit(&database.archive).map_err(restore_error)?;
            }
            Loaded::Beside(beside) => {
                let (replacement, mut report) = *beside;
                self.step(format!("database {}: takes its place", database.name));
                let swap = SwapOptions {
                    incomplete: self.prepared.options.allow_incomplete,
                    ..SwapOptions::default()
                };
                replacement
                    .swap(&swap, &mut report)
                    .map_err(restore_error)?;
                self.touched = true;
                self.report.databases[n].report = Some(report);
            }
        }
        let path = database.path.clone();
        self.done(path)
    }

    /// One share, list of files or certificates.
    fn tree(&mut self, n: usize) -> Result<()> {
        let tree = &self.prepared.trees[n];
        let mut done = TreeDone {
            component: tree.path.clone(),
            ..TreeDone::default()
        };
        if self.prepared.is_done(&tree.path) {
            done.done_before = true;
            done.to = tree.to.as_deref().map(shown).unwrap_or_default();
            self.report.trees.push(done);
            return Ok(());
        }
        let to = match &tree.to {
            Some(to) => to.clone(),
            None => self.discover(tree)?,
        };
        done.to = shown(&to);
        self.step(format!("{}: restoring to {}", tree.path, done.to));
        if tree.delete {
            done.removed = self.remove(tree, &to)?;
        }
        let options = FileOptions {
            ownership: self.prepared.options.ownership,
            special: self.prepared.options.special,
            in_place: true,
            amid_others: tree.kind != ComponentKind::Share,
            threads: Some(self.prepared.options.jobs),
            ..FileOptions::default()
        };
        let spec = format!("{}:{}", self.prepared.plan.snapshot, tree.path);
        let each = self.each;
        done.summary = restore(
            &self.prepared.repository,
            &spec,
            &to,
            &options,
            self.stats,
            self.interrupt,
            &|trouble| each(&SiteEvent::Trouble(trouble.clone())),
        )?;
        if self.interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        let path = tree.path.clone();
        self.report.trees.push(done);
        self.done(path)
    }

    fn remove(&self, tree: &PreparedTree, to: &Path) -> Result<u64> {
        let mut surveyor = Surveyor::new(&self.prepared.reader, self.interrupt, &tree.excludes)?;
        surveyor.extra = true;
        surveyor.remove = true;
        let found = surveyor.survey(&tree.node, to)?;
        for (path, what) in found.troubles {
            (self.each)(&SiteEvent::Trouble(Trouble {
                kind: crate::ops::restore::TroubleKind::Skipped,
                path,
                what,
            }));
        }
        Ok(found.removed)
    }

    /// Asks the restored database where a share is.
    fn discover(&self, tree: &PreparedTree) -> Result<PathBuf> {
        let of = |what: String| {
            Error::Message(format!("the path of {} is not known: {what}", tree.path))
        };
        let share = self.site.shares.iter().find(|s| s.name == tree.name);
        let discovery = share.and_then(|share| share.discovery.as_ref());
        let discovery = discovery.ok_or_else(|| of("the site file has none".into()))?;
        let databases = self.site.databases.iter();
        let settings = databases.clone().find(|d| d.name == discovery.database);
        let settings = settings.ok_or_else(|| of("its database is not known".into()))?;
        let target = super::databases::target(settings, &self.prepared.options.environment)?;
        let session = target.maintenance().map_err(restore_error)?;
        let mut session = target
            .connector(&session)
            .connect(&ConnectOptions::default())
            .map_err(|e| of(e.to_string()))?;
        let found = session
            .simple_column(&discovery.sql)
            .map_err(|e| of(e.to_string()))?;
        let [Some(found)] = found.as_slice() else {
            return Err(of(format!(
                "the query gives {} values instead of one",
                found.len()
            )));
        };
        mapped(found, &discovery.map).map_err(of)
    }

    /// The site is as archived: it is started, and looked at.
    fn after_the_change(&mut self) {
        if self.services.are_stopped() {
            self.step("starting the site");
        }
        let problems = self.services.start();
        self.report.problems.extend(problems);
        self.prepared.file.remove();
        for query in &self.site.restore.queries {
            let settings = self.site.databases.iter();
            let settings = settings.clone().find(|d| d.name == query.database);
            let Some(settings) = settings else { continue };
            self.step(format!("query {}", query.name));
            let target = super::databases::target(settings, &self.prepared.options.environment);
            let report = match target.map(|target| target.own_connector()) {
                Ok(connector) => run_query(&connector, query),
                Err(error) => QueryReport {
                    name: query.name.clone(),
                    database: query.database.clone(),
                    problem: Some(chain(&error)),
                    ..QueryReport::default()
                },
            };
            self.report.queries.push(report);
        }
    }
}

fn shown(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

fn not_restored(name: &str, report: &RestoreReport) -> String {
    let failures: Vec<String> = report
        .failures
        .iter()
        .take(3)
        .map(|failure| format!("{}: {}", failure.object, failure.reason))
        .collect();
    let more = match report.failures.len().saturating_sub(failures.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "database {name:?} could not be restored completely ({}{more}); --allow-incomplete takes it as it is",
        failures.join("; ")
    )
}

impl Prepared {
    /// Whether a component of the target stands at its place today.
    fn is_there(&self, kind: ComponentKind, name: &str) -> bool {
        let site = &self.options.site;
        match kind {
            ComponentKind::Database => {
                let known = self.databases.iter().find(|d| d.name == name);
                known.is_some_and(|database| database.exists)
            }
            ComponentKind::Share => site
                .shares
                .iter()
                .any(|share| share.name == name && share.path.is_dir()),
            _ => false,
        }
    }
}
