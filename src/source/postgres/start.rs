//! One attempt to open a connection: what is sent to the server, over which stream.

use std::io;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio_postgres::config;
use zeroize::Zeroizing;

use super::connect::{EndpointAddress, Target};
use super::profile::{SessionProfile, start_options};
use super::session::{self, LastWords};
use super::settings::{ChannelBinding, ConnSettings, HostSpec};
use super::tap::{PlainTap, Tap, TlsTap};
use super::tls::TlsConnector;

/// A connection that is open.
pub(super) struct Opened {
    pub(super) client: tokio_postgres::Client,
    pub(super) driver: tokio::task::JoinHandle<()>,
    pub(super) last_words: LastWords,
    pub(super) tap: Tap,
}

/// Why one attempt failed.
pub(super) enum StartError {
    Client(tokio_postgres::Error),
    /// There was no connection at all.
    Socket(io::Error),
    TimedOut(Duration),
}

/// What one attempt sends.
pub(super) struct Start<'a> {
    pub(super) settings: &'a ConnSettings,
    pub(super) target: &'a Target<'a>,
    pub(super) encrypted: bool,
    pub(super) password: &'a Result<Zeroizing<String>, String>,
    /// Whose settings go into the start options; none sends no options at all.
    pub(super) profile: Option<SessionProfile>,
}

impl Start<'_> {
    pub(super) async fn open(&self, connector: &TlsConnector) -> Result<Opened, StartError> {
        let opening = self.connect(connector);
        match self.settings.connect_timeout {
            // The client's own limit ends with the TCP handshake; a server that accepts and says nothing needs this one.
            Some(limit) => match tokio::time::timeout(limit, opening).await {
                Ok(result) => result,
                Err(_elapsed) => Err(StartError::TimedOut(limit)),
            },
            None => opening.await,
        }
    }

    async fn connect(&self, connector: &TlsConnector) -> Result<Opened, StartError> {
        let config = self.config();
        let tap = Tap::default();
        let (client, (driver, last_words)) = match (connector, &self.target.address) {
            // The client takes no encryption for a socket that it opens itself, and the tap stands where encryption does.
            (TlsConnector::Plain, EndpointAddress::Socket(directory)) => {
                let path = directory.join(format!(".s.PGSQL.{}", self.target.port));
                let socket = UnixStream::connect(path)
                    .await
                    .map_err(StartError::Socket)?;
                let (client, connection) = config
                    .connect_raw(socket, PlainTap(tap.clone()))
                    .await
                    .map_err(StartError::Client)?;
                (client, session::drive(connection))
            }
            (TlsConnector::Plain, EndpointAddress::Tcp(_)) => {
                let (client, connection) = config
                    .connect(PlainTap(tap.clone()))
                    .await
                    .map_err(StartError::Client)?;
                (client, session::drive(connection))
            }
            (TlsConnector::Rustls(connector), _) => {
                let tls = TlsTap {
                    connector: connector.clone(),
                    tap: tap.clone(),
                };
                let (client, connection) = config.connect(tls).await.map_err(StartError::Client)?;
                (client, session::drive(connection))
            }
        };
        Ok(Opened {
            client,
            driver,
            last_words,
            tap,
        })
    }

    fn config(&self) -> config::Config {
        let mut config = config::Config::new();
        let settings = self.settings;
        config
            .user(&settings.user)
            .dbname(&settings.dbname)
            .application_name(&settings.application_name);
        if let Ok(password) = self.password {
            config.password(password.as_bytes());
        }
        match (&self.target.address, self.target.host) {
            (EndpointAddress::Socket(directory), _) => {
                config.host_path(directory);
            }
            (
                EndpointAddress::Tcp(address),
                HostSpec::Tcp {
                    name: Some(name), ..
                },
            ) => {
                config.host(name).hostaddr(*address);
            }
            (EndpointAddress::Tcp(address), _) => {
                config.host(address.to_string()).hostaddr(*address);
            }
        }
        config.port(self.target.port);
        // A stream without encryption passes for one whose encryption begins without a word, and is none.
        config.ssl_mode(config::SslMode::Require);
        if settings.tls.direct || !self.encrypted {
            config.ssl_negotiation(config::SslNegotiation::Direct);
        }
        config.channel_binding(match settings.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
        self.set_transport(&mut config);
        if let Some(profile) = self.profile {
            let options = start_options(&settings.options, &profile.start_settings());
            if !options.is_empty() {
                config.options(options);
            }
        }
        config
    }

    fn set_transport(&self, config: &mut config::Config) {
        let keepalives = &self.settings.keepalives;
        if let Some(limit) = self.settings.connect_timeout {
            config.connect_timeout(limit);
        }
        if let Some(limit) = self.settings.tcp_user_timeout {
            config.tcp_user_timeout(limit);
        }
        config.keepalives(keepalives.enabled);
        // The kernel's two hours are longer than most firewalls remember a connection.
        config.keepalives_idle(keepalives.idle.unwrap_or(Duration::from_secs(60)));
        config.keepalives_interval(keepalives.interval.unwrap_or(Duration::from_secs(15)));
        if let Some(count) = keepalives.count {
            config.keepalives_retries(count);
        }
    }
}
