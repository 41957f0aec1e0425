-- How a lock is given back.

-- Frees the locks that are their owner's; the rows stay and keep their tokens. Verdicts: done,
-- wanted (done, and somebody waits for it), absent, held; corrupt, when the record has no end; again, when
-- somebody else has it locked.
CREATE FUNCTION release(keys text[], owners text[], patient boolean DEFAULT true)
RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    begun bigint := clock();
    t bigint;
    locked text[];
    freed bigint;
    is_wanted boolean;
BEGIN
    IF NOT plain() THEN
        PERFORM sound();
    END IF;
    -- Almost always a lone lock is the asker's still: see `try_create`. It was so when this began, and
    -- until the row was locked nobody has changed it, or it would not be found.
    IF patient AND cardinality(keys) = 1 THEN
        UPDATE locks f SET
            format = NULL, owner = NULL, process = NULL, acquired_at = NULL, extended_at = NULL,
            expires = NULL, marked = false
        WHERE f.key = keys[1] AND f.owner = owners[1] AND f.format = 1 AND f.expires > begun
        RETURNING f.token, f.wanted INTO freed, is_wanted;
        IF freed IS NOT NULL THEN
            RETURN NEXT ROW (
                1, CASE WHEN is_wanted THEN 'wanted' ELSE 'done' END, clock(), keys[1], freed,
                NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
            )::answer;
            RETURN;
        END IF;
    END IF;
    IF patient AND cardinality(keys) = 1 THEN
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
    ), done AS (
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
               WHEN l.expires IS NULL THEN 'corrupt'
               WHEN l.owner <> m.owner OR l.format IS DISTINCT FROM 1 THEN 'held'
               ELSE 'again'
           END,
           t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
           l.expires, l.marked, NULL::bigint, NULL::bigint
    FROM m
    LEFT JOIN done f ON f.member = m.member
    LEFT JOIN locks l ON l.key = m.key;
END
$$;

-- Releases, and claims of other keys, of one process in one commit. Rows that are locked are skipped,
-- however few members there are: what is locked here must not wait for anything but an insert of the
-- same key, and those come in the order of the keys. The claims are answered after the releases.
CREATE FUNCTION release_and_try_create(
    released_keys text[], released_owners text[],
    keys text[], owners text[], claimants text[], ttls bigint[], deadlines bigint[]
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
DECLARE
    one answer;
BEGIN
    RETURN QUERY SELECT * FROM release(released_keys, released_owners, false);
    FOR one IN SELECT * FROM try_create(keys, owners, claimants, ttls, deadlines, false) LOOP
        one.member := one.member + cardinality(released_keys);
        RETURN NEXT one;
    END LOOP;
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
