use super::*;

const WHOLE: &str = r#"
[node]
name = "branch-7"
data_dir = "branch-7.data"
listen = "127.0.0.1:7070"
tls = { cert_file = "hq.pem", key_file = "hq.key" }
tokens = [{ name = "branch-9", token_file = "b9.token", may = ["peer:branch-9"] },
          { name = "team-a", token_env = "A_TOKEN", may = ["read:*", "append:orders", "operate", "metrics"] }]
[parent]
url = "wss://hq.example:7070"
token_env = "HQ_TOKEN"
ca_file = "hq-ca.pem"
retry = { first = "0.5s", max = "30s" }
[database]
url = "postgres://app:geheim@localhost/shop"
fire_triggers = false
id_range = "7000000..7999999"
slot_retain_max = "20GiB"
apply = "merge"
capture = ["public.*"]
[copy.standby]
url = "postgres://replica/shop"
tables = ["*"]
[log.main]
engine = "segments"
retain = { time = "7d", bytes = "50GiB" }
fsync = "always"
[log.orders]
partitions = 4
append = true
[send.parent]
tables = ["orders", "customers"]
logs = ["orders"]
[[send.parent.filter]]
tables = ["public.customers"]
when = 'row.region == "EU"'
ops = ["insert", "update", "delete"]
drop_columns = ["ssn"]
keys_may_leave = false
[send.child.b9]
tables = ["*"]
[table.orders]
owner_by = "row.site"
lane = "bulk"
[table.customers]
owner = ["branch-7", "branch-8"]
conflicts = "may-diverge"
[table.customers.columns]
note = { owner = "hq" }
[lane.bulk]
priority = -10
[view.order_totals]
log = "main"
store = "sqlite:views.db"
sql = "order_totals.sql"
[events]
source = "postgres://app@localhost/source"
destinations = ["postgres://app@other/copy"]
max_events_per_write = 10000
connect_timeout = "15s"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/site/watershed.toml"), text.into(), &Overrides::default())
}

fn codes(text: &str) -> Vec<(&'static str, Option<usize>)> {
    let error = parse(text).unwrap_err();
    error.mistakes().iter().map(|mistake| (mistake.code, error.line_of(mistake))).collect()
}

#[test]
fn every_section_is_read() {
    let config = parse(WHOLE).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.node.data_dir, Path::new("/site/branch-7.data"));
    assert_eq!(config.main_log().retain.bytes, Some(Size(50 << 30)));
    let filter = &config.send.parent.as_ref().unwrap().filters[0];
    let when = filter.when.as_ref().unwrap();
    assert_eq!((when.text.as_str(), config.line_of(&when.span)), (r#"row.region == "EU""#, Some(36)));
    assert!(config.table["customers"].may_diverge() && config.table["customers"].owner.len() == 2);
    assert_eq!(config.send.to_child("b9").unwrap().tables[0].as_str(), "*");
    assert!(config.send.to_child("b8").is_none());
}

#[test]
fn what_is_not_available_is_named_with_its_line() {
    let config = parse(WHOLE).unwrap();
    let error = config.ready().unwrap_err();
    let text = error.to_string();
    assert!(error.mistakes().iter().all(|m| m.code == "WS-CFG-009" && m.span.is_some()), "{text}");
    assert!(text.contains("`lane.bulk` asks for it"), "{text}");
}

#[test]
fn a_written_configuration_is_read_back_and_has_no_password() {
    let config = parse(WHOLE).unwrap();
    let text = toml::to_string(&config).unwrap();
    assert!(!text.contains("geheim"), "{text}");
    let again = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(toml::to_string(&again).unwrap(), text);
}

#[test]
fn a_feed_of_a_peer_is_mirrored_once() {
    let node = "[node]\nname = 'a'\n[parent]\nurl = '127.0.0.1:7071'\n";
    let mirror = |name: &str, of: &str| format!("[log.{name}]\nmirror = 'peer:{of}'\n");
    parse(&format!("{node}{}{}", mirror("one", "hq/orders"), mirror("two", "hq/sales"))).unwrap();
    let twice = format!("{node}{}{}", mirror("one", "hq/orders"), mirror("two", "hq/orders"));
    assert_eq!(codes(&twice), [("WS-CFG-008", Some(8))]);
}

#[test]
fn several_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text = "[node]\nname = 'a'\nlisen = 'x'\n[parent]\nurl = 5\n[database]\n[log.main]\nfsync = 'allways'\n[nod]\n";
    let expected = [
        ("WS-CFG-005", Some(3)),
        ("WS-CFG-006", Some(5)),
        ("WS-CFG-007", Some(6)),
        ("WS-CFG-006", Some(8)),
        ("WS-CFG-005", Some(9)),
    ];
    assert_eq!(codes(text), expected);
    let shown = parse(text).unwrap_err().to_string();
    for near in ["did you mean `listen`?", "did you mean `always`?", "did you mean `node`?"] {
        assert!(shown.contains(near), "{near} in {shown}");
    }
}

