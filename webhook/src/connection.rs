//! Bounds on connections that no layer above or below sets: how many there are, and how long one may stay silent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};

/// How long a new connection waits for its turn, shakes hands (TLS), sends its first bytes, sends its request's
/// headers: each of them.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Length of the HTTP/2 preface (RFC 9113, section 3.4). Up to here hyper does not know which protocol it
/// speaks, and its header timeout is not running yet.
const PREFACE: usize = 24;

/// Accepts at most so many connections at a time. Others wait for [`PATIENCE`], and are closed then.
#[derive(Clone, Debug)]
pub struct Bounded<A> {
    inner: A,
    permits: Arc<Semaphore>,
}

impl<A> Bounded<A> {
    /// Bounds `inner` to `connections` at a time.
    pub fn new(inner: A, connections: usize) -> Self {
        Self {
            inner,
            permits: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
        }
    }
}

impl<A, I, S> Accept<I, S> for Bounded<A>
where
    A: Accept<I, S, Stream: Send, Service: Send, Future: Send> + Clone + Send + 'static,
    I: Send + 'static,
    S: Send + 'static,
{
    type Stream = Connection<A::Stream>;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let Self { inner, permits } = self.clone();
        Box::pin(async move {
            let permit = timeout(PATIENCE, permits.acquire_owned())
                .await?
                .map_err(io::Error::other)?;
            let (io, service) = inner.accept(stream, service).await?;
            let connection = Connection {
                io,
                unread: PREFACE,
                deadline: Box::pin(sleep(PATIENCE)),
                _permit: permit,
            };
            Ok((connection, service))
        })
    }
}

/// A connection that holds its permit for as long as it lives.
#[derive(Debug)]
pub struct Connection<I> {
    io: I,
    /// Bytes that are still to come before the deadline.
    unread: usize,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl<I: AsyncRead + Unpin> AsyncRead for Connection<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        this.unread = this.unread.saturating_sub(buf.filled().len() - before);
        if read.is_pending() && this.unread > 0 && this.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Connection<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
