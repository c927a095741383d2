//! Whether a statement asks what time it is, so that it would come to something else when it is carried out again.

use super::Dialect;
use super::lexer::{Lexer, Piece};

/// SQLite's functions of a time, and how many arguments stand before it. Without it they are of now.
const OF_A_TIME: [(&str, usize); 7] =
    [("date", 0), ("time", 0), ("datetime", 0), ("julianday", 0), ("unixepoch", 0), ("strftime", 1), ("timediff", 0)];
/// What of their arguments is of now, or of the machine's zone.
const CHANGING: [&str; 3] = ["now", "localtime", "utc"];
/// PostgreSQL's types of times, as they stand before a text; `zone` ends the long name of one.
const TIMES: [&str; 6] = ["timestamp", "timestamptz", "date", "time", "timetz", "zone"];
/// Texts that it reads as of now.
const OF_NOW: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// A piece that says something, and where it begins.
type Said<'t> = (Piece, &'t str, usize);

/// Where a statement asks for the time, if it does so in words. What it is given of a row may be such a word, too: that is the
/// row's to answer for.
pub(super) fn asks_the_time(text: &str, dialect: Dialect) -> Option<usize> {
    let pieces = Lexer::new(text, dialect).map_while(Result::ok).filter(|(piece, _)| !piece.is_silent());
    let said: Vec<Said<'_>> = pieces.map(|(piece, range)| (piece, &text[range.clone()], range.start)).collect();
    match dialect {
        Dialect::Sqlite => (0..said.len()).find_map(|at| sqlite(&said[at..])),
        Dialect::Postgres => (0..said.len()).find_map(|at| postgres(&said, at)),
    }
}

/// Whether a text between quotes is one of some words.
fn is_text(said: &Said<'_>, quotes: &[char], words: &[&str]) -> bool {
    let inner = said.1.strip_prefix(quotes).and_then(|rest| rest.strip_suffix(quotes));
    said.0 == Piece::Quoted
        && inner.is_some_and(|inner| words.iter().any(|word| inner.trim().eq_ignore_ascii_case(word)))
}

fn sqlite(said: &[Said<'_>]) -> Option<usize> {
    let (Piece::Word, name, start) = said.first()? else { return None };
    let (_, before) = OF_A_TIME.iter().find(|(known, _)| name.eq_ignore_ascii_case(known))?;
    if said.get(1)?.1 != "(" {
        return None;
    }
    let (mut depth, mut arguments) = (0, 0);
    for (index, one) in said.iter().enumerate().filter(|(index, _)| *index > 0) {
        match one.1 {
            "(" => depth += 1,
            ")" if depth == 1 => {
                arguments += usize::from(index > 2);
                return (arguments <= *before).then_some(*start);
            }
            ")" => depth -= 1,
            "," if depth == 1 => arguments += 1,
            _ if is_text(one, &['\'', '"'], &CHANGING) => return Some(one.2),
            _ => {}
        }
    }
    None
}

fn postgres(said: &[Said<'_>], at: usize) -> Option<usize> {
    let one = said.get(at).filter(|one| is_text(one, &['\''], &OF_NOW))?;
    let after = said.get(at + 1).is_some_and(|next| next.1.starts_with("::"));
    let before = at.checked_sub(1).and_then(|before| said.get(before));
    let before = before.is_some_and(|word| TIMES.iter().any(|known| word.1.eq_ignore_ascii_case(known)));
    (after || before).then_some(one.2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_asks_for_the_time_is_found() {
        let places = |text: &str, dialect| asks_the_time(text, dialect);
        for (text, at) in [
            ("insert into t values (datetime('now'))", Some(31)),
            ("insert into t values (DATE ( ) )", Some(22)),
            ("select strftime('%s')", Some(7)),
            ("select strftime('%s', :time)", None),
            ("select date(:time, '+1 day', 'LocalTime')", Some(29)),
            ("select unixepoch(coalesce(:row.a, \"now\"))", Some(34)),
            ("select datetime(:row.a), 'now', date", None),
            ("insert into time (a, b) values ('now', 1)", None),
            ("select 'datetime()' -- date()", None),
            ("select date(", None),
        ] {
            assert_eq!(places(text, Dialect::Sqlite), at, "{text}");
        }
        for (text, at) in [
            ("select 'now'::timestamptz", Some(7)),
            ("select timestamp with time zone 'Today'", Some(32)),
            ("select date 'yesterday'", Some(12)),
            ("insert into t values ('now', date '2020-01-01')", None),
            ("select $$'now'::date$$", None),
        ] {
            assert_eq!(places(text, Dialect::Postgres), at, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_trouble(text in "(date|time|now|'|\"|\\(|\\)|,| |::|[a-z]){0,40}") {
            for dialect in [Dialect::Sqlite, Dialect::Postgres] {
                if let Some(at) = asks_the_time(&text, dialect) {
                    prop_assert!(text.is_char_boundary(at));
                }
            }
        }
    }
}
