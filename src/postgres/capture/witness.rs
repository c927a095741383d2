//! A token that the database and the node's data folder have in common. A server whose disk was put back to an earlier state has an
//! earlier one, also where its log has grown past the place up to which it was read.
//!
//! ```text
//! folder: {last, next} durable  →  database: next durable  →  folder: {next} durable
//! ```
//!
//! So what the database has stands in the folder at any instant. The token changes with every connection, and a moment after
//! something was captured: a commit that was captured before stands in the server's log before the token.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use tokio_postgres::{Client, Error};

use super::continuity::RECOPY;
use super::failure::{self, Failed};
use super::side::Side;

const TABLE: &str = "create table if not exists watershed.witness (one boolean primary key default true check (one), \
    token text not null)";
const IS_THERE: &str = "select to_regclass('watershed.witness') is not null";
const RENEW: &str =
    "insert into watershed.witness (token) values ($1) on conflict (one) do update set token = excluded.token";
/// Within the data folder.
const FILE: &str = "capture.witness";
/// What stands in the folder where the database may have no token yet.
const NONE: &str = "none";
/// Two tokens and their ends of lines are less.
const FILE_BYTES_MAX: u64 = 256;

/// Refuses a database whose token is none of the folder's.
pub(super) async fn check(side: &mut Side, dir: &Path) -> Result<(), Failed> {
    let there = side.ask("reading its witness", async |client| token(client).await).await?;
    let here = read(dir).map_err(failure::witness)?;
    let is_known = match &here {
        None => there == NONE,
        Some(tokens) => tokens.lines().any(|token| token == there),
    };
    match is_known {
        true => Ok(()),
        false => Err(failure::operator(
            "WS-PGCAPTURE-040",
            "the database is in another state than the one that the node's log has read last",
            "what the node noted there last is not in it: the server's disk was put back to an earlier state (a snapshot, with \
             its replication slot), or the node's data folder was, so that what is in one may be missing in the other",
            format!("put back what was there; or, {RECOPY}"),
        )),
    }
}

/// Gives both another one. False: the folder takes nothing now, and both keep what they have. That is no trouble of capture,
/// whose log may have room in reserve, or else says so itself.
pub(super) async fn renew(side: &mut Side, dir: &Path) -> Result<bool, Failed> {
    let last = side.ask("reading its witness", async |client| token(client).await).await?;
    let next = format!("{:032x}", rand::random::<u128>());
    if !is_kept(write(dir, &format!("{last}\n{next}\n"))) {
        return Ok(false);
    }
    side.ask("writing its witness", async |client| {
        if last == NONE {
            client.batch_execute(TABLE).await?;
        }
        client.execute(RENEW, &[&next]).await
    })
    .await?;
    // Else the folder has both, and either is known.
    Ok(is_kept(write(dir, &format!("{next}\n"))))
}

fn is_kept(written: io::Result<()>) -> bool {
    if let Err(error) = &written {
        tracing::warn!("capture.witness cannot be written: {error}; the one before stays");
    }
    written.is_ok()
}

async fn token(client: &Client) -> Result<String, Error> {
    if !client.query_one(IS_THERE, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(NONE.into());
    }
    let row = client.query_opt("select token from watershed.witness", &[]).await?;
    row.map_or(Ok(NONE.into()), |row| row.try_get(0))
}

fn read(dir: &Path) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    match File::open(dir.join(FILE)) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn write(dir: &Path, text: &str) -> io::Result<()> {
    let new = dir.join(format!("{FILE}.new"));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_there_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(read(dir.path()).expect("readable"), None);
        write(dir.path(), "a\nb\n").expect("room");
        write(dir.path(), "b\nc\n").expect("room");
        assert_eq!(read(dir.path()).expect("readable").as_deref(), Some("b\nc\n"));
        fs::write(dir.path().join(FILE), vec![0xff; 10_000]).expect("room");
        assert!(read(dir.path()).expect("readable").is_some_and(|text| text.len() < 1_000));
    }
}
