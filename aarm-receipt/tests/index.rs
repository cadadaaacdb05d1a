//! Who looks for something finds all of it, and reads little else.

mod common;

use std::borrow::Cow;
use std::path::Path;

use aarm_receipt::canonical::Encoded;
use aarm_receipt::index::{self, Index, Wanted};
use aarm_receipt::log::Retention;
use aarm_receipt::read::Reader;
use aarm_receipt::receipt::{Action, Decided, FileId, Identity, PolicyRef, Seen, SessionRef, time_text};
use aarm_receipt::verify::{How, Report, Verdict, verify_dir};
use aarm_receipt::{Body, Common, LogWriter, encode, segment};
use serde_json::Value;

use common::{SEGMENT, open, segment_files, trusted};

const YEAR_2026: u64 = 1_795_514_400_000_000_000;

/// An action that has everything that is looked for.
fn action(w: &mut LogWriter, n: u64, session: u64, path: &str, rule: Option<&str>, human: &str) {
    let reason = "x".repeat(700);
    let policy = PolicyRef { name: "p", version: "1", hash: "00" }.encoded();
    let human = Encoded::text(human.as_bytes());
    let uuid = common::uuid(session);
    let session = Some(Cow::Owned(SessionRef { id: session, uuid: &uuid }.encoded()));
    let common = Common {
        time_ns: YEAR_2026 + n * 1_000_000,
        boot_ns: n,
        host: &Encoded::text(b"h"),
        session,
        seq: None,
    };
    let decision = Decided {
        hold: 0,
        redirect: None,
        result: if rule.is_some() { "DENY" } else { "ALLOW" },
        audit: false,
        cause: if rule.is_some() { "rule" } else { "default" },
        facet: None,
        rule,
        reason: Some(&reason),
        policy: &policy,
        took_ns: 1,
    };
    let identity = Identity { comm: b"c", human: Some(&human), pid: 7, tid: 7, ..Identity::default() };
    let body = Body::Action(Action {
        tool: "read",
        operation: "open_read",
        path: path.as_bytes(),
        path2: b"",
        target: b"",
        argv: b"",
        network: None,
        object: FileId { dev: 1, ino: 1, mode: 0o100644 },
        arg: 0,
        flags: &[],
        identity,
        decision,
        context: Seen::default(),
    });
    let mut bytes = Vec::new();
    encode(&common, &body, &mut bytes);
    w.append(&mut bytes, rule.is_some()).unwrap();
}

/// A log of several segments, each of other sessions and paths; the last one is still written.
fn log(dir: &Path) -> LogWriter {
    let mut w = open(dir);
    let mut n = 0;
    while segment_files(dir).len() < 5 {
        let segment = segment_files(dir).len() as u64;
        for i in 0..200 {
            let path = format!("/home/{segment}/file%20 {}", i % 7);
            let rule = (segment == 2 && i == 3).then_some("no-such");
            let human = if segment == 3 { "mia" } else { "ben" };
            action(&mut w, n, segment, &path, rule, human);
            n += 1;
        }
        w.checkpoint().unwrap();
    }
    w
}

fn index_all(w: &mut LogWriter) -> usize {
    let mut n = 0;
    while let Some((number, path)) = w.unindexed().map(|(number, path)| (number, path.to_owned())) {
        index::make(w.dir(), number, &path).unwrap();
        w.indexed(number);
        n += 1;
    }
    n
}

fn found(dir: &Path, wanted: &Wanted) -> Vec<u64> {
    Reader::select(dir, wanted).unwrap().map(|item| item.unwrap().0).collect()
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Something to look for, and whether a receipt has it.
type Question = (Wanted, fn(&Value) -> bool);

fn questions() -> Vec<Question> {
    vec![
        (Wanted::default(), |_| true),
        (Wanted { session: text("0000000000000002"), ..Wanted::default() }, |r| {
            r["session"]["id"] == "0000000000000002"
        }),
        (Wanted { session: Some(common::uuid(3)), ..Wanted::default() }, |r| {
            r["session"]["uuid"] == common::uuid(3)
        }),
        (Wanted { rule: text("no-such"), ..Wanted::default() }, |r| r["decision"]["rule"] == "no-such"),
        (Wanted { decision: text("DENY"), ..Wanted::default() }, |r| r["decision"]["result"] == "DENY"),
        (Wanted { human: text("mia"), ..Wanted::default() }, |r| r["identity"]["human"] == "mia"),
        (Wanted { kind: text("start"), ..Wanted::default() }, |r| r["kind"] == "start"),
        (Wanted { operation: text("open_read"), tool: text("read"), ..Wanted::default() }, |_| true),
        (Wanted { path: text("/home/1"), ..Wanted::default() }, |r| {
            r["action"]["path"].as_str().unwrap().starts_with("/home/1/")
        }),
        (Wanted { path: text("/home/4/file%2520 3"), ..Wanted::default() }, |r| {
            r["action"]["path"] == "/home/4/file%2520 3"
        }),
        (Wanted { path: text("/home/4/file%2520"), ..Wanted::default() }, |_| false),
        (Wanted { path: text("/"), ..Wanted::default() }, |_| true),
        (Wanted { since: Some(time_text(YEAR_2026 + 2_000_000_000)), ..Wanted::default() }, |r| {
            r["time"].as_str().unwrap() >= time_text(YEAR_2026 + 2_000_000_000).as_str()
        }),
        (Wanted { until: Some(time_text(YEAR_2026 + 100_000_000)), ..Wanted::default() }, |r| {
            r["time"].as_str().unwrap() < time_text(YEAR_2026 + 100_000_000).as_str()
        }),
        (Wanted { session: text("0000000000000002"), human: text("mia"), ..Wanted::default() }, |_| false),
    ]
}

#[test]
fn all_is_found_that_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = log(dir.path());
    assert_eq!(
        found(dir.path(), &Wanted { human: text("mia"), ..Wanted::default() }).len() as u64,
        w.size(),
        "without an index all is read"
    );
    assert_eq!(index_all(&mut w), 4);
    let all: Vec<(u64, Value)> = Reader::open(dir.path(), 0)
        .unwrap()
        .map(|item| item.map(|(i, b)| (i, serde_json::from_slice(&b).unwrap())).unwrap())
        .collect();
    let last = segment::first(dir.path(), &segment::list(dir.path()).unwrap().last().unwrap().1).unwrap();
    for (wanted, is) in questions() {
        let read = found(dir.path(), &wanted);
        let expected: Vec<u64> = all.iter().filter(|(_, r)| is(r)).map(|(i, _)| *i).collect();
        assert!(expected.iter().all(|i| read.contains(i)), "{wanted:?}");
        // Of what no segment has, only the one without an index is read. (Two things may be in one, and not in one receipt.)
        if expected.is_empty() && wanted.session.is_none() {
            assert!(read.iter().all(|i| *i >= last), "{wanted:?}");
        }
    }
}

