//! What a feed is, and where that is noted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::log::segments::Retention;
use crate::model::limits;
use crate::node::settings::{Exit, LogSettings, NodeError};

/// The file in a feed's folder.
const FILE: &str = "feed.json";
/// The smallest segment of a partition.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// A feed's properties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedSpec {
    /// Order holds within one.
    pub partitions: u32,
    /// May be appended to over HTTP.
    pub append: bool,
    /// What nobody needs is kept this long, in milliseconds.
    pub retain_ms: Option<u64>,
    /// The size at most, in bytes, all partitions together.
    pub retain_bytes: Option<u64>,
    /// Whether appends wait for the disk.
    pub fsync: bool,
    /// Up to where an operator has removed entries, of each partition; none where it is shorter.
    #[serde(default)]
    pub trimmed: Vec<u64>,
    /// It is a mirror: of which feed elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// It was a mirror of that, until it was promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<String>,
    /// It is the output of that view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<String>,
}

impl Default for FeedSpec {
    fn default() -> FeedSpec {
        FeedSpec {
            partitions: 1,
            append: true,
            retain_ms: None,
            retain_bytes: None,
            fsync: true,
            trimmed: Vec::new(),
            mirror: None,
            promoted: None,
            view: None,
        }
    }
}

pub(super) fn failed(what: &str, place: &Path, error: impl std::fmt::Display) -> NodeError {
    NodeError::new(
        "WS-FEED-002",
        Exit::Failure,
        format!("{what} {}: {error}", place.display()),
        "a feed's properties stand beside its log",
        "mend the folder's owner, permissions or disk, or put the file back from a backup",
    )
}

/// A log is either a mirror or a log of its own.
pub(super) fn other_kind(name: &str, what: String, advice: String) -> NodeError {
    let why = "a mirror has the positions of its original, and a log of its own gives its own: neither becomes the other by itself";
    NodeError::new("WS-FEED-031", Exit::Configuration, format!("the log {name:?} {what}"), why, advice)
}

/// A log cannot change how many partitions it has.
pub(super) fn contradicts(name: &str, there: usize, asked: u32) -> NodeError {
    NodeError::new(
        "WS-FEED-003",
        Exit::Configuration,
        format!("the log {name:?} is there with other properties ({there} partitions; {asked} are asked for)"),
        "a key's rows stay in their partition, so their number is fixed when a log is created",
        "ask for what is there, or use another name",
    )
}

impl FeedSpec {
    /// Of one partition.
    pub fn log(&self) -> LogSettings {
        let default = LogSettings::default();
        let parts = u64::from(self.partitions.max(1));
        let retain_bytes = self.retain_bytes.unwrap_or(default.retain_bytes) / parts;
        LogSettings {
            retain_time: self.retain_ms.map_or(default.retain_time, Duration::from_millis),
            retain_bytes,
            fsync: self.fsync,
            segment_bytes: (retain_bytes / 8).clamp(SEGMENT_BYTES_MIN, limits::SEGMENT_BYTES_DEFAULT / parts.min(8)),
        }
    }

    /// Of one partition.
    pub(super) fn retention(&self) -> Retention {
        let log = self.log();
        Retention { time: log.retain_time, bytes: log.retain_bytes }
    }

    /// What the configuration says, over what is stored.
    pub(super) fn over(&self, name: &str, stored: &FeedSpec) -> Result<FeedSpec, NodeError> {
        if let Some(of) = &stored.mirror {
            let advice = format!(
                "write `mirror = \"{of}\"` under [log.{name}] again; or, while the node runs, `watershed promote {name} --yes`"
            );
            return Err(other_kind(name, format!("is a mirror of {of}, and its section does not say so"), advice));
        }
        let view = self.of_view(name, stored)?;
        match self.partitions == stored.partitions {
            true => {
                let (trimmed, promoted) = (stored.trimmed.clone(), stored.promoted.clone());
                Ok(FeedSpec { trimmed, promoted, view, ..self.clone() })
            }
            false => Err(contradicts(name, stored.partitions as usize, self.partitions)),
        }
    }

