//! The cases are proved: stores that differ from a right one in one method are each rejected, by
//! the case about that difference and by few others. The test prints who rejects whom, and which
//! cases have rejected nobody yet.

mod stores;

use locker_testkit::CASES;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use stores::{Broken, Row, Spoiled};

/// A case that rejects everything proves nothing.
const AT_MOST: usize = 5;

/// The names of the cases that a store does not pass.
fn rejecting(row: &Row) -> BTreeSet<&'static str> {
    let rejecting = CASES.iter().filter(|case| !(row.passes)(**case));
    rejecting.map(|case| case.name).collect()
}

/// A store without a mistake passes, so it is the mistake that is rejected and not the wrapper.
#[test]
fn a_store_without_a_mistake_passes() {
    for case in CASES {
        let passes = stores::passes::<Broken<stores::Faithful>>(*case);
        assert!(passes, "{} rejects a right store", case.name);
        let passes = stores::passes::<Spoiled<stores::Careful>>(*case);
        assert!(
            passes,
            "{} rejects foreign bytes, rightly answered",
            case.name
        );
    }
}

#[test]
fn every_broken_store_is_rejected_by_the_case_about_it_and_by_few_others() {
    let rows = stores::rows();
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(vec![BTreeSet::new(); rows.len()]);
    // Each rejection is a panic, and hundreds of them are meant.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let rejecting = rejecting(row);
                    let at = rows.iter().position(|one| std::ptr::eq(one, row)).unwrap();
                    answers.lock().unwrap()[at] = rejecting;
                }
            });
        }
    });
    std::panic::set_hook(loud);
    let answers = answers.into_inner().unwrap();
    let mut wrong = Vec::new();
    let mut proved: BTreeSet<&str> = BTreeSet::new();
    println!("{} broken stores, {} cases", rows.len(), CASES.len());
    for (row, rejecting) in rows.iter().zip(&answers) {
        println!("\n{} ({})", row.says, rejecting.len());
        for case in rejecting {
            println!("    {case}");
        }
        proved.extend(rejecting);
        if !rejecting.contains(row.seen_by) || rejecting.len() > AT_MOST {
            wrong.push(row.says);
        }
    }
    let cases: BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
    let unproved: Vec<&str> = cases.difference(&proved).copied().collect();
    println!("\n{} cases have rejected no store yet:", unproved.len());
    for case in &unproved {
        println!("    {case}");
    }
    assert_eq!(
        wrong,
        Vec::<&str>::new(),
        "rejected by too many, or not by the case about it"
    );
    assert_eq!(
        unproved,
        Vec::<&str>::new(),
        "a case comes with a mistake that it sees"
    );
}
