//! What the state of a view is, as a number: as of where it is, or of a place exactly, so that two nodes can be compared.

use std::cmp::Ordering;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::part::PartBoard;
use super::tokens::checked;
use super::viewed::{Asked, Told, Unanswered, Viewed, unmet_by};
use crate::model::{Cursor, Fingerprint, Position, limits};
use crate::node::feeds::{Feed, joined};
use crate::node::shared::Shared;
use crate::view::{AskError, Hold, Needed, StateDigest, Token, TokenError, Unmet, ViewStore, covers};

/// Between two looks at a view that is led to a place; it also says when it has moved.
const LOOK: Duration = Duration::from_millis(20);

/// A place of a view's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A cursor of each partition.
    Cursors(Vec<Cursor>),
    /// Of a log with one partition.
    Position(Position),
}

impl FromStr for Place {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Place, TokenError> {
        let short = text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit());
        if let (true, Ok(position)) = (short, text.parse()) {
            return Ok(Place::Position(Position(position)));
        }
        match text.parse()? {
            Token::Cursors(cursors) => Ok(Place::Cursors(cursors)),
            Token::Latest | Token::Lsn { .. } => Err(TokenError(text.chars().take(80).collect())),
        }
    }
}

/// So long the place that a view is to stand at is one's alone, if others wait for another.
const TURN: Duration = Duration::from_secs(2);

/// What a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digested {
    /// SHA-256; equal for equal states of one definition, in whatever kind of store a view by SQL is.
    pub digest: [u8; 32],
    /// How many rows it stands for; `None` of a digest that was kept.
    pub rows: Option<u64>,
    /// What the state was built by.
    pub definition: Fingerprint,
}

/// In partitions' order, where every partition has one; none twice, and none of another log.
fn placed(feed: &Feed, place: &Place) -> Result<Vec<Cursor>, Unmet> {
    let partitions = &feed.partitions;
    let all = || {
        let count = partitions.len();
        Unmet::Unknown(format!("{} has {count} partitions: the place is a cursor of each, with `,` between", feed.name))
    };
    let at: Vec<Cursor> = match (place, &partitions[..]) {
        (Place::Position(position), [one]) => vec![Cursor { position: *position, ..one.log.cursor_at(*position) }],
        (Place::Position(_), _) => return Err(all()),
        (Place::Cursors(given), _) => {
            if let Some(other) = given.iter().find(|cursor| feed.partition_with(cursor.log).is_none()) {
                return Err(Unmet::Unknown(format!(
                    "the place is one of the log {}, and states of a view of {} are compared at a place of that",
                    other.log, feed.name
                )));
            }
            let of = |log| given.iter().filter(move |cursor| cursor.log == log).copied();
            let at: Vec<Cursor> = partitions.iter().filter_map(|partition| of(partition.log.id()).next()).collect();
            if at.len() != partitions.len() || given.len() != partitions.len() {
                return Err(all());
            }
            at
        }
    };
    for (cursor, partition) in at.iter().zip(partitions) {
        let is_ahead = cursor.position > *partition.log.tail().borrow();
        // What is ahead may get any epoch; the tail's is known.
        if !is_ahead {
            checked(feed, &*partition.log, *cursor)?;
        }
    }
    Ok(at)
}

fn position_in(cursors: &[Cursor], of: &Cursor) -> Position {
    cursors.iter().find(|cursor| cursor.log == of.log).map_or(Position::ZERO, |cursor| cursor.position)
}

/// Where a view is beside a place: `Greater` if any partition is beyond it.
fn beside(parts: &[Arc<PartBoard>], at: &[Cursor]) -> Ordering {
    let mut found = Ordering::Equal;
    for cursor in at {
        let part = parts.iter().find(|part| part.log.id() == cursor.log);
        let there = part.filter(|part| part.state().known).map(|part| part.position().cmp(&cursor.position));
        match there.unwrap_or(Ordering::Less) {
            Ordering::Greater => return Ordering::Greater,
            Ordering::Less => found = Ordering::Less,
            Ordering::Equal => {}
        }
    }
    found
}

impl Viewed {
    /// What the state is, as a number, once the view has what it is to contain.
    ///
    /// # Errors
    /// As of [`Viewed::ask`]; or too many are summed up.
    pub async fn digest(&self, shared: &Shared, asked: &Asked) -> Result<Told<Digested>, Unanswered> {
        let until = Instant::now() + asked.timeout;
        let ready = self.ready(shared, asked, until).await?;
        loop {
            let Some(live) = self.live.read().await.clone() else {
                self.again(until).await?;
                continue;
            };
            let definition = live.definition();
            let digest = summed(shared, live, Hold::none(), self.room()?).await?;
            if covers(&digest.cursors, &ready.needed) {
                let what = Digested { digest: digest.digest, rows: Some(digest.rows), definition };
                return Ok(Told { what, cursor: self.cursor(&digest.cursors), stale: ready.stale });
            }
            self.again(until).await?;
        }
    }

