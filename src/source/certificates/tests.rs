//! Certificates made by the `openssl` command, and what is read from them.

use std::process::Command;

use super::*;

/// A folder with certificates, made by openssl.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs openssl in the folder and returns what it printed.
    fn openssl(&self, line: &str) -> String {
        let output = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(self.0.path())
            .output();
        let output = output.expect("the tests need the openssl command: apt-get install openssl");
        assert!(
            output.status.success(),
            "openssl {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap_or_default()
    }

    /// Makes `name.pem` and `name_key.pem`, signed by itself.
    fn self_signed(&self, name: &str, newkey: &str) {
        self.openssl(&format!(
            "req -x509 -newkey {newkey} -nodes -keyout {name}_key.pem -out {name}.pem -days 90 -subj /O=Example/CN={name} -addext subjectAltName=DNS:{name}.example"
        ));
    }

    fn read(&self, names: &[&str], password: Option<&[u8]>) -> Vec<CertificateFacts> {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        read_certificates(&paths, password)
    }

    fn name_of(&self, path: &Option<Vec<u8>>) -> Option<String> {
        let path = Path::new(std::ffi::OsStr::from_bytes(path.as_ref()?)).to_owned();
        Some(
            path.strip_prefix(self.0.path())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
        )
    }
}

fn thumbprint(printed: &str) -> String {
    printed
        .trim()
        .split('=')
        .nth(1)
        .unwrap()
        .replace(':', "")
        .to_lowercase()
}

#[test]
fn a_certificate_says_what_openssl_says() {
    let bench = Bench::new();
    bench.self_signed("root", "rsa:2048");
    let facts = &bench.read(&["root.pem"], None)[0];
    assert_eq!(facts.kind, CertificateKind::Certificate);
    assert_eq!(
        (facts.subject.as_str(), facts.issuer.as_str()),
        ("O=Example, CN=root", "O=Example, CN=root")
    );
    assert_eq!(
        facts.serial,
        thumbprint(&bench.openssl("x509 -in root.pem -noout -serial"))
    );
    assert_eq!(
        facts.sha1,
        thumbprint(&bench.openssl("x509 -in root.pem -noout -fingerprint -sha1"))
    );
    assert_eq!(
        facts.sha256,
        thumbprint(&bench.openssl("x509 -in root.pem -noout -fingerprint -sha256"))
    );
    let (start, end) = (facts.not_before.unwrap(), facts.not_after.unwrap());
    assert_eq!(end - start, 90 * 86_400);
    assert!(facts.is_ca);
    assert_eq!(facts.matches_key, None);
    let none: Vec<&CertificateFacts> = Vec::new();
    let all = std::slice::from_ref(facts);
    assert_eq!(expiring(all, start, Duration::from_secs(30 * 86_400)), none);
    assert_eq!(
        expiring(all, end - 86_400, Duration::from_secs(30 * 86_400)),
        [facts]
    );
    assert_eq!(expiring(all, end + 1, Duration::ZERO), [facts]);
    assert_eq!(expiring(all, start, Duration::MAX), [facts]);
}

#[test]
fn keys_find_their_certificates() {
    let bench = Bench::new();
    bench.self_signed("rsa", "rsa:2048");
    bench.self_signed("ed", "ed25519");
    for curve in ["P-256", "P-384", "P-521"] {
        bench.self_signed(curve, &format!("ec -pkeyopt ec_paramgen_curve:{curve}"));
    }
    bench.openssl("rsa -in rsa_key.pem -traditional -out rsa1_key.pem");
    bench.openssl("ec -in P-256_key.pem -out sec1_key.pem");
    bench.openssl("rsa -in rsa_key.pem -outform DER -out rsa_key.der");
    bench.openssl("x509 -in ed.pem -outform DER -out ed.cer");
    let check = |certificate: &str, key: &str, note: &str| {
        let facts = bench.read(&["ed_key.pem", certificate, key], None);
        let (certificate_facts, key_facts) = (&facts[1], &facts[2]);
        assert_eq!(
            bench.name_of(&certificate_facts.matches_key).as_deref(),
            Some(key)
        );
        assert_eq!(
            bench.name_of(&key_facts.matches_key).as_deref(),
            Some(certificate)
        );
        assert_eq!(key_facts.kind, CertificateKind::PrivateKey);
        assert_eq!(key_facts.note.as_deref(), Some(note), "{key}");
    };
    check("rsa.pem", "rsa_key.pem", "RSA, 2048 bits");
    check("rsa.pem", "rsa1_key.pem", "RSA, 2048 bits");
    check("rsa.pem", "rsa_key.der", "RSA, 2048 bits");
    check("P-256.pem", "P-256_key.pem", "EC, P-256");
    check("P-256.pem", "sec1_key.pem", "EC, P-256");
    check("P-384.pem", "P-384_key.pem", "EC, P-384");
    check("P-521.pem", "P-521_key.pem", "EC, P-521");
    let facts = bench.read(&["ed.cer", "rsa_key.pem", "ed_key.pem"], None);
    assert_eq!(
        bench.name_of(&facts[0].matches_key).as_deref(),
        Some("ed_key.pem")
    );
    assert_eq!(facts[1].matches_key, None);
    // A key that belongs to another certificate is not taken for a match.
    let facts = bench.read(&["rsa.pem", "P-256_key.pem"], None);
    assert!(facts.iter().all(|facts| facts.matches_key.is_none()));
}

