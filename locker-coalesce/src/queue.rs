//! What waits, what is under way, and what may travel next. No I/O, no runtime and no clock: every
//! method is one short step under the gate's lock.

use crate::carrier::Limits;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A key, as short as it gets. Two keys of one fingerprint are taken for one: the second of them
/// waits for the next batch, and nothing else comes of it.
pub(crate) type Fingerprint = u64;

/// A place in the queue. Places are numbered in the order in which operations were asked for.
pub(crate) type Place = u64;

/// What the queue remembers of a member that travels.
pub(crate) type Tag = (Place, Fingerprint);

/// Which lone operation is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoneId(u64);

/// The queue of a gate. `M` is an operation with whoever waits for its answer.
#[derive(Debug)]
pub(crate) struct Queue<M> {
    limits: Limits,
    /// In order, and any place can be given up.
    waiting: BTreeMap<Place, Waiting<M>>,
    next: Place,
    /// The keys of the batches in flight.
    busy: Vec<Fingerprint>,
    flying: usize,
    /// The operation that is being sent by its caller, unless it was passed over.
    lone: Option<Lone>,
    /// Which tasks are told when how many operations have been asked for.
    awaited: Vec<(Place, oneshot::Sender<()>)>,
    closed: bool,
}

#[derive(Debug)]
struct Lone {
    id: LoneId,
    fingerprint: Fingerprint,
    /// Since when something has waited behind it.
    waited_for: Option<Instant>,
}

#[derive(Debug)]
struct Waiting<M> {
    fingerprint: Fingerprint,
    /// It was refused in company, and is sent again alone.
    apart: bool,
    member: M,
}

/// What travels together.
#[derive(Debug)]
pub(crate) struct Batch<M> {
    pub(crate) members: Vec<M>,
    /// As one request each, side by side.
    pub(crate) apart: bool,
    pub(crate) tags: Vec<Tag>,
}

/// What a look into the queue has found.
#[derive(Debug)]
pub(crate) struct Taken<M> {
    pub(crate) batch: Option<Batch<M>>,
    /// More might be taken by somebody else.
    pub(crate) more: bool,
}

