//! [`PgSession`]: one connection to one server, for code that blocks.
//!
//! Each session runs its own current-thread runtime; the connection makes progress only while one of its
//! methods runs. So an idle session must be pinged now and then ([`PgSession::ping`]) where a firewall or
//! `idle_session_timeout` would cut it. The server's back pressure is the caller's: a slow row callback
//! stops the reading, nothing is buffered beyond a few hundred kilobytes.
//!
//! Statements with parameters use the extended protocol; `batch_execute` and `simple_query` use the simple one.

use std::fmt;
use std::future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Row, SimpleQueryMessage};

use super::cancel::CancelHandle;
use super::connect::{Connector, Endpoint};
use super::error::{PgError, ServerError, chain};
use super::framing::Rows;
use super::start::Opened;
use super::tap::{Tap, Turn};
use super::tls::TlsConnector;

/// Rows that are handed on between two visits to the runtime: enough to make its cost vanish, few
/// enough to hold little memory.
const ROWS_PER_TURN_MAX: usize = 256;

/// How often a wish for an end is looked for while a server is waited for.
const PAUSE_STOP: Duration = Duration::from_millis(100);
/// How long a server may take to end a statement that nobody wants any more.
const ABANDON_LIMIT: Duration = Duration::from_secs(10);
/// The same where somebody waits for the end of everything.
const ABANDON_LIMIT_STOPPED: Duration = Duration::from_secs(1);

/// Somebody's wish for an end, seen by sessions and children that wait for a server.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Option<Arc<AtomicBool>>);

impl StopFlag {
    /// Watches a flag.
    #[must_use]
    pub fn new(flag: Arc<AtomicBool>) -> Self {
        Self(Some(flag))
    }

    /// Says whether the end is wanted.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Waits for an answer, or for the wish.
    pub(super) async fn or<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        if self.0.is_none() {
            return Some(answer.await);
        }
        let mut answer = std::pin::pin!(answer);
        loop {
            match tokio::time::timeout(PAUSE_STOP, &mut answer).await {
                Ok(answer) => return Some(answer),
                Err(_elapsed) if self.is_set() => return None,
                Err(_elapsed) => {}
            }
        }
    }
}

/// What the connection learned outside of any request: a FATAL message before the end, mostly.
pub(super) type LastWords = Arc<Mutex<Option<String>>>;

/// A blocking session with one server.
pub struct PgSession {
    client: Client,
    driver: JoinHandle<()>,
    last_words: LastWords,
    tap: Tap,
    tls: TlsConnector,
    connector: Connector,
    endpoint: Endpoint,
    endpoint_text: String,
    facts: ServerFacts,
    stop: StopFlag,
    // Last, so that it outlives the tasks that it runs.
    runtime: Runtime,
}

/// What a server says of itself at the start of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`, such as 150020.
    pub version_num: u32,
    /// `server_version`, such as `15.20 (Debian 15.20-0+deb12u1)`.
    pub version: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Whether its transactions are read-only by default.
    pub read_only: bool,
}

impl fmt::Debug for PgSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSession")
            .field("endpoint", &self.endpoint)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// The parts from which a connection attempt makes a session.
pub(super) struct Parts {
    pub(super) opened: Opened,
    pub(super) tls: TlsConnector,
    pub(super) connector: Connector,
    pub(super) endpoint: Endpoint,
    pub(super) stop: StopFlag,
    pub(super) runtime: Runtime,
}

impl PgSession {
    pub(super) fn from_parts(parts: Parts) -> Self {
        let endpoint_text = parts.endpoint.to_string();
        Self {
            client: parts.opened.client,
            driver: parts.opened.driver,
            last_words: parts.opened.last_words,
            tap: parts.opened.tap,
            tls: parts.tls,
            connector: parts.connector,
            endpoint: parts.endpoint,
            endpoint_text,
            facts: ServerFacts::default(),
            stop: parts.stop,
            runtime: parts.runtime,
        }
    }

