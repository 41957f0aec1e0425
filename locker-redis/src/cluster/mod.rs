//! A Redis Cluster: who has which slot, and how each primary is asked over a connection of its own.
//!
//! | module | idea |
//! | --- | --- |
//! | `primaries` | an operation goes to the primary of its slot, and to whom that one sends it |
//! | `pipelines` | one primary: its connection, and what is asked over it |
//! | `slots` | the slot of a key, and the ranges that a node tells |
//! | `survey` | which of several views of the slots is the newest |
//! | `chart` | the slots and their primaries; why an answer may be final |
//! | `nodes` | what one node says about all of them |
//! | `witnesses` | whether most primaries agree on one |

pub(crate) mod chart;
pub(crate) mod nodes;
pub(crate) mod pipelines;
pub(crate) mod primaries;
pub(crate) mod slots;
pub(crate) mod survey;
pub(crate) mod witnesses;
