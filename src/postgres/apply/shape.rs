//! The statements that write single rows: once as people read them, once as a piece of the loop that runs at the server.

use std::fmt::Write as _;

use super::target::{Target, literal};

/// What happens when rows are not as the change expects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    /// It is a conflict, and the table is parked.
    Strict,
    /// The database may be ahead of the log (first copies): the change wins over whatever is in its way.
    Convergent,
}

/// A statement's form. Its parameters are the values of the columns that are written, then the key's (or, where the table
/// has none, those of the whole old row).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Shape {
    /// Insert, or overwrite the row of that key.
    Put,
    /// Update by key, all columns outside of the key; a whole row that is missing is inserted.
    Update,
    /// Update by the old key, all columns.
    Move,
    /// Delete by key.
    Delete,
    /// Update one row that equals the old one.
    UpdateEqual,
    /// Delete one row that equals the old one.
    DeleteEqual,
    /// Delete all rows.
    Truncate,
}

/// The error that a statement raises for a row that is missing.
pub(super) const MISSING: &str = "WS002";

/// A statement.
#[derive(Clone, Debug)]
pub(super) struct Code {
    /// For people.
    pub sql: String,
    /// A piece of a plpgsql loop, that reads its parameters from `ws__v` after `ws__p`.
    pub piece: String,
    /// How many parameters it has.
    pub params: usize,
}

/// How a parameter is written, by column and place (from 1).
pub(super) type Param<'a> = &'a dyn Fn(usize, usize) -> String;

impl Target {
    /// The columns whose values a statement of that shape takes first; `present` has those with a value (empty: all).
    pub(super) fn takes(&self, shape: Shape, present: &[bool]) -> Vec<usize> {
        let has = |i: &usize| present.is_empty() || present[*i];
        match shape {
            Shape::Delete | Shape::DeleteEqual | Shape::Truncate => Vec::new(),
            Shape::Update => self.written.iter().copied().filter(|i| has(i) && !self.key.contains(i)).collect(),
            _ => self.written.iter().copied().filter(has).collect(),
        }
    }

    /// The columns whose old values follow.
    pub(super) fn finds(&self, shape: Shape) -> &[usize] {
        match shape {
            Shape::Put | Shape::Truncate => &[],
            Shape::UpdateEqual | Shape::DeleteEqual => &self.written,
            _ => &self.key,
        }
    }

    /// Builds the statement.
    pub(super) fn code(&self, shape: Shape, mode: Mode, present: &[bool]) -> Code {
        let takes = self.takes(shape, present);
        let params = takes.len() + self.finds(shape).len();
        let shown = |i: usize, n: usize| format!("${n}::{}", self.columns[i].cast);
        let piece = |i: usize, n: usize| format!("(ws__v[ws__p+{n}])::{}", self.columns[i].cast);
        let whole = takes.len() + if shape == Shape::Update { self.key.len() } else { 0 } == self.written.len();
        let sql = self.first(shape, mode, &takes, &shown);
        let piece = self.piece(shape, mode, &takes, whole, &piece);
        Code { sql, piece, params }
    }

    /// The statement that is tried first.
    fn first(&self, shape: Shape, mode: Mode, takes: &[usize], param: Param<'_>) -> String {
        let moves = matches!(shape, Shape::Move) && self.key.iter().any(|&i| self.columns[i].always);
        match shape {
            Shape::Put => self.put(takes, &(1..=takes.len()).collect::<Vec<_>>(), param),
            Shape::Move if moves || mode == Mode::Convergent && takes.len() == self.written.len() => {
                self.delete(takes.len(), param)
            }
            Shape::Update | Shape::Move => self.update(takes, param),
            Shape::Delete => self.delete(0, param),
            Shape::UpdateEqual => {
                format!(
                    "UPDATE {} AS ws__t SET {}{}",
                    self.own_rows,
                    self.sets(takes, param),
                    self.same(takes.len(), param)
                )
            }
            Shape::DeleteEqual => format!("DELETE FROM {} AS ws__t{}", self.own_rows, self.same(0, param)),
            Shape::Truncate if self.truncate => format!("TRUNCATE {}", self.own_rows),
            Shape::Truncate => format!("DELETE FROM {}", self.own_rows),
        }
    }

