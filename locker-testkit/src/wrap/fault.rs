//! A store that fails on demand: each fault is something that a network, a server or a thread does
//! to one request.
//!
//! The test keeps a [`Faults`] handle and says what happens to which requests; everything under
//! test sees an ordinary [`Connect`]. Faults change when a request or its answer arrives, never what
//! the store does with it: a store that does the wrong thing is a [`Twist`](super::Twist).

use super::around::{Around, Call, Method, Request, WrappedConnect};
use locker_core::backend::Side;
use locker_core::{BackendError, Connect, Effect, ErrorKind};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The store is unreachable, and that is known at once: `Unavailable`, `NotApplied`.
    Refuse,
    /// The request is lost on its way: it does nothing, and its caller only knows that no answer
    /// came: `Timeout`, `Unknown`.
    LoseRequest,
    /// The answer is lost on its way: the request takes effect, and its caller only knows that no
    /// answer came: `Timeout`, `Unknown` (F08, F09).
    LoseReply,
    /// The request takes effect at once, and its answer is this late (F12).
    DelayReply(Duration),
    /// No answer for as long as the fault lasts; then the request is sent (F07, F13). A caller that
    /// goes away meanwhile takes the request with it.
    Stall,
    /// The request is answered as lost, `Timeout` and `Unknown`, and kept. The test delivers it
    /// later, whatever its caller has done since (F09, F29, attack 1).
    Hold,
    /// The *thread* that makes the request stands still for as long as the fault lasts, as if it
    /// hung in foreign code (F05). Nothing else runs on that thread.
    BlockThread,
}

/// Which requests a fault is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    side: Option<Side>,
    method: Option<Method>,
    /// How many requests; `None` for all until the fault is lifted.
    times: Option<u32>,
}

impl Scope {
    /// Every request.
    pub const fn all() -> Self {
        Self {
            side: None,
            method: None,
            times: None,
        }
    }

    /// Only those from this side.
    #[must_use]
    pub const fn from(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }

    /// Only those of this method.
    #[must_use]
    pub const fn of(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only the next one.
    #[must_use]
    pub const fn once(self) -> Self {
        self.times(1)
    }

    /// Only the next few.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    fn covers(&self, call: Call) -> bool {
        self.times != Some(0)
            && self.side.is_none_or(|side| side == call.side)
            && self.method.is_none_or(|method| method == call.method)
    }
}

/// A store that can be made to fail. Clones are the same store.
///
/// ```
/// use locker_core::{Connect, ManualClock, memory::Memory};
/// use locker_testkit::wrap::{Fault, Faulty, Method, Scope};
/// use std::sync::Arc;
///
/// let memory = Arc::new(Memory::new(Arc::new(ManualClock::new())));
/// let faulty = Faulty::new();
/// let connect: Arc<dyn Connect> = faulty.around(memory);
/// // The next create is executed, and its answer is lost.
/// faulty.inject(Scope::all().of(Method::TryCreate).once(), Fault::LoseReply);
/// # faulty.heal();
/// ```
#[derive(Debug, Clone, Default)]
pub struct Faulty(Arc<Shared>);

/// The handle of one injected fault. The fault lasts until it is lifted or the handle's store is
/// healed; dropping the handle leaves it.
#[derive(Debug)]
pub struct Faults {
    shared: Arc<Shared>,
    id: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// For threads that stand still; they cannot await anything.
    unblocked: Condvar,
    /// Bumped whenever a fault is lifted.
    lifted: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    injected: Vec<Injected>,
    struck: u64,
    held: Vec<HeldRequest>,
}

#[derive(Debug)]
struct Injected {
    id: u64,
    scope: Scope,
    fault: Fault,
}

/// A request that was held back.
pub struct HeldRequest {
    call: Call,
    deliver: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HeldRequest {
    /// Which request it is.
    pub fn call(&self) -> Call {
        self.call
    }

    /// Delivers it now. Its answer goes nowhere: whoever asked has gone.
    pub async fn deliver(self) {
        self.deliver.await;
    }
}

impl fmt::Debug for HeldRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeldRequest").field(&self.call).finish()
    }
}

