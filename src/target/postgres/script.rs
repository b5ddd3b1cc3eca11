//! One script for `psql`: a database as statements and `COPY … FROM stdin`, written as it is read.
//!
//! The order is that of a restore ([`super::plan`]): before the rows, rows, large objects, positions of sequences, after the rows in the archive's
//! order, privileges, materialized views and event triggers. The statements of `pg_dump` are in the encoding and the string syntax that the archive
//! names, ours in UTF-8 with standard strings; the script switches between the two. Rows are in the encoding of the database, which each COPY says.
//!
//! Invariants:
//! 1. Nothing in the script but its own `\connect` and `\.` is a command of psql. Names stand in comments without control characters, and a statement with
//!    a backslash outside strings is refused: a hostile server could have put a command there, to be executed where the script is
//!    (`commands_of_psql_are_refused`). So the script needs no `\restrict`, which older programs do not know.
//! 2. Only stored pages of large objects are written: holes stay holes.
//!
//! Memory: the schema, one piece of rows, `OBJECT_BYTES` of a large object.

use super::archive::DatabaseArchive;
use super::data::{column_list, qualified};
use super::large_objects::{self, Runs};
use super::older::for_server;
use super::plan::{Plan, PlanError, PlanOptions, Step, set_table_am, set_tablespace};
use super::sql::{holds_psql_command, quote_literal};
use super::toc::{Toc, TocError};
use crate::error::Error;
use crate::format::database::{SequenceState, TableInfo};

/// Bytes of large objects in one statement, and statements in one transaction.
const OBJECT_BYTES: usize = 256 << 10;
const STATEMENTS_PER_TRANSACTION: usize = 64;

/// Why a database can't be written in a form for PostgreSQL's own programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The archive could not be read, or the output not be written.
    #[error(transparent)]
    Run(#[from] Error),
    /// `schema.dump` is not what pg_dump writes.
    #[error("schema.dump can't be read")]
    Toc(#[from] TocError),
    /// `schema.dump` lacks what every one has.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A statement that psql would not only send to the server.
    #[error(
        "{object} has a statement with a backslash outside of strings, which psql would execute as a command of its own; \
         export it with --format pg-directory, and look at it before you restore it"
    )]
    PsqlCommand {
        /// Kind, schema and name.
        object: String,
    },
    /// Rows in a form that neither psql nor pg_restore reads.
    #[error(
        "{object} has rows that are too big for text and are archived in COPY's binary format, which can't be exported; restore the database"
    )]
    BinaryRows {
        /// The table.
        object: String,
    },
    /// A name that psql can't be told.
    #[error("the database's name has a line break, which psql can't be told; leave out --create")]
    Name,
    /// A name that the other form can't hold.
    #[error(
        "{object} has a name that is not ASCII and the archived schema is in {encoding}; export it with --format sql"
    )]
    Encoding {
        /// The object.
        object: String,
        /// Encoding of the schema.
        encoding: String,
    },
}

/// What is left out, and what is added.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The script creates the database and connects to it.
    pub create: bool,
    /// Everything belongs to who restores.
    pub no_owner: bool,
    /// No `GRANT` and `REVOKE`.
    pub no_privileges: bool,
    /// The server's version that the statements are for; none is that of the source (`older`).
    pub target_version: Option<u32>,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ExportedDatabase {
    /// Tables with rows of their own.
    pub tables: u64,
    /// Their rows, as the archive counts them.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Bytes of the schema, rows and large objects.
    pub bytes: u64,
}

/// Takes what is written.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> crate::error::Result<()>;

/// Whether the rows of a table are there to be written.
pub(super) fn has_rows(table: &TableInfo) -> bool {
    !table.data_excluded && table.parts > 0
}

/// Refuses rows that are not text.
pub(super) fn refuse_binary(tables: &[TableInfo]) -> Result<(), ExportError> {
    match tables.iter().find(|table| !table.binary_parts.is_empty()) {
        None => Ok(()),
        Some(table) => Err(ExportError::BinaryRows {
            object: format!("{}.{}", table.schema, table.name),
        }),
    }
}

