//! Secrets that a site file or the command line points to: passphrases, key files, recovery keys.
//!
//! Reads them into memory that is wiped, and never shows them. The environment is not looked at here: the command line
//! hands its values in.
//!
//! The text forms of keys are in `key_text`.
//!
//! Invariants:
//!
//! 1. No error and no `Debug` output holds a byte of a secret (test `debug_shows_no_secret`).
//! 2. A key file is created for its owner alone, and never over an existing file
//!    (test `a_key_file_is_private_and_never_overwritten`).
//! 3. A command that hangs ends at its time limit, with its children (test `a_command_that_hangs_is_ended`).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::command::end_group;
use super::config::Confidential;
use super::key_text::{format_key_file, parse_key_file};

/// The most that is read of a file or a command: a passphrase, not a document.
const SECRET_BYTES_MAX: usize = 64 << 10;

/// How long a command may take to hand out a secret, unless the caller says otherwise.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a secret could not be read. No message holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read` or `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The command could not be started or its output not be read.
    #[error("cannot run the command that gives {purpose}")]
    Command {
        /// What the secret is for.
        purpose: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The command ended with an error.
    #[error("the command that gives {purpose} failed: {status}")]
    CommandFailed {
        /// What the secret is for.
        purpose: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The command did not end in time.
    #[error("the command that gives {purpose} took longer than {} s and was ended", limit.as_secs())]
    CommandTimeout {
        /// What the secret is for.
        purpose: String,
        /// The time limit.
        limit: Duration,
    },
    /// There is nothing in the first line.
    #[error("{origin} gave an empty first line instead of {purpose}")]
    Empty {
        /// The file or the command.
        origin: String,
        /// What the secret is for.
        purpose: String,
    },
    /// Far more than a secret came out.
    #[error("{origin} gave more than {SECRET_BYTES_MAX} bytes instead of {purpose}")]
    TooLong {
        /// The file or the command.
        origin: String,
        /// What the secret is for.
        purpose: String,
    },
    /// A key file that does not have its form.
    #[error("{} is not a key file: {reason}", path.display())]
    NotAKeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A recovery key that was typed wrong.
    #[error("this is not a recovery key: {0}")]
    RecoveryKey(&'static str),
}

/// The bytes of a passphrase or password; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps the bytes of a secret.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where a passphrase or password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// It was given as it is, by an environment variable or a prompt.
    Value(Secret),
    /// The first line of a file.
    File(PathBuf),
    /// The first line that a shell command prints.
    Command(Confidential),
}

/// How a repository is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryKey {
    /// A file with 256 random bits.
    KeyFile(PathBuf),
    /// Something that people remember; it is stretched.
    Passphrase(SecretSource),
}

/// What a `RepositoryKey` led to.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyMaterial {
    /// The bits of a key file.
    Key(Zeroizing<[u8; 32]>),
    /// A passphrase.
    Passphrase(Secret),
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "KeyMaterial::Key",
            Self::Passphrase(_) => "KeyMaterial::Passphrase",
        })
    }
}

/// Something that was read, and what the administrator should know about its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<T> {
    /// What was read.
    pub value: T,
    /// A file that others can read, for instance.
    pub warning: Option<String>,
}

impl SecretSource {
    /// Reads the secret; `purpose` is what messages call it, for instance `the passphrase`.
    pub fn read(&self, purpose: &str, limit: Duration) -> Result<Loaded<Secret>, SecretError> {
        let (bytes, origin, warning) = match self {
            Self::Value(secret) => {
                return Ok(Loaded {
                    value: secret.clone(),
                    warning: None,
                });
            }
            Self::File(path) => {
                let (bytes, warning) = read_file(path, purpose)?;
                (bytes, path.display().to_string(), warning)
            }
            Self::Command(command) => (
                run(command, purpose, limit)?,
                "the command".to_owned(),
                None,
            ),
        };
        let line = first_line(&bytes);
        if line.is_empty() {
            return Err(SecretError::Empty {
                origin,
                purpose: purpose.to_owned(),
            });
        }
        Ok(Loaded {
            value: Secret::new(line.to_vec()),
            warning,
        })
    }
}

