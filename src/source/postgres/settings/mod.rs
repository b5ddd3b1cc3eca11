//! A connection string with everything filled in: service, variables, defaults.
//!
//! The environment comes in as a lookup; nothing here reads the variables of the process. Files are
//! only named here; passwords and certificates are read when a connection is made.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::conninfo::{ConnInfo, ConnInfoError};
use super::keywords::{KEYWORDS, Treatment};
use super::passfile::{self, Lookup, Wanted};
use super::service;

/// How long one address is tried where neither string nor variable says so. libpq waits for the
/// kernel, more than two minutes for each address; with our tries that would be half an hour.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
const PORT_DEFAULT: u16 = 5432;

/// Gives the value of an environment variable.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Whether and how a connection is encrypted and its server checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Plain first, encrypted where the server refuses that.
    Allow,
    /// Encrypted first, plain where that fails.
    Prefer,
    /// Always; acts as `VerifyCa` where a root file exists, as in libpq.
    Require,
    /// Always, and the certificate must come from a trusted root.
    VerifyCa,
    /// The same, and its name must be that of the host.
    VerifyFull,
}

impl SslMode {
    /// Returns the name that libpq uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

/// Which kind of server is acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// Any.
    Any,
    /// One that accepts writes.
    ReadWrite,
    /// One whose sessions are read-only.
    ReadOnly,
    /// Not a standby.
    Primary,
    /// A standby.
    Standby,
    /// A standby if one answers, else any.
    PreferStandby,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2; older limits are raised to it, because nothing older is spoken.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Where trusted roots come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// The store of the operating system.
    System,
    /// A PEM file that was named; it must exist where it is needed.
    File(PathBuf),
    /// `~/.postgresql/root.crt`, which need not exist.
    Default(Option<PathBuf>),
}

/// Whether a client certificate is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Never.
    Off,
    /// These files; `named` ones must exist.
    Files {
        /// The certificate chain.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// Whether the user named the certificate.
        named: bool,
    },
}

/// Everything about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// `sslmode`.
    pub mode: SslMode,
    /// `sslnegotiation=direct`.
    pub direct: bool,
    /// `sslrootcert`.
    pub roots: RootCertificates,
    /// `sslcert` and `sslkey`.
    pub client: ClientCertificate,
    /// Whether `sslpassword` was given: such keys are not supported, and the message should say so.
    pub key_password_given: bool,
    /// `ssl_min_protocol_version`.
    pub version_min: TlsVersion,
    /// `ssl_max_protocol_version`.
    pub version_max: TlsVersion,
    /// `sslsni`.
    pub server_name_indication: bool,
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Not used.
    Disable,
    /// Used where the server offers it.
    Prefer,
    /// Demanded.
    Require,
}

/// TCP keepalives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalives {
    /// Whether they are sent.
    pub enabled: bool,
    /// After this much silence.
    pub idle: Option<Duration>,
    /// This far apart.
    pub interval: Option<Duration>,
    /// So often before the connection counts as lost.
    pub count: Option<u32>,
}

/// One host of the string, not yet resolved to addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostSpec {
    /// A Unix socket in this directory.
    Socket {
        /// The directory.
        directory: PathBuf,
        /// The number in the name of the socket.
        port: u16,
    },
    /// A host on the network.
    Tcp {
        /// Its name, for look-up and for the check of its certificate; absent where only an address was given.
        name: Option<String>,
        /// Its address, where given.
        address: Option<IpAddr>,
        /// Its port.
        port: u16,
    },
}

impl HostSpec {
    /// Tells whether it is this host, as far as its name says.
    fn is_here(&self) -> bool {
        match self {
            HostSpec::Socket { .. } => true,
            HostSpec::Tcp { name, address, .. } => match address {
                Some(address) => address.is_loopback(),
                None => name.as_deref() == Some("localhost"),
            },
        }
    }
}

impl fmt::Display for HostSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostSpec::Socket { directory, port } => {
                write!(f, "socket {}/.s.PGSQL.{port}", directory.display())
            }
            HostSpec::Tcp {
                name: Some(name),
                port,
                ..
            } => write!(f, "{name} port {port}"),
            HostSpec::Tcp {
                address: Some(address),
                port,
                ..
            } => write!(f, "{address} port {port}"),
            HostSpec::Tcp { port, .. } => write!(f, "localhost port {port}"),
        }
    }
}

