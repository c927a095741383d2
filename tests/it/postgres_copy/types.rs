//! Every type: out of one database by chunks, into a table made for it in another, equal.

use watershed::postgres::create_table_for;

use super::*;

pub const OWN: &str = r#"
    create extension hstore; create extension citext; create extension ltree;
    create schema "My Types";
    create type mood as enum ('sad', 'it''s "ok"', 'happy, very');
    create type "My Types"."Pair of" as (a int, "b c" text);
    create domain positive as int check (value > 0);
    create domain more_positive as positive check (value > 1);
    create type floats as range (subtype = float8);
"#;

/// Type and values.
pub const TYPES: &[(&str, &[&str])] = &[
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("real", &["NaN", "-Infinity", "1.17549435e-38", "0.1", "-0"]),
    ("double precision", &["NaN", "Infinity", "5e-324", "0.1", "1.7976931348623157e308"]),
    ("numeric", &["NaN", "-Infinity", "1.50", "123456789012345678901234567890.000000000000000000001"]),
    ("numeric(10,2)", &["12.50", "-99999999.99", "NaN"]),
    ("money", &["12.34", "-92233720368547758.08"]),
    ("boolean", &["t", "f"]),
    ("text", &["", " ", "NULL", "\\N", "a\tb\r\nc\\d", "\u{1}\u{7f}é漢🎈", "'\"", "{}"]),
    ("character varying(5)", &["ab", ""]),
    ("character(4)", &["ab", ""]),
    ("name", &["007"]),
    ("\"char\"", &["x"]),
    ("bytea", &["\\x", "\\x00ff5c0a09"]),
    ("date", &["4713-01-01 BC", "1500-02-28", "infinity", "5874897-12-31"]),
    ("time", &["24:00:00", "00:00:00.000001"]),
    ("time with time zone", &["24:00:00-15:59", "12:00+02"]),
    ("timestamp", &["4713-01-01 00:00:00 BC", "-infinity", "294276-12-31 23:59:59.999999"]),
    ("timestamp(3) with time zone", &["0044-03-15 12:00:00.123+01 BC", "2026-03-29 02:30:00+02"]),
    ("interval", &["-1 year 2 mons -3 days 04:05:06.789", "P1Y"]),
    ("interval day to second(3)", &["1 12:59:10.123"]),
    ("bit(5)", &["00101"]),
    ("bit varying", &["", "0001"]),
    ("json", &["{\"a\" : 1.0,  \"a\": null}", "1.0"]),
    ("jsonb", &["{\"a\": [1.0, \"\\\\ \\\" é\"]}", "1.0", "null"]),
    ("jsonpath", &["$.a[*] ? (@ > 1)"]),
    ("uuid", &["00112233-4455-6677-8899-AABBCCDDEEFF"]),
    ("xml", &["<a>&lt;</a>"]),
    ("inet", &["10.0.0.1/8", "::1"]),
    ("cidr", &["10.0.0.0/8"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("integer[]", &["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={1,2}"]),
    ("text[]", &["{\"a,b\",\"\",NULL,\"NULL\",\"q\\\"\\\\\"}"]),
    ("date[]", &["{2000-01-01,infinity}"]),
    ("bytea[]", &["{\"\\\\\\\\x00\"}"]),
    ("jsonb[]", &["{\"{\\\"a\\\": 1}\",NULL}"]),
    ("mood", &["it's \"ok\"", "happy, very"]),
    ("mood[]", &["{\"it's \\\"ok\\\"\"}"]),
    ("\"My Types\".\"Pair of\"", &["(1,\"x, \"\"y\"\"\")", "(,)", "(,\"\")"]),
    ("\"My Types\".\"Pair of\"[]", &["{\"(1,a)\"}"]),
    ("more_positive", &["7"]),
    ("int4range", &["[1,5)", "empty", "(,)"]),
    ("tstzrange", &["[\"2000-01-01 00:00:00+00\",infinity)"]),
    ("floats", &["[0.1,1e300)"]),
    ("int8multirange", &["{[1,3),[5,7)}", "{}"]),
    ("hstore", &["\"a\"=>\"1\", \"b\"=>NULL"]),
    ("citext", &["MiXed"]),
    ("ltree", &["Top.Science"]),
    ("tsvector", &["'a':1A 'it''s':2"]),
    ("tsquery", &["'a' & !'b'"]),
    ("point", &["(0.1,-1e300)"]),
    ("path", &["[(0,0),(1,1)]"]),
    ("polygon", &["((0,0),(1,1),(1,0))"]),
    ("circle", &["<(0,0),1>"]),
    ("box", &["(1,1),(0,0)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("oid", &["4294967295"]),
    ("xid8", &["18446744073709551615"]),
    ("pg_lsn", &["16/B374D848"]),
];

pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_arrive_as_they_were() {
    let source = Database::new(OWN);
    let destination = Database::new(OWN);
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(i, (name, _))| format!("c{i} {name}")).collect();
    source.sql(&format!("create table t (id int primary key, {})", columns.join(", ")));
    let most = TYPES.iter().map(|(_, values)| values.len()).max().expect("types");
    let row = |n: usize| {
        let value = |(_, values): &(&str, &[&str])| values.get(n).map_or("null".to_string(), |text| literal(text));
        format!("insert into t values ({n}, {})", TYPES.iter().map(value).collect::<Vec<_>>().join(", "))
    };
    let inserts: Vec<String> = (0..=most).map(row).collect();
    source.sql(&inserts.join(";"));
    let mut reader = source.reader().await;
    let chunks = read_all(&mut reader, "t", 3, 1 << 20).await;
    let def = &chunks[0].def;
    assert_eq!(def.columns[1 + 6].type_name.as_ref(), "numeric(10,2)");
    let rows = rows(&chunks);
    destination.sql(&create_table_for(def, &rows));
    let inserts: Vec<String> = rows
        .iter()
        .map(|row| {
            let value = |value: &Value| match value.kind {
                Kind::Null => "null".to_string(),
                _ => literal(std::str::from_utf8(&value.text).expect("UTF-8")),
            };
            format!("insert into t values ({})", row.iter().map(value).collect::<Vec<_>>().join(", "))
        })
        .collect();
    destination.sql(&inserts.join(";"));
    let types = "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = 't'::regclass and attnum > 0 order by attnum";
    assert_eq!(source.sql(types), destination.sql(types));
    for (i, (type_name, values)) in TYPES.iter().enumerate() {
        let sql = format!("set extra_float_digits = 3; select quote_nullable(c{i}::text) from t order by id");
        let (there, here) = (source.sql(&sql), destination.sql(&sql));
        assert_eq!(there, here, "{type_name}");
        assert!(there.lines().filter(|line| *line != "NULL").count() >= values.len(), "{type_name} has values");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_made_for_sqlites_declarations_take_sqlites_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.db");
    let conn = rusqlite::Connection::open(&path).expect("a database");
    conn.execute_batch(
        "create table orders (id integer primary key, note varchar(3), total decimal(9, 2), photo blob, ratio real, at datetime, ok boolean, x);
         insert into orders values (9223372036854775807, 'longer', 1.23456, x'00ff', 0.1, '2020-01-01', 1, 'any')",
    )
    .expect("filled");
    let mut reader = watershed::sqlite::Reader::open(&path).expect("opens");
    let chunk = watershed::sqlite::Reader::read_chunk(&mut reader, &name("orders"), None, 10, 1000).expect("a chunk");
    let database = Database::new(&create_table_for(&chunk.def, &chunk.rows));
    let values: Vec<String> = chunk.rows[0]
        .iter()
        .map(|value| match value.kind {
            Kind::Blob => {
                format!("decode('{}', 'hex')", value.text.iter().map(|b| format!("{b:02x}")).collect::<String>())
            }
            _ => literal(std::str::from_utf8(&value.text).expect("UTF-8")),
        })
        .collect();
    database.sql(&format!("insert into orders values ({})", values.join(", ")));
    assert_eq!(
        database.sql("select * from orders"),
        "9223372036854775807|longer|1.23456|\\x00ff|0.1|2020-01-01|t|any\n"
    );
}
