//! Which tables may leave. None by default.

use std::str::FromStr;

use thiserror::Error;

use crate::model::{TableName, TableNameError};

/// The prefix of Watershed's own tables, which no selection ever matches.
const OWN_PREFIX: &str = "watershed_";
/// The schema of Watershed's own tables in databases that have schemas.
const OWN_SCHEMA: &str = "watershed.";

/// A set of tables: names, `*`, or `SCHEMA.*`; later tables match too. The default selects nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    All,
    DefaultSchema,
    Schema(Box<str>),
    Table(TableName),
}

/// A selection's pattern is not understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SelectionError {
    /// `*` stands alone or as `SCHEMA.*`.
    #[error("{0:?}: a star stands alone (\"*\") or for a whole schema (\"app.*\"), not inside a name")]
    Star(String),
    /// Not a name.
    #[error(transparent)]
    Name(#[from] TableNameError),
}

impl Selection {
    /// Reads patterns as in the configuration's `tables = […]`.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Selection, SelectionError> {
        let patterns = patterns.iter().map(|text| text.as_ref().parse()).collect::<Result<_, _>>()?;
        Ok(Selection { patterns })
    }

    /// Whether the table is selected.
    pub fn matches(&self, table: &TableName) -> bool {
        let name = table.as_str();
        if name.starts_with(OWN_PREFIX) || name.starts_with(OWN_SCHEMA) || name.starts_with("sqlite_") {
            return false;
        }
        self.patterns.iter().any(|pattern| match pattern {
            Pattern::All => true,
            Pattern::DefaultSchema => !name.contains('.'),
            Pattern::Schema(schema) => name.split_once('.').is_some_and(|(own, _)| *own == **schema),
            Pattern::Table(wanted) => wanted == table,
        })
    }

    /// Whether the table is named, not only matched by a star.
    pub fn names(&self, table: &TableName) -> bool {
        self.patterns.iter().any(|pattern| matches!(pattern, Pattern::Table(wanted) if wanted == table))
    }

    /// The tables that are named one by one.
    pub fn named(&self) -> impl Iterator<Item = &TableName> {
        self.patterns.iter().filter_map(|pattern| match pattern {
            Pattern::Table(table) => Some(table),
            _ => None,
        })
    }

    /// Whether nothing can ever match.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

impl FromStr for Pattern {
    type Err = SelectionError;
    fn from_str(text: &str) -> Result<Self, SelectionError> {
        match text {
            "*" => return Ok(Pattern::All),
            "public.*" | "main.*" => return Ok(Pattern::DefaultSchema),
            _ => {}
        }
        if let Some(schema) = text.strip_suffix(".*").filter(|schema| !schema.contains('*') && !schema.is_empty()) {
            return Ok(Pattern::Schema(schema.into()));
        }
        if text.contains('*') {
            return Err(SelectionError::Star(text.into()));
        }
        Ok(Pattern::Table(text.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(patterns: &[&str], table: &str) -> bool {
        let selection = Selection::new(patterns).expect("patterns are valid");
        selection.matches(&table.parse().expect("a table name"))
    }

    #[test]
    fn nothing_is_selected_by_default() {
        assert!(!matches(&[], "orders"));
    }

    #[test]
    fn patterns_match_names_schemas_and_everything_but_our_own() {
        assert!(matches(&["*"], "orders") && matches(&["*"], "app.orders"));
        assert!(matches(&["public.orders"], "orders") && matches(&["orders"], "main.orders"));
        assert!(matches(&["app.*"], "app.orders") && !matches(&["app.*"], "orders") && !matches(&["app.*"], "apple.x"));
        assert!(matches(&["main.*"], "orders") && !matches(&["main.*"], "app.orders"));
        assert!(
            !matches(&["*"], "watershed_changes")
                && !matches(&["*"], "watershed.x")
                && !matches(&["*"], "sqlite_sequence")
        );
    }

    #[test]
    fn a_star_inside_a_name_is_refused() {
        assert!(matches!(Selection::new(&["ord*"]), Err(SelectionError::Star(_))));
        assert!(matches!(Selection::new(&["*.orders"]), Err(SelectionError::Star(_))));
        assert!(matches!(Selection::new(&[""]), Err(SelectionError::Name(_))));
    }
}
