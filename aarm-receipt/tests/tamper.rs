//! Whatever is done to a small log, it is found out, with the right verdict. (Single bytes: `log.rs` and `proof.rs`.)

mod common;

use std::path::{Path, PathBuf};

use aarm_receipt::Keys;
use aarm_receipt::verify::{How, Verdict, verify_dir};

use common::{ORIGIN, keys, report, trusted};

const SIZE: u64 = 12;

/// Goes on with a log until it has so many receipts, of which some have a signature of their own.
fn write(dir: &Path, size: u64, text: &str) {
    common::write(dir, size, text, 3);
}

fn verdict(dir: &Path) -> Verdict {
    report(dir).verdict
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("segment-{number:010}.aarm"))
}

/// The header, each record, and the zeros after them.
fn records(bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>, Vec<u8>) {
    let mut at = 64;
    let mut all = Vec::new();
    loop {
        let word = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        if word == 0 {
            return (bytes[..64].to_vec(), all, bytes[at..].to_vec());
        }
        let end = at + 8 + (word & 0xff_ffff) as usize;
        all.push(bytes[at..end].to_vec());
        at = end;
    }
}

fn put(path: &Path, (head, records, rest): &(Vec<u8>, Vec<Vec<u8>>, Vec<u8>)) {
    std::fs::write(path, [head.clone(), records.concat(), rest.clone()].concat()).unwrap();
}

#[test]
fn records_that_are_missing_repeated_or_in_another_order() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), SIZE, "1");
    let path = segment(dir.path(), 0);
    let whole = records(&std::fs::read(&path).unwrap());
    let n = whole.1.len();
    assert_eq!(n as u64, SIZE + SIZE.div_ceil(3), "receipts, and signatures of some");
    for i in 0..n {
        let mut less = whole.clone();
        less.1.remove(i);
        put(&path, &less);
        // Also a signature: the tree proves the receipt without it, but it must be there.
        assert_eq!(verdict(dir.path()), Verdict::Tampered, "without {i}");
        let mut more = whole.clone();
        more.1.insert(i, whole.1[i].clone());
        put(&path, &more);
        assert_eq!(verdict(dir.path()), Verdict::Tampered, "{i} twice");
        for j in i + 1..n {
            let mut other = whole.clone();
            other.1.swap(i, j);
            put(&path, &other);
            assert_eq!(verdict(dir.path()), Verdict::Tampered, "{i} and {j} exchanged");
        }
    }
    put(&path, &whole);
    assert_eq!(verdict(dir.path()), Verdict::Intact);
}

#[test]
fn a_segment_cut_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), SIZE, "1");
    let path = segment(dir.path(), 0);
    let whole = std::fs::read(&path).unwrap();
    let (head, all, _) = records(&whole);
    let end = head.len() + all.concat().len();
    for cut in 0..end {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(verdict(dir.path()), Verdict::Tampered, "cut at {cut}");
    }
    std::fs::write(&path, &whole[..end]).unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Intact, "nothing but reserved room is missing");
}

#[test]
fn what_is_another_logs() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(one.path(), SIZE, "1");
    write(two.path(), SIZE, "2");
    for name in ["segment-0000000000.aarm", "checkpoint"] {
        let whole = std::fs::read(one.path().join(name)).unwrap();
        std::fs::copy(two.path().join(name), one.path().join(name)).unwrap();
        assert_eq!(verdict(one.path()), Verdict::Tampered, "{name}");
        std::fs::write(one.path().join(name), whole).unwrap();
    }
    assert_eq!(verdict(one.path()), Verdict::Intact);
    // The end of one after the beginning of the other.
    let (path, other) = (segment(one.path(), 0), segment(two.path(), 0));
    let mut spliced = records(&std::fs::read(&path).unwrap());
    let end = records(&std::fs::read(other).unwrap()).1.split_off(8);
    spliced.1.truncate(8);
    spliced.1.extend(end);
    put(&path, &spliced);
    assert_eq!(verdict(one.path()), Verdict::Tampered);
}

