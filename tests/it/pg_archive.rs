//! An archived database in memory, made by `pg_dump` and COPY: what the restore reads in tests, so that they need no repository.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use holdfast::error::{Error, Result};
use holdfast::format::database::{DatabaseInfo, SequenceState, TableInfo};
use holdfast::format::large_object::{LargeObjectInfo, METADATA_NAME, PageReader};
use holdfast::format::path_encoding::encode_name;
use holdfast::source::postgres::{ConnectOptions, Connector, PgError, PgSession};
use holdfast::store::StoreError;
use holdfast::target::postgres::check::RowSum;
use holdfast::target::postgres::{DatabaseArchive, LargeObjectPage};

use crate::archive::Archive;
use crate::pg_cluster::{Cluster, settings};

/// Tables whose rows belong to an archive, as `pg_dump` chooses them.
const TABLES: &str = "
SELECT n.nspname::text, c.relname::text, cfg.condition,
    coalesce((SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '{}'),
    pn.nspname::text, p.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN (SELECT t.relation, t.condition FROM pg_catalog.pg_extension e,
    ROWS FROM (pg_catalog.unnest(e.extconfig), pg_catalog.unnest(e.extcondition)) AS t(relation, condition)) cfg ON cfg.relation = c.oid
LEFT JOIN LATERAL (SELECT a.relid FROM pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY a(relid, n)
    JOIN pg_catalog.pg_partitioned_table pt ON pt.partrelid = a.relid
    WHERE EXISTS (SELECT FROM pg_catalog.pg_opclass o WHERE o.oid = ANY (pt.partclass) AND o.opcname = 'enum_ops' AND pt.partstrat = 'h')
    ORDER BY a.n DESC LIMIT 1) via ON true
LEFT JOIN pg_catalog.pg_class p ON p.oid = via.relid LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND (cfg.relation IS NOT NULL OR NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e'))
ORDER BY 1, 2";

const SEQUENCES: &str = "
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND (NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
    OR EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig)))
ORDER BY 1, 2";

const OBJECTS: &str = "
SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner)::text, m.lomacl::text[], pg_catalog.obj_description(m.oid, 'pg_largeobject')
FROM pg_catalog.pg_largeobject_metadata m ORDER BY 1";

/// Secret of the row digests in tests.
pub(crate) fn secret() -> Vec<u8> {
    (0..192_u8)
        .map(|n| n.wrapping_mul(37).wrapping_add(11))
        .collect()
}

type PartKey = (String, String, u64);

/// One archived database.
#[derive(Debug, Default)]
pub(crate) struct MemoryArchive {
    pub(crate) info: DatabaseInfo,
    pub(crate) schema: Vec<u8>,
    pub(crate) parts: BTreeMap<PartKey, Vec<u8>>,
    pub(crate) objects: Vec<LargeObjectInfo>,
    pub(crate) pages: Vec<(u32, u64, Vec<u8>)>,
    pub(crate) globals: Option<Vec<u8>>,
    /// Parts whose second half cannot be read.
    pub(crate) damaged: BTreeSet<PartKey>,
}

impl DatabaseArchive for MemoryArchive {
    fn description(&self) -> &DatabaseInfo {
        &self.info
    }

    fn schema_dump(&self) -> Result<Vec<u8>> {
        Ok(self.schema.clone())
    }

    fn read_part(
        &self,
        table: &TableInfo,
        part: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let key = (table.schema.clone(), table.name.clone(), part);
        let bytes = self
            .parts
            .get(&key)
            .ok_or_else(|| Error::Message(format!("no part {key:?}")))?;
        if self.damaged.contains(&key) {
            sink(&bytes[..bytes.len() / 2])?;
            return Err(StoreError::damaged("pack 1", "its hash is not its name").into());
        }
        bytes.chunks(1000).try_for_each(sink)
    }

    fn large_objects(&self, each: &mut dyn FnMut(LargeObjectInfo) -> Result<()>) -> Result<()> {
        self.objects.iter().cloned().try_for_each(each)
    }

