//! A directory archive for `pg_restore`: `toc.dat`, a file of rows for each table, a file for each large object.
//!
//! The table of contents is the archived one with entries for the rows put between those before and those after the rows, as `pg_dump -Fd` of PostgreSQL 15
//! writes them (format 1.14, which `pg_restore` 10 and later reads where no field of a later format is needed; see [`super::toc`]):
//!
//! | entry | definition | depends on | file |
//! |---|---|---|---|
//! | `BLOB` for each large object | `lo_create` | | |
//! | `TABLE DATA` | COPY statement | its table; all extensions, where it belongs to one, and the rows before of such tables | `<id>.dat`: rows, then `\.` and two empty lines |
//! | `BLOBS` | | | `blobs.toc`: a line `<oid> blob_<oid>.dat` for each |
//! | `SEQUENCE SET` | `setval` | its sequence | |
//! | `COMMENT`, `ACL` of a large object | | its `BLOB` | |
//!
//! Statements are in the words of the version that the archive is for (`older`).
//!
//! A sparse large object is a sparse file; what `pg_restore` makes of it is not sparse.
//!
//! Memory: the table of contents, so an entry for each large object; pieces of rows.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::archive::DatabaseArchive;
use super::data::qualified;
use super::large_objects::{self, Options};
use super::older::for_server;
use super::plan::dump_session;
use super::script::{
    ExportError, ExportedDatabase, copy_statement, has_rows, refuse_binary, sequence_statement,
};
use super::sql::without_internal_option;
use super::toc::{Entry, Section, Toc};
use crate::error::{Error, Result};
use crate::format::database::{SequenceState, TableInfo};
use crate::format::large_object::LargeObjectInfo;

const BUFFER_BYTES: usize = 256 << 10;

/// Creates the files of an archive in one folder, which is there and empty.
#[derive(Debug)]
pub struct DirectoryFiles {
    folder: PathBuf,
}

impl DirectoryFiles {
    /// Files in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn create(&self, name: &str) -> Result<File> {
        let path = self.path(name);
        File::create_new(&path).map_err(|e| failed(&path, e))
    }
}

fn failed(path: &Path, e: std::io::Error) -> Error {
    Error::local(format!("cannot write {}", path.display()), e)
}

/// Writes the whole database as a directory archive, for servers of a version; none is that of the source.
pub fn write_directory(
    archive: &dyn DatabaseArchive,
    target_version: Option<u32>,
    files: &DirectoryFiles,
    each: &mut dyn FnMut() -> Result<()>,
) -> Result<ExportedDatabase, ExportError> {
    refuse_binary(&archive.description().tables)?;
    let mut toc = Toc::parse(&archive.schema_dump()?)?;
    let session = dump_session(&toc)?;
    let version_num = target_version.unwrap_or(archive.description().server_version_num);
    for entry in &mut toc.entries {
        let standard = session.standard_strings;
        let written = for_server(entry.kind(), entry.definition(), version_num, standard);
        if let Cow::Owned(written) = written {
            entry.definition = Some(written);
        }
    }
    let mut directory = Directory {
        archive,
        files,
        next_id: toc.entries.iter().map(|entry| entry.id).max().unwrap_or(0) + 1,
        standard: session.standard_strings,
        encoding: String::from_utf8_lossy(&session.encoding).into_owned(),
        objects: Objects::new(&toc),
        written: ExportedDatabase::default(),
        each,
    };
    let mut before = Vec::new();
    let mut rows = directory.rows()?;
    let about_objects = directory.large_objects(&mut before, &mut rows)?;
    directory.sequences(&mut rows)?;
    let written = directory.written;
    let toc = with_rows(toc, session.standard_strings, before, rows, about_objects);
    let bytes = toc.write_directory()?;
    let path = files.path("toc.dat");
    let mut file = files.create("toc.dat")?;
    file.write_all(&bytes).map_err(|e| failed(&path, e))?;
    Ok(written)
}

/// The archived entries with ours at their places.
fn with_rows(
    toc: Toc,
    standard: bool,
    before: Vec<Entry>,
    rows: Vec<Entry>,
    after: Vec<Entry>,
) -> Toc {
    let mut entries = toc.entries;
    for entry in &mut entries {
        if matches!(
            entry.kind(),
            b"TABLE" | b"FOREIGN TABLE" | b"MATERIALIZED VIEW"
        ) && let Some(kept) = without_internal_option(entry.definition(), standard)
        {
            entry.definition = Some(kept);
        }
    }
    let first_after = entries
        .iter()
        .position(|entry| entry.section == Section::PostData)
        .unwrap_or(entries.len());
    let post_data = entries.split_off(first_after);
    entries.extend(before);
    entries.extend(rows);
    entries.extend(post_data);
    entries.extend(after);
    Toc { entries, ..toc }
}

/// What rows and sequences belong to.
struct Objects {
    tables: HashMap<(Vec<u8>, Vec<u8>), Owned>,
    sequences: HashMap<(Vec<u8>, Vec<u8>), Owned>,
    extensions: Vec<i32>,
}

