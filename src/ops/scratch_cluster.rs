//! A private PostgreSQL cluster from the installed programs: on a Unix socket in a folder of its own, reached by nobody else.
//!
//! A server never runs as root, so root starts it as `postgres`, or as `nobody` where there is no such account.
//!
//! Failure: a server is stopped when its [`Cluster`] is dropped; where the process ends without that, [`Servers::kill`] does it.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, Result};
use crate::source::postgres::pgtools::version_folders;
use crate::source::postgres::{ConnInfo, ConnectOptions, Connector, PgError, PgSession};
use crate::target::postgres::RestoreTarget;

/// The port in the name of the socket; nothing listens on the network.
const PORT: u16 = 5432;
/// The role that owns everything.
const OWNER: &str = "postgres";
/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest path that the name of a socket can be, less its last part.
const SOCKET_FOLDER_LEN_MAX: usize = 107 - "/.s.PGSQL.5432".len();

/// The programs of a server.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Finds the newest installed server: in the folders of versions, then in those of `path`.
    pub(crate) fn find(versions: &[(&str, &str)], path: Option<&std::ffi::OsStr>) -> Result<Self> {
        let mut folders: Vec<(u32, PathBuf)> = version_folders(versions)
            .into_iter()
            // 9.6 before 10: what is not one number is older than everything that is.
            .map(|(version, folder)| (version.parse().unwrap_or(0), folder))
            .collect();
        folders.sort();
        folders
            .into_iter()
            .rev()
            .map(|(_, folder)| folder)
            .chain(path.into_iter().flat_map(std::env::split_paths))
            .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
            .map(|folder| Self { folder })
            .ok_or_else(|| {
                Error::Message(
                    "this needs a PostgreSQL server, and none is installed: \
                     apt-get install postgresql (Debian, Ubuntu) or dnf install postgresql-server (Fedora, Rocky)"
                        .into(),
                )
            })
    }

    fn command(&self, program: &str, account: Option<Account>, folder: &Path) -> Command {
        let mut command = Command::new(self.folder.join(program));
        // Nothing of the caller's environment may choose another server, locale or library.
        command
            .env_clear()
            .env("PATH", &self.folder)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir(folder)
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(account) = account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }
}

/// An account without privileges.
#[derive(Clone, Copy, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The one that a server started by root runs as; none if this is not root.
    fn for_server() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd")
            .map_err(|error| Error::local("cannot read /etc/passwd", error))?;
        let found = ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::find(&users, name));
        found.map(Some).ok_or_else(|| {
            Error::Message(
                "a PostgreSQL server does not run as root, and there is neither a user postgres nor nobody".into(),
            )
        })
    }

    fn find(users: &str, name: &str) -> Option<Self> {
        let mut entries = users.lines().map(|line| line.split(':'));
        entries.find_map(|mut fields| {
            (fields.next()? == name).then_some(())?;
            Some(Self {
                uid: fields.nth(1)?.parse().ok()?,
                gid: fields.next()?.parse().ok()?,
            })
        })
    }
}

/// The servers that run, for the case that the process ends at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers(Arc<Mutex<Vec<Pid>>>);

impl Servers {
    /// Stops all of them without waiting.
    pub(crate) fn kill(&self) {
        for pid in self.pids().drain(..) {
            signal(pid, Signal::QUIT);
        }
    }

