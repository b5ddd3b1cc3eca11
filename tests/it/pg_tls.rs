//! TLS to a real server: each `sslmode` against each kind of certificate.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast::source::postgres::{Connector, PgError, PgSession};

use crate::pg_cluster::{Cluster, ClusterOptions, quick, settings};
use crate::pg_connect::copy_rows_of_all_sizes;

/// Certificates made by openssl.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn make() -> Self {
        let certificates = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let root = "-x509 -days 30 -keyout ca.key -out ca.crt -subj /CN=test-authority";
        certificates.openssl(&format!(
            "req {root} -newkey rsa:2048 -nodes -addext basicConstraints=critical,CA:TRUE"
        ));
        certificates.signed(
            "server",
            "localhost",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        );
        certificates.signed("named", "localhost", "keyUsage=digitalSignature");
        certificates.signed("other", "elsewhere", "subjectAltName=DNS:elsewhere");
        certificates.signed("client", "reader", "extendedKeyUsage=clientAuth");
        certificates.request("old", "localhost");
        certificates.openssl(
            "x509 -req -in old.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out old.crt",
        );
        certificates.request("expired", "localhost");
        certificates.openssl(
            "x509 -req -in expired.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days -1 -extfile extensions -out expired.crt",
        );
        certificates.openssl("req -x509 -days 30 -newkey rsa:2048 -nodes -keyout self.key -out self.crt -subj /CN=localhost");
        certificates
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "openssl {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn request(&self, name: &str, common_name: &str) {
        self.openssl(&format!(
            "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={common_name}"
        ));
    }

    fn signed(&self, name: &str, common_name: &str, extension: &str) {
        self.request(name, common_name);
        fs::write(self.path("extensions"), format!("{extension}\n")).unwrap();
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out {name}.crt"
        ));
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

/// Gives a server a certificate; takes effect at once.
fn serve(cluster: &Cluster, certificates: &Certificates, name: &str) {
    cluster.write_data_file("server.crt", &certificates.text(&format!("{name}.crt")));
    cluster.write_data_file("server.key", &certificates.text(&format!("{name}.key")));
    cluster.reload();
}

fn start(certificates: &Certificates, conf: &[&str]) -> Cluster {
    let cluster = Cluster::start_with(&ClusterOptions {
        tcp: true,
        hba: vec![
            "local all all trust".to_owned(),
            "hostssl all reader 127.0.0.1/32 cert".to_owned(),
            "hostssl all scram 127.0.0.1/32 scram-sha-256".to_owned(),
            "hostssl all old5 127.0.0.1/32 md5".to_owned(),
            "hostssl all all 127.0.0.1/32 trust".to_owned(),
            "hostnossl all plain 127.0.0.1/32 trust".to_owned(),
        ],
        conf: conf.iter().map(|line| (*line).to_owned()).collect(),
        ..ClusterOptions::default()
    });
    cluster.write_data_file("ca.crt", &certificates.text("ca.crt"));
    for name in ["server.crt", "server.key"] {
        cluster.write_data_file(name, &certificates.text(name));
    }
    cluster.sql("postgres", "CREATE ROLE reader LOGIN; CREATE ROLE plain LOGIN; CREATE ROLE scram LOGIN PASSWORD 'sesame'");
    cluster.sql(
        "postgres",
        "SET password_encryption = 'md5'; CREATE ROLE old5 LOGIN PASSWORD 'sesame'",
    );
    cluster.sql("postgres", "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'");
    cluster.sql("postgres", "ALTER SYSTEM SET ssl = on");
    cluster.reload();
    cluster
}

fn connect(cluster: &Cluster, more: &str) -> Result<PgSession, PgError> {
    let text = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=postgres dbname=postgres {more}",
        cluster.port
    );
    Connector::new(settings(&text)).connect(&quick())
}

fn works(cluster: &Cluster, more: &str, encrypted: bool) {
    let session = connect(cluster, more).unwrap_or_else(|error| panic!("{more}: {error}"));
    assert_eq!(session.endpoint().encrypted, encrypted, "{more}");
}