#[derive(Clone)]
struct Owned {
    id: i32,
    owner: Option<Vec<u8>>,
}

impl Objects {
    fn new(toc: &Toc) -> Self {
        let of_kind = |kind: &[u8]| {
            let found = toc.entries.iter().filter(|entry| entry.kind() == kind);
            found
                .map(|entry| {
                    let namespace = entry.namespace.clone().unwrap_or_default();
                    let owner = entry.owner.clone();
                    let owned = Owned {
                        id: entry.id,
                        owner,
                    };
                    ((namespace, entry.tag().to_vec()), owned)
                })
                .collect()
        };
        let extensions = toc.entries.iter().filter(|e| e.kind() == b"EXTENSION");
        Self {
            tables: of_kind(b"TABLE"),
            sequences: of_kind(b"SEQUENCE"),
            extensions: extensions.map(|entry| entry.id).collect(),
        }
    }
}

fn key(schema: &str, name: &str) -> (Vec<u8>, Vec<u8>) {
    (schema.as_bytes().to_vec(), name.as_bytes().to_vec())
}

struct Directory<'a> {
    archive: &'a dyn DatabaseArchive,
    files: &'a DirectoryFiles,
    next_id: i32,
    standard: bool,
    encoding: String,
    objects: Objects,
    written: ExportedDatabase,
    each: &'a mut dyn FnMut() -> Result<()>,
}

