//! The operations on locks. Each is one member of the script, whose steps are in
//! `scripts/lock.lua`; here are the arguments, and what the answers mean.
//!
//! # Requests that arrive twice, or late
//!
//! The client of a cluster may send a request again, and a network may deliver one long after its
//! sender gave up. Neither repeats an effect:
//!
//! | operation | why |
//! | --- | --- |
//! | create, take over | bears `not_after`: later it is refused. In time it is idempotent under its owner hash, which is used for one acquisition only; if the lock was released meanwhile, the owner is unsettled, and is released again until `not_after` has passed |
//! | extend | only for this owner, only while unexpired, and it never shortens |
//! | release, settle, mark | only for this owner, whose hash is never used again |
//! | check, read | change nothing |
//! | wake | says again what may be said at any time |
//! | enrol | the second one finds the first by its number, or is a stranger to its mailbox, which withdraws it at its first hint |
//! | withdraw | names the enrolment as well as its number |

use crate::cluster::primaries::{Death, STRAGGLER, Waits};
use crate::connection::bounded;
use crate::error;
use crate::reply;
use crate::script::{Answered, Argument, Member};
use crate::session::Session;
use locker_core::backend::{
    Answer, Claim, Claimed, Force, Held, Liveness, Observed, Released, Reply, Settlement, Standing,
};
use locker_core::{BackendError, Key, OwnerHash, StoreTime, Token};
use redis::Value;
use std::time::Duration;

