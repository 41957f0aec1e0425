//! Foreign bytes under a key: a typed error for that key, no panic, no grant, no harm to others
//! (S11, CU-20, F24).

use crate::case::{Case, LONG, Process, refused_as_corrupt};
use crate::fixture::Planted;
use locker_core::Key;
use locker_core::backend::{Observed, Page, Standing};
use locker_core::{Effect, ErrorKind, OwnerHash};

/// Everything that anybody may ask about the key is refused, and the bytes stay where they are.
async fn is_refused(case: &Case, planted: Planted) {
    let process = case.process().await;
    let key = case.key();
    if !case.plant(&key, planted).await {
        return;
    }
    let owner = process.owner(&key);
    for round in 0..2 {
        let backend = process.backend();
        let claim = process.claim(&owner, LONG);
        let what = |method: &str| format!("{method} over {planted:?} (round {round})");
        refused_as_corrupt(backend.try_create(&claim).await, &what("try_create"));
        let forged = Observed::new(owner.as_str());
        refused_as_corrupt(backend.take_over(&claim, &forged).await, &what("take_over"));
        refused_as_corrupt(backend.read_lock(&key).await, &what("read_lock"));
    }
    others_are_unharmed(case, &process).await;
}

async fn others_are_unharmed(case: &Case, process: &Process) {
    let grant = process.acquire(&case.key()).await;
    assert_eq!(process.extend(&grant.owner, LONG).await, Standing::Mine);
}

/// Bytes that are no record at all.
pub async fn garbage_is_an_error_and_no_grant(case: Case) {
    is_refused(&case, Planted::Garbage).await;
}

/// A record of a later release is never taken over: nobody knows what its owner was promised.
pub async fn a_newer_format_is_never_taken_over(case: Case) {
    is_refused(&case, Planted::NewerFormat).await;
}

/// A record that names the owner of another key is nobody's grant.
pub async fn a_record_of_another_key_is_no_grant(case: Case) {
    is_refused(&case, Planted::OtherKey).await;
}

/// An owner hash that does not parse (CU-18, CU-20).
pub async fn a_malformed_owner_is_no_grant(case: Case) {
    is_refused(&case, Planted::MalformedOwner).await;
}

/// A token that is no positive number would fence nobody.
pub async fn a_bad_token_is_no_grant(case: Case) {
    is_refused(&case, Planted::BadToken).await;
}

/// Attack 3, 33c: one bad member of a batch has its own error, and the others their answers.
pub async fn a_corrupt_member_harms_no_other(case: Case) {
    for planted in Planted::ALL {
        let process = case.process().await;
        let [before, bad, after] = case.keys();
        let first = process.acquire(&before).await.owner;
        if !case.plant(&bad, planted).await {
            continue;
        }
        let last = process.acquire(&after).await.owner;
        let owners: Vec<OwnerHash> = vec![first, process.owner(&bad), last];
        let backend = process.backend();
        for (request, answer) in [
            ("extend", backend.extend(&owners, LONG).await),
            ("check", backend.check(&owners).await),
        ] {
            let reply = answer.unwrap_or_else(|error| {
                panic!("one corrupt member must not fail the whole {request}: {error:?}")
            });
            let mut members = reply.value.into_iter();
            let mut next = || members.next().expect("every member is answered");
            assert_eq!(next().expect("the first member is healthy"), Standing::Mine);
            match next() {
                Ok(standing) => panic!(
                    "{request} over {planted:?} finds no record of this release: that member \
                     should be an error of kind Corrupt, but is {standing:?}"
                ),
                Err(error) => {
                    assert_eq!(
                        error.kind(),
                        ErrorKind::Corrupt,
                        "{request} over {planted:?}"
                    );
                    assert_eq!(
                        error.effect(),
                        Effect::NotApplied,
                        "{request} over {planted:?}"
                    );
                }
            }
            assert_eq!(next().expect("the last member is healthy"), Standing::Mine);
        }
    }
}

/// S11: a listing shows what it cannot read as an error, and everything else as it is.
pub async fn a_corrupt_record_hides_no_other_from_a_listing(case: Case) {
    for planted in Planted::ALL {
        let process = case.process().await;
        let name = |suffix: &str| Key::new(format!("{planted:?}/{suffix}")).expect("a short key");
        let (before, bad, after) = (name("a"), name("b"), name("c"));
        process.acquire(&before).await;
        if !case.plant(&bad, planted).await {
            continue;
        }
        process.acquire(&after).await;
        let page = Page {
            after: None,
            limit: 10,
        };
        let items = process
            .list_locks(&format!("{planted:?}/"), &page)
            .await
            .items;
        let (readable, unreadable): (Vec<_>, Vec<_>) = items.into_iter().partition(Result::is_ok);
        assert_eq!(
            readable.len(),
            2,
            "both healthy locks are listed beside {planted:?}"
        );
        assert_eq!(unreadable.len(), 1, "{planted:?} is listed as an error");
        for error in unreadable.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{planted:?}");
        }
    }
}

/// S4, S11: an owner that releases, while foreign bytes stand under its key, harms and claims
/// nothing.
pub async fn a_release_over_foreign_bytes_is_not_done(case: Case) {
    use locker_core::backend::Released;
    for planted in Planted::ALL {
        let process = case.process().await;
        let key = case.key();
        if !case.plant(&key, planted).await {
            continue;
        }
        match process.backend().release(&process.owner(&key)).await {
            Ok(reply) => assert_ne!(reply.value, Released::Done, "{planted:?} is not its own"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{planted:?}: {error:?}"),
        }
        refused_as_corrupt(
            process.backend().read_lock(&key).await,
            "read_lock afterwards",
        );
    }
}
