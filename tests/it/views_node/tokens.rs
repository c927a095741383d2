//! Tokens that are none, and those of elsewhere.

use super::bed::{Bed, Place};

/// A cursor with some of its parts replaced.
fn altered(token: &str, log: Option<&str>, epoch: Option<&str>, position: Option<&str>) -> String {
    let parts: Vec<&str> = token.split('-').collect();
    format!("{}-{}-{}", log.unwrap_or(parts[0]), epoch.unwrap_or(parts[1]), position.unwrap_or(parts[2]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_can_never_be_met_is_refused_at_once() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    let token = bed.append("orders", 1).await;
    let other = bed.append("others", 1).await;
    let unknown = [
        (other.clone(), "another log of this node"),
        (format!("{token},{other}"), "one of which is of another log"),
        (altered(&token, Some(&"9".repeat(32)), None, None), "a log that nobody knows"),
        (altered(&token, None, Some("00000000000000aa"), None), "an epoch that the log never had"),
        (altered(&token, None, None, Some("2")), "the future"),
        (altered(&token, None, None, Some("18446744073709551615")), "the far future"),
        ("lsn:hub/0/1".to_owned(), "a place in a database, for a view of a feed"),
    ];
    for (token, what) in unknown {
        let began = std::time::Instant::now();
        for stale in ["", "&on_timeout=stale"] {
            let (status, told) = bed.sum(&format!("?after={token}&timeout=20s{stale}")).await;
            assert_eq!(
                (status, &told["reason"], &told["code"]),
                (409, &"unknown".into(), &"WS-VIEW-055".into()),
                "{what}: {told}"
            );
        }
        let (status, _) = bed.ask("sum", "", &[("Watershed-Cursor", &token)]).await;
        assert_eq!(status, 409, "{what}, in the header");
        assert!(began.elapsed() < std::time::Duration::from_secs(15), "{what}: it was waited for");
    }
    let garbage =
        ["x", "1-2-3", ",", "lsn:", "lsn:hub", "lsn:hub/1", "lsn:hub/0/1/2x", "latest,latest", &"a,".repeat(9000)];
    for token in garbage {
        let (status, told) = bed.ask("sum", "", &[("Watershed-Cursor", token)]).await;
        assert_eq!((status, &told["code"]), (400, &"WS-VIEW-041".into()), "{token:.40}: {told}");
    }
    assert_eq!(bed.sum(&format!("?after={token}")).await.0, 200);
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_from_before_a_restart_and_one_of_what_was_trimmed_are_good() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    let old = bed.append("orders", 1).await;
    bed.append("orders", 2).await;
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    bed.down().await;
    let bed = Bed::up(dir.path(), &place, 1).await;
    assert_eq!(bed.sum(&format!("?after={old}")).await.0, 200, "of an earlier epoch");
    let (status, _) = bed.order("/v1/logs/orders/trim", "{\"upto\":2}").await;
    assert_eq!(status, 200);
    let (status, answer) = bed.sum(&format!("?after={old}")).await;
    assert_eq!((status, &answer["rows"][0][0]), (200, &2.into()), "the view has it: {answer}");
    bed.down().await;
}
