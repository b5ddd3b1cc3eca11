//! From a table of contents to statements in the order in which `pg_restore` executes them. Pure: it connects to nothing; what it is told of the
//! target are names.
//!
//! 1. *database*: `CREATE DATABASE` and its owner, on a maintenance connection.
//! 2. *pre-data*: serial, in the archive's order, with the comments of its objects.
//! 3. data (not planned here: our own parts, sequences and large objects).
//! 4. *post-data*: in parallel. An entry runs when what it depends on has run, and not beside one that locks a table that it needs
//!    (`schedule`); foreign keys after everything else.
//! 5. *privileges*: `ACL` and `DEFAULT ACL`.
//! 6. *last*: materialized views (whose queries need the privileges) and their statistics.
//! 7. *event triggers*, which would fire on all before, also when somebody logs in, and their comments.
//!
//! Invariants: (1) every entry of the archive lands in exactly one list (`every_entry_is_planned_once`); (2) an entry never comes before one that it
//! depends on within its pass (`dependencies_come_first`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use thiserror::Error;

use super::sql::{
    database_tablespace, map_tablespace, quote_identifier, quote_literal, rename_database,
    roles_after, statements, tokens, without_internal_option,
};
use super::toc::{Entry, RELKIND_PARTITIONED, Section, Toc};

/// Why an archive cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// An entry that every archive has is missing or says what no `pg_dump` writes.
    #[error("schema.dump has no usable {0} entry")]
    Session(&'static str),
}

/// What the user wants left out.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Name of the restored database; the archive's own when `None`.
    pub database: Option<Vec<u8>>,
    /// Everything belongs to the connected role.
    pub no_owner: bool,
    /// No `GRANT` and `REVOKE`.
    pub no_privileges: bool,
    /// Everything goes to the default tablespace.
    pub no_tablespaces: bool,
    /// New names of tablespaces by old ones.
    pub tablespaces: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Versions that extensions are created in; those that are not named get the target's own.
    pub extension_versions: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// How `pg_dump` wrote its statements; a session that executes them must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpSession {
    /// `client_encoding`.
    pub encoding: Vec<u8>,
    /// `standard_conforming_strings`.
    pub standard_strings: bool,
    /// Sets the search path.
    pub search_path: Vec<u8>,
}

/// What a statement is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// Makes the object.
    Definition,
    /// Sets the access method of a partitioned table.
    AccessMethod,
    /// Gives the object to its owner.
    Owner,
}

/// One string to execute as a simple query, so in a transaction of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it is there for.
    pub kind: StatementKind,
    /// In the dump's encoding.
    pub sql: Vec<u8>,
}

/// An entry of the archive, ready to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its id in the archive.
    pub id: i32,
    /// Its kind, as `TABLE`.
    pub kind: Vec<u8>,
    /// Kind, schema and name for messages.
    pub label: String,
    /// `default_tablespace` that must be set before: empty is the database's own, `None` does not matter.
    pub tablespace: Option<Vec<u8>>,
    /// `default_table_access_method` that must be set before.
    pub table_am: Option<Vec<u8>>,
    /// What to execute; may be empty.
    pub statements: Vec<Statement>,
    /// Entries that it depends on.
    pub dependencies: Vec<i32>,
    /// Tables that it locks exclusively (post-data only).
    pub locks: Vec<i32>,
    /// It is about the database itself, not about something in it.
    pub about_database: bool,
}

impl Step {
    /// Whether this is a foreign key, or something about one.
    pub(crate) fn is_foreign_key(&self) -> bool {
        self.kind == b"FK CONSTRAINT"
    }
}

/// All statements of a restore.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How sessions must be set.
    pub session: DumpSession,
    /// Name of the database in the archive.
    pub source_database: Vec<u8>,
    /// `CREATE DATABASE` and its owner.
    pub database: Vec<Step>,
    /// Tablespace that `CREATE DATABASE` names, and the statement without it.
    pub database_tablespace: Option<(Vec<u8>, Vec<u8>)>,
    /// Before any row.
    pub pre_data: Vec<Step>,
    /// After all rows, in the archive's order.
    pub post_data: Vec<Step>,
    /// `GRANT` and `REVOKE`.
    pub privileges: Vec<Step>,
    /// Materialized views.
    pub last: Vec<Step>,
    /// Event triggers: the views are not refreshed under them, and nobody of ours logs in after them.
    pub event_triggers: Vec<Step>,
    /// Tables from whose definition an option was left out that only the source's minor release knows.
    pub changed: Vec<String>,
    /// Entries of data, which come from our own parts and not from this archive.
    pub not_planned: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Session,
    Database,
    PreData,
    Data,
    PostData,
    Privileges,
    Last,
    EventTriggers,
}

