//! Cancel requests, sent so that they cannot hit the wrong statement.
//!
//! A request travels by a connection of its own. Only when the server has closed that one has it signalled
//! the session; who goes on before may lose his next statement to it. So the end of the connection is waited for.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::CancelToken;
use tokio_postgres::tls::MakeTlsConnect;

use super::connect::{Endpoint, EndpointAddress};
use super::error::{PgError, chain};
use super::session::new_runtime;
use super::tap::PlainTap;
use super::tls::TlsConnector;

/// How long a cancel request may take before we give up on it.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Ends the running statement of a session, from any thread.
#[derive(Clone)]
pub struct CancelHandle {
    token: CancelToken,
    tls: TlsConnector,
    endpoint: Endpoint,
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl CancelHandle {
    pub(super) fn new(token: CancelToken, tls: TlsConnector, endpoint: Endpoint) -> Self {
        Self {
            token,
            tls,
            endpoint,
        }
    }

    /// Asks the server to end the statement; what runs then ends with SQLSTATE 57014. Must not be called
    /// from asynchronous code.
    pub fn cancel(&self) -> Result<(), PgError> {
        new_runtime()?
            .block_on(self.send())
            .map_err(|reason| PgError::Lost {
                endpoint: self.endpoint.to_string(),
                reason,
            })
    }

    /// Sends the request and waits until the server has acted on it.
    pub(super) async fn send(&self) -> Result<(), String> {
        match tokio::time::timeout(CANCEL_TIMEOUT, self.exchange()).await {
            Ok(result) => result,
            Err(_elapsed) => Err("the cancel request got no answer in time".to_owned()),
        }
    }

    async fn exchange(&self) -> Result<(), String> {
        let mut stream = SharedStream::open(&self.endpoint)
            .await
            .map_err(|error| error.to_string())?;
        let sent = match &self.tls {
            TlsConnector::Plain => {
                let plain = PlainTap::default();
                self.token.cancel_query_raw(stream.clone(), plain).await
            }
            TlsConnector::Rustls(connector) => {
                let name =
                    self.endpoint
                        .host
                        .clone()
                        .unwrap_or_else(|| match &self.endpoint.address {
                            EndpointAddress::Tcp(address) => address.to_string(),
                            EndpointAddress::Socket(_) => String::new(),
                        });
                let tls =
                    MakeTlsConnect::<SharedStream>::make_tls_connect(&mut connector.clone(), &name)
                        .map_err(|never| never.to_string())?;
                self.token.cancel_query_raw(stream.clone(), tls).await
            }
        };
        sent.map_err(|error| chain(&error))?;
        let mut rest = [0; 64];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        Ok(())
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that can still be read when the request has been written by the one who owns the other handle.
#[derive(Clone)]
struct SharedStream {
    inner: Arc<Mutex<Box<dyn Stream>>>,
}

impl SharedStream {
    async fn open(endpoint: &Endpoint) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match &endpoint.address {
            EndpointAddress::Tcp(address) => {
                Box::new(TcpStream::connect((*address, endpoint.port)).await?)
            }
            EndpointAddress::Socket(directory) => Box::new(
                UnixStream::connect(directory.join(format!(".s.PGSQL.{}", endpoint.port))).await?,
            ),
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(stream)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Stream>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.lock()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.lock()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.lock()).poll_shutdown(cx)
    }
}
