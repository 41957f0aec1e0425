-- The operations, one function each. A client sends one of them as a single statement, and that
-- statement is the transaction.
--
-- * Every statement inside of a function has a snapshot of its own (they are VOLATILE, and run under
--   READ COMMITTED). So what decides is read *after* the row that is decided about was locked, and the
--   clock is read after that: nothing is judged by what was true before a wait. What is written before
--   that, is confirmed by such a clock before it is committed, or undone.
-- * A lock row is locked before a process row, and the locks of a batch in the order of their keys; a
--   batch waits for no row, it skips.
-- * A wait ends after `lock_timeout`, before the client has given up.
-- * They run with the rights of their owner. Who uses the locker needs the right to call them and
--   nothing else, and cannot write a record in another way.
-- * They are planned once for each session: planning anew costs four times what a call does. Tables
--   grow while a plan is kept, so plans that are good only for small tables are switched off.

-- The clock of the server, in microseconds since the Unix epoch.
CREATE FUNCTION clock() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- Refuses to work where the answers would be wrong.
CREATE FUNCTION sound() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'the locker works under READ COMMITTED only'
            USING ERRCODE = 'LK001',
                  HINT = 'set default_transaction_isolation to read committed for its role';
    END IF;
    -- A grant that is told and then forgotten would be granted a second time.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END
$$;

-- Whether all is as it nearly always is, so that `sound` need not be asked: it costs as much as a look
-- into a table. It becomes a part of the expression that it stands in.
CREATE FUNCTION plain() RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT current_setting('transaction_isolation') = 'read committed'
           AND current_setting('synchronous_commit') <> 'off'
$$;

-- Refuses to answer from a standby, whose answers are old.
CREATE FUNCTION on_primary() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'the server is a standby' USING ERRCODE = 'read_only_sql_transaction';
    END IF;
END
$$;

-- What is answered about one lock.
CREATE TYPE answer AS (
    -- Which member of the batch, from 1.
    member integer,
    verdict text,
    -- The clock by which it was judged.
    judged_at bigint,
    -- The record as it is kept.
    key text,
    token bigint,
    format integer,
    owner text,
    process text,
    acquired_at bigint,
    extended_at bigint,
    expires bigint,
    marked boolean,
    -- The holder's process.
    holder_alive_at bigint,
    holder_expires bigint
);

-- What is answered about one process.
CREATE TYPE process_answer AS (
    verdict text,
    judged_at bigint,
    process text,
    alive_at bigint,
    expires bigint
);

-- When the process of a row of `processes` is dead for others: not later than t if it is dead now.
-- For itself it has ended at `expires` in any case, so death stays final. Whoever asks shares the
-- advisory lock with others who ask, until the end of the transaction.
CREATE FUNCTION dead_at(expires bigint, session bigint, lapses bigint, t bigint) RETURNS bigint
LANGUAGE sql VOLATILE
AS $$
    SELECT CASE
        WHEN expires > t OR session IS NULL OR lapses <= t THEN expires
        WHEN pg_try_advisory_xact_lock_shared(session) THEN expires
        -- It has stopped reporting and is still connected: that may end at any moment.
        ELSE least(lapses, t + 200000)
    END
$$;
