//! The keeper itself: the command's parent and, if need be, its executioner.
//!
//! It is one thread around one `poll`. It is told the deadlines of the lock and keeps them by
//! itself: an unheard-of extension is a lock that ends. So it does not matter whether the wrapper
//! is stopped, blocked or dead; and it does not matter whether the *keeper* is stopped, because a
//! kernel timer then kills it at the deadline, which kills the command (its death signal), while
//! the wrapper, a subreaper too, inherits and kills the rest.
//!
//! Why the executioner is here and not in the wrapper: the shell waits for the wrapper, and a
//! wrapper that was killed by its own kernel timer could not say "76, the lock was lost" any more.

use super::family::{self, Event};
use super::wire::{self, Cause, Exec, ExecFailed, Order, Report, Start, Status};
use crate::clock;
use locker_core::Instant;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigEvent, SigSet, SigevNotify, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::timer::Timer;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How often the killing is repeated while somebody is still there, besides after every death.
const REPEAT: Duration = Duration::from_millis(50);

/// The life of a keeper, from its first order to the end of the last process.
pub(super) struct Keeper {
    socket: OwnedFd,
    /// Whether the wrapper is there to be told.
    wrapper: bool,
    children: SignalFd,
    alarm: TimerFd,
    /// SIGKILL to this process, by the kernel, at the deadline.
    executioner: Option<Timer>,
    /// Kept open until the last process is gone.
    held: Vec<OwnedFd>,
    argv: Vec<OsString>,
    command: Option<Running>,
    ending: Option<Ending>,
}

struct Running {
    pid: Pid,
    status: Option<Status>,
    deadline: Instant,
    start: Start,
}

impl Running {
    /// By when everybody has to be killed, as the lock is valid now.
    fn last_moment(&self) -> Instant {
        self.deadline - self.start.kill_lead
    }
}

struct Ending {
    cause: Cause,
    /// How long everybody has time, as long as the lock is held.
    until: Instant,
    asked: HashSet<Pid>,
}

/// What the keeper does next.
enum Next {
    Wait,
    Finish,
}