#[test]
fn a_segment_that_has_it_not_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = log(dir.path());
    index_all(&mut w);
    let of_three = Wanted { session: text("0000000000000003"), ..Wanted::default() };
    let before = found(dir.path(), &of_three);
    // All but its header.
    let second = &segment_files(dir.path())[1];
    let mut bytes = std::fs::read(second).unwrap();
    bytes[64..].fill(0xff);
    std::fs::write(second, bytes).unwrap();
    assert_eq!(found(dir.path(), &of_three), before);
    assert!(Reader::open(dir.path(), 0).unwrap().any(|item| item.is_err()));
}

fn report(dir: &Path, index: bool) -> Report {
    verify_dir(dir, &trusted(), How { index, ..How::default() })
}

#[test]
fn an_index_that_is_not_what_the_receipts_say_is_found_out_and_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = log(dir.path());
    index_all(&mut w);
    assert_eq!(report(dir.path(), true).verdict, Verdict::Intact);
    // One that hides: that of another segment, and one that says less.
    let (one, two) = (dir.path().join("index/0000000001.idx"), dir.path().join("index/0000000002.idx"));
    let whole = std::fs::read(&two).unwrap();
    std::fs::copy(&one, &two).unwrap();
    let of_three = Wanted { session: text("0000000000000003"), ..Wanted::default() };
    assert!(!found(dir.path(), &of_three).is_empty(), "it is another segment's");
    assert_eq!(report(dir.path(), true).verdict, Verdict::Tampered);
    assert_eq!(report(dir.path(), false).verdict, Verdict::Intact, "nothing is proven by it");
    let first = segment::first(dir.path(), &segment::list(dir.path()).unwrap()[2].1).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&two, &changed).unwrap();
        assert!(Index::read(dir.path(), 2, first).is_none(), "byte {at}");
        if at % 97 == 0 {
            assert_eq!(report(dir.path(), true).verdict, Verdict::Tampered, "byte {at}");
        }
        if at > 140 {
            break;
        }
    }
    // With the right sum, and so as an attacker would: whatever it says, reading ends.
    for at in (8..whole.len() - 4).step_by(11) {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        let end = changed.len() - 4;
        let crc = crc32c::crc32c(&changed[..end]).to_le_bytes();
        changed[end..].copy_from_slice(&crc);
        std::fs::write(&two, &changed).unwrap();
        let first = u64::from_le_bytes(changed[8..16].try_into().unwrap());
        if let Some(found) = Index::read(dir.path(), 2, first) {
            questions().iter().for_each(|(wanted, _)| _ = found.may_have(wanted));
        }
    }
    std::fs::write(&two, [&whole[..], &whole[..]].concat()).unwrap();
    assert_eq!(report(dir.path(), true).verdict, Verdict::Tampered);
    let mut told = Vec::new();
    assert_eq!(index::rebuild(dir.path(), |done, all| told.push((done, all))).unwrap(), 4);
    assert_eq!((told.len(), told[4]), (5, (4, 4)));
    assert_eq!(std::fs::read(&two).unwrap(), whole);
    assert_eq!(report(dir.path(), true).verdict, Verdict::Intact);
}

#[test]
fn what_is_pruned_has_no_index_any_more_and_the_next_writer_knows_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = log(dir.path());
    let (number, path) = w.unindexed().map(|(number, path)| (number, path.to_owned())).unwrap();
    index::make(dir.path(), number, &path).unwrap();
    w.indexed(number);
    drop(w);
    let mut w = open(dir.path());
    assert_eq!(w.unindexed().map(|(number, _)| number), Some(1));
    let keep = Retention { bytes: Some(3 * SEGMENT), ..Retention::default() };
    let gone = w.expired(&keep, std::time::SystemTime::now()).unwrap().unwrap();
    common::say(&mut w, &gone);
    w.prune(&gone).unwrap();
    assert!(!index::is_there(dir.path(), 0));
    // What was made of one that went meanwhile goes as well.
    std::fs::write(dir.path().join("index/0000000001.idx"), "x").unwrap();
    w.indexed(1);
    assert!(!index::is_there(dir.path(), 1));
    assert_eq!(w.unindexed().map(|(number, _)| number), Some(gone.segments));
}
