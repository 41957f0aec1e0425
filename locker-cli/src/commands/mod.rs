//! The way from a command line to what it does, and the commands that hold no lock: they look, wait, and
//! now and then take a lock from its owner.

mod doctor;
mod extras;
mod list;
mod migrate;
mod release;
mod wait;

use crate::args::{Command, Global, parse_key};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::store::Store;

/// Does what the command line says.
pub(crate) fn dispatch(command: &Command, global: &Global) -> Result<Exit, Failure> {
    let mut out = Output::new(global.json);
    match command {
        Command::Completions { shell } => return extras::completions(*shell, &mut out),
        Command::Man => return extras::man(&mut out),
        Command::Run(run) => return crate::run::run(run, global),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let exit = runtime.block_on(async {
        match command {
            Command::List { prefix } => {
                list::locks(&Store::choose(global)?, prefix, &mut out).await
            }
            Command::Show { key } => {
                let key = parse_key(key)?;
                list::show(&Store::choose(global)?, &key, &mut out).await
            }
            Command::Ps => list::processes(&Store::choose(global)?, &mut out).await,
            Command::Wait { wait, key } => {
                let key = parse_key(key)?;
                wait::wait(&Store::choose(global)?, &key, *wait, &mut out).await
            }
            Command::Release { key, owner, now } => {
                let key = parse_key(key)?;
                let owner = release::parse_owner(owner, &key)?;
                release::release(&Store::choose(global)?, &owner, *now, &mut out).await
            }
            Command::Migrate { print: true, .. } => {
                migrate::print(&Store::choose(global)?, &mut out)
            }
            Command::Migrate { check, .. } => {
                migrate::migrate(&Store::choose(global)?, *check, &mut out).await
            }
            Command::Doctor => doctor::doctor(global, &mut out).await,
            Command::Run(_) | Command::Completions { .. } | Command::Man => Ok(Exit::SUCCESS),
        }
    });
    // The lookup of a name may hang in a thread of the runtime's, and nobody waits for that.
    runtime.shutdown_background();
    exit
}
