//! A literal of JSON, JSON5 or JavaScript in a file, with the place of every value. Nothing is computed.

use std::ops::Range;

use super::tokens::{Punct, Token, Tokens};
use crate::model::limits;
use crate::node::config::Mistake;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Literal {
    /// Bytes of the file, end exclusive.
    pub span: Range<usize>,
    /// What stands there.
    pub value: Value,
}

/// What a literal may be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `null` or `undefined`.
    Null,
    /// `true` or `false`.
    Truth(bool),
    /// A number.
    Number(f64),
    /// A string.
    Text(String),
    /// `[…]`
    List(Vec<Literal>),
    /// `{…}`, in the order of the file; a later member of the same name counts.
    Object(Vec<Member>),
}

/// `name: value`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// The name.
    pub name: String,
    /// Where the name stands.
    pub span: Range<usize>,
    /// Its value.
    pub value: Literal,
}

impl Value {
    /// What people call it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Truth(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
        }
    }
}

/// What is wrong with a file's form, and where.
pub(super) enum Fault {
    /// It cannot be read.
    Syntax { what: String, why: String, span: Range<usize> },
    /// It must be run to know its values.
    Computes { what: String, span: Range<usize> },
}

impl From<Fault> for Mistake {
    fn from(fault: Fault) -> Mistake {
        match fault {
            Fault::Syntax { what, why, span } => Mistake {
                code: "WS-EVENTS-001",
                what,
                why,
                fix: "correct the marked place, or what stands just before it".into(),
                span: Some(span),
            },
            Fault::Computes { what, span } => Mistake {
                code: "WS-EVENTS-002",
                what,
                why: "a configuration is read, not run: its values must stand in it".into(),
                fix: "print it as JSON, and use that: node -p 'JSON.stringify(require(\"./config.js\"))' > config.json"
                    .into(),
                span: Some(span),
            },
        }
    }
}

/// The literal of a file: all of it, or what it exports: `var config = {…}; module.exports = config;`,
/// `module.exports = {…};`, `export default {…}`.
///
/// # Errors
/// The first fault, with its place.
pub(crate) fn parse(text: &str) -> Result<Literal, Mistake> {
    Ok(Parser { tokens: Tokens::new(text), depth: 0 }.file()?)
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    depth: usize,
}

fn unexpected(wanted: &str, token: &Token<'_>, span: Range<usize>) -> Fault {
    let what = match token {
        Token::End => "the file ends too early".to_string(),
        token => format!("{token} is not expected here"),
    };
    Fault::Syntax { what, why: format!("expected {wanted}"), span }
}

fn computes(token: &Token<'_>, span: Range<usize>) -> Fault {
    Fault::Computes { what: format!("the configuration computes: {token}"), span }
}

impl<'a> Parser<'a> {
    fn file(&mut self) -> Result<Literal, Fault> {
        let (first, _) = self.tokens.peek()?;
        if matches!(first, Token::Punct(Punct::Brace | Punct::Bracket)) {
            let whole = self.value()?;
            self.tokens.take_if(Punct::Semicolon)?;
            return match self.tokens.next()? {
                (Token::End, _) => Ok(whole),
                (token, span) => Err(unexpected("the end of the file", &token, span)),
            };
        }
        self.statements()
    }

