//! `watershed view`

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::admin::{Admin, escape};
use super::{Exit, ExitError, Global, output, status_text};

/// Views of logs: what they answer, and how far they have come
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed view ls
  watershed view query order_totals 'select * from totals where customer = ?' ada
  watershed view query order_totals 'select count(*) from totals' --latest --json
  watershed view wait order_totals --after CURSOR --timeout 5s
  watershed view digest order_totals
  watershed view digest order_totals --at CURSOR     exactly there, so that two nodes can be compared
  watershed view rebuild order_totals
  watershed view skip order_totals --position 17 --yes")]
pub(super) struct View {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// All of them, or one in full
    Ls {
        /// The view
        view: Option<String>,
    },
    /// Ask one
    Query(QueryArgs),
    /// Wait until it contains something
    Wait(WaitArgs),
    /// What its state is, as a number: equal for equal states
    Digest(DigestArgs),
    /// Build it afresh, by its definition as that stands now; it answers as before until that is done
    Rebuild {
        /// The view
        view: String,
        /// Also of the entries that it was told to pass over
        #[arg(long)]
        with_skipped: bool,
    },
    /// Have it pass over the entry at which it, or what is built of it, has stopped; that is shown for ever
    Skip(SkipArgs),
}

#[derive(Debug, Args)]
struct Having {
    /// What the answer has to contain: a cursor, several with `,` between them, lsn:NODE/X/Y
    #[arg(long, value_name = "TOKEN")]
    after: Option<String>,
    /// Everything that the log has by now
    #[arg(long)]
    latest: bool,
    /// How long that is waited for
    #[arg(long, value_name = "TIME", default_value = "30s")]
    timeout: String,
}

impl Having {
    fn query(&self) -> String {
        let mut query = format!("?timeout={}", escape(&self.timeout));
        if let Some(after) = &self.after {
            query.push_str(&format!("&after={}", escape(after)));
        }
        if self.latest {
            query.push_str("&consistency=latest");
        }
        query
    }
}

#[derive(Debug, Args)]
struct QueryArgs {
    /// The view
    view: String,
    /// One SELECT; of a view without SQL its form of question
    sql: String,
    /// Values of the parameters, in their order; JSON where it is that, else text
    params: Vec<String>,
    #[command(flatten)]
    having: Having,
    /// After that time take what there is
    #[arg(long)]
    stale: bool,
}

#[derive(Debug, Args)]
struct WaitArgs {
    /// The view
    view: String,
    #[command(flatten)]
    having: Having,
}

#[derive(Debug, Args)]
struct DigestArgs {
    /// The view
    view: String,
    /// Exactly there: a cursor, several with `,` between them, or a position of a log with one partition; one that the view has
    /// not come to yet is waited for
    #[arg(long, value_name = "CURSOR", conflicts_with_all = ["after", "latest"])]
    at: Option<String>,
    #[command(flatten)]
    having: Having,
}

impl DigestArgs {
    fn run(self, admin: &Admin, global: &Global) -> Result<(), ExitError> {
        let at = self.at.map(|at| format!("&at={}", escape(&at))).unwrap_or_default();
        let answer = admin.get(&path(&self.view, &format!("/digest{}{at}", self.having.query())))?;
        if global.json {
            return output::object(answer);
        }
        // One that was kept does not say how many they were.
        let rows = answer["rows"].as_u64().map(|rows| format!(" {rows} rows")).unwrap_or_default();
        output::line(&format!("{}{rows} at {}", shown(&answer["digest"]), shown(&answer["cursor"])))
    }
}

#[derive(Debug, Args)]
struct SkipArgs {
    /// The view
    view: String,
    /// Where it has stopped
    #[arg(long)]
    position: u64,
    /// The log's partition
    #[arg(long, default_value_t = 0)]
    partition: usize,
    /// Really
    #[arg(long)]
    yes: bool,
}

fn path(view: &str, rest: &str) -> String {
    format!("/v1/views/{}{rest}", escape(view))
}

fn ls(admin: &Admin, global: &Global, view: Option<String>) -> Result<(), ExitError> {
    if let Some(view) = view {
        let one = admin.get(&path(&view, ""))?;
        return if global.json { output::object(one) } else { output::line(&output::answer(&one)) };
    }
    let answer = admin.get("/v1/views")?;
    if global.json {
        return output::object(answer);
    }
    match status_text::views(&answer["views"]) {
        Some(text) => output::line(&text),
        None => {
            eprintln!("There are no views: a section [view.NAME] makes one.");
            Ok(())
        }
    }
}

fn shown(value: &Json) -> String {
    match value {
        Json::Null => "-".into(),
        Json::String(text) => text.replace('\n', " "),
        other => other.to_string(),
    }
}

impl QueryArgs {
    fn run(self, admin: &Admin, global: &Global) -> Result<(), ExitError> {
        let param = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Json::from(text.as_str()));
        let params: Vec<Json> = self.params.iter().map(param).collect();
        let body = json!({ "sql": self.sql, "params": params }).to_string();
        let stale = if self.stale { "&on_timeout=stale" } else { "" };
        let to = path(&self.view, &format!("/query{}{stale}", self.having.query()));
        let answer = admin.send(&to, &body, &[])?;
        if answer["stale"] == Json::Bool(true) {
            eprintln!("This lacks something of what was asked for; it is as of {}.", shown(&answer["cursor"]));
        }
        if global.json {
            return output::object(answer);
        }
        let names: Vec<String> = answer["columns"].as_array().into_iter().flatten().map(shown).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let rows = answer["rows"].as_array().into_iter().flatten();
        let rows: Vec<Vec<String>> =
            rows.map(|row| row.as_array().into_iter().flatten().map(shown).collect()).collect();
        output::line(&output::table(&names, &rows))
    }
}

impl View {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let admin = global.admin()?;
        let print = |answer: Json, text: String| if global.json { output::object(answer) } else { output::line(&text) };
        match self.action {
            Action::Ls { view } => ls(&admin, global, view),
            Action::Query(query) => query.run(&admin, global),
            Action::Wait(wait) => {
                let mut having = wait.having;
                // Without anything else to wait for, everything is.
                having.latest |= having.after.is_none();
                let answer = admin.get(&path(&wait.view, &having.query()))?;
                let text = shown(&answer["cursor"]);
                print(answer, text)
            }
            Action::Digest(digest) => digest.run(&admin, global),
            Action::Rebuild { view, with_skipped } => {
                let body = json!({ "with_skipped": with_skipped }).to_string();
                let answer = admin.send(&path(&view, "/rebuild"), &body, &[])?;
                output::done(global.json, answer, &view)
            }
            Action::Skip(over) => {
                if !over.yes {
                    let what = format!("the view {} would pass over an entry for ever", over.view);
                    let why = "what that entry says would be missing from it";
                    return Err(ExitError::new("WS-VIEW-069", Exit::Usage, what, why, "give --yes"));
                }
                let body = json!({ "position": over.position, "partition": over.partition }).to_string();
                let answer = admin.send(&path(&over.view, "/skip"), &body, &[])?;
                output::done(global.json, answer, &over.view)
            }
        }
    }
}
