//! What the primaries of a cluster say of it, to whoever has been told by one of them that a process is dead.
//!
//! # Who asks at once shares an answer
//!
//! All who wait for the locks of a process find it dead in the same moment. What they must know is what the
//! primaries say *after* that. So one question is under way, those who come meanwhile wait for the
//! next one, and share that: however many ask at once, two questions are asked.

use crate::cluster::nodes::{self, View};
use crate::connection::{Connection, OTHERS, next_by};
use futures_util::stream::FuturesUnordered;
use locker_core::BackendError;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Those whom one chart names.
#[derive(Debug, Default)]
pub(crate) struct Witnesses(Mutex<Option<Heard>>);

#[derive(Debug)]
struct Heard {
    /// When they were asked.
    begun: Instant,
    views: Arc<[View]>,
}

impl Witnesses {
    /// What they say, asked not earlier than now.
    ///
    /// # Cancel safety
    ///
    /// Whoever waits behind the one that is dropped asks himself.
    pub(crate) async fn hear<F>(&self, ask: impl FnOnce() -> F) -> Arc<[View]>
    where
        F: Future<Output = Vec<View>>,
    {
        let came = Instant::now();
        let mut heard = self.0.lock().await;
        match &*heard {
            Some(heard) if heard.begun >= came => Arc::clone(&heard.views),
            _ => {
                let begun = Instant::now();
                let views: Arc<[View]> = ask().await.into();
                *heard = Some(Heard {
                    begun,
                    views: Arc::clone(&views),
                });
                views
            }
        }
    }
}

/// What is said over these connections, until all have answered, or a while after most of so many primaries
/// have: who disagrees may only be slower than the others.
pub(crate) async fn ask(lines: impl Iterator<Item = Connection>, all: usize) -> Vec<View> {
    let mut asked: FuturesUnordered<_> = lines
        .map(|line| async move { nodes::ask(&line).await })
        .collect();
    let (mut views, mut until) = (Vec::new(), None);
    loop {
        match next_by(&mut asked, until).await {
            Some(Ok(view)) => views.push(view),
            Some(Err(error)) => note(&error),
            None => return views,
        }
        if 2 * views.len() > all && until.is_none() {
            until = Some(Instant::now() + OTHERS);
        }
    }
}

/// One that does not answer is in trouble. One that refuses may refuse for ever, and then nobody is called
/// dead: the user lacks a right that it did not need once.
fn note(error: &BackendError) {
    if error.kind().is_transient() {
        tracing::debug!(%error, "a primary of the cluster does not tell how it sees it now");
    } else {
        tracing::warn!(%error, "a primary of the cluster does not tell how it sees it");
    }
}

