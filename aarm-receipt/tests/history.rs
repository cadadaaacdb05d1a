//! What who is given a session's history relies on: it is all that the session did, or it is not believed.

mod common;

use std::path::Path;

use aarm_receipt::history::{self, History, HistoryError, WriteError};
use aarm_receipt::log::Retention;
use aarm_receipt::{Keys, LogWriter};

use common::{ORIGIN, SEGMENT, append, begin, close, light, open, segment_files, start, trusted, uuid};

fn write(log: &Path, session: u64) -> Vec<u8> {
    let mut out = Vec::new();
    history::write(log, &trusted(), &uuid(session), &mut out).unwrap();
    out
}

fn verify(bytes: &[u8]) -> Result<History, HistoryError> {
    history::verify(bytes, &trusted())
}

/// Whether it is believed to be all that a session did.
fn is_whole(bytes: &[u8]) -> bool {
    verify(bytes).is_ok_and(|found| found.begins && found.ends)
}

/// Two sessions that take turns, and end.
fn two(w: &mut LogWriter, texts: &[&str]) {
    start(w, false);
    begin(w, 1);
    begin(w, 2);
    for (n, text) in texts.iter().enumerate() {
        append(w, Some(1), &light(n as u64, text));
        append(w, Some(2), &light(n as u64, text));
        append(w, None, &light(n as u64, text));
    }
    close(w, 1);
    // Told after its end.
    append(w, Some(1), &light(9, "late"));
    close(w, 2);
    w.checkpoint().unwrap();
}

#[test]
fn it_is_all_that_the_session_did() {
    let dir = tempfile::tempdir().unwrap();
    two(&mut open(dir.path()), &["a", "b", "c"]);
    let bytes = write(dir.path(), 1);
    assert!(history::is_history(&bytes));
    let found = verify(&bytes).unwrap();
    assert_eq!((found.session, found.begins, found.ends), (1, true, true));
    let kinds: Vec<_> = found.kinds.into_iter().collect();
    assert_eq!(kinds, [("name", 3), ("session_close", 1), ("session_open", 1)]);
    let none = history::write(dir.path(), &trusted(), &uuid(3), &mut Vec::new());
    assert!(matches!(none, Err(WriteError::None(_))));
    // What is not signed yet is not in it.
    let mut w = open(dir.path());
    begin(&mut w, 4);
    w.sync().unwrap();
    let none = history::write(dir.path(), &trusted(), &uuid(4), &mut Vec::new());
    assert!(matches!(none, Err(WriteError::None(_))));
    // A session that has said one thing is proven by that.
    w.checkpoint().unwrap();
    let one = write(dir.path(), 4);
    assert!(!history::is_history(&one));
    let found = verify(&one).unwrap();
    assert_eq!((found.session, found.begins, found.ends), (4, true, false));
}

#[test]
fn whatever_is_changed_left_out_or_added_it_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    two(&mut open(dir.path()), &["a", "b"]);
    let (bytes, other) = (write(dir.path(), 1), write(dir.path(), 2));
    assert!(is_whole(&bytes) && is_whole(&other));
    for at in 0..bytes.len() {
        assert!(!is_whole(&bytes[..at]), "cut at {at}");
        for bit in [0, 1, 5] {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert!(!is_whole(&changed), "byte {at}, bit {bit}");
        }
    }
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    let others: Vec<&[u8]> = other.split_inclusive(|b| *b == b'\n').collect();
    let receipts = lines.iter().filter(|line| line.starts_with(b"{")).count();
    assert_eq!(receipts, 3, "all but the last");
    for i in 0..receipts {
        let mut less = lines.clone();
        less.remove(i);
        assert!(!is_whole(&less.concat()), "without {i}");
        let mut twice = lines.clone();
        twice.insert(i, lines[i]);
        assert!(!is_whole(&twice.concat()), "{i} twice");
        let mut strange = lines.clone();
        strange[i] = others[i];
        assert!(!is_whole(&strange.concat()), "{i} of another session");
        let mut swapped = lines.clone();
        swapped.swap(i, (i + 1) % receipts);
        assert!(!is_whole(&swapped.concat()), "{i} and the next in the other order");
    }
    // The last of one, after all of the other.
    assert!(!is_whole(&[&others[..receipts], &lines[receipts..]].concat().concat()));
    let strangers = Keys::from_seeds([8; 32], [9; 32]).unwrap().trusted(ORIGIN);
    assert!(history::verify(&bytes[..], &strangers).is_err());
    for hostile in [&b""[..], b"{", b"{}\n", b"\n", &vec![b'{'; 1 << 20], &vec![b'x'; 1 << 20]] {
        assert!(verify(hostile).is_err());
    }
}

#[test]
fn what_is_missing_at_either_end_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = open(dir.path());
    start(&mut w, false);
    begin(&mut w, 1);
    append(&mut w, Some(1), &light(1, "a"));
    w.checkpoint().unwrap();
    let found = verify(&write(dir.path(), 1)).unwrap();
    assert_eq!((found.begins, found.ends), (true, false));
    let text = "x".repeat(900);
    while segment_files(dir.path()).len() < 4 {
        (0..100).for_each(|n| append(&mut w, Some(1), &light(n, &text)));
        w.checkpoint().unwrap();
    }
    close(&mut w, 1);
    w.checkpoint().unwrap();
    assert!(is_whole(&write(dir.path(), 1)));
    let keep = Retention { bytes: Some(2 * SEGMENT), ..Retention::default() };
    let gone = w.expired(&keep, std::time::SystemTime::now()).unwrap().unwrap();
    common::say(&mut w, &gone);
    w.prune(&gone).unwrap();
    let found = verify(&write(dir.path(), 1)).unwrap();
    assert_eq!((found.begins, found.ends), (false, true));
    assert!(found.kinds["name"] > 100);
}
