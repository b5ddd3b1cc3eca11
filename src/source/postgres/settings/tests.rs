use std::collections::HashMap;

use super::*;

fn resolve(text: &str, variables: &[(&str, &str)]) -> Result<ConnSettings, ConnInfoError> {
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    ConnInfo::parse(text)?.resolve(&|name| variables.get(name).map(OsString::from))
}

fn check_hosts(text: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let hosts: Vec<String> = resolve(text, variables)
        .expect(text)
        .hosts
        .iter()
        .map(HostSpec::to_string)
        .collect();
    assert_eq!(hosts, expected, "{text}");
}

fn check_error(text: &str, expected: &str) {
    let error = resolve(text, &[]).expect_err(text).to_string();
    assert!(error.contains(expected), "{text}: {error}");
}

#[test]
fn hosts_ports_and_addresses() {
    let here = |text| resolve(text, &[]).unwrap().is_here();
    assert!(
        here("")
            && here("host=/run/x")
            && here("host=localhost,/run/x")
            && here("hostaddr=::1 host=db")
    );
    assert!(
        !here("host=db") && !here("host=localhost,db") && !here("hostaddr=10.0.0.1 host=localhost")
    );
    let socket = format!(
        "socket {}/.s.PGSQL.5432",
        default_socket_directory().display()
    );
    check_hosts("", &[], &[&socket]);
    check_hosts("host=/run/x port=7", &[], &["socket /run/x/.s.PGSQL.7"]);
    check_hosts("host=a,b", &[], &["a port 5432", "b port 5432"]);
    check_hosts("host=a,b port=7", &[], &["a port 7", "b port 7"]);
    check_hosts("host=a,b port=7,", &[], &["a port 7", "b port 5432"]);
    check_hosts(
        "host=a,,/s port=1,2,3",
        &[("PGHOST", "z")],
        &[
            "a port 1",
            &socket.replace("5432", "2"),
            "socket /s/.s.PGSQL.3",
        ],
    );
    check_hosts(
        "hostaddr=192.0.2.1,::1",
        &[],
        &["192.0.2.1 port 5432", "::1 port 5432"],
    );
    check_hosts(
        "dbname=x",
        &[("PGHOST", "h"), ("PGPORT", "9")],
        &["h port 9"],
    );
    check_error(
        "host=a,b port=1,2,3",
        "could not match 3 port numbers to 2 hosts",
    );
    check_error(
        "host=a,b hostaddr=192.0.2.1",
        "could not match 2 host names to 1 hostaddr values",
    );
    check_error("host=a port=0", "expected a number from 1 to 65535");
    check_error(
        "host=a port=x",
        "invalid value \"x\" for connection key \"port\"",
    );
    check_error("hostaddr=db1", "expected an IPv4 or IPv6 address");
    check_error("host=@x", "abstract namespace");
}

#[test]
fn precedence_is_string_then_service_then_variables() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("services");
    std::fs::write(&file, "[s]\nhost=from-service\nport=7\nuser=service-user\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let variables = [
        ("PGSERVICEFILE", file),
        ("PGUSER", "variable"),
        ("PGDATABASE", "v-db"),
        ("PGHOST", "v-host"),
    ];
    let settings = resolve("service=s port=9", &variables).expect("resolves");
    assert_eq!(settings.hosts[0].to_string(), "from-service port 9");
    assert_eq!(
        (settings.user.as_str(), settings.dbname.as_str()),
        ("service-user", "v-db")
    );
    let by_variable =
        resolve("", &[("PGSERVICEFILE", file), ("PGSERVICE", "s")]).expect("resolves");
    assert_eq!(by_variable.hosts[0].to_string(), "from-service port 7");
    let missing = resolve("service=t", &variables)
        .expect_err("no such service")
        .to_string();
    assert!(
        missing.contains("definition of service \"t\" not found"),
        "{missing}"
    );
}

#[test]
fn the_database_is_named_like_the_user() {
    let settings = resolve("user=me", &[]).expect("resolves");
    assert_eq!(settings.dbname, "me");
}

#[test]
fn tls_values() {
    let mode = |text: &str| resolve(text, &[("HOME", "/h")]).map(|settings| settings.tls.mode);
    assert_eq!(mode(""), Ok(SslMode::Prefer));
    assert_eq!(mode("sslrootcert=system"), Ok(SslMode::VerifyFull));
    check_error(
        "sslmode=verify",
        "expected disable, allow, prefer, require, verify-ca, verify-full",
    );
    check_error(
        "sslmode=require sslrootcert=system",
        "weak sslmode \"require\" may not be used with sslrootcert=system",
    );
    check_error(
        "sslnegotiation=direct",
        "weak sslmode \"prefer\" may not be used with sslnegotiation=direct",
    );
    check_error(
        "ssl_max_protocol_version=TLSv1.1",
        "older versions are not spoken",
    );
    check_error(
        "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
        "is above",
    );
    let settings = resolve("", &[("HOME", "/h")]).expect("resolves");
    assert_eq!(
        settings.tls.roots,
        RootCertificates::Default(Some("/h/.postgresql/root.crt".into()))
    );
    assert_eq!(settings.passfile, Some("/h/.pgpass".into()));
}

#[test]
fn numbers_and_words() {
    let timeout = |text: &str| resolve(text, &[]).expect(text).connect_timeout;
    assert_eq!(timeout(""), Some(CONNECT_TIMEOUT_DEFAULT));
    assert_eq!(timeout("connect_timeout=3"), Some(Duration::from_secs(3)));
    assert_eq!(timeout("connect_timeout=0"), None);
    assert_eq!(timeout("connect_timeout=-1"), None);
    check_error("connect_timeout=soon", "expected a whole number");
    check_error("target_session_attrs=master", "prefer-standby");
    let settings =
        resolve("keepalives=0 keepalives_idle=7 tcp_user_timeout=1500", &[]).expect("resolves");
    assert!(!settings.keepalives.enabled);
    assert_eq!(settings.keepalives.idle, Some(Duration::from_secs(7)));
    assert_eq!(settings.tcp_user_timeout, Some(Duration::from_millis(1500)));
}

#[test]
fn the_usual_socket_is_localhost_in_the_password_file() {
    let settings = resolve("", &[]).expect("resolves");
    assert_eq!(settings.passfile_host(&settings.hosts[0]).0, "localhost");
    let settings = resolve("host=/other", &[]).expect("resolves");
    assert_eq!(settings.passfile_host(&settings.hosts[0]).0, "/other");
}

#[test]
fn debug_shows_no_password() {
    let settings = resolve("password=sesame host=h", &[("PGUSER", "u")]).expect("resolves");
    assert!(!format!("{settings:?}").contains("sesame"));
}
