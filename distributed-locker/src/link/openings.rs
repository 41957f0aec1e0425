//! Connections that are being opened.
//!
//! *Why does an opening outlive the request that it was begun for?* It takes several round trips
//! (TLS, a password, a look at the schema), and a request has to follow in what is left of its time.
//! On a network that is slow, and quick enough for requests, every try would be cut short, and a
//! connection that broke once would never come back (F12). So whoever runs out of time leaves its
//! opening to itself: when it gets through, it becomes the connection of its link, whether or not
//! anybody asks.
//!
//! *Why is it not the only one?* What it waits for may have been lost on the way, and never come. So
//! once the youngest is a request timeout old, another is begun beside it. Each ends after
//! [`PATIENCE`] request timeouts, so that there are never more than that, and no more are begun than
//! if each were given up for the next. The first to get through is the connection; the others are
//! given up, or close what they opened.

use futures_util::FutureExt;
use locker_core::{BackendError, Effect, ErrorKind, Instant};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How many request timeouts an opening may take.
pub(super) const PATIENCE: u32 = 4;

/// Those of one link, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Openings(Vec<Opening>);

#[derive(Debug)]
struct Opening {
    begun: Instant,
    task: JoinHandle<Result<(), BackendError>>,
}

impl Openings {
    /// Forgets those that have ended: what failed while nobody looked is no news any more.
    pub(super) fn forget_ended(&mut self) {
        self.0.retain(|opening| !opening.task.is_finished());
    }

    /// Resolves when the first gets through, or fails. Another one is begun at `now`, unless one was
    /// less than a request timeout ago.
    ///
    /// # Cancel safety
    ///
    /// What was begun goes on when it is dropped.
    pub(super) async fn first(
        &mut self,
        now: Instant,
        timeout: Duration,
        begin: impl FnOnce() -> JoinHandle<Result<(), BackendError>>,
    ) -> Result<(), BackendError> {
        let youngest = self.0.last();
        if youngest.is_none_or(|opening| now.since(opening.begun) >= timeout) {
            let task = begin();
            self.0.push(Opening { begun: now, task });
        }
        let ended = poll_fn(|context| self.poll(context)).await;
        if ended.is_ok() {
            self.0.clear();
        }
        ended
    }

