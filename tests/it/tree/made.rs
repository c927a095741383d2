//! Tables that a node does not have are made for their first copy, with their indexes.

use super::postgres::{CLUSTER, sends};
use super::site::{Ground, Site, wait, wait_equal};

const TABLE: &str = "create table items (id int primary key, code text, secret text, note text); create unique index by_code on items (code); \
    create index by_secret on items (secret); create index by_note on items (note desc); \
    create index partial on items (note) where note > 'm';";

fn indexes(site: &Site) -> Vec<String> {
    let sql = "select indexdef from pg_indexes where tablename = 'items' order by indexname";
    site.sql(sql).lines().map(|line| line.replace("public.", "")).collect()
}

#[test]
fn a_server_makes_a_table_as_its_parent_has_it_and_a_parent_one_that_many_may_write() {
    let ground = Ground::new();
    let mut root = ground.server_site("root", &CLUSTER, "");
    let mut middle = ground.server_site("middle", &CLUSTER, TABLE);
    let mut leaf = ground.server_site("leaf", &CLUSTER, "");
    middle
        .sql("insert into items select n, 'code ' || n, 'secret', 'note ' || n % 100 from generate_series(1, 20000) n");
    root.configure(None, "");
    let filter = "[[send.children.filter]]\ntables = [\"items\"]\ndrop_columns = [\"secret\"]\n";
    middle.configure(Some(root.port), &(sends("parent", "\"items\"") + &sends("children", "\"items\"") + filter));
    leaf.configure(Some(middle.port), "");
    for site in [&mut root, &mut middle, &mut leaf] {
        site.up();
    }
    let rows = "select count(*), min(code), max(note), sum(id) from items";
    let there = |site: &Site| site.try_sql(rows).stdout == middle.try_sql(rows).stdout;
    wait("the rows are there", || there(&root) && there(&leaf));
    let key = "CREATE UNIQUE INDEX items_pkey ON items USING btree (id)";
    let (code, note, secret) = (
        "(code)",
        "CREATE INDEX by_note ON items USING btree (note DESC)",
        "CREATE INDEX by_secret ON items USING btree (secret)",
    );
    let unique = format!("CREATE UNIQUE INDEX by_code ON items USING btree {code}");
    let shared = format!("CREATE INDEX by_code ON items USING btree {code}");
    wait("the indexes are built above", || indexes(&root) == [&shared, note, secret, key]);
    wait("the indexes are built below", || indexes(&leaf) == [&unique, note, key]);
    middle.wait_ready();
    assert!(root.log().contains("index partial of items is not made"), "what is not made is said");
    middle.sql("update items set note = 'changed' where id % 10 = 0; delete from items where id % 7 = 0");
    wait_equal(rows, &[&root, &middle, &leaf]);
}