impl<M> Queue<M> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: BTreeMap::new(),
            next: 0,
            busy: Vec::new(),
            flying: 0,
            lone: None,
            awaited: Vec::new(),
            closed: false,
        }
    }

    /// Marks an operation as being sent by its caller, if nothing at all is under way.
    pub(crate) fn begin_lone(&mut self, fingerprint: Fingerprint) -> Option<LoneId> {
        if self.flying > 0 || self.lone.is_some() || !self.waiting.is_empty() {
            return None;
        }
        let id = LoneId(self.next);
        self.next += 1;
        self.lone = Some(Lone {
            id,
            fingerprint,
            waited_for: None,
        });
        Some(id)
    }

    /// The caller of a lone operation has its answer, or is gone.
    pub(crate) fn end_lone(&mut self, id: LoneId) {
        self.lone.take_if(|lone| lone.id == id);
    }

    /// Since when something has waited behind the lone operation.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.lone.as_ref()?.waited_for
    }

    /// Lets everybody go past a lone operation that has been waited for long enough.
    pub(crate) fn pass_by(&mut self, now: Instant, patience: Duration) {
        let too_long = |since| now.duration_since(since) >= patience;
        self.lone
            .take_if(|lone| lone.waited_for.is_some_and(too_long));
    }

    /// Lets an operation stand in the queue. The clock is read if it waits behind a lone one.
    pub(crate) fn push(
        &mut self,
        fingerprint: Fingerprint,
        member: M,
        now: impl FnOnce() -> Instant,
    ) -> Place {
        let place = self.next;
        self.next += 1;
        if let Some(lone) = &mut self.lone
            && lone.fingerprint == fingerprint
        {
            lone.waited_for.get_or_insert_with(now);
        }
        let waiting = Waiting {
            fingerprint,
            apart: false,
            member,
        };
        self.waiting.insert(place, waiting);
        let next = self.next;
        for (_, bell) in self.awaited.extract_if(.., |(count, _)| *count <= next) {
            // Who does not listen any more has found out without it.
            let _ = bell.send(());
        }
        place
    }

    /// Something that tells when so many more operations were asked for.
    pub(crate) fn asked_again(&mut self, count: usize) -> oneshot::Receiver<()> {
        let (bell, rung) = oneshot::channel();
        self.awaited.retain(|(_, bell)| !bell.is_closed());
        self.awaited.push((self.next + count as Place, bell));
        rung
    }

    /// Gives a place up. Whoever gets the operation from here has the only one there is: it was not
    /// sent and never will be.
    pub(crate) fn withdraw(&mut self, place: Place) -> Option<M> {
        self.waiting.remove(&place).map(|waiting| waiting.member)
    }

    /// Whether a task has something to look for.
    pub(crate) fn wants_a_flight(&self) -> bool {
        let Limits {
            flights,
            light_flights,
            together,
            ..
        } = self.limits;
        let flights = if self.is_apart_next() || self.waiting.len() >= together.get() {
            flights
        } else {
            light_flights.min(flights)
        };
        !self.waiting.is_empty() && self.flying < flights.get()
    }

    /// Whether the oldest has been refused in company. It has waited for a batch already, and shall wait
    /// neither for company nor for a share.
    fn is_apart_next(&self) -> bool {
        let oldest = self.waiting.first_key_value();
        oldest.is_some_and(|(_, waiting)| waiting.apart)
    }

    /// Takes the next batch: the oldest operations, of different keys that are not under way.
    pub(crate) fn take(&mut self) -> Taken<M> {
        let mut taken = Taken {
            batch: None,
            more: false,
        };
        if !self.wants_a_flight() {
            return taken;
        }
        let share = self.share();
        // How the first one is to be sent, the others are. It ends at the first of the other kind,
        // so that none is overtaken by a younger one of its key.
        let mut apart = None;
        let mut ends = false;
        let Self {
            waiting,
            busy,
            lone,
            ..
        } = self;
        let (members, tags): (Vec<_>, Vec<_>) = waiting
            .extract_if(.., |_, waiting| {
                if ends {
                    return false;
                }
                let of_lone = lone.as_ref().map(|lone| lone.fingerprint);
                if of_lone == Some(waiting.fingerprint) || busy.contains(&waiting.fingerprint) {
                    return false;
                }
                ends = *apart.get_or_insert(waiting.apart) != waiting.apart;
                if !ends {
                    busy.push(waiting.fingerprint);
                }
                !ends
            })
            .take(share)
            .map(|(place, waiting)| (waiting.member, (place, waiting.fingerprint)))
            .unzip();
        if let Some(apart) = apart {
            self.flying += 1;
            taken.batch = Some(Batch {
                members,
                apart,
                tags,
            });
            taken.more = self.wants_a_flight();
        }
        taken
    }

    /// How many operations the next batch takes at most. Where the store shall have work while answers
    /// are read, the first must not take all: the second would have nothing to carry meanwhile, and the
    /// next time neither.
    fn share(&self) -> usize {
        if self.is_apart_next() {
            return self.limits.batch.get();
        }
        let all = self.busy.len() + self.waiting.len();
        let share = all.div_ceil(self.limits.flights.get());
        share
            .max(self.limits.together.get())
            .min(self.limits.batch.get())
    }

    /// A batch has its answers.
    pub(crate) fn land(&mut self, tags: &[Tag]) {
        self.flying -= 1;
        self.busy
            .retain(|busy| !tags.iter().any(|(_, tag)| tag == busy));
    }

    /// A member of a refused batch takes its place again, for a request of its own.
    pub(crate) fn put_back(&mut self, (place, fingerprint): Tag, member: M) {
        let waiting = Waiting {
            fingerprint,
            apart: true,
            member,
        };
        self.waiting.insert(place, waiting);
    }

    /// Lets nobody in any more, and gives back everything that waits.
    pub(crate) fn close(&mut self) -> Vec<M> {
        self.closed = true;
        let waiting = std::mem::take(&mut self.waiting);
        waiting
            .into_values()
            .map(|waiting| waiting.member)
            .collect()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }
}
