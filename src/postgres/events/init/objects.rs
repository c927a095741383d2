//! The statements that make the objects of an events table in PostgreSQL.
//!
//! Names and contracts are those of the original slate databases, so that programs written for them go on working.

/// The columns of `events`, as [`super::facts`] prints them: by name, as their order does not matter.
pub(super) const COLUMNS: &str = "event jsonb not null, id bigint not null, ts timestamp with time zone not null";

/// `events`.
pub(super) const EVENTS: &str = "CREATE TABLE public.events (
  id bigint NOT NULL,
  ts timestamp with time zone NOT NULL,
  event jsonb NOT NULL,
  CONSTRAINT events_pkey PRIMARY KEY (id)
);
";

/// Name and key of every index, the key as PostgreSQL prints it.
pub(super) const INDEXES: [(&str, &str); 6] = [
    ("events_event_entityname", "(event #>> '{entityName}'::text[])"),
    ("events_event_operation", "(event #>> '{operation}'::text[])"),
    ("events_event_propertyname", "(event #>> '{propertyName}'::text[])"),
    ("events_event_entityid", "(event #>> '{entityId}'::text[])"),
    ("events_event_metadata_command", "(event #>> '{metadata,command}'::text[])"),
    ("events_ts", "ts"),
];

/// An index of [`INDEXES`].
pub(super) fn index(name: &str, key: &str, concurrently: bool) -> String {
    let concurrently = if concurrently { " CONCURRENTLY" } else { "" };
    format!("CREATE INDEX{concurrently} {name} ON public.events ({key});\n")
}

/// A function: what stands before its body, and the body, by which a later look knows it again.
pub(super) struct Function {
    pub(super) name: &'static str,
    /// Types of its arguments.
    pub(super) arguments: &'static str,
    head: &'static str,
    pub(super) body: String,
}

impl Function {
    pub(super) fn sql(&self) -> String {
        format!("CREATE OR REPLACE FUNCTION public.{} AS $body${}$body$;\n", self.head, self.body)
    }
}

/// Refuses what changes or removes events.
pub(super) fn filter_sql_command() -> Function {
    Function {
        name: "filter_sql_command",
        arguments: "",
        head: "filter_sql_command() RETURNS trigger LANGUAGE plpgsql",
        body: "
BEGIN
  RAISE EXCEPTION 'cannot perform SQL command on events table:  %', TG_OP
    USING HINT = 'Events are only ever appended.';
END;
"
        .into(),
    }
}

/// Says once a statement that there are new events, and which the last one is. The event itself is not in it: it may
/// be larger than a notification.
pub(super) fn notify_event_insert() -> Function {
    Function {
        name: "notify_event_insert",
        arguments: "",
        head: "notify_event_insert() RETURNS trigger LANGUAGE plpgsql",
        body: "
DECLARE
  newest bigint;
BEGIN
  SELECT max(id) INTO newest FROM inserted;
  IF newest IS NOT NULL THEN
    PERFORM pg_notify('eventsinsert', json_build_object('table', TG_TABLE_NAME, 'id', newest)::text);
  END IF;
  RETURN NULL;
END;
"
        .into(),
    }
}

/// The same, and enters the events under their transaction. It runs with its owner's rights, so that whoever may append
/// events needs no right on `event_transactions`.
pub(super) fn notify_event_insert_by_transaction() -> Function {
    Function {
        name: "notify_event_insert",
        arguments: "",
        head: "notify_event_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp",
        body: "
DECLARE
  newest bigint;
BEGIN
  WITH entered AS (
    INSERT INTO public.event_transactions (transaction, id)
      SELECT pg_current_xact_id(), id FROM inserted RETURNING id
  )
  SELECT max(id) INTO newest FROM entered;
  IF newest IS NOT NULL THEN
    PERFORM pg_notify('eventsinsert', json_build_object('table', TG_TABLE_NAME, 'id', newest)::text);
  END IF;
  RETURN NULL;
END;
"
        .into(),
    }
}

/// Where `insert_events` has its ids from: consecutive ones, whose holder is waited for until it commits.
const IDS_OF_TABLE: &str = "
  UPDATE public.id SET id = id + counted RETURNING id INTO next;
  IF next IS NULL THEN
    RAISE EXCEPTION 'The table id has no row' USING HINT = 'Make it again: watershed events init';
  END IF;
  ids := ARRAY(SELECT generate_series(next - counted, next - 1));";

/// Most texts are in order, which is seen without a regular expression; the others are looked at without what stands
/// between quotes, where an event may speak of `$1[7]` too.
const INSERT_EVENTS: &str = r#"
DECLARE
  counted bigint;
  times bigint;
  ordered boolean;
  place bigint;
  previous bigint := 0;
  bare text;
  next bigint;
  ids bigint[];
  appended bigint;
