//! What goes wrong on a real server, and what a caller is told of it.

mod fixture;

use fixture::{Somebody, fixture};
use locker_core::backend::{Force, Side};
use locker_core::{BackendError, Connect, Effect, ErrorKind};
use locker_postgres::Postgres;
use locker_testkit::servers::postgres::{GUARDED, Server};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn server(lines: &[&str]) -> Server {
    Server::start(lines).unwrap_or_else(|missing| panic!("there is no store to test: {missing}"))
}

async fn refused(store: &Postgres) -> BackendError {
    let refused = store.connect(Side::Caller).await;
    refused.expect_err("such a store is refused")
}

#[track_caller]
fn told(error: &BackendError, kind: ErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.effect(), Effect::NotApplied, "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{error} lacks {word:?}");
    }
}

async fn run(raw: &mut PgConnection, sql: impl Into<String>) {
    let sql = AssertSqlSafe(sql.into());
    sqlx::raw_sql(sql).execute(raw).await.expect("sound SQL");
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_never_shown() {
    let server = server(&[]);
    let role = format!("CREATE ROLE {GUARDED} LOGIN PASSWORD 'right'");
    server.sql(&role).unwrap();
    let store = Postgres::from_url(&server.url_as(GUARDED, Some("wr0ng"))).unwrap();
    let error = refused(&store).await;
    told(&error, ErrorKind::Denied, &["password"]);
    for shown in [
        format!("{error:?}"),
        format!("{error}"),
        format!("{store:?}"),
    ] {
        assert!(!shown.contains("wr0ng"), "{shown}");
    }
    let right = Postgres::from_url(&server.url_as(GUARDED, Some("right"))).unwrap();
    let missing = refused(&right).await;
    told(&missing, ErrorKind::Config, &["locker migrate"]);
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_showing_it() {
    for url in [
        "mysql://u:s3cret@h/d",
        "postgres://u:s3cret@h:port/d",
        "s3cret",
    ] {
        let error = Postgres::from_url(url).expect_err("no URL of a server");
        told(&error, ErrorKind::Config, &[]);
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}

/// The client would write it to the log together with its value, and go on without it.
#[test]
fn a_parameter_that_nobody_knows_is_refused_by_its_name_without_its_value() {
    for (url, name) in [
        ("postgres://h/d?passwd=s3cret", "`passwd`"),
        ("postgres://h/d?sslmode=disable&%70asswd=s3cret", "`passwd`"),
        ("postgres://h/d?passwd=s3cret&between=sessions", "`passwd`"),
        ("postgres://h/d?Password=s3cret", "`Password`"),
        ("postgres://h/d?options[=s3cret", "`options[`"),
        ("postgres://h/d?=s3cret", "``"),
        // What may be a piece of a password is not shown.
        ("postgres://u:1?s3cret=x@h/d", "percent-encoded"),
        ("postgres://u:1?s3cret&x=y@h/d", "percent-encoded"),
        ("postgres://h/d?password=a&s3cret", "percent-encoded"),
        ("postgres://h/d?password=a&s3cret=b", "percent-encoded"),
        ("postgres://h/d?a&s3cret", "percent-encoded"),
        // Our own, as the client would get them.
        (
            "postgres://h/d?crash%5Fdetection=s3cret",
            "`crash_detection=`",
        ),
        ("postgres://h/d?grace", "`grace=`"),
    ] {
        let error = Postgres::from_url(url).expect_err("nobody knows it");
        told(&error, ErrorKind::Config, &[name]);
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
    for known in [
        "sslmode=disable&application_name=x&statement-cache-capacity=7",
        "options=-c%20work_mem%3D1MB&options[lock_timeout]=1s&options%5Bwork_mem%5D=1MB",
        "password=p%40ss&user=u&dbname=d&between=sessions&crash_detection=session&grace=3s",
        "hostaddr=127.0.0.1&port=5432&",
        "",
    ] {
        Postgres::from_url(&format!("postgres://h/d?{known}")).expect(known);
    }
}

#[tokio::test]
async fn a_missing_schema_names_the_command_that_creates_it() {
    let store = fixture().await.store().namespace("nobody made this");
    told(
        &refused(&store).await,
        ErrorKind::Config,
        &["locker migrate"],
    );
    told(&store.check().await.unwrap_err(), ErrorKind::Config, &[]);
}

#[tokio::test]
async fn a_namespace_that_cannot_be_a_schema_is_refused() {
    for name in ["", &"x".repeat(64), "a\0b", "pg_mine"] {
        let store = fixture().await.store().namespace(name);
        told(&refused(&store).await, ErrorKind::Config, &["namespace"]);
    }
}

#[tokio::test]
async fn an_older_and_a_newer_schema_are_refused_and_a_compatible_one_is_not() {
    let fixture = fixture().await;
    let mut raw = fixture.raw().await;
    for (version, oldest_client, words) in
        [(0, 0, &["locker migrate"][..]), (3, 2, &["written for 2"])]
    {
        run(
            &mut raw,
            format!(
                "UPDATE schema_version SET version = {version}, oldest_client = {oldest_client}"
            ),
        )
        .await;
        told(&refused(&fixture.store()).await, ErrorKind::Config, words);
    }
    run(
        &mut raw,
        "UPDATE schema_version SET version = 2, oldest_client = 1",
    )
    .await;
    Somebody::over(&fixture.store()).await;
    fixture
        .store()
        .migrate()
        .await
        .expect("nothing to do for this release");
}

#[tokio::test]
async fn a_role_without_rights_is_denied() {
    let fixture = fixture().await;
    let mut raw = fixture.raw().await;
    run(
        &mut raw,
        "DO $$ BEGIN CREATE ROLE locker_test_nobody LOGIN; \
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    )
    .await;
    let options: sqlx::postgres::PgConnectOptions = fixture.url().parse().unwrap();
    let store = Postgres::from_options(options.username("locker_test_nobody"));
    let store = store.namespace(fixture.schema());
    told(&refused(&store).await, ErrorKind::Denied, &["right"]);
    let other = store.clone().namespace("not theirs to make");
    let error = other
        .migrate()
        .await
        .expect_err("no right to create a schema");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    // With the right to look into the schema, but not to call.
    let grant = "GRANT USAGE ON SCHEMA \"{}\" TO locker_test_nobody";
    run(&mut raw, grant.replace("{}", fixture.schema())).await;
    told(&refused(&store).await, ErrorKind::Denied, &["right"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let server = server(&[]);
    let url = server.url().to_owned();
    drop(server);
    let error = refused(&Postgres::from_url(&url).unwrap()).await;
    told(&error, ErrorKind::Unavailable, &[]);
}

#[tokio::test]
async fn a_database_that_is_not_there_or_not_utf8_is_a_matter_of_configuration() {
    let server = server(&[]);
    let url = server.url().strip_suffix("postgres").unwrap();
    let elsewhere = Postgres::from_url(&format!("{url}elsewhere")).unwrap();
    told(&refused(&elsewhere).await, ErrorKind::Config, &["database"]);
    let create = "CREATE DATABASE elsewhere ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'";
    server.sql(create).unwrap();
    elsewhere.migrate().await.unwrap();
    told(&refused(&elsewhere).await, ErrorKind::Config, &["LATIN1"]);
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_unavailable() {
    let server = server(&["max_connections = 4", "superuser_reserved_connections = 0"]);
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let limit = tokio::time::Instant::now() + LONG;
    let mut taken = Vec::new();
    // The server notices a closed connection a moment later, also that of the migration.
    let refused = loop {
        while let Ok(connection) = PgConnection::connect(server.url()).await {
            taken.push(connection);
        }
        match store.connect(Side::Caller).await {
            Ok(_) => assert!(tokio::time::Instant::now() < limit, "never refused"),
            Err(refused) => break refused,
        }
    };
    told(&refused, ErrorKind::Unavailable, &["connection"]);
    taken.clear();
    while let Err(error) = store.connect(Side::Caller).await {
        assert!(tokio::time::Instant::now() < limit, "{error:?}");
        tokio::task::yield_now().await;
    }
}

/// The hazard of a default that nobody thinks of: under it every statement of a function would have
/// the snapshot of the first.
#[tokio::test]
async fn another_isolation_is_refused_where_it_cannot_be_changed() {
    let fixture = fixture().await;
    let options: sqlx::postgres::PgConnectOptions = fixture.url().parse().unwrap();
    let strict = options.options([("default_transaction_isolation", "serializable")]);
    // A connection of our own is given the right one.
    let own = Postgres::from_options(strict.clone()).namespace(fixture.schema());
    Somebody::over(&own).await;
    own.migrate().await.unwrap();
    // A pool's connections are not ours to change.
    let pool = sqlx::postgres::PgPoolOptions::new().connect_lazy_with(strict);
    let pooled = Postgres::pool(pool).namespace(fixture.schema());
    told(
        &refused(&pooled).await,
        ErrorKind::Config,
        &["READ COMMITTED"],
    );
    // And the functions themselves refuse.
    let mut raw = fixture.raw().await;
    let mut transaction = raw
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    let called = sqlx::query("SELECT * FROM release(ARRAY['k'], ARRAY['o'])")
        .execute(&mut *transaction)
        .await;
    let error = called.expect_err("not under this isolation");
    let code = error
        .as_database_error()
        .and_then(|error| error.code().map(String::from));
    assert_eq!(code.as_deref(), Some("LK001"));
}

/// A row that somebody else keeps locked delays a request by less than its caller's patience, and
/// what did not happen is known not to have happened.
#[tokio::test]
async fn a_row_that_stays_locked_is_busy_and_nothing_was_done() {
    let fixture = fixture().await;
    let somebody = Somebody::over(&fixture.store()).await;
    let (mine, theirs) = (somebody.claim("mine"), somebody.claim("theirs"));
    for claim in [&mine, &theirs] {
        somebody.backend.try_create(claim).await.unwrap();
    }
    let mut raw = fixture.raw().await;
    let mut administrator = raw.begin().await.unwrap();
    run(
        &mut administrator,
        "SELECT * FROM locks WHERE key = 'theirs' FOR UPDATE",
    )
    .await;
    let backend = &somebody.backend;
    let patience = Duration::from_millis(1_500);
    let within = async |request: &str, answer| {
        let answered = tokio::time::timeout(patience, answer).await;
        answered.unwrap_or_else(|_| panic!("{request} outlives its caller's patience"))
    };
    let release = async { backend.release(&theirs.owner).await.map(|_| ()) };
    let settle = async {
        let settled = backend.settle(&theirs.owner, theirs.not_after).await;
        settled.map(|_| ())
    };
    let mark = async {
        let marked = backend.force_release(&theirs.owner, Force::Mark).await;
        marked.map(|_| ())
    };
    let again = async { backend.try_create(&theirs).await.map(|_| ()) };
    let busy: [(_, std::pin::Pin<Box<dyn Future<Output = _>>>); 4] = [
        ("release", Box::pin(release)),
        ("settle", Box::pin(settle)),
        ("mark", Box::pin(mark)),
        ("try_create", Box::pin(again)),
    ];
    for (request, answer) in busy {
        let error: BackendError = within(request, answer).await.expect_err(request);
        told(&error, ErrorKind::Busy, &[]);
    }
    // Attack 33: in a batch the locked member is left out, and the others do not wait.
    let owners = [theirs.owner.clone(), mine.owner.clone()];
    let extended = tokio::time::timeout(patience / 2, backend.extend(&owners, LONG)).await;
    let members = extended
        .expect("nobody waits for another's row")
        .unwrap()
        .value;
    told(members[0].as_ref().unwrap_err(), ErrorKind::Busy, &[]);
    assert_eq!(
        members[1].as_ref().unwrap(),
        &locker_core::backend::Standing::Mine
    );
    administrator.rollback().await.unwrap();
    let released = backend.release(&theirs.owner).await.unwrap().value;
    assert_eq!(released, locker_core::backend::Released::Done);
}

/// An answer counts when the server has committed: an error that comes with the commit is an error,
/// although the rows were there before it.
#[tokio::test]
async fn an_error_at_the_commit_is_no_grant() {
    let fixture = fixture().await;
    let somebody = Somebody::over(&fixture.store()).await;
    run(
        &mut fixture.raw().await,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'at the commit' USING ERRCODE = '40001'; END $$; \
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON locks DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION refuse();",
    )
    .await;
    let refused = somebody.backend.try_create(&somebody.claim("k")).await;
    told(
        &refused.expect_err("it is not committed"),
        ErrorKind::Busy,
        &[],
    );
}

/// PG-7: a session that the server ends says nothing about what it had done.
#[tokio::test]
async fn an_ended_session_leaves_the_effect_unknown_and_the_next_connection_works() {
    let fixture = fixture().await;
    let store = fixture.store();
    let somebody = Somebody::over(&store).await;
    let mut raw = fixture.raw().await;
    let mut administrator = raw.begin().await.unwrap();
    let claim = somebody.claim("k");
    somebody.backend.try_create(&claim).await.unwrap();
    run(&mut administrator, "SELECT * FROM locks FOR UPDATE").await;
    let release = somebody.backend.release(&claim.owner);
    // Inside of a transaction the server would answer the same each time.
    let mut watcher = fixture.raw().await;
    let kill = async {
        loop {
            let killed: i64 = sqlx::query_scalar(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE wait_event_type = 'Lock' AND query LIKE '%release%' AND query LIKE $1",
            )
            .bind(format!("%{}%", fixture.schema()))
            .fetch_one(&mut watcher)
            .await
            .unwrap();
            if killed > 0 {
                break;
            }
        }
    };
    let (released, ()) = tokio::join!(release, kill);
    let error = released.expect_err("the session was ended");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
    administrator.rollback().await.unwrap();
    let again = store.connect(Side::Caller).await.unwrap();
    assert!(again.read_lock(claim.key()).await.unwrap().value.is_some());
}

/// PG-12: no process creates anything that another is creating.
#[tokio::test]
async fn twenty_processes_may_migrate_at_once() {
    let fixture = fixture().await;
    let schema = format!("{}-twenty", fixture.schema());
    let mut migrations = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = fixture.store().namespace(&schema);
        migrations.spawn(async move { store.migrate().await });
    }
    while let Some(migrated) = migrations.join_next().await {
        migrated.unwrap().expect("every one finds it done");
    }
    let store = fixture.store().namespace(&schema);
    store.check().await.expect("the schema is sound");
    let drop = format!("DROP SCHEMA \"{schema}\" CASCADE");
    run(&mut fixture.raw().await, drop).await;
}

/// What is printed for people who change their databases by other means is what `migrate` does.
#[tokio::test]
async fn the_printed_migrations_make_a_sound_schema() {
    let fixture = fixture().await;
    let schema = format!("{}-printed", fixture.schema());
    let store = fixture.store().namespace(&schema);
    let mut raw = fixture.raw().await;
    run(&mut raw, store.migrations().unwrap()).await;
    store.check().await.expect("the schema is sound");
    store.migrate().await.expect("there is nothing to do");
    run(&mut raw, format!("DROP SCHEMA \"{schema}\" CASCADE")).await;
}
