//! The two scripts, and how they are sent.
//!
//! A script is known to the server by its digest. A server that has forgotten it (restarted,
//! flushed, failed over) is sent the whole text in the place of the digest, which executes it and
//! makes it known again. Arguments are arguments: none is ever part of a script's text.

use crate::connection::Connection;
use crate::error::{self, Stage};
use crate::names::{self, Names};
use crate::reply;
use crate::url::Address;
use futures_util::future::join_all;
use locker_core::{BackendError, Effect, ErrorKind, OwnerHash, ProcessHash, StoreTime};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, Value};
use std::sync::{Arc, LazyLock};

/// How many members one script has at most: a server does nothing else while a script runs.
pub(crate) const BATCH: usize = 64;

/// How many locks a locker asks a cluster about at once. A member has a script of its own there, so they
/// hold no server for long. Those of one primary travel as its gate lets them, a few batches at a time.
pub(crate) const CLUSTER_BATCH: usize = 512;

static LOCK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/lock.lua")));
static PROCESS: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/process.lua")));

#[derive(Debug)]
struct Script {
    text: &'static str,
    digest: String,
}

/// One operation on one lock.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The name of the lock's key.
    pub(crate) lock: String,
    /// What the script calls the operation.
    pub(crate) operation: &'static str,
    /// As many as the operation takes.
    pub(crate) arguments: Vec<Argument>,
}

/// An argument of an operation. It is spelled when its command is written, so that a member that waits
/// for others holds no texts of its own.
#[derive(Debug, Clone)]
pub(crate) enum Argument {
    Owner(OwnerHash),
    /// By the end of the name of its key.
    Process(ProcessHash),
    Number(u64),
    Text(String),
}

impl Member {
    pub(crate) fn new(
        lock: String,
        operation: &'static str,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Self {
        Self {
            lock,
            operation,
            arguments: arguments.into_iter().collect(),
        }
    }
}

impl Argument {
    /// How long it is, about.
    fn length(&self) -> usize {
        match self {
            Self::Owner(owner) => owner.as_str().len(),
            Self::Process(process) => process.as_str().len(),
            Self::Number(_) => 16,
            Self::Text(text) => text.len(),
        }
    }

    fn write(&self, command: &mut Cmd) {
        match self {
            Self::Owner(owner) => command.arg(owner.as_str()),
            Self::Process(process) => command.arg(&*names::tail(process)),
            Self::Number(number) => command.arg(number),
            Self::Text(text) => command.arg(text.as_str()),
        };
    }
}

/// What a script answered: the server's time, then a word, and what belongs to it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) time: StoreTime,
    pub(crate) fields: Vec<Value>,
}

/// The answer to one member.
pub(crate) type MemberAnswer = Result<Answered, BackendError>;

/// Sends a batch of at most [`BATCH`] members of distinct keys, which each have their own answer.
///
/// On a server alone they are one script, one step of the server. On a cluster their keys lie in
/// different slots: each is a script of its own, and they travel together.
///
/// # Errors
///
/// When the batch as a whole was not answered.
///
/// # Cancel safety
///
/// When it is dropped each member was sent or never will be.
pub(crate) async fn send(
    connection: &Connection,
    names: &Names,
    members: &[Member],
) -> Result<Vec<MemberAnswer>, BackendError> {
    if !connection.is_cluster() {
        debug_assert!(
            members.len() <= BATCH,
            "a script never holds the server for long"
        );
        return run_batch(connection, names, members).await;
    }
    let alone = members
        .iter()
        .map(|member| send_one(connection, names, member));
    Ok(join_all(alone).await)
}

/// Sends one member as a script of its own.
///
/// # Cancel safety
///
/// When it is dropped the member was sent or never will be.
pub(crate) async fn send_one(
    connection: &Connection,
    names: &Names,
    member: &Member,
) -> MemberAnswer {
    only(run_batch(connection, names, std::slice::from_ref(member)).await?)
}

async fn run_batch(
    connection: &Connection,
    names: &Names,
    members: &[Member],
) -> Result<Vec<MemberAnswer>, BackendError> {
    // On a cluster a process and a mailbox lie elsewhere.
    let (processes, mailboxes) = if connection.is_cluster() {
        ("", "")
    } else {
        (names.processes(), names.mailboxes())
    };
    let complete = |begin: &mut Cmd| write_arguments(begin, members, processes, mailboxes);
    let value = run(connection, &LOCK, room(members), complete).await;
    let value = value.map_err(|cause| error::from_redis(cause, connection.stage()))?;
    answers(value, members, connection.stage())
}