impl Directory<'_> {
    fn entry(&mut self, kind: &str, tag: &str, section: Section) -> Entry {
        let id = self.next_id;
        self.next_id += 1;
        Entry {
            id,
            has_data: false,
            table_oid: Some(b"0".to_vec()),
            oid: Some(b"0".to_vec()),
            tag: Some(tag.into()),
            kind: Some(kind.into()),
            section,
            definition: Some(Vec::new()),
            drop: Some(Vec::new()),
            copy: Some(Vec::new()),
            namespace: None,
            tablespace: None,
            table_am: None,
            relkind: 0,
            owner: None,
            dependencies: Vec::new(),
            file: Vec::new(),
        }
    }

    /// Our statements are UTF-8; the others are in the archive's encoding, and one file has one.
    fn check_encoding(
        &self,
        statement: &str,
        object: impl FnOnce() -> String,
    ) -> Result<(), ExportError> {
        let same = matches!(self.encoding.as_str(), "UTF8" | "SQL_ASCII");
        if same || statement.is_ascii() {
            return Ok(());
        }
        Err(ExportError::Encoding {
            object: object(),
            encoding: self.encoding.clone(),
        })
    }

    fn rows(&mut self) -> Result<Vec<Entry>, ExportError> {
        let archive = self.archive;
        let mut entries = Vec::new();
        let mut of_extensions = self.objects.extensions.clone();
        for table in archive.description().tables.iter().filter(|t| has_rows(t)) {
            let mut entry = self.table_entry(table)?;
            let name = format!("{}.dat", entry.id);
            entry.file = name.clone().into_bytes();
            match self.objects.tables.get(&key(&table.schema, &table.name)) {
                Some(owned) => {
                    entry.dependencies.push(owned.id);
                    entry.owner.clone_from(&owned.owner);
                }
                None => {
                    entry.dependencies.clone_from(&of_extensions);
                    of_extensions.push(entry.id);
                }
            }
            self.write_rows(table, &name)?;
            entries.push(entry);
        }
        Ok(entries)
    }

    fn table_entry(&mut self, table: &TableInfo) -> Result<Entry, ExportError> {
        let copy = copy_statement(table, &self.archive.description().encoding);
        self.check_encoding(&copy, || format!("table {}.{}", table.schema, table.name))?;
        let mut entry = self.entry("TABLE DATA", &table.name, Section::Data);
        entry.has_data = true;
        entry.namespace = Some(table.schema.clone().into_bytes());
        entry.copy = Some(copy.into_bytes());
        if let Some((schema, name)) = &table.load_via {
            let root = qualified(schema, name);
            // A comment by which pg_restore knows that it must not truncate the table first.
            if !root.contains(char::is_control) {
                entry.definition = Some(format!("-- load via partition root {root}").into_bytes());
            }
        }
        Ok(entry)
    }

    fn write_rows(&mut self, table: &TableInfo, name: &str) -> Result<(), ExportError> {
        let path = self.files.path(name);
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, self.files.create(name)?);
        let each = &mut self.each;
        let written = &mut self.written;
        for part in 0..table.parts {
            self.archive.read_part(table, part, &mut |bytes| {
                each()?;
                written.bytes += u64::try_from(bytes.len()).expect("a length fits 64 bits");
                out.write_all(bytes).map_err(|e| failed(&path, e))
            })?;
        }
        let ended = out.write_all(b"\\.\n\n\n").and_then(|()| out.flush());
        ended.map_err(|e| failed(&path, e))?;
        written.tables += 1;
        written.rows += table.rows;
        Ok(())
    }

    fn sequences(&mut self, rows: &mut Vec<Entry>) -> Result<(), ExportError> {
        let archive = self.archive;
        for sequence in &archive.description().sequences {
            rows.push(self.sequence_entry(sequence)?);
        }
        Ok(())
    }

    fn sequence_entry(&mut self, sequence: &SequenceState) -> Result<Entry, ExportError> {
        let statement = sequence_statement(sequence, self.standard);
        self.check_encoding(&statement, || {
            format!("sequence {}.{}", sequence.schema, sequence.name)
        })?;
        let mut entry = self.entry("SEQUENCE SET", &sequence.name, Section::Data);
        entry.namespace = Some(sequence.schema.clone().into_bytes());
        entry.definition = Some(statement.into_bytes());
        let owned = self
            .objects
            .sequences
            .get(&key(&sequence.schema, &sequence.name));
        if let Some(owned) = owned {
            entry.dependencies.push(owned.id);
            entry.owner.clone_from(&owned.owner);
        }
        Ok(entry)
    }

    /// Creates the files of all large objects, and entries: of the objects, of their data, and what is said about them.
    fn large_objects(
        &mut self,
        before: &mut Vec<Entry>,
        rows: &mut Vec<Entry>,
    ) -> Result<Vec<Entry>, ExportError> {
        let archive = self.archive;
        if archive.description().large_objects == 0 {
            return Ok(Vec::new());
        }
        let list_path = self.files.path("blobs.toc");
        let mut list = BufWriter::new(self.files.create("blobs.toc")?);
        let mut about = Vec::new();
        let mut kept = None;
        let read = archive.large_objects(&mut |object| {
            self.files.create(&file_of(object.oid))?;
            writeln!(list, "{} {}", object.oid, file_of(object.oid))
                .map_err(|e| failed(&list_path, e))?;
            self.written.large_objects += 1;
            self.object_entries(&object, before, &mut about)
                .map_err(|error| {
                    kept = Some(error);
                    Error::Stopped
                })
        });
        if let Some(error) = kept {
            return Err(error);
        }
        read?;
        list.flush().map_err(|e| failed(&list_path, e))?;
        self.write_pages()?;
        let mut data = self.entry("BLOBS", "BLOBS", Section::Data);
        data.has_data = true;
        data.file = b"blobs.toc".to_vec();
        rows.push(data);
        Ok(about)
    }

    fn object_entries(
        &mut self,
        object: &LargeObjectInfo,
        before: &mut Vec<Entry>,
        about: &mut Vec<Entry>,
    ) -> Result<(), ExportError> {
        let oid = object.oid;
        self.check_encoding(&object.owner, || format!("the owner of large object {oid}"))?;
        let owner = Some(object.owner.clone().into_bytes());
        let mut entry = self.entry("BLOB", &oid.to_string(), Section::PreData);
        entry.table_oid = Some(b"2995".to_vec());
        entry.oid = Some(oid.to_string().into_bytes());
        entry.definition = Some(format!("SELECT pg_catalog.lo_create('{oid}');\n").into_bytes());
        entry.drop = Some(format!("SELECT pg_catalog.lo_unlink('{oid}');\n").into_bytes());
        entry.owner.clone_from(&owner);
        let id = entry.id;
        before.push(entry);
        let all = Options {
            no_owner: false,
            no_privileges: false,
        };
        let comment = large_objects::comment(object).map(|sql| match self.standard {
            true => sql,
            false => sql.replace('\\', "\\\\"),
        });
        let said = [
            ("COMMENT", comment),
            ("ACL", large_objects::privileges(object, all)),
        ];
        for (kind, sql) in said {
            let Some(sql) = sql else { continue };
            let tag = format!("LARGE OBJECT {oid}");
            self.check_encoding(&sql, || format!("{kind} of large object {oid}"))?;
            let mut entry = self.entry(kind, &tag, Section::None);
            entry.definition = Some(sql.into_bytes());
            entry.owner.clone_from(&owner);
            entry.dependencies.push(id);
            about.push(entry);
        }
        Ok(())
    }

    fn write_pages(&mut self) -> Result<(), ExportError> {
        let mut current: Option<(u32, PathBuf, File)> = None;
        let archive = self.archive;
        archive.large_object_pages(&mut |page| {
            (self.each)()?;
            if current.as_ref().is_none_or(|(oid, ..)| *oid != page.oid) {
                let path = self.files.path(&file_of(page.oid));
                let file = File::options().write(true).open(&path);
                let file = file.map_err(|e| failed(&path, e))?;
                current = Some((page.oid, path, file));
            }
            if let Some((_, path, file)) = &current {
                file.write_all_at(page.data, page.offset)
                    .map_err(|e| failed(path, e))?;
            }
            self.written.bytes += u64::try_from(page.data.len()).expect("a length fits 64 bits");
            Ok(())
        })?;
        Ok(())
    }
}

fn file_of(oid: u32) -> String {
    format!("blob_{oid}.dat")
}
