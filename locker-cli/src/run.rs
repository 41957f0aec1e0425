//! `locker run`: a command under a lock.

use crate::args::{Global, Patience, Run, parse_key};
use crate::clock;
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::keeper::Keeper;
use crate::keeper::wire::{Order, Status};
use crate::output::{LockView, holder, printable};
use crate::signals::{self, Scope};
use crate::stderr::{tell, tell_raw};
use crate::store::{Store, VARIABLE};
use crate::supervise::{End, Ended, Grant, Lost, Signals, Watch, supervise};
use distributed_locker::{
    AcquireError, AcquireOptions, Acquired, BootClock, Clock, HeartbeatPolicy, LockGuard, Locker,
    NotRunning, OnLost, ReleaseError, StartError, Wait,
};
use locker_core::{Key, LockData, Timing, Trace};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

/// Everything that was asked for, validated. Nothing is opened or started yet.
#[derive(Debug)]
struct Plan<'a> {
    args: &'a Run,
    json: bool,
    key: Key,
    command: &'a [OsString],
    options: AcquireOptions,
    timing: Timing,
}

/// What came of asking for the lock.
enum Turn {
    Ours(LockGuard),
    SomebodyElses(LockData),
    Interrupted(Signal),
}

/// How long a process that was told to end waits for what it need not wait for: one write, and where the
/// store hangs, what it would have removed runs out by itself.
const BRIEFLY: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &Run, global: &Global) -> Result<Exit, Failure> {
    let plan = Plan::new(args, global)?;
    let store = Store::choose_for(global, plan.timing.request_timeout)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    signals::see_children(&runtime)?;
    // In this order: the keeper is born with our signals blocked, and before the first thread (this
    // runtime has none), because the death signal of a child follows the thread that started it.
    let blocked = signals::block()?;
    let keeper = Keeper::spawn(plan.command)?;
    if let Some(liveness) = store.liveness() {
        keeper.order(&Order::Hold, Some(liveness));
    }
    let exit = runtime.block_on(async {
        let signals = Signals::new(blocked)?;
        let asleep = asleep_until_told(&signals);
        let locker = tokio::select! {
            started = Locker::builder(store.connect()).timing(plan.timing).start() => {
                started.map_err(|error| cannot_start(&store, error))?
            }
            signal = asleep => return Ok(Exit::signal(signal? as i32)),
        };
        let mut grace = plan.timing.request_timeout;
        let exit = match plan.acquire(&store, &locker, &signals).await {
            Ok(Turn::Ours(guard)) => plan.execute(&store, &locker, &signals, keeper, guard).await,
            Ok(Turn::SomebodyElses(data)) => Ok(plan.busy(&data)),
            Ok(Turn::Interrupted(signal)) => {
                grace = BRIEFLY;
                Ok(Exit::signal(signal as i32))
            }
            Err(failure) => Err(failure),
        };
        // What is not settled by then ends with this process.
        let _ = locker.terminate(grace).await;
        exit
    });
    // The lookup of a name may hang in a thread of the runtime's, and nobody waits for that.
    runtime.shutdown_background();
    exit
}

impl<'a> Plan<'a> {
    fn new(args: &'a Run, global: &Global) -> Result<Self, Failure> {
        let (key, command) = split(&args.key_and_command)?;
        let key = key
            .to_str()
            .ok_or_else(|| Failure::usage("the key is not UTF-8"))?;
        let key = parse_key(key)?;
        let mut options = AcquireOptions::new()
            .wait(match args.wait {
                None => Wait::No,
                Some(Patience::For(limit)) => Wait::For(limit),
                Some(Patience::Forever) => Wait::Forever,
            })
            // The keeper is the executioner, and the command needs no heartbeat of its own.
            .on_lost(OnLost::Signal)
            .heartbeat(HeartbeatPolicy::Automatic);
        if let Some(trace) = &args.trace {
            options = options.trace(
                Trace::new(trace.as_str()).map_err(|error| Failure::usage(error.to_string()))?,
            );
        }
        let timing = timing(args.liveness_ttl)?;
        let json = global.json;
        Ok(Self {
            args,
            json,
            key,
            command,
            options,
            timing,
        })
    }

    /// Asks for the lock, until it is ours, or we are told to stop.
    async fn acquire(
        &self,
        store: &Store,
        locker: &Locker,
        signals: &Signals,
    ) -> Result<Turn, Failure> {
        let acquired = tokio::select! {
            acquired = locker.acquire(self.key.as_str(), self.options.clone()) => acquired,
            signal = asleep_until_told(signals) => return Ok(Turn::Interrupted(signal?)),
        };
        match acquired {
            Ok(Acquired::Guard(guard)) => Ok(Turn::Ours(guard)),
            Ok(Acquired::SomeoneElseHoldsLock(data)) => Ok(Turn::SomebodyElses(data)),
            Err(error) => Err(cannot_acquire(store, error)),
        }
    }