impl RepositoryKey {
    /// Reads the key file or the passphrase.
    pub fn read(&self, limit: Duration) -> Result<Loaded<KeyMaterial>, SecretError> {
        match self {
            Self::KeyFile(path) => {
                let key = read_key_file(path)?;
                Ok(Loaded {
                    value: KeyMaterial::Key(key.value),
                    warning: key.warning,
                })
            }
            Self::Passphrase(source) => {
                let secret = source.read("the passphrase", limit)?;
                Ok(Loaded {
                    value: KeyMaterial::Passphrase(secret.value),
                    warning: secret.warning,
                })
            }
        }
    }
}

/// Reads a key file.
pub fn read_key_file(path: &Path) -> Result<Loaded<Zeroizing<[u8; 32]>>, SecretError> {
    let (bytes, warning) = read_file(path, "a key")?;
    let not_a_key_file = |reason| SecretError::NotAKeyFile {
        path: path.to_owned(),
        reason,
    };
    let value = parse_key_file(&bytes).map_err(not_a_key_file)?;
    Ok(Loaded { value, warning })
}

/// Creates a key file for its owner alone. An existing file is an error; it may be the only copy of a key.
pub fn create_key_file(path: &Path, key: &[u8; 32]) -> Result<(), SecretError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(format_key_file(key).as_bytes())?;
        file.sync_all()
    };
    write().map_err(|cause| SecretError::File {
        action: "create",
        path: path.to_owned(),
        cause,
    })
}

