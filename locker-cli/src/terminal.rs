//! The terminal: who is in its foreground, and how that changes hands.
//!
//! All of this is done with SIGTTOU blocked, so a process in the background may do it too.

use nix::unistd::{Pid, getpgrp, isatty, tcgetpgrp, tcsetpgrp};
use std::io;
use std::os::fd::AsFd;

/// Whether the command's group shall get the terminal: only if stdin *and* stdout are that terminal
/// and this process is in its foreground. With `locker run k -- make | less` the terminal belongs
/// to `less`.
pub(crate) fn is_ours_to_give() -> bool {
    let both = isatty(io::stdin()) == Ok(true) && isatty(io::stdout()) == Ok(true);
    both && same_terminal() && tcgetpgrp(io::stdin()) == Ok(getpgrp())
}

fn same_terminal() -> bool {
    let device = |fd| nix::sys::stat::fstat(fd).map(|stat| stat.st_rdev);
    match (device(io::stdin().as_fd()), device(io::stdout().as_fd())) {
        (Ok(stdin), Ok(stdout)) => stdin == stdout,
        _ => false,
    }
}

/// Puts a group into the foreground.
pub(crate) fn give_to(group: Pid) -> nix::Result<()> {
    tcsetpgrp(io::stdin(), group)
}

/// Takes the terminal back from a group that was given it, unless somebody else has it by now.
pub(crate) fn take_back_from(group: Pid) {
    if tcgetpgrp(io::stdin()) == Ok(group) {
        // It fails only if the terminal is gone.
        let _ = give_to(getpgrp());
    }
}
