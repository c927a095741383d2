//! Realistic events: people created, renamed, moved and deleted, with filler between them.

use std::fmt::Write as _;

use serde_json::Value as Json;

use crate::model::Timestamp;

const FIRST_NAMES: [&str; 12] =
    ["Aoife", "Søren", "Zoë", "李雷", "Miloš", "Ana", "Fiadh \"Fi\"", "Noor", "Mehmet", "Олена", "Joe", "D'Arcy"];
const LAST_NAMES: [&str; 12] = [
    "O'Neil",
    "Đorđević",
    "Müller",
    "van 't Hof",
    "Ng",
    "Smith",
    "García",
    "Ca$h",
    "Quiñones",
    "Öz",
    "D\\'Amico",
    "🦊",
];
const STREETS: [&str; 8] =
    ["Main St", "St John's Rd", "Rue de l'Été", "Kungsgatan", "C:\\Lane", "Świętojańska", "5th \"Ave\"", "Hauptstraße"];
/// What filler says. It must pass through `insert_events` as it is, whatever that makes of dollar signs.
const WORDS: [&str; 16] = [
    "copper", "river", "it's", "lantern", "$1[1]", "orchard", "seven", "quiet", "\\n", "harbour", "$2,", "meadow",
    "\"so\"", "ünder", "granite", "windmill",
];
const INITIATORS: [&str; 5] = ["web", "mobile", "import", "support", "batch"];
/// People that can be renamed, moved or deleted; beyond it the oldest is forgotten, as if it lived on undisturbed.
const LIVING_MAX: usize = 4_096;
/// Bytes of an event with filler, at least and at most. jsonb's text has about 25 more, for its blanks.
const FILLER_BYTES: (usize, usize) = (320, 370);

/// Numbers that a seed gives, the same in every version (SplitMix64, Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xfff);
        let (d, e) = (low >> 48 & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
        format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
    }
}

/// One loader's people.
#[derive(Debug)]
pub(super) struct People {
    numbers: Numbers,
    living: Vec<String>,
    /// The stamps' `programId`: never from the seed, because two runs may load one table.
    program: String,
    operation: u64,
}

/// The stamps of the original's test loader, from which `events diff --validate-tables` knows whole transactions.
struct Stamp<'a> {
    program: &'a str,
    operation: u64,
    id: u64,
    count: u32,
    time: String,
}

impl Stamp<'_> {
    fn put(&self, out: &mut String, number: u32) {
        let Stamp { program, operation, id, count, time } = self;
        let _ = write!(
            out,
            r#""testingStats":{{"programId":"{program}","dbOperationNum":{operation},"dbOperationId":"{:012x}","dbOperationEventNum":{number},"dbOperationEventCount":{count},"dbOperationTS":"{time}"}}}}"#,
            id & 0xffff_ffff_ffff
        );
    }
}

impl People {
    /// People of one loader of a run.
    pub(super) fn new(seed: u64, run: u32, loader: usize) -> People {
        let program = format!("{run:08x}-{loader}");
        let mut numbers = Numbers::new(seed);
        // Loaders of one seed have numbers of their own.
        for _ in 0..=loader {
            numbers = Numbers::new(numbers.next());
        }
        People { numbers, living: Vec::new(), program, operation: 0 }
    }

    /// JSON texts of the next transaction.
    pub(super) fn transaction(&mut self, count: u32) -> Vec<String> {
        self.operation += 1;
        let now = jiff::Timestamp::from_microsecond(Timestamp::now().0).unwrap_or_default();
        let program = self.program.clone();
        let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let stamp = Stamp { program: &program, operation: self.operation, id: rand::random(), count, time };
        (1..=count).map(|number| self.event(&stamp, number)).collect()
    }

    fn event(&mut self, stamp: &Stamp<'_>, number: u32) -> String {
        match self.numbers.below(10) {
            _ if self.living.is_empty() => self.created(stamp, number),
            0 => self.created(stamp, number),
            1 | 2 => {
                let name = format!("{} {}", self.numbers.of(&FIRST_NAMES), self.numbers.of(&LAST_NAMES));
                self.changed(stamp, number, "name", "Rename person", &name)
            }
            3 | 4 => {
                let house = self.numbers.below(200) + 1;
                let address = format!("{} {house}", self.numbers.of(&STREETS));
                self.changed(stamp, number, "address", "Move person", &address)
            }
            5 if self.living.len() > 8 => {
                let index = self.numbers.below(self.living.len());
                let person = self.living.swap_remove(index);
                self.put(stamp, number, ("Person", &person, "deleted"), None, "Delete person")
            }
            _ => self.filler(stamp, number),
        }
    }