impl Plan {
    /// Plans a restore of the archive.
    pub fn new(toc: &Toc, options: &PlanOptions) -> Result<Self, PlanError> {
        let session = dump_session(toc)?;
        let standard = session.standard_strings;
        let source_database = toc
            .entries
            .iter()
            .find(|e| e.kind() == b"DATABASE")
            .map(|e| e.tag().to_vec())
            .or_else(|| toc.header.database.clone())
            .unwrap_or_default();
        let mut plan = Self {
            session,
            source_database,
            database: Vec::new(),
            database_tablespace: None,
            pre_data: Vec::new(),
            post_data: Vec::new(),
            privileges: Vec::new(),
            last: Vec::new(),
            event_triggers: Vec::new(),
            changed: Vec::new(),
            not_planned: Vec::new(),
        };
        let sections = Sections::new(toc);
        let tables = table_ids(toc);
        for entry in &toc.entries {
            let mut step = step(entry, options);
            plan.leave_out_internal_options(&mut step);
            if is_about_database(entry) {
                plan.rename(&mut step, options, standard);
            }
            match pass(entry, &sections) {
                Pass::Session => {}
                Pass::Data => plan.not_planned.push(step.label),
                Pass::Database => {
                    if let Some(statement) = step.statements.first_mut() {
                        let map = &options.tablespaces;
                        statement.sql = map_tablespace(&statement.sql, map, standard);
                    }
                    plan.database_tablespace = step
                        .statements
                        .first()
                        .and_then(|s| database_tablespace(&s.sql, standard));
                    plan.database.push(step);
                }
                Pass::PreData => plan.pre_data.push(step),
                Pass::PostData => {
                    step.locks = locks(entry, &tables);
                    plan.post_data.push(step);
                }
                Pass::Privileges if options.no_privileges => {}
                Pass::Privileges => plan.privileges.push(step),
                Pass::Last => plan.last.push(step),
                Pass::EventTriggers => plan.event_triggers.push(step),
            }
        }
        Ok(plan)
    }

    fn leave_out_internal_options(&mut self, step: &mut Step) {
        if !matches!(
            step.kind.as_slice(),
            b"TABLE" | b"FOREIGN TABLE" | b"MATERIALIZED VIEW"
        ) {
            return;
        }
        for statement in &mut step.statements {
            if let Some(kept) =
                without_internal_option(&statement.sql, self.session.standard_strings)
            {
                statement.sql = kept;
                self.changed.push(step.label.clone());
            }
        }
    }

    fn rename(&self, step: &mut Step, options: &PlanOptions, standard: bool) {
        let Some(to) = options
            .database
            .as_deref()
            .filter(|to| *to != self.source_database)
        else {
            return;
        };
        for statement in &mut step.statements {
            statement.sql = rename_database(&statement.sql, &self.source_database, to, standard);
        }
    }

    /// Roles that the statements name, in order of their names: what the target needs before anything is created.
    pub fn roles(&self) -> BTreeSet<Vec<u8>> {
        const ACL: [&str; 5] = ["TO", "FROM", "ROLE", "AUTHORIZATION", "BY"];
        let standard = self.session.standard_strings;
        let mut roles = BTreeSet::new();
        for step in self.steps() {
            for statement in &step.statements {
                let found = match (statement.kind, step.kind.as_slice()) {
                    (StatementKind::Owner, _) => last_identifier(&statement.sql, standard)
                        .into_iter()
                        .collect(),
                    (_, b"ACL" | b"DEFAULT ACL") => roles_after(&statement.sql, &ACL, standard),
                    (_, b"POLICY") => roles_after(&statement.sql, &["TO"], standard),
                    (_, b"USER MAPPING") => roles_after(&statement.sql, &["FOR"], standard),
                    (_, b"DATABASE PROPERTIES") => statements(&statement.sql, standard)
                        .iter()
                        .flat_map(|sql| roles_after(sql, &["ROLE"], standard))
                        .collect(),
                    _ => Vec::new(),
                };
                roles.extend(found);
            }
        }
        roles
    }