    /// `'use strict'`, definitions, and what is exported.
    fn statements(&mut self) -> Result<Literal, Fault> {
        let (mut named, mut exported): (Vec<(&str, Literal)>, Option<Literal>) = (Vec::new(), None);
        loop {
            let (token, span) = self.tokens.next()?;
            match token {
                Token::End => break,
                Token::Punct(Punct::Semicolon) => continue,
                Token::Text(_) => {}
                Token::Word("var" | "let" | "const") => {
                    let name = self.word("a name")?;
                    self.expect(Punct::Equals, "=")?;
                    let value = self.value()?;
                    named.push((name, value));
                }
                Token::Word(word @ ("module" | "exports" | "export")) => {
                    self.target(word)?;
                    exported = Some(self.exported(&named)?);
                }
                token @ Token::Word(_) => return Err(computes(&token, span)),
                token => return Err(unexpected("`var config = {…}; module.exports = config;` or {…}", &token, span)),
            }
            self.statement_ends()?;
        }
        exported.ok_or_else(|| {
            let (what, why) = match named.is_empty() {
                true => ("the configuration is empty", "expected {…}, or `module.exports = {…};`"),
                false => ("the configuration exports nothing", "expected `module.exports = config;` at its end"),
            };
            let end = self.tokens.end();
            Fault::Syntax { what: what.into(), why: why.into(), span: end..end }
        })
    }

    /// What follows a statement: a semicolon, the end, or something on a new line.
    fn statement_ends(&mut self) -> Result<(), Fault> {
        match self.tokens.peek()? {
            (Token::Punct(Punct::Semicolon) | Token::End, _) => Ok(()),
            (Token::Operator(_) | Token::Punct(Punct::Dot | Punct::Paren), span) => {
                let (token, _) = self.tokens.peek()?;
                Err(computes(&token, span))
            }
            (token, span) if !self.tokens.is_new_line() => Err(unexpected("a semicolon or the end", &token, span)),
            _ => Ok(()),
        }
    }

    /// The rest of `module.exports =`, `exports =` or `export default`.
    fn target(&mut self, word: &str) -> Result<(), Fault> {
        match word {
            "module" => {
                self.expect(Punct::Dot, ".")?;
                let (token, span) = self.tokens.next()?;
                if token != Token::Word("exports") {
                    return Err(unexpected("module.exports", &token, span));
                }
                self.expect(Punct::Equals, "=")
            }
            "exports" => self.expect(Punct::Equals, "="),
            _ => match self.tokens.next()? {
                (Token::Word("default"), _) => Ok(()),
                (token, span) => Err(unexpected("export default", &token, span)),
            },
        }
    }

    fn exported(&mut self, named: &[(&str, Literal)]) -> Result<Literal, Fault> {
        let (token, _) = self.tokens.peek()?;
        if let Token::Word(name) = token {
            // `exports = module.exports = …`
            if matches!(name, "module" | "exports") {
                self.tokens.next()?;
                self.target(name)?;
                return self.exported(named);
            }
            if let Some((_, value)) = named.iter().rev().find(|(known, _)| *known == name) {
                self.tokens.next()?;
                return Ok(value.clone());
            }
        }
        self.value()
    }

