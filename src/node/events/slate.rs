//! The original's configuration file.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::endpoint::{Endpoint, encoded};
use super::literal::{Literal, Member, Value, parse};
use crate::node::config::{ConfigError, DatabaseUrl, FileText, Mistake, nearest};

/// Keys of a database.
const DATABASE: [&str; 5] = ["host", "port", "databaseName", "user", "password"];

/// Reads values from the original's file; what is wrong is gathered, and told by [`SlateFile::finish`].
pub(crate) struct SlateFile {
    file: Arc<FileText>,
    root: Literal,
    mistakes: Vec<Mistake>,
    notes: Vec<String>,
}

/// A value that was read, and where it stands.
pub(crate) type Placed<T> = (T, Range<usize>);

impl SlateFile {
    /// Reads the file's form; of its values nothing is known yet.
    ///
    /// # Errors
    /// It is not an object of JSON, JSON5 or JavaScript, or has to be run.
    pub(crate) fn parse(path: &Path, text: String) -> Result<SlateFile, ConfigError> {
        let file = Arc::new(FileText { path: path.into(), text, ..FileText::default() });
        let root = parse(&file.text).map_err(|mistake| ConfigError::new(vec![mistake], file.clone()))?;
        let mut slate = SlateFile { file, root, mistakes: Vec::new(), notes: Vec::new() };
        if !matches!(slate.root.value, Value::Object(_)) {
            let (kind, span) = (slate.root.value.kind(), slate.root.span.clone());
            slate.wrong(format!("the configuration is {kind}"), "it must be an object", "write {…}", span);
            let error = slate.finish(()).err();
            return Err(error.expect("there is a mistake"));
        }
        Ok(slate)
    }

    /// What was read, with notes for people, or every mistake that was found.
    ///
    /// # Errors
    /// There was one.
    pub(crate) fn finish<T>(self, value: T) -> Result<(T, Vec<String>), ConfigError> {
        match self.mistakes.is_empty() {
            true => Ok((value, self.notes)),
            false => Err(ConfigError::new(self.mistakes, self.file)),
        }
    }

