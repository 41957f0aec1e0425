//! The wrapper's watch over a running command: lock, keeper, signals, terminal and time at once.
//!
//! It ends nothing itself. It tells the keeper what it knows (deadlines, losses, signals, the time
//! that is up), and the keeper acts; so there is one place where processes are killed, and it works
//! the same whether this one is alive, stopped or dead.

use crate::clock;
use crate::keeper::Keeper;
use crate::keeper::wire::{Cause, Order, Report, Start, Status, at};
use crate::signals::{self, Blocked, Scope};
use crate::terminal;
use locker_core::Instant;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// What the watch needs to know about a lock that is held.
pub(crate) trait Grant {
    /// For how long it is certainly valid; zero when it is lost.
    fn valid_for(&self) -> Duration;
    /// Resolves when it is lost.
    fn lost(&self) -> impl Future<Output = Lost>;
}

/// A lock that was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Why, as the end of a sentence.
    pub(crate) why: String,
    /// For how long certainly nobody else owns it yet.
    pub(crate) left: Duration,
}

/// How a command is to be watched.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// What the command gets in its environment, beyond ours.
    pub(crate) set: Vec<(String, String)>,
    /// What it does not get of ours.
    pub(crate) unset: Vec<String>,
    /// From TERM to KILL.
    pub(crate) grace: Duration,
    /// The same, when the lock is being lost.
    pub(crate) stop_budget: Duration,
    /// How often the keeper hears of a new deadline.
    pub(crate) tell_every: Duration,
    /// By how much the boot clock may run slower than the store's clock, in parts per thousand.
    pub(crate) drift_permille: u32,
    /// When the command is ended.
    pub(crate) timeout: Option<Duration>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The end itself.
    pub(crate) end: End,
    /// Why the lock was lost meanwhile, if it was.
    pub(crate) lost: Option<String>,
    /// Whether it was ended because its time was up.
    pub(crate) timed_out: bool,
}

/// The end of a watch. In every case nothing of the command is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The command ran and ended like this.
    Gone(Status),
    /// It could not be executed.
    NotStarted(i32),
    /// The keeper died, and so everything was killed.
    KeeperDied,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(Status::Exited(code)) => write!(f, "the command exited with {code}"),
            Self::Gone(Status::Killed(signal)) => {
                write!(f, "the command was killed by signal {signal}")
            }
            Self::NotStarted(_) => f.write_str("the command could not be started"),
            Self::KeeperDied => f.write_str("the keeper died"),
        }
    }
}

/// Signals to this process, as something to wait for.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: SignalFd,
    readiness: AsyncFd<OwnedFd>,
    /// What is blocked.
    pub(crate) blocked: Blocked,
}

impl Signals {
    pub(crate) fn new(blocked: Blocked) -> io::Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&blocked.set, flags)?;
        let readiness = readable(descriptor.as_fd().try_clone_to_owned()?)?;
        Ok(Self {
            descriptor,
            readiness,
            blocked,
        })
    }

    /// The next signal. Dropping the future loses none.
    pub(crate) async fn next(&self) -> io::Result<Signal> {
        loop {
            let mut ready = self.readiness.readable().await?;
            if let Some(info) = self.descriptor.read_signal()? {
                let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                if let Ok(signal) = Signal::try_from(number) {
                    return Ok(signal);
                }
            } else {
                ready.clear_ready();
            }
        }
    }
}

/// Something to wait for until a descriptor, of which this is a duplicate, can be read.
fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // Newer tokio asks for `unsafe` here, because a type of one's own may lie about its descriptor.
    // This one is the standard library's.
    #[allow(
        deprecated,
        reason = "sound for `OwnedFd`; the workspace has no unsafe"
    )]
    AsyncFd::new(descriptor)
}

/// Starts the command and watches over it to its end.
pub(crate) async fn supervise(
    keeper: Keeper,
    signals: &Signals,
    grant: &impl Grant,
    watch: &Watch,
) -> io::Result<Ended> {
    let readiness = readable(keeper.readiness()?)?;
    let mut state = Supervisor {
        keeper,
        signals,
        grant,
        watch,
        command: None,
        terminal: terminal::is_ours_to_give(),
        stale_stops: 0,
        lost: None,
        timed_out: false,
    };
    state.start();
    // A watch that fails ends like one whose keeper died: nothing may be left of the command when
    // the caller lets go of the lock.
    let end = state.watch(&readiness).await.unwrap_or(End::KeeperDied);
    Ok(state.finish(end))
}

struct Supervisor<'a, G> {
    keeper: Keeper,
    signals: &'a Signals,
    grant: &'a G,
    watch: &'a Watch,
    command: Option<Pid>,
    /// Whether the command's group has the terminal.
    terminal: bool,
    /// How many continuations the keeper has not confirmed; stops reported before are over.
    stale_stops: u32,
    lost: Option<String>,
    timed_out: bool,
}

