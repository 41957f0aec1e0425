//! What can only happen to Redis.
//!
//! | module | fault |
//! | --- | --- |
//! | [`promotion`] | F16, the promotion of a replica that missed writes |
//! | [`states`] | F17, what a server answers in a state of its own |
//! | [`cluster`] | F18, slots on the move, a node that is gone |
//! | [`clock`] | F22, the server's clock |
//! | [`hints`] | F23, wake-ups |
//! | [`records`] | F24, what is no record |
//! | [`wires`] | F07 and F08 again, with packets that are lost |

pub mod clock;
pub mod cluster;
pub mod hints;
pub mod promotion;
pub mod records;
pub mod states;
pub mod wires;
