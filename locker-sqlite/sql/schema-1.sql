-- Version 1 of the file. Everything is STRICT, so that a value of a wrong type cannot be stored, and
-- compared bytewise (BINARY), so that every key is itself and nothing else.

-- One row: whose boot clock the times of this file are. A file that was last written under another
-- boot holds no lock and no living process.
CREATE TABLE clock (
    one            INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    boot           TEXT NOT NULL,
    time_namespace TEXT NOT NULL
) STRICT;

-- One row for every key that was granted at least once. `token` outlives the record, so that the
-- next grant is greater (S2); the record is there while `owner` is not null.
-- No second index: an acquisition and a release write one page each.
CREATE TABLE locks (
    namespace   TEXT NOT NULL,
    key         TEXT NOT NULL,
    token       INTEGER NOT NULL,
    format      INTEGER,
    owner       TEXT,
    process     TEXT,
    acquired_at INTEGER, -- wall clock, microseconds
    extended_at INTEGER, -- wall clock, microseconds
    expires     INTEGER, -- boot clock, nanoseconds
    marked      INTEGER,
    PRIMARY KEY (namespace, key)
) STRICT, WITHOUT ROWID;

-- One row for every incarnation, dead ones included until they are swept, so that none is born
-- twice. It lives while it is unexpired and its byte of the liveness file is locked.
CREATE TABLE processes (
    namespace TEXT NOT NULL,
    process   TEXT NOT NULL,
    alive_at  INTEGER NOT NULL, -- wall clock, microseconds
    expires   INTEGER NOT NULL, -- boot clock, nanoseconds
    device    INTEGER NOT NULL, -- the liveness file that this process has open
    inode     INTEGER NOT NULL,
    byte      INTEGER NOT NULL, -- which byte of it this process has locked
    PRIMARY KEY (namespace, process)
) STRICT, WITHOUT ROWID;

-- Who waits for a key, in the order of `id`. `process` is null for an observer. `socket` is a name
-- in the wake-up folder.
CREATE TABLE waiters (
    id        INTEGER NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    key       TEXT NOT NULL,
    process   TEXT,
    socket    TEXT NOT NULL
) STRICT;

CREATE INDEX waiters_by_key ON waiters (namespace, key, id);