    fn word(&mut self, wanted: &str) -> Result<&'a str, Fault> {
        match self.tokens.next()? {
            (Token::Word(word), _) => Ok(word),
            (token, span) => Err(unexpected(wanted, &token, span)),
        }
    }

    fn expect(&mut self, wanted: Punct, shown: &str) -> Result<(), Fault> {
        match self.tokens.next()? {
            (Token::Punct(found), _) if found == wanted => Ok(()),
            (token, span) => Err(unexpected(shown, &token, span)),
        }
    }

    fn value(&mut self) -> Result<Literal, Fault> {
        let (token, span) = self.tokens.next()?;
        let value = match token {
            Token::Text(text) => Value::Text(text),
            Token::Number(number) => Value::Number(number),
            Token::Word("null" | "undefined") => Value::Null,
            Token::Word("true") => Value::Truth(true),
            Token::Word("false") => Value::Truth(false),
            Token::Word("NaN") => Value::Number(f64::NAN),
            Token::Word("Infinity") => Value::Number(f64::INFINITY),
            Token::Punct(open @ (Punct::Brace | Punct::Bracket)) => return self.nested(open, span),
            token @ (Token::Word(_) | Token::Punct(Punct::Paren) | Token::Operator(_)) => {
                return Err(computes(&token, span));
            }
            token => return Err(unexpected("a value", &token, span)),
        };
        Ok(Literal { span, value })
    }

    fn nested(&mut self, open: Punct, span: Range<usize>) -> Result<Literal, Fault> {
        if self.depth >= limits::CONFIG_DEPTH_MAX {
            let why = format!("at most {} objects and lists within each other", limits::CONFIG_DEPTH_MAX);
            return Err(Fault::Syntax { what: "nested too deeply".into(), why, span });
        }
        self.depth += 1;
        let start = span.start;
        let inside = match open {
            Punct::Brace => self.members().map(Value::Object),
            _ => self.items().map(Value::List),
        };
        self.depth -= 1;
        let value = inside.map_err(|fault| self.unclosed(fault, start))?;
        Ok(Literal { span: start..self.tokens.at(), value })
    }

    /// Where the file ended too early, says what was not closed.
    fn unclosed(&self, fault: Fault, start: usize) -> Fault {
        match fault {
            Fault::Syntax { what, why, span }
                if what.starts_with("the file ends") && !why.contains("opened in line") =>
            {
                let why = format!("{why}, to close what is opened in line {}", self.tokens.line(start));
                Fault::Syntax { what, why, span }
            }
            other => other,
        }
    }

    fn items(&mut self) -> Result<Vec<Literal>, Fault> {
        let mut items = Vec::new();
        while !self.tokens.take_if(Punct::BracketEnd)? {
            items.push(self.value()?);
            self.separator(Punct::BracketEnd, "`,` or `]`")?;
        }
        Ok(items)
    }

    fn members(&mut self) -> Result<Vec<Member>, Fault> {
        let mut members = Vec::new();
        while !self.tokens.take_if(Punct::BraceEnd)? {
            let (token, span) = self.tokens.next()?;
            let name = match token {
                Token::Text(text) => text,
                Token::Word(word) => word.to_string(),
                Token::Number(number) => number.to_string(),
                token @ (Token::Punct(Punct::Bracket | Punct::Dot) | Token::Operator(_)) => {
                    return Err(computes(&token, span));
                }
                token => return Err(unexpected("a name, or `}`", &token, span)),
            };
            match self.tokens.next()? {
                (Token::Punct(Punct::Colon), _) => {}
                (Token::Punct(Punct::Comma | Punct::BraceEnd | Punct::Paren) | Token::Word(_), _) => {
                    return Err(Fault::Computes { what: format!("the configuration computes: {name}"), span });
                }
                (token, span) => return Err(unexpected("`:`", &token, span)),
            }
            let value = self.value()?;
            members.push(Member { name, span, value });
            self.separator(Punct::BraceEnd, "`,` or `}`")?;
        }
        Ok(members)
    }

    /// What stands between values: a comma, or (not taken) the end.
    fn separator(&mut self, end: Punct, wanted: &str) -> Result<(), Fault> {
        match self.tokens.peek()? {
            (Token::Punct(Punct::Comma), _) => self.tokens.next().map(drop),
            (Token::Punct(found), _) if found == end => Ok(()),
            (token @ (Token::Operator(_) | Token::Punct(Punct::Dot | Punct::Paren)), span) => {
                Err(computes(&token, span))
            }
            (token, span) => Err(unexpected(wanted, &token, span)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(text: &str) -> Vec<(String, Value)> {
        match parse(text).unwrap_or_else(|mistake| panic!("{text}: {mistake:?}")).value {
            Value::Object(members) => members.into_iter().map(|member| (member.name, member.value.value)).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_form_of_the_file_says_the_same() {
        let wanted =
            [("host".to_string(), Value::Text("it's \u{e9}".into())), ("n".to_string(), Value::Number(10_000.0))];
        for text in [
            r#"{"host": "it's é", "n": 10000}"#,
            "\u{feff}{host: 'it\\'s \\u00e9', n: 1e4,}",
            "// a comment\nvar config = {\n host: `it's é`, /* there */ n: 10_000\n};\n\nmodule.exports = config;",
            "'use strict'\nconst a = {host: 'it\\'s \\xe9', n: 0x2710}\nmodule.exports = a",
            "let a={host:\"it's \\u{e9}\",n:+10000.};exports = module.exports = a;;",
            "export default {host: 'it\\\n\\'s é', n: .1e5};",
        ] {
            assert_eq!(object(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_fault_has_its_place() {
        let cases = [
            ("", "empty", 0),
            ("var config = {};", "exports nothing", 16),
            ("{host: 'a' port: 1}", "is not expected", 11),
            ("{host: 'a'", "ends too early", 10),
            ("{host: 'a", "not closed", 7),
            ("{a: [1, 2}", "is not expected", 9),
            ("{a: 1}}", "is not expected", 6),
            ("{a: /* 1}", "not closed", 4),
            ("{a: 1x}", "not a number", 4),
            ("{a: '\\u00g0'}", "escape", 5),
            ("{a: #}", "is not expected", 4),
        ];
        for (text, what, at) in cases {
            let mistake = parse(text).expect_err(text);
            assert!(mistake.code == "WS-EVENTS-001" && mistake.what.contains(what), "{text}: {mistake:?}");
            assert_eq!(mistake.span.map(|span| span.start), Some(at), "{text}");
        }
        let deep = parse(&"[".repeat(100_000)).expect_err("too deep");
        assert!(deep.what.contains("nested too deeply"));
    }

    #[test]
    fn a_file_that_computes_is_told_apart() {
        for text in [
            "module.exports = {password: process.env.PASSWORD}",
            "const fs = require('fs'); module.exports = {};",
            "module.exports = {a: 15 * 1000}",
            "module.exports = {a: 'x' + 'y'}",
            "module.exports = {a: f()}",
            "module.exports = {host}",
            "module.exports = {...base}",
            "module.exports = {[name]: 1}",
            "module.exports = {a() {}}",
            "module.exports = {a: `x${1}`}",
            "module.exports = (function () {})()",
            "module.exports = {a: 1}.a",
            "var config = {};\nconfig.a = 1;\nmodule.exports = config;",
            "function f() {}",
            "module.exports = {a: !true}",
            "module.exports = {a: /x/}",
        ] {
            let mistake = parse(text).expect_err(text);
            assert_eq!(mistake.code, "WS-EVENTS-002", "{text}: {mistake:?}");
            assert!(mistake.fix.contains("node -p"), "{mistake:?}");
        }
    }

    /// What JSON5 says it is.
    fn same(ours: &Value, theirs: &serde_json::Value) -> bool {
        match (ours, theirs) {
            (Value::Null, serde_json::Value::Null) => true,
            (Value::Truth(a), serde_json::Value::Bool(b)) => a == b,
            (Value::Number(a), serde_json::Value::Number(b)) => b.as_f64() == Some(*a),
            (Value::Text(a), serde_json::Value::String(b)) => a == b,
            (Value::List(a), serde_json::Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(&a.value, b))
            }
            (Value::Object(a), serde_json::Value::Object(b)) => {
                let member = |name: &String| a.iter().rev().find(|member| member.name == *name);
                a.iter().all(|one| b.contains_key(&one.name))
                    && b.iter().all(|(name, b)| member(name).is_some_and(|a| same(&a.value.value, b)))
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_json5_reads_is_read_as_json5_reads_it(
            text in "\\{(('[a-z\\\\n\"]{0,3}'|[a-z]{1,3}|\"[a-z]{0,3}\"): ?(-?[0-9]{1,4}(\\.[0-9]{0,3})?|null|true|'[a-zé\"]{0,4}'|\\[1,( 'x',)?\\]|\\{a:1\\}),? ?(//x\n)?){0,3}\\}"
        ) {
            if let Ok(theirs) = json5::from_str::<serde_json::Value>(&text) {
                let ours = parse(&text);
                prop_assert!(ours.as_ref().is_ok_and(|ours| same(&ours.value, &theirs)), "{text}: {ours:?} {theirs}");
            }
        }
    }
}
