//! Compares a table of two databases, of whatever engines, with bounded memory and without an order that both would have
//! to agree on: rows are put into buckets by a digest of their key, each side sums up its buckets, and only the rows of
//! buckets that differ are looked at one by one.

use std::collections::HashMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::diff::{BucketSum, Compared, DiffError, DiffOptions, Engine, RowDiff, RowDiffKind, Side, TableDiff};
use crate::model::{Row, TableDef, TableName, Value, ValueClass, limits, put_canonical};

/// The two databases of a comparison.
pub struct Compare<'c> {
    /// The first.
    pub a: &'c mut dyn Compared,
    /// The second.
    pub b: &'c mut dyn Compared,
}

/// The columns that both sides have, as each calls them, under A's key.
pub struct Common {
    /// A's.
    pub a: TableDef,
    /// B's, in A's order.
    pub b: TableDef,
    /// Columns that only A has.
    pub only_a: Vec<Box<str>>,
    /// Columns that only B has.
    pub only_b: Vec<Box<str>>,
    classes: Vec<ValueClass>,
    /// Both servers can make the same sums.
    is_uniform: bool,
}

impl Common {
    fn of(a: &TableDef, engine_a: Engine, b: &TableDef, engine_b: Engine) -> Common {
        let exact = engine_a == Engine::Postgres && engine_b == Engine::Postgres;
        let is_same = |a: &str, b: &str| if exact { a == b } else { a.eq_ignore_ascii_case(b) };
        let find = |def: &TableDef, name: &str| def.columns.iter().position(|column| is_same(&column.name, name));
        let only = |def: &TableDef, other: &TableDef| -> Vec<Box<str>> {
            let names = def.columns.iter().map(|column| &column.name);
            names.filter(|name| find(other, name).is_none()).cloned().collect()
        };
        let keyed = !b.key_columns().is_empty()
            && a.columns.iter().all(|column| column.key == 0 || find(b, &column.name).is_some());
        let (mut columns_a, mut columns_b, mut classes, mut is_uniform) = (Vec::new(), Vec::new(), Vec::new(), exact);
        for column in &a.columns {
            let Some(at) = find(b, &column.name) else { continue };
            let (mut one, mut other) = (column.clone(), b.columns[at].clone());
            one.key = if keyed { one.key } else { 0 };
            other.key = one.key;
            is_uniform &= one.type_name == other.type_name;
            let declared = if engine_a == Engine::Postgres { &one.type_name } else { &other.type_name };
            classes.push(ValueClass::of(declared));
            columns_a.push(one);
            columns_b.push(other);
        }
        Common {
            only_a: only(a, b),
            only_b: only(b, a),
            a: TableDef::new(a.name.clone(), columns_a),
            b: TableDef::new(b.name.clone(), columns_b),
            classes,
            is_uniform,
        }
    }

    /// Of its own: a value may share the bytes of all that came with it.
    fn key(&self, row: &Row) -> Row {
        let own = |value: &Value| Value::new(value.kind, Bytes::copy_from_slice(&value.text));
        match self.a.key_columns().as_slice() {
            [] => row.iter().map(own).collect(),
            keys => keys.iter().map(|&i| own(&row[i])).collect(),
        }
    }

    /// Digests of a row's key and of the row.
    fn digests(&self, row: &Row, form: &mut Vec<u8>) -> Digests {
        let mut digest = |columns: &mut dyn Iterator<Item = usize>| {
            form.clear();
            columns.for_each(|i| put_canonical(form, &row[i], self.classes[i]));
            let hash: [u8; 32] = Sha256::digest(&*form).into();
            let half = |at: usize| u128::from_le_bytes(hash[at..at + 16].try_into().unwrap_or_default());
            [half(0), half(16)]
        };
        let whole = digest(&mut (0..row.len()));
        let keys = self.a.key_columns();
        let key = if keys.is_empty() { whole } else { digest(&mut keys.into_iter()) };
        Digests { bucket: (key[1] % u128::from(limits::DIFF_BUCKETS)) as u32, key: key[0], row: whole }
    }

    fn is_equal(&self, a: &Value, b: &Value, i: usize) -> bool {
        let form = |value: &Value| {
            let mut form = Vec::new();
            put_canonical(&mut form, value, self.classes[i]);
            form
        };
        a == b || form(a) == form(b)
    }

