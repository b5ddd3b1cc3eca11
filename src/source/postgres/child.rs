//! The environment of a `pg_dump` or `pg_dumpall` child: the same server, and no secret in its arguments.
//!
//! **Failure**: the password file is a temporary file of mode 0600; the guard removes it. A process that
//! is killed leaves it in the folder for temporary files, readable by its owner only.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::process::Command;

use tempfile::NamedTempFile;

use super::conninfo::ConnInfo;
use super::error::PgError;
use super::keywords::{KEYWORDS, OTHER_VARIABLES};
use super::passfile;
use super::settings::{
    ChannelBinding, ClientCertificate, ConnSettings, HostSpec, RootCertificates, TlsVersion,
};

/// Settings with which `pg_dump` writes the same whatever the database itself sets.
const DUMP_OPTIONS: &[(&str, &str)] = &[
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    ("lc_monetary", "C"),
    ("timezone", "UTC"),
    ("bytea_output", "hex"),
    ("statement_timeout", "0"),
    ("transform_null_equals", "off"),
    ("default_transaction_deferrable", "off"),
    // A refused statement is pg_dump's to explain, and what is not an error would bury it.
    ("exit_on_error", "off"),
    ("client_min_messages", "error"),
];

/// Variables for a child, and the password file that they name, which lives as long as this value.
pub struct ChildEnvironment {
    variables: Vec<(&'static str, OsString)>,
    // Held for its Drop.
    _passfile: Option<NamedTempFile>,
}

impl fmt::Debug for ChildEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildEnvironment")
            .field("variables", &self.variables)
            .finish_non_exhaustive()
    }
}

impl ChildEnvironment {
    /// Gives a command these variables and takes all others of libpq away.
    pub fn apply(&self, command: &mut Command) {
        for variable in KEYWORDS
            .iter()
            .filter_map(|keyword| keyword.variable)
            .chain(OTHER_VARIABLES.iter().copied())
        {
            command.env_remove(variable);
        }
        for (name, value) in &self.variables {
            command.env(name, value);
        }
    }

    /// Returns the variables.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.variables
            .iter()
            .map(|(name, value)| (*name, value.as_os_str()))
    }
}