fn fails(cluster: &Cluster, more: &str, expected: &str) {
    let error = connect(cluster, more)
        .map(|_| ())
        .expect_err(more)
        .to_string();
    assert!(error.contains(expected), "{more}: {error}");
}

#[test]
fn rows_of_all_sizes_come_whole_above_tls() {
    let certificates = Certificates::make();
    let cluster = start(&certificates, &[]);
    for version in [
        "ssl_min_protocol_version=TLSv1.3",
        "ssl_max_protocol_version=TLSv1.2",
    ] {
        let mut session = connect(&cluster, &format!("sslmode=require {version}")).unwrap();
        copy_rows_of_all_sizes(&mut session);
    }
}

#[test]
fn each_mode_against_each_certificate() {
    let certificates = Certificates::make();
    let cluster = start(&certificates, &[]);
    let root = |name: &str| format!("sslrootcert={}", certificates.path(name).display());
    let ca = root("ca.crt");

    works(&cluster, "sslmode=prefer", true);
    works(&cluster, "sslmode=require", true);
    works(&cluster, &format!("sslmode=verify-full {ca}"), true);
    works(&cluster, &format!("sslmode=require {}", root("none")), true);
    fails(&cluster, "sslmode=disable", "no pg_hba.conf entry");
    works(&cluster, "sslmode=allow", true);
    works(&cluster, "sslmode=prefer user=plain", true);
    works(&cluster, "sslmode=disable user=plain", false);
    fails(
        &cluster,
        &format!("sslmode=verify-ca {}", root("none")),
        "does not exist",
    );
    fails(
        &cluster,
        &format!("sslmode=verify-ca {}", root("self.crt")),
        "authority is not in sslrootcert",
    );
    // With a root file, require is as strict as verify-ca.
    fails(
        &cluster,
        &format!("sslmode=require {}", root("self.crt")),
        "authority is not in sslrootcert",
    );

    serve(&cluster, &certificates, "other");
    works(&cluster, &format!("sslmode=verify-ca {ca}"), true);
    fails(
        &cluster,
        &format!("sslmode=verify-full {ca}"),
        "\"elsewhere\" does not match host name \"localhost\"",
    );

    // The common name counts where there is no alternative name.
    serve(&cluster, &certificates, "named");
    works(&cluster, &format!("sslmode=verify-full {ca}"), true);

    serve(&cluster, &certificates, "self");
    works(&cluster, "sslmode=require", true);
    for mode in ["require", "verify-ca", "verify-full"] {
        works(
            &cluster,
            &format!("sslmode={mode} {}", root("self.crt")),
            true,
        );
    }
    fails(&cluster, &format!("sslmode=verify-ca {ca}"), "certificate");

    serve(&cluster, &certificates, "old");
    for limit in [
        "ssl_min_protocol_version=TLSv1.3",
        "ssl_max_protocol_version=TLSv1.2",
    ] {
        works(&cluster, &format!("sslmode=require {limit}"), true);
        works(
            &cluster,
            &format!("sslmode=verify-full {limit} {}", root("old.crt")),
            true,
        );
        fails(
            &cluster,
            &format!("sslmode=verify-ca {limit} {ca}"),
            "X.509 version 1",
        );
    }
}

