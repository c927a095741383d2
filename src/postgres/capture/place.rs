//! How far a database has been read.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::model::SourceCursor;
use crate::postgres::replication::Lsn;

/// A place in one database's transaction log. As text it is the [`SourceCursor`] that the node's log stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The cluster's identifier, in decimal; its standbys and restored backups have the same.
    pub system: String,
    /// One more after every promotion.
    pub timeline: u32,
    /// The database's oid.
    pub database: u32,
    pub slot: String,
    /// Everything that committed before it has been read.
    pub lsn: Lsn,
}

impl Place {
    /// The same at another place.
    pub fn at(&self, lsn: Lsn) -> Place {
        Place { lsn, ..self.clone() }
    }

    /// Whether it is a place in the same log.
    pub fn is_of(&self, other: &Place) -> bool {
        (&self.system, self.timeline, self.database) == (&other.system, other.timeline, other.database)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { system, timeline, database, slot, lsn } = self;
        write!(f, "postgres1-{system}-{timeline}-{database}-{lsn}-{slot}")
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let parse = || {
            let mut parts = text.strip_prefix("postgres1-")?.splitn(5, '-');
            let system = parts.next()?;
            let (timeline, database) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let lsn = parts.next()?.parse().ok()?;
            let slot = parts.next()?;
            let is_number = !system.is_empty() && system.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| Place { system: system.into(), timeline, database, slot: slot.into(), lsn })
        };
        parse().ok_or_else(|| format!("not a place in a PostgreSQL database: {:.80}", text.escape_debug()))
    }
}

impl From<&Place> for SourceCursor {
    fn from(place: &Place) -> SourceCursor {
        SourceCursor(Bytes::from(place.to_string()))
    }
}

impl TryFrom<&SourceCursor> for Place {
    type Error = String;

    fn try_from(cursor: &SourceCursor) -> Result<Place, String> {
        String::from_utf8_lossy(&cursor.0).parse()
    }
}

/// Up to where a server's log has been read, by what the node's log stores of it; `None` if that is no such place.
pub fn captured_lsn(cursor: &SourceCursor) -> Option<Lsn> {
    Place::try_from(cursor).ok().map(|place| place.lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_as_written() {
        let place = Place {
            system: "7412345678901234567".into(),
            timeline: 3,
            database: 16_384,
            slot: "watershed_0123456789abcdef".into(),
            lsn: Lsn(0x1_0000_00AB),
        };
        let cursor = SourceCursor::from(&place);
        assert_eq!(&cursor.0[..], b"postgres1-7412345678901234567-3-16384-1/AB-watershed_0123456789abcdef");
        assert_eq!(Place::try_from(&cursor), Ok(place));
        for bad in
            ["", "postgres1-", "postgres1-x-1-1-0/1-s", "postgres1-1-1-1-0-s", "sqlite1-0-0-0-0", "postgres1-1-1-1-0/0"]
        {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
