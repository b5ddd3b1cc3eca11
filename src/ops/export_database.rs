//! `export --format sql` and `--format pg-directory`: an archived database for PostgreSQL's own programs, without ours at the other end.
//!
//! Invariants: a file or folder appears under its name only when it is complete and durable, and one that is there is never touched; no wrong byte is
//! written: damage ends the export, because a script or an archive without some rows would look whole (`it/pg_export.rs`).
//!
//! Memory: see [`crate::target::postgres::script`] and [`crate::target::postgres::directory`].
//!
//! Failure: what is unfinished is removed; after a kill it stays as `.<name>.<random>.partial`. A stream has no such thing: its reader sees that it ended
//! early by our exit code, and by the last line, which a whole script has.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::archive::{SnapshotArchive, database_names};
use super::backup::Interrupt;
use super::browse::{Archive, OnDamage, Place, Report, id_text};
use super::dated::publish;
use super::export::{NewFile, TarOutput, refuse_repository};
use crate::error::{Error, Result};
use crate::format::path_encoding::{decode_name, shown};
use crate::store::Repository;
use crate::target::postgres::{
    DirectoryFiles, ExportError, ExportOptions, ExportedDatabase, write_directory, write_script,
};

const BUFFER_BYTES: usize = 1 << 20;

/// Which database is exported.
#[derive(Clone, Debug, Default)]
pub struct DatabasePlace {
    /// The snapshot; a path in it may name the database: `latest:databases/QSR`.
    pub place: Place,
    /// Its name; may be left out where the path says it, or the snapshot holds one only.
    pub database: Option<String>,
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DatabaseExportSummary {
    /// Id of the snapshot.
    pub snapshot: String,
    /// The database.
    pub database: String,
    /// What of it.
    #[serde(flatten)]
    pub exported: ExportedDatabase,
    /// Damage that was worked around; exit code 4 if it is not 0.
    pub damaged: u64,
}

/// Writes a database as one script for `psql`.
pub fn export_script(
    repository: &Arc<Repository>,
    place: &DatabasePlace,
    options: &ExportOptions,
    output: TarOutput,
    interrupt: &Interrupt,
    damage: OnDamage<'_>,
) -> Result<DatabaseExportSummary> {
    let mut report = Report::new(damage);
    let (archive, mut summary) = open(repository, place, &mut report)?;
    let run = |out: Box<dyn Write + Send>| -> Result<ExportedDatabase> {
        let failed = |e| Error::local("cannot write the script", e);
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
        let mut sink = |bytes: &[u8]| {
            check(interrupt)?;
            out.write_all(bytes).map_err(failed)
        };
        let written = write_script(&archive, options, &mut sink).map_err(stop)?;
        out.flush().map_err(failed)?;
        Ok(written)
    };
    summary.exported = match output {
        TarOutput::Stream(out) => run(out)?,
        TarOutput::File(path) => {
            let file = NewFile::create(repository, &path)?;
            let written = run(file.writer()?)?;
            file.publish()?;
            written
        }
    };
    summary.damaged = report.damaged;
    Ok(summary)
}

/// Writes a database as a new folder for `pg_restore`, for servers of a version; none is that of the source.
pub fn export_directory(
    repository: &Arc<Repository>,
    place: &DatabasePlace,
    target_version: Option<u32>,
    folder: &Path,
    interrupt: &Interrupt,
    damage: OnDamage<'_>,
) -> Result<DatabaseExportSummary> {
    let mut report = Report::new(damage);
    let (archive, mut summary) = open(repository, place, &mut report)?;
    let folder = std::path::absolute(folder)
        .map_err(|e| Error::local(format!("cannot create {}", folder.display()), e))?;
    let failed = |e| Error::local(format!("cannot create {}", folder.display()), e);
    if folder.symlink_metadata().is_ok() {
        return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
    }
    let parent = folder
        .parent()
        .map_or(PathBuf::from("/"), Path::to_path_buf);
    refuse_repository(repository, &parent)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let partial = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".partial")
        .tempdir_in(&parent)
        .map_err(failed)?;
    let files = DirectoryFiles::new(partial.path());
    let exported = write_directory(&archive, target_version, &files, &mut || check(interrupt));
    summary.exported = exported.map_err(stop)?;
    publish(partial, &folder).map_err(failed)?;
    summary.damaged = report.damaged;
    Ok(summary)
}

fn check(interrupt: &Interrupt) -> Result<()> {
    match interrupt.is_set() {
        true => Err(Error::Interrupted),
        false => Ok(()),
    }
}

fn stop(error: ExportError) -> Error {
    match error {
        ExportError::Run(error) => error,
        other => {
            let cause = std::error::Error::source(&other).map(ToString::to_string);
            Error::Message(match cause {
                Some(cause) => format!("{other}: {cause}"),
                None => other.to_string(),
            })
        }
    }
}

fn open(
    repository: &Arc<Repository>,
    place: &DatabasePlace,
    report: &mut Report<'_>,
) -> Result<(SnapshotArchive, DatabaseExportSummary)> {
    let whole = Place {
        path: Vec::new(),
        ..place.place.clone()
    };
    let opened = Archive::open(repository, report)?.open_place(&whole)?;
    let root = &opened.snapshot.record.root;
    let name = match (&place.database, of_path(&place.place.path)?) {
        (Some(name), None) => name.clone(),
        (None, Some(name)) => name,
        (Some(_), Some(_)) => {
            let text = "a database is named by --database or by the path, not by both";
            return Err(Error::Message(text.into()));
        }
        (None, None) => only(&database_names(&opened.reader, root)?)?,
    };
    let archive = SnapshotArchive::open(opened.reader.clone(), root, &name)?;
    let summary = DatabaseExportSummary {
        snapshot: id_text(&opened.snapshot.id),
        database: name,
        ..DatabaseExportSummary::default()
    };
    Ok((archive, summary))
}

/// The database that a path names.
fn of_path(path: &[u8]) -> Result<Option<String>> {
    let path = path.trim_ascii();
    if path.iter().all(|byte| *byte == b'/') {
        return Ok(None);
    }
    let parts: Vec<&[u8]> = path
        .split(|b| *b == b'/')
        .filter(|p| !p.is_empty())
        .collect();
    let name = match parts.as_slice() {
        [b"databases", name] => decode_name(name).and_then(|name| String::from_utf8(name).ok()),
        _ => None,
    };
    name.map(Some).ok_or_else(|| {
        let path = String::from_utf8_lossy(path);
        Error::Message(format!(
            "{path} is no database: name one by --database, or as SNAP:databases/NAME"
        ))
    })
}

fn only(names: &[Vec<u8>]) -> Result<String> {
    let names: Vec<String> = names.iter().map(|name| shown(name).into_owned()).collect();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::Message("the snapshot holds no database".into())),
        several => Err(Error::Message(format!(
            "the snapshot holds several databases, name one by --database: {}",
            several.join(", ")
        ))),
    }
}
