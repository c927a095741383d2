//! One view at several nodes, in every kind of store: equal states at equal places, also while everything moves; and of tables,
//! what was followed, what was built anew and what a replica has.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::{Value as Json, json};

use super::calls::{append, post};
use super::postgres::TOTALS;
use super::sql::write;
use crate::tree::site::{Ground, Site, wait};
use crate::views::postgres::CLUSTER;

fn digest(site: &Site, view: &str, query: &str) -> (u16, Json) {
    let (status, text) = site.get(&format!("/v1/views/{view}/digest?{query}")).expect("an answer");
    (status, serde_json::from_str(&text).expect("JSON"))
}

fn tail(site: &Site) -> u64 {
    let text = site.get("/v1/logs/orders").expect("an answer").1;
    serde_json::from_str::<Json>(&text).expect("JSON")["tail"].as_u64().expect("a tail")
}

fn section(view: &str, store: &str) -> String {
    format!("[view.{view}]\nlog = \"orders\"\nstore = \"{store}\"\nsql = \"totals.sql\"\n")
}

/// Digests of the same place, asked for at the same time; `None` where one has gone past.
fn compared(views: &[(&Site, &str)], place: u64) -> Option<Vec<Json>> {
    let query = &format!("at={place}&timeout=60s");
    let all: Vec<(u16, Json)> = std::thread::scope(|scope| {
        let asked = views.iter().map(|&(site, view)| scope.spawn(move || digest(site, view, query)));
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    for (status, told) in &all {
        assert!(*status == 200 || *status == 409 && told["reason"] == "passed", "{status} {told}");
    }
    all.iter().all(|(status, _)| *status == 200).then(|| all.into_iter().map(|(_, told)| told).collect())
}

/// Compares at five places while the log moves.
fn compares(hub: &Site, views: &[(&Site, &str)]) {
    let mut seen = Vec::new();
    for more in [40, 80, 160].into_iter().cycle().take(60) {
        let place = tail(hub) + more;
        let Some(all) = compared(views, place) else { continue };
        for told in &all {
            assert_eq!((&told["digest"], &told["cursor"]), (&all[0]["digest"], &all[0]["cursor"]), "{all:#?}");
        }
        assert!(!seen.contains(&all[0]["digest"]), "it moves, so it is never the same: {all:#?}");
        seen.push(all[0]["digest"].clone());
        if seen.len() == 5 {
            return;
        }
    }
    panic!("only {} times nobody had gone past", seen.len());
}

#[test]
fn nodes_have_equal_digests_at_equal_places_while_the_log_moves_in_every_kind_of_store() {
    let ground = Ground::new();
    let (mut hub, mut reader) = (ground.log_site("hub"), ground.log_site("reader"));
    write(&hub, "totals.sql", TOTALS);
    write(&reader, "totals.sql", TOTALS);
    hub.configure(None, &format!("[log.orders]\nappend = true\n{}", section("totals", "sqlite:totals.db")));
    hub.up();
    let (memory, server) = (section("totals", "memory"), section("served", &CLUSTER.database()));
    let mirror = format!("[log.orders]\nmirror = \"http://127.0.0.1:{}/v1/logs/orders\"\n", hub.port);
    reader.configure(None, &format!("{mirror}{memory}{server}"));
    reader.up();
    append(&hub, "first", 1);
    wait("it is mirrored", || tail(&reader) >= tail(&hub));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let mut n = 0;
            while !stop.load(SeqCst) {
                n += 1;
                append(&hub, &format!("c{}", n % 50), n);
            }
        });
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            compares(&hub, &[(&hub, "totals"), (&reader, "totals"), (&reader, "served")]);
            // What is left after a kill is the same state.
            reader.kill();
            reader.up();
            compares(&hub, &[(&hub, "totals"), (&reader, "totals"), (&reader, "served")]);
        }));
        stop.store(true, SeqCst);
        writes.join().expect("no panic");
        work.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    // As operators do it: at a cursor, from the command line.
    let cursor = append(&hub, "last", 1);
    let shown = |site: &Site, view: &str| site.does(&["view", "digest", view, "--at", &cursor]);
    let at_hub = shown(&hub, "totals");
    assert!(at_hub.contains("rows at") && at_hub.contains(&cursor), "{at_hub}");
    assert_eq!((shown(&reader, "totals"), shown(&reader, "served")), (at_hub.clone(), at_hub));
    let past = hub.watershed(&["view", "digest", "totals", "--at", "1"]);
    let words = String::from_utf8_lossy(&past.stderr);
    assert_eq!(past.status.code(), Some(5), "{words}");
    assert!(words.contains("WS-VIEW-120") && words.contains("has gone past"), "{words}");
    let both = hub.watershed(&["view", "digest", "totals", "--at", "1", "--latest"]);
    assert_eq!(both.status.code(), Some(2));
}

