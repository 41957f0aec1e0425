//! The fencing script that the project's README gives to its readers, on a real server.

use locker_testkit::servers::redis::shared;
use redis::Script;

/// What stands between the lines of the README's one Lua block.
fn script() -> Script {
    let page = include_str!("../../README.md");
    let (_, rest) = page.split_once("```lua\n").expect("a Lua block");
    let (code, rest) = rest.split_once("```").expect("its end");
    assert!(!rest.contains("```lua"), "one Lua block");
    Script::new(code)
}

/// A token decides, not the order of arrival; and tokens are larger than what Lua's
/// numbers keep exactly.
#[test]
fn the_readmes_fence_refuses_smaller_tokens_and_no_others() {
    let server = shared::server().unwrap_or_else(|missing| panic!("{missing}"));
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut connection = client.get_connection().expect("a connection");
    let (fence, value) = ("fencing-test:{report}:fence", "fencing-test:{report}");
    let script = script();
    let mut write = |token: u64, text: &str| -> Result<String, String> {
        let mut call = script.prepare_invoke();
        call.key(fence).key(value).arg(token).arg(text);
        let answer: redis::RedisResult<String> = call.invoke(&mut connection);
        answer.map_err(|error| error.to_string())
    };
    let base = 1_795_245_515_897_613;
    assert_eq!(write(base, "first").as_deref(), Ok("OK"));
    assert_eq!(
        write(base, "again").as_deref(),
        Ok("OK"),
        "a job writes twice"
    );
    assert_eq!(write(base + 1, "next").as_deref(), Ok("OK"));
    let refused = write(base, "late").expect_err("the first owner is too late");
    assert!(refused.contains("FENCED"), "{refused}");
    // More digits are more, whatever the first one is; and near 2^63 two numbers that Lua would
    // take for one are told apart.
    let largest = i64::MAX.unsigned_abs();
    assert!(write(999, "short").is_err(), "fewer digits");
    assert_eq!(write(largest - 1, "large").as_deref(), Ok("OK"));
    assert_eq!(write(largest, "largest").as_deref(), Ok("OK"));
    assert!(write(largest - 1, "late").is_err(), "one less is less");
    let stored: String = redis::cmd("GET")
        .arg(value)
        .query(&mut connection)
        .expect("a value");
    assert_eq!(stored, "largest");
    let _: () = redis::cmd("DEL")
        .arg(&[fence, value])
        .query(&mut connection)
        .expect("it is removed");
}
