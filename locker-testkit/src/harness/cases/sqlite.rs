//! What can only happen to a SQLite file: F15 by removal, F23, F24.

use super::troubles::{EMPTIED, noticed};
use super::{Case, Expect, records};
use crate::harness::deployment::sqlite::{database, execute};
use crate::harness::event::Event;
use crate::harness::scene::Scene;
use crate::harness::times::micros;
use crate::harness::worker::name;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// F15.
pub const GONE: &[Case] = &[
    EMPTIED,
    Case::variant("file removed", Expect::ANYBODY.broken_ground(), removed),
];
/// F23.
pub const WAKE_UPS: &[Case] = &[Case::new(Expect::HOLD, wake_ups)];
/// F24.
pub const CORRUPT: &[Case] = &[Case::new(Expect::ANYBODY, corrupt)];

fn removed(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for _ in 0..3 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(Duration::from_millis(150));
        let at = micros();
        for ending in ["", "-wal", "-shm"] {
            let mut path = database(&scene.folder).into_os_string();
            path.push(ending);
            // The log and its index are there as long as the file is in use.
            let removed = std::fs::remove_file(&path);
            removed.map_err(|error| format!("{}: {error}", Path::new(&path).display()))?;
        }
        scene.did("removed", at, None);
        noticed(scene, &both, at);
        scene.work(scene.times.t);
    }
    Ok(())
}

fn wake_ups(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t);
    let mut path = database(&scene.folder).into_os_string();
    path.push(".wake");
    let folder = Path::new(&path).to_owned();
    let socket = UnixDatagram::unbound().map_err(|error| error.to_string())?;
    socket
        .set_nonblocking(true)
        .map_err(|error| error.to_string())?;
    let mut sent = 0;
    let from = micros();
    let end = micros() + 3_000_000;
    while micros() < end {
        // Hints that nobody sent: of enrolments that are there, and of others.
        let mut forged = Vec::new();
        for _ in 0..40 {
            forged.extend_from_slice(&scene.rng.below(64).to_le_bytes());
            let place = u32::try_from(scene.rng.below(3)).unwrap_or(0);
            forged.extend_from_slice(&place.to_le_bytes());
        }
        let garbage = scene.rng.draw().to_le_bytes();
        for entry in sockets(&folder) {
            for bytes in [&forged[..], &forged[..], &garbage[..]] {
                sent += u64::from(socket.send_to(bytes, &entry).is_ok());
            }
        }
        scene.work(Duration::from_millis(2));
    }
    scene.did("forged, duplicated, flooded", from, None);
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    scene.measure("forged wake-ups", sent as f64, None, "");
    scene.expect(sent > 100, "hardly any wake-up could be forged");
    // From here on nobody can be woken who enrolled before.
    let (from, mut dropped) = (micros(), 0_u32);
    for _ in 0..15 {
        for entry in sockets(&folder) {
            dropped += u32::from(std::fs::remove_file(entry).is_ok());
        }
        scene.work(Duration::from_millis(100));
    }
    scene.did("sockets removed", from, None);
    let records = scene.fleet.log.records();
    let granted = records
        .iter()
        .filter(|record| matches!(record.event, Event::Grant { .. }) && record.at >= from);
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    let granted = granted.count() as f64;
    scene.measure("grants in 1.5 s without sockets", granted, None, "");
    scene.expect(
        granted > 0.0,
        "nobody was granted anything without wake-ups",
    );
    scene.measure("sockets removed", f64::from(dropped), None, "");
    scene.expect(dropped > 0, "there was no socket to remove");
    scene.work(scene.times.t);
    Ok(())
}

fn sockets(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// What is done to the row of a lock.
const DAMAGES: &[(&str, &str)] = &[
    ("no owner hash", "owner = 'nonsense'"),
    ("no process hash", "process = 'nonsense'"),
    ("a newer format", "format = 99"),
    ("1 MiB", "owner = printf('%.*c', 1048576, 'x')"),
    ("half a record", "expires = NULL"),
];

/// Whether the row is damaged in one of these ways. Its owner may have freed it meanwhile, where it can
/// still be told whose it is; then it is somebody else's by now, and not to be repaired.
const IS_DAMAGED: &str = "owner = 'nonsense' OR process = 'nonsense' OR format = 99
     OR (owner IS NOT NULL AND expires IS NULL) OR length(owner) > 100000";

fn corrupt(scene: &mut Scene) -> Result<(), String> {
    records::damaged(
        scene,
        DAMAGES,
        |scene, damage| change(scene, damage, "true"),
        |scene| {
            let repair = "owner = NULL, process = NULL, expires = NULL";
            change(scene, repair, IS_DAMAGED)
        },
    )
}

fn change(scene: &mut Scene, what: &str, which: &str) -> Result<(), String> {
    let sql = format!(
        "UPDATE locks SET {what} WHERE key = '{}' AND ({which})",
        name(0)
    );
    execute(&scene.folder, &sql).map_err(|error| error.to_string())
}