#[test]
fn channel_binding_versions_and_client_certificates() {
    let certificates = Certificates::make();
    let cluster = start(&certificates, &["ssl_max_protocol_version = 'TLSv1.2'"]);
    works(
        &cluster,
        "sslmode=require user=scram password=sesame channel_binding=require",
        true,
    );
    fails(
        &cluster,
        "sslmode=require user=scram password=wrong",
        "password authentication failed",
    );
    works(
        &cluster,
        "sslmode=require ssl_max_protocol_version=TLSv1.2",
        true,
    );
    fails(
        &cluster,
        "sslmode=require ssl_min_protocol_version=TLSv1.3",
        "TLS version",
    );

    let key = certificates.path("client.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let pair = |key: &Path| {
        format!(
            "sslcert={} sslkey={}",
            certificates.path("client.crt").display(),
            key.display()
        )
    };
    works(
        &cluster,
        &format!("sslmode=require user=reader {}", pair(&key)),
        true,
    );
    fails(&cluster, "sslmode=require user=reader", "certificate");
    fails(
        &cluster,
        &format!(
            "sslmode=require user=postgres {}",
            pair(&certificates.path("none"))
        ),
        "cannot read private key",
    );
    let link = certificates.path("link.key");
    symlink(&key, &link).unwrap();
    works(
        &cluster,
        &format!("sslmode=require user=reader {}", pair(&link)),
        true,
    );
    certificates.openssl("pkey -in client.key -aes256 -passout pass:x -out locked.key");
    fails(
        &cluster,
        &format!(
            "sslmode=require user=reader {} sslpassword=x",
            pair(&certificates.path("locked.key"))
        ),
        "is encrypted",
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    fails(
        &cluster,
        &format!("sslmode=require user=reader {}", pair(&key)),
        "group or world access",
    );
}

#[test]
fn what_has_expired_is_named_by_its_check() {
    let certificates = Certificates::make();
    let cluster = start(&certificates, &[]);
    let ca = format!("sslrootcert={}", certificates.path("ca.crt").display());
    serve(&cluster, &certificates, "expired");
    // Who checks nothing does not look at dates either.
    works(&cluster, "sslmode=require", true);
    for mode in ["require", "verify-ca", "verify-full"] {
        fails(
            &cluster,
            &format!("sslmode={mode} {ca}"),
            "it has expired (renew it",
        );
    }
}

#[test]
fn passwords_through_tls_with_and_without_binding() {
    let certificates = Certificates::make();
    let cluster = start(&certificates, &[]);
    for binding in ["disable", "prefer", "require"] {
        works(
            &cluster,
            &format!("sslmode=require user=scram password=sesame channel_binding={binding}"),
            true,
        );
    }
    for binding in ["disable", "prefer"] {
        works(
            &cluster,
            &format!("sslmode=require user=old5 password=sesame channel_binding={binding}"),
            true,
        );
    }
    // MD5 binds nothing, and neither does a connection without TLS or a login without a password.
    fails(
        &cluster,
        "sslmode=require user=old5 password=sesame channel_binding=require",
        "channel binding",
    );
    fails(
        &cluster,
        "sslmode=disable user=plain channel_binding=require",
        "channel binding",
    );
    fails(
        &cluster,
        "sslmode=require user=old5 password=wrong",
        "password authentication failed",
    );
    fails(
        &cluster,
        "sslmode=require user=scram",
        "asks for a password",
    );
}

#[test]
fn children_and_cancels_go_through_tls_too() {
    let certificates = Certificates::make();
    let cluster = start(&certificates, &[]);
    let root = certificates.path("ca.crt");
    let mut session = connect(
        &cluster,
        &format!(
            "sslmode=verify-full sslrootcert={} user=scram password=sesame",
            root.display()
        ),
    )
    .unwrap();
    let handle = session.cancel_handle();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        handle.cancel().unwrap();
    });
    assert_eq!(
        session
            .batch_execute("SELECT pg_sleep(60)")
            .unwrap_err()
            .code(),
        Some("57014")
    );
    canceller.join().unwrap();
    let environment = session.connector().child_environment().unwrap();
    let mut psql = Command::new(cluster.program("psql"));
    psql.args([
        "-wXAtqc",
        "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    ]);
    environment.apply(&mut psql);
    let output = psql.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "t",
        "{output:?}"
    );
}

#[test]
fn a_server_without_tls() {
    let cluster = Cluster::start_with(&ClusterOptions {
        tcp: true,
        hba: vec![
            "local all all trust".to_owned(),
            "host all all 127.0.0.1/32 trust".to_owned(),
        ],
        ..ClusterOptions::default()
    });
    works(&cluster, "sslmode=prefer", false);
    fails(&cluster, "sslmode=require", "server does not support TLS");
}
