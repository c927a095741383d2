//! The raw stream of a feed, for its mirrors: what the feed is, then its entries as they are stored.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::asked::{Asked, bad, no_cursor};
use super::gone;
use crate::http::server::error;
use crate::model::limits;
use crate::node::Node;
use crate::node::feeds::{Feed, RAW_TYPE, RawReader, RawRefused};
use crate::peer::protocol::frame;
use crate::peer::{FeedEntries, FeedMessage};

/// Where an answer is.
struct Sending {
    ready: Vec<Bytes>,
    reader: Option<RawReader>,
    stop: CancellationToken,
}

/// Answers with the raw stream.
pub async fn answer(node: Arc<Node>, feed: Arc<Feed>, asked: &Asked) -> Response {
    let (partition, after, limit) = match asked.raw() {
        Ok(raw) => raw,
        Err(refused) => return *refused,
    };
    let Some(facts) = feed.facts() else {
        let why = "it has what a database commits and what peers send, which is sent over links";
        let fix = "mirror a feed; or read `main` as lines or events";
        return error(StatusCode::CONFLICT, "WS-HTTP-030", "the log of a node is not mirrored", why, fix);
    };
    let mut sending =
        Sending { ready: vec![frame(FeedMessage::Feeds(vec![facts]))], reader: None, stop: node.shared.stop.clone() };
    if limit != Some(0) {
        // The first read decides whether what comes next is there at all.
        let first = match RawReader::new(feed, partition, after) {
            Ok(mut reader) => reader.next(std::time::Duration::ZERO).await.map(|first| (reader, first)),
            Err(refused) => Err(refused),
        };
        match first {
            Ok((reader, first)) => {
                sending.ready.push(frame(FeedMessage::Entries(first)));
                sending.reader = Some(reader);
            }
            Err(refused) => return refuse(refused),
        }
    }
    sending.ready.reverse();
    let body = stream::unfold(sending, |mut sending| async move {
        let bytes = sending.next().await?;
        Some((Ok::<_, Infallible>(bytes), sending))
    });
    Response::builder()
        .header(header::CONTENT_TYPE, RAW_TYPE)
        .header(header::CACHE_CONTROL, "no-store")
        .body(Body::from_stream(body))
        .expect("the headers are constant")
}

impl Sending {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(ready) = self.ready.pop() {
            return Some(ready);
        }
        let entries: Result<FeedEntries, RawRefused> = tokio::select! {
            () = self.stop.cancelled() => return None,
            entries = self.reader.as_mut()?.next(limits::MIRROR_PING_INTERVAL) => entries,
        };
        // The mirror asks again, and is told why then.
        entries.ok().map(|entries| frame(FeedMessage::Entries(entries)))
    }
}

fn refuse(refused: RawRefused) -> Response {
    match refused {
        RawRefused::NoPartition(_) => *bad(&refused.to_string(), "partitions are numbered from 0"),
        RawRefused::Cursor(refused) => *no_cursor(&refused),
        RawRefused::Source(failed) => gone(&failed),
    }
}
