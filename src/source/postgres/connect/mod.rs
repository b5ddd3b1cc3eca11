//! From settings to a session: hosts, addresses, encryption, tries, the kind of server that is wanted.
//!
//! One *round* goes through all hosts and their addresses in order, as libpq does. A round that failed for
//! a reason that may pass (refused, timed out, starting up, too many connections) is repeated after a pause;
//! what a server refused for good (a wrong password, an unknown database) ends everything at once.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::child::{self, ChildEnvironment};
use super::error::{Attempt, PgError, chain, io_error};
use super::pooler;
use super::profile::{SessionProfile, set_statement};
use super::session::{self, Parts, PgSession, ServerFacts, StopFlag};
use super::settings::{ConnSettings, HostSpec, SslMode, TargetSessionAttrs};
use super::start::{Start, StartError};
use super::tls::{self, TlsConnector};

const VERSION_OLDEST: u32 = 90_300;
/// How often a wish for an end is looked for between two rounds.
const PAUSE_STOP: Duration = Duration::from_millis(100);

/// How often and how patiently a connection is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Rounds through all hosts; at least one is made.
    pub tries: u32,
    /// The pause after the first round; it doubles from round to round.
    pub pause_first: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 10,
            pause_first: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    /// One round only.
    #[must_use]
    pub fn once() -> Self {
        Self {
            tries: 1,
            ..Self::default()
        }
    }

    /// Returns the pause after a round, counted from 1.
    #[must_use]
    pub fn pause_after(&self, round: u32) -> Duration {
        let factor = 2_u32.saturating_pow(round.saturating_sub(1));
        self.pause_first.saturating_mul(factor).min(self.pause_max)
    }
}

/// How to connect, beside the settings of the user.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// What the session is for.
    pub profile: SessionProfile,
    /// `lock_timeout` of the session; none waits for ever.
    pub lock_timeout: Option<Duration>,
    /// Tries and pauses.
    pub retry: RetryPolicy,
    /// More settings, applied last.
    pub settings: Vec<(String, String)>,
    /// Ends all waiting, also that of the session.
    pub stop: StopFlag,
}

impl ConnectOptions {
    /// Options for sessions that read.
    #[must_use]
    pub fn dump() -> Self {
        Self {
            profile: SessionProfile::Dump,
            ..Self::default()
        }
    }

    /// Options for sessions that write what a dump has read.
    #[must_use]
    pub fn restore() -> Self {
        Self {
            profile: SessionProfile::Restore,
            ..Self::default()
        }
    }
}

/// Where a session ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The name of the host, where one was given.
    pub host: Option<String>,
    /// The address that answered.
    pub address: EndpointAddress,
    /// The port.
    pub port: u16,
    /// The database.
    pub dbname: String,
    /// The role.
    pub user: String,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// On the network.
    Tcp(IpAddr),
    /// A Unix socket in this directory.
    Socket(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database \"{}\" at ", self.dbname)?;
        match (&self.address, &self.host) {
            (EndpointAddress::Socket(directory), _) => {
                write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port)
            }
            (EndpointAddress::Tcp(address), Some(host)) if *host != address.to_string() => {
                write!(f, "{host} ({address}) port {}", self.port)
            }
            (EndpointAddress::Tcp(address), _) => write!(f, "{address} port {}", self.port),
        }
    }
}

/// Makes sessions from settings.
#[derive(Clone, Debug)]
pub struct Connector {
    settings: ConnSettings,
}

