//! Bad input: each gives one clear error that says what happened, what is known about the lock and
//! what to do, with its exit code; it changes no record and leaves no lock behind.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Home, Outcome};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// One clear error: three lines, of which each has its say.
#[track_caller]
fn refused(outcome: &Outcome, code: i32, what: &str) {
    outcome.expect(code);
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert!(
        lines[0].starts_with("locker: ") && lines[0].contains(what),
        "{outcome:#?}"
    );
    assert!(lines[1].starts_with("  lock: "), "{outcome:#?}");
    assert!(lines[2].starts_with("  hint: "), "{outcome:#?}");
    assert_eq!(
        (lines.len(), outcome.stdout.as_str()),
        (3, ""),
        "{outcome:#?}"
    );
}

#[track_caller]
fn nothing_is_held(home: &Home) {
    assert_eq!(home.run(&["--json", "list"]).expect(0).stdout, "");
}

#[test]
fn a_key_that_breaks_the_rule_is_64() {
    let home = Home::new();
    let long = "x".repeat(513);
    for key in ["", &long] {
        for arguments in [
            vec!["run", key, "--", "true"],
            vec!["show", key],
            vec!["wait", key],
            vec!["release", key, "--owner", "k@h/1.2.3"],
        ] {
            refused(&home.run(&arguments), 64, "key");
        }
    }
    assert!(common::is_empty(&home.path("")), "a store was made");
    home.run(&["run", &"x".repeat(512), "--", "true"]).expect(0);
    nothing_is_held(&home);
}

/// No argument of a process can hold a NUL; a store's URL from a file can.
#[test]
fn a_nul_cannot_come_in() {
    let home = Home::new();
    fs::write(home.path("url"), "sqlite:a\0b").unwrap();
    let path = home.path("url");
    let outcome = home.run(&[
        "--store-file",
        path.to_str().unwrap(),
        "run",
        "k",
        "--",
        "true",
    ]);
    assert_ne!(outcome.status.code(), Some(0));
    assert!(outcome.stderr.contains("hint"), "{outcome:#?}");
}

#[test]
fn a_trace_that_breaks_the_rule_is_64() {
    let home = Home::new();
    let outcome = home.run(&["run", "--trace", "", "k", "--", "true"]);
    refused(&outcome, 64, "trace");
}

#[test]
fn an_url_that_is_none_or_of_no_store_is_64() {
    let home = Home::new();
    refused(
        &home.run(&["--store", "ftp://x", "run", "k", "--", "true"]),
        64,
        "\"ftp\"",
    );
    refused(
        &home.run(&["--store", "/tmp/x.db", "run", "k", "--", "true"]),
        64,
        "no scheme",
    );
    refused(
        &home.run(&["--store", "sqlite:", "run", "k", "--", "true"]),
        64,
        "no path",
    );
}

#[test]
fn a_store_that_is_not_compiled_in_is_78_and_names_the_feature() {
    let home = Home::new();
    let (redis, tls) = (cfg!(feature = "redis"), cfg!(feature = "tls"));
    let (postgres, etcd) = (cfg!(feature = "postgres"), cfg!(feature = "etcd"));
    for (url, feature, there) in [
        ("redis://u:s3cret@h", "redis", redis),
        ("redis+cluster://h", "redis", redis),
        ("redis+sentinel://h/m", "redis", redis),
        ("rediss://:s3cret@h", "redis,tls", redis && tls),
        ("rediss+cluster://h", "redis,tls", redis && tls),
        ("rediss+sentinel://h/m", "redis,tls", redis && tls),
        ("postgres://u:s3cret@h/db", "postgres", postgres),
        ("etcd://h", "etcd", etcd),
        ("etcds://h", "etcd,tls", etcd && tls),
    ] {
        if there {
            continue;
        }
        let outcome = home.run(&["--store", url, "run", "k", "--", "true"]);
        refused(&outcome, 78, "need a feature of this binary");
        assert!(
            outcome.stderr.contains(&format!("--features {feature}")),
            "{outcome:#?}"
        );
        assert!(!outcome.stderr.contains("s3cret"));
    }
}

