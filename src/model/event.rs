//! Events: rows of an append-only table `events(id bigint, ts timestamptz, event jsonb)`, as they travel in entries.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use bytes::Buf;
use prost::encoding::{self, DecodeContext, WireType};
use thiserror::Error;

use super::codec::{CodecError, malformed};
use super::{Column, Op, TableDef, Timestamp};

/// One event. Its text is borrowed from where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The primary key.
    pub id: i64,
    /// `ts`: the start of the transaction that appended it.
    pub time: EventTime,
    /// `event`: JSON text as the database gives it, every digit kept.
    pub json: &'a [u8],
}

/// An event's time: microseconds since 2000-01-01 00:00 UTC, PostgreSQL's own count. The least and the greatest number
/// are `-infinity` and `infinity`. (postgresql.org/docs/15/datatype-datetime.html)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

/// A text is no time with a zone in PostgreSQL's ISO form.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("not a time: {0:?} (expected YYYY-MM-DD HH:MM:SS[.FFFFFF]+HH[:MM], with BC where it applies, or infinity)")]
pub struct EventTimeError(pub String);

/// Microseconds from 1970-01-01 to 2000-01-01.
const EPOCH_2000_US: i64 = 946_684_800_000_000;
const DAY_US: i64 = 86_400_000_000;
/// Days from 0000-03-01 (proleptic Gregorian) to 2000-01-01.
const DAYS_TO_2000: i64 = 730_425;
/// Days in 400 years.
const ERA_DAYS: i64 = 146_097;

/// (year, month, day) of a day counted from 2000-01-01. (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms".)
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + DAYS_TO_2000;
    let era = z.div_euclid(ERA_DAYS);
    let of_era = z.rem_euclid(ERA_DAYS);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    era * ERA_DAYS + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - DAYS_TO_2000
}

impl EventTime {
    /// After every time.
    pub const INFINITY: EventTime = EventTime(i64::MAX);
    /// Before every time.
    pub const MINUS_INFINITY: EventTime = EventTime(i64::MIN);
    /// The same instant, counted as entries count it; infinities stay at the ends.
    pub fn since_1970(self) -> Timestamp {
        Timestamp(self.0.saturating_add(EPOCH_2000_US))
    }

    /// Bytes that the text of a time has at most.
    pub const TEXT_BYTES_MAX: usize = 40;

    /// Appends the text that PostgreSQL prints in the time zone UTC: `2024-01-02 03:04:05.25+00`.
    pub fn put_text(self, out: &mut Vec<u8>) {
        match self {
            EventTime::INFINITY => return out.extend_from_slice(b"infinity"),
            EventTime::MINUS_INFINITY => return out.extend_from_slice(b"-infinity"),
            EventTime(_) => {}
        }
        let (days, rest) = (self.0.div_euclid(DAY_US), self.0.rem_euclid(DAY_US));
        let (year, month, day) = civil_from_days(days);
        let (shown, before_christ) = if year > 0 { (year, false) } else { (1 - year, true) };
        put_digits(out, shown as u64, 4);
        for (mark, number) in [(b'-', month), (b'-', day)] {
            out.push(mark);
            put_digits(out, number as u64, 2);
        }
        let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
        for (mark, number) in [(b' ', seconds / 3_600), (b':', seconds / 60 % 60), (b':', seconds % 60)] {
            out.push(mark);
            put_digits(out, number as u64, 2);
        }
        if micros > 0 {
            out.push(b'.');
            put_digits(out, micros as u64, 6);
            while out.last() == Some(&b'0') {
                out.pop();
            }
        }
        out.extend_from_slice(b"+00");
        if before_christ {
            out.extend_from_slice(b" BC");
        }
    }
}