impl Connector {
    /// Uses the hosts of the settings.
    #[must_use]
    pub fn new(settings: ConnSettings) -> Self {
        Self { settings }
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &ConnSettings {
        &self.settings
    }

    /// Returns a connector to another database of the same server.
    #[must_use]
    pub fn with_dbname(&self, dbname: &str) -> Self {
        let mut settings = self.settings.clone();
        dbname.clone_into(&mut settings.dbname);
        Self { settings }
    }

    /// Returns a connector that knows one server only.
    pub(super) fn pinned_to(&self, endpoint: &Endpoint) -> Self {
        let mut settings = self.settings.clone();
        settings.hosts = vec![match &endpoint.address {
            EndpointAddress::Tcp(address) => HostSpec::Tcp {
                name: endpoint.host.clone(),
                address: Some(*address),
                port: endpoint.port,
            },
            EndpointAddress::Socket(directory) => HostSpec::Socket {
                directory: directory.clone(),
                port: endpoint.port,
            },
        }];
        settings.target_session_attrs = TargetSessionAttrs::Any;
        settings.load_balance = false;
        Self { settings }
    }

    /// Connects; sleeps between rounds. Must not be called from asynchronous code.
    pub fn connect(&self, options: &ConnectOptions) -> Result<PgSession, PgError> {
        let tries = options.retry.tries.max(1);
        let mut round = 1;
        loop {
            let failed = match self.round(options)? {
                Outcome::Session(session) => return self.finish(*session, options),
                Outcome::Failed(failed) => failed,
            };
            let again = !failed.for_good && failed.attempts.iter().any(|attempt| attempt.transient);
            if round >= tries || !again {
                return Err(PgError::Connect {
                    dbname: self.settings.dbname.clone(),
                    user: self.settings.user.clone(),
                    rounds: round,
                    attempts: super::advice::add(self, failed.attempts),
                });
            }
            let pause = options.retry.pause_after(round);
            tracing::warn!(
                round,
                tries,
                pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                reason = failed.attempts.last().map(Attempt::to_string),
                "cannot connect, trying again"
            );
            self.pause(pause, &options.stop)?;
            round += 1;
        }
    }

    fn pause(&self, pause: Duration, stop: &StopFlag) -> Result<(), PgError> {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            if stop.is_set() {
                return Err(self.interrupted());
            }
            thread::sleep(PAUSE_STOP.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    fn interrupted(&self) -> PgError {
        PgError::Interrupted {
            endpoint: format!("database \"{}\"", self.settings.dbname),
        }
    }

    /// Returns what a `pg_dump` or `pg_dumpall` child needs to reach the same server; for this the connector
    /// should come from [`PgSession::connector`]. The guard holds the password file of the child.
    pub fn child_environment(&self) -> Result<ChildEnvironment, PgError> {
        child::environment(&self.settings)
    }

    /// Goes through all hosts once; `prefer-standby` does so twice.
    fn round(&self, options: &ConnectOptions) -> Result<Outcome, PgError> {
        let mut failed = Failed::default();
        let passes: &[TargetSessionAttrs] = match self.settings.target_session_attrs {
            TargetSessionAttrs::PreferStandby => {
                &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any]
            }
            ref wanted => std::slice::from_ref(wanted),
        };
        for wanted in passes {
            failed.attempts.clear();
            for host in self.hosts_in_order() {
                for (address, port) in self.addresses(&host, &mut failed.attempts) {
                    let target = Target {
                        host: &host,
                        address,
                        port,
                        wanted: *wanted,
                    };
                    if let Some(session) = self.try_target(&target, options, &mut failed)? {
                        return Ok(Outcome::Session(Box::new(session)));
                    }
                    if failed.for_good {
                        return Ok(Outcome::Failed(failed));
                    }
                }
            }
        }
        Ok(Outcome::Failed(failed))
    }

    fn hosts_in_order(&self) -> Vec<HostSpec> {
        let mut hosts = self.settings.hosts.clone();
        if self.settings.load_balance {
            shuffle(&mut hosts);
        }
        hosts
    }

    /// Returns all addresses of a host; a failed look-up is an attempt that failed.
    fn addresses(
        &self,
        host: &HostSpec,
        attempts: &mut Vec<Attempt>,
    ) -> Vec<(EndpointAddress, u16)> {
        let (name, port) = match host {
            HostSpec::Socket { directory, port } => {
                return vec![(EndpointAddress::Socket(directory.clone()), *port)];
            }
            HostSpec::Tcp {
                address: Some(address),
                port,
                ..
            } => return vec![(EndpointAddress::Tcp(*address), *port)],
            HostSpec::Tcp { name, port, .. } => (name.as_deref().unwrap_or("localhost"), *port),
        };
        match (name, port).to_socket_addrs() {
            Ok(found) => {
                let mut addresses: Vec<_> = found
                    .map(|found| (EndpointAddress::Tcp(found.ip()), port))
                    .collect();
                addresses.dedup();
                if self.settings.load_balance {
                    shuffle(&mut addresses);
                }
                addresses
            }
            Err(error) => {
                let reason = format!("cannot find the address: {error}");
                attempts.push(Attempt {
                    target: host.to_string(),
                    transient: reason.contains("Temporary failure"),
                    reason,
                    code: None,
                    advice: None,
                });
                Vec::new()
            }
        }
    }

    /// Tries one address with each kind of encryption that the mode allows.
    fn try_target(
        &self,
        target: &Target<'_>,
        options: &ConnectOptions,
        failed: &mut Failed,
    ) -> Result<Option<PgSession>, PgError> {
        let encryptions = self.encryptions(target);
        for (position, encrypted) in encryptions.iter().enumerate() {
            let last = position + 1 == encryptions.len();
            let failure = match self.open(target, *encrypted, options) {
                Ok(session) => return Ok(Some(session)),
                Err(OpenError::Stop(error)) => return Err(error),
                Err(OpenError::Failed(failure)) => failure,
            };
            let other_encryption = !last && failure.other_encryption;
            failed.for_good = failure.for_good && !other_encryption;
            failed.attempts.push(failure.attempt);
            if !other_encryption {
                break;
            }
        }
        Ok(None)
    }

    fn encryptions(&self, target: &Target<'_>) -> &'static [bool] {
        if matches!(target.address, EndpointAddress::Socket(_)) {
            return &[false];
        }
        match self.settings.tls.mode {
            SslMode::Disable => &[false],
            SslMode::Allow => &[false, true],
            SslMode::Prefer => &[true, false],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[true],
        }
    }

    /// Opens one connection and checks what kind of server it is.
    fn open(
        &self,
        target: &Target<'_>,
        encrypted: bool,
        options: &ConnectOptions,
    ) -> Result<PgSession, OpenError> {
        let connector = if encrypted {
            self.tls_connector(target)?
        } else {
            TlsConnector::Plain
        };
        let password = self
            .settings
            .password_for(target.host, &self.settings.dbname);
        let runtime = session::new_runtime()?;
        let mut start = Start {
            settings: &self.settings,
            target,
            encrypted,
            password: &password,
            profile: Some(options.profile),
        };
        let open = |start: &Start<'_>| {
            let opened = runtime.block_on(options.stop.or(start.open(&connector)));
            opened.ok_or_else(|| OpenError::Stop(self.interrupted()))
        };
        let opened = match open(&start)? {
            Err(StartError::Client(error)) if refuses_options(&error) => {
                tracing::debug!(%target, "the endpoint takes no start options; they are set by statements");
                start.profile = None;
                open(&start)?
            }
            other => other,
        };
        let options_sent = start.profile.is_some();
        let opened = opened
            .map_err(|error| OpenError::Failed(self.judge(target, encrypted, &error, &password)))?;
        let endpoint = Endpoint {
            host: match target.host {
                HostSpec::Tcp { name, .. } => name.clone(),
                HostSpec::Socket { .. } => None,
            },
            address: target.address.clone(),
            port: target.port,
            dbname: self.settings.dbname.clone(),
            user: self.settings.user.clone(),
            encrypted,
        };
        let parts = Parts {
            opened,
            tls: connector,
            connector: self.clone(),
            endpoint,
            stop: options.stop.clone(),
            runtime,
        };
        let mut session = PgSession::from_parts(parts);
        let facts = server_facts(&mut session).map_err(|error| later_failure(target, error))?;
        if let Some(reason) = unwanted(target.wanted, &facts) {
            return Err(OpenError::Failed(Failure {
                attempt: Attempt {
                    target: target.to_string(),
                    reason,
                    code: None,
                    transient: false,
                    advice: None,
                },
                for_good: false,
                other_encryption: false,
            }));
        }
        session.set_facts(facts);
        let settings = options.profile.start_settings();
        if !options_sent || not_taken(&mut session, &settings)?.is_some() {
            self.set_by_statements(&mut session, &settings, options)?;
        }
        Ok(session)
    }

    /// Sets by statements what the start of the session did not bring: something stands between us and the server. That is
    /// good if it stands there for one session only.
    fn set_by_statements(
        &self,
        session: &mut PgSession,
        settings: &[(&str, &str)],
        options: &ConnectOptions,
    ) -> Result<(), PgError> {
        let statements: String = settings
            .iter()
            .map(|(name, value)| set_statement(name, value))
            .collect();
        session.batch_execute(&statements)?;
        if !settings.is_empty() {
            pooler::refuse(session, self, options)?;
        }
        match not_taken(session, settings)? {
            None => Ok(()),
            Some((name, wanted, found)) => Err(PgError::Setting {
                endpoint: session.endpoint().to_string(),
                name,
                wanted,
                found,
            }),
        }
    }

    fn tls_connector(&self, target: &Target<'_>) -> Result<TlsConnector, OpenError> {
        let named = matches!(target.host, HostSpec::Tcp { name: Some(_), .. });
        if self.settings.tls.mode == SslMode::VerifyFull && !named {
            return Err(OpenError::Stop(PgError::Tls(
                "host name must be specified for a verified connection (sslmode=verify-full with hostaddr only)"
                    .to_owned(),
            )));
        }
        tls::connector(&self.settings.tls).map_err(OpenError::Stop)
    }

    /// Applies what depends on the version and checks that it is supported.
    fn finish(
        &self,
        mut session: PgSession,
        options: &ConnectOptions,
    ) -> Result<PgSession, PgError> {
        let version_num = session.version_num();
        if version_num < VERSION_OLDEST {
            return Err(PgError::TooOld {
                endpoint: session.endpoint().to_string(),
                version: session.facts().version.clone(),
            });
        }
        let mut statements = options.profile.later_statements(version_num);
        if let Some(timeout) = options.lock_timeout {
            statements.push_str(&set_statement(
                "lock_timeout",
                &timeout.as_millis().to_string(),
            ));
        }
        for (name, value) in &options.settings {
            statements.push_str(&set_statement(name, value));
        }
        if !statements.is_empty() {
            session.batch_execute(&statements)?;
        }
        Ok(session)
    }

    /// Says what a failed attempt means.
    fn judge(
        &self,
        target: &Target<'_>,
        encrypted: bool,
        error: &StartError,
        password: &Result<Zeroizing<String>, String>,
    ) -> Failure {
        let attempt = |reason: String| Attempt {
            target: target.to_string(),
            reason,
            code: None,
            transient: false,
            advice: None,
        };
        let io_failure = |error: &io::Error, reason: String| {
            let mut attempt = attempt(reason);
            attempt.transient = may_pass(error.kind());
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) {
                attempt.advice = Some("is the server running and listening there?".to_owned());
            }
            Failure {
                attempt,
                for_good: false,
                other_encryption: false,
            }
        };
        let error = match error {
            StartError::Client(error) => error,
            StartError::Socket(error) => return io_failure(error, error.to_string()),
            StartError::TimedOut(limit) => {
                let mut attempt = attempt(format!("no answer within {} s", limit.as_secs()));
                attempt.transient = true;
                return Failure {
                    attempt,
                    for_good: false,
                    other_encryption: false,
                };
            }
        };
        if let Some(db) = error.as_db_error() {
            let words = super::error::ServerError::from(db);
            let transient = passes_later(&words.code);
            let mut attempt = attempt(words.to_string());
            attempt.transient = transient;
            if words.code == "28P01" {
                attempt.advice = self.password_origin();
            }
            if words.code == "0A000" && words.message.contains("conversion between") {
                attempt.advice = Some(
                    "databases whose encoding has no way to UTF-8, such as MULE_INTERNAL, cannot be reached; let pg_dump write \
                     this one into a folder that is backed up"
                        .to_owned(),
                );
            }
            // Such an answer may come from a rule for this kind of encryption only.
            let other_encryption = words.code == "28000";
            attempt.code = Some(words.code);
            return Failure {
                attempt,
                for_good: !transient,
                other_encryption,
            };
        }
        let text = chain(error);
        if encrypted && let Some(failure) = tls_failure(error, &text) {
            let mut attempt = attempt(failure.reason);
            attempt.advice = failure.advice;
            return Failure {
                attempt,
                for_good: false,
                other_encryption: true,
            };
        }
        if text.contains("password missing") {
            let mut attempt = attempt("the server asks for a password".to_owned());
            attempt.advice = password.as_ref().err().cloned();
            return Failure {
                attempt,
                for_good: true,
                other_encryption: false,
            };
        }
        match io_error(error) {
            Some(error) => io_failure(error, error.to_string()),
            None => Failure {
                attempt: attempt(text),
                for_good: true,
                other_encryption: false,
            },
        }
    }

    fn password_origin(&self) -> Option<String> {
        match (&self.settings.password, &self.settings.passfile) {
            (None, Some(file)) => Some(format!("password retrieved from file {}", file.display())),
            _ => None,
        }
    }
}

enum Outcome {
    Session(Box<PgSession>),
    Failed(Failed),
}

/// A round that found no server.
#[derive(Default)]
struct Failed {
    attempts: Vec<Attempt>,
    for_good: bool,
}

/// One address of one host.
pub(super) struct Target<'a> {
    pub(super) host: &'a HostSpec,
    pub(super) address: EndpointAddress,
    pub(super) port: u16,
    wanted: TargetSessionAttrs,
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, self.host) {
            (
                EndpointAddress::Tcp(address),
                HostSpec::Tcp {
                    name: Some(name), ..
                },
            ) if *name != address.to_string() => {
                write!(f, "{name} ({address}) port {}", self.port)
            }
            _ => write!(f, "{}", self.host),
        }
    }
}