#[test]
fn a_mistake_points_at_its_line_and_hides_passwords() {
    let text = "[node]\nname = \"a\"\n[database]\nurl = \"mysql://me:geheim@host/shop\"\ntoken = \"geheim\"\n";
    let shown = parse(text).unwrap_err().to_string();
    assert!(!shown.contains("geheim"), "{shown}");
    assert!(shown.contains("--> /site/watershed.toml:4:7"), "{shown}");
    assert!(shown.contains("  |       ^^^^^^"), "{shown}");
}

#[test]
fn overrides_replace_the_file_and_are_named_in_mistakes() {
    let mut overrides = Overrides::default();
    overrides.set("node", "name", "other", "WATERSHED_NODE_NAME");
    overrides.set("parent", "url", "127.0.0.1:9", "--parent");
    let path = Path::new("/site/w.toml");
    let config = Config::parse(path, "[node]\nname = 'a'".into(), &overrides).unwrap();
    assert_eq!(config.node.name, "other");
    assert_eq!(config.parent.unwrap().url.as_str(), "ws://127.0.0.1:9");
    overrides.set("node", "listen", "nowhere", "WATERSHED_NODE_LISTEN");
    let shown = Config::parse(path, String::new(), &overrides).unwrap_err().to_string();
    assert!(shown.contains("--> WATERSHED_NODE_LISTEN"), "{shown}");
}

#[test]
fn contradictions_are_mistakes() {
    let text = "[node]\nname = 'a b'\n[send.parent]\ntables = ['*']\n[table.t]\nowner = 'x'\nowner_by = 'row.s'\nlane = 'l'\n[log.f]\npartitions = 0\n";
    let lines: Vec<_> = codes(text).into_iter().map(|(_, line)| line.unwrap()).collect();
    assert_eq!(lines, [2, 3, 6, 8, 10]);
}