    fn pids(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    server: Child,
    servers: Servers,
    /// Shut down in order, so that its files can be used afterwards.
    keep: bool,
}

impl Cluster {
    /// Creates a cluster in `folder`, which must not exist, and starts it.
    pub(crate) fn start(
        programs: &Programs,
        folder: PathBuf,
        keep: bool,
        servers: &Servers,
    ) -> Result<Self> {
        if folder.as_os_str().len() > SOCKET_FOLDER_LEN_MAX {
            return Err(Error::Message(format!(
                "{} is too long a path for a Unix socket; set TMPDIR to a shorter one",
                folder.display()
            )));
        }
        let account = Account::for_server()?;
        let prepare = || {
            fs::create_dir(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
            match account {
                Some(account) => chown(&folder, Some(account.uid), Some(account.gid)),
                None => Ok(()),
            }
        };
        prepare()
            .map_err(|error| Error::local(format!("cannot create {}", folder.display()), error))?;
        create(programs, account, &folder)?;
        let server = launch(programs, account, &folder)?;
        let cluster = Self {
            folder,
            server,
            servers: servers.clone(),
            keep,
        };
        cluster.servers.pids().extend(cluster.pid());
        cluster.wait_until_ready()
    }

    /// The connection string of a database.
    pub(crate) fn conninfo(&self, database: &str) -> String {
        format!(
            "host='{}' port={PORT} user={OWNER} dbname='{database}'",
            self.folder.display()
        )
    }

    /// Connects to a database.
    pub(crate) fn connect(&self, database: &str) -> Result<PgSession> {
        let connected = self
            .connector(database)
            .and_then(|connector| connector.connect(&ConnectOptions::default()));
        connected.map_err(|error| Error::Message(error.to_string()))
    }

    /// This server as the target of a restore.
    pub(crate) fn target(&self, database: &str) -> Result<RestoreTarget> {
        let connector = self.connector(database);
        let connector = connector.map_err(|error| Error::Message(error.to_string()))?;
        Ok(RestoreTarget::with_name(connector, database))
    }

    fn connector(&self, database: &str) -> Result<Connector, PgError> {
        let info = ConnInfo::parse(&self.conninfo(database))?;
        Ok(Connector::new(info.resolve(&|_| None)?))
    }

    fn wait_until_ready(mut self) -> Result<Self> {
        let begun = Instant::now();
        let status = self.folder.join("data/postmaster.pid");
        loop {
            // Its last line says "ready", since version 10; an older one is asked by connecting.
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().nth(7).map(str::trim);
            if line == Some("ready") {
                return Ok(self);
            }
            let ended = self.server.try_wait();
            if !matches!(ended, Ok(None)) || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(Error::Message(format!(
                    "the private PostgreSQL server does not start: {}",
                    last.into_iter().rev().collect::<Vec<_>>().join("; ")
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.server.id()).ok()?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(pid) = self.pid() else { return };
        let signal = match self.keep {
            true => Signal::INT,
            false => Signal::QUIT,
        };
        self.servers.pids().retain(|other| *other != pid);
        self::signal(pid, signal);
        let begun = Instant::now();
        while matches!(self.server.try_wait(), Ok(None)) {
            if begun.elapsed() > PATIENCE {
                drop(self.server.kill());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn signal(pid: Pid, signal: Signal) {
    if let Err(errno) = kill_process(pid, signal) {
        tracing::debug!("the server has ended already: {errno}");
    }
}

fn create(programs: &Programs, account: Option<Account>, folder: &Path) -> Result<()> {
    let mut command = programs.command("initdb", account, folder);
    command.args(["-D", "data", "-U", OWNER, "-A", "trust", "-E", "UTF8"]);
    command.args(["--locale=C", "--nosync"]);
    let output = command
        .output()
        .map_err(|error| Error::local("cannot run initdb", error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Message(format!(
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr)
                .trim()
                .replace('\n', "; ")
        ))),
    }
}

fn launch(programs: &Programs, account: Option<Account>, folder: &Path) -> Result<Child> {
    let log = File::create(folder.join("log"))
        .map_err(|error| Error::local("cannot create the log of the server", error))?;
    let mut command = programs.command("postgres", account, folder);
    command.args(["-D", "data", "-p", &PORT.to_string(), "-k"]);
    command.arg(folder);
    // Nothing in it has to survive a loss of power.
    for setting in [
        "listen_addresses=",
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "autovacuum=off",
        "max_wal_size=1GB",
        "shared_buffers=64MB",
        "max_connections=40",
        "logging_collector=off",
    ] {
        command.args(["-c", setting]);
    }
    let started = command.stdout(Stdio::null()).stderr(log).spawn();
    started.map_err(|error| Error::local("cannot run postgres", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found() {
        let users =
            "root:x:0:0::/root:/bin/sh\npostgres:x:104:112:p,,,:/var/lib:/bin/bash\nbroken\n";
        let found = Account::find(users, "postgres").unwrap();
        assert_eq!((found.uid, found.gid), (104, 112));
        assert!(Account::find(users, "nobody").is_none());
        assert!(Account::find(users, "broken").is_none());
    }

    #[test]
    fn the_package_is_named_where_no_server_is_installed() {
        let empty = tempfile::tempdir().unwrap();
        let versions = [(empty.path().to_str().unwrap(), "pg-")];
        let error = Programs::find(&versions, None).unwrap_err();
        assert!(error.to_string().contains("apt-get install postgresql"));
        for version in ["pg-9.6", "pg-9", "pg-15", "pg-13", "other"] {
            let folder = empty.path().join(version).join("bin");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("initdb"), "").unwrap();
            fs::write(folder.join("postgres"), "").unwrap();
        }
        let found = Programs::find(&versions, None).unwrap();
        assert_eq!(found.folder, empty.path().join("pg-15/bin"));
    }
}
