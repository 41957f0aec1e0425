//! What ten thousand idle locks cost the server, as it says itself.

use locker_testkit::figures::{self, Failure, LOCKS, Measuring};

pub(crate) async fn measure(measuring: &mut Measuring, url: &str) -> Result<(), Failure> {
    let mut admin = redis::Client::open(url)?
        .get_multiplexed_async_connection()
        .await?;
    let idle = figures::idle(measuring, url, async || Info::read(&mut admin).await).await?;
    let seconds = measuring.idle.as_secs();
    let report = &mut measuring.report;
    let since = |info: &Info| info.memory.saturating_sub(idle.before.memory) / u64::from(LOCKS);
    report.figure(
        "server memory per held lock",
        format!("{} bytes", since(&idle.held)),
    );
    report.figure(
        format!("{LOCKS} idle locks for {seconds} s"),
        format!(
            "{} scripts, {} µs of the server's time",
            idle.after.scripts - idle.held.scripts,
            idle.after.script_micros - idle.held.script_micros
        ),
    );
    report.figure(
        "server memory per idle fence",
        format!("{} bytes", since(&idle.freed)),
    );
    Ok(())
}

/// What the server says of itself.
struct Info {
    memory: u64,
    scripts: u64,
    script_micros: u64,
}

impl Info {
    async fn read(admin: &mut redis::aio::MultiplexedConnection) -> Result<Self, Failure> {
        let text: String = redis::cmd("INFO").arg("all").query_async(admin).await?;
        let line = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let scripts = line("cmdstat_evalsha").unwrap_or_default();
        let of = |name: &str| -> u64 {
            let mut parts = scripts.split(',');
            let value = parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        Ok(Self {
            memory: line("used_memory").ok_or("INFO without memory")?.parse()?,
            scripts: of("calls"),
            script_micros: of("usec"),
        })
    }
}
