//! Who may do what.

use super::*;

const TOKENS: &str = "tokens = [{ name = \"team\", token_file = \"team.token\", may = [\"read:orders\", \"append:orders\"] }, \
    { name = \"eye\", token_file = \"eye.token\", may = [\"metrics\"] }]\n";

fn with(site: &Site, path: &str, token: &str) -> u16 {
    let request = agent().get(format!("http://127.0.0.1:{}{path}", site.port));
    answer(request.header("Authorization", format!("Bearer {token}")).call()).0
}

#[test]
fn a_token_opens_what_it_lists_and_nothing_else() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    site.configure(None, "[log.orders]\nappend = true\n[log.other]\nappend = true\n");
    let text = std::fs::read_to_string(site.config()).expect("a configuration");
    std::fs::write(site.config(), text.replacen("listen", &format!("{TOKENS}listen"), 1)).expect("written");
    std::fs::write(site.dir.join("team.token"), "t-secret\n").expect("written");
    std::fs::write(site.dir.join("eye.token"), "e-secret\n").expect("written");
    site.up();
    let team = [("Authorization", "Bearer t-secret")];
    assert_eq!(post(&site, "orders/entries", r#"{"row":1}"#, &team).0, 201);
    assert_eq!(post(&site, "other/entries", r#"{"row":1}"#, &team).0, 403);
    assert_eq!(post(&site, "orders/entries", r#"{"row":1}"#, &[]).0, 401);
    assert_eq!(post(&site, "orders/entries", r#"{"row":1}"#, &[("Authorization", "Bearer t-secre")]).0, 401);
    assert_eq!(post(&site, "orders/entries", r#"{"row":1}"#, &[("Authorization", "Basic t-secret")]).0, 401);
    assert_eq!(post(&site, "orders/trim", r#"{"upto":1}"#, &team).0, 403);
    for (path, token, status) in [
        ("/v1/logs/orders/entries", "t-secret", 200),
        ("/v1/logs/other/entries", "t-secret", 403),
        ("/v1/logs/main/entries", "t-secret", 403),
        ("/metrics", "e-secret", 200),
        ("/metrics", "t-secret", 403),
        ("/v1/status", "nobody", 401),
        ("/healthz", "nobody", 200),
    ] {
        assert_eq!(with(&site, path, token), status, "{path} with {token}");
    }
    // The operator's commands use the admin token.
    assert!(site.does(&["log", "ls"]).contains("orders"));
    assert!(!site.log().contains("secret"), "a secret was logged");
}

#[test]
fn foreign_pages_reach_nothing() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    for (name, value) in [("Origin", "https://evil.example"), ("Host", "evil.example")] {
        assert_eq!(post(&site, "orders/entries", r#"{"row":1}"#, &[(name, value)]).0, 403, "{name}");
    }
    assert!(entries(&site, "orders/entries").is_empty());
}

#[test]
fn a_token_that_asks_too_much_is_told_when_to_come_again() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    site.configure(None, ORDERS);
    node_lines(
        &site,
        "tokens = [{ name = \"team\", token_file = \"team.token\", may = [\"read:*\", \"append:*\"], rate = { requests = \"2/s\" } }, \
         { name = \"bulk\", token_file = \"bulk.token\", may = [\"read:*\", \"append:*\"], rate = { bytes = \"1KiB/s\" } }, \
         { name = \"free\", token_file = \"free.token\", may = [\"read:*\", \"append:*\"] }]\n",
    );
    for name in ["team", "bulk", "free"] {
        std::fs::write(site.dir.join(format!("{name}.token")), format!("{name}-secret")).expect("written");
    }
    site.up();
    let row = |token: &str, row: &str| {
        let request = agent().post(format!("http://127.0.0.1:{}/v1/logs/orders/entries", site.port));
        let mut response =
            request.header("Authorization", format!("Bearer {token}-secret")).send(row).expect("an answer");
        let wait = response.headers().get("retry-after").and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
        let body = response.body_mut().read_to_string().expect("text");
        (response.status().as_u16(), wait, body)
    };
    let told: Vec<_> = (0..20).map(|n| row("team", &format!("{{\"row\":{n}}}"))).collect();
    let limited: Vec<_> = told.iter().filter(|(status, ..)| *status == 429).collect();
    assert!(!limited.is_empty() && told[0].0 == 201, "{told:?}");
    assert!(limited.iter().all(|(_, wait, body)| *wait == Some(1) && body.contains("WS-HTTP-026")), "{limited:?}");
    // Of what was refused nothing was appended, and others are not concerned.
    let appended = told.iter().filter(|(status, ..)| *status == 201).count();
    assert!((0..20).all(|n| row("free", &format!("{{\"row\":{n}}}")).0 == 201));
    crate::tree::site::wait("it may again", || row("team", "{\"row\":\"again\"}").0 == 201);
    let large = format!("{{\"row\":\"{}\"}}", "x".repeat(5_000));
    assert_eq!(row("bulk", &large).0, 201);
    let (status, wait, _) = row("bulk", "{\"row\":1}");
    assert!(status == 429 && wait.is_some_and(|wait| (2..=5).contains(&wait)), "{status} {wait:?}");
    let all = agent().get(format!("http://127.0.0.1:{}/v1/logs/orders/entries", site.port));
    let mut all = all.header("Authorization", "Bearer free-secret").call().expect("an answer");
    assert_eq!(all.body_mut().read_to_string().expect("text").lines().count(), appended + 20 + 2);
}

#[test]
fn pages_of_listed_origins_may_ask_and_others_may_not() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    site.configure(None, ORDERS);
    node_lines(&site, "cors = [\"https://app.example\", \"http://localhost:5173\"]\n");
    site.up();
    let port = site.port;
    let ask = |method: &str, origin: &str| {
        let url = format!("http://127.0.0.1:{port}/v1/logs/orders/entries");
        let request = ureq::http::Request::builder().method(method).uri(url).header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "POST").body(()).expect("a request");
        let response = agent().run(request).expect("an answer");
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        (response.status().as_u16(), header("access-control-allow-origin"), header("access-control-allow-headers"))
    };
    for origin in ["https://app.example", "http://localhost:5173"] {
        let (status, allowed, headers) = ask("OPTIONS", origin);
        assert_eq!((status, &*allowed), (204, origin));
        assert!(headers.contains("authorization") && headers.contains("last-event-id"), "{headers}");
        let (status, allowed, _) = ask("GET", origin);
        assert_eq!((status, &*allowed), (200, origin));
    }
    for origin in ["https://evil.example", "https://app.example.evil.example", "http://app.example", "null"] {
        for method in ["OPTIONS", "GET"] {
            let (status, allowed, _) = ask(method, origin);
            assert_eq!((status, &*allowed), (403, ""), "{method} {origin}");
        }
    }
    // Without a list nothing is allowed, as before.
    site.stop();
    site.configure(None, ORDERS);
    site.up();
    assert_eq!(ask("OPTIONS", "https://app.example").0, 403);
}

#[test]
fn a_reader_over_a_websocket_gets_no_more_bytes_than_its_rate() {
    use futures_util::StreamExt;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    site.configure(None, ORDERS);
    node_lines(
        &site,
        "tokens = [{ name = \"slow\", token_file = \"slow.token\", may = [\"read:*\"], rate = { bytes = \"20KiB/s\" } }, \
         { name = \"free\", token_file = \"free.token\", may = [\"read:*\", \"append:*\"] }]\n",
    );
    for name in ["slow", "free"] {
        std::fs::write(site.dir.join(format!("{name}.token")), format!("{name}-secret")).expect("written");
    }
    site.up();
    // 120 KiB: a second's worth is saved up, and a piece is paid for afterwards.
    let row = format!("{{\"row\":\"{}\"}}", "x".repeat(30_000));
    for _ in 0..4 {
        assert_eq!(post(&site, "orders/entries", &row, &[("Authorization", "Bearer free-secret")]).0, 201);
    }
    let read = |token: &str| {
        let mut request = format!("ws://127.0.0.1:{}/v1/logs/orders/entries?after=0", site.port)
            .into_client_request()
            .expect("a request");
        let value = format!("Bearer {token}-secret").parse().expect("a header");
        request.headers_mut().insert("authorization", value);
        let began = std::time::Instant::now();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("connects");
            let mut entries = 0;
            while entries < 4 {
                let message = socket.next().await.expect("a message").expect("readable");
                entries += usize::from(message.to_text().expect("text").contains("\"position\""));
            }
        });
        began.elapsed()
    };
    let slow = read("slow");
    // It took at least what is beyond a second's worth and the last piece; who has no rate does not wait for it.
    assert!(slow >= Duration::from_millis(1_500), "{slow:?}");
    read("free");
}
