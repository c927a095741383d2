//! What clients ask of a node that is a process.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::tree::site::Site;

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(Duration::from_secs(120))).build().into()
}

pub fn post(site: &Site, path: &str, body: &Json) -> (u16, Json) {
    let request =
        agent().post(format!("http://127.0.0.1:{}{path}", site.port)).header("Content-Type", "application/json");
    let mut answer = request.send(body.to_string()).expect("an answer");
    let text = answer.body_mut().read_to_string().expect("text");
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Json::String(text)))
}

pub fn append(site: &Site, customer: &str, amount: i64) -> String {
    let row = json!({ "row": { "customer": customer, "amount": amount }, "key": customer });
    let (status, answer) = post(site, "/v1/logs/orders/entries", &row);
    assert_eq!(status, 201, "{answer}");
    answer["cursor"].as_str().expect("a cursor").to_owned()
}

pub fn ask(site: &Site, view: &str, query: &str, sql: &str, params: Json) -> (u16, Json) {
    post(site, &format!("/v1/views/{view}/query{query}"), &json!({ "sql": sql, "params": params }))
}
