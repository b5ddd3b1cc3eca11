//! A private PostgreSQL cluster for tests: made by the installed `initdb` in a temporary folder, reached by
//! a Unix socket (and TCP with TLS where asked for), stopped and removed when dropped.
//!
//! PostgreSQL refuses to run as root; there the server runs as the system user `postgres`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use holdfast::source::postgres::{
    ConnInfo, ConnSettings, ConnectOptions, Connector, PgSession, RetryPolicy,
};

/// What a cluster should be.
#[derive(Default)]
pub(crate) struct ClusterOptions {
    /// Listen on TCP at 127.0.0.1 with a free port.
    pub(crate) tcp: bool,
    /// That port, where it must be a certain one.
    pub(crate) port: Option<u16>,
    /// Lines of `pg_hba.conf`, instead of trust for all.
    pub(crate) hba: Vec<String>,
    /// Lines of `postgresql.conf`.
    pub(crate) conf: Vec<String>,
    /// Arguments for `initdb`.
    pub(crate) initdb: Vec<String>,
}

/// A running cluster.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    bin: PathBuf,
    pub(crate) port: u16,
    pid: u32,
}

/// Returns the newest installed server's programs.
fn bin_folder() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| {
                    Some((
                        entry.file_name().to_str()?.parse().ok()?,
                        entry.path().join("bin"),
                    ))
                })
                .filter(|(_, bin): &(u32, PathBuf)| bin.join("initdb").exists())
                .collect()
        })
        .unwrap_or_default();
    found.sort();
    found
        .pop()
        .expect("no PostgreSQL server is installed; install the package postgresql")
        .1
}

/// Returns uid and gid of the system user that runs the server when the tests run as root.
fn server_user() -> Option<(u32, u32)> {
    if !rustix_is_root() {
        return None;
    }
    let text = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = text
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("the system user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((
        fields[2].parse().expect("a uid"),
        fields[3].parse().expect("a gid"),
    ))
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self")
        .map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
        .unwrap_or(false)
}