    /// Tablespaces that the statements name.
    pub fn tablespaces(&self) -> BTreeSet<Vec<u8>> {
        let of_steps = self
            .steps()
            .filter_map(|s| s.tablespace.clone())
            .filter(|t| !t.is_empty());
        of_steps
            .chain(
                self.database_tablespace
                    .iter()
                    .map(|(name, _)| name.clone()),
            )
            .collect()
    }

    /// Every step, in the order of the passes.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.database
            .iter()
            .chain(&self.pre_data)
            .chain(&self.post_data)
            .chain(&self.privileges)
            .chain(&self.last)
            .chain(&self.event_triggers)
    }
}

fn last_identifier(sql: &[u8], standard: bool) -> Option<Vec<u8>> {
    tokens(sql, standard).last().and_then(|t| t.identifier(sql))
}

/// How the statements of an archive are written.
pub fn dump_session(toc: &Toc) -> Result<DumpSession, PlanError> {
    let definition = |kind: &'static str| {
        toc.entries
            .iter()
            .find(|e| e.kind() == kind.as_bytes())
            .map(Entry::definition)
            .ok_or(PlanError::Session(kind))
    };
    let quoted = |kind: &'static str| {
        let mut parts = definition(kind)?.split(|b| *b == b'\'');
        parts
            .nth(1)
            .map(<[u8]>::to_vec)
            .ok_or(PlanError::Session(kind))
    };
    Ok(DumpSession {
        encoding: quoted("ENCODING")?,
        standard_strings: quoted("STDSTRINGS")? == b"on",
        search_path: definition("SEARCHPATH")?.to_vec(),
    })
}

fn pass(entry: &Entry, sections: &Sections<'_>) -> Pass {
    match entry.kind() {
        b"ENCODING" | b"STDSTRINGS" | b"SEARCHPATH" => Pass::Session,
        b"DATABASE" => Pass::Database,
        b"ACL" | b"DEFAULT ACL" => Pass::Privileges,
        b"MATERIALIZED VIEW DATA" => Pass::Last,
        b"EVENT TRIGGER" => Pass::EventTriggers,
        b"COMMENT" | b"SECURITY LABEL" if entry.tag().starts_with(b"EVENT TRIGGER ") => {
            Pass::EventTriggers
        }
        b"STATISTICS DATA" if entry.section == Section::PostData => Pass::Last,
        b"BLOB" | b"BLOBS" | b"BLOB METADATA" => Pass::Data,
        _ => match sections.of(entry) {
            Section::Data => Pass::Data,
            Section::PostData => Pass::PostData,
            Section::PreData | Section::None => Pass::PreData,
        },
    }
}

/// Which section an entry belongs to; those of no section follow what they depend on.
struct Sections<'a> {
    by_id: HashMap<i32, &'a Entry>,
}

impl<'a> Sections<'a> {
    fn new(toc: &'a Toc) -> Self {
        Self {
            by_id: toc.entries.iter().map(|e| (e.id, e)).collect(),
        }
    }

    fn of(&self, entry: &Entry) -> Section {
        let mut latest = entry.section;
        let mut waiting = vec![entry];
        let mut seen = BTreeSet::from([entry.id]);
        while let Some(entry) = waiting.pop() {
            latest = latest.max(entry.section);
            if entry.section == Section::None {
                let parents = entry.dependencies.iter().filter(|id| seen.insert(**id));
                waiting.extend(parents.filter_map(|id| self.by_id.get(id)));
            }
        }
        latest
    }
}

fn is_about_database(entry: &Entry) -> bool {
    matches!(entry.kind(), b"DATABASE" | b"DATABASE PROPERTIES")
        || matches!(entry.kind(), b"COMMENT" | b"ACL" | b"SECURITY LABEL")
            && entry.tag().starts_with(b"DATABASE ")
}

