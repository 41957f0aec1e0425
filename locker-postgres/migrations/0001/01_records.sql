-- What the locker keeps: locks, processes, and who waits.
--
-- Times are microseconds since the Unix epoch, by the clock of the server. Every statement runs with
-- the schema of the locker as its search path, so no name here bears a schema.

CREATE TABLE schema_version (
    version integer PRIMARY KEY,
    -- The oldest schema that a client may have been written for, to work with this one.
    oldest_client integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A key that was ever asked for. The row stays when the lock is released, because it keeps the token;
-- `sweep` removes it. Only the key is indexed, and pages are half empty, so that an acquisition and a
-- release find room on the same page and touch no index.
CREATE TABLE locks (
    key text COLLATE "C" PRIMARY KEY,
    -- The last fencing token; before the first grant, the time at which the row came to be.
    token bigint NOT NULL,
    -- The record: all NULL when the lock is free.
    format integer,
    owner text,
    process text COLLATE "C",
    acquired_at bigint,
    extended_at bigint,
    expires bigint,
    -- An operator has asked for the lock back.
    marked boolean NOT NULL DEFAULT false,
    -- There may be rows of this key in `waiters`. Written and read under the lock of this row.
    wanted boolean NOT NULL DEFAULT false
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0
);

-- A process lives while its row is there and unexpired. A dead one's row stays until it is swept, so
-- that a birth which arrives late finds that the name is used up.
CREATE TABLE processes (
    process text COLLATE "C" PRIMARY KEY,
    alive_at bigint NOT NULL,
    expires bigint NOT NULL,
    -- Of a process whose session counts: the number of the advisory lock that the session keeps, and
    -- until when the session is believed without a report.
    session bigint,
    lapses bigint
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 200,
    autovacuum_vacuum_cost_delay = 0
);

-- Who is to be told when a lock becomes free, in the order of `place`. A waiter's row counts as long
-- as its process lives; an observer has no process, and renews its row while it looks.
CREATE TABLE waiters (
    key text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    place bigint GENERATED ALWAYS AS IDENTITY,
    process text COLLATE "C",
    -- Which of the enrolments of its process this is, in the order in which they were asked for.
    turn bigint NOT NULL,
    expires bigint,
    PRIMARY KEY (key, id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 200,
    autovacuum_vacuum_cost_delay = 0
);
