//! `watershed init`

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use clap::Args;
use serde_json::json;

use super::{Exit, ExitError, Global, output};
use crate::node::config::{Config, DatabaseUrl, Overrides};

/// Write a commented watershed.toml
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed init sqlite:shop.db
  watershed init sqlite:branch-7.db --name branch-7 --listen 127.0.0.1:7071 --parent 127.0.0.1:7070 -c branch-7.toml
  watershed init --name hub            a node that is only a log
  watershed init --log orders          a log that programs append to over HTTP

Only writes the file (-c names it); never overwrites one without --force.")]
pub(super) struct Init {
    /// The database: sqlite:PATH (relative to the file)
    url: Option<DatabaseUrl>,
    /// The node's name; by default the database's, or `hub`
    #[arg(long)]
    name: Option<String>,
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:7070")]
    listen: String,
    /// Where its parent listens
    #[arg(long, value_name = "HOST:PORT")]
    parent: Option<String>,
    /// The log to configure; another name than `main` is one to append to over HTTP
    #[arg(long, value_name = "NAME", default_value = "main")]
    log: String,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let text = self.text();
        let file = global.file();
        // What is written can be read: mistakes in the options are told now.
        Config::parse(file, text.clone(), &Overrides::default())?;
        write(file, &text, self.force)?;
        if global.json {
            return output::object(json!({ "written": file.display().to_string() }));
        }
        eprintln!("Wrote {}.", file.display());
        eprintln!("Next: list what to send under [send.…], then `watershed check`, then `watershed run`.");
        Ok(())
    }

    fn name(&self) -> String {
        let from_path = match &self.url {
            Some(DatabaseUrl::Sqlite(path)) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
            Some(DatabaseUrl::Postgres(url)) => {
                url.rsplit('/').next().map(|name| name.split('?').next().unwrap_or(name).into())
            }
            None => None,
        };
        self.name.clone().or(from_path).unwrap_or_else(|| "hub".into())
    }

    fn text(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.into()).to_string();
        let name = self.name();
        let mut text = format!(
            "# Watershed node. `watershed config explain` describes every key.\n\n\
             [node]\n\
             name = {}                     # unique in the tree\n\
             data_dir = {}            # its logs; relative to this file\n\
             listen = {}     # HTTP and peers\n\n",
            quoted(&name),
            quoted(&format!("{name}.data")),
            quoted(&self.listen),
        );
        match &self.parent {
            Some(parent) => text.push_str(&format!("[parent]\nurl = {}\n\n", quoted(parent))),
            None => text.push_str("# [parent]                         # the node above; left out at the root\n# url = \"127.0.0.1:7070\"\n\n"),
        }
        let plain = |url: &DatabaseUrl| match url {
            DatabaseUrl::Postgres(url) => url.clone(),
            sqlite => sqlite.to_string(),
        };
        match &self.url {
            Some(url) => text.push_str(&format!("[database]\nurl = {}\n\n", quoted(&plain(url)))),
            None => text.push_str("# [database]                       # without one the node is only a log\n# url = \"sqlite:shop.db\"\n\n"),
        }
        text.push_str(&format!(
            "[log.{}]\nengine = \"segments\"              # append-only files in data_dir\n{}\n",
            key(&self.log),
            if self.log == "main" { "" } else { FEED },
        ));
        text.push_str(if self.parent.is_some() { SEND_PARENT } else { SEND_CHILDREN });
        text.push_str(TABLE);
        text
    }
}

/// A name as a key, quoted where TOML wants it.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare { name.into() } else { toml::Value::String(name.into()).to_string() }
}

const FEED: &str = "\
append = true                      # POST /v1/logs/NAME/entries
partitions = 1                     # order holds within one; fixed once the log is made
# retain = { time = \"7d\", bytes = \"50GiB\" }
";

const SEND_PARENT: &str = "\
# Nothing is sent unless it is listed.
[send.parent]
tables = []                        # [\"orders\", \"customers\"], or [\"*\"] for everything

# [[send.parent.filter]]
# tables = [\"customers\"]
# when = 'row.region == \"EU\"'      # CEL over row, old, table, origin, destination
# drop_columns = [\"ssn\"]

";

const SEND_CHILDREN: &str = "\
# Nothing is sent unless it is listed. [send.child.NAME] replaces this for one child.
[send.children]
tables = []                        # [\"orders\", \"customers\"], or [\"*\"] for everything

# [[send.children.filter]]
# tables = [\"orders\"]
# when = 'row.site == destination' # one rule serves all children

";

const TABLE: &str = "\
# A row has one writing node. A table that is sent both ways needs an owner.
# [table.orders]
# owner_by = \"row.site\"            # or owner = \"branch-7\"

# A view of a log: kept going, and asked by POST /v1/views/NAME/query.
# [view.last_orders]
# log = \"orders\"                   # main is the default
# latest = {}                      # the last row of every key
";

fn write(path: &Path, text: &str, force: bool) -> Result<(), ExitError> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let shown = path.display();
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            let fix = "give --force to replace it, or -c FILE for another one";
            let why = "init never overwrites a configuration by itself";
            return ExitError::new("WS-CLI-007", Exit::Failure, format!("{shown} exists"), why, fix);
        }
        let fix = "make the folder, or allow writing there";
        ExitError::new("WS-CLI-008", Exit::Failure, format!("{shown} cannot be written"), error, fix)
    })
}
