//! What is done to a cluster, by kind, and how often it was.

use std::fmt;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are shown by `Display`, in words")]
pub enum Fault {
    RequestRefused,
    RequestLost,
    ReplyLost,
    SlowRequest,
    SlowReply,
    LateLanding,
    RequestDoubled,
    ReplyDoubled,
    CutOff,
    RepliesSwallowed,
    RequestsHeldBack,
    StoreStalled,
    Congested,
    HintLost,
    HintDoubled,
    HintForged,
    Crash,
    Pause,
    ReporterStalled,
    TaskStalled,
    StaleClockReading,
    AcquireDropped,
    GuardDropped,
    ReleaseDropped,
    JobWithoutBeats,
    ForceRelease,
    CleanExit,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 27] = [
        Self::RequestRefused,
        Self::RequestLost,
        Self::ReplyLost,
        Self::SlowRequest,
        Self::SlowReply,
        Self::LateLanding,
        Self::RequestDoubled,
        Self::ReplyDoubled,
        Self::CutOff,
        Self::RepliesSwallowed,
        Self::RequestsHeldBack,
        Self::StoreStalled,
        Self::Congested,
        Self::HintLost,
        Self::HintDoubled,
        Self::HintForged,
        Self::Crash,
        Self::Pause,
        Self::ReporterStalled,
        Self::TaskStalled,
        Self::StaleClockReading,
        Self::AcquireDropped,
        Self::GuardDropped,
        Self::ReleaseDropped,
        Self::JobWithoutBeats,
        Self::ForceRelease,
        Self::CleanExit,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RequestRefused => "request refused",
            Self::RequestLost => "request lost",
            Self::ReplyLost => "reply lost",
            Self::SlowRequest => "slow request",
            Self::SlowReply => "slow reply",
            Self::LateLanding => "late landing",
            Self::RequestDoubled => "request doubled",
            Self::ReplyDoubled => "reply doubled",
            Self::CutOff => "request while cut off",
            Self::RepliesSwallowed => "reply swallowed, one-way",
            Self::RequestsHeldBack => "request held back by a cut",
            Self::StoreStalled => "request at a stalled store",
            Self::Congested => "reply in a congested network",
            Self::HintLost => "hint lost",
            Self::HintDoubled => "hint doubled",
            Self::HintForged => "hint forged",
            Self::Crash => "kill -9",
            Self::Pause => "process stopped for a while",
            Self::ReporterStalled => "Reporter stalled",
            Self::TaskStalled => "task stalled",
            Self::StaleClockReading => "clock read, then descheduled",
            Self::AcquireDropped => "acquire dropped",
            Self::GuardDropped => "job and guard dropped",
            Self::ReleaseDropped => "release dropped",
            Self::JobWithoutBeats => "job that does not beat",
            Self::ForceRelease => "force release",
            Self::CleanExit => "clean exit",
        })
    }
}

/// How often each kind struck.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults([u64; Fault::ALL.len()]);

impl Faults {
    /// Counts one.
    pub fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How often this kind struck.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds what another history saw.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_place() {
        for (place, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, place);
        }
    }
}
