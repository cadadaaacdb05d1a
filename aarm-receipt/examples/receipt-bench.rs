//! How fast receipts become durable: beside a plain writer, and beside one signature for each, in one run.
//! `cargo xtask bench receipts [--json]`.

use std::borrow::Cow;
use std::io::Write;
use std::time::{Duration, Instant};

use aarm_receipt::canonical::Encoded;
use aarm_receipt::receipt::{Action, Decided, FileId, Identity, PolicyRef, Seen, Seq, SessionRef};
use aarm_receipt::verify::{How, verify_dir};
use aarm_receipt::{Body, Common, Keys, LogWriter, Options, encode};

const BATCH: u64 = 4096;
const SPAN: Duration = Duration::from_secs(3);
const ORIGIN: &str = "bench.test/log";

/// What repeats from receipt to receipt.
struct Repeated {
    host: Encoded,
    session: Encoded,
    policy: Encoded,
    exe: Encoded,
    agent: Encoded,
}

impl Repeated {
    fn new() -> Self {
        Self {
            host: Encoded::text(b"0123456789abcdef0123456789abcdef"),
            session: SessionRef { id: 1 << 32, uuid: "01934f6e-0000-7000-8000-000000000000" }.encoded(),
            policy: PolicyRef { name: "coding-agent", version: "2026.11", hash: &"0a".repeat(32) }.encoded(),
            exe: Encoded::text(b"/usr/bin/python3.11"),
            agent: Encoded::text(b"/usr/bin/agent"),
        }
    }
}

fn receipt(r: &Repeated, n: u64, out: &mut Vec<u8>) {
    let common = Common {
        time_ns: 1_795_514_400_000_000_000 + n,
        boot_ns: n,
        host: &r.host,
        session: Some(Cow::Borrowed(&r.session)),
        seq: Some(Seq { cpu: 0, n }),
    };
    let identity = Identity {
        comm: b"python3",
        exe: Some(&r.exe),
        agent: Some(&r.agent),
        pid: 4711,
        ..Identity::default()
    };
    let decision = Decided {
        hold: 0,
        redirect: None,
        result: "ALLOW",
        audit: false,
        cause: "default",
        facet: None,
        rule: None,
        reason: None,
        policy: &r.policy,
        took_ns: 1200,
    };
    let object = FileId { dev: 1, ino: 4711, mode: 0o100644 };
    let action = Action {
        tool: "read",
        operation: "open_read",
        path: b"/home/agent/project/src/main.py",
        path2: b"",
        target: b"",
        argv: b"",
        network: None,
        object,
        arg: 0,
        flags: &[],
        identity,
        decision,
        context: Seen::default(),
    };
    encode(&common, &Body::Action(action), out);
}

/// Runs batches of `BATCH` for some seconds; receipts a second.
fn rate(mut batch: impl FnMut(u64)) -> f64 {
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < SPAN {
        batch(n);
        n += BATCH;
    }
    n as f64 / began.elapsed().as_secs_f64()
}

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keys = || Keys::from_seeds([1; 32], [2; 32]).expect("seeds are keys");
    let r = Repeated::new();
    let mut bytes = Vec::new();
    let encoded = rate(|n| {
        for i in n..n + BATCH {
            bytes.clear();
            receipt(&r, i, &mut bytes);
        }
    });
    let size = bytes.len();
    let mut plain = std::fs::File::create(dir.path().join("plain")).expect("a file");
    let mut buffer = Vec::new();
    let plain_rate = rate(|n| {
        buffer.clear();
        (n..n + BATCH).for_each(|i| receipt(&r, i, &mut buffer));
        plain.write_all(&buffer).and_then(|()| plain.sync_data()).expect("writing");
    });
    let mut run = |name: &str, weighty: bool, each: u64| {
        let path = dir.path().join(name);
        let (mut log, _) = LogWriter::open(&path, keys(), ORIGIN, Options::default()).expect("a log");
        let mut signed = Instant::now();
        let began = Instant::now();
        let mut n = 0;
        while began.elapsed() < SPAN {
            for i in n..n + each {
                bytes.clear();
                receipt(&r, i, &mut bytes);
                log.append(&mut bytes, weighty).expect("appending");
            }
            n += each;
            log.sync().expect("syncing");
            if signed.elapsed() > Duration::from_secs(1) {
                log.checkpoint().expect("signing");
                signed = Instant::now();
            }
        }
        log.checkpoint().expect("signing");
        (n as f64 / began.elapsed().as_secs_f64(), path, n)
    };
    let (log_rate, path, written) = run("log", false, BATCH);
    let (each_rate, _, _) = run("each", true, 256);
    let began = Instant::now();
    let report = verify_dir(&path, &keys().trusted(ORIGIN), How::default());
    assert_eq!(report.receipts, written, "{report}");
    let verify_rate = written as f64 / began.elapsed().as_secs_f64();
    if std::env::args().any(|a| a == "--json") {
        println!(
            "{}",
            serde_json::json!({
                "receipt_bytes": size, "encode_per_s": encoded, "plain_append_fdatasync_per_s": plain_rate, "log_per_s": log_rate,
                "signature_each_per_s": each_rate, "verify_per_s": verify_rate, "log_over_plain": log_rate / plain_rate,
                "log_over_signature_each": log_rate / each_rate,
            })
        );
        return;
    }
    println!("receipts of {size} bytes, one thread, batches of {BATCH}, each durable");
    for (what, rate) in [
        ("encode only", encoded),
        ("plain append + fdatasync", plain_rate),
        ("receipt log (hash, tree, checkpoints)", log_rate),
        ("one signature each", each_rate),
        ("verify", verify_rate),
    ] {
        println!("{what:<40}{rate:>12.0} /s");
    }
    println!(
        "log / plain: {:.2}   log / one signature each: {:.1}",
        log_rate / plain_rate,
        log_rate / each_rate
    );
}
