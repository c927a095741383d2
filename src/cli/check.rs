//! `watershed check`

use clap::Args;

use super::node_run::runtime;
use super::run::Plan;
use super::{ExitError, Global};
use crate::node::config::Config;
use crate::node::feeds::look_at_originals;
use crate::node::views::look_at_views;
use crate::node::{
    Exit as Reach, Node, NodeError, Preflight, Settings, is_taken, look_at_copies, mend_ids, preflight, probe_parent,
};

/// Read the configuration and look at everything it names; changes nothing
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed check
  watershed check -c branch-7.toml --json
  watershed check --apply            also set up the database")]
pub(super) struct Check {
    /// Do what `run` would do first: install what the database needs
    #[arg(long)]
    apply: bool,
}

impl Check {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let config = global.config()?;
        config.ready()?;
        let (plan, warnings) = check_node(&config, self.apply)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        plan.print(global.json)
    }
}

/// Looks at the database, the filters and the parent; with `apply` installs what the database needs.
pub(super) fn check_node(config: &Config, apply: bool) -> Result<(Plan, Vec<String>), ExitError> {
    let settings = Settings::from_config(config)?;
    let mut found = runtime()?.block_on(preflight(&settings))?;
    if apply && !found.strays.is_empty() {
        found = runtime()?.block_on(async {
            mend_ids(&settings, &found).await?;
            preflight(&settings).await
        })?;
    }
    let mut plan = Plan::of(config);
    for sends in &found.sends {
        let text = format!("{} ({}), about {} rows", sends.table, sends.columns.join(", "), sends.rows);
        plan.lines.push((format!("sends to {}", sends.to), text));
    }
    found.warnings.extend(runtime()?.block_on(look_at_copies(&settings))?);
    let parent = runtime()?.block_on(probe_parent(&settings, &found));
    match parent {
        Ok(None) => {}
        Ok(Some(parent)) => {
            plan.lines.push(("parent".to_owned(), parent.text));
            found.warnings.extend(parent.warnings);
        }
        // A parent that is away is no fault of this node: it dials until it is there.
        Err(error) if error.exit == Reach::Unreachable => found.warnings.push(error.to_string()),
        Err(error) => return Err(error.into()),
    }
    for (name, original) in runtime()?.block_on(look_at_originals(&settings.mirrors)) {
        match original {
            Ok(text) => plan.lines.push((format!("mirror {name}"), text)),
            // It holds up nothing but itself, and goes on by itself.
            Err(trouble) => found.warnings.push(format!("mirror {name}: {trouble}")),
        }
    }
    look_at(&settings, &mut found, &mut plan)?;
    // A node that runs has installed everything.
    if apply && !is_taken(&settings.data_dir) {
        runtime()?.block_on(async {
            let node = Node::start(Settings { parent: None, views: Default::default(), ..settings }).await?;
            node.stop().await;
            Ok::<_, ExitError>(())
        })?;
    }
    Ok((plan, found.warnings))
}

/// Looks at the views; all that is wrong is said, and the last of it ends the command.
fn look_at(settings: &Settings, found: &mut Preflight, plan: &mut Plan) -> Result<(), ExitError> {
    let mut refused: Option<NodeError> = None;
    for view in runtime()?.block_on(look_at_views(settings, found)) {
        found.warnings.extend(view.warnings);
        match view.found {
            Ok(text) => plan.lines.push((format!("view.{}", view.name), text)),
            Err(error) => {
                if let Some(before) = refused.replace(error) {
                    tracing::error!("{before}");
                }
            }
        }
    }
    refused.map_or(Ok(()), |error| Err(error.into()))
}
