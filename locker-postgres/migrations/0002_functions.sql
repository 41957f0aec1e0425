-- The operations, one function each. A client sends one of them as a single statement, and that
-- statement is the transaction.
--
-- * Every statement inside of a function has a snapshot of its own (they are VOLATILE, and run under
--   READ COMMITTED). So what decides is read *after* the row that is decided about was locked, and the
--   clock is read after that: nothing is judged by what was true before a wait.
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

-- Grants locks that are free, or whose record has expired, or that are the claimant's already.
-- Verdicts: granted, too_late, owner_dead, held; again, when somebody else was changing the row.
CREATE FUNCTION try_create(
    keys text[], owners text[], claimants text[], ttls bigint[], deadlines bigint[]
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    begun bigint := clock();
    t bigint;
    locked text[];
BEGIN
    PERFORM sound();
    -- A lock that is visibly somebody else's is not even locked: that try writes nothing.
    IF cardinality(keys) = 1 THEN
        SELECT array_agg(f.key) INTO locked FROM (
            SELECT l.key FROM locks l
            WHERE l.key = keys[1]
              AND (l.owner IS NULL OR l.owner = owners[1] OR l.expires <= begun)
            FOR UPDATE
        ) f;
    ELSE
        SELECT array_agg(f.key) INTO locked FROM (
            SELECT l.key FROM unnest(keys, owners) AS u(key, owner)
            JOIN locks l ON l.key = u.key
            WHERE l.owner IS NULL OR l.owner = u.owner OR l.expires <= begun
            ORDER BY l.key
            FOR UPDATE OF l SKIP LOCKED
        ) f;
    END IF;
    t := clock();
    RETURN QUERY
    WITH m AS MATERIALIZED (
        SELECT u.place::integer AS member, u.key, u.owner, u.claimant, u.ttl,
               u.deadline < t AS late, u.key = ANY (locked) AS locked,
               EXISTS (
                   SELECT FROM processes p WHERE p.process = u.claimant AND p.expires > t
               ) AS alive
        FROM unnest(keys, owners, claimants, ttls, deadlines)
             WITH ORDINALITY AS u(key, owner, claimant, ttl, deadline, place)
    ), written AS (
        UPDATE locks l SET
            -- The same claim again keeps its token, and has its full time again, never less.
            token = CASE WHEN l.owner = m.owner AND l.expires > t THEN l.token
                         ELSE greatest(l.token + 1, t) END,
            acquired_at = CASE WHEN l.owner = m.owner AND l.expires > t THEN l.acquired_at
                               ELSE t END,
            expires = CASE WHEN l.owner = m.owner AND l.expires > t
                           THEN greatest(l.expires, t + m.ttl) ELSE t + m.ttl END,
            marked = coalesce(l.marked AND l.owner = m.owner AND l.expires > t, false),
            format = 1, owner = m.owner, process = m.claimant, extended_at = t
        FROM m
        WHERE l.key = m.key AND m.locked AND m.alive AND NOT m.late
          -- A record of a later format is nobody's but its release's, even when it has expired.
          AND (l.owner IS NULL OR (l.format = 1 AND (l.owner = m.owner OR l.expires <= t)))
        RETURNING m.member, l.token
    ), created AS (
        -- Whoever is inserting the same key now is waited for, and then it is theirs.
        INSERT INTO locks AS l
            (key, token, format, owner, process, acquired_at, extended_at, expires)
        SELECT m.key, t, 1, m.owner, m.claimant, t, t, t + m.ttl
        FROM m
        WHERE m.alive AND NOT m.late AND NOT EXISTS (SELECT FROM locks f WHERE f.key = m.key)
        ORDER BY m.key COLLATE "C"
        ON CONFLICT (key) DO NOTHING
        RETURNING l.key, l.token
    )
    SELECT m.member,
           CASE
               WHEN m.late THEN 'too_late'
               WHEN NOT m.alive THEN 'owner_dead'
               WHEN w.token IS NOT NULL OR c.token IS NOT NULL THEN 'granted'
               WHEN l.owner IS NOT NULL
                    AND ((l.owner <> m.owner AND l.expires > t) OR l.format IS DISTINCT FROM 1)
                   THEN 'held'
               ELSE 'again'
           END,
           t, l.key, coalesce(w.token, c.token, l.token), l.format, l.owner, l.process,
           l.acquired_at, l.extended_at, l.expires, l.marked, h.alive_at, h.expires
    FROM m
    LEFT JOIN written w ON w.member = m.member
    LEFT JOIN created c ON c.key = m.key
    LEFT JOIN locks l ON l.key = m.key
    LEFT JOIN processes h ON h.process = l.process;
END
$$;

-- Replaces the record that was observed, if its process is dead. It is the only one that acts on the
-- death of a process. Verdicts: granted, too_late, owner_dead, absent, held.
CREATE FUNCTION take_over(
    wanted_key text, observed text, new_owner text, claimant text, ttl bigint, deadline bigint
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    l locks%ROWTYPE;
    h processes%ROWTYPE;
    t bigint;
    verdict text;
BEGIN
    PERFORM sound();
    SELECT * INTO l FROM locks WHERE key = wanted_key FOR UPDATE;
    -- Waits for a renewal that is being committed, and then sees it: a process whose renewal was
    -- executed in time is alive, however long its commit takes.
    SELECT * INTO h FROM processes WHERE process = l.process FOR SHARE;
    t := clock();
    IF deadline < t THEN
        verdict := 'too_late';
    ELSIF NOT EXISTS (SELECT FROM processes WHERE process = claimant AND expires > t) THEN
        verdict := 'owner_dead';
    ELSIF l.owner IS NULL OR (l.format = 1 AND l.expires <= t) THEN
        verdict := 'absent';
    ELSIF l.format = 1 AND l.owner = new_owner THEN
        verdict := 'granted';
        UPDATE locks SET expires = greatest(expires, t + ttl), extended_at = t
        WHERE key = wanted_key;
    ELSIF l.format = 1 AND l.owner = observed AND (h.expires IS NULL OR h.expires <= t) THEN
        verdict := 'granted';
        l.token := greatest(l.token + 1, t);
        UPDATE locks SET
            token = l.token, owner = new_owner, process = claimant, acquired_at = t,
            extended_at = t, expires = t + ttl, marked = false
        WHERE key = wanted_key;
    ELSE
        verdict := 'held';
    END IF;
    RETURN NEXT ROW (
        1, verdict, t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
        l.expires, l.marked, h.alive_at, h.expires
    )::answer;
END
$$;

-- Sets the time of the locks that are still their owner's, unexpired and unmarked; never shortens it.
-- Verdicts: mine, marked, absent, held; again, when somebody else has the row locked.
CREATE FUNCTION extend(keys text[], owners text[], ttl bigint) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    t bigint;
    locked text[];
BEGIN
    PERFORM sound();
    IF cardinality(keys) = 1 THEN
        SELECT array_agg(f.key) INTO locked FROM (
            SELECT l.key FROM locks l WHERE l.key = keys[1] AND l.owner = owners[1] FOR UPDATE
        ) f;
    ELSE
        SELECT array_agg(f.key) INTO locked FROM (
            SELECT l.key FROM unnest(keys, owners) AS u(key, owner)
            JOIN locks l ON l.key = u.key AND l.owner = u.owner
            ORDER BY l.key
            FOR UPDATE OF l SKIP LOCKED
        ) f;
    END IF;
    t := clock();
    RETURN QUERY
    WITH m AS MATERIALIZED (
        SELECT u.place::integer AS member, u.key, u.owner, u.key = ANY (locked) AS locked
        FROM unnest(keys, owners) WITH ORDINALITY AS u(key, owner, place)
    ), extended AS (
        UPDATE locks l SET expires = greatest(l.expires, t + ttl), extended_at = t
        FROM m
        WHERE l.key = m.key AND m.locked
          AND l.owner = m.owner AND l.format = 1 AND l.expires > t AND NOT l.marked
        RETURNING l.key, l.owner
    )
    SELECT m.member,
           CASE
               WHEN e.key IS NOT NULL THEN 'mine'
               WHEN l.owner IS NULL OR l.expires <= t THEN 'absent'
               WHEN l.owner <> m.owner OR l.format IS DISTINCT FROM 1 THEN 'held'
               WHEN l.marked THEN 'marked'
               ELSE 'again'
           END,
           t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
           l.expires, l.marked, NULL::bigint, NULL::bigint
    FROM m
    LEFT JOIN extended e ON e.key = m.key AND e.owner = m.owner
    LEFT JOIN locks l ON l.key = m.key;
END
$$;

-- How locks stand for these owners. Verdicts: mine, marked, absent, held.
CREATE FUNCTION standings(keys text[], owners text[]) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    -- Before the snapshot: what is seen expired at an earlier time is expired for good.
    t bigint := clock();
BEGIN
    PERFORM on_primary();
    RETURN QUERY
    SELECT u.place::integer,
           CASE
               WHEN l.owner IS NULL OR l.expires <= t THEN 'absent'
               WHEN l.owner <> u.owner OR l.format IS DISTINCT FROM 1 THEN 'held'
               WHEN l.marked THEN 'marked'
               ELSE 'mine'
           END,
           t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
           l.expires, l.marked, NULL::bigint, NULL::bigint
    FROM unnest(keys, owners) WITH ORDINALITY AS u(key, owner, place)
    LEFT JOIN locks l ON l.key = u.key;
END
$$;

-- Frees the locks that are their owner's; the rows stay and keep their tokens. Verdicts: done,
-- wanted (done, and somebody waits for it), absent, held; again, when somebody else has it locked.
CREATE FUNCTION release(keys text[], owners text[]) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    t bigint;
    locked text[];
BEGIN
    PERFORM sound();
    IF cardinality(keys) = 1 THEN
        SELECT array_agg(f.key) INTO locked FROM (
            SELECT l.key FROM locks l WHERE l.key = keys[1] AND l.owner = owners[1] FOR UPDATE
        ) f;
    ELSE
        SELECT array_agg(f.key) INTO locked FROM (
            SELECT l.key FROM unnest(keys, owners) AS u(key, owner)
            JOIN locks l ON l.key = u.key AND l.owner = u.owner
            ORDER BY l.key
            FOR UPDATE OF l SKIP LOCKED
        ) f;
    END IF;
    t := clock();
    RETURN QUERY
    WITH m AS MATERIALIZED (
        SELECT u.place::integer AS member, u.key, u.owner, u.key = ANY (locked) AS locked
        FROM unnest(keys, owners) WITH ORDINALITY AS u(key, owner, place)
    ), freed AS (
        UPDATE locks l SET
            format = NULL, owner = NULL, process = NULL, acquired_at = NULL, extended_at = NULL,
            expires = NULL, marked = false
        FROM m
        WHERE l.key = m.key AND m.locked
          AND l.owner = m.owner AND l.format = 1 AND l.expires > t
        RETURNING m.member, l.wanted
    )
    SELECT m.member,
           CASE
               WHEN f.wanted THEN 'wanted'
               WHEN f.member IS NOT NULL THEN 'done'
               WHEN l.owner IS NULL OR l.expires <= t THEN 'absent'
               WHEN l.owner <> m.owner OR l.format IS DISTINCT FROM 1 THEN 'held'
               ELSE 'again'
           END,
           t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
           l.expires, l.marked, NULL::bigint, NULL::bigint
    FROM m
    LEFT JOIN freed f ON f.member = m.member
    LEFT JOIN locks l ON l.key = m.key;
END
$$;

-- Frees what an attempt of unknown outcome may have left or may just be committing. A row that is
-- being inserted is invisible, so a free row is inserted beside it: that waits for the other insert to
-- be committed or rolled back. What was judged before this row is there waits for it and is judged
-- again. The row bears the present time as its token, so that it is not swept meanwhile.
-- Verdicts: as of `release`.
CREATE FUNCTION settle(wanted_key text, of_owner text) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    l locks%ROWTYPE;
    t bigint;
    verdict text;
BEGIN
    PERFORM sound();
    INSERT INTO locks (key, token) VALUES (wanted_key, clock()) ON CONFLICT (key) DO NOTHING;
    SELECT * INTO l FROM locks WHERE key = wanted_key FOR UPDATE;
    t := clock();
    IF l.owner IS NULL OR l.expires <= t THEN
        verdict := 'absent';
    ELSIF l.owner = of_owner AND l.format = 1 THEN
        verdict := CASE WHEN l.wanted THEN 'wanted' ELSE 'done' END;
        UPDATE locks SET
            format = NULL, owner = NULL, process = NULL, acquired_at = NULL, extended_at = NULL,
            expires = NULL, marked = false
        WHERE key = wanted_key;
    ELSE
        verdict := 'held';
    END IF;
    RETURN NEXT ROW (
        1, verdict, t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
        l.expires, l.marked, NULL, NULL
    )::answer;
END
$$;

-- Asks for a lock back: from now on it is not extended. Verdicts: done, absent, held.
CREATE FUNCTION mark(wanted_key text, of_owner text) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    l locks%ROWTYPE;
    t bigint;
    verdict text;
BEGIN
    PERFORM sound();
    SELECT * INTO l FROM locks WHERE key = wanted_key FOR UPDATE;
    t := clock();
    IF l.owner IS NULL OR l.expires <= t THEN
        verdict := 'absent';
    ELSIF l.owner = of_owner AND l.format = 1 THEN
        verdict := 'done';
        UPDATE locks SET marked = true WHERE key = wanted_key;
    ELSE
        verdict := 'held';
    END IF;
    RETURN NEXT ROW (
        1, verdict, t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
        l.expires, l.marked, NULL, NULL
    )::answer;
END
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

-- One lock. Verdicts: held, absent.
CREATE FUNCTION read_lock(wanted_key text) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    t bigint := clock();
BEGIN
    PERFORM on_primary();
    RETURN QUERY
    SELECT 1,
           CASE WHEN l.owner IS NULL OR (l.format = 1 AND l.expires <= t) THEN 'absent'
                ELSE 'held' END,
           t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
           l.expires, l.marked, h.alive_at, h.expires
    FROM (SELECT) one
    LEFT JOIN locks l ON l.key = wanted_key
    LEFT JOIN processes h ON h.process = l.process;
END
$$;

-- The next rows of `locks` in the order of their keys, free ones among them. Verdicts: held, absent.
CREATE FUNCTION list_locks(after text, beginning text, at_most integer) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    t bigint := clock();
BEGIN
    PERFORM on_primary();
    RETURN QUERY
    SELECT 1,
           CASE WHEN l.owner IS NULL OR (l.format = 1 AND l.expires <= t) THEN 'absent'
                ELSE 'held' END,
           t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
           l.expires, l.marked, h.alive_at, h.expires
    FROM locks l
    LEFT JOIN processes h ON h.process = l.process
    WHERE l.key > after AND l.key >= beginning
    ORDER BY l.key
    LIMIT at_most;
END
$$;

-- What is answered about one process.
CREATE TYPE process_answer AS (
    verdict text,
    judged_at bigint,
    process text,
    alive_at bigint,
    expires bigint
);

-- Verdicts: created, exists.
CREATE FUNCTION create_process(of_process text, ttl bigint) RETURNS SETOF process_answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    t bigint := clock();
BEGIN
    PERFORM sound();
    INSERT INTO processes (process, alive_at, expires) VALUES (of_process, t, t + ttl)
    ON CONFLICT (process) DO NOTHING;
    RETURN NEXT ROW (
        CASE WHEN FOUND THEN 'created' ELSE 'exists' END, t, of_process, t, t + ttl
    )::process_answer;
END
$$;

-- Renews what is there and unexpired, judged after its row is locked: it may have waited for a
-- take-over that has found this process dead. Verdicts: renewed, gone.
CREATE FUNCTION renew_process(of_process text, ttl bigint) RETURNS SETOF process_answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    p processes%ROWTYPE;
    t bigint;
    verdict text := 'gone';
BEGIN
    PERFORM sound();
    SELECT * INTO p FROM processes WHERE process = of_process FOR NO KEY UPDATE;
    t := clock();
    IF p.expires > t THEN
        verdict := 'renewed';
        UPDATE processes SET expires = greatest(expires, t + ttl), alive_at = t
        WHERE process = of_process;
    END IF;
    RETURN NEXT ROW (verdict, t, of_process, t, t + ttl)::process_answer;
END
$$;

-- Ends a process at once. Whom that wakes is asked afterwards, by `held_by`: a waiter that enrols
-- while this is being committed is found there, and one that comes later sees the process dead.
CREATE FUNCTION retire_process(of_process text) RETURNS SETOF process_answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    t bigint;
BEGIN
    PERFORM sound();
    PERFORM FROM processes WHERE process = of_process FOR NO KEY UPDATE;
    t := clock();
    UPDATE processes SET expires = t WHERE process = of_process AND expires > t;
    RETURN NEXT ROW ('retired', t, of_process, t, t)::process_answer;
END
$$;

-- Verdicts: alive, dead.
CREATE FUNCTION read_process(of_process text) RETURNS SETOF process_answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    t bigint := clock();
BEGIN
    PERFORM on_primary();
    RETURN QUERY
    SELECT CASE WHEN p.expires > t THEN 'alive' ELSE 'dead' END,
           t, p.process, p.alive_at, p.expires
    FROM (SELECT) one
    LEFT JOIN processes p ON p.process = of_process;
END
$$;

-- The next rows of `processes` in the order of their names, dead ones among them.
CREATE FUNCTION list_processes(after text, at_most integer) RETURNS SETOF process_answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    t bigint := clock();
BEGIN
    PERFORM on_primary();
    RETURN QUERY
    SELECT CASE WHEN p.expires > t THEN 'alive' ELSE 'dead' END,
           t, p.process, p.alive_at, p.expires
    FROM processes p
    WHERE p.process > after
    ORDER BY p.process
    LIMIT at_most;
END
$$;

-- Enrols somebody who waits (of_process) or only looks (NULL, for so many microseconds). It is written
-- under the lock of the lock's row: a release that comes later sees it, and after one that came
-- earlier the lock is free.
CREATE FUNCTION enrol(wanted_key text, new_id bigint, of_process text, ttl bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
BEGIN
    PERFORM sound();
    INSERT INTO locks AS l (key, token, wanted) VALUES (wanted_key, clock(), true)
    ON CONFLICT (key) DO UPDATE SET wanted = true WHERE NOT l.wanted;
    INSERT INTO waiters (key, id, process, expires)
    VALUES (wanted_key, new_id, of_process, CASE WHEN of_process IS NULL THEN clock() + ttl END)
    ON CONFLICT (key, id) DO UPDATE SET expires = excluded.expires;
END
$$;

CREATE FUNCTION withdraw(keys text[], ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
BEGIN
    DELETE FROM waiters w USING unnest(keys, ids) AS u(key, id) WHERE w.key = u.key AND w.id = u.id;
END
$$;

-- An observer goes on looking for so many microseconds.
CREATE FUNCTION go_on_looking(keys text[], ids bigint[], ttl bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
BEGIN
    UPDATE waiters w SET expires = clock() + ttl
    FROM unnest(keys, ids) AS u(key, id)
    WHERE w.key = u.key AND w.id = u.id AND w.process IS NULL;
END
$$;

-- The keys that somebody waits for and this process holds.
CREATE FUNCTION held_by(of_process text) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    RETURN QUERY
    SELECT DISTINCT w.key::text FROM waiters w JOIN locks l ON l.key = w.key
    WHERE l.process = of_process;
END
$$;

-- Tells those who wait for these keys that they are free, on this channel. It comes after what made
-- them free, in a transaction of its own: if it fails, they poll.
--
-- A message is `free` or `gone`, the place of the first, and numbers of enrolments: of those who
-- wait, in their order; or of observers, who all have the place 0. It stays below the 8000 bytes that
-- NOTIFY takes.
CREATE FUNCTION wake(keys text[], channel text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
AS $$
DECLARE
    t bigint := clock();
    dead bigint[];
    message text;
    unwanted text;
BEGIN
    FOR message IN
        WITH w AS MATERIALIZED (
            SELECT w.key, w.id, w.process, w.place
            FROM waiters w LEFT JOIN processes p ON p.process = w.process
            WHERE w.key = ANY (keys) AND coalesce(p.expires, w.expires, 0) > t
        ), placed AS (
            SELECT w.key, w.id,
                   CASE WHEN w.process IS NULL THEN 0
                        ELSE row_number() OVER (
                                 PARTITION BY w.key, w.process IS NULL ORDER BY w.place) - 1
                   END AS place,
                   (row_number() OVER (
                       PARTITION BY w.key, w.process IS NULL ORDER BY w.place) - 1) / 300 AS part,
                   w.process IS NULL AS observes
            FROM w
        )
        SELECT CASE WHEN observes THEN 'look ' ELSE 'free ' || min(place) || ' ' END
               || string_agg(id::text, ' ' ORDER BY place)
        FROM placed GROUP BY key, observes, part
    LOOP
        PERFORM pg_notify(channel, message);
    END LOOP;
    -- The dead have no place a second time.
    FOR dead IN
        WITH d AS (
            DELETE FROM waiters w
            WHERE w.key = ANY (keys)
              AND coalesce(
                      (SELECT p.expires FROM processes p WHERE p.process = w.process),
                      w.expires, 0) <= t
            RETURNING w.id
        ), numbered AS (SELECT id, row_number() OVER () / 300 AS part FROM d)
        SELECT array_agg(id) FROM numbered GROUP BY part
    LOOP
        PERFORM pg_notify(channel, 'gone ' || array_to_string(dead, ' '));
    END LOOP;
    -- Where nobody is left, releases need not look again. An enrolment holds the lock of the row.
    FOR unwanted IN
        SELECT l.key FROM locks l
        WHERE l.key = ANY (keys) AND l.wanted ORDER BY l.key FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE locks l SET wanted = false
        WHERE l.key = unwanted AND NOT EXISTS (SELECT FROM waiters w WHERE w.key = unwanted);
    END LOOP;
END
$$;

-- Looks at the next rows after a name, and forgets those that are free, or dead, and older than a
-- time. Answers how many went, and the last name that was looked at: NULL at the end. One sweeper at
-- a time: a second one finds nothing to do.
CREATE FUNCTION sweep_locks(after text, older_than bigint, at_most integer)
RETURNS TABLE (swept bigint, last text, judged_at bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    t bigint := clock();
    looked bigint;
BEGIN
    swept := 0;
    judged_at := t;
    IF pg_try_advisory_xact_lock(hashtextextended('locker sweep ' || current_schema(), 0)) THEN
        SELECT count(*), max(n.key) INTO looked, last FROM (
            SELECT l.key FROM locks l WHERE l.key > after ORDER BY l.key LIMIT at_most
        ) n;
        WITH old AS (
            SELECT l.key FROM locks l
            WHERE l.key > after AND l.key <= last
              AND (l.owner IS NULL OR (l.format = 1 AND l.expires <= t))
              -- In the very microsecond of a token the next one would repeat it.
              AND l.token < t - older_than
              AND NOT (l.wanted AND EXISTS (SELECT FROM waiters w WHERE w.key = l.key))
            ORDER BY l.key FOR UPDATE SKIP LOCKED
        )
        DELETE FROM locks l USING old WHERE l.key = old.key;
        GET DIAGNOSTICS swept = ROW_COUNT;
        IF looked < at_most THEN
            last := NULL;
        END IF;
    END IF;
    RETURN NEXT;
END
$$;

CREATE FUNCTION sweep_processes(after text, older_than bigint, at_most integer)
RETURNS TABLE (swept bigint, last text, judged_at bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    t bigint := clock();
    looked bigint;
BEGIN
    swept := 0;
    judged_at := t;
    IF pg_try_advisory_xact_lock(hashtextextended('locker sweep ' || current_schema(), 0)) THEN
        SELECT count(*), max(n.process) INTO looked, last FROM (
            SELECT p.process FROM processes p WHERE p.process > after ORDER BY p.process
            LIMIT at_most
        ) n;
        WITH old AS (
            SELECT p.process FROM processes p
            WHERE p.process > after AND p.process <= last AND p.expires < t - older_than
            ORDER BY p.process FOR UPDATE SKIP LOCKED
        )
        DELETE FROM processes p USING old WHERE p.process = old.process;
        GET DIAGNOSTICS swept = ROW_COUNT;
        IF looked < at_most THEN
            last := NULL;
        END IF;
        -- Those who died while they waited for a key that nobody releases.
        IF after = '' THEN
            DELETE FROM waiters w
            WHERE coalesce(
                (SELECT p.expires FROM processes p WHERE p.process = w.process), w.expires, 0
            ) <= t;
        END IF;
    END IF;
    RETURN NEXT;
END
$$;

-- For a transaction of the owner's own: whether the lock is this owner's under this token. The row
-- stays locked until that transaction ends, so nobody is granted the lock before what it writes is
-- committed. Verdicts: mine, marked, absent, held.
CREATE FUNCTION confirm(wanted_key text, of_owner text, of_token bigint) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    l locks%ROWTYPE;
    t bigint;
BEGIN
    -- Any isolation will do: a row that was changed after the snapshot is an error there.
    SELECT * INTO l FROM locks WHERE key = wanted_key FOR SHARE;
    t := clock();
    RETURN NEXT ROW (
        1,
        CASE
            WHEN l.owner IS NULL OR l.expires <= t THEN 'absent'
            WHEN l.owner <> of_owner OR l.format IS DISTINCT FROM 1 THEN 'held'
            WHEN l.token <> of_token THEN 'absent'
            WHEN l.marked THEN 'marked'
            ELSE 'mine'
        END,
        t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at, l.expires,
        l.marked, NULL, NULL
    )::answer;
END
$$;

-- What a client wants to know before it trusts a connection.
CREATE FUNCTION about()
RETURNS TABLE (version integer, oldest_client integer, standby boolean, encoding text,
               isolation text, pid integer, age bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
    SELECT v.version, v.oldest_client, pg_is_in_recovery(), current_setting('server_encoding'),
           current_setting('transaction_isolation'), pg_backend_pid(),
           -- For how long the server has had this session.
           (SELECT (extract(epoch FROM clock_timestamp() - a.backend_start) * 1000000)::bigint
            FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
    FROM schema_version v ORDER BY v.version DESC LIMIT 1
$$;

-- Whoever may use the locker is told so by name.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', current_schema());
END
$$;

INSERT INTO schema_version (version, oldest_client) VALUES (1, 1);