    fn piece(&self, shape: Shape, mode: Mode, takes: &[usize], whole: bool, param: Param<'_>) -> String {
        let first = self.first(shape, mode, takes, param);
        let missing = format!("RAISE EXCEPTION 'the row to update is missing' USING ERRCODE = '{MISSING}';");
        // Where the row as a whole is known, it is made.
        let put = match shape {
            Shape::Update => {
                let columns: Vec<usize> = takes.iter().chain(&self.key).copied().collect();
                self.put_piece(&columns, param)
            }
            _ => self.put_piece(takes, param),
        };
        let otherwise = match (whole, mode) {
            (true, _) => put.clone(),
            (false, Mode::Strict) => missing.clone(),
            (false, Mode::Convergent) if self.others.is_empty() => String::new(),
            (false, Mode::Convergent) => self.put_back(shape, takes, param),
        };
        let pinned = takes.iter().any(|&i| self.is_pinned(i));
        let piece = match shape {
            Shape::Put => put,
            // What stands before is the row's removal.
            Shape::Move if first.starts_with("DELETE") => format!("{first}; {put}"),
            Shape::Update | Shape::Move | Shape::UpdateEqual if pinned => {
                let condition = match shape {
                    Shape::UpdateEqual => self.same(takes.len(), param),
                    _ => self.by_key(takes.len(), param),
                };
                let replaced = self.replaced(takes, &condition, param);
                let otherwise = match (shape, mode) {
                    (Shape::UpdateEqual, Mode::Strict) => missing,
                    (Shape::UpdateEqual, Mode::Convergent) => put,
                    _ => otherwise,
                };
                let replaced = format!("{replaced}; IF NOT FOUND THEN {otherwise} END IF;");
                match shape {
                    Shape::Update => format!("{first}; IF NOT FOUND THEN {replaced} END IF;"),
                    _ => replaced,
                }
            }
            Shape::Update | Shape::Move if otherwise.is_empty() => format!("{first};"),
            Shape::Update | Shape::Move => format!("{first}; IF NOT FOUND THEN {otherwise} END IF;"),
            Shape::UpdateEqual if mode == Mode::Strict => format!("{first}; IF NOT FOUND THEN {missing} END IF;"),
            Shape::UpdateEqual => format!("{first}; IF NOT FOUND THEN {put} END IF;"),
            Shape::Delete | Shape::DeleteEqual | Shape::Truncate => format!("{first};"),
        };
        let evict = match (mode, shape) {
            (Mode::Convergent, Shape::Put | Shape::Update) => self.evict(shape, takes, param),
            (Mode::Convergent, Shape::Move) => {
                let key = self.key_given(takes).map(|same| self.delete_at(&same, param)).unwrap_or_default();
                format!("{key}{}", self.evict(shape, takes, param))
            }
            _ => String::new(),
        };
        match evict.is_empty() {
            true => piece,
            false => {
                let caught = "EXCEPTION WHEN unique_violation THEN";
                format!("BEGIN {piece} {caught} {evict} {piece} END;")
            }
        }
    }

    fn put_piece(&self, columns: &[usize], param: Param<'_>) -> String {
        let places: Vec<usize> = (1..=columns.len()).collect();
        if self.key.is_empty() || self.arbiter {
            return format!("{};", self.put(columns, &places, param));
        }
        // A deferrable key cannot be named in ON CONFLICT.
        let place = |i: usize| columns.iter().position(|&column| column == i).map(|at| at + 1);
        let sets: Vec<String> = columns
            .iter()
            .filter(|&&i| !self.columns[i].always)
            .filter_map(|&i| Some(format!("{}={}", self.columns[i].name, param(i, place(i)?))))
            .collect();
        let same: Vec<String> = self
            .key
            .iter()
            .filter_map(|&i| Some(format!("{}={}", self.columns[i].name, param(i, place(i)?))))
            .collect();
        // Only columns that cannot be updated: then it is only seen whether the row is there.
        let sets = if sets.is_empty() { format!("{0}={0}", self.columns[self.key[0]].name) } else { sets.join(", ") };
        let (same, put) = (same.join(" AND "), self.put(columns, &places, param));
        let unmoved = self.unmoved(columns, param);
        let insert = match unmoved.is_empty() {
            true => format!("{put};"),
            false => {
                let replaced = self.replaced(columns, &format!(" WHERE {same}"), param);
                format!("{replaced}; IF NOT FOUND THEN {put}; END IF;")
            }
        };
        format!("UPDATE {} SET {sets} WHERE {same}{unmoved}; IF NOT FOUND THEN {insert} END IF;", self.own_rows)
    }

