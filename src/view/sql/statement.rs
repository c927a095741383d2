//! One statement of a definition, and the parameters that it names.

use std::fmt;
use std::ops::Range;

/// A place in a file, both counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Of the file.
    pub line: u32,
    /// Of the line.
    pub column: u32,
}

impl Place {
    /// Where a file begins.
    pub const START: Place = Place { line: 1, column: 1 };

    /// The place behind `text`, which begins here.
    pub fn after(self, text: &str) -> Place {
        let columns = |line: &str| line.chars().count() as u32;
        match text.rfind('\n') {
            None => Place { column: self.column + columns(text), ..self },
            Some(last) => {
                let lines = text.bytes().filter(|&byte| byte == b'\n').count() as u32;
                Place { line: self.line + lines, column: 1 + columns(&text[last + 1..]) }
            }
        }
    }
}

/// What a statement can be given of a change and its entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Parameter {
    /// `:row.COLUMN`: of the row after the change.
    Row(Box<str>),
    /// `:old.COLUMN`: of the row before it.
    Old(Box<str>),
    /// `:key`: of a feed's row, the key that it was appended with; else the key's value, or of several columns all values with
    /// `,` between them (and a `\` before each `,` and `\` in them), as text.
    Key,
    /// `:position`: of the entry, a number.
    Position,
    /// `:time`: when it was committed, as text (`2026-01-31T12:00:00.000000Z`).
    Time,
    /// `:origin`: the cursor where it was first logged.
    Origin,
    /// `:node`: the name of the node where it was first logged.
    Node,
    /// `:correlation`: the id that its application gave.
    Correlation,
    /// `:json`: the whole row, as JSON; of a delete the row that was.
    Json,
}

/// The names of parameters that stand alone.
pub(super) const ALONE: [(&str, Parameter); 7] = [
    ("key", Parameter::Key),
    ("position", Parameter::Position),
    ("time", Parameter::Time),
    ("origin", Parameter::Origin),
    ("node", Parameter::Node),
    ("correlation", Parameter::Correlation),
    ("json", Parameter::Json),
];

impl Parameter {
    /// Reads `:name`, as it was found in a text.
    ///
    /// # Errors
    /// Words for people.
    pub(super) fn read(text: &str) -> Result<Parameter, String> {
        let name = &text[1..];
        let all =
            "`:row.COLUMN`, `:old.COLUMN`, `:key`, `:json`, `:position`, `:time`, `:origin`, `:node`, `:correlation`";
        match name.split_once('.') {
            Some((of, column)) => {
                let column = match column.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                    Some(quoted) => quoted.replace("\"\"", "\""),
                    None => column.to_owned(),
                };
                Ok(match of.eq_ignore_ascii_case("row") {
                    true => Parameter::Row(column.into()),
                    false => Parameter::Old(column.into()),
                })
            }
            None if ["row", "old"].iter().any(|of| name.eq_ignore_ascii_case(of)) => {
                Err(format!("`{text}` names no column: write `{text}.COLUMN`, or `:json` for the whole row"))
            }
            None => {
                let found = ALONE.iter().find(|(alone, _)| name.eq_ignore_ascii_case(alone));
                found
                    .map(|(_, parameter)| parameter.clone())
                    .ok_or_else(|| format!("unknown parameter `{text}`: there are {all}"))
            }
        }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Parameter::Row(column) => write!(f, ":row.{column}"),
            Parameter::Old(column) => write!(f, ":old.{column}"),
            alone => {
                let name = ALONE.iter().find(|(_, parameter)| parameter == alone).map_or("", |(name, _)| name);
                write!(f, ":{name}")
            }
        }
    }
}

/// A statement at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// As written, from its first word to its last.
    pub text: String,
    /// Where it begins.
    pub place: Place,
    /// What it names, each once, in the order in which it first does.
    pub parameters: Vec<Parameter>,
    /// Where in `text` they stand, and which they are.
    pub(super) uses: Vec<(Range<usize>, usize)>,
}

impl Statement {
    /// The statement as a store takes it, with the names that the store gives its parameters, by their place in `parameters`.
    pub fn written(&self, name: impl Fn(usize) -> String) -> Written {
        let (mut sql, mut end, mut marks) = (String::with_capacity(self.text.len()), 0, Vec::new());
        for (range, parameter) in &self.uses {
            sql.push_str(&self.text[end..range.start]);
            let start = sql.len();
            sql.push_str(&name(*parameter));
            marks.push((start..sql.len(), range.clone()));
            end = range.end;
        }
        sql.push_str(&self.text[end..]);
        Written { sql, marks }
    }

    /// The place of a byte of `text`, or of the nearest one before it.
    pub fn place_of(&self, offset: usize) -> Place {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        self.place.after(&self.text[..offset])
    }
}

/// A statement with the store's names of its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// As the store takes it.
    pub sql: String,
    /// Where parameters stand in it, and where they stand in the original.
    marks: Vec<(Range<usize>, Range<usize>)>,
}

impl Written {
    /// The byte of the statement's own text for a byte of `sql`.
    pub fn original(&self, offset: usize) -> usize {
        let before = self.marks.iter().rev().find(|(written, _)| written.start <= offset);
        match before {
            None => offset,
            Some((written, original)) if offset < written.end => original.start,
            Some((written, original)) => original.end + (offset - written.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let at = |text: &str| Place::START.after(text);
        assert_eq!(at(""), Place { line: 1, column: 1 });
        assert_eq!(at("äb"), Place { line: 1, column: 3 });
        assert_eq!(at("a\nb\r\nc"), Place { line: 3, column: 2 });
    }

    #[test]
    fn parameters_are_read_and_shown() {
        for (text, parameter) in [
            (":row.a", Parameter::Row("a".into())),
            (":OLD.\"a \"\"b\"", Parameter::Old("a \"b".into())),
            (":key", Parameter::Key),
            (":Json", Parameter::Json),
        ] {
            assert_eq!(Parameter::read(text), Ok(parameter));
        }
        assert_eq!(Parameter::Time.to_string(), ":time");
        assert!(Parameter::read(":row").expect_err("no column").contains(":json"));
        assert!(Parameter::read(":customer").expect_err("unknown").contains("unknown parameter"));
    }
}