#[test]
fn keys_that_are_others() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), SIZE, "1");
    let mixed = |log: u8, receipt: u8| Keys::from_seeds([log; 32], [receipt; 32]).unwrap().trusted(ORIGIN);
    for other in [mixed(3, 2), mixed(1, 4), mixed(2, 1)] {
        let found = verify_dir(dir.path(), &other, How::default());
        assert_eq!(found.verdict, Verdict::Tampered, "{found}");
        std::fs::write(dir.path().join("log.pub"), other.to_string()).unwrap();
        assert_eq!(verify_dir(dir.path(), &other, How::default()).verdict, Verdict::Tampered);
        assert_eq!(verdict(dir.path()), Verdict::Tampered);
        std::fs::write(dir.path().join("log.pub"), trusted().to_string()).unwrap();
    }
    let name = keys().trusted("other.test/log");
    assert_eq!(verify_dir(dir.path(), &name, How::default()).verdict, Verdict::Tampered);
    assert_eq!(verdict(dir.path()), Verdict::Intact);
}

#[test]
fn tiles_that_are_exchanged_or_too_long() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 600, "1");
    let at = |name: &str| dir.path().join("tile").join(name);
    let swap = || {
        std::fs::rename(at("0/000"), at("0/x")).unwrap();
        std::fs::rename(at("0/001"), at("0/000")).unwrap();
        std::fs::rename(at("0/x"), at("0/001")).unwrap();
    };
    swap();
    assert_eq!(verdict(dir.path()), Verdict::Tampered);
    swap();
    for name in ["0/001", "0/002.p/88", "1/000.p/2"] {
        let whole = std::fs::read(at(name)).unwrap();
        std::fs::write(at(name), [&whole[..], b"x"].concat()).unwrap();
        assert_eq!(verdict(dir.path()), Verdict::Tampered, "{name}");
        // Cut, it says no more than if it were not there.
        for length in [0, 1, whole.len() - 1] {
            std::fs::write(at(name), &whole[..length]).unwrap();
            let missing = u64::from(whole.len() == 8192);
            let cut = report(dir.path());
            assert_eq!(
                (cut.verdict, cut.tiles_missing),
                (Verdict::Intact, missing),
                "{name} cut to {length}"
            );
        }
        std::fs::write(at(name), whole).unwrap();
    }
    assert_eq!(verdict(dir.path()), Verdict::Intact);
}

#[test]
fn an_older_checkpoint_leaves_receipts_unsigned_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), SIZE, "1");
    let older = std::fs::read(dir.path().join("checkpoint")).unwrap();
    write(dir.path(), 2 * SIZE, "1");
    let seen = trusted().open(&std::fs::read(dir.path().join("checkpoint")).unwrap()).unwrap();
    std::fs::write(dir.path().join("checkpoint"), older).unwrap();
    let replayed = report(dir.path());
    assert_eq!((replayed.verdict, replayed.signed, replayed.unsigned), (Verdict::Intact, SIZE, SIZE));
    // Who saw the newer one holds the unsigned receipts against it.
    let how = How { seen: Some(&seen), ..How::default() };
    assert_eq!(verify_dir(dir.path(), &trusted(), how).seen, Some(2 * SIZE));
    let path = segment(dir.path(), 0);
    let mut other = records(&std::fs::read(&path).unwrap());
    let last = other.1.len() - 1;
    other.1.remove(last);
    put(&path, &other);
    assert_eq!(verify_dir(dir.path(), &trusted(), how).verdict, Verdict::Tampered);
}

#[test]
fn segments_that_are_exchanged_or_missing() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(900);
    write(dir.path(), 3300, &long);
    let at = |n| segment(dir.path(), n);
    assert!(at(2).exists());
    let swap = |a, b| {
        std::fs::rename(at(a), at(99)).unwrap();
        std::fs::rename(at(b), at(a)).unwrap();
        std::fs::rename(at(99), at(b)).unwrap();
    };
    assert_eq!(verdict(dir.path()), Verdict::Intact);
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        swap(a, b);
        assert_eq!(verdict(dir.path()), Verdict::Tampered, "{a} and {b}");
        swap(a, b);
    }
    for n in 0..3 {
        let whole = std::fs::read(at(n)).unwrap();
        std::fs::remove_file(at(n)).unwrap();
        assert_eq!(verdict(dir.path()), Verdict::Tampered, "without {n}");
        std::fs::write(at(n), whole).unwrap();
    }
    assert_eq!(verdict(dir.path()), Verdict::Intact);
}
