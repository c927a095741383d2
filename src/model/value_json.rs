//! Values as JSON, written directly, so that numbers keep every digit that they were stored with.

use super::{Kind, Value};

/// Appends a value of a column of that declared type.
pub fn put_json_value(out: &mut String, value: &Value, type_name: &str) {
    let text = std::str::from_utf8(&value.text).ok();
    match (value.kind, text) {
        (Kind::Null | Kind::Unchanged | Kind::Same, _) => out.push_str("null"),
        (Kind::Integer | Kind::Real, Some(text)) if is_json_number(text) => out.push_str(text),
        (Kind::Typed, Some(text)) if is_numeric(type_name) && is_json_number(text) => out.push_str(text),
        (Kind::Typed, Some("t" | "true")) if is_boolean(type_name) => out.push_str("true"),
        (Kind::Typed, Some("f" | "false")) if is_boolean(type_name) => out.push_str("false"),
        (Kind::Blob, _) | (_, None) => {
            out.push_str("\"\\\\x");
            for byte in &*value.text {
                for digit in [byte >> 4, byte & 0xf] {
                    out.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
                }
            }
            out.push('"');
        }
        (_, Some(text)) => put_json_text(out, text),
    }
}

fn is_boolean(type_name: &str) -> bool {
    type_name.eq_ignore_ascii_case("boolean") || type_name.eq_ignore_ascii_case("bool")
}

/// PostgreSQL's number types, by their names in `format_type` and their usual aliases.
fn is_numeric(type_name: &str) -> bool {
    let base = type_name.split('(').next().unwrap_or("").trim().to_ascii_lowercase();
    let names = [
        "smallint",
        "integer",
        "int",
        "bigint",
        "int2",
        "int4",
        "int8",
        "numeric",
        "decimal",
        "real",
        "double precision",
        "float",
        "float4",
        "float8",
        "oid",
        "smallserial",
        "serial",
        "bigserial",
    ];
    names.contains(&base.as_str())
}

/// The grammar of RFC 8259, section 6.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = text.strip_prefix('-').unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest.starts_with('0')) {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    let Some(exponent) = rest.strip_prefix(['e', 'E']) else { return rest.is_empty() };
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    !exponent.is_empty() && digits(exponent) == exponent.len()
}

/// Appends a JSON string.
pub fn put_json_text(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    // What needs no escape is copied in one piece.
    while let Some(at) = rest.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            byte => out.push_str(&format!("\\u{byte:04x}")),
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}
