//! What who reads a session's history relies on: each receipt names the one before, whatever happened to the writer in between.

mod common;

use std::collections::HashMap;
use std::path::Path;

use aarm_receipt::chain::{NONE, UNLINKED};
use aarm_receipt::log::Retention;
use aarm_receipt::read::Reader;
use aarm_receipt::receipt::{Facts, check};
use aarm_receipt::verify::Verdict;
use aarm_receipt::{LogWriter, merkle};

use common::{SEGMENT, append, begin, close, intact, light, open, report, segment_files, start};

const SESSIONS: u64 = 5;

/// Sessions that take turns, and receipts of none in between.
fn go_on(w: &mut LogWriter, rounds: u64, text: &str) {
    for n in 0..rounds {
        for session in 0..SESSIONS {
            append(w, Some(session), &light(n, text));
        }
        append(w, None, &light(n, text));
    }
    w.checkpoint().unwrap();
}

/// All that is known of each receipt, and its leaf hash.
fn read(dir: &Path) -> Vec<(Facts, merkle::Hash)> {
    Reader::open(dir, 0)
        .unwrap()
        .map(|item| {
            let bytes = item.unwrap().1;
            (check(&bytes).unwrap(), merkle::leaf(&bytes))
        })
        .collect()
}

/// Fails unless each receipt of a session names the one before it, from its beginning on.
fn whole(dir: &Path) -> usize {
    let mut last: HashMap<u64, merkle::Hash> = HashMap::new();
    let mut named = 0;
    for (facts, leaf) in read(dir) {
        let Some(session) = facts.session else { continue };
        assert_eq!(facts.prev, last.get(&session).copied().unwrap_or(NONE), "{}", facts.kind());
        named += usize::from(facts.prev != NONE);
        if facts.kind() == "session_close" {
            last.remove(&session);
        } else {
            last.insert(session, leaf);
        }
    }
    intact(dir);
    named
}

#[test]
fn each_names_the_one_before_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = open(dir.path());
    start(&mut w, false);
    (0..SESSIONS).for_each(|session| begin(&mut w, session));
    go_on(&mut w, 10, "x");
    let kept = std::fs::read(dir.path().join("chains")).unwrap();
    // Appended, and not under a checkpoint.
    append(&mut w, Some(1), &light(1, "late"));
    w.sync().unwrap();
    drop(w);
    let mut expected = SESSIONS as usize * 10 + 1;
    assert_eq!(whole(dir.path()), expected);
    let go_on_from = |what: &str, chains: Option<&[u8]>, expected: usize| {
        let path = dir.path().join("chains");
        match chains {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => _ = std::fs::remove_file(&path),
        }
        let mut w = open(dir.path());
        start(&mut w, true);
        go_on(&mut w, 2, "y");
        drop(w);
        assert_eq!(whole(dir.path()), expected, "{what}");
    };
    let two_rounds = 2 * SESSIONS as usize;
    let kept_last = std::fs::read(dir.path().join("chains")).unwrap();
    for (what, chains) in [
        ("as it was kept", Some(&kept_last[..])),
        ("kept long ago", Some(&kept[..])),
        ("not there", None),
        ("damaged", Some(b"aarm-chains-v1\n0\n00000000\n")),
        ("of another log", Some(b"nothing")),
    ] {
        expected += two_rounds;
        go_on_from(what, chains, expected);
    }
}

#[test]
fn a_session_that_ended_is_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = open(dir.path());
    start(&mut w, false);
    (0..SESSIONS).for_each(|session| begin(&mut w, session));
    go_on(&mut w, 1, "x");
    close(&mut w, 2);
    // Told after its end: it names nothing, and nothing names it.
    append(&mut w, Some(2), &light(1, "late"));
    append(&mut w, Some(2), &light(1, "late"));
    // The same number again, of a kernel that counts anew.
    start(&mut w, false);
    begin(&mut w, 2);
    append(&mut w, Some(2), &light(1, "x"));
    w.checkpoint().unwrap();
    drop(w);
    intact(dir.path());
    let all: Vec<_> = read(dir.path()).into_iter().filter(|(facts, _)| facts.session == Some(2)).collect();
    let names: Vec<bool> = all.iter().map(|(facts, _)| facts.prev != NONE).collect();
    assert_eq!(names, [false, true, true, false, false, false, true]);
    assert_eq!(all[6].0.prev, all[5].1);
}

#[test]
fn a_history_that_leaves_something_out_is_found_although_it_is_signed() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = open(dir.path());
    start(&mut w, false);
    begin(&mut w, 1);
    append(&mut w, Some(1), &light(1, "a"));
    append(&mut w, Some(1), &light(2, "b"));
    w.checkpoint().unwrap();
    drop(w);
    // A daemon that is made to forget: what it writes is genuine, and does not name what it should.
    let leaf = read(dir.path())[2].1;
    for (what, lines) in [("forgets the last", Some(leaf)), ("forgets all", None)] {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.path().is_file()) {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let lines = lines.map_or_else(String::new, |leaf| format!("0000000000000001 {}\n", base64(&leaf)));
        let body = format!("aarm-chains-v1\n4\n{lines}");
        let crc = crc32c::crc32c(body.as_bytes());
        std::fs::write(copy.path().join("chains"), format!("{body}{crc:08x}\n")).unwrap();
        let mut w = open(copy.path());
        append(&mut w, Some(1), &light(3, "c"));
        w.checkpoint().unwrap();
        drop(w);
        let r = report(copy.path());
        assert!(r.verdict == Verdict::Tampered && r.problems[0].contains("does not name"), "{what}: {r}");
    }
}

fn base64(hash: &merkle::Hash) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(hash)
}

#[test]
fn what_was_pruned_is_missed_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = open(dir.path());
    start(&mut w, false);
    (0..SESSIONS).for_each(|session| begin(&mut w, session));
    let text = "x".repeat(900);
    while segment_files(dir.path()).len() < 4 {
        go_on(&mut w, 50, &text);
    }
    let keep = Retention { bytes: Some(2 * SEGMENT), ..Retention::default() };
    let gone = w.expired(&keep, std::time::SystemTime::now()).unwrap().unwrap();
    common::say(&mut w, &gone);
    w.prune(&gone).unwrap();
    drop(w);
    let r = intact(dir.path());
    assert!(r.pruned > 0);
    // Nor by the next writer, whether or not it was kept what there was.
    std::fs::remove_file(dir.path().join("chains")).unwrap();
    let mut w = open(dir.path());
    go_on(&mut w, 2, "y");
    close(&mut w, 3);
    w.checkpoint().unwrap();
    drop(w);
    intact(dir.path());
    let unnamed =
        read(dir.path()).iter().filter(|(facts, _)| facts.session.is_some() && facts.prev == NONE).count();
    assert_eq!(unnamed, 0);
    assert_eq!(UNLINKED, base64(&NONE));
}