    /// Takes out one that has ended.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BackendError>> {
        for place in 0..self.0.len() {
            if let Poll::Ready(ended) = self.0[place].task.poll_unpin(context) {
                self.0.remove(place);
                return Poll::Ready(ended.unwrap_or_else(|_| Err(runtime_ended())));
            }
        }
        Poll::Pending
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn runtime_ended() -> BackendError {
    BackendError::new(
        ErrorKind::Unavailable,
        Effect::NotApplied,
        "the runtime on which the locker was started has ended",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Link;
    use crate::time::{BootClock, Time};
    use async_trait::async_trait;
    use locker_core::backend::{Connect, Side};
    use locker_core::memory::Memory;
    use locker_core::{Backend, BackendError, Effect, ErrorKind, Key};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, Weak};
    use std::time::Duration;

    const TIMEOUT: Duration = Duration::from_millis(200);

    /// A store whose n-th connection takes so many request timeouts, and for ever where none is said.
    #[derive(Debug)]
    struct Slow {
        takes: Vec<f64>,
        begun: AtomicUsize,
        open: Arc<AtomicUsize>,
        most: AtomicUsize,
        opened: Mutex<Vec<Weak<dyn Backend>>>,
    }

    impl Slow {
        /// How many connections are kept.
        fn kept(&self) -> usize {
            let opened = self.opened.lock().unwrap();
            opened.iter().filter(|it| it.strong_count() > 0).count()
        }

        /// Whether the last that was opened is kept.
        fn keeps_the_newest(&self) -> bool {
            let opened = self.opened.lock().unwrap();
            opened.last().is_some_and(|it| it.strong_count() > 0)
        }
    }

    struct Under(Arc<AtomicUsize>);

    impl Drop for Under {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[async_trait]
    impl Connect for Slow {
        async fn connect(&self, side: Side) -> Result<Arc<dyn Backend>, BackendError> {
            let number = self.begun.fetch_add(1, Ordering::SeqCst);
            let under = self.open.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(under, Ordering::SeqCst);
            let _under = Under(Arc::clone(&self.open));
            match self.takes.get(number) {
                Some(timeouts) => tokio::time::sleep(TIMEOUT.mul_f64(*timeouts)).await,
                None => std::future::pending().await,
            }
            let memory = Memory::new(Arc::new(BootClock::new()));
            let backend = memory.connect(side).await?;
            self.opened.lock().unwrap().push(Arc::downgrade(&backend));
            Ok(backend)
        }
    }

    fn slow(takes: &[f64]) -> (Link, Arc<Slow>) {
        let slow = Arc::new(Slow {
            takes: takes.to_vec(),
            begun: AtomicUsize::new(0),
            open: Arc::default(),
            most: AtomicUsize::new(0),
            opened: Mutex::default(),
        });
        let time = Time::Boot(BootClock::new());
        let link = Link::new(Arc::clone(&slow) as _, Side::Caller, time, TIMEOUT);
        (link, slow)
    }

    /// Which request is the first that is answered.
    async fn first_answered(link: &Link) -> usize {
        let key = Key::new("k").unwrap();
        for request in 1..=12 {
            match link.call(async |store| store.read_lock(&key).await).await {
                Ok(_) => return request,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Timeout, "{error}"),
            }
        }
        usize::MAX
    }

    /// F12: without the time that earlier requests have waited, none would ever be answered.
    #[tokio::test]
    async fn a_connection_that_takes_longer_than_a_request_is_had_in_the_end() {
        let (link, slow) = slow(&[2.5; 12]);
        let request = first_answered(&link).await;
        assert!((2..=4).contains(&request), "{request}");
        assert!(slow.begun.load(Ordering::SeqCst) <= 4);
    }

    /// What the first waits for was lost.
    #[tokio::test]
    async fn one_that_hangs_does_not_keep_another_from_getting_through() {
        let (link, slow) = slow(&[1000.0, 0.1]);
        let request = first_answered(&link).await;
        assert!((2..=3).contains(&request), "{request}");
        tokio::task::yield_now().await;
        assert_eq!(slow.open.load(Ordering::SeqCst), 0, "the first is given up");
    }

    #[tokio::test]
    async fn there_are_never_more_than_a_few_and_none_outlives_its_link() {
        let (link, slow) = slow(&[]);
        assert_eq!(first_answered(&link).await, usize::MAX);
        let most = slow.most.load(Ordering::SeqCst);
        assert!((2..=super::PATIENCE as usize).contains(&most), "{most}");
        drop(link);
        tokio::time::sleep(TIMEOUT / 4).await;
        assert_eq!(slow.open.load(Ordering::SeqCst), 0);
    }

    /// Nobody asks any more when they get through: one stays, and no other is kept.
    #[tokio::test]
    async fn of_openings_that_get_through_unasked_one_is_the_connection() {
        let (link, slow) = slow(&[2.6, 1.8, 0.9]);
        let key = Key::new("k").unwrap();
        for _ in 0..2 {
            let answer = link.call(async |store| store.read_lock(&key).await).await;
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout);
        }
        assert!(slow.begun.load(Ordering::SeqCst) >= 2);
        tokio::time::sleep(TIMEOUT * 2).await;
        assert_eq!(slow.open.load(Ordering::SeqCst), 0, "all have ended");
        assert_eq!(slow.kept(), 1, "one is kept");
        let asked = link.call(async |store| store.read_lock(&key).await).await;
        asked.expect("it is the connection");
    }

    /// A request that takes so many request timeouts.
    async fn takes(link: &Link, timeouts: f64) -> Result<(), BackendError> {
        let late = async |_store: Arc<dyn Backend>| {
            tokio::time::sleep(TIMEOUT.mul_f64(timeouts)).await;
            Ok(())
        };
        link.call(late).await
    }

