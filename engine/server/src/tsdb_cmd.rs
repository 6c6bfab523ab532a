//! `ringscrape tsdb`: look into a data folder that no server holds, check and repair it, move it in from Prometheus and out.

use crate::cli::{BlocksFrom, Serve, Tsdb};
use blocks::head::HeadImport;
use blocks::{Block, Meta};
use series::{Labels, Timestamp};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tsdb::{SeriesPart, Store, StoreOptions};

const POLL: Duration = Duration::from_millis(20);
/// How much time is dumped at once, and how many times at most.
const DUMP_WINDOW_MS: i64 = 7_200_000;
const DUMP_WINDOWS_MAX: i64 = 100_000;

/// How a server with these flags keeps its data folder.
pub fn store_options(serve: &Serve, config: &config::Config) -> StoreOptions {
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
    options.uploads_blocks = config.object_storage.is_some();
    options.import_prometheus_head = true;
    options.safe_mode_window = serve.storage_safe_mode_window;
    if !options.safe_mode_window.is_zero() {
        options.upkeep_every = options.upkeep_every.min(options.safe_mode_window);
    }
    options
}

/// How an agent with these flags keeps its data folder.
pub fn agent_options(serve: &Serve, config: &config::Config) -> tsdb::AgentOptions {
    let options = store_options(serve, config);
    tsdb::AgentOptions {
        folder: serve.storage_agent_path.clone(),
        late_ms: options.late_ms,
        log: options.log,
        safe_mode_window: options.safe_mode_window,
        keep_logs: options.keep_logs,
    }
}

pub fn run(command: &Tsdb) -> ExitCode {
    crate::tool::end(match command {
        Tsdb::List { folder } => list(folder),
        Tsdb::Verify { folder, repair_to } => match repair_to {
            None => verify(folder),
            Some(target) => repair(folder, target),
        },
        Tsdb::Dump { folder, selector } => dump(folder, selector),
        Tsdb::Import { folder } => import(folder),
        Tsdb::Export { folder, .. } => export(folder),
        Tsdb::Ship { folder, config } => ship(folder, config),
        Tsdb::CreateBlocksFrom { what } => match what {
            BlocksFrom::Openmetrics { input, output, max_block_duration, label, quiet } => {
                create_blocks(input, output, *max_block_duration, label, *quiet)
            }
        },
    })
}

fn create_blocks(
    input: &Path,
    output: &Path,
    longest: Duration,
    added: &[(String, String)],
    quiet: bool,
) -> anyhow::Result<bool> {
    let metas = crate::backfill::create_blocks(input, output, longest, added)?;
    if !quiet {
        let mut out = std::io::stdout().lock();
        metas.iter().try_for_each(|meta| writeln!(out, "{}", block_line(meta)))?;
        let samples: u64 = metas.iter().map(|meta| meta.stats.num_samples).sum();
        writeln!(out, "{samples} samples in {} blocks", metas.len())?;
    }
    Ok(true)
}

fn read_only(folder: &Path) -> StoreOptions {
    StoreOptions { retention_ms: 0, ..StoreOptions::new(folder) }
}

/// Opens the folder as a server would, logs replayed.
fn open(options: StoreOptions) -> anyhow::Result<Arc<Store>> {
    anyhow::ensure!(options.folder.is_dir(), "{} is no folder", options.folder.display());
    let store = Store::open(options)?;
    while !store.replay().done {
        std::thread::sleep(POLL);
    }
    Ok(store)
}

fn list(folder: &Path) -> anyhow::Result<bool> {
    let store = open(read_only(folder))?;
    let (metas, bad) = store.block_metas();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:26}  {:24}  {:24}  {:>12}  {:>10}  {:>5}", "BLOCK", "FROM", "TO", "SAMPLES", "SERIES", "LEVEL")?;
    for meta in &metas {
        writeln!(out, "{}", block_line(meta))?;
    }
    let stats = store.stats();
    if let Some((from, to)) = store.head_bounds() {
        let (from, to) = (api::rfc3339(from), api::rfc3339(to));
        writeln!(out, "{:26}  {from:24}  {to:24}  {:>12}", "(in no block yet)", stats.head_samples)?;
    }
    note_head(folder, &mut out)?;
    bad.iter().try_for_each(|error| writeln!(out, "bad: {error}"))?;
    Ok(bad.is_empty())
}

fn block_line(meta: &Meta) -> String {
    let (from, to) = (api::rfc3339(meta.min_time), api::rfc3339(meta.max_time));
    let failed = if meta.compaction.failed { "  damaged" } else { "" };
    let (samples, series, level) = (meta.stats.num_samples, meta.stats.num_series, meta.compaction.level);
    format!("{:26}  {from:24}  {to:24}  {samples:>12}  {series:>10}  {level:>5}{failed}", meta.ulid)
}

