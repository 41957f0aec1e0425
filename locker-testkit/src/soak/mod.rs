//! Cycles without end: two lockers of one store acquire, release, wait, drop and cancel over a few
//! keys, while a witness looks at every grant, and what the process needs is compared between one
//! tenth of the run and its end (L8).

mod cycles;
mod flat;
mod report;
mod resources;
mod witness;

pub use cycles::{Cycles, Troubles};
pub use flat::{cycles, flat};
pub use report::Report;
pub use resources::Resources;
pub use witness::Witness;