    /// F12: where the store is slow, who asks goes on with the connection that there is.
    #[tokio::test]
    async fn a_connection_that_answers_after_a_time_out_is_used_until_there_is_another() {
        let (link, slow) = slow(&[0.0, 2.5]);
        link.open(TIMEOUT).await.unwrap();
        let late = takes(&link, 1.5).await;
        assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
        let begun = std::time::Instant::now();
        // The first waits a little for the new one, and no other does.
        for _ in 0..3 {
            takes(&link, 0.4)
                .await
                .expect("on the connection that there is");
        }
        assert!(begun.elapsed() < TIMEOUT * 2);
        assert_eq!(slow.opened.lock().unwrap().len(), 1);
        tokio::time::sleep(TIMEOUT * 2).await;
        takes(&link, 0.4).await.expect("on the new one");
        assert_eq!((slow.kept(), slow.opened.lock().unwrap().len()), (1, 2));
        assert!(slow.keeps_the_newest());
    }

    /// A part of it may be dead, of which the others know nothing: they do not keep it.
    #[tokio::test]
    async fn answers_do_not_keep_a_connection_that_has_lost_one() {
        let (link, slow) = slow(&[0.0, 0.6]);
        link.open(TIMEOUT).await.unwrap();
        let (lost, ()) = tokio::join!(takes(&link, 1000.0), async {
            for _ in 0..20 {
                takes(&link, 0.1).await.expect("an answer");
            }
        });
        assert!(lost.is_err());
        assert_eq!((slow.kept(), slow.opened.lock().unwrap().len()), (1, 2));
        assert!(slow.keeps_the_newest());
    }

    /// As where a server lets nobody in any more: it is not asked again and again.
    #[tokio::test]
    async fn what_answers_is_kept_where_nothing_else_can_be_had() {
        let (link, slow) = slow(&[0.0]);
        link.open(TIMEOUT).await.unwrap();
        assert!(takes(&link, 1.5).await.is_err());
        takes(&link, 0.4)
            .await
            .expect("on the connection that there is");
        tokio::time::sleep(TIMEOUT * super::PATIENCE).await;
        let begun = slow.begun.load(Ordering::SeqCst);
        for _ in 0..3 {
            takes(&link, 0.1)
                .await
                .expect("on the connection that there is");
        }
        assert_eq!(slow.begun.load(Ordering::SeqCst), begun);
        assert_eq!(slow.kept(), 1);
    }

    /// F11: it looks the same, until the next request.
    #[tokio::test]
    async fn a_dead_connection_is_replaced_as_soon_as_there_is_another() {
        let (link, slow) = slow(&[0.0, 0.1]);
        link.open(TIMEOUT).await.unwrap();
        assert!(takes(&link, 1000.0).await.is_err());
        takes(&link, 0.5).await.expect("on the new one");
        assert_eq!(slow.opened.lock().unwrap().len(), 2);
        assert_eq!(slow.kept(), 1, "the dead one is closed");
        assert!(slow.keeps_the_newest());
    }

    /// L6: who leaves early each time would stay with a dead connection for ever.
    #[tokio::test]
    async fn a_dead_connection_is_found_though_nobody_waits_as_long_as_a_request_may_take() {
        let (link, slow) = slow(&[0.0, 0.1]);
        link.open(TIMEOUT).await.unwrap();
        let impatient = async |timeouts| {
            let left = tokio::time::timeout(TIMEOUT / 3, takes(&link, timeouts)).await;
            left.is_err()
        };
        // As long as others are answered nothing is held against it.
        assert!(impatient(1000.0).await);
        assert!(link.opened().unwrap().unanswered >= TIMEOUT / 3);
        takes(&link, 0.1).await.expect("an answer");
        assert_eq!(link.opened().unwrap().unanswered, Duration::ZERO);
        // Nor is the time in which nobody waits.
        for _ in 0..10 {
            let left = tokio::time::timeout(Duration::ZERO, takes(&link, 1000.0));
            assert!(left.await.is_err());
            tokio::time::sleep(TIMEOUT / 5).await;
        }
        assert!(link.opened().unwrap().unanswered < TIMEOUT);
        for _ in 0..4 {
            assert!(impatient(1000.0).await);
        }
        takes(&link, 0.5).await.expect("on the new one");
        assert_eq!((slow.kept(), slow.opened.lock().unwrap().len()), (1, 2));
        assert!(slow.keeps_the_newest());
    }

