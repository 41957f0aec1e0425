//! What the simulation must have seen: the interleavings for which the machines are written as they
//! are. A campaign in which one of them is missing proves little about it.

use super::counted::counted;

counted! {
    /// An interleaving that is worth seeing.
    Mark, Marks {
        TakeOverDuringARenewal => "take-over while a renewal of the victim is in flight",
        GrantedAgain => "idempotent success after a lost answer",
        TookOverAgain => "idempotent success of a take-over after a lost answer",
        LossDuringRelease => "loss found by the release",
        AcknowledgedTooLate => "renewal acknowledged after the deadline",
        ClaimTooLate => "claim answered too late",
        TakeOverTooLate => "take-over answered too late",
        TakeOverTooLateAfterDoubt => "take-over too late, after one of unknown outcome",
        TakeOverOfTheLiving => "take-over refused, the holder lives",
        TakeOverOfNothing => "take-over of a record that is gone",
        OwnerDead => "claim refused, its own process is dead",
        GrantTooLate => "grant that arrived too late to be good",
        GrantOfAnEndedIncarnation => "grant of an incarnation that had ended",
        SettledOpen => "attempt that may still land, settled again",
        SettledFound => "attempt that had landed, found by its settlement",
        BirthAbandoned => "birth of unknown outcome, abandoned",
        RecordGone => "renewal that found its record gone",
        Lapsed => "incarnation that lapsed",
        LostTakenOver => "loss: taken over",
        LostExpired => "loss: expired",
        LostLiveness => "loss: liveness lapsed",
        LostForced => "loss: force released",
        LostVanished => "loss: vanished",
        ExtendedAfterLoss => "extension acknowledged after the loss",
        ReleaseUnconfirmed => "release not confirmed in time",
        ReleaseTwice => "release repeated after a lost answer",
        Turn => "waiter with others before it",
        WokenAndGranted => "waiter woken by a hint, and granted",
        DroppedInFlight => "acquisition dropped with a claim in flight",
        LandedAfterDrop => "claim that landed after its caller had gone",
        CrashInFlight => "process killed with a claim in flight",
        LandedAfterCrash => "claim that landed after its process was killed",
        TokenAheadOfClock => "token that the clock had not reached",
        SecondStepBehind => "take-over in two requests, overtaken between them",
        SettledBehindACommit => "settlement that waited for a commit",
        RenewalWaitedForATakeOver => "renewal that waited for a row",
        TakeOverWaitedForACommit => "take-over that waited for a commit",
        RequestWaitedForARow => "request that waited for a row",
        StaleRead => "read answered by a former master",
        ClaimOfAnOldGeneration => "claim refused for its generation",
        RenewalWithoutALeader => "renewal that met no leader",
        CorruptRead => "request at bytes that are no record",
    }
}