/// All that is needed to connect.
#[derive(Clone)]
pub struct ConnSettings {
    /// The hosts, in the order of the string; never empty.
    pub hosts: Vec<HostSpec>,
    /// The database.
    pub dbname: String,
    /// The role.
    pub user: String,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) passfile: Option<PathBuf>,
    /// TLS.
    pub tls: TlsSettings,
    /// `channel_binding`.
    pub channel_binding: ChannelBinding,
    /// How long one address is tried; `None` waits for the kernel.
    pub connect_timeout: Option<Duration>,
    /// `target_session_attrs`.
    pub target_session_attrs: TargetSessionAttrs,
    /// `load_balance_hosts=random`.
    pub load_balance: bool,
    /// The user's own start options.
    pub options: String,
    /// The name that the server shows in `pg_stat_activity`.
    pub application_name: String,
    /// TCP keepalives.
    pub keepalives: Keepalives,
    /// `tcp_user_timeout`.
    pub tcp_user_timeout: Option<Duration>,
    socket_directory: PathBuf,
}

impl fmt::Debug for ConnSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnSettings")
            .field("hosts", &self.hosts)
            .field("dbname", &self.dbname)
            .field("user", &self.user)
            .field("passfile", &self.passfile)
            .field("tls", &self.tls)
            .field("target_session_attrs", &self.target_session_attrs)
            .finish_non_exhaustive()
    }
}

impl ConnSettings {
    /// Replaces the password, for one that was asked for or read from elsewhere.
    pub fn set_password(&mut self, password: Zeroizing<String>) {
        self.password = Some(password);
    }

    /// Replaces the password file.
    pub fn set_passfile(&mut self, file: PathBuf) {
        self.passfile = Some(file);
    }

    /// Returns the password for one host: the one given, else the password file's; or why there is none.
    pub(super) fn password_for(
        &self,
        host: &HostSpec,
        dbname: &str,
    ) -> Result<Zeroizing<String>, String> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        let Some(file) = &self.passfile else {
            return Err("no password was given and no password file is configured".to_owned());
        };
        let (host, port) = self.passfile_host(host);
        let port = port.to_string();
        let wanted = Wanted {
            host: &host,
            port: &port,
            dbname,
            user: &self.user,
        };
        match passfile::look_up(file, wanted) {
            Lookup::Found(password) => Ok(password),
            Lookup::NoEntry => Err(format!(
                "password file {} has no entry for {host}:{port}:{dbname}:{}",
                file.display(),
                self.user
            )),
            Lookup::Unusable(why) => Err(why),
        }
    }

    /// Returns the name under which the password file knows a host; the usual socket is "localhost".
    fn passfile_host(&self, host: &HostSpec) -> (String, u16) {
        match host {
            HostSpec::Socket { directory, port } if *directory == self.socket_directory => {
                ("localhost".to_owned(), *port)
            }
            HostSpec::Socket { directory, port } => (directory.display().to_string(), *port),
            HostSpec::Tcp {
                name: Some(name),
                port,
                ..
            } => (name.clone(), *port),
            HostSpec::Tcp {
                address: Some(address),
                port,
                ..
            } => (address.to_string(), *port),
            HostSpec::Tcp { port, .. } => ("localhost".to_owned(), *port),
        }
    }
}

impl ConnInfo {
    /// Fills in the service, the variables and the defaults, in libpq's order of precedence.
    pub fn resolve(&self, variables: Variables<'_>) -> Result<ConnSettings, ConnInfoError> {
        let home = home_directory(variables);
        let mut info = self.clone();
        add_service(&mut info, variables, home.as_deref())?;
        add_variables(&mut info, variables)?;
        build(&info, variables, home.as_deref())
    }
}

fn add_service(
    info: &mut ConnInfo,
    variables: Variables<'_>,
    home: Option<&Path>,
) -> Result<(), ConnInfoError> {
    let variable = |name: &str| variables(name).filter(|value| !value.is_empty());
    let service = match info.get("service") {
        Some(service) => service.to_owned(),
        None => match variable("PGSERVICE") {
            Some(service) => service.to_string_lossy().into_owned(),
            None => return Ok(()),
        },
    };
    let named = info
        .get("servicefile")
        .map(PathBuf::from)
        .or_else(|| variable("PGSERVICEFILE").map(PathBuf::from));
    let mut usual = Vec::new();
    if named.is_none() {
        usual.extend(home.map(|home| home.join(".pg_service.conf")));
    }
    match variable("PGSYSCONFDIR") {
        Some(folder) => usual.push(Path::new(&folder).join("pg_service.conf")),
        None => usual.push(PathBuf::from("/etc/postgresql-common/pg_service.conf")),
    }
    let definition = service::look_up(&service, named, &usual)?;
    info.fill_from(&definition);
    Ok(())
}

