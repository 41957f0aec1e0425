//! The connection on which the server tells what becomes free: one for each process, however many
//! keys and tasks wait, and none as long as nobody waits.
//!
//! A task owns it. It enrols, withdraws, and hears. The order in which nothing is missed: the server
//! has confirmed LISTEN; the stream is there; the enrolment is committed; the caller tries the lock;
//! the caller waits. When the connection is lost, it is rebuilt, every enrolment is written again,
//! and every stream is told that something may have been missed (attack 20b). What was to be withdrawn
//! on a connection that was lost is withdrawn on the next one.

use crate::arguments::{self, Value, micros};
use crate::error::{self, Stage};
use crate::hints::{Debts, Enrolment, Hub, Taken};
use crate::row::foreign;
use crate::statement::{Statement, Statements};
use locker_core::BackendError;
use locker_core::Key;
use locker_core::backend::{Hint, HintStream, Watcher};
use sqlx::Row;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgRow};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long an observer's enrolment lasts unless it is renewed.
const LOOK: Duration = Duration::from_secs(120);
/// How often observers' enrolments are renewed, and a silent connection is tried.
const ROUND: Duration = Duration::from_secs(30);
/// How long the answer to that may take before the connection counts as broken.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a lost connection is opened again, doubled up to sixteen times.
const PAUSE: Duration = Duration::from_millis(125);

/// The way to the task that listens. When it is dropped, the task ends and closes its connection.
#[derive(Debug)]
pub(crate) struct Subscription {
    ear: Ear,
    debts: Arc<Debts>,
    /// The connection belongs to it, whoever asks first.
    runtime: Handle,
    running: Mutex<Option<Running>>,
}

/// How to listen.
#[derive(Clone)]
struct Ear {
    options: PgConnectOptions,
    channel: String,
    statements: Arc<Statements>,
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Running {
    hub: Arc<Hub>,
    enrol: mpsc::Sender<Enrol>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Enrol {
    enrolment: Enrolment,
    done: oneshot::Sender<Result<(), BackendError>>,
}

impl Subscription {
    pub(crate) fn new(
        options: PgConnectOptions,
        channel: String,
        statements: Arc<Statements>,
        debts: Arc<Debts>,
    ) -> Self {
        Self {
            ear: Ear {
                options,
                channel,
                statements,
            },
            debts,
            runtime: Handle::current(),
            running: Mutex::default(),
        }
    }

    /// Enrols a watcher. Resolves when a later release cannot be missed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it withdraws what it may have enrolled.
    pub(crate) async fn watch(
        &self,
        key: &Key,
        watcher: &Watcher,
    ) -> Result<HintStream, BackendError> {
        let enrolment = Enrolment {
            key: key.clone(),
            id: new_id()?,
            turn: self.debts.next_turn(),
            watcher: watcher.clone(),
        };
        let (hub, enrol) = self.running();
        let hints = hub.open(enrolment.clone());
        let (done, answer) = oneshot::channel();
        let ended = || error::unavailable("nobody listens to the server any more");
        let sent = enrol.send(Enrol { enrolment, done }).await;
        sent.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))?;
        Ok(Box::pin(hints))
    }

    /// The task, started by whoever comes first.
    fn running(&self) -> (Arc<Hub>, mpsc::Sender<Enrol>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let running = running.get_or_insert_with(|| {
            let (enrol, enrolling) = mpsc::channel(64);
            let hub = Arc::new(Hub::new(Arc::clone(&self.debts)));
            let task = Listening {
                ear: self.ear.clone(),
                hub: Arc::clone(&hub),
                debts: Arc::clone(&self.debts),
                enrolling,
            };
            Running {
                hub,
                enrol,
                task: self.runtime.spawn(task.run()),
            }
        });
        (Arc::clone(&running.hub), running.enrol.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.hub.end_all();
    }
}

/// A number that no other enrolment has: 63 random bits.
fn new_id() -> Result<i64, BackendError> {
    let random = getrandom::u64().map_err(|_| error::unavailable("there is no randomness"))?;
    Ok(random.cast_signed() & i64::MAX)
}

/// The task.
struct Listening {
    ear: Ear,
    hub: Arc<Hub>,
    debts: Arc<Debts>,
    enrolling: mpsc::Receiver<Enrol>,
}

/// What the task has to do next.
enum Event {
    Heard(String),
    Lost,
    Enrol(Enrol),
    Owed,
    Round,
    End,
}

impl Listening {
    async fn run(mut self) {
        // The first connection is opened for whoever asks first, who is told if it fails.
        while let Some(first) = self.enrolling.recv().await {
            match self.ear.listen().await {
                Ok(line) => {
                    self.listen_on(line, first).await;
                    return;
                }
                Err(failure) => drop(first.done.send(Err(failure))),
            }
        }
    }

