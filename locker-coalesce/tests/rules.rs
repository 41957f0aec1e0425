//! The rules of the crate, one by one, on a store that answers when it is told to.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{PATIENCE, Request, TOGETHER, Verdict, ask, begin, gate, op, turns};
use futures_util::FutureExt;
use locker_core::{BackendError, Effect, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

fn kind_and_effect(answer: Result<usize, BackendError>) -> (ErrorKind, Effect) {
    let error = answer.unwrap_err();
    (error.kind(), error.effect())
}

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
    let mut asking: Vec<_> = (0..6)
        .map(|id| ask(&gate, op(id, &id.to_string())))
        .collect();
    for asking in &mut asking {
        begin(asking);
    }
    turns().await;
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
    let mut asking: Vec<_> = (0..4)
        .map(|id| ask(&gate, op(id, &id.to_string())))
        .collect();
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

#[tokio::test(start_paused = true)]
async fn a_lone_operation_that_nobody_polls_holds_up_its_own_key_and_not_for_long() {
    let (gate, mut requests) = gate(64, 1);
    let mut held = ask(&gate, op(0, "k"));
    begin(&mut held);
    let held_request = requests.try_recv().unwrap();
    let mut same = ask(&gate, op(1, "k"));
    begin(&mut same);
    let mut other = ask(&gate, op(2, "l"));
    begin(&mut other);
    turns().await;
    let request = requests.try_recv().unwrap();
    assert_eq!(request.ids(), [2]);
    request.land(Verdict::Fine);
    assert_eq!(other.await.unwrap(), 2);

    let before = tokio::time::Instant::now();
    // Also while the gate is never idle.
    for id in 3..20 {
        let mut busy = ask(&gate, op(id, "l"));
        begin(&mut busy);
        tokio::time::advance(PATIENCE / 8).await;
        turns().await;
        let request = requests.try_recv().unwrap();
        if request.ids().contains(&1) {
            assert!(before.elapsed() >= PATIENCE);
            request.land(Verdict::Fine);
            assert_eq!(same.await.unwrap(), 1);
            // The held one has lost nothing but its turn.
            held_request.land(Verdict::Fine);
            assert_eq!(held.await.unwrap(), 0);
            return;
        }
        request.land(Verdict::Fine);
        busy.await.unwrap();
    }
    panic!("an operation waits for a caller who does nothing");
}

/// Of two tasks the idle one has waited long enough always when the other has a batch in flight.
#[tokio::test(start_paused = true)]
async fn nor_when_something_is_in_flight_whenever_the_time_is_up() {
    let (gate, mut requests) = gate(64, 2);
    let mut held = ask(&gate, op(0, "k"));
    begin(&mut held);
    let _held_request = requests.try_recv().unwrap();
    let mut same = ask(&gate, op(1, "k"));
    begin(&mut same);
    let flight = PATIENCE / 10;
    for id in 2..10 {
        let mut busy = ask(&gate, op(id, "l"));
        begin(&mut busy);
        turns().await;
        let request = requests.try_recv().unwrap();
        assert_eq!(request.ids(), [id]);
        tokio::time::advance(flight).await;
        turns().await;
        request.land(Verdict::Fine);
        busy.await.unwrap();
        turns().await;
        if let Ok(request) = requests.try_recv() {
            assert_eq!((request.ids(), id), (vec![1], 3));
            return;
        }
        tokio::time::advance(flight * 17 / 2).await;
        turns().await;
    }
    panic!("an operation waits for a caller who does nothing");
}

#[tokio::test(start_paused = true)]
async fn on_an_idle_gate_too() {
    let (gate, mut requests) = gate(64, 1);
    let mut held = ask(&gate, op(0, "k"));
    begin(&mut held);
    requests.try_recv().unwrap();
    let same = tokio::spawn(ask(&gate, op(1, "k")));
    let request = tokio::time::timeout(PATIENCE * 2, requests.recv()).await;
    let request = request.expect("it goes past").unwrap();
    assert_eq!(request.ids(), [1]);
    request.land(Verdict::Fine);
    assert_eq!(same.await.unwrap().unwrap(), 1);
}

/// Attack 3.
#[tokio::test]
async fn one_bad_member_is_its_own_concern() {
    let (gate, mut requests) = gate(64, 1);
    let mut asking: Vec<_> = (0..4)
        .map(|id| ask(&gate, op(id, &id.to_string())))
        .collect();
    for asking in &mut asking {
        begin(asking);
    }
    turns().await;
    requests.try_recv().unwrap().land(Verdict::Fine);
    requests.try_recv().unwrap().land(Verdict::FirstIsBad);
    let mut asking = asking.into_iter();
    assert_eq!(asking.next().unwrap().await.unwrap(), 0);
    let bad = asking.next().unwrap().await;
    assert_eq!(
        kind_and_effect(bad),
        (ErrorKind::Corrupt, Effect::NotApplied)
    );
    assert_eq!(asking.next().unwrap().await.unwrap(), 2);
    assert_eq!(asking.next().unwrap().await.unwrap(), 3);
}

#[tokio::test]
async fn a_batch_that_is_refused_for_certain_is_sent_again_apart_and_at_once() {
    let (gate, mut requests) = gate(64, 1);
    let mut asking: Vec<_> = (0..5)
        .map(|id| ask(&gate, op(id, &id.to_string())))
        .collect();
    for asking in &mut asking {
        begin(asking);
    }
    turns().await;
    requests.try_recv().unwrap().land(Verdict::Fine);
    let batch = requests.try_recv().unwrap();
    assert_eq!(batch.ids(), [1, 2, 3, 4]);
    batch.land(Verdict::Fails(ErrorKind::Rejected, Effect::NotApplied));
    // This one leaves before the task had a turn: it is not sent a second time.
    drop(asking.pop());
    turns().await;
    for id in 1..4 {
        let request = requests.try_recv().unwrap();
        assert_eq!((request.ids(), request.together), (vec![id], false));
        request.land(if id == 2 {
            Verdict::Fails(ErrorKind::Rejected, Effect::NotApplied)
        } else {
            Verdict::Fine
        });
    }
    assert!(
        requests.try_recv().is_err(),
        "whoever has left is not sent again"
    );
    for (id, asking) in asking.into_iter().enumerate() {
        match asking.await {
            Ok(answer) => assert_eq!(answer, id),
            Err(error) => assert_eq!((id, error.kind()), (2, ErrorKind::Rejected)),
        }
    }
}

/// They have waited for a batch already: not for another one that is in flight, nor for more company.
#[tokio::test]
async fn the_members_of_a_refused_batch_are_sent_again_whatever_else_is_in_flight() {
    // Too few for a second flight; and more than their share of two.
    for (waiting, batches) in [(3, vec![3]), (40, vec![20, 20])] {
        let (gate, mut requests) = gate(64, 2);
        let mut asking: Vec<_> = (0..=waiting + TOGETHER)
            .map(|id| ask(&gate, op(id, &id.to_string())))
            .collect();
        asking[..=waiting].iter_mut().for_each(begin);
        turns().await;
        requests.try_recv().unwrap().land(Verdict::Fine);
        let mut sent: Vec<_> = std::iter::from_fn(|| requests.try_recv().ok()).collect();
        let sizes: Vec<_> = sent.iter().map(|request| request.ops.len()).collect();
        assert_eq!(sizes, batches);
        let refused = sent.swap_remove(0);
        for request in sent {
            request.land(Verdict::Fine);
        }
        turns().await;
        asking[waiting + 1..].iter_mut().for_each(begin);
        turns().await;
        let other = requests.try_recv().unwrap();
        assert_eq!(other.ops.len(), TOGETHER);
        let ids = refused.ids();
        refused.land(Verdict::Fails(ErrorKind::Rejected, Effect::NotApplied));
        turns().await;
        let apart: Vec<_> = std::iter::from_fn(|| requests.try_recv().ok()).collect();
        let again: Vec<_> = apart.iter().flat_map(Request::ids).collect();
        assert_eq!((again, apart.len()), (ids, batches[0]));
        for request in apart.into_iter().chain([other]) {
            request.land(Verdict::Fine);
        }
        for (id, asking) in asking.into_iter().enumerate() {
            assert_eq!(asking.await.unwrap(), id);
        }
    }
}

/// Attack 33: 64 operations one after another at a store that does not answer are a stall.
#[tokio::test]
async fn after_an_error_that_tells_nothing_of_a_member_everybody_gets_it() {
    let unknown = (ErrorKind::Timeout, Effect::Unknown);
    let doubtful = (ErrorKind::Rejected, Effect::Unknown);
    let broken = (ErrorKind::Unavailable, Effect::NotApplied);
    let dead = (ErrorKind::Unavailable, Effect::Unknown);
    let overload = (ErrorKind::Busy, Effect::NotApplied);
    for (verdict, told) in [
        (Verdict::Fails(overload.0, overload.1), overload),
        (Verdict::Fails(unknown.0, unknown.1), unknown),
        (Verdict::Fails(doubtful.0, doubtful.1), doubtful),
        (Verdict::Fails(broken.0, broken.1), broken),
        (Verdict::Panics, dead),
        (Verdict::Miscounts, dead),
    ] {
        let (gate, mut requests) = gate(64, 1);
        let mut asking: Vec<_> = (0..4)
            .map(|id| ask(&gate, op(id, &id.to_string())))
            .collect();
        for asking in &mut asking {
            begin(asking);
        }
        turns().await;
        requests.try_recv().unwrap().land(Verdict::Fine);
        requests.try_recv().unwrap().land(verdict);
        turns().await;
        assert!(requests.try_recv().is_err(), "{verdict:?}: sent again");
        for asking in asking.drain(1..) {
            assert_eq!(kind_and_effect(asking.await), told, "{verdict:?}");
        }
        // And the gate goes on.
        asking.pop().unwrap().await.unwrap();
        let mut next = ask(&gate, op(9, "k"));
        begin(&mut next);
        requests.try_recv().unwrap().land(Verdict::Fine);
        assert_eq!(next.await.unwrap(), 9);
    }
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
    let mut asking: Vec<_> = (0..3)
        .map(|id| ask(&gate, op(id, &id.to_string())))
        .collect();
    for asking in &mut asking {
        begin(asking);
    }
    turns().await;
    let _lone = requests.try_recv().unwrap();
    let batch = requests.try_recv().unwrap();
    drop(asking);
    drop(gate);
    turns().await;
    assert!(!batch.is_awaited());
    let end = tokio::time::timeout(Duration::from_secs(5), requests.recv()).await;
    assert!(matches!(end, Ok(None)), "{end:?}");
}