    /// Whose output it is. What a view has published stays that, also where it publishes no more.
    fn of_view(&self, name: &str, stored: &FeedSpec) -> Result<Option<String>, NodeError> {
        let what = match (&self.view, &stored.view) {
            (Some(view), Some(of)) if view == of => return Ok(stored.view.clone()),
            (None, None) => return Ok(None),
            (None, Some(_)) if !self.append => return Ok(stored.view.clone()),
            (None, Some(of)) => format!("has what the view {of:?} has published, and its section says `append = true`"),
            (Some(view), Some(of)) => {
                format!("has what the view {of:?} has published, and the view {view:?} is to publish there")
            }
            (Some(view), None) => format!("is there already, and the view {view:?} is to publish there"),
        };
        let advice = format!(
            "publish under another name; or stop the node and move the folder feeds/{name} away, to give up what is in it"
        );
        let why = "a view's output is a log that has that from its beginning on, and nothing else";
        Err(NodeError::new("WS-VIEW-100", Exit::Configuration, format!("the log {name:?} {what}"), why, advice))
    }

    /// What the configuration says of a mirror, over what is stored. Once promoted it stays a log of its own.
    pub(super) fn mirror_over(&self, name: &str, stored: &FeedSpec) -> Result<FeedSpec, NodeError> {
        let of = self.mirror.clone().unwrap_or_default();
        if stored.mirror.is_some() {
            return Ok(FeedSpec { partitions: stored.partitions, trimmed: stored.trimmed.clone(), ..self.clone() });
        }
        if stored.promoted.as_ref() == Some(&of) {
            tracing::warn!(
                "the log {name} was a mirror of {of} and has been promoted: `mirror` under [log.{name}] counts no more"
            );
            return Ok(stored.clone());
        }
        let advice = format!(
            "remove `mirror` under [log.{name}]; or mirror under another name; or stop the node and move the folder feeds/{name} away, \
             to give up what is in it"
        );
        Err(other_kind(name, format!("is a log of its own, and its section says that it mirrors {of}"), advice))
    }

    /// Notes it durably, if it is not noted yet.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn store(&self, dir: &Path, name: &str) -> Result<(), NodeError> {
        let folder = dir.join(name);
        let path = folder.join(FILE);
        let text = serde_json::to_string(self).map_err(|error| failed("cannot write", &path, error))?;
        if fs::read_to_string(&path).is_ok_and(|known| known == text) {
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&folder)?;
            write_durably(&path, text.as_bytes())?;
            fs::File::open(dir)?.sync_all()?;
            dir.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
        };
        write().map_err(|error| failed("cannot write", &path, error))
    }
}

/// Forgets a feed; it is not there any more on return, whatever else is left in its folder.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn forget(dir: &Path, name: &str) -> Result<(), NodeError> {
    let folder = dir.join(name);
    let remove = || -> std::io::Result<()> {
        fs::remove_file(folder.join(FILE))?;
        fs::File::open(&folder)?.sync_all()
    };
    remove().map_err(|error| failed("cannot remove", &folder, error))
}

/// Replaces a file; the new content is durable on return, and a crash leaves the old or the new one.
pub(in crate::node) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether a feed has been created in that folder of its own.
pub(super) fn is_noted(folder: &Path) -> bool {
    // What cannot be looked at may be one.
    folder.join(FILE).try_exists().unwrap_or(true)
}

/// The feeds that have been created in a folder.
///
/// # Errors
/// The folder, or what is noted in it, cannot be read.
pub(super) fn stored(dir: &Path) -> Result<BTreeMap<String, FeedSpec>, NodeError> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed("cannot read", dir, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed("cannot read", dir, error))?;
        let path = entry.path().join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Created up to here when the process was killed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("cannot read", &path, error)),
        };
        let spec: FeedSpec = serde_json::from_str(&text).map_err(|error| failed("cannot read", &path, error))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        found.insert(name, spec);
    }
    Ok(found)
}
