//! A connection to a primary breaks: what a crowd had sent over it is of unknown effect, and everything else
//! goes on.

use super::crowd::*;
use super::*;
use futures_util::future::join_all;
use locker_core::backend::Released;
use locker_core::{Effect, ErrorKind};

/// A connection that breaks while nothing is in flight is noticed, and opened again.
#[tokio::test]
async fn a_broken_connection_of_a_crowd_is_replaced() {
    let crowd = Crowd::with_pipelines().await;
    for (node, lines) in crowd.servers.nodes().iter().zip(crowd.lines()) {
        node.command(&["CLIENT", "KILL", "ID", &lines[0].number])
            .unwrap();
    }
    assert!(crowd.lines().iter().all(Vec::is_empty));
    tokio::time::sleep(Duration::from_millis(200)).await;
    crowd.acquires_and_releases("crowd").await;
    crowd.has_pipelines().await;
}

/// What was in flight on a connection that breaks is of unknown effect, and is not done twice: a
/// second release would say that the lock was gone. The first that is asked of a primary is sent by
/// its own caller, the second alone by a task of the gate, and the others together.
#[tokio::test]
async fn what_a_connection_that_breaks_has_carried_is_not_sent_again() {
    let crowd = Crowd::new().await;
    let process = &crowd.process;
    let node = &crowd.servers.nodes()[0];
    for together in [1, 2, MANY / 2] {
        let texts = crowd.texts_at(0, &format!("lost{together}/"), together);
        let owners = join_all(texts.iter().map(|text| process.acquire(text))).await;
        let release = |owner| process.backend.release(owner);
        let releasing = join_all(owners.iter().map(release));
        // All connections, also that of the client of the cluster, which would send it again.
        let all = ["TYPE", "normal", "SKIPME", "yes"];
        let released = cut_while_asking(node, releasing, &all).await;
        let mut unknown = 0;
        for (place, (released, text)) in released.into_iter().zip(&texts).enumerate() {
            match released {
                // What was still in the queue has gone another way.
                Ok(released) => {
                    assert!(place > 1, "{place} of {together} was not in flight");
                    assert_eq!(released.value, Released::Done);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
                    assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
                    unknown += 1;
                }
            }
            let left = process.backend.read_lock(&key(text)).await.unwrap().value;
            assert!(left.is_none(), "{text} was released");
        }
        assert!(unknown >= together.min(3), "{unknown} of {together}");
        crowd.has_pipelines().await;
    }
}

/// A batch of which nothing was answered is no sign of life: it has failed as a whole, and the connections
/// that did not break stay open. It is one of two, which are both in flight: what is in the queue when the
/// connection breaks goes another way, and is answered.
#[tokio::test]
async fn a_batch_that_lies_on_the_connection_that_breaks_fails_as_a_whole() {
    let crowd = Crowd::with_pipelines().await;
    let process = &crowd.process;
    let node = &crowd.servers.nodes()[0];
    let texts = crowd.texts_at(0, "whole", 2);
    let owners = join_all(texts.iter().map(|text| process.acquire(text))).await;
    let line = crowd.lines()[0].remove(0).number;
    let extending = process.backend.extend(&owners, LONG);
    let error = cut_while_asking(node, extending, &["ID", &line]).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
    assert!(error.is_unanswered(), "{error:?}");
}

/// One connection of many broke, and is replaced by itself: the locker does not close the others,
/// on which somebody waits for an answer.
#[tokio::test]
async fn a_pipeline_that_breaks_costs_a_locker_no_other_connection() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let (locker, told) = locker(&servers).await;
    holds_in_pipelines(&servers, &locker).await;
    let (opened, node) = (told.opened(), &servers.nodes()[0]);
    assert!(told.errors().is_empty());
    let line = lines(node).remove(0).number;
    cut_while_asking(node, hold_many(&locker, "cut"), &["ID", &line]).await;
    let errors = told.errors();
    assert!(!errors.is_empty(), "nothing was in flight");
    for error in errors {
        let told = (error.kind(), error.effect());
        assert_eq!(told, (ErrorKind::Busy, Effect::Unknown));
        assert!(error.is_unanswered(), "{error:?}");
    }
    holds_in_pipelines(&servers, &locker).await;
    assert_eq!(told.opened(), opened, "the store was opened anew");
    locker.terminate(PATIENCE).await.unwrap();
}