impl Faulty {
    /// A store that does not fail yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stands between this store and whoever uses the answer.
    pub fn around(&self, inner: Arc<dyn Connect>) -> Arc<dyn Connect> {
        Arc::new(WrappedConnect::new(inner, self.clone()))
    }

    /// From now on, this happens to these requests. Where several faults are about one request, the
    /// one that was injected first happens.
    pub fn inject(&self, scope: Scope, fault: Fault) -> Faults {
        let mut state = self.0.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.injected.push(Injected { id, scope, fault });
        drop(state);
        Faults {
            shared: Arc::clone(&self.0),
            id,
        }
    }

    /// Lifts every fault. What is held stays held.
    pub fn heal(&self) {
        self.0.lift(|_| true);
    }

    /// How many requests a fault has happened to. A test that injected one proves with it that the
    /// fault was not idle.
    pub fn struck(&self) -> u64 {
        self.0.lock().struck
    }

    /// The requests held back so far, in the order in which they were made.
    pub fn take_held(&self) -> Vec<HeldRequest> {
        std::mem::take(&mut self.0.lock().held)
    }
}

impl Faults {
    /// Ends the fault. Threads and requests that it kept waiting go on.
    pub fn lift(self) {
        self.shared.lift(|injected| injected.id == self.id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that happens to this request.
    fn strike(&self, call: Call) -> Option<(u64, Fault)> {
        let mut state = self.lock();
        let injected = state
            .injected
            .iter_mut()
            .find(|one| one.scope.covers(call))?;
        if let Some(times) = &mut injected.scope.times {
            *times -= 1;
        }
        let struck = (injected.id, injected.fault);
        state.struck += 1;
        Some(struck)
    }

    fn lasts(state: &State, id: u64) -> bool {
        state.injected.iter().any(|injected| injected.id == id)
    }

    fn lift(&self, which: impl Fn(&Injected) -> bool) {
        self.lock().injected.retain(|injected| !which(injected));
        self.unblocked.notify_all();
        self.lifted.send_modify(|lifted| *lifted += 1);
    }

    fn block_thread(&self, id: u64) {
        let state = self.lock();
        let blocked = self
            .unblocked
            .wait_while(state, |state| Self::lasts(state, id));
        drop(blocked.unwrap_or_else(PoisonError::into_inner));
    }

    async fn stall(&self, id: u64) {
        let mut lifted = self.lifted.subscribe();
        // The sender lives in `self`, so the wait ends by the lift and not by an error.
        let wait = lifted.wait_for(|_| !Self::lasts(&self.lock(), id));
        drop(wait.await);
    }
}

impl Around for Faulty {
    async fn around<T: Send + 'static>(
        &self,
        call: Call,
        request: Request<T>,
    ) -> Result<T, BackendError> {
        let Some((id, fault)) = self.0.strike(call) else {
            return request.await;
        };
        match fault {
            Fault::Refuse => Err(BackendError::new(
                ErrorKind::Unavailable,
                Effect::NotApplied,
                "the store cannot be reached (an injected fault)",
            )),
            Fault::LoseRequest => Err(BackendError::timeout()),
            Fault::LoseReply => {
                drop(request.await);
                Err(BackendError::timeout())
            }
            Fault::DelayReply(late) => {
                let answer = request.await;
                tokio::time::sleep(late).await;
                answer
            }
            Fault::Stall => {
                self.0.stall(id).await;
                request.await
            }
            Fault::Hold => {
                let deliver = Box::pin(async move { drop(request.await) });
                self.0.lock().held.push(HeldRequest { call, deliver });
                Err(BackendError::timeout())
            }
            Fault::BlockThread => {
                self.0.block_thread(id);
                request.await
            }
        }
    }
}