/// The COPY statement of a table, without its end: loaded through its root where the archive says so.
pub(super) fn copy_statement(table: &TableInfo, encoding: &str) -> String {
    let (schema, name) = match &table.load_via {
        Some((schema, name)) => (schema, name),
        None => (&table.schema, &table.name),
    };
    let encoding = match encoding {
        "UTF8" => String::new(),
        other => {
            let encoding = quote_literal(other.as_bytes());
            format!(" WITH (ENCODING {})", String::from_utf8_lossy(&encoding))
        }
    };
    let (target, columns) = (qualified(schema, name), column_list(&table.columns));
    format!("COPY {target}{columns} FROM stdin{encoding};\n")
}

/// The statement that sets the position of a sequence.
pub(super) fn sequence_statement(sequence: &SequenceState, standard: bool) -> String {
    let mut name = qualified(&sequence.schema, &sequence.name);
    if !standard {
        name = name.replace('\\', "\\\\");
    }
    let name = quote_literal(name.as_bytes());
    format!(
        "SELECT pg_catalog.setval({}, {}, {});\n",
        String::from_utf8_lossy(&name),
        sequence.last_value,
        sequence.is_called
    )
}

/// Writes the whole database as one script.
pub fn write_script(
    archive: &dyn DatabaseArchive,
    options: &ExportOptions,
    sink: Sink<'_>,
) -> Result<ExportedDatabase, ExportError> {
    refuse_binary(&archive.description().tables)?;
    let toc = Toc::parse(&archive.schema_dump()?)?;
    let plan = Plan::new(
        &toc,
        &PlanOptions {
            no_owner: options.no_owner,
            no_privileges: options.no_privileges,
            ..PlanOptions::default()
        },
    )?;
    let mut script = Script {
        archive,
        plan: &plan,
        sink,
        written: ExportedDatabase::default(),
        version_num: options
            .target_version
            .unwrap_or(archive.description().server_version_num),
        foreign: false,
        tablespace: Vec::new(),
        table_am: None,
    };
    script.head()?;
    if options.create {
        script.create()?;
    }
    let is_wanted = |step: &&Step| options.create || !step.about_database;
    for step in plan.pre_data.iter().filter(is_wanted) {
        script.step(step)?;
        if step.kind == b"DATABASE PROPERTIES" {
            script.connect()?;
        }
    }
    script.rows()?;
    script.large_objects(large_objects::Options {
        no_owner: options.no_owner,
        no_privileges: options.no_privileges,
    })?;
    script.sequences()?;
    let rest = plan.post_data.iter().chain(&plan.privileges);
    let last = plan.last.iter().chain(&plan.event_triggers);
    for step in rest.chain(last).filter(is_wanted) {
        script.step(step)?;
    }
    script.ours()?;
    script.text("--\n-- End of the database\n--\n")?;
    Ok(script.written)
}

struct Script<'a> {
    archive: &'a dyn DatabaseArchive,
    plan: &'a Plan,
    sink: Sink<'a>,
    written: ExportedDatabase,
    /// Of the server that the script is for.
    version_num: u32,
    /// The session is set as the archive's statements need it, not as ours do.
    foreign: bool,
    tablespace: Vec<u8>,
    table_am: Option<Vec<u8>>,
}