#[test]
fn a_version_1_certificate_that_ended() {
    let bench = Bench::new();
    bench.self_signed("root", "rsa:2048");
    bench.openssl("req -newkey rsa:2048 -nodes -keyout old_key.pem -out old.csr -subj /CN=old");
    // Without extensions openssl writes version 1; a negative number of days has ended already.
    bench.openssl("x509 -req -in old.csr -CA root.pem -CAkey root_key.pem -set_serial 0x00f1 -days -1 -out old.pem");
    let facts = bench.read(&["old.pem", "old_key.pem"], None);
    assert_eq!(
        (facts[0].subject.as_str(), facts[0].issuer.as_str()),
        ("CN=old", "O=Example, CN=root")
    );
    assert_eq!(facts[0].serial, "f1");
    assert!(!facts[0].is_ca);
    assert!(facts[0].not_after < facts[0].not_before);
    assert_eq!(
        bench.name_of(&facts[0].matches_key).as_deref(),
        Some("old_key.pem")
    );
    let now = facts[0].not_before.unwrap();
    assert_eq!(expiring(&facts, now, Duration::ZERO).len(), 1);
}

#[test]
fn chains_and_mixed_files() {
    let bench = Bench::new();
    bench.self_signed("a", "ed25519");
    bench.self_signed("b", "ed25519");
    let read = |name: &str| fs::read_to_string(bench.path(name)).unwrap();
    fs::write(
        bench.path("all.pem"),
        format!(
            "some words\n{}{}{}",
            read("a.pem"),
            read("b.pem"),
            read("a_key.pem")
        ),
    )
    .unwrap();
    let facts = bench.read(&["all.pem"], None);
    let kinds: Vec<(u32, CertificateKind)> = facts
        .iter()
        .map(|facts| (facts.position, facts.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            (0, CertificateKind::Chain),
            (1, CertificateKind::Chain),
            (2, CertificateKind::PrivateKey)
        ]
    );
    assert_eq!(
        bench.name_of(&facts[0].matches_key).as_deref(),
        Some("all.pem")
    );
    assert_eq!(facts[1].matches_key, None);
}

#[test]
fn pfx_files_with_and_without_their_password() {
    let bench = Bench::new();
    bench.self_signed("server", "rsa:2048");
    let export = "pkcs12 -export -in server.pem -inkey server_key.pem";
    bench.openssl(&format!("{export} -out new.pfx -passout pass:QlikSense"));
    bench.openssl(&format!("{export} -out old.pfx -passout pass:QlikSense -certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES -macalg sha1"));
    bench.openssl(&format!("{export} -out empty.pfx -passout pass:"));
    let pem = bench.read(&["server.pem"], None);
    for name in ["new.pfx", "old.pfx"] {
        let facts = bench.read(&[name], Some(b"QlikSense"));
        assert_eq!(facts.len(), 2, "{name}: {facts:?}");
        assert_eq!(facts[0].kind, CertificateKind::Pfx);
        assert_eq!(facts[0].sha1, pem[0].sha1);
        assert_eq!(bench.name_of(&facts[0].matches_key).as_deref(), Some(name));
        assert_eq!(
            facts[1].note.as_deref(),
            Some("private key: RSA, 2048 bits")
        );
        let closed = bench.read(&[name], None);
        assert_eq!(
            (closed.len(), closed[0].note.as_deref()),
            (1, Some("password needed"))
        );
        let wrong = bench.read(&[name], Some(b"guess"));
        assert!(
            wrong[0]
                .note
                .as_ref()
                .unwrap()
                .starts_with("cannot be opened"),
            "{wrong:?}"
        );
        assert_eq!(wrong[0].kind, CertificateKind::Pfx);
    }
    assert_eq!(bench.read(&["empty.pfx"], None)[0].sha1, pem[0].sha1);
}

