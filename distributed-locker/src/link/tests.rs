//! Connections that are slow, dead, or not to be had, in virtual time.

use super::openings::PATIENCE;
use super::{Link, Silence};
use crate::forked::MadeIn;
use crate::time::Time;
use crate::virtual_time::pass;
use async_trait::async_trait;
use futures_util::FutureExt;
use locker_core::backend::{Connect, Side};
use locker_core::memory::Memory;
use locker_core::{Backend, BackendError, Clock, Effect, ErrorKind, Key, ManualClock};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_millis(200);

/// A store whose n-th connection takes so many request timeouts. Where none is said it takes for ever,
/// or is refused.
#[derive(Debug)]
struct Slow {
    time: Time,
    takes: Vec<f64>,
    refuses: AtomicBool,
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
            Some(timeouts) => sleep(&self.time, *timeouts).await,
            None if self.refuses.load(Ordering::SeqCst) => {
                let (kind, effect) = (ErrorKind::Unavailable, Effect::NotApplied);
                return Err(BackendError::new(kind, effect, "too many clients"));
            }
            None => std::future::pending().await,
        }
        let memory = Memory::new(Arc::new(ManualClock::new()));
        let backend = memory.connect(side).await?;
        self.opened.lock().unwrap().push(Arc::downgrade(&backend));
        Ok(backend)
    }
}

/// Waits for so many request timeouts.
async fn sleep(time: &Time, timeouts: f64) {
    let until = time.now() + TIMEOUT.mul_f64(timeouts);
    time.sleep_until(until).await;
}

