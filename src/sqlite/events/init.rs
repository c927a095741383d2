//! The objects of an events table: made, and made again without harm.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};

use super::error::{failed, name, other_columns};
use crate::model::limits;
use crate::view::{EventIds, EventsError, EventsRole, InitDone, InitObject, InitOptions, InitReport, Trouble};

/// What does not parse as JSON is refused, unless it nests so deep that SQLite cannot tell: it reads 1,000 levels
/// (<https://sqlite.org/json1.html>), PostgreSQL many more. Times are in UTC as PostgreSQL prints them, so that they are
/// the same text everywhere and sort by year.
const EVENTS: &str = "CREATE TABLE events (
  id INTEGER NOT NULL PRIMARY KEY,
  ts TEXT NOT NULL CHECK (ts IN ('infinity', '-infinity')
    OR ts GLOB '[0-9][0-9][0-9][0-9]*-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*+00*'),
  event TEXT NOT NULL CHECK (typeof(event) = 'text' AND (json_valid(event)
    OR length(event) - length(replace(replace(event, '[', ''), '{', '')) > 1000))
);
";

/// Name and path of every index on a part of the event.
const INDEXES: [(&str, &str); 5] = [
    ("events_event_entityname", "$.entityName"),
    ("events_event_operation", "$.operation"),
    ("events_event_propertyname", "$.propertyName"),
    ("events_event_entityid", "$.entityId"),
    ("events_event_metadata_command", "$.metadata.command"),
];

const TS_INDEX: &str = "CREATE INDEX events_ts ON events (ts);\n";

fn index(name: &str, path: &str) -> String {
    format!("CREATE INDEX {name} ON events (CASE WHEN json_valid(event) THEN json_extract(event, '{path}') END);\n")
}

/// What a source refuses. `INSERT OR REPLACE` would remove a row without firing a trigger for it, and an id before the last
/// one would never be seen by who has read further. (An id that is left out is -1 before the insert.)
const TRIGGERS: [(&str, &str); 4] = [
    (
        "check_sql_command_update",
        "CREATE TRIGGER check_sql_command_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'cannot perform SQL command on events table:  UPDATE'); END;
",
    ),
    (
        "check_sql_command_delete",
        "CREATE TRIGGER check_sql_command_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'cannot perform SQL command on events table:  DELETE'); END;
",
    ),
    (
        "check_sql_command_insert",
        "CREATE TRIGGER check_sql_command_insert BEFORE INSERT ON events
WHEN new.id > 0 AND new.id <= (SELECT max(id) FROM events)
BEGIN SELECT RAISE(ABORT, 'cannot perform SQL command on events table:  INSERT of an id before the last one'); END;
",
    ),
    // Whoever inserts without asking the table `id` has it right all the same.
    (
        "next_id",
        "CREATE TRIGGER next_id AFTER INSERT ON events
BEGIN
  SELECT RAISE(ABORT, 'cannot perform SQL command on events table:  INSERT of an id below 1') WHERE new.id < 1;
  UPDATE id SET id = new.id + 1 WHERE id <= new.id;
END;
",
    ),
];

/// Makes what is missing of an events table, replaces triggers that have another form, and leaves its rows alone. The
/// database is in WAL mode afterwards, so that readers and the writer do not wait for each other. Blocks.
///
/// # Errors
/// There is no such file (and none was asked for), it cannot be read or written, is no database, is locked, or has
/// something else under these names.
pub fn init(path: &Path, options: InitOptions) -> Result<InitReport, EventsError> {
    let mut report = InitReport {
        endpoint: name(path),
        role: options.role,
        ids: (options.role == EventsRole::Source).then_some(EventIds::Table),
        dry_run: options.dry_run,
        objects: Vec::new(),
    };
    if options.ids == Some(EventIds::Sequence) {
        return Err(EventsError {
            code: "WS-SQLITE-021",
            trouble: Trouble::Invalid,
            what: format!("{}: SQLite has no sequences", report.endpoint),
            why: "it has one writer at a time, so ids commit in their order anyway".into(),
            fix: "leave --ids out".into(),
        });
    }
    let is_new = !path.exists();
    let Some(mut conn) = open(path, &options, is_new)? else {
        let memory = Connection::open_in_memory().map_err(|error| failed(path, "planning", &error))?;
        report.objects = vec![
            InitObject::by("database", &report.endpoint, InitDone::Created, ""),
            InitObject::by("setting", "journal_mode", InitDone::Created, WAL),
        ];
        report.objects.extend(plan(&memory, path, options.role)?);
        return Ok(report);
    };
    if is_new {
        report.objects.push(InitObject::by("database", &report.endpoint, InitDone::Created, ""));
    }
    report.objects.push(wal(&conn, path, &options)?);
    let making = |error| failed(path, "making the objects of the events table", &error);
    let behavior = if options.dry_run { TransactionBehavior::Deferred } else { TransactionBehavior::Immediate };
    let transaction = conn.transaction_with_behavior(behavior).map_err(making)?;
    let objects = plan(&transaction, path, options.role)?;
    if !options.dry_run {
        for object in &objects {
            transaction.execute_batch(&object.sql).map_err(making)?;
        }
        transaction.commit().map_err(making)?;
    }
    report.objects.extend(objects);
    Ok(report)
}