#[test]
fn what_is_wrong_with_a_view_is_pointed_at() {
    let view = |rest: &str| format!("[node]\nname = 'a'\n[log.orders]\n[view.v]\n{rest}");
    let good = view("log = 'orders'\nstore = 'sqlite:v.db'\nsql = 'v.sql'\n");
    let config = parse(&good).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.view["v"].sql.as_deref(), Some(Path::new("/site/v.sql")));
    assert_eq!(config.view["v"].store.as_ref().unwrap().to_string(), "sqlite:/site/v.db");
    let elsewhere = view(
        "log = 'https://hq:7070/v1/logs/orders'\nstore = 'memory'\npersist_every = '5s'\nsql = 'v.sql'\ntoken_env = 'T'\n",
    );
    assert_eq!(parse(&elsewhere).unwrap_or_else(|error| panic!("{error}")).view["v"].log_name("v"), "view.v");
    for (rest, line, words) in [
        ("log = 'ordrs'\nstore = 'memory'\nsql = 'v.sql'", 5, "did you mean \"orders\"?"),
        ("store = 'memory'", 4, "has no definition"),
        ("sql = 'v.sql'", 4, "does not say where it is kept"),
        ("sql = 'v.sql'\nstore = 'memory'\ncount = {}", 7, "has several definitions"),
        ("count = {}\nstore = 'sqlite:v.db'", 6, "is kept in memory"),
        ("latest = { indices = ['a'] }", 5, "did you mean `indexes`?"),
        ("reduce = { init = '0' }", 5, "has no `step`"),
        ("stroe = 'memory'\nsql = 'v.sql'", 5, "did you mean `store`?"),
        ("store = 'views.db'\nsql = 'v.sql'", 5, "did you mean \"sqlite:views.db\"?; or \"memory\""),
        ("store = 'sqlite::memory:'\nsql = 'v.sql'", 5, "names no file"),
        ("store = 'sqlite:v.db'\nsql = 'v.sql'\npersist_every = '5s'", 7, "is not kept in memory"),
        ("store = 'memory'\nsql = 'v.sql'\npersist_every = '0s'", 7, "persist_every` is 0"),
        ("store = 'memory'\nsql = 'v.sql'\ntoken_env = 'T'", 7, "is one of this node"),
        ("store = 'sqlite:s.db'\nsql = 'v.sql'\n[database]\nurl = 'sqlite:s.db'", 5, "node's own database"),
    ] {
        let text = view(rest);
        let shown = parse(&text).unwrap_err().to_string();
        assert!(shown.contains(&format!("watershed.toml:{line}:")) && shown.contains(words), "{rest}: {shown}");
    }
}

#[test]
fn there_are_so_many_views_at_most() {
    let most = crate::model::limits::VIEWS_MAX;
    let text = |count: usize| {
        let views: String = (0..count).map(|n| format!("[view.v{n}]\nlog = 'orders'\ncount = {{}}\n")).collect();
        format!("[node]\nname = 'a'\n[log.orders]\n{views}")
    };
    assert!(parse(&text(most)).is_ok());
    let shown = parse(&text(most + 1)).unwrap_err().to_string();
    assert!(shown.contains(&format!("there are more than {most} views")), "{shown}");
}

#[test]
fn beyond_loopback_tokens_and_tls_are_demanded() {
    let node = |rest: &str| format!("[node]\nname = 'a'\nlisten = '0.0.0.0:7070'\n{rest}");
    let (tls, tokens) = (
        "tls = { cert_file = 'a.pem', key_file = 'a.key' }\n",
        "tokens = [{ name = 'b', token_file = 'b.token', may = ['read:*'], rate = { requests = '10/s', bytes = '1MiB/s' } }]\n",
    );
    assert_eq!(codes(&node("")), [("WS-CFG-008", Some(3)); 2]);
    assert_eq!(codes(&node(tls)), [("WS-CFG-008", Some(3))]);
    assert_eq!(codes(&node(tokens)), [("WS-CFG-008", Some(3))]);
    assert_eq!(codes(&node("allow_plaintext = true\n")), [("WS-CFG-008", Some(3))]);
    for rest in [format!("{tls}{tokens}"), format!("allow_plaintext = true\n{tokens}")] {
        assert!(parse(&node(&rest)).is_ok(), "{rest}");
    }
    let parent = |rest: &str| format!("[node]\nname = 'a'\n[parent]\nurl = 'ws://10.1.2.3:7070'\n{rest}");
    assert_eq!(codes(&parent("")), [("WS-CFG-008", Some(4))]);
    assert!(parse(&parent("allow_plaintext = true")).is_ok());
    assert_eq!(codes(&parent("allow_plaintext = true\nca_file = 'x'")), [("WS-CFG-008", Some(6))]);
    let cors = "[node]\nname = 'a'\ncors = ['https://ok.example', '*', 'https://x/']";
    assert_eq!(codes(cors), [("WS-CFG-008", Some(3)); 2]);
    let rate = "[node]\nname = 'a'\ntokens = [{ name = 'b', token_file = 'b', may = [], rate = { requests = '0/s' } }]";
    assert_eq!(codes(rate), [("WS-CFG-006", Some(3))]);
}

