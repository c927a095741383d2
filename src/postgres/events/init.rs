//! The objects of an events table: made, and made again without harm.

mod facts;
mod objects;
mod plan;

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use self::facts::Facts;
use self::plan::{How, Plan};
use crate::model::limits;
use crate::postgres::{Endpoint, PgError, Session};
use crate::view::{EventsError, InitDone, InitObject, InitOptions, InitReport, Trouble};

/// Makes what is missing of an events table, replaces what has another form, and leaves its rows alone. Either all of
/// it is done, or nothing (indexes of a table with rows aside, which are built afterwards, beside those who append).
/// `limit` bounds each connecting.
///
/// # Errors
/// The server cannot be reached or refuses; there is no such database (and none was asked for); what has these names
/// is something else.
pub async fn init(endpoint: &Endpoint, options: InitOptions, limit: Duration) -> Result<InitReport, EventsError> {
    let mut report = InitReport {
        endpoint: endpoint.name().to_string(),
        role: options.role,
        ids: None,
        dry_run: options.dry_run,
        objects: Vec::new(),
    };
    let mut session = match endpoint.connect(limit).await {
        Err(error) if options.create_database && is(&error, &SqlState::INVALID_CATALOG_NAME) => {
            report.objects.push(create_database(endpoint, &options, limit).await?);
            if options.dry_run {
                finish(&mut report, plan::plan(endpoint.name(), &Facts::default(), &options)?);
                return Ok(report);
            }
            endpoint.connect(limit).await?
        }
        connected => connected?,
    };
    let (plan, facts) = together(&mut session, endpoint, &options).await?;
    if !options.dry_run {
        after(&session.client, endpoint, &plan).await.map_err(|error| refused(endpoint, &facts, error))?;
    }
    finish(&mut report, plan);
    if !facts.encoding.is_empty() && facts.encoding != "UTF8" {
        let note = format!("its encoding is {}: not every text of other databases has a place in it", facts.encoding);
        report.objects.insert(0, InitObject::present("database", endpoint.database()).noted(note));
    }
    Ok(report)
}

fn finish(report: &mut InitReport, plan: Plan) {
    report.ids = plan.ids;
    report.objects.extend(plan.steps.into_iter().map(|step| step.object));
}

fn is(error: &PgError, code: &SqlState) -> bool {
    error.db().is_some_and(|error| error.code() == code)
}

async fn create_database(
    endpoint: &Endpoint,
    options: &InitOptions,
    limit: Duration,
) -> Result<InitObject, EventsError> {
    let name = endpoint.database();
    let sql = format!("CREATE DATABASE \"{}\";\n", name.replace('"', "\"\""));
    let object = InitObject::by("database", name, InitDone::Created, sql);
    let maintenance = endpoint.at_database("postgres");
    let session = maintenance.connect(limit).await?;
    if options.dry_run {
        return Ok(object);
    }
    match session.client.batch_execute(object.sql.trim_end()).await {
        Ok(()) => Ok(object),
        // Somebody was quicker.
        Err(error)
            if [SqlState::DUPLICATE_DATABASE, SqlState::UNIQUE_VIOLATION].iter().any(|c| error.code() == Some(c)) =>
        {
            Ok(InitObject::present("database", endpoint.database()))
        }
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Err(EventsError {
            code: "WS-PG-026",
            trouble: Trouble::Invalid,
            what: format!("{}: the database cannot be created", endpoint.name()),
            why: words(&error),
            fix: format!("have it created (`{}`), or allow it: ALTER ROLE … CREATEDB", object.sql.trim_end()),
        }),
        Err(error) => Err(maintenance.failed("creating the database", error).into()),
    }
}

fn words(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_string())
}