    /// Runs the command under its lock, and releases it.
    async fn execute(
        &self,
        store: &Store,
        locker: &Locker,
        signals: &Signals,
        keeper: Keeper,
        guard: LockGuard,
    ) -> Result<Exit, Failure> {
        let acquired_at = clock::now();
        self.say(|| format!("acquired {}", printable(guard.owner_hash().as_str())));
        let watch = self.watch(store, locker.timing(), &guard);
        let mut ended = supervise(keeper, signals, &guard, &watch).await?;
        self.say(|| format!("{}", ended.end));
        if let Some(min_hold) = self.args.min_hold {
            let left = min_hold.saturating_sub(clock::now().since(acquired_at));
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                lost = Grant::lost(&guard), if ended.lost.is_none() => ended.lost = Some(lost.why),
                signal = asleep_until_told(signals) => { signal?; }
            }
        }
        // Whatever was not valid when the last process was reaped was lost before.
        if ended.lost.is_none() && !guard.is_valid() {
            ended.lost =
                Some("its validity had run out when the command's end was seen".to_owned());
        }
        match guard.release().await {
            Ok(()) => self.say(|| "released".to_owned()),
            Err(ReleaseError::Lost(loss)) => {
                ended.lost.get_or_insert_with(|| loss.reason.to_string());
            }
            Err(error @ (ReleaseError::Unconfirmed(_) | ReleaseError::Forked)) => {
                tell(&format!("warning: {}", chain(&error)));
                tell(
                    "  lock: what may be left of it ends with this process, within the liveness TTL",
                );
            }
            Err(error) => tell(&format!("warning: {}", chain(&error))),
        }
        self.verdict(&ended)
    }

    fn watch(&self, store: &Store, timing: &Timing, guard: &LockGuard) -> Watch {
        let mut set = vec![
            ("LOCKER_KEY".to_owned(), self.key.to_string()),
            ("LOCKER_OWNER".to_owned(), guard.owner_hash().to_string()),
            ("LOCKER_TOKEN".to_owned(), guard.token().get().to_string()),
        ];
        let mut unset = Vec::new();
        if self.args.pass_store {
            set.push((VARIABLE.to_owned(), store.url().to_owned()));
        } else {
            unset.push(VARIABLE.to_owned());
        }
        Watch {
            set,
            unset,
            grace: self.args.grace,
            stop_budget: timing.stop_budget,
            tell_every: timing.report_every / 4,
            drift_permille: timing.drift_permille,
            timeout: self.args.timeout,
        }
    }

    /// Somebody else holds the lock: who.
    fn busy(&self, data: &LockData) -> Exit {
        if self.args.skip {
            return Exit::SUCCESS;
        }
        if self.json {
            if let Ok(text) = serde_json::to_string(&LockView::of_data(data)) {
                tell_raw(&text);
            }
        } else {
            let waited = if self.args.wait.is_some() {
                "still "
            } else {
                ""
            };
            let key = printable(self.key.as_str());
            tell(&format!(
                "{key} is {waited}held by somebody else; the command was not run"
            ));
            for (name, value) in holder(data) {
                tell_raw(&format!("  {name:<7}{value}"));
            }
            tell_raw("  hint: -w SECS waits for it, -q skips silently");
        }
        Exit::code(self.args.conflict_exit_code)
    }

    /// The exit code of a command that has ended, and what is to be said about it.
    fn verdict(&self, ended: &Ended) -> Result<Exit, Failure> {
        let key = printable(self.key.as_str());
        let lost = Exit::code(self.args.lost_exit_code);
        if ended.end == End::KeeperDied {
            return Err(Failure::new(lost, "the keeper of the command was killed")
                .lock(format!(
                    "{key} was held until every process of the command was dead"
                ))
                .hint("the command did not end by itself: look at what it left half done"));
        }
        if let Some(why) = &ended.lost {
            return Err(Failure::new(lost, format!("lost the lock {key}: {why}"))
                .lock("somebody else may hold it; the command was ended, or ended by itself, first")
                .hint("the command may not have done its work: look at what it left half done"));
        }
        match ended.end {
            End::NotStarted(errno) => Err(self.cannot_execute(errno)),
            _ if ended.timed_out => {
                let limit = self.args.timeout.unwrap_or_default();
                tell(&format!(
                    "the command was ended by --timeout after {limit:?}"
                ));
                Ok(Exit::TIMEOUT)
            }
            End::Gone(Status::Exited(code)) => {
                Ok(Exit::code(u8::try_from(code).unwrap_or(u8::MAX)))
            }
            End::Gone(Status::Killed(signal)) => Ok(Exit::signal(signal)),
            End::KeeperDied => Ok(lost),
        }
    }

    fn cannot_execute(&self, errno: i32) -> Failure {
        let program = self
            .command
            .first()
            .map(|program| program.display().to_string());
        let error = io::Error::from_raw_os_error(errno);
        let what = format!(
            "cannot run {}: {error}",
            printable(&program.unwrap_or_default())
        );
        let (exit, hint) = if error.kind() == io::ErrorKind::NotFound {
            (Exit::NOT_FOUND, "is it spelled right, and in the PATH?")
        } else {
            (
                Exit::CANNOT_EXECUTE,
                "is it a program, and executable by this user?",
            )
        };
        Failure::new(exit, what)
            .lock("it was acquired and released again")
            .hint(hint)
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.args.verbose {
            tell(&text());
        }
    }
}

