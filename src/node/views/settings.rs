//! What a view is started with.

use std::sync::Arc;
use std::time::Duration;

use crate::model::TableName;
use crate::node::settings::NodeError;
use crate::view::ViewBuilds;

/// Reads a definition as it stands now, and makes what builds it. Reaches no store. Blocks.
pub type MakeBuilds = Arc<dyn Fn() -> Result<Arc<dyn ViewBuilds>, NodeError> + Send + Sync>;

/// A view, from the configuration or from a program.
#[derive(Clone)]
pub struct ViewSettings {
    /// The log of this node that it is derived from.
    pub log: Box<str>,
    /// What it is: `sql`, `count`, `latest`, `reduce`, or what a program calls its own.
    pub kind: Box<str>,
    /// Where it is, for people; without secrets.
    pub store: Box<str>,
    /// The tables that it looks at; `None`: all that the log has.
    pub tables: Option<Vec<TableName>>,
    /// The log of this node that its output is; nobody else appends there.
    pub publish: Option<Box<str>>,
    /// What builds it.
    pub make: MakeBuilds,
    /// How often a state that is in memory is saved.
    pub persist_every: Option<Duration>,
}

impl std::fmt::Debug for ViewSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ViewSettings").field("log", &self.log).field("kind", &self.kind).finish_non_exhaustive()
    }
}
