//! Rows by key, and by the values of indexed columns.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::super::member::{Place, places, plain};

/// Seeded anew in every process, and quicker than the standard library's for short texts.
type Hasher = foldhash::fast::RandomState;

/// Bytes of room for a text that are kept for the next one.
const TEXT_KEPT: usize = 256;
/// So many values that are gone keep their room for the next ones.
const FREE_KEPT: usize = 1024;
/// In place of the number of a value: the column has none.
const NONE: u32 = u32::MAX;

/// The number of what stands there in a list. A table that needs more of them has no room in memory.
fn number(index: usize) -> u32 {
    u32::try_from(index).ok().filter(|number| *number != NONE).expect("a table in memory has fewer than 2^32 rows")
}

/// The last row of a key.
#[derive(Debug, Default)]
struct Row {
    position: u64,
    /// The key, and behind it the row's JSON, as it was sent. Its room is used again by the next row.
    text: String,
    key_bytes: usize,
}

impl Row {
    fn key(&self) -> &str {
        &self.text[..self.key_bytes]
    }

    fn json(&self) -> &str {
        &self.text[self.key_bytes..]
    }
}

/// Of a row and an indexed column: the number of the value, and where the row stands in the value's list.
#[derive(Clone, Copy, Debug)]
struct Link {
    value: u32,
    at: u32,
}

const UNLINKED: Link = Link { value: NONE, at: 0 };

/// A value that rows have.
#[derive(Debug, Default)]
struct Value {
    hash: u64,
    text: String,
    /// Their numbers, in no order.
    rows: Vec<u32>,
}

/// Rows by the values of one column. What is not used any more keeps its room for the next value.
#[derive(Debug, Default)]
struct Index {
    by_text: HashTable<u32>,
    values: Vec<Value>,
    free: Vec<u32>,
}

impl Index {
    fn find(&self, hash: u64, text: &str) -> Option<u32> {
        self.by_text.find(hash, |value| self.values[*value as usize].text == text).copied()
    }

    /// The number of a value that is not there yet.
    fn add(&mut self, hash: u64, text: &str) -> u32 {
        let new = self.free.pop().unwrap_or_else(|| {
            self.values.push(Value::default());
            number(self.values.len() - 1)
        });
        let value = &mut self.values[new as usize];
        value.hash = hash;
        value.text.push_str(text);
        let values = &self.values;
        self.by_text.insert_unique(hash, new, |value| values[*value as usize].hash);
        new
    }

    /// Takes a row out of the list of its value; the row that stands in its place now, if another one does.
    fn take(&mut self, link: Link) -> Option<u32> {
        let value = &mut self.values[link.value as usize];
        value.rows.swap_remove(link.at as usize);
        if !value.rows.is_empty() {
            if value.rows.capacity() / 4 > value.rows.len().max(TEXT_KEPT) {
                value.rows.shrink_to_fit();
            }
            return value.rows.get(link.at as usize).copied();
        }
        if let Ok(entry) = self.by_text.find_entry(value.hash, |known| *known == link.value) {
            entry.remove();
        }
        let kept = if self.free.len() < FREE_KEPT { TEXT_KEPT } else { 0 };
        value.text.clear();
        value.text.shrink_to(kept);
        value.rows.shrink_to(kept / size_of::<u32>());
        self.free.push(link.value);
        None
    }
}

/// The rows of one table.
#[derive(Debug, Default)]
pub(super) struct Keyed {
    by_key: HashTable<u32>,
    rows: Vec<Row>,
    free: Vec<u32>,
    /// One for each indexed column.
    indexes: Vec<Index>,
    /// For every row one for each indexed column.
    links: Vec<Link>,
    /// Where the values of the indexed columns stand in the row that is put; room that is used again.
    found: Vec<Place>,
    hasher: Hasher,
}