#[test]
fn sizes_and_periods_read_back_as_written() {
    for text in ["50GiB", "200MB", "1KiB", "7B", "0B"] {
        assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
    }
    for text in ["1w", "3d", "12h", "90m", "500ms", "0ms"] {
        assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
    }
    assert_eq!("1.5KiB".parse::<Size>().unwrap(), Size(1536));
    assert_eq!("1h30m".parse::<Period>().unwrap().0.as_secs(), 5400);
    for bad in ["", "x", "-1", "5 parsec", "1e3", "99999999TiB", "NaN"] {
        assert!(bad.parse::<Size>().is_err(), "{bad}");
    }
    for bad in ["", "7", "d", "-1s", "999999w", "1s2"] {
        assert!(bad.parse::<Period>().is_err(), "{bad}");
    }
}

#[test]
fn addresses_of_parents_get_a_scheme() {
    for (text, url) in [
        ("localhost:7070", "ws://localhost:7070"),
        ("hq.example:7070", "wss://hq.example:7070"),
        ("https://hq.example/", "wss://hq.example"),
    ] {
        assert_eq!(text.parse::<ParentUrl>().unwrap().as_str(), url);
    }
    for bad in ["hq.example", "ftp://x", "ws://", ":7070", "a b:1"] {
        assert!(bad.parse::<ParentUrl>().is_err(), "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\[(node|send\\.parent|table\\.t|log)\\]\n|name = |owner|[a-z\"'=\\[\\]{}.,\n#é0-9 ])*") {
        if let Err(error) = parse(&text) {
            proptest::prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn what_is_wrong_with_a_views_output_is_pointed_at() {
    let node = "[node]\nname = 'a'\n";
    let view = |name: &str, log: &str, publish: &str| {
        format!("[view.{name}]\nlog = '{log}'\nsql = 'v.sql'\nstore = 'sqlite:{name}.db'\npublish = '{publish}'\n")
    };
    let good = format!(
        "{node}[log.orders]\n{}{}[log.out]\nretain = {{ time = '1d' }}\n",
        view("v", "orders", "out"),
        view("w", "out", "further")
    );
    parse(&good).unwrap_or_else(|error| panic!("{error}"));
    let memory = view("v", "parts", "out").replace("sqlite:v.db", "memory");
    for (rest, words) in [
        (view("v", "orders", "main"), "publishes into main"),
        (view("v", "orders", "a/b"), "cannot be a name"),
        (view("v", "orders", "../x"), "cannot be a name"),
        (view("v", "orders", ""), "cannot be a name"),
        (view("v", "orders", "written"), "says `append = true`"),
        (view("v", "orders", "mirrored"), "says `mirror`"),
        (view("v", "orders", "parts"), "says `partitions`"),
        (view("v", "out", "out"), "from its own output"),
        (view("v", "b", "a") + &view("w", "a", "b"), "\"w\" reads \"a\", which \"v\" publishes"),
        (view("v", "orders", "out") + &view("w", "orders", "out"), "both have the log"),
        (
            view("v", "orders", "view.w") + "[view.w]\nlog = 'http://hq/v1/logs/x'\nstore = 'memory'\nsql = 'w.sql'\n",
            "both have the log",
        ),
        (
            view("v", "orders", "out") + "[view.w]\nlog = 'outt'\nstore = 'memory'\nsql = 'w.sql'\n",
            "did you mean \"out\"?",
        ),
        (memory, "several partitions"),
        ("[view.v]\nlog = 'orders'\ncount = {}\npublish = 'out'\n".to_owned(), "is made by `count`"),
        ("[view.v]\nlog = 'orders'\ncount = {}\npublish = 7\n".to_owned(), "publish"),
    ] {
        let logs = "[log.orders]\n[log.written]\nappend = true\n[log.mirrored]\nmirror = 'peer:hq/x'\n[log.parts]\npartitions = 2\n";
        let error = parse(&format!("{node}[parent]\nurl = '127.0.0.1:1'\n{logs}{rest}")).unwrap_err();
        assert!(error.mistakes().iter().all(|mistake| mistake.span.is_some()), "{rest}: {error}");
        assert!(error.to_string().contains(words), "{words} in {error}");
    }
}
