//! Secondary indexes of a table, as far as they travel: for tables that a copy makes.

use super::{TableDef, limits};

/// An index as its database tells of it. Names and numbers only, which nobody has to trust: what cannot be told by them is
/// there in words, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableIndex {
    /// Its name, unquoted; at most [`limits::NAME_BYTES_MAX`].
    pub name: Box<str>,
    /// No two rows have the same values.
    pub unique: bool,
    /// PostgreSQL's access method (`btree`, `gin`, …); empty: an ordinary one.
    pub method: Box<str>,
    /// The columns, in order; none where a condition, an expression or an order of its own makes it more than that.
    pub columns: Vec<IndexColumn>,
    /// Further columns that it carries along, as indexes into the definition's.
    pub included: Vec<usize>,
    /// As its database prints it, shortened; may be empty.
    pub definition: Box<str>,
}

/// A column of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexColumn {
    /// An index into the definition's columns.
    pub column: usize,
    /// Greatest first.
    pub descending: bool,
    /// NULLs before all else.
    pub nulls_first: bool,
}

impl TableIndex {
    /// Whether columns tell all of it.
    pub fn is_plain(&self) -> bool {
        !self.columns.is_empty()
    }

    /// A text that people are shown, at most [`limits::INDEX_TEXT_BYTES_MAX`] long and without control characters.
    pub fn shown(text: &str) -> Box<str> {
        let mut shown = String::new();
        for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            if shown.len() + c.len_utf8() > limits::INDEX_TEXT_BYTES_MAX {
                break;
            }
            shown.push(c);
        }
        shown.into()
    }
}

impl TableDef {
    /// The same with these indexes, at most [`limits::TABLE_INDEXES_MAX`]; they are no part of its fingerprint.
    pub fn with_indexes(self, mut indexes: Vec<TableIndex>) -> TableDef {
        indexes.truncate(limits::TABLE_INDEXES_MAX);
        TableDef { indexes, ..self }
    }

    /// The same with nothing unique beyond its key: for whoever has rows of others in the table, too.
    pub fn with_shared_indexes(mut self) -> TableDef {
        self.indexes.iter_mut().for_each(|index| index.unique = false);
        self
    }

    /// The indexes of another definition of the table, as far as the columns of this one make them up: what leaves no
    /// column has no index, and no words that might tell of rows.
    pub fn with_indexes_of(self, wider: &TableDef) -> TableDef {
        let here = |column: usize| self.column(&wider.columns.get(column)?.name);
        let narrowed = |index: &TableIndex| {
            let column = |of: &IndexColumn| Some(IndexColumn { column: here(of.column)?, ..*of });
            let columns: Option<Vec<IndexColumn>> = index.columns.iter().map(column).collect();
            let included: Option<Vec<usize>> = index.included.iter().map(|&column| here(column)).collect();
            let index = TableIndex { columns: columns?, included: included?, definition: "".into(), ..index.clone() };
            index.is_plain().then_some(index)
        };
        let indexes = wider.indexes.iter().filter_map(narrowed).collect();
        self.with_indexes(indexes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Column;
    use super::*;

    fn def(names: &[&str]) -> TableDef {
        let column = |name: &&str| Column { name: (*name).into(), type_name: "text".into(), key: 0 };
        TableDef::new("t".parse().expect("a name"), names.iter().map(column).collect())
    }

    fn index(name: &str, columns: &[usize]) -> TableIndex {
        let column = |&column: &usize| IndexColumn { column, descending: false, nulls_first: false };
        let columns = columns.iter().map(column).collect();
        TableIndex { name: name.into(), columns, definition: "words".into(), ..TableIndex::default() }
    }

    #[test]
    fn an_index_of_a_column_that_does_not_leave_does_not_leave() {
        let wide = def(&["id", "ssn", "note"]);
        let wide = wide.with_indexes(vec![index("by_note", &[2, 0]), index("by_ssn", &[1]), index("partial", &[])]);
        let narrow = def(&["id", "note"]).with_indexes_of(&wide);
        let expected = TableIndex { definition: "".into(), ..index("by_note", &[1, 0]) };
        assert_eq!(narrow.indexes, [expected]);
        assert_eq!(narrow.fingerprint, def(&["id", "note"]).fingerprint);
    }

    #[test]
    fn words_are_short_and_plain() {
        assert_eq!(&*TableIndex::shown("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(TableIndex::shown(&"é".repeat(9999)).len(), limits::INDEX_TEXT_BYTES_MAX);
    }
}
