//! What is done to a cluster, by kind, and how often it was.

use super::counted::counted;

counted! {
    /// A kind of fault.
    Fault, Faults {
        RequestRefused => "request refused",
        RequestLost => "request lost",
        ReplyLost => "reply lost",
        SlowRequest => "slow request",
        SlowReply => "slow reply",
        LateLanding => "executed after its sender gave up",
        RequestDoubled => "request doubled",
        ReplyDoubled => "reply doubled",
        CutOff => "request while cut off",
        RepliesSwallowed => "reply swallowed, one-way",
        RequestsHeldBack => "request held back by a cut",
        StoreStalled => "request at a stalled store",
        Congested => "reply in a congested network",
        ConnectionReset => "connections reset",
        HintLost => "hint lost",
        HintLate => "hint late",
        HintDoubled => "hint doubled",
        HintForged => "hint forged",
        Crash => "kill -9",
        Pause => "process stopped for a while",
        ReporterStalled => "Reporter stalled",
        TaskStalled => "task stalled",
        StaleClockReading => "clock read, then descheduled",
        PausedAfterSend => "thread stopped between send and acknowledgement",
        PausedBeforeUpdate => "thread stopped between acknowledgement and update",
        AcquireDropped => "acquire dropped",
        GuardDropped => "job and guard dropped",
        ReleaseDropped => "release dropped",
        JobWithoutBeats => "job that does not beat",
        ForceRelease => "force release",
        CleanExit => "clean exit",
        Planted => "bytes planted that are no record",
        ClockSteppedBack => "store's clock stepped back",
        ClockSteppedForward => "store's clock stepped forward, within A3",
        StoreRestarted => "store restarted",
        MemoryFull => "store out of memory",
        StoreCrashed => "store crashed, uncommitted work lost",
        Promotion => "replica promoted, nothing lost",
        CommitDelayed => "commit delayed",
        CommitsStalled => "all commits stalled",
        RowLocked => "request at a locked row",
        SessionEnded => "session ended, its process alive",
        LeaderChanged => "leader changed",
        LastWritesLost => "last writes lost (against A2)",
        AllLost => "all data lost (against A2)",
        Evicted => "a record evicted (against A2)",
        LossyPromotion => "replica promoted, last writes lost (against A2)",
        LeaseRevoked => "lease revoked early (against A5)",
        ClockLeapt => "store's clock leapt forward (against A3)",
        MachinePaused => "machine paused, its clock too (against A4)",
        Cloned => "process cloned (against A6)",
    }
}

impl Fault {
    /// Whether a store has lost records afterwards.
    pub fn forgets(self) -> bool {
        self.loses_last_writes() || matches!(self, Self::AllLost | Self::Evicted)
    }

    /// Whether it needs to know what the store was some time ago.
    pub fn loses_last_writes(self) -> bool {
        matches!(self, Self::LastWritesLost | Self::LossyPromotion)
    }

    /// Whether it breaks an assumption.
    pub fn is_breach(self) -> bool {
        self >= Self::LastWritesLost
    }
}
