//! Opening: what is created, what is refused, and that a refused file stays as it is.
#![allow(clippy::unwrap_used)] // A test.

mod common;

use common::{LONG, Place, born, claim, granted, key, owner, process};
use locker_core::backend::{Liveness as Standing, Side};
use locker_core::{BackendError, Connect, Effect, ErrorKind};
use locker_sqlite::Sqlite;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

/// Children of this binary.
#[tokio::test]
async fn child() {
    let Some((role, path)) = common::role() else {
        return;
    };
    match role.as_str() {
        // One of many that come at once: it opens, is born, and takes part in a race for one key.
        "starter" => {
            // Each waits for the writes of all, however slow the disk is.
            let store = Sqlite::new(&path).busy_timeout(LONG);
            let store = store.connect(Side::Caller).await.expect("opening");
            let me = born(&store, std::process::id().into()).await;
            let claimed = store.try_create(&claim(&owner("race", &me, 1))).await;
            println!("\nended {claimed:?}");
            // The winner stays until all have tried.
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
        }
        "opener" => match common::open(&path).await {
            Ok(_) => println!("\nended open"),
            Err(error) => println!("\nended {error:?}"),
        },
        other => panic!("no such role: {other}"),
    }
}

async fn refused(path: &Path) -> BackendError {
    let error = common::open(path).await.unwrap_err();
    assert_eq!(error.effect(), Effect::NotApplied);
    error
}

/// A fingerprint of all files, to show that a refusal changes nothing.
fn contents(folder: &Path) -> Vec<(String, u64)> {
    let mut contents: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, print_of(&entry.path()))
        })
        .collect();
    contents.sort();
    contents
}

fn print_of(path: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(&std::fs::read(path).unwrap());
    hasher.finish()
}

