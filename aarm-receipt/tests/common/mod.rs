//! What several tests do with a log.

// Each test takes what it needs.
#![allow(dead_code)]

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use aarm_receipt::canonical::Encoded;
use aarm_receipt::log::Expired;
use aarm_receipt::receipt::{Identity, PolicyRef, Seq, SessionRef, check};
use aarm_receipt::verify::{How, Report, Verdict, verify_dir};
use aarm_receipt::{Body, Common, Keys, LogWriter, Options, TrustedKeys, encode};

pub const ORIGIN: &str = "host.test/log";
pub const SEGMENT: u64 = 1 << 20;

pub fn keys() -> Keys {
    Keys::from_seeds([1; 32], [2; 32]).unwrap()
}

pub fn trusted() -> TrustedKeys {
    keys().trusted(ORIGIN)
}

pub fn open(dir: &Path) -> LogWriter {
    LogWriter::open(dir, keys(), ORIGIN, Options { segment_bytes: SEGMENT }).unwrap().0
}

pub fn receipt(n: u64, body: &Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let seq = Some(Seq { cpu: 0, n });
    let common = Common { time_ns: n, boot_ns: n, host: &Encoded::text(b"h"), session: None, seq };
    encode(&common, body, &mut out);
    out
}

/// What has no signature of its own, and a text.
pub fn light(n: u64, text: &str) -> Body<'_> {
    Body::Name { name: text.as_bytes(), addresses: &[9; 16], resolver: [127, 0, 0, 1].into(), seconds: n }
}

/// Goes on with a log until it has so many receipts, of which one in `weighs` has a signature of its own.
pub fn write(dir: &Path, size: u64, text: &str, weighs: u64) {
    let mut w = open(dir);
    for n in w.size()..size {
        let is = n.is_multiple_of(weighs);
        let body = if is { Body::Stop { version: text } } else { light(n, text) };
        w.append(&mut receipt(n, &body), is).unwrap();
    }
    w.checkpoint().unwrap();
}

/// Goes on with a log until it has so many segments.
pub fn write_segments(dir: &Path, segments: usize) {
    let mut w = open(dir);
    let text = "x".repeat(900);
    while segment_files(dir).len() < segments {
        for _ in 0..256 {
            let n = w.size();
            w.append(&mut receipt(n, &light(n, &text)), false).unwrap();
        }
        w.checkpoint().unwrap();
    }
}

pub fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("segment-"))
        .collect();
    all.sort();
    all
}

pub fn report(dir: &Path) -> Report {
    verify_dir(dir, &trusted(), How::default())
}

pub fn intact(dir: &Path) -> Report {
    let report = report(dir);
    assert_eq!(report.verdict, Verdict::Intact, "{report}");
    report
}

/// Says that it goes, as whoever prunes must.
pub fn say(w: &mut LogWriter, gone: &Expired) {
    let Expired { before, segments, bytes, why, .. } = *gone;
    let body = Body::Prune { before, segments, bytes, why };
    w.append(&mut receipt(w.size(), &body), true).unwrap();
    w.checkpoint().unwrap();
}

/// What a session is called for ever.
pub fn uuid(session: u64) -> String {
    format!("01a227b9-e7ab-750a-93be-{session:012x}")
}

/// A receipt as the daemon encodes it.
pub fn encoded(session: Option<u64>, body: &Body<'_>) -> Vec<u8> {
    let session = session.map(|id| Cow::Owned(SessionRef { id, uuid: &uuid(id) }.encoded()));
    let common = Common { time_ns: 1, boot_ns: 1, host: &Encoded::text(b"h"), session, seq: None };
    let mut out = Vec::new();
    encode(&common, body, &mut out);
    out
}

pub fn append(w: &mut LogWriter, session: Option<u64>, body: &Body<'_>) {
    let mut bytes = encoded(session, body);
    let weighs = check(&bytes).unwrap().weighs;
    w.append(&mut bytes, weighs).unwrap();
}

pub fn begin(w: &mut LogWriter, session: u64) {
    let policy = PolicyRef { name: "p", version: "1", hash: "00" };
    let identity = Identity::default();
    append(
        w,
        Some(session),
        &Body::SessionOpen { how: "run", program: b"", intent: "", policy, audit: false, identity },
    );
}

pub fn close(w: &mut LogWriter, session: u64) {
    append(w, Some(session), &Body::SessionClose { allowed: 1, denied: 0, audited: 0, refused: 0 });
}

pub fn start(w: &mut LogWriter, adopted: bool) {
    append(w, None, &Body::Start { version: "1", kernel: "k", adopted });
}