    async fn listen_on(&mut self, mut line: Line, first: Enrol) {
        let mut next = Event::Enrol(first);
        let mut round = tokio::time::interval_at(Instant::now() + ROUND, ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let done = match next {
                Event::Heard(message) => {
                    self.hub.hear(&message);
                    Ok(())
                }
                Event::Enrol(Enrol { enrolment, done }) => {
                    let enrolled = self.enrol(&mut line, enrolment).await;
                    let broken = matches!(&enrolled, Err(e) if e.kind().breaks_connection());
                    drop(done.send(enrolled));
                    if broken { Err(()) } else { Ok(()) }
                }
                Event::Owed => lost(in_time(self.withdraw(&mut line)).await),
                Event::Round => self.go_round(&mut line).await,
                Event::Lost => Err(()),
                Event::End => return,
            };
            if done.is_err() {
                drop(line);
                let Some(rebuilt) = self.rebuild().await else {
                    return;
                };
                line = rebuilt;
                self.hub.deliver_to_all(Hint::Rebuilt);
            }
            next = tokio::select! {
                heard = line.hear() => heard.map_or(Event::Lost, Event::Heard),
                enrol = self.enrolling.recv() => enrol.map_or(Event::End, Event::Enrol),
                () = self.debts.news() => Event::Owed,
                _ = round.tick() => Event::Round,
            };
        }
    }

    /// Writes an enrolment, unless its stream has gone.
    async fn enrol(&self, line: &mut Line, enrolment: Enrolment) -> Result<(), BackendError> {
        if !self.hub.is_to_be_written(enrolment.id) {
            return Ok(());
        }
        let enrolled = self.ear.enrol(line, &enrolment).await;
        let enrolled = enrolled.map(|ended| ended.into_iter().for_each(|id| self.hub.end(id)));
        // Its stream may have gone meanwhile, and another connection been quicker to withdraw it than
        // this one to write it.
        self.hub.owe_unless_open(enrolment);
        enrolled
    }

    /// Deletes the enrolments that are owed, as many as there are.
    async fn withdraw(&self, line: &mut Line) -> Result<(), BackendError> {
        let Some(taken) = self.debts.take() else {
            return Ok(());
        };
        line.ask(&self.ear.statements.withdraw, withdrawal(&taken))
            .await?;
        taken.paid();
        Ok(())
    }

    /// Renews what observers have enrolled, which shows that the connection lives, and withdraws what
    /// could not be withdrawn before.
    async fn go_round(&self, line: &mut Line) -> Result<(), ()> {
        let mut enrolments = self.hub.enrolments();
        enrolments.retain(|enrolment| enrolment.watcher == Watcher::Observer);
        let mut arguments = columns(&enrolments);
        arguments.push(micros(LOOK).into());
        let round = async {
            line.ask(&self.ear.statements.go_on_looking, arguments)
                .await?;
            self.withdraw(line).await
        };
        lost(in_time(round).await)
    }

    /// Opens the connection again and again, until everything is enrolled on the new one.
    async fn rebuild(&mut self) -> Option<Line> {
        let mut pause = PAUSE;
        loop {
            // Whoever asks meanwhile is told that the server cannot be reached, and polls.
            let failure = match self.try_rebuild().await {
                Ok(line) => return Some(line),
                Err(failure) => failure,
            };
            tracing::debug!(error = %failure, "listening is tried again");
            // Jittered, because a server that comes back has lost everybody at once.
            let jitter = getrandom::u32().map_or(1.0, |bits| f64::from(bits) / f64::from(u32::MAX));
            let until = tokio::time::sleep(pause.mul_f64(0.5 + jitter));
            tokio::pin!(until);
            loop {
                tokio::select! {
                    () = &mut until => break,
                    enrol = self.enrolling.recv() => {
                        let Enrol { done, .. } = enrol?;
                        drop(done.send(Err(error::unavailable(
                            "the connection for wake-ups is lost; it is being rebuilt",
                        ))));
                    }
                }
            }
            pause = (pause * 2).min(PAUSE * 16);
        }
    }

