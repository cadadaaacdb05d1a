//! An archive in an object store, as its operator makes it, who verifies reads it, and the daemon keeps it.

#[path = "fake/s3.rs"]
mod s3;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aarm_agent::daemon::archive::{Archiving, Board, begin};
use aarm_agent::daemon::config;
use aarm_agent::daemon::writer::Progress;
use aarm_agent::metrics::Metrics;
use aarm_receipt::canonical::Encoded;
use aarm_receipt::{Body, Common, Keys, LogWriter, Options, TrustedKeys, encode};

use s3::S3;

const ORIGIN: &str = "host.test/log";
const SEGMENT: u64 = 1 << 20;
/// For everything that follows from something.
const SETTLE: Duration = Duration::from_secs(60);

fn trusted() -> TrustedKeys {
    Keys::from_seeds([1; 32], [2; 32]).unwrap().trusted(ORIGIN)
}

fn open(dir: &Path, segment_bytes: u64) -> LogWriter {
    let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap();
    LogWriter::open(dir, keys, ORIGIN, Options { segment_bytes }).unwrap().0
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Goes on with a log until it has so many receipts, each with a text that compresses little.
fn write(dir: &Path, segment_bytes: u64, size: u64, length: usize) {
    let mut log = open(dir, segment_bytes);
    let mut state = 1u64;
    for n in log.size()..size {
        let text: String = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n | 1);
                char::from(LETTERS[(state >> 58) as usize])
            })
            .collect();
        let common = Common { time_ns: n, boot_ns: n, host: &Encoded::text(b"h"), session: None, seq: None };
        let mut bytes = Vec::new();
        encode(&common, &Body::Stop { version: &text }, &mut bytes);
        log.append(&mut bytes, true).unwrap();
    }
    log.checkpoint().unwrap();
}

