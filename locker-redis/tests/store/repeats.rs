//! What a client library, or a network, sends a second time repeats no effect (attacks 1, 3, 6c).

use super::*;
use locker_core::backend::{Birth, Force, Released, Renewal, Standing};

/// Every operation twice, the second one when others have gone on.
#[tokio::test]
async fn what_is_sent_twice_has_one_effect() {
    for url in urls() {
        let namespace = fresh("repeats");
        let a = Process::born(&url, &namespace).await;
        let b = Process::born(&url, &namespace).await;
        let first = a.owner("k");
        let created = a.create(&first).await.unwrap();
        assert_eq!(a.create(&first).await.unwrap(), created, "the same token");
        for _ in 0..2 {
            let owners = [first.clone()];
            let extended = a.backend.extend(&owners, LONG).await.unwrap().value;
            assert_eq!(*extended[0].as_ref().unwrap(), Standing::Mine);
        }
        for _ in 0..2 {
            let marked = b
                .backend
                .force_release(&first, Force::Mark)
                .await
                .unwrap()
                .value;
            assert_eq!(marked, Released::Done);
        }
        assert_eq!(
            a.backend.release(&first).await.unwrap().value,
            Released::Done
        );
        assert_eq!(
            a.backend.release(&first).await.unwrap().value,
            Released::Absent
        );
        let second = b.acquire("k").await;
        // Late: the lock is another's.
        let late = a.backend.release(&first).await.unwrap().value;
        assert_eq!(late, Released::Held(second.clone()));
        let late = a
            .backend
            .extend(std::slice::from_ref(&first), LONG * 9)
            .await
            .unwrap()
            .value;
        assert_eq!(*late[0].as_ref().unwrap(), Standing::Held(second.clone()));
        let late = a
            .backend
            .force_release(&first, Force::Mark)
            .await
            .unwrap()
            .value;
        assert_eq!(late, Released::Held(second.clone()));
        let held = a.backend.read_lock(&key("k")).await.unwrap().value.unwrap();
        assert!(!held.marked && held.free_in <= LONG, "{held:?}");

        b.backend.retire_process(&b.hash).await.unwrap();
        b.backend.retire_process(&b.hash).await.unwrap();
        let heir = claim(&a.owner("k"));
        let taken = a
            .backend
            .take_over(&heir, &held.observed)
            .await
            .unwrap()
            .value;
        let again = a
            .backend
            .take_over(&heir, &held.observed)
            .await
            .unwrap()
            .value;
        assert_eq!(token(&taken), token(&again));
        // Late: the version that was observed is no more.
        let other = a.owner("k");
        let late = a
            .backend
            .take_over(&claim(&other), &held.observed)
            .await
            .unwrap()
            .value;
        assert!(matches!(late, Claimed::Held(_)), "{late:?}");

        let born = a
            .backend
            .create_process(&a.hash, LONG * 9)
            .await
            .unwrap()
            .value;
        assert_eq!(born, Birth::Exists, "a second birth");
        let born = b.backend.create_process(&b.hash, LONG).await.unwrap().value;
        assert_eq!(born, Birth::Exists, "a birth after the death");
        let renewed = b.backend.renew_process(&b.hash, LONG).await.unwrap().value;
        assert_eq!(renewed, Renewal::Gone, "a renewal after the death");
    }
}

/// A server that has forgotten the scripts is told them again, whatever is asked first.
#[tokio::test]
async fn forgotten_scripts_are_told_again() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let forget = || server.node().command(&["SCRIPT", "FLUSH"]).unwrap();
    forget();
    let owner = a.acquire("k").await;
    forget();
    a.backend.renew_process(&a.hash, LONG).await.unwrap();
    forget();
    let owners = [owner.clone()];
    let standings = a.backend.check(&owners).await.unwrap().value;
    assert_eq!(*standings[0].as_ref().unwrap(), Standing::Mine);
    forget();
    assert_eq!(
        a.backend.release(&owner).await.unwrap().value,
        Released::Done
    );
}
