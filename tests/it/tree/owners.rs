//! A row has one writing node.

use super::site::{Ground, Site, wait, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal;
create table orders (id integer primary key, site text, note text);
create table prices (id integer primary key, v integer);
create table free (id integer primary key, v text);";

fn pair(ground: &Ground, at_hq: &str, at_north: &str) -> (Site, Site) {
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, at_hq);
    north.configure(Some(hq.port), at_north);
    hq.up();
    north.up();
    (hq, north)
}

const OWNERS: &str = "[table.orders]\nowner_by = \"row.site\"\n[table.prices]\nowner = \"hq\"\n";

#[test]
fn a_write_by_another_node_is_refused_where_it_is_captured_and_the_rest_flows() {
    let ground = Ground::new();
    let send = "tables = [\"orders\", \"prices\", \"free\"]\n";
    let (hq, north) = pair(&ground, OWNERS, &format!("[send.parent]\n{send}{OWNERS}"));
    north.sql(
        "begin; insert into orders values (1, 'north', 'mine'), (2, 'hq', 'not mine'), (3, null, 'nobody');
         insert into prices values (1, 5); insert into free values (1, 'rest'); commit",
    );
    wait_equal("select * from free", &[&hq, &north]);
    wait("the owned row", || hq.sql("select * from orders") == "1|north|mine\n");
    assert_eq!(hq.sql("select count(*) from prices"), "0\n");
    wait("it is counted", || north.counter("refused_writes") == 3);
    assert!(north.log().contains("WS-OWN-001"), "{}", north.log());
    assert!(north.get("/metrics").expect("metrics").1.contains("watershed_refused_writes_total 3"));
    // Giving a row away, and taking one.
    north.sql("update orders set site = 'hq' where id = 1; update orders set site = 'north' where id = 2");
    north.sql("insert into free values (2, 'more')");
    wait_equal("select * from free", &[&hq, &north]);
    assert_eq!(hq.sql("select * from orders"), "1|north|mine\n");
    assert_eq!(north.counter("refused_writes"), 5);
}

#[test]
fn a_write_by_another_node_is_refused_at_ingress_too() {
    let ground = Ground::new();
    // north knows no owners, hq does.
    let (hq, north) = pair(&ground, OWNERS, "[send.parent]\ntables = [\"orders\", \"prices\", \"free\"]\n");
    hq.wait_source("prices", "live");
    hq.wait_source("orders", "live");
    north.sql("begin; insert into prices values (1, 5); insert into orders values (1, 'hq', 'forged'), (2, 'north', 'ok'); insert into free values (1, 'rest'); commit");
    wait_equal("select * from free", &[&hq, &north]);
    wait("the owned row", || hq.sql("select * from orders") == "2|north|ok\n");
    assert_eq!(hq.sql("select count(*) from prices"), "0\n");
    wait("it is counted", || hq.counter("refused_writes") == 2);
    assert!(hq.get("/metrics").expect("metrics").1.contains("watershed_refused_writes_total 2"));
}

#[test]
fn a_table_sent_both_ways_without_an_owner_is_refused_and_both_go_on() {
    let ground = Ground::new();
    let down = "[send.children]\ntables = [\"free\"]\n";
    let up = "[send.parent]\ntables = [\"free\"]\n";
    let (mut hq, mut north) = pair(&ground, down, up);
    for site in [&hq, &north] {
        site.wait_problem("WS-OWN-002");
        site.wait_log("WS-OWN-002");
        wait("the link is shown as refused", || {
            site.status()["links"].as_array().is_some_and(|links| {
                links.iter().any(|l| l["state"] == "refused" && l["error"].to_string().contains("WS-OWN-002"))
            })
        });
    }
    let check = north.watershed(&["check"]);
    let text = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(3), "{text}");
    assert!(text.contains("WS-OWN-002"), "{text}");
    north.sql("insert into free values (1, 'north')");
    wait("it logs on", || north.status()["log"]["tail"].as_u64() > Some(0));
    assert_eq!(hq.sql("select count(*) from free"), "0\n");
    let diverge = "[table.free]\nconflicts = \"may-diverge\"\n";
    hq.configure(None, &format!("{down}{diverge}"));
    north.configure(Some(hq.port), &format!("{up}{diverge}"));
    hq.reload();
    north.reload();
    wait_equal("select * from free", &[&hq, &north]);
    hq.sql("insert into free values (2, 'hq')");
    wait_equal("select * from free order by id", &[&hq, &north]);
    assert_eq!(north.sql("select count(*) from free"), "2\n");
    for site in [&hq, &north] {
        wait("no problem is left", || !site.status()["problems"].to_string().contains("WS-OWN-002"));
    }
}

#[test]
fn a_table_that_becomes_two_way_later_ends_the_link() {
    let ground = Ground::new();
    let up = "[send.parent]\ntables = [\"*\"]\n[table.orders]\nowner_by = \"row.site\"\n[table.prices]\nowner = \"north\"\n[table.free]\nowner = \"north\"\n";
    let (hq, north) = pair(&ground, "[send.children]\ntables = [\"later\"]\n", up);
    north.sql("insert into free values (1, 'a')");
    wait_equal("select * from free", &[&hq, &north]);
    north.sql("create table later (id integer primary key); insert into later values (1)");
    for site in [&hq, &north] {
        site.wait_problem("WS-OWN-002");
    }
    assert!(!hq.try_sql("select * from later").status.success());
}
