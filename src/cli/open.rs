//! From flags, environment and site file to an open repository: where it is, what opens it, and the prompt for a passphrase.
//!
//! A flag goes before the environment, the environment before the site file. Nothing that opens a repository is read before it is needed:
//! a repository without encryption asks for no key.
//!
//! Invariants:
//! 1. What is typed as a passphrase is not shown, and the terminal is left as it was, also by Ctrl-C (`signals`).
//! 2. Nobody is asked where nobody can answer: without a terminal the message names the other ways (`it/cli.rs`).

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use holdfast::backend::{Backend, Limited, open_url};
use holdfast::crypto::{Secret32, SystemRandom};
use holdfast::error::Error;
use holdfast::format::key::KeyKind;
use holdfast::ops::quiesce::{SiteLock, SitePlace};
use holdfast::site::SiteFile;
use holdfast::site::config::Confidential;
use holdfast::site::key_text::parse_recovery_key;
use holdfast::site::secrets::{
    COMMAND_TIMEOUT, KeyMaterial, RepositoryKey, Secret, SecretError, SecretSource,
};
use holdfast::store::{Ambient, KeyInfo, KeySecret, Remembered, Repository, StoreError};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::args::Global;
use super::progress;
use super::signals::Signals;

/// The longest passphrase that can be typed.
const TYPED_BYTES_MAX: usize = 4096;
/// How often a passphrase can be typed.
const PROMPTS_MAX: u32 = 3;

/// A command line that asks for what can't be done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// Which variables of the environment say what opens a repository.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variables {
    key_file: &'static str,
    passphrase_file: &'static str,
    passphrase_command: &'static str,
    passphrase: &'static str,
}

/// Those of the repository.
pub(super) const HOLDFAST: Variables = Variables {
    key_file: "HOLDFAST_KEY_FILE",
    passphrase_file: "HOLDFAST_PASSPHRASE_FILE",
    passphrase_command: "HOLDFAST_PASSPHRASE_COMMAND",
    passphrase: "HOLDFAST_PASSPHRASE",
};

/// Those of a second repository that something is taken from.
pub(super) const HOLDFAST_FROM: Variables = Variables {
    key_file: "HOLDFAST_FROM_KEY_FILE",
    passphrase_file: "HOLDFAST_FROM_PASSPHRASE_FILE",
    passphrase_command: "HOLDFAST_FROM_PASSPHRASE_COMMAND",
    passphrase: "HOLDFAST_FROM_PASSPHRASE",
};

/// Those of a second repository that something is sent to.
pub(super) const HOLDFAST_TO: Variables = Variables {
    key_file: "HOLDFAST_TO_KEY_FILE",
    passphrase_file: "HOLDFAST_TO_PASSPHRASE_FILE",
    passphrase_command: "HOLDFAST_TO_PASSPHRASE_COMMAND",
    passphrase: "HOLDFAST_TO_PASSPHRASE",
};

/// An open repository and what is to be said about it.
#[derive(Debug)]
pub(super) struct Opened {
    /// It.
    pub(super) repository: Arc<Repository>,
    /// Whether damage was found, and read around.
    pub(super) damaged: bool,
}

/// Reads the site file, if one is named.
pub(super) fn site_file(global: &Global) -> anyhow::Result<Option<SiteFile>> {
    Ok(global.site.as_deref().map(SiteFile::load).transpose()?)
}

/// Opens the repository that flags, environment or site file name.
pub(super) fn open(
    global: &Global,
    site: Option<&SiteFile>,
    signals: &Signals,
) -> anyhow::Result<Opened> {
    open_limited(global, site, signals, None)
}

/// Opens it to write no more than so many bytes a second.
pub(super) fn open_limited(
    global: &Global,
    site: Option<&SiteFile>,
    signals: &Signals,
    bytes_a_second: Option<u64>,
) -> anyhow::Result<Opened> {
    let url = place(global, site)?;
    let key = key_source(global.key_file.as_deref(), HOLDFAST, site);
    let backend = || -> anyhow::Result<Arc<dyn Backend>> {
        let backend = backend(&url)?;
        Ok(match bytes_a_second {
            Some(rate) => Arc::new(Limited::new(backend, rate)),
            None => backend,
        })
    };
    told(open_by(&backend, &url, key, HOLDFAST, signals)?)
}