    fn created(&mut self, stamp: &Stamp<'_>, number: u32) -> String {
        let person = self.numbers.uuid();
        if self.living.len() == LIVING_MAX {
            self.living.swap_remove(0);
        }
        self.living.push(person.clone());
        self.put(stamp, number, ("Person", &person, "created"), None, "Create person")
    }

    fn changed(&mut self, stamp: &Stamp<'_>, number: u32, property: &str, command: &str, value: &str) -> String {
        let index = self.numbers.below(self.living.len());
        let person = self.living[index].clone();
        self.put(stamp, number, ("Person", &person, "changed"), Some((property, value)), command)
    }

    /// An event with as many words as it takes to have the size that was drawn.
    fn filler(&mut self, stamp: &Stamp<'_>, number: u32) -> String {
        let (entity, (least, most)) = (format!("filler-{}", self.numbers.below(1_000)), FILLER_BYTES);
        let size = least + self.numbers.below(most - least);
        let mut text = String::new();
        loop {
            let event = self.put(stamp, number, ("Filler", &entity, "added"), Some(("text", &text)), "Add filler");
            let room = size.saturating_sub(event.len());
            // A word takes up to 12 bytes with its escapes.
            if room < 12 {
                return event;
            }
            for _ in 0..(room / 12).max(1) {
                text.push_str(self.numbers.of(&WORDS));
                text.push(' ');
            }
        }
    }

    fn put(
        &mut self,
        stamp: &Stamp<'_>,
        number: u32,
        (entity, id, operation): (&str, &str, &str),
        property: Option<(&str, &str)>,
        command: &str,
    ) -> String {
        let mut out = String::with_capacity(400);
        let _ = write!(out, r#"{{"entityName":"{entity}","entityId":"{id}","operation":"{operation}","#);
        if let Some((name, value)) = property {
            let _ = write!(out, r#""propertyName":"{name}","value":{},"#, Json::from(value));
        }
        let _ = write!(out, r#""metadata":{{"command":"{command}""#);
        if property.is_none() {
            let _ = write!(out, r#","initiator":"{}""#, self.numbers.of(&INITIATORS));
        }
        out.push_str("},");
        stamp.put(&mut out, number);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_json_of_250_to_400_bytes_with_their_stamps() {
        let mut people = People::new(7, 0xffff_ffff, 255);
        let mut seen = std::collections::BTreeSet::new();
        for operation in 1..=200_u64 {
            for (number, text) in (1..).zip(people.transaction(20)) {
                assert!((250..=400).contains(&text.len()), "{} bytes: {text}", text.len());
                let event: Json = serde_json::from_str(&text).expect("it is JSON");
                let stats = &event["testingStats"];
                assert_eq!(stats["dbOperationNum"], operation);
                assert_eq!(
                    (&stats["dbOperationEventNum"], &stats["dbOperationEventCount"]),
                    (&number.into(), &20.into())
                );
                assert!(event["entityId"].is_string(), "{text}");
                let kind =
                    [&event["entityName"], &event["operation"], &event["propertyName"], &event["metadata"]["command"]];
                seen.insert(kind.map(ToString::to_string).join(" "));
            }
        }
        assert_eq!(seen.len(), 5, "{seen:?}");
    }

    #[test]
    fn a_seed_gives_the_same_people_and_loaders_differ() {
        let people = |seed, loader| {
            let texts = People::new(seed, rand::random(), loader).transaction(50);
            texts
                .into_iter()
                .map(|text| text.split("\"testingStats\"").next().unwrap_or_default().to_string())
                .collect()
        };
        let (one, same, other, second): (Vec<String>, _, _, _) =
            (people(1, 0), people(1, 0), people(2, 0), people(1, 1));
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert_ne!(one, second);
    }
}