fn add_variables(info: &mut ConnInfo, variables: Variables<'_>) -> Result<(), ConnInfoError> {
    for keyword in KEYWORDS {
        let Some(variable) = keyword
            .variable
            .filter(|_| keyword.treatment != Treatment::Ignored)
        else {
            continue;
        };
        if info.has(keyword.name) {
            continue;
        }
        let Some(value) = variables(variable).filter(|value| !value.is_empty()) else {
            continue;
        };
        let Some(value) = value.to_str() else {
            return Err(ConnInfoError::Conflict(format!(
                "the value of {variable} is not UTF-8"
            )));
        };
        info.set(keyword.name, value)?;
    }
    Ok(())
}

fn build(
    info: &ConnInfo,
    variables: Variables<'_>,
    home: Option<&Path>,
) -> Result<ConnSettings, ConnInfoError> {
    let socket_directory = default_socket_directory();
    let user = match info.get("user") {
        Some(user) => user.to_owned(),
        None => operating_system_user(variables).ok_or_else(|| {
            ConnInfoError::Conflict(
                "cannot find the name of the current user; set user=… or PGUSER".to_owned(),
            )
        })?,
    };
    let tcp_user_timeout = whole(info, "tcp_user_timeout")?
        .filter(|ms| *ms > 0)
        .map(Duration::from_millis);
    Ok(ConnSettings {
        hosts: hosts(info, &socket_directory)?,
        dbname: info.get("dbname").unwrap_or(&user).to_owned(),
        user,
        password: info
            .get("password")
            .map(|password| Zeroizing::new(password.to_owned())),
        passfile: info
            .get("passfile")
            .map(PathBuf::from)
            .or_else(|| home.map(|home| home.join(".pgpass"))),
        tls: tls_settings(info, home)?,
        channel_binding: choice(
            info,
            "channel_binding",
            ChannelBinding::Prefer,
            &[
                ("disable", ChannelBinding::Disable),
                ("prefer", ChannelBinding::Prefer),
                ("require", ChannelBinding::Require),
            ],
        )?,
        connect_timeout: connect_timeout(info)?,
        target_session_attrs: choice(
            info,
            "target_session_attrs",
            TargetSessionAttrs::Any,
            &[
                ("any", TargetSessionAttrs::Any),
                ("read-write", TargetSessionAttrs::ReadWrite),
                ("read-only", TargetSessionAttrs::ReadOnly),
                ("primary", TargetSessionAttrs::Primary),
                ("standby", TargetSessionAttrs::Standby),
                ("prefer-standby", TargetSessionAttrs::PreferStandby),
            ],
        )?,
        load_balance: choice(
            info,
            "load_balance_hosts",
            false,
            &[("disable", false), ("random", true)],
        )?,
        options: info.get("options").unwrap_or_default().to_owned(),
        application_name: info
            .get("application_name")
            .or_else(|| info.get("fallback_application_name"))
            .unwrap_or("holdfast")
            .to_owned(),
        keepalives: Keepalives {
            enabled: whole(info, "keepalives")?.is_none_or(|value| value != 0),
            idle: seconds(info, "keepalives_idle")?,
            interval: seconds(info, "keepalives_interval")?,
            count: whole(info, "keepalives_count")?
                .filter(|count| *count > 0)
                .map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
        },
        tcp_user_timeout,
        socket_directory,
    })
}

