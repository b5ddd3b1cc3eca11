//! A place for a test: a folder with a repository, its key file and a state folder of its own; the command, and what it said.
//!
//! Commands get an empty environment but for what is set here, so that nothing of the host's decides a test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast::backend::{Local, ObjectKind};
use holdfast::crypto::{Keyring, NewKey, Secret32, SystemRandom};
use holdfast::error::Result;
use holdfast::format::header::Suite;
use holdfast::format::id::{ChunkId, ObjectHash};
use holdfast::format::pack::Class;
use holdfast::format::repository::{ChunkerSettings, RepositoryFormat};
use holdfast::ops::backup::Interrupt;
use holdfast::ops::restore::{RestoreOptions, RestoreSummary, Trouble, restore};
use holdfast::ops::snapshots::{self, Snapshot};
use holdfast::ops::verify::{Depth, Finding, VerifyOptions, VerifySummary, verify};
use holdfast::site::key_text::format_key_file;
use holdfast::store::{Ambient, CreateOptions, KeyInfo, KeySecret, Repository, StoreError};
use serde_json::Value;

/// Nothing that is waited for takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The bits of the key file.
const KEY: [u8; 32] = [9; 32];

/// A folder that holds a repository and what belongs to it.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    /// A folder without a repository.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("hf-it-")
            .tempdir()
            .expect("temporary folder");
        fs::create_dir(folder.path().join("home")).expect("folder made");
        let place = Self { folder };
        place.write_key("key", KEY);
        place
    }

    /// A repository with small chunks, frames and packs, so that little data makes many.
    pub(crate) fn small() -> Self {
        let place = Self::new();
        place.create_small(&place.repository_path(), Suite::Aes256Gcm);
        place
    }

    /// Creates such a repository somewhere else.
    pub(crate) fn create_small(&self, at: &Path, suite: Suite) {
        let id = Keyring::generate_repository_id(&mut SystemRandom);
        let mut format = RepositoryFormat::new(id, 0, suite);
        format.file_chunker = ChunkerSettings::around(8 << 10);
        format.table_chunker = ChunkerSettings::around(4 << 10);
        format.frame_bytes = 64 << 10;
        format.pack_bytes = 256 << 10;
        let secret = Secret32::take(&mut KEY.clone());
        let options = CreateOptions {
            keyring: Keyring::generate(id, suite, None, &mut SystemRandom),
            format,
            keys: vec![NewKey::key_file(&secret, "test", 0)],
        };
        let backend = Arc::new(Local::new(at).expect("an absolute path"));
        Repository::create(backend, "test", &options, Ambient::default()).expect("created");
    }

    /// A file or folder below the place.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the repository is.
    pub(crate) fn repository_path(&self) -> PathBuf {
        self.path("repository")
    }

    /// Writes a key file.
    pub(crate) fn write_key(&self, name: &str, key: [u8; 32]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format_key_file(&key).as_bytes()).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode set");
        path
    }

    /// Lets every user of the host reach the place and write its state.
    pub(crate) fn open_to_all(&self) {
        for folder in [self.folder.path(), &self.path("home")] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("mode set");
        }
    }

    /// The command with its repository and key in the environment.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("HOLDFAST_REPO", self.repository_path())
            .env("HOLDFAST_KEY_FILE", self.path("key"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the command.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(self.command(args).output().expect("the command runs"))
    }

    /// Backs a path up with `--json`.
    pub(crate) fn back_up(&self, path: &Path) -> Outcome {
        self.run([OsStr::new("backup"), OsStr::new("--json"), path.as_os_str()])
    }

    /// Starts a backup of a path.
    pub(crate) fn start_backup(&self, path: &Path) -> Running {
        let args = [OsStr::new("backup"), OsStr::new("--json"), path.as_os_str()];
        Running(Some(
            self.command(args).spawn().expect("the command starts"),
        ))
    }

    /// Opens the repository with nothing remembered of it.
    pub(crate) fn try_open(&self) -> Result<Arc<Repository>, StoreError> {
        let backend = Arc::new(Local::new(self.repository_path()).expect("an absolute path"));
        let mut unlock = |_: &KeyInfo| Some(KeySecret::Key(Secret32::take(&mut KEY.clone())));
        Repository::open(backend, "test", &mut unlock, Ambient::default()).map(Arc::new)
    }

    /// Opens the repository.
    pub(crate) fn open(&self) -> Arc<Repository> {
        self.try_open().expect("opens")
    }

    /// The snapshots, the oldest first.
    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        let repository = self.open();
        let state = repository.read_state().expect("a state");
        snapshots::list(&repository, &state, &mut |e| panic!("{e}")).expect("a list")
    }

    /// Verifies and expects no damage.
    pub(crate) fn assert_good(&self, depth: Depth) -> VerifySummary {
        let (summary, found) = verified(&self.open(), depth).expect("verified");
        assert_eq!(found, [], "{depth:?}");
        summary
    }

    /// Restores a snapshot, or what is below a path of it, and expects that nothing is missing.
    pub(crate) fn restore(&self, spec: &str, target: &Path) -> RestoreSummary {
        let (summary, troubles) = restored(&self.open(), spec, target).expect("restored");
        assert_eq!(troubles, [], "{spec}");
        summary
    }

    /// The chunks of data that the index runs on disk name, each as often as it is named.
    pub(crate) fn stored_chunks(&self) -> Vec<(ChunkId, u32)> {
        let repository = self.open();
        let mut names = Vec::new();
        let list = repository.backend().list(ObjectKind::Index, &mut |info| {
            names.extend(info.name.hash().map(ObjectHash));
        });
        list.expect("a list");
        let mut chunks = Vec::new();
        for name in names {
            let run = repository.load_run(&name).expect("a run");
            for entry in &run.entries {
                let pack = &run.packs[usize::try_from(entry.pack).expect("32 bits fit")];
                let frame = &pack.frames[usize::try_from(entry.frame).expect("32 bits fit")];
                if frame.class != Class::Tree {
                    chunks.push((entry.id, entry.len));
                }
            }
        }
        chunks.sort_unstable();
        chunks
    }

    /// How many packs there are.
    pub(crate) fn pack_count(&self) -> usize {
        files_below(&self.repository_path().join("packs")).len()
    }
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Expects an exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Expects that stderr has these words.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} in {self:#?}");
        self
    }

    /// Expects that people were told why in one line.
    #[track_caller]
    pub(crate) fn in_one_line(self) -> Self {
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{self:#?}");
        self
    }

    /// The JSON objects of this `message_type`.
    pub(crate) fn messages(&self, message_type: &str) -> Vec<Value> {
        let lines = self.stdout.lines();
        let objects = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        objects
            .filter(|object| object["message_type"] == message_type)
            .collect()
    }

    /// The last line of a command with `--json`.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        let mut summaries = self.messages("summary");
        assert_eq!(summaries.len(), 1, "{self:#?}");
        summaries.remove(0)
    }

    /// State and message of a component.
    #[track_caller]
    pub(crate) fn component(&self, name: &str) -> (String, String) {
        let components = self.messages("component");
        let component = components
            .iter()
            .find(|component| component["name"] == name);
        let component = component.unwrap_or_else(|| panic!("{name} in {self:#?}"));
        let text = |field: &str| component[field].as_str().expect("a text").to_owned();
        (text("state"), text("message"))
    }
}

