//! From what is there to what is to be made.

use super::facts::Facts;
use super::objects::{self, Function};
use crate::view::{EventIds, EventsError, EventsRole, InitDone, InitObject, InitOptions, Trouble};

/// An object, and how it is made.
pub(super) struct Step {
    pub(super) object: InitObject,
    pub(super) how: How,
}

/// How the statements of a step run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// In the one transaction.
    Together,
    /// There too, but the rest stands without it.
    Optional,
    /// After it, outside of any transaction, so that nobody who appends has to wait.
    After,
}

/// What is to be done.
pub(super) struct Plan {
    pub(super) ids: Option<EventIds>,
    pub(super) steps: Vec<Step>,
}

impl Plan {
    /// Whether anything is to be changed in the one transaction.
    pub(super) fn changes(&self) -> bool {
        self.steps.iter().any(|step| step.how != How::After && !step.object.sql.is_empty())
    }

    fn push(&mut self, object: InitObject) {
        self.steps.push(Step { object, how: How::Together });
    }

    fn function(&mut self, facts: &Facts, function: &Function) {
        let name = format!("{}({})", function.name, function.arguments);
        self.push(match facts.function(function.name, function.arguments) {
            Some(body) if body == function.body => InitObject::present("function", &name),
            Some(_) => InitObject::by("function", &name, InitDone::Replaced, function.sql()),
            None => InitObject::by("function", &name, InitDone::Created, function.sql()),
        });
    }

    fn trigger(&mut self, facts: &Facts, name: &str, sql: &str) {
        self.push(match facts.trigger(name) {
            Some(true) => InitObject::present("trigger", name),
            Some(false) => InitObject::by("trigger", name, InitDone::Replaced, sql),
            None => InitObject::by("trigger", name, InitDone::Created, sql),
        });
    }
}

/// Oldest version whose triggers can be replaced while others read.
const VERSION_MIN: i32 = 140_000;

/// Refuses what cannot be made an events table, before its rows are read.
pub(super) fn check(endpoint: &str, facts: &Facts, options: &InitOptions) -> Result<(), EventsError> {
    let invalid = |code, what: String, why: String, fix: &str| {
        Err(EventsError { code, trouble: Trouble::Invalid, what, why, fix: fix.to_string() })
    };
    if facts.version < VERSION_MIN {
        let what = format!("{endpoint}: the server is too old");
        let why = format!("it is PostgreSQL {}; {} is needed", facts.version / 10_000, VERSION_MIN / 10_000);
        return invalid("WS-PG-020", what, why, "update the server, or take another");
    }
    let expected = [("events", objects::COLUMNS, "id"), ("id", "id bigint not null", "id")].into_iter().chain([(
        "event_transactions",
        objects::TRANSACTION_COLUMNS,
        "transaction,id",
    )]);
    for (name, columns, key) in expected {
        let Some(found) = facts.relation(name) else { continue };
        if options.role == EventsRole::Destination && name != "events" {
            continue;
        }
        if found.kind != 'r' {
            let kind = match found.kind {
                'v' | 'm' => "a view",
                'f' => "a foreign table",
                'p' => "a partitioned table",
                'S' => "a sequence",
                _ => "something else",
            };
            let what = format!("{endpoint}: public.{name} is no ordinary table");
            let fix = "take another database, or rename it there";
            return invalid("WS-PG-021", what, format!("it is {kind}"), fix);
        }
        if found.columns != columns || found.key != key {
            let what = format!("{endpoint}: the table public.{name} has other columns");
            let (expected, is) = (shape(columns, key), shape(&found.columns, &found.key));
            let why = format!("expected {expected}; found {is}");
            let fix = "take another database, or rename that table; a table with these columns is used as it is";
            return invalid("WS-PG-022", what, why, fix);
        }
    }
    let objects = facts.source_objects();
    if options.role == EventsRole::Destination && !objects.is_empty() {
        let what = format!("{endpoint} is a source already");
        let why = format!("it has {}", objects.join(", "));
        let fix = "take another database; or drop these, if events are to be copied into it from now on";
        return invalid("WS-PG-023", what, why, fix);
    }
    Ok(())
}

