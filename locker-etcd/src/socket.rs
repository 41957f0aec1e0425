//! One socket: opened once, closed for certain.
//!
//! A channel of tonic opens its connection anew whenever it was lost, and closes it when nobody
//! waits for anything on it any more. The driver counts on more: a backend is one connection, and
//! when it is dropped that connection is closed, even if its other end has stopped reading. So the
//! connector opens one socket, refuses to open another, and keeps a second descriptor of it, by
//! which it shuts the socket down.

use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_tcp_user_timeout;
use std::error::Error;
use std::fmt;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;

/// How many milliseconds the other end may take to acknowledge what was sent, before the kernel
/// breaks the connection (`TCP_USER_TIMEOUT`).
///
/// By default the kernel repeats what was sent for a quarter of an hour. The locker finds a dead
/// connection earlier by requests that run out of time, but learns little from callers that come
/// seldom and leave early. A member that is slow, or has stopped, acknowledges all the same, as long as
/// there is room for what it is sent: that is its kernel's business. So this bounds the outages of the
/// network over which a connection lasts. It is longer than the locker gives to a request or an opening
/// by default, so that it judges first where it can, and not longer than the time after which a process
/// that is cut off counts as dead.
const UNACKNOWLEDGED_MS: u32 = 10_000;

/// The socket of one channel. Dropping it closes the connection.
#[derive(Debug, Default)]
pub(crate) struct Socket {
    line: Arc<Line>,
}

/// What the connector and the owner of the connection share.
#[derive(Debug, Default)]
struct Line(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Unopened,
    /// A descriptor of its own, of the socket that the channel uses.
    Open(std::net::TcpStream),
    Closed,
}

/// What a connector fails with.
pub(crate) type Failed = Box<dyn Error + Send + Sync>;

/// Why no second socket is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent;

impl Socket {
    /// Opens the connection, as the connector of a channel. `address` is a host and a port.
    pub(crate) fn connector(
        &self,
        address: String,
    ) -> impl tower::Service<
        tonic::transport::Uri,
        Response = TokioIo<TcpStream>,
        Error = Failed,
        Future = impl Future<Output = Result<TokioIo<TcpStream>, Failed>> + Send,
    > + Send
    + 'static {
        let line = Arc::clone(&self.line);
        tower::service_fn(move |_uri| {
            let (line, address) = (Arc::clone(&line), address.clone());
            async move { line.open(&address).await.map(TokioIo::new) }
        })
    }
}

impl Socket {
    /// Closes the connection, for good.
    pub(crate) fn close(&self) {
        self.line.close();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.close();
    }
}

impl Line {
    async fn open(&self, address: &str) -> Result<TcpStream, Failed> {
        if !matches!(*self.state(), State::Unopened) {
            return Err(Spent.into());
        }
        let stream = TcpStream::connect(address).await?;
        // Requests are small and are waited for.
        stream.set_nodelay(true)?;
        set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS)?;
        let handle = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        let mut state = self.state();
        match *state {
            State::Unopened => {
                *state = State::Open(handle);
                Ok(stream)
            }
            State::Open(_) | State::Closed => Err(Spent.into()),
        }
    }

    fn close(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Closed);
        if let State::Open(handle) = before {
            // Whoever still reads or writes on it is woken by this, and lets its descriptor go. A
            // socket whose other end has gone already is closed all the same.
            let _ = handle.shutdown(Shutdown::Both);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was lost, and another one takes its place")
    }
}

impl Error for Spent {}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::tcp_user_timeout;
    use tokio::net::TcpListener;

    /// F11: also where the locker hears nothing of it.
    #[tokio::test]
    async fn a_socket_whose_other_end_is_gone_breaks_by_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stream = Line::default().open(&address).await.unwrap();
        assert_eq!(tcp_user_timeout(&stream).unwrap(), UNACKNOWLEDGED_MS);
    }
}