/// A link to it, whose time passes whenever there is nothing else to do.
fn slow(takes: &[f64]) -> (Link, Arc<Slow>) {
    let clock = Arc::new(ManualClock::new());
    let time = Time::Manual(Arc::clone(&clock));
    let slow = Arc::new(Slow {
        time: time.clone(),
        takes: takes.to_vec(),
        refuses: AtomicBool::new(false),
        begun: AtomicUsize::new(0),
        open: Arc::default(),
        most: AtomicUsize::new(0),
        opened: Mutex::default(),
    });
    let link = Link::new(Arc::clone(&slow) as _, Side::Caller, time, TIMEOUT);
    tokio::spawn(async move {
        loop {
            pass(&clock, Duration::ZERO).await;
            if let Some(next) = clock.next_wake() {
                clock.advance(next.since(clock.now()));
            }
        }
    });
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

/// S8, F26: a child has its parent's sockets. What it wrote there would be taken for its parent's, and
/// answers would go to whoever reads first.
#[tokio::test]
async fn nothing_is_sent_in_another_process_than_the_one_of_the_link() {
    let (mut link, slow) = slow(&[0.0]);
    assert_eq!(first_answered(&link).await, 1);
    link.made_in = MadeIn::another_process();
    let key = Key::new("k").unwrap();
    let mut sent = false;
    let refused = link.call(async |store| {
        sent = true;
        store.read_lock(&key).await
    });
    let error = refused.now_or_never().unwrap().unwrap_err();
    let found = (error.kind(), error.effect());
    assert_eq!(found, (ErrorKind::Config, Effect::NotApplied), "{error}");
    assert!(!sent, "{error}");
    assert_eq!(slow.begun.load(Ordering::SeqCst), 1);
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
    assert!((2..=PATIENCE as usize).contains(&most), "{most}");
    drop(link);
    sleep(&slow.time, 0.25).await;
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
    sleep(&link.time, 2.0).await;
    assert_eq!(slow.open.load(Ordering::SeqCst), 0, "all have ended");
    assert_eq!(slow.kept(), 1, "one is kept");
    let asked = link.call(async |store| store.read_lock(&key).await).await;
    asked.expect("it is the connection");
}

/// A request that takes so many request timeouts.
async fn takes(link: &Link, timeouts: f64) -> Result<(), BackendError> {
    let late = async |_store: Arc<dyn Backend>| {
        sleep(&link.time, timeouts).await;
        Ok(())
    };
    link.call(late).await
}

/// The same, asked by somebody who leaves after so many request timeouts.
async fn takes_for(link: &Link, timeouts: f64, patience: f64) -> Option<Result<(), BackendError>> {
    let patience = TIMEOUT.mul_f64(patience);
    link.time.timeout(patience, takes(link, timeouts)).await
}

/// Nothing is answered for so many request timeouts, and nobody waits for long.
async fn desert(link: &Link, timeouts: f64) {
    let until = link.time.now() + TIMEOUT.mul_f64(timeouts);
    while link.time.now() < until {
        assert!(takes_for(link, 1000.0, 0.3).await.is_none());
    }
}

/// F12: where the store is slow, who asks goes on with the connection that there is.
#[tokio::test]
async fn a_connection_that_answers_after_a_time_out_is_used_until_there_is_another() {
    let (link, slow) = slow(&[0.0, 2.5]);
    link.open(TIMEOUT).await.unwrap();
    let late = takes(&link, 1.5).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
    let begun = link.time.now();
    // The first waits a little for the new one, and no other does.
    for _ in 0..3 {
        takes(&link, 0.4)
            .await
            .expect("on the connection that there is");
    }
    assert!(link.time.now().since(begun) < TIMEOUT * 2);
    assert_eq!(slow.opened.lock().unwrap().len(), 1);
    sleep(&link.time, 2.0).await;
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
    sleep(&link.time, f64::from(PATIENCE)).await;
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
    desert(&link, 1.2).await;
    takes(&link, 0.0).await.expect("on the old one, at once");
    sleep(&link.time, 0.2).await;
    takes(&link, 0.5).await.expect("on the new one");
    assert_eq!((slow.kept(), slow.opened.lock().unwrap().len()), (1, 2));
    assert!(slow.keeps_the_newest());
}

/// F12: it is time that somebody has waited in vain, and nothing else.
#[tokio::test]
async fn a_connection_that_answers_is_not_doubted_because_of_those_who_leave() {
    let (link, slow) = slow(&[0.0]);
    link.open(TIMEOUT).await.unwrap();
    // Nobody waits in between.
    for _ in 0..10 {
        assert!(takes_for(&link, 1000.0, 0.0).await.is_none());
        sleep(&link.time, 0.2).await;
    }
    // One waits, and others are answered meanwhile.
    let (left, ()) = tokio::join!(takes_for(&link, 1000.0, 0.95), async {
        for _ in 0..9 {
            takes(&link, 0.1).await.expect("an answer");
        }
    });
    assert!(left.is_none());
    // Nor do several of them, with answers between.
    for _ in 0..4 {
        assert!(takes_for(&link, 1000.0, 0.6).await.is_none());
        takes(&link, 0.1).await.expect("an answer");
    }
    assert_eq!(slow.begun.load(Ordering::SeqCst), 1);
}

/// The store stalls, and when it goes on no other connection can be had.
#[tokio::test]
async fn a_connection_that_many_have_left_is_used_at_once_when_it_answers() {
    let (link, slow) = slow(&[0.0]);
    link.open(TIMEOUT).await.unwrap();
    desert(&link, 1.5).await;
    let answered = takes_for(&link, 0.1, 0.15).await;
    answered.expect("it waits for nothing else").unwrap();
    assert_eq!((slow.kept(), slow.begun.load(Ordering::SeqCst)), (1, 2));
}

/// A request that runs out of time is the first real sign, and the second makes it certain.
#[tokio::test]
async fn a_connection_that_many_have_left_is_closed_when_two_requests_are_lost() {
    let (link, slow) = slow(&[0.0]);
    link.open(TIMEOUT).await.unwrap();
    desert(&link, 1.5).await;
    for kept in [1, 0] {
        assert!(takes(&link, 1000.0).await.is_err());
        assert_eq!(slow.kept(), kept);
    }
}

/// F12: a store that is slower than its callers are patient is not asked for connections all the
/// time, and none is closed for their sake.
#[tokio::test]
async fn who_leaves_early_costs_a_slow_store_few_connections() {
    let (link, slow) = slow(&[0.0; 20]);
    link.open(TIMEOUT).await.unwrap();
    desert(&link, 20.0).await;
    // After the first request timeout, after two more, four and eight.
    assert_eq!(slow.opened.lock().unwrap().len(), 5);
    assert_eq!(slow.kept(), 1);
    takes(&link, 0.1).await.expect("an answer");
    assert_eq!(link.current().in_vain, 0);
}

/// F12: nor is one that lets nobody in any more.
#[tokio::test]
async fn beside_a_doubted_connection_few_openings_are_begun_though_they_fail_at_once() {
    let (link, slow) = slow(&[0.0]);
    slow.refuses.store(true, Ordering::SeqCst);
    link.open(TIMEOUT).await.unwrap();
    for _ in 0..200 {
        assert!(takes_for(&link, 1000.0, 0.1).await.is_none());
    }
    let begun = slow.begun.load(Ordering::SeqCst);
    assert!((10..=21).contains(&begun), "{begun} in twenty timeouts");
    takes(&link, 0.4)
        .await
        .expect("on the connection that there is");
    assert_eq!(slow.kept(), 1);
}

/// What it has begun may hang, and the next be refused.
#[tokio::test]
async fn an_opening_that_hangs_lets_no_more_begin_than_there_would_be() {
    let (link, slow) = slow(&[0.0, 3.5]);
    slow.refuses.store(true, Ordering::SeqCst);
    link.open(TIMEOUT).await.unwrap();
    desert(&link, 1.2).await;
    for _ in 0..30 {
        assert!(takes_for(&link, 1000.0, 0.1).await.is_none());
    }
    let begun = slow.begun.load(Ordering::SeqCst);
    assert!((3..=5).contains(&begun), "{begun} in four timeouts");
}

/// What broke under a request in between says nothing for the rest; a store that has too much to do
/// says that it is there.
#[tokio::test]
async fn a_broken_socket_is_no_answer_of_a_connection_that_is_doubted_and_a_refusal_is_one() {
    let busy = BackendError::new(ErrorKind::Busy, Effect::Unknown, "no room, or no socket");
    for (error, kept) in [(busy.clone().unanswered(), 0), (busy, 1)] {
        let (link, slow) = slow(&[0.0]);
        link.open(TIMEOUT).await.unwrap();
        assert!(takes(&link, 1.5).await.is_err());
        let fails = async |_store: Arc<dyn Backend>| -> Result<(), BackendError> { Err(error) };
        assert!(link.call(fails).await.is_err());
        assert_eq!(slow.kept(), 1, "the rest of it may be sound");
        assert!(takes(&link, 1000.0).await.is_err());
        assert_eq!(slow.kept(), kept, "unless two requests in turn were lost");
    }
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

/// It may have been the last that came through.
#[tokio::test]
async fn an_answer_to_what_was_sent_before_the_lost_request_says_nothing_of_the_time_after_it() {
    let (link, slow) = slow(&[0.0]);
    link.open(TIMEOUT).await.unwrap();
    let (lost, ()) = tokio::join!(takes(&link, 1000.0), async {
        sleep(&link.time, 0.5).await;
        takes(&link, 0.8).await.expect("an answer");
    });
    assert!(lost.is_err());
    assert!(takes(&link, 1000.0).await.is_err());
    assert_eq!(slow.kept(), 0);
}

/// Requests that were lost together are one sign, not two.
#[tokio::test]
async fn requests_of_the_same_time_are_one_doubt() {
    let (link, slow) = slow(&[0.0, 3.0]);
    link.open(TIMEOUT).await.unwrap();
    let (one, other) = tokio::join!(takes(&link, 1000.0), async {
        sleep(&link.time, 0.25).await;
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

/// A request about what was not answered the last time either, and is not answered.
async fn stays_silent(link: &Link) -> BackendError {
    let for_ever = async |_store: Arc<dyn Backend>| -> Result<(), BackendError> {
        std::future::pending().await
    };
    link.send(for_ever, Silence::IsKnown).await.unwrap_err()
}

/// F12: nor does it where nothing else is asked, because a locker has but one lock: that it could be
/// opened says that the rest answers.
#[tokio::test]
async fn a_part_of_which_alone_is_asked_costs_fewer_and_fewer_connections() {
    let (link, slow) = slow(&[0.5; 60]);
    let link = Link::new(Arc::clone(&slow) as _, Side::Upkeep, link.time, TIMEOUT);
    link.open(TIMEOUT).await.unwrap();
    assert!(takes(&link, 1000.0).await.is_err());
    for _ in 0..60 {
        stays_silent(&link).await;
    }
    // Some sixty request timeouts: at once, and after one, two more, four, eight, sixteen, thirty-two.
    let begun = slow.begun.load(Ordering::SeqCst);
    assert!((6..=9).contains(&begun), "{begun}");
}

/// F12: a part of the store that is silent does not cost the rest of it one connection after another.
/// What is answered as a rule is not spared.
#[tokio::test]
async fn a_part_that_stays_silent_costs_fewer_and_fewer_connections() {
    let (link, slow) = slow(&[0.0; 60]);
    let link = Link::new(Arc::clone(&slow) as _, Side::Upkeep, link.time, TIMEOUT);
    let silent = async || stays_silent(&link).await;
    let begun = || slow.begun.load(Ordering::SeqCst);
    takes(&link, 0.1).await.expect("others are answered");
    assert!(silent().await.is_unanswered());
    assert_eq!(slow.kept(), 0, "one of its sockets may be dead");
    for _ in 0..60 {
        takes(&link, 0.1).await.expect("others are answered");
        silent().await;
    }
    // Some sixty request timeouts: after one, two more, four, eight, sixteen, thirty-two.
    assert!((5..=8).contains(&begun()), "{}", begun());
    takes(&link, 0.1).await.expect("others are answered");
    assert!(takes(&link, 1000.0).await.is_err());
    assert_eq!(slow.kept(), 0, "it is closed for the sake of the others");
    // Long after the last time it is as in the first place.
    for (later, kept) in [(200.0, 0), (0.0, 1), (3.0, 0)] {
        sleep(&link.time, later).await;
        takes(&link, 0.1).await.expect("others are answered");
        silent().await;
        assert_eq!(slow.kept(), kept);
    }
}

/// F12, L1: nor does it under callers, and who asks the rest does not wait for it.
#[tokio::test]
async fn callers_of_the_rest_do_not_wait_for_a_part_that_is_silent() {
    let (link, slow) = slow(&[0.5; 60]);
    link.open(TIMEOUT).await.unwrap();
    let asks_the_part = async {
        for _ in 0..30 {
            assert!(takes(&link, 1000.0).await.is_err());
        }
    };
    let asks_the_rest = async {
        for _ in 0..300 {
            let begun = link.time.now();
            takes(&link, 0.1).await.expect("an answer");
            let took = link.time.now().since(begun);
            assert!(took < TIMEOUT / 5, "{took:?}");
        }
    };
    tokio::join!(asks_the_part, asks_the_rest);
    let opened = slow.opened.lock().unwrap().len();
    // In thirty request timeouts: after one, two more, four, eight, sixteen.
    assert!((2..=8).contains(&opened), "{opened}");
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
