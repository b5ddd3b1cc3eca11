//! A target that fills up during a restore. Needs the right to mount a small memory file system; without it the test says so and ends.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A file system of a few MiB, unmounted at the end.
pub(crate) struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    pub(crate) fn mount(at: &'a Path) -> Option<Self> {
        Self::mount_of(at, 3)
    }

    /// The same, of so many MiB.
    pub(crate) fn mount_of(at: &'a Path, mib: u32) -> Option<Self> {
        let size = format!("size={mib}m");
        mount(&["-t", "tmpfs", "-o", &size, "none"], at).then_some(Self(at))
    }

    fn grow(&self) {
        self.grow_to(64);
    }

    pub(crate) fn grow_to(&self, mib: u32) {
        let size = format!("remount,size={mib}m");
        assert!(mount(&["-o", &size], self.0));
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

/// Whether `mount` could do it.
fn mount(args: &[&str], at: &Path) -> bool {
    let output = Command::new("mount").args(args).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}

fn holdfast(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command
        .env_clear()
        .env("HOME", folder)
        .env("HOLDFAST_REPO", folder.join("repository"));
    command.args(args).output().unwrap()
}

#[test]
fn a_full_target_ends_a_restore_and_a_rerun_completes_it() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    for number in 0..24_u32 {
        let mut block = blake3::Hasher::new();
        block.update(&number.to_le_bytes());
        let mut bytes = vec![0; 400_000];
        block.finalize_xof().fill(&mut bytes);
        fs::write(source.join(format!("file-{number:02}")), bytes).unwrap();
    }
    let Some(small) = Small::mount(&target) else {
        return println!("not run: a memory file system can't be mounted here");
    };
    let good = |output: &Output| {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    good(&holdfast(folder.path(), &["init", "--encryption", "none"]));
    good(&holdfast(
        folder.path(),
        &["backup", source.to_str().unwrap()],
    ));
    let place = format!("latest:paths{}", source.display());
    let restore = [
        "restore",
        &place,
        "--in-place",
        "--target",
        target.to_str().unwrap(),
    ];
    let output = holdfast(folder.path(), &restore);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
    assert!(stderr.contains("file-"), "names no file: {stderr}");
    // What is there is whole: a file appears under its name when it is complete.
    for entry in fs::read_dir(&target).unwrap() {
        let name = entry.unwrap().file_name();
        if name.to_string_lossy().starts_with("file-") {
            let same =
                fs::read(target.join(&name)).unwrap() == fs::read(source.join(&name)).unwrap();
            assert!(same, "{} is cut off", name.display());
        }
    }
    small.grow();
    good(&holdfast(folder.path(), &restore));
    for entry in fs::read_dir(&source).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(fs::read(target.join(&name)).unwrap() == fs::read(source.join(&name)).unwrap());
    }
    assert_eq!(
        fs::read_dir(&target).unwrap().count(),
        24,
        "something was left behind"
    );
    drop(small);
}