BEGIN
  SELECT count(*), bool_and(starts_with(piece, (nth - 1) || ']')) INTO counted, ordered
    FROM unnest(string_to_array(insertvalues, '$1[')) WITH ORDINALITY AS pieces (piece, nth) WHERE nth > 1;
  times := (octet_length(insertvalues) - octet_length(replace(insertvalues, '$2,', ''))) / 3;
  IF ordered IS NOT TRUE OR times <> counted THEN
    bare := regexp_replace(insertvalues, '''[^'']*''', '', 'g');
    counted := 0;
    FOR place IN SELECT match[1]::bigint FROM regexp_matches(bare, '\$1\[([0-9]+)\]', 'g') AS matches (match) LOOP
      counted := counted + 1;
      IF counted > 1 AND place <> previous + 1 THEN
        RAISE EXCEPTION 'Parameter index is not consecutive at ------> %,  previous index ------> %', place, previous
          USING HINT = 'The id of every row is "$1[n]": n is 1 in the first row, and greater by 1 in each further row.';
      END IF;
      previous := place;
    END LOOP;
    IF counted < 1 THEN
      RAISE EXCEPTION 'No inserted rows found with id substitution parameters'
        USING HINT = 'The id of every row is "$1[n]": n is 1 in the first row, and greater by 1 in each further row.';
    END IF;
    IF counted <> previous THEN
      RAISE EXCEPTION 'Number of rows to be inserted (%) does not match the highest row index (%)', counted, previous
        USING HINT = 'The id of every row is "$1[n]": n is 1 in the first row, and greater by 1 in each further row.';
    END IF;
    SELECT count(*) INTO times FROM regexp_matches(bare, '\$2,', 'g');
    IF counted <> times THEN
      RAISE EXCEPTION 'Number of rows to be inserted (%) does not match number of rows with a ts substitution parameter (%)',
        counted, times USING HINT = 'The ts of every row is "$2".';
    END IF;
  END IF;
{ids}
  EXECUTE 'INSERT INTO public.events (id, ts, event){overriding} VALUES ' || insertvalues
    USING ids, transaction_timestamp();
  GET DIAGNOSTICS appended = ROW_COUNT;
  IF appended <> counted THEN
    RAISE EXCEPTION 'Number of rows inserted (%) does not match the number of ids (%)', appended, counted
      USING HINT = 'The id of every row is "$1[n]": n is 1 in the first row, and greater by 1 in each further row.';
  END IF;
  RETURN appended;
END;
"#;

/// Appends the rows of a text that could stand after `VALUES`, with `$1[n]` for ids and `$2` for the time. With a
/// sequence (its name, as it stands in SQL), ids come from there.
pub(super) fn insert_events(sequence: Option<&str>) -> Function {
    let body = match sequence {
        None => INSERT_EVENTS.replace("{ids}", IDS_OF_TABLE).replace("{overriding}", ""),
        Some(sequence) => {
            let next = format!(
                "  ids := ARRAY(SELECT nextval({}::regclass) FROM generate_series(1, counted));",
                text(sequence)
            );
            INSERT_EVENTS.replace("{ids}", &next).replace("{overriding}", " OVERRIDING SYSTEM VALUE")
        }
    };
    Function {
        name: "insert_events",
        arguments: "text",
        head: "insert_events(insertvalues text) RETURNS integer LANGUAGE plpgsql",
        body,
    }
}