impl Keyed {
    /// No rows yet, with so many indexes.
    pub(super) fn new(indexes: usize) -> Keyed {
        Keyed { indexes: (0..indexes).map(|_| Index::default()).collect(), ..Keyed::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Takes all rows away.
    pub(super) fn clear(&mut self) {
        *self = Keyed { found: std::mem::take(&mut self.found), ..Keyed::new(self.indexes.len()) };
    }

    fn find(&self, hash: u64, key: &str) -> Option<u32> {
        self.by_key.find(hash, |row| self.rows[*row as usize].key() == key).copied()
    }

    /// Position and JSON of a key's row.
    pub(super) fn get(&self, key: &str) -> Option<(u64, &str)> {
        let row = &self.rows[self.find(self.hasher.hash_one(key), key)? as usize];
        Some((row.position, row.json()))
    }

    fn told(&self, row: u32) -> (&str, u64, &str) {
        let row = &self.rows[row as usize];
        (row.key(), row.position, row.json())
    }

    /// Key, position and JSON of all rows, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        self.by_key.iter().map(|row| self.told(*row))
    }

    /// The same in the order of the keys.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        let mut rows: Vec<u32> = self.by_key.iter().copied().collect();
        rows.sort_unstable_by_key(|row| self.rows[*row as usize].key());
        rows.into_iter().map(|row| self.told(row))
    }

    /// Key, position and JSON of the rows that have this value in the indexed column of that number.
    pub(super) fn with(&self, index: usize, value: &str) -> impl Iterator<Item = (&str, u64, &str)> {
        let index = &self.indexes[index];
        let found = index.find(self.hasher.hash_one(value), value);
        let rows = found.map_or(&[][..], |value| &index.values[value as usize].rows);
        rows.iter().map(|row| self.told(*row))
    }

    /// Makes this the row of that key. `columns` are those that are indexed.
    pub(super) fn put(&mut self, columns: &[String], key: &str, position: u64, json: &str) {
        let hash = self.hasher.hash_one(key);
        let row = match self.find(hash, key) {
            Some(row) => {
                let kept = &mut self.rows[row as usize];
                kept.text.truncate(kept.key_bytes);
                kept.text.push_str(json);
                if kept.text.capacity() / 4 > kept.text.len().max(TEXT_KEPT) {
                    kept.text.shrink_to_fit();
                }
                kept.position = position;
                row
            }
            None => self.add(hash, key, position, json),
        };
        if !columns.is_empty() {
            self.found.resize(columns.len(), None);
            places(json, columns, &mut self.found);
            (0..columns.len()).for_each(|column| self.link(row, column, json));
        }
    }

    fn add(&mut self, hash: u64, key: &str, position: u64, json: &str) -> u32 {
        let mut text = String::with_capacity(key.len() + json.len());
        text.push_str(key);
        text.push_str(json);
        let row = Row { position, text, key_bytes: key.len() };
        let new = match self.free.pop() {
            Some(free) => {
                self.rows[free as usize] = row;
                free
            }
            None => {
                self.rows.push(row);
                self.links.resize(self.rows.len() * self.indexes.len(), UNLINKED);
                number(self.rows.len() - 1)
            }
        };
        let (rows, hasher) = (&self.rows, &self.hasher);
        self.by_key.insert_unique(hash, new, |row| hasher.hash_one(rows[*row as usize].key()));
        new
    }

    /// Has a row found by the value that its column has now.
    fn link(&mut self, row: u32, column: usize, json: &str) {
        let text = self.found[column].map(|(start, end)| plain(&json[start as usize..end as usize]));
        let place = row as usize * self.indexes.len() + column;
        let (before, index) = (self.links[place], &mut self.indexes[column]);
        let hashed = text.as_deref().map(|text| (self.hasher.hash_one(text), text));
        let now = hashed.and_then(|(hash, text)| index.find(hash, text));
        if now.unwrap_or(NONE) == before.value && (now.is_some() || text.is_none()) {
            return;
        }
        self.unlink(place, column);
        let Some((hash, text)) = hashed else { return };
        let index = &mut self.indexes[column];
        // Taking the row away has not taken this value, which others have.
        let value = now.unwrap_or_else(|| index.add(hash, text));
        let rows = &mut index.values[value as usize].rows;
        self.links[place] = Link { value, at: number(rows.len()) };
        rows.push(row);
    }

    fn unlink(&mut self, place: usize, column: usize) {
        let link = std::mem::replace(&mut self.links[place], UNLINKED);
        if link.value != NONE
            && let Some(moved) = self.indexes[column].take(link)
        {
            let columns = self.indexes.len();
            self.links[moved as usize * columns + column].at = link.at;
        }
    }