    fn put(&self, columns: &[usize], places: &[usize], param: Param<'_>) -> String {
        let names: Vec<&str> = columns.iter().map(|&i| self.columns[i].name.as_str()).collect();
        let values: Vec<String> = columns.iter().zip(places).map(|(&i, &n)| param(i, n)).collect();
        let (names, values) = (names.join(", "), values.join(", "));
        let mut sql = match columns.is_empty() {
            true => format!("INSERT INTO {} DEFAULT VALUES", self.rel),
            false => format!("INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE VALUES ({values})", self.rel),
        };
        if self.arbiter {
            sql.push_str(&self.on_conflict(columns));
        }
        sql
    }

    /// What makes an insert overwrite the row of its key.
    pub(super) fn on_conflict(&self, columns: &[usize]) -> String {
        let key: Vec<&str> = self.key.iter().map(|&i| self.columns[i].name.as_str()).collect();
        let sets: Vec<String> = columns
            .iter()
            .filter(|i| !self.key.contains(i) && !self.columns[**i].always)
            .map(|&i| format!("{0}=excluded.{0}", self.columns[i].name))
            .collect();
        let action = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sets.join(", ")) };
        format!(" ON CONFLICT ({}) DO {action}", key.join(", "))
    }

    fn sets(&self, takes: &[usize], param: Param<'_>) -> String {
        let sets: Vec<String> = takes
            .iter()
            .enumerate()
            .filter(|&(_, &i)| !self.columns[i].always)
            .map(|(n, &i)| format!("{}={}", self.columns[i].name, param(i, n + 1)))
            .collect();
        sets.join(", ")
    }

    fn update(&self, takes: &[usize], param: Param<'_>) -> String {
        let sets = self.sets(takes, param);
        // Only columns that cannot be updated: then it is only seen whether the row is there.
        let sets = if sets.is_empty() { format!("{0}={0}", self.columns[self.key[0]].name) } else { sets };
        let unmoved = self.unmoved(takes, param);
        format!("UPDATE {} SET {sets}{}{unmoved}", self.own_rows, self.by_key(takes.len(), param))
    }

    fn delete(&self, before: usize, param: Param<'_>) -> String {
        format!("DELETE FROM {}{}", self.own_rows, self.by_key(before, param))
    }

    fn by_key(&self, before: usize, param: Param<'_>) -> String {
        let mut sql = String::new();
        for (n, &i) in self.key.iter().enumerate() {
            let word = if n == 0 { " WHERE" } else { " AND" };
            let _ = write!(sql, "{word} {}={}", self.columns[i].name, param(i, before + n + 1));
        }
        sql
    }

    /// One row that has all the old values.
    fn same(&self, before: usize, param: Param<'_>) -> String {
        let same: Vec<String> = self
            .written
            .iter()
            .enumerate()
            .map(|(n, &i)| {
                let (field, param) = (&self.columns[i], param(i, before + n + 1));
                match field.comparable {
                    true => format!("{} IS NOT DISTINCT FROM {param}", field.name),
                    false => format!("{}::text IS NOT DISTINCT FROM ({param})::text", field.name),
                }
            })
            .collect();
        let rel = &self.own_rows;
        let same = if same.is_empty() { "true".to_owned() } else { same.join(" AND ") };
        format!(
            " WHERE (ws__t.tableoid, ws__t.ctid) = (SELECT ws__s.tableoid, ws__s.ctid FROM {rel} AS ws__s WHERE {same} LIMIT 1)"
        )
    }

    /// Columns with the places of their parameters, if all of the key's are among those taken.
    fn key_given(&self, takes: &[usize]) -> Option<Vec<(usize, usize)>> {
        self.key.iter().map(|&i| Some((i, takes.iter().position(|&taken| taken == i)? + 1))).collect()
    }

    fn delete_at(&self, same: &[(usize, usize)], param: Param<'_>) -> String {
        let same: Vec<String> =
            same.iter().map(|&(i, n)| format!("{}={}", self.columns[i].name, param(i, n))).collect();
        format!("DELETE FROM {} WHERE {}; ", self.own_rows, same.join(" AND "))
    }

    /// Removes the rows that have the new row's values in another unique index, other than the row itself.
    fn evict(&self, shape: Shape, takes: &[usize], param: Param<'_>) -> String {
        let mut sql = String::new();
        let place = |i: usize| match takes.iter().position(|&taken| taken == i) {
            Some(at) => Some(at + 1),
            None if shape == Shape::Update => self.key.iter().position(|&key| key == i).map(|at| takes.len() + at + 1),
            None => None,
        };
        let own: Option<Vec<String>> = self
            .key
            .iter()
            .map(|&i| {
                let n = if shape == Shape::Move {
                    takes.len() + 1 + self.key.iter().position(|&k| k == i)?
                } else {
                    place(i)?
                };
                Some(format!("{}={}", self.columns[i].name, param(i, n)))
            })
            .collect();
        for unique in &self.others {
            let same: Option<Vec<(usize, usize)>> = unique.columns.iter().map(|&i| Some((i, place(i)?))).collect();
            let Some(same) = same else { continue };
            let mut delete = self.delete_at(&same, param);
            delete.truncate(delete.len() - 2);
            if let Some(predicate) = &unique.predicate {
                let _ = write!(delete, " AND ({predicate})");
            }
            match &own {
                Some(own) if !own.is_empty() => {
                    let _ = write!(delete, " AND NOT ({})", own.join(" AND "));
                }
                _ => {}
            }
            let _ = write!(sql, "{}; ", self.set_aside(&delete));
        }
        sql
    }

    /// The removal of rows that are in another's way only for now: the log moves them on later, and may not tell all of
    /// their values then.
    fn set_aside(&self, delete: &str) -> String {
        if self.key.is_empty() {
            return delete.to_owned();
        }
        let from = format!("DELETE FROM {}", self.own_rows);
        let Some(rest) = delete.strip_prefix(&from).filter(|rest| rest.starts_with(" WHERE ")) else {
            return delete.to_owned();
        };
        let names: Vec<String> = self.key.iter().map(|&i| format!("ws__t.{}", self.columns[i].name)).collect();
        format!(
            "WITH ws__gone AS ({from} AS ws__t{rest} RETURNING sha256(convert_to(ROW({})::text, 'UTF8')) AS ws__key, ws__t::text AS ws__row) \
             INSERT INTO watershed.evicted (table_name, key, content) SELECT {}, ws__gone.ws__key, ws__gone.ws__row FROM ws__gone \
             ON CONFLICT (table_name, key) DO UPDATE SET content = excluded.content",
            names.join(", "),
            literal(self.def.name.as_str())
        )
    }

    /// Makes the row that an update does not find of what it had when it was set aside, if it was, and of the new values.
    fn put_back(&self, shape: Shape, takes: &[usize], param: Param<'_>) -> String {
        let key: Vec<String> = self.key.iter().enumerate().map(|(n, &i)| param(i, takes.len() + n + 1)).collect();
        let value = |&i: &usize| match takes.iter().position(|&taken| taken == i) {
            Some(at) => param(i, at + 1),
            None if shape == Shape::Update && self.key.contains(&i) => {
                let at = self.key.iter().position(|&known| known == i).unwrap_or_default();
                key[at].clone()
            }
            None => format!("(ws__e.ws__row).{}", self.columns[i].name),
        };
        let names: Vec<&str> = self.written.iter().map(|&i| self.columns[i].name.as_str()).collect();
        let values: Vec<String> = self.written.iter().map(value).collect();
        format!(
            "INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE SELECT {2} FROM (SELECT e.content::{0} AS ws__row FROM watershed.evicted e \
             WHERE e.table_name = {3} AND e.key = sha256(convert_to(ROW({4})::text, 'UTF8'))) ws__e;",
            self.rel,
            names.join(", "),
            values.join(", "),
            literal(self.def.name.as_str()),
            key.join(", ")
        )
    }
}
