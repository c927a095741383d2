//! Members of a JSON object, found in its text without building a tree.

use std::borrow::Cow;

/// The members of an object, one after the other, as they stand: name, and value as text. What is not JSON ends it.
pub(crate) struct Members<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Members<'a> {
    /// `None` if the text does not begin an object.
    pub(crate) fn of(text: &'a str) -> Option<Members<'a>> {
        let mut members = Members { text, at: 0 };
        members.eat(b'{').then_some(members)
    }

    fn blanks(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.blanks();
        let has = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(has);
        has
    }

    /// A string with its quotes, and whether something in it is escaped; the place is at its first one.
    fn string(&mut self) -> Option<(&'a str, bool)> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        if bytes.get(start) != Some(&b'"') {
            return None;
        }
        let (mut at, mut escaped) = (start + 1, false);
        loop {
            at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
            if bytes[at] == b'"' {
                break;
            }
            escaped = true;
            at += 2;
        }
        self.at = at + 1;
        self.text.get(start..self.at).map(|string| (string, escaped))
    }

    fn value(&mut self) -> Option<&'a str> {
        self.blanks();
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut depth = 0usize;
        loop {
            match bytes.get(self.at)? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    if depth == 0 {
                        break;
                    }
                    depth -= 1;
                    self.at += 1;
                }
                b',' if depth == 0 => break,
                b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => break,
                _ => self.at += 1,
            }
        }
        self.text.get(start..self.at).filter(|value| !value.is_empty())
    }
}

impl<'a> Members<'a> {
    /// The next one.
    #[inline]
    fn named(&mut self) -> Option<(Cow<'a, str>, &'a str)> {
        if self.eat(b'}') {
            return None;
        }
        self.eat(b',');
        self.blanks();
        let (quoted, escaped) = self.string()?;
        if !self.eat(b':') {
            return None;
        }
        let name = match escaped {
            false => Cow::Borrowed(&quoted[1..quoted.len() - 1]),
            true => unquoted(quoted)?,
        };
        Some((name, self.value()?))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.named()
    }
}

/// What a JSON string says.
fn unquoted(quoted: &str) -> Option<Cow<'_, str>> {
    let inner = quoted.get(1..quoted.len().checked_sub(1)?)?;
    match inner.contains('\\') {
        false => Some(Cow::Borrowed(inner)),
        true => serde_json::from_str(quoted).ok().map(Cow::Owned),
    }
}

/// Where a value stands in a text.
pub(crate) type Place = Option<(u32, u32)>;

/// Where the values of top-level members stand in the text, by their names; of equal names the last one counts. `None` where
/// there is none, and where it is null. A text that ends being JSON has what stands before that.
pub(crate) fn places(text: &str, names: &[String], places: &mut [Place]) {
    places.fill(None);
    let Some(mut members) = Members::of(text) else { return };
    while let Some((name, value)) = members.named() {
        for (_, place) in names.iter().zip(&mut *places).filter(|(wanted, _)| **wanted == *name) {
            let start = value.as_ptr() as usize - text.as_ptr() as usize;
            *place = (value != "null").then_some((start as u32, (start + value.len()) as u32));
        }
    }
}

/// A member's value as the text by which it is compared: what a string says, and everything else as it stands.
pub(crate) fn plain(value: &str) -> Cow<'_, str> {
    match value.starts_with('"') {
        true => unquoted(value).unwrap_or(Cow::Borrowed(value)),
        false => Cow::Borrowed(value),
    }
}

/// The value of a top-level member, as [`plain`] gives it.
pub(crate) fn member<'a>(text: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let found = Members::of(text)?.filter(|(member, _)| member == name).last()?.1;
    (found != "null").then(|| plain(found))
}

/// The newer object, with the members that only the older one has.
pub(crate) fn merged(older: &str, newer: &str) -> String {
    let (Some(old), Some(new)) = (Members::of(older), Members::of(newer)) else { return newer.into() };
    let new: Vec<_> = new.collect();
    let kept = old.filter(|(name, _)| new.iter().all(|(other, _)| other != name)).collect::<Vec<_>>();
    let mut out = String::with_capacity(older.len() + newer.len());
    for (name, value) in new.iter().chain(&kept) {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&serde_json::Value::from(name.as_ref()).to_string());
        out.push(':');
        out.push_str(value);
    }
    if out.is_empty() {
        out.push('{');
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_are_found_where_they_stand() {
        let text = r#" { "a" : 1.50 , "b\u0020c" : "x\"y", "d":{"a":[1,2,{"e":"}"}]}, "n":null, "a": 2 } "#;
        let found: Vec<(String, &str)> =
            Members::of(text).expect("an object").map(|(name, value)| (name.into(), value)).collect();
        let expected =
            [("a", "1.50"), ("b c", r#""x\"y""#), ("d", r#"{"a":[1,2,{"e":"}"}]}"#), ("n", "null"), ("a", "2")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_string(), value)));
        assert_eq!(member(text, "a").as_deref(), Some("2"), "of equal names the last one counts");
        assert_eq!(member(text, "b c").as_deref(), Some("x\"y"));
        assert_eq!(member(text, "n"), None);
        assert_eq!(member(text, "e"), None);
        assert_eq!(member("[1]", "a"), None);
        let mut found = [Some((0, 0)); 4];
        places(text, &["a", "b c", "n", "e"].map(String::from), &mut found);
        let at = |what: &str| text.rfind(what).map(|start| (start as u32, (start + what.len()) as u32));
        assert_eq!(found, [at("2"), at(r#""x\"y""#), None, None]);
    }

    #[test]
    fn what_a_newer_row_lacks_is_kept() {
        assert_eq!(merged(r#"{"a":1,"b":"x"}"#, r#"{"a":2}"#), r#"{"a":2,"b":"x"}"#);
        assert_eq!(merged("{}", "{}"), "{}");
        assert_eq!(merged("1", "[2]"), "[2]");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[\\[\\]{}:,\"\\\\u0-9a-c é]{0,40}") {
            let _ = Members::of(&text).map(Iterator::count);
            let _ = merged(&text, &text);
            places(&text, &["a".into(), "b".into()], &mut [None; 2]);
        }

        #[test]
        fn objects_are_read_as_serde_reads_them(object: std::collections::BTreeMap<String, Option<String>>) {
            let text = serde_json::to_string(&object).expect("JSON");
            for (name, value) in &object {
                let found = member(&text, name);
                prop_assert_eq!(found.as_deref(), value.as_deref());
                let mut place = [Some((9, 9)), None];
                places(&text, &[name.clone(), name.clone()], &mut place);
                let at = place.map(|place| place.map(|(start, end)| plain(&text[start as usize..end as usize])));
                prop_assert_eq!(at.each_ref().map(Option::as_deref), [value.as_deref(); 2]);
            }
        }
    }
}
