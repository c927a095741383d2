//! A node's own log, its database's changes included, for readers over HTTP: what `[send.feed]` lists, and nothing else.

use super::*;
use crate::tree::site::wait;

const SCHEMA: &str = "create table orders (id integer primary key, region text, ssn text, v text);
    create table secret (id integer primary key, x text);";
const FEED: &str = "[send.feed]\ntables = [\"orders\"]\n[[send.feed.filter]]\ntables = [\"orders\"]\n\
    when = 'row.region == \"EU\"'\ndrop_columns = [\"ssn\"]\nkeys_may_leave = true\n";

/// A node with that database and those sections; everything is captured.
fn shop(ground: &Ground, tokens: &str, sections: &str) -> Site {
    let mut site = ground.site("shop", SCHEMA);
    configure(&mut site, tokens, sections);
    site.up();
    site.wait_ready();
    site
}

fn configure(site: &mut Site, tokens: &str, sections: &str) {
    site.configure(None, sections);
    let text = std::fs::read_to_string(site.config()).expect("a configuration");
    let text = text.replacen("listen", &format!("{tokens}listen"), 1);
    let text = text.replacen("[database]\n", "[database]\ncapture = [\"*\"]\n", 1);
    std::fs::write(site.config(), text).expect("written");
    for name in ["EU", "other"] {
        std::fs::write(site.dir.join(format!("{name}.token")), format!("{name}-secret\n")).expect("written");
    }
}

fn ask(site: &Site, query: &str, token: Option<&str>) -> (u16, String, Option<String>) {
    let mut request = agent().get(format!("http://127.0.0.1:{}/v1/logs/main/entries{query}", site.port));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut answer = request.call().expect("an answer");
    let cursor = answer.headers().get("watershed-cursor").map(|cursor| cursor.to_str().expect("text").to_owned());
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"), cursor)
}

fn operator(site: &Site) -> String {
    std::fs::read_to_string(site.data().join("admin.token")).expect("a token").trim().to_owned()
}

/// Waits until the operator sees so many entries; the tail.
fn logged(site: &Site, text: &str) {
    let token = operator(site);
    wait(&format!("{text} is logged"), || ask(site, "", Some(&token)).1.contains(text));
}

