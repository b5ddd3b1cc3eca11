//! The connection layer against a real server.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast::source::postgres::{ConnectOptions, Connector, PgError, PgSession, RetryPolicy};

use crate::pg_cluster::{Cluster, ClusterOptions, free_port, quick, settings};

fn connect(conninfo: &str) -> Result<PgSession, PgError> {
    Connector::new(settings(conninfo)).connect(&quick())
}

#[test]
fn the_facade_does_what_a_session_needs() {
    let cluster = Cluster::start();
    let mut session = Connector::new(cluster.settings("postgres"))
        .connect(&ConnectOptions::dump())
        .unwrap();
    assert!(session.version_num() >= 90_300 && !session.facts().in_recovery);
    session
        .batch_execute("CREATE TABLE public.t (a int, b text)")
        .unwrap();
    assert_eq!(
        session
            .execute("INSERT INTO public.t VALUES ($1, $2)", &[&1_i32, &"one"])
            .unwrap(),
        1
    );
    let row = session
        .query_one("SELECT b FROM public.t WHERE a = $1", &[&1_i32])
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "one");
    session.ping().unwrap();

    // COPY in, in pieces that end anywhere, and out again.
    let mut pieces = vec![&b"2\ttwo\n3\tth"[..], b"", b"ree\n"].into_iter();
    let rows = session.copy_in::<PgError>("COPY public.t FROM STDIN", &mut || {
        Ok(pieces.next().map(Bytes::from_static))
    });
    assert_eq!(rows.unwrap(), 2);
    let mut out = Vec::new();
    let rows = session.copy_out::<PgError>("COPY public.t TO STDOUT", &mut |row| {
        out.push(row.to_vec());
        Ok(())
    });
    assert_eq!(rows.unwrap(), 3);
    assert_eq!(
        out,
        [
            b"1\tone\n".to_vec(),
            b"2\ttwo\n".to_vec(),
            b"3\tthree\n".to_vec()
        ]
    );
    let mut seen = 0;
    let count =
        session.query_each::<PgError>("SELECT * FROM generate_series(1, 10000)", &[], &mut |row| {
            seen += row.get::<_, i32>(0);
            Ok(())
        });
    assert_eq!((count.unwrap(), seen), (10_000, 50_005_000));

    // The server's own words.
    let error = session.batch_execute("SELECT * FROM nowhere").unwrap_err();
    assert_eq!(error.code(), Some("42P01"));
    assert!(
        error
            .to_string()
            .contains("relation \"nowhere\" does not exist"),
        "{error}"
    );
    let mut pieces = vec![&b"x\ty\n"[..]; 1000].into_iter();
    let error = session
        .copy_in::<PgError>("COPY public.t FROM STDIN", &mut || {
            Ok(pieces.next().map(Bytes::from_static))
        })
        .unwrap_err();
    assert_eq!(error.code(), Some("22P02"), "{error}");
    // Its answers are out of step after that: the session is closed.
    assert!(matches!(session.ping(), Err(PgError::Lost { .. })));
}

#[derive(Debug)]
struct GaveUp;

impl From<PgError> for GaveUp {
    fn from(error: PgError) -> Self {
        panic!("{error}")
    }
}

#[test]
fn a_reader_or_feeder_that_gives_up_leaves_a_usable_session() {
    let cluster = Cluster::start();
    let mut session = cluster.session("postgres");
    let begun = Instant::now();
    let mut rows = 0;
    let result = session.copy_out(
        "COPY (SELECT generate_series(1, 1000000000)) TO STDOUT",
        &mut |_| {
            rows += 1;
            if rows == 1000 { Err(GaveUp) } else { Ok(()) }
        },
    );
    assert!(result.is_err() && rows == 1000);
    session.ping().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "the COPY was not ended on the server"
    );
    session.batch_execute("CREATE TABLE t (a int)").unwrap();
    let mut fed = 0;
    let result = session.copy_in("COPY t FROM STDIN", &mut || {
        fed += 1;
        if fed == 3 {
            Err(GaveUp)
        } else {
            Ok(Some(Bytes::from_static(b"1\n")))
        }
    });
    assert!(result.is_err());
    let row = session.query_one("SELECT count(*) FROM t", &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
}