fn hosts(info: &ConnInfo, socket_directory: &Path) -> Result<Vec<HostSpec>, ConnInfoError> {
    let list = |key| {
        info.get(key)
            .map(|text| text.split(',').collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(mismatch(
            "host names",
            names.len(),
            "hostaddr values",
            addresses.len(),
        ));
    }
    let count = names.len().max(addresses.len()).max(1);
    if ports.len() > 1 && ports.len() != count {
        return Err(mismatch("port numbers", ports.len(), "hosts", count));
    }
    (0..count)
        .map(|position| {
            let port = port(
                ports
                    .get(position)
                    .or_else(|| ports.first().filter(|_| ports.len() == 1))
                    .copied(),
            )?;
            let text = |list: &[&str]| {
                list.get(position)
                    .copied()
                    .filter(|text| !text.is_empty())
                    .map(str::to_owned)
            };
            host(text(&names), text(&addresses), port, socket_directory)
        })
        .collect()
}

fn mismatch(one: &str, one_count: usize, other: &str, other_count: usize) -> ConnInfoError {
    ConnInfoError::Conflict(format!(
        "could not match {one_count} {one} to {other_count} {other}"
    ))
}

fn host(
    name: Option<String>,
    address: Option<String>,
    port: u16,
    socket_directory: &Path,
) -> Result<HostSpec, ConnInfoError> {
    if let Some(address) = address {
        let parsed = address
            .parse()
            .map_err(|_cause: std::net::AddrParseError| ConnInfoError::Value {
                key: "hostaddr",
                value: address.clone(),
                expected: "an IPv4 or IPv6 address".to_owned(),
            })?;
        return Ok(HostSpec::Tcp {
            name,
            address: Some(parsed),
            port,
        });
    }
    match name {
        None => Ok(HostSpec::Socket { directory: socket_directory.to_owned(), port }),
        Some(name) if name.starts_with('/') => Ok(HostSpec::Socket { directory: PathBuf::from(name), port }),
        Some(name) if name.starts_with('@') => Err(ConnInfoError::Value {
            key: "host",
            value: name,
            expected: "a host name, an address or a directory; sockets in the abstract namespace are not supported"
                .to_owned(),
        }),
        Some(name) => Ok(HostSpec::Tcp { name: Some(name), address: None, port }),
    }
}

fn port(text: Option<&str>) -> Result<u16, ConnInfoError> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(PORT_DEFAULT);
    };
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(ConnInfoError::Value {
            key: "port",
            value: text.to_owned(),
            expected: "a number from 1 to 65535".to_owned(),
        }),
    }
}

fn tls_settings(info: &ConnInfo, home: Option<&Path>) -> Result<TlsSettings, ConnInfoError> {
    let folder = home.map(|home| home.join(".postgresql"));
    let roots = match info.get("sslrootcert") {
        Some("system") => RootCertificates::System,
        Some(file) => RootCertificates::File(PathBuf::from(file)),
        None => RootCertificates::Default(folder.as_ref().map(|folder| folder.join("root.crt"))),
    };
    let mode_default = if roots == RootCertificates::System {
        SslMode::VerifyFull
    } else {
        SslMode::Prefer
    };
    let all = [
        SslMode::Disable,
        SslMode::Allow,
        SslMode::Prefer,
        SslMode::Require,
        SslMode::VerifyCa,
        SslMode::VerifyFull,
    ];
    let mode = choice(
        info,
        "sslmode",
        mode_default,
        &all.map(|mode| (mode.name(), mode)),
    )?;
    if roots == RootCertificates::System && mode != SslMode::VerifyFull {
        return Err(weak(mode, "sslrootcert=system", "verify-full"));
    }
    let direct = choice(
        info,
        "sslnegotiation",
        false,
        &[("postgres", false), ("direct", true)],
    )?;
    if direct && mode < SslMode::Require {
        return Err(weak(
            mode,
            "sslnegotiation=direct",
            "require, verify-ca or verify-full",
        ));
    }
    let (version_min, version_max) = tls_versions(info)?;
    Ok(TlsSettings {
        mode,
        direct,
        roots,
        client: client_certificate(info, folder.as_deref())?,
        key_password_given: info.get("sslpassword").is_some(),
        version_min,
        version_max,
        server_name_indication: whole(info, "sslsni")?.is_none_or(|value| value != 0),
    })
}

fn weak(mode: SslMode, with: &str, instead: &str) -> ConnInfoError {
    ConnInfoError::Conflict(format!(
        "weak sslmode \"{}\" may not be used with {with} (use {instead})",
        mode.name()
    ))
}

fn tls_versions(info: &ConnInfo) -> Result<(TlsVersion, TlsVersion), ConnInfoError> {
    let key_min = "ssl_min_protocol_version";
    let key_max = "ssl_max_protocol_version";
    let old = ["TLSv1", "TLSv1.1"];
    if let Some(value) = info
        .get(key_max)
        .filter(|value| old.iter().any(|old| old.eq_ignore_ascii_case(value)))
    {
        return Err(ConnInfoError::Value {
            key: key_max,
            value: value.to_owned(),
            expected: "TLSv1.2 or TLSv1.3; older versions are not spoken".to_owned(),
        });
    }
    let known = [
        ("TLSv1", TlsVersion::V1_2),
        ("TLSv1.1", TlsVersion::V1_2),
        ("TLSv1.2", TlsVersion::V1_2),
        ("TLSv1.3", TlsVersion::V1_3),
    ];
    let min = choice(info, key_min, TlsVersion::V1_2, &known)?;
    let max = choice(info, key_max, TlsVersion::V1_3, &known[2..])?;
    if min > max {
        return Err(ConnInfoError::Conflict(format!(
            "{key_min} is above {key_max}"
        )));
    }
    Ok((min, max))
}

