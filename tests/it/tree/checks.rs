//! What `check` says of PostgreSQL databases beyond what keeps a node from starting.

use super::postgres::{CLUSTER, ORDERS, OWNED, SERVER, sends, wait_same};
use super::site::{Ground, Site, wait, wait_equal};
use watershed::testing::postgres::Cluster;

fn check(site: &Site) -> String {
    site.does(&["check"])
}

#[test]
fn owner_by_a_column_outside_of_the_key_wants_whole_old_rows_and_says_how() {
    let ground = Ground::new();
    let parted = "create table parted (site text, n int, v int, primary key (n)) partition by range (n);
                  create table parted_1 partition of parted for values from (0) to (100);
                  create table by_key (site text, n int, v int, primary key (site, n));";
    let owned: String =
        ["parted", "by_key"].map(|table| format!("[table.{table}]\nowner_by = \"row.site\"\n")).concat();
    let mut root = ground.server_site("root", &CLUSTER, &format!("{SERVER} {parted}"));
    root.configure(None, &format!("{}{OWNED}{owned}", sends("children", "\"orders\", \"parted\", \"by_key\"")));
    let said = check(&root);
    let wanted = [
        "ALTER TABLE \"public\".\"orders\" REPLICA IDENTITY FULL;",
        "ALTER TABLE \"public\".\"parted\" REPLICA IDENTITY FULL; ALTER TABLE public.parted_1 REPLICA IDENTITY FULL;",
    ];
    for words in
        wanted.iter().chain(&["table orders: owner_by needs site", "because nobody could tell whose row it was"])
    {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    assert!(!said.contains("table by_key: owner_by"), "its key has the column: {said}");
    for statement in wanted {
        root.sql(statement);
    }
    let said = check(&root);
    assert!(!said.contains("owner_by"), "{said}");
    // An index with the column in it is as good.
    root.sql("alter table orders alter site set not null; alter table orders replica identity default; create unique index mine on orders (site, id)");
    assert!(check(&root).contains("table orders: owner_by needs site"));
    root.sql("alter table orders replica identity using index mine");
    assert!(!check(&root).contains("owner_by"));
}

#[test]
fn a_server_that_only_receives_needs_neither_a_slot_nor_a_logical_transaction_log() {
    let ground = Ground::new();
    let plain = Cluster::with(&[
        ("fsync", "off"),
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("max_replication_slots", "1"),
    ]);
    let mut root = ground.server_site("root", &CLUSTER, SERVER);
    let mut leaf = ground.server_site(
        "leaf",
        &plain,
        &format!(
            "{SERVER} create role small login; alter table orders owner to small; alter table marks owner to small"
        ),
    );
    root.configure(None, &sends("children", "\"orders\", \"marks\""));
    let url = leaf.url();
    leaf.moves(url.replace("postgres@", "small@"));
    leaf.configure(Some(root.port), "");
    leaf.moves(url.clone());
    root.sql("insert into orders values (1, 'root', 1, 'one')");
    root.up();
    // What applying needs is still asked for, and nothing else.
    let refused = leaf.watershed(&["check"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    for code in ["008", "010", "011"] {
        assert!(said.contains(&format!("WS-PGCAPTURE-{code}")), "{code} in {said}");
    }
    for code in ["003", "004", "005", "006", "007"] {
        assert!(!said.contains(&format!("WS-PGCAPTURE-{code}")), "{code} in {said}");
    }
    for todo in said.lines().filter_map(|line| line.split(" / do: ").nth(1)) {
        plain.sql(&url, &todo[..todo.rfind(';').expect("a statement") + 1]);
    }
    check(&leaf);
    leaf.up();
    leaf.wait_ready();
    root.sql("update orders set note = 'two'; insert into orders values (2, 'root', 2, 'x'); insert into marks values (1, true)");
    wait("marks came", || leaf.sql("select count(*) from marks") == "1\n");
    wait_equal(ORDERS, &[&root, &leaf]);
    wait_same(&root, &leaf);
    assert_eq!(leaf.sql("select count(*) from pg_replication_slots"), "0\n");
    // As soon as something of it is captured, the rest is asked for.
    leaf.stop();
    leaf.configure(Some(root.port), "[send.children]\ntables = [\"orders\"]\n");
    let said = String::from_utf8_lossy(&leaf.watershed(&["run"]).stderr).into_owned();
    assert!(said.contains("WS-PGCAPTURE-003") && said.contains("wal_level is minimal"), "{said}");
}

#[test]
fn what_a_copys_database_lacks_is_a_warning_and_keeps_nobody_from_running() {
    let ground = Ground::new();
    let mut root = ground.server_site("root", &CLUSTER, SERVER);
    let copy = CLUSTER.database();
    let name = copy.rsplit('/').next().expect("a name");
    CLUSTER.sql(&copy, &format!("create role \"copy {name}\" login"));
    let small = copy.replace("postgres@", &format!("copy%20{name}@"));
    root.configure(None, &format!("[copy.standby]\nurl = \"{small}\"\ntables = [\"*\"]\n[copy.gone]\nurl = \"{copy}_gone\"\ntables = [\"*\"]\n"));
    let said = check(&root);
    for words in ["copy standby: ", "WS-PGCAPTURE-011", "copy gone: ", "does not exist"] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    assert!(!said.contains("may not replicate"), "a copy is not captured: {said}");
    root.up();
}

/// First copies come out of a database: a node that is only a log says what its children do not get.
#[test]
fn a_node_that_is_only_a_log_says_that_nothing_can_be_copied_from_it() {
    let ground = Ground::new();
    let mut middle = ground.log_site("middle");
    middle.configure(None, &sends("children", "\"orders\""));
    let said = check(&middle);
    assert!(said.contains("this node has no database, so its children can copy nothing from it"), "{said}");
    middle.up();
    middle.wait_log("its children can copy nothing from it");
    middle.stop();
    middle.configure(None, "");
    assert!(!check(&middle).contains("can copy nothing"), "nothing is sent to children");
}
