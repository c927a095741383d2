//! Views by SQL, kept in PostgreSQL by a process.

use serde_json::json;

use super::calls::{append, ask};
use super::sql::write;
use crate::tree::site::{Ground, wait};
use crate::views::postgres::CLUSTER;

/// For SQLite and PostgreSQL alike.
pub const TOTALS: &str = "\
-- setup
create table totals (customer text primary key, orders integer not null, amount integer not null);
-- on insert orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = totals.orders + 1, amount = totals.amount + excluded.amount;
";

#[test]
fn what_is_appended_can_be_asked_for_at_once_after_a_kill_and_by_a_changed_definition() {
    let (ground, url) = (Ground::new(), CLUSTER.database());
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", TOTALS);
    let view = format!("[view.totals]\nlog = \"orders\"\nstore = \"{url}\"\nsql = \"totals.sql\"\n");
    site.configure(None, &format!("[log.orders]\nappend = true\n{view}"));
    site.up();
    let mut sum = 0;
    for n in 1..=12 {
        let token = append(&site, "ada", n);
        sum += n;
        let sql = "select orders, amount from totals where customer = $1";
        let (status, answer) = ask(&site, "totals", &format!("?after={token}&timeout=30s"), sql, json!(["ada"]));
        assert_eq!((status, &answer["rows"]), (200, &json!([[n, sum]])), "{answer}");
        if n % 5 == 0 {
            site.kill();
            site.up();
        }
    }
    let doubled = TOTALS.replace("(:row.customer, 1, :row.amount)", "(:row.customer, 1, 2 * :row.amount)");
    write(&site, "totals.sql", &doubled);
    site.reload();
    wait("the new definition answers", || {
        let token = append(&site, "ada", 1);
        sum += 1;
        let query = format!("?after={token}&timeout=30s");
        let (status, answer) = ask(&site, "totals", &query, "select amount from totals", json!([]));
        assert_eq!(status, 200, "{answer}");
        let found = answer["rows"][0][0].as_i64().expect("a sum");
        assert!(found == sum || found == 2 * sum, "{answer}");
        found == 2 * sum
    });
    let refused = ask(&site, "totals", "", "select pg_read_file('/etc/passwd')", json!([]));
    assert_eq!((refused.0, &refused.1["code"]), (403, &json!("WS-VIEW-061")), "{}", refused.1);
}
