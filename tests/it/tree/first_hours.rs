//! What a new user meets first: a table that is not there yet, a node that has not captured anything yet.

use super::site::{Ground, wait, wait_equal};

const ORDERS: &str = "select * from orders order by id";
const OWNED: &str = "[table.orders]\nowner = \"hq\"\n";

#[test]
fn a_table_that_is_missing_is_made_by_its_first_copy() {
    let ground = Ground::new();
    let schema = "pragma journal_mode = wal; create table orders (id integer primary key, note text);";
    let mut hq = ground.site("hq", schema);
    let mut branch = ground.site("branch", "pragma journal_mode = wal; create table other (id integer primary key);");
    hq.configure(None, &format!("[send.children]\ntables = [\"orders\"]\n{OWNED}"));
    branch.configure(Some(hq.port), OWNED);
    hq.sql("insert into orders values (1, 'before')");
    hq.up();
    let check = branch.watershed(&["check"]);
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.success() && said.contains("hq sends the table orders"), "{said}");
    branch.up();
    wait("the table is made", || branch.sql("select name from sqlite_schema where name = 'orders'") == "orders\n");
    wait_equal(ORDERS, &[&hq, &branch]);
    hq.sql("insert into orders values (2, 'after')");
    wait("what follows arrives too", || branch.sql(ORDERS) == "1|before\n2|after\n");
    wait("no lane is left", || branch.status()["tables"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn what_is_written_while_a_node_is_down_is_read_even_if_it_had_never_read_anything() {
    let ground = Ground::new();
    let mut hq =
        ground.site("hq", "pragma journal_mode = wal; create table orders (id integer primary key, note text);");
    hq.configure(None, &format!("[send.children]\ntables = [\"orders\"]\n{OWNED}"));
    hq.up();
    hq.stop();
    hq.sql("insert into orders values (1, 'meanwhile')");
    hq.up();
    wait("it is logged", || hq.status()["log"]["tail"].as_u64() == Some(1));
    let read = hq.watershed(&["log", "read", "--json"]);
    let text = String::from_utf8_lossy(&read.stdout);
    assert!(text.contains(r#""op":"insert""#) && !text.contains(r#""op":"copied""#), "{text}");
}