fn shape(columns: &str, key: &str) -> String {
    match key {
        "" => format!("({columns}) without a primary key"),
        key => format!("({columns}, primary key ({key}))"),
    }
}

/// How ids are given, from what is wanted and what is there.
fn ids(endpoint: &str, facts: &Facts, wanted: Option<EventIds>) -> Result<EventIds, EventsError> {
    let has = facts.sequence.is_some() || facts.relation("event_transactions").is_some();
    match (wanted, has) {
        (Some(EventIds::Table), true) => Err(EventsError {
            code: "WS-PG-024",
            trouble: Trouble::Invalid,
            what: format!("{endpoint}: ids cannot come from the table id"),
            why: "they come from a sequence there, so they have gaps and commit out of order".into(),
            fix: "leave --ids out, or say --ids sequence".into(),
        }),
        (Some(ids), _) => Ok(ids),
        (None, true) => Ok(EventIds::Sequence),
        (None, false) => Ok(EventIds::Table),
    }
}

/// What is to be done in a database of which `check` and `facts` are done.
pub(super) fn plan(endpoint: &str, facts: &Facts, options: &InitOptions) -> Result<Plan, EventsError> {
    let mut plan = Plan { ids: None, steps: Vec::new() };
    plan.push(match facts.relation("events") {
        Some(_) => InitObject::present("table", "events"),
        None => InitObject::by("table", "events", InitDone::Created, objects::EVENTS),
    });
    indexes(&mut plan, facts);
    if options.role == EventsRole::Source {
        let ids = ids(endpoint, facts, options.ids)?;
        plan.ids = Some(ids);
        match ids {
            EventIds::Table => by_table(&mut plan, endpoint, facts)?,
            EventIds::Sequence => by_sequence(&mut plan, facts),
        }
    }
    Ok(plan)
}

fn indexes(plan: &mut Plan, facts: &Facts) {
    let concurrently = facts.max_id > 0;
    let how = if concurrently { How::After } else { How::Together };
    for (name, key) in objects::INDEXES {
        let sql = objects::index(name, key, concurrently);
        let same = facts.indexes.iter().find(|index| index.valid && index.key == key);
        let object = match (same, facts.indexes.iter().find(|index| index.name == name)) {
            (Some(same), _) if same.name == name => InitObject::present("index", name),
            (Some(same), _) => InitObject::present("index", name).noted(format!("under the name {}", same.name)),
            (None, None) => InitObject::by("index", name, InitDone::Created, sql),
            // What a `CREATE INDEX CONCURRENTLY` leaves that was interrupted.
            (None, Some(index)) if !index.valid && index.key == key => {
                let drop = format!("DROP INDEX{} public.{name};\n", if concurrently { " CONCURRENTLY" } else { "" });
                InitObject::by("index", name, InitDone::Replaced, drop + &sql).noted("it was not valid")
            }
            (None, Some(_)) => {
                let note = "an index of that name has another definition, which is left as it is";
                InitObject { done: InitDone::Skipped, ..InitObject::present("index", name) }.noted(note)
            }
        };
        plan.steps.push(Step { how, object });
    }
}

fn functions(plan: &mut Plan, facts: &Facts, sequence: Option<&str>) {
    let notify = match sequence {
        None => objects::notify_event_insert(),
        Some(_) => objects::notify_event_insert_by_transaction(),
    };
    plan.function(facts, &notify);
    plan.function(facts, &objects::filter_sql_command());
    plan.function(facts, &objects::insert_events(sequence));
    plan.trigger(facts, "notify_insert", objects::NOTIFY_INSERT);
    plan.trigger(facts, "check_sql_command", objects::CHECK_SQL_COMMAND);
    let schema = facts.dblink.as_deref();
    plan.steps.push(match schema {
        Some(_) => Step { object: InitObject::present("extension", "dblink"), how: How::Together },
        None => {
            let sql = "CREATE EXTENSION dblink SCHEMA public;\n";
            Step { object: InitObject::by("extension", "dblink", InitDone::Created, sql), how: How::Optional }
        }
    });
    plan.function(facts, &objects::restore_events(sequence, schema.unwrap_or("public")));
}