    fn large_object_pages(
        &self,
        each: &mut dyn FnMut(LargeObjectPage<'_>) -> Result<()>,
    ) -> Result<()> {
        self.pages.iter().try_for_each(|(oid, offset, data)| {
            each(LargeObjectPage {
                oid: *oid,
                offset: *offset,
                data,
            })
        })
    }

    fn globals(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.globals.clone())
    }
}

impl MemoryArchive {
    /// Archives a database of a test cluster.
    pub(crate) fn of(cluster: &Cluster, dbname: &str) -> Self {
        let bin = |name: &str| cluster.program(name).to_string_lossy().into_owned();
        Self::dump(
            &cluster.conninfo(&format!("'{dbname}'")),
            dbname,
            &bin("pg_dump"),
            &bin("pg_dumpall"),
        )
    }

    /// Archives any database.
    pub(crate) fn dump(conninfo: &str, dbname: &str, pg_dump: &str, pg_dumpall: &str) -> Self {
        let connector = Connector::new(settings(conninfo));
        let mut session = connector
            .connect(&ConnectOptions::dump())
            .expect("a session");
        let mut archive = Self::default();
        archive.describe(&mut session, dbname);
        let utf8 = archive.info.encoding != "SQL_ASCII";
        archive.schema = schema(conninfo, pg_dump, utf8);
        archive.globals = Some(output(Command::new(pg_dumpall).args([
            "--globals-only",
            "-d",
            conninfo,
        ])));
        archive.rows(&mut session);
        archive.sequences(&mut session);
        archive.objects(&mut session);
        archive
    }

    /// What a source has put into the sink.
    pub(crate) fn from_tree(tree: &Archive, dbname: &str) -> Self {
        let text = |name: &[u8]| String::from_utf8(encode_name(name)).expect("UTF-8");
        let folder = format!("databases/{}", text(dbname.as_bytes()));
        let info: DatabaseInfo =
            serde_json::from_slice(tree.bytes(&format!("{folder}/database.json"))).expect("JSON");
        let mut archive = Self {
            schema: tree.bytes(&format!("{folder}/schema.dump")).to_vec(),
            globals: tree
                .files
                .get(&format!("clusters/{}/globals.sql", info.cluster))
                .map(|(_, bytes)| bytes.clone()),
            info,
            ..Self::default()
        };
        for table in &archive.info.tables {
            let tables = format!(
                "{folder}/tables/{}/{}",
                text(table.schema.as_bytes()),
                text(table.name.as_bytes())
            );
            for part in 0..table.parts {
                let bytes = tree.bytes(&format!("{tables}/{part:06}")).to_vec();
                archive
                    .parts
                    .insert((table.schema.clone(), table.name.clone(), part), bytes);
            }
        }
        for (path, (_, bytes)) in &tree.files {
            match path.strip_prefix(&format!("{folder}/large-objects/")) {
                Some(METADATA_NAME) => archive.objects.extend(
                    bytes
                        .split(|b| *b == b'\n')
                        .filter(|line| !line.is_empty())
                        .map(|line| serde_json::from_slice::<LargeObjectInfo>(line).expect("JSON")),
                ),
                Some(_pages) => {
                    let mut pages = PageReader::new(&bytes[..]);
                    while let Some((oid, offset, data)) = pages.next_page().expect("a page") {
                        archive.pages.push((oid, offset, data.to_vec()));
                    }
                }
                None => {}
            }
        }
        archive
    }

    fn describe(&mut self, session: &mut PgSession, dbname: &str) {
        let sql = "SELECT pg_catalog.pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text FROM pg_catalog.pg_database WHERE datname = $1";
        let row = session.query_one(sql, &[&dbname]).expect("database");
        self.info = DatabaseInfo {
            name: dbname.to_owned(),
            server_version_num: session.version_num(),
            server_version: session.facts().version.clone(),
            encoding: row.get(0),
            collate: row.get(1),
            ctype: row.get(2),
            extensions: session
                .query(
                    "SELECT extname::text, extversion FROM pg_catalog.pg_extension ORDER BY 1",
                    &[],
                )
                .expect("extensions")
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect(),
            ..DatabaseInfo::default()
        };
    }

