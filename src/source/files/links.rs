//! Files with several names: their group number, and their content for the second name.
//!
//! The group is a hash of the inode number, the component's place in the tree and the mount below it, so it is the same at every run, and
//! two components never share one. Contents are remembered for a bounded number of files; beyond it the second name is read like the first
//! and stored once all the same.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::Mutex;

use siphasher::sip::SipHasher13;

use super::hands::lock;
use super::metadata::Stat;
use crate::format::node::Node;

/// Files whose content is remembered.
const REMEMBERED_MAX: usize = 1 << 15;
/// Chunks, holes and attributes of a remembered file together.
const PARTS_MAX: usize = 32;

/// A number for a mount, from its place and that of the mount around it.
pub(super) fn mount_number(around: u64, path: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(around, 0x006d_6f75_6e74);
    hasher.write(path);
    hasher.finish()
}

/// The group of a file with several names.
pub(super) fn link_group(mount: u64, ino: u64) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(mount, 0x6c69_6e6b);
    hasher.write(&ino.to_le_bytes());
    hasher.finish()
}

/// Contents of files with several names that were stored already.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: Mutex<HashMap<(u64, u64), Remembered>>,
}

#[derive(Debug)]
struct Remembered {
    stat: Stat,
    node: Node,
    names_left: u32,
}

impl Links {
    /// Remembers the stored `node` of a file.
    pub(super) fn remember(&self, stat: &Stat, node: &Node) {
        let parts = node.content.refs.len() + node.holes.len() + node.xattrs.len();
        if stat.nlink < 2 || parts > PARTS_MAX {
            return;
        }
        let mut known = lock(&self.known);
        if known.len() < REMEMBERED_MAX {
            let remembered = Remembered {
                stat: *stat,
                node: node.clone(),
                names_left: stat.nlink - 1,
            };
            known.entry((stat.dev, stat.ino)).or_insert(remembered);
        }
    }

    /// The node of another name of the same file, if nothing happened to it since; forgotten with its last name.
    pub(super) fn recall(&self, stat: &Stat) -> Option<Node> {
        if stat.nlink < 2 {
            return None;
        }
        let mut known = lock(&self.known);
        let found = known.get_mut(&(stat.dev, stat.ino))?;
        let node = found.stat.same_content(stat).then(|| found.node.clone());
        found.names_left = found.names_left.saturating_sub(1);
        if found.names_left == 0 || node.is_none() {
            known.remove(&(stat.dev, stat.ino));
        }
        node
    }
}
