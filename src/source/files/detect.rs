//! Whether a file is unchanged since the parent snapshot, and what can be trusted for that on a file system.
//!
//! A file is taken over when size and modification time are the parent's, and, where trusted, change time and inode number too; when the
//! parent archived one state of it; and when its times lie clearly before the parent's scan: a later write within the same clock tick
//! would leave no trace.
//!
//! How close to the scan a time may lie depends on the clock that set it:
//!
//! | clock | window before the scan |
//! |---|---|
//! | this host's, times with fractions of a second (ext4, xfs, btrfs, tmpfs …): a tick of the kernel is at most 10 ms | 20 ms |
//! | this host's, whole seconds (ext4 with small inodes, FAT, exFAT, types that are not known) | 2 s |
//! | a server's, which may differ from ours (NFS, SMB, FUSE, cluster file systems) | 2 s and a minute |
//!
//! Where change times are trusted they alone are asked: every write sets them, no program can, so a modification time in the future does
//! not make a file be read each time.
//!
//! Invariants: in doubt a file is read (`only_what_is_clearly_unchanged_is_taken_over`).

use std::os::fd::AsFd;

use super::metadata::Stat;
use crate::format::node::{Consistency, Node, NodeKind, Timestamp};

/// Tick of the clock that Linux takes times of files from: 10 ms at 100 Hz, and as much again.
const TICK_NANOS: i64 = 20_000_000;
/// The coarsest clock in use is FAT's.
const GRAIN_NANOS: i64 = 2_000_000_000;
/// So much a server's clock may differ from ours.
const CLOCKS_NANOS: i64 = 60_000_000_000;

/// The Windows rights of a file are reached by name alone (`system.cifs_acl`, `system.smb3_ntsd` …): the client never lists them.
const SMB_RIGHTS: &str = "an SMB mount: owners and modes are what its mount options say, and the rights (ACLs), streams and attributes that \
    Windows keeps of the files are not in the snapshot";

/// How unchanged files are recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detection {
    /// Inode number and change time are used where the file system is known to keep them.
    #[default]
    Automatic,
    /// Size, modification time, change time and inode number.
    TrustInode,
    /// Size and modification time only.
    ModifiedOnly,
    /// Every file is read; a content that changed although no metadata did is reported as possible bit rot.
    ReadAll,
}

/// What a file system means to the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSystem {
    /// Every call may wait for a network or another process: many readers instead of reading on the workers.
    pub(super) slow: bool,
    /// Inode numbers and change times stay as long as the file does.
    pub(super) stable: bool,
    /// Holds no files of anybody (proc, sysfs …).
    pub(super) pseudo: bool,
    /// Its name, for notes.
    pub(super) name: &'static str,
}

const fn local(name: &'static str) -> FileSystem {
    FileSystem {
        slow: false,
        stable: true,
        pseudo: false,
        name,
    }
}

const fn slow(name: &'static str, stable: bool) -> FileSystem {
    FileSystem {
        slow: true,
        stable,
        pseudo: false,
        name,
    }
}

const fn pseudo(name: &'static str) -> FileSystem {
    FileSystem {
        slow: false,
        stable: false,
        pseudo: true,
        name,
    }
}

impl FileSystem {
    /// What nobody can tell from the nodes: whose rights they hold.
    pub(super) fn rights_note(self) -> Option<&'static str> {
        ["smb", "cifs", "smb2"]
            .contains(&self.name)
            .then_some(SMB_RIGHTS)
    }
}

/// What `statfs` says.
pub(super) fn file_system_of(fd: impl AsFd) -> FileSystem {
    let magic = rustix::fs::fstatfs(fd).map_or(0, |stat| u64::try_from(stat.f_type).unwrap_or(0));
    file_system(magic)
}

