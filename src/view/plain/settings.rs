//! What a view without SQL is made of, as the configuration says it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Stands before every definition; goes up when the same settings come to mean something else.
const MEANING: &str = "1 ";

/// `count = { … }`: how many entries and rows there are, by table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CountSettings {
    /// Tables that are counted. Default: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// A column (of a feed: a member of its rows) by whose values rows are counted, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// `latest = { … }`: the last row of every key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LatestSettings {
    /// Tables whose rows are kept. Default: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Columns (of a feed: members of its rows) by whose values rows are found, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<String>,
}

/// `reduce = { init = …, step = …, by = … }`: a state that every row changes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReduceSettings {
    /// Tables whose rows count. Default: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// The state before the first row, in CEL: `0`, `{'orders': 0}`.
    pub init: String,
    /// The state after a row, in CEL over `state`, `row`, `old`, `key`, `table`, `op`, `position` and `time`:
    /// `state + row.amount`. A state that becomes null is removed.
    pub step: String,
    /// Which state a row changes, in CEL over the same (without `state`): `key`, `row.customer`. Default: there is one
    /// state only, with the empty key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// One of the views that need no SQL.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PlainSettings {
    /// `count = { … }`.
    Count(CountSettings),
    /// `latest = { … }`.
    Latest(LatestSettings),
    /// `reduce = { … }`.
    Reduce(ReduceSettings),
}

impl PlainSettings {
    /// The tables that it looks at; none means all.
    pub fn tables(&self) -> &[String] {
        match self {
            PlainSettings::Count(settings) => &settings.tables,
            PlainSettings::Latest(settings) => &settings.tables,
            PlainSettings::Reduce(settings) => &settings.tables,
        }
    }

    /// What decides the state, as text: two that say the same have the same state at the same position.
    pub(super) fn definition(&self) -> String {
        format!("{MEANING}{}", serde_json::to_string(self).expect("settings are JSON"))
    }

    /// The settings whose definition that is; `None` where it is not one of this version.
    pub(super) fn from_definition(text: &str) -> Option<PlainSettings> {
        serde_json::from_str(text.strip_prefix(MEANING)?).ok()
    }
}
