//! What locker says while it holds a lock.
//!
//! stderr may be a pipe into a pager that nobody scrolls. Who waits for it stands still, and a
//! wrapper that stands still tells its keeper no deadlines: a healthy command would be ended. So
//! whatever cannot be written at once is dropped.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Write};
use std::os::fd::AsFd;

/// stderr, as far as it takes text without waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        // A pipe that is ready has room for this much.
        const READY: usize = 4096;
        let mut stderr = io::stderr().lock();
        let mut source = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let ready = matches!(poll(&mut source, PollTimeout::ZERO), Ok(1..));
        if ready {
            // Nobody who closed stderr wants to hear about it.
            let _ = stderr.write_all(&text[..text.len().min(READY)]);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line of locker's own.
pub(crate) fn tell(text: &str) {
    tell_raw(&format!("locker: {text}"));
}

/// One line.
pub(crate) fn tell_raw(text: &str) {
    let _ = Stderr.write_all(format!("{text}\n").as_bytes());
}