/// By the type number of `statfs` (values of linux/magic.h).
pub(super) fn file_system(magic: u64) -> FileSystem {
    match magic & 0xffff_ffff {
        0xef53 => local("ext4"),
        0x5846_5342 => local("xfs"),
        0x9123_683e => local("btrfs"),
        0x2fc1_2fc1 => local("zfs"),
        0xca45_1a4e => local("bcachefs"),
        0xf2f5_2010 => local("f2fs"),
        0x3153_464a => local("jfs"),
        0x5265_4973 => local("reiserfs"),
        0x0102_1994 => local("tmpfs"),
        0x794c_7630 => local("overlayfs"),
        // Their inode numbers are made up at every mount.
        0x4d44 => FileSystem {
            stable: false,
            ..local("vfat")
        },
        0x2011_bab0 => FileSystem {
            stable: false,
            ..local("exfat")
        },
        0x9660 => FileSystem {
            stable: false,
            ..local("iso9660")
        },
        0x6969 => slow("nfs", true),
        0x00c3_6400 => slow("ceph", true),
        0x0bd0_0bd0 => slow("lustre", true),
        0x4750_4653 => slow("gpfs", true),
        0x0116_1970 => slow("gfs2", true),
        0x7461_636f => slow("ocfs2", true),
        0x517b => slow("smb", false),
        0xff53_4d42 => slow("cifs", false),
        0xfe53_4d42 => slow("smb2", false),
        0x6573_5546 => slow("fuse", false),
        0x0102_1997 => slow("9p", false),
        0x5346_414f => slow("afs", false),
        0x7375_7245 => slow("coda", false),
        0x786f_4256 => slow("vboxsf", false),
        0x9fa0 => pseudo("proc"),
        0x6265_6572 => pseudo("sysfs"),
        0x0027_e0eb => pseudo("cgroup"),
        0x6367_7270 => pseudo("cgroup2"),
        0x6462_6720 => pseudo("debugfs"),
        0x7472_6163 => pseudo("tracefs"),
        0x7363_6673 => pseudo("securityfs"),
        0x1cd1 => pseudo("devpts"),
        0xcafe_4a11 => pseudo("bpf"),
        0x6165_676c => pseudo("pstore"),
        0x6265_6570 => pseudo("configfs"),
        0x6573_5543 => pseudo("fusectl"),
        0x1980_0202 => pseudo("mqueue"),
        0xde5e_81e4 => pseudo("efivarfs"),
        0x4249_4e4d => pseudo("binfmt_misc"),
        0x6e73_6673 => pseudo("nsfs"),
        _ => FileSystem {
            stable: false,
            ..local("unknown")
        },
    }
}

/// What is compared with the parent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Change time and inode number count.
    pub(super) inode_trusted: bool,
    /// Nothing is taken over.
    pub(super) read_all: bool,
    /// Times come from another host's clock.
    pub(super) other_clock: bool,
    /// When the parent's scan began.
    pub(super) parent_started: Timestamp,
}

/// Whether `time` is earlier than `limit` by more than `nanos`.
fn is_before(time: Timestamp, limit: Timestamp, nanos: i64) -> bool {
    let since_epoch =
        |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    since_epoch(time) + i128::from(nanos) < since_epoch(limit)
}

impl Rule {
    /// Whether size and times of a regular file are the parent's.
    pub(super) fn same_metadata(&self, stat: &Stat, old: &Node) -> bool {
        let inode_same = !self.inode_trusted
            || (old.changed == Some(stat.changed) && old.inode == Some(stat.ino));
        old.kind == NodeKind::File
            && old.size == stat.size
            && old.modified == stat.modified
            && inode_same
    }

    /// Whether times lie so close to the parent's scan that a later change could have left them as they are.
    pub(super) fn is_fresh(&self, stat: &Stat) -> bool {
        let time = match self.inode_trusted {
            true => stat.changed,
            false => stat.modified,
        };
        let window = match (self.other_clock, self.inode_trusted && time.nanos != 0) {
            (true, _) => GRAIN_NANOS + CLOCKS_NANOS,
            (false, true) => TICK_NANOS,
            (false, false) => GRAIN_NANOS,
        };
        !is_before(time, self.parent_started, window)
    }

    /// Whether the parent's content can be taken over.
    pub(super) fn is_unchanged(&self, stat: &Stat, old: &Node) -> bool {
        !self.read_all
            && old.consistency == Consistency::Whole
            && self.same_metadata(stat, old)
            && !self.is_fresh(stat)
    }

    /// Whether mode, owner and extended attributes are the parent's too: any change of them moves the change time.
    pub(super) fn same_inode_state(&self, stat: &Stat, old: &Node) -> bool {
        self.inode_trusted
            && !self.read_all
            && old.changed == Some(stat.changed)
            && old.inode == Some(stat.ino)
            && !self.is_fresh(stat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::Device;
    use rustix::fs::FileType;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 5 }
    }

