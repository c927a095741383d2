//! Reads a definition's file.

use super::definition::{Definition, DefinitionError, Dialect, Handler};
use super::lexer::{Lexer, Piece, Unread};
use super::statement::{Parameter, Place, Statement};
use crate::model::{Op, TableName, limits};

/// What the statements after a marker are for.
enum Section {
    Setup,
    On(Op, TableName),
}

struct Parser<'a> {
    file: &'a str,
    text: &'a str,
    done: Definition,
    section: Option<(Section, usize)>,
    statement: Open,
    count: usize,
}

/// The statement that is being read.
#[derive(Default)]
struct Open {
    start: usize,
    end: usize,
    parameters: Vec<Parameter>,
    uses: Vec<(std::ops::Range<usize>, usize)>,
    /// Its first words, in capitals, and the two pieces before this one.
    words: Vec<String>,
    last: [String; 2],
}

impl Open {
    fn is_empty(&self) -> bool {
        self.end == 0
    }

    fn add(&mut self, text: &str, range: std::ops::Range<usize>) {
        if self.is_empty() {
            self.start = range.start;
        }
        self.end = range.end;
        let piece = text[range].to_ascii_uppercase();
        self.last.swap(0, 1);
        self.last[1] = piece.clone();
        if self.words.len() < 6 {
            self.words.push(piece);
        } else if piece == "ATOMIC" && self.last[0] == "BEGIN" {
            self.words.push("BEGIN ATOMIC".to_owned());
        }
    }

    /// Whether `;` ends it: the body of a trigger has statements of its own, and ends with `; END`.
    fn ends(&self, dialect: Dialect) -> bool {
        let is = |at: usize, word: &str| self.words.get(at).is_some_and(|found| found == word);
        let with_body = is(0, "CREATE")
            && match dialect {
                Dialect::Sqlite => is(1, "TRIGGER") || is(2, "TRIGGER") && (is(1, "TEMP") || is(1, "TEMPORARY")),
                Dialect::Postgres => self.words.iter().any(|word| word == "BEGIN ATOMIC"),
            };
        !with_body || self.last[0] == ";" && self.last[1] == "END"
    }
}

pub(super) fn parse(file: &str, text: &str, dialect: Dialect) -> Result<Definition, DefinitionError> {
    let done =
        Definition { file: file.to_owned(), text: text.to_owned(), dialect, setup: Vec::new(), handlers: Vec::new() };
    let mut parser = Parser { file, text, done, section: None, statement: Open::default(), count: 0 };
    if text.len() as u64 > limits::VIEW_SQL_BYTES_MAX {
        let why = format!("it has {} bytes; at most {} are allowed", text.len(), limits::VIEW_SQL_BYTES_MAX);
        return Err(parser.error(0, why));
    }
    if let Some(at) = text.find('\0') {
        return Err(parser.error(at, "a NUL character"));
    }
    for piece in Lexer::new(text, dialect) {
        let (piece, range) = piece.map_err(|Unread { at, why }| parser.error(at, why))?;
        parser.piece(piece, range)?;
    }
    parser.end_section()?;
    if parser.done.handlers.is_empty() {
        return Err(parser.error(text.len(), "there is no `-- on insert|update|delete|truncate TABLE`"));
    }
    Ok(parser.done)
}

/// Whether only blanks stand before it in its line.
fn begins_line(text: &str, at: usize) -> bool {
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    text[start..at].trim().is_empty()
}