/// A duration as the scripts take it: whole microseconds, never less than was asked; or more than the
/// scripts can count to, which they cut.
pub(crate) fn micros(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

fn claim_arguments(claim: &Claim) -> [Argument; 4] {
    [
        Argument::Owner(claim.owner.clone()),
        Argument::Process(claim.owner.process().clone()),
        Argument::Number(micros(claim.ttl)),
        Argument::Number(claim.not_after.as_micros()),
    ]
}

impl Session {
    pub(crate) async fn try_create(&self, claim: &Claim) -> Answer<Claimed> {
        let member = self.member(claim.key(), "create", claim_arguments(claim));
        let answer = self.claimed(claim, &self.send_one(member).await?)?;
        self.with_claims_holder(answer).await
    }

    /// On a cluster a refused claimant learns in a second request how long the holder's process
    /// lives: that is when it asks again. If that cannot be read now, the refusal stands without it;
    /// also if it cannot be read soon. The refusal is an answer, and a primary that hangs must not cost
    /// it: the caller's time would run out over what was only added to it. (It does where the claim itself
    /// has taken nearly all of that time, which only the caller knows.)
    async fn with_claims_holder(&self, answer: Reply<Claimed>) -> Answer<Claimed> {
        let Reply { value, store_time } = answer;
        let value = match value {
            Claimed::Held(held) if held.holder.is_none() => {
                // Boxed: a claim that is granted needs no room for it.
                let with_holder = Box::pin(self.with_holder(held.clone()));
                let with_holder = bounded(STRAGGLER, with_holder);
                Claimed::Held(with_holder.await.unwrap_or(held))
            }
            other => other,
        };
        Ok(Reply { value, store_time })
    }

    pub(crate) async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        if self.connection.is_cluster() {
            return self.take_over_in_two(claim, observed).await;
        }
        self.replace(claim, observed.as_str()).await
    }

    async fn replace(&self, claim: &Claim, observed: &str) -> Answer<Claimed> {
        let observed = [Argument::Text(observed.to_owned())];
        let arguments = claim_arguments(claim).into_iter().chain(observed);
        let member = self.member(claim.key(), "take_over", arguments);
        self.claimed(claim, &self.send_one(member).await?)
    }

    /// On a cluster the process lies on another node. It is read first, on its primary, after the
    /// lock was observed; then the record is replaced if it is still the observed one. That is
    /// sound because death is one-way: a process that was found dead never lives again, so nothing
    /// that happens between the two requests can make the observed record a living owner's.
    async fn take_over_in_two(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        let holder = reply::observed_owner(observed);
        let dead = match &holder {
            Some(owner) => self.look(owner).await?.0 == Liveness::Dead,
            None => false,
        };
        // A living holder's record is nobody's version.
        let version = if dead { observed.as_str() } else { "" };
        let answer = self.replace(claim, version).await?;
        self.with_claims_holder(answer).await
    }

    /// How the holder's process stands. One that was found dead is not asked about again, because
    /// death is one-way.
    async fn look(&self, owner: &OwnerHash) -> Result<(Liveness, Duration), BackendError> {
        let process = owner.process();
        if self.shared.dead.knows(process) {
            return Ok((Liveness::Dead, Duration::ZERO));
        }
        let looked = self.look_at_process(process, Death::IsFinal).await?.value;
        if looked.0 == Liveness::Dead {
            self.shared.dead.note(process);
        }
        Ok(looked)
    }

    /// Adds what is known of the holder's process where the script could not see it.
    pub(crate) async fn with_holder(&self, held: Held) -> Result<Held, BackendError> {
        if held.holder.is_some() {
            return Ok(held);
        }
        let (liveness, left) = self.look(&held.data.owner).await?;
        Ok(Held {
            holder: Some(liveness),
            free_in: held.free_in.min(left),
            ..held
        })
    }

    fn claimed(&self, claim: &Claim, answered: &Answered) -> Answer<Claimed> {
        let Answered { time, fields } = answered;
        let claimed = match reply::word(fields) {
            Some("granted") => {
                // Without one it is the time of the answer.
                let token = match fields.get(1) {
                    Some(token) => reply::number(token),
                    None => Some(time.as_micros()),
                };
                let token = token.ok_or_else(|| error::unexpected("a claim"))?;
                self.shared.grants.granted(&claim.owner);
                Claimed::Granted(Token::new(token))
            }
            Some("held") => Claimed::Held(reply::held(*time, claim.key(), fields)?),
            Some("absent") => Claimed::Absent,
            Some("late") => Claimed::TooLate,
            Some("dead") => Claimed::OwnerDead,
            _ => return Err(error::unexpected("a claim")),
        };
        Ok(Reply::at(*time, claimed))
    }

    pub(crate) async fn extend(
        &self,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        let ttl = Argument::Number(micros(ttl));
        self.standings(owners, "extend", |owner| {
            vec![Argument::Owner(owner.clone()), ttl.clone()]
        })
        .await
    }

    pub(crate) async fn check(
        &self,
        owners: &[OwnerHash],
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        self.standings(owners, "check", |owner| {
            vec![Argument::Owner(owner.clone())]
        })
        .await
    }

    async fn standings(
        &self,
        owners: &[OwnerHash],
        operation: &'static str,
        arguments: impl Fn(&OwnerHash) -> Vec<Argument>,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        let members = owners
            .iter()
            .map(|owner| self.member(owner.key(), operation, arguments(owner)));
        let answers = self
            .send_all(members.collect(), Waits::NotForStragglers)
            .await?;
        // The earliest: nothing is promised for longer than by any of the answers.
        let time = answers.iter().flatten().map(|answered| answered.time).min();
        let standings = answers.into_iter().zip(owners).map(|(answer, owner)| {
            let standing = reply::standing(owner.key(), &answer?.fields)?;
            if matches!(standing, Standing::Absent | Standing::Held(_)) {
                self.shared.grants.gone(owner);
            }
            Ok(standing)
        });
        Ok(Reply {
            value: standings.collect(),
            store_time: time,
        })
    }

    pub(crate) async fn release(&self, owner: &OwnerHash) -> Answer<Released> {
        self.release_by("release", owner).await
    }

    pub(crate) async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released> {
        match force {
            Force::Mark => self.release_by("mark", owner).await,
            Force::Now => self.release_by("release", owner).await,
        }
    }

    async fn release_by(&self, operation: &'static str, owner: &OwnerHash) -> Answer<Released> {
        let answered = self.send_one(self.of_owner(operation, owner)).await?;
        self.released(operation, owner, &answered)
    }

    fn of_owner(&self, operation: &'static str, owner: &OwnerHash) -> Member {
        self.member(owner.key(), operation, [Argument::Owner(owner.clone())])
    }

    fn released(
        &self,
        operation: &str,
        owner: &OwnerHash,
        answered: &Answered,
    ) -> Answer<Released> {
        let released = reply::released(owner.key(), &answered.fields)?;
        if operation == "release" || released != Released::Done {
            self.shared.grants.gone(owner);
        }
        Ok(Reply::at(answered.time, released))
    }

    /// The server does one thing at a time, and reads one clock: a claim that comes after this
    /// release, which saw `not_after` pass, is too late by itself. On a cluster that is so of the primary
    /// of the lock, and of nobody whom it has replaced: the claim may lie with the one, and the release
    /// have come to the other. So that is looked at, as for a death, and of whoever has answered.
    pub(crate) async fn settle(
        &self,
        owner: &OwnerHash,
        not_after: StoreTime,
    ) -> Answer<Settlement> {
        const RELEASE: &str = "release";
        let (answered, by) = self.send_to_whom(self.of_owner(RELEASE, owner)).await?;
        let released = self.released(RELEASE, owner, &answered)?;
        let is_final = answered.time > not_after && by.is_sure().await;
        Ok(released.map(if is_final {
            Settlement::Final
        } else {
            Settlement::Open
        }))
    }

    /// What is known of the holder's process is added if it can be had soon, as for a claim. Who needs it
    /// asks for it.
    pub(crate) async fn read_lock(&self, key: &Key) -> Answer<Option<Held>> {
        let Answered { time, fields } = self.send_one(self.member(key, "read", [])).await?;
        let Some(held) = read(time, key, &fields)? else {
            return Ok(Reply::at(time, None));
        };
        let held = match bounded(STRAGGLER, self.with_holder(held.clone())).await {
            Ok(held) => held,
            Err(error) if error.kind().is_transient() => held,
            Err(error) => return Err(error),
        };
        Ok(Reply::at(time, Some(held)))
    }
}

/// What `read` answers.
pub(crate) fn read(
    time: StoreTime,
    key: &Key,
    fields: &[Value],
) -> Result<Option<Held>, BackendError> {
    match reply::word(fields) {
        Some("absent") => Ok(None),
        Some("held") => reply::held(time, key, fields).map(Some),
        _ => Err(error::unexpected("a read")),
    }
}
