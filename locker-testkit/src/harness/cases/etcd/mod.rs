//! What can only happen to etcd.
//!
//! | module | fault |
//! | --- | --- |
//! | [`states`] | F21, as far as one member has it: full, compacted, a lease revoked |
//! | [`quorum`] | F21, leaders that change, members that die, a majority that is lost |
//! | [`hints`] | F23, wake-ups |
//! | [`records`] | F24, what is no record |

pub mod hints;
pub mod quorum;
pub mod records;
pub mod states;
