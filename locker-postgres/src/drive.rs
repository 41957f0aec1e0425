//! A request that is in the hands of its caller, and can be taken out of them.

use std::fmt;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

/// What is left of a request.
pub(crate) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The request itself says to its caller what came of it; here it only goes on.
pub(crate) struct Drive {
    /// `None` when it has ended, or was taken. Locked while it is being polled, so whoever takes it
    /// waits for that; and nobody may do so under a lock that it needs itself.
    rest: Mutex<Option<Rest>>,
}

impl Drive {
    pub(crate) fn new(request: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            rest: Mutex::new(Some(Box::pin(request))),
        }
    }

    /// The caller is being polled.
    pub(crate) fn go_on(&self, context: &mut Context<'_>) {
        // Poisoned: it has panicked, and its caller was told by that.
        let Ok(mut rest) = self.rest.lock() else {
            return;
        };
        let ended = match rest.as_mut() {
            Some(rest) => rest.as_mut().poll(context),
            None => return,
        };
        if ended == Poll::Ready(()) {
            *rest = None;
        }
    }

    /// Takes it out of its caller's hands, to be polled by somebody else from now on.
    pub(crate) fn take(&self) -> Option<Rest> {
        self.rest.lock().ok()?.take()
    }
}

impl fmt::Debug for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive").finish_non_exhaustive()
    }
}
