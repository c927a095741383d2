//! What is copied where: `[events]` and the original's file.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use watershed::node::events::Settings;

fn file(name: &str, text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("written");
    (dir, path)
}

fn load(name: &str, text: &str) -> (Settings, Vec<String>) {
    let (_dir, path) = file(name, text);
    Settings::load(&path).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The codes of all mistakes, and their text.
fn refusal(name: &str, text: &str) -> (Vec<&'static str>, String) {
    let (_dir, path) = file(name, text);
    let error = Settings::load(&path).err().unwrap_or_else(|| panic!("accepted: {text}"));
    (error.mistakes().iter().map(|mistake| mistake.code).collect(), error.to_string())
}

const SLATE: &str = "var config = {
    // comment
    maxEventsPerWrite: 20000,
    connectTimeout: 5000,
    eventSource: {host: 'Localhost', databaseName: 'sourceDb', user: 'user1', password: 'pass1'},
    replicationDestinations: [
        {host: 'localhost', databaseName: 'replicationDb1', user: 'user1', password: 'pa\\'ss1'},
        {host: 'other:5433', databaseName: 'sourceDb', user: 'user1'},
    ]
};

module.exports = config;
";

#[test]
fn the_originals_file_is_read_as_it_is() {
    for name in ["config.js", "config", "config.conf"] {
        let (settings, notes) = load(name, SLATE);
        assert_eq!(settings.source.to_string(), "postgres://user1@Localhost/sourceDb");
        let destinations: Vec<String> = settings.destinations.iter().map(ToString::to_string).collect();
        assert_eq!(destinations, ["postgres://user1@localhost/replicationDb1", "postgres://user1@other:5433/sourceDb"]);
        assert_eq!(settings.max_events_per_write, 20_000);
        assert_eq!(settings.connect_timeout, Duration::from_secs(5));
        assert_eq!(notes, [""; 0]);
        assert!(!format!("{settings:?}").contains("pass1"), "{settings:?}");
    }
}

#[test]
fn what_the_original_takes_as_default_is_default_here() {
    let text = r#"{"eventSource": {"host": "a", "port": 6543, "databaseName": "s", "user": "", "password": null},
        "replicationDestinations": [{"host": "b", "databaseName": "d"}], "maxEventsPerWrite": 0, "connectTimeout": null}"#;
    let (settings, _) = load("config.json", text);
    assert_eq!(settings.source.to_string(), "postgres://a:6543/s");
    assert_eq!((settings.max_events_per_write, settings.connect_timeout), (10_000, Duration::from_secs(15)));
}

#[test]
fn few_events_a_write_are_raised_and_unknown_keys_noted() {
    let text =
        SLATE.replace("20000", "500").replace("connectTimeout", "conectTimeout").replace("user: 'user1'}", "usr: 'x'}");
    let (settings, notes) = load("config.js", &text);
    assert_eq!((settings.max_events_per_write, settings.connect_timeout), (10_000, Duration::from_secs(15)));
    let [raised, timeout, user] = &notes[..] else { panic!("{notes:?}") };
    let (timeout, user, raised) =
        if raised.contains("raised") { (timeout, user, raised) } else { (raised, timeout, user) };
    assert!(timeout.contains("config.js:4: `conectTimeout`") && timeout.contains("did you mean `connectTimeout`?"));
    assert!(user.contains("config.js:8: `usr`") && user.contains("did you mean `user`?"), "{user}");
    assert!(raised.contains("config.js:3:") && raised.contains("from 500 to 10000"), "{raised}");
}

#[test]
fn every_mistake_of_the_originals_file_is_told_at_once_with_its_place() {
    let text = "module.exports = {
  maxEventsPerWrite: '10000',
  connectTimeout: 1.5,
  eventSource: {host: 5, user: true, password: 'secret1'},
  replicationDestinations: [
    'x',
    {host: 'a', port: 70000, databaseName: 'd', password: 7},
  ]
}";
    let (codes, shown) = refusal("config.js", text);
    assert_eq!(codes, ["WS-EVENTS-003"; 8], "{shown}");
    for part in [
        "`maxEventsPerWrite` is a text",
        "config.js:2:22",
        "2 |   maxEventsPerWrite: '10000',\n  |                      ^^^^^^^",
        "`connectTimeout` is not a positive whole number",
        "`eventSource.host` is a number",
        "`eventSource.databaseName` is missing",
        "`eventSource.user` is true or false",
        "`replicationDestinations[0]` is a text",
        "`replicationDestinations[1].port` is not a port",
        "`replicationDestinations[1].password` is a number",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    assert!(!shown.contains("secret1"), "{shown}");
}

