-- Who is told when a lock becomes free.

-- Enrols somebody who waits (of_process) or only looks (NULL, for so many microseconds). It is written
-- under the lock of the lock's row: a release that comes later sees it, and after one that came
-- earlier the lock is free. A process stands in a line once: its newest enrolment is the one that it
-- listens for, also when an older one comes late, on a connection that was given up, or could not be
-- withdrawn. Which is newer is said by the process. Answers the enrolments that do not count because
-- of this one, or this one itself.
CREATE FUNCTION enrol(
    wanted_key text, new_id bigint, of_process text, new_turn bigint, ttl bigint
) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
BEGIN
    PERFORM sound();
    INSERT INTO locks AS l (key, token, wanted) VALUES (wanted_key, clock(), true)
    ON CONFLICT (key) DO UPDATE SET wanted = true WHERE NOT l.wanted;
    IF EXISTS (
        SELECT FROM waiters w
        WHERE w.key = wanted_key AND w.process = of_process AND w.turn > new_turn
    ) THEN
        RETURN NEXT new_id;
        RETURN;
    END IF;
    RETURN QUERY
    DELETE FROM waiters w
    WHERE w.key = wanted_key AND w.process = of_process AND w.id <> new_id
    RETURNING w.id;
    INSERT INTO waiters (key, id, process, turn, expires)
    VALUES (
        wanted_key, new_id, of_process, new_turn,
        CASE WHEN of_process IS NULL THEN clock() + ttl END
    )
    ON CONFLICT (key, id) DO UPDATE SET expires = excluded.expires;
END
$$;

-- In one order, so that two who withdraw, or go on looking, cannot wait for each other.
CREATE FUNCTION withdraw(keys text[], ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
BEGIN
    PERFORM FROM waiters w JOIN unnest(keys, ids) AS u(key, id) ON w.key = u.key AND w.id = u.id
    ORDER BY w.key, w.id FOR UPDATE OF w;
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
    PERFORM FROM waiters w JOIN unnest(keys, ids) AS u(key, id) ON w.key = u.key AND w.id = u.id
    ORDER BY w.key, w.id FOR UPDATE OF w;
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
--
-- They hear it when this commits. So nearly always one look at the table is all: only where it has
-- found somebody dead, or nobody at all, is there anything to tidy.
CREATE FUNCTION wake(keys text[], channel text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    t bigint := clock();
    message text;
    tidy boolean := true;
BEGIN
    -- Nobody waits for the disk here: what a crash forgets of it, is a hint and the tidying of rows.
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR message IN
        WITH w AS MATERIALIZED (
            SELECT w.key, w.id, w.process, w.place, coalesce(p.expires, w.expires, 0) > t AS lives
            FROM waiters w LEFT JOIN processes p ON p.process = w.process
            WHERE w.key = ANY (keys)
        ), placed AS (
            SELECT w.key, w.id,
                   CASE WHEN w.process IS NULL THEN 0
                        ELSE row_number() OVER (
                                 PARTITION BY w.key, w.process IS NULL ORDER BY w.place) - 1
                   END AS place,
                   (row_number() OVER (
                       PARTITION BY w.key, w.process IS NULL ORDER BY w.place) - 1) / 300 AS part,
                   w.process IS NULL AS observes
            FROM w WHERE w.lives
        )
        SELECT CASE WHEN observes THEN 'look ' ELSE 'free ' || min(place) || ' ' END
               || string_agg(id::text, ' ' ORDER BY place)
        FROM placed GROUP BY key, observes, part
        UNION ALL
        SELECT NULL FROM w WHERE NOT w.lives
        UNION ALL
        SELECT NULL WHERE EXISTS (
            SELECT FROM unnest(keys) AS u(key)
            WHERE NOT EXISTS (SELECT FROM waiters x WHERE x.key = u.key)
        )
    LOOP
        IF message IS NULL THEN
            tidy := false;
        ELSE
            PERFORM pg_notify(channel, message);
        END IF;
    END LOOP;
    IF NOT tidy THEN
        PERFORM forget_the_dead(keys, channel, t);
    END IF;
END
$$;

-- Removes those who waited for these keys and were dead at this time, and tells them so; and notes
-- that nobody waits, where that is so. A part of `wake`.
CREATE FUNCTION forget_the_dead(keys text[], channel text, t bigint) RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    dead bigint[];
    unwanted text;
BEGIN
    -- The dead have no place a second time. Whose row is locked is being removed by somebody else.
    FOR dead IN
        WITH found AS MATERIALIZED (
            SELECT w.key, w.id FROM waiters w
            WHERE w.key = ANY (keys)
              AND coalesce(
                      (SELECT p.expires FROM processes p WHERE p.process = w.process),
                      w.expires, 0) <= t
            FOR UPDATE OF w SKIP LOCKED
        ), d AS (
            DELETE FROM waiters w USING found f WHERE w.key = f.key AND w.id = f.id
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
