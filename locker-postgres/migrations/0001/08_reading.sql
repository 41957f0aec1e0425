-- What people, and claimants who were refused, ask for.

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
           l.expires, l.marked, h.alive_at, dead_at(h.expires, h.session, h.lapses, t)
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
           l.expires, l.marked, h.alive_at, dead_at(h.expires, h.session, h.lapses, t)
    FROM locks l
    LEFT JOIN processes h ON h.process = l.process
    WHERE l.key > after AND l.key >= beginning
    ORDER BY l.key
    LIMIT at_most;
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
    SELECT CASE WHEN dead_at(p.expires, p.session, p.lapses, t) > t THEN 'alive' ELSE 'dead' END,
           t, p.process, p.alive_at, p.expires
    FROM processes p
    WHERE p.process > after
    ORDER BY p.process
    LIMIT at_most;
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
