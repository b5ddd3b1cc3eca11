//! What stands between us and a server: a pool that is as good as the server, one that is not, and silence.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast::source::postgres::{ConnectOptions, Connector, PgError, RetryPolicy, StopFlag};

use crate::pg_cluster::{Cluster, free_port, quick, settings, signal};
use crate::pg_dump::{dump_with, source, source_at};
use crate::place::Place;

/// A running pgbouncer before a cluster.
struct Pooler {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Pooler {
    /// Starts one, or says that none is installed.
    fn start(cluster: &Cluster, lines: &str) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists());
        let Some(program) = program else {
            println!("skipped: pgbouncer is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(
            &file,
            format!(
                "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n\
                 unix_socket_dir =\nserver_reset_query_always = 0\n{lines}\n",
                cluster.socket_folder().display(),
                cluster.port
            )
            .replace("* = host", "postgres = user=postgres host"),
        )
        .unwrap();
        open_to_others(folder.path());
        open_to_others(&file);
        let mut command = Command::new(program);
        // It does not run as root.
        if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0 {
            command.args(["-u", "postgres"]);
        }
        let child = command
            .args(["-q"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pooler = Self {
            child,
            port,
            _folder: folder,
        };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "pgbouncer does not start"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(pooler)
    }

    fn conninfo(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable",
            self.port
        )
    }
}

fn open_to_others(path: &std::path::Path) {
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_pool_of_transactions_is_refused() {
    let cluster = Cluster::start();
    // With and without a refusal of the start options.
    for lines in [
        "pool_mode = transaction",
        "pool_mode = transaction\nignore_startup_parameters = options,extra_float_digits",
        "pool_mode = transaction\nserver_round_robin = 1\nignore_startup_parameters = options",
        "pool_mode = statement\nignore_startup_parameters = options",
    ] {
        let Some(pooler) = Pooler::start(&cluster, lines) else {
            return;
        };
        let (outcomes, archive) = dump_with(
            &[source_at(&pooler.conninfo(), "postgres", |_| {})],
            1,
            || {},
        );
        let error = outcomes[0].as_ref().unwrap_err().to_string();
        if lines.contains("statement") {
            assert!(error.contains("pool"), "{lines}: {error}");
        } else {
            assert!(
                error
                    .contains("is a connection pooler that gives each transaction another session")
                    && error.contains("pool_mode = session"),
                "{lines}: {error}"
            );
        }
        assert!(archive.files.is_empty());
        let place = Place::new();
        let site = place.path("site.toml");
        let text = format!(
            "[site]\nname = \"s\"\n[[database]]\nname = \"d\"\nconninfo = \"{}\"\n",
            pooler.conninfo()
        );
        std::fs::write(&site, text).unwrap();
        let checked = place.run(["site", "check", "--site", site.to_str().unwrap()]);
        assert!(checked.stdout.contains("pool"), "{checked:#?}");
    }
}

#[test]
fn a_pool_of_sessions_is_as_good_as_the_server() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TABLE t AS SELECT 1.5::float8 AS a; ALTER DATABASE postgres SET datestyle = 'SQL, DMY'",
    );
    for lines in [
        "pool_mode = session\nserver_reset_query = DISCARD ALL",
        "pool_mode = session\nignore_startup_parameters = options",
    ] {
        let Some(pooler) = Pooler::start(&cluster, lines) else {
            return;
        };
        let session = Connector::new(settings(&pooler.conninfo())).connect(&ConnectOptions {
            retry: RetryPolicy::once(),
            ..ConnectOptions::dump()
        });
        let mut session = session.unwrap_or_else(|error| panic!("{lines}: {error}"));
        let found = session
            .simple_column("SELECT current_setting('datestyle')")
            .unwrap();
        assert_eq!(found[0].as_deref(), Some("ISO, YMD"), "{lines}");
    }
}

fn stopping(flag: &Arc<AtomicBool>) -> ConnectOptions {
    ConnectOptions {
        stop: StopFlag::new(Arc::clone(flag)),
        ..quick()
    }
}

/// Sets a flag a little later.
fn soon(flag: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let flag = Arc::clone(flag);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        flag.store(true, Ordering::SeqCst);
    })
}

#[test]
fn nobody_waits_for_a_silent_server() {
    // One that accepts and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let conninfo = format!(
        "host=127.0.0.1 port={} user=u dbname=d connect_timeout=60",
        listener.local_addr().unwrap().port()
    );
    let flag = Arc::new(AtomicBool::new(false));
    let setter = soon(&flag);
    let begun = Instant::now();
    let error = Connector::new(settings(&conninfo))
        .connect(&stopping(&flag))
        .unwrap_err();
    assert!(matches!(error, PgError::Interrupted { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    setter.join().unwrap();

    // One that falls silent in the middle of a COPY, and does not hear of a cancel request either.
    let cluster = Cluster::start();
    flag.store(false, Ordering::SeqCst);
    let mut session = Connector::new(cluster.settings("postgres"))
        .connect(&stopping(&flag))
        .unwrap();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let pid = u32::try_from(pid).unwrap();
    let mut setter = None;
    let mut begun = Instant::now();
    let copied = session.copy_out::<PgError>(
        "COPY (SELECT g FROM generate_series(1, 100000000) g) TO STDOUT",
        &mut |_row| {
            if setter.is_none() {
                signal(pid, "STOP");
                setter = Some(soon(&flag));
                begun = Instant::now();
            }
            Ok(())
        },
    );
    let waited = begun.elapsed();
    signal(pid, "CONT");
    assert!(
        matches!(copied, Err(PgError::Interrupted { .. })),
        "{copied:?}"
    );
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    assert!(session.is_closed());
    setter.unwrap().join().unwrap();
}

#[test]
fn nobody_waits_for_a_child_of_a_silent_server() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("pg_dump");
    std::fs::write(
        &script,
        "#!/bin/sh\ncase \"$1\" in --version) echo 'pg_dump (PostgreSQL) 99.0'; exit 0;; esac\nexec sleep 60\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let flag = Arc::new(AtomicBool::new(false));
    let setter = soon(&flag);
    let begun = Instant::now();
    let (outcomes, _) = dump_with(
        &[source(&cluster, "postgres", |options| {
            options.tools.folder = Some(folder.path().to_owned());
            options.stop = StopFlag::new(Arc::clone(&flag));
        })],
        1,
        || {},
    );
    assert!(matches!(
        outcomes[0],
        Err(holdfast::source::SourceError::Run(
            holdfast::error::Error::Interrupted
        ))
    ));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    setter.join().unwrap();
}
