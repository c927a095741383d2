//! Ids that are made at one node only, so that sites never collide.

use crate::model::TableName;

/// The ids that a database may make, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Inclusive.
    pub first: i64,
    /// Inclusive.
    pub last: i64,
}

impl Ids {
    /// Whether a number lies in it.
    pub fn contains(&self, id: i64) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

/// A table whose new ids do not keep to the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrayIds {
    /// The table.
    pub table: TableName,
    /// What gives its ids, and which.
    pub what: String,
    /// The statement that mends it; `None` where nothing does, and `what` says why.
    pub mend: Option<String>,
}
