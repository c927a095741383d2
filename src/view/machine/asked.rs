//! Questions to machines: the one form of SELECT that needs no database, and answers within their bounds.

use std::time::Instant;

use serde_json::Value as Json;

use super::super::{AskError, Bounds, Question};

/// `select * from TABLE [where COLUMN = VALUE] [limit N]`, or the row of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// One of the machine's tables.
    pub table: String,
    /// Rows with that value in that column only; values are compared as texts.
    pub only: Option<(String, String)>,
    /// At most so many rows, the first ones.
    pub limit: Option<usize>,
    /// One row was asked for, by its key: that there is none is an error.
    pub by_key: bool,
}

const FORM: &str = "a view without SQL understands `select * from TABLE [where COLUMN = VALUE] [limit N]` only";

impl Select {
    /// Reads a question.
    ///
    /// # Errors
    /// [`AskError::Invalid`]: it is of another form, or lacks a parameter; [`AskError::Forbidden`]: it would write.
    pub fn of(question: &Question) -> Result<Select, AskError> {
        match question {
            Question::Row { table, key } => {
                Ok(Select { table: table.clone(), only: Some(("key".into(), key.clone())), limit: None, by_key: true })
            }
            Question::Sql { sql, params } => Reader { tokens: tokens(sql)?, at: 0, params, taken: 0 }.select(),
        }
    }

    /// The value that its condition wants, of one of these columns.
    ///
    /// # Errors
    /// The condition names another column.
    pub fn value_of(&self, columns: &[&str]) -> Result<Option<&str>, AskError> {
        match &self.only {
            None => Ok(None),
            Some((column, value)) if columns.contains(&&**column) => Ok(Some(value)),
            Some(_) => Err(self.no_column(&columns.iter().map(|column| column.to_string()).collect::<Vec<_>>())),
        }
    }

    /// The answer; a row that was asked for by its key is there, or that is the answer.
    ///
    /// # Errors
    /// [`AskError::Absent`].
    pub fn found(&self, rows: Rows) -> Result<Rows, AskError> {
        match &self.only {
            Some((_, key)) if self.by_key && rows.rows.is_empty() => {
                let key: String = key.chars().take(80).collect();
                Err(AskError::Absent(format!("{} has no row with the key {key:?}", self.table)))
            }
            _ => Ok(rows),
        }
    }

    /// That there is no such table.
    pub fn no_table(&self, tables: &[&str]) -> AskError {
        AskError::Absent(format!("the view has no table {:?}; it has {}", self.table, tables.join(", ")))
    }

    /// That its condition names no column by which rows are found.
    pub fn no_column(&self, columns: &[String]) -> AskError {
        let column = self.only.as_ref().map_or("", |(column, _)| column);
        let known = columns.join(", ");
        AskError::Invalid(format!("rows of {} are found by {known}, not by {column:?}", self.table))
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// In double quotes.
    Name(String),
    /// In single quotes.
    Text(String),
    Number(String),
    Param(String),
    Sign(char),
}

fn tokens(sql: &str) -> Result<Vec<Token>, AskError> {
    let mut out = Vec::new();
    let mut rest = sql.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' => {
                let (text, length) = quoted(rest, first)?;
                (if first == '"' { Token::Name(text) } else { Token::Text(text) }, length)
            }
            '?' | ':' | '$' | '@' => {
                let name: String = rest[1..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let length = 1 + name.len();
                (Token::Param(name), length)
            }
            c if c.is_ascii_digit() || (c == '-' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) => {
                let more = |c: char| c.is_ascii_alphanumeric() || c == '.';
                let length = 1 + rest[1..].find(|c: char| !more(c)).unwrap_or(rest.len() - 1);
                (Token::Number(rest[..length].into()), length)
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                (Token::Word(rest[..length].into()), length)
            }
            c => (Token::Sign(c), c.len_utf8()),
        };
        out.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(out)
}

/// A text in quotes, which are doubled inside of it; and how long it is with them.
fn quoted(text: &str, quote: char) -> Result<(String, usize), AskError> {
    let mut out = String::new();
    let mut chars = text.char_indices().peekable();
    chars.next();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            out.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            out.push(quote);
        } else {
            return Ok((out, at + 1));
        }
    }
    Err(AskError::Invalid(format!("a text that begins with {quote} does not end")))
}