/// Makes the environment for the first host of the settings.
pub(super) fn environment(settings: &ConnSettings) -> Result<ChildEnvironment, PgError> {
    let mut variables: Vec<(&'static str, OsString)> = Vec::new();
    let mut set = |name: &'static str, value: OsString| variables.push((name, value));
    if let Some(host) = settings.hosts.first() {
        for (name, value) in host_variables(host) {
            set(name, value);
        }
    }
    set("PGUSER", settings.user.clone().into());
    set("PGDATABASE", settings.dbname.clone().into());
    set("PGAPPNAME", settings.application_name.clone().into());
    set(
        "PGOPTIONS",
        super::profile::start_options(&settings.options, DUMP_OPTIONS).into(),
    );
    if let Some(timeout) = settings.connect_timeout {
        set(
            "PGCONNECT_TIMEOUT",
            timeout.as_secs().max(1).to_string().into(),
        );
    }
    set("PGGSSENCMODE", "disable".into());
    for (name, value) in tls_variables(settings) {
        set(name, value);
    }
    let passfile = password_file(settings)?;
    if let Some(file) = &passfile {
        set("PGPASSFILE", file.path().into());
    }
    Ok(ChildEnvironment {
        variables,
        _passfile: passfile,
    })
}

fn host_variables(host: &HostSpec) -> Vec<(&'static str, OsString)> {
    match host {
        HostSpec::Socket { directory, port } => {
            vec![
                ("PGHOST", directory.clone().into()),
                ("PGPORT", port.to_string().into()),
            ]
        }
        HostSpec::Tcp {
            name,
            address,
            port,
        } => {
            let mut variables = vec![("PGPORT", OsString::from(port.to_string()))];
            variables.extend(name.clone().map(|name| ("PGHOST", name.into())));
            variables.extend(address.map(|address| ("PGHOSTADDR", address.to_string().into())));
            variables
        }
    }
}

fn tls_variables(settings: &ConnSettings) -> Vec<(&'static str, OsString)> {
    let tls = &settings.tls;
    let version = |version| match version {
        TlsVersion::V1_2 => "TLSv1.2",
        TlsVersion::V1_3 => "TLSv1.3",
    };
    let mut variables: Vec<(&'static str, OsString)> = vec![("PGSSLMODE", tls.mode.name().into())];
    if matches!(settings.hosts.first(), Some(HostSpec::Socket { .. })) {
        return variables;
    }
    if tls.direct {
        variables.push(("PGSSLNEGOTIATION", "direct".into()));
    }
    variables.push(("PGSSLMINPROTOCOLVERSION", version(tls.version_min).into()));
    if tls.version_max != TlsVersion::V1_3 {
        variables.push(("PGSSLMAXPROTOCOLVERSION", version(tls.version_max).into()));
    }
    match &tls.roots {
        RootCertificates::System => variables.push(("PGSSLROOTCERT", "system".into())),
        RootCertificates::File(file) | RootCertificates::Default(Some(file)) => {
            variables.push(("PGSSLROOTCERT", file.clone().into()));
        }
        RootCertificates::Default(None) => {}
    }
    match &tls.client {
        ClientCertificate::Off => {}
        ClientCertificate::Files {
            certificate, key, ..
        } => {
            variables.push(("PGSSLCERT", certificate.clone().into()));
            variables.push(("PGSSLKEY", key.clone().into()));
        }
    }
    if !tls.server_name_indication {
        variables.push(("PGSSLSNI", "0".into()));
    }
    let channel_binding = match settings.channel_binding {
        ChannelBinding::Disable => "disable",
        ChannelBinding::Prefer => "prefer",
        ChannelBinding::Require => "require",
    };
    variables.push(("PGCHANNELBINDING", channel_binding.into()));
    variables
}

/// Writes the password, for any host: the child knows one server only.
fn password_file(settings: &ConnSettings) -> Result<Option<NamedTempFile>, PgError> {
    let Some(host) = settings.hosts.first() else {
        return Ok(None);
    };
    let Ok(password) = settings.password_for(host, &settings.dbname) else {
        return Ok(None);
    };
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix("holdfast-")
            .suffix(".pgpass")
            .tempfile()?;
        file.write_all(b"*:*:*:*:")?;
        file.write_all(passfile::escape(&password).as_bytes())?;
        file.write_all(b"\n")?;
        file.flush()?;
        Ok(file)
    };
    write()
        .map(Some)
        .map_err(|error| PgError::local("cannot write the password file of a child", error))
}

/// Writes the part of a connection string that names a database, for tools that take one as an argument.
#[must_use]
pub fn dbname_argument(dbname: &str) -> String {
    // A bare name with "=" or a URI prefix would be read as a connection string.
    let mut info = ConnInfo::default();
    info.set("dbname", dbname).expect("dbname is a known key");
    info.to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn settings(text: &str) -> ConnSettings {
        ConnInfo::parse(text)
            .expect("parses")
            .resolve(&|_| None)
            .expect("resolves")
    }

    #[test]
    fn the_password_is_in_a_private_file_and_nowhere_else() {
        let settings =
            settings(r"host=db1 hostaddr=192.0.2.1 port=7 user=me dbname=QSR password=se\\sa:me");
        let environment = environment(&settings).expect("made");
        let value = |name: &str| {
            environment
                .variables()
                .find(|(found, _)| *found == name)
                .map(|(_, value)| value.to_string_lossy().into_owned())
        };
        assert_eq!(value("PGHOST").as_deref(), Some("db1"));
        assert_eq!(value("PGHOSTADDR").as_deref(), Some("192.0.2.1"));
        assert_eq!(value("PGPORT").as_deref(), Some("7"));
        let file = value("PGPASSFILE").expect("a password file");
        assert_eq!(
            std::fs::read_to_string(&file).expect("readable"),
            "*:*:*:*:se\\\\sa\\:me\n"
        );
        assert_eq!(
            std::fs::metadata(&file)
                .expect("there")
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        assert!(!format!("{environment:?}").contains("sa:me"));
        drop(environment);
        assert!(!std::path::Path::new(&file).exists());
    }

    #[test]
    fn names_of_databases_that_look_like_connection_strings() {
        assert_eq!(dbname_argument("QSR"), "dbname=QSR");
        assert_eq!(dbname_argument("a b=c"), "dbname='a b=c'");
    }
}