#[test]
fn readers_get_what_is_listed_and_passes_and_nothing_else() {
    let ground = Ground::new();
    let mut site = shop(&ground, "", "");
    assert_eq!(ask(&site, "", None).0, 401, "nothing by default");
    site.kill();
    configure(&mut site, "", FEED);
    site.up();
    site.sql("insert into orders values (1, 'EU', 's-one', 'a'), (2, 'US', 's-two', 'b')");
    site.sql("insert into secret values (1, 'hidden')");
    site.sql("insert into orders values (3, 'US', 's-three', 'c')");
    site.sql("insert into orders values (4, 'EU', 's-four', 'd')");
    // What commits between two polls of SQLite is one transaction: what comes last is to be one of its own.
    logged(&site, "s-four");
    site.sql("update orders set region = 'US' where id = 4");
    logged(&site, "\"op\":\"update\"");
    site.sql("insert into secret values (2, 'last')");
    logged(&site, "last");
    let (status, text, _) = ask(&site, "", None);
    assert_eq!(status, 200, "{text}");
    for word in ["s-one", "s-two", "ssn", "hidden", "secret", "US", "last"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let changes: Vec<&Json> = lines.iter().flat_map(|line| line["changes"].as_array().expect("changes")).collect();
    let shown = |at: usize| (changes[at]["op"].as_str().expect("an op"), changes[at]["key"].to_string());
    assert_eq!(changes.len(), 3, "{text}");
    assert_eq!((shown(0).0, shown(1).0, shown(2).0), ("insert", "insert", "delete"), "{text}");
    // Nobody finds out by asking what is withheld.
    for query in [
        "?tables=secret",
        "?where=row.ssn+%3D%3D+%22s-one%22",
        "?where=row.x+%3D%3D+%22hidden%22",
        "?key=2&tables=orders",
    ] {
        let (status, text, _) = ask(&site, query, None);
        assert_eq!((status, text.as_str()), (200, ""), "{query}");
    }
    // The cursor advances over what is not for the reader.
    let last = lines.last().expect("a line")["cursor"].as_str().expect("a cursor");
    let (_, text, cursor) = ask(&site, &format!("?after={last}"), None);
    let cursor = cursor.expect("where the reader is");
    assert_eq!(text, "");
    assert_ne!(cursor, last);
    assert_eq!(ask(&site, &format!("?after={cursor}"), None), (200, String::new(), Some(cursor)));
    // An operator sees everything; nobody mirrors it.
    assert!(ask(&site, "", Some(&operator(&site))).1.contains("hidden"));
    let raw = agent().get(format!("http://127.0.0.1:{}/v1/logs/main/entries?limit=0", site.port));
    assert_eq!(raw.header("Accept", "application/vnd.watershed.entries").call().expect("an answer").status(), 409);
}

#[test]
fn a_reader_gets_what_is_for_it_and_a_right_alone_is_not_enough() {
    let ground = Ground::new();
    let token = |name: &str| format!("{{ name = \"{name}\", token_file = \"{name}.token\", may = [\"read:main\"] }}");
    let tokens = format!("tokens = [{}, {}]\n", token("EU"), token("other"));
    let mut site = shop(&ground, &tokens, "");
    let (status, refused, _) = ask(&site, "", Some("EU-secret"));
    assert!(status == 403 && refused.contains("WS-HTTP-032"), "{refused}");
    site.kill();
    configure(&mut site, &tokens, &FEED.replace("\"EU\"", "destination"));
    site.up();
    site.sql("insert into orders values (1, 'EU', 's', 'a'), (2, 'other', 's', 'b')");
    logged(&site, "other");
    let values = |token: &str| {
        let (status, text, _) = ask(&site, "", Some(token));
        assert_eq!(status, 200, "{text}");
        (text.contains("\"a\""), text.contains("\"b\""))
    };
    assert_eq!(values("EU-secret"), (true, false));
    assert_eq!(values("other-secret"), (false, true));
    assert_eq!(ask(&site, "", None).0, 401);
}

#[test]
fn a_filter_that_fails_sends_nothing_by_mistake() {
    let ground = Ground::new();
    let site = shop(&ground, "", &FEED.replace("row.region == \"EU\"", "int(row.v) > 1"));
    site.sql("insert into orders values (1, 'EU', 's', '7')");
    logged(&site, "\"7\"");
    site.sql("insert into orders values (2, 'EU', 's', 'private words')");
    logged(&site, "private words");
    site.sql("insert into orders values (3, 'EU', 's', '9')");
    logged(&site, "\"9\"");
    let (status, text, _) = ask(&site, "", None);
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("\"7\"") && text.contains("WS-HTTP-022") && !text.contains("\"9\""), "{text}");
    let first: Json = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    let (status, refused, _) = ask(&site, &format!("?after={}", first["cursor"].as_str().expect("a cursor")), None);
    assert!(status == 500 && refused.contains("WS-HTTP-033"), "{refused}");
    assert!(!text.contains("private") && !refused.contains("private"), "{text} {refused}");
    site.wait_log("WS-SEND-015");
}

#[test]
fn events_carry_the_reader_over_what_is_not_for_it() {
    let ground = Ground::new();
    let site = shop(&ground, "", FEED);
    site.sql("insert into secret values (1, 'hidden')");
    logged(&site, "hidden");
    let url = format!("http://127.0.0.1:{}/v1/logs/main/entries?after=0", site.port);
    let body = agent().get(&url).header("Accept", "text/event-stream").call().expect("an answer").into_body();
    let mut lines = BufReader::new(body.into_reader()).lines();
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.starts_with("data:")) {
        seen.push(lines.next().expect("a line").expect("text"));
    }
    assert_eq!(seen[1], "event: current");
    let id = seen[0].strip_prefix("id: ").expect("a cursor");
    assert_eq!(ask(&site, &format!("?after={id}"), None).2.as_deref(), Some(id));
}
