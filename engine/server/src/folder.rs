//! `ringscrape tsdb`: look into a data folder that no server holds.

use crate::cli::{Serve, Tsdb};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tsdb::{Store, StoreOptions};

/// How a server with these flags keeps its data folder.
pub fn options(serve: &Serve, config: &config::Config) -> StoreOptions {
    let mut options = StoreOptions::new(&serve.storage_tsdb_path);
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let file = config.storage.as_ref().and_then(|storage| storage.tsdb.as_ref()?.retention.as_ref());
    let time = file.and_then(|retention| retention.time).or(serve.storage_tsdb_retention_time);
    let size = file.map(|retention| retention.size.0).filter(|size| *size > 0).or(serve.storage_tsdb_retention_size);
    options.retention_bytes = size.unwrap_or(0);
    options.retention_ms = match (time, options.retention_bytes) {
        (Some(time), _) => millis(time),
        (None, 0) => options.retention_ms,
        (None, _) => 0,
    };
    let late = config.storage.as_ref().and_then(|storage| Some(storage.tsdb.as_ref()?.out_of_order_time_window));
    options.late_ms = late.map_or(0, millis);
    options.block_ms = millis(serve.storage_tsdb_min_block_duration).max(1000);
    let month = 31 * 24 * 3600 * 1000;
    let tenth = if options.retention_ms > 0 { (options.retention_ms / 10).min(month) } else { month };
    options.block_ms_max = serve.storage_tsdb_max_block_duration.map_or(tenth, millis).max(options.block_ms);
    options.log.sync_interval_ms = serve.storage_wal_sync_interval.as_millis() as u64;
    let short = Duration::from_millis(options.block_ms as u64 / 4);
    options.upkeep_every = options.upkeep_every.min(short);
    options.keep_logs = !config.remote_write.is_empty();
    options.safe_mode_window = serve.storage_safe_mode_window;
    if !options.safe_mode_window.is_zero() {
        options.upkeep_every = options.upkeep_every.min(options.safe_mode_window);
    }
    options
}

pub fn run(command: &Tsdb) -> ExitCode {
    crate::tool::end(match command {
        Tsdb::List { folder } => list(folder),
        Tsdb::Verify { folder } => verify(folder),
        Tsdb::Dump { folder, selector } => dump(folder, selector),
    })
}

/// Opens the folder as a server would, logs replayed.
fn open(folder: &Path) -> anyhow::Result<std::sync::Arc<Store>> {
    anyhow::ensure!(folder.is_dir(), "{} is no folder", folder.display());
    let store = Store::open(StoreOptions { retention_ms: 0, ..StoreOptions::new(folder) })?;
    while !store.replay().done {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(store)
}

fn list(folder: &Path) -> anyhow::Result<bool> {
    let store = open(folder)?;
    let (metas, bad) = store.block_metas();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:26}  {:24}  {:24}  {:>12}  {:>10}  {:>5}", "BLOCK", "FROM", "TO", "SAMPLES", "SERIES", "LEVEL")?;
    for meta in &metas {
        let (from, to) = (api::rfc3339(meta.min_time), api::rfc3339(meta.max_time));
        let stats = meta.stats;
        let level = meta.compaction.level;
        writeln!(
            out,
            "{:26}  {from:24}  {to:24}  {:>12}  {:>10}  {level:>5}",
            meta.ulid, stats.num_samples, stats.num_series
        )?;
    }
    let stats = store.stats();
    if let Some((from, to)) = store.head_bounds() {
        let (from, to) = (api::rfc3339(from), api::rfc3339(to));
        writeln!(out, "{:26}  {from:24}  {to:24}  {:>12}", "(in no block yet)", stats.head_samples)?;
    }
    bad.iter().try_for_each(|error| writeln!(out, "bad: {error}"))?;
    Ok(bad.is_empty())
}

fn verify(folder: &Path) -> anyhow::Result<bool> {
    let store = open(folder)?;
    let (metas, bad) = store.block_metas();
    let mut good = bad.is_empty();
    let mut out = std::io::stdout().lock();
    bad.iter().try_for_each(|error| writeln!(out, "bad: {error}"))?;
    for meta in metas {
        match blocks::Block::open(&folder.join(&meta.ulid)).and_then(|block| block.verify()) {
            Ok(samples) if samples == meta.stats.num_samples || meta.stats.num_samples == 0 => {
                writeln!(out, "ok: {} with {samples} samples", meta.ulid)?;
            }
            Ok(samples) => {
                good = false;
                writeln!(
                    out,
                    "bad: {} has {samples} samples, its meta.json says {}",
                    meta.ulid, meta.stats.num_samples
                )?;
            }
            Err(error) => {
                good = false;
                writeln!(out, "bad: {error}")?;
            }
        }
    }
    let mut samples = 0u64;
    let (from, to) = (series::Timestamp(i64::MIN), series::Timestamp(i64::MAX));
    store.head_select(&[Vec::new()], from, to, &AtomicBool::new(false), |piece| {
        samples += (piece.samples.len() + piece.histograms.len()) as u64;
        true
    });
    let damages = store.stats().damages;
    writeln!(out, "{}: {samples} samples in no block yet", if damages == 0 { "ok" } else { "bad" })?;
    if damages > 0 {
        writeln!(out, "bad: {damages} damages; the log of this run names them")?;
    }
    Ok(good && damages == 0)
}

fn dump(folder: &Path, selector: &str) -> anyhow::Result<bool> {
    let matchers = promql::parse_selector(selector)?;
    let store = open(folder)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    let (from, to) = (series::Timestamp(i64::MIN), series::Timestamp(i64::MAX));
    store.select(
        &[matchers],
        from,
        to,
        |_| false,
        &AtomicBool::new(false),
        |piece| {
            let floats = piece
                .samples
                .iter()
                .try_for_each(|sample| writeln!(out, "{} {} {}", piece.labels, sample.value, sample.timestamp.0));
            written = floats.and_then(|()| {
                piece
                    .histograms
                    .iter()
                    .try_for_each(|(at, histogram)| writeln!(out, "{} {histogram} {at}", piece.labels))
            });
            written.is_ok()
        },
    )?;
    written?;
    out.flush()?;
    Ok(true)
}