/// A member that a node of a cluster has not done for certain, and that may be done all the same.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Its slot is being moved to this node, which takes it already.
    TakenBy(Address),
    /// The node has forgotten the script.
    Forgotten,
    /// Its slot has moved, or the node takes nothing now.
    Otherwise,
}

/// What a node of a cluster makes of a member.
pub(crate) type Piped = Result<Answered, Refused>;

/// Sends members to one node of a cluster, each as a script of its own, in one pipeline.
///
/// # Errors
///
/// When the connection broke; then nothing is known of any member ([`error::broken_line`]).
///
/// # Cancel safety
///
/// When it is dropped each member was sent or never will be.
pub(crate) async fn send_piped(
    node: &MultiplexedConnection,
    members: &[Arc<Member>],
) -> Result<Vec<Result<Piped, BackendError>>, BackendError> {
    let mut pipeline = Pipeline::with_capacity(members.len());
    for member in members {
        pipeline.add_command(of_a_node(member));
    }
    let mut values = pipe(node, &pipeline, 0).await?.into_iter();
    let answers = members.iter().map(|member| {
        let value = values.next().unwrap_or(Value::Nil);
        piped(value.extract_error(), member)
    });
    Ok(answers.collect())
}

/// How a member is sent to a node by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Apart {
    /// With the whole text of its script, to the node that has forgotten it.
    Telling,
    /// To the node to which its slot is being moved, with the word without which that one refuses it.
    /// The word holds for the next command of its connection, so both are one message.
    Asking,
}

/// Sends one member to one node of a cluster, apart from what others ask of it.
///
/// # Errors
///
/// As [`send_piped`], or what the script answers.
///
/// # Cancel safety
///
/// When it is dropped the member was sent or never will be.
pub(crate) async fn send_apart(
    node: &MultiplexedConnection,
    member: &Member,
    how: Apart,
) -> Result<Piped, BackendError> {
    let alone = std::slice::from_ref(member);
    let complete = |begin: &mut Cmd| write_arguments(begin, alone, "", "");
    let value = run_at(node, Some(how), &LOCK, room(alone), complete).await?;
    piped(value, member)
}

/// The answers to the commands of a pipeline behind the first few.
async fn pipe(
    node: &MultiplexedConnection,
    pipeline: &Pipeline,
    behind: usize,
) -> Result<Vec<Value>, BackendError> {
    // The clone is a handle.
    let mut node = node.clone();
    let answers = node.req_packed_commands(pipeline, behind, pipeline.len() - behind);
    answers.await.map_err(error::broken_line)
}

/// The script of one member, as a node of a cluster takes it.
fn of_a_node(member: &Member) -> Cmd {
    let alone = std::slice::from_ref(member);
    let mut command = begin("EVALSHA", &LOCK.digest, room(alone));
    write_arguments(&mut command, alone, "", "");
    command
}

/// The answer to a member that travelled in a pipeline.
fn piped(value: Result<Value, RedisError>, member: &Member) -> Result<Piped, BackendError> {
    let value = match value {
        Ok(value) => value,
        Err(cause) => return refused(cause).map(Err),
    };
    only(answers(value, std::slice::from_ref(member), Stage::Once)?).map(Ok)
}

/// What a node of a cluster has said in the place of an answer.
///
/// # Errors
///
/// When it says the same if it is asked again.
fn refused(cause: RedisError) -> Result<Refused, BackendError> {
    if error::is_unknown_script(&cause) {
        return Ok(Refused::Forgotten);
    }
    let taken_by = error::taken_by(&cause);
    let refusal = error::from_redis(cause, Stage::Once);
    // Nothing else passes by being asked again: a right that is missing, a server that has too much to
    // do.
    let may_pass =
        refusal.kind() == ErrorKind::Unavailable && refusal.effect() == Effect::NotApplied;
    if may_pass {
        Ok(taken_by.map_or(Refused::Otherwise, Refused::TakenBy))
    } else {
        Err(refusal)
    }
}

/// How many arguments members have, and how long they are, about.
fn room(members: &[Member]) -> (usize, usize) {
    let length = |member: &Member| -> usize {
        let arguments = member.arguments.iter().map(Argument::length);
        member.lock.len() + member.operation.len() + arguments.sum::<usize>()
    };
    let count = members.iter().map(|member| 2 + member.arguments.len());
    (count.sum(), members.iter().map(length).sum())
}

/// Begins a command that has room for what follows.
fn begin(name: &str, script: &str, (count, length): (usize, usize)) -> Cmd {
    // Besides the members there are the number of keys, and what names begin with.
    let mut command = Cmd::with_capacity(count + 5, name.len() + script.len() + length + 64);
    command.arg(name).arg(script);
    command
}

