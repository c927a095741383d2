//! The tokens of JSON, JSON5 and of JavaScript's literals.

use std::fmt;
use std::ops::Range;

use super::literal::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Punct {
    Brace,
    BraceEnd,
    Bracket,
    BracketEnd,
    Paren,
    Colon,
    Comma,
    Semicolon,
    Dot,
    Equals,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    Punct(Punct),
    Text(String),
    Number(f64),
    /// A name or a keyword.
    Word(&'a str),
    /// Something that only an expression has.
    Operator(char),
    /// Nothing of the language.
    Other(char),
    End,
}

const PUNCTS: [(char, Punct); 10] = [
    ('{', Punct::Brace),
    ('}', Punct::BraceEnd),
    ('[', Punct::Bracket),
    (']', Punct::BracketEnd),
    ('(', Punct::Paren),
    (':', Punct::Colon),
    (',', Punct::Comma),
    (';', Punct::Semicolon),
    ('.', Punct::Dot),
    ('=', Punct::Equals),
];

/// Words that may be shown.
const KEYWORDS: [&str; 12] =
    ["process", "require", "function", "module", "exports", "export", "import", "new", "class", "if", "for", "async"];

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Punct(punct) => {
                let shown = PUNCTS.iter().find(|(_, known)| known == punct).map_or('?', |(shown, _)| *shown);
                write!(f, "`{shown}`")
            }
            // It may be a password, also without quotes.
            Token::Text(_) => f.write_str("a text"),
            Token::Number(_) => f.write_str("a number"),
            Token::Word(word) if KEYWORDS.contains(word) => write!(f, "`{word}`"),
            Token::Word(_) => f.write_str("a name"),
            Token::Operator(shown) | Token::Other(shown) => write!(f, "`{shown}`"),
            Token::End => f.write_str("the end"),
        }
    }
}

pub(super) type Placed<'a> = (Token<'a>, Range<usize>);

/// Reads tokens, one ahead.
pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
    peeked: Option<(Placed<'a>, usize)>,
}

