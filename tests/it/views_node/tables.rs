//! Views of `main`: of the tables of a node's database, from what they have on.

use serde_json::json;

use super::calls::ask;
use super::sql::write;
use crate::tree::postgres::CLUSTER;
use crate::tree::site::{Ground, Site, wait};

const SCHEMA: &str = "create table orders (id integer primary key, customer text not null, amount integer not null);
    insert into orders values (1, 'ada', 10), (2, 'bob', 20), (3, 'ada', 30);";

const TOTALS: &str = "\
-- setup
create table totals (customer text primary key, orders integer not null, amount integer not null);
-- on insert orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = orders + 1, amount = amount + excluded.amount;
-- on update orders
update totals set orders = orders - 1, amount = amount - :old.amount where customer = :old.customer;
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = orders + 1, amount = amount + excluded.amount;
-- on delete orders
update totals set orders = orders - 1, amount = amount - :old.amount where customer = :old.customer;
";

const SECTION: &str = "[view.totals]\nstore = \"sqlite:totals.db\"\nsql = \"totals.sql\"\n";
const ALL: &str = "select customer, orders, amount from totals where orders > 0 order by customer";

fn agrees(site: &Site, what: &str) {
    let expected = site.sql("select customer, count(*), sum(amount) from orders group by customer order by customer");
    let mut found = String::new();
    wait(what, || {
        let (status, answer) = ask(site, "totals", "?after=latest&timeout=20s", ALL, json!([]));
        if status == 503 && answer["reason"] == "rebuilding" {
            return false;
        }
        assert_eq!(status, 200, "{answer}");
        let rows = answer["rows"].as_array().expect("rows").iter().map(|row| {
            let text = |at: usize| row[at].as_str().map_or_else(|| row[at].to_string(), str::to_owned);
            format!("{}|{}|{}", text(0), text(1), text(2))
        });
        found = rows.collect::<Vec<_>>().join("\n");
        found == expected.trim()
    });
}

/// What was there before the node is in the view, once; and everything that comes.
fn follows(mut site: Site) {
    write(&site, "totals.sql", TOTALS);
    site.configure(None, SECTION);
    site.up();
    agrees(&site, "the view begins with what the table has");
    site.sql("insert into orders values (4, 'cyd', 5); update orders set amount = 11 where id = 1; update orders set customer = 'bob' where id = 3; delete from orders where id = 2");
    agrees(&site, "it follows");
    site.kill();
    site.sql("insert into orders values (5, 'cyd', 7)");
    site.up();
    agrees(&site, "also what was written while the node was down");
    // A changed definition begins with what the table has now.
    write(
        &site,
        "totals.sql",
        &TOTALS.replace("-- setup\n", "-- setup\ncreate table unused (a integer primary key);\n"),
    );
    let before = ask(&site, "totals", "", ALL, json!([])).1["definition"].clone();
    site.reload();
    wait("the new definition answers", || {
        site.sql("update orders set amount = amount + 1 where id = 5");
        ask(&site, "totals", "?timeout=20s", ALL, json!([])).1["definition"] != before
    });
    agrees(&site, "by the new definition");
    let (status, answer) = ask(&site, "totals", "?after=latest", "select count(*) from unused", json!([]));
    assert_eq!((status, &answer["rows"]), (200, &json!([[0]])), "{answer}");
}

#[test]
fn a_view_of_tables_in_sqlite_begins_with_their_rows_and_follows() {
    let ground = Ground::new();
    follows(ground.site("shop", SCHEMA));
}

#[test]
fn a_view_of_tables_in_postgres_begins_with_their_rows_and_follows() {
    let ground = Ground::new();
    follows(ground.server_site("shop", &CLUSTER, SCHEMA));
}

#[test]
fn who_writes_to_postgres_waits_with_the_place_of_its_commit() {
    let ground = Ground::new();
    let mut site = ground.server_site("shop", &CLUSTER, SCHEMA);
    write(&site, "totals.sql", TOTALS);
    site.configure(None, SECTION);
    site.up();
    site.wait_ready();
    for n in 1..=10 {
        let id = 100 + n;
        site.sql(&format!("insert into orders values ({id}, 'eve', 1)"));
        let lsn = site.sql("select pg_current_wal_lsn()");
        let query = format!("?after=lsn:shop/{}&timeout=30s", lsn.trim());
        let (status, answer) =
            ask(&site, "totals", &query, "select orders from totals where customer = 'eve'", json!([]));
        assert_eq!((status, &answer["rows"]), (200, &json!([[n]])), "{answer}");
    }
    for (token, status) in [("lsn:other/0/1", 409), ("lsn:shop/FFFFFFFF/0", 503)] {
        let (found, told) = ask(&site, "totals", &format!("?after={token}&timeout=200ms"), ALL, json!([]));
        assert_eq!(found, status, "{token}: {told}");
    }
}

