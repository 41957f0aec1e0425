//! What wrapper, keeper and exec stage say to one another, and how descriptors travel along.
//!
//! Every pair of them shares a socket of packets: one message is one packet, and the end of the
//! socket is the death of the other side. The sockets and all descriptors that arrive on them are
//! close-on-exec, so nothing of this ever reaches the command.

use locker_core::Instant;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The largest message. A key is at most 512 bytes, an owner hash at most a few times that.
const MAX_MESSAGE: usize = 64 * 1024;

/// What the wrapper tells its keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Keep the descriptor that comes with this until the last process is gone.
    Hold,
    /// Start the command; its stdin comes with this.
    Start(Start),
    /// The lock is valid until this moment; it never moves back.
    Deadline {
        /// Nanoseconds of the boot clock.
        at: u64,
    },
    /// Pass a signal on to the command's group.
    Signal {
        /// Its number.
        number: i32,
    },
    /// TERM now, KILL after the grace.
    End {
        /// From TERM to KILL.
        grace: Duration,
        /// Why, for the report.
        cause: Cause,
    },
}

/// How the command is to be started, and when it has to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// Variables that the command gets in addition.
    pub(crate) set: Vec<(String, String)>,
    /// Variables that it does not get.
    pub(crate) unset: Vec<String>,
    /// Whether its group becomes the terminal's foreground group.
    pub(crate) terminal: bool,
    /// The signals that the wrapper blocked and the command shall not find blocked.
    pub(crate) unblock: Vec<i32>,
    /// The first deadline, in nanoseconds of the boot clock.
    pub(crate) deadline: u64,
    /// How long before the deadline the group gets TERM.
    pub(crate) soft_lead: Duration,
    /// How long before the deadline what is left gets KILL.
    pub(crate) kill_lead: Duration,
    /// From TERM to KILL for what the command leaves behind.
    pub(crate) grace: Duration,
}

/// Why a command was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// It ended by itself; only what it left behind was ended.
    Itself,
    /// The wrapper asked for it.
    Asked,
    /// The lock was about to become invalid, and no word of the wrapper came in time.
    Deadline,
}

/// What the keeper tells its wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The command runs. Its process leads its own group.
    Started {
        /// Its process, and the name of its group.
        pid: i32,
    },
    /// The command could not be executed.
    NotStarted {
        /// What the kernel said.
        errno: i32,
    },
    /// The command was stopped by this signal.
    Stopped {
        /// Its number.
        signal: i32,
    },
    /// It was continued, as ordered: whatever was reported to have stopped it before is over.
    Continued,
    /// The command has ended; what it left behind is being ended.
    CommandEnded,
    /// The last process is gone.
    Gone {
        /// How the command itself ended.
        status: Status,
        /// Who ended it.
        cause: Cause,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    /// It exited with this code.
    Exited(i32),
    /// A signal killed it.
    Killed(i32),
}

/// What the keeper tells the exec stage; the command's stdin comes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exec {
    /// Who must still be the parent once the death signal is set.
    pub(crate) keeper: i32,
    /// Everything about the command.
    pub(crate) start: Start,
}

/// What the exec stage says if the command could not be executed; else the socket just ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecFailed {
    /// What the kernel said.
    pub(crate) errno: i32,
}

/// A pair of connected sockets of packets.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    Ok((ours, theirs))
}

/// Sends one message, with at most one descriptor. It never waits: who does not read (because it is
/// stopped) must not stop the other side as well.
///
/// # Errors
///
/// `WouldBlock` if the other side has left too many messages unread.
pub(crate) fn send<M: Serialize>(
    socket: impl AsFd,
    message: &M,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(&socket, &[IoSlice::new(&bytes)], &mut ancillary, flags) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one message and the descriptor that came with it; `None` when the other side is gone.
///
/// # Errors
///
/// `WouldBlock` if `wait` is false and there is no message.
pub(crate) fn receive<M: DeserializeOwned>(
    socket: impl AsFd,
    wait: bool,
) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if !wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let length = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut parts, &mut ancillary, flags) {
            // Who dies with unread messages resets the connection. The kernel says so once, before
            // it hands out what the dead had sent: its last words are still to come.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(error) => return Err(error.into()),
            Ok(received) => break received.bytes,
        }
    };
    if length == 0 {
        return Ok(None);
    }
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptor = received.last();
        }
    }
    let message = serde_json::from_slice(&bytes[..length])?;
    Ok(Some((message, descriptor)))
}

/// A deadline as it travels.
pub(crate) fn at(deadline: Instant) -> u64 {
    deadline.as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn a_message_and_its_descriptor_arrive_together() {
        let (ours, theirs) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        send(&ours, &Order::Hold, Some(file.as_fd())).unwrap();
        let (order, descriptor) = receive::<Order>(&theirs, true).unwrap().unwrap();
        assert_eq!(order, Order::Hold);
        let mut received = std::fs::File::from(descriptor.unwrap());
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn the_end_of_the_other_side_is_no_message() {
        let (ours, theirs) = pair().unwrap();
        drop(ours);
        assert!(receive::<Order>(&theirs, true).unwrap().is_none());
    }

    #[test]
    fn the_last_words_of_who_died_with_unread_messages_are_heard() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, &Order::Deadline { at: 1 }, None).unwrap();
        send(&theirs, &Report::CommandEnded, None).unwrap();
        drop(theirs);
        let heard = receive::<Report>(&ours, false).unwrap();
        assert_eq!(heard.map(|(report, _)| report), Some(Report::CommandEnded));
        assert!(receive::<Report>(&ours, false).unwrap().is_none());
    }

    #[test]
    fn nothing_to_receive_does_not_block_who_does_not_wait() {
        let (_ours, theirs) = pair().unwrap();
        let error = receive::<Order>(&theirs, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
