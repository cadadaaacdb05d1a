//! How fast receipts become durable: beside a plain writer, and beside one signature for each, in one run; how late they are at half of that,
//! what they take on disk, and what a proof costs. `cargo xtask bench receipts [--json]`; `AARM_BENCH_SECONDS` for more than three each.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use aarm_receipt::canonical::Encoded;
use aarm_receipt::log::{Signing, compress};
use aarm_receipt::note::Checkpoint;
use aarm_receipt::receipt::{Action, Decided, FileId, Identity, PolicyRef, Seen, Seq, SessionRef};
use aarm_receipt::verify::{How, verify_dir};
use aarm_receipt::{Body, Bundle, Common, Keys, LogError, LogWriter, Options, encode, merkle, proof};
use ring::signature::Ed25519KeyPair;

const BATCH: u64 = 4096;
/// As the daemon does: on disk after so long at the latest.
const SYNC: Duration = Duration::from_millis(10);
/// The most that a receipt may be late at half of what the log takes.
const P99_MAX_MS: f64 = 25.0;
/// Receipts of the log whose proof is simulated.
const LARGE: u64 = 1_000_000_000;
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

/// What an agent opens, and by which program: a project, its tools and libraries.
const FILES: &[(&str, &str)] = &[
    ("/home/agent/project/src/main.py", "python3"),
    ("/home/agent/project/src/parser/tokens.py", "python3"),
    ("/home/agent/project/.git/objects/3f/a8b1c2d4e5f60718293a4b5c6d7e8f90a1b2c3", "git"),
    ("/home/agent/project/.git/index", "git"),
    ("/usr/lib/x86_64-linux-gnu/libc.so.6", "git"),
    ("/usr/lib/python3.11/json/decoder.py", "python3"),
    ("/etc/ld.so.cache", "cc1"),
    ("/home/agent/.cache/pip/http/a/b/c/d/e/abcdef0123456789", "pip"),
];