#[test]
fn what_was_written_at_head_office_can_be_waited_for_at_the_branch() {
    let ground = Ground::new();
    let mut hub = ground.site("hq", SCHEMA);
    let mut branch = ground.site(
        "branch",
        "create table orders (id integer primary key, customer text not null, amount integer not null)",
    );
    write(&hub, "totals.sql", TOTALS);
    write(&branch, "totals.sql", TOTALS);
    hub.configure(None, &format!("[send.children]\ntables = [\"orders\"]\n[table.orders]\nowner = \"hq\"\n{SECTION}"));
    branch.configure(Some(hub.port), SECTION);
    hub.up();
    branch.up();
    branch.wait_ready();
    for n in 1..=5 {
        let id = 200 + n;
        hub.sql(&format!("insert into orders values ({id}, 'far', 1)"));
        // The token of whoever has seen it at head office.
        let (status, seen) =
            ask(&hub, "totals", "?after=latest", "select orders from totals where customer = 'far'", json!([]));
        assert_eq!(status, 200, "{seen}");
        if seen["rows"] != json!([[n]]) {
            // The commit has not been captured yet: nobody there has seen it.
            continue;
        }
        let cursor = seen["cursor"].as_str().expect("a cursor");
        let query = format!("?after={cursor}&timeout=30s");
        wait("the branch answers, once it has copied the table", || {
            let sql = "select orders from totals where customer = 'far'";
            let (status, answer) = ask(&branch, "totals", &query, sql, json!([]));
            let later = status == 503 && answer["reason"] == "rebuilding";
            assert!(status == 200 || later, "{answer}");
            assert!(later || answer["rows"][0][0].as_i64() >= Some(n), "{answer}");
            status == 200
        });
    }
    let nobodys = format!("{}-{}-1", "9".repeat(32), "a".repeat(16));
    let (status, told) = ask(&branch, "totals", &format!("?after={nobodys}&timeout=300ms"), ALL, json!([]));
    assert_eq!((status, &told["reason"]), (409, &"unknown".into()), "{told}");
    agrees(&branch, "the branch has what head office has");
}

#[test]
fn a_commit_at_head_office_can_be_waited_for_at_the_branch_by_its_place() {
    let ground = Ground::new();
    let mut hub = ground.server_site("hq", &CLUSTER, SCHEMA);
    let mut branch = ground.site(
        "branch",
        "create table orders (id integer primary key, customer text not null, amount integer not null)",
    );
    write(&branch, "totals.sql", TOTALS);
    hub.configure(None, "[send.children]\ntables = [\"orders\"]\n[table.orders]\nowner = \"hq\"\n");
    branch.configure(Some(hub.port), SECTION);
    hub.up();
    branch.up();
    branch.wait_ready();
    agrees(&branch, "the branch has begun");
    let sql = "select orders from totals where customer = 'far'";
    for n in 1..=12 {
        hub.sql(&format!("insert into orders values ({}, 'far', 1)", 200 + n));
        let place = hub.sql("select pg_current_wal_lsn()");
        let query = format!("?after=lsn:hq/{}&timeout=60s", place.trim());
        let (status, answer) = ask(&branch, "totals", &query, sql, json!([]));
        assert_eq!((status, &answer["rows"]), (200, &json!([[n]])), "{answer}");
        match n {
            4 => {
                branch.kill();
                branch.up();
            }
            8 => {
                hub.kill();
                hub.up();
            }
            _ => {}
        }
    }
    // What has not happened, who is not known, and who has no such database.
    for (token, status, reason) in
        [("lsn:hq/FFFFFFFF/0", 503, "not_yet"), ("lsn:nobody/0/1", 409, "unknown"), ("lsn:branch/0/1", 409, "unknown")]
    {
        let (found, told) = ask(&branch, "totals", &format!("?after={token}&timeout=3s"), ALL, json!([]));
        assert_eq!((found, told["reason"].as_str()), (status, Some(reason)), "{token}: {told}");
        eprintln!("{token}: {found} {told}");
    }
}

#[test]
fn a_view_that_is_killed_while_it_takes_in_its_tables_takes_them_in_again() {
    let ground = Ground::new();
    let many = "with recursive n(i) as (select 10 union all select i + 1 from n where i < 60000)
        insert into orders select i, 'c' || (i % 7) || hex(zeroblob(40)), i from n;";
    let mut site = ground.site("shop", &format!("{SCHEMA}{many}"));
    write(&site, "totals.sql", TOTALS);
    site.configure(None, SECTION);
    site.start();
    site.wait_log("rows of its tables, at position");
    site.kill();
    site.up();
    agrees(&site, "the view has every row, once");
}

/// Tables of the same width, so that rows of one would pass for rows of the other.
#[test]
fn views_without_sql_begin_with_the_rows_of_every_table() {
    let ground = Ground::new();
    let mut site = ground.site(
        "shop",
        &format!(
            "{SCHEMA} create table refunds (id integer primary key, customer text not null, amount integer not null);
             insert into refunds values (1, 'eve', 1), (7, 'fay', 2);"
        ),
    );
    site.configure(None, "[view.last]\nlatest = {}\n[view.counts]\ncount = {}\n");
    site.up();
    let row = |table: &str, key: u32| {
        let path = format!("/v1/views/last/{table}/{key}?after=latest&timeout=30s");
        site.get(&path).map(|(status, text)| (status, text.contains("eve"), text.contains("ada")))
    };
    wait("the views have begun", || row("refunds", 1) == Some((200, true, false)));
    assert_eq!(row("orders", 1), Some((200, false, true)));
    assert_eq!(row("orders", 7).map(|(status, ..)| status), Some(404), "7 is a key of the other table");
    let (status, counts) = ask(&site, "counts", "?after=latest", "select * from counts", json!([]));
    let text = counts["rows"].to_string();
    assert!(status == 200 && text.contains("[\"orders\"") && text.contains("[\"refunds\""), "{counts}");
}
