//! Who may do what over HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::rate::{Rate, RateLimit};
use crate::peer::Refusal;

/// What a token may do; a name of `*` means all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// Link as that node.
    Peer(Box<str>),
    /// Read that log.
    Read(Box<str>),
    /// Append to that log.
    Append(Box<str>),
    /// Query that view.
    Query(Box<str>),
    /// Give orders, see and change everything.
    Operate,
    /// See the metrics.
    Metrics,
}

impl Right {
    /// The right as it stands in the configuration: `read:orders`.
    pub fn parse(text: &str) -> Option<Right> {
        Some(match text.split_once(':') {
            Some((_, "")) => return None,
            Some(("peer", name)) => Right::Peer(name.into()),
            Some(("read", name)) => Right::Read(name.into()),
            Some(("append", name)) => Right::Append(name.into()),
            Some(("query", name)) => Right::Query(name.into()),
            None if text == "operate" => Right::Operate,
            None if text == "metrics" => Right::Metrics,
            _ => return None,
        })
    }

    fn covers(&self, wanted: &Right) -> bool {
        let named = |have: &str, want: &str| have == "*" || have == want;
        match (self, wanted) {
            (Right::Operate, _) => !matches!(wanted, Right::Peer(_)),
            (Right::Peer(have), Right::Peer(want))
            | (Right::Read(have), Right::Read(want))
            | (Right::Append(have), Right::Append(want))
            | (Right::Query(have), Right::Query(want)) => named(have, want),
            (have, want) => have == want,
        }
    }
}

impl fmt::Display for Right {
    /// As it stands in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Right::Peer(name) => write!(f, "peer:{name}"),
            Right::Read(name) => write!(f, "read:{name}"),
            Right::Append(name) => write!(f, "append:{name}"),
            Right::Query(name) => write!(f, "query:{name}"),
            Right::Operate => f.write_str("operate"),
            Right::Metrics => f.write_str("metrics"),
        }
    }
}

/// A token that the configuration lists. The secret itself is not kept.
#[derive(Clone, Debug)]
pub struct Token {
    /// Whose it is.
    pub name: Box<str>,
    secret: [u8; 32],
    may: Vec<Right>,
    /// How much it may ask for, if that is limited.
    pub rate: Option<Arc<Rate>>,
}

impl Token {
    /// With its rights.
    pub fn new(name: &str, secret: &str, may: Vec<Right>) -> Token {
        Token { name: name.into(), secret: Sha256::digest(secret).into(), may, rate: None }
    }

    /// The same, which may ask for so much.
    pub fn limited(self, limit: Option<RateLimit>) -> Token {
        Token { rate: limit.map(|limit| Arc::new(Rate::new(limit, Instant::now()))), ..self }
    }

    /// Whether it is a node's.
    pub fn is_peer(&self) -> bool {
        self.may.iter().any(|right| matches!(right, Right::Peer(_)))
    }

    /// Whether that is its secret, in a time that does not depend on where they differ.
    pub fn is(&self, shown: &[u8; 32]) -> bool {
        self.secret.iter().zip(shown).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }

    /// Whether it may.
    pub fn may(&self, wanted: &Right) -> bool {
        self.may.iter().any(|have| have.covers(wanted))
    }
}

/// Whoever links with `here` is who its token says, where one was asked for.
///
/// # Errors
/// It has another name.
pub(super) fn check_name(token: Option<&Token>, name: &str, here: &str) -> Result<(), Refusal> {
    let Some(token) = token.filter(|token| !token.may(&Right::Peer(name.into()))) else { return Ok(()) };
    let message = format!(
        "the token {:?} is not of the node {name:?} / why: it lacks the right \"peer:{name}\" / do: correct [node] name there, or \
         give the node a token of its own: `watershed token new {name} --may peer:{name}`, listed at {here:?}",
        token.name
    );
    Err(Refusal { code: "WS-NODE-025".into(), message, retryable: false })
}

/// The digest by which tokens are compared.
pub fn token_digest(shown: &str) -> [u8; 32] {
    Sha256::digest(shown).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_what_it_lists_and_nothing_else() {
        let rights = |list: &[&str]| list.iter().map(|text| Right::parse(text).expect("a right")).collect();
        let team = Token::new("team", "s3cret", rights(&["read:*", "append:orders"]));
        let wanted = |text: &str| Right::parse(text).expect("a right");
        assert!(team.may(&wanted("read:anything")) && team.may(&wanted("append:orders")));
        assert!(!team.may(&wanted("append:other")) && !team.may(&wanted("operate")) && !team.may(&wanted("peer:x")));
        let operator = Token::new("op", "x", rights(&["operate"]));
        assert!(operator.may(&wanted("append:orders")) && !operator.may(&wanted("peer:branch")));
        assert!(team.is(&token_digest("s3cret")) && !team.is(&token_digest("s3crets")));
    }

    #[test]
    fn what_is_no_right_is_none() {
        for text in ["", "read", "read:", "write:orders", "operate:x", "Operate"] {
            assert_eq!(Right::parse(text), None, "{text}");
        }
    }
}