    /// What the state is at a place, exactly. Where the view has not come there yet it is led to stand still there until the
    /// snapshot is taken; where it has gone past, the digest is given if it was kept.
    ///
    /// # Errors
    /// It has not come there within the time, or never will; it has gone past; too many are summed up; the store fails.
    pub async fn digest_at(
        &self,
        shared: &Shared,
        place: &Place,
        timeout: Duration,
    ) -> Result<Told<Digested>, Unanswered> {
        let until = Instant::now() + timeout;
        self.trusted()?;
        let feed = self.log_there(until).await?;
        let at = placed(&feed, place)?;
        let told = |digest, rows, definition| Told {
            what: Digested { digest, rows, definition },
            cursor: joined(&at),
            stale: false,
        };
        if let Some((digest, definition)) = self.kept(&at).await {
            return Ok(told(digest, None, definition));
        }
        let needed: Needed = at.iter().map(|cursor| (cursor.log, cursor.position)).collect();
        self.within_reach(&needed, until)?;
        let standing = loop {
            let standing = tokio::time::timeout_at(until, self.stops.begin(needed.clone())).await;
            let standing = standing.map_err(|_| self.unmet())?;
            if self.comes_to(&at, until).await? {
                break standing;
            }
        };
        let room = self.room()?;
        // Of an epoch that was not there yet when it was asked.
        feed.partitions.iter().zip(&at).try_for_each(|(partition, at)| checked(&feed, &*partition.log, *at))?;
        self.trusted()?;
        let Some(live) = self.live.read().await.clone() else { return Err(self.unmet().into()) };
        let definition = live.definition();
        let digest = summed(shared, live, Hold::by(standing), room).await?;
        match at.iter().all(|cursor| position_in(&digest.cursors, cursor) == cursor.position) {
            true => Ok(told(digest.digest, Some(digest.rows), definition)),
            false => Err(self.passed(&at)),
        }
    }

    /// Waits until the view stands there; false: it is the turn of those who wait for another place.
    async fn comes_to(&self, at: &[Cursor], until: Instant) -> Result<bool, Unanswered> {
        let turn = Instant::now() + TURN;
        let mut moved = self.waiters.moved();
        loop {
            moved.mark_unchanged();
            let figures = self.figures().clone();
            match figures.live.map_or(Ordering::Less, |live| beside(&live.parts, at)) {
                Ordering::Equal => return Ok(true),
                Ordering::Greater => return Err(self.passed(at)),
                Ordering::Less => {}
            }
            if let Some(trouble) = figures.trouble.filter(|trouble| !trouble.passes()) {
                return Err(unmet_by(&trouble).into());
            }
            if Instant::now() >= until {
                return Err(self.unmet().into());
            }
            if Instant::now() >= turn && self.stops.others_wait() {
                return Ok(false);
            }
            tokio::select! {
                _ = moved.changed() => {}
                () = tokio::time::sleep_until(until.min(Instant::now() + LOOK)) => {}
            }
        }
    }

    fn passed(&self, at: &[Cursor]) -> Unanswered {
        let now = self.cursor(&self.reached());
        Unanswered::Passed(format!("the view has gone past {}: it is at {now}", joined(at)))
    }

    /// One that was kept, of a log with one partition.
    async fn kept(&self, at: &[Cursor]) -> Option<([u8; 32], Fingerprint)> {
        let [at] = at else { return None };
        if at.position.0 % limits::MACHINE_DIGEST_EVERY != 0 {
            return None;
        }
        let live = self.live.read().await.clone()?;
        let kept = live.kept_digests()?;
        let found = kept.all().find(|(position, _)| *position == at.position);
        found.map(|(_, digest)| (digest, live.definition()))
    }

    /// How many digests are summed up, or waited for.
    pub fn digests_under_way(&self) -> usize {
        limits::VIEW_DIGESTS_MAX - self.digests.available_permits()
    }

    fn room(&self) -> Result<OwnedSemaphorePermit, Unanswered> {
        self.digests.clone().try_acquire_owned().map_err(|_| Unanswered::Crowded)
    }
}

/// Sums up; keeps its room until that has ended, also where nobody waits for it any more.
async fn summed(
    shared: &Shared,
    live: Arc<dyn ViewStore>,
    hold: Hold,
    room: OwnedSemaphorePermit,
) -> Result<StateDigest, AskError> {
    let stop = shared.stop.clone();
    let work = shared.tasks.spawn(async move {
        let _room = room;
        tokio::select! {
            digest = live.digest_held(hold) => digest.map_err(|error| AskError::Failed(error.to_string())),
            () = stop.cancelled() => Err(AskError::Failed("the node stops".into())),
        }
    });
    work.await.unwrap_or_else(|error| Err(AskError::Failed(format!("the digest was not summed up: {error}"))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Epoch, LogId};

    #[test]
    fn places_are_read_and_what_is_none_is_refused() {
        let one = Cursor { log: LogId(1), epoch: Epoch(1), position: Position(5) };
        assert_eq!(format!("{one}").parse(), Ok(Place::Cursors(vec![one])));
        assert_eq!(format!("{one},{one}").parse(), Ok(Place::Cursors(vec![one, one])));
        assert_eq!("0".parse(), Ok(Place::Position(Position(0))));
        assert_eq!("18446744073709551615".parse(), Ok(Place::Position(Position(u64::MAX))));
        for bad in ["", "latest", "lsn:x/1/2", "18446744073709551616", "-1", "+1", "1,2", "1.0", &"1".repeat(5000)] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn foreign_places_never_panic(text: String, digits in "[0-9,-]{0,80}") {
            let _ = text.parse::<Place>();
            let _ = digits.parse::<Place>();
        }
    }
}
