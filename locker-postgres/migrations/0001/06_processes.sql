-- How a process lives and ends.

-- The number of the advisory lock that stands for a process.
CREATE FUNCTION session_of(of_process text) RETURNS bigint
LANGUAGE sql STABLE
SET search_path FROM CURRENT
AS $$
    SELECT hashtextextended('locker process ' || current_schema() || ' ' || of_process, 0);
$$;

-- Makes sure that this session keeps the advisory lock that stands for a process, and no other's. It
-- is the connection of the Reporter's reports that asks, each time: after it was broken, the next
-- report brings the lock to the new session. If the server has not yet noticed the end of the old one,
-- the report after that does.
CREATE FUNCTION keep_session(of_process text) RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    session bigint := session_of(of_process);
BEGIN
    IF current_setting('locker.keeps', true) IS DISTINCT FROM session::text THEN
        PERFORM pg_advisory_unlock_all();
        IF pg_try_advisory_lock(session) THEN
            PERFORM set_config('locker.keeps', session::text, false);
        END IF;
    END IF;
END
$$;

-- Begins the life of a process. Where its session counts, that is believed for so long (0: it does
-- not count). One that exists keeps the session that it has: a birth that lands late would otherwise
-- take it from whoever has it now, and put off the death of a name that nobody uses (S3). Verdicts:
-- created, exists.
CREATE FUNCTION create_process(of_process text, ttl bigint, believed bigint)
RETURNS SETOF process_answer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '1s'
SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    t bigint;
    counts boolean := believed > 0;
    verdict text := 'exists';
BEGIN
    PERFORM sound();
    t := clock();
    INSERT INTO processes (process, alive_at, expires, session, lapses)
    VALUES (
        of_process, t, t + ttl,
        CASE WHEN counts THEN session_of(of_process) END, CASE WHEN counts THEN t + believed END)
    ON CONFLICT (process) DO NOTHING;
    IF FOUND THEN
        verdict := 'created';
        IF counts THEN
            PERFORM keep_session(of_process);
        END IF;
    END IF;
    RETURN NEXT ROW (verdict, t, of_process, t, t + ttl)::process_answer;
END
$$;

-- Renews what is there and unexpired, judged after its row is locked: it may have waited for a
-- take-over that has found this process dead. Verdicts: renewed, gone.
CREATE FUNCTION renew_process(of_process text, ttl bigint, believed bigint)
RETURNS SETOF process_answer
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
        IF believed > 0 THEN
            PERFORM keep_session(of_process);
        END IF;
        UPDATE processes SET
            expires = greatest(expires, t + ttl), alive_at = t,
            lapses = CASE WHEN session IS NOT NULL THEN t + believed END
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
    UPDATE processes SET expires = least(expires, t), session = NULL, lapses = NULL
    WHERE process = of_process AND (expires > t OR session IS NOT NULL);
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
    SELECT CASE WHEN dead_at(p.expires, p.session, p.lapses, t) > t THEN 'alive' ELSE 'dead' END,
           t, p.process, p.alive_at, p.expires
    FROM (SELECT) one
    LEFT JOIN processes p ON p.process = of_process;
END
$$;