/// One failed attempt and what it means for the others.
struct Failure {
    attempt: Attempt,
    /// No other host is asked: the answer would be the same.
    for_good: bool,
    /// The other kind of encryption may work.
    other_encryption: bool,
}

enum OpenError {
    Failed(Failure),
    Stop(PgError),
}

impl From<PgError> for OpenError {
    fn from(error: PgError) -> Self {
        OpenError::Stop(error)
    }
}

/// A failure after the login: the server may have gone down just then.
fn later_failure(target: &Target<'_>, error: PgError) -> OpenError {
    match error {
        PgError::Lost { reason, .. } => OpenError::Failed(Failure {
            attempt: Attempt {
                target: target.to_string(),
                reason,
                code: None,
                transient: true,
                advice: None,
            },
            for_good: false,
            other_encryption: false,
        }),
        other => OpenError::Stop(other),
    }
}

/// Returns the first setting that did not take effect: its name, what it should be, what it is.
fn not_taken(
    session: &mut PgSession,
    settings: &[(&str, &str)],
) -> Result<Option<(String, String, String)>, PgError> {
    if settings.is_empty() {
        return Ok(None);
    }
    let selects: Vec<String> = settings
        .iter()
        .enumerate()
        .map(|(position, (name, _))| {
            format!("SELECT pg_catalog.current_setting('{name}'), {position}")
        })
        .collect();
    let found = session.simple_column(&format!("{} ORDER BY 2", selects.join(" UNION ALL ")))?;
    // The server writes some values in its own way: lists with spaces, names in quotes.
    let plain = |value: &str| value.replace([' ', '"'], "").to_ascii_lowercase();
    Ok(settings
        .iter()
        .zip(found)
        .map(|((name, wanted), found)| (name, wanted, found.unwrap_or_default()))
        .find(|(_, wanted, found)| plain(wanted) != plain(found))
        .map(|(name, wanted, found)| ((*name).to_owned(), (*wanted).to_owned(), found)))
}

