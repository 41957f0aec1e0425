//! The slots of a cluster, by whoever knows best.
//!
//! The first node that answers may be the nearest one, and it may be the nearest each time: if it is cut off
//! from the others, or was replaced while it stood still, it tells what once was so, and the chart stays old
//! for ever. So the others have a moment, too.
//!
//! # Who knows best
//!
//! Of two views the one of the greater epoch is newer (`nodes`). It counts more than how many share a view:
//! where one primary of three was replaced and is cut off, and another is silent, it is one against one; and
//! of those who have voted for a replica most may not have heard yet that it was promoted. Between views of
//! the same epoch, which differ while a word gets around, and where the epoch cannot be had, because the user
//! lacks the right to `CLUSTER NODES`, most are right more often than not.
//!
//! The client of the cluster asks a node that it does not name. What it is told has no epoch, so it is
//! believed where nothing else is known: when nobody has been reached yet, or nobody can be any more.

use crate::cluster::nodes;
use crate::cluster::slots::{self, Range};
use crate::connection::{Connection, OTHERS, next_by};
use futures_util::future::join;
use futures_util::stream::FuturesUnordered;
use locker_core::BackendError;
use std::cmp::Reverse;
use tokio::time::Instant;

/// What somebody has said of the slots.
#[derive(Debug)]
struct Said {
    ranges: Vec<Range>,
    epoch: u64,
}

/// The slots, asked by the connections to single nodes and by the client of the cluster.
///
/// # Errors
///
/// When nobody answers.
pub(crate) async fn ask(
    lines: impl Iterator<Item = Connection>,
    client: Connection,
) -> Result<Vec<Range>, BackendError> {
    let mut asked: FuturesUnordered<_> = lines
        .chain([client])
        .map(|way| Box::pin(async move { ask_one(&way).await }))
        .collect();
    let (mut said, mut error, mut until) = (Vec::new(), None, None);
    loop {
        match next_by(&mut asked, until).await {
            Some(Ok(one)) => {
                said.push(one);
                until.get_or_insert_with(|| Instant::now() + OTHERS);
            }
            Some(Err(cause)) => error = Some(cause),
            None => break,
        }
    }
    newest(said).ok_or_else(|| {
        error.unwrap_or_else(|| crate::error::unavailable("no node of the cluster was asked"))
    })
}

async fn ask_one(way: &Connection) -> Result<Said, BackendError> {
    if way.is_cluster() {
        let (ranges, epoch) = (slots::ask(way).await?, 0);
        return Ok(Said { ranges, epoch });
    }
    // The epoch first: then the slots are at least as new as it says.
    let (view, ranges) = join(nodes::ask(way), slots::ask(way)).await;
    let (ranges, epoch) = (ranges?, view.map_or(0, |view| view.epoch()));
    Ok(Said { ranges, epoch })
}

/// What was said under the greatest epoch; of several such views the one that most share, and of these the
/// first that names most addresses: a node may not know its own yet.
fn newest(said: Vec<Said>) -> Option<Vec<Range>> {
    let epoch = said.iter().map(|said| said.epoch).max()?;
    let views = said.into_iter().filter(|said| said.epoch == epoch);
    let views: Vec<_> = views.map(|said| said.ranges).collect();
    let shared = |view: &[Range]| views.iter().filter(|other| is_same(view, other)).count();
    let nameless = |view: &[Range]| view.iter().filter(|it| it.primary.is_none()).count();
    // `min_by_key` takes the first of several.
    let best = (0..views.len())
        .min_by_key(|place| (Reverse(shared(&views[*place])), nameless(&views[*place])));
    best.and_then(|best| views.into_iter().nth(best))
}

/// The addresses do not count.
fn is_same(a: &[Range], b: &[Range]) -> bool {
    let owned = |range: &Range| (range.first, range.last, range.id.clone());
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| owned(a) == owned(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_view_is_believed_and_then_the_one_that_most_share() {
        let said = |epoch, id: &str, port| {
            let range = Range {
                first: 0,
                last: 99,
                id: id.to_owned(),
                primary: Some(("h".to_owned(), port)),
            };
            let ranges = vec![range];
            Said { ranges, epoch }
        };
        let cases = [
            ("nobody", vec![], None),
            ("the client alone", vec![said(0, "p", 1)], Some(1)),
            (
                "the first is old",
                vec![said(3, "p", 1), said(4, "s", 2)],
                Some(2),
            ),
            (
                "most are old",
                vec![said(3, "p", 1), said(3, "p", 1), said(4, "s", 2)],
                Some(2),
            ),
            (
                "the client is no witness",
                vec![said(0, "p", 1), said(0, "p", 1), said(1, "s", 2)],
                Some(2),
            ),
            (
                "no epochs, and the first is alone",
                vec![said(0, "p", 1), said(0, "s", 2), said(0, "s", 3)],
                Some(2),
            ),
            (
                "one against one",
                vec![said(4, "s", 2), said(4, "p", 1)],
                Some(2),
            ),
        ];
        let nameless = |mut said: Said| {
            said.ranges[0].primary = None;
            said
        };
        let one_does_not_know_itself = (
            "the first does not know its own address",
            vec![nameless(said(1, "p", 0)), said(1, "p", 1)],
            Some(1),
        );
        for (name, said, expected) in cases.into_iter().chain([one_does_not_know_itself]) {
            let ranges = newest(said);
            let port = ranges.map(|ranges| ranges[0].primary.clone().unwrap().1);
            assert_eq!(port, expected, "{name}");
        }
    }
}