    pub(super) fn set_facts(&mut self, facts: ServerFacts) {
        self.facts = facts;
    }

    /// Returns the server, database and role of this session.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns what the server said of itself when the session began.
    #[must_use]
    pub fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    /// Returns `server_version_num`.
    #[must_use]
    pub fn version_num(&self) -> u32 {
        self.facts.version_num
    }

    /// Returns a connector that is tied to this very server: for workers, other databases, children.
    #[must_use]
    pub fn connector(&self) -> Connector {
        self.connector.pinned_to(&self.endpoint)
    }

    /// Says whether the connection is known to be gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.driver.is_finished()
    }

    /// Runs a statement with parameters and returns its rows.
    pub fn query(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PgError> {
        self.run(self.client.query(sql, parameters))
    }

    /// Runs a statement that gives exactly one row.
    pub fn query_one(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, PgError> {
        self.run(self.client.query_one(sql, parameters))
    }

    /// Runs a statement that gives one row or none.
    pub fn query_opt(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, PgError> {
        self.run(self.client.query_opt(sql, parameters))
    }

    /// Runs a statement and hands on its rows one by one, for results that should not be held in memory.
    ///
    /// An error of `each` ends the statement on the server too.
    pub fn query_each<E: From<PgError>>(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        each: &mut dyn FnMut(&Row) -> Result<(), E>,
    ) -> Result<u64, E> {
        let stream = self.wait(self.client.query_raw(sql, parameters.iter().copied()))?;
        let mut stream = Box::pin(stream.map_err(|error| self.error(&error))?);
        let mut count = 0;
        loop {
            let turn = self.wait(next_turn(&mut stream))?;
            for row in turn.rows {
                if let Err(error) = each(&row) {
                    // Nobody reads any more, so nothing may wait for a reader.
                    drop(stream);
                    self.abandon();
                    return Err(error);
                }
                count += 1;
            }
            match turn.end {
                None => {}
                Some(Ok(())) => return Ok(count),
                Some(Err(error)) => return Err(self.error(&error).into()),
            }
        }
    }

    /// Runs a statement and returns the number of rows that it touched.
    pub fn execute(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, PgError> {
        self.run(self.client.execute(sql, parameters))
    }

    /// Runs one or several statements without parameters; stops at the first that fails.
    pub fn batch_execute(&mut self, sql: &str) -> Result<(), PgError> {
        self.run(self.client.batch_execute(sql))
    }

    /// Runs statements by the simple protocol and returns rows as text.
    pub fn simple_query(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>, PgError> {
        self.run(self.client.simple_query(sql))
    }

    /// Runs one query by the simple protocol and returns its first column as text.
    pub fn simple_column(&mut self, sql: &str) -> Result<Vec<Option<String>>, PgError> {
        let messages = self.simple_query(sql)?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
                _ => None,
            })
            .collect())
    }

    /// Runs `COPY … TO STDOUT` and hands each CopyData message on: in text format that is one row with its
    /// line end. Returns the number of messages.
    ///
    /// An error of `each` ends the COPY on the server too, and the session stays usable (its transaction does not).
    pub fn copy_out<E: From<PgError>>(
        &mut self,
        sql: &str,
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut count = 0;
        self.copy_out_batches::<E>(sql, &mut |rows| {
            for row in rows {
                count += 1;
                each(row)?;
            }
            Ok(())
        })?;
        Ok(count)
    }

    /// The same with as many messages at once as came together, for what looks at millions of them.
    pub fn copy_out_batches<E: From<PgError>>(
        &mut self,
        sql: &str,
        each: &mut dyn FnMut(Rows<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let reader = self.tap.reader();
        let end = self.wait(self.client.copy_out(sql))?;
        let mut end = Box::pin(end.map_err(|error| self.error(&error))?);
        loop {
            match self.wait(reader.next(&mut end))? {
                Turn::Rows => {
                    if let Err(error) = reader.read(each) {
                        // Nobody reads any more, so nothing may wait for a reader.
                        drop((reader, end));
                        self.abandon();
                        return Err(error);
                    }
                }
                Turn::End(None) => return Ok(()),
                Turn::End(Some(Err(error))) => return Err(self.error(&error).into()),
                Turn::End(Some(Ok(_row))) => {
                    return Err(E::from(PgError::Protocol {
                        endpoint: self.endpoint_text.clone(),
                        reason: "a row came outside of its COPY".to_owned(),
                    }));
                }
            }
        }
    }

    /// Runs `COPY … FROM STDIN` with the bytes that `feed` gives, until it gives `None`. Returns the number of rows.
    ///
    /// Pieces need not end at row ends; 64 KiB and more is a good size. An error of `feed` aborts the COPY,
    /// nothing of it remains. When the server refuses the COPY the session is closed. A row that the server refuses is reported at the end only: until then it throws
    /// away what comes, and the client has no sign of it.
    pub fn copy_in<E: From<PgError>>(
        &mut self,
        sql: &str,
        feed: &mut dyn FnMut() -> Result<Option<Bytes>, E>,
    ) -> Result<u64, E> {
        let sink = self.runtime.block_on(self.client.copy_in::<_, Bytes>(sql));
        let mut sink = Box::pin(sink.map_err(|error| self.refused(&error))?);
        loop {
            let piece = match feed() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => {
                    drop(sink);
                    // The failed COPY is answered with an error; after this round trip the session is in step again.
                    if let Err(lost) = self.runtime.block_on(self.client.simple_query("")) {
                        tracing::debug!(reason = %chain(&lost), "an aborted COPY ended badly");
                    }
                    return Err(error);
                }
            };
            if piece.is_empty() {
                continue;
            }
            let sent = self.runtime.block_on(sink.feed(piece));
            if let Err(error) = sent {
                // The sink only knows that it was closed; the end of the COPY knows why.
                let end = self.runtime.block_on(sink.as_mut().finish());
                return Err(self.refused(end.as_ref().err().unwrap_or(&error)).into());
            }
        }
        let rows = self.runtime.block_on(sink.as_mut().finish());
        rows.map_err(|error| self.refused(&error).into())
    }

    /// The error of a COPY that the server did not take, which ends the session: the client's end of COPY is on its way all the same, and the answer to
    /// it would be taken for the answer to the next statement.
    fn refused(&self, error: &tokio_postgres::Error) -> PgError {
        let error = self.error(error);
        self.give_up();
        error
    }

    /// Makes a round trip, so that neither side takes the session for dead, and learns whether it is.
    pub fn ping(&mut self) -> Result<(), PgError> {
        self.run(self.client.simple_query("")).map(|_messages| ())
    }

    /// Returns a handle that can end the running statement from another thread.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle::new(
            self.client.cancel_token(),
            self.tls.clone(),
            self.endpoint.clone(),
        )
    }

    /// Says goodbye; dropping the session does the same without waiting.
    pub fn close(self) {
        let PgSession {
            client,
            driver,
            runtime,
            ..
        } = self;
        drop(client);
        let end =
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(2), driver).await });
        if end.is_err() {
            tracing::debug!("a session did not end in time");
        }
    }

    /// Runs a request between two looks at the connection. Before it, the last words of a server must be read,
    /// which a write to the closed connection would hide. After it, the message that drops a prepared statement
    /// must go out, because it would be such a write before the next request (rows that live on keep theirs).
    fn run<T>(
        &self,
        request: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PgError> {
        let answer = self.wait(async {
            tokio::task::yield_now().await;
            let answer = request.await;
            tokio::task::yield_now().await;
            answer
        })?;
        answer.map_err(|error| self.error(&error))
    }

    /// Waits for the server. Where somebody wants an end meanwhile, the statement is given up and the session with it.
    fn wait<T>(&self, answer: impl Future<Output = T>) -> Result<T, PgError> {
        if let Some(answer) = self.runtime.block_on(self.stop.or(answer)) {
            return Ok(answer);
        }
        let cancel = self.cancel_handle();
        let cancelled = self
            .runtime
            .block_on(async { tokio::time::timeout(ABANDON_LIMIT_STOPPED, cancel.send()).await });
        if !matches!(cancelled, Ok(Ok(()))) {
            tracing::debug!(server = %self.endpoint, "a statement goes on at a server that does not answer");
        }
        self.give_up();
        Err(PgError::Interrupted {
            endpoint: self.endpoint_text.clone(),
        })
    }

    /// Closes the connection from this side.
    fn give_up(&self) {
        self.driver.abort();
        // The task ends when it is looked at.
        self.runtime.block_on(tokio::task::yield_now());
    }

    /// Ends a stream whose reader has given up. A server that does not answer is left alone, and the session with it.
    fn abandon(&mut self) {
        let limit = match self.stop.is_set() {
            true => ABANDON_LIMIT_STOPPED,
            false => ABANDON_LIMIT,
        };
        let cancel = self.cancel_handle();
        let cancelling = async {
            if let Err(reason) = cancel.send().await {
                tracing::debug!(reason, "cannot cancel a statement");
            }
            if let Err(error) = self.client.simple_query("").await {
                tracing::debug!(reason = %chain(&error), "a cancelled statement ended badly");
            }
        };
        let ended = self
            .runtime
            .block_on(async { tokio::time::timeout(limit, cancelling).await });
        if ended.is_err() {
            tracing::debug!(server = %self.endpoint, "a cancelled statement did not end in time");
            self.give_up();
        }
    }

    /// Puts a client error into our terms, with the last words of the server where the connection is gone.
    fn error(&self, error: &tokio_postgres::Error) -> PgError {
        if error.as_db_error().is_none() {
            // The driver may not have run since the end came.
            self.runtime.block_on(tokio::task::yield_now());
            let words = self
                .last_words
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Some(reason) = words {
                return PgError::Lost {
                    endpoint: self.endpoint_text.clone(),
                    reason,
                };
            }
        }
        PgError::from_client(&self.endpoint_text, error)
    }
}

