//! JSON texts compared by value, as PostgreSQL's jsonb understands them.
//!
//! Blanks, escapes and the order of keys do not matter, and of equal keys the last one counts. Numbers are equal when
//! every digit is: 1e2 is 100, but 1.10 is not 1.1, and zero has no sign. (postgresql.org/docs/15/datatype-json.html)

use std::borrow::Cow;

/// Whether two texts are the same value. Texts that are not JSON are equal only when their bytes are.
pub fn same_json(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    match (Tree::read(one), Tree::read(other)) {
        (Some(one), Some(other)) => one.equals(&other),
        _ => false,
    }
}

/// A value; containers name their items by index, objects their keys before each value, sorted.
enum Node<'a> {
    Null,
    Bool(bool),
    Number(Number<'a>),
    Text(Cow<'a, [u8]>),
    Array(Vec<u32>),
    Object(Vec<(Cow<'a, [u8]>, u32)>),
}

/// Values of a text. The last one is the whole.
struct Tree<'a>(Vec<Node<'a>>);

/// A container that has not ended.
enum Open<'a> {
    Array(Vec<u32>),
    Object(Vec<(Cow<'a, [u8]>, u32)>, Cow<'a, [u8]>),
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tree<'a> {
    /// Without recursion: nesting has no limit but the text's length.
    fn read(text: &'a [u8]) -> Option<Tree<'a>> {
        std::str::from_utf8(text).ok()?;
        let mut reader = Reader { text, at: 0 };
        let (mut nodes, mut open) = (Vec::new(), Vec::new());
        loop {
            // A value begins.
            match reader.next()? {
                b'[' if !reader.has(b']') => {
                    open.push(Open::Array(Vec::new()));
                    continue;
                }
                b'[' => nodes.push(Node::Array(Vec::new())),
                b'{' if !reader.has(b'}') => {
                    let key = reader.key()?;
                    open.push(Open::Object(Vec::new(), key));
                    continue;
                }
                b'{' => nodes.push(Node::Object(Vec::new())),
                first => nodes.push(reader.scalar(first)?),
            }
            // It has ended, and with it perhaps what it is in.
            loop {
                let value = u32::try_from(nodes.len() - 1).ok()?;
                match open.last_mut() {
                    None => return reader.peek().is_none().then_some(Tree(nodes)),
                    Some(Open::Array(items)) => {
                        items.push(value);
                        if reader.next()? == b',' {
                            break;
                        }
                        reader.was(b']')?;
                    }
                    Some(Open::Object(members, key)) => {
                        members.push((std::mem::take(key), value));
                        if reader.next()? == b',' {
                            *key = reader.key()?;
                            break;
                        }
                        reader.was(b'}')?;
                    }
                }
                nodes.push(match open.pop()? {
                    Open::Array(items) => Node::Array(items),
                    Open::Object(members, _) => Node::Object(last_of_each(members)),
                });
            }
        }
    }

    fn equals(&self, other: &Tree<'_>) -> bool {
        let index = |tree: &Tree<'_>| tree.0.len() - 1;
        let mut pairs = vec![(index(self), index(other))];
        while let Some((one, two)) = pairs.pop() {
            let same = match (&self.0[one], &other.0[two]) {
                (Node::Null, Node::Null) => true,
                (Node::Bool(one), Node::Bool(two)) => one == two,
                (Node::Number(one), Node::Number(two)) => one.equals(two),
                (Node::Text(one), Node::Text(two)) => one == two,
                (Node::Array(one), Node::Array(two)) => {
                    pairs.extend(one.iter().zip(two).map(|(one, two)| (*one as usize, *two as usize)));
                    one.len() == two.len()
                }
                (Node::Object(one), Node::Object(two)) => {
                    pairs.extend(one.iter().zip(two).map(|(one, two)| (one.1 as usize, two.1 as usize)));
                    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.0 == two.0)
                }
                _ => false,
            };
            if !same {
                return false;
            }
        }
        true
    }
}

/// Members by key, of equal keys the last.
fn last_of_each<'a>(mut members: Vec<(Cow<'a, [u8]>, u32)>) -> Vec<(Cow<'a, [u8]>, u32)> {
    members.reverse();
    members.sort_by(|one, two| one.0.cmp(&two.0));
    members.dedup_by(|later, kept| later.0 == kept.0);
    members
}