impl<G: Grant> Supervisor<'_, G> {
    fn start(&self) {
        let budget = self.watch.stop_budget;
        let order = Order::Start(Start {
            set: self.watch.set.clone(),
            unset: self.watch.unset.clone(),
            terminal: self.terminal,
            unblock: self.signals.blocked.ours.clone(),
            deadline: at(self.deadline()),
            soft_lead: budget,
            kill_lead: budget / 5,
            grace: self.watch.grace,
        });
        self.keeper.order(&order, Some(io::stdin().as_fd()));
    }

    /// Until when the lock is valid, by the boot clock, at its slowest.
    fn deadline(&self) -> Instant {
        // The clock is read first: a stop between the two readings makes the deadline earlier.
        let now = clock::now();
        let left = self.grant.valid_for();
        now + left * 1000u32.saturating_sub(self.watch.drift_permille) / 1000
    }

    async fn watch(&mut self, readiness: &AsyncFd<OwnedFd>) -> io::Result<End> {
        let mut lost = pin!(self.grant.lost());
        let mut time_up = pin!(async {
            match self.watch.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        });
        let mut tell = tokio::time::interval(self.watch.tell_every);
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ready = readiness.readable() => {
                    match self.keeper.report() {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            ready?.clear_ready();
                        }
                        Ok(Some(report)) => {
                            if let Some(end) = self.on_report(report)? {
                                return Ok(end);
                            }
                        }
                        // An unreadable report is no better than a dead keeper.
                        Ok(None) | Err(_) => return Ok(End::KeeperDied),
                    }
                }
                signal = self.signals.next() => self.on_signal(signal?)?,
                Lost { why, left } = &mut lost, if self.lost.is_none() => {
                    self.lost = Some(why);
                    self.end_within(self.watch.grace.min(self.watch.stop_budget).min(left));
                }
                () = &mut time_up, if !self.timed_out => {
                    self.timed_out = true;
                    self.end_within(self.watch.grace);
                }
                _ = tell.tick() => {
                    if !self.grant.valid_for().is_zero() {
                        let at = at(self.deadline());
                        self.keeper.order(&Order::Deadline { at }, None);
                    }
                }
            }
        }
    }

    fn end_within(&self, grace: Duration) {
        let cause = Cause::Asked;
        self.keeper.order(&Order::End { grace, cause }, None);
    }

    fn on_report(&mut self, report: Report) -> io::Result<Option<End>> {
        match report {
            Report::Started { pid } => self.command = Some(Pid::from_raw(pid)),
            Report::NotStarted { errno } => return Ok(Some(End::NotStarted(errno))),
            Report::Stopped { signal } => {
                let signal = Signal::try_from(signal).unwrap_or(Signal::SIGTSTP);
                if self.stale_stops == 0 {
                    self.stop_like_the_command(signal)?;
                }
            }
            Report::Continued => self.stale_stops = self.stale_stops.saturating_sub(1),
            // From here on the terminal is nobody's but ours: what is left gets no keyboard.
            Report::CommandEnded => self.take_terminal_back(),
            Report::Gone { status, cause } => {
                if cause == Cause::Deadline && self.lost.is_none() {
                    self.lost = Some("its validity ran out unextended".to_owned());
                }
                // It had ended by itself; what it left behind is all that there was to end.
                self.timed_out &= cause != Cause::Itself;
                return Ok(Some(End::Gone(status)));
            }
        }
        Ok(None)
    }

    fn on_signal(&mut self, signal: Signal) -> io::Result<()> {
        match signal {
            Signal::SIGCHLD => {
                // Its death is seen by the end of its socket.
                self.keeper.wake_if_stopped();
            }
            // Ctrl-Z on a terminal that is not the command's: everybody in our group has got it.
            Signal::SIGTSTP => {
                self.pass_on(signal);
                signals::stop(signal, Scope::Process)?;
                self.go_on();
            }
            Signal::SIGTTIN | Signal::SIGTTOU => {}
            _ => self.pass_on(signal),
        }
        Ok(())
    }

    fn pass_on(&self, signal: Signal) {
        let number = signal as i32;
        self.keeper.order(&Order::Signal { number }, None);
    }

    /// The command was stopped. If a terminal did it, this process stops as well, with its group,
    /// so that the shell takes over; it may be continued only while the lock is valid.
    fn stop_like_the_command(&mut self, signal: Signal) -> io::Result<()> {
        let job_control = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU].contains(&signal);
        if !job_control && !self.terminal {
            return Ok(());
        }
        self.take_terminal_back();
        let stopped_at = clock::now();
        signals::stop(
            if job_control { signal } else { Signal::SIGTSTP },
            Scope::Group,
        )?;
        if signal != Signal::SIGTSTP && clock::now().since(stopped_at) < Duration::from_millis(50) {
            // Nobody can continue this group, so the kernel would not stop it; and the command
            // will ask for the terminal again at once.
            std::thread::sleep(Duration::from_millis(500));
        }
        self.go_on();
        Ok(())
    }

    fn go_on(&mut self) {
        if self.grant.valid_for().is_zero() {
            // What is stopped stays stopped and is killed; the keeper may have done so already.
            return self.end_within(Duration::ZERO);
        }
        self.terminal = terminal::is_ours_to_give();
        if let (true, Some(group)) = (self.terminal, self.command) {
            self.terminal = terminal::give_to(group).is_ok();
        }
        self.stale_stops += 1;
        self.pass_on(Signal::SIGCONT);
    }

    fn take_terminal_back(&mut self) {
        if let (true, Some(group)) = (self.terminal, self.command) {
            terminal::take_back_from(group);
            self.terminal = false;
        }
    }

    fn finish(mut self, end: End) -> Ended {
        let lost = self.lost.take();
        match end {
            End::KeeperDied => {
                self.take_terminal_back();
                self.keeper.end_what_it_kept(self.command);
            }
            End::Gone(_) | End::NotStarted(_) => {
                self.take_terminal_back();
                self.keeper.dismiss();
            }
        }
        Ended {
            end,
            lost,
            timed_out: self.timed_out,
        }
    }
}
