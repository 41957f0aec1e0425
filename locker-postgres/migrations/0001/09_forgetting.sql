-- What is forgotten, in small steps.

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
    locked text[];
BEGIN
    swept := 0;
    judged_at := t;
    IF pg_try_advisory_xact_lock(hashtextextended('locker sweep ' || current_schema(), 0)) THEN
        SELECT count(*), max(n.key) INTO looked, last FROM (
            SELECT l.key FROM locks l WHERE l.key > after ORDER BY l.key LIMIT at_most
        ) n;
        SELECT array_agg(f.key) INTO locked FROM (
            SELECT l.key FROM locks l
            WHERE l.key > after AND l.key <= last
              AND (l.owner IS NULL OR (l.format = 1 AND l.expires <= t))
              -- In the very microsecond of a token the next one would repeat it.
              AND l.token < t - older_than
            ORDER BY l.key FOR UPDATE SKIP LOCKED
        ) f;
        -- By a later snapshot: whoever enrolled before the row was locked is seen, and whoever comes later
        -- waits for the row. In one statement the row would be the latest, and the waiters those of before.
        DELETE FROM locks l
        WHERE l.key = ANY (locked)
          AND NOT (l.wanted AND EXISTS (SELECT FROM waiters w WHERE w.key = l.key));
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
            WITH found AS MATERIALIZED (
                SELECT w.key, w.id FROM waiters w
                WHERE coalesce(
                    (SELECT p.expires FROM processes p WHERE p.process = w.process), w.expires, 0
                ) <= t
                FOR UPDATE OF w SKIP LOCKED
            )
            DELETE FROM waiters w USING found f WHERE w.key = f.key AND w.id = f.id;
        END IF;
    END IF;
    RETURN NEXT;
END
$$;