/// Writes what follows the script.
fn write_arguments(begin: &mut Cmd, members: &[Member], processes: &str, mailboxes: &str) {
    begin.arg(members.len());
    for member in members {
        begin.arg(member.lock.as_str());
    }
    begin.arg(processes).arg(mailboxes);
    for member in members {
        begin.arg(member.operation);
        for argument in &member.arguments {
            argument.write(begin);
        }
    }
}

/// The answer to the one member of a batch.
pub(crate) fn only<T>(mut answers: Vec<Result<T, BackendError>>) -> Result<T, BackendError> {
    let none = || Err(error::unexpected("a batch"));
    answers.pop().unwrap_or_else(none)
}

/// What the script answers to each member.
fn answers(
    value: Value,
    members: &[Member],
    stage: Stage,
) -> Result<Vec<MemberAnswer>, BackendError> {
    let (time, answers) = reply::split(value, "a batch")?;
    if answers.len() != members.len() {
        return Err(error::unexpected("a batch"));
    }
    let answers = answers.into_iter().zip(members).map(|(answer, member)| {
        let fields = reply::member(answer, &member.lock, member.operation, stage)?;
        Ok(Answered { time, fields })
    });
    Ok(answers.collect())
}

/// What the script calls the reading of a process.
pub(crate) const READ: &str = "read";

/// Sends one operation on a process.
///
/// # Errors
///
/// When it was not answered.
pub(crate) async fn send_process(
    connection: &Connection,
    key: &str,
    operation: &'static str,
    ttl_us: u64,
) -> Result<Answered, BackendError> {
    let complete = |begin: &mut Cmd| write_process(begin, key, operation, ttl_us);
    let value = run(connection, &PROCESS, room_of_process(key), complete).await;
    let value = value.map_err(|cause| error::from_redis(cause, connection.stage()))?;
    let (time, fields) = reply::split(value, operation)?;
    Ok(Answered { time, fields })
}

/// Reads a process at one node of a cluster. That may be repeated elsewhere, whatever comes of it.
///
/// # Errors
///
/// As [`send_piped`], or what the script answers.
pub(crate) async fn read_process_at(
    node: &MultiplexedConnection,
    key: &str,
    how: Option<Apart>,
) -> Result<Piped, BackendError> {
    let complete = |begin: &mut Cmd| write_process(begin, key, READ, 0);
    let room = room_of_process(key);
    let value = match run_at(node, how, &PROCESS, room, complete).await? {
        Ok(value) => value,
        Err(cause) => return refused(cause).map(Err),
    };
    let (time, fields) = reply::split(value, READ)?;
    Ok(Ok(Answered { time, fields }))
}

fn write_process(begin: &mut Cmd, key: &str, operation: &str, ttl_us: u64) {
    begin.arg(1).arg(key).arg(operation).arg(ttl_us);
}

fn room_of_process(key: &str) -> (usize, usize) {
    (3, key.len() + 32)
}

/// Runs a script by its digest, or by its text where the digest is not known.
async fn run(
    connection: &Connection,
    script: &Script,
    room: (usize, usize),
    complete: impl Fn(&mut Cmd),
) -> Result<Value, RedisError> {
    let mut command = begin("EVALSHA", &script.digest, room);
    complete(&mut command);
    match connection.query(&command).await {
        Err(cause) if error::is_unknown_script(&cause) => {
            let mut command = begin("EVAL", script.text, room);
            complete(&mut command);
            connection.query(&command).await
        }
        answer => answer,
    }
}

/// The same on one node of a cluster: what it says, or that its connection broke.
async fn run_at(
    node: &MultiplexedConnection,
    how: Option<Apart>,
    script: &Script,
    room: (usize, usize),
    complete: impl Fn(&mut Cmd),
) -> Result<Result<Value, RedisError>, BackendError> {
    let written = |name: &str, text: &str| {
        let mut command = begin(name, text, room);
        complete(&mut command);
        let mut pipeline = Pipeline::with_capacity(2);
        if how == Some(Apart::Asking) {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(command);
        pipeline
    };
    if how != Some(Apart::Telling) {
        let answer = last(node, &written("EVALSHA", &script.digest)).await?;
        if !answer.as_ref().is_err_and(error::is_unknown_script) {
            return Ok(answer);
        }
    }
    last(node, &written("EVAL", script.text)).await
}

/// The answer to the last command of a pipeline.
async fn last(
    node: &MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Result<Value, RedisError>, BackendError> {
    let value = pipe(node, pipeline, pipeline.len() - 1).await?.pop();
    Ok(value.unwrap_or(Value::Nil).extract_error())
}

impl Script {
    fn new(text: &'static str) -> Self {
        let digest = redis::Script::new(text).get_hash().to_owned();
        Self { text, digest }
    }
}