impl Script<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.written.bytes += u64::try_from(bytes.len()).expect("a length fits 64 bits");
        Ok((self.sink)(bytes)?)
    }

    fn text(&mut self, text: &str) -> Result<(), ExportError> {
        self.put(text.as_bytes())
    }

    /// A line of comment; nothing in it can end it.
    fn comment(&mut self, text: &str) -> Result<(), ExportError> {
        self.text(&format!("-- {}\n", without_controls(text)))
    }

    fn head(&mut self) -> Result<(), ExportError> {
        let info = self.archive.description();
        let line = format!(
            "Database {}, PostgreSQL {}, as of {}; schema by pg_dump {}. For psql.",
            info.name, info.server_version, info.snapshot_time, info.pg_dump_version
        );
        self.text("--\n")?;
        self.comment(&line)?;
        self.text("--\n\n")?;
        self.settings()
    }

    /// Settings under which the text of every value means what it meant.
    fn settings(&mut self) -> Result<(), ExportError> {
        const SETTINGS: &str = "SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET statement_timeout = 0;
SET lock_timeout = 0;
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
WHERE name IN ('idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout');
SET default_transaction_read_only = off;
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
SET lc_monetary = 'C';
SET quote_all_identifiers = off;
";
        self.foreign = false;
        self.tablespace.clear();
        self.table_am = None;
        // First, so that nothing else means what somebody put in its way.
        let search_path = self.plan.session.search_path.clone();
        self.statement(&search_path, "SEARCHPATH")?;
        self.text(SETTINGS)?;
        self.text("SET default_tablespace = '';\n\n")
    }

    fn create(&mut self) -> Result<(), ExportError> {
        let plan = self.plan;
        for step in &plan.database {
            self.step(step)?;
        }
        self.connect()
    }

    /// Connects to the new database, anew after its settings were made: materialized views may need them.
    fn connect(&mut self) -> Result<(), ExportError> {
        let plan = self.plan;
        self.ours()?;
        let name = String::from_utf8(plan.source_database.clone())
            .ok()
            .filter(|name| !name.contains(['\n', '\r']))
            .ok_or(ExportError::Name)?;
        // A connection string in an identifier's quotes: its own quotes first, then psql's.
        let value = name.replace('\\', "\\\\").replace('\'', "\\'");
        let conninfo = format!("dbname='{value}'").replace('"', "\"\"");
        self.text(&format!("\\connect -reuse-previous=on \"{conninfo}\"\n\n"))?;
        self.settings()
    }

    /// The session as our own statements need it.
    fn ours(&mut self) -> Result<(), ExportError> {
        if !std::mem::replace(&mut self.foreign, false) {
            return Ok(());
        }
        if self.plan.session.encoding != b"UTF8" {
            self.text("SET client_encoding = 'UTF8';\n")?;
        }
        if !self.plan.session.standard_strings {
            self.text("SET standard_conforming_strings = on;\n")?;
        }
        Ok(())
    }

    /// The session as the archive's statements need it.
    fn theirs(&mut self) -> Result<(), ExportError> {
        if std::mem::replace(&mut self.foreign, true) {
            return Ok(());
        }
        if self.plan.session.encoding != b"UTF8" {
            let encoding = quote_literal(&self.plan.session.encoding);
            self.put(&[b"SET client_encoding = ", encoding.as_slice(), b";\n"].concat())?;
        }
        if !self.plan.session.standard_strings {
            self.text("SET standard_conforming_strings = off;\n")?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), ExportError> {
        if step.statements.is_empty() {
            return Ok(());
        }
        self.theirs()?;
        if let Some(tablespace) = step
            .tablespace
            .as_ref()
            .filter(|wanted| **wanted != self.tablespace)
        {
            self.statement(&set_tablespace(tablespace), &step.label)?;
            self.tablespace.clone_from(tablespace);
        }
        if let Some(am) = step
            .table_am
            .as_ref()
            .filter(|am| self.table_am.as_ref() != Some(am))
        {
            self.statement(&set_table_am(am), &step.label)?;
            self.table_am = Some(am.clone());
        }
        self.comment(&step.label)?;
        let standard = self.plan.session.standard_strings;
        for statement in &step.statements {
            let sql = for_server(&step.kind, &statement.sql, self.version_num, standard);
            self.statement(&sql, &step.label)?;
        }
        self.text("\n")
    }

    fn statement(&mut self, sql: &[u8], object: &str) -> Result<(), ExportError> {
        if holds_psql_command(sql, self.plan.session.standard_strings) {
            return Err(ExportError::PsqlCommand {
                object: object.to_owned(),
            });
        }
        let sql = sql.trim_ascii_end();
        self.put(sql)?;
        self.text(if sql.ends_with(b";") { "\n" } else { ";\n" })
    }

    fn rows(&mut self) -> Result<(), ExportError> {
        self.ours()?;
        let archive = self.archive;
        let info = archive.description();
        for table in info.tables.iter().filter(|table| has_rows(table)) {
            self.comment(&format!("Rows of {}.{}", table.schema, table.name))?;
            self.text(&copy_statement(table, &info.encoding))?;
            for part in 0..table.parts {
                let written = &mut self.written.bytes;
                let sink = &mut self.sink;
                archive.read_part(table, part, &mut |bytes| {
                    *written += u64::try_from(bytes.len()).expect("a length fits 64 bits");
                    sink(bytes)
                })?;
            }
            self.text("\\.\n\n")?;
            self.written.tables += 1;
            self.written.rows += table.rows;
        }
        Ok(())
    }

    fn large_objects(&mut self, options: large_objects::Options) -> Result<(), ExportError> {
        let archive = self.archive;
        if archive.description().large_objects == 0 {
            return Ok(());
        }
        self.ours()?;
        self.comment("Large objects")?;
        self.text("BEGIN;\n")?;
        let mut kept = None;
        let read = archive.large_objects(&mut |object| {
            self.written.large_objects += 1;
            let create = format!("SELECT pg_catalog.lo_create({});\n", object.oid);
            keep(&mut kept, self.text(&create))
        });
        finish(kept, read)?;
        self.pages()?;
        let mut kept = None;
        let read = archive.large_objects(&mut |object| {
            let described = large_objects::description(&object, options);
            keep(&mut kept, self.text(&described))
        });
        finish(kept, read)?;
        self.text("COMMIT;\n\n")
    }

    fn pages(&mut self) -> Result<(), ExportError> {
        let (mut kept, mut runs, mut statements) = (None, Runs::default(), 0);
        let archive = self.archive;
        let read = archive.large_object_pages(&mut |page| {
            runs.push(page);
            if runs.bytes < OBJECT_BYTES {
                return Ok(());
            }
            let runs = std::mem::take(&mut runs);
            keep(&mut kept, self.put_runs(&runs, &mut statements))
        });
        finish(kept, read)?;
        self.put_runs(&runs, &mut statements)
    }

    fn put_runs(&mut self, runs: &Runs, statements: &mut usize) -> Result<(), ExportError> {
        for ((oid, offset), data) in runs.oids.iter().zip(&runs.offsets).zip(&runs.data) {
            let mut sql = format!("SELECT pg_catalog.lo_put({oid}, {offset}, '\\x").into_bytes();
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            let digits = data.iter().flat_map(|byte| {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                [DIGITS[high], DIGITS[low]]
            });
            sql.extend(digits);
            sql.extend_from_slice(b"');\n");
            self.put(&sql)?;
            *statements += 1;
            if *statements >= STATEMENTS_PER_TRANSACTION {
                *statements = 0;
                self.text("COMMIT;\nBEGIN;\n")?;
            }
        }
        Ok(())
    }

    fn sequences(&mut self) -> Result<(), ExportError> {
        self.ours()?;
        let archive = self.archive;
        for sequence in &archive.description().sequences {
            self.text(&sequence_statement(sequence, true))?;
        }
        self.text("\n")
    }
}

/// Keeps our error while the archive's callback ends.
fn keep(kept: &mut Option<ExportError>, work: Result<(), ExportError>) -> crate::error::Result<()> {
    work.map_err(|error| {
        *kept = Some(error);
        Error::Stopped
    })
}

fn finish(kept: Option<ExportError>, read: crate::error::Result<()>) -> Result<(), ExportError> {
    match kept {
        Some(ours) => Err(ours),
        None => Ok(read?),
    }
}

fn without_controls(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