fn by_table(plan: &mut Plan, endpoint: &str, facts: &Facts) -> Result<(), EventsError> {
    functions(plan, facts, None);
    let wanted = facts.max_id + 1;
    let object = match (facts.relation("id").is_some(), facts.next_ids.as_slice()) {
        (false, _) => InitObject::by("table", "id", InitDone::Created, objects::id_table(wanted)),
        (true, [next]) if *next == wanted => InitObject::present("table", "id"),
        (true, [next]) if *next > wanted => InitObject::present("table", "id")
            .noted(format!("the next id is {next}, and the greatest one {}: ids between are missing", facts.max_id)),
        (true, [next]) => {
            let sql = format!("UPDATE public.id SET id = {wanted};\n");
            InitObject::by("table", "id", InitDone::Replaced, sql)
                .noted(format!("the next id was {next}, which there is already"))
        }
        (true, []) => {
            let sql = format!("INSERT INTO public.id (id) VALUES ({wanted});\n");
            InitObject::by("table", "id", InitDone::Replaced, sql).noted("it had no row")
        }
        (true, _) => {
            return Err(EventsError {
                code: "WS-PG-025",
                trouble: Trouble::Operator,
                what: format!("{endpoint}: the table public.id has more than one row"),
                why: "it holds the next id, and there is only one".into(),
                fix: format!("look who wrote them; the next id is {wanted}: keep that row, and run it again"),
            });
        }
    };
    let fresh = facts.relation("id").is_none() && facts.max_id > 0;
    plan.push(if fresh { object.noted(format!("the next id is {wanted}")) } else { object });
    Ok(())
}

fn by_sequence(plan: &mut Plan, facts: &Facts) {
    let next = facts.next_ids.iter().copied().fold(facts.max_id + 1, i64::max);
    plan.push(match &facts.sequence {
        Some(sequence) => InitObject::present("sequence", sequence),
        None => InitObject::by("sequence", "public.events_id_seq", InitDone::Created, objects::id_sequence(next)),
    });
    let sequence = facts.sequence.as_deref().unwrap_or("public.events_id_seq");
    let entering = objects::notify_event_insert_by_transaction();
    let entered = facts.trigger("notify_insert") == Some(true)
        && facts.function(entering.name, entering.arguments) == Some(entering.body.as_str());
    let rows = match facts.max_id {
        0 => "",
        _ => "the events that were there are entered under one transaction",
    };
    plan.push(match facts.relation("event_transactions") {
        None => {
            let sql = objects::EVENT_TRANSACTIONS.to_string() + objects::ENTER_EVENTS;
            InitObject::by("table", "event_transactions", InitDone::Created, sql).noted(rows)
        }
        Some(_) if facts.foreign_transactions => {
            let sql = objects::ENTER_ANEW.to_string() + objects::ENTER_EVENTS;
            InitObject::by("table", "event_transactions", InitDone::Replaced, sql).noted(
                "its transaction ids were of another server: who has copied from here is to be compared (`events diff`)",
            )
        }
        Some(_) if entered => InitObject::present("table", "event_transactions"),
        Some(_) => InitObject::by("table", "event_transactions", InitDone::Replaced, objects::ENTER_EVENTS)
            .noted("events that were not entered now are"),
    });
    functions(plan, facts, Some(sequence));
    if facts.relation("id").is_some() {
        plan.push(
            InitObject::by("table", "id", InitDone::Removed, "DROP TABLE public.id;\n")
                .noted(format!("the sequence goes on where it was: {next}")),
        );
    }
}
