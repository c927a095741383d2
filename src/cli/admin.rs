//! Talks to a running node over its admin API.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value as Json;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};
use ureq::{Agent, Body, http};

use super::admin_tls::Known;
use super::exit::{Exit, ExitError};
use crate::model::limits;
use crate::node::config::Config;

/// A running node, by its configuration.
pub(super) struct Admin {
    base: String,
    token: String,
    file: String,
    agent: Agent,
}

impl Admin {
    /// Reads the token that a running node leaves in its data folder.
    ///
    /// # Errors
    /// Exit 4 when there is none: the node has never run, or another data folder is meant.
    pub fn of(config: &Config) -> Result<Admin, ExitError> {
        let path = config.node.admin_token_path();
        let file = config.path().display().to_string();
        let mut token = String::new();
        let read = File::open(&path).and_then(|from| from.take(limits::SECRET_BYTES_MAX).read_to_string(&mut token));
        read.map_err(|error| unreachable(&config.node.name, &file, &format!("{}: {error}", path.display())))?;
        let settings = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(limits::ADMIN_CONNECT_TIMEOUT))
            .proxy(None)
            .build();
        let mut address = config.node.listen.0;
        // A node that listens everywhere is asked on loopback.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let token = token.trim().into();
        if config.node.tls.is_none() {
            return Ok(Admin { base: format!("http://{address}"), token, file, agent: settings.into() });
        }
        let path = config.node.admin_certificate_path();
        let known = Known::read(&path)
            .map_err(|error| unreachable(&config.node.name, &file, &format!("{}: {error}", path.display())))?;
        let agent =
            Agent::with_parts(settings, ().chain(TcpConnector::default()).chain(known), DefaultResolver::default());
        Ok(Admin { base: format!("https://{address}"), token, file, agent })
    }

    fn answered(&self, result: Result<http::Response<Body>, ureq::Error>) -> Result<Body, ExitError> {
        Ok(self.answer(result)?.into_body())
    }

    fn answer(&self, result: Result<http::Response<Body>, ureq::Error>) -> Result<http::Response<Body>, ExitError> {
        let mut answer = result.map_err(|error| unreachable(&self.base, &self.file, &error.to_string()))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let mut text = String::new();
        // What cannot be read of an error's body is missing from the message, no more.
        let _ = answer.body_mut().as_reader().take(limits::ADMIN_ANSWER_BYTES_MAX).read_to_string(&mut text);
        Err(refused(status, &text))
    }

    /// `GET`, one JSON object.
    pub fn get(&self, path: &str) -> Result<Json, ExitError> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("Accept", "application/json");
        let request = request.header("Authorization", format!("Bearer {}", self.token));
        json(self.answered(request.config().timeout_global(Some(limits::ADMIN_TIMEOUT)).build().call())?)
    }

    /// `POST` without a body, one JSON object.
    pub fn post(&self, path: &str) -> Result<Json, ExitError> {
        let request = self.agent.post(format!("{}{path}", self.base));
        let request = request.header("Authorization", format!("Bearer {}", self.token));
        let request = request.config().timeout_global(Some(limits::ADMIN_TIMEOUT)).build();
        json(self.answered(request.send_empty())?)
    }

    /// `POST` of JSON, one JSON object; `headers` beside those that every call has.
    pub fn send(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> Result<Json, ExitError> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        request = request
            .header("Authorization", format!("Bearer {}", self.token))
            .header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.config().timeout_global(Some(limits::ADMIN_TIMEOUT)).build();
        json(self.answered(request.send(body))?)
    }

    /// `PUT` of JSON, one JSON object.
    pub fn put(&self, path: &str, body: &str) -> Result<Json, ExitError> {
        let request = self.agent.put(format!("{}{path}", self.base)).header("Content-Type", "application/json");
        let request = request.header("Authorization", format!("Bearer {}", self.token));
        let request = request.config().timeout_global(Some(limits::ADMIN_TIMEOUT)).build();
        json(self.answered(request.send(body))?)
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> Result<(), ExitError> {
        let request = self.agent.delete(format!("{}{path}", self.base));
        let request = request.header("Authorization", format!("Bearer {}", self.token));
        let request = request.config().timeout_global(Some(limits::ADMIN_TIMEOUT)).build();
        self.answered(request.call()).map(drop)
    }

    /// `GET` of lines that may go on for ever; each is handed over without its newline. `wanted` is the type asked for
    /// (`application/x-ndjson`, `text/event-stream`), `resume` where an earlier answer ended. Returns where this one has ended,
    /// if it says so in its head.
    pub fn lines(
        &self,
        path: &str,
        wanted: &str,
        resume: Option<&str>,
        mut each: impl FnMut(&str) -> Result<(), ExitError>,
    ) -> Result<Option<String>, ExitError> {
        let mut request = self.agent.get(format!("{}{path}", self.base)).header("Accept", wanted);
        if let Some(resume) = resume {
            request = request.header("Last-Event-ID", resume);
        }
        let answer = self.answer(request.header("Authorization", format!("Bearer {}", self.token)).call())?;
        let cursor = answer.headers().get("watershed-cursor").and_then(|cursor| Some(cursor.to_str().ok()?.to_owned()));
        let mut lines = BufReader::new(answer.into_body().into_reader());
        let mut line = String::new();
        loop {
            line.clear();
            let read = lines.read_line(&mut line);
            if read.map_err(|error| unreachable(&self.base, &self.file, &error.to_string()))? == 0 {
                return Ok(cursor);
            }
            each(line.trim_end_matches(['\n', '\r']))?;
        }
    }
}

fn json(mut body: Body) -> Result<Json, ExitError> {
    let mut bytes = Vec::new();
    let read = body.as_reader().take(limits::ADMIN_ANSWER_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|error| strange(&error.to_string()))?;
    if bytes.is_empty() {
        return Ok(Json::Object(serde_json::Map::new()));
    }
    serde_json::from_slice(&bytes).map_err(|error| strange(&error.to_string()))
}

fn strange(why: &str) -> ExitError {
    let fix = "is something else listening at `node.listen`? `watershed doctor` looks";
    ExitError::new("WS-CLI-006", Exit::Failure, "the node's answer cannot be read", why, fix)
}

fn unreachable(whom: &str, file: &str, why: &str) -> ExitError {
    let fix = format!("is it running? `watershed run -c {file}`");
    ExitError::new("WS-CLI-004", Exit::Unreachable, format!("the node at {whom} cannot be reached"), why, fix)
}

fn refused(status: http::StatusCode, text: &str) -> ExitError {
    let said: Json = serde_json::from_str(text).unwrap_or_default();
    let part = |name: &str, otherwise: &str| said[name].as_str().unwrap_or(otherwise).to_string();
    let exit = match status.as_u16() {
        409 => Exit::Operator,
        400 | 404 | 405 => Exit::Usage,
        _ => Exit::Failure,
    };
    let fix = match status.as_u16() {
        401 | 403 => "does -c name the file that the node runs with? its data folder has the token",
        404 => "does that name exist? `watershed status` lists them",
        _ => "see the node's log",
    };
    let message = part("message", &format!("the node answered {status}"));
    ExitError::new(&part("code", "WS-CLI-005"), exit, message, part("why", "the node refused"), part("do", fix))
}

/// Escapes a name for a path or a query.
pub(super) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}