/// What one visit to the runtime brought.
struct RowTurn {
    rows: Vec<Row>,
    end: Option<Result<(), tokio_postgres::Error>>,
}

/// Waits for one row and takes those that are there already, up to a limit.
async fn next_turn<S>(stream: &mut S) -> RowTurn
where
    S: futures_util::Stream<Item = Result<Row, tokio_postgres::Error>> + Unpin,
{
    let mut rows = Vec::with_capacity(64);
    let mut next = stream.next().await;
    loop {
        let end = match next {
            Some(Ok(row)) => {
                rows.push(row);
                None
            }
            Some(Err(error)) => Some(Err(error)),
            None => Some(Ok(())),
        };
        if end.is_some() || rows.len() >= ROWS_PER_TURN_MAX {
            return RowTurn { rows, end };
        }
        match future::poll_fn(|context| Poll::Ready(stream.poll_next_unpin(context))).await {
            Poll::Ready(item) => next = item,
            Poll::Pending => return RowTurn { rows, end },
        }
    }
}

/// Makes the runtime of one session.
pub(super) fn new_runtime() -> Result<Runtime, PgError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| PgError::local("cannot start the runtime of a database session", error))
}

/// Starts the task that moves the bytes of a connection.
pub(super) fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
) -> (JoinHandle<()>, LastWords)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let last_words: LastWords = Arc::default();
    let words = Arc::clone(&last_words);
    let task = tokio::spawn(async move {
        loop {
            match future::poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notice(notice))) => {
                    tracing::debug!(
                        severity = notice.severity(),
                        message = notice.message(),
                        "server notice"
                    );
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let text = match error.as_db_error() {
                        Some(db) => ServerError::from(db).to_string(),
                        None => chain(&error),
                    };
                    *words.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
                    return;
                }
                None => return,
            }
        }
    });
    (task, last_words)
}
