-- Whoever may use the locker is told so by name.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', current_schema());
END
$$;

INSERT INTO schema_version (version, oldest_client) VALUES (1, 1);
