//! Stand-ins.
#![allow(missing_docs)]
use super::*;
use crate::log::*;
use crate::model::*;
use crate::view::*;
use std::path::PathBuf;
use std::time::Duration;
pub struct PgCapture;
pub struct PgCaptureOptions {
    pub endpoint: Endpoint,
    pub runtime: tokio::runtime::Handle,
    pub log: LogId,
    pub captured: CapturesTable,
    pub spool_dir: PathBuf,
    pub node: Box<str>,
    pub resume: Option<SourceCursor>,
    pub slot_retain_max: Option<u64>,
}
impl PgCapture {
    pub async fn open(_: PgCaptureOptions) -> Result<PgCapture, CaptureFailure> {
        Err(CaptureFailure { what: "no".into(), kind: CaptureTrouble::Failed })
    }
}
impl Capture for PgCapture {
    fn place(&self) -> SourceCursor {
        SourceCursor::default()
    }
    fn poll(&mut self) -> Result<Polled, CaptureFailure> {
        Ok(Polled::Current)
    }
    fn wait(&mut self, _: bool) {}
    fn release(&mut self, _: &SourceCursor) -> Result<(), CaptureFailure> {
        Ok(())
    }
    fn retry(&mut self) {}
    fn request_rescan(&mut self, _: &TableName) {}
}
pub struct PgApplierOptions {
    pub endpoint: Endpoint,
    pub log: LogId,
    pub fire_triggers: bool,
    pub exact: bool,
    pub spool_dir: PathBuf,
}
pub struct PgReader;
impl PgReader {
    pub async fn open(_: &Endpoint) -> Result<PgReader, PgError> {
        Err(PgError::Url { url: String::new(), why: String::new() })
    }
}
#[async_trait::async_trait]
impl TableReader for PgReader {
    async fn read_chunk(&mut self, _: &TableName, _: Option<&Row>, _: usize, _: usize) -> Result<Chunk, String> {
        Err(String::new())
    }
}
pub async fn inspect(_: &Endpoint, _: &CapturesTable, _: Duration) -> Result<Inspection, PgError> {
    Ok(Inspection::default())
}
pub async fn uninstall(_: &Endpoint) -> Result<(), PgError> {
    Ok(())
}
pub fn create_table(_: &TableDef) -> String {
    String::new()
}
pub async fn open_applier(_: PgApplierOptions) -> Result<Box<dyn LaneView>, ViewError> {
    Err(ViewError::Failed(String::new()))
}
