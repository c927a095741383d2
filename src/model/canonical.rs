//! Values of two databases, brought into one form: equal bytes mean equal values. `docs/TYPES.md` has the rules.

use super::{Kind, Value};

/// How the values of a column are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueClass {
    /// Decimal digits: 1, 1.0 and 1.00 are one number.
    Number,
    /// Doubles, by their bits; all that are not a number are one, and so are both zeros.
    Float,
    /// `t` and 1, `f` and 0.
    Boolean,
    /// Bytes; `\x…` is hex.
    Bytes,
    /// The text as it is.
    Text,
}

impl ValueClass {
    /// By PostgreSQL's name of a type.
    pub fn of(type_name: &str) -> ValueClass {
        match type_name.split('(').next().unwrap_or("").trim() {
            "smallint" | "integer" | "bigint" | "oid" | "numeric" => ValueClass::Number,
            "real" | "double precision" => ValueClass::Float,
            "boolean" => ValueClass::Boolean,
            "bytea" => ValueClass::Bytes,
            _ => ValueClass::Text,
        }
    }
}

/// Appends a value's form, so that the forms of several values are told apart.
pub fn put_canonical(out: &mut Vec<u8>, value: &Value, class: ValueClass) {
    let mut put = |tag: u8, bytes: &[u8]| {
        out.push(tag);
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    if !value.kind.has_text() {
        return put(value.kind as u8, &[]);
    }
    let bytes: &[u8] = &value.text;
    let text = std::str::from_utf8(bytes).ok();
    match (class, text) {
        (ValueClass::Bytes, _) => match hex(bytes).filter(|_| value.kind != Kind::Blob) {
            Some(bytes) => put(b'v', &bytes),
            None => put(b'v', bytes),
        },
        // A blob in a column of something else is equal to nothing but a blob.
        _ if value.kind == Kind::Blob => put(b'b', bytes),
        (ValueClass::Boolean, Some("t" | "true" | "1")) => put(b'v', b"1"),
        (ValueClass::Boolean, Some("f" | "false" | "0")) => put(b'v', b"0"),
        (ValueClass::Float, Some(text)) => match text.parse::<f64>() {
            Ok(number) if number.is_nan() => put(b'v', b"NaN"),
            // SQLite keeps whole doubles as integers, and so no zero with a sign.
            Ok(0.0) => put(b'v', &0u64.to_le_bytes()),
            Ok(number) => put(b'v', &number.to_bits().to_le_bytes()),
            Err(_) => put(b'v', bytes),
        },
        (ValueClass::Number, Some(text)) => match number(text) {
            Some(form) => put(b'v', form.as_bytes()),
            None => put(b'v', bytes),
        },
        _ => put(b'v', bytes),
    }
}

fn hex(bytes: &[u8]) -> Option<Vec<u8>> {
    let digits = bytes.strip_prefix(b"\\x")?;
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Significant digits and exponent: `-1.50` and `-15e-1` are `-15E-1`.
fn number(text: &str) -> Option<String> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let dropped = (digits.len() - significant.len()) as i64;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Some("0".into());
    }
    let exponent = exponent.checked_sub(fraction.len() as i64)?.checked_add(dropped)?;
    Some(format!("{sign}{significant}E{exponent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(kind: Kind, text: &'static str, class: ValueClass) -> Vec<u8> {
        let mut out = Vec::new();
        put_canonical(&mut out, &Value::new(kind, text), class);
        out
    }

    #[test]
    fn the_same_value_has_one_form_in_both_databases() {
        use Kind::{Blob, Integer, Real, Text, Typed};
        use ValueClass::{Boolean, Bytes, Float, Number};
        for (class, one, other) in [
            (Number, (Typed, "1.50"), (Real, "1.5")),
            (Number, (Typed, "100"), (Integer, "100")),
            (Number, (Typed, "1000"), (Real, "1e3")),
            (Number, (Typed, "0.00"), (Integer, "0")),
            (Number, (Typed, "-12345678901234567890.5"), (Text, "-12345678901234567890.50")),
            (Number, (Typed, "NaN"), (Text, "NaN")),
            (Float, (Typed, "0.1"), (Real, "0.1")),
            (Float, (Typed, "1e+300"), (Real, "1e300")),
            (Float, (Typed, "Infinity"), (Real, "Infinity")),
            (Float, (Typed, "3"), (Integer, "3")),
            (Float, (Typed, "-0"), (Real, "0.0")),
            (Boolean, (Typed, "t"), (Integer, "1")),
            (Bytes, (Typed, "\\x6162"), (Blob, "ab")),
            (ValueClass::Text, (Typed, "12"), (Integer, "12")),
        ] {
            assert_eq!(form(one.0, one.1, class), form(other.0, other.1, class), "{one:?} {other:?}");
        }
        for (class, one, other) in [
            (Number, "1", "10"),
            (Number, "1", "-1"),
            (Number, "1", "0.1"),
            (Number, "", "0"),
            (Boolean, "t", "f"),
            (ValueClass::Text, "1.0", "1"),
            (Number, "1e99999999999999999999", "1"),
        ] {
            assert_ne!(form(Typed, one, class), form(Typed, other, class), "{one} {other}");
        }
        assert_ne!(form(Blob, "ab", ValueClass::Text), form(Text, "ab", ValueClass::Text));
        assert_ne!(form(Kind::Null, "", Number), form(Typed, "", Number));
    }
}
