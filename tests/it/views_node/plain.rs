//! Views that need no SQL, in a node that is a process.

use serde_json::json;

use super::calls::{append, ask};
use crate::tree::site::{Ground, Site, wait};

const SECTIONS: &str = "\
[log.orders]
append = true
[view.counts]
log = \"orders\"
count = { by = \"customer\" }
[view.last]
log = \"orders\"
latest = { indexes = [\"customer\"] }
persist_every = \"100ms\"
[view.sums]
log = \"orders\"
reduce = { init = \"0\", step = \"state + row.amount\", by = \"row.customer\" }
";

fn state(site: &Site, view: &str) -> String {
    let text = site.get(&format!("/v1/views/{view}?after=latest&timeout=30s")).expect("an answer").1;
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    shown["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn count_latest_and_reduce_answer_what_was_written_also_after_a_kill() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    site.configure(None, SECTIONS);
    site.up();
    for n in 1..=30i64 {
        let token = append(&site, if n % 2 == 0 { "ada" } else { "bob" }, n);
        let query = format!("?after={token}&timeout=30s");
        let (status, counts) = ask(&site, "counts", &query, "select * from counts", json!([]));
        assert_eq!((status, &counts["rows"][0][2]), (200, &n.into()), "{counts}");
        let (status, last) =
            ask(&site, "last", &query, "select * from orders where customer = 'ada' limit 1", json!([]));
        assert_eq!(status, 200, "{last}");
        assert_eq!(last["rows"].as_array().map(Vec::len), Some(usize::from(n > 1)), "{last}");
        let text = site.get(&format!("/v1/views/sums/{}/{}{query}", "states", "ada")).expect("an answer");
        let half = n / 2;
        if half > 0 {
            assert!(text.0 == 200 && text.1.contains(&(half * (half + 1)).to_string()), "{text:?}");
        }
        if n % 10 == 0 {
            site.kill();
            site.up();
        }
    }
    for view in ["counts", "last", "sums"] {
        wait("it has everything", || state(&site, view) == "current");
    }
    let (status, told) = ask(&site, "counts", "", "delete from counts", json!([]));
    assert!(matches!(status, 403 | 422), "{status} {told}");
    // Other settings are another view: it is built, and answers then.
    let by = SECTIONS.replace("count = { by = \"customer\" }", "count = {}");
    site.stop();
    site.configure(None, &by);
    site.up();
    wait("it is built by its new settings", || {
        let (status, told) = ask(&site, "counts", "?timeout=5s", "select * from values", json!([]));
        status == 404 || told["code"] == "WS-VIEW-064"
    });
    let (_, counts) = ask(&site, "counts", "?after=latest", "select * from counts", json!([]));
    assert_eq!(counts["rows"][0][2], 30, "{counts}");
}
