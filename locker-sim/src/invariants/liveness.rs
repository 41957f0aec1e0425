//! L6: after any outage the system grants again by itself. When the faults have ended, every task
//! gets every lock once more, gives it back confirmed, and its process ends, within bounded time.

use super::{Invariant, View, Violation};

#[derive(Debug)]
pub(super) struct Liveness;

impl Invariant for Liveness {
    fn check(&mut self, _view: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }

    fn at_end(&mut self, view: &View<'_>) -> Result<(), Violation> {
        if view.leaves_a_clones_record() {
            return Ok(());
        }
        match view
            .processes
            .iter()
            .find(|process| !process.has_finished())
        {
            None => Ok(()),
            Some(process) => {
                let how = format!("p{} still is at {}", process.index, process.doing());
                Err(Violation::new("L6 (grants resume)", how))
            }
        }
    }
}
