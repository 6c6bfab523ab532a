//! Finished blocks arrive in object storage: whole, once, and before they are joined with others; through faults, a kill, and from
//! folders that exist.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::object_store::{BUCKET, FakeS3, Fault, SECRET_KEY};
use support::{FakeTarget, Ringscrape, job, ok, until};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const FLAGS: [&str; 3] =
    ["--shards=1", "--storage.tsdb.min-block-duration=2s", "--storage.tsdb.max-block-duration=18s"];
const LABELS: &str = "global: {external_labels: {cluster: c, replica: a}}\n";

fn counting() -> FakeTarget {
    let count = AtomicU64::new(0);
    FakeTarget::start(move |_| ok(&format!("a {}\nb 1\n", count.fetch_add(1, Ordering::Relaxed))))
}

fn yaml(target: &FakeTarget, storage: &str) -> String {
    format!("{LABELS}{}{storage}", support::config(&[job("j", &[target.address], "")]))
}

/// Levels of the blocks in a data folder, by ULID.
fn local_levels(data: &Path) -> BTreeMap<String, u64> {
    let metas = std::fs::read_dir(data).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        let text = std::fs::read(entry.path().join("meta.json")).ok()?;
        let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
        Some((entry.file_name().into_string().unwrap(), json["compaction"]["level"].as_u64()?))
    });
    metas.collect()
}

/// Puts the blocks of the bucket into a folder, opens each and reads all of it. Returns ranges of time.
fn read_all(fake: &FakeS3) -> Vec<(i64, i64)> {
    let folder = tempfile::tempdir().unwrap();
    fake.with(|content| {
        for (key, object) in &content.objects {
            let path = folder.path().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, object).unwrap();
        }
    });
    let mut ranges = Vec::new();
    for ulid in fake.metas().keys() {
        let block = blocks::Block::open(&folder.path().join("some/where").join(ulid)).unwrap();
        assert!(block.check().is_good(), "{ulid}");
        ranges.push((block.meta().min_time, block.meta().max_time));
    }
    ranges.sort_unstable();
    ranges
}

fn assert_good(fake: &FakeS3) {
    fake.with(|content| assert!(content.violations.is_empty(), "{:?}", content.violations));
    let ranges = read_all(fake);
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "blocks overlap: {ranges:?}");
    for (ulid, meta) in fake.metas() {
        let thanos = &meta["thanos"];
        assert_eq!(thanos["labels"], serde_json::json!({"cluster": "c", "replica": "a"}));
        assert_eq!((&thanos["downsample"]["resolution"], &thanos["source"]), (&0.into(), &"ringscrape".into()));
        assert_eq!(
            (&meta["compaction"]["level"], &meta["compaction"]["sources"]),
            (&1.into(), &serde_json::json!([ulid]))
        );
    }
}

/// 500, 503, resets before and after, responses that are slow or come twice, and a kill in the middle of an upload.
#[test]
fn blocks_arrive_whole_and_once_through_faults_and_a_kill() {
    let (target, state) = (counting(), Mutex::new(7u64));
    let random = move |below: u64| {
        let mut state = state.lock().unwrap();
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 33) % below
    };
    let fake = FakeS3::start(move |_| match random(14) {
        0 => Fault::Status(500),
        1 => Fault::Status(503),
        2 => Fault::CutBefore,
        3 => Fault::CutAfter,
        4 => Fault::Slow(Duration::from_millis(random(300))),
        5 => Fault::Twice,
        _ => Fault::None,
    });
    let mut server = Ringscrape::start(&yaml(&target, &fake.section()), &FLAGS);
    for number in 1..=3 {
        // Behind the first file of a block.
        until("an upload has begun", || {
            fake.with(|content| {
                let has_meta = |key: &str| content.objects.contains_key(&key.replace("chunks/000001", "meta.json"));
                let begun =
                    content.objects.keys().filter(|key| key.ends_with("chunks/000001") && !has_meta(key)).count();
                (begun > 0).then_some(())
            })
        });
        server.restart(SIGKILL, &FLAGS);
        server.until_ready();
        until("blocks arrive", || (fake.metas().len() >= 2 * number).then_some(()));
    }
    assert_good(&fake);
    fake.now(|_| Fault::None);
    let file = server.path("data/thanos.shipper.json");
    let uploaded = || -> Vec<String> {
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap_or_default()).unwrap_or_default();
        serde_json::from_value(json["uploaded"].clone()).unwrap_or_default()
    };
    until("the list has the blocks that are there", || {
        let (there, listed) = (fake.metas(), uploaded());
        (listed.len() >= 4 && listed.iter().all(|ulid| there.contains_key(ulid))).then_some(())
    });
    until("blocks that were uploaded are joined", || {
        local_levels(&server.path("data")).values().any(|level| *level > 1).then_some(())
    });
    server.restart(SIGTERM, &FLAGS);
    server.until_ready();
    let before = fake.metas().len();
    until("one more", || (fake.metas().len() > before).then_some(()));
    assert_good(&fake);
}

