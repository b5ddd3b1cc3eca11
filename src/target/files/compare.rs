//! Compares what is in the target with nodes of an archive.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags};
use rustix::io::Errno;

use super::create::Place;
use super::{Ownership, RestoreTarget, Result, TargetError, apply};
use crate::format::node::{Node, NodeKind, Timestamp, Xattr};

/// What is under a name, compared with a node by kind, size, time, link target or device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same kind with the same size and time: most likely the same content.
    Same,
    /// Something else.
    Differs,
    /// Nothing.
    Absent,
}

/// One difference between the target and the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which property: `kind`, `size`, `mode`, `owner`, `group`, `modified`, `target`, `device`, `attribute NAME`.
    pub what: String,
    /// The archive's value, for people.
    pub archived: String,
    /// The target's value, for people.
    pub found: String,
}

fn kind_of(kind: FileType) -> Option<NodeKind> {
    Some(match kind {
        FileType::RegularFile => NodeKind::File,
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink,
        FileType::Fifo => NodeKind::Fifo,
        FileType::CharacterDevice => NodeKind::CharDevice,
        FileType::BlockDevice => NodeKind::BlockDevice,
        FileType::Socket => NodeKind::Socket,
        FileType::Unknown => return None,
    })
}

struct Found {
    place: Option<Place>,
    stat: rustix::fs::Statx,
    kind: Option<NodeKind>,
}

impl Found {
    fn modified(&self) -> Timestamp {
        Timestamp {
            seconds: self.stat.stx_mtime.tv_sec,
            nanos: self.stat.stx_mtime.tv_nsec,
        }
    }
}

