//! Two processes on copies of one data folder.

use super::host::NodeHost;
use crate::model::LinkId;
use crate::peer::{Hello, Refusal};

impl NodeHost {
    /// One log is appended to by one process. A run that ended is heard of at once or, when its machine or network went
    /// away, after the silence that a link allows; until then its successor waits.
    pub(super) fn check_twin(&self, peer: &Hello) -> Result<(), Refusal> {
        let links = self.0.links();
        let Some(link) = links.get(&LinkId(peer.node.log)).filter(|link| link.epoch != peer.epoch) else {
            return Ok(());
        };
        let name = &link.node.name;
        let message = format!(
            "{name:?} is linked already (since {}), by another process with the same log / why: the data folder of {name:?} was \
             copied and both run, or the process before this one has not been noticed gone yet / do: nothing if {name:?} has just \
             been started again; otherwise stop the copy, give it a [node] name of its own, move its data folder away, and run \
             `watershed source drop database --yes` with its configuration before it is started again",
            link.since
        );
        Err(Refusal { code: "WS-NODE-020".into(), message, retryable: true })
    }
}