/// Decimal, with leading zeros up to `width`.
fn put_digits(out: &mut Vec<u8>, number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let (mut at, mut rest) = (digits.len(), number);
    while rest > 0 || digits.len() - at < width {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(EventTime::TEXT_BYTES_MAX);
        self.put_text(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

/// Reads a time from the front of its text.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self, width: std::ops::RangeInclusive<usize>) -> Option<i64> {
        let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if !width.contains(&digits) {
            return None;
        }
        let value = self.0[..digits].iter().fold(0, |value: i64, b| value * 10 + i64::from(b - b'0'));
        self.0 = &self.0[digits..];
        Some(value)
    }

    fn mark(&mut self, marks: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        marks.contains(&first).then(|| {
            self.0 = rest;
            first
        })
    }

    fn limited(&mut self, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        self.number(2..=2).filter(|number| range.contains(number))
    }

    /// Microseconds east of Greenwich.
    fn zone(&mut self) -> Option<i64> {
        if self.mark(b"Z").is_some() {
            return Some(0);
        }
        let sign = if self.mark(b"+-")? == b'+' { 1 } else { -1 };
        let mut seconds = self.limited(0..=15)? * 3_600;
        for unit in [60, 1] {
            if self.mark(b":").is_some() {
                seconds += self.limited(0..=59)? * unit;
            }
        }
        Some(sign * seconds * 1_000_000)
    }

    fn time(&mut self) -> Option<i64> {
        let year = self.number(4..=6)?;
        self.mark(b"-")?;
        let month = self.limited(1..=12)?;
        self.mark(b"-")?;
        let day = self.limited(1..=31)?;
        self.mark(b" T")?;
        let hour = self.limited(0..=24)?;
        self.mark(b":")?;
        let minute = self.limited(0..=59)?;
        self.mark(b":")?;
        let second = self.limited(0..=60)?;
        let mut micros = 0;
        if self.mark(b".").is_some() {
            let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
            micros = self.number(1..=6)? * 10_i64.pow(6 - digits as u32);
        }
        let zone = self.zone()?;
        let year = match self.0 {
            b"" if year > 0 => year,
            b" BC" if year > 0 => 1 - year,
            _ => return None,
        };
        let days = days_from_civil(year, month, day);
        if civil_from_days(days) != (year, month, day) {
            return None;
        }
        let of_day = ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros - zone;
        days.checked_mul(DAY_US)?.checked_add(of_day)
    }
}

impl EventTime {
    /// Reads PostgreSQL's ISO form with any zone.
    ///
    /// # Errors
    /// The text is none.
    pub fn parse(text: &[u8]) -> Result<EventTime, EventTimeError> {
        match text {
            b"infinity" => return Ok(EventTime::INFINITY),
            b"-infinity" => return Ok(EventTime::MINUS_INFINITY),
            _ => {}
        }
        let micros = Reader(text).time();
        micros.map(EventTime).ok_or_else(|| EventTimeError(String::from_utf8_lossy(text).chars().take(60).collect()))
    }
}

impl FromStr for EventTime {
    type Err = EventTimeError;
    fn from_str(text: &str) -> Result<Self, EventTimeError> {
        EventTime::parse(text.as_bytes())
    }
}

/// The table that events travel as.
pub fn events_table() -> Arc<TableDef> {
    static TABLE: LazyLock<Arc<TableDef>> = LazyLock::new(|| {
        let column = |name: &str, type_name: &str, key| Column { name: name.into(), type_name: type_name.into(), key };
        let columns = vec![column("id", "bigint", 1), column("ts", "timestamptz", 0), column("event", "jsonb", 0)];
        Arc::new(TableDef::new("events".parse().expect("it is a name"), columns))
    });
    Arc::clone(&TABLE)
}

/// Appends an event as the encoded insert into table 0 of its entry: the same bytes as [`super::encode_changes`].
pub fn put_event(out: &mut Vec<u8>, event: Event<'_>) {
    let mut id = [0; 20];
    let id = decimal(event.id, &mut id);
    let mut time = Vec::with_capacity(EventTime::TEXT_BYTES_MAX);
    event.time.put_text(&mut time);
    let field = |len: usize| 1 + encoding::encoded_len_varint(len as u64) + len;
    let row = field(3) + field(id.len()) + field(time.len()) + field(event.json.len());
    out.reserve(row + 24);
    encoding::encode_varint((2 + field(row)) as u64, out);
    out.extend_from_slice(&[2 << 3, Op::Insert as u8, 3 << 3 | 2]);
    encoding::encode_varint(row as u64, out);
    out.extend_from_slice(&[1 << 3 | 2, 3, b't', b't', b't']);
    for text in [id, &time, event.json] {
        out.push(2 << 3 | 2);
        encoding::encode_varint(text.len() as u64, out);
        out.extend_from_slice(text);
    }
}

fn decimal(number: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let (mut at, mut rest) = (buffer.len(), number.unsigned_abs());
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

/// Calls `take` with every event of encoded changes, in order; nothing is copied.
///
/// # Errors
/// What `take` returns, or that a change is not an insert of an event.
pub fn scan_events<'a, E: From<CodecError>>(
    changes: &'a [u8],
    mut take: impl FnMut(Event<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = changes;
    while rest.has_remaining() {
        let change = field_bytes(&mut rest)?;
        take(event_of(change)?)?;
    }
    Ok(())
}

/// How many events encoded changes hold, by their lengths alone: whether they are events is seen when they are scanned.
///
/// # Errors
/// A length that leads past the end.
pub fn count_events(changes: &[u8]) -> Result<usize, CodecError> {
    let (mut rest, mut count) = (changes, 0);
    while rest.has_remaining() {
        field_bytes(&mut rest)?;
        count += 1;
    }
    Ok(count)
}

fn unreadable(why: impl ToString) -> CodecError {
    malformed("an event", why)
}

fn field_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], CodecError> {
    let length = encoding::decode_varint(rest).map_err(unreadable)?;
    if length > rest.len() as u64 {
        return Err(unreadable(format!("{length} bytes announced, {} left", rest.len())));
    }
    let (field, after) = rest.split_at(length as usize);
    *rest = after;
    Ok(field)
}

fn event_of(mut change: &[u8]) -> Result<Event<'_>, CodecError> {
    let (mut op, mut row) = (0, None);
    while change.has_remaining() {
        match encoding::decode_key(&mut change).map_err(unreadable)? {
            (2, WireType::Varint) => op = encoding::decode_varint(&mut change).map_err(unreadable)?,
            (3, WireType::LengthDelimited) => row = Some(field_bytes(&mut change)?),
            (field, wire) => {
                encoding::skip_field(wire, field, &mut change, DecodeContext::default()).map_err(unreadable)?
            }
        }
    }
    let row = row.filter(|_| op == Op::Insert as u64).ok_or_else(|| unreadable("a change that is not an insert"))?;
    event_of_row(row)
}

