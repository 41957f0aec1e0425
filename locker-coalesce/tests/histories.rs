//! Random histories: callers ask and go away, the store answers in every way it can, the tasks of
//! the gate have their turns at any moment. The rules of the crate hold in all of them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Asking, Op, Request, Scripted, Verdict, ask, gate_of, op, turns};
use locker_coalesce::Gate;
use locker_core::{Effect, ErrorKind};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::mpsc;

#[derive(Debug, Clone)]
enum Act {
    Ask {
        key: u8,
    },
    /// One of those who wait goes away.
    Leave {
        who: prop::sample::Index,
    },
    Land {
        which: prop::sample::Index,
        verdict: Verdict,
    },
    Turn,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let verdict = prop_oneof![
        6 => Just(Verdict::Fine),
        1 => Just(Verdict::FirstIsBad),
        2 => Just(Verdict::Fails(ErrorKind::Rejected, Effect::NotApplied)),
        1 => Just(Verdict::Fails(ErrorKind::Rejected, Effect::Unknown)),
        1 => Just(Verdict::Fails(ErrorKind::Unavailable, Effect::NotApplied)),
        1 => Just(Verdict::Fails(ErrorKind::Timeout, Effect::Unknown)),
        1 => Just(Verdict::Miscounts),
        1 => Just(Verdict::Panics),
    ];
    let act = prop_oneof![
        6 => (0..5u8).prop_map(|key| Act::Ask { key }),
        2 => any::<prop::sample::Index>().prop_map(|who| Act::Leave { who }),
        4 => (any::<prop::sample::Index>(), verdict)
            .prop_map(|(which, verdict)| Act::Land { which, verdict }),
        4 => Just(Act::Turn),
    ];
    prop::collection::vec(act, 1..120)
}

/// What is known of one operation.
#[derive(Debug, Default)]
struct Known {
    key: u8,
    sent: u32,
    /// Its batch was refused because of one member, so it may be sent once more.
    again: bool,
    left: bool,
    /// What its caller must be told: nothing means its number.
    told: Option<(ErrorKind, Effect)>,
}

struct World {
    limit: usize,
    gate: Arc<Gate<Scripted>>,
    requests: mpsc::UnboundedReceiver<Request>,
    known: Vec<Known>,
    asking: BTreeMap<usize, Asking>,
    flying: Vec<Request>,
}

impl World {
    fn new([limit, flights, light, together]: [usize; 4]) -> Self {
        let (gate, requests) = gate_of(limit, flights, light, together);
        Self {
            limit,
            gate,
            requests,
            known: Vec::new(),
            asking: BTreeMap::new(),
            flying: Vec::new(),
        }
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Ask { key } => self.ask(key),
            Act::Leave { who } if !self.asking.is_empty() => {
                let who = *who.get(&self.asking.keys().copied().collect::<Vec<_>>());
                self.known[who].left = true;
                drop(self.asking.remove(&who));
            }
            Act::Land { which, verdict } if !self.flying.is_empty() => {
                let which = which.index(self.flying.len());
                let request = self.flying.swap_remove(which);
                self.land(request, verdict);
            }
            Act::Turn => tokio::task::yield_now().await,
            Act::Leave { .. } | Act::Land { .. } => {}
        }
        self.look();
    }

    fn ask(&mut self, key: u8) {
        let id = self.known.len();
        self.known.push(Known {
            key,
            ..Known::default()
        });
        let asking = ask(&self.gate, op(id, &key.to_string()));
        self.asking.insert(id, asking);
    }

    fn land(&mut self, request: Request, verdict: Verdict) {
        let first = request.ops[0].id;
        for Op { id, .. } in &request.ops {
            let known = &mut self.known[*id];
            let fate = match verdict {
                Verdict::Fails(ErrorKind::Rejected, Effect::NotApplied) if request.together => {
                    known.again = true;
                    None
                }
                Verdict::Fails(kind, effect) => Some((kind, effect)),
                Verdict::Panics => Some((ErrorKind::Unavailable, Effect::Unknown)),
                Verdict::Breaks => Some((ErrorKind::Busy, Effect::Unknown)),
                Verdict::Miscounts if request.together => {
                    Some((ErrorKind::Unavailable, Effect::Unknown))
                }
                Verdict::FirstIsBad if *id == first => {
                    Some((ErrorKind::Corrupt, Effect::NotApplied))
                }
                Verdict::Fine | Verdict::FirstIsBad | Verdict::Miscounts => None,
            };
            known.told = fate;
        }
        request.land(verdict);
    }

    /// What has been sent, and who has been answered.
    fn look(&mut self) {
        let waiting: Vec<_> = self.asking.keys().copied().collect();
        for id in waiting {
            let mut nobody = Context::from_waker(Waker::noop());
            let asking = self.asking.get_mut(&id).unwrap();
            if let Poll::Ready(answer) = asking.as_mut().poll(&mut nobody) {
                self.asking.remove(&id);
                let told = answer.map_err(|error| (error.kind(), error.effect()));
                assert_eq!(
                    told,
                    self.known[id].told.map_or(Ok(id), Err),
                    "operation {id}"
                );
            }
            self.sent();
        }
        self.sent();
    }

    fn sent(&mut self) {
        // A request whose future was dropped with its caller is in nobody's way.
        self.flying.retain(Request::is_awaited);
        while let Ok(request) = self.requests.try_recv() {
            assert!(request.ops.len() <= self.limit, "{request:?}: too many");
            for Op { id, .. } in &request.ops {
                let key = self.known[*id].key;
                assert!(
                    !self.known[*id].left,
                    "{id} was sent after its caller had left"
                );
                let under_way = self.flying.iter().chain([&request]);
                let same = under_way
                    .flat_map(Request::ids)
                    .filter(|id| self.known[*id].key == key);
                assert_eq!(same.count(), 1, "{request:?}: a key twice under way");
                let older = &self.known[..*id];
                let overtaken = older
                    .iter()
                    .any(|older| older.key == key && !older.left && older.sent == 0);
                assert!(!overtaken, "{id} overtook an older one of its key");
                let known = &mut self.known[*id];
                known.sent += 1;
                assert!(
                    known.sent == 1 || (known.sent == 2 && known.again && !request.together),
                    "{id} was sent again: {known:?}"
                );
            }
            self.flying.push(request);
        }
    }

    /// Everything comes to an end, and then the gate is as good as new.
    async fn end(mut self) {
        for _ in 0..4 * self.known.len() + 4 {
            for request in std::mem::take(&mut self.flying) {
                self.land(request, Verdict::Fine);
            }
            turns().await;
            self.look();
            if self.asking.is_empty() && self.flying.is_empty() {
                break;
            }
        }
        let waiting: Vec<_> = self.asking.keys().collect();
        assert!(waiting.is_empty(), "{waiting:?} wait for ever");
        assert!(self.flying.is_empty());
        // Nothing is under way: the next one is sent by its own caller.
        self.ask(0);
        self.look();
        assert_eq!(self.flying.len(), 1, "a lone operation waits");
    }
}

fn play(limits: [usize; 4], acts: Vec<Act>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(limits);
        for act in acts {
            world.act(act).await;
        }
        world.end().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_rules_hold_in_every_history(
        limit in 1..5usize,
        flights in 1..5usize,
        light in 1..5usize,
        together in 1..5usize,
        acts in acts(),
    ) {
        play([limit, flights, light, together], acts);
    }
}
