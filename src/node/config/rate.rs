//! `rate = { requests = "100/s", bytes = "1MiB/s" }`: how much a token may ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::Size;
use crate::node::RateLimit;

/// How much a token may ask for; what is left out is not limited.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// Requests: `"100/s"`, `"30/min"`, `"10/h"`. Beyond it: 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestRate>,
    /// Bytes of bodies, sent and answered: `"1MiB/s"`. Beyond it: requests 429, answers slower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteRate>,
}

impl RateConfig {
    /// Per second.
    pub fn limit(&self) -> RateLimit {
        RateLimit {
            requests: self.requests.as_ref().map(|rate| rate.per_second),
            bytes: self.bytes.as_ref().map(|rate| rate.per_second),
        }
    }
}

/// Requests in a time: `"100/s"`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct RequestRate {
    text: String,
    per_second: f64,
}

/// Bytes in a time: `"1MiB/s"`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct ByteRate {
    text: String,
    per_second: f64,
}

/// How much, and in how many seconds.
fn parts(text: &str) -> Option<(&str, f64)> {
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some((count.trim(), seconds))
}

impl TryFrom<String> for RequestRate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let count = parts(&text).and_then(|(count, seconds)| Some((count.parse::<u32>().ok()?, seconds)));
        match count {
            Some((count @ 1.., seconds)) => Ok(RequestRate { per_second: f64::from(count) / seconds, text }),
            _ => Err(format!("`{text}` is not a rate of requests; write it as \"100/s\", \"30/min\" or \"10/h\"")),
        }
    }
}

impl TryFrom<String> for ByteRate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let bytes = parts(&text).and_then(|(size, seconds)| Some((size.parse::<Size>().ok()?, seconds)));
        match bytes {
            Some((Size(bytes @ 1..), seconds)) => Ok(ByteRate { per_second: bytes as f64 / seconds, text }),
            _ => Err(format!("`{text}` is not a rate of bytes; write it as \"1MiB/s\" or \"500KB/min\"")),
        }
    }
}

impl From<RequestRate> for String {
    fn from(rate: RequestRate) -> String {
        rate.text
    }
}

impl From<ByteRate> for String {
    fn from(rate: ByteRate) -> String {
        rate.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_counts_or_sizes_in_a_time() {
        let requests = |text: &str| RequestRate::try_from(text.to_owned()).map(|rate| rate.per_second).ok();
        let bytes = |text: &str| ByteRate::try_from(text.to_owned()).map(|rate| rate.per_second).ok();
        assert_eq!([requests("100/s"), requests("30/min"), requests("36 / h")], [Some(100.0), Some(0.5), Some(0.01)]);
        assert_eq!([bytes("1MiB/s"), bytes("600/min"), bytes("3.6KB/h")], [Some(1_048_576.0), Some(10.0), Some(1.0)]);
        for bad in ["", "100", "/s", "0/s", "-1/s", "1/d", "1e3/s", "1/s/s", "99999999999/s", "1MiB/s"] {
            assert_eq!(requests(bad), None, "{bad}");
        }
        for bad in ["", "1MiB", "0/s", "x/s", "1 parsec/s"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
