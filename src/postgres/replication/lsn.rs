//! Places in a server's transaction log.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A place in a server's transaction log (write-ahead log): so many bytes from its beginning. Shown as PostgreSQL does.
///
/// ```
/// use watershed::postgres::replication::Lsn;
/// let lsn: Lsn = "0/16B3748".parse().unwrap();
/// assert_eq!((lsn, lsn.to_string().as_str()), (Lsn(0x16B_3748), "0/16B3748"));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No place; to a server that is to start there: where the slot is.
    pub const NONE: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

/// A text that is no place in a transaction log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no LSN: two hexadecimal numbers like 0/16B3748 are expected")]
pub struct LsnError(String);

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Lsn, LsnError> {
        let half = |digits: &str| match digits.len() {
            1..=8 if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => u32::from_str_radix(digits, 16).ok(),
            _ => None,
        };
        let parts = text.split_once('/').and_then(|(high, low)| Some((half(high)?, half(low)?)));
        let (high, low) = parts.ok_or_else(|| LsnError(text.to_string()))?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_places_are_the_same() {
        for (text, lsn) in
            [("0/0", 0), ("0/16B3748", 0x16B_3748), ("1A/0", 0x1A << 32), ("FFFFFFFF/FFFFFFFF", u64::MAX)]
        {
            assert_eq!(text.parse(), Ok(Lsn(lsn)));
            assert_eq!(Lsn(lsn).to_string(), text);
        }
        assert_eq!("a/b".parse(), Ok(Lsn(0xA_0000_000B)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "/", "0", "0/", "/0", "+1/0", "0/-1", "0/123456789", "g/0", "0/0/0", " 0/0"] {
            let error = text.parse::<Lsn>().expect_err(text);
            assert!(error.to_string().contains("is no LSN"), "{error}");
        }
    }
}