    fn rows(&mut self, session: &mut PgSession) {
        let tables = session.query(TABLES, &[]).expect("tables");
        for row in tables {
            let via: Option<String> = row.get(4);
            let mut table = TableInfo {
                schema: row.get(0),
                name: row.get(1),
                filter: row
                    .get::<_, Option<String>>(2)
                    .filter(|filter| !filter.is_empty()),
                columns: row.get(3),
                load_via: via.map(|schema| (schema, row.get(5))),
                ..TableInfo::default()
            };
            let mut sum = RowSum::default();
            let mut parts = vec![Vec::new()];
            let secret = secret();
            let sql = format!(
                "{} WITH (ENCODING '{}')",
                copy_sql(&table),
                self.info.encoding
            );
            let copied = session.copy_out(&sql, &mut |row| {
                // Small parts, so that tables have several.
                if parts.last().is_some_and(|part| part.len() > 20_000) {
                    parts.push(Vec::new());
                }
                sum.add_row(row, &secret);
                parts
                    .last_mut()
                    .expect("one part at least")
                    .extend_from_slice(row);
                Ok::<(), PgError>(())
            });
            copied.unwrap_or_else(|error| panic!("{}: {error}", table.name));
            (table.rows, table.rows_digest) = (sum.rows, sum.digest_text());
            for (number, part) in (0..).zip(parts) {
                self.parts
                    .insert((table.schema.clone(), table.name.clone(), number), part);
                table.parts = number + 1;
            }
            self.info.tables.push(table);
        }
    }

    fn sequences(&mut self, session: &mut PgSession) {
        for row in session.query(SEQUENCES, &[]).expect("sequences") {
            let (schema, name): (String, String) = (row.get(0), row.get(1));
            let row = session
                .query_one(
                    &format!(
                        "SELECT last_value, is_called FROM {}.{}",
                        quoted(&schema),
                        quoted(&name)
                    ),
                    &[],
                )
                .expect("sequence");
            self.info.sequences.push(SequenceState {
                schema,
                name,
                last_value: row.get(0),
                is_called: row.get(1),
            });
        }
    }

    fn objects(&mut self, session: &mut PgSession) {
        for row in session.query(OBJECTS, &[]).expect("large objects") {
            self.objects.push(LargeObjectInfo {
                oid: row.get(0),
                owner: row.get(1),
                acl: row.get(2),
                comment: row.get(3),
            });
        }
        for row in session
            .query(
                "SELECT loid, pageno, data FROM pg_catalog.pg_largeobject ORDER BY loid, pageno",
                &[],
            )
            .expect("pages")
        {
            let page: i32 = row.get(1);
            self.pages.push((
                row.get(0),
                u64::try_from(page).expect("a page number") * 2048,
                row.get(2),
            ));
        }
        self.info.large_objects = u64::try_from(self.objects.len()).expect("a count");
    }
}

pub(crate) fn schema(conninfo: &str, pg_dump: &str, utf8: bool) -> Vec<u8> {
    let mut command = Command::new(pg_dump);
    command.args([
        "-Fc",
        "-Z0",
        "-B",
        "-C",
        "--section=pre-data",
        "--section=post-data",
    ]);
    if utf8 {
        command.args(["-E", "UTF8"]);
    }
    command.arg("-d").arg(conninfo).env(
        "PGOPTIONS",
        "-c standard_conforming_strings=on -c quote_all_identifiers=off -c lc_monetary=C -c timezone=UTC -c bytea_output=hex -c statement_timeout=0",
    );
    output(&mut command)
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn copy_sql(table: &TableInfo) -> String {
    let name = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
    let columns: Vec<String> = table.columns.iter().map(|column| quoted(column)).collect();
    match &table.filter {
        Some(filter) => format!(
            "COPY (SELECT {} FROM ONLY {name} {filter}) TO STDOUT",
            columns.join(", ")
        ),
        None if columns.is_empty() => format!("COPY {name} TO STDOUT"),
        None => format!("COPY {name} ({}) TO STDOUT", columns.join(", ")),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