    /// Adds a mistake at a place.
    pub(crate) fn fail(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    /// Adds a note about a place.
    pub(crate) fn note(&mut self, span: &Range<usize>, text: &str) {
        let line = self.file.line(span.start).map_or(0, |(line, ..)| line);
        self.notes.push(format!("{}:{line}: {text}", self.file.path.display()));
    }

    fn wrong(&mut self, what: String, why: &str, fix: &str, span: Range<usize>) {
        let (why, fix) = (why.to_string(), fix.to_string());
        self.fail(Mistake { code: "WS-EVENTS-003", what, why, fix, span: Some(span) });
    }

    /// Notes every key of the whole file that is none of these.
    pub(crate) fn note_unknown(&mut self, known: &[&str]) {
        if let Value::Object(members) = self.root.value.clone() {
            self.note_members(&members, known);
        }
    }

    fn note_members(&mut self, members: &[Member], known: &[&str]) {
        for (index, member) in members.iter().enumerate() {
            if !known.contains(&member.name.as_str()) {
                let near = nearest(&member.name, known.iter().copied());
                let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                self.note(&member.span, &format!("`{}` is not a known key and is ignored{hint}", member.name));
            } else if members[index + 1..].iter().any(|later| later.name == member.name) {
                self.note(&member.span, &format!("`{}` is given again below: this one is ignored", member.name));
            }
        }
    }

    /// The value of a key of the whole file; one that JavaScript takes for false is as good as none.
    fn get(&self, name: &str) -> Option<Literal> {
        let Value::Object(members) = &self.root.value else { return None };
        member(members, name).cloned()
    }

    /// A positive whole number.
    pub(crate) fn number(&mut self, name: &str) -> Option<Placed<u64>> {
        let found = self.get(name)?;
        match found.value {
            Value::Number(number) if number.fract() == 0.0 && (1.0..=9e15).contains(&number) => {
                return Some((number as u64, found.span));
            }
            Value::Number(_) => self.wrong(
                format!("`{name}` is not a positive whole number"),
                "it counts something",
                "write it as 10000",
                found.span,
            ),
            other => {
                let what = format!("`{name}` is {}", other.kind());
                self.wrong(what, "it must be a positive whole number", "write it as 10000, without quotes", found.span);
            }
        }
        None
    }

    /// A database, which has to be there.
    pub(crate) fn database(&mut self, name: &str) -> Option<Placed<Endpoint>> {
        match self.get(name) {
            Some(literal) => self.endpoint(name, &literal),
            None => {
                self.missing(name, self.root.span.clone(), "it says which database to read");
                None
            }
        }
    }

    /// Databases, of which there has to be at least one.
    pub(crate) fn databases(&mut self, name: &str) -> Vec<Placed<Endpoint>> {
        let Some(literal) = self.get(name) else {
            self.missing(name, self.root.span.clone(), "it says which databases to write");
            return Vec::new();
        };
        let Value::List(items) = &literal.value else {
            let what = format!("`{name}` is {}", literal.value.kind());
            self.wrong(what, "it must be a list of databases", "write [{host: …, databaseName: …}]", literal.span);
            return Vec::new();
        };
        if items.is_empty() {
            let what = format!("`{name}` is empty");
            self.wrong(what, "there is nothing to copy to", "add {host: …, databaseName: …}", literal.span.clone());
        }
        let databases = items.iter().enumerate();
        databases.filter_map(|(index, item)| self.endpoint(&format!("{name}[{index}]"), item)).collect()
    }

    fn missing(&mut self, name: &str, object: Range<usize>, why: &str) {
        let span = object.start..object.start + 1;
        self.wrong(format!("`{name}` is missing"), why, "add it to this object", span);
    }

    fn endpoint(&mut self, name: &str, literal: &Literal) -> Option<Placed<Endpoint>> {
        let Value::Object(members) = &literal.value else {
            let what = format!("`{name}` is {}", literal.value.kind());
            let why = "a database is {host, port?, databaseName, user?, password?}";
            self.wrong(what, why, "write {host: 'localhost', databaseName: 'events'}", literal.span.clone());
            return None;
        };
        self.note_members(members, &DATABASE);
        let before = self.mistakes.len();
        let mut text = |key: &str, needed: bool| {
            let found = member(members, key);
            match found.map(|found| (&found.value, found.span.clone())) {
                Some((Value::Text(text), _)) => return Some(text.clone()),
                Some((other, span)) => {
                    let what = format!("`{name}.{key}` is {}", other.kind());
                    self.wrong(what, "it must be a text", "write it in quotes", span);
                }
                None if needed => {
                    self.missing(&format!("{name}.{key}"), literal.span.clone(), "it says where the database is");
                }
                None => {}
            }
            None
        };
        let (host, database) = (text("host", true), text("databaseName", true));
        let (user, password) = (text("user", false), text("password", false));
        let port = self.port(name, members);
        if self.mistakes.len() > before {
            return None;
        }
        let url = url(&host?, port, &database?, user.as_deref(), password.as_deref());
        match Endpoint::of(&DatabaseUrl::Postgres(url)) {
            Ok(endpoint) => Some((endpoint, literal.span.clone())),
            Err(error) => {
                let span = member(members, "host").map_or(literal.span.clone(), |host| host.span.clone());
                let why = error.to_string();
                self.wrong(format!("`{name}` names no database"), &why, "correct host, port and names", span);
                None
            }
        }
    }

    fn port(&mut self, name: &str, members: &[Member]) -> Option<u16> {
        let found = member(members, "port")?;
        let number = match &found.value {
            Value::Number(number) => Some(*number),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        let port = number.filter(|port| port.fract() == 0.0 && (1.0..=65_535.0).contains(port));
        if port.is_none() {
            let what = format!("`{name}.port` is not a port");
            self.wrong(what, "a port is a number from 1 to 65535", "write it as 5432", found.span.clone());
        }
        port.map(|port| port as u16)
    }
}

/// The last member of that name, unless JavaScript takes its value for false.
fn member<'a>(members: &'a [Member], name: &str) -> Option<&'a Literal> {
    let found = members.iter().rev().find(|member| member.name == name)?;
    let empty = match &found.value.value {
        Value::Null | Value::Truth(false) => true,
        Value::Number(number) => *number == 0.0 || number.is_nan(),
        Value::Text(text) => text.is_empty(),
        _ => false,
    };
    (!empty).then_some(&found.value)
}

/// The original puts the texts into a URL as they are, so a host may have a port, and escapes of URLs count.
fn url(host: &str, port: Option<u16>, database: &str, user: Option<&str>, password: Option<&str>) -> String {
    let part = |text: &str| encoded(&decoded(text));
    let user = user.map(|user| match password {
        Some(password) => format!("{}:{}@", part(user), part(password)),
        None => format!("{}@", part(user)),
    });
    let user = user.unwrap_or_default();
    let database = part(database);
    if host.starts_with('/') {
        let port = port.map(|port| format!("&port={port}")).unwrap_or_default();
        return format!("postgres://{user}/{database}?host={}{port}", encoded(host));
    }
    let clean = match host.matches(':').count() {
        0 | 1 => host.split(':').map(encoded).collect::<Vec<_>>().join(":"),
        _ => format!("[{}]", host.trim_matches(['[', ']']).split(':').map(encoded).collect::<Vec<_>>().join(":")),
    };
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("postgres://{user}{clean}{port}/{database}")
}

/// A text with its `%HH` replaced, where that gives a text.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code.filter(|_| bytes[at] == b'%') {
            Some(code) => (out.push(code), at += 3).0,
            None => (out.push(bytes[at]), at += 1).0,
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_urls() {
        let cases = [
            (url("h", None, "d", None, None), "postgres://h/d"),
            (url("h:5433", None, "d b", Some("u"), None), "postgres://u@h:5433/d%20b"),
            (url("::1", Some(1), "d", Some("u"), Some("p@/%41%zz")), "postgres://u:p%40%2FA%25zz@[::1]:1/d"),
            (url("/tmp", Some(1), "d", Some("u"), None), "postgres://u@/d?host=%2Ftmp&port=1"),
            (url("x/y?z", None, "d", None, None), "postgres://x%2Fy%3Fz/d"),
        ];
        for (made, wanted) in cases {
            assert_eq!(made, wanted);
        }
    }
}
