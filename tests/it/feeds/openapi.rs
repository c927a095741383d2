//! `docs/openapi.json` says what the server does, and nothing else.

use std::collections::BTreeSet;

use super::*;

fn document() -> Json {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the document")).expect("JSON")
}

/// `METHOD /path` of everything that is described.
fn described(document: &Json) -> BTreeSet<String> {
    let paths = document["paths"].as_object().expect("paths");
    let calls = paths.iter().flat_map(|(path, calls)| {
        calls.as_object().expect("calls").keys().map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    calls.collect()
}

/// `METHOD /path` of every route in the sources.
fn routed() -> BTreeSet<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/server.rs");
    let source = std::fs::read_to_string(path).expect("the routes");
    let mut routes = BTreeSet::new();
    for (at, _) in source.match_indices(".route(") {
        let rest = &source[at..];
        let path = rest.split('"').nth(1).expect("a path");
        let handlers = &rest[rest.find(path).expect("it is there") + path.len()..];
        // What stands behind the path is a chain of methods, up to the next route or layer.
        let end = [".route(", ".layer(", ".merge(", ";"].iter().filter_map(|end| handlers.find(end)).min();
        let handlers = &handlers[..end.expect("an end")];
        for method in ["get", "post", "put", "delete", "patch"] {
            if handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(".{method}(")) {
                routes.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    routes
}

#[test]
fn every_route_is_described_and_everything_described_is_routed() {
    let (described, routed) = (described(&document()), routed());
    assert!(routed.len() > 15, "{routed:?}");
    let missing: Vec<_> = routed.difference(&described).collect();
    assert!(missing.is_empty(), "docs/openapi.json lacks {missing:?}");
    let gone: Vec<_> = described.difference(&routed).collect();
    assert!(gone.is_empty(), "docs/openapi.json describes {gone:?}, which nobody answers");
}

/// What stands behind a reference.
fn resolved<'a>(document: &'a Json, value: &'a Json) -> &'a Json {
    match value["$ref"].as_str() {
        Some(reference) => {
            let found = document.pointer(reference.trim_start_matches('#'));
            found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => value,
    }
}

fn is_a(value: &Json, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        kind => panic!("{kind} is no type"),
    }
}

/// What is wrong with a value, where.
fn wrong(document: &Json, schema: &Json, value: &Json, at: &str) -> Vec<String> {
    let schema = resolved(document, schema);
    let mut found = Vec::new();
    for (keyword, rule) in schema.as_object().expect("a schema") {
        let fits = match keyword.as_str() {
            "description" | "format" | "pattern" | "maxLength" | "minLength" | "maxItems" | "maximum" => true,
            "type" => match rule {
                Json::String(kind) => is_a(value, kind),
                kinds => {
                    kinds.as_array().expect("types").iter().any(|kind| is_a(value, kind.as_str().expect("a type")))
                }
            },
            "const" => value == rule,
            "enum" => rule.as_array().expect("values").contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().expect("a number")),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().expect("a number")),
            "anyOf" => rule.as_array().expect("schemas").iter().any(|one| wrong(document, one, value, at).is_empty()),
            "required" => {
                let names = rule.as_array().expect("names").iter().filter_map(Json::as_str);
                names.filter(|name| value.is_object() && value.get(name).is_none()).for_each(|name| {
                    found.push(format!("{at} lacks {name}"));
                });
                true
            }
            "properties" => {
                for (name, schema) in rule.as_object().expect("properties") {
                    if let Some(value) = value.get(name) {
                        found.extend(wrong(document, schema, value, &format!("{at}.{name}")));
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = |name: &String| schema["properties"].get(name).is_some();
                rule == &Json::Bool(true) || value.as_object().is_none_or(|members| members.keys().all(known))
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(wrong(document, rule, item, &format!("{at}[{index}]")));
                }
                true
            }
            keyword => panic!("the test does not know {keyword}"),
        };
        if !fits {
            found.push(format!("{at} does not fit {keyword} {rule}: {value}"));
        }
    }
    found
}

/// Calls, and holds the answer to what is described; the status and the body.
fn call(site: &Site, document: &Json, call: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let (method, template) = call.split_once(' ').expect("a call");
    let described = &document["paths"][template][method.to_lowercase()];
    assert!(described.is_object(), "{call} is not described");
    let mut request = ureq::http::Request::builder().method(method);
    request = request.uri(format!("http://127.0.0.1:{}{path}", site.port));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.to_owned()).expect("a request");
    let mut response = agent().run(request).expect("an answer");
    let status = response.status().as_u16();
    let said = resolved(document, &described["responses"][status.to_string()]);
    assert!(said.is_object(), "{call} is not said to answer {status}: {:?}", response.body_mut().read_to_string());
    for name in said["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
        assert!(response.headers().contains_key(name), "{call} answers {status} without {name}");
    }
    let kind =
        response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let text = response.body_mut().read_to_string().expect("text");
    let kind = kind.split(';').next().unwrap_or_default();
    match &said["content"] {
        Json::Null => assert!(text.is_empty(), "{call} {status}: {text}"),
        content => {
            let schema = &content[kind]["schema"];
            assert!(schema.is_object(), "{call} {status} is not said to be {kind:?}: {text}");
            let values: Vec<Json> = match kind {
                "application/json" => vec![serde_json::from_str(&text).expect("JSON")],
                "application/x-ndjson" => text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(),
                _ => vec![text.as_str().into()],
            };
            for value in &values {
                let found = wrong(document, schema, value, kind);
                assert!(found.is_empty(), "{call} {status}: {found:#?} in {value}");
            }
        }
    }
    (status, text)
}

#[test]
fn what_is_answered_is_what_is_described() {
    let ground = Ground::new();
    let site = node(&ground, "[log.orders]\nappend = true\n[log.wide]\nappend = true\npartitions = 3\n[log.closed]\n");
    let document = document();
    let bearer =
        format!("Bearer {}", std::fs::read_to_string(site.data().join("admin.token")).expect("a token").trim());
    let json = ("Content-Type", "application/json");
    let admin = [json, ("Authorization", bearer.as_str())];
    let call = |what: &str, path: &str, headers: &[(&str, &str)], body: &str, status: u16| {
        let (found, text) = call(&site, &document, what, path, headers, body);
        assert_eq!(found, status, "{what} {path}: {text}");
        text
    };
    let append = "POST /v1/logs/{log}/entries";
    call(
        append,
        "/v1/logs/orders/entries",
        &[json, ("Idempotency-Key", "k")],
        "{\"key\":\"a\",\"row\":{\"n\":1.10}}",
        201,
    );
    call(
        append,
        "/v1/logs/orders/entries",
        &[json, ("Idempotency-Key", "k")],
        "{\"key\":\"a\",\"row\":{\"n\":1.10}}",
        201,
    );
    call(append, "/v1/logs/orders/entries", &[json, ("Idempotency-Key", "k")], "{\"row\":2}", 422);
    call(append, "/v1/logs/orders/entries", &[json], "[{\"row\":null,\"correlation\":\"c\",\"causation\":\"d\"}]", 201);
    call(append, "/v1/logs/wide/entries?split=1", &[json], "{\"row\":1,\"key\":1}", 201);
    let keys: String = (0..9).map(|key| format!("{{\"row\":1,\"key\":{key}}}")).collect();
    call(append, "/v1/logs/wide/entries?split=1", &[json], &keys, 201);
    call(append, "/v1/logs/wide/entries", &[json], &keys, 400);
    call(append, "/v1/logs/orders/entries?match_position=9", &[json], "{\"row\":1}", 412);
    call(append, "/v1/logs/closed/entries", &[json], "{\"row\":1}", 403);
    call(append, "/v1/logs/none/entries", &[json], "{\"row\":1}", 404);
    call(append, "/v1/logs/orders/entries", &[json, ("Content-Encoding", "gzip")], "{\"row\":1}", 415);
    call(append, "/v1/logs/orders/entries", &[json], &format!("{{\"row\":\"{}\"}}", "x".repeat(2 << 20)), 413);
    call(append, "/v1/logs/orders/entries", &[json, ("Authorization", "x"), ("Origin", "http://x.example")], "{}", 403);
    let read = "GET /v1/logs/{log}/entries";
    for (query, status) in
        [("", 200), ("?after=9", 416), ("?after=x", 400), ("?tail=1&after=0", 400), ("?limit=0", 200)]
    {
        call(read, &format!("/v1/logs/orders/entries{query}"), &[], "", status);
    }
    call(read, "/v1/logs/wide/entries", &[], "", 200);
    call(read, "/v1/logs/main/entries", &[], "", 401);
    call(read, "/v1/logs/main/entries", &admin, "", 200);
    let stream = call(read, "/v1/logs/orders/entries?after=0&limit=2", &[("Accept", "text/event-stream")], "", 200);
    assert!(stream.starts_with("id: ") && stream.contains("\ndata: "), "{stream}");
    let line: Json =
        serde_json::from_str(call(read, "/v1/logs/orders/entries?limit=1", &[], "", 200).trim()).expect("JSON");
    let cursor = line["cursor"].as_str().expect("a cursor").to_owned();
    let (consumer, at, body) =
        ("/v1/logs/{log}/consumers/{name}", "/v1/logs/orders/consumers/bill", format!("{{\"cursor\":\"{cursor}\"}}"));
    call(&format!("GET {consumer}"), at, &[], "", 404);
    call(&format!("PUT {consumer}"), at, &[json, ("If-None-Match", "*")], &body, 201);
    call(&format!("PUT {consumer}"), at, &[json, ("If-None-Match", "*")], &body, 412);
    call(&format!("PUT {consumer}"), at, &[json], &body, 200);
    call(&format!("PUT {consumer}"), at, &[json], "{}", 400);
    call(&format!("PUT {consumer}"), at, &[], &body, 400);
    call(&format!("GET {consumer}"), at, &[], "", 200);
    call("GET /v1/logs/{log}/consumers", "/v1/logs/orders/consumers", &[], "", 200);
    call(&format!("DELETE {consumer}"), at, &[("If-Match", "\"x\"")], "", 412);
    call(&format!("DELETE {consumer}"), at, &[], "", 204);
    call(&format!("DELETE {consumer}"), at, &[], "", 404);
    call(&format!("DELETE {consumer}"), at, &[("If-Match", "\"x\"")], "", 412);
    orders(&call, &admin, json);
}

/// What operators call.
fn orders(
    call: &impl Fn(&str, &str, &[(&str, &str)], &str, u16) -> String,
    admin: &[(&str, &str)],
    json: (&str, &str),
) {
    call("POST /v1/logs", "/v1/logs", admin, "{\"name\":\"new\",\"partitions\":2}", 201);
    call("POST /v1/logs", "/v1/logs", admin, "{\"name\":\"new\",\"partitions\":2}", 200);
    call("POST /v1/logs", "/v1/logs", admin, "{\"name\":\"new\",\"partitions\":3}", 409);
    call("POST /v1/logs", "/v1/logs", admin, "{\"name\":\"../x\"}", 400);
    call("POST /v1/logs", "/v1/logs", &[json], "{\"name\":\"y\"}", 401);
    for (what, body, status) in [
        ("trim", "{\"upto\":1}", 200),
        ("trim", "{}", 400),
        ("trim", "{\"upto\":1,\"partition\":5}", 409),
        ("retain", "{\"retain_ms\":1000000}", 200),
        ("retain", "[]", 400),
        ("promote", "", 409),
    ] {
        call(&format!("POST /v1/logs/{{log}}/{what}"), &format!("/v1/logs/orders/{what}"), admin, body, status);
        call(&format!("POST /v1/logs/{{log}}/{what}"), &format!("/v1/logs/orders/{what}"), &[json], body, 401);
        call(&format!("POST /v1/logs/{{log}}/{what}"), &format!("/v1/logs/none/{what}"), admin, body, 404);
    }
    for path in
        ["/healthz", "/readyz", "/metrics", "/v1/openapi.json", "/v1/status", "/v1/tree", "/v1/sources", "/v1/logs"]
    {
        call(&format!("GET {path}"), path, &[], "", 200);
    }
    call("GET /v1/logs/{log}", "/v1/logs/orders", &[], "", 200);
    call("GET /v1/logs/{log}", "/v1/logs/main", &[], "", 200);
    call("GET /v1/logs/{log}", "/v1/logs/none", &[], "", 404);
    call("GET /v1/peer", "/v1/peer", &[], "", 400);
    call("POST /v1/sources/{name}/{order}", "/v1/sources/x/pause", admin, "", 404);
    call("POST /v1/sources/{name}/{order}", "/v1/sources/x/explode", admin, "", 404);
    call("POST /v1/peers/{name}/{order}", "/v1/peers/x/pause", admin, "", 404);
    call("POST /v1/peers/{name}/{order}", "/v1/peers/x/pause", &[], "", 401);
}

#[test]
fn the_document_is_served_as_it_stands_and_what_it_lacks_is_not_answered() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    let (status, served) = site.get("/v1/openapi.json").expect("an answer");
    let same = serde_json::from_str::<Json>(&served).is_ok_and(|served| served == document());
    assert!(status == 200 && same, "{status}");
    let described = described(&document());
    for path in document()["paths"].as_object().expect("paths").keys() {
        let concrete = path.replace("{log}", "orders").replace("{name}", "x").replace("{order}", "pause");
        let concrete = concrete.replace("{view}", "totals").replace("{table}", "t").replace("{key}", "k");
        for method in ["PUT", "DELETE", "PATCH", "POST"] {
            if described.contains(&format!("{method} {path}")) {
                continue;
            }
            let uri = format!("http://127.0.0.1:{}{concrete}", site.port);
            let request =
                ureq::http::Request::builder().method(method).uri(uri).body(String::new()).expect("a request");
            let (status, told) = answer(agent().run(request));
            let code = told["code"].as_str().unwrap_or_default();
            assert!(status == 405 || (status, code) == (401, "WS-HTTP-004"), "{method} {path}: {status} {told}");
        }
    }
}
