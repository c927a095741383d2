//! Values of the model as SQLite's values, without copying text; `docs/TYPES.md` has the table.

use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};

use crate::model::{Kind, Value};

/// How [`Kind::Typed`] text of a column is kept in SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// As text; the column's affinity turns numbers into numbers.
    Plain,
    /// `t` and `f` become 1 and 0.
    Boolean,
    /// `\x…` becomes a blob.
    Bytes,
    /// Also `Infinity`; `NaN` stays text, because SQLite would make it NULL.
    Float,
}

impl Hint {
    /// By the type that the source declares.
    pub(crate) fn of(type_name: &str) -> Hint {
        match type_name.to_ascii_lowercase().as_str() {
            "bool" | "boolean" => Hint::Boolean,
            "bytea" => Hint::Bytes,
            "real" | "float4" | "float8" | "double precision" => Hint::Float,
            _ => Hint::Plain,
        }
    }
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

fn typed(bytes: &[u8], hint: Hint) -> ToSqlOutput<'_> {
    let owned = match (hint, bytes) {
        (Hint::Boolean, b"t" | b"true") => Some(Owned::Integer(1)),
        (Hint::Boolean, b"f" | b"false") => Some(Owned::Integer(0)),
        (Hint::Bytes, _) => hex(bytes).map(Owned::Blob),
        (Hint::Float, _) => text::<f64>(bytes).filter(|real| !real.is_nan()).map(Owned::Real),
        _ => None,
    };
    match owned {
        Some(owned) => ToSqlOutput::Owned(owned),
        None => ToSqlOutput::Borrowed(ValueRef::Text(bytes)),
    }
}

/// The value as it is bound to a statement.
///
/// # Errors
/// Text that is not what its kind says, and kinds that have no value of their own (unchanged, same).
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
        Kind::Typed => return Ok(typed(&value.text, hint)),
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
        assert!(bound(Kind::Integer, "1.5", Hint::Plain).is_err());
        assert!(bound(Kind::Real, "NaN", Hint::Plain).is_err());
        assert!(bound(Kind::Unchanged, "", Hint::Plain).is_err());
    }
}