/// `{dblink}` is the schema of the extension. Rows come in runs through a cursor, so that no copy has to fit in memory.
const RESTORE_EVENTS: &str = r#"
DECLARE
  place text := concat_ws(' ', 'host=' || nullif(fromhost, ''),
    'dbname=''' || replace(replace(fromdatabase, '\', '\\'), '''', '\''') || '''',
    'user=''' || replace(replace(nullif(fromdatabaseuser, ''), '\', '\\'), '''', '\''') || '''',
    'password=''' || replace(replace(nullif(fromdatabasepassword, ''), '\', '\\'), '''', '\''') || '''');
  link CONSTANT text := 'watershed_restore_events';
  there bigint;
  newest bigint;
  oldest bigint;
  run bigint;
BEGIN
  IF EXISTS (SELECT FROM public.events) THEN
    RAISE EXCEPTION 'Source events table row count (%) is not 0', (SELECT count(*) FROM public.events)
      USING HINT = 'Events are restored into a new source: watershed events init --role source';
  END IF;
{fresh}
  IF link = ANY ({dblink}.dblink_get_connections()) THEN
    PERFORM {dblink}.dblink_disconnect(link);
  END IF;
  PERFORM {dblink}.dblink_connect(link, place);
  PERFORM {dblink}.dblink_exec(link, 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
  SELECT * INTO there, oldest, newest FROM {dblink}.dblink(link, 'SELECT count(*), min(id), max(id) FROM events')
    AS facts (there bigint, oldest bigint, newest bigint);
  IF newest IS NULL OR oldest < 1 THEN
    RAISE EXCEPTION 'The from events table maximum id value (%) is not 1 or greater', newest
      USING HINT = 'There is nothing to restore from.';
  END IF;
{gapless}
  PERFORM {dblink}.dblink_open(link, 'events', 'SELECT id, ts, event FROM events ORDER BY id');
  rows_restored := 0;
  LOOP
    INSERT INTO public.events (id, ts, event){overriding}
      SELECT id, ts, event FROM {dblink}.dblink_fetch(link, 'events', 10000)
        AS copied (id bigint, ts timestamp with time zone, event jsonb);
    GET DIAGNOSTICS run = ROW_COUNT;
    EXIT WHEN run = 0;
    rows_restored := rows_restored + run;
  END LOOP;
  PERFORM {dblink}.dblink_disconnect(link);
  IF rows_restored <> there THEN
    RAISE EXCEPTION 'The Source events table row count (%) is not equal to the from events table row count (%)',
      rows_restored, there USING HINT = 'Nothing was restored.';
  END IF;
  next_insert_id := newest + 1;
{next}
END;
"#;

const FRESH_TABLE: &str = "  IF (SELECT id FROM public.id) IS DISTINCT FROM 1 THEN
    RAISE EXCEPTION 'Source id table id value (%) is not 1', (SELECT id FROM public.id)
      USING HINT = 'Events are restored into a new source: watershed events init --role source';
  END IF;";

const GAPLESS_TABLE: &str = "  IF there <> newest THEN
    RAISE EXCEPTION 'The from events table row count (%) is not equal to the from events table maximum id (%)',
      there, newest USING HINT = 'Events are missing there, so it cannot be restored from.';
  END IF;";

/// Fills a new source from another database.
pub(super) fn restore_events(sequence: Option<&str>, dblink: &str) -> Function {
    let next = match sequence {
        None => "  UPDATE public.id SET id = next_insert_id;".to_string(),
        Some(sequence) => format!("  PERFORM setval({}::regclass, next_insert_id, false);", text(sequence)),
    };
    let body = RESTORE_EVENTS
        .replace("{fresh}", if sequence.is_none() { FRESH_TABLE } else { "" })
        .replace("{gapless}", if sequence.is_none() { GAPLESS_TABLE } else { "" })
        .replace("{overriding}", if sequence.is_none() { "" } else { " OVERRIDING SYSTEM VALUE" })
        .replace("{next}", &next)
        .replace("{dblink}", dblink);
    Function {
        name: "restore_events",
        arguments: "text, text, text, text",
        head: "restore_events(fromhost text, fromdatabase text, fromdatabaseuser text, fromdatabasepassword text, \
               OUT rows_restored bigint, OUT next_insert_id bigint) LANGUAGE plpgsql",
        body,
    }
}

/// The trigger that says that there are new events.
pub(super) const NOTIFY_INSERT: &str = "CREATE OR REPLACE TRIGGER notify_insert AFTER INSERT ON public.events
  REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION public.notify_event_insert();
";

/// The trigger that refuses what changes or removes events.
pub(super) const CHECK_SQL_COMMAND: &str =
    "CREATE OR REPLACE TRIGGER check_sql_command BEFORE UPDATE OR DELETE OR TRUNCATE ON public.events
  FOR EACH STATEMENT EXECUTE FUNCTION public.filter_sql_command();
";

/// The table of the next id.
pub(super) fn id_table(next: i64) -> String {
    format!(
        "CREATE TABLE public.id (id bigint NOT NULL, CONSTRAINT id_pkey PRIMARY KEY (id));
INSERT INTO public.id (id) VALUES ({next});
"
    )
}

/// A sequence that feeds `events.id`.
pub(super) fn id_sequence(next: i64) -> String {
    format!(
        "CREATE SEQUENCE public.events_id_seq AS bigint OWNED BY public.events.id;
ALTER TABLE public.events ALTER COLUMN id SET DEFAULT nextval('public.events_id_seq'::regclass);
SELECT setval('public.events_id_seq'::regclass, {next}, false);
"
    )
}

/// The columns of `event_transactions`, as [`super::facts`] prints them.
pub(super) const TRANSACTION_COLUMNS: &str = "id bigint not null, transaction xid8 not null";

/// Which transaction appended which event: the order to read in where ids commit out of order.
pub(super) const EVENT_TRANSACTIONS: &str = "CREATE TABLE public.event_transactions (
  transaction xid8 NOT NULL,
  id bigint NOT NULL,
  CONSTRAINT event_transactions_pkey PRIMARY KEY (transaction, id)
);
";

/// Enters events that are not in `event_transactions`.
pub(super) const ENTER_EVENTS: &str = "INSERT INTO public.event_transactions (transaction, id)
  SELECT pg_current_xact_id(), id FROM public.events
  WHERE NOT EXISTS (SELECT FROM public.event_transactions AS entered WHERE entered.id = events.id);
";

/// Enters all events anew: their transaction ids are of another cluster.
pub(super) const ENTER_ANEW: &str = "UPDATE public.event_transactions SET transaction = pg_current_xact_id();
";

/// A text as it stands in SQL.
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