/// Where the repository is.
pub(super) fn place(global: &Global, site: Option<&SiteFile>) -> anyhow::Result<String> {
    let named = global
        .repo
        .clone()
        .or_else(|| variable("HOLDFAST_REPO"))
        .or_else(|| Some(site?.repository.as_ref()?.url.clone()));
    named.ok_or_else(|| {
        Usage("no repository is named: give --repo or --site, or set HOLDFAST_REPO".into()).into()
    })
}

/// The backend at `url`.
pub(super) fn backend(url: &str) -> anyhow::Result<Arc<dyn Backend>> {
    Ok(Arc::from(open_url(url)?))
}

/// What opens the repository, if anything was said about it.
pub(super) fn key_source(
    key_file: Option<&Path>,
    variables: Variables,
    site: Option<&SiteFile>,
) -> Option<RepositoryKey> {
    let file = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = key_file {
        return Some(RepositoryKey::KeyFile(path.to_owned()));
    }
    if let Some(path) = file(variables.key_file) {
        return Some(RepositoryKey::KeyFile(path.into()));
    }
    if let Some(path) = file(variables.passphrase_file) {
        return Some(RepositoryKey::Passphrase(SecretSource::File(path.into())));
    }
    if let Some(command) = variable(variables.passphrase_command) {
        let command = Confidential::new(command);
        return Some(RepositoryKey::Passphrase(SecretSource::Command(command)));
    }
    if let Some(value) = file(variables.passphrase) {
        use std::os::unix::ffi::OsStringExt;
        let secret = Secret::new(value.into_vec());
        return Some(RepositoryKey::Passphrase(SecretSource::Value(secret)));
    }
    site?.repository.as_ref()?.key.clone()
}

/// Opens the second repository, that `--to` or the site file's `[replicate]` names.
pub(super) fn open_second(
    to: Option<&str>,
    key_file: Option<&Path>,
    site: Option<&SiteFile>,
    signals: &Signals,
) -> anyhow::Result<Opened> {
    let settings = site.and_then(|site| site.replicate.as_ref());
    let named = to
        .map(str::to_owned)
        .or_else(|| Some(settings?.repository.url.clone()));
    let url = named.ok_or_else(|| {
        Usage("no second repository is named: give --to, or [replicate] in the site file".into())
    })?;
    // The key of the site file belongs to its place, not to another one.
    let key = key_source(key_file, HOLDFAST_TO, None).or_else(|| {
        settings
            .filter(|s| s.repository.url == url)?
            .repository
            .key
            .clone()
    });
    told(open_at(&url, key, HOLDFAST_TO, signals)?)
}

/// Tells what was damaged and read around.
fn told(repository: Repository) -> anyhow::Result<Opened> {
    let damaged = !repository.warnings().is_empty();
    for warning in repository.warnings() {
        progress::warning(&format!("{warning}; its copy was read"));
    }
    Ok(Opened {
        repository: Arc::new(repository),
        damaged,
    })
}

/// Opens the repository at `url`.
pub(super) fn open_at(
    url: &str,
    key: Option<RepositoryKey>,
    variables: Variables,
    signals: &Signals,
) -> anyhow::Result<Repository> {
    open_by(&|| backend(url), url, key, variables, signals)
}

fn open_by(
    backend: &dyn Fn() -> anyhow::Result<Arc<dyn Backend>>,
    url: &str,
    key: Option<RepositoryKey>,
    variables: Variables,
    signals: &Signals,
) -> anyhow::Result<Repository> {
    let mut prompts = 0;
    loop {
        let mut unlocker = Unlocker {
            place: url,
            key: key.as_ref(),
            variables,
            signals,
            material: None,
            kinds: Vec::new(),
            prompted: false,
        };
        let opened = Repository::open(
            backend()?,
            url,
            &mut |info| unlocker.unlock(info),
            ambient(),
        );
        prompts += u32::from(unlocker.prompted);
        match opened {
            Ok(repository) => return Ok(repository),
            Err(StoreError::WrongKey { .. }) if unlocker.prompted && prompts < PROMPTS_MAX => {
                progress::warning("wrong passphrase, try again");
            }
            Err(error) => return Err(unlocker.explain(error)),
        }
    }
}

