//! Mistakes in the life of processes.

use super::{locked, mistakes};
use locker_core::backend::{Birth, Liveness, Renewal};
use locker_core::{BackendError, Effect, ErrorKind, Host, ProcessData, ProcessHash, StoreTime};
use std::collections::BTreeSet;
use std::time::Duration;

mistakes! {
    "a renewal is acknowledged, whatever it found",
    "process::a_lapsed_process_is_not_renewed" => RenewsTheDead {} {
        renew_process(self, store, process, ttl) {
            let reply = store.renew_process(process, ttl).await?;
            Ok(reply.map(|_| Renewal::Renewed { valid_for: ttl }))
        }
    }

    "a renewal writes the record of a process that never was",
    "process::an_unborn_process_is_not_renewed" => RenewsTheUnborn {} {
        renew_process(self, store, process, ttl) {
            let reply = store.renew_process(process, ttl).await?;
            if reply.value == Renewal::Gone {
                store.create_process(process, ttl).await?;
            }
            Ok(reply)
        }
    }

    "a renewal is acknowledged and forgotten",
    "process::a_renewal_prolongs_life" => ForgetsTheRenewal {} {
        renew_process(self, store, process, ttl) {
            let liveness = store.read_process(process).await?;
            Ok(liveness.map(|liveness| match liveness {
                Liveness::Dead => Renewal::Gone,
                _ => Renewal::Renewed { valid_for: ttl },
            }))
        }
    }

    "a process that was renewed once never dies: a forgotten TTL",
    "process::death_is_one_way_under_a_race_of_renewals" => RenewsForEver {} {
        renew_process(self, store, process, ttl) {
            let for_ever = Duration::from_secs(24 * 3600);
            Ok(store.renew_process(process, for_ever).await?.map(|renewal| match renewal {
                Renewal::Renewed { .. } => Renewal::Renewed { valid_for: ttl },
                Renewal::Gone => Renewal::Gone,
            }))
        }
    }

    "a second birth prolongs the first (attack 7a)",
    "process::a_second_birth_changes_nothing" => BirthRenews {} {
        create_process(self, store, process, ttl) {
            let reply = store.create_process(process, ttl).await?;
            if reply.value == Birth::Exists {
                store.renew_process(process, ttl).await?;
            }
            Ok(reply)
        }
    }

    "a name is born as often as one likes (attack 6c)",
    "process::a_retired_name_is_never_born_again" => IsBornAgain {} {
        create_process(self, store, process, ttl) {
            let reply = store.create_process(process, ttl).await?;
            Ok(reply.map(|_| Birth::Created { valid_for: ttl }))
        }
    }

    "a birth looks, and then writes: not atomic",
    "process::simultaneous_births_have_one_winner" => LooksThenIsBorn {
        known: BTreeSet<ProcessHash>,
    } {
        create_process(self, store, process, ttl) {
            let known = locked(&self.known).contains(process);
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            locked(&self.known).insert(process.clone());
            let reply = store.create_process(process, ttl).await?;
            Ok(reply.map(|birth| if known { birth } else { Birth::Created { valid_for: ttl } }))
        }
    }

    "a process lives a quarter less than was guaranteed",
    "process::a_process_does_not_die_early" => LivesLess {} {
        create_process(self, store, process, ttl) {
            let reply = store.create_process(process, ttl * 3 / 4).await?;
            Ok(reply.map(|birth| match birth {
                Birth::Created { .. } => Birth::Created { valid_for: ttl },
                Birth::Exists => Birth::Exists,
            }))
        }
    }

    "a second retirement fails, because there is nothing to delete",
    "process::a_retirement_is_repeatable" => RetiresOnce {} {
        retire_process(self, store, process) {
            if store.read_process(process).await?.value == Liveness::Dead {
                let text = "no such process";
                return Err(BackendError::new(ErrorKind::Rejected, Effect::NotApplied, text));
            }
            store.retire_process(process).await
        }
    }

    "an unknown process may be dead or not",
    "process::the_unborn_are_dead" => IsNotSure { known: BTreeSet<ProcessHash> } {
        create_process(self, store, process, ttl) {
            locked(&self.known).insert(process.clone());
            store.create_process(process, ttl).await
        }
        read_process(self, store, process) {
            let reply = store.read_process(process).await?;
            let known = locked(&self.known).contains(process);
            Ok(reply.map(|liveness| if known { liveness } else { Liveness::Unknown }))
        }
    }

    "a living process is shown under another's name",
    "process::the_born_live" => ShowsAnother {} {
        read_process(self, store, process) {
            let host = Host::new("elsewhere").expect("a host name");
            let other = ProcessHash::new(&host, 1, 1);
            Ok(store.read_process(process).await?.map(|liveness| match liveness {
                Liveness::Alive(data) => Liveness::Alive(ProcessData { process: other, ..data }),
                other => other,
            }))
        }
    }

    "the store's time stands still",
    "read::the_store_time_advances" => StandsStill { first: Option<StoreTime> } {
        read_process(self, store, process) {
            let mut reply = store.read_process(process).await?;
            let mut first = locked(&self.first);
            *first = first.or(reply.store_time);
            reply.store_time = *first;
            Ok(reply)
        }
    }

    "a sweep forgets the living",
    "sweep::a_sweep_keeps_the_living" => SweepsTheLiving {} {
        sweep(self, store, retention) {
            let page = locker_core::backend::Page { after: None, limit: 100 };
            if retention.is_zero() {
                let living = store.list_processes(&page).await?.value.items;
                for process in living.into_iter().flatten().skip(1) {
                    store.retire_process(&process.process).await?;
                }
            }
            store.sweep(retention).await
        }
    }

    "a sweep counts what it looked at",
    "sweep::a_sweep_takes_only_the_old" => CountsWhatItSaw {} {
        sweep(self, store, retention) { Ok(store.sweep(retention).await?.map(|swept| swept + 1)) }
    }

    "a sweep forgets what is held",
    "sweep::a_sweep_keeps_what_is_held" => SweepsTheHeld {} {
        sweep(self, store, retention) {
            let page = locker_core::backend::Page { after: None, limit: 100 };
            let held = store.list_locks("", &page).await?.value.items;
            for held in held.into_iter().flatten() {
                store.release(&held.data.owner).await?;
            }
            store.sweep(retention).await
        }
    }
}