#[test]
fn twenty_processes_open_a_new_store_at_once_and_one_wins_the_race() {
    let place = Place::new();
    let children: Vec<_> = (0..20)
        .map(|_| {
            let mut command = common::command("starter", &place.path());
            command.stdin(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut children: Vec<_> = children.into_iter().map(common::Ready::from).collect();
    let answers: Vec<_> = children
        .iter_mut()
        .map(|child| child.wait_for("ended"))
        .collect();
    let winners = answers
        .iter()
        .filter(|answer| answer.contains("Granted"))
        .count();
    assert_eq!(winners, 1, "{answers:#?}");
    let losers = answers
        .iter()
        .filter(|answer| answer.contains("Held"))
        .count();
    assert_eq!(losers, 19, "{answers:#?}");
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let place = Place::new();
    let error = refused(&place.folder().join("no/such/locks.db")).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.to_string().contains("no/such does not exist"),
        "{error}"
    );
}

#[tokio::test]
async fn a_folder_and_a_nameless_path_are_refused() {
    let place = Place::new();
    assert_eq!(refused(place.folder()).await.kind(), ErrorKind::Config);
    assert_eq!(refused(Path::new("/")).await.kind(), ErrorKind::Config);
}

/// Under two names of one file neither the log nor the liveness bytes would be shared.
#[tokio::test]
async fn links_to_a_store_are_refused() {
    let place = Place::new();
    drop(place.open().await);
    place.closed().await;
    let link = place.folder().join("link.db");
    std::os::unix::fs::symlink(place.path(), &link).unwrap();
    assert_eq!(refused(&link).await.kind(), ErrorKind::Config);
    std::fs::remove_file(&link).unwrap();
    // A link to nothing would be followed by the creation.
    std::os::unix::fs::symlink(place.folder().join("nothing"), &link).unwrap();
    assert_eq!(refused(&link).await.kind(), ErrorKind::Config);
    std::fs::remove_file(&link).unwrap();
    std::fs::hard_link(place.path(), &link).unwrap();
    for path in [&link, &place.path()] {
        assert_eq!(refused(path).await.kind(), ErrorKind::Config);
    }
    std::fs::remove_file(&link).unwrap();
    drop(place.open().await);
    // A folder on the way may be a link: what lies in it is the same.
    let folder = place.folder().join("folder");
    std::os::unix::fs::symlink(place.folder(), &folder).unwrap();
    let (one, two) = (
        place.open().await,
        common::open(&folder.join("locks.db")).await,
    );
    let me = born(&one, 1).await;
    drop(one);
    let two = two.unwrap();
    common::until(async || two.read_process(&me).await.unwrap().value == Standing::Dead).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_untouched() {
    let place = Place::new();
    std::fs::write(
        place.path(),
        "a letter to my aunt, quite a long one".repeat(100),
    )
    .unwrap();
    let before = contents(place.folder());
    let error = refused(&place.path()).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.to_string().contains("not a SQLite database"),
        "{error}"
    );
    assert_eq!(contents(place.folder()), before);
}

#[tokio::test]
async fn the_database_of_another_application_is_refused_and_untouched() {
    for setup in [
        "CREATE TABLE t (x); INSERT INTO t VALUES (1);",
        "PRAGMA application_id = 42;",
        "PRAGMA user_version = 7;",
        "PRAGMA journal_mode = WAL; CREATE TABLE locks (x);",
    ] {
        let place = Place::new();
        let mut raw = place.raw().await;
        common::sql(&mut raw, setup).await;
        sqlx::Connection::close(raw).await.unwrap();
        let before = contents(place.folder());
        let error = refused(&place.path()).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{setup}");
        assert!(error.to_string().contains("another application"), "{error}");
        assert_eq!(contents(place.folder()), before, "{setup}");
    }
}

/// A crashed application left its log: it is not even checkpointed.
#[tokio::test]
async fn the_log_of_another_application_is_left_alone() {
    let (place, copy) = (Place::new(), Place::new());
    let mut raw = place.raw().await;
    common::sql(&mut raw, "PRAGMA journal_mode = WAL; CREATE TABLE t (x);").await;
    for name in ["locks.db", "locks.db-wal"] {
        std::fs::copy(place.folder().join(name), copy.folder().join(name)).unwrap();
    }
    let log = |place: &Place| print_of(&place.folder().join("locks.db-wal"));
    let main = |place: &Place| print_of(&place.path());
    let before = (main(&copy), log(&copy));
    assert_eq!(refused(&copy.path()).await.kind(), ErrorKind::Config);
    assert_eq!((main(&copy), log(&copy)), before);
}

#[tokio::test]
async fn a_newer_version_is_refused_and_says_what_to_do() {
    let place = Place::new();
    drop(place.open().await);
    let mut raw = place.raw().await;
    common::sql(&mut raw, "PRAGMA user_version = 2;").await;
    let error = refused(&place.path()).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("newer release"), "{error}");
}

/// Root may write everything, so an ordinary user is asked.
#[test]
fn a_read_only_folder_or_file_is_denied() {
    let place = Place::new();
    std::fs::set_permissions(place.folder(), PermissionsExt::from_mode(0o555)).unwrap();
    assert!(ask_nobody(&place.path()).contains("Denied"), "a folder");

    let place = Place::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { drop(place.open().await) });
    drop(runtime);
    std::fs::set_permissions(place.folder(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o444)).unwrap();
    assert!(ask_nobody(&place.path()).contains("Denied"), "a file");

    // While somebody has it open, its companions are there.
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o666)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = runtime.block_on(place.open());
    for name in ["locks.db-wal", "locks.db-shm"] {
        let companion = place.folder().join(name);
        std::fs::set_permissions(&companion, PermissionsExt::from_mode(0o444)).unwrap();
        assert!(ask_nobody(&place.path()).contains("Denied"), "{name}");
        std::fs::set_permissions(&companion, PermissionsExt::from_mode(0o666)).unwrap();
    }
    drop((open, runtime));
    let alive = place.folder().join("locks.db.alive");
    std::fs::set_permissions(alive, PermissionsExt::from_mode(0o444)).unwrap();
    assert!(
        ask_nobody(&place.path()).contains("Denied"),
        "a liveness file"
    );
}

