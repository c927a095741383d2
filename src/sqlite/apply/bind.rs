//! Values of the model as SQLite's values, without copying text; `docs/TYPES.md` has the table.

use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};

use crate::model::{Kind, Value};
use crate::sqlite::types::real_text;

/// What [`Kind::Typed`] text is, by the type that the source declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Text.
    Plain,
    /// A whole number of at most 64 bits.
    Integer,
    /// Decimal digits, however many.
    Number,
    /// `t` and `f` become 1 and 0.
    Boolean,
    /// `\x…` becomes a blob.
    Bytes,
    /// Also `Infinity`; `NaN` stays text, because SQLite would make it NULL.
    Float,
}

/// What a column of SQLite makes of a value. (sqlite.org/datatype3.html, "Type Affinity")
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// Numbers become text.
    Text,
    /// Text that reads as a number becomes one, a whole one an integer.
    Numeric,
    /// Text that reads as a number becomes a double.
    Real,
    /// Values stay as they are.
    None,
}

impl Affinity {
    /// By the type that the column declares.
    pub(crate) fn of(declared: &str) -> Affinity {
        let declared = declared.to_ascii_lowercase();
        let has = |part: &str| declared.contains(part);
        if has("int") {
            Affinity::Numeric
        } else if has("char") || has("clob") || has("text") {
            Affinity::Text
        } else if has("blob") || declared.is_empty() {
            Affinity::None
        } else if has("real") || has("floa") || has("doub") {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }
}

/// How [`Kind::Typed`] text of a column is kept in SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    class: Class,
    affinity: Affinity,
}

impl Hint {
    /// By the type that the source declares, for a value that is only compared.
    pub(crate) fn of(type_name: &str) -> Hint {
        Hint { class: Class::of(type_name), affinity: Affinity::None }
    }

    /// By the type that the source declares, and that of the column here.
    pub(crate) fn into(type_name: &str, declared: &str) -> Hint {
        Hint { class: Class::of(type_name), affinity: Affinity::of(declared) }
    }
}

impl Class {
    fn of(type_name: &str) -> Class {
        match type_name.to_ascii_lowercase().split('(').next().unwrap_or("").trim() {
            "bool" | "boolean" => Class::Boolean,
            "bytea" => Class::Bytes,
            "real" | "float4" | "float8" | "double precision" => Class::Float,
            "smallint" | "integer" | "bigint" | "int2" | "int4" | "int8" | "oid" => Class::Integer,
            "numeric" | "decimal" => Class::Number,
            _ => Class::Plain,
        }
    }
}

/// Digits of which SQLite keeps every number's all. (sqlite.org/datatype3.html, "Type Affinity")
const DIGITS_KEPT: usize = 15;
/// Whole numbers up to this are doubles without loss.
const WHOLE_MAX: u64 = 1 << 53;

/// Whether SQLite would take the text for a number.
fn reads_as_number(text: &str) -> bool {
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let start = text.trim_start_matches(['+', '-']);
    start.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok()
}

/// Whether the number that SQLite makes of the text is the same number.
fn is_kept_as_number(text: &str, affinity: Affinity) -> bool {
    if affinity == Affinity::Numeric && integer(text.as_bytes()).is_some() {
        return true;
    }
    let digits: String = text.split(['e', 'E']).next().unwrap_or("").chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_start_matches('0').trim_end_matches('0').len();
    let number: f64 = text.parse().unwrap_or(f64::NAN);
    significant <= DIGITS_KEPT && (significant == 0 || number.is_normal())
}

/// Whether the number that SQLite makes of the text is written as that text again.
fn is_kept_as_text(text: &str, affinity: Affinity) -> bool {
    if let Some(whole) = integer(text.as_bytes()) {
        return affinity == Affinity::Numeric && whole.to_string() == text;
    }
    let number: f64 = text.parse().unwrap_or(f64::NAN);
    number.fract() != 0.0 && real_text(number) == text && is_kept_as_number(text, affinity)
}

