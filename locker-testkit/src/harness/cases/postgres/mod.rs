//! What can only happen to Postgres.
//!
//! | module | fault |
//! | --- | --- |
//! | [`promotion`] | F16, the promotion of a standby that missed commits |
//! | [`sessions`] | F19, sessions that are ended, and requests that are refused |
//! | [`pooler`] | F20, a pooler in transaction mode |
//! | [`clock`] | F22, the server's clock |
//! | [`hints`] | F23, wake-ups |
//! | [`records`] | F24, what is no record |
//! | [`rows`] | F30, rows that somebody else has locked, commits that take their time |

pub mod clock;
pub mod hints;
pub mod pooler;
pub mod promotion;
pub mod records;
pub mod rows;
pub mod sessions;
