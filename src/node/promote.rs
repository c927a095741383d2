//! A mirror that becomes a log of its own.

use std::sync::Arc;

use super::feeds::Feed;
use super::running::Node;
use super::settings::{Exit, NodeError};

fn refused(code: &'static str, exit: Exit, what: String, why: &str, advice: &str) -> NodeError {
    NodeError::new(code, exit, what, why, advice)
}

impl Node {
    /// Makes a mirror a log of its own, in a new epoch, that takes appends; durable on return. Without `force` it is refused
    /// while the original answers.
    ///
    /// # Errors
    /// There is no such mirror, its original answers, or the disk fails.
    pub async fn promote(&self, name: &str, force: bool) -> Result<Arc<Feed>, NodeError> {
        let Some(feed) = self.shared.feeds.get(name) else {
            let what = format!("there is no log {name:?} that could be promoted");
            let why = "a mirror that has never reached its original has nothing";
            return Err(refused("WS-FEED-034", Exit::Failure, what, why, "see `watershed log ls`"));
        };
        if feed.mirror_of().is_none() && !feed.is_half_promoted() {
            let what = format!("the log {name:?} is no mirror");
            return Err(refused("WS-FEED-035", Exit::Operator, what, "it gives its positions itself", "append to it"));
        }
        let mirror = self.shared.mirrors.get(name);
        if let Some(mirror) = mirror.as_ref().filter(|_| !force)
            && mirror.reaches_original().await
        {
            let what = format!("the original of {name:?} answers at {}", mirror.from);
            let why = "two logs that both take appends part at once, and nobody can put them together again";
            let advice = "stop the node of the original, or set `append = false` there and wait until this mirror has everything; \
                          or promote it all the same with --force";
            return Err(refused("WS-FEED-033", Exit::Operator, what, why, advice));
        }
        let (shared, own) = (self.shared.clone(), feed.clone());
        // Whoever asked may hang up: what has begun is finished all the same.
        let promoting = self.shared.tasks.spawn(async move {
            if let Some(mirror) = mirror {
                mirror.end().await;
            }
            own.promote().await?;
            shared.mirrors.forget(&own.name);
            let tails: Vec<String> = own.tails().iter().map(ToString::to_string).collect();
            let from = tails.join(", ");
            tracing::warn!("the log {} is promoted: it takes appends from {from} on, in a new epoch", own.name);
            Ok::<(), NodeError>(())
        });
        promoting.await.unwrap_or_else(|ended| Err(feed.not_promoted(&ended)))?;
        Ok(feed)
    }
}