/// Makes a command that runs as the server's user.
fn as_server(program: &Path) -> Command {
    match server_user() {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command
                .args([
                    "--reuid",
                    &uid.to_string(),
                    "--regid",
                    &gid.to_string(),
                    "--init-groups",
                    "--",
                ])
                .arg(program);
            command
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Cluster {
    /// Starts a cluster with trust on its socket.
    pub(crate) fn start() -> Self {
        Self::start_with(&ClusterOptions::default())
    }

    /// Starts a cluster.
    pub(crate) fn start_with(options: &ClusterOptions) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("hf-pg-")
            .tempdir()
            .expect("temporary folder");
        if let Some((uid, gid)) = server_user() {
            chown(folder.path(), Some(uid), Some(gid)).expect("owner set");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("mode set");
        let bin = bin_folder();
        let data = folder.path().join("data");
        run(as_server(&bin.join("initdb"))
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--no-locale",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .args(&options.initdb)
            .current_dir(folder.path()));
        let port = match (options.port, options.tcp) {
            (Some(port), _) => port,
            (None, true) => free_port(),
            (None, false) => 5432,
        };
        let mut cluster = Self {
            folder,
            bin,
            port,
            pid: 0,
        };
        cluster.write_configuration(options);
        cluster.boot();
        cluster
    }

    fn write_configuration(&self, options: &ClusterOptions) {
        let listen = if options.tcp { "127.0.0.1" } else { "" };
        let mut conf =
            fs::read_to_string(self.data().join("postgresql.conf")).expect("postgresql.conf");
        conf.push_str(&format!(
            "\nlisten_addresses = '{listen}'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             full_page_writes = off\nlog_min_messages = warning\n",
            self.port,
            self.socket_folder().display()
        ));
        for line in &options.conf {
            conf.push_str(line);
            conf.push('\n');
        }
        self.write_data_file("postgresql.conf", &conf);
        if !options.hba.is_empty() {
            self.set_hba(&options.hba);
        }
    }

    /// Writes a file into the data folder with the owner and mode that the server wants.
    pub(crate) fn write_data_file(&self, name: &str, content: &str) {
        let path = self.data().join(name);
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode set");
        if let Some((uid, gid)) = server_user() {
            chown(&path, Some(uid), Some(gid)).expect("owner set");
        }
    }

    /// Replaces `pg_hba.conf`; takes effect with [`Cluster::reload`].
    pub(crate) fn set_hba(&self, lines: &[String]) {
        self.write_data_file("pg_hba.conf", &(lines.join("\n") + "\n"));
    }

    /// Starts the server and waits until it takes connections.
    pub(crate) fn boot(&mut self) {
        let log = self.folder.path().join("log");
        run(as_server(&self.bin.join("pg_ctl"))
            .args(["start", "-w", "-t", "60", "-s", "-l"])
            .arg(&log)
            .arg("-D")
            .arg(self.data())
            .current_dir(self.folder.path())
            .stdout(Stdio::null()));
        let pid = fs::read_to_string(self.data().join("postmaster.pid")).expect("postmaster.pid");
        self.pid = pid
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
            .expect("a pid");
    }

    /// Starts a standby of this cluster.
    pub(crate) fn standby(&self) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("hf-pg-")
            .tempdir()
            .expect("temporary folder");
        if let Some((uid, gid)) = server_user() {
            chown(folder.path(), Some(uid), Some(gid)).expect("owner set");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("mode set");
        let data = folder.path().join("data");
        run(as_server(&self.bin.join("pg_basebackup"))
            .args([
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "--no-sync",
                "-U",
                "postgres",
                "-p",
                &self.port.to_string(),
            ])
            .arg("-h")
            .arg(self.socket_folder())
            .arg("-D")
            .arg(&data)
            .current_dir(folder.path()));
        let mut standby = Self {
            folder,
            bin: self.bin.clone(),
            port: 5432,
            pid: 0,
        };
        let mut conf = fs::read_to_string(data.join("postgresql.conf")).expect("postgresql.conf");
        conf.push_str(&format!(
            "\nport = 5432\nunix_socket_directories = '{}'\n",
            standby.socket_folder().display()
        ));
        standby.write_data_file("postgresql.conf", &conf);
        standby.boot();
        standby
    }

    /// Reads the configuration again.
    pub(crate) fn reload(&self) {
        run(as_server(&self.bin.join("pg_ctl"))
            .args(["reload", "-s", "-D"])
            .arg(self.data()));
        std::thread::sleep(Duration::from_millis(200));
    }

    /// Stops the server at once.
    pub(crate) fn stop(&mut self) {
        if self.pid == 0 {
            return;
        }
        // SIGQUIT: nothing of this cluster is needed any more.
        signal(self.pid, "QUIT");
        let end = Instant::now() + Duration::from_secs(20);
        while Path::new(&format!("/proc/{}", self.pid)).exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::remove_file(self.data().join("postmaster.pid")).ok();
        self.pid = 0;
    }

    /// Kills the server's first process, and waits until the others have noticed.
    pub(crate) fn crash(&mut self) {
        let of_server = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            parent.and_then(|parent| parent.trim().parse().ok()) == Some(self.pid)
        };
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let children: Vec<u32> = pids.filter(|pid| of_server(*pid)).collect();
        signal(self.pid, "KILL");
        let is_there = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        let end = Instant::now() + Duration::from_secs(60);
        while is_there(&self.pid) || children.iter().any(is_there) {
            assert!(Instant::now() < end, "the server's processes stay");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.pid = 0;
    }

    /// Returns the data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns the folder of the Unix socket.
    pub(crate) fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a program of the installed server, such as `psql`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Returns the connection string for a database over the socket.
    pub(crate) fn conninfo(&self, dbname: &str) -> String {
        format!(
            "host={} port={} user=postgres dbname={dbname}",
            self.socket_folder().display(),
            self.port
        )
    }

    /// Returns the settings for a database over the socket.
    pub(crate) fn settings(&self, dbname: &str) -> ConnSettings {
        settings(&self.conninfo(dbname))
    }

    /// Connects to a database over the socket.
    pub(crate) fn session(&self, dbname: &str) -> PgSession {
        Connector::new(self.settings(dbname))
            .connect(&quick())
            .expect("a session")
    }

    /// Runs statements in a database.
    pub(crate) fn sql(&self, dbname: &str, sql: &str) {
        self.session(dbname)
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads a connection string with an empty environment.
pub(crate) fn settings(conninfo: &str) -> ConnSettings {
    ConnInfo::parse(conninfo)
        .expect("parses")
        .resolve(&|_| None)
        .expect("resolves")
}

/// Options that give up after one round.
pub(crate) fn quick() -> ConnectOptions {
    ConnectOptions {
        retry: RetryPolicy::once(),
        ..ConnectOptions::default()
    }
}

/// Returns a port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(pid: u32, name: &str) {
    run(Command::new("kill").args(["-s", name, &pid.to_string()]));
}
