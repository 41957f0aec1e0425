//! A lone operation that its caller neither polls nor drops holds up its own key, and not for long.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Asking, PATIENCE, Request, Scripted, Verdict, ask, begin, gate, op, turns};
use locker_coalesce::Gate;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;

/// A lone operation under way, with its request, and another of its key.
fn one_behind_another(
    gate: &Arc<Gate<Scripted>>,
    requests: &mut UnboundedReceiver<Request>,
) -> (Asking, Request, Asking) {
    let [mut held, mut same] = [0, 1].map(|id| ask(gate, op(id, "k")));
    begin(&mut held);
    let request = requests.try_recv().unwrap();
    begin(&mut same);
    (held, request, same)
}

#[tokio::test(start_paused = true)]
async fn a_lone_operation_that_nobody_polls_holds_up_its_own_key_and_not_for_long() {
    let (gate, mut requests) = gate(64, 1);
    let (held, held_request, same) = one_behind_another(&gate, &mut requests);
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
    let _waits = one_behind_another(&gate, &mut requests);
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