const SCHEMA: &str = "create table orders (id integer primary key, customer text not null, amount integer not null);";

/// The table as it is: its last row for every key.
const COPY: &str = "\
-- setup
create table copied (id integer primary key, customer text not null, amount integer not null);
-- on insert orders
insert into copied values (:row.id, :row.customer, :row.amount);
-- on update orders
delete from copied where id = :old.id;
insert into copied values (:row.id, :row.customer, :row.amount);
-- on delete orders
delete from copied where id = :old.id;
-- on truncate orders
delete from copied;
";

/// The digest once the view has what the other node had, and its rows.
fn settled(site: &Site, after: &str) -> Json {
    let mut found = Json::Null;
    wait("the view has it", || {
        let (status, told) = digest(site, "copy", &format!("after={after}&timeout=30s"));
        let later = status == 503 && ["rebuilding", "not_yet"].contains(&told["reason"].as_str().unwrap_or_default());
        assert!(status == 200 || later, "{told}");
        found = told;
        status == 200
    });
    found
}

fn rebuilt(site: &Site) {
    let built = |site: &Site| {
        let text = site.get("/v1/views/copy").expect("an answer").1;
        serde_json::from_str::<Json>(&text).expect("JSON")["building"].is_null()
    };
    site.does(&["view", "rebuild", "copy"]);
    wait("it is built anew", || built(site));
    assert!(site.log().contains("answers by its new definition"), "{}", site.log());
}

fn agree(mut hq: Site, mut branch: Site) {
    let store = "[view.copy]\nstore = \"sqlite:copy.db\"\nsql = \"copy.sql\"\n";
    write(&hq, "copy.sql", COPY);
    write(&branch, "copy.sql", COPY);
    hq.configure(None, &format!("[send.children]\ntables = [\"orders\"]\n[table.orders]\nowner = \"hq\"\n{store}"));
    branch.configure(Some(hq.port), store);
    hq.up();
    branch.up();
    branch.wait_ready();
    for n in 1..=30 {
        hq.sql(&format!("insert into orders values ({n}, 'c{}', {n})", n % 4));
        match n % 5 {
            0 => drop(
                hq.sql(&format!("update orders set amount = amount + 100, customer = 'moved' where id = {}", n / 2)),
            ),
            3 => drop(hq.sql(&format!("delete from orders where id = {}", n - 1))),
            _ => {}
        }
    }
    let expected: u64 = hq.sql("select count(*) from orders").trim().parse().expect("a number");
    let sum: i64 = hq.sql("select sum(amount) from orders").trim().parse().expect("a number");
    wait("everything that was written has been captured", || {
        let sql = "select count(*), sum(amount) from copied";
        let (status, answer) = post(&hq, "/v1/views/copy/query?after=latest&timeout=30s", &json!({ "sql": sql }));
        status == 200 && answer["rows"][0][0] == expected && answer["rows"][0][1] == sum
    });
    let followed = settled(&hq, "latest");
    let cursor = followed["cursor"].as_str().expect("a cursor");
    let mut replica = Json::Null;
    wait("the branch has it", || {
        replica = settled(&branch, cursor);
        replica["rows"] == expected
    });
    assert_eq!(replica["digest"], followed["digest"], "the replica: {replica} {followed}");
    for site in [&hq, &branch] {
        rebuilt(site);
        let anew = settled(site, "latest");
        assert_eq!(
            (&anew["digest"], &anew["rows"]),
            (&followed["digest"], &json!(expected)),
            "built anew at {}",
            site.name
        );
    }
    hq.sql("update orders set amount = 0 where id = 1");
    wait("another row, another number", || settled(&hq, "latest")["digest"] != followed["digest"]);
}

#[test]
fn of_tables_in_sqlite_what_was_followed_what_was_built_anew_and_the_replica_are_equal() {
    let ground = Ground::new();
    agree(ground.site("hq", SCHEMA), ground.site("branch", SCHEMA));
}

#[test]
fn of_tables_in_postgres_what_was_followed_what_was_built_anew_and_the_replica_are_equal() {
    let ground = Ground::new();
    let cluster = &crate::tree::postgres::CLUSTER;
    agree(ground.server_site("hq", cluster, SCHEMA), ground.server_site("branch", cluster, SCHEMA));
}
