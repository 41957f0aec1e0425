//! A request that is in the hands of its caller, and can be taken out of them.

use std::fmt;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

/// What is left of a request.
pub(crate) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The request itself says to its caller what came of it; here it only goes on.
pub(crate) struct Drive {
    /// Locked while the request is being polled, so whoever takes it waits for that; and nobody may do
    /// so under a lock that it needs itself.
    hands: Mutex<Hands>,
}

#[derive(Default)]
struct Hands {
    /// `None` when it has ended, or was taken.
    rest: Option<Rest>,
    /// Who is to be told that it was taken.
    caller: Option<Waker>,
}

impl Drive {
    pub(crate) fn new(request: impl Future<Output = ()> + Send + 'static) -> Self {
        let rest: Rest = Box::pin(request);
        Self {
            hands: Mutex::new(Hands {
                rest: Some(rest),
                caller: None,
            }),
        }
    }

    /// The caller is being polled. Ready when the request has ended, or was taken; only then the caller
    /// waits for the answer: a task that is woken by its own request is polled once more for nothing,
    /// and wakes a thread for that.
    pub(crate) fn go_on(&self, context: &mut Context<'_>) -> Poll<()> {
        // Poisoned: it has panicked, and its caller was told by that.
        let Ok(mut hands) = self.hands.lock() else {
            return Poll::Ready(());
        };
        let Hands { rest, caller } = &mut *hands;
        if let Some(going) = rest {
            if going.as_mut().poll(context) == Poll::Pending {
                match caller {
                    Some(caller) => caller.clone_from(context.waker()),
                    None => *caller = Some(context.waker().clone()),
                }
                return Poll::Pending;
            }
            *hands = Hands::default();
        }
        Poll::Ready(())
    }

    /// Takes it out of its caller's hands, to be polled by somebody else from now on.
    pub(crate) fn take(&self) -> Option<Rest> {
        let taken = std::mem::take(&mut *self.hands.lock().ok()?);
        taken.caller.into_iter().for_each(Waker::wake);
        taken.rest
    }
}

impl fmt::Debug for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive").finish_non_exhaustive()
    }
}