/// Rows of 10 bytes to 20 MB, then many small ones: below, at and above the size of any buffer.
pub(crate) fn copy_rows_of_all_sizes(session: &mut PgSession) {
    session
        .batch_execute("SET client_min_messages = debug1")
        .unwrap();
    let sizes = "VALUES (10), (20000000), (10), (262144), (262143), (262130), (0), (300000)";
    let sql = format!(
        "COPY (SELECT repeat('x', s) FROM ({sizes}) v (s) UNION ALL SELECT i::text FROM generate_series(1, 300000) i) TO STDOUT"
    );
    let mut lengths = Vec::new();
    let mut last = Vec::new();
    let rows = session.copy_out::<PgError>(&sql, &mut |row| {
        assert_eq!(row.last(), Some(&b'\n'));
        lengths.push(row.len() - 1);
        row.clone_into(&mut last);
        Ok(())
    });
    assert_eq!(rows.unwrap(), 300_008);
    assert_eq!(
        lengths[..8],
        [10, 20_000_000, 10, 262_144, 262_143, 262_130, 0, 300_000]
    );
    assert_eq!(lengths[8..].iter().sum::<usize>(), 1_688_895);
    assert_eq!(last, b"300000\n");
    // An error in the middle of a COPY is the server's, and the session goes on.
    let sql = "COPY (SELECT 1 / (200000 - i) FROM generate_series(1, 300000) i) TO STDOUT";
    let failed = session.copy_out::<PgError>(sql, &mut |_| Ok(()));
    assert_eq!(failed.unwrap_err().code(), Some("22012"));
    session.ping().unwrap();
}

#[test]
fn rows_of_all_sizes_come_whole() {
    let cluster = Cluster::start_with(&ClusterOptions {
        tcp: true,
        ..ClusterOptions::default()
    });
    copy_rows_of_all_sizes(&mut cluster.session("postgres"));
    let tcp = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable",
        cluster.port
    );
    copy_rows_of_all_sizes(&mut connect(&tcp).unwrap());
}

#[test]
fn a_copy_whose_server_goes_away_fails() {
    let cluster = Cluster::start();
    let mut session = cluster.session("postgres");
    let pid = session.simple_column("SELECT pg_backend_pid()").unwrap()[0]
        .clone()
        .unwrap();
    let mut rows = 0_u64;
    let sql = "COPY (SELECT generate_series(1, 1000000000)) TO STDOUT";
    let result = session.copy_out::<PgError>(sql, &mut |_| {
        rows += 1;
        if rows == 1000 {
            cluster.sql("postgres", &format!("SELECT pg_terminate_backend({pid})"));
        }
        Ok(())
    });
    let error = result.unwrap_err().to_string();
    // The end of the connection may be seen before the server's last words.
    let words = [
        "terminating connection",
        "Broken pipe",
        "Connection reset",
        "closed",
    ];
    assert!(words.iter().any(|words| error.contains(words)), "{error}");
    assert!(session.is_closed() || session.ping().is_err());
}

#[test]
fn a_statement_is_cancelled_from_another_thread() {
    let cluster = Cluster::start();
    let mut session = cluster.session("postgres");
    let handle = session.cancel_handle();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        handle.cancel().unwrap();
    });
    let error = session.batch_execute("SELECT pg_sleep(60)").unwrap_err();
    canceller.join().unwrap();
    assert_eq!(error.code(), Some("57014"), "{error}");
}

#[test]
fn dump_sessions_are_independent_of_the_settings_of_the_database() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "ALTER DATABASE postgres SET datestyle = 'SQL, DMY'; ALTER DATABASE postgres SET default_transaction_read_only = on;
         ALTER ROLE postgres SET extra_float_digits = 0; ALTER ROLE postgres SET timezone = 'Australia/Lord_Howe'",
    );
    let options = ConnectOptions {
        lock_timeout: Some(Duration::from_millis(1500)),
        settings: vec![("work_mem".to_owned(), "8MB".to_owned())],
        ..ConnectOptions::dump()
    };
    let mut session = Connector::new(cluster.settings("postgres"))
        .connect(&options)
        .unwrap();
    let mut show = |name: &str| {
        session.simple_column(&format!("SHOW {name}")).unwrap()[0]
            .clone()
            .unwrap()
    };
    let found = [
        "datestyle",
        "default_transaction_read_only",
        "extra_float_digits",
        "timezone",
        "search_path",
    ]
    .map(&mut show);
    assert_eq!(found, ["ISO, YMD", "off", "3", "UTC", ""]);
    assert_eq!(
        ["lock_timeout", "work_mem", "row_security", "jit"].map(&mut show),
        ["1500ms", "8MB", "off", "off"]
    );
}