impl<'a> Reader<'a> {
    /// The next byte that is not blank; stays before it.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Steps over the byte if it comes next.
    fn has(&mut self, byte: u8) -> bool {
        let has = self.peek() == Some(byte);
        self.at += usize::from(has);
        has
    }

    /// Whether the byte just read is this one.
    fn was(&self, byte: u8) -> Option<()> {
        (self.text.get(self.at - 1) == Some(&byte)).then_some(())
    }

    fn key(&mut self) -> Option<Cow<'a, [u8]>> {
        let key = if self.next()? == b'"' { self.string()? } else { return None };
        (self.next()? == b':').then_some(key)
    }

    fn scalar(&mut self, first: u8) -> Option<Node<'a>> {
        match first {
            b'"' => self.string().map(Node::Text),
            b't' => self.word(b"rue").then_some(Node::Bool(true)),
            b'f' => self.word(b"alse").then_some(Node::Bool(false)),
            b'n' => self.word(b"ull").then_some(Node::Null),
            b'-' | b'0'..=b'9' => {
                let rest = &self.text[self.at - 1..];
                let end = rest.iter().position(|b| !matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
                let number = &rest[..end.unwrap_or(rest.len())];
                self.at += number.len() - 1;
                Number::read(number).map(Node::Number)
            }
            _ => None,
        }
    }

    fn word(&mut self, rest: &[u8]) -> bool {
        let is = self.text[self.at..].starts_with(rest);
        self.at += rest.len();
        is
    }

    /// What stands up to the closing quote, escapes resolved.
    fn string(&mut self) -> Option<Cow<'a, [u8]>> {
        let start = self.at;
        let plain = self.text[start..].iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f))?;
        self.at = start + plain + 1;
        if self.text[start + plain] == b'"' {
            return Some(Cow::Borrowed(&self.text[start..start + plain]));
        }
        self.at -= 1;
        let mut out = self.text[start..self.at].to_vec();
        loop {
            let byte = *self.text.get(self.at)?;
            self.at += 1;
            match byte {
                b'"' => return Some(Cow::Owned(out)),
                b'\\' => self.escape(&mut out)?,
                0..=0x1f => return None,
                byte => out.push(byte),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        out.push(match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut code = self.hex()?;
                if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = self.hex()?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                    code = 0x10000 + ((code - 0xd800) << 10) + low;
                }
                // Half of a pair is no character.
                let mut buffer = [0; 4];
                out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut buffer).as_bytes());
                return Some(());
            }
            _ => return None,
        });
        Some(())
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?))
    }
}

