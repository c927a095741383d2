//! Making an events table and what belongs to it: what is asked for, and what was done.

use super::EventIds;

/// What an events table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsRole {
    /// Events are appended to it.
    Source,
    /// Events are copied into it.
    Destination,
}

impl EventsRole {
    /// As it stands in a command.
    pub fn name(self) -> &'static str {
        match self {
            EventsRole::Source => "source",
            EventsRole::Destination => "destination",
        }
    }
}

impl EventIds {
    /// As it stands in a command.
    pub fn name(self) -> &'static str {
        match self {
            EventIds::Table => "table",
            EventIds::Sequence => "sequence",
        }
    }
}

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub struct InitOptions {
    /// What the table is for.
    pub role: EventsRole,
    /// How a source's ids are given; `None`: as they are now, or from the table `id` in a new one.
    pub ids: Option<EventIds>,
    /// Whether a database that is not there is created.
    pub create_database: bool,
    /// Look and plan only; nothing is changed.
    pub dry_run: bool,
}

impl InitOptions {
    /// The objects of a role in a database that is there.
    pub fn new(role: EventsRole) -> InitOptions {
        InitOptions { role, ids: None, create_database: false, dry_run: false }
    }
}

/// What was done with an object (in a dry run: what would be done).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitDone {
    /// It was not there.
    Created,
    /// It was there and is as it should be.
    Present,
    /// It was there, in another form.
    Replaced,
    /// It was there and has no place there any more.
    Removed,
    /// It could not be made; the rest works without it. The note says what to do.
    Skipped,
}

impl InitDone {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            InitDone::Created => "created",
            InitDone::Present => "present",
            InitDone::Replaced => "replaced",
            InitDone::Removed => "removed",
            InitDone::Skipped => "skipped",
        }
    }
}

/// One object of an events table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitObject {
    /// `table`, `index`, `function`, ….
    pub kind: &'static str,
    /// Its name.
    pub name: Box<str>,
    /// What was done with it.
    pub done: InitDone,
    /// The statements for it, each ending with `;` and a newline; empty where nothing was to do.
    pub sql: String,
    /// What else there is to say; empty for nothing.
    pub note: Box<str>,
}

impl InitObject {
    /// One that is as it should be.
    pub fn present(kind: &'static str, name: &str) -> InitObject {
        InitObject { kind, name: name.into(), done: InitDone::Present, sql: String::new(), note: "".into() }
    }

    /// One for which `sql` has to run.
    pub fn by(kind: &'static str, name: &str, done: InitDone, sql: impl Into<String>) -> InitObject {
        InitObject { kind, name: name.into(), done, sql: sql.into(), note: "".into() }
    }

    /// The same, with a note.
    pub fn noted(mut self, note: impl Into<Box<str>>) -> InitObject {
        self.note = note.into();
        self
    }
}

/// What was made.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// The database, without a password.
    pub endpoint: String,
    /// What it is for.
    pub role: EventsRole,
    /// How a source's ids are given.
    pub ids: Option<EventIds>,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Its objects, in the order in which they are made.
    pub objects: Vec<InitObject>,
}

impl InitReport {
    /// Whether anything was (or would be) changed.
    pub fn changed(&self) -> bool {
        self.objects.iter().any(|object| !matches!(object.done, InitDone::Present | InitDone::Skipped))
    }
}
