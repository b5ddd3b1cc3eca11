//! `ls` and `find`.

use std::cell::RefCell;

use holdfast::format::node::{Node, NodeKind};
use holdfast::ops::browse::{Entry, EntryInfo, Place};
use holdfast::ops::find::{FindOptions, find as find_op};
use holdfast::ops::ls::{LsOptions, ls as ls_op};
use serde_json::Value;

use super::{Context, code, summary, tell_damage, unwritten};
use crate::cli::args::{Find, Kind, Ls};
use crate::cli::output::{self, Output, WriteError};

/// Lists what a snapshot holds.
pub(super) fn ls(context: &Context<'_>, args: &Ls) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let options = LsOptions {
        place: Place::parse(&args.place)?,
        recursive: args.recursive,
    };
    let output = RefCell::new(Output::new(context.global.json));
    let listed = ls_op(
        &opened.repository,
        &options,
        &mut |entry| show(&mut output.borrow_mut(), None, entry, args.long).map_err(unwritten),
        &mut |damage| tell_damage(&output, damage),
    )?;
    let mut output = output.into_inner();
    if output.is_json() {
        summary(&mut output, &opened, &listed)?;
    }
    output.flush()?;
    Ok(code(opened.damaged || listed.damaged > 0, false))
}

/// Finds files.
pub(super) fn find(context: &Context<'_>, args: &Find) -> anyhow::Result<u8> {
    let opened = context.repository()?;
    let options = FindOptions {
        snapshots: args.snapshot.clone(),
        patterns: args.patterns.clone(),
        names: args.name.clone(),
        paths: args.path.clone(),
        ignore_case: args.ignore_case,
        newer: args.newer,
        older: args.older,
        kinds: args
            .kind
            .iter()
            .flat_map(|kind| kinds(*kind))
            .copied()
            .collect(),
        size_min: args.min_size,
        size_max: args.max_size,
    };
    let output = RefCell::new(Output::new(context.global.json));
    let found = find_op(
        &opened.repository,
        &options,
        &mut |snapshot, entry| {
            let mut output = output.borrow_mut();
            show(&mut output, Some(&snapshot.id.short()), entry, args.long).map_err(unwritten)
        },
        &mut |damage| tell_damage(&output, damage),
    )?;
    let mut output = output.into_inner();
    if output.is_json() {
        summary(&mut output, &opened, &found)?;
    }
    output.flush()?;
    Ok(code(opened.damaged || found.damaged > 0, false))
}

fn kinds(kind: Kind) -> &'static [NodeKind] {
    match kind {
        Kind::File => &[NodeKind::File],
        Kind::Directory => &[NodeKind::Directory],
        Kind::Symlink => &[NodeKind::Symlink],
        Kind::Special => &[
            NodeKind::Fifo,
            NodeKind::Socket,
            NodeKind::CharDevice,
            NodeKind::BlockDevice,
        ],
    }
}

/// Shows one entry; with its snapshot before it where there are several.
fn show(
    output: &mut Output,
    snapshot: Option<&str>,
    entry: &Entry,
    long: bool,
) -> Result<(), WriteError> {
    if output.is_json() {
        let mut fields = serde_json::to_value(EntryInfo::from(entry))
            .map_err(|error| WriteError(error.into()))?;
        if let (Value::Object(fields), Some(snapshot)) = (&mut fields, snapshot) {
            fields.insert("snapshot".into(), snapshot.into());
        }
        return output.message("node", &fields);
    }
    if long {
        output.bytes(details(&entry.node).as_bytes())?;
    }
    if let Some(snapshot) = snapshot {
        output.bytes(format!("{snapshot}:").as_bytes())?;
    }
    let terminal = output.is_terminal();
    output.bytes(&output::name(&entry.path, terminal))?;
    if entry.node.is_directory() {
        output.bytes(b"/")?;
    }
    if let (true, Some(target)) = (long, &entry.node.target) {
        output.bytes(b" -> ")?;
        output.bytes(&output::name(target, terminal))?;
    }
    output.bytes(b"\n")
}

/// `-rw-r--r-- root     root         1.29 MiB 2026-11-20 12:00:00 `
fn details(node: &Node) -> String {
    let name = |name: &Option<Vec<u8>>, id: u32| match name {
        Some(name) => String::from_utf8_lossy(name).into_owned(),
        None => id.to_string(),
    };
    let size = node.subtree.map_or(node.size, |below| below.bytes);
    format!(
        "{} {:<8} {:<8} {:>9} {} ",
        permissions(node),
        name(&node.user, node.uid),
        name(&node.group, node.gid),
        output::bytes(size),
        output::local_time(node.modified)
    )
}

fn permissions(node: &Node) -> String {
    let kind = match node.kind {
        NodeKind::File => '-',
        NodeKind::Directory => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
        NodeKind::CharDevice => 'c',
        NodeKind::BlockDevice => 'b',
    };
    let mode = node.mode;
    let mut text = String::from(kind);
    for (shift, special, set, unset) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift & 7;
        text.push(if bits & 4 > 0 { 'r' } else { '-' });
        text.push(if bits & 2 > 0 { 'w' } else { '-' });
        text.push(match (bits & 1 > 0, mode & special > 0) {
            (true, true) => set,
            (false, true) => unset,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_as_in_ls() {
        let check = |kind, mode, expected: &str| {
            let node = Node {
                kind,
                mode,
                ..Node::default()
            };
            assert_eq!(permissions(&node), expected);
        };
        check(NodeKind::File, 0o644, "-rw-r--r--");
        check(NodeKind::Directory, 0o1777, "drwxrwxrwt");
        check(NodeKind::File, 0o4755, "-rwsr-xr-x");
        check(NodeKind::File, 0o2640, "-rw-r-S---");
    }
}
