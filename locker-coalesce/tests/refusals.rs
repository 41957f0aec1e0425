//! What becomes of the members of a batch that was refused.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{
    Request, TOGETHER, Verdict, ask, ask_at_once, ask_each, begin, gate, kind_and_effect, op, turns,
};
use locker_core::{Effect, ErrorKind};
use std::error::Error;

/// Attack 3.
#[tokio::test]
async fn one_bad_member_is_its_own_concern() {
    let (gate, mut requests) = gate(64, 1);
    let asking = ask_at_once(&gate, 0..4).await;
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
    let mut asking = ask_at_once(&gate, 0..5).await;
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
        let mut asking = ask_each(&gate, 0..=waiting + TOGETHER);
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
        let mut asking = ask_at_once(&gate, 0..4).await;
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

/// Also what is no part of its text: its cause, and that the store has not answered.
#[tokio::test]
async fn one_error_is_told_to_many_as_it_is() {
    let (gate, mut requests) = gate(64, 1);
    let mut asking = ask_at_once(&gate, 0..4).await;
    requests.try_recv().unwrap().land(Verdict::Fine);
    requests.try_recv().unwrap().land(Verdict::Breaks);
    for asking in asking.drain(1..) {
        let told = asking.await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Busy);
        assert!(told.is_unanswered());
        assert_eq!(told.to_string(), "broken");
        let cause = told.source().unwrap();
        assert_eq!(cause.to_string(), std::fmt::Error.to_string());
    }
}
