//! `watershed events init`

use std::path::Path;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{ExitError, Global, block_on, output};
use crate::model::limits;
use crate::postgres::{self, Endpoint};
use crate::sqlite;
use crate::view::{EventIds, EventsRole, InitDone, InitOptions, InitReport};

/// Make the objects of an events table
///
/// Makes what is missing, replaces what has another form, and leaves events alone: it can be run again, and on databases
/// of the original slate tools. docs/EVENTS.md lists the objects.
#[derive(Debug, Args)]
#[command(after_help = "DONE is created, present, replaced, removed, or skipped (the note says why).")]
pub(super) struct Init {
    /// The database: postgres://USER@HOST:PORT/DATABASE or sqlite:PATH
    #[arg(long)]
    url: String,
    /// Whether events are appended to it, or copied into it
    #[arg(long, value_enum)]
    role: Role,
    /// How a source's ids are given: consecutive, by a table that those who append wait for; or by a sequence, with
    /// gaps. By default as it is, and by a table in a new source
    #[arg(long, value_enum)]
    ids: Option<Ids>,
    /// Create the database if it is not there
    #[arg(long)]
    create_database: bool,
    /// Print the statements that would run, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ids {
    Table,
    Sequence,
}

impl Init {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let options = InitOptions {
            role: match self.role {
                Role::Source => EventsRole::Source,
                Role::Destination => EventsRole::Destination,
            },
            ids: self.ids.map(|ids| match ids {
                Ids::Table => EventIds::Table,
                Ids::Sequence => EventIds::Sequence,
            }),
            create_database: self.create_database,
            dry_run: self.dry_run,
        };
        let report = match self.url.strip_prefix("sqlite:") {
            Some(path) => sqlite::events::init(Path::new(path), options)?,
            None => {
                let endpoint = Endpoint::from_url(&self.url)?;
                let init = postgres::events::init(&endpoint, options, limits::EVENTS_CONNECT_TIMEOUT);
                block_on(async { Ok(init.await?) })?
            }
        };
        if global.json {
            return output::object(as_json(&report));
        }
        if report.dry_run {
            return output::line(&script(&report));
        }
        let rows: Vec<Vec<String>> = report
            .objects
            .iter()
            .map(|object| {
                vec![object.kind.into(), object.name.to_string(), object.done.name().into(), object.note.to_string()]
            })
            .collect();
        output::line(&output::table(&["KIND", "NAME", "DONE", "NOTE"], &rows))?;
        let (endpoint, role) = (&report.endpoint, report.role.name());
        eprintln!("{endpoint} {} a {role}", if report.changed() { "is now" } else { "was already" });
        Ok(())
    }
}

fn as_json(report: &InitReport) -> serde_json::Value {
    let objects = report.objects.iter().map(|object| {
        let mut fields = json!({ "kind": object.kind, "name": object.name, "done": object.done.name() });
        if !object.note.is_empty() {
            fields["note"] = json!(object.note);
        }
        if report.dry_run && !object.sql.is_empty() {
            fields["sql"] = json!(object.sql);
        }
        fields
    });
    json!({
        "endpoint": report.endpoint,
        "role": report.role.name(),
        "ids": report.ids.map(EventIds::name),
        "dry_run": report.dry_run,
        "changed": report.changed(),
        "objects": objects.collect::<Vec<_>>(),
    })
}

/// A dry run's statements, fit for psql or sqlite3.
fn script(report: &InitReport) -> String {
    let mut text = format!("-- {} as a {}\n", report.endpoint, report.role.name());
    for object in &report.objects {
        let done = match object.done {
            InitDone::Created => "would be created",
            InitDone::Replaced => "would be replaced",
            InitDone::Removed => "would be removed",
            InitDone::Present => "is present",
            InitDone::Skipped => "is left",
        };
        text.push_str(&format!("\n-- {} {} {done}", object.kind, object.name));
        if !object.note.is_empty() {
            text.push_str(&format!(": {}", object.note.replace('\n', " ")));
        }
        text.push('\n');
        text.push_str(&object.sql);
    }
    text
}