/// Says so if Prometheus left a head.
fn note_head(folder: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    if blocks::head::has_head(folder)? {
        writeln!(out, "Prometheus left a write-ahead log; a start of the server or `ringscrape tsdb import` takes it")?;
    }
    Ok(())
}

fn verify(folder: &Path) -> anyhow::Result<bool> {
    let store = open(read_only(folder))?;
    let (metas, bad) = store.block_metas();
    let mut good = bad.is_empty();
    let mut out = std::io::stdout().lock();
    bad.iter().try_for_each(|error| writeln!(out, "bad: {error}"))?;
    for meta in metas {
        let check = match Block::open(&folder.join(&meta.ulid)) {
            Ok(block) => block.check(),
            Err(error) => {
                good = false;
                writeln!(out, "bad: {error}")?;
                continue;
            }
        };
        if check.is_good() {
            writeln!(out, "ok: {} with {} samples", meta.ulid, check.samples)?;
            continue;
        }
        good = false;
        check.faults.iter().try_for_each(|error| writeln!(out, "bad: {error}"))?;
        let more = check.fault_count - check.faults.len() as u64;
        if more > 0 {
            writeln!(out, "bad: {} has {more} faults more", meta.ulid)?;
        }
    }
    let mut samples = 0u64;
    let (from, to) = (series::Timestamp(i64::MIN), series::Timestamp(i64::MAX));
    store.head_select(&[Vec::new()], from, to, &AtomicBool::new(false), |piece| {
        samples += (piece.samples.len() + piece.histograms.len()) as u64;
        true
    });
    let damages = store.stats().damages;
    writeln!(
        out,
        "{}: {samples} samples in chunks; blocks may have some of them, too",
        if damages == 0 { "ok" } else { "bad" }
    )?;
    if damages > 0 {
        writeln!(out, "bad: {damages} damages; the log of this run names them")?;
    }
    note_head(folder, &mut out)?;
    Ok(good && damages == 0)
}

/// Writes what can be read of each block into a new folder; good blocks are copied by the same means.
fn repair(folder: &Path, target: &Path) -> anyhow::Result<bool> {
    let is_empty = std::fs::read_dir(target).map_or(true, |mut entries| entries.next().is_none());
    anyhow::ensure!(is_empty, "{} is not empty", target.display());
    std::fs::create_dir_all(target)?;
    let mut out = std::io::stdout().lock();
    let mut all = true;
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries.iter().filter(|entry| entry.path().join("index").exists()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        match Block::open(&entry.path()).and_then(|block| blocks::repair(&block, target, &name)) {
            Ok(repaired) => {
                let samples = repaired.meta.map_or(0, |meta| meta.stats.num_samples);
                let (series, chunks) = (repaired.series_lost, repaired.chunks_lost);
                all &= series + chunks == 0;
                writeln!(out, "{name}: {samples} samples kept; {series} series and {chunks} chunks lost")?;
            }
            Err(error) => {
                all = false;
                writeln!(out, "{name}: nothing kept: {error}")?;
            }
        }
    }
    Ok(all)
}

fn dump(folder: &Path, selector: &str) -> anyhow::Result<bool> {
    let matchers = promql::parse_selector(selector)?;
    let store = open(read_only(folder))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    // What is in chunks may be in a block as well: series are put together, window by window.
    let Some((first, last)) = store.bounds() else { return Ok(true) };
    let width = DUMP_WINDOW_MS.max(last.saturating_sub(first) / DUMP_WINDOWS_MAX);
    for from in (first..=last).step_by(width as usize) {
        let to = from.saturating_add(width - 1).min(last);
        let mut all: BTreeMap<Labels, SeriesPart> = BTreeMap::new();
        let take = |mut piece: SeriesPart| {
            let series = all.entry(piece.labels.clone()).or_insert_with(|| SeriesPart::new(piece.labels));
            series.samples.append(&mut piece.samples);
            series.histograms.append(&mut piece.histograms);
            true
        };
        let never = AtomicBool::new(false);
        store.select(std::slice::from_ref(&matchers), Timestamp(from), Timestamp(to), |_| false, &never, take)?;
        for (labels, mut series) in all {
            series::order::dedupe(&mut series.samples);
            tsdb::in_order(&mut series.histograms);
            for sample in &series.samples {
                writeln!(out, "{labels} {} {}", sample.value, sample.timestamp.0)?;
            }
            for (at, histogram) in &series.histograms {
                writeln!(out, "{labels} {histogram} {at}")?;
            }
        }
    }
    out.flush()?;
    Ok(true)
}

