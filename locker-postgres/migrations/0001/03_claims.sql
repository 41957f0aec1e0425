-- How a lock is claimed.

-- Grants locks that are free, or whose record has expired, or that are the claimant's already.
-- Verdicts: granted, too_late, owner_dead, held; again, when somebody else was changing the row.
CREATE FUNCTION try_create(
    keys text[], owners text[], claimants text[], ttls bigint[], deadlines bigint[],
    patient boolean DEFAULT true
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
    granted bigint;
    lives_until bigint;
BEGIN
    IF NOT plain() THEN
        PERFORM sound();
    END IF;
    -- Almost always a lone lock is free, and was held before. That is one statement, in half the time;
    -- whatever is not as plain as that goes on below, where all cases are. It is confirmed by a clock
    -- that is read after the row was locked: if it had to wait and is too late now, it is undone
    -- before anybody sees it.
    IF patient AND cardinality(keys) = 1 THEN
        UPDATE locks f SET
            token = greatest(f.token + 1, begun), format = 1, owner = owners[1],
            process = claimants[1], acquired_at = begun, extended_at = begun,
            expires = begun + ttls[1], marked = false
        FROM processes p
        WHERE f.key = keys[1] AND f.owner IS NULL
          AND p.process = claimants[1] AND p.expires > begun
        RETURNING f.token, p.expires INTO granted, lives_until;
        IF granted IS NOT NULL THEN
            t := clock();
            -- It had to wait, so the claimant may have ended meanwhile.
            IF t > begun + 2000 THEN
                SELECT p.expires INTO lives_until FROM processes p WHERE p.process = claimants[1];
            END IF;
            IF deadlines[1] >= t AND lives_until > t THEN
                RETURN NEXT ROW (
                    1, 'granted', t, keys[1], granted, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                    NULL, NULL
                )::answer;
                RETURN;
            END IF;
            UPDATE locks f SET
                format = NULL, owner = NULL, process = NULL, acquired_at = NULL,
                extended_at = NULL, expires = NULL
            WHERE f.key = keys[1];
        END IF;
    END IF;
    IF patient AND cardinality(keys) = 1 THEN
        -- A lock that is somebody else's is answered by one look, whoever asks and when, and is not even
        -- locked: that try writes nothing and waits for nobody. What this look does not find so is
        -- locked, so that it stays as it is judged below: however fast a lock that was there changes
        -- hands, a lone claim has an answer.
        t := clock();
        RETURN QUERY
        SELECT 1,
               CASE
                   WHEN deadlines[1] < t THEN 'too_late'
                   WHEN NOT EXISTS (
                       SELECT FROM processes p WHERE p.process = claimants[1] AND p.expires > t
                   ) THEN 'owner_dead'
                   ELSE 'held'
               END,
               t, l.key, l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at,
               l.expires, l.marked, h.alive_at, dead_at(h.expires, h.session, h.lapses, t)
        FROM locks l LEFT JOIN processes h ON h.process = l.process
        WHERE l.key = keys[1] AND l.owner <> owners[1]
          -- What has no end is no record, and is told: it never expires.
          AND ((l.expires <= t) IS NOT TRUE OR l.format IS DISTINCT FROM 1);
        IF FOUND THEN
            RETURN;
        END IF;
        SELECT array_agg(f.key) INTO locked FROM (
            SELECT l.key FROM locks l WHERE l.key = keys[1] FOR UPDATE
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
                    AND ((l.owner <> m.owner AND (l.expires <= t) IS NOT TRUE)
                         OR l.format IS DISTINCT FROM 1)
                   THEN 'held'
               ELSE 'again'
           END,
           t, l.key, coalesce(w.token, c.token, l.token), l.format, l.owner, l.process,
           l.acquired_at, l.extended_at, l.expires, l.marked, h.alive_at,
           dead_at(h.expires, h.session, h.lapses, t)
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
    h_dead_at bigint;
    t bigint;
    verdict text;
BEGIN
    PERFORM sound();
    SELECT * INTO l FROM locks WHERE key = wanted_key FOR UPDATE;
    -- Waits for a renewal that is being committed, and then sees it: a process whose renewal was
    -- executed in time is alive, however long its commit takes.
    SELECT * INTO h FROM processes WHERE process = l.process FOR SHARE;
    t := clock();
    h_dead_at := coalesce(dead_at(h.expires, h.session, h.lapses, t), t);
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
    ELSIF l.format = 1 AND l.owner = observed AND h_dead_at <= t THEN
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
        l.expires, l.marked, h.alive_at, h_dead_at
    )::answer;
END
$$;
