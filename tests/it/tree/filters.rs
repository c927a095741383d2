//! Nothing leaves unless selected, and what no longer passes goes away.

use super::postgres::CLUSTER;
use super::site::{Ground, Site, wait, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal;
create table customers (id integer primary key, region text, site text, name, ssn text);
create table plain (id integer primary key, v text);";

const ALL: &str = "select id, region, site, name, ssn from customers order by id";

fn sites<const N: usize>(ground: &Ground, names: [&str; N]) -> [Site; N] {
    names.map(|name| ground.site(name, SCHEMA))
}

fn has(site: &Site, what: &str, expected: &str) {
    wait(&format!("{what} at {}: {expected:?}, there is {:?}", site.name, site.sql(what)), || {
        site.sql(what) == expected
    });
}

/// What hq owns and sends to its children.
fn down(filters: &str) -> String {
    format!(
        "[send.children]\ntables = [\"customers\", \"plain\"]\n{filters}[table.customers]\nowner = \"hq\"\n[table.plain]\nowner = \"hq\"\n"
    )
}

const OWNED: &str = "[table.customers]\nowner = \"hq\"\n[table.plain]\nowner = \"hq\"\n";

fn when(text: &str) -> String {
    format!("[[send.children.filter]]\ntables = [\"customers\"]\nwhen = '{text}'\n")
}

#[test]
fn rows_enter_and_leave_and_columns_stay_at_home() {
    let ground = Ground::new();
    let [mut hq, mut north] = sites(&ground, ["hq", "north"]);
    let filters = when("row.region == \"EU\"")
        + "[[send.children.filter]]\ntables = [\"*\"]\nwhen = 'row.id < 100'\n"
        + "[[send.children.filter]]\ntables = [\"customers\"]\ndrop_columns = [\"ssn\"]\n";
    hq.configure(None, &down(&filters));
    north.configure(Some(hq.port), OWNED);
    hq.sql("insert into customers values (1, 'EU', 'x', 'a', 's1'), (2, 'US', 'x', 'b', 's2'), (200, 'EU', 'x', 'c', 's3')");
    hq.up();
    north.up();
    has(&north, ALL, "1|EU|x|a|\n");
    hq.sql("update customers set region = 'EU' where id = 2");
    has(&north, ALL, "1|EU|x|a|\n2|EU|x|b|\n");
    hq.sql(
        "update customers set region = 'US' where id = 1; update customers set name = 'bb', ssn = 'zz' where id = 2",
    );
    has(&north, ALL, "2|EU|x|bb|\n");
    hq.sql("update customers set id = 3 where id = 2; update customers set id = 4 where id = 200; delete from customers where id = 1");
    has(&north, ALL, "3|EU|x|bb|\n4|EU|x|c|\n");
    hq.sql("insert into plain values (5, 'sent'), (500, 'not sent')");
    has(&north, "select * from plain", "5|sent\n");
    let log = north.does(&["log", "read", "main", "--json"]);
    assert!(!log.contains("\"s1\"") && !log.contains("\"zz\"") && !log.contains("not sent"), "{log}");
}

#[test]
fn operations_are_restricted() {
    let ground = Ground::new();
    let [mut hq, mut north] = sites(&ground, ["hq", "north"]);
    let filter = "[[send.children.filter]]\ntables = [\"customers\"]\nops = [\"insert\", \"update\"]\n";
    hq.configure(None, &down(filter));
    north.configure(Some(hq.port), OWNED);
    hq.up();
    north.up();
    hq.sql("insert into customers values (1, 'EU', 'x', 'a', ''), (2, 'EU', 'x', 'b', '')");
    has(&north, "select id from customers order by id", "1\n2\n");
    hq.sql("delete from customers where id = 1");
    hq.sql("update customers set name = 'later' where id = 2");
    has(&north, "select id, name from customers order by id", "1|a\n2|later\n");
}

#[test]
fn one_rule_serves_all_children_and_composes_over_two_hops() {
    let ground = Ground::new();
    let [mut hq, mut north, mut south, mut n1] = sites(&ground, ["hq", "north", "south", "n1"]);
    hq.configure(
        None,
        &down(&when(
            "row.site == destination || row.site == \"both\" || destination == \"north\" && row.site == \"n1\"",
        )),
    );
    north.configure(
        Some(hq.port),
        &down(&when("row.site == destination || row.region == \"EU\" && row.site == \"both\"")),
    );
    south.configure(Some(hq.port), OWNED);
    n1.configure(Some(north.port), OWNED);
    hq.sql("insert into customers values (1, 'EU', 'north', '', ''), (2, 'EU', 'south', '', ''), (3, 'US', 'both', '', ''), (4, 'EU', 'n1', '', '')");
    for site in [&mut hq, &mut north, &mut south, &mut n1] {
        site.up();
    }
    let ids = "select id from customers order by id";
    has(&north, ids, "1\n3\n4\n");
    has(&south, ids, "2\n3\n");
    has(&n1, ids, "4\n");
    hq.sql("update customers set site = 'south' where id = 1; update customers set region = 'EU' where id = 3; insert into customers values (5, 'EU', 'n1', '', '')");
    has(&north, ids, "3\n4\n5\n");
    has(&south, ids, "1\n2\n3\n");
    has(&n1, ids, "3\n4\n5\n");
    hq.sql("update customers set site = 'south' where id = 4; delete from customers where id = 3");
    has(&north, ids, "5\n");
    has(&south, ids, "1\n2\n4\n");
    has(&n1, ids, "5\n");
}

#[test]
fn a_changed_filter_has_its_table_copied_afresh() {
    let ground = Ground::new();
    let [mut hq, mut north] = sites(&ground, ["hq", "north"]);
    hq.configure(None, &down(&when("row.region == \"EU\"")));
    north.configure(Some(hq.port), OWNED);
    hq.sql("insert into customers values (1, 'EU', 'x', 'a', ''), (2, 'US', 'x', 'b', '')");
    hq.sql("insert into plain values (1, 'p')");
    hq.up();
    north.up();
    let ids = "select id from customers order by id";
    has(&north, ids, "1\n");
    has(&north, "select id from plain", "1\n");
    wait("north's cursor is known", || hq.status()["links"][0]["acknowledged"].is_u64());
    let plain = north.log().matches("copying plain").count();
    hq.stop();
    hq.configure(None, &down(&when("row.region == \"US\"")));
    hq.up();
    has(&north, ids, "2\n");
    hq.configure(None, &down(&when("row.id > 0")));
    hq.reload();
    has(&north, ids, "1\n2\n");
    hq.configure(None, &down(""));
    hq.reload();
    hq.sql("insert into customers values (0, 'US', 'x', 'c', '')");
    has(&north, ids, "0\n1\n2\n");
    assert_eq!(north.log().matches("copying plain").count(), plain, "the other table goes on: {}", north.log());
}

#[test]
fn a_filter_over_a_column_that_is_not_there_is_found_before_anything_is_sent() {
    let ground = Ground::new();
    let [mut hq, mut north] = sites(&ground, ["hq", "north"]);
    hq.configure(None, &down(&when("row.regoin == \"EU\"")));
    for command in [vec!["check"], vec!["run"], vec!["run", "--dry-run"]] {
        let output = hq.watershed(&command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{command:?}: {text}");
        assert!(text.contains("regoin"), "{command:?}: {text}");
    }
    // A reload with it is refused as a whole; the node goes on as before.
    hq.configure(None, &down(&when("row.region == \"EU\"")));
    north.configure(Some(hq.port), OWNED);
    hq.up();
    north.up();
    hq.configure(None, &down(&when("row.regoin == \"EU\"")));
    hq.reload();
    hq.wait_log("the configuration is not reloaded");
    hq.sql("insert into customers values (1, 'EU', 'x', 'a', ''), (2, 'US', 'x', 'b', '')");
    has(&north, "select id from customers order by id", "1\n");
}

#[test]
fn a_filter_that_fails_on_a_row_stops_its_link_alone_and_leaks_nothing() {
    let ground = Ground::new();
    let [mut hq, mut north, mut south] = sites(&ground, ["hq", "north", "south"]);
    let to_north = "[send.child.north]\ntables = [\"customers\", \"plain\"]\n[[send.child.north.filter]]\ntables = [\"customers\"]\nwhen = ";
    let broken = format!("{}{to_north}'row.name > 5'\n", down(""));
    hq.configure(None, &broken);
    north.configure(Some(hq.port), OWNED);
    south.configure(Some(hq.port), OWNED);
    hq.sql("insert into customers values (1, 'EU', 'x', 6, ''), (2, 'EU', 'x', 4, '')");
    for site in [&mut hq, &mut north, &mut south] {
        site.up();
    }
    let ids = "select id from customers order by id";
    has(&north, ids, "1\n");
    hq.sql("insert into customers values (3, 'EU', 'x', 7, '')");
    has(&north, ids, "1\n3\n");
    hq.sql("insert into customers values (4, 'EU', 'x', 8, ''), (5, 'EU', 'x', 'text', '')");
    hq.sql("insert into plain values (1, 'later')");
    has(&south, ids, "1\n2\n3\n4\n5\n");
    has(&south, "select count(*) from plain", "1\n");
    hq.wait_problem("WS-SEND-001");
    north.wait_problem("WS-SEND-001");
    assert!(hq.log().contains("WS-SEND-001"), "{}", hq.log());
    assert_eq!(north.sql(ids), "1\n3\n");
    assert_eq!(north.sql("select count(*) from plain"), "0\n");
    hq.configure(None, &format!("{}{to_north}'row.id != 2 && row.id < 5'\n", down("")));
    hq.reload();
    has(&north, ids, "1\n3\n4\n");
    wait_equal("select * from plain", &[&hq, &north, &south]);
    wait("the problem is gone", || !hq.status()["problems"].to_string().contains("WS-SEND-001"));
}

#[test]
fn a_filter_that_fails_during_a_first_copy_stops_the_link_and_says_so() {
    let ground = Ground::new();
    let [mut hq, mut north] = sites(&ground, ["hq", "north"]);
    hq.configure(None, &down(&when("row.name > 5")));
    north.configure(Some(hq.port), OWNED);
    hq.sql("insert into customers values (1, 'EU', 'x', 6, ''), (2, 'EU', 'x', null, '')");
    hq.up();
    north.up();
    hq.wait_problem("WS-SEND-001");
    north.wait_problem("WS-SEND-001");
    assert_eq!(north.sql("select count(*) from customers"), "0\n");
    hq.configure(None, &down(&when("row.id == 1")));
    hq.reload();
    has(&north, "select id from customers", "1\n");
}

/// On a server, what is stored apart and did not change is not sent: a row that enters a filter is whole all the same, and a filter
/// may look at it.
#[test]
fn rows_with_large_values_that_did_not_change_enter_and_leave_and_are_looked_at() {
    let ground = Ground::new();
    let schema = "create table cust (id int primary key, region text, n int, big text); alter table cust alter big set storage external; \
                  create table looked (id int primary key, n int, big text); alter table looked alter big set storage external; \
                  create table owned (id int primary key, site text, n int, big text); alter table owned alter big set storage external";
    let mut hq = ground.server_site("hq", &CLUSTER, schema);
    let mut north = ground.server_site("north", &CLUSTER, schema);
    let rule = |table: &str, when: &str| {
        format!("[[send.children.filter]]\ntables = [\"{table}\"]\nwhen = '{when}'\nkeys_may_leave = true\n")
    };
    let filters = rule("cust", "row.region == \"EU\"") + &rule("looked", "row.big.startsWith(\"c\")");
    let owned = "[table.owned]\nowner_by = 'row.big.startsWith(\"h\") ? \"hq\" : \"north\"'\n";
    hq.configure(None, &format!("[send.children]\ntables = [\"cust\", \"looked\", \"owned\"]\n{filters}{owned}"));
    north.configure(Some(hq.port), owned);
    hq.sql(
        "insert into cust select n, 'US', n, repeat('c' || n, 4000) from generate_series(1, 6) n; \
            insert into looked values (1, 1, repeat('c', 9000)), (2, 2, repeat('d', 9000)), (3, 3, repeat('c', 9000)), (4, 4, repeat('c', 9000)); \
            insert into owned values (1, 'hq', 1, repeat('h', 9000))",
    );
    hq.up();
    north.up();
    north.wait_ready();
    has(&north, "select id from looked order by id", "1\n3\n4\n");
    has(&north, "select id, n from owned", "1|1\n");
    let all = |table: &str, which: &str| format!("select id, n, md5(big) from {table} where {which} order by id");
    let same = |hq: &Site, table: &str, which: &str| has(&north, &all(table, "true"), &hq.sql(&all(table, which)));
    // It enters; it enters and goes on; by its key; in a transaction that is large.
    hq.sql("update cust set region = 'EU' where id = 1");
    hq.sql("update cust set region = 'EU', n = 20 where id = 2; update cust set n = 21 where id = 2");
    hq.sql("update cust set id = 30, region = 'EU' where id = 3");
    hq.sql(
        "begin; insert into cust select n, 'US', n, repeat('x', 3000) from generate_series(1000, 1100) n; \
            update cust set region = 'EU' where id >= 1000; commit",
    );
    same(&hq, "cust", "region = 'EU'");
    hq.sql("update looked set n = 11 where id = 1; update looked set n = 12 where id = 2; update owned set n = 2");
    same(&hq, "looked", "id <> 2");
    same(&hq, "owned", "true");
    hq.sql("update cust set region = 'US' where id = 1; update looked set big = repeat('c', 9001) where id = 2");
    same(&hq, "cust", "region = 'EU'");
    same(&hq, "looked", "true");
    // While nobody reads: the row is another one, or gone, when its values are read.
    hq.kill();
    hq.sql("update cust set region = 'EU' where id = 4");
    hq.sql("update cust set big = repeat('later', 2000) where id = 4");
    hq.sql("update cust set region = 'EU' where id = 5");
    hq.sql("delete from cust where id = 5");
    hq.sql("update cust set region = 'EU' where id = 6");
    hq.sql("update cust set id = 60 where id = 6");
    hq.sql("update looked set n = 30 where id = 3");
    hq.sql("delete from looked where id = 3");
    hq.sql("update looked set id = 40 where id = 4");
    hq.sql("update looked set id = 41, n = 41 where id = 40");
    hq.up();
    same(&hq, "cust", "region = 'EU'");
    same(&hq, "looked", "true");
    same(&hq, "owned", "true");
    wait("nobody has a problem", || {
        [&hq, &north].iter().all(|site| site.status()["problems"] == serde_json::json!([]))
    });
}
