//! Segments that are not written any more, compressed: the log says the same.

mod common;

use std::path::Path;
use std::time::SystemTime;

use aarm_receipt::log::{Retention, compress};
use aarm_receipt::read::Reader;
use aarm_receipt::verify::Verdict;
use aarm_receipt::{Bundle, LogWriter};

use common::{SEGMENT, intact, open, report, trusted, write_segments};

/// Nothing is kept but what is written.
const ALL: Retention = Retention { bytes: Some(SEGMENT), age: None, at_least: 0, below: None };

/// Compresses what there is to; how many segments.
fn compress_all(w: &mut LogWriter) -> usize {
    let mut n = 0;
    while let Some(path) = w.compressible().map(Path::to_owned) {
        let done = compress(&path).unwrap();
        assert!(w.place_compressed(&done).unwrap() > 0);
        assert!(!path.exists());
        n += 1;
    }
    n
}

fn all(dir: &Path, from: u64) -> Vec<(u64, Vec<u8>)> {
    Reader::open(dir, from).unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_log_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 4);
    let before = (all(dir.path(), 0), intact(dir.path()));
    let mut w = open(dir.path());
    assert_eq!(compress_all(&mut w), 3, "all but the one that is written");
    let after = intact(dir.path());
    assert_eq!(
        (after.receipts, after.signed, &after.kinds),
        (before.1.receipts, before.1.signed, &before.1.kinds)
    );
    assert!(all(dir.path(), 0) == before.0);
    for index in [0, 1, 700, after.receipts - 1] {
        assert!(all(dir.path(), index) == before.0[index as usize..]);
        Bundle::make(dir.path(), &trusted(), index).unwrap().verify(&trusted()).unwrap();
    }
    // It goes on, also in another process, and what is old goes.
    drop(w);
    write_segments(dir.path(), 5);
    let mut w = open(dir.path());
    assert_eq!(compress_all(&mut w), 1);
    let gone = w.expired(&ALL, SystemTime::now()).unwrap().unwrap();
    assert_eq!(gone.segments, 4, "their size is that of their files");
    assert!(gone.bytes < SEGMENT);
    intact(dir.path());
}

/// `aarm receipts` ended with "No such file" where a segment got its other name after it was listed.
#[test]
fn who_reads_does_not_notice() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 4);
    let before = all(dir.path(), 0);
    let mut w = open(dir.path());
    let reader = Reader::open(dir.path(), 0).unwrap();
    assert_eq!(compress_all(&mut w), 3);
    assert!(reader.map(Result::unwrap).collect::<Vec<_>>() == before);
    // Nor if what it begins with goes.
    let reader = Reader::open(dir.path(), 0).unwrap();
    let gone = w.expired(&ALL, SystemTime::now()).unwrap().unwrap();
    common::say(&mut w, &gone);
    w.prune(&gone).unwrap();
    let after: Vec<_> = reader.map(Result::unwrap).collect();
    assert!(gone.before > 0 && after[..after.len() - 1] == before[gone.before as usize..]);
    // In the middle there is nothing to go on with, which is said.
    drop(w);
    write_segments(dir.path(), 3);
    let mut reader = Reader::open(dir.path(), 0).unwrap();
    reader.next().unwrap().unwrap();
    for path in common::segment_files(dir.path()) {
        std::fs::remove_file(path).unwrap();
    }
    assert!(reader.any(|item| item.is_err()));
}

#[test]
fn what_a_crash_leaves_of_compressing_is_tidied_up() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 3);
    let w = open(dir.path());
    let first = w.compressible().unwrap().to_owned();
    compress(&first).unwrap();
    // Half done, or placed while the other was not taken away yet.
    let temporary = dir.path().join("compressing.new");
    let placed = first.with_extension("aarm.zst");
    std::fs::copy(&temporary, &placed).unwrap();
    intact(dir.path());
    drop(w);
    let mut w = open(dir.path());
    assert!(first.exists() && !placed.exists() && !temporary.exists());
    assert_eq!(compress_all(&mut w), 2);
    intact(dir.path());
    // One that was pruned while it was being compressed does not come back.
    drop(w);
    write_segments(dir.path(), 4);
    let mut w = open(dir.path());
    let path = w.compressible().unwrap().to_owned();
    let done = compress(&path).unwrap();
    let gone = w.expired(&ALL, SystemTime::now()).unwrap().unwrap();
    w.prune(&gone).unwrap();
    assert_eq!(w.place_compressed(&done).unwrap(), 0);
    assert!(!path.exists() && !path.with_extension("aarm.zst").exists() && !temporary.exists());
}

#[test]
fn a_compressed_segment_is_believed_as_little_as_another() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 3);
    compress_all(&mut open(dir.path()));
    let path = dir.path().join("segment-0000000000.aarm.zst");
    let whole = std::fs::read(&path).unwrap();
    let receipts = all(dir.path(), 0);
    let step = whole.len() / 40 + 1;
    for at in (0..whole.len()).step_by(step).chain(0..12) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        let found = report(dir.path());
        // A bit of the container may say nothing; then the receipts are the same.
        assert!(
            found.verdict == Verdict::Tampered
                || found.verdict == Verdict::Intact && all(dir.path(), 0) == receipts,
            "byte {at}: {found}"
        );
        std::fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(report(dir.path()).verdict, Verdict::Tampered, "cut at {at}");
    }
    // What follows the frame, and another segment in its place.
    std::fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    assert_eq!(report(dir.path()).verdict, Verdict::Tampered);
    std::fs::copy(dir.path().join("segment-0000000001.aarm.zst"), &path).unwrap();
    assert_eq!(report(dir.path()).verdict, Verdict::Tampered);
    std::fs::write(&path, &whole).unwrap();
    intact(dir.path());
}