    async fn try_rebuild(&self) -> Result<Line, BackendError> {
        let mut line = in_time(self.ear.listen()).await?;
        // Whoever asks for the first time waits meanwhile, so it is not tried for ever.
        let until = Instant::now() + PATIENCE;
        for enrolment in self.hub.enrolments() {
            let id = enrolment.id;
            if Instant::now() >= until {
                self.hub.give_up(id);
                continue;
            }
            // That somebody else keeps the row of one lock is no reason for the others to hear
            // nothing. Its stream ends, and whoever waits for it enrols anew.
            match in_time(self.enrol(&mut line, enrolment)).await {
                Err(failure) if failure.kind().breaks_connection() => return Err(failure),
                Err(_) => self.hub.give_up(id),
                Ok(()) => {}
            }
        }
        // The connection is good, whatever becomes of what is only tidied up.
        if lost(in_time(self.withdraw(&mut line)).await).is_err() {
            return Err(error::unavailable("the new connection for wake-ups broke"));
        }
        Ok(line)
    }
}

impl Ear {
    /// A connection that listens.
    async fn listen(&self) -> Result<Line, BackendError> {
        let opening = |cause| error::from_sqlx(cause, Stage::Opening);
        // The listener wants a pool; it is of one connection, and gone with it.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(self.options.clone());
        let mut listener = PgListener::connect_with(&pool).await.map_err(opening)?;
        listener.eager_reconnect(false);
        let mut line = Line(Some(listener));
        line.listener()?
            .listen(&self.channel)
            .await
            .map_err(opening)?;
        Ok(line)
    }

    /// Answers which enrolments do not count any more.
    async fn enrol(
        &self,
        line: &mut Line,
        enrolment: &Enrolment,
    ) -> Result<Vec<i64>, BackendError> {
        let process = match &enrolment.watcher {
            Watcher::Waiter(process) => Some(process.as_str().to_owned()),
            Watcher::Observer => None,
        };
        let arguments = vec![
            enrolment.key.as_str().into(),
            enrolment.id.into(),
            Value::Text(process),
            enrolment.turn.into(),
            micros(LOOK).into(),
        ];
        let rows = line.ask(&self.statements.enrol, arguments).await?;
        rows.iter()
            .map(|row| row.try_get(0).map_err(foreign))
            .collect()
    }
}

/// A connection that listens.
///
/// A listener that is dropped asks the server not to tell it anything more, in a task, before it
/// closes. A server that does not answer would keep one such socket for every connection that was
/// given up because of that (attack 30). So it is dropped onto a runtime that runs nothing and goes
/// at once: its task never begins, and the socket closes with it.
struct Line(Option<PgListener>);

impl Line {
    fn listener(&mut self) -> Result<&mut PgListener, BackendError> {
        self.0
            .as_mut()
            .ok_or_else(|| error::unavailable("the connection for wake-ups is closed"))
    }

    /// The next message; `None` when the connection is lost.
    ///
    /// # Cancel safety
    ///
    /// Nothing that was heard is lost when it is dropped.
    async fn hear(&mut self) -> Option<String> {
        let heard = self.0.as_mut()?.try_recv().await;
        Some(heard.ok()??.payload().to_owned())
    }

    async fn ask(
        &mut self,
        statement: &Statement,
        arguments: Vec<Value>,
    ) -> Result<Vec<PgRow>, BackendError> {
        sqlx::query_with(statement.bound(), arguments::bind(arguments)?)
            .fetch_all(self.listener()?)
            .await
            .map_err(|cause| error::from_sqlx(cause, Stage::Sent))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(listener) = self.0.take() else {
            return;
        };
        match tokio::runtime::Builder::new_current_thread().build() {
            Ok(nowhere) => {
                let entered = nowhere.enter();
                drop(listener);
                drop(entered);
                nowhere.shutdown_background();
            }
            Err(_) => drop(listener),
        }
    }
}

/// A server that does not answer for so long has broken the connection.
async fn in_time<T>(
    asked: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let asked = tokio::time::timeout(PATIENCE, asked).await;
    asked.unwrap_or_else(|_| Err(error::unavailable("the server does not answer")))
}

/// Whether the connection is to be given up; another failure is the next round's.
fn lost(asked: Result<(), BackendError>) -> Result<(), ()> {
    match asked {
        Err(error) if error.kind().breaks_connection() => Err(()),
        Err(error) => {
            tracing::debug!(%error, "an enrolment could not be changed");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// The arguments of the function that withdraws.
pub(crate) fn withdrawal(taken: &Taken) -> Vec<Value> {
    columns(taken.enrolments())
}

fn columns(enrolments: &[Enrolment]) -> Vec<Value> {
    let key = |enrolment: &Enrolment| enrolment.key.as_str().to_owned();
    vec![
        Value::Texts(enrolments.iter().map(key).collect()),
        Value::Numbers(enrolments.iter().map(|enrolment| enrolment.id).collect()),
    ]
}
