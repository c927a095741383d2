//! The sections of the file about data: `[send]`, `[table]`, `[lane]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Expression, TablePattern, one_or_many};
use crate::model::Op;

/// `[send.…]`: nothing leaves unless it is listed here.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SendConfig {
    /// To the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<SendRule>,
    /// To every child that has no rule of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<SendRule>,
    /// To one child, instead of `children`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub child: BTreeMap<String, SendRule>,
    /// To readers of `main` over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<SendRule>,
}

impl SendConfig {
    /// The rule for a child: its own, else the one for all.
    pub fn to_child(&self, name: &str) -> Option<&SendRule> {
        self.child.get(name).or(self.children.as_ref())
    }

    /// Every rule with its key in the file (`send.child.shop`).
    pub fn all(&self) -> Vec<(String, &SendRule)> {
        let named = [("parent", &self.parent), ("children", &self.children), ("feed", &self.feed)];
        let named = named.into_iter().filter_map(|(name, rule)| Some((format!("send.{name}"), rule.as_ref()?)));
        named.chain(self.child.iter().map(|(name, rule)| (format!("send.child.{name}"), rule))).collect()
    }
}

/// What is sent to one destination.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SendRule {
    /// Tables, or `"*"` for everything, now and later.
    pub tables: Vec<TablePattern>,
    /// Feeds to mirror.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
    /// Which rows and columns of them, as `[[send.….filter]]`.
    #[serde(rename = "filter", skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterRule>,
}

/// `[[send.….filter]]`: which rows and columns of some tables leave.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterRule {
    /// The tables that it is about.
    pub tables: Vec<TablePattern>,
    /// CEL over `row`, `old`, `table`, `origin`, `destination`: a row leaves where it is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Expression>,
    /// Operations that are finally sent. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<FilterOp>,
    /// Columns that do not leave; not of the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_columns: Vec<String>,
    /// Accepts that keys of rows that never passed leave as deletes.
    #[serde(default)]
    pub keys_may_leave: bool,
}

/// An operation named in `ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FilterOp {
    /// Rows added.
    Insert,
    /// Rows changed.
    Update,
    /// Rows removed.
    Delete,
    /// Tables emptied.
    Truncate,
}

impl FilterOp {
    /// The operation of a change.
    pub fn op(self) -> Op {
        match self {
            FilterOp::Insert => Op::Insert,
            FilterOp::Update => Op::Update,
            FilterOp::Delete => Op::Delete,
            FilterOp::Truncate => Op::Truncate,
        }
    }
}

/// `[table.NAME]`: who writes its rows.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TableRule {
    /// The node, or the nodes, that write its rows.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "OneOrMany")]
    pub owner: Vec<String>,
    /// CEL over `row` that gives the node that writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_by: Option<Expression>,
    /// `may-diverge` accepts that a table without an owner is sent both ways.
    pub conflicts: Conflicts,
    /// A lane of `[lane.NAME]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Owners of single columns.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, ColumnRule>,
}

impl TableRule {
    /// Whether its rows have a writing node.
    pub fn is_owned(&self) -> bool {
        !self.owner.is_empty() || self.owner_by.is_some()
    }

    /// Whether it is accepted that two nodes write the same rows.
    pub fn may_diverge(&self) -> bool {
        self.conflicts == Conflicts::MayDiverge
    }
}

/// The owner of one column.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnRule {
    /// The node, or the nodes, that write it.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "OneOrMany")]
    pub owner: Vec<String>,
    /// CEL over `row` that gives the node that writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_by: Option<Expression>,
}

/// For the schema: `"a"` or `["a", "b"]`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)] // only its schema is used
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// What happens where two nodes may write the same row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Conflicts {
    /// The link is refused.
    #[default]
    Refuse,
    /// The last change that arrives wins, at each node.
    MayDiverge,
}

/// `[lane.NAME]`: tables that share a cursor.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LaneConfig {
    /// Higher ones go first on a bad link; `main` has 0.
    pub priority: i32,
}