fn text<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn integer(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, bytes),
    };
    if digits.is_empty() || digits.len() > 18 {
        return text(bytes);
    }
    let mut value = 0i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
    }
    Some(if negative { -value } else { value })
}

fn hex(bytes: &[u8]) -> Option<Vec<u8>> {
    let digits = bytes.strip_prefix(b"\\x")?;
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|d| d as u8);
    if digits.len() % 2 != 0 {
        return None;
    }
    digits.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Digits as a number, if all of them are kept; else as the text that they are.
pub(crate) fn number(text: &str) -> ToSqlOutput<'_> {
    if let Some(whole) = integer(text.as_bytes()) {
        return ToSqlOutput::Owned(Owned::Integer(whole));
    }
    // So few digits are all kept, wherever the point is.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
    match text.parse::<f64>() {
        Ok(real) if is_plain && text.len() <= DIGITS_KEPT || is_kept_as_number(text, Affinity::Real) => {
            ToSqlOutput::Owned(Owned::Real(real))
        }
        _ => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
    }
}

fn typed(bytes: &[u8], hint: Hint) -> Result<ToSqlOutput<'_>, String> {
    let Hint { class, affinity } = hint;
    let owned = match (class, bytes) {
        (Class::Boolean, b"t" | b"true") => Some(Owned::Integer(1)),
        (Class::Boolean, b"f" | b"false") => Some(Owned::Integer(0)),
        (Class::Bytes, _) => hex(bytes).map(Owned::Blob),
        // Of a double a TEXT column would keep 15 digits.
        (Class::Float, _) if affinity != Affinity::Text => {
            text::<f64>(bytes).filter(|real| !real.is_nan()).map(Owned::Real)
        }
        (Class::Integer, _) => integer(bytes)
            .filter(|whole| affinity != Affinity::Real || whole.unsigned_abs() <= WHOLE_MAX)
            .map(Owned::Integer),
        _ => None,
    };
    if let Some(owned) = owned {
        return Ok(ToSqlOutput::Owned(owned));
    }
    if let (Affinity::Numeric | Affinity::Real, Ok(text)) = (affinity, std::str::from_utf8(bytes))
        && reads_as_number(text)
    {
        let is_kept = match class {
            Class::Number | Class::Integer => is_kept_as_number(text, affinity),
            _ => is_kept_as_text(text, affinity),
        };
        if !is_kept {
            let shown: String = text.chars().take(40).collect();
            return Err(format!(
                "{shown:?} would become a number here and not be the same any more: declare the column TEXT"
            ));
        }
    }
    Ok(ToSqlOutput::Borrowed(ValueRef::Text(bytes)))
}