/// Whether the slot is that of the primary of this id, by what the primaries say: most of them, it itself
/// among them, who hear each other; and nobody says anything else. As many as this there are at least.
///
/// No voice has who is no primary, by his own word or by that of another who agrees; nor who does not hear
/// that primary. Who is cut off hears few, and tells what once was, for or against. Who stood still hears
/// everybody, as it was before, but those who went on know who took his place. And who votes for a replica
/// does so because he does not hear its primary, and says so until he knows what became of the vote.
pub(crate) fn agree(views: &[View], slot: u16, id: &str, at_least: usize) -> bool {
    let (mut agreeing, mut all) = (BTreeMap::new(), at_least);
    for view in views.iter().filter(|view| view.hears_most()) {
        if view.primary(slot).is_none_or(|primary| primary.id != id) {
            return false;
        }
        let myself = view.myself().filter(|myself| myself.is_primary());
        if let Some(myself) = myself.filter(|_| view.hears(id)) {
            agreeing.insert(myself.id.as_str(), view);
            // Others may know of more primaries than we do.
            all = all.max(view.primaries());
        }
    }
    let mut agreeing: Vec<_> = agreeing.into_iter().collect();
    // Of two who do not hear each other the one who hears more stays.
    agreeing.sort_by_key(|(who, view)| (*who != id, Reverse(view.heard())));
    let mut together: Vec<(&str, &View)> = Vec::new();
    for (who, view) in agreeing {
        let hear = |(other, of): &(&str, &View)| view.hears(other) && of.hears(who);
        if together.iter().all(hear) {
            together.push((who, view));
        }
    }
    let has_it = together.first().is_some_and(|(who, _)| *who == id);
    has_it && 2 * together.len() > all
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::{join_all, join3};
    use std::cell::Cell;
    use std::time::Duration;
    use tokio::sync::Notify;

    /// What `who` says of the owners of three slots, of which it does not hear some.
    fn view(who: &str, owners: [&str; 3], unheard: &[&str]) -> View {
        let mut nodes = vec![who];
        nodes.extend(owners.iter().filter(|owner| **owner != who));
        let lines = nodes.iter().map(|node| {
            let slots = owners
                .iter()
                .enumerate()
                .filter(|(_, owner)| *owner == node);
            let slots = slots.map(|(slot, _)| slot.to_string());
            let slots = slots.collect::<Vec<_>>().join(" ");
            let myself = if *node == who { "myself," } else { "" };
            let role = if slots.is_empty() { "slave" } else { "master" };
            let fail = if unheard.contains(node) { ",fail?" } else { "" };
            format!("{node} a:1@2 {myself}{role}{fail} - 0 0 1 connected {slots}\n")
        });
        View::parse(&lines.collect::<String>()).unwrap()
    }

    #[test]
    fn a_primary_is_one_of_which_most_that_hear_it_say_so_and_nobody_says_otherwise() {
        const OLD: [&str; 3] = ["p", "q", "r"];
        let p = || view("p", OLD, &[]);
        let q = || view("q", OLD, &[]);
        let r = || view("r", OLD, &[]);
        let cases = [
            ("all of them", vec![p(), q(), r()], true),
            ("one is silent", vec![p(), q()], true),
            ("it alone", vec![p()], false),
            ("one said it twice", vec![p(), p(), p()], false),
            ("it itself did not answer", vec![q(), r()], false),
            ("nobody answered", vec![], false),
            (
                "one that was replaced, and is cut off, hears nobody",
                vec![p(), view("q", OLD, &["p", "r"])],
                false,
            ),
            (
                "one has heard of the replacement, and is the last that is asked",
                vec![p(), q(), view("r", ["s", "t", "r"], &[])],
                false,
            ),
            (
                "one may be voting",
                vec![p(), view("q", OLD, &["p"])],
                false,
            ),
            (
                "one does not hear it, and two do",
                vec![p(), view("q", OLD, &["p"]), r()],
                true,
            ),
            (
                "one does not hear another",
                vec![p(), view("q", OLD, &["r"])],
                true,
            ),
            (
                "one has become a replica",
                vec![p(), view("q", ["p", "t", "r"], &[])],
                false,
            ),
            (
                "it has become a replica itself",
                vec![view("p", ["s", "q", "r"], &[]), q(), r()],
                false,
            ),
            (
                "one was replaced while it stood still, and goes on together with the other, who knows",
                vec![view("p", ["p", "t", "r"], &[]), q()],
                false,
            ),
            (
                "two do not hear each other, and hear it",
                vec![p(), view("q", OLD, &["r"]), view("r", OLD, &["q"])],
                true,
            ),
            (
                "one is cut off, and has not heard how the slot came to it",
                vec![p(), q(), view("r", ["t", "q", "r"], &["t", "q"])],
                true,
            ),
            (
                "one hears most, and has another word",
                vec![p(), q(), view("r", ["t", "q", "r"], &["t"])],
                false,
            ),
            (
                "it is cut off itself",
                vec![view("p", OLD, &["q", "r"]), q(), r()],
                false,
            ),
            (
                "nobody has the slot, says one",
                vec![
                    p(),
                    q(),
                    View::parse("r a:1@2 myself,master - 0 0 1 connected 2").unwrap(),
                ],
                false,
            ),
        ];
        for (name, views, expected) in cases {
            assert_eq!(agree(&views, 0, "p", 3), expected, "{name}");
        }
        assert!(!agree(&[p(), q(), r()], 0, "p", 6), "the chart has more");
        let more = "q a:1@2 myself,master - 0 0 1 connected 1\np a:1@2 master - 0 0 1 connected 0\n\
            r a:1@2 master - 0 0 1 connected 2\ns a:1@2 master - 0 0 1 connected 3\n";
        let knows_more = View::parse(more).unwrap();
        assert!(!agree(&[p(), knows_more], 0, "p", 3), "one knows of more");
    }

    /// One is under way when the others come, so what it hears may be from before. They share the next.
    #[tokio::test]
    async fn however_many_ask_at_once_two_questions_are_asked() {
        let (witnesses, asked) = (Witnesses::default(), Cell::new(0));
        let answer = Notify::new();
        let hear = || {
            witnesses.hear(async || {
                asked.set(asked.get() + 1);
                answer.notified().await;
                answer.notify_one();
                vec![View::parse("").unwrap(); asked.get()]
            })
        };
        let answering = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer.notify_one();
        };
        let later = join_all((0..1000).map(|_| hear()));
        let (first, later, ()) = join3(hear(), later, answering).await;
        assert_eq!(first.len(), 1);
        assert!(later.iter().all(|heard| heard.len() == 2));
        assert_eq!(asked.get(), 2);
        // Nothing is remembered for who comes afterwards.
        assert_eq!(hear().await.len(), 3);
    }
}