/// Runs it as somebody, against a store; how it ended, and what it said.
fn told_by(endpoint: &str, who: &str, args: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_aarm"))
        .args(args)
        .env("TZ", "UTC")
        .envs([("AWS_ENDPOINT", endpoint), ("AWS_ALLOW_HTTP", "true")])
        .envs([("AWS_ACCESS_KEY_ID", who), ("AWS_SECRET_ACCESS_KEY", "secret")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [stdout, stderr].concat();
    (status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

fn told(s3: &S3, args: &[&str]) -> (i32, String) {
    told_by(&s3.endpoint, "who", args)
}

const URL: &str = "s3://bucket/logs/host";

#[test]
fn a_log_is_archived_and_verified_proven_and_read_from_there_with_the_keys_only() {
    let (s3, dir) = (S3::serve(), tempfile::tempdir().unwrap());
    let log = dir.path().join("log");
    let (key, dir_text) = (dir.path().join("host.pub"), log.to_str().unwrap());
    write(&log, SEGMENT, 3000, 700);
    std::fs::copy(log.join("log.pub"), &key).unwrap();
    let key = key.to_str().unwrap();
    let (code, text) = told(&s3, &["archive", dir_text, URL]);
    assert!(code == 0 && text.contains("3000 receipts of host.test/log are archived"), "{text}");
    assert!(s3.state().objects.keys().all(|path| path.starts_with("bucket/logs/host/")));
    let seen = dir.path().join("host.seen");
    let (code, text) = told(&s3, &["verify", URL, "--key", key, "--remember", seen.to_str().unwrap()]);
    assert!(code == 0 && text.contains("host.test/log: intact") && text.contains("3000 receipts"), "{text}");
    // Again, and with what came.
    let requests = s3.state().puts.len();
    let (code, text) = told(&s3, &["archive", dir_text, URL, "--json"]);
    assert_eq!(code, 0, "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["copied"]["receipts"], &json["copied"]["bytes"]), (&3000.into(), &0.into()));
    assert_eq!(s3.state().puts.len(), requests, "nothing was new");
    let old = s3.state().objects.clone();
    write(&log, SEGMENT, 4000, 700);
    assert_eq!(told(&s3, &["archive", dir_text, URL]).0, 0);
    let (code, text) = told(&s3, &["verify", URL, "--key", key, "--remember", seen.to_str().unwrap()]);
    assert!(
        code == 0 && text.contains("begins with the 3000 receipts of the checkpoint seen before"),
        "{text}"
    );
    // What is proven from there is what is proven from the log.
    let proof = |from: &str| told(&s3, &["prove", "2222", "--log", from]);
    assert_eq!(proof(URL), proof(dir_text));
    let receipts = |from: &str| told(&s3, &["receipts", "--log", from, "--json", "--limit", "7"]);
    assert!(receipts(URL) == receipts(dir_text) && receipts(URL).1.lines().count() == 7);
    // From a web server that cannot say what it has.
    s3.state().is_public = true;
    let web = format!("{}/bucket/logs/host", s3.endpoint);
    let (code, text) = told(&s3, &["verify", &web, "--key", key]);
    assert!(code == 0 && text.contains("4000 receipts"), "{text}");
    assert_eq!(told(&s3, &["archive", dir_text, &web]).0, 64, "it can be read only");
    // Whoever puts back what it was before is found out.
    s3.state().objects = old;
    assert_eq!(told(&s3, &["verify", URL, "--key", key]).0, 0);
    let (code, text) = told(&s3, &["verify", URL, "--key", key, "--remember", seen.to_str().unwrap()]);
    assert!(code == 1 && text.contains("it was rolled back"), "{text}");
}

#[test]
fn tampered_and_missing_objects_are_told_from_a_store_that_is_not_reached() {
    let (s3, dir) = (S3::serve(), tempfile::tempdir().unwrap());
    let log = dir.path();
    write(log, SEGMENT, 3000, 700);
    assert_eq!(told(&s3, &["archive", log.to_str().unwrap(), URL]).0, 0);
    let key = log.join("log.pub");
    let verify = || told(&s3, &["verify", URL, "--key", key.to_str().unwrap()]);
    let whole = s3.state().objects.clone();
    for name in ["segment-0000000001.aarm.zst", "tile/0/000", "checkpoint", "archive", "origin"] {
        let path = format!("bucket/logs/host/{name}");
        let middle = whole[&path].len() / 2;
        s3.state().objects.get_mut(&path).unwrap()[middle] ^= 1;
        let (code, text) = verify();
        assert!(code == 1 && text.contains("TAMPERED"), "{name}: {text}");
        s3.state().objects.remove(&path);
        let (code, text) = verify();
        match name {
            "tile/0/000" => assert!(code == 0 && text.contains("1 tiles are missing"), "{text}"),
            _ => assert!(code == 1 && text.contains("TAMPERED"), "without {name}: {text}"),
        }
        s3.state().objects = whole.clone();
    }
    assert_eq!(verify().0, 0);
    let verify = ["verify", URL, "--key", key.to_str().unwrap()];
    let (code, text) = told_by(&s3.endpoint, "other", &verify);
    assert!(code == 2 && text.contains("AccessDenied") && text.contains("says nothing of the log"), "{text}");
    assert!(!text.contains("TAMPERED"));
    // Nobody is there any more.
    let endpoint = s3.endpoint.clone();
    drop(s3);
    let (code, text) = told_by(&endpoint, "who", &verify);
    assert!(code == 2 && !text.contains("TAMPERED"), "{text}");
}

#[test]
fn an_upload_that_breaks_off_is_not_there_and_is_gone_on_with() {
    let (s3, dir) = (S3::serve(), tempfile::tempdir().unwrap());
    let log = dir.path();
    // Segments of two parts each, and some more.
    write(log, 14 << 20, 5_500, 6_000);
    let log = log.to_str().unwrap();
    // Origin and keys, and of the first segment the first part and half of the second.
    s3.state().breaks_after = Some(3);
    let (code, text) = told(&s3, &["archive", log, URL]);
    assert!(code == 2 && text.contains("it goes on where it was"), "{text}");
    let segments = |s3: &S3| {
        let all = s3.state();
        let names = all.puts.iter().filter_map(|path| path.strip_prefix("bucket/logs/host/segment-"));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(segments(&s3).is_empty());
    assert!(s3.state().uploads.is_empty(), "what was sent of it was given up");
    // All of the first, its place in the list, and half of the second.
    s3.state().breaks_after = Some(2 + 2 + 1 + 1);
    assert_eq!(told(&s3, &["archive", log, URL]).0, 2);
    s3.state().breaks_after = None;
    assert_eq!(segments(&s3), ["0000000000.aarm.zst"]);
    let (code, text) = told(&s3, &["archive", log, URL]);
    assert_eq!(code, 0, "{text}");
    let last = segments(&s3).len() as u64 - 2;
    assert!(last >= 1, "{:?}", segments(&s3));
    assert_eq!(segments(&s3)[0], segments(&s3)[1], "the last that was there is put again, and no other");
    let (code, text) = told(&s3, &["verify", URL]);
    assert!(code == 0 && text.contains("5500 receipts"), "{text}");
}

#[test]
fn a_store_that_gives_back_something_else_is_found_out() {
    let (s3, dir) = (S3::serve(), tempfile::tempdir().unwrap());
    let log = dir.path();
    write(log, SEGMENT, 2000, 700);
    s3.state().spoils = Some("segment-0000000000.aarm.zst".into());
    let (code, text) = told(&s3, &["archive", log.to_str().unwrap(), URL]);
    assert!(code == 1 && text.contains("what is read there is not what was put there"), "{text}");
    assert!(!s3.state().objects.contains_key("bucket/logs/host/checkpoint"));
    s3.state().spoils = None;
    assert_eq!(told(&s3, &["archive", log.to_str().unwrap(), URL]).0, 0);
    assert_eq!(told(&s3, &["verify", URL]).0, 0);
}

#[test]
fn the_stores_of_others_keep_it_too() {
    let (s3, dir) = (S3::serve(), tempfile::tempdir().unwrap());
    let log = dir.path();
    write(log, SEGMENT, 1000, 700);
    let settings = [
        ("GOOGLE_BASE_URL", s3.endpoint.clone()),
        ("GOOGLE_BEARER_TOKEN", "who".into()),
        ("GOOGLE_ALLOW_HTTP", "true".into()),
        ("AZURE_STORAGE_ENDPOINT", s3.endpoint.clone()),
        ("AZURE_STORAGE_ACCOUNT_NAME", "who".into()),
        ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0".into()),
        ("AZURE_ALLOW_HTTP", "true".into()),
    ];
    let aarm = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_aarm")).args(args).envs(settings.clone()).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    for url in ["gs://google/host", "az://azure/host"] {
        let (code, text) = aarm(&["archive", log.to_str().unwrap(), url]);
        assert_eq!(code, 0, "{url}: {text}");
        let (code, text) = aarm(&["verify", url]);
        assert!(code == 0 && text.contains("1000 receipts"), "{url}: {text}");
    }
    let state = s3.state();
    let places = ["google/host%2Fcheckpoint", "azure/host/checkpoint"];
    assert!(places.iter().all(|path| state.objects.contains_key(*path)), "{:?}", state.objects.keys());
}

/// Waits for something that the daemon's archive shows.
fn until(board: &Arc<Board>, what: &str, is: impl Fn(&aarm_agent::api::types::ArchiveStatus) -> bool) {
    let began = Instant::now();
    while !is(&board.status()) {
        assert!(began.elapsed() < SETTLE, "{what}: {:?}", board.status());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_daemon_keeps_it_where_the_log_is_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (log, there) = (dir.path().join("log"), dir.path().join("there"));
    std::fs::create_dir_all(&log).unwrap();
    let there = there.join(ORIGIN);
    let of_all = format!("file://{}/there/{{origin}}", dir.path().display());
    let url = format!("file://{}", there.display());
    let (progress, metrics) = (Arc::new(Progress::default()), Metrics::new().unwrap());
    let board = begin(Archiving {
        to: config::Archive { url: of_all.clone(), every_s: 1, required: true },
        log: log.clone(),
        trusted: trusted(),
        progress: Arc::clone(&progress),
        metrics: Arc::clone(&metrics),
    })
    .unwrap();
    write(&log, SEGMENT, 300, 9);
    until(&board, "the first", |a| a.receipts == 300 && a.at.is_some() && a.problem.is_none());
    write(&log, SEGMENT, 700, 9);
    until(&board, "those that came", |a| a.receipts == 700);
    assert_eq!(progress.archived.load(Ordering::Acquire), 700);
    let text = || String::from_utf8(metrics.text()).unwrap();
    assert!(text().contains(&format!("aarm_archive_receipts{{url=\"{url}\"}} 700")), "{}", text());
    let report = aarm_receipt::verify::verify_dir(&log, &trusted(), Default::default());
    assert_eq!(report.receipts, 700);
    let s3 = S3::serve();
    let (code, said) = told(&s3, &["verify", &url, "--key", log.join("log.pub").to_str().unwrap()]);
    assert!(code == 0 && said.contains("700 receipts"), "{said}");
    // Another history of this log.
    let other = tempfile::tempdir().unwrap();
    write(other.path(), SEGMENT, 1000, 10);
    let (code, said) = told(&s3, &["archive", other.path().to_str().unwrap(), &of_all]);
    assert!(code == 1 && said.contains("are not those of this log"), "{said}");
    std::fs::write(there.join("origin"), "other.test/log\n").unwrap();
    write(&log, SEGMENT, 800, 9);
    until(&board, "a problem", |a| {
        a.problem.as_ref().is_some_and(|p| p.contains("another log is archived there"))
    });
    assert!(text().contains("reason=\"disagrees\",url="), "{}", text());
    assert_eq!((board.status().receipts, progress.archived.load(Ordering::Acquire)), (700, 700));
    std::fs::write(there.join("origin"), format!("{ORIGIN}\n")).unwrap();
    until(&board, "it is well again", |a| a.receipts == 800 && a.problem.is_none());
}
