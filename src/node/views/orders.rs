//! What operators tell a view to do.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::oneshot;

use super::keeper::{Keeper, Standing};
use super::record::PassedOver;
use super::viewed::{Trouble, Viewed};
use crate::model::Position;
use crate::view::ViewBuilds;

/// Why an order is not carried out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OrderRefused {
    /// Not in the view's present state.
    #[error("{0}")]
    State(String),
    /// The store, or the disk.
    #[error("{0}")]
    Failed(String),
}

type Reply = oneshot::Sender<Result<String, OrderRefused>>;

/// What a view is told to do.
pub(super) enum Order {
    /// Build it afresh, of the definition as it stands now.
    Rebuild(Arc<dyn ViewBuilds>, Reply),
    /// Build it if the definition has changed; try again what has failed.
    TakeUp(Arc<dyn ViewBuilds>),
    /// Pass over the entry at which it has stopped.
    PassOver { partition: usize, position: Position, reply: Reply },
}

pub(super) fn refuse(reply: Reply, why: &str) {
    // Whoever has ordered it may be gone.
    let _ = reply.send(Err(OrderRefused::State(why.into())));
}

impl Viewed {
    /// Has it built afresh, of its definition as that stands now; what is done, in words.
    ///
    /// # Errors
    /// The definition is wrong, or its build cannot begin.
    pub async fn rebuild(&self) -> Result<String, OrderRefused> {
        let make = self.settings.make.clone();
        let builds = tokio::task::block_in_place(|| make()).map_err(|error| OrderRefused::Failed(error.to_string()))?;
        let (reply, told) = oneshot::channel();
        self.order(Order::Rebuild(builds, reply)).await;
        told.await.unwrap_or_else(|_| Err(OrderRefused::State("the node stops".into())))
    }

    /// Has it pass over the entry at which it has stopped, which is noted for ever; what is done, in words.
    ///
    /// # Errors
    /// It has not stopped there, or it cannot be noted.
    pub async fn pass_over(&self, partition: usize, position: Position) -> Result<String, OrderRefused> {
        let (reply, told) = oneshot::channel();
        self.order(Order::PassOver { partition, position, reply }).await;
        told.await.unwrap_or_else(|_| Err(OrderRefused::State("the node stops".into())))
    }
}

impl Keeper {
    pub(super) async fn obey(&mut self, standing: &mut Standing, order: Order) {
        match order {
            Order::Rebuild(builds, reply) => {
                if builds.wanted() != self.builds.wanted() {
                    self.wants(builds);
                }
                self.build(standing, true).await;
                let trouble = self.view.figures().building_trouble.clone();
                // Whoever has ordered it may be gone.
                let _ = reply.send(match trouble {
                    Some(trouble) => Err(OrderRefused::Failed(trouble.why)),
                    None => Ok(format!(
                        "the view {} is built afresh; it answers as it did until that is done",
                        self.view.name
                    )),
                });
            }
            Order::TakeUp(builds) => {
                let before = self.builds.wanted();
                let is_new = builds.wanted() != standing.live.store.definition();
                let changed = builds.wanted() != before;
                if changed {
                    self.wants(builds);
                }
                let stuck = self.view.figures().building_trouble.is_some();
                match is_new {
                    true if changed || stuck || standing.building.is_none() => self.build(standing, false).await,
                    true => {}
                    false if changed => self.give_up(standing).await,
                    false => {}
                }
                if self.view.figures().trouble.is_some() {
                    self.again(standing).await;
                }
            }
            Order::PassOver { partition, position, reply } => {
                let done = self.pass_over(standing, partition, position).await;
                let _ = reply.send(done);
            }
        }
    }

    async fn pass_over(
        &mut self,
        standing: &mut Standing,
        partition: usize,
        position: Position,
    ) -> Result<String, OrderRefused> {
        let state = |why: String| Err(OrderRefused::State(why));
        let at_entry = |trouble: &Trouble| trouble.kind == "failed" && trouble.position > Position::ZERO;
        let Some(trouble) = self.view.figures().trouble.clone().filter(at_entry) else {
            return state(format!("the view {} has not stopped at an entry", self.view.name));
        };
        if (trouble.partition, trouble.position) != (partition, position) {
            let (at, of) = (trouble.position, trouble.partition);
            return state(format!("the view {} has stopped at position {at} of partition {of}", self.view.name));
        }
        let Some(log) = standing.feed.partitions.get(partition).map(|partition| partition.log.clone()) else {
            return state(format!("there is no partition {partition}"));
        };
        let failed = |why: String| OrderRefused::Failed(why);
        let cursor = log.cursor_at(position);
        let store = standing.live.store.clone();
        standing.live.end().await;
        let one = PassedOver::new(partition, cursor, store.definition(), trouble.why);
        let noted =
            tokio::task::block_in_place(|| self.view.record.add(one)).map_err(|error| failed(error.to_string()));
        let done = match noted {
            Ok(()) => store.pass_over(cursor).await.map_err(|error| failed(error.to_string())),
            failed => failed,
        };
        self.again(standing).await;
        done?;
        tracing::warn!(
            "the view {} passes over position {position} of partition {partition}, as ordered",
            self.view.name
        );
        Ok(format!("the view {} passes over position {position}; that is noted for ever", self.view.name))
    }
}