fn client_certificate(
    info: &ConnInfo,
    folder: Option<&Path>,
) -> Result<ClientCertificate, ConnInfoError> {
    let shown = choice(
        info,
        "sslcertmode",
        true,
        &[("disable", false), ("allow", true)],
    )?;
    if !shown {
        return Ok(ClientCertificate::Off);
    }
    let key = info
        .get("sslkey")
        .map(PathBuf::from)
        .or_else(|| folder.map(|folder| folder.join("postgresql.key")));
    let (certificate, named) = match info.get("sslcert") {
        Some(file) => (Some(PathBuf::from(file)), true),
        None => (folder.map(|folder| folder.join("postgresql.crt")), false),
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(ClientCertificate::Files {
            certificate,
            key,
            named,
        }),
        (Some(_), None) if named => Err(ConnInfoError::Conflict(
            "sslcert is given but no sslkey, and there is no home directory".to_owned(),
        )),
        _ => Ok(ClientCertificate::Off),
    }
}

fn connect_timeout(info: &ConnInfo) -> Result<Option<Duration>, ConnInfoError> {
    let Some(text) = info.get("connect_timeout") else {
        return Ok(Some(CONNECT_TIMEOUT_DEFAULT));
    };
    match text.trim().parse::<i64>() {
        Ok(seconds) => Ok(u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs)),
        Err(_not_a_number) => Err(not_whole("connect_timeout", text)),
    }
}

fn seconds(info: &ConnInfo, key: &'static str) -> Result<Option<Duration>, ConnInfoError> {
    Ok(whole(info, key)?
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs))
}

fn whole(info: &ConnInfo, key: &'static str) -> Result<Option<u64>, ConnInfoError> {
    let Some(text) = info.get(key) else {
        return Ok(None);
    };
    text.trim()
        .parse()
        .map(Some)
        .map_err(|_cause: std::num::ParseIntError| not_whole(key, text))
}

fn not_whole(key: &'static str, text: &str) -> ConnInfoError {
    ConnInfoError::Value {
        key,
        value: text.to_owned(),
        expected: "a whole number".to_owned(),
    }
}

/// Reads a value that must be one of a list of words.
fn choice<T: Copy>(
    info: &ConnInfo,
    key: &'static str,
    default: T,
    known: &[(&'static str, T)],
) -> Result<T, ConnInfoError> {
    let Some(text) = info.get(key) else {
        return Ok(default);
    };
    known
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text))
        .map(|(_, value)| *value)
        .ok_or_else(|| ConnInfoError::Value {
            key,
            value: text.to_owned(),
            expected: known
                .iter()
                .map(|(word, _)| *word)
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// Debian's servers and clients agree on `/var/run/postgresql`; PostgreSQL as it comes uses `/tmp`.
fn default_socket_directory() -> PathBuf {
    let debian = Path::new("/var/run/postgresql");
    if debian.is_dir() {
        debian.to_owned()
    } else {
        PathBuf::from("/tmp")
    }
}

fn home_directory(variables: Variables<'_>) -> Option<PathBuf> {
    variables("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .or_else(|| password_entry().map(|(_, home)| PathBuf::from(home)))
}

fn operating_system_user(variables: Variables<'_>) -> Option<String> {
    password_entry().map(|(name, _)| name).or_else(|| {
        ["LOGNAME", "USER"].into_iter().find_map(|name| {
            variables(name)?
                .into_string()
                .ok()
                .filter(|n| !n.is_empty())
        })
    })
}

/// Returns name and home of the effective user from `/etc/passwd`.
fn password_entry() -> Option<(String, String)> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2) == Some(&uid.as_str())).then(|| {
            (
                fields[0].to_owned(),
                fields.get(5).copied().unwrap_or_default().to_owned(),
            )
        })
    })
}

impl ConnSettings {
    /// Tells whether the server shares its cores with this program.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.hosts.iter().all(HostSpec::is_here)
    }
}

#[cfg(test)]
mod tests;