/// Facts, plan, and what of the plan belongs into one transaction.
async fn together(
    session: &mut Session,
    endpoint: &Endpoint,
    options: &InitOptions,
) -> Result<(Plan, Facts), EventsError> {
    let failed = |doing: &str, error| EventsError::from(endpoint.failed(doing, error));
    let mut builder = session.client.build_transaction();
    if options.dry_run {
        builder = builder.read_only(true);
    }
    let mut transaction = builder.start().await.map_err(|error| failed("beginning", error))?;
    // Names print with their schema, and no other process makes the same objects meanwhile.
    let begin = format!(
        "SET LOCAL search_path = pg_catalog; SET LOCAL lock_timeout = {}; SELECT pg_advisory_xact_lock({LOCK})",
        limits::EVENTS_INIT_LOCK_TIMEOUT.as_millis()
    );
    transaction.batch_execute(&begin).await.map_err(|error| failed("waiting for another `events init`", error))?;
    let mut facts = look(&transaction, endpoint, options).await?;
    let mut plan = plan::plan(endpoint.name(), &facts, options)?;
    if options.dry_run || !plan.changes() {
        return Ok((plan, facts));
    }
    let locked = lock(&transaction, &facts).await;
    if locked.map_err(|error| refused(endpoint, &facts, error))? {
        facts = look(&transaction, endpoint, options).await?;
        plan = plan::plan(endpoint.name(), &facts, options)?;
    }
    run(&mut transaction, &mut plan).await.map_err(|error| refused(endpoint, &facts, error))?;
    transaction.commit().await.map_err(|error| failed("committing", error))?;
    Ok((plan, facts))
}

/// Of `pg_advisory_xact_lock`: "wsevents".
const LOCK: i64 = 0x7773_6576_656e_7473;

async fn look(transaction: &Transaction<'_>, endpoint: &Endpoint, options: &InitOptions) -> Result<Facts, EventsError> {
    let failed = |error| EventsError::from(endpoint.failed("looking at what is there", error));
    let mut facts = Facts::read(transaction).await.map_err(failed)?;
    plan::check(endpoint.name(), &facts, options)?;
    facts.read_rows(transaction).await.map_err(failed)?;
    Ok(facts)
}

/// Keeps everybody from appending until the end of the transaction, in the order in which `insert_events` locks.
async fn lock(transaction: &Transaction<'_>, facts: &Facts) -> Result<bool, tokio_postgres::Error> {
    let mut locked = false;
    for table in ["id", "events"] {
        if facts.relation(table).is_some() {
            let sql = format!("LOCK TABLE public.{table} IN SHARE ROW EXCLUSIVE MODE");
            transaction.batch_execute(&sql).await?;
            locked = true;
        }
    }
    Ok(locked)
}

async fn run(transaction: &mut Transaction<'_>, plan: &mut Plan) -> Result<(), tokio_postgres::Error> {
    for step in plan.steps.iter_mut().filter(|step| step.how != How::After && !step.object.sql.is_empty()) {
        if step.how == How::Together {
            transaction.batch_execute(&step.object.sql).await?;
            continue;
        }
        let savepoint = transaction.savepoint("optional").await?;
        match savepoint.batch_execute(&step.object.sql).await {
            Ok(()) => savepoint.commit().await?,
            Err(error) if error.as_db_error().is_some() => {
                savepoint.rollback().await?;
                step.object.done = InitDone::Skipped;
                step.object.note = format!(
                    "{}; restore_events needs it: have a superuser run `{}` here (package postgresql-contrib)",
                    words(&error),
                    step.object.sql.trim_end()
                )
                .into();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Indexes of a table with rows.
async fn after(client: &Client, endpoint: &Endpoint, plan: &Plan) -> Result<(), tokio_postgres::Error> {
    for step in plan.steps.iter().filter(|step| step.how == How::After && !step.object.sql.is_empty()) {
        tracing::info!("{}: building index {}, beside those who append", endpoint.name(), step.object.name);
        // One statement at a time: several would be one transaction, in which this cannot be done.
        for statement in step.object.sql.lines() {
            client.batch_execute(statement).await?;
        }
    }
    Ok(())
}

/// An error while something was made.
fn refused(endpoint: &Endpoint, facts: &Facts, error: tokio_postgres::Error) -> EventsError {
    if error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return endpoint.failed("making the objects of the events table", error).into();
    }
    EventsError {
        code: "WS-PG-027",
        trouble: Trouble::Invalid,
        what: format!("{}: the objects of the events table cannot be made", endpoint.name()),
        why: words(&error),
        fix: format!(
            "run it as the owner of the database and its tables, or allow it: GRANT CREATE ON SCHEMA public TO {}",
            facts.user
        ),
    }
}
