//! Waiting for a server: none of them says by itself that it is ready, so it is asked again and again.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// How long between two questions. Servers start in tens of milliseconds.
const POLL: Duration = Duration::from_millis(5);

/// Repeats the question until it is answered.
///
/// # Errors
///
/// Why it was not, the last time, when the limit is over.
pub(super) fn wait_until<T>(
    limit: Duration,
    ask: impl FnMut() -> Result<T, String>,
) -> io::Result<T> {
    wait_while(|| true, limit, ask)
}

/// Repeats the question until it is answered, as long as there is somebody to answer.
///
/// # Errors
///
/// Why it was not, the last time, when the limit is over or there is nobody any more.
pub(super) fn wait_while<T>(
    there: impl Fn() -> bool,
    limit: Duration,
    mut ask: impl FnMut() -> Result<T, String>,
) -> io::Result<T> {
    let began = Instant::now();
    loop {
        let was_there = there();
        let why = match ask() {
            Ok(value) => return Ok(value),
            Err(why) => why,
        };
        if !was_there {
            return Err(io::Error::other(format!("the server has ended: {why}")));
        }
        if began.elapsed() > limit {
            let why = format!("not within {limit:?}: {why}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        thread::sleep(POLL);
    }
}