struct Reader<'a> {
    tokens: Vec<Token>,
    at: usize,
    params: &'a Json,
    taken: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn word(&mut self, word: &str) -> bool {
        let is = matches!(self.tokens.get(self.at), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word));
        self.at += usize::from(is);
        is
    }

    fn sign(&mut self, sign: char) -> Result<(), AskError> {
        match self.next() {
            Some(Token::Sign(found)) if found == sign => Ok(()),
            _ => Err(AskError::Invalid(FORM.into())),
        }
    }

    fn name(&mut self) -> Result<String, AskError> {
        let mut name = String::new();
        loop {
            match self.next() {
                Some(Token::Word(word) | Token::Name(word)) => name.push_str(&word),
                _ => return Err(AskError::Invalid(FORM.into())),
            }
            // `schema.table`
            if self.tokens.get(self.at) != Some(&Token::Sign('.')) {
                return Ok(name);
            }
            self.at += 1;
            name.push('.');
        }
    }

    fn value(&mut self) -> Result<String, AskError> {
        match self.next() {
            Some(Token::Text(text) | Token::Number(text)) => Ok(text),
            Some(Token::Word(word)) if ["true", "false"].contains(&&*word.to_ascii_lowercase()) => {
                Ok(word.to_ascii_lowercase())
            }
            Some(Token::Param(name)) => self.param(&name),
            _ => Err(AskError::Invalid(FORM.into())),
        }
    }

    fn param(&mut self, name: &str) -> Result<String, AskError> {
        let value = match (self.params, name.parse::<usize>()) {
            (Json::Array(all), Ok(number)) => number.checked_sub(1).and_then(|index| all.get(index)),
            (Json::Array(all), Err(_)) if name.is_empty() => {
                self.taken += 1;
                all.get(self.taken - 1)
            }
            (Json::Object(all), _) => all.get(name),
            _ => None,
        };
        match value {
            Some(Json::String(text)) => Ok(text.clone()),
            Some(Json::Null | Json::Array(_) | Json::Object(_)) => {
                Err(AskError::Invalid(format!("the parameter {name:?} is neither a text nor a number")))
            }
            Some(other) => Ok(other.to_string()),
            None => Err(AskError::Invalid(format!("the parameter {name:?} is not given"))),
        }
    }

    fn select(&mut self) -> Result<Select, AskError> {
        if !self.word("select") {
            let writes = ["insert", "update", "delete", "replace", "create", "drop", "alter", "attach", "pragma"];
            let first = match self.tokens.first() {
                Some(Token::Word(word)) => word.to_ascii_lowercase(),
                _ => String::new(),
            };
            return Err(match writes.contains(&&*first) {
                true => AskError::Forbidden(format!("{first}: a view is only read")),
                false => AskError::Invalid(FORM.into()),
            });
        }
        self.sign('*')?;
        if !self.word("from") {
            return Err(AskError::Invalid(FORM.into()));
        }
        let table = self.name()?;
        let mut only = None;
        if self.word("where") {
            let column = self.name()?;
            self.sign('=')?;
            only = Some((column, self.value()?));
        }
        let mut limit = None;
        if self.word("limit") {
            let number = self.value()?;
            let number = number.parse().map_err(|_| AskError::Invalid(format!("{number:?} is no number of rows")))?;
            limit = Some(number);
        }
        if self.tokens.get(self.at) == Some(&Token::Sign(';')) {
            self.at += 1;
        }
        match self.next() {
            None => Ok(Select { table, only, limit, by_key: false }),
            Some(_) => Err(AskError::Invalid(FORM.into())),
        }
    }
}

/// An answer that grows within its bounds.
#[derive(Debug)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Values in the columns' order.
    pub rows: Vec<Vec<Json>>,
    bounds: Bounds,
    begun: Instant,
    bytes: usize,
    looked_at: usize,
}

