//! What the hands of the registry meet over. The test `orders` puts loom's in the place of these, and
//! plays every order of threads over the very files that are shipped.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic};
