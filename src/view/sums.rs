//! A state as a number that does not depend on the order in which rows are stored.

use sha2::{Digest, Sha256};

use crate::model::{Value, ValueClass, put_canonical};

/// Sums up tables, which must come in the order of their names, row by row in any order.
///
/// Each row's SHA-256 is added to its table's sum, four numbers of 64 bits; rows that are there twice count twice.
#[derive(Debug, Default)]
pub(crate) struct RowSums {
    whole: Sha256,
    sum: [u64; 4],
    rows: u64,
    all: u64,
    form: Vec<u8>,
}

impl RowSums {
    /// A table begins.
    pub(crate) fn table(&mut self, name: &str, columns: &[String]) {
        self.close();
        for part in std::iter::once(name).chain(columns.iter().map(String::as_str)) {
            self.whole.update((part.len() as u64).to_le_bytes());
            self.whole.update(part.as_bytes());
        }
    }

    /// A row of it, with how each value is compared.
    pub(crate) fn row(&mut self, values: &[(Value, ValueClass)]) {
        self.form.clear();
        for (value, class) in values {
            // Equal digits are not equal values: a number is told from a text.
            self.form.push(match class {
                ValueClass::Number | ValueClass::Float | ValueClass::Boolean => b'n',
                ValueClass::Bytes => b'b',
                ValueClass::Text => b't',
            });
            if !value.kind.has_text() {
                self.form.pop();
            }
            put_canonical(&mut self.form, value, *class);
        }
        let digest = Sha256::digest(&self.form);
        for (sum, part) in self.sum.iter_mut().zip(digest.chunks_exact(8)) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(part);
            *sum = sum.wrapping_add(u64::from_le_bytes(bytes));
        }
        self.rows += 1;
        self.all += 1;
    }

    fn close(&mut self) {
        for part in self.sum.iter().chain([&self.rows]) {
            self.whole.update(part.to_le_bytes());
        }
        self.sum = [0; 4];
        self.rows = 0;
    }

    /// The digest, and how many rows it stands for.
    pub(crate) fn end(mut self) -> ([u8; 32], u64) {
        self.close();
        (self.whole.finalize().into(), self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    fn digest(rows: &[&[&'static str]]) -> [u8; 32] {
        let mut sums = RowSums::default();
        sums.table("t", &["a".into()]);
        for row in rows {
            let values: Vec<_> = row.iter().map(|text| (Value::new(Kind::Text, *text), ValueClass::Text)).collect();
            sums.row(&values);
        }
        sums.end().0
    }

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        assert_eq!(digest(&[&["1"], &["2"]]), digest(&[&["2"], &["1"]]));
        assert_ne!(digest(&[&["1"], &["1"]]), digest(&[]));
        assert_ne!(digest(&[&["1"], &["1"]]), digest(&[&["2"], &["2"]]));
        assert_ne!(digest(&[&["1", "23"]]), digest(&[&["12", "3"]]));
        let number = |class| {
            let mut sums = RowSums::default();
            sums.table("t", &["a".into()]);
            sums.row(&[(Value::new(Kind::Typed, "1"), class)]);
            sums.end().0
        };
        assert_ne!(number(ValueClass::Number), number(ValueClass::Text));
        assert_eq!(number(ValueClass::Boolean).len(), 32);
    }

    #[test]
    fn an_empty_table_is_not_no_table() {
        let mut sums = RowSums::default();
        sums.table("t", &[]);
        assert_ne!(sums.end().0, RowSums::default().end().0);
    }
}
