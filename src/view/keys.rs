//! Keys of several columns as one text: their values with `,` between them, and a `\` before each `,` and `\` in them, so that no
//! two keys are one text.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use super::AskError;

/// Appends a value of such a key.
pub(crate) fn put_key_value(out: &mut String, value: &str) {
    for c in value.chars() {
        if matches!(c, ',' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
}

/// The values of a key that somebody asks for in a table: one for each of its key's columns.
///
/// # Errors
/// The table has no key, or one of another number of columns.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn key_asked(table: &str, columns: &[String], key: &str) -> Result<Vec<String>, AskError> {
    let values = match columns {
        [] => return Err(AskError::Invalid(format!("table {table} has no primary key: ask with SQL"))),
        [_] => vec![key.to_owned()],
        _ => key_values(key),
    };
    if values.len() != columns.len() {
        let (needs, has) = (columns.join(","), values.len());
        return Err(AskError::Invalid(format!("the key of {table} is {needs}, and {has} values were given")));
    }
    Ok(values)
}

/// The values of a key. A `\` before anything else stands for itself.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn key_values(key: &str) -> Vec<String> {
    let (mut values, mut value, mut chars) = (Vec::new(), String::new(), key.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            ',' => values.push(std::mem::take(&mut value)),
            '\\' => value.push(chars.next_if(|c| matches!(c, ',' | '\\')).unwrap_or(c)),
            _ => value.push(c),
        }
    }
    values.push(value);
    values
}

#[cfg(all(test, any(feature = "sqlite", feature = "postgres")))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(values: &[String]) -> String {
        let mut out = String::new();
        for (number, value) in values.iter().enumerate() {
            if number > 0 {
                out.push(',');
            }
            put_key_value(&mut out, value);
        }
        out
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        assert_eq!(key_values("a,b"), ["a", "b"]);
        assert_eq!(key_values(""), [""]);
        assert_eq!(key_values(",a\\,b,"), ["", "a,b", ""]);
        assert_eq!(key_values("C:\\x,\\\\,y\\"), ["C:\\x", "\\", "y\\"]);
        assert_ne!(joined(&["a,b".into(), "c".into()]), joined(&["a".into(), "b,c".into()]));
    }

    proptest! {
        #[test]
        fn every_key_comes_back(values in prop::collection::vec("[a,\\\\é]{0,5}", 1..4)) {
            prop_assert_eq!(key_values(&joined(&values)), values);
        }

        #[test]
        fn foreign_keys_never_panic(key: String) {
            prop_assert!(!key_values(&key).is_empty());
        }
    }
}