/// `None` in a dry run without a file.
fn open(path: &Path, options: &InitOptions, is_new: bool) -> Result<Option<Connection>, EventsError> {
    if is_new && !options.create_database {
        return Err(EventsError {
            code: "WS-SQLITE-022",
            trouble: Trouble::Invalid,
            what: format!("{}: there is no such file", name(path)),
            why: format!("{} does not exist", path.display()),
            fix: "correct the path, or have the file made: --create-database".into(),
        });
    }
    if is_new && options.dry_run {
        return Ok(None);
    }
    let access = if options.dry_run { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
    let create = if is_new { OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::empty() };
    let opening = |error| failed(path, "opening", &error);
    let conn = Connection::open_with_flags(path, access | create | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(opening)?;
    conn.busy_timeout(limits::DATABASE_BUSY_TIMEOUT).map_err(opening)?;
    Ok(Some(conn))
}

const WAL: &str = "PRAGMA journal_mode = WAL;\n";

fn wal(conn: &Connection, path: &Path, options: &InitOptions) -> Result<InitObject, EventsError> {
    let setting = |error| failed(path, "switching to WAL mode", &error);
    let before: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(setting)?;
    if before == "wal" {
        return Ok(InitObject::present("setting", "journal_mode"));
    }
    let object = InitObject::by("setting", "journal_mode", InitDone::Replaced, WAL).noted(format!("was {before}"));
    if options.dry_run {
        return Ok(object);
    }
    let after: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(setting)?;
    Ok(match after.as_str() {
        "wal" => object,
        // Not every file system can do it.
        _ => InitObject { done: InitDone::Skipped, sql: String::new(), ..object }
            .noted(format!("it stays {after}: readers and the writer wait for each other")),
    })
}

/// The statement that made an object.
fn stored(conn: &Connection, path: &Path, kind: &str, object: &str) -> Result<Option<String>, EventsError> {
    let sql = "SELECT sql FROM main.sqlite_schema WHERE type = ?1 AND name = ?2";
    let found = conn.query_row(sql, [kind, object], |row| row.get(0)).optional();
    found.map_err(|error| failed(path, "looking at what is there", &error))
}

fn plan(conn: &Connection, path: &Path, role: EventsRole) -> Result<Vec<InitObject>, EventsError> {
    let mut objects = vec![match has_events(conn, path)? {
        true => InitObject::present("table", "events"),
        false => InitObject::by("table", "events", InitDone::Created, EVENTS),
    }];
    let indexes = INDEXES.map(|(name, path)| (name, index(name, path)));
    for (name, sql) in indexes.into_iter().chain([("events_ts", TS_INDEX.to_string())]) {
        objects.push(match stored(conn, path, "index", name)? {
            None => InitObject::by("index", name, InitDone::Created, sql),
            Some(found) if found == statement(&sql) => InitObject::present("index", name),
            Some(_) => InitObject { done: InitDone::Skipped, ..InitObject::present("index", name) }
                .noted("an index of that name has another definition, which is left as it is"),
        });
    }
    if role == EventsRole::Destination {
        return refuse_source(conn, path).map(|()| objects);
    }
    objects.push(id_table(conn, path)?);
    for (name, sql) in TRIGGERS {
        objects.push(match stored(conn, path, "trigger", name)? {
            None => InitObject::by("trigger", name, InitDone::Created, sql),
            Some(found) if found == statement(sql) => InitObject::present("trigger", name),
            Some(_) => InitObject::by("trigger", name, InitDone::Replaced, format!("DROP TRIGGER main.{name};\n{sql}")),
        });
    }
    Ok(objects)
}

/// As SQLite keeps it.
fn statement(sql: &str) -> &str {
    sql.trim_end().trim_end_matches(';')
}

/// Whether the table is there; it has the right columns then.
fn has_events(conn: &Connection, path: &Path) -> Result<bool, EventsError> {
    let looking = |error| failed(path, "looking at what is there", &error);
    let kind = "SELECT type FROM main.sqlite_schema WHERE name = 'events' COLLATE NOCASE";
    let kind: Option<String> = conn.query_row(kind, [], |row| row.get(0)).optional().map_err(looking)?;
    match kind.as_deref() {
        None => return Ok(false),
        Some("table") => {}
        Some(kind) => {
            let why = format!("events is no table there, but a {kind}: an events table cannot be made under that name");
            return Err(other_columns(path, why));
        }
    }
    let sql = "SELECT name || ' ' || upper(type) || iif(pk > 0, ' PRIMARY KEY', '') FROM pragma_table_xinfo('events')";
    let mut query = conn.prepare(sql).map_err(looking)?;
    let columns = query.query_map([], |row| row.get(0)).map_err(looking)?;
    let columns: Vec<String> = columns.collect::<Result<_, _>>().map_err(looking)?;
    if columns != ["id INTEGER PRIMARY KEY", "ts TEXT", "event TEXT"] {
        let why = format!("expected id INTEGER PRIMARY KEY, ts TEXT, event TEXT; found {}", columns.join(", "));
        return Err(other_columns(path, why));
    }
    Ok(true)
}

fn refuse_source(conn: &Connection, path: &Path) -> Result<(), EventsError> {
    let sql = "SELECT group_concat(name, ', ') FROM main.sqlite_schema
      WHERE type = 'table' AND name = 'id' OR type = 'trigger' AND tbl_name = 'events'";
    let objects: Option<String> =
        conn.query_row(sql, [], |row| row.get(0)).map_err(|error| failed(path, "looking at what is there", &error))?;
    let Some(objects) = objects else { return Ok(()) };
    Err(EventsError {
        code: "WS-SQLITE-023",
        trouble: Trouble::Invalid,
        what: format!("{} is a source already", name(path)),
        why: format!("it has {objects}"),
        fix: "take another file; or drop these, if events are to be copied into it from now on".into(),
    })
}

fn id_table(conn: &Connection, path: &Path) -> Result<InitObject, EventsError> {
    let looking = |error| failed(path, "looking at what is there", &error);
    let newest = match has_events(conn, path)? {
        true => conn.query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get(0)).map_err(looking)?,
        false => 0_i64,
    };
    let wanted = newest + 1;
    if stored(conn, path, "table", "id")?.is_none() {
        let sql =
            format!("CREATE TABLE id (id INTEGER NOT NULL PRIMARY KEY);\nINSERT INTO id (id) VALUES ({wanted});\n");
        return Ok(InitObject::by("table", "id", InitDone::Created, sql));
    }
    let mut query = conn.prepare("SELECT id FROM id LIMIT 2").map_err(looking)?;
    let rows = query.query_map([], |row| row.get(0)).map_err(looking)?;
    let rows: Vec<i64> = rows.collect::<Result<_, _>>().map_err(looking)?;
    Ok(match rows[..] {
        [next] if next >= wanted => InitObject::present("table", "id"),
        [next] => InitObject::by("table", "id", InitDone::Replaced, format!("UPDATE id SET id = {wanted};\n"))
            .noted(format!("the next id was {next}, which there is already")),
        _ => {
            let sql = format!("DELETE FROM id;\nINSERT INTO id (id) VALUES ({wanted});\n");
            InitObject::by("table", "id", InitDone::Replaced, sql).noted("it had not one row")
        }
    })
}