#[test]
fn a_file_without_what_it_needs_is_refused() {
    for (text, code, what) in [
        ("", "WS-EVENTS-001", "empty"),
        ("// only a comment", "WS-EVENTS-001", "empty"),
        ("[]", "WS-EVENTS-003", "a list"),
        ("{}", "WS-EVENTS-003", "`eventSource` is missing"),
        ("{eventSource: {host: 'a', databaseName: 'b'}}", "WS-EVENTS-003", "`replicationDestinations` is missing"),
        ("{eventSource: {host: 'a', databaseName: 'b'}, replicationDestinations: []}", "WS-EVENTS-003", "is empty"),
        ("{eventSource: {host: 'a', databaseName: 'b'}, replicationDestinations: {}}", "WS-EVENTS-003", "is an object"),
        (&SLATE[..SLATE.find("pass1").expect("it is there") + 2], "WS-EVENTS-001", "not closed"),
        (&SLATE[..150], "WS-EVENTS-001", "ends too early"),
        (&SLATE.replace("'pass1'", "process.env.PASSWORD"), "WS-EVENTS-002", "computes: `process`"),
        (&SLATE.replace("'pass1'", "pass1"), "WS-EVENTS-002", "computes: a name"),
        (
            &SLATE.replace("'sourceDb', user: 'user1'}", "'replicationDb1'}").replace("other:5433", "LOCALHOST"),
            "WS-EVENTS-004",
            "is destination 1 again",
        ),
        (&SLATE.replace("other:5433", "127.0.0.1"), "WS-EVENTS-005", "destination 2 is the source"),
    ] {
        let (codes, shown) = refusal("config.js", text);
        assert!(codes.contains(&code) && shown.contains(what), "{text}: {shown}");
        assert!(!shown.contains("pass1") && !shown.contains("pa\\'ss1"), "{shown}");
    }
    let (codes, shown) = refusal("config.js", &SLATE.replace("'pass1'", "process.env.PASSWORD"));
    assert_eq!(codes, ["WS-EVENTS-002"]);
    assert!(
        shown.contains("config.js:5:") && shown.contains("node -p 'JSON.stringify(require(\"./config.js\"))'"),
        "{shown}"
    );
    let (codes, _) = refusal("config.js", &format!("{{}} {}", " ".repeat(1 << 20)));
    assert_eq!(codes, ["WS-CFG-002"]);
    let missing = Settings::load("/no/such/config.js".as_ref()).expect_err("missing");
    assert_eq!(missing.mistakes()[0].code, "WS-CFG-001");
}

#[test]
fn events_of_the_node_s_file_are_read_without_the_rest() {
    let (_dir, secret) = file("secret", "se cret\n");
    let text = format!(
        "[events]\nsource = \"sqlite:shop.db\"\nmax_events_per_write = 9\nconnect_timeout = \"2s\"\n\
         destinations = [\"postgres://app:pass1@other/copy\", {{ url = \"postgres://app@third/copy\", password_file = {secret:?} }}]\n"
    );
    let (settings, notes) = load("events.toml", &text);
    assert!(settings.source.to_string().ends_with("/shop.db") && settings.source.to_string().starts_with("sqlite:/"));
    assert_eq!(settings.destinations[0].to_string(), "postgres://app@other/copy");
    let watershed::node::events::Endpoint::Postgres(third) = &settings.destinations[1] else { panic!("{settings:?}") };
    assert_eq!(third.config().get_password(), Some(&b"se cret"[..]));
    assert_eq!(settings.connect_timeout, Duration::from_secs(2));
    assert_eq!(settings.max_events_per_write, 10_000);
    assert!(notes[0].contains("raised from 9 to 10000"), "{notes:?}");
    assert!(!format!("{settings:?}").contains("cret") && !format!("{settings:?}").contains("pass1"));
}

#[test]
fn mistakes_of_the_node_s_file_point_at_their_line() {
    let cases = [
        ("[node]\nname = \"a\"\n", "WS-EVENTS-006", "no section [events]"),
        ("", "WS-EVENTS-006", "no section [events]"),
        ("[events]\nsource = \"sqlite:a.db\"\ndestinations = []\n", "WS-EVENTS-007", "toml:3:"),
        ("[events]\nsource = \"sqlite:a.db\"\n", "WS-CFG-007", "`destinations`"),
        ("[events]\nsource = 5\ndestinations = [\"sqlite:b.db\"]\n", "WS-CFG-006", "toml:2:"),
        (
            "[events]\nsource = \"a.db\"\ndestinations = [\"sqlite:b.db\"]\n",
            "WS-CFG-006",
            "did you mean \"sqlite:a.db\"",
        ),
        (
            "[events]\nsource = \"sqlite:a.db\"\ndestinations = [\"sqlite:b.db\"]\nsorce = 1\n",
            "WS-CFG-005",
            "did you mean `source`?",
        ),
        (
            "[events]\nsource = \"sqlite:a.db\"\ndestinations = [{ url = \"sqlite:b.db\", pasword_env = \"X\" }]\n",
            "WS-CFG-005",
            "password_env",
        ),
        (
            "[events]\nsource = \"sqlite:a.db\"\ndestinations = [{ url = \"postgres://h/d\", password_env = \"NO_SUCH_VARIABLE\" }]\n",
            "WS-EVENTS-008",
            "NO_SUCH_VARIABLE",
        ),
        ("[events]\nsource = \"postgres://h:port/d\"\ndestinations = [\"sqlite:b.db\"]\n", "WS-EVENTS-008", "toml:2:"),
        (
            "[events]\nsource = \"sqlite:a.db\"\ndestinations = [\"sqlite:b.db\", \"sqlite:./b.db\"]\n",
            "WS-EVENTS-004",
            "toml:3:",
        ),
        ("[events]\nsource = \"sqlite:a.db\"\ndestinations = [\"sqlite:a.db\"]\n", "WS-EVENTS-005", "is the source"),
        ("[events\n", "WS-CFG-004", "toml:1:"),
    ];
    for (text, code, what) in cases {
        let (codes, shown) = refusal("watershed.toml", text);
        assert!(codes.contains(&code) && shown.contains(what), "{text}: {shown}");
    }
}