impl Rows {
    /// None yet.
    pub fn new(columns: &[&str], bounds: &Bounds) -> Rows {
        let columns = columns.iter().map(|column| column.to_string()).collect();
        Rows { columns, rows: Vec::new(), bounds: *bounds, begun: Instant::now(), bytes: 0, looked_at: 0 }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// It is one too many, or too large, or too late.
    pub fn push(&mut self, row: Vec<Json>) -> Result<(), AskError> {
        self.look()?;
        self.bytes += row.iter().map(size).sum::<usize>();
        if self.rows.len() == self.bounds.rows {
            return Err(AskError::Large { what: "rows", most: self.bounds.rows });
        }
        if self.bytes > self.bounds.bytes {
            return Err(AskError::Large { what: "bytes", most: self.bounds.bytes });
        }
        self.rows.push(row);
        Ok(())
    }

    /// To be called for every row that is looked at, also where it is not added.
    ///
    /// # Errors
    /// It took too long.
    pub fn look(&mut self) -> Result<(), AskError> {
        self.looked_at += 1;
        match self.looked_at.is_multiple_of(64) && self.begun.elapsed() > self.bounds.time {
            true => Err(AskError::Slow(self.bounds.time)),
            false => Ok(()),
        }
    }
}

/// What a value takes, about.
fn size(value: &Json) -> usize {
    match value {
        Json::String(text) => text.len() + 2,
        Json::Array(all) => all.iter().map(size).sum::<usize>() + 2,
        Json::Object(all) => all.iter().map(|(name, value)| name.len() + 4 + size(value)).sum::<usize>() + 2,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(sql: &str, params: Json) -> Result<Select, AskError> {
        Select::of(&Question::Sql { sql: sql.into(), params })
    }

    #[test]
    fn the_one_form_is_understood() {
        let only = |column: &str, value: &str| Some((column.to_string(), value.to_string()));
        for (sql, params, expected) in [
            ("select * from orders", json!([]), (None, None)),
            ("SELECT * FROM orders WHERE key = 'o''1';", json!([]), (only("key", "o'1"), None)),
            ("select * from orders where customer=? limit 3", json!(["c1"]), (only("customer", "c1"), Some(3))),
            ("select * from orders where n = $1", json!([7]), (only("n", "7"), None)),
            ("select * from \"orders\" where n = -1.5", json!([]), (only("n", "-1.5"), None)),
            ("select * from orders where a = :b", json!({"b": true}), (only("a", "true"), None)),
        ] {
            let found = read(sql, params).expect(sql);
            assert_eq!((&*found.table, (found.only, found.limit)), ("orders", expected), "{sql}");
        }
        assert_eq!(read("select * from app.orders", json!([])).expect("a schema").table, "app.orders");
    }

    #[test]
    fn everything_else_is_refused_with_words() {
        for sql in ["", "select 1", "select * from", "select * from t where a > 1", "select * from t; select 1", "'"] {
            assert!(matches!(read(sql, json!([])), Err(AskError::Invalid(_))), "{sql}");
        }
        let dots = format!("select * from a{} where", ".a".repeat(100_000));
        assert!(matches!(read(&dots, json!([])), Err(AskError::Invalid(_))), "without recursion");
        for sql in ["delete from t", "ATTACH 'x' as y", "pragma user_version"] {
            assert!(matches!(read(sql, json!([])), Err(AskError::Forbidden(_))), "{sql}");
        }
        for params in [json!([]), json!({}), json!([null]), json!(null)] {
            assert!(matches!(read("select * from t where a = ?", params), Err(AskError::Invalid(_))));
        }
    }

    #[test]
    fn an_answer_keeps_to_its_bounds() {
        let bounds = |rows, bytes, millis| Bounds { time: std::time::Duration::from_millis(millis), rows, bytes };
        let fill = |bounds| {
            let mut rows = Rows::new(&["a"], &bounds);
            (0..10_000).try_for_each(|_| rows.push(vec![json!("0123456789")])).map(|()| rows.rows.len())
        };
        assert_eq!(fill(bounds(10_000, 1 << 20, 60_000)), Ok(10_000));
        assert_eq!(fill(bounds(9_999, 1 << 20, 60_000)), Err(AskError::Large { what: "rows", most: 9_999 }));
        assert_eq!(fill(bounds(10_000, 100, 60_000)), Err(AskError::Large { what: "bytes", most: 100 }));
        assert!(matches!(fill(bounds(10_000, 1 << 20, 0)), Err(AskError::Slow(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_panic(sql in "(select|\\*|from|where|limit|'|\"|[a-z?$:;.=é0-9-]| ){0,12}") {
            let _ = read(&sql, json!([1]));
        }
    }
}