#[test]
fn encrypted_keys_are_said_to_be() {
    let bench = Bench::new();
    bench.self_signed("a", "rsa:2048");
    bench.openssl("rsa -in a_key.pem -aes256 -passout pass:hunter2 -out new_key.pem");
    bench.openssl("rsa -in a_key.pem -aes256 -passout pass:hunter2 -traditional -out old_key.pem");
    for name in ["new_key.pem", "old_key.pem"] {
        let facts = bench.read(&[name, "a.pem"], None);
        assert_eq!(facts[0].kind, CertificateKind::PrivateKey);
        assert!(
            facts[0].note.as_ref().unwrap().contains("encrypted"),
            "{facts:?}"
        );
        assert_eq!(facts[1].matches_key, None);
    }
    let old = fs::read_to_string(bench.path("old_key.pem")).unwrap();
    let certificate = fs::read_to_string(bench.path("a.pem")).unwrap();
    fs::write(bench.path("both.pem"), format!("{old}{certificate}")).unwrap();
    let kinds: Vec<CertificateKind> = bench
        .read(&["both.pem"], None)
        .iter()
        .map(|facts| facts.kind)
        .collect();
    assert_eq!(
        kinds,
        [CertificateKind::Certificate, CertificateKind::PrivateKey]
    );
}

#[test]
fn what_is_no_certificate_is_named_and_stops_nothing() {
    let bench = Bench::new();
    bench.self_signed("a", "ed25519");
    fs::create_dir(bench.path("dir")).unwrap();
    fs::rename(bench.path("a.pem"), bench.path("dir/a.pem")).unwrap();
    fs::write(bench.path("text"), "hello").unwrap();
    fs::write(bench.path("empty"), "").unwrap();
    fs::write(bench.path("cut.pem"), "-----BEGIN CERTIFICATE-----\nMIIB\n").unwrap();
    fs::write(
        bench.path("bad.pem"),
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    fs::write(bench.path("large"), vec![0; 5 << 20]).unwrap();
    let facts = bench.read(
        &[
            "text", "empty", "cut.pem", "bad.pem", "large", "none", "dir",
        ],
        None,
    );
    assert_eq!(facts.len(), 7);
    for facts in &facts[..6] {
        assert_eq!(facts.kind, CertificateKind::Unknown);
        assert!(facts.note.is_some());
    }
    assert_eq!(facts[6].kind, CertificateKind::Certificate);
}

#[test]
fn no_key_material_is_shown() {
    let bench = Bench::new();
    bench.self_signed("a", "ed25519");
    bench.openssl("pkcs12 -export -in a.pem -inkey a_key.pem -out a.pfx -passout pass:hunter2");
    let facts = bench.read(&["a_key.pem", "a.pem", "a.pfx"], Some(b"hunter2"));
    let shown = format!("{facts:?} {}", serde_json::to_string(&facts).unwrap());
    let pem = fs::read_to_string(bench.path("a_key.pem")).unwrap();
    let body = pem.lines().nth(1).unwrap();
    assert!(!shown.contains(body) && !shown.contains("hunter2"));
    let der = bench.openssl("pkey -in a_key.pem -noout -text");
    let seed: String = der
        .lines()
        .skip(2)
        .take(3)
        .flat_map(|line| line.chars())
        .filter(char::is_ascii_hexdigit)
        .collect();
    assert_eq!(seed.len(), 64, "{der}");
    assert!(!shown.contains(&seed));
}

#[test]
fn the_snapshot_record_has_all_of_it() {
    let bench = Bench::new();
    bench.self_signed("a", "ed25519");
    let facts = bench.read(&["a.pem", "a_key.pem"], None);
    let record = facts[0].clone().into_record("tls");
    assert_eq!(
        (record.component.as_str(), record.kind.as_str()),
        ("tls", "certificate")
    );
    assert_eq!(
        (Some(record.not_after), &record.sha256),
        (facts[0].not_after, &facts[0].sha256)
    );
    assert_eq!(bench.name_of(&record.matches).as_deref(), Some("a_key.pem"));
    let record = facts[1].clone().into_record("tls");
    assert_eq!(
        (record.kind.as_str(), record.note.as_str(), record.not_after),
        ("private key", "Ed25519", 0)
    );
}

#[test]
fn any_bytes_are_taken() {
    use proptest::prelude::*;
    let bench = Bench::new();
    bench.self_signed("a", "ed25519");
    bench.openssl("x509 -in a.pem -outform DER -out a.der");
    let samples: Vec<Vec<u8>> = ["a.pem", "a_key.pem", "a.der"]
        .iter()
        .map(|name| fs::read(bench.path(name)).unwrap())
        .collect();
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let changes = (
        0..samples.len(),
        any::<prop::sample::Index>(),
        any::<u8>(),
        any::<prop::sample::Index>(),
    );
    proptest::test_runner::TestRunner::new(config)
        .run(&changes, |(which, at, value, cut)| {
            let mut bytes = samples[which].clone();
            let position = at.index(bytes.len());
            bytes[position] = value;
            read_certificate_bytes(Path::new("x"), &bytes, None);
            bytes.truncate(cut.index(bytes.len()));
            read_certificate_bytes(Path::new("x"), &bytes, None);
            Ok(())
        })
        .unwrap();
}