fn receipt(r: &Repeated, n: u64, out: &mut Vec<u8>) {
    // No two are alike: neither are times, numbers and objects of a real log.
    let noise = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let (path, comm) = FILES[(noise % FILES.len() as u64) as usize];
    let boot_ns = 90_000_000_000 + n * 41_327 + noise % 40_000;
    let common = Common {
        time_ns: 1_795_514_400_000_000_000 + boot_ns,
        boot_ns,
        host: &r.host,
        session: Some(Cow::Borrowed(&r.session)),
        seq: Some(Seq { cpu: (noise % 8) as u32, n }),
    };
    let identity = Identity {
        comm: comm.as_bytes(),
        exe: Some(&r.exe),
        agent: Some(&r.agent),
        pid: 4711 + (n / 97) as u32 % 1000,
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
        took_ns: 900 + (noise % 4000) as u32,
    };
    let object = FileId { dev: 1, ino: 4711 + noise % 5000, mode: 0o100644 };
    let action = Action {
        tool: "read",
        operation: "open_read",
        path: path.as_bytes(),
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

/// The session that they are of.
fn begin(r: &Repeated, log: &mut LogWriter) {
    let session = Some(Cow::Borrowed(&r.session));
    let common = Common { time_ns: 1, boot_ns: 1, host: &r.host, session, seq: None };
    let policy = PolicyRef { name: "coding-agent", version: "2026.11", hash: "0a" };
    let identity = Identity::default();
    let body = Body::SessionOpen { how: "run", program: b"/x", intent: "", policy, audit: false, identity };
    let mut bytes = Vec::new();
    encode(&common, &body, &mut bytes);
    log.append(&mut bytes, false).expect("appending");
}

/// Of each measurement.
fn span() -> Duration {
    let seconds = std::env::var("AARM_BENCH_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

/// Runs batches of `BATCH` for some seconds; receipts a second.
fn rate(mut batch: impl FnMut(u64)) -> f64 {
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < span() {
        batch(n);
        n += BATCH;
    }
    n as f64 / began.elapsed().as_secs_f64()
}

/// How long receipts take to be durable, in milliseconds, when they come at a rate: the 99th of a hundred.
fn latency(r: &Repeated, mut log: LogWriter, per_second: f64) -> f64 {
    begin(r, &mut log);
    let mut bytes = Vec::new();
    let mut late = Vec::new();
    let (began, mut signed) = (Instant::now(), Instant::now());
    let mut placing: Option<std::thread::JoinHandle<(Signing, Result<(), LogError>)>> = None;
    let mut waiting: Vec<(Instant, u64)> = Vec::new();
    let mut n = 0;
    while began.elapsed() < span() {
        // What has come since.
        let due = (began.elapsed().as_secs_f64() * per_second) as u64;
        if due > n {
            // When the first of them came, whatever was done here then.
            waiting.push((began + Duration::from_secs_f64((n + 1) as f64 / per_second), due - n));
            for i in n..due {
                bytes.clear();
                receipt(r, i, &mut bytes);
                log.append(&mut bytes, false).expect("appending");
            }
            n = due;
        }
        let many = waiting.iter().map(|(_, n)| n).sum::<u64>() >= BATCH;
        if many || waiting.first().is_some_and(|(came, _)| came.elapsed() >= SYNC) {
            log.sync().expect("syncing");
            for (came, n) in waiting.drain(..) {
                late.push((came.elapsed(), n));
            }
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
        // As the daemon does it: another thread places it.
        if signed.elapsed() > Duration::from_secs(1) && placing.is_none() {
            let mut signing = log.begin_checkpoint().expect("signing").expect("there is something new");
            placing = Some(std::thread::spawn(move || {
                let became = signing.place();
                (signing, became)
            }));
            signed = Instant::now();
        }
        if let Some(placed) = placing.take_if(|placing| placing.is_finished()) {
            let (signing, became) = placed.join().expect("it ended well");
            log.placed(signing, became).expect("placing");
        }
    }
    late.sort_unstable();
    let (all, mut seen) = (late.iter().map(|(_, n)| n).sum::<u64>(), 0);
    let p99 = late.iter().find(|(_, n)| {
        seen += n;
        seen * 100 >= all * 99
    });
    p99.map_or(0.0, |(late, _)| late.as_secs_f64() * 1000.0)
}

/// Bytes of a directory's files.
fn bytes_of(dir: &Path) -> u64 {
    let each = |entry: std::fs::DirEntry| match entry.file_type().is_ok_and(|t| t.is_dir()) {
        true => bytes_of(&entry.path()),
        false => entry.metadata().map_or(0, |m| m.len()),
    };
    std::fs::read_dir(dir).map_or(0, |all| all.flatten().map(each).sum())
}

/// Bytes of one proof in a log of [`LARGE`] receipts, and the milliseconds that it takes to check it.
fn simulated(r: &Repeated) -> (usize, f64) {
    let mut bytes = Vec::new();
    receipt(r, LARGE / 3, &mut bytes);
    let index = LARGE / 3;
    let siblings = proof::inclusion(index, LARGE).expect("it is there").len();
    let proof: Vec<merkle::Hash> = (0..siblings as u8).map(|n| merkle::leaf(&[n])).collect();
    let root = proof::root(&merkle::leaf(&bytes), index, LARGE, &proof).expect("as many as there are");
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed");
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size: LARGE, root }.sign(&pair);
    let text = Bundle { receipt: bytes, index, proof, checkpoint }.to_string();
    let trusted = Keys::from_seeds([1; 32], [2; 32]).expect("seeds are keys").trusted(ORIGIN);
    let rounds = 200;
    let began = Instant::now();
    for _ in 0..rounds {
        let bundle = Bundle::parse(text.as_bytes()).expect("a bundle");
        bundle.verify(&trusted).expect("it is proven");
    }
    (text.len(), began.elapsed().as_secs_f64() * 1000.0 / f64::from(rounds))
}

/// Most memory that this process has had, in MiB.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
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
        begin(&r, &mut log);
        let mut signed = Instant::now();
        let began = Instant::now();
        let (mut n, mut size) = (0, 0);
        while began.elapsed() < span() {
            for i in n..n + each {
                bytes.clear();
                receipt(&r, i, &mut bytes);
                size += bytes.len() as u64;
                log.append(&mut bytes, weighty).expect("appending");
            }
            n += each;
            log.sync().expect("syncing");
            if signed.elapsed() > Duration::from_secs(1) {
                log.checkpoint().expect("signing");
                signed = Instant::now();
            }
        }
        let rate = n as f64 / began.elapsed().as_secs_f64();
        log.checkpoint().expect("signing");
        (rate, path, n + 1, size)
    };
    let (log_rate, path, written, of_receipts) = run("log", false, BATCH);
    let peak = peak_mib();
    let (each_rate, ..) = run("each", true, 256);
    let began = Instant::now();
    let report = verify_dir(&path, &keys().trusted(ORIGIN), How::default());
    assert_eq!(report.receipts, written, "{report}");
    let verify_rate = written as f64 / began.elapsed().as_secs_f64();
    let (late, _) =
        LogWriter::open(&dir.path().join("late"), keys(), ORIGIN, Options::default()).expect("a log");
    let p99 = latency(&r, late, log_rate / 2.0);
    // Eight bytes before each record, and the tree's hashes; room that is reserved for more is not the receipts'.
    let disk = (of_receipts + 8 * written + bytes_of(&path.join("tile"))) as f64 / of_receipts as f64;
    let (mut log, _) = LogWriter::open(&path, keys(), ORIGIN, Options::default()).expect("a log");
    let (mut before, mut after) = (0, 0);
    while let Some(segment) = log.compressible().map(Path::to_owned) {
        before += std::fs::metadata(&segment).expect("it is there").len();
        let placed = compress(&segment).expect("compressing");
        log.place_compressed(&placed).expect("placing");
        after += std::fs::metadata(segment.with_added_extension("zst")).expect("it is there").len();
    }
    let smaller = before as f64 / (after as f64).max(1.0);
    let began = Instant::now();
    Bundle::make(path.as_path(), &keys().trusted(ORIGIN), written - 9).expect("it is there");
    let made = began.elapsed().as_secs_f64() * 1000.0;
    let (proof_bytes, proof_ms) = simulated(&r);
    if std::env::args().any(|a| a == "--json") {
        println!(
            "{}",
            serde_json::json!({
                "receipt_bytes": size, "encode_per_s": encoded, "plain_append_fdatasync_per_s": plain_rate, "log_per_s": log_rate,
                "signature_each_per_s": each_rate, "verify_per_s": verify_rate, "log_over_plain": log_rate / plain_rate,
                "log_over_signature_each": log_rate / each_rate, "p99_ms_at_half": p99, "disk_over_receipts": disk,
                "compressed": smaller, "bundle_made_ms": made, "bundle_bytes_of_1e9": proof_bytes,
                "bundle_checked_ms_of_1e9": proof_ms, "peak_mib": peak,
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
        "log / plain: {:.2}   log / one signature each: {:.1}   memory at most: {peak:.0} MiB",
        log_rate / plain_rate,
        log_rate / each_rate
    );
    let met = |is: bool| if is { "" } else { "   NOT MET" };
    println!(
        "durable within, 99 of 100, at half of that: {p99:.1} ms (limit {P99_MAX_MS}){}",
        met(p99 < P99_MAX_MS)
    );
    println!("on disk: {disk:.2} of the receipts' bytes (limit 1.2){}", met(disk <= 1.2));
    match before {
        0 => println!("compressed: no segment was full"),
        _ => println!("compressed: {smaller:.1} times smaller (limit 5){}", met(smaller >= 5.0)),
    }
    println!("a proof from this log: {made:.1} ms, most of it to decompress the receipt's segment");
    println!(
        "a proof of one in 10^9: {proof_bytes} bytes (limit 4096), checked in {proof_ms:.2} ms (limit 5){}",
        met(proof_bytes <= 4096 && proof_ms < 5.0)
    );
}