fn import(folder: &Path) -> anyhow::Result<bool> {
    let begun = Instant::now();
    // It is imported below, so that what it brought can be shown.
    let store = open(read_only(folder))?;
    let imported = store.import_prometheus_head()?;
    let mut out = std::io::stdout().lock();
    let Some(import) = imported else {
        writeln!(out, "Prometheus left nothing but blocks")?;
        return Ok(true);
    };
    print_import(&import, begun.elapsed(), &mut out)?;
    Ok(import.damage_count == 0)
}

fn print_import(import: &HeadImport, time: Duration, out: &mut impl Write) -> std::io::Result<()> {
    for meta in &import.blocks {
        writeln!(out, "{}", block_line(meta))?;
    }
    let HeadImport { series, samples, mapped_chunks, segments, records, .. } = import;
    writeln!(
        out,
        "{series} series, {samples} samples from {segments} segments ({records} records), {mapped_chunks} mapped chunks, {} \
         MiB in {:.1} s",
        import.bytes >> 20,
        time.as_secs_f64()
    )?;
    let left_out = [
        (import.samples_known, "samples that blocks or mapped chunks have already"),
        (import.samples_out_of_order, "samples that are not newer than the one before"),
        (import.samples_without_series, "samples and chunks whose series is not in the log"),
        (import.exemplars, "exemplars: this build keeps none"),
        (import.metadata, "records of metadata: they come with the next scrape"),
        (import.unknown, "records or histograms of a kind that this build does not know"),
        (import.torn_bytes, "bytes of a record that was not written to its end"),
    ];
    for (count, what) in left_out.iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "left out: {count} {what}")?;
    }
    import.damages.iter().try_for_each(|error| writeln!(out, "bad: {error}"))?;
    let more = import.damage_count - import.damages.len() as u64;
    if more > 0 {
        writeln!(out, "bad: {more} damages more")?;
    }
    writeln!(out, "what was read lies in {}", blocks::head::IMPORTED_DIR)
}

fn export(folder: &Path) -> anyhow::Result<bool> {
    let store = open(read_only(folder))?;
    let metas = store.export_to_blocks()?;
    let mut out = std::io::stdout().lock();
    metas.iter().try_for_each(|meta| writeln!(out, "{}", block_line(meta)))?;
    let samples: u64 = metas.iter().map(|meta| meta.stats.num_samples).sum();
    writeln!(out, "{samples} samples put into {} blocks", metas.len())?;
    let stats = store.stats();
    let is_complete = stats.head_samples == 0 && stats.damages == 0 && stats.replay.rows_lost == 0;
    if !is_complete {
        writeln!(
            out,
            "bad: {} samples stay in chunks, {} rows and {} damages could not be read; the log of this run names them",
            stats.head_samples, stats.replay.rows_lost, stats.damages
        )?;
    }
    Ok(is_complete)
}

/// Uploads the blocks of a folder, also those that were made of several.
fn ship(folder: &Path, config: &Path) -> anyhow::Result<bool> {
    let config = config::load(config, &config::Env::process())?;
    let settings = shipper::Settings::of(&config);
    let settings =
        settings.ok_or_else(|| anyhow::anyhow!("the configuration has no object_storage; say where blocks go"))?;
    let store = open(StoreOptions { uploads_blocks: true, ..read_only(folder) })?;
    let bucket = shipper::Bucket::new(&settings.storage).map_err(anyhow::Error::msg)?;
    let stats = shipper::ShipperStats::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lines = Vec::new();
    let report = |block: &Block, verdict: &shipper::Verdict| {
        let what = match verdict {
            shipper::Verdict::Done => "in the bucket".to_owned(),
            shipper::Verdict::Upload => "bad: not uploaded".to_owned(),
            shipper::Verdict::Held(why) => format!("left out: {why}"),
        };
        lines.push(format!("{}  {what}", block_line(block.meta())));
    };
    let outcome = runtime.block_on(shipper::ship_all(&store, &bucket, &settings, true, &stats, report));
    let mut out = std::io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    if let Err(error) = &outcome {
        writeln!(out, "bad: {error}")?;
    }
    let (uploads, bytes) = (&stats.uploads, &stats.bytes_uploaded);
    let (uploads, bytes) = (uploads.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
    writeln!(out, "{uploads} blocks uploaded, {bytes} bytes")?;
    Ok(outcome.is_ok())
}

/// Replaces the ended server by `ringscrape tsdb export` of its folder. The threads of its shards end with the image of
/// the process only, and hold the folder's lock until then.
///
/// Returns only if the program cannot be started again.
pub fn become_export(folder: &Path) -> std::io::Error {
    Command::new("/proc/self/exe").args(["tsdb", "export"]).arg(folder).exec()
}