#[test]
fn the_end_of_the_server_is_named() {
    let cluster = Cluster::start();
    let mut session = cluster.session("postgres");
    let pid = session.simple_column("SELECT pg_backend_pid()").unwrap()[0]
        .clone()
        .unwrap();
    cluster.sql("postgres", &format!("SELECT pg_terminate_backend({pid})"));
    std::thread::sleep(Duration::from_millis(200));
    let error = session.ping().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("terminating connection due to administrator command"),
        "{error}"
    );
    assert!(session.is_closed());
}

#[test]
fn refused_connections_are_tried_again_until_the_server_is_there() {
    let mut cluster = Cluster::start();
    cluster.stop();
    let begun = Instant::now();
    let policy = RetryPolicy {
        tries: 3,
        ..RetryPolicy::default()
    };
    let options = ConnectOptions {
        retry: policy,
        ..ConnectOptions::default()
    };
    let error = Connector::new(cluster.settings("postgres"))
        .connect(&options)
        .unwrap_err();
    assert!(
        begun.elapsed() >= Duration::from_millis(300),
        "no pauses between the tries"
    );
    assert!(error.to_string().contains("(tried 3 times)"), "{error}");
    assert!(
        error.to_string().contains("is the server running"),
        "{error}"
    );

    let settings = cluster.settings("postgres");
    let waiting = std::thread::spawn(move || {
        Connector::new(settings)
            .connect(&ConnectOptions::default())
            .map(|_| ())
    });
    std::thread::sleep(Duration::from_millis(400));
    cluster.boot();
    waiting.join().unwrap().unwrap();
}

fn password_cluster(method: &str) -> Cluster {
    let cluster = Cluster::start_with(&ClusterOptions {
        tcp: true,
        hba: vec![
            "local all all trust".to_owned(),
            format!("host all all 127.0.0.1/32 {method}"),
        ],
        conf: vec![format!("password_encryption = '{method}'")],
        ..ClusterOptions::default()
    });
    cluster.sql("postgres", "CREATE ROLE reader LOGIN PASSWORD 'se:sa\\me'");
    cluster
}

#[test]
fn passwords_by_scram_and_md5() {
    for method in ["scram-sha-256", "md5"] {
        let cluster = password_cluster(method);
        let base = format!(
            "host=127.0.0.1 port={} user=reader dbname=postgres sslmode=disable",
            cluster.port
        );
        connect(&format!(r"{base} password='se:sa\\me'")).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgpass");
        let write = |line: &str, mode: u32| {
            std::fs::write(&file, line).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
        };
        let with_file = format!("{base} passfile={}", file.display());
        write("127.0.0.1:*:postgres:reader:se\\:sa\\\\me\n", 0o600);
        connect(&with_file).unwrap();
        write("127.0.0.1:*:postgres:reader:se\\:sa\\\\me\n", 0o644);
        let error = connect(&with_file).unwrap_err().to_string();
        assert!(
            error.contains("asks for a password") && error.contains("group or world access"),
            "{error}"
        );
        write("127.0.0.1:*:other:reader:x\n", 0o600);
        let error = connect(&with_file).unwrap_err().to_string();
        assert!(error.contains("has no entry for 127.0.0.1"), "{error}");
    }
}

#[test]
fn a_wrong_password_is_tried_once() {
    let cluster = password_cluster("scram-sha-256");
    let text = format!(
        "host=127.0.0.1,127.0.0.1 port={0},{0} user=reader dbname=postgres password=wrong-sesame",
        cluster.port
    );
    let error = Connector::new(settings(&text))
        .connect(&ConnectOptions::default())
        .unwrap_err();
    let PgError::Connect {
        rounds, attempts, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (*rounds, attempts.last().unwrap().code.as_deref()),
        (1, Some("28P01"))
    );
    // The usual mode tries encryption first, which this server does not have.
    assert!(attempts.len() <= 2, "{error}");
    assert!(
        error
            .to_string()
            .contains("password authentication failed for user \"reader\""),
        "{error}"
    );
    assert!(!format!("{error} {error:?}").contains("sesame"));
}

#[test]
fn an_unknown_database_is_refused_at_once() {
    let cluster = Cluster::start();
    let error = Connector::new(cluster.settings("nothing"))
        .connect(&ConnectOptions::default())
        .unwrap_err();
    assert_eq!(error.code(), Some("3D000"));
    assert!(
        error
            .to_string()
            .contains("database \"nothing\" does not exist"),
        "{error}"
    );
}