impl Keeper {
    /// A keeper for this command, at the other end of the wrapper's socket.
    pub(super) fn new(socket: OwnedFd, argv: Vec<OsString>) -> io::Result<Self> {
        family::adopt_orphans()?;
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            socket,
            wrapper: true,
            children: SignalFd::with_flags(&signals, flags)?,
            alarm: TimerFd::new(
                ClockId::CLOCK_BOOTTIME,
                TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
            )?,
            executioner: None,
            held: Vec::new(),
            argv,
            command: None,
            ending: None,
        })
    }

    /// Lives until the wrapper needs no keeper any more, or nobody is left to be kept.
    pub(super) fn live(mut self) -> io::Result<()> {
        loop {
            self.obey()?;
            if let Next::Finish = self.look_after()? {
                return Ok(());
            }
            self.arm()?;
            self.wait()?;
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut sources = vec![
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN),
        ];
        if self.wrapper {
            sources.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Ok(Some(_)) = self.children.read_signal() {}
        Ok(())
    }

    /// Does what the wrapper ordered; its end is an order as well.
    fn obey(&mut self) -> io::Result<()> {
        while self.wrapper {
            match wire::receive::<Order>(&self.socket, false) {
                Ok(Some((order, descriptor))) => self.execute(order, descriptor)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // An unreadable order is no better than none: the lock's state is unknown.
                Ok(None) | Err(_) => {
                    self.wrapper = false;
                    self.end(clock::now(), Cause::Asked);
                }
            }
        }
        Ok(())
    }

    fn execute(&mut self, order: Order, descriptor: Option<OwnedFd>) -> io::Result<()> {
        match order {
            Order::Hold => self.held.extend(descriptor),
            Order::Start(start) => self.start(start, descriptor)?,
            Order::Deadline { at } => {
                if let Some(running) = &mut self.command {
                    running.deadline = running.deadline.max(Instant::from_nanos(at));
                }
            }
            Order::Signal { number } => {
                if let (Some(running), Ok(signal)) = (&self.command, Signal::try_from(number)) {
                    family::signal_group(running.pid, signal, &family::children());
                    if signal == Signal::SIGCONT {
                        self.tell(Report::Continued);
                    }
                }
            }
            Order::End { grace, cause } => self.end(clock::now() + grace, cause),
        }
        Ok(())
    }

    /// Starts the command through the exec stage, which answers only if that fails.
    fn start(&mut self, start: Start, stdin: Option<OwnedFd>) -> io::Result<()> {
        let (child, ours) = match self.spawn(&start) {
            Ok(spawned) => spawned,
            Err(error) => {
                self.not_started(error.raw_os_error().unwrap_or(0));
                return Ok(());
            }
        };
        let order = Exec {
            keeper: nix::unistd::getpid().as_raw(),
            start: start.clone(),
        };
        let running = Running {
            pid: child,
            status: None,
            deadline: Instant::from_nanos(start.deadline),
            start,
        };
        self.command = Some(running);
        wire::send(&ours, &order, stdin.as_ref().map(AsFd::as_fd))?;
        drop(stdin);
        match wire::receive::<ExecFailed>(&ours, true)? {
            Some((failed, _)) => {
                let _ = nix::sys::wait::waitpid(child, None);
                self.not_started(failed.errno);
            }
            None => self.tell(Report::Started {
                pid: child.as_raw(),
            }),
        }
        Ok(())
    }

    /// The exec stage, and the way to it.
    fn spawn(&mut self, start: &Start) -> io::Result<(Pid, OwnedFd)> {
        let (ours, theirs) = wire::pair()?;
        // From here on a keeper that stands still is killed in time, whatever it waits for.
        let at = deadline_of_executioner(start, start.deadline);
        self.executioner = Some(executioner(at)?);
        let child = Command::new("/proc/self/exe")
            .arg0("locker")
            .arg(super::EXEC_STAGE)
            .args(&self.argv)
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .spawn()?;
        Ok((Pid::from_raw(child.id().cast_signed()), ours))
    }

    /// There is nothing to keep, and nothing more to hear.
    fn not_started(&mut self, errno: i32) {
        self.command = None;
        self.tell(Report::NotStarted { errno });
        self.wrapper = false;
    }

    /// Reaps, ends and kills what is due.
    fn look_after(&mut self) -> io::Result<Next> {
        let empty = loop {
            match family::next_event() {
                Ok(Some(event)) => self.note(event),
                Ok(None) => break false,
                Err(Errno::ECHILD) => break true,
                Err(error) => return Err(error.into()),
            }
        };
        if empty {
            return Ok(self.nobody_left());
        }
        let now = clock::now();
        if let Some(running) = &self.command
            && self.ending.is_none()
            && now >= running.deadline - running.start.soft_lead
        {
            self.end(running.last_moment(), Cause::Deadline);
        }
        let group = self.command.as_ref().map(|running| running.pid);
        let is_over = self.kill_at().is_some_and(|kill_at| now >= kill_at);
        if let Some(ending) = &mut self.ending {
            if is_over {
                family::kill_all(group);
                // Every signal is sent. The kernel's timer has nothing to add, and this process
                // has to live until the last of them is gone.
                self.executioner = None;
            } else {
                family::ask_all(group, &mut ending.asked);
            }
        }
        Ok(Next::Wait)
    }

    fn note(&mut self, event: Event) {
        let Some(running) = &mut self.command else {
            return;
        };
        match event {
            Event::Ended(pid, status) if pid == running.pid => {
                running.status = Some(status);
                let grace = running.start.grace;
                self.tell(Report::CommandEnded);
                if self.ending.is_none() {
                    self.end(clock::now() + grace, Cause::Itself);
                }
            }
            Event::Stopped(pid, signal) if pid == running.pid => {
                self.tell(Report::Stopped {
                    signal: signal as i32,
                });
            }
            Event::Ended(..) | Event::Stopped(..) => {}
        }
    }

    fn nobody_left(&mut self) -> Next {
        match (&self.command, &self.ending) {
            (Some(Running { status, .. }), ending) => {
                let status = status.unwrap_or(Status::Killed(Signal::SIGKILL as i32));
                let cause = ending.as_ref().map_or(Cause::Itself, |ending| ending.cause);
                self.executioner = None;
                self.held.clear();
                self.tell(Report::Gone { status, cause });
                Next::Finish
            }
            (None, _) if self.wrapper => Next::Wait,
            (None, _) => Next::Finish,
        }
    }

    /// From now on everybody is asked to end, and killed at `until`. A later call can only bring that
    /// moment forward.
    fn end(&mut self, until: Instant, cause: Cause) {
        match &mut self.ending {
            Some(ending) => {
                ending.until = ending.until.min(until);
                if ending.cause == Cause::Itself {
                    return;
                }
                if cause == Cause::Deadline {
                    ending.cause = cause;
                }
            }
            None => {
                self.ending = Some(Ending {
                    cause,
                    until,
                    asked: HashSet::new(),
                });
            }
        }
    }

    /// When everybody is killed who is still there, if they have been asked to end: when their time is over,
    /// or in time before the lock may be somebody else's. The wrapper goes on extending it meanwhile.
    fn kill_at(&self) -> Option<Instant> {
        let until = self.ending.as_ref()?.until;
        let last = self.command.as_ref().map_or(until, Running::last_moment);
        Some(until.min(last))
    }

    /// Sets the alarm and the kernel's timer to what comes next.
    fn arm(&mut self) -> io::Result<()> {
        let Some(running) = &self.command else {
            return Ok(());
        };
        let deadline = running.deadline;
        if let Some(timer) = &mut self.executioner {
            let at = deadline_of_executioner(&running.start, deadline.as_nanos());
            timer.set(one_shot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        }
        let now = clock::now();
        let at = match self.kill_at() {
            None => deadline - running.start.soft_lead,
            Some(kill_at) if now < kill_at => kill_at,
            Some(_) => now + REPEAT,
        };
        self.alarm
            .set(one_shot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        Ok(())
    }

    /// Tells the wrapper. If it is gone, the next look at the socket says so.
    fn tell(&self, report: Report) {
        if self.wrapper {
            let _ = wire::send(&self.socket, &report, None);
        }
    }
}

/// The kernel's timer strikes between the keeper's own kill and the deadline.
fn deadline_of_executioner(start: &Start, deadline: u64) -> Instant {
    Instant::from_nanos(deadline) - start.kill_lead / 2
}

fn executioner(at: Instant) -> io::Result<Timer> {
    let kill = SigEvent::new(SigevNotify::SigevSignal {
        signal: Signal::SIGKILL,
        si_value: 0,
    });
    let mut timer = Timer::new(nix::time::ClockId::CLOCK_BOOTTIME, kill)?;
    timer.set(one_shot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
    Ok(timer)
}

fn one_shot(at: Instant) -> Expiration {
    // Zero would disarm it.
    Expiration::OneShot(clock::to_timespec(at.max(Instant::from_nanos(1))))
}