/// Poolers such as PgBouncer refuse start options that they do not know.
fn refuses_options(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        matches!(db.code().code(), "08P01" | "0A000") && db.message().contains("startup parameter")
    })
}

/// Says whether a server's refusal may pass.
fn passes_later(code: &str) -> bool {
    // Starting up or shutting down, crash or administrator shutdown, too many connections, connection failures.
    matches!(code, "57P03" | "57P02" | "57P01" | "53300" | "53400")
        || (code.starts_with("08") && code != "08P01")
}

fn may_pass(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotFound
            | io::ErrorKind::TimedOut
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// Why an encrypted connection failed, if it was the encryption.
fn tls_failure(error: &tokio_postgres::Error, text: &str) -> Option<tls::Explanation> {
    let inner = io_error(error)
        .and_then(|io| io.get_ref())
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls) => Some(tls::explain(rustls)),
        None if text.contains("does not support TLS") => Some(tls::Explanation {
            reason: "server does not support TLS, but it was required".to_owned(),
            advice: None,
        }),
        None if text.starts_with("error performing TLS handshake") && io_error(error).is_none() => {
            Some(tls::Explanation {
                reason: text.to_owned(),
                advice: None,
            })
        }
        None => None,
    }
}

fn server_facts(session: &mut PgSession) -> Result<ServerFacts, PgError> {
    let messages = session.simple_query(
        "SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('server_version'), \
         pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')",
    )?;
    let row = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |column| row.and_then(|row| row.get(column)).unwrap_or_default();
    let version_num =
        text(0)
            .parse()
            .map_err(|_cause: std::num::ParseIntError| PgError::Protocol {
                endpoint: session.endpoint().to_string(),
                reason: format!("server_version_num is \"{}\"", text(0)),
            })?;
    Ok(ServerFacts {
        version_num,
        version: text(1).to_owned(),
        in_recovery: text(2) == "t",
        read_only: text(3) == "on",
    })
}

/// Says why a server is not of the kind that is wanted.
fn unwanted(wanted: TargetSessionAttrs, facts: &ServerFacts) -> Option<String> {
    let reason = match wanted {
        TargetSessionAttrs::ReadWrite if facts.read_only || facts.in_recovery => {
            "session is read-only"
        }
        TargetSessionAttrs::ReadOnly if !facts.read_only && !facts.in_recovery => {
            "session is not read-only"
        }
        TargetSessionAttrs::Primary if facts.in_recovery => "server is in hot standby mode",
        TargetSessionAttrs::Standby | TargetSessionAttrs::PreferStandby if !facts.in_recovery => {
            "server is not in hot standby mode"
        }
        _ => return None,
    };
    Some(reason.to_owned())
}

/// Mixes a list. Spreading load needs no better randomness than the seed of a hash table.
fn shuffle<T>(list: &mut [T]) {
    let state = RandomState::new();
    for last in (1..list.len()).rev() {
        let range = u64::try_from(last + 1).expect("a list fits into memory");
        let other = usize::try_from(state.hash_one(last) % range)
            .expect("it is below the length of the list");
        list.swap(last, other);
    }
}

#[cfg(test)]
mod tests;