#[test]
fn a_store_whose_folder_is_missing_is_69() {
    let home = Home::new();
    let url = format!("sqlite:{}", home.path("no/such/locker.db").display());
    for arguments in [
        vec!["run", "k", "--", "true"],
        vec!["list"],
        vec!["show", "k"],
    ] {
        let outcome = home.run(&[&["--store", &url], &arguments[..]].concat());
        refused(&outcome, 69, "no/such");
    }
    assert!(!home.path("no").exists());
}

/// As a user without rights, whoever runs the tests.
fn as_nobody(home: &Home, url: &str) -> Outcome {
    let mut command = if nix::unistd::geteuid().is_root() {
        // A place that everybody may reach. Another process copies it: a descriptor of ours that is
        // open for writing would be inherited by what other tests start, and keep it "text busy".
        let binary = home.path("locker-binary");
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_locker"))
            .arg(&binary)
            .status();
        assert!(copied.unwrap().success());
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(binary);
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_locker"))
    };
    command
        .args(["--store", url, "run", "k", "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    common::Running::of(command.spawn().unwrap()).end()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_or_a_file_without_rights_has_its_code() {
    let home = Home::new();
    mode(&home.path(""), 0o755);
    let folder = home.path("store");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("locker.db");
    let url = format!("sqlite:{}", file.display());
    home.run(&["--store", &url, "run", "k", "--", "true"])
        .expect(0);
    for (folder_mode, file_mode, code, what) in [
        (0o555, 0o666, 69, "cannot write to the folder"),
        (0o777, 0o000, 78, "cannot read"),
        (0o777, 0o444, 77, "cannot write the store"),
    ] {
        mode(&folder, folder_mode);
        mode(&file, file_mode);
        refused(&as_nobody(&home, &url), code, what);
    }
    mode(&folder, 0o777);
    mode(&file, 0o666);
    let list = home.run(&["--store", &url, "--json", "list"]);
    assert_eq!(list.expect(0).stdout, "");
}

#[test]
fn a_file_that_is_no_database_is_78_and_stays_as_it_is() {
    let home = Home::new();
    let text = "certainly no database ".repeat(100);
    fs::write(home.path("locker.db"), &text).unwrap();
    for arguments in [
        vec!["run", "k", "--", "true"],
        vec!["list"],
        vec!["migrate"],
    ] {
        refused(&home.run(&arguments), 78, "is not a SQLite database");
    }
    assert_eq!(fs::read_to_string(home.path("locker.db")).unwrap(), text);
}

#[test]
fn a_store_of_a_newer_version_is_78_and_stays_as_it_is() {
    let home = Home::new();
    home.run(&["run", "k", "--", "true"]).expect(0);
    // The log is merged into the file, which is then the whole truth.
    execute(&home, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(!home.path("locker.db-wal").exists());
    let file = fs::OpenOptions::new()
        .write(true)
        .open(home.path("locker.db"))
        .unwrap();
    // The user version, in the header of the file.
    file.write_all_at(&99_u32.to_be_bytes(), 60).unwrap();
    let before = fs::read(home.path("locker.db")).unwrap();
    refused(&home.run(&["run", "k", "--", "true"]), 78, "newer release");
    assert_eq!(fs::read(home.path("locker.db")).unwrap(), before);
}

/// Writes into the store what no release has ever written.
fn spoil(home: &Home, statement: &'static str) {
    assert_eq!(execute(home, statement), 1);
}

/// Has SQLite itself do something to the store's file, and answers how many rows that changed.
fn execute(home: &Home, statement: &'static str) -> u64 {
    use sqlx::{ConnectOptions, Connection};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(home.path("locker.db"));
        let mut store = options.connect().await.unwrap();
        let done = sqlx::query(statement).execute(&mut store).await.unwrap();
        store.close().await.unwrap();
        done.rows_affected()
    })
}

#[test]
fn a_record_with_impossible_content_is_78_and_harms_no_other_lock() {
    let spoilt = [
        "UPDATE locks SET token = -1 WHERE key = 'k'",
        "UPDATE locks SET format = 99 WHERE key = 'k'",
        "UPDATE locks SET owner = 'nonsense' WHERE key = 'k'",
        "UPDATE locks SET owner = 'other@h/1.2.3' WHERE key = 'k'",
    ];
    for statement in spoilt {
        let home = Home::new();
        let holder = home.script(&[], "echo > held; exec sleep 1000");
        home.await_file("held");
        spoil(&home, statement);
        refused(
            &home.run(&["run", "k", "--", "true"]),
            78,
            "cannot ask the store",
        );
        refused(&home.run(&["show", "k"]), 78, "cannot ask the store");
        home.run(&["run", "other", "--", "true"]).expect(0);
        let list = home.run(&["--json", "list"]);
        assert!(list.expect(78).stdout.contains("error"), "{list:?}");
        home.run(&["doctor"]).expect(78);
        drop(holder);
    }
}

#[test]
fn a_timing_that_leaves_no_validity_is_64() {
    let home = Home::new();
    for ttl in ["0", "0.000001"] {
        let outcome = home.run(&["run", "--liveness-ttl", ttl, "k", "--", "true"]);
        refused(&outcome, 64, "the timing does not work");
    }
    assert!(common::is_empty(&home.path("")), "a store was made");
}

#[test]
fn a_command_that_does_not_exist_leaves_no_lock_behind() {
    let home = Home::new();
    refused(
        &home.run(&["run", "k", "--", "no-such-command"]),
        127,
        "no-such-command",
    );
    nothing_is_held(&home);
}

#[test]
fn options_behind_the_key_are_refused() {
    let home = Home::new();
    refused(
        &home.run(&["run", "k", "-w", "5", "--", "true"]),
        64,
        "options end at KEY",
    );
    refused(&home.run(&["run", "k"]), 64, "no command");
    refused(&home.run(&["run", "k", "--"]), 64, "no command");
    refused(&home.run(&["run", "k", "true"]), 64, "no command");
}

#[test]
fn arguments_that_clap_refuses_are_64() {
    let home = Home::new();
    for arguments in [
        vec!["run"],
        vec!["run", "-w", "soon", "k", "--", "true"],
        vec!["run", "-E", "256", "k", "--", "true"],
        vec!["run", "-n", "-w", "1", "k", "--", "true"],
        vec!["run", "--bogus", "k", "--", "true"],
        vec!["run", "--bogus", "--", "true"],
        vec!["fly"],
        vec![],
    ] {
        home.run(&arguments).expect(64);
    }
    home.run(&["--help"]).expect(0);
    home.run(&["run", "--help"]).expect(0);
    home.run(&["--version"]).expect(0);
}

#[test]
fn an_owner_hash_that_is_none_or_of_another_lock_is_64() {
    let home = Home::new();
    refused(
        &home.run(&["release", "k", "--owner", "nonsense"]),
        64,
        "owner hash",
    );
    refused(
        &home.run(&["release", "k", "--owner", "other@h/1.2.3"]),
        64,
        "\"other\"",
    );
}

#[test]
fn a_store_file_that_is_not_there_or_empty_is_78() {
    let home = Home::new();
    let path = home.path("url");
    let arguments = [
        "--store-file",
        path.to_str().unwrap(),
        "run",
        "k",
        "--",
        "true",
    ];
    refused(&home.run(&arguments), 78, "cannot read the store's URL");
    fs::write(&path, "\n").unwrap();
    refused(&home.run(&arguments), 78, "holds no URL");
    fs::write(&path, format!("{}\n", home.url())).unwrap();
    home.run(&arguments).expect(0);
}

#[test]
fn failures_are_json_where_that_is_asked_for() {
    let home = Home::new();
    let outcome = home.run(&["--json", "run", "", "--", "true"]);
    let value: serde_json::Value = serde_json::from_str(&outcome.expect(64).stderr).unwrap();
    assert_eq!(value["exit"], 64);
    assert!(value["error"].is_string() && value["lock"].is_string() && value["hint"].is_string());
}