impl Grant for LockGuard {
    fn valid_for(&self) -> Duration {
        self.valid_for()
    }

    async fn lost(&self) -> Lost {
        let loss = self.lost().await;
        let left = loss.safe_until.since(BootClock::new().now());
        Lost {
            why: loss.reason.to_string(),
            left,
        }
    }
}

/// All times of liveness, in the proportions of the defaults.
fn timing(liveness_ttl: Duration) -> Result<Timing, Failure> {
    let default = Timing::default();
    let share = |part: Duration| {
        part.mul_f64(liveness_ttl.as_secs_f64() / default.liveness_ttl.as_secs_f64())
    };
    let timing = Timing {
        liveness_ttl,
        report_every: share(default.report_every),
        recheck_every: share(default.recheck_every),
        request_timeout: share(default.request_timeout),
        retry_after: share(default.retry_after),
        stop_budget: share(default.stop_budget),
        hard_margin: share(default.hard_margin),
        lock_ttl: default.lock_ttl.max(liveness_ttl),
        ..default
    };
    timing.validate().map_err(|error| {
        Failure::usage(error.to_string()).hint("--liveness-ttl is 10 unless you know better")
    })?;
    Ok(timing)
}

/// Waits for a signal that ends a wait, doing meanwhile what others ask for.
async fn asleep_until_told(signals: &Signals) -> io::Result<Signal> {
    loop {
        match signals.next().await? {
            stop @ (Signal::SIGTSTP | Signal::SIGTTIN) => signals::stop(stop, Scope::Process)?,
            Signal::SIGCHLD | Signal::SIGTTOU => {}
            signal => return Ok(signal),
        }
    }
}

fn cannot_start(store: &Store, error: StartError) -> Failure {
    let doing = format!("cannot use the store {}", store.shown());
    match error {
        StartError::Timing(error) => Failure::usage(error.to_string()),
        StartError::Store(error) => Failure::backend(&doing, &error),
        StartError::NotRunning(NotRunning::Unreported(Some(error))) => {
            Failure::backend(&doing, &error)
        }
        StartError::NotRunning(error) => {
            Failure::new(Exit::UNAVAILABLE, format!("{doing}: {error}"))
                .lock("it was not asked for, and is not held")
                .hint("`locker doctor` looks closer")
        }
        error => Failure::new(Exit::INTERNAL, format!("{doing}: {}", chain(&error)))
            .lock("it was not asked for, and is not held"),
    }
}

fn cannot_acquire(store: &Store, error: AcquireError) -> Failure {
    let doing = format!("cannot ask the store {} for the lock", store.shown());
    match error {
        AcquireError::InvalidKey(error) => Failure::usage(error.to_string()),
        AcquireError::Store(error) => Failure::backend(&doing, &error),
        error => Failure::new(Exit::UNAVAILABLE, chain(&error))
            .lock("it is not held; what the store may have granted ends with this process")
            .hint("try again; `locker doctor` looks closer"),
    }
}

/// The key and the command, which "--" must part.
fn split(arguments: &[OsString]) -> Result<(&OsString, &[OsString]), Failure> {
    let usage = "locker run [OPTIONS] KEY -- CMD [ARGS]...";
    match arguments {
        [key, dashes, command @ ..] if dashes == "--" && !command.is_empty() => Ok((key, command)),
        [_, option, ..] if option.as_encoded_bytes().starts_with(b"-") && option != "--" => {
            let what = format!(
                "options end at KEY, but {} stands behind it",
                option.display()
            );
            Err(Failure::usage(what).hint(usage))
        }
        _ => Err(Failure::usage("there is no command; it stands behind \"--\"").hint(usage)),
    }
}
