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