    /// F12: a store that is slower than its callers are patient is not asked for connections all the
    /// time, and none is closed for their sake.
    #[tokio::test]
    async fn who_leaves_early_costs_a_slow_store_few_connections() {
        let (link, slow) = slow(&[0.0; 20]);
        link.open(TIMEOUT).await.unwrap();
        for _ in 0..60 {
            let left = tokio::time::timeout(TIMEOUT / 3, takes(&link, 1000.0));
            assert!(left.await.is_err());
        }
        // Twenty request timeouts: after the first, after two more, four and eight.
        let opened = slow.opened.lock().unwrap().len();
        assert!((2..=6).contains(&opened), "{opened}");
        assert_eq!(slow.kept(), 1);
        takes(&link, 0.1).await.expect("an answer");
        assert_eq!(link.current().in_vain, 0);
    }

    /// What broke under a request in between says nothing for the rest.
    #[tokio::test]
    async fn a_broken_socket_is_no_answer_of_a_connection_that_is_doubted() {
        let (link, slow) = slow(&[0.0]);
        link.open(TIMEOUT).await.unwrap();
        assert!(takes(&link, 1.5).await.is_err());
        let broken = async |_store: Arc<dyn Backend>| -> Result<(), BackendError> {
            let text = "one of the sockets broke";
            Err(BackendError::new(ErrorKind::Busy, Effect::Unknown, text))
        };
        assert!(link.call(broken).await.is_err());
        assert_eq!(slow.kept(), 1, "the rest of it may be sound");
        assert!(takes(&link, 1000.0).await.is_err());
        assert_eq!(slow.kept(), 0, "two requests in turn were lost");
    }

    /// Whom nothing else is left but the dead one does not stay with it.
    #[tokio::test]
    async fn a_connection_on_which_two_requests_in_turn_are_lost_is_closed() {
        let (link, slow) = slow(&[0.0, 2.0]);
        link.open(TIMEOUT).await.unwrap();
        for _ in 0..2 {
            assert!(takes(&link, 1000.0).await.is_err());
        }
        assert_eq!(slow.kept(), 0);
        let mut answers = 0;
        for _ in 0..3 {
            answers += usize::from(takes(&link, 0.0).await.is_ok());
        }
        assert!(answers >= 2, "{answers}");
    }

    /// Requests that were lost together are one sign, not two.
    #[tokio::test]
    async fn requests_of_the_same_time_are_one_doubt() {
        let (link, slow) = slow(&[0.0, 3.0]);
        link.open(TIMEOUT).await.unwrap();
        let (one, other) = tokio::join!(takes(&link, 1000.0), async {
            tokio::time::sleep(TIMEOUT / 4).await;
            takes(&link, 1000.0).await
        });
        assert!(one.is_err() && other.is_err());
        takes(&link, 0.5)
            .await
            .expect("on the connection that there is");
        assert_eq!(slow.kept(), 1);
    }

    /// The next report, or extend, has to get through.
    #[tokio::test]
    async fn a_request_of_the_reporter_that_is_lost_costs_its_connection() {
        for side in [Side::Reports, Side::Upkeep] {
            let (link, slow) = slow(&[0.0, 0.1]);
            let link = Link::new(Arc::clone(&slow) as _, side, link.time, TIMEOUT);
            link.open(TIMEOUT).await.unwrap();
            assert!(takes(&link, 1000.0).await.is_err());
            assert_eq!(slow.kept(), 0);
            takes(&link, 0.8).await.expect("on a new one");
        }
    }

    /// The request that had to wait for the connection has no time left, and the connection is good.
    #[tokio::test]
    async fn a_request_that_shared_its_time_does_not_cost_the_new_connection() {
        let (link, slow) = slow(&[0.7]);
        let shared = takes(&link, 0.6).await;
        assert_eq!(shared.unwrap_err().kind(), ErrorKind::Timeout);
        takes(&link, 0.6).await.unwrap();
        assert_eq!(slow.begun.load(Ordering::SeqCst), 1);
    }
}
