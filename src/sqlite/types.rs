//! SQLite's values as the model's values. A value keeps its storage class, whatever its column declares.

use bytes::Bytes;
use rusqlite::types::ValueRef;

use crate::model::{Kind, Value};

/// A value read from SQLite. Text is taken as its bytes, which need not be UTF-8 and may have NULs.
pub(crate) fn from_sql(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::NULL,
        ValueRef::Integer(number) => Value::new(Kind::Integer, number.to_string()),
        ValueRef::Real(number) => Value::new(Kind::Real, real_text(number)),
        ValueRef::Text(text) => Value::new(Kind::Text, Bytes::copy_from_slice(text)),
        ValueRef::Blob(bytes) => Value::new(Kind::Blob, Bytes::copy_from_slice(bytes)),
    }
}

/// The shortest text that reads back to the same double.
pub(crate) fn real_text(number: f64) -> String {
    match number {
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        _ => format!("{number:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_read_back_to_the_same_bits() {
        for number in [0.0, -0.0, 1.0, 0.1, 1e300, 5e-324, f64::MAX, f64::INFINITY, f64::NEG_INFINITY] {
            let text = real_text(number);
            let back: f64 = text.parse().expect("a number");
            assert_eq!(back.to_bits(), number.to_bits(), "{text}");
        }
    }

    #[test]
    fn values_keep_their_storage_class() {
        assert_eq!(from_sql(ValueRef::Integer(i64::MIN)), Value::new(Kind::Integer, "-9223372036854775808"));
        assert_eq!(from_sql(ValueRef::Text(b"a\0b\xff")), Value::new(Kind::Text, &b"a\0b\xff"[..]));
        assert_eq!(from_sql(ValueRef::Blob(b"")), Value::new(Kind::Blob, ""));
        assert_eq!(from_sql(ValueRef::Null), Value::NULL);
    }
}
