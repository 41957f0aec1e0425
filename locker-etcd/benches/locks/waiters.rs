//! The sixteen waiters by the server's own lock service, for information.

use crate::raw::Service;
use locker_testkit::figures::{
    Failure, HOLD, Measuring, PROCESSES, ROUNDS, Spread, Target, WAITERS_EACH, sleeps,
};
use std::time::Instant;

pub(crate) async fn by_service(measuring: &mut Measuring, url: &str) -> Result<(), Failure> {
    let mut services = Vec::new();
    for _ in 0..PROCESSES {
        services.push(Service::open(url, WAITERS_EACH).await?);
    }
    let mut ratios = Vec::new();
    // The first one warms up.
    for round in 0..=ROUNDS {
        measuring.doing(format!(
            "16 waiters of the service: round {round} of {ROUNDS}"
        ));
        let begun = Instant::now();
        let waiters = services.iter().flat_map(Service::each);
        let waiting: Vec<_> = waiters
            .map(|mut one| {
                tokio::spawn(async move {
                    let key = one.lock("bench-service").await?;
                    tokio::time::sleep(HOLD).await;
                    one.unlock(key).await
                })
            })
            .collect();
        for waiter in waiting {
            waiter.await??;
        }
        let took = begun.elapsed().as_secs_f64();
        let sleeps = sleeps().await;
        if round > 0 {
            ratios.push(took / sleeps);
        }
    }
    let what = "the same by the server's own lock service, to 16 sleeps";
    measuring
        .report
        .ratio(what, Spread::of(ratios), Target::None);
    Ok(())
}