fn syntax(what: &str, why: &str, span: Range<usize>) -> Fault {
    Fault::Syntax { what: what.into(), why: why.into(), span }
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Tokens<'a> {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Tokens { text, at, peeked: None }
    }

    /// Where reading has come, in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes of the text, without blanks at its end.
    pub(super) fn end(&self) -> usize {
        self.text.trim_end().len()
    }

    /// The 1-based line of a byte.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    /// Whether the next token stands on another line than the last one.
    pub(super) fn is_new_line(&self) -> bool {
        let next = self.peeked.as_ref().map_or(self.at, |((_, span), _)| span.start);
        self.text[self.at..next].contains('\n')
    }

    pub(super) fn peek(&mut self) -> Result<Placed<'a>, Fault> {
        if let Some((token, _)) = &self.peeked {
            return Ok(token.clone());
        }
        let before = self.at;
        let token = self.read();
        let after = std::mem::replace(&mut self.at, before);
        let token = token?;
        self.peeked = Some((token.clone(), after));
        Ok(token)
    }

    pub(super) fn next(&mut self) -> Result<Placed<'a>, Fault> {
        match self.peeked.take() {
            Some((token, after)) => {
                self.at = after;
                Ok(token)
            }
            None => self.read(),
        }
    }

    /// Takes the next token if it is that one.
    pub(super) fn take_if(&mut self, punct: Punct) -> Result<bool, Fault> {
        let found = self.peek()?.0 == Token::Punct(punct);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Blanks and comments.
    fn blanks(&mut self) -> Result<(), Fault> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}').len();
            self.at += blank;
            let rest = self.rest();
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if let Some(inside) = rest.strip_prefix("/*") {
                let length = inside.find("*/").ok_or_else(|| {
                    syntax("the comment is not closed", "expected `*/` at its end", self.at..self.at + 2)
                })?;
                self.at += length + 4;
            } else if blank == 0 {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> Result<Placed<'a>, Fault> {
        self.blanks()?;
        let (start, rest) = (self.at, self.rest());
        let Some(first) = rest.chars().next() else {
            let end = self.end();
            return Ok((Token::End, end..end));
        };
        let token = match first {
            '"' | '\'' | '`' => Token::Text(self.string(first)?),
            '0'..='9' => self.number()?,
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number()?,
            '+' | '-' if rest[1..].starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == 'I') => {
                self.number()?
            }
            c if c.is_alphabetic() || c == '_' || c == '$' => {
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
                self.at += length;
                Token::Word(&rest[..length])
            }
            c => {
                self.at += c.len_utf8();
                match PUNCTS.iter().find(|(shown, _)| *shown == c) {
                    Some((_, punct)) if !rest.starts_with("...") => Token::Punct(*punct),
                    _ if "+-*/%!?&|<>^~.".contains(c) => Token::Operator(c),
                    _ => Token::Other(c),
                }
            }
        };
        Ok((token, start..self.at))
    }

    fn number(&mut self) -> Result<Token<'a>, Fault> {
        let (start, rest) = (self.at, self.rest());
        let unsigned = rest.trim_start_matches(['+', '-']);
        let sign = if rest.starts_with('-') { -1.0 } else { 1.0 };
        let part = |(at, c): (usize, char)| {
            let signed = matches!(c, '+' | '-') && unsigned[..at].ends_with(['e', 'E']);
            !(c.is_alphanumeric() || c == '.' || c == '_' || signed)
        };
        let length = unsigned.char_indices().find(|found| part(*found)).map_or(unsigned.len(), |(at, _)| at);
        self.at += rest.len() - unsigned.len() + length;
        let digits = unsigned[..length].replace('_', "");
        let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(|value| value as f64),
            None if digits == "Infinity" => Some(f64::INFINITY),
            // Rust's own spellings of not-numbers are none here.
            None => digits.parse().ok().filter(|_| !digits.contains(['n', 'N', 'i', 'I'])),
        };
        let once = rest.len() - unsigned.len() <= 1;
        let value = value.filter(|_| once);
        value.map(|value: f64| Token::Number(sign * value)).ok_or_else(|| {
            syntax("this is not a number", "expected digits, as in 10000; texts need quotes", start..self.at)
        })
    }

    fn string(&mut self, quote: char) -> Result<String, Fault> {
        let start = self.at;
        let mut text = String::new();
        self.at += 1;
        loop {
            let at = self.at;
            let Some(c) = self.rest().chars().next().filter(|c| quote == '`' || !matches!(c, '\n' | '\r')) else {
                return Err(syntax("the text is not closed", "expected the same quote at its end", start..at));
            };
            self.at += c.len_utf8();
            match c {
                '\\' => self.escape(&mut text)?,
                '$' if quote == '`' && self.rest().starts_with('{') => {
                    return Err(Fault::Computes { what: "the configuration computes: `${`".into(), span: at..at + 2 });
                }
                c if c == quote => return Ok(text),
                c => text.push(c),
            }
        }
    }

    /// What follows a backslash. (ECMAScript 2023, 12.9.4)
    fn escape(&mut self, text: &mut String) -> Result<(), Fault> {
        let start = self.at - 1;
        let Some(c) = self.rest().chars().next() else { return Ok(()) };
        self.at += c.len_utf8();
        let plain = match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '0' if !self.rest().starts_with(|c: char| c.is_ascii_digit()) => '\0',
            // A line that goes on.
            '\r' => {
                self.at += usize::from(self.rest().starts_with('\n'));
                return Ok(());
            }
            '\n' | '\u{2028}' | '\u{2029}' => return Ok(()),
            'x' => return self.coded(start, 2).map(|code| text.push(code)),
            'u' => return self.unicode(start).map(|code| text.push(code)),
            '0'..='9' => return Err(bad_escape(start..self.at)),
            other => other,
        };
        text.push(plain);
        Ok(())
    }

    fn unicode(&mut self, start: usize) -> Result<char, Fault> {
        if let Some(inside) = self.rest().strip_prefix('{') {
            let length = inside.find('}').filter(|length| *length <= 6).ok_or_else(|| bad_escape(start..self.at))?;
            let code = u32::from_str_radix(&inside[..length], 16).ok().and_then(char::from_u32);
            self.at += length + 2;
            return code.ok_or_else(|| bad_escape(start..self.at));
        }
        let high = self.hex(start, 4)?;
        if (0xd800..0xdc00).contains(&high) && self.rest().starts_with("\\u") {
            self.at += 2;
            let low = self.hex(start, 4)?;
            let pair = char::decode_utf16([high as u16, low as u16]).next().and_then(Result::ok);
            return pair.ok_or_else(|| bad_escape(start..self.at));
        }
        char::from_u32(high).ok_or_else(|| bad_escape(start..self.at))
    }

    fn coded(&mut self, start: usize, digits: usize) -> Result<char, Fault> {
        let code = self.hex(start, digits)?;
        char::from_u32(code).ok_or_else(|| bad_escape(start..self.at))
    }

    fn hex(&mut self, start: usize, digits: usize) -> Result<u32, Fault> {
        let text = self.rest().get(..digits).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = text.and_then(|text| u32::from_str_radix(text, 16).ok());
        let code = code.ok_or_else(|| bad_escape(start..self.at))?;
        self.at += digits;
        Ok(code)
    }
}

fn bad_escape(span: Range<usize>) -> Fault {
    syntax("this escape is none", "expected \\n, \\xHH, \\uHHHH and the like; a backslash itself is \\\\", span)
}
