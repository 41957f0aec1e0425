-- How a lock that is held is kept, looked at, and pinned.

-- Sets the time of the locks that are still their owner's, unexpired and unmarked; never shortens it.
-- Verdicts: mine, marked, absent, held; corrupt, when the record has no end; again, when somebody else
-- has the row locked.
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
               WHEN l.expires IS NULL THEN 'corrupt'
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

-- How locks stand for these owners. Verdicts: mine, marked, absent, held, corrupt.
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
               WHEN l.expires IS NULL THEN 'corrupt'
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

-- For a transaction of the owner's own: whether the lock is this owner's under this token. The row
-- stays locked until that transaction ends, so nobody is granted the lock before what it writes is
-- committed. Verdicts: mine, marked, absent, held, corrupt.
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
            WHEN l.expires IS NULL THEN 'corrupt'
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
