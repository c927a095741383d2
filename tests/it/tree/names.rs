//! Tables of a server whose names differ by the case of letters only.

use super::postgres::{CLUSTER, sends};
use super::site::{Ground, wait, wait_equal};

const BOTH: &str = "create table orders (id int primary key, note text); create table \"Orders\" (id int primary key, note text); \
    create table other (id int primary key)";

#[test]
fn they_stay_two_tables_at_a_server_and_a_file_takes_one_of_them() {
    let ground = Ground::new();
    let mut root = ground.server_site("root", &CLUSTER, BOTH);
    let mut server = ground.server_site("server", &CLUSTER, "create table orders (id int primary key, note text)");
    let mut file = ground.site("file", "pragma journal_mode = wal");
    root.sql("insert into orders select n, 'small' from generate_series(1, 3) n; insert into \"Orders\" select n, 'large' from generate_series(1, 5) n");
    root.configure(None, &sends("children", "\"*\""));
    for child in [&mut server, &mut file] {
        child.configure(Some(root.port), "");
    }
    root.up();
    server.up();
    file.up();
    let there = |site: &super::site::Site, table: &str| {
        site.try_sql(&format!("select count(*) from {table}")).stdout
            == root.try_sql(&format!("select count(*) from {table}")).stdout
    };
    wait("both are at the server", || there(&server, "orders") && there(&server, "\"Orders\""));
    root.sql("update orders set note = 'smaller'; update \"Orders\" set note = 'larger'; delete from \"Orders\" where id = 2; insert into other values (1)");
    wait_equal("select id, note from orders order by id", &[&root, &server]);
    wait_equal("select id, note from \"Orders\" order by id", &[&root, &server]);
    // The file has one of the two, whole; the other is parked, and holds up nobody.
    wait("the third table is there", || there(&file, "other"));
    file.wait_problem("differs from");
    let parked: Vec<&str> =
        ["orders", "Orders"].into_iter().filter(|name| file.source(name)["state"] == "parked").collect();
    let [parked] = parked[..] else { panic!("one is parked: {parked:?}") };
    let whole = if parked == "orders" { "\"Orders\"" } else { "orders" };
    let rows = format!("select id, note from {whole} order by id");
    wait_equal(&rows, &[&root, &file]);
}
