//! The command line: one file per command. Data goes to stdout, everything else to stderr.

mod admin;
mod admin_tls;
mod check;
mod completions;
mod config;
mod consumer;
mod demo;
mod demo_tree;
mod diff;
mod doctor;
mod events;
mod events_diff;
mod events_init;
mod events_load;
mod events_replicate;
mod events_restore;
mod events_show;
mod exit;
mod filter;
mod finite;
mod init;
mod log;
mod log_feed;
mod log_follow;
mod logging;
mod man;
mod node_run;
mod output;
mod peer;
mod promote;
mod run;
mod signals;
mod source;
mod status;
mod status_text;
mod token;
mod view;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use exit::{Exit, ExitError};
pub use run::Plan;

use crate::node::config::{Config, Overrides};
use admin::Admin;
use logging::LogFormat;

const SCREEN: &str = "\
{about}

Usage: watershed [OPTIONS] <COMMAND>

Start here:
  demo         Three nodes and their databases in one process, to look at
  init         Write a commented watershed.toml
  check        Read the configuration, look at everything it names
  run          Run the node
  status       What a running node is doing

Data:
  log          ls, read, tail, append, verify, export, create, retain, trim
  consumer     ls, show, reset
  filter       test an expression
  source       ls, pause, resume, retry, skip, resync, drop
  diff         Compare two databases, and make them equal
  view         ls, query, wait, rebuild, skip, digest
  events       init, replicate, load, diff, restore

Operate:
  peer         ls, pause, resume
  promote      Make a mirror a log of its own
  token        new
  config       show, schema, explain
  doctor       What may be wrong on this machine
  completions  For a shell
  man          The manual page

Options:
{options}

`watershed COMMAND --help` begins with examples.
";

/// Of options that every command has.
const GLOBAL: &str = "Everywhere";

/// watershed: capture, stream and view change logs
#[derive(Debug, Parser)]
#[command(name = "watershed", version, help_template = SCREEN, disable_help_subcommand = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The configuration
    #[arg(help_heading = GLOBAL, short, long, global = true, value_name = "FILE", default_value = "watershed.toml", env = "WATERSHED_CONFIG")]
    config_filename: PathBuf,
    /// JSON on stdout: lines for streams, one object otherwise, with "schema":1
    #[arg(help_heading = GLOBAL, long, global = true)]
    json: bool,
    /// The process's own log on stderr: lines for people, or bunyan's fields
    #[arg(help_heading = GLOBAL, long, global = true, value_name = "FORM", value_enum, default_value = "human")]
    log_format: LogFormat,
    /// Log more; twice for everything
    #[arg(help_heading = GLOBAL, short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log errors only
    #[arg(help_heading = GLOBAL, short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

impl Global {
    fn config(&self) -> Result<Config, ExitError> {
        Ok(Config::load(&self.config_filename, &Overrides::from_environment())?)
    }

    fn admin(&self) -> Result<Admin, ExitError> {
        Admin::of(&self.config()?)
    }

    /// Whether a process has the node's data folder.
    fn is_running(&self) -> Result<bool, ExitError> {
        let data_dir = self.config()?.node.data_dir;
        Ok(crate::node::is_taken(&data_dir))
    }

    fn file(&self) -> &Path {
        &self.config_filename
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Init(init::Init),
    Check(check::Check),
    Run(run::Run),
    Status(status::Status),
    Log(Box<log::Log>),
    Consumer(consumer::Consumer),
    Filter(filter::Filter),
    Source(source::Source),
    Diff(diff::Diff),
    View(Box<view::View>),
    Events(Box<events::Events>),
    Peer(peer::Peer),
    Promote(promote::Promote),
    Token(token::Token),
    Config(config::ConfigCommand),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(man::Man),
}

/// The whole command line. Actions (`log read`) get those examples of their command that show them.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
        let name = command.get_name().to_string();
        command.mut_subcommands(|action| {
            let call = format!("watershed {name} {}", action.get_name());
            let shown: Vec<&str> = examples.lines().filter(|line| line.contains(&call)).collect();
            let shown = if shown.is_empty() { format!("  {call}") } else { shown.join("\n") };
            action.before_help(format!("Examples:\n{shown}"))
        })
    })
}

/// Runs the process's command line.
pub fn main() -> ExitCode {
    let cli = match Cli::from_arg_matches(&command().get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let global = cli.global;
    let runs = match &cli.command {
        Command::Run(_) => true,
        Command::Events(events) => events.runs(),
        _ => false,
    };
    logging::install(global.log_format, global.verbose, global.quiet, runs);
    let result = match cli.command {
        Command::Demo(command) => command.run(&global),
        Command::Init(command) => command.run(&global),
        Command::Check(command) => command.run(&global),
        Command::Run(command) => command.run(&global),
        Command::Status(command) => command.run(&global),
        Command::Log(command) => command.run(&global),
        Command::Consumer(command) => command.run(&global),
        Command::Filter(command) => command.run(&global),
        Command::Source(command) => command.run(&global),
        Command::Diff(command) => command.run(&global),
        Command::View(command) => command.run(&global),
        Command::Events(command) => command.run(&global),
        Command::Peer(command) => command.run(&global),
        Command::Promote(command) => command.run(&global),
        Command::Token(command) => command.run(&global),
        Command::Config(command) => command.run(&global),
        Command::Doctor(command) => command.run(&global),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    let text = error.to_string();
    if !text.is_empty() {
        eprintln!("{text}");
    }
    ExitCode::from(error.exit as u8)
}

/// A runtime for commands that read a log or a database themselves.
fn block_on<T>(work: impl Future<Output = Result<T, ExitError>>) -> Result<T, ExitError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
