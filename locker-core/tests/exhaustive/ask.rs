//! What is asked of the store, and its answers.

use locker_core::OwnerHash;
use locker_core::backend::{
    Answer, Backend, BackendError, Birth, Claimed, Held, Liveness, Released, Renewal, Settlement,
    Standing,
};
use locker_core::machine::{acquire, hold, release, report};
use locker_core::memory::Memory;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A request, of whichever machine.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Report(report::Request),
    Acquire(acquire::Request),
    Hold(hold::Request),
    Release(release::Request),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Said {
    Birth(Answer<Birth>),
    Renewal(Answer<Renewal>),
    Claimed(Answer<Claimed>),
    Liveness(Answer<Liveness>),
    Lock(Answer<Option<Held>>),
    Standing(Result<Standing, BackendError>),
    Released(Answer<Released>),
    Settled(Answer<Settlement>),
}

impl Ask {
    /// Whether it changes anything, or may.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::Report(_) | Self::Hold(hold::Request::Extend(_)) | Self::Release(_) => true,
            Self::Acquire(request) => matches!(
                request,
                acquire::Request::TryCreate(_) | acquire::Request::TakeOver(..)
            ),
            Self::Hold(hold::Request::Check(_)) => false,
        }
    }

    /// The one owner under whose name it acts, if it must leave every other's record alone.
    pub(crate) fn scope(&self) -> Option<&OwnerHash> {
        match self {
            Self::Hold(hold::Request::Extend(owner) | hold::Request::Check(owner))
            | Self::Release(
                release::Request::Release(owner) | release::Request::Settle(owner, _),
            ) => Some(owner),
            Self::Report(_) | Self::Acquire(_) => None,
        }
    }

    /// The store does it.
    pub(crate) fn serve(&self, store: &Memory, life: Duration, lock: Duration) -> Said {
        match self {
            Self::Report(report::Request::Create(name)) => {
                Said::Birth(now(store.create_process(name, life)))
            }
            Self::Report(report::Request::Renew(name)) => {
                Said::Renewal(now(store.renew_process(name, life)))
            }
            Self::Report(report::Request::Retire(_)) => unreachable!("nobody retires"),
            Self::Acquire(acquire::Request::TryCreate(claim)) => {
                Said::Claimed(now(store.try_create(claim)))
            }
            Self::Acquire(acquire::Request::TakeOver(claim, observed)) => {
                Said::Claimed(now(store.take_over(claim, observed)))
            }
            Self::Acquire(acquire::Request::ReadProcess(name)) => {
                Said::Liveness(now(store.read_process(name)))
            }
            Self::Acquire(acquire::Request::ReadLock(key)) => Said::Lock(now(store.read_lock(key))),
            Self::Hold(hold::Request::Extend(owner)) => {
                let answer = now(store.extend(std::slice::from_ref(owner), lock));
                Said::Standing(answer.and_then(|mut reply| reply.value.remove(0)))
            }
            Self::Hold(hold::Request::Check(owner)) => {
                let answer = now(store.check(std::slice::from_ref(owner)));
                Said::Standing(answer.and_then(|mut reply| reply.value.remove(0)))
            }
            Self::Release(release::Request::Release(owner)) => {
                Said::Released(now(store.release(owner)))
            }
            Self::Release(release::Request::Settle(owner, until)) => {
                Said::Settled(now(store.settle(owner, *until)))
            }
        }
    }

    /// What its sender makes of no answer.
    pub(crate) fn unanswered(&self) -> Said {
        fn nothing<T>() -> Result<T, BackendError> {
            Err(BackendError::timeout())
        }
        match self {
            Self::Report(report::Request::Create(_)) => Said::Birth(nothing()),
            Self::Report(_) => Said::Renewal(nothing()),
            Self::Acquire(acquire::Request::TryCreate(_) | acquire::Request::TakeOver(..)) => {
                Said::Claimed(nothing())
            }
            Self::Acquire(acquire::Request::ReadProcess(_)) => Said::Liveness(nothing()),
            Self::Acquire(acquire::Request::ReadLock(_)) => Said::Lock(nothing()),
            Self::Hold(_) => Said::Standing(nothing()),
            Self::Release(release::Request::Release(_)) => Said::Released(nothing()),
            Self::Release(release::Request::Settle(..)) => Said::Settled(nothing()),
        }
    }
}

/// What a future answers that never waits.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the memory store never waits"),
    }
}