    /// How two rows of one key differ, if they do.
    fn differs(&self, key: Row, a: Option<&Row>, b: Option<&Row>) -> Option<RowDiff> {
        let kind = match (a, b) {
            (None, None) => return None,
            (Some(_), None) => RowDiffKind::Only(Side::A),
            (None, Some(_)) => RowDiffKind::Only(Side::B),
            (Some(a), Some(b)) => {
                let differing = (0..self.a.columns.len()).filter(|&i| !self.is_equal(&a[i], &b[i], i));
                let values: Vec<_> =
                    differing.map(|i| (self.a.columns[i].name.clone(), a[i].clone(), b[i].clone())).collect();
                if values.is_empty() {
                    return None;
                }
                RowDiffKind::Values(values)
            }
        };
        Some(RowDiff { key, kind })
    }
}

struct Digests {
    key: u128,
    bucket: u32,
    row: [u128; 2],
}

/// Where rows stand that are looked at one by one.
#[derive(Default)]
struct Open {
    /// By the digest of the key: the row's digest and its key, how often A has it more than B.
    rows: HashMap<u128, (u128, Row, i64)>,
}

impl Compare<'_> {
    /// The columns that are compared; `Err` inside is what to report without.
    ///
    /// # Errors
    /// A database cannot be read.
    pub async fn common(&mut self, table: &TableName) -> Result<Result<Common, TableDiff>, DiffError> {
        let (a, b) = (self.a.define(table).await?, self.b.define(table).await?);
        let (Some(def_a), Some(def_b)) = (&a, &b) else {
            let sides = [(Side::A, a.is_none()), (Side::B, b.is_none())];
            let missing_in = sides.into_iter().filter(|(_, missing)| *missing).map(|(side, _)| side).collect();
            return Ok(Err(TableDiff { missing_in, ..TableDiff::default() }));
        };
        Ok(Ok(Common::of(def_a, self.a.engine(), def_b, self.b.engine())))
    }

    /// Compares one table; each pass reads both sides in one snapshot each.
    ///
    /// # Errors
    /// A database cannot be read.
    pub async fn table(&mut self, table: &TableName, options: DiffOptions) -> Result<TableDiff, DiffError> {
        let common = match self.common(table).await? {
            Ok(common) => common,
            Err(missing) => return Ok(missing),
        };
        let mut diff = self.compare(&common, options).await?;
        diff.rows.truncate(options.rows_max);
        Ok(diff)
    }

    /// Compares; lists up to [`limits::DIFF_RECHECK_MAX`] rows.
    pub(super) async fn compare(&mut self, common: &Common, options: DiffOptions) -> Result<TableDiff, DiffError> {
        let names = |diff: TableDiff| TableDiff {
            columns_only_a: common.only_a.clone(),
            columns_only_b: common.only_b.clone(),
            ..diff
        };
        if common.a.columns.is_empty() {
            return Ok(names(TableDiff::default()));
        }
        let mut diff = self.pass(common).await?;
        for round in 0..=options.rechecks {
            if diff.different == 0 {
                break;
            }
            if round > 0 {
                tokio::time::sleep(options.settle).await;
            }
            if !common.a.key_columns().is_empty() {
                let looked_at = diff.rows.len();
                diff.rows = self.again(common, &diff.rows).await?;
                let equal = (looked_at - diff.rows.len()) as u64;
                diff.different -= equal;
                diff.settled += equal;
            } else if round > 0 {
                let (settled, before) = (diff.settled, diff.different);
                diff = self.pass(common).await?;
                diff.settled = settled + before.saturating_sub(diff.different);
            }
        }
        Ok(names(diff))
    }

    /// Both sides once: sums, and then the rows of buckets that differ.
    async fn pass(&mut self, common: &Common) -> Result<TableDiff, DiffError> {
        let (sums_a, sums_b, by_server) = self.sums(common).await?;
        let mut diff = TableDiff { digest_a: digest(&sums_a), digest_b: digest(&sums_b), ..TableDiff::default() };
        diff.rows_a = sums_a.iter().map(|sum| sum.count).sum();
        diff.rows_b = sums_b.iter().map(|sum| sum.count).sum();
        let mut group: Vec<u32> = Vec::new();
        let mut rows = 0;
        for (bucket, (a, b)) in sums_a.iter().zip(&sums_b).enumerate() {
            if a == b {
                continue;
            }
            if rows > 0 && rows + a.count + b.count > limits::DIFF_OPEN_ROWS_MAX {
                self.open(common, &group, by_server, &mut diff).await?;
                group.clear();
                rows = 0;
            }
            group.push(bucket as u32);
            rows += a.count + b.count;
        }
        if !group.is_empty() {
            self.open(common, &group, by_server, &mut diff).await?;
        }
        Ok(diff)
    }

    async fn sums(&mut self, common: &Common) -> Result<(Vec<BucketSum>, Vec<BucketSum>, bool), DiffError> {
        if common.is_uniform {
            let a = self.a.sums(&common.a, limits::DIFF_BUCKETS);
            let b = self.b.sums(&common.b, limits::DIFF_BUCKETS);
            if let (Some(a), Some(b)) = futures_util::future::try_join(a, b).await? {
                return Ok((a, b, true));
            }
        }
        let a = sums(self.a, &common.a, common);
        let b = sums(self.b, &common.b, common);
        let (a, b) = futures_util::future::try_join(a, b).await?;
        Ok((a, b, false))
    }

    /// Compares the rows of some buckets one by one.
    async fn open(
        &mut self,
        common: &Common,
        buckets: &[u32],
        by_server: bool,
        diff: &mut TableDiff,
    ) -> Result<(), DiffError> {
        let mut wanted = vec![by_server; limits::DIFF_BUCKETS as usize];
        buckets.iter().for_each(|&bucket| wanted[bucket as usize] = true);
        let of_server = by_server.then_some(buckets);
        let is_keyless = common.a.key_columns().is_empty();
        let mut open = Open::default();
        let mut form = Vec::new();
        let mut each = |row: Row| {
            let digests = common.digests(&row, &mut form);
            if wanted[digests.bucket as usize] {
                let entry = open.rows.entry(digests.key);
                entry.or_insert_with(|| (digests.row[0], common.key(&row), 0)).2 += 1;
            }
        };
        self.a.scan(&common.a, of_server, &mut each).await?;
        let (mut different, mut found) = (0, Vec::new());
        let mut form = Vec::new();
        let mut each = |row: Row| {
            let digests = common.digests(&row, &mut form);
            if !wanted[digests.bucket as usize] {
                return;
            }
            let known = open.rows.get_mut(&digests.key).filter(|(.., count)| *count > 0);
            match known {
                Some((same, ..)) if *same == digests.row[0] => {}
                Some((_, key, _)) => {
                    different += 1;
                    found.push(RowDiff { key: key.clone(), kind: RowDiffKind::Values(Vec::new()) });
                }
                None => {
                    different += 1;
                    if found.len() < limits::DIFF_RECHECK_MAX {
                        found.push(RowDiff { key: common.key(&row), kind: RowDiffKind::Only(Side::B) });
                    }
                    return;
                }
            }
            if let Some((.., count)) = open.rows.get_mut(&digests.key) {
                *count -= 1;
            }
        };
        self.b.scan(&common.b, of_server, &mut each).await?;
        for (_, key, count) in open.rows.into_values().filter(|(.., count)| *count > 0) {
            let count = if is_keyless { count } else { 1 };
            different += count as u64;
            for _ in 0..count {
                if found.len() < limits::DIFF_RECHECK_MAX {
                    found.push(RowDiff { key: key.clone(), kind: RowDiffKind::Only(Side::A) });
                }
            }
        }
        diff.different += different;
        let room = limits::DIFF_RECHECK_MAX.saturating_sub(diff.rows.len());
        diff.rows.extend(found.into_iter().take(room));
        Ok(())
    }

    /// Those of the rows that still differ, and how.
    async fn again(&mut self, common: &Common, rows: &[RowDiff]) -> Result<Vec<RowDiff>, DiffError> {
        let mut still = Vec::new();
        for rows in rows.chunks(limits::DIFF_MEND_ROWS) {
            let keys: Vec<Row> = rows.iter().map(|row| row.key.clone()).collect();
            let a = self.a.rows(&common.a, &keys);
            let b = self.b.rows(&common.b, &keys);
            let (a, b) = futures_util::future::try_join(a, b).await?;
            for (key, (a, b)) in keys.into_iter().zip(a.into_iter().zip(b)) {
                still.extend(common.differs(key, a.as_ref(), b.as_ref()));
            }
        }
        Ok(still)
    }
}

/// Sums made here, over the values' forms.
async fn sums(side: &mut dyn Compared, def: &TableDef, common: &Common) -> Result<Vec<BucketSum>, DiffError> {
    let mut sums = vec![BucketSum::default(); limits::DIFF_BUCKETS as usize];
    let mut form = Vec::new();
    let mut each = |row: Row| {
        let digests = common.digests(&row, &mut form);
        let sum = &mut sums[digests.bucket as usize];
        sum.count += 1;
        for (sum, part) in sum.sums.iter_mut().zip(digests.row) {
            *sum = sum.wrapping_add(part);
        }
    };
    side.scan(def, None, &mut each).await?;
    Ok(sums)
}

fn digest(sums: &[BucketSum]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for sum in sums {
        hash.update(sum.count.to_le_bytes());
        sum.sums.iter().for_each(|sum| hash.update(sum.to_le_bytes()));
    }
    hash.finalize().into()
}