fn table_ids(toc: &Toc) -> BTreeSet<i32> {
    toc.entries
        .iter()
        .filter(|e| matches!(e.kind(), b"TABLE" | b"TABLE DATA"))
        .map(|e| e.id)
        .collect()
}

/// Nearly all of post-data is `ALTER TABLE` or like it, and locks the tables that it depends on; `CREATE INDEX` does not.
fn locks(entry: &Entry, tables: &BTreeSet<i32>) -> Vec<i32> {
    if entry.kind() == b"INDEX" {
        return Vec::new();
    }
    entry
        .dependencies
        .iter()
        .copied()
        .filter(|id| tables.contains(id))
        .collect()
}

fn step(entry: &Entry, options: &PlanOptions) -> Step {
    let partitioned = entry.relkind == RELKIND_PARTITIONED;
    let table_am = entry.table_am.clone().filter(|am| !am.is_empty());
    let mut statements = Vec::new();
    if !is_only_comment(entry.definition()) {
        let version = (entry.kind() == b"EXTENSION")
            .then(|| options.extension_versions.get(entry.tag()))
            .flatten();
        statements.push(Statement {
            kind: StatementKind::Definition,
            sql: with_version(entry.definition(), version),
        });
    }
    if let Some(am) = table_am.as_deref().filter(|_| partitioned) {
        statements.push(Statement {
            kind: StatementKind::AccessMethod,
            sql: set_access_method(entry, am),
        });
    }
    if !options.no_owner {
        statements.extend(owner(entry).map(|sql| Statement {
            kind: StatementKind::Owner,
            sql,
        }));
    }
    Step {
        id: entry.id,
        kind: entry.kind().to_vec(),
        label: entry.label(),
        tablespace: entry
            .tablespace
            .as_ref()
            .filter(|_| !options.no_tablespaces)
            .map(|name| options.tablespaces.get(name).unwrap_or(name).clone()),
        table_am: table_am.filter(|_| !partitioned),
        statements,
        dependencies: entry.dependencies.clone(),
        locks: Vec::new(),
        about_database: is_about_database(entry),
    }
}

/// `CREATE EXTENSION` with the version that it had.
fn with_version(definition: &[u8], version: Option<&Vec<u8>>) -> Vec<u8> {
    let Some(version) = version else {
        return definition.to_vec();
    };
    let definition = definition.trim_ascii_end();
    let definition = definition.strip_suffix(b";").unwrap_or(definition);
    [definition, b" VERSION ", &quote_literal(version), b";\n"].concat()
}

/// `SCHEMA public` may say that it is not created; it still has an owner.
fn is_only_comment(definition: &[u8]) -> bool {
    definition
        .split(|b| *b == b'\n')
        .all(|line| line.starts_with(b"--") || line.trim_ascii().is_empty())
}

fn qualified(entry: &Entry) -> Vec<u8> {
    let mut name = Vec::new();
    if let Some(namespace) = entry.namespace.as_deref().filter(|n| !n.is_empty()) {
        name.extend(quote_identifier(namespace));
        name.push(b'.');
    }
    name.extend(quote_identifier(entry.tag()));
    name
}

fn set_access_method(entry: &Entry, am: &[u8]) -> Vec<u8> {
    [
        b"ALTER TABLE ",
        qualified(entry).as_slice(),
        b" SET ACCESS METHOD ",
        &quote_identifier(am),
    ]
    .concat()
}

