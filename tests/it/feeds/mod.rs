//! Feeds as programs see them: HTTP, and the command line.

mod abuse;
mod access;
mod append;
mod history;
mod hostile;
mod kept;
mod links;
mod main_log;
mod mirror;
mod openapi;
mod pressure;
mod promote;
mod proxy;
mod reading;
mod shell;
mod tls;
mod unread;

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde_json::Value as Json;

use crate::tree::site::{Ground, Site};

/// A node that is only logs: `[log.orders]` to append to.
fn node(ground: &Ground, sections: &str) -> Site {
    let mut site = ground.log_site("hub");
    site.configure(None, sections);
    site.up();
    site
}

/// Adds lines to `[node]`, from the next start on.
fn node_lines(site: &Site, lines: &str) {
    let text = std::fs::read_to_string(site.config()).expect("a configuration");
    std::fs::write(site.config(), text.replacen("listen", &format!("{lines}listen"), 1)).expect("written");
}

const ORDERS: &str = "[log.orders]\nappend = true\n";

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(Duration::from_secs(120))).build().into()
}

/// A status and a JSON body.
type Answer = (u16, Json);

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = result.expect("the node answers");
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().expect("text");
    (status, serde_json::from_str(&text).unwrap_or(Json::String(text)))
}

/// `POST` to a path under `/v1/logs/`.
fn post(site: &Site, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = agent().post(format!("http://127.0.0.1:{}/v1/logs/{path}", site.port));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request.send(body))
}

fn append(site: &Site, log: &str, body: &str) -> Json {
    let (status, answer) = post(site, &format!("{log}/entries"), body, &[]);
    assert_eq!(status, 201, "{answer}");
    answer
}

/// `GET` of a path under `/v1/logs/`.
fn get(site: &Site, path: &str) -> Answer {
    answer(agent().get(format!("http://127.0.0.1:{}/v1/logs/{path}", site.port)).call())
}

/// The entries of an answer in lines.
fn entries(site: &Site, path: &str) -> Vec<Json> {
    let mut response = agent().get(format!("http://127.0.0.1:{}/v1/logs/{path}", site.port)).call().expect("an answer");
    let text = response.body_mut().read_to_string().expect("text");
    assert_eq!(response.status(), 200, "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// The rows of entries.
fn rows(entries: &[Json]) -> Vec<String> {
    let changes = entries.iter().flat_map(|entry| entry["changes"].as_array().expect("changes"));
    changes.map(|change| change["row"].to_string()).collect()
}

/// A reader of server-sent events, which comes again with the last id when its connection ends.
struct Events {
    url: String,
    last: Option<String>,
    lines: Option<BufReader<Box<dyn Read>>>,
}

impl Events {
    fn new(site: &Site, path: &str) -> Events {
        Events { url: format!("http://127.0.0.1:{}/v1/logs/{path}", site.port), last: None, lines: None }
    }

    /// The next entry, or `None` when the connection has ended or cannot be made.
    fn next(&mut self) -> Option<Json> {
        if self.lines.is_none() {
            let config = ureq::Agent::config_builder().timeout_recv_body(Some(Duration::from_secs(120))).build();
            let agent: ureq::Agent = config.into();
            let mut request = agent.get(&self.url).header("Accept", "text/event-stream");
            if let Some(last) = &self.last {
                request = request.header("Last-Event-ID", last);
            }
            let body: Box<dyn Read> = Box::new(request.call().ok()?.into_body().into_reader());
            self.lines = Some(BufReader::new(body));
        }
        let (mut id, mut data, mut kind) = (None, None, None);
        loop {
            let mut line = String::new();
            let read = self.lines.as_mut()?.read_line(&mut line).unwrap_or(0);
            if read == 0 {
                self.lines = None;
                return None;
            }
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.to_owned());
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = Some(text.to_owned());
            } else if let Some(text) = line.strip_prefix("event: ") {
                kind = Some(text.to_owned());
            } else if line.is_empty() {
                if kind.take().is_none() && id.is_some() {
                    self.last = id;
                    return serde_json::from_str(&data?).ok();
                }
                (id, data) = (None, None);
            }
        }
    }

    /// The next entry, however often the connection ends meanwhile.
    fn wait(&mut self) -> Json {
        let mut found = None;
        crate::tree::site::wait("an entry", || {
            found = self.next();
            found.is_some()
        });
        found.expect("it was waited for")
    }
}