impl Parser<'_> {
    fn error(&self, at: usize, why: impl Into<String>) -> DefinitionError {
        let Place { line, column } = Place::START.after(&self.text[..at]);
        DefinitionError { file: self.file.to_owned(), line, column, why: why.into() }
    }

    fn piece(&mut self, piece: Piece, range: std::ops::Range<usize>) -> Result<(), DefinitionError> {
        match piece {
            Piece::LineComment if begins_line(self.text, range.start) => return self.comment(range),
            piece if piece.is_silent() => return Ok(()),
            Piece::End if self.statement.is_empty() => return Ok(()),
            Piece::End if self.statement.ends(self.done.dialect) => return self.end_statement(),
            _ => {}
        }
        if self.section.is_none() {
            let why = "a statement before the first marker: write `-- setup` or `-- on insert TABLE` above it";
            return Err(self.error(range.start, why));
        }
        let text = &self.text[range.clone()];
        match piece {
            Piece::Foreign => {
                let why = format!(
                    "`{text}` is no parameter of a view; there are `:row.COLUMN`, `:old.COLUMN`, `:key` and others"
                );
                return Err(self.error(range.start, why));
            }
            Piece::Parameter => {
                let parameter = Parameter::read(text).map_err(|why| self.error(range.start, why))?;
                self.allowed(&parameter).map_err(|why| self.error(range.start, why))?;
                self.use_parameter(parameter, range.clone())?;
            }
            _ => {}
        }
        self.statement.add(self.text, range);
        Ok(())
    }

    fn use_parameter(&mut self, parameter: Parameter, range: std::ops::Range<usize>) -> Result<(), DefinitionError> {
        let known = self.statement.parameters.iter().position(|known| *known == parameter);
        let index = known.unwrap_or(self.statement.parameters.len());
        if index >= limits::VIEW_PARAMETERS_MAX {
            let why = format!("more than {} different parameters in one statement", limits::VIEW_PARAMETERS_MAX);
            return Err(self.error(range.start, why));
        }
        if known.is_none() {
            self.statement.parameters.push(parameter);
        }
        self.statement.uses.push((range, index));
        Ok(())
    }

    /// Whether there is such a thing where the statement stands.
    fn allowed(&self, parameter: &Parameter) -> Result<(), String> {
        match (self.section.as_ref().map(|(section, _)| section), parameter) {
            (Some(Section::Setup), _) => {
                Err(format!("`{parameter}` in `-- setup`, which is run before there is a change"))
            }
            (Some(Section::On(Op::Insert, _)), Parameter::Old(_)) => {
                Err(format!("`{parameter}` on insert: there is no row before it"))
            }
            (Some(Section::On(Op::Delete, _)), Parameter::Row(column)) => {
                Err(format!("`{parameter}` on delete: the row is gone; use `:old.{column}`"))
            }
            (
                Some(Section::On(Op::Truncate, _)),
                Parameter::Row(_) | Parameter::Old(_) | Parameter::Key | Parameter::Json,
            ) => Err(format!("`{parameter}` on truncate, which is not told row by row")),
            _ => Ok(()),
        }
    }

    /// A comment that begins its line may be a marker.
    fn comment(&mut self, range: std::ops::Range<usize>) -> Result<(), DefinitionError> {
        let words = self.text[range.start + 2..range.end].trim();
        let (first, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
        if first.eq_ignore_ascii_case("setup") && rest.is_empty() {
            return self.begin(Section::Setup, range.start);
        }
        if !first.eq_ignore_ascii_case("on") {
            return Ok(());
        }
        let (op, table) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
        let table = table.trim();
        let ops = [Op::Insert, Op::Update, Op::Delete, Op::Truncate];
        let Some(op) = ops.into_iter().find(|known| op.eq_ignore_ascii_case(known.name())) else {
            // Most comments that begin with `on` are sentences.
            let is_marker = rest.split_whitespace().count() == 2;
            let why = format!("`{op}` is no operation: write `-- on insert|update|delete|truncate TABLE`");
            return if is_marker { Err(self.error(range.start, why)) } else { Ok(()) };
        };
        let name = match table.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None if table.contains(char::is_whitespace) || table.is_empty() => {
                let why = format!("one table's name is expected after `on {}`, quoted if it has blanks", op.name());
                return Err(self.error(range.start, why));
            }
            None => table.to_owned(),
        };
        let table: TableName = name.parse().map_err(|error| self.error(range.start, format!("{error}")))?;
        self.begin(Section::On(op, table), range.start)
    }

    fn begin(&mut self, section: Section, at: usize) -> Result<(), DefinitionError> {
        self.end_section()?;
        if let Section::On(op, table) = &section {
            self.done.handlers.push(Handler { op: *op, table: table.clone(), statements: Vec::new() });
        }
        self.section = Some((section, at));
        Ok(())
    }

    fn end_section(&mut self) -> Result<(), DefinitionError> {
        self.end_statement()?;
        if let Some((Section::On(op, table), at)) = &self.section
            && self.done.handlers.last().is_some_and(|handler| handler.statements.is_empty())
        {
            return Err(self.error(*at, format!("no statement stands below `-- on {} {table}`", op.name())));
        }
        Ok(())
    }

    fn end_statement(&mut self) -> Result<(), DefinitionError> {
        if self.statement.is_empty() {
            return Ok(());
        }
        let open = std::mem::take(&mut self.statement);
        self.count += 1;
        if self.count > limits::VIEW_STATEMENTS_MAX {
            return Err(self.error(open.start, format!("more than {} statements", limits::VIEW_STATEMENTS_MAX)));
        }
        let uses = open.uses.into_iter();
        let statement = Statement {
            text: self.text[open.start..open.end].to_owned(),
            place: Place::START.after(&self.text[..open.start]),
            parameters: open.parameters,
            uses: uses.map(|(range, which)| (range.start - open.start..range.end - open.start, which)).collect(),
        };
        match (&self.section, self.done.handlers.last_mut()) {
            (Some((Section::On(..), _)), Some(handler)) => handler.statements.push(statement),
            _ => self.done.setup.push(statement),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOTALS: &str = "-- Totals per customer.
-- setup
create table totals (customer text primary key, orders integer not null, amount numeric not null);
-- on insert orders
insert into totals values (:row.customer, 1, :row.amount) -- one more
  on conflict (customer) do update set orders = orders + 1, amount = amount + excluded.amount;
-- On the other hand: not a marker.
-- on delete orders
update totals set orders = orders - 1, amount = amount - :old.amount where customer = :old.customer and ':old.x' <> '';
delete from totals where orders = 0
";

    fn read(text: &str) -> Result<Definition, DefinitionError> {
        Definition::parse("a.sql", text, Dialect::Sqlite)
    }

    #[test]
    fn a_definition_is_read() {
        let read = read(TOTALS).expect("it is one");
        assert_eq!(read.setup.len(), 1);
        assert_eq!(read.setup[0].place, Place { line: 3, column: 1 });
        let [insert, delete] = &read.handlers[..] else { panic!("{:?}", read.handlers) };
        assert_eq!((insert.op, insert.table.as_str(), insert.statements.len()), (Op::Insert, "orders", 1));
        assert_eq!((delete.op, delete.statements.len()), (Op::Delete, 2));
        assert_eq!(delete.statements[1].text, "delete from totals where orders = 0");
        let parameters = &delete.statements[0].parameters;
        assert_eq!(parameters, &[Parameter::Old("amount".into()), Parameter::Old("customer".into())]);
        assert!(read.needs_old(&insert.table));
    }

    #[test]
    fn parameters_get_the_stores_names_and_places_lead_back() {
        let read = read(TOTALS).expect("it is one");
        let statement = &read.handlers[1].statements[0];
        let written = statement.written(|index| format!("?{}", index + 1));
        assert!(written.sql.contains("amount - ?1 where customer = ?2 and ':old.x'"), "{}", written.sql);
        for word in ["update", "where", "customer =", "':old.x'"] {
            let (here, there) = (written.sql.find(word).expect("there"), statement.text.find(word).expect("there"));
            assert_eq!(written.original(here), there, "{word}");
        }
        let error = read.error_at(statement, statement.text.find("where").expect("there"), "x");
        assert_eq!(error.to_string(), "a.sql:9:70: x");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, place, part) in [
            ("select 1", "1:1", "before the first marker"),
            ("-- setup\ncreate table t(a)", "2:18", "there is no `-- on"),
            ("-- on insert t\nselect :row.a, :rwo.a", "2:16", "unknown parameter"),
            ("-- on insert t\nselect :row", "2:8", "names no column"),
            ("-- on insert t\nselect\n  :old.a", "3:3", "there is no row before it"),
            ("-- on delete t\nselect :row.a", "2:8", "use `:old.a`"),
            ("-- on truncate t\nselect :key", "2:8", "row by row"),
            ("-- setup\nselect :key", "2:8", "before there is a change"),
            ("-- on insert t\nselect ?1", "2:8", "no parameter of a view"),
            ("-- on insert t\nselect $a", "2:8", "no parameter of a view"),
            ("-- on inset t\nselect 1", "1:1", "no operation"),
            ("-- on insert\nselect 1", "1:1", "one table's name"),
            ("-- on insert t u\nselect 1", "1:1", "one table's name"),
            ("-- on insert t\n-- on delete t\nselect 1", "1:1", "no statement stands below"),
            ("-- on insert t\nselect 'a", "2:8", "does not end"),
            ("-- on insert t\nselect '\0'", "2:9", "NUL"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.starts_with(&format!("a.sql:{place}: ")) && error.contains(part), "{text}: {error}");
        }
        let long = format!("-- on insert t\n{}", "select 1;".repeat(limits::VIEW_STATEMENTS_MAX + 1));
        assert!(read(&long).expect_err("too many").why.contains("statements"));
        assert!(
            read(&" ".repeat(limits::VIEW_SQL_BYTES_MAX as usize + 1)).expect_err("too long").why.contains("bytes")
        );
        let names: String = (0..=limits::VIEW_PARAMETERS_MAX).map(|n| format!(", :row.c{n}")).collect();
        assert!(read(&format!("-- on insert t\nselect 1{names}")).expect_err("too many").why.contains("parameters"));
    }

    #[test]
    fn a_triggers_body_is_one_statement() {
        let text = "-- setup\ncreate trigger a after insert on t begin delete from t; select case when 1 then 2 end; end;\n\
                    create table u(a);\n-- on insert t\nselect 1";
        let setup = read(text).expect("it is one").setup;
        assert_eq!(setup.len(), 2);
        assert!(setup[0].text.ends_with("; end"), "{}", setup[0].text);
        let text = "-- setup\ncreate function f() returns int begin atomic select 1; select 2; end;\nselect $$;$$;\n-- on insert \"odd table\"\nselect 1::text";
        let read = Definition::parse("b.sql", text, Dialect::Postgres).expect("it is one");
        assert_eq!(read.setup.len(), 2);
        assert_eq!(read.handlers[0].table.as_str(), "odd table");
    }

    #[test]
    fn the_fingerprint_is_of_what_is_done() {
        let of = |text: &str| read(text).expect("it is one").fingerprint("sqlite");
        let text = "-- on insert t\ninsert into u values ('a  b', :row.a)";
        for same in [
            "-- note\n-- on insert t\ninsert  into u /* x */ values ('a  b', :row.a);",
            "\n--on INSERT   t\ninsert into u\n-- hm\nvalues ('a  b', :row.a) ;;",
        ] {
            assert_eq!(of(text), of(same), "{same}");
        }
        for other in [
            "-- on update t\ninsert into u values ('a  b', :row.a)",
            "-- on insert t2\ninsert into u values ('a  b', :row.a)",
            "-- on insert t\ninsert into u values ('a b', :row.a)",
            "-- setup\ncreate table u(a)\n-- on insert t\ninsert into u values ('a  b', :row.a)",
        ] {
            assert_ne!(of(text), of(other), "{other}");
        }
        assert_ne!(of(text), read(text).expect("it is one").fingerprint("postgres"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, dialect in prop_oneof![Just(Dialect::Sqlite), Just(Dialect::Postgres)]) {
            let _ = Definition::parse("x.sql", &text, dialect);
        }

        #[test]
        fn what_looks_like_a_definition_never_panics(
            lines in prop::collection::vec("(-- (setup|on (insert|delete|truncate) (t|\"a b\")))|[a-z:.;'\"$/*ä -]{0,30}|select :(row|old)\\.(a|\"b\") ;|create trigger begin;|end;", 0..12),
            dialect in prop_oneof![Just(Dialect::Sqlite), Just(Dialect::Postgres)],
        ) {
            let text = lines.join("\n");
            match Definition::parse("x.sql", &text, dialect) {
                Ok(read) => {
                    for statement in read.setup.iter().chain(read.handlers.iter().flat_map(|handler| &handler.statements)) {
                        let Place { line, column } = statement.place;
                        let here = text.split('\n').nth(line as usize - 1).expect("a line of the text");
                        let before: String = text.split('\n').take(line as usize - 1).map(|line| format!("{line}\n")).collect();
                        let start: usize = here.chars().take(column as usize - 1).map(char::len_utf8).sum();
                        prop_assert!(text[before.len() + start..].starts_with(&statement.text));
                        let written = statement.written(|index| format!("?{index}"));
                        for offset in 0..=written.sql.len() {
                            prop_assert!(written.original(offset) <= statement.text.len());
                        }
                    }
                }
                Err(error) => prop_assert!(error.line as usize <= text.lines().count() + 1),
            }
        }
    }
}