impl RestoreTarget {
    fn find(&self, path: &[u8]) -> Result<Option<Found>> {
        let flags = StatxFlags::BASIC_STATS;
        let fail = |error| TargetError::new(path, "look at it", error);
        let (place, stat) = if path.is_empty() {
            let stat = rustix::fs::statx(&*self.root, c"", AtFlags::EMPTY_PATH, flags);
            (None, stat.map_err(fail)?)
        } else {
            let (directory, name) = super::beneath::split(path)?;
            let directory = match self.handles.directory(directory) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(fail(error)),
            };
            let stat = match rustix::fs::statx(&directory, name, AtFlags::SYMLINK_NOFOLLOW, flags) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(fail(error)),
            };
            let name = name.to_vec();
            (Some(Place { directory, name }), stat)
        };
        let kind = kind_of(FileType::from_raw_mode(stat.stx_mode.into()));
        Ok(Some(Found { place, stat, kind }))
    }

    /// Looks whether `path` is what `node` says, without reading contents.
    pub fn compare(&self, path: &[u8], node: &Node) -> Result<Comparison> {
        let Some(found) = self.find(path)? else {
            return Ok(Comparison::Absent);
        };
        let same = found.kind == Some(node.kind)
            && match node.kind {
                NodeKind::File => {
                    found.stat.stx_size == node.size && found.modified() == node.modified
                }
                NodeKind::Symlink => link_target(&found) == node.target,
                NodeKind::CharDevice | NodeKind::BlockDevice => device(&found) == numbers(node),
                NodeKind::Directory | NodeKind::Fifo | NodeKind::Socket => true,
            };
        Ok(if same {
            Comparison::Same
        } else {
            Comparison::Differs
        })
    }

    /// Every difference in metadata between `path` and `node`, whose attributes are `xattrs`. Contents are not read. Owners are compared
    /// as this target would set them: with [`Ownership::Leave`] not at all.
    pub fn compare_metadata(
        &self,
        path: &[u8],
        node: &Node,
        xattrs: &[Xattr],
    ) -> Result<Vec<Difference>> {
        let mut list = Vec::new();
        let Some(found) = self.find(path)? else {
            let kind = format!("{:?}", node.kind);
            push(&mut list, "kind", kind.as_str(), "absent");
            return Ok(list);
        };
        let kind = found
            .kind
            .map_or("unknown".to_owned(), |kind| format!("{kind:?}"));
        push(&mut list, "kind", &format!("{:?}", node.kind), &kind);
        if !list.is_empty() {
            return Ok(list);
        }
        if node.kind == NodeKind::File {
            push(&mut list, "size", &node.size, &found.stat.stx_size);
        }
        if node.kind != NodeKind::Symlink {
            let mode = u32::from(found.stat.stx_mode) & 0o7777;
            push(
                &mut list,
                "mode",
                &format!("{:04o}", node.mode),
                &format!("{mode:04o}"),
            );
        } else if link_target(&found) != node.target {
            let text = |target: Option<Vec<u8>>| {
                String::from_utf8_lossy(&target.unwrap_or_default()).into_owned()
            };
            push(
                &mut list,
                "target",
                &text(node.target.clone()),
                &text(link_target(&found)),
            );
        }
        if self.options.ownership != Ownership::Leave {
            let (uid, gid) = self.owner_of(node).unwrap_or(self.own_ids);
            push(&mut list, "owner", &uid, &found.stat.stx_uid);
            push(&mut list, "group", &gid, &found.stat.stx_gid);
        }
        let time = |time: Timestamp| format!("{}.{:09}", time.seconds, time.nanos);
        push(
            &mut list,
            "modified",
            &time(node.modified),
            &time(found.modified()),
        );
        if matches!(node.kind, NodeKind::CharDevice | NodeKind::BlockDevice) {
            let text = |(major, minor): (u32, u32)| format!("{major}:{minor}");
            push(
                &mut list,
                "device",
                &text(numbers(node)),
                &text(device(&found)),
            );
        }
        if node.kind != NodeKind::Symlink {
            self.compare_xattrs(path, &found, xattrs, &mut list)?;
        }
        Ok(list)
    }

    fn compare_xattrs(
        &self,
        path: &[u8],
        found: &Found,
        xattrs: &[Xattr],
        list: &mut Vec<Difference>,
    ) -> Result<()> {
        let present = match &found.place {
            Some(place) => {
                let fd = self.open_entry(path, place, OFlags::PATH)?;
                apply::present(fd.as_fd(), true)
            }
            None => apply::present(self.root.as_fd(), false),
        };
        let present =
            present.map_err(|error| TargetError::new(path, "read its attributes", error))?;
        let value = |set: &[Xattr], name: &[u8]| {
            set.iter()
                .find(|xattr| xattr.name == name)
                .map_or("absent".to_owned(), |xattr| {
                    String::from_utf8_lossy(&xattr.value).into_owned()
                })
        };
        let mut names: Vec<&[u8]> = present.iter().chain(xattrs).map(|x| &*x.name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let here = present.iter().find(|xattr| xattr.name == name);
            let there = xattrs.iter().find(|xattr| xattr.name == name);
            if here.map(|xattr| &xattr.value) != there.map(|xattr| &xattr.value) {
                list.push(Difference {
                    what: format!("attribute {}", String::from_utf8_lossy(name)),
                    archived: value(xattrs, name),
                    found: value(&present, name),
                });
            }
        }
        Ok(())
    }
}

fn push<T: PartialEq + ToString + ?Sized>(
    list: &mut Vec<Difference>,
    what: &str,
    archived: &T,
    found: &T,
) {
    if archived != found {
        list.push(Difference {
            what: what.to_owned(),
            archived: archived.to_string(),
            found: found.to_string(),
        });
    }
}

fn link_target(found: &Found) -> Option<Vec<u8>> {
    let place = found.place.as_ref()?;
    rustix::fs::readlinkat(&place.directory, &*place.name, Vec::new())
        .ok()
        .map(std::ffi::CString::into_bytes)
}

fn device(found: &Found) -> (u32, u32) {
    (found.stat.stx_rdev_major, found.stat.stx_rdev_minor)
}

fn numbers(node: &Node) -> (u32, u32) {
    node.device
        .map_or((0, 0), |device| (device.major, device.minor))
}
