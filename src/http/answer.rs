//! Answers to who has not come as far as asking.

use serde_json::json;

/// An error for a connection without a request, which is closed after it.
pub(super) struct Answer {
    status: &'static str,
    code: &'static str,
    message: &'static str,
    why: &'static str,
    fix: &'static str,
}

/// A request's head came halfway.
pub(super) const HEAD_LATE: Answer = Answer {
    status: "408 Request Timeout",
    code: "WS-HTTP-023",
    message: "the request's lines and headers did not arrive within 10 s",
    why: "a connection is not kept for half a request",
    fix: "send it again",
};

/// There are too many connections.
pub(super) const TOO_MANY: Answer = Answer {
    status: "503 Service Unavailable",
    code: "WS-HTTP-024",
    message: "there are too many connections",
    why: "a node has room for 20,000, or for what the files allow that its process may open (`ulimit -n`)",
    fix: "come again a little later; close connections that are not needed, or raise the limit of open files",
};

/// Plain HTTP came where TLS is spoken.
pub(super) const NOT_TLS: Answer = Answer {
    status: "400 Bad Request",
    code: "WS-HTTP-025",
    message: "this port speaks TLS",
    why: "what came was plain HTTP",
    fix: "use https:// and wss://",
};

impl Answer {
    /// As it stands on the wire.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let retryable = !self.status.starts_with("400");
        let body = json!({
            "code": self.code, "message": self.message, "why": self.why, "do": self.fix, "retryable": retryable,
            "side_effects": false,
        });
        let (body, again) = (body.to_string(), if retryable { "retry-after: 1\r\n" } else { "" });
        format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{again}connection: close\r\n\r\n{body}",
            self.status,
            body.len()
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits;

    #[test]
    fn what_is_said_of_limits_is_true() {
        assert!(HEAD_LATE.message.contains(&format!("{} s", limits::HTTP_HEAD_TIMEOUT.as_secs())));
        assert_eq!(limits::HTTP_CONNECTIONS_MAX, 20_000);
        let text = String::from_utf8(TOO_MANY.bytes()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())) && head.contains("retry-after"),
            "{head}"
        );
    }
}
