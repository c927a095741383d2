//! A child moves to another parent and back; circles that form later; taking it all away.

use super::site::{Ground, Site, wait, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal;
create table orders (id integer primary key, site text, note text);
create table prices (id integer primary key, v integer);";

const DOWN: &str = "[send.children]\ntables = [\"prices\"]\n";
const UP: &str = "[send.parent]\ntables = [\"orders\"]\n[table.prices]\nowner = [\"hq\", \"east\"]\n[table.orders]\nowner_by = \"row.site\"\n";
const OWNED: &str = "[table.prices]\nowner = [\"hq\", \"east\"]\n[table.orders]\nowner_by = \"row.site\"\n";
const PRICES: &str = "select * from prices order by id";
const ORDERS: &str = "select * from orders order by id";

#[test]
fn a_child_moves_to_another_parent_and_back() {
    let ground = Ground::new();
    let [mut hq, mut east, mut north] = ["hq", "east", "north"].map(|name| ground.site(name, SCHEMA));
    for site in [&mut hq, &mut east] {
        site.configure(None, &format!("{DOWN}{OWNED}"));
        site.up();
    }
    hq.sql("insert into prices values (1, 10), (2, 20)");
    east.sql("insert into prices values (2, 21), (3, 30)");
    north.configure(Some(hq.port), UP);
    north.up();
    north.sql("insert into orders values (1, 'north', 'a'), (2, 'north', 'b')");
    wait_equal(PRICES, &[&hq, &north]);
    wait_equal(ORDERS, &[&hq, &north]);
    north.configure(Some(east.port), UP);
    north.reload();
    wait_equal(PRICES, &[&east, &north]);
    wait_equal(ORDERS, &[&east, &north]);
    north.sql("delete from orders where id = 1; insert into orders values (3, 'north', 'c')");
    wait_equal(ORDERS, &[&east, &north]);
    hq.sql("update prices set v = 11 where id = 1");
    east.sql("update prices set v = 31 where id = 3");
    wait_equal(PRICES, &[&east, &north]);
    north.stop();
    north.configure(Some(hq.port), UP);
    north.up();
    wait_equal(PRICES, &[&hq, &north]);
    wait_equal(ORDERS, &[&hq, &north]);
    assert_eq!(north.sql(PRICES), "1|11\n2|20\n");
}

/// Links that stand, seen from their child.
fn parents(sites: &[Site]) -> usize {
    let stands = |site: &&Site| {
        let status = site.status();
        let links = status["links"].as_array().cloned().unwrap_or_default();
        links.iter().any(|link| link["role"] == "parent" && link["state"] == "connected")
    };
    sites.iter().filter(stands).count()
}

#[test]
fn a_circle_that_forms_later_is_noticed() {
    let ground = Ground::new();
    let mut sites = ["a", "b", "c"].map(|name| ground.site(name, SCHEMA));
    let [a, b, c] = &mut sites;
    a.configure(None, "");
    b.configure(Some(a.port), "");
    c.configure(Some(b.port), "");
    for site in &mut sites {
        site.up();
    }
    wait("the tree stands", || parents(&sites) == 2);
    let port = sites[2].port;
    sites[0].configure(Some(port), "");
    sites[0].stop();
    sites[0].up();
    wait("somebody says that it is a circle", || {
        sites.iter().any(|site| site.log().contains("WS-PEER-008") || site.log().contains("WS-NODE-004"))
    });
    wait("it is shown", || {
        sites.iter().any(|site| {
            let problems = site.status()["problems"].to_string();
            problems.contains("WS-PEER-008") || problems.contains("WS-NODE-004")
        })
    });
    wait("the rest stands", || parents(&sites) == 2);
    sites[0].configure(None, "");
    sites[0].reload();
    wait("the tree stands again", || parents(&sites) == 2 && parents(&sites[..1]) == 0);
}

#[test]
fn everything_can_be_taken_out_of_the_database_and_begun_again() {
    let ground = Ground::new();
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, &format!("{DOWN}{OWNED}"));
    north.configure(Some(hq.port), UP);
    hq.sql("insert into prices values (1, 10)");
    north.sql("insert into orders values (1, 'north', 'a')");
    hq.up();
    north.up();
    wait_equal(PRICES, &[&hq, &north]);
    wait_equal(ORDERS, &[&hq, &north]);
    north.sql("insert into orders values (9, 'north', 'captured')");
    wait_equal(ORDERS, &[&hq, &north]);
    let refused = north.watershed(&["source", "drop", "database", "--yes"]);
    assert!(!refused.status.success(), "not while it runs");
    north.stop();
    assert!(north.sql("select name from sqlite_schema").contains("watershed"));
    assert_eq!(north.watershed(&["source", "drop", "database"]).status.code(), Some(2), "it wants --yes");
    north.does(&["source", "drop", "database", "--yes"]);
    let schema = north.sql("select name from sqlite_schema");
    assert!(!schema.contains("watershed"), "{schema}");
    // Changes that nobody saw.
    north.sql("update orders set note = 'unseen'; insert into orders values (2, 'north', 'b'); delete from prices");
    hq.sql("insert into prices values (2, 20)");
    north.up();
    wait_equal(ORDERS, &[&hq, &north]);
    wait_equal(PRICES, &[&hq, &north]);
    north.sql("insert into orders values (3, 'north', 'c')");
    wait_equal(ORDERS, &[&hq, &north]);
}

#[test]
fn a_dropped_peer_keeps_nothing_and_copies_afresh_when_it_comes_back() {
    let ground = Ground::new();
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, &format!("{DOWN}{OWNED}"));
    north.configure(Some(hq.port), UP);
    hq.sql("insert into prices values (1, 10)");
    hq.up();
    north.up();
    wait_equal(PRICES, &[&hq, &north]);
    north.stop();
    hq.does(&["source", "drop", "north", "--yes"]);
    assert!(!hq.does(&["log", "ls", "--json"]).contains("north"));
    hq.stop();
    let unknown = hq.watershed(&["source", "drop", "north", "--yes"]);
    assert!(!unknown.status.success(), "nobody of that name is known any more");
    hq.sql("delete from prices; insert into prices values (5, 50)");
    hq.up();
    north.up();
    wait_equal(PRICES, &[&hq, &north]);
    north.sql("insert into orders values (1, 'north', 'a')");
    wait_equal(ORDERS, &[&hq, &north]);
}