#[test]
fn too_many_connections_may_pass() {
    let cluster = Cluster::start_with(&ClusterOptions {
        conf: vec![
            "max_connections = 4".to_owned(),
            "superuser_reserved_connections = 0".to_owned(),
            "max_wal_senders = 0".to_owned(),
        ],
        ..ClusterOptions::default()
    });
    let mut held: Vec<PgSession> = (0..4).map(|_| cluster.session("postgres")).collect();
    let error = connect(&cluster.conninfo("postgres")).unwrap_err();
    assert_eq!(error.code(), Some("53300"), "{error}");
    let settings = cluster.settings("postgres");
    let waiting = std::thread::spawn(move || {
        Connector::new(settings)
            .connect(&ConnectOptions::default())
            .map(|_| ())
    });
    std::thread::sleep(Duration::from_millis(300));
    held.pop().unwrap().close();
    waiting.join().unwrap().unwrap();
}

#[test]
fn several_hosts_and_the_kind_of_server() {
    let cluster = Cluster::start();
    let nowhere = free_port();
    let text = |attributes: &str| {
        format!(
            "host=127.0.0.1,{} port={nowhere},{} user=postgres dbname=postgres target_session_attrs={attributes}",
            cluster.socket_folder().display(),
            cluster.port
        )
    };
    for attributes in ["any", "read-write", "primary", "prefer-standby"] {
        connect(&text(attributes)).unwrap_or_else(|error| panic!("{attributes}: {error}"));
    }
    for (attributes, reason) in [
        ("standby", "not in hot standby"),
        ("read-only", "not read-only"),
    ] {
        let error = connect(&text(attributes)).unwrap_err().to_string();
        assert!(
            error.contains(reason) && error.contains("refused"),
            "{error}"
        );
    }
    cluster.sql(
        "postgres",
        "ALTER DATABASE postgres SET default_transaction_read_only = on",
    );
    connect(&text("read-only")).unwrap();
    assert!(connect(&text("read-write")).is_err());
}

#[test]
fn workers_go_to_the_chosen_server() {
    let first = Cluster::start();
    let second = Cluster::start();
    second.sql(
        "postgres",
        "ALTER DATABASE postgres SET default_transaction_read_only = on",
    );
    let text = format!(
        "host={},{} port={},{} user=postgres dbname=postgres target_session_attrs=read-only",
        first.socket_folder().display(),
        second.socket_folder().display(),
        first.port,
        second.port
    );
    let session = connect(&text).unwrap();
    let mut worker = session
        .connector()
        .with_dbname("template1")
        .connect(&quick())
        .unwrap();
    let folder = worker.simple_column("SHOW data_directory").unwrap()[0]
        .clone()
        .unwrap();
    assert_eq!(Path::new(&folder), second.data());

    let child = session.connector().child_environment().unwrap();
    let mut psql = std::process::Command::new(second.program("psql"));
    psql.args(["-XAtqc", "SHOW data_directory"])
        .env("PGHOST", "elsewhere")
        .env("PGSERVICE", "none");
    child.apply(&mut psql);
    let output = psql.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        folder,
        "{output:?}"
    );
}

#[test]
fn a_child_gets_the_password_by_file() {
    let cluster = password_cluster("scram-sha-256");
    let base = format!(
        "host=127.0.0.1 port={} user=reader dbname=postgres",
        cluster.port
    );
    let session = connect(&format!(r"{base} password='se:sa\\me'")).unwrap();
    let child = session.connector().child_environment().unwrap();
    let mut psql = std::process::Command::new(cluster.program("psql"));
    psql.args(["-wXAtqc", "SELECT current_user"]);
    child.apply(&mut psql);
    let output = psql.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "reader",
        "{output:?}"
    );
}

#[test]
fn a_host_that_does_not_answer_is_given_up_in_time() {
    // A listener that accepts and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = Instant::now();
    let error = connect(&format!(
        "host=127.0.0.1 port={port} user=u dbname=d sslmode=disable connect_timeout=1"
    ))
    .unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(
        error.to_string().contains("no answer within 1 s"),
        "{error}"
    );
}

#[test]
fn an_encoding_without_a_way_to_utf8_names_the_way_out() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE DATABASE mule ENCODING 'MULE_INTERNAL' TEMPLATE template0",
    );
    let error = connect(&cluster.conninfo("mule")).unwrap_err().to_string();
    assert!(
        error.contains("MULE_INTERNAL") && error.contains("let pg_dump write"),
        "{error}"
    );
}