/// `ALTER … OWNER TO`. What has no statement to drop it has no owner of its own.
fn owner(entry: &Entry) -> Option<Vec<u8>> {
    let owner = entry.owner.as_deref().filter(|o| !o.is_empty())?;
    let drop = entry.drop.as_deref().filter(|d| !d.is_empty())?;
    let object = match entry.kind() {
        b"COLLATION"
        | b"CONVERSION"
        | b"DOMAIN"
        | b"TABLE"
        | b"TYPE"
        | b"FOREIGN TABLE"
        | b"TEXT SEARCH DICTIONARY"
        | b"TEXT SEARCH CONFIGURATION"
        | b"STATISTICS" => [entry.kind(), b" ", &qualified(entry)].concat(),
        b"VIEW" | b"MATERIALIZED VIEW" | b"SEQUENCE" => {
            [b"TABLE ", qualified(entry).as_slice()].concat()
        }
        b"DATABASE"
        | b"PROCEDURAL LANGUAGE"
        | b"SCHEMA"
        | b"EVENT TRIGGER"
        | b"FOREIGN DATA WRAPPER"
        | b"SERVER"
        | b"PUBLICATION"
        | b"SUBSCRIPTION" => [entry.kind(), b" ", &quote_identifier(entry.tag())].concat(),
        // These need argument types or an access method, which only the statement to drop them has.
        b"AGGREGATE" | b"FUNCTION" | b"OPERATOR" | b"OPERATOR CLASS" | b"OPERATOR FAMILY"
        | b"PROCEDURE" => drop
            .strip_prefix(b"DROP ")?
            .trim_ascii_end()
            .strip_suffix(b";")?
            .to_vec(),
        _ => return None,
    };
    Some(
        [
            b"ALTER ",
            object.as_slice(),
            b" OWNER TO ",
            &quote_identifier(owner),
        ]
        .concat(),
    )
}

/// `SET default_tablespace`; empty is the database's own.
pub fn set_tablespace(name: &[u8]) -> Vec<u8> {
    let value = if name.is_empty() {
        quote_literal(b"")
    } else {
        quote_identifier(name)
    };
    [b"SET default_tablespace = ", value.as_slice()].concat()
}

