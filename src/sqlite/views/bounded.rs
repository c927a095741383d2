//! Functions of SQLite that search again and again within one instruction, where nothing looks at the clock: defined anew, with
//! searches that take as long as their arguments are. They give what SQLite's own give (sqlite.org/lang_corefunc.html), of text
//! that is UTF-8.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use memchr::{memchr, memmem};
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, Result, ffi};

/// Defines them on a connection. None gives a value of more than `most` bytes.
pub(super) fn define(conn: &Connection, most: usize) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    let reals = Arc::new(Reals::default());
    let texts = reals.clone();
    conn.create_scalar_function("instr", 2, flags, move |args| instr(args, &texts))?;
    let texts = reals.clone();
    conn.create_scalar_function("replace", 3, flags, move |args| replace(args, &texts, most))?;
    for (name, left, right) in [("trim", true, true), ("ltrim", true, false), ("rtrim", false, true)] {
        let texts = reals.clone();
        conn.create_scalar_function(name, 2, flags, move |args| trim(args, &texts, left, right))?;
    }
    conn.create_scalar_function("unhex", 2, flags, move |args| unhex(args, &reals))
}

/// SQLite's own text of a real number.
#[derive(Default)]
struct Reals(Mutex<Option<Connection>>);

impl Reals {
    fn text(&self, real: f64) -> Result<String> {
        let mut conn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let conn = match &mut *conn {
            Some(conn) => conn,
            none => none.insert(Connection::open_in_memory()?),
        };
        conn.prepare_cached("SELECT CAST(?1 AS TEXT)")?.query_row([real], |row| row.get(0))
    }
}

/// An argument as text; `None` where it is NULL.
fn text<'a>(args: &'a Context<'_>, index: usize, reals: &Reals) -> Result<Option<Cow<'a, [u8]>>> {
    Ok(match args.get_raw(index) {
        ValueRef::Null => None,
        ValueRef::Integer(whole) => Some(whole.to_string().into_bytes().into()),
        ValueRef::Real(real) => Some(reals.text(real)?.into_bytes().into()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.into()),
    })
}

/// As far as C sees it.
fn before_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr(0, bytes).unwrap_or(bytes.len())]
}

fn told(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Whether a byte begins a character.
fn begins(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

/// The length of the character with which a text begins.
fn first(text: &[u8]) -> usize {
    let after = text.get(1..).unwrap_or_default();
    1 + after.iter().take_while(|byte| !begins(**byte)).count()
}

/// The length of the character with which a text ends.
fn last(text: &[u8]) -> usize {
    let after = text.iter().rev().take_while(|byte| !begins(**byte)).count();
    (after + 1).min(text.len())
}

/// Which characters stand in a text.
struct Characters<'t> {
    single: [bool; 256],
    longer: BTreeSet<&'t [u8]>,
}

impl<'t> Characters<'t> {
    fn of(mut text: &'t [u8]) -> Characters<'t> {
        let mut found = Characters { single: [false; 256], longer: BTreeSet::new() };
        while !text.is_empty() {
            let (character, after) = text.split_at(first(text));
            match character {
                [byte] => found.single[usize::from(*byte)] = true,
                longer => drop(found.longer.insert(longer)),
            }
            text = after;
        }
        found
    }

    fn has(&self, character: &[u8]) -> bool {
        match character {
            [byte] => self.single[usize::from(*byte)],
            longer => self.longer.contains(longer),
        }
    }
}

fn instr(args: &Context<'_>, reals: &Reals) -> Result<Option<i64>> {
    let are_bytes = matches!((args.get_raw(0), args.get_raw(1)), (ValueRef::Blob(_), ValueRef::Blob(_)));
    let (Some(all), Some(part)) = (text(args, 0, reals)?, text(args, 1, reals)?) else { return Ok(None) };
    let place = match memmem::find(&all, &part) {
        None => 0,
        Some(0) => 1,
        Some(at) if are_bytes => at + 1,
        // Characters are counted, those before it and its first one.
        Some(at) => 1 + all[1..=at].iter().filter(|byte| begins(**byte)).count(),
    };
    Ok(Some(place as i64))
}

fn replace(args: &Context<'_>, reals: &Reals, most: usize) -> Result<Option<String>> {
    let (Some(all), Some(part)) = (text(args, 0, reals)?, text(args, 1, reals)?) else { return Ok(None) };
    if part.first().is_none_or(|first| *first == 0) {
        return Ok(Some(told(all.into_owned())));
    }
    let Some(by) = text(args, 2, reals)? else { return Ok(None) };
    let (mut out, mut from) = (Vec::with_capacity(all.len()), 0);
    for at in memmem::find_iter(&all, &part) {
        out.extend_from_slice(&all[from..at]);
        if out.len() + by.len() > most {
            return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_TOOBIG), None));
        }
        out.extend_from_slice(&by);
        from = at + part.len();
    }
    out.extend_from_slice(&all[from..]);
    Ok(Some(told(out)))
}

