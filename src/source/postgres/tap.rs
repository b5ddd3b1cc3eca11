//! Stands between the socket, or its encryption, and the client that speaks the protocol, and takes the rows of a COPY out of the stream:
//! the client would make a message of its own of each row and hand it from task to task.
//!
//! The client takes its stream from whoever sets up the encryption, so that is where the [`TappedStream`] is slipped in, above TLS. A connection
//! without encryption is one too whose "encryption" is the bare stream ([`PlainTap`]).
//!
//! **Invariants**
//! 1. Rows are read where they were received, and what is behind them waits until then; the server waits with it
//!    (`a_slow_reader_holds_the_server_back`).
//! 2. The client meets everything else in its order, the end of the COPY after its last row (`rows_go_to_the_reader_all_else_to_the_client`).
//! 3. Rows whose reader is gone are thrown away, so that a COPY that was given up comes to its end
//!    (`a_reader_or_feeder_that_gives_up_leaves_a_usable_session`).
//!
//! **Threads**: both ends belong to one session with its single-threaded runtime: the task that drives the connection reads, then the
//! reader looks at the rows, never both at once. So the lock is always free; it is there for the compiler.

use std::future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures_util::{Stream, TryFutureExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use super::framing::{Framer, Rows, Step};

/// Where the rows of one connection come out.
#[derive(Clone, Debug, Default)]
pub(super) struct Tap {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    framer: Framer,
    /// Waits for rows.
    reader: Option<Waker>,
    /// Waits for rows to be read.
    driver: Option<Waker>,
}

impl Tap {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the rows of the COPY that comes next, until the reader is dropped.
    pub(super) fn reader(&self) -> RowReader {
        self.lock().framer.set_reader(true);
        RowReader { tap: self.clone() }
    }
}

/// Reads the rows of one COPY.
#[derive(Debug)]
pub(super) struct RowReader {
    tap: Tap,
}

/// What a reader waited for.
#[derive(Debug)]
pub(super) enum Turn {
    /// [`RowReader::read`] has rows.
    Rows,
    /// The client's side of the COPY has ended. One that hands out a row has seen it where none can be.
    End(Option<Result<bytes::Bytes, tokio_postgres::Error>>),
}

impl RowReader {
    /// Waits for rows or for the end.
    pub(super) async fn next<S>(&self, end: &mut Pin<Box<S>>) -> Turn
    where
        S: Stream<Item = Result<bytes::Bytes, tokio_postgres::Error>>,
    {
        future::poll_fn(|context| {
            let mut state = self.tap.lock();
            if !state.framer.rows().is_empty() {
                return Poll::Ready(Turn::Rows);
            }
            state.reader = Some(context.waker().clone());
            drop(state);
            end.as_mut().poll_next(context).map(Turn::End)
        })
        .await
    }

    /// Hands over the rows that are there.
    pub(super) fn read<E>(&self, each: &mut dyn FnMut(Rows<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut state = self.tap.lock();
        let result = each(state.framer.rows());
        state.framer.rows_read();
        wake(&mut state.driver);
        result
    }
}

impl Drop for RowReader {
    fn drop(&mut self) {
        let mut state = self.tap.lock();
        state.framer.set_reader(false);
        wake(&mut state.driver);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// A stream without the rows that have a reader.
#[derive(Debug)]
pub(super) struct TappedStream<S> {
    inner: S,
    tap: Tap,
    binding: fn(&S) -> ChannelBinding,
    /// An error that waits until the rows before it were read.
    failed: Option<io::Error>,
}

impl<S: AsyncRead + Unpin> TappedStream<S> {
    /// Reads once; says how many bytes came.
    fn fill(&mut self, context: &mut Context<'_>, state: &mut State) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut room = ReadBuf::new(state.framer.room());
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut room))?;
        let bytes = room.filled().len();
        state.framer.filled(bytes);
        Poll::Ready(Ok(bytes))
    }

    /// Lets rows pile up as long as they are there: each hand-over costs.
    fn gather(&mut self, context: &mut Context<'_>, state: &mut State) {
        while self.failed.is_none() && state.framer.has_room() {
            match self.fill(context, state) {
                Poll::Ready(Ok(1..)) => state.framer.find_rows(),
                Poll::Ready(Err(error)) => self.failed = Some(error),
                // The end comes again, when the rows have been read.
                Poll::Ready(Ok(0)) | Poll::Pending => break,
            }
        }
    }
}

fn invalid(error: super::framing::FramingError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + Unpin> AsyncRead for TappedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let tap = this.tap.clone();
        let mut state = tap.lock();
        let state = &mut *state;
        loop {
            match state.framer.step().map_err(invalid)? {
                Step::Pass(range) => {
                    let bytes = state.framer.bytes(range);
                    let taken = bytes.len().min(buffer.remaining());
                    buffer.put_slice(&bytes[..taken]);
                    state.framer.passed(taken);
                    return Poll::Ready(Ok(()));
                }
                Step::Rows => {
                    this.gather(context, state);
                    wake(&mut state.reader);
                    state.driver = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Step::Read => {
                    if ready!(this.fill(context, state))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TappedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for TappedStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        (self.binding)(&self.inner)
    }
}

type Connecting<S, E> = Pin<Box<dyn Future<Output = Result<TappedStream<S>, E>>>>;

/// Taps connections without encryption.
#[derive(Clone, Debug, Default)]
pub(super) struct PlainTap(pub(super) Tap);

impl<S: AsyncRead + AsyncWrite + Unpin> MakeTlsConnect<S> for PlainTap {
    type Stream = TappedStream<S>;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _domain: &str) -> Result<Self, io::Error> {
        Ok(self.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsConnect<S> for PlainTap {
    type Stream = TappedStream<S>;
    type Error = io::Error;
    type Future = future::Ready<Result<TappedStream<S>, io::Error>>;

    fn connect(self, stream: S) -> Self::Future {
        future::ready(Ok(TappedStream {
            inner: stream,
            tap: self.0,
            binding: |_| ChannelBinding::none(),
            failed: None,
        }))
    }
}

/// Taps what another connector encrypts.
#[derive(Clone, Debug)]
pub(super) struct TlsTap<C> {
    pub(super) connector: C,
    pub(super) tap: Tap,
}

impl<S, M> MakeTlsConnect<S> for TlsTap<M>
where
    M: MakeTlsConnect<S>,
    M::Stream: 'static,
    <M::TlsConnect as TlsConnect<S>>::Future: 'static,
{
    type Stream = TappedStream<M::Stream>;
    type TlsConnect = TlsTap<M::TlsConnect>;
    type Error = M::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, M::Error> {
        Ok(TlsTap {
            connector: self.connector.make_tls_connect(domain)?,
            tap: self.tap.clone(),
        })
    }
}

impl<S, C> TlsConnect<S> for TlsTap<C>
where
    C: TlsConnect<S>,
    C::Stream: 'static,
    C::Future: 'static,
{
    type Stream = TappedStream<C::Stream>;
    type Error = C::Error;
    type Future = Connecting<C::Stream, C::Error>;

    fn connect(self, stream: S) -> Self::Future {
        let tap = self.tap;
        Box::pin(
            self.connector
                .connect(stream)
                .map_ok(move |inner| TappedStream {
                    inner,
                    tap,
                    binding: TlsStream::channel_binding,
                    failed: None,
                }),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const HEAD: &[u8] = b"Z\0\0\0\x05IH\0\0\0\x07\0\0\0";

    fn row(number: usize) -> Vec<u8> {
        [&b"d\0\0\0\x0c"[..], format!("{number:07}\n").as_bytes()].concat()
    }

    fn tapped(inner: DuplexStream, tap: &Tap) -> TappedStream<DuplexStream> {
        TappedStream {
            inner,
            tap: tap.clone(),
            binding: |_| ChannelBinding::none(),
            failed: None,
        }
    }

    /// Reads as the client would, to the end, in a task of its own, as the connection is driven.
    fn drive(
        mut stream: TappedStream<DuplexStream>,
    ) -> tokio::task::JoinHandle<(Vec<u8>, io::Result<usize>)> {
        tokio::spawn(async move {
            let mut passed = Vec::new();
            let end = stream.read_to_end(&mut passed).await;
            (passed, end)
        })
    }

    type NoEnd =
        Pin<Box<futures_util::stream::Pending<Result<bytes::Bytes, tokio_postgres::Error>>>>;

    fn no_end() -> NoEnd {
        Box::pin(futures_util::stream::pending())
    }

    async fn collect(reader: &RowReader, count: usize) -> Vec<Vec<u8>> {
        let mut found: Vec<Vec<u8>> = Vec::new();
        while found.len() < count {
            let turn = tokio::time::timeout(Duration::from_secs(60), async {
                reader.next(&mut no_end()).await
            });
            assert!(matches!(turn.await, Ok(Turn::Rows)));
            let each = &mut |rows: Rows<'_>| {
                found.extend(rows.map(<[u8]>::to_vec));
                Ok::<(), ()>(())
            };
            reader.read(each).unwrap();
        }
        found
    }

    #[tokio::test]
    async fn rows_go_to_the_reader_all_else_to_the_client() {
        let (mut server, client) = duplex(1000);
        let tap = Tap::default();
        let reader = tap.reader();
        let client = drive(tapped(client, &tap));
        let sending = tokio::spawn(async move {
            server.write_all(HEAD).await.unwrap();
            for number in 0..10_000 {
                server.write_all(&row(number)).await.unwrap();
            }
            server.write_all(b"c\0\0\0\x04Z\0\0\0\x05T").await.unwrap();
        });
        let rows = collect(&reader, 10_000).await;
        assert!(
            rows.iter()
                .enumerate()
                .all(|(number, found)| *found == row(number)[5..])
        );
        sending.await.unwrap();
        let (passed, end) = client.await.unwrap();
        assert!(end.is_ok());
        assert_eq!(passed, [HEAD, b"c\0\0\0\x04Z\0\0\0\x05T"].concat());
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_server_back() {
        let (mut server, client) = duplex(1000);
        let tap = Tap::default();
        let reader = tap.reader();
        let client = drive(tapped(client, &tap));
        server.write_all(HEAD).await.unwrap();
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(50), server.write_all(&row(sent)))
            .await
            .is_ok()
        {
            sent += 1;
            assert!(sent < 100_000, "nobody reads, and yet all of it is taken");
        }
        let seen = collect(&reader, sent).await;
        assert!(seen.len() >= sent);
        // Whoever gives up lets the rest pass by.
        drop(reader);
        drop(server);
        client.await.unwrap().1.unwrap();
    }

    #[tokio::test]
    async fn rows_come_before_what_broke_the_stream() {
        let (mut server, client) = duplex(1000);
        let tap = Tap::default();
        let reader = tap.reader();
        let client = drive(tapped(client, &tap));
        server.write_all(HEAD).await.unwrap();
        server.write_all(&row(1)).await.unwrap();
        server.write_all(b"d\xff\xff\xff\xff").await.unwrap();
        assert_eq!(collect(&reader, 1).await, [row(1)[5..].to_vec()]);
        let (_, end) = client.await.unwrap();
        let words = end.unwrap_err().to_string();
        assert!(words.contains("length -1"), "{words}");
    }
}