/// Blocks wait, are not joined meanwhile, and the reason is shown; secrets are not.
#[test]
fn a_bucket_that_refuses_holds_blocks_back_and_is_shown() {
    let (target, fake) = (counting(), FakeS3::start(|_| Fault::Status(403)));
    let server = Ringscrape::start(&yaml(&target, &fake.section()), &FLAGS);
    let status = || server.api("/api/v1/ringscrape/status/object_storage")["objectStorage"].clone();
    until("blocks wait", || (status()["blocksWaiting"].as_u64() >= Some(8)).then_some(()));
    let levels = local_levels(&server.path("data"));
    assert!(levels.len() >= 8 && levels.values().all(|level| *level == 1), "{levels:?}");
    let error = status()["lastError"].as_str().unwrap().to_owned();
    assert!(error.contains("403 Forbidden"), "{error}");
    assert!(server.metric("thanos_shipper_upload_failures_total").unwrap() > 0.0);
    assert_eq!(server.metric("thanos_shipper_uploads_total"), Some(0.0));
    for text in [server.get("/api/v1/status/config").body, server.log(), status().to_string()] {
        assert!(!text.contains(SECRET_KEY), "{text}");
    }
    assert_eq!(server.log().matches("blocks could not be uploaded").count(), 1, "{}", server.log());
    fake.now(|_| Fault::None);
    until("all are uploaded", || status()["blocksWaiting"].as_u64().filter(|waiting| *waiting <= 1));
    until("and joined", || local_levels(&server.path("data")).values().any(|level| *level > 1).then_some(()));
    until("nothing fails any more", || (status()["lastError"] == "").then_some(()));
    assert!(status()["bucket"].as_str().unwrap().ends_with(&format!("{BUCKET}/some/where")), "{}", status());
    assert_good(&fake);
}

fn ship(data: &Path, config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .args(["tsdb", "ship"])
        .arg(data)
        .arg(format!("--config={}", config.display()))
        .output()
        .unwrap()
}

/// Blocks of a server that had no object storage: `tsdb ship` uploads them, also joined ones, once.
#[test]
fn blocks_that_exist_are_shipped_into_a_folder_once() {
    let target = counting();
    let mut server = Ringscrape::start(&yaml(&target, ""), &FLAGS);
    let data = server.path("data");
    until("joined blocks and others", || {
        let levels = local_levels(&data);
        (levels.values().any(|level| *level > 1) && levels.values().any(|level| *level == 1)).then_some(())
    });
    server.signal(SIGTERM);
    server.wait();
    let blocks = local_levels(&data);
    let (file, bucket) = (server.path("ship.yml"), server.path("bucket"));
    let storage = format!("object_storage: {{type: FILESYSTEM, config: {{directory: {}}}}}\n", bucket.display());
    std::fs::write(&file, &storage).unwrap();
    let refused = ship(&data, &file);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no external labels configured"), "{refused:?}");
    std::fs::write(&file, format!("{LABELS}{storage}")).unwrap();
    let first = ship(&data, &file);
    let text = String::from_utf8_lossy(&first.stdout).into_owned();
    assert!(first.status.success() && text.contains(&format!("{} blocks uploaded", blocks.len())), "{first:?}");
    assert!(local_levels(&bucket).keys().eq(blocks.keys()), "{text}");
    for ulid in blocks.keys() {
        assert!(blocks::Block::open(&bucket.join(ulid)).unwrap().check().is_good());
        assert_eq!(
            std::fs::read(bucket.join(ulid).join("index")).unwrap(),
            std::fs::read(data.join(ulid).join("index")).unwrap()
        );
    }
    // The list of uploaded blocks is no more than a shortcut.
    for _ in 0..2 {
        let again = ship(&data, &file);
        assert!(String::from_utf8_lossy(&again.stdout).contains("0 blocks uploaded"), "{again:?}");
        let _ = std::fs::remove_file(data.join("thanos.shipper.json"));
    }
    assert!(
        !data.join("thanos/upload").exists() || std::fs::read_dir(data.join("thanos/upload")).unwrap().count() == 0
    );
}