/// What the repository takes from this host.
pub(super) fn ambient() -> Ambient {
    Ambient {
        random: Box::new(SystemRandom),
        written_by: format!("{}:{}", host(), std::process::id()),
        remembered: state_folder().map(Remembered::in_folder),
        cache: cache_folder(),
        ..Ambient::default()
    }
}

/// The name of this host.
pub(super) fn host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The name of the user of this process, or its number.
pub(super) fn user() -> String {
    user_entry(0).unwrap_or_else(|| rustix::process::getuid().as_raw().to_string())
}

fn home_of_user() -> Option<PathBuf> {
    user_entry(5)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// A field of the entry of this process's user.
fn user_entry(field: usize) -> Option<String> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut entries = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|fields| fields.get(2).is_some_and(|found| *found == uid))?;
    entry.get(field).map(|&text| text.to_owned())
}

/// Takes the lock of a site on this host. Without a place for it, a site that is never stopped goes on without.
pub(super) fn site_lock(site: &SiteFile) -> anyhow::Result<Option<SiteLock>> {
    let folder = state_folder().ok_or_else(|| {
        let text = "there is no place for the lock of a site: set XDG_STATE_HOME or HOME";
        Error::Message(text.into())
    });
    let needed = site.quiesce.is_some() || site.shares.iter().any(|s| s.snapshot.is_some());
    match folder.and_then(|folder| SitePlace::new(&folder, &site.name).lock()) {
        Ok(lock) => Ok(Some(lock)),
        Err(Error::Busy(text)) => Err(Error::Busy(text).into()),
        Err(error) if needed => Err(error.into()),
        Err(error) => {
            let error = anyhow::Error::from(error);
            progress::warning(&format!(
                "nothing keeps a second run of this site away: {error:#}"
            ));
            Ok(None)
        }
    }
}

/// A variable of the environment that is set, and not to nothing.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `$XDG_STATE_HOME/holdfast`, where what can't be found out again is kept.
///
/// Services of systemd have no `HOME`, but must find what the same user left from a terminal.
pub(super) fn state_folder() -> Option<PathBuf> {
    own_folder("XDG_STATE_HOME", ".local/state")
}

/// `$XDG_CACHE_HOME/holdfast`, where what a repository says is kept so that it need not be read again.
fn cache_folder() -> Option<PathBuf> {
    own_folder("XDG_CACHE_HOME", ".cache")
}

fn own_folder(variable_name: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let folder = absolute(variable_name).or_else(|| {
        let home = absolute("HOME").or_else(home_of_user)?;
        Some(home.join(below_home))
    });
    folder.map(|folder| folder.join("holdfast"))
}

/// Hands out what opens key objects, and reads it at the first one that needs it.
struct Unlocker<'a> {
    place: &'a str,
    key: Option<&'a RepositoryKey>,
    variables: Variables,
    signals: &'a Signals,
    material: Option<anyhow::Result<KeyMaterial>>,
    /// The kinds of key that the repository has.
    kinds: Vec<&'static str>,
    prompted: bool,
}

