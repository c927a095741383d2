//! A view by SQL and a machine, led through whatever may happen to them: at the end they are as if nothing had.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value as Json, json};

use super::calls::{append, ask};
use super::sql::write;
use crate::tree::site::{Ground, Site, wait};

#[derive(Clone, Debug)]
enum Step {
    Append {
        customer: usize,
        amount: i64,
    },
    /// An entry that neither of the two can take.
    Bad,
    /// `kill -9`; with another definition of the machine on the next start.
    Kill {
        factor: Option<i64>,
    },
    /// SIGHUP, with that definition by SQL.
    Reload {
        factor: i64,
    },
    Skip,
    Rebuild {
        sql: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize, 1..50i64).prop_map(|(customer, amount)| Step::Append { customer, amount }),
        2 => Just(Step::Bad),
        2 => prop::option::of(1..4i64).prop_map(|factor| Step::Kill { factor }),
        1 => (1..4i64).prop_map(|factor| Step::Reload { factor }),
        2 => Just(Step::Skip),
        1 => any::<bool>().prop_map(|sql| Step::Rebuild { sql }),
    ]
}

const VIEWS: [&str; 2] = ["totals", "sums"];
const CUSTOMERS: [&str; 3] = ["ada", "bob", "cy"];

fn by_sql(factor: i64) -> String {
    format!(
        "-- setup
create table totals (customer text primary key, amount integer not null);
create table checked (amount integer check (amount < 1000));
-- on insert orders
insert into checked values (:row.amount);
delete from checked;
insert into totals values (:row.customer, {factor} * :row.amount)
  on conflict (customer) do update set amount = totals.amount + excluded.amount;
"
    )
}

fn sections(store: &str, factor: i64) -> String {
    format!(
        "[log.orders]
append = true
[view.totals]
log = \"orders\"
store = \"{store}\"
sql = \"totals.sql\"
[view.sums]
log = \"orders\"
persist_every = \"200ms\"
reduce = {{ init = \"0\", step = \"row.amount < 1000 ? state + {factor} * row.amount : row.none\", by = \"row.customer\" }}
"
    )
}

struct Led {
    site: Site,
    store: &'static str,
    /// By SQL, and of the machine.
    factors: (i64, i64),
    totals: BTreeMap<&'static str, i64>,
    bad: usize,
}

fn shown(site: &Site, view: &str) -> Json {
    let text = site.get(&format!("/v1/views/{view}")).map_or_else(String::new, |answer| answer.1);
    serde_json::from_str(&text).unwrap_or_default()
}

/// Passes over what the view, or what is built of it, has stopped at.
fn skip(site: &Site, view: &str) {
    let shown = shown(site, view);
    for failure in [&shown["failure"], &shown["building"]["failure"]] {
        if failure["position"].as_u64().is_some_and(|position| position > 0) {
            // It may be refused by now: something else has come between.
            site.watershed(&["view", "skip", view, "--position", &failure["position"].to_string(), "--yes"]);
        }
    }
}

impl Led {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Append { customer, amount } => {
                append(&self.site, CUSTOMERS[*customer], *amount);
                *self.totals.entry(CUSTOMERS[*customer]).or_default() += amount;
            }
            Step::Bad => {
                append(&self.site, "ada", 5_000);
                self.bad += 1;
            }
            Step::Kill { factor } => {
                self.site.kill();
                if let Some(factor) = factor {
                    self.factors.1 = *factor;
                    self.site.configure(None, &sections(self.store, *factor));
                }
                self.site.up();
            }
            Step::Reload { factor } => {
                if self.factors.0 == *factor {
                    return;
                }
                self.factors.0 = *factor;
                write(&self.site, "totals.sql", &by_sql(*factor));
                let state = || {
                    let shown = shown(&self.site, "totals");
                    (shown["definition"].clone(), shown["building"]["definition"].clone())
                };
                let before = state();
                self.site.reload();
                // It may be that the node begins again in place: nobody is answered for that long.
                wait("it is taken up", || ![&before, &(Json::Null, Json::Null)].contains(&&state()));
            }
            Step::Skip => VIEWS.iter().for_each(|view| skip(&self.site, view)),
            Step::Rebuild { sql } => {
                // Refused while its store is being opened.
                self.site.watershed(&["view", "rebuild", VIEWS[usize::from(!sql)]]);
            }
        }
    }

    fn settle(&self) {
        for view in VIEWS {
            wait("it has everything", || {
                skip(&self.site, view);
                let shown = shown(&self.site, view);
                shown["state"] == "current" && shown["building"].is_null()
            });
        }
    }

    /// What a model of the two says, by customer.
    fn expected(&self, factor: i64) -> Vec<Json> {
        self.totals.iter().map(|(customer, amount)| json!([customer, factor * amount])).collect()
    }

    fn answers(&self, view: &str, sql: &str) -> Vec<Json> {
        let (status, answer) = ask(&self.site, view, "?after=latest&timeout=30s", sql, json!([]));
        assert_eq!(status, 200, "{answer}");
        let mut rows = answer["rows"].as_array().expect("rows").clone();
        rows.sort_by_key(|row| row[0].as_str().map(str::to_owned));
        rows
    }

    fn digest(&self, view: &str) -> Json {
        let (status, text) =
            self.site.get(&format!("/v1/views/{view}/digest?after=latest&timeout=30s")).expect("an answer");
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Json>(&text).expect("JSON")["digest"].clone()
    }

    fn check(&self) {
        self.settle();
        assert_eq!(self.answers("totals", "select customer, amount from totals"), self.expected(self.factors.0));
        let states = self.answers("sums", "select * from states");
        let number = |row: &Json| {
            let state = &row[1];
            json!([row[0], state.as_i64().or_else(|| state.as_str().and_then(|text| text.parse().ok()))])
        };
        assert_eq!(states.iter().map(number).collect::<Vec<_>>(), self.expected(self.factors.1));
        for view in VIEWS {
            let over = shown(&self.site, view)["passed_over"].as_array().expect("a list").clone();
            let places: std::collections::BTreeSet<_> = over.iter().map(|one| one["position"].as_u64()).collect();
            assert_eq!(places.len(), self.bad, "{view}: {over:?}");
            let before = self.digest(view);
            self.site.does(&["view", "rebuild", view]);
            self.settle();
            assert_eq!(self.digest(view), before, "{view} is another one when it is built from the beginning");
        }
    }
}

fn lead(store: &'static str, steps: &[Step]) {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", &by_sql(1));
    site.configure(None, &sections(store, 1));
    site.up();
    let mut led = Led { site, store, factors: (1, 1), totals: BTreeMap::new(), bad: 0 };
    steps.iter().for_each(|step| led.take(step));
    led.check();
}

fn run(store: &'static str) {
    let mut runner =
        TestRunner::new(Config { cases: 3, max_shrink_iters: 0, failure_persistence: None, ..Config::default() });
    let steps = prop::collection::vec(step(), 10..30);
    runner
        .run(&steps, |steps| {
            lead(store, &steps);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn whatever_happens_a_view_in_sqlite_and_a_machine_are_as_if_nothing_had() {
    run("sqlite:totals.db");
}

#[test]
fn whatever_happens_a_view_in_memory_and_a_machine_are_as_if_nothing_had() {
    run("memory");
}