fn trim(args: &Context<'_>, reals: &Reals, left: bool, right: bool) -> Result<Option<String>> {
    let (Some(all), Some(set)) = (text(args, 0, reals)?, text(args, 1, reals)?) else { return Ok(None) };
    let (mut rest, characters) = (&*all, Characters::of(before_nul(&set)));
    while left && !rest.is_empty() {
        let (character, after) = rest.split_at(first(rest));
        if !characters.has(character) {
            break;
        }
        rest = after;
    }
    while right && !rest.is_empty() {
        let (before, character) = rest.split_at(rest.len() - last(rest));
        if !characters.has(character) {
            break;
        }
        rest = before;
    }
    Ok(Some(told(rest.to_vec())))
}

fn unhex(args: &Context<'_>, reals: &Reals) -> Result<Option<Vec<u8>>> {
    let (Some(all), Some(set)) = (text(args, 0, reals)?, text(args, 1, reals)?) else { return Ok(None) };
    let (mut rest, between) = (before_nul(&all), Characters::of(&set));
    let mut out = Vec::with_capacity(rest.len() / 2);
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    while let Some(byte) = rest.first() {
        let Some(high) = digit(byte) else {
            let (character, after) = rest.split_at(first(rest));
            if !between.has(character) {
                return Ok(None);
            }
            rest = after;
            continue;
        };
        let Some(low) = rest.get(1).and_then(digit) else { return Ok(None) };
        out.push((high << 4 | low) as u8);
        rest = &rest[2..];
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::types::Value;

    use super::*;

    const CALLS: [&str; 6] =
        ["instr(?1, ?2)", "replace(?1, ?2, ?3)", "trim(?1, ?2)", "ltrim(?1, ?2)", "rtrim(?1, ?2)", "unhex(?1, ?2)"];

    fn answers(conn: &Connection, values: &[Value; 3]) -> Vec<Value> {
        let ask = |call: &&str| {
            let sql = format!("SELECT {call}, ?1, ?2, ?3");
            conn.prepare_cached(&sql)
                .expect("prepared")
                .query_row(rusqlite::params_from_iter(values), |row| row.get(0))
                .expect("answered")
        };
        CALLS.iter().map(ask).collect()
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            (-3i64..3).prop_map(Value::Integer),
            any::<i64>().prop_map(Value::Integer),
            prop_oneof![Just(1.5), Just(-0.25), Just(1e300), Just(f64::INFINITY)].prop_map(Value::Real),
            "[aé€0-2. ]{0,6}".prop_map(Value::Text),
            "[aé0-9A-f]{0,12}".prop_map(|text| Value::Blob(text.into_bytes())),
        ]
    }

    proptest! {
        #[test]
        fn they_give_what_those_of_sqlite_give(a in value(), b in value(), c in value()) {
            let (own, bounded) = (Connection::open_in_memory()?, Connection::open_in_memory()?);
            define(&bounded, 1 << 20)?;
            let values = [a, b, c];
            prop_assert_eq!(answers(&bounded, &values), answers(&own, &values));
        }
    }

    #[test]
    fn a_value_that_is_too_large_is_never_made() {
        let conn = Connection::open_in_memory().expect("opened");
        define(&conn, 1_000).expect("defined");
        let sql = "SELECT replace(printf('%.1000c', 'x'), 'x', printf('%.1000c', 'y'))";
        let error = conn.query_row(sql, [], |row| row.get::<_, String>(0)).expect_err("too large");
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::TooBig), "{error}");
    }
}