/// Opens the store as an ordinary user, through a copy of this binary that such a user may run.
fn ask_nobody(path: &Path) -> String {
    let mut command = common::command("opener", path);
    if nix::unistd::geteuid().is_root() {
        let copies = tempfile::tempdir().unwrap();
        std::fs::set_permissions(copies.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let copy = copies.path().join("opener");
        // By another program: what this one had open for writing would be so in any process that a test
        // beside this is just starting, and could not be run.
        let mut copying = std::process::Command::new("cp");
        copying.args([&std::env::current_exe().unwrap(), &copy]);
        assert!(copying.status().unwrap().success());
        let mut other = std::process::Command::new(&copy);
        other.args(command.get_args());
        for (name, value) in command.get_envs() {
            other.env(name, value.unwrap());
        }
        other.uid(65534).gid(65534).current_dir("/");
        let output = other.output().unwrap();
        return String::from_utf8_lossy(&output.stdout).into_owned();
    }
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

#[tokio::test]
async fn nonsense_in_the_configuration_is_refused() {
    let place = Place::new();
    for store in [
        Sqlite::new(place.path()).namespace(""),
        Sqlite::new(place.path()).namespace("a\0b"),
        Sqlite::new(place.path()).busy_timeout(std::time::Duration::MAX),
    ] {
        let error = store.connect(Side::Caller).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{store:?}");
    }
    assert!(!place.path().exists());
}

const ANOTHER_BOOT: &str = "UPDATE clock SET boot = '00000000-0000-0000-0000-000000000000';";
const ANOTHER_NAMESPACE: &str = "UPDATE clock SET time_namespace = 'time:[1]';";

#[tokio::test]
async fn after_a_reboot_every_lock_is_free_and_tokens_still_grow() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let x = owner("k", &me, 1);
    let token = granted(store.try_create(&claim(&x)).await.unwrap().value);
    drop(store);
    let mut raw = place.raw().await;
    common::sql(&mut raw, ANOTHER_BOOT).await;
    // A clock that was a day ahead: the token is still greater.
    common::sql(&mut raw, "UPDATE locks SET token = token + 86400000000;").await;
    drop(raw);
    place.closed().await;
    let store = place.open().await;
    assert_eq!(store.read_lock(&key("k")).await.unwrap().value, None);
    assert_eq!(store.read_process(&me).await.unwrap().value, Standing::Dead);
    let next = born(&store, 2).await;
    let second = granted(
        store
            .try_create(&claim(&owner("k", &next, 1)))
            .await
            .unwrap()
            .value,
    );
    assert_eq!(second.get(), token.get() + 86_400_000_001);
}

/// Attack 13a: two kernels over one file would each take the other for a previous boot.
#[tokio::test]
async fn a_foreign_boot_whose_processes_live_is_refused() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    granted(
        store
            .try_create(&claim(&owner("k", &me, 1)))
            .await
            .unwrap()
            .value,
    );
    let mut raw = place.raw().await;
    common::sql(&mut raw, ANOTHER_BOOT).await;
    let error = refused(&place.path()).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("another kernel"), "{error}");
    // The locks are where they were.
    assert!(store.read_lock(&key("k")).await.unwrap().value.is_some());
    // And nobody is born under a clock that is not the file's.
    let born = store.create_process(&process(2), LONG).await.unwrap_err();
    assert_eq!(born.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn another_time_namespace_is_refused_while_its_processes_may_live() {
    let place = Place::new();
    let store = place.open().await;
    born(&store, 1).await;
    let mut raw = place.raw().await;
    common::sql(&mut raw, ANOTHER_NAMESPACE).await;
    let error = refused(&place.path()).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("time namespace"), "{error}");
    // Of a process whose liveness file is gone nobody can say that it is dead.
    drop(store);
    let alive = place.folder().join("locks.db.alive");
    // While somebody has it open, its inode number is not given to the next file.
    let _kept = std::fs::File::open(&alive).unwrap();
    std::fs::remove_file(&alive).unwrap();
    assert_eq!(refused(&place.path()).await.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn another_time_namespace_whose_processes_are_dead_is_like_another_boot() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    drop(store);
    place.closed().await;
    let mut raw = place.raw().await;
    common::sql(&mut raw, ANOTHER_NAMESPACE).await;
    let store = place.open().await;
    assert_eq!(store.read_process(&me).await.unwrap().value, Standing::Dead);
}