/// A number's digits as they stand, and where its point is.
struct Number<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Number<'a> {
    fn read(text: &'a [u8]) -> Option<Number<'a>> {
        let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let (whole, fraction) = match mantissa.iter().position(|b| *b == b'.') {
            Some(at) => (&mantissa[..at], Some(&mantissa[at + 1..])),
            None => (mantissa, None),
        };
        let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        if !digits(whole) || (whole.len() > 1 && whole[0] == b'0') || !fraction.is_none_or(digits) {
            return None;
        }
        let exponent = match exponent {
            // Beyond every number that a database takes.
            Some(text) => std::str::from_utf8(text).ok()?.parse().ok().filter(|e: &i64| e.unsigned_abs() < 1 << 40)?,
            None => 0,
        };
        Some(Number { negative, whole, fraction: fraction.unwrap_or_default(), exponent })
    }

    /// Digits from the first to the last that is not 0.
    fn digits(&self) -> (impl Iterator<Item = u8>, i64) {
        let all = || self.whole.iter().chain(self.fraction).copied();
        let count = self.whole.len() + self.fraction.len();
        let leading = all().take_while(|digit| *digit == b'0').count();
        let trailing = (0..count - leading)
            .take_while(|back| {
                let at = count - 1 - back;
                let digit = match at.checked_sub(self.whole.len()) {
                    Some(at) => self.fraction[at],
                    None => self.whole[at],
                };
                digit == b'0'
            })
            .count();
        // The exponent of the first digit: 123 is 1.23e2.
        let first = self.whole.len() as i64 - 1 - leading as i64 + self.exponent;
        let mut digits = all();
        digits.by_ref().take(leading).for_each(drop);
        (digits.take(count - leading - trailing), first)
    }

    /// Digits after the point that are shown: 1.10 has two, 1.10e1 has one, 1e2 has none.
    fn scale(&self) -> i64 {
        (self.fraction.len() as i64 - self.exponent).max(0)
    }

    fn equals(&self, other: &Number<'_>) -> bool {
        let ((one, first), (two, other_first)) = (self.digits(), other.digits());
        let mut one = one.peekable();
        let zero = one.peek().is_none();
        let same = one.eq(two) && self.scale() == other.scale();
        same && (zero || first == other_first && self.negative == other.negative)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(one: &str, other: &str, same: bool) {
        assert_eq!(same_json(one.as_bytes(), other.as_bytes()), same, "{one} and {other}");
        assert_eq!(same_json(other.as_bytes(), one.as_bytes()), same, "{other} and {one}");
    }

    #[test]
    fn what_jsonb_does_not_keep_does_not_matter() {
        check(r#"{"a":1,"b":[1,2]}"#, " { \"b\" : [ 1 , 2 ] ,\n\"a\":1} ", true);
        check(r#"{"a":1,"a":2}"#, r#"{"a": 2}"#, true);
        check(r#"{"a":1,"a":2}"#, r#"{"a": 1}"#, false);
        check(r#""\u00e9\/\ud83e\udd8a""#, r#""é/🦊""#, true);
        check(r#"{"\u0061":{}}"#, r#"{"a":{}}"#, true);
        check("[[],{}]", "[ [ ] , { } ]", true);
        check("[1,2]", "[2,1]", false);
        check("null", " null", true);
        check("true", "true ", true);
        check("true ", "false", false);
    }

    #[test]
    fn every_digit_of_a_number_matters() {
        for (one, other) in [
            ("1e2", "100"),
            ("1E+2", "100"),
            ("1.10e1", "11.0"),
            ("1e-2", "0.01"),
            ("-0", "0"),
            ("-0.0", "0.0"),
            ("0e5", "0"),
            ("1.5e3", "1500"),
            ("0.10e-1", "0.010"),
            ("1e300", "10e299"),
        ] {
            check(one, other, true);
        }
        let long = "1".repeat(100);
        for (one, other) in [
            ("1.10", "1.1"),
            ("1.0", "1"),
            ("0.0", "0"),
            ("1", "-1"),
            ("10", "1"),
            ("1e2", "1e3"),
            ("0.01", "0.1"),
            (&*format!("{long}1"), &*format!("{long}2")),
            ("1.00000000000000000001", "1.00000000000000000002"),
        ] {
            check(one, other, false);
        }
    }

    #[test]
    fn what_is_no_json_is_equal_only_to_itself() {
        for bad in
            ["", "{", "[1", "[1,]", "{\"a\"}", "01", "1.", ".5", "+1", "1e", "nul", "\"\u{1}\"", "\"\\ud800\"", "1 2"]
        {
            check(bad, bad, true);
            check(bad, "0", false);
            check(bad, &format!(" {bad}"), false);
        }
        check("1e99999999999999999999", "1e99999999999999999998", false);
        assert!(!same_json(b"\"\xff\"", b"\"\xff\" "));
    }

    #[test]
    fn deep_nesting_is_read_without_recursion() {
        let deep = |blank: &str| format!("{}1{blank}{}", "[".repeat(500_000), "]".repeat(500_000));
        assert!(same_json(deep("").as_bytes(), deep(" ").as_bytes()));
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(one: Vec<u8>, text in "[\\[\\]{}:,\"\\\\u0-9eE+. -]{0,40}") {
            let _ = same_json(&one, text.as_bytes());
            let _ = same_json(text.as_bytes(), format!(" {text}").as_bytes());
        }
    }
}
