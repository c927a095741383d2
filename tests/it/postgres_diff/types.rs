//! Every type of PostgreSQL into SQLite and back.

use watershed::postgres::PgReader;
use watershed::view::TableReader;

use super::*;
use crate::postgres_copy::types::{OWN, TYPES, literal};

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_come_back_from_sqlite_as_they_were() {
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(i, (name, _))| format!("c{i} {name}")).collect();
    let table = format!("{OWN} create table t (id int primary key, {});", columns.join(", "));
    let most = TYPES.iter().map(|(_, values)| values.len()).max().expect("types");
    let row = |n: usize| {
        let value = |(_, values): &(&str, &[&str])| values.get(n).map_or("null".to_string(), |text| literal(text));
        format!("insert into t values ({n}, {})", TYPES.iter().map(value).collect::<Vec<_>>().join(", "))
    };
    let inserts: Vec<String> = (0..=most).map(row).collect();
    let (source, back) = (database(&format!("{table}{}", inserts.join(";"))), database(&table));
    let mut reader = PgReader::open(&Endpoint::from_url(&source).expect("a URL")).await.expect("connects");
    let chunk = reader.read_chunk(&name("t"), None, 100, 1 << 20).await.expect("a chunk");
    let file = File::new(&watershed::sqlite::create_table_for(&chunk.def, &chunk.rows));
    let (mut one, mut two, mut three) = (server(&source).await, file.side(), server(&back).await);
    assert_eq!(repair(&mut one, &mut two, "t").await.written, most as u64 + 1);
    expect_equal(&compare(&mut one, &mut two, "t").await);
    assert_eq!(repair(&mut two, &mut three, "t").await.written, most as u64 + 1);
    let diff = compare(&mut one, &mut three, "t").await;
    assert!(diff.is_equal(), "{diff:?}");
    for (i, (type_name, _)) in TYPES.iter().enumerate() {
        // SQLite has no zero with a sign.
        let sql = format!(
            "set extra_float_digits = 3; select case c{i}::text when '-0' then '0' else quote_nullable(c{i}::text) end from t order by id"
        );
        let (there, here) = (CLUSTER.sql(&source, &sql), CLUSTER.sql(&back, &sql));
        assert_eq!(there.replace("'0'", "0"), here.replace("'0'", "0"), "{type_name}");
    }
}
