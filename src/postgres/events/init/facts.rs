//! What of an events table is there.

use std::collections::HashMap;

use tokio_postgres::{Error, Transaction};

/// An index of `events` that could stand for one of ours.
pub(super) struct Index {
    pub(super) name: String,
    /// As PostgreSQL prints it; with what else there is to it (a predicate, further columns), so that it equals no key.
    pub(super) key: String,
    pub(super) valid: bool,
}

/// A table or what else has its name.
pub(super) struct Relation {
    /// `pg_class.relkind`.
    pub(super) kind: char,
    /// `name type [not null], …` by name.
    pub(super) columns: String,
    /// Columns of the primary key, divided by commas.
    pub(super) key: String,
}

/// What is there. The default is an empty database.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) version: i32,
    pub(super) encoding: String,
    pub(super) user: String,
    relations: HashMap<String, Relation>,
    pub(super) indexes: Vec<Index>,
    /// Bodies of functions of ours by name and types of arguments.
    functions: HashMap<(String, String), String>,
    triggers: HashMap<String, bool>,
    /// The sequence that feeds `events.id`, as it stands in SQL.
    pub(super) sequence: Option<String>,
    /// The greatest id; 0 for none.
    pub(super) max_id: i64,
    /// The rows of the table `id`.
    pub(super) next_ids: Vec<i64>,
    /// Whether `event_transactions` has transaction ids that this cluster has not given.
    pub(super) foreign_transactions: bool,
    /// Schema of the extension.
    pub(super) dblink: Option<String>,
}

const SERVER: &str = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), \
    quote_ident(current_user), \
    (SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'dblink')";

const RELATIONS: &str = "SELECT c.relname::text, c.relkind::text,
  coalesce((SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod)
      || CASE WHEN attnotnull THEN ' not null' ELSE '' END, ', ' ORDER BY attname)
    FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), ''),
  coalesce((SELECT string_agg(attname, ',' ORDER BY array_position(i.indkey::int2[], attnum))
    FROM pg_index i JOIN pg_attribute ON attrelid = c.oid AND attnum = ANY (i.indkey)
    WHERE i.indrelid = c.oid AND i.indisprimary), '')
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname IN ('events', 'id', 'event_transactions')
  AND c.relkind NOT IN ('i', 'I', 'c')";

const INDEXES: &str = "SELECT c.relname::text, i.indisvalid, pg_get_indexdef(i.indexrelid, 1, true),
  i.indnkeyatts = 1 AND i.indpred IS NULL AND am.amname = 'btree'
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
WHERE i.indrelid = to_regclass('public.events')";

const FUNCTIONS: &str = "SELECT p.proname::text, oidvectortypes(p.proargtypes), p.prosrc FROM pg_proc p
WHERE p.pronamespace = 'public'::regnamespace
  AND p.proname IN ('insert_events', 'restore_events', 'notify_event_insert', 'filter_sql_command')";

/// The types are 4 (after insert, by statement) and 58 (before update, delete or truncate, by statement).
/// (src/include/catalog/pg_trigger.h)
const TRIGGERS: &str = "SELECT t.tgname::text, t.tgenabled <> 'D' AND CASE t.tgname
    WHEN 'notify_insert' THEN t.tgtype = 4 AND t.tgnewtable = 'inserted' AND p.proname = 'notify_event_insert'
    ELSE t.tgtype = 58 AND p.proname = 'filter_sql_command' END
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = to_regclass('public.events') AND t.tgname IN ('notify_insert', 'check_sql_command')";

const SEQUENCE: &str = "SELECT coalesce(pg_get_serial_sequence('public.events', 'id'),
  (SELECT d.refobjid::regclass::text FROM pg_attrdef f
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
    JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
    WHERE f.adrelid = 'public.events'::regclass AND a.attname = 'id' LIMIT 1))";

impl Facts {
    /// Of the database at hand.
    pub(super) async fn read(transaction: &Transaction<'_>) -> Result<Facts, Error> {
        let server = transaction.query_one(SERVER, &[]).await?;
        let mut facts = Facts {
            version: server.get(0),
            encoding: server.get(1),
            user: server.get(2),
            dblink: server.get(3),
            ..Facts::default()
        };
        for row in transaction.query(RELATIONS, &[]).await? {
            let kind = row.get::<_, String>(1).chars().next().unwrap_or('?');
            facts.relations.insert(row.get(0), Relation { kind, columns: row.get(2), key: row.get(3) });
        }
        for row in transaction.query(INDEXES, &[]).await? {
            let key: String = if row.get(3) { row.get(2) } else { String::new() };
            facts.indexes.push(Index { name: row.get(0), valid: row.get(1), key });
        }
        for row in transaction.query(FUNCTIONS, &[]).await? {
            facts.functions.insert((row.get(0), row.get(1)), row.get(2));
        }
        for row in transaction.query(TRIGGERS, &[]).await? {
            facts.triggers.insert(row.get(0), row.get(1));
        }
        Ok(facts)
    }

    /// What stands in the tables, once they are known to be ours.
    pub(super) async fn read_rows(&mut self, transaction: &Transaction<'_>) -> Result<(), Error> {
        if self.relation("events").is_some() {
            let newest = "SELECT coalesce(max(id), 0) FROM public.events";
            self.max_id = transaction.query_one(newest, &[]).await?.get(0);
            self.sequence = transaction.query_one(SEQUENCE, &[]).await?.get(0);
        }
        if self.relation("id").is_some() {
            let rows = transaction.query("SELECT id FROM public.id LIMIT 2", &[]).await?;
            self.next_ids = rows.iter().map(|row| row.get(0)).collect();
        }
        if self.relation("event_transactions").is_some() {
            let foreign = "SELECT EXISTS (SELECT FROM public.event_transactions
              WHERE transaction >= pg_snapshot_xmax(pg_current_snapshot()))";
            self.foreign_transactions = transaction.query_one(foreign, &[]).await?.get(0);
        }
        Ok(())
    }

    /// A table, or what else has that name, in `public`.
    pub(super) fn relation(&self, name: &str) -> Option<&Relation> {
        self.relations.get(name)
    }

    /// The body of a function.
    pub(super) fn function(&self, name: &str, arguments: &str) -> Option<&str> {
        self.functions.get(&(name.to_string(), arguments.to_string())).map(String::as_str)
    }

    /// Whether a trigger of that name is as it should be; `None` where there is none.
    pub(super) fn trigger(&self, name: &str) -> Option<bool> {
        self.triggers.get(name).copied()
    }

    /// Names of what only a source has.
    pub(super) fn source_objects(&self) -> Vec<&str> {
        let functions = self.functions.keys().map(|(name, _)| name.as_str());
        let mut names: Vec<&str> = functions.chain(self.triggers.keys().map(String::as_str)).collect();
        names.extend(["id", "event_transactions"].into_iter().filter(|name| self.relations.contains_key(*name)));
        names.sort_unstable();
        names.dedup();
        names
    }
}
