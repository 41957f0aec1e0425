//! A server in a container does what one of the system's own does. This needs a container engine, so
//! it runs when it is asked for by name; see CONTRIBUTING.md.

use locker_testkit::servers::redis::Container;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_container_answers_and_is_gone_with_the_last_test_that_uses_it() {
    let first = Container::shared().unwrap();
    let second = Container::shared().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    println!("a server at {}", first.url());

    let client = redis::Client::open(first.url()).unwrap();
    let mut connection = client.get_connection_with_timeout(LIMIT).unwrap();
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query(&mut connection)
        .unwrap();
    let version = info.lines().find(|line| line.starts_with("redis_version:"));
    println!("{}", version.unwrap());
    drop(first);
    assert_eq!(
        redis::cmd("PING").query::<String>(&mut connection).unwrap(),
        "PONG"
    );
    drop(second);
    assert!(client.get_connection_with_timeout(LIMIT).is_err());
}
