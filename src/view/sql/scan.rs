//! A question's text, looked at before a server is: the names in it, and its parameters.

use std::ops::Range;

use super::Dialect;
use super::lexer::{Lexer, Piece};

/// A name or a keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// In small letters unless it is quoted.
    pub name: String,
    /// The first character after it that says something.
    pub before: Option<char>,
}

/// What stands in a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Without a `;` at its end.
    pub sql: String,
    /// In their order.
    pub names: Vec<Named>,
    /// `:name`, with where it stands in `sql`.
    pub parameters: Vec<(Range<usize>, String)>,
}

/// Looks at one statement of PostgreSQL's.
///
/// # Errors
/// Words: a quote does not end, there are several statements, or names are written in a way that hides them.
pub(crate) fn scan(text: &str) -> Result<Scanned, String> {
    let mut scanned = Scanned::default();
    let mut ended = false;
    let mut last_word = "";
    for piece in Lexer::new(text, Dialect::Postgres) {
        let (piece, range) = piece.map_err(|unread| unread.why)?;
        let piece_text = &text[range.clone()];
        if piece.is_silent() {
            if !ended {
                scanned.sql.push_str(piece_text);
            }
            continue;
        }
        if piece == Piece::End {
            ended = true;
            continue;
        }
        if ended {
            return Err("one statement is expected".into());
        }
        if let (Some(named), Some(next)) = (scanned.names.last_mut(), piece_text.chars().next())
            && named.before.is_none()
        {
            named.before = Some(next);
        }
        let start = scanned.sql.len();
        scanned.sql.push_str(piece_text);
        match piece {
            Piece::Word if !piece_text.as_bytes()[0].is_ascii_digit() => {
                scanned.names.push(Named { name: piece_text.to_lowercase(), before: None });
            }
            Piece::Quoted if piece_text.starts_with('"') => {
                let name = piece_text[1..piece_text.len() - 1].replace("\"\"", "\"");
                scanned.names.push(Named { name, before: None });
            }
            Piece::Sign if piece_text == "&" && last_word.eq_ignore_ascii_case("u") => {
                return Err("U& is not taken: write names as they are".into());
            }
            Piece::Parameter => {
                let name = piece_text[1..].to_owned();
                scanned.parameters.push((start..scanned.sql.len(), name));
            }
            _ => {}
        }
        last_word = if piece == Piece::Word { piece_text } else { "" };
    }
    Ok(scanned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_found_with_what_follows_them() {
        let scanned = scan("Select \"A\"\"b\" . c, lower /* x */ (:a), 'pg_x' from $$pg_y$$ ;").expect("one statement");
        let names: Vec<_> = scanned.names.iter().map(|named| (named.name.as_str(), named.before)).collect();
        let expected =
            [("select", Some('"')), ("A\"b", Some('.')), ("c", Some(',')), ("lower", Some('(')), ("from", Some('$'))];
        assert_eq!(names, expected);
        assert_eq!(scanned.parameters.len(), 1);
        assert_eq!(&scanned.sql[scanned.parameters[0].0.clone()], ":a");
        assert!(scanned.sql.trim_end().ends_with("$$pg_y$$"));
    }

    #[test]
    fn what_hides_something_is_refused() {
        for bad in ["select 1; select 2", "select U&\"\\0070g_sleep\"(1)", "select 'a", "select u & 1", "select $a$ x"]
        {
            assert!(scan(bad).is_err(), "{bad}");
        }
        assert!(scan("select 1;;").is_ok());
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = scan(&text);
        }
    }
}