fn event_of_row(mut row: &[u8]) -> Result<Event<'_>, CodecError> {
    let (mut kinds, mut texts, mut count): (&[u8], [&[u8]; 3], usize) = (&[], [&[]; 3], 0);
    while row.has_remaining() {
        match encoding::decode_key(&mut row).map_err(unreadable)? {
            (1, WireType::LengthDelimited) => kinds = field_bytes(&mut row)?,
            (2, WireType::LengthDelimited) => {
                let text = field_bytes(&mut row)?;
                *texts.get_mut(count).ok_or_else(|| unreadable("more than three columns"))? = text;
                count += 1;
            }
            (field, wire) => {
                encoding::skip_field(wire, field, &mut row, DecodeContext::default()).map_err(unreadable)?
            }
        }
    }
    if kinds != b"ttt" || count != 3 {
        return Err(unreadable("not the three columns id, ts and event with a value each"));
    }
    let id = std::str::from_utf8(texts[0]).ok().and_then(|text| text.parse().ok());
    let id = id.ok_or_else(|| unreadable("its id is not a 64-bit number"))?;
    Ok(Event { id, time: EventTime::parse(texts[1]).map_err(unreadable)?, json: texts[2] })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Change, Kind, Value, encode_changes};
    use super::*;

    #[test]
    fn times_print_as_postgresql_prints_them() {
        let cases = [
            (0, "2000-01-01 00:00:00+00"),
            (1, "2000-01-01 00:00:00.000001+00"),
            (-1, "1999-12-31 23:59:59.999999+00"),
            (757_479_845_250_000, "2024-01-02 03:04:05.25+00"),
            (9_223_371_331_199_999_999, "294276-12-31 23:59:59.999999+00"),
            (-211_813_488_000_000_000, "4714-11-24 00:00:00+00 BC"),
            (i64::MAX, "infinity"),
            (i64::MIN, "-infinity"),
        ];
        for (micros, text) in cases {
            assert_eq!(EventTime(micros).to_string(), text);
            assert_eq!(text.parse::<EventTime>(), Ok(EventTime(micros)), "{text}");
        }
        assert_eq!("2024-01-02 05:04:05.25+02".parse::<EventTime>(), Ok(EventTime(757_479_845_250_000)));
        assert_eq!("2024-01-02T05:34:05.25+02:30".parse::<EventTime>(), Ok(EventTime(757_479_845_250_000)));
        assert_eq!("2024-01-02T03:04:05.250Z".parse::<EventTime>(), Ok(EventTime(757_479_845_250_000)));
        for bad in [
            "",
            "2024",
            "2024-02-30 00:00:00+00",
            "2024-01-01 00:00:00",
            "0000-01-01 00:00:00+00",
            "2024-01-01 00:00:00.1234567+00",
        ] {
            assert!(bad.parse::<EventTime>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn times_read_back_as_printed(micros in -211_813_488_000_000_000_i64..9_223_371_331_200_000_000) {
            prop_assert_eq!(EventTime(micros).to_string().parse(), Ok(EventTime(micros)));
        }

        #[test]
        fn events_encode_as_changes_and_read_back(events: Vec<(i64, i32, Vec<u8>)>) {
            let mut bytes = Vec::new();
            let mut changes = Vec::new();
            for (id, time, json) in &events {
                let time = EventTime(i64::from(*time) * 1_000_003);
                put_event(&mut bytes, Event { id: *id, time, json });
                let texts = [id.to_string().into_bytes(), time.to_string().into_bytes(), json.clone()];
                let row = texts.map(|text| Value::new(Kind::Typed, text)).to_vec();
                changes.push(Change { table: 0, op: Op::Insert, row: Some(row), old: None });
            }
            prop_assert_eq!(&bytes, &encode_changes(&changes));
            let mut read = Vec::new();
            scan_events(&bytes, |event| -> Result<(), CodecError> { read.push((event.id, event.time, event.json.to_vec())); Ok(()) })
                .expect("own encoding");
            prop_assert_eq!(read.len(), events.len());
            prop_assert_eq!(count_events(&bytes), Ok(events.len()));
            for (read, (id, time, json)) in read.iter().zip(&events) {
                prop_assert_eq!((read.0, read.1, &read.2), (*id, EventTime(i64::from(*time) * 1_000_003), json));
            }
        }

        #[test]
        fn foreign_bytes_are_no_events_and_no_panic(bytes: Vec<u8>) {
            let _ = scan_events(&bytes, |_| -> Result<(), CodecError> { Ok(()) });
        }
    }
}