/// A command that runs; it is killed when it is dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Starts a command.
    pub(crate) fn start(mut command: Command) -> Self {
        Self(Some(command.spawn().expect("the command starts")))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().expect("it runs").id()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        let child = self.0.as_mut().expect("it runs");
        child.try_wait().expect("a child of ours").is_some()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Outcome {
        let child = self.0.take().expect("it runs");
        Outcome::of(child.wait_with_output().expect("a child of ours"))
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(mut self) {
        let mut child = self.0.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("a child of ours");
    }

    /// Waits until `condition` holds; false if the command ended before.
    pub(crate) fn until(&mut self, condition: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        while !condition() {
            if self.has_ended() {
                return condition();
            }
            assert!(begun.elapsed() < PATIENCE, "waited for too long");
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Verifies a repository; returns what was found.
pub(crate) fn verified(
    repository: &Arc<Repository>,
    depth: Depth,
) -> Result<(VerifySummary, Vec<Finding>)> {
    let found = Mutex::new(Vec::new());
    let options = VerifyOptions {
        depth,
        ..VerifyOptions::default()
    };
    let each = |finding: &Finding| found.lock().unwrap().push(finding.clone());
    let summary = verify(
        repository,
        &options,
        &Arc::default(),
        &Interrupt::default(),
        &each,
    )?;
    Ok((summary, found.into_inner().unwrap()))
}

/// Restores files; returns what was not restored.
pub(crate) fn restored(
    repository: &Arc<Repository>,
    spec: &str,
    target: &Path,
) -> Result<(RestoreSummary, Vec<Trouble>)> {
    let troubles = Mutex::new(Vec::new());
    let each = |trouble: &Trouble| troubles.lock().unwrap().push(trouble.clone());
    let summary = restore(
        repository,
        spec,
        target,
        &RestoreOptions::default(),
        &Arc::default(),
        &Interrupt::default(),
        &each,
    )?;
    Ok((summary, troubles.into_inner().unwrap()))
}

/// Bytes that do not compress and repeat nowhere, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Writes `count` files of noise below `folder`.
pub(crate) fn noise_tree(folder: &Path, seed: u64, count: u64, len: usize) {
    for number in 0..count {
        let sub = folder.join(format!("d{}", number % 5));
        fs::create_dir_all(&sub).expect("folder made");
        let bytes = noise(seed * 1_000_000 + number, len);
        fs::write(sub.join(format!("f{number}")), bytes).expect("written");
    }
}

/// The files below a folder, by their paths below it.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => collect(&path, found),
                _ => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    collect(folder, &mut found);
    found.sort();
    found
}

/// All that can be seen of a tree: for each path its metadata, and bytes or target.
pub(crate) fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    fn look(root: &Path, path: &Path, all: &mut BTreeMap<PathBuf, String>) {
        let metadata = fs::symlink_metadata(path).expect("metadata");
        let content = if metadata.is_symlink() {
            format!("{:?}", fs::read_link(path).expect("a link"))
        } else if metadata.is_file() {
            blake3::hash(&fs::read(path).expect("bytes")).to_string()
        } else {
            String::new()
        };
        let facts = format!(
            "{:o} {}:{} {}.{:09} {} {content}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            if metadata.is_dir() { 0 } else { metadata.len() },
        );
        let below = path.strip_prefix(root).expect("below").to_owned();
        all.insert(below, facts);
        if metadata.is_dir() {
            for entry in fs::read_dir(path).expect("a directory") {
                look(root, &entry.expect("an entry").path(), all);
            }
        }
    }
    let mut all = BTreeMap::new();
    look(root, root, &mut all);
    all
}

/// Expects two trees that look the same.
#[track_caller]
pub(crate) fn assert_same_tree(one: &Path, other: &Path) {
    let (one, other) = (seen(one), seen(other));
    let differing: Vec<_> = one
        .keys()
        .chain(other.keys())
        .filter(|path| one.get(*path) != other.get(*path))
        .map(|path| (path, one.get(path), other.get(path)))
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

/// Says on the terminal that a test could not be done here.
pub(crate) fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