/// A file of several parts, a part of which fails at first; and one that fails for good and leaves no parts behind.
#[test]
fn large_files_go_in_parts() {
    let fake = FakeS3::start(|call| match call.number {
        2 => Fault::Status(500),
        3 => Fault::CutAfter,
        _ => Fault::None,
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let bytes: Vec<u8> = (0..12_000_000u32).map(|n| (n / 7) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    let settings =
        config::parse_config(Path::new("p.yml"), &format!("{LABELS}{}", fake.section()), &config::Env::process());
    let bucket = shipper::Bucket::new(&settings.unwrap().object_storage.unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bucket.put_file("large", &file, bytes.len() as u64)).unwrap();
    fake.with(|content| {
        assert_eq!(content.objects["some/where/large"], bytes);
        assert!(content.calls.iter().filter(|call| call.query.contains("partNumber")).count() >= 3);
        assert!(content.violations.is_empty(), "{:?}", content.violations);
    });
    fake.now(|call| if call.query.contains("partNumber=2") { Fault::Status(403) } else { Fault::None });
    runtime.block_on(bucket.put_file("other", &file, bytes.len() as u64)).unwrap_err();
    fake.with(|content| {
        assert_eq!((content.open_uploads(), content.objects.contains_key("some/where/other")), (0, false))
    });
    assert_eq!(runtime.block_on(bucket.put_new("new", b"1".to_vec())), Ok(true));
    assert_eq!(runtime.block_on(bucket.put_new("new", b"2".to_vec())), Ok(false));
    fake.with(|content| assert_eq!(content.objects["some/where/new"], b"1"));
}

/// Answers that are no HTTP, or have no end, are errors that say so, soon and in bounded memory.
#[test]
fn nonsense_is_an_error() {
    let fake = FakeS3::start(|_| Fault::None);
    let settings =
        config::parse_config(Path::new("p.yml"), &format!("{LABELS}{}", fake.section()), &config::Env::process());
    let bucket = shipper::Bucket::new(&settings.unwrap().object_storage.unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for fault in [Fault::Garbage, Fault::EndlessHead, Fault::EndlessBody, Fault::Status(302), Fault::Status(418)] {
        fake.now(move |_| fault);
        let begun = std::time::Instant::now();
        let error = runtime.block_on(bucket.put_new("a", b"1".to_vec())).unwrap_err();
        assert!(error.starts_with("a: ") && error.len() < 1000, "{fault:?}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{fault:?} took {:?}", begun.elapsed());
        assert!(!error.contains(SECRET_KEY), "{error}");
        runtime.block_on(bucket.size("a")).unwrap_err();
    }
    fake.now(|_| Fault::None);
    assert_eq!(runtime.block_on(bucket.size("a")), Ok(None));
}

/// Azure and Google's cloud: the same requests with their credentials and conditions.
#[test]
fn other_clouds_are_spoken_to() {
    let fake = FakeS3::start(|_| Fault::None);
    fake.with(|content| content.takes_all = true);
    let address = fake.address;
    let key = "c2VjcmV0LXNlY3JldA==";
    let azure = format!(
        "  type: AZURE\n  config: {{container: blocks, storage_connection_string: \
         'AccountName=acct;AccountKey={key};BlobEndpoint=http://{address}/acct'}}\n"
    );
    let account = format!(
        "{{\"gcs_base_url\": \"http://{address}\", \"disable_oauth\": true, \"client_email\": \"\", \"private_key\": \"\", \
         \"private_key_id\": \"\"}}"
    );
    let google = format!("  type: GCS\n  config: {{bucket: blocks, service_account: '{account}'}}\n");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"content").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (storage, name, credentials) in
        [(azure, "/acct/blocks/some/where/x", "SharedKey acct:"), (google, "some/where/x", "")]
    {
        let yaml = format!("{LABELS}object_storage:\n  prefix: some/where\n{storage}");
        let settings = config::parse_config(Path::new("p.yml"), &yaml, &config::Env::process()).unwrap();
        assert!(!settings.to_yaml().contains(key) && !settings.to_yaml().contains("private_key"));
        let bucket = shipper::Bucket::new(&settings.object_storage.unwrap()).unwrap();
        assert_eq!(runtime.block_on(bucket.size("x")), Ok(None), "{name}");
        runtime.block_on(bucket.put_file("x", &file, 7)).unwrap();
        assert_eq!(runtime.block_on(bucket.size("x")), Ok(Some(7)), "{name}");
        assert_eq!(runtime.block_on(bucket.put_new("x", b"other".to_vec())), Ok(false), "{name}");
        assert_eq!(runtime.block_on(bucket.put_new("y", b"other".to_vec())), Ok(true), "{name}");
        fake.with(|content| {
            assert_eq!(
                content.objects.get(name).map(Vec::as_slice),
                Some(&b"content"[..]),
                "{:?}",
                content.objects.keys()
            );
            let calls = std::mem::take(&mut content.calls);
            assert!(calls.iter().all(|call| call.authorization.starts_with(credentials)), "{calls:?}");
        });
    }
}
