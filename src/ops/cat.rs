//! `cat`: the bytes of a file, or of all parts of a table in order.
//!
//! Invariants:
//! 1. What is written was checked chunk by chunk; at the first damage it ends with an error, and no wrong byte is written
//!    (`damage_ends_it_before_a_wrong_byte`).
//!
//! Memory: see `ops::stream`.

use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use super::backup::Interrupt;
use super::browse::{Archive, OnDamage, Opened, Place, Report, id_text, kind_word};
use super::stream::{Feeder, Piece, Windows, read_ahead, write_zeros};
use crate::error::{Error, Result};
use crate::format::node::{Node, NodeKind};
use crate::store::Repository;
use crate::store::tree::Nodes;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CatSummary {
    /// Id of the snapshot.
    pub snapshot: String,
    /// Files, or parts of the table.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// Damage that did not concern what was written, such as another snapshot's record; exit code 4 if it is not 0.
    pub damaged: u64,
}

/// Writes the file at `place` to `out`; all parts one after the other if it is the directory of a table. Holes come as zeros.
pub fn cat(
    repository: &Arc<Repository>,
    place: &Place,
    out: &mut dyn Write,
    damage: OnDamage<'_>,
) -> Result<CatSummary> {
    let mut report = Report::new(damage);
    let archive = Archive::open(repository, &mut report)?;
    let opened = archive.open_place(place)?;
    refuse_what_has_no_bytes(&opened)?;
    let mut summary = CatSummary {
        snapshot: id_text(&opened.snapshot.id),
        damaged: report.damaged,
        ..CatSummary::default()
    };
    read_ahead(
        &Interrupt::default(),
        |feeder| plan(feeder, &opened),
        |windows| write(windows, out, &mut summary),
    )?;
    Ok(summary)
}

fn refuse_what_has_no_bytes(opened: &Opened) -> Result<()> {
    let named = String::from_utf8_lossy(&opened.path);
    match opened.node.kind {
        NodeKind::File => Ok(()),
        NodeKind::Directory => {
            let mut nodes = Nodes::new(opened.reader.clone(), &opened.node.content);
            let first = nodes.next().transpose()?;
            if first.is_some_and(|node| node.table.is_some()) {
                return Ok(());
            }
            let text = format!("{named}/ is a directory; `holdfast ls` shows what it holds");
            Err(Error::Message(text))
        }
        kind => {
            let text = format!("{named} is a {}, it has no bytes", kind_word(kind));
            Err(Error::Message(text))
        }
    }
}

fn plan(feeder: &mut Feeder<()>, opened: &Opened) -> Result<()> {
    let mut add = |node: &Node| feeder.file(&opened.reader, (), node);
    if !opened.node.is_directory() {
        return add(&opened.node);
    }
    for node in Nodes::new(opened.reader.clone(), &opened.node.content) {
        add(&node?)?;
    }
    Ok(())
}

fn write(mut windows: Windows<()>, out: &mut dyn Write, summary: &mut CatSummary) -> Result<()> {
    let failed = |e| Error::local("cannot write the content", e);
    while let Some(window) = windows.blocking_recv() {
        for piece in window? {
            match piece {
                Piece::Mark(()) => summary.files += 1,
                Piece::Data(bytes) => {
                    out.write_all(&bytes).map_err(failed)?;
                    summary.bytes += u64::try_from(bytes.len()).expect("a length fits 64 bits");
                }
                Piece::Zeros(len) => {
                    write_zeros(out, len).map_err(failed)?;
                    summary.bytes += len;
                }
                Piece::Failed(e) => return Err(e.into()),
            }
        }
    }
    out.flush().map_err(failed)
}
