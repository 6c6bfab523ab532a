//! `/api/v1/ringscrape/status/object_storage`: which blocks were uploaded, what waits and why.

use crate::answer::{ApiResult, Data, rfc3339};
use crate::state::State;
use ::shipper::ShipperStatus;
use axum::extract;
use serde::Serialize;
use std::sync::atomic::{AtomicI64, Ordering};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bucket {
    /// Kind and name, without credentials.
    bucket: String,
    uploads: u64,
    upload_failures: u64,
    bytes_uploaded: u64,
    blocks_waiting: u64,
    /// Not uploaded, because they overlap blocks that were.
    blocks_overlapping: u64,
    corrupted_blocks: u64,
    /// End of the newest uploaded block.
    uploaded_until: Option<String>,
    last_upload: Option<String>,
    last_error: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectStorage {
    /// None: blocks are not uploaded.
    object_storage: Option<Bucket>,
}

fn bucket(ShipperStatus { bucket, stats }: ShipperStatus) -> Bucket {
    let time = |at: &AtomicI64| Some(at.load(Ordering::Relaxed)).filter(|at| *at > 0).map(rfc3339);
    Bucket {
        bucket,
        uploads: stats.uploads.load(Ordering::Relaxed),
        upload_failures: stats.upload_failures.load(Ordering::Relaxed),
        bytes_uploaded: stats.bytes_uploaded.load(Ordering::Relaxed),
        blocks_waiting: stats.waiting.load(Ordering::Relaxed),
        blocks_overlapping: stats.overlapping.load(Ordering::Relaxed),
        corrupted_blocks: stats.corrupted_blocks.load(Ordering::Relaxed),
        uploaded_until: time(&stats.uploaded_until_ms),
        last_upload: time(&stats.last_upload_ms),
        last_error: stats.last_error().unwrap_or_default(),
    }
}

/// The bucket.
pub(crate) async fn status(state: extract::State<State>) -> ApiResult<ObjectStorage> {
    Ok(Data(ObjectStorage { object_storage: state.parts.shipper.status().map(bucket) }))
}
