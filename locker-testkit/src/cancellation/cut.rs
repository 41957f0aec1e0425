//! Polling a future exactly so many times, each time because it was woken.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// How a future that was to be cut off ended.
#[derive(Debug)]
pub(crate) enum Cut<T> {
    /// By itself, in one of its polls.
    Ended(T),
    /// It was dropped.
    Dropped,
}

/// Polls a future so many times, and drops it. A poll counts when the future was woken: polls for
/// other reasons never reach it, so the number means the same in every run.
pub(crate) async fn cut<T>(future: Pin<Box<dyn Future<Output = T> + '_>>, polls: usize) -> Cut<T> {
    let mut future = future;
    let mut left = polls;
    let woken = Arc::new(Woken::default());
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(Cut::Dropped);
        }
        woken.listen(context.waker());
        while woken.flag.swap(false, Ordering::AcqRel) {
            let waker = Waker::from(Arc::clone(&woken));
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(Cut::Ended(output));
            }
            left -= 1;
            if left == 0 {
                return Poll::Ready(Cut::Dropped);
            }
            // Others of the runtime come between two polls, as always.
            if woken.flag.load(Ordering::Acquire) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether the future wants to be polled, and who polls it.
#[derive(Debug)]
struct Woken {
    flag: AtomicBool,
    outer: std::sync::Mutex<Option<Waker>>,
}

impl Default for Woken {
    fn default() -> Self {
        Self {
            flag: AtomicBool::new(true),
            outer: std::sync::Mutex::default(),
        }
    }
}

impl Woken {
    fn listen(&self, outer: &Waker) {
        *self.outer.lock().expect("no holder panics") = Some(outer.clone());
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, Ordering::Release);
        let outer = self.outer.lock().expect("no holder panics").clone();
        if let Some(outer) = outer {
            outer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn yields(times: usize) -> usize {
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
        times
    }

    #[tokio::test]
    async fn a_future_is_polled_so_often_and_no_more() {
        for polls in 0..=3 {
            let outcome = cut(Box::pin(yields(3)), polls).await;
            assert!(matches!(outcome, Cut::Dropped), "{polls} polls");
        }
        assert!(matches!(cut(Box::pin(yields(3)), 4).await, Cut::Ended(3)));
    }

    #[tokio::test]
    async fn polls_for_other_reasons_do_not_reach_it() {
        let never = Box::pin(std::future::pending::<()>());
        let others = async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = cut(never, 2) => panic!("it was woken once, by its birth"),
            () = others => {}
        }
    }
}