/// `SET default_table_access_method`.
pub fn set_table_am(name: &[u8]) -> Vec<u8> {
    [
        b"SET default_table_access_method = ",
        quote_identifier(name).as_slice(),
    ]
    .concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::target::postgres::toc::{ArchiveFormat, Header};

    const TINY: &[u8] = include_bytes!("testdata/tiny-1.14.dump");

    pub(crate) fn tiny() -> Toc {
        Toc::parse(TINY).unwrap()
    }

    fn plan(options: &PlanOptions) -> Plan {
        Plan::new(&tiny(), options).unwrap()
    }

    fn sql(step: &Step) -> Vec<String> {
        step.statements
            .iter()
            .map(|s| String::from_utf8_lossy(&s.sql).trim_end().to_owned())
            .collect()
    }

    fn labels(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|s| s.label.as_str()).collect()
    }

    fn find<'a>(plan: &'a Plan, label: &str) -> &'a Step {
        plan.steps()
            .find(|s| s.label == label)
            .unwrap_or_else(|| panic!("no step {label}"))
    }

    #[test]
    fn every_entry_is_planned_once() {
        let (toc, plan) = (tiny(), plan(&PlanOptions::default()));
        assert_eq!(plan.steps().count() + 3, toc.entries.len());
        assert_eq!(plan.not_planned, Vec::<String>::new());
        let ids: BTreeSet<i32> = plan.steps().map(|s| s.id).collect();
        assert_eq!(ids.len() + 3, toc.entries.len());
        assert_eq!(
            plan.session,
            DumpSession {
                encoding: b"UTF8".to_vec(),
                standard_strings: true,
                search_path: b"SELECT pg_catalog.set_config('search_path', '', false);\n".to_vec()
            }
        );
    }

    #[test]
    fn passes_are_those_of_pg_restore() {
        let plan = plan(&PlanOptions::default());
        assert_eq!(labels(&plan.database), ["DATABASE tiny"]);
        assert_eq!(
            labels(&plan.privileges),
            [
                "ACL DATABASE tiny",
                "ACL public.TABLE child",
                "ACL public.COLUMN child.note",
                "DEFAULT ACL public.DEFAULT PRIVILEGES FOR TABLES"
            ]
        );
        assert_eq!(
            labels(&plan.last),
            [
                "MATERIALIZED VIEW DATA public.m",
                "MATERIALIZED VIEW DATA public.m2"
            ]
        );
        assert_eq!(
            labels(&plan.event_triggers),
            ["EVENT TRIGGER tiny_evt", "COMMENT EVENT TRIGGER tiny_evt"]
        );
        assert!(labels(&plan.pre_data).contains(&"COMMENT odd schema.TABLE \"Ta\"\"ble ü\""));
        let post = labels(&plan.post_data);
        assert!(
            post.contains(&"COMMENT public.INDEX child_note")
                && post.contains(&"COMMENT public.CONSTRAINT child_parent_fkey ON child")
        );
        assert!(post.contains(&"RULE public.v _RETURN"));
    }

    #[test]
    fn owners_are_set_by_statements() {
        let plan = plan(&PlanOptions::default());
        let check = |label: &str, expected: &[&str]| {
            let step = find(&plan, label);
            let found: Vec<String> = step
                .statements
                .iter()
                .filter(|s| s.kind == StatementKind::Owner)
                .map(|s| String::from_utf8_lossy(&s.sql).into_owned())
                .collect();
            assert_eq!(found, expected, "{label}");
        };
        check(
            "DATABASE tiny",
            &["ALTER DATABASE \"tiny\" OWNER TO \"tiny_owner\""],
        );
        check(
            "SCHEMA public",
            &["ALTER SCHEMA \"public\" OWNER TO \"tiny_owner\""],
        );
        check(
            "TABLE odd schema.Ta\"ble ü",
            &["ALTER TABLE \"odd schema\".\"Ta\"\"ble ü\" OWNER TO \"postgres\""],
        );
        check(
            "FUNCTION public.f(integer, text)",
            &["ALTER FUNCTION public.f(\"in\" integer, b text) OWNER TO \"tiny_owner\""],
        );
        check(
            "VIEW public.v",
            &["ALTER TABLE \"public\".\"v\" OWNER TO \"tiny_owner\""],
        );
        check(
            "SEQUENCE public.child_id_seq",
            &["ALTER TABLE \"public\".\"child_id_seq\" OWNER TO \"tiny_owner\""],
        );
        check("SEQUENCE odd schema.Ta\"ble ü_id_seq", &[]);
        check("INDEX public.child_note", &[]);
        check("DEFAULT public.child id", &[]);
        assert_eq!(
            sql(find(&plan, "SCHEMA public")),
            ["ALTER SCHEMA \"public\" OWNER TO \"tiny_owner\""]
        );
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let plan = plan(&PlanOptions {
            no_owner: true,
            no_privileges: true,
            no_tablespaces: true,
            ..PlanOptions::default()
        });
        assert!(plan.privileges.is_empty());
        assert!(plan.steps().all(|s| s.tablespace.is_none()
            && s.statements.iter().all(|s| s.kind != StatementKind::Owner)));
        assert_eq!(sql(find(&plan, "SCHEMA public")), Vec::<String>::new());
    }

    #[test]
    fn another_name_for_the_database() {
        let plan = plan(&PlanOptions {
            database: Some(b"New".to_vec()),
            ..PlanOptions::default()
        });
        assert_eq!(plan.source_database, b"tiny");
        let create = "CREATE DATABASE \"New\" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C';";
        assert_eq!(
            sql(&plan.database[0]),
            [create, "ALTER DATABASE \"New\" OWNER TO \"tiny_owner\""]
        );
        assert_eq!(
            sql(find(&plan, "COMMENT DATABASE tiny")),
            ["COMMENT ON DATABASE \"New\" IS 'about DATABASE tiny';"]
        );
        assert_eq!(
            sql(find(&plan, "ACL DATABASE tiny"))[0],
            "REVOKE CONNECT,TEMPORARY ON DATABASE \"New\" FROM PUBLIC;\nGRANT CONNECT ON DATABASE \"New\" TO PUBLIC;"
        );
        assert_eq!(
            sql(find(&plan, "DATABASE PROPERTIES tiny"))[0],
            "ALTER DATABASE \"New\" SET work_mem TO '7MB';\nALTER ROLE tiny_reader IN DATABASE \"New\" SET search_path TO '$user', 'public';"
        );
    }

    #[test]
    fn needed_roles_and_tablespaces() {
        let names: Vec<Vec<u8>> = plan(&PlanOptions::default()).roles().into_iter().collect();
        assert_eq!(
            names,
            [
                b"postgres".to_vec(),
                b"tiny_owner".to_vec(),
                b"tiny_reader".to_vec()
            ]
        );
        let bare = plan(&PlanOptions {
            no_owner: true,
            no_privileges: true,
            ..PlanOptions::default()
        })
        .roles();
        assert_eq!(
            bare,
            BTreeSet::from([b"tiny_reader".to_vec()]),
            "a policy and a setting name a role"
        );
        assert!(plan(&PlanOptions::default()).tablespaces().is_empty());
    }

    #[test]
    fn session_entries_are_needed() {
        let mut toc = tiny();
        toc.entries.retain(|e| e.kind() != b"STDSTRINGS");
        assert_eq!(
            Plan::new(&toc, &PlanOptions::default()).unwrap_err(),
            PlanError::Session("STDSTRINGS")
        );
    }

    pub(crate) fn entry(id: i32, kind: &str, section: Section, dependencies: &[i32]) -> Entry {
        Entry {
            id,
            has_data: false,
            table_oid: None,
            oid: None,
            tag: Some(b"t".to_vec()),
            kind: Some(kind.as_bytes().to_vec()),
            section,
            definition: Some(b"SELECT 1".to_vec()),
            drop: None,
            copy: None,
            namespace: Some(b"s".to_vec()),
            tablespace: None,
            table_am: None,
            relkind: 0,
            owner: None,
            dependencies: dependencies.to_vec(),
            file: Vec::new(),
        }
    }

    pub(crate) fn toc_of(entries: Vec<Entry>) -> Toc {
        let mut all = vec![
            entry(-1, "ENCODING", Section::PreData, &[]),
            entry(-2, "STDSTRINGS", Section::PreData, &[]),
            entry(-3, "SEARCHPATH", Section::PreData, &[]),
        ];
        all[0].definition = Some(b"SET client_encoding = 'LATIN1';\n".to_vec());
        all[1].definition = Some(b"SET standard_conforming_strings = 'off';\n".to_vec());
        all.extend(entries);
        let header = Header {
            minor: 16,
            revision: 0,
            format: ArchiveFormat::Custom,
            compression: 0,
            created: [0; 7],
            database: None,
            server_version: None,
            dump_version: None,
        };
        Toc {
            header,
            entries: all,
        }
    }

    #[test]
    fn access_methods_of_tables_and_partitioned_tables() {
        let mut table = entry(1, "TABLE", Section::PreData, &[]);
        table.table_am = Some(b"he\"ap2".to_vec());
        table.tablespace = Some(b"fast".to_vec());
        let mut root = table.clone();
        (root.id, root.relkind) = (2, RELKIND_PARTITIONED);
        let plan = Plan::new(&toc_of(vec![table, root]), &PlanOptions::default()).unwrap();
        assert!(!plan.session.standard_strings);
        assert_eq!(plan.pre_data[0].table_am.as_deref(), Some(&b"he\"ap2"[..]));
        assert_eq!(
            set_table_am(b"he\"ap2"),
            b"SET default_table_access_method = \"he\"\"ap2\""
        );
        assert_eq!(
            (
                plan.pre_data[1].table_am.clone(),
                plan.pre_data[1].statements.len()
            ),
            (None, 2)
        );
        assert_eq!(
            plan.pre_data[1].statements[1].sql,
            b"ALTER TABLE \"s\".\"t\" SET ACCESS METHOD \"he\"\"ap2\""
        );
        assert_eq!(plan.tablespaces(), BTreeSet::from([b"fast".to_vec()]));
        assert_eq!(set_tablespace(b""), b"SET default_tablespace = ''");
    }

    #[test]
    fn options_of_one_minor_release_are_left_out() {
        let mut table = entry(1, "TABLE", Section::PreData, &[]);
        table.definition = Some(b"CREATE; ALTER TABLE t ALTER a SET (pg_attver=1);\n".to_vec());
        let plan = Plan::new(&toc_of(vec![table]), &PlanOptions::default()).unwrap();
        assert_eq!(sql(&plan.pre_data[0]), ["CREATE;"]);
        assert_eq!(plan.changed, ["TABLE s.t"]);
    }

    #[test]
    fn data_of_other_archives_is_named() {
        let plan = Plan::new(
            &toc_of(vec![
                entry(1, "TABLE DATA", Section::Data, &[]),
                entry(2, "BLOB", Section::PreData, &[]),
                entry(3, "STATISTICS DATA", Section::PostData, &[]),
            ]),
            &PlanOptions::default(),
        )
        .unwrap();
        assert_eq!((plan.not_planned.len(), plan.last.len()), (2, 1));
    }
}