fn first_line(bytes: &[u8]) -> &[u8] {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn read_file(
    path: &Path,
    purpose: &str,
) -> Result<(Zeroizing<Vec<u8>>, Option<String>), SecretError> {
    let error = |cause| SecretError::File {
        action: "read",
        path: path.to_owned(),
        cause,
    };
    let mut file = File::open(path).map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    if metadata.is_dir() {
        return Err(error(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    let bytes = read_bounded(&mut file).map_err(error)?;
    let bytes = bytes.ok_or_else(|| SecretError::TooLong {
        origin: path.display().to_string(),
        purpose: purpose.to_owned(),
    })?;
    // A pipe (`<(command)`) has no other readers, whatever its mode says.
    let others = metadata.is_file() && metadata.permissions().mode() & 0o077 != 0;
    let warning = others.then(|| {
        let mode = metadata.permissions().mode() & 0o7777;
        format!(
            "{} can be used by others than its owner (mode {mode:04o}); chmod 600 it",
            path.display()
        )
    });
    Ok((bytes, warning))
}

/// Reads everything into one buffer that never grows; `None` if it is too much.
fn read_bounded(source: &mut impl Read) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut bytes = Zeroizing::new(vec![0; SECRET_BYTES_MAX + 1]);
    let mut filled = 0;
    while filled < bytes.len() {
        match source.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok((filled <= SECRET_BYTES_MAX).then_some(bytes))
}

/// Runs a command in its own process group and returns what it prints. What it says on stderr is the terminal's.
fn run(
    command: &Confidential,
    purpose: &str,
    limit: Duration,
) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let error = |cause| SecretError::Command {
        purpose: purpose.to_owned(),
        cause,
    };
    let deadline = Instant::now() + limit;
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command.expose())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(error)?;
    let mut stdout = child.stdout.take().expect("stdout was piped");
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // The receiver is gone after the time limit; then nobody wants it any more.
        drop(sender.send(read_bounded(&mut stdout)));
    });
    let timeout = || SecretError::CommandTimeout {
        purpose: purpose.to_owned(),
        limit,
    };
    let output = match receiver.recv_timeout(limit) {
        Ok(output) => output,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            end_group(&mut child, Duration::ZERO).map_err(error)?;
            return Err(timeout());
        }
    };
    let Ok(Some(bytes)) = &output else {
        end_group(&mut child, Duration::ZERO).map_err(error)?;
        output.map_err(error)?;
        return Err(SecretError::TooLong {
            origin: "the command".to_owned(),
            purpose: purpose.to_owned(),
        });
    };
    // It closed its output, so it is about to end; a moment is granted even when the time is up.
    let deadline = deadline.max(Instant::now() + Duration::from_secs(1));
    let status = loop {
        match child.try_wait().map_err(error)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                end_group(&mut child, Duration::ZERO).map_err(error)?;
                return Err(timeout());
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    if !status.success() {
        return Err(SecretError::CommandFailed {
            purpose: purpose.to_owned(),
            status,
        });
    }
    Ok(bytes.clone())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn command(text: &str) -> SecretSource {
        SecretSource::Command(Confidential::new(text.to_owned()))
    }

    fn read(source: &SecretSource) -> Result<Vec<u8>, String> {
        source
            .read("the passphrase", LIMIT)
            .map(|read| read.value.expose().to_vec())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn commands_give_their_first_line() {
        let check = |text: &str, expected: Result<&[u8], &str>| {
            assert_eq!(
                read(&command(text)).as_deref(),
                expected.map_err(str::to_owned).as_ref().copied(),
                "{text}"
            );
        };
        check("printf 'a b\\nrest'", Ok(b"a b"));
        check("printf ' a\\r\\n'", Ok(b" a"));
        check("printf '\\377\\n'", Ok(b"\xff"));
        check(
            "true",
            Err("the command gave an empty first line instead of the passphrase"),
        );
        check(
            "echo hunter2; exit 7",
            Err("the command that gives the passphrase failed: exit status: 7"),
        );
        check(
            "head -c 100000 /dev/zero",
            Err("the command gave more than 65536 bytes instead of the passphrase"),
        );
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let text = format!("(sleep 1; touch {}) & wait", marker.display());
        let started = Instant::now();
        let error = command(&text)
            .read("the passphrase", Duration::from_millis(200))
            .unwrap_err();
        assert!(
            matches!(error, SecretError::CommandTimeout { .. }),
            "{error}"
        );
        assert!(started.elapsed() < Duration::from_secs(1));
        thread::sleep(Duration::from_millis(1500));
        assert!(!marker.exists(), "a child of the command went on");
    }

    #[test]
    fn files_give_their_first_line_and_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        fs::write(&path, "hunter2\nmore\n").unwrap();
        let source = SecretSource::File(path.clone());
        for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = source.read("the passphrase", LIMIT).unwrap();
            assert_eq!(read.value.expose(), b"hunter2");
            assert_eq!(read.warning.is_some(), warned, "{mode:o}");
        }
        fs::write(&path, "\n").unwrap();
        assert!(read(&source).unwrap_err().contains("empty first line"));
        let missing = SecretSource::File(dir.path().join("none"));
        assert!(read(&missing).unwrap_err().starts_with("cannot read /"));
        assert!(read(&SecretSource::File(dir.path().to_owned())).is_err());
    }

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_key_file(&path, &[7; 32]).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let error = create_key_file(&path, &[8; 32]).unwrap_err();
        assert!(
            matches!(error, SecretError::File { cause, .. } if cause.kind() == io::ErrorKind::AlreadyExists)
        );
        let read = RepositoryKey::KeyFile(path).read(LIMIT).unwrap();
        assert_eq!(read.value, KeyMaterial::Key(Zeroizing::new([7; 32])));
        assert_eq!(read.warning, None);
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = SecretSource::Value(Secret::new(b"hunter2".to_vec()));
        let key = KeyMaterial::Key(Zeroizing::new([104; 32]));
        let shown = format!("{secret:?} {:?} {key:?}", command("echo hunter2"));
        assert!(
            !shown.contains("hunter2") && !shown.contains("104"),
            "{shown}"
        );
        let error = crate::site::key_text::parse_recovery_key("HUNTER2").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("HUNTER2"));
    }
}
