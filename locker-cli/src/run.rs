//! `locker run`: a command under a lock.

use crate::args::Run;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::keeper::Keeper;
use crate::keeper::wire::Status;
use crate::signals;
use crate::supervise::{End, Ended, Grant, Signals, Watch, supervise};
use std::ffi::OsString;
use std::time::Duration;

struct Always(Duration);
impl Grant for Always {
    fn valid_for(&self) -> Duration {
        self.0
    }
    async fn lost(&self) -> String {
        std::future::pending().await
    }
}

pub(crate) fn run(args: &Run) -> Result<Exit, Failure> {
    let (_key, command) = split(&args.key_and_command)?;
    let blocked = signals::block()?;
    let keeper = Keeper::spawn(command)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let signals = Signals::new(blocked)?;
        let watch = Watch {
            set: vec![],
            unset: vec![],
            grace: args.grace,
            stop_budget: args.liveness_ttl * 15 / 100,
            tell_every: args.liveness_ttl / 20,
            drift_permille: 0,
            timeout: args.timeout,
        };
        let ended = supervise(keeper, &signals, &Always(args.liveness_ttl), &watch).await?;
        Ok(verdict(&ended, args))
    })
}

/// The exit code of a command that has ended.
fn verdict(ended: &Ended, args: &Run) -> Exit {
    if ended.lost.is_some() || ended.end == End::KeeperDied {
        return Exit::code(args.lost_exit_code);
    }
    match ended.end {
        End::NotStarted(errno) if errno == nix::libc::ENOENT => Exit::NOT_FOUND,
        End::NotStarted(_) => Exit::CANNOT_EXECUTE,
        _ if ended.timed_out => Exit::TIMEOUT,
        End::Gone(Status::Exited(code)) => Exit::code(u8::try_from(code).unwrap_or(u8::MAX)),
        End::Gone(Status::Killed(signal)) => Exit::signal(signal),
        End::KeeperDied => Exit::code(args.lost_exit_code),
    }
}

/// The key and the command, which "--" must part.
fn split(arguments: &[OsString]) -> Result<(&OsString, &[OsString]), Failure> {
    let usage = "locker run [OPTIONS] KEY -- CMD [ARGS]...";
    match arguments {
        [key, dashes, command @ ..] if dashes == "--" && !command.is_empty() => Ok((key, command)),
        [_, option, ..] if option.as_encoded_bytes().starts_with(b"-") && option != "--" => {
            Err(Failure::usage(format!(
                "options end at KEY, but {} stands behind it",
                option.display()
            ))
            .hint(usage))
        }
        _ => Err(Failure::usage("there is no command; it stands behind \"--\"").hint(usage)),
    }
}