    /// Takes the row of a key away.
    pub(super) fn remove(&mut self, key: &str) {
        let (hash, rows) = (self.hasher.hash_one(key), &self.rows);
        let Ok(entry) = self.by_key.find_entry(hash, |row| rows[*row as usize].key() == key) else { return };
        let (row, _) = entry.remove();
        for column in 0..self.indexes.len() {
            self.unlink(row as usize * self.indexes.len() + column, column);
        }
        self.rows[row as usize] = Row::default();
        self.free.push(row);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Change {
        Put(u8, Option<u8>, Option<u8>),
        Remove(u8),
        Clear,
    }

    fn change() -> impl Strategy<Value = Change> {
        let value = || prop::option::of(0..4u8);
        prop_oneof![
            12 => (0..12u8, value(), value()).prop_map(|(key, a, b)| Change::Put(key, a, b)),
            5 => (0..12u8).prop_map(Change::Remove),
            1 => Just(Change::Clear),
        ]
    }

    proptest! {
        #[test]
        fn rows_are_found_by_key_and_by_every_value(changes in prop::collection::vec(change(), 0..80)) {
            let columns = ["a", "b"].map(String::from);
            let (mut keyed, mut model) = (Keyed::new(2), BTreeMap::<String, (u64, String, [Option<u8>; 2])>::new());
            for (position, change) in changes.iter().enumerate() {
                match change {
                    Change::Put(key, a, b) => {
                        let json = serde_json::json!({"a": a, "b": b.map(|b| b.to_string()), "n": position}).to_string();
                        keyed.put(&columns, &format!("k{key}"), position as u64, &json);
                        model.insert(format!("k{key}"), (position as u64, json, [*a, *b]));
                    }
                    Change::Remove(key) => {
                        keyed.remove(&format!("k{key}"));
                        model.remove(&format!("k{key}"));
                    }
                    Change::Clear => {
                        keyed.clear();
                        model.clear();
                    }
                }
            }
            let all: Vec<_> = keyed.sorted().map(|(key, at, json)| (key.to_owned(), at, json.to_owned())).collect();
            prop_assert_eq!(keyed.iter().count(), all.len());
            let expected: Vec<_> = model.iter().map(|(key, (at, json, _))| (key.clone(), *at, json.clone())).collect();
            prop_assert_eq!(all, expected);
            prop_assert_eq!(keyed.len(), model.len());
            for key in (0..12).map(|key| format!("k{key}")) {
                prop_assert_eq!(keyed.get(&key), model.get(&key).map(|(at, json, _)| (*at, &**json)));
            }
            for (column, value) in (0..2).flat_map(|column| (0..4u8).map(move |value| (column, value))) {
                let mut found: Vec<_> = keyed.with(column, &value.to_string()).map(|(key, ..)| key.to_owned()).collect();
                found.sort();
                let expected = model.iter().filter(|(_, (.., values))| values[column] == Some(value));
                prop_assert_eq!(found, expected.map(|(key, _)| key.clone()).collect::<Vec<_>>());
            }
            // What nobody has any more takes no place.
            for index in &keyed.indexes {
                prop_assert_eq!(index.values.len(), index.by_text.len() + index.free.len());
                prop_assert!(index.by_text.len() <= 4);
            }
            prop_assert_eq!(keyed.rows.len(), keyed.len() + keyed.free.len());
        }
    }

    #[test]
    fn room_of_values_that_are_gone_is_given_back() {
        let (columns, mut keyed) = (["a".to_owned()], Keyed::new(1));
        let long = "x".repeat(1 << 20);
        keyed.put(&columns, "k", 1, &format!("{{\"a\":\"{long}\"}}"));
        assert_eq!(keyed.with(0, &long).count(), 1);
        keyed.put(&columns, "k", 2, "{\"a\":1}");
        assert_eq!((keyed.with(0, &long).count(), keyed.with(0, "1").count()), (0, 1));
        for number in 0..10_000 {
            let json = format!("{{\"a\":\"{number} {}\"}}", &long[..100]);
            keyed.put(&columns, &format!("k{number}"), 3, &json);
        }
        (0..10_000).for_each(|number| keyed.put(&columns, &format!("k{number}"), 4, "{\"a\":1}"));
        assert_eq!((keyed.with(0, "1").count(), keyed.indexes[0].by_text.len()), (10_001, 1));
        (0..10_000).for_each(|number| keyed.remove(&format!("k{number}")));
        let kept = |value: &Value| value.text.capacity() + value.rows.capacity() * 4;
        let kept: usize = keyed.indexes[0].values.iter().map(kept).sum();
        assert!(kept < FREE_KEPT * TEXT_KEPT, "{kept}");
        assert!(keyed.sorted().map(|(key, ..)| key).eq(["k"]));
    }
}