/// The value as it is bound to a statement.
///
/// # Errors
/// Text that is not what its kind says, or that the column would not keep, and kinds that have no value of their own
/// (unchanged, same).
pub(crate) fn to_sql(value: &Value, hint: Hint) -> Result<ToSqlOutput<'_>, String> {
    let wrong = || {
        let shown: String = String::from_utf8_lossy(&value.text).chars().take(40).collect();
        format!("{shown:?} is not of the kind {:?}", value.kind)
    };
    Ok(ToSqlOutput::Borrowed(match value.kind {
        Kind::Null => ValueRef::Null,
        Kind::Integer => ValueRef::Integer(integer(&value.text).ok_or_else(wrong)?),
        Kind::Real => ValueRef::Real(text(&value.text).filter(|real: &f64| !real.is_nan()).ok_or_else(wrong)?),
        Kind::Text => ValueRef::Text(&value.text),
        Kind::Blob => ValueRef::Blob(&value.text),
        Kind::Typed => return typed(&value.text, hint),
        Kind::Unchanged | Kind::Same => return Err(wrong()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(kind: Kind, text: &'static str, hint: Hint) -> Result<Owned, String> {
        let value = Value::new(kind, text);
        match to_sql(&value, hint)? {
            ToSqlOutput::Owned(owned) => Ok(owned),
            ToSqlOutput::Borrowed(ValueRef::Text(bytes)) => {
                Ok(Owned::Text(String::from_utf8(bytes.to_vec()).expect("test text")))
            }
            ToSqlOutput::Borrowed(borrowed) => Owned::try_from(borrowed).map_err(|e| e.to_string()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn every_integer_is_bound_as_itself() {
        for number in [0, 1, -1, i64::MAX, i64::MIN, 999_999_999_999_999_999, -1_000_000_000_000_000_000] {
            assert_eq!(integer(number.to_string().as_bytes()), Some(number));
        }
        for bad in ["", "-", "1a", "--1", "99999999999999999999", "1 "] {
            assert_eq!(integer(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn typed_text_is_kept_as_the_closest_class() {
        assert_eq!(bound(Kind::Typed, "t", Hint::of("boolean")), Ok(Owned::Integer(1)));
        assert_eq!(bound(Kind::Typed, "\\x00ff", Hint::of("bytea")), Ok(Owned::Blob(vec![0, 255])));
        assert_eq!(bound(Kind::Typed, "Infinity", Hint::of("float8")), Ok(Owned::Real(f64::INFINITY)));
        assert_eq!(bound(Kind::Typed, "NaN", Hint::of("float8")), Ok(Owned::Text("NaN".into())));
        assert_eq!(bound(Kind::Typed, "12.50", Hint::of("numeric(10,2)")), Ok(Owned::Text("12.50".into())));
    }

    #[test]
    fn text_that_is_not_of_its_kind_is_an_error() {
        assert!(bound(Kind::Integer, "1.5", Hint::of("")).is_err());
        assert!(bound(Kind::Real, "NaN", Hint::of("")).is_err());
        assert!(bound(Kind::Unchanged, "", Hint::of("")).is_err());
    }

    #[test]
    fn what_a_column_would_not_keep_is_refused() {
        let into = |type_name, declared, text| bound(Kind::Typed, text, Hint::into(type_name, declared));
        for (type_name, declared, kept) in [
            ("numeric", "numeric", "123456789012.345"),
            ("numeric", "numeric", "9223372036854775807"),
            ("numeric(10,2)", "numeric(10,2)", "12.50"),
            ("numeric", "text", "123456789012345678901234567890.5"),
            ("numeric", "numeric", "NaN"),
            ("text", "numeric", "12"),
            ("text", "numeric", "1.5"),
            ("bit(3)", "text", "001"),
            ("jsonb", "", "1.0"),
            ("date", "date", "2020-01-01"),
            ("interval", "interval", "1 day"),
            ("uuid", "uuid", "00000000-0000-0000-0000-000000000001"),
            ("text", "text", "007"),
        ] {
            assert_eq!(into(type_name, declared, kept), Ok(Owned::Text(kept.into())), "{type_name} into {declared}");
        }
        for (type_name, declared, lost) in [
            ("numeric", "numeric", "1234567890123.4567"),
            ("numeric", "numeric", "9223372036854775808"),
            ("numeric", "numeric", "1e400"),
            ("bigint", "real", "9007199254740993"),
            ("bit(3)", "bit(3)", "001"),
            ("jsonb", "jsonb", "1.0"),
            ("text", "numeric", "007"),
            ("text", "int", " 7"),
            ("text", "real", "7"),
            ("public.mood", "numeric", "1e5"),
        ] {
            assert!(into(type_name, declared, lost).is_err(), "{lost} of {type_name} into {declared}");
        }
        assert_eq!(into("bigint", "text", "7"), Ok(Owned::Integer(7)));
        assert_eq!(into("double precision", "text", "0.1"), Ok(Owned::Text("0.1".into())));
    }
}
