//! The rules of the crate, one by one, on a store that answers when it is told to.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{
    TOGETHER, Verdict, ask, ask_at_once, ask_each, begin, gate, kind_and_effect, op, turns,
};
use futures_util::FutureExt;
use locker_core::{Effect, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_lone_operation_is_sent_by_its_own_future() {
    let (gate, mut requests) = gate(64, 1);
    for id in 0..3 {
        let mut lone = ask(&gate, op(id, "k"));
        begin(&mut lone);
        // No other task had a turn.
        let request = requests.try_recv().unwrap();
        assert_eq!((request.ids(), request.together), (vec![id], false));
        request.land(Verdict::Fine);
        assert_eq!(lone.now_or_never().unwrap().unwrap(), id);
    }
}

#[tokio::test]
async fn a_future_that_is_not_polled_asks_for_nothing() {
    let (gate, mut requests) = gate(64, 1);
    let idle = ask(&gate, op(0, "k"));
    turns().await;
    drop(idle);
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn what_gathers_while_a_batch_is_in_flight_travels_together() {
    let (gate, mut requests) = gate(3, 1);
    let asking = ask_at_once(&gate, 0..6).await;
    let lone = requests.try_recv().unwrap();
    let batch = requests.try_recv().unwrap();
    assert_eq!((lone.ids(), lone.together), (vec![0], false));
    assert_eq!((batch.ids(), batch.together), (vec![1, 2, 3], true));
    assert!(requests.try_recv().is_err(), "one batch at a time");
    batch.land(Verdict::Fine);
    turns().await;
    let rest = requests.try_recv().unwrap();
    assert_eq!(rest.ids(), [4, 5]);
    rest.land(Verdict::Fine);
    lone.land(Verdict::Fine);
    for (id, asking) in asking.into_iter().enumerate() {
        assert_eq!(asking.await.unwrap(), id);
    }
}

/// Those who got their answers run when their runtime lets them, some of them on another worker: the
/// gate gives them some turns. Here one is passed over in all but the last.
#[tokio::test]
async fn who_asks_some_turns_later_than_the_others_still_travels_in_the_next_batch() {
    let (gate, mut requests) = gate(64, 1);
    let mut asking = ask_each(&gate, 0..4);
    for asking in &mut asking[..3] {
        begin(asking);
    }
    turns().await;
    let lone = requests.try_recv().unwrap();
    let batch = requests.try_recv().unwrap();
    assert_eq!(batch.ids(), [1, 2]);
    begin(&mut asking[3]);
    let late = ask(&gate, op(4, "4"));
    let late = tokio::spawn(async move {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        late.await
    });
    batch.land(Verdict::Fine);
    turns().await;
    let next = requests.try_recv().unwrap();
    assert_eq!(next.ids(), [3, 4]);
    next.land(Verdict::Fine);
    lone.land(Verdict::Fine);
    for (id, asking) in asking.into_iter().enumerate() {
        assert_eq!(asking.await.unwrap(), id);
    }
    assert_eq!(late.await.unwrap().unwrap(), 4);
}

#[tokio::test]
async fn a_release_and_the_next_acquire_of_one_key_go_in_order() {
    let (gate, mut requests) = gate(64, 1);
    // Behind a lone operation, and behind a batch.
    let mut asking: Vec<_> = (0..4).map(|id| ask(&gate, op(id, "k"))).collect();
    for asking in &mut asking {
        begin(asking);
    }
    for (id, asking) in asking.into_iter().enumerate() {
        turns().await;
        let request = requests.try_recv().unwrap();
        assert_eq!(request.ids(), [id]);
        assert!(
            requests.try_recv().is_err(),
            "one operation of a key at a time"
        );
        request.land(Verdict::Fine);
        assert_eq!(asking.await.unwrap(), id);
    }
}

/// While the store works on one batch, the answers of the other are read. If the first took all, there
/// would be no other, and each side would wait for the other one.
#[tokio::test]
async fn what_waits_is_shared_out_among_the_flights() {
    for (waiting, batches) in [(40, vec![20, 20]), (6, vec![6]), (200, vec![64, 64])] {
        let (gate, mut requests) = gate(64, 2);
        let ask_for = |id: usize| ask(&gate, op(id, &id.to_string()));
        let mut lone = ask_for(0);
        let mut asking: Vec<_> = (1..=waiting).map(ask_for).collect();
        begin(&mut lone);
        asking.iter_mut().for_each(begin);
        turns().await;
        assert_eq!(requests.try_recv().unwrap().ids(), [0]);
        let sent = std::iter::from_fn(|| requests.try_recv().ok());
        let sizes: Vec<usize> = sent.map(|request| request.ops.len()).collect();
        assert_eq!(sizes, batches, "{waiting} wait");
    }
}

/// A request costs something, whatever is in it: who asks while one is under way waits for company, or
/// until it has landed.
#[tokio::test]
async fn few_operations_gather_for_one_flight() {
    let (gate, mut requests) = gate(64, 3);
    let ask_for = |id: usize| ask(&gate, op(id, &id.to_string()));
    let mut asking: Vec<_> = (0..=2 * TOGETHER).map(ask_for).collect();
    let mut begun = 0;
    let mut ask_more = |count: usize| {
        asking[begun..begun + count].iter_mut().for_each(begin);
        begun += count;
    };
    ask_more(2);
    turns().await;
    let lone = requests.try_recv().unwrap();
    let first = requests.try_recv().unwrap();
    assert_eq!((lone.ids(), first.ids()), (vec![0], vec![1]));
    for _ in 1..TOGETHER {
        ask_more(1);
        turns().await;
        assert!(requests.try_recv().is_err(), "too few for a second flight");
    }
    ask_more(1);
    turns().await;
    let second = requests.try_recv().unwrap();
    assert_eq!(second.ops.len(), TOGETHER);
    ask_more(1);
    turns().await;
    first.land(Verdict::Fine);
    turns().await;
    assert!(requests.try_recv().is_err(), "the second is under way");
    second.land(Verdict::Fine);
    turns().await;
    assert_eq!(requests.try_recv().unwrap().ids(), [TOGETHER + 2]);
}

/// The store gets its next work when as many have asked again as were answered, and not only when
/// everybody else who is ready has had a turn.
#[tokio::test]
async fn a_batch_leaves_as_soon_as_all_of_the_last_one_have_asked_again() {
    const CALLERS: usize = 4;
    let (gate, mut requests) = gate(64, 1);
    let mut lone = ask(&gate, op(0, "lone"));
    begin(&mut lone);
    let (seen, look) = tokio::sync::mpsc::unbounded_channel();
    for id in 1..=CALLERS {
        let (gate, seen) = (Arc::clone(&gate), seen.clone());
        tokio::spawn(async move {
            ask(&gate, op(id, &id.to_string())).await.unwrap();
            let mut again = ask(&gate, op(10 + id, &id.to_string()));
            std::future::poll_fn(|context| {
                assert!(again.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            // Whoever becomes ready now has its turn behind the task of the gate.
            tokio::spawn(async move { seen.send(id).unwrap() });
            again.await.unwrap();
        });
    }
    turns().await;
    requests.try_recv().unwrap().land(Verdict::Fine);
    lone.await.unwrap();
    turns().await;
    let first = requests.try_recv().unwrap();
    assert_eq!(first.ops.len(), CALLERS);
    let others = tokio::spawn(async move {
        let (mut look, mut requests) = (look, requests);
        while look.recv().await != Some(CALLERS) {}
        requests.try_recv().map(|request| request.ops.len())
    });
    first.land(Verdict::Fine);
    assert_eq!(others.await.unwrap(), Ok(CALLERS), "it has left by then");
}

/// Attack 2.
#[tokio::test]
async fn a_queued_operation_whose_caller_goes_away_is_never_sent() {
    let (gate, mut requests) = gate(64, 1);
    let mut lone = ask(&gate, op(0, "k"));
    let mut gone = ask(&gate, op(1, "k"));
    let mut stays = ask(&gate, op(2, "k"));
    begin(&mut lone);
    begin(&mut gone);
    begin(&mut stays);
    drop(gone);
    requests.try_recv().unwrap().land(Verdict::Fine);
    lone.await.unwrap();
    turns().await;
    assert_eq!(requests.try_recv().unwrap().ids(), [2]);
}

/// Attack 2, the second form.
#[tokio::test]
async fn a_caller_who_goes_away_takes_nobody_along() {
    let (gate, mut requests) = gate(64, 1);
    let mut lone = ask(&gate, op(0, "a"));
    let mut first = ask(&gate, op(1, "b"));
    let mut second = ask(&gate, op(2, "c"));
    let mut behind = ask(&gate, op(3, "a"));
    for asking in [&mut lone, &mut first, &mut second, &mut behind] {
        begin(asking);
    }
    turns().await;
    drop(first);
    drop(lone);
    let lone = requests.try_recv().unwrap();
    let batch = requests.try_recv().unwrap();
    assert!(!lone.is_awaited());
    assert_eq!(batch.ids(), [1, 2]);
    batch.land(Verdict::Fine);
    assert_eq!(second.await.unwrap(), 2);
    turns().await;
    let last = requests.try_recv().unwrap();
    assert_eq!(last.ids(), [3]);
    last.land(Verdict::Fine);
    assert_eq!(behind.await.unwrap(), 3);
}

/// Otherwise a request that is never answered, as on a connection whose other end is gone, would keep its
/// keys from everybody who asks later.
#[tokio::test]
async fn a_batch_that_all_its_callers_have_left_is_given_up() {
    let (gate, mut requests) = gate(64, 1);
    let mut lone = ask(&gate, op(0, "a"));
    let mut first = ask(&gate, op(1, "b"));
    let mut second = ask(&gate, op(2, "c"));
    for asking in [&mut lone, &mut first, &mut second] {
        begin(asking);
    }
    turns().await;
    let _lone = requests.try_recv().unwrap();
    let lost = requests.try_recv().unwrap();
    assert_eq!(lost.ids(), [1, 2]);
    drop(first);
    turns().await;
    assert!(lost.is_awaited());
    drop(second);
    turns().await;
    assert!(!lost.is_awaited());
    let mut later = ask(&gate, op(3, "c"));
    begin(&mut later);
    turns().await;
    let request = requests.try_recv().expect("the key is free again");
    assert_eq!(request.ids(), [3]);
    request.land(Verdict::Fine);
    assert_eq!(later.await.unwrap(), 3);
}

#[tokio::test]
async fn the_drop_of_a_lone_operation_wakes_those_behind_it() {
    let (gate, mut requests) = gate(64, 1);
    let mut lone = ask(&gate, op(0, "k"));
    let mut behind = ask(&gate, op(1, "k"));
    begin(&mut lone);
    begin(&mut behind);
    turns().await;
    assert_eq!(requests.try_recv().unwrap().ids(), [0]);
    assert!(requests.try_recv().is_err());
    drop(lone);
    turns().await;
    assert_eq!(requests.try_recv().unwrap().ids(), [1]);
}

#[tokio::test]
async fn a_panic_under_a_lone_operation_is_an_answer_too() {
    let (gate, mut requests) = gate(64, 1);
    let mut lone = ask(&gate, op(0, "k"));
    begin(&mut lone);
    requests.try_recv().unwrap().land(Verdict::Panics);
    let told = kind_and_effect(lone.await);
    assert_eq!(told, (ErrorKind::Unavailable, Effect::Unknown));
    let mut next = ask(&gate, op(1, "k"));
    begin(&mut next);
    assert_eq!(requests.try_recv().unwrap().ids(), [1]);
}

#[test]
fn when_the_runtime_ends_everybody_is_told() {
    let own = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let callers = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (gate, mut requests) = own.block_on(async { gate(1, 1) });
    let mut lone = ask(&gate, op(0, "a"));
    let mut sent = ask(&gate, op(1, "b"));
    let mut waits = ask(&gate, op(2, "c"));
    for asking in [&mut lone, &mut sent, &mut waits] {
        begin(asking);
    }
    let lone_request = callers.block_on(requests.recv()).unwrap();
    let sent_request = callers.block_on(requests.recv()).unwrap();
    assert_eq!(sent_request.ids(), [1]);
    own.shutdown_timeout(Duration::from_secs(10));

    let unknown = (ErrorKind::Unavailable, Effect::Unknown);
    let not_applied = (ErrorKind::Unavailable, Effect::NotApplied);
    assert_eq!(kind_and_effect(callers.block_on(sent)), unknown);
    assert_eq!(kind_and_effect(callers.block_on(waits)), not_applied);
    // The lone one is its caller's own.
    lone_request.land(Verdict::Fine);
    assert_eq!(callers.block_on(lone).unwrap(), 0);
    let late = callers.block_on(ask(&gate, op(3, "d")));
    assert_eq!(kind_and_effect(late), not_applied);
}

#[test]
fn a_gate_whose_runtime_never_gave_it_a_turn_is_closed_too() {
    let own = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (gate, _requests) = {
        let _inside = own.enter();
        gate(64, 2)
    };
    drop(own);
    let answer = ask(&gate, op(0, "k")).now_or_never().unwrap();
    let told = kind_and_effect(answer);
    assert_eq!(told, (ErrorKind::Unavailable, Effect::NotApplied));
}

#[tokio::test]
async fn the_carrier_goes_with_its_gate() {
    let (gate, mut requests) = gate(64, 2);
    let asking = ask_at_once(&gate, 0..3).await;
    let _lone = requests.try_recv().unwrap();
    let batch = requests.try_recv().unwrap();
    drop(asking);
    drop(gate);
    turns().await;
    assert!(!batch.is_awaited());
    let end = tokio::time::timeout(Duration::from_secs(5), requests.recv()).await;
    assert!(matches!(end, Ok(None)), "{end:?}");
}
