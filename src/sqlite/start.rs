//! Where capture starts reading a database.

use rusqlite::Connection;

use super::continuity::{Facts, Place, check, checksum_at, draw_mark};
use super::error::CaptureError;
use super::install::Occasion;
use super::options::CaptureOptions;
use super::schema;

/// Creates the tables, and finds where reading starts: where the log says, if it can be.
pub(crate) fn settle(
    conn: &Connection,
    options: &CaptureOptions,
    resume: Option<Place>,
) -> Result<(Facts, Place, Occasion), CaptureError> {
    let path = &options.path;
    let fail = |error| CaptureError::sqlite(path, "installing capture", error);
    schema::create(conn).map_err(fail)?;
    let Some(mut facts) = Facts::read(conn).map_err(fail)? else {
        if let Some(resume) = resume {
            let why = "capture is not installed in it".to_owned();
            let (expected, found) = (resume.to_string(), "nothing of it".to_owned());
            return Err(CaptureError::Restored { path: path.clone(), why, expected, found });
        }
        let facts = Facts::draw(conn, options.log).map_err(fail)?;
        let start = Place { database: facts.database, mark: facts.mark, ..Place::default() };
        return Ok((facts, start, Occasion::First));
    };
    if facts.log != options.log.to_string() {
        let found = facts.log;
        return Err(CaptureError::OtherLog { path: path.clone(), expected: options.log, found });
    }
    let start = match resume {
        Some(resume) => {
            check(conn, path, resume, &facts)?;
            resume
        }
        None => {
            let check = checksum_at(conn, facts.newest).map_err(fail)?.unwrap_or_default();
            Place { database: facts.database, mark: facts.mark, seq: facts.newest, check }
        }
    };
    facts.mark = draw_mark(conn, start.mark).map_err(fail)?;
    facts.mark_before = start.mark;
    Ok((facts, start, Occasion::Read(start.seq)))
}
