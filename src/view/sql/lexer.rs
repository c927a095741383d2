//! SQL cut into pieces, as far as one must look to find statements, markers and parameters.

use std::ops::Range;

use super::Dialect;

/// What a piece of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Spaces and line ends.
    Blank,
    /// `--` up to the end of its line, which is not part of it.
    LineComment,
    /// `/* … */`.
    BlockComment,
    /// A string, a quoted name, or text between dollar signs.
    Quoted,
    /// A name, a keyword or a number.
    Word,
    /// `;`
    End,
    /// `:` and what is named by it.
    Parameter,
    /// A parameter of another form: `?1`, `$1`, `@a`.
    Foreign,
    /// Anything else, a character at a time.
    Sign,
}

impl Piece {
    /// Whether it says nothing to a database.
    pub(super) fn is_silent(self) -> bool {
        matches!(self, Piece::Blank | Piece::LineComment | Piece::BlockComment)
    }
}

/// A piece that does not end, or is none: where it begins, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unread {
    pub at: usize,
    pub why: String,
}

/// Gives the pieces of a text one after the other; together they are the text.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    dialect: Dialect,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, dialect: Dialect) -> Lexer<'a> {
        Lexer { text, at: 0, dialect }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn word_length(bytes: &[u8]) -> usize {
        bytes.iter().take_while(|&&byte| is_word(byte)).count()
    }

    /// The length of what stands between two `quote`; a doubled one is part of it, and so is one after `\` where `escapes`.
    fn quoted(&self, open: usize, quote: u8, escapes: bool, what: &str) -> Result<usize, Unread> {
        let rest = self.rest();
        let mut at = open;
        while let Some(&byte) = rest.get(at) {
            at += 1;
            if byte == b'\\' && escapes {
                at += 1;
            } else if byte == quote {
                if rest.get(at) != Some(&quote) {
                    return Ok(at);
                }
                at += 1;
            }
        }
        Err(self.endless(what))
    }

    fn endless(&self, what: &str) -> Unread {
        Unread { at: self.at, why: format!("{what} that begins here does not end") }
    }

    fn block_comment(&self) -> Result<usize, Unread> {
        let rest = self.rest();
        let (mut at, mut depth) = (2, 1);
        while at < rest.len() {
            if rest[at..].starts_with(b"*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            } else if self.dialect == Dialect::Postgres && rest[at..].starts_with(b"/*") {
                depth += 1;
                at += 2;
            } else {
                at += 1;
            }
        }
        // SQLite takes a comment that does not end for one that ends with the text.
        match self.dialect {
            Dialect::Sqlite => Ok(rest.len()),
            Dialect::Postgres => Err(self.endless("a comment")),
        }
    }

    /// `$tag$ … $tag$`, or `$1`.
    fn dollar(&self) -> Result<(Piece, usize), Unread> {
        let rest = &self.text[self.at..];
        let tag = 1 + rest[1..].bytes().take_while(|&byte| is_word(byte) && byte != b'$').count();
        if self.dialect == Dialect::Sqlite || rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit) {
            return Ok((if tag > 1 { Piece::Foreign } else { Piece::Sign }, tag));
        }
        if rest.as_bytes().get(tag) != Some(&b'$') {
            return Ok((Piece::Sign, 1));
        }
        let quote = &rest[..=tag];
        match rest[quote.len()..].find(quote) {
            Some(length) => Ok((Piece::Quoted, length + 2 * quote.len())),
            None => Err(self.endless("a text between dollar signs")),
        }
    }

    /// `:name`, `:row.column`, `:row."odd column"`; `::` is a cast, and `:=` a sign.
    fn colon(&self) -> Result<(Piece, usize), Unread> {
        let rest = self.rest();
        if matches!(rest.get(1), Some(b':' | b'=')) {
            return Ok((Piece::Sign, 2));
        }
        if !rest.get(1).is_some_and(|&byte| begins_word(byte)) {
            return Ok((Piece::Sign, 1));
        }
        let name = 1 + Lexer::word_length(&rest[1..]);
        let of_row = [&b":row"[..], b":old"].iter().any(|start| rest[..name].eq_ignore_ascii_case(start));
        if !of_row || rest.get(name) != Some(&b'.') {
            return Ok((Piece::Parameter, name));
        }
        let column = name + 1;
        match rest.get(column) {
            Some(b'"') => Ok((Piece::Parameter, self.quoted(column + 1, b'"', false, "a column's name")?)),
            Some(&byte) if is_word(byte) => Ok((Piece::Parameter, column + Lexer::word_length(&rest[column..]))),
            _ => {
                let shown = String::from_utf8_lossy(&rest[..column]).into_owned();
                Err(Unread { at: self.at, why: format!("a column's name is missing after `{shown}`") })
            }
        }
    }

    fn piece(&self) -> Result<(Piece, usize), Unread> {
        let rest = self.rest();
        let postgres = self.dialect == Dialect::Postgres;
        Ok(match rest[0] {
            byte if byte.is_ascii_whitespace() || byte == 0x0b => {
                let blank = |byte: &&u8| byte.is_ascii_whitespace() || **byte == 0x0b;
                (Piece::Blank, rest.iter().take_while(blank).count())
            }
            b'-' if rest.get(1) == Some(&b'-') => {
                (Piece::LineComment, rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()))
            }
            b'/' if rest.get(1) == Some(&b'*') => (Piece::BlockComment, self.block_comment()?),
            b'\'' => (Piece::Quoted, self.quoted(1, b'\'', false, "a string")?),
            b'"' => (Piece::Quoted, self.quoted(1, b'"', false, "a quoted name")?),
            b'`' if !postgres => (Piece::Quoted, self.quoted(1, b'`', false, "a quoted name")?),
            b'[' if !postgres => match rest.iter().position(|&byte| byte == b']') {
                Some(end) => (Piece::Quoted, end + 1),
                None => return Err(self.endless("a quoted name")),
            },
            b'e' | b'E' if postgres && rest.get(1) == Some(&b'\'') => {
                (Piece::Quoted, self.quoted(2, b'\'', true, "a string")?)
            }
            b';' => (Piece::End, 1),
            b':' => self.colon()?,
            b'$' => self.dollar()?,
            b'?' | b'@' if !postgres => (Piece::Foreign, 1 + Lexer::word_length(&rest[1..])),
            byte if is_word(byte) => (Piece::Word, Lexer::word_length(rest)),
            _ => (Piece::Sign, 1),
        })
    }
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// Bytes beyond ASCII belong to words, so pieces end where characters end.
fn is_word(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl Iterator for Lexer<'_> {
    type Item = Result<(Piece, Range<usize>), Unread>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.text.len() {
            return None;
        }
        let piece = self.piece();
        let start = self.at;
        self.at = match &piece {
            Ok((_, length)) => start + length,
            Err(_) => self.text.len(),
        };
        Some(piece.map(|(piece, _)| (piece, start..self.at)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(text: &str, dialect: Dialect) -> Vec<(Piece, &str)> {
        let read = Lexer::new(text, dialect).map(|piece| piece.expect("it is SQL"));
        read.filter(|(piece, _)| *piece != Piece::Blank).map(|(piece, range)| (piece, &text[range])).collect()
    }

    #[test]
    fn quotes_hide_what_is_in_them() {
        use Piece::{Quoted, Sign, Word};
        let one = [(Word, "x"), (Quoted, "'a;'':b'"), (Quoted, "\"c;\"\"\""), (Word, "z")];
        assert_eq!(pieces("x 'a;'':b' \"c;\"\"\" z", Dialect::Sqlite), one);
        assert_eq!(pieces("[a;b]`c``;`", Dialect::Sqlite), [(Quoted, "[a;b]"), (Quoted, "`c``;`")]);
        let dollars = [(Quoted, "$$a;'$$"), (Quoted, "$b$;$$;$b$"), (Word, "c$1")];
        assert_eq!(pieces("$$a;'$$ $b$;$$;$b$ c$1", Dialect::Postgres), dollars);
        assert_eq!(pieces("E'a\\';'", Dialect::Postgres), [(Quoted, "E'a\\';'")]);
        assert_eq!(pieces("a[1:2]", Dialect::Postgres)[1..4], [(Sign, "["), (Word, "1"), (Sign, ":")]);
    }

    #[test]
    fn comments_end_where_the_database_ends_them() {
        use Piece::{BlockComment, LineComment, Word};
        assert_eq!(pieces("-- a;\nb", Dialect::Sqlite), [(LineComment, "-- a;"), (Word, "b")]);
        assert_eq!(pieces("/* /* ; */b", Dialect::Sqlite), [(BlockComment, "/* /* ; */"), (Word, "b")]);
        assert_eq!(pieces("/* /* ; */ */b", Dialect::Postgres), [(BlockComment, "/* /* ; */ */"), (Word, "b")]);
    }

    #[test]
    fn parameters_are_told_from_casts() {
        use Piece::{Parameter, Sign, Word};
        let cast = [(Parameter, ":row.a"), (Sign, "::"), (Word, "text")];
        assert_eq!(pieces(":row.a::text", Dialect::Postgres), cast);
        assert_eq!(pieces(":old.\"a \"\"b\"", Dialect::Sqlite), [(Parameter, ":old.\"a \"\"b\"")]);
        assert_eq!(pieces(":row.größe", Dialect::Sqlite), [(Parameter, ":row.größe")]);
        assert_eq!(pieces("?1 @a $b", Dialect::Sqlite).iter().filter(|one| one.0 == Piece::Foreign).count(), 3);
        assert_eq!(pieces("$1", Dialect::Postgres), [(Piece::Foreign, "$1")]);
    }

    #[test]
    fn what_does_not_end_says_where_it_begins() {
        for (text, at) in [("a 'b", 2), ("\"b", 0), ("[b", 0), (":row.", 0), (" :old.\"a", 1)] {
            let error = Lexer::new(text, Dialect::Sqlite).find_map(Result::err).expect("it does not end");
            assert_eq!(error.at, at, "{text}");
        }
        for text in ["$a$ b", "/* a", "E'a\\'"] {
            assert!(Lexer::new(text, Dialect::Postgres).any(|piece| piece.is_err()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_the_text(text in "[a-eE:;'\"$.\\\\\\[\\]`?@*/ \n1ä-]{0,60}") {
            for dialect in [Dialect::Sqlite, Dialect::Postgres] {
                let mut end = 0;
                for piece in Lexer::new(&text, dialect) {
                    let Ok((_, range)) = piece else { return Ok(()) };
                    prop_assert_eq!(range.start, end);
                    prop_assert!(range.end > range.start && text.is_char_boundary(range.end));
                    end = range.end;
                }
                prop_assert_eq!(end, text.len());
            }
        }

        #[test]
        fn no_text_panics(text: String) {
            Lexer::new(&text, Dialect::Sqlite).for_each(drop);
            Lexer::new(&text, Dialect::Postgres).for_each(drop);
        }
    }
}