    fn stat() -> Stat {
        Stat {
            kind: FileType::RegularFile,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            ino: 7,
            dev: 1,
            size: 10,
            blocks: 8,
            modified: at(100),
            changed: at(101),
            device: Device { major: 0, minor: 0 },
        }
    }

    fn old() -> Node {
        Node {
            name: b"f".to_vec(),
            size: 10,
            modified: at(100),
            changed: Some(at(101)),
            inode: Some(7),
            ..Node::default()
        }
    }

    #[test]
    fn smb_mounts_are_told() {
        for (magic, told) in [
            (0xff53_4d42, true),
            (0xfe53_4d42, true),
            (0x517b, true),
            // On some hosts the type is a negative number.
            (0xffff_ffff_ff53_4d42, true),
            (0xef53, false),
            (0x6969, false),
            (0x6573_5546, false),
        ] {
            let system = file_system(magic);
            assert_eq!(system.rights_note().is_some(), told, "{}", system.name);
        }
    }

    #[test]
    fn only_what_is_clearly_unchanged_is_taken_over() {
        let trusted = Rule {
            inode_trusted: true,
            read_all: false,
            other_clock: false,
            parent_started: at(1000),
        };
        let untrusted = Rule {
            inode_trusted: false,
            ..trusted
        };
        let check = |rule: Rule, stat: Stat, old: Node, expected: bool, what: &str| {
            assert_eq!(rule.is_unchanged(&stat, &old), expected, "{what}");
        };
        check(trusted, stat(), old(), true, "same");
        check(untrusted, stat(), old(), true, "same, untrusted");
        let moved = Stat {
            ino: 8,
            changed: at(500),
            ..stat()
        };
        check(trusted, moved, old(), false, "other inode");
        check(untrusted, moved, old(), true, "other inode, untrusted");
        check(trusted, Stat { size: 11, ..stat() }, old(), false, "size");
        check(
            trusted,
            Stat {
                modified: at(99),
                ..stat()
            },
            old(),
            false,
            "time",
        );
        let torn = Node {
            consistency: Consistency::Torn,
            ..old()
        };
        check(trusted, stat(), torn, false, "torn");
        let link = Node {
            kind: NodeKind::Symlink,
            ..old()
        };
        check(trusted, stat(), link, false, "another kind");
        let unknown = Node {
            inode: None,
            ..old()
        };
        check(trusted, stat(), unknown, false, "parent did not know");
        let all = Rule {
            read_all: true,
            ..trusted
        };
        check(all, stat(), old(), false, "read all");
    }

    #[test]
    fn a_time_close_to_the_scan_is_unsure() {
        let started = at(1000);
        let fresh = |inode_trusted, other_clock, seconds, nanos| {
            let time = Timestamp { seconds, nanos };
            let rule = Rule {
                inode_trusted,
                read_all: false,
                other_clock,
                parent_started: started,
            };
            let changed = Stat {
                changed: time,
                ..stat()
            };
            let modified = Stat {
                modified: time,
                ..stat()
            };
            assert!(!rule.is_fresh(if inode_trusted { &modified } else { &changed }));
            rule.is_fresh(if inode_trusted { &changed } else { &modified })
        };
        // Our own clock, in ticks.
        assert!(!fresh(true, false, 999, 979_000_000));
        assert!(fresh(true, false, 999, 981_000_000));
        assert!(fresh(true, false, 1000, 6));
        assert!(fresh(true, false, 2000, 6));
        // In whole seconds, or nobody knows.
        for trusted in [false, true] {
            assert!(!fresh(trusted, false, 997, 0), "{trusted}");
            assert!(fresh(trusted, false, 999, 0), "{trusted}");
        }
        assert!(fresh(false, false, 999, 5));
        // A server's clock.
        for trusted in [false, true] {
            assert!(!fresh(trusted, true, 937, 6), "{trusted}");
            assert!(fresh(trusted, true, 939, 6), "{trusted}");
        }
        let rule = Rule {
            inode_trusted: true,
            read_all: false,
            other_clock: false,
            parent_started: started,
        };
        // Somebody set its time into the future.
        let future = Stat {
            modified: at(5000),
            ..stat()
        };
        let node = Node {
            modified: at(5000),
            ..old()
        };
        assert!(rule.is_unchanged(&future, &node));
    }
}