impl Unlocker<'_> {
    fn unlock(&mut self, info: &KeyInfo) -> Option<KeySecret> {
        if !self.kinds.contains(&info.kind.name()) {
            self.kinds.push(info.kind.name());
        }
        if self.material.is_none() {
            self.material = Some(self.read());
        }
        match (self.material.as_ref()?.as_ref().ok()?, &info.kind) {
            (KeyMaterial::Key(key), KeyKind::KeyFile | KeyKind::Recovery) => {
                Some(KeySecret::Key(secret(key)))
            }
            (KeyMaterial::Passphrase(typed), KeyKind::Passphrase { .. }) => Some(
                KeySecret::Passphrase(Zeroizing::new(typed.expose().to_vec())),
            ),
            // Who is asked for the passphrase and has only the paper types that.
            (KeyMaterial::Passphrase(typed), KeyKind::Recovery) => {
                let typed = std::str::from_utf8(typed.expose()).ok()?;
                let key = parse_recovery_key(typed).ok()?;
                Some(KeySecret::Key(secret(&key)))
            }
            _ => None,
        }
    }

    fn read(&mut self) -> anyhow::Result<KeyMaterial> {
        let Some(key) = self.key else {
            if !std::io::stdin().is_terminal() {
                return Err(StoreError::WrongKey {
                    what: no_key(self.variables),
                }
                .into());
            }
            self.prompted = true;
            let question = format!("passphrase of {}: ", self.place);
            return Ok(KeyMaterial::Passphrase(prompt(&question, self.signals)?));
        };
        read_key(key)
    }

    /// The error that people see.
    fn explain(self, error: StoreError) -> anyhow::Error {
        match (error, self.material) {
            (StoreError::WrongKey { .. }, Some(Err(unread))) => unread,
            (StoreError::WrongKey { .. }, Some(Ok(material))) => {
                let given = match (material, self.key) {
                    (KeyMaterial::Key(_), Some(RepositoryKey::KeyFile(path))) => {
                        format!("the key in {}", path.display())
                    }
                    _ => "the passphrase".to_owned(),
                };
                let what = format!(
                    "{given} does not open {}, which has: {}",
                    self.place,
                    self.kinds.join(", ")
                );
                StoreError::WrongKey { what }.into()
            }
            (error, _) => error.into(),
        }
    }
}

/// Reads a key, and says what is to be said about the file that it is in.
pub(super) fn read_key(key: &RepositoryKey) -> anyhow::Result<KeyMaterial> {
    let loaded = match (key.read(COMMAND_TIMEOUT), key) {
        (Err(SecretError::NotAKeyFile { path, reason }), _) => {
            // The recovery key may have been typed into a file.
            let text = Zeroizing::new(std::fs::read(&path).unwrap_or_default());
            let typed = std::str::from_utf8(&text).ok();
            return match typed.and_then(|typed| parse_recovery_key(typed).ok()) {
                Some(key) => Ok(KeyMaterial::Key(key)),
                None => Err(SecretError::NotAKeyFile { path, reason }.into()),
            };
        }
        (loaded, _) => loaded?,
    };
    if let Some(warning) = &loaded.warning {
        progress::warning(warning);
    }
    Ok(loaded.value)
}

/// The bits of a key in the form that sealing takes.
pub(super) fn secret(key: &[u8; 32]) -> Secret32 {
    let mut bytes = Zeroizing::new(*key);
    Secret32::take(&mut bytes)
}

/// Which ways there are to give a key.
pub(super) fn no_key(variables: Variables) -> String {
    format!(
        "no key was given: set {}, {}, {} or {}; a passphrase is asked for only on a terminal",
        variables.key_file,
        variables.passphrase_file,
        variables.passphrase_command,
        variables.passphrase
    )
}

/// Asks for a secret on the terminal, without showing it.
pub(super) fn prompt(question: &str, signals: &Signals) -> anyhow::Result<Secret> {
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).context("cannot ask for a passphrase")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    let mut stderr = std::io::stderr();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    signals.restore_terminal(Some(before.clone()));
    tcsetattr(&stdin, OptionalActions::Flush, &silent).context("cannot ask for a passphrase")?;
    let typed = read_line(&stdin);
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    signals.restore_terminal(None);
    let typed = typed.context("cannot read the passphrase")?;
    match typed.is_empty() {
        true => Err(Usage("an empty passphrase was typed".into()).into()),
        false => Ok(Secret::new(typed)),
    }
}

/// Reads one line, byte by byte into one buffer, so that no copy of it is left in another one.
fn read_line(stdin: &std::io::Stdin) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(TYPED_BYTES_MAX);
    let mut byte = [0];
    while line.len() < TYPED_BYTES_MAX {
        match rustix::io::read(stdin, &mut byte) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => line.push(byte[0]),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}
