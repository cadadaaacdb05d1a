//! A log that is not kept for ever: what goes is said before, and what stays is proven as before.

mod common;

use std::path::Path;
use std::time::{Duration, SystemTime};

use aarm_receipt::bundle::ProveError;
use aarm_receipt::log::{Expired, Retention};
use aarm_receipt::note::Checkpoint;
use aarm_receipt::read::Reader;
use aarm_receipt::verify::{How, Report, Verdict, verify_dir};
use aarm_receipt::{Bundle, LogError};

use common::{SEGMENT, intact, open, say, segment_files, trusted, write_segments};

fn report(dir: &Path, seen: &Checkpoint) -> Report {
    verify_dir(dir, &trusted(), How { seen: Some(seen), ..How::default() })
}

fn verdict(dir: &Path) -> Verdict {
    common::report(dir).verdict
}

const LARGE: Retention = Retention { bytes: Some(3 * SEGMENT), age: None, at_least: 0, below: None };

/// A log of five segments, of which the first two were pruned, and what was signed before they grew so many.
fn pruned(dir: &Path) -> (Expired, Checkpoint) {
    write_segments(dir, 2);
    let early = trusted().open(&std::fs::read(dir.join("checkpoint")).unwrap()).unwrap();
    write_segments(dir, 5);
    let mut w = open(dir);
    let gone = w.expired(&LARGE, SystemTime::now()).unwrap().unwrap();
    assert_eq!((gone.segments, gone.bytes, gone.why), (2, 2 * SEGMENT, "size"));
    say(&mut w, &gone);
    w.prune(&gone).unwrap();
    assert_eq!(w.expired(&LARGE, SystemTime::now()).unwrap(), None);
    (gone, early)
}

#[test]
fn what_stays_is_proven_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, early) = pruned(dir.path());
    let whole = intact(dir.path());
    assert_eq!((whole.pruned, whole.tiles_missing), (gone.before, 0));
    assert_eq!(whole.kinds["name"] + whole.kinds["prune"], whole.receipts - gone.before);
    // From wherever it is read.
    for from in [0, gone.before, gone.before + 70, whole.receipts - 1] {
        let first = Reader::open(dir.path(), from).unwrap().next().unwrap().unwrap();
        assert_eq!(first.0, from.max(gone.before));
    }
    assert!(Reader::open(dir.path(), whole.receipts).unwrap().next().is_none());
    for index in [gone.before, gone.before + 1, whole.receipts - 1] {
        Bundle::make(dir.path(), &trusted(), index).unwrap().verify(&trusted()).unwrap();
    }
    assert!(matches!(
        Bundle::make(dir.path(), &trusted(), gone.before - 1),
        Err(ProveError::Pruned { first, .. }) if first == gone.before
    ));
    // The log still begins with what was seen before it was pruned.
    assert!(early.size < gone.before);
    let compared = report(dir.path(), &early);
    assert_eq!((compared.verdict, compared.seen), (Verdict::Intact, Some(early.size)), "{compared}");
    let other = Checkpoint { root: [7; 32], ..early.clone() };
    assert_eq!(report(dir.path(), &other).verdict, Verdict::Tampered);
    // One that ends within a tile that was pruned as well cannot be compared, which is no rollback.
    let within = Checkpoint { size: early.size + 3, root: [7; 32], origin: early.origin.clone() };
    let compared = report(dir.path(), &within);
    assert_eq!((compared.verdict, compared.seen), (Verdict::Incomplete, None), "{compared}");
    // And goes on.
    write_segments(dir.path(), 6);
    assert_eq!(open(dir.path()).first(), gone.before);
    let grown = intact(dir.path());
    assert_eq!(grown.pruned, gone.before);
    assert!(grown.receipts > whole.receipts);
}

#[test]
fn nothing_goes_unsaid() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 4);
    intact(dir.path());
    // Somebody who can write to the directory takes the first segment away.
    std::fs::remove_file(&segment_files(dir.path())[0]).unwrap();
    let found = common::report(dir.path());
    assert_eq!(found.verdict, Verdict::Tampered);
    assert!(found.problems.iter().any(|p| p.contains("no receipt says")), "{found}");

    // More than was said.
    let dir = tempfile::tempdir().unwrap();
    pruned(dir.path());
    std::fs::remove_file(&segment_files(dir.path())[0]).unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Tampered);
    // One of the middle is no beginning.
    let dir = tempfile::tempdir().unwrap();
    pruned(dir.path());
    std::fs::remove_file(&segment_files(dir.path())[1]).unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Tampered);
}

#[test]
fn a_crash_between_leaves_less_and_no_hole() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 5);
    let mut w = open(dir.path());
    let gone = w.expired(&LARGE, SystemTime::now()).unwrap().unwrap();
    say(&mut w, &gone);
    drop(w);
    // Before anything went, and after the first of two.
    assert_eq!(intact(dir.path()).pruned, 0);
    std::fs::remove_file(&segment_files(dir.path())[0]).unwrap();
    let between = intact(dir.path());
    assert!(between.pruned > 0 && between.pruned < gone.before, "{between}");
    // The next one does the rest, told by nobody but the policy; or by itself, where what they come to was written.
    let mut w = open(dir.path());
    let rest = w.expired(&LARGE, SystemTime::now()).unwrap().unwrap();
    assert_eq!((rest.before, rest.segments), (gone.before, 1));
    let second = std::fs::read(&segment_files(dir.path())[0]).unwrap();
    say(&mut w, &rest);
    w.prune(&rest).unwrap();
    drop(w);
    assert_eq!(intact(dir.path()).pruned, gone.before);
    let left = dir.path().join("segment-0000000001.aarm");
    std::fs::write(&left, second).unwrap();
    assert_eq!(intact(dir.path()).pruned, gone.before);
    assert_eq!(open(dir.path()).first(), gone.before);
    assert!(!left.exists());
    assert_eq!(intact(dir.path()).pruned, gone.before);
}

/// They are not made durable: with them the log could not be opened any more.
#[test]
fn a_pruned_log_goes_on_without_its_tiles() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, _) = pruned(dir.path());
    let tiles = dir.path().join("tile");
    std::fs::remove_dir_all(&tiles).unwrap();
    assert_eq!(intact(dir.path()).pruned, gone.before);
    let mut w = open(dir.path());
    w.checkpoint().unwrap();
    drop(w);
    assert_eq!(intact(dir.path()).tiles_missing, 0);
    write_segments(dir.path(), 6);
    intact(dir.path());
    // What would not be known any more does not go, and nobody says that it does.
    let mut w = open(dir.path());
    let gone = w.expired(&LARGE, SystemTime::now()).unwrap().unwrap();
    let tile = dir.path().join(format!("tile/0/{:03}", gone.before / 256));
    std::fs::write(&tile, [7; 8192]).unwrap();
    assert!(
        matches!(w.expired(&LARGE, SystemTime::now()), Err(LogError::Tiles(before)) if before == gone.before)
    );
    // The next start finds it, and mends it.
    drop(w);
    w = open(dir.path());
    assert_eq!(w.expired(&LARGE, SystemTime::now()).unwrap().as_ref(), Some(&gone));
    say(&mut w, &gone);
    w.prune(&gone).unwrap();
    assert_eq!(intact(dir.path()).pruned, gone.before);
}

#[test]
fn what_is_old_goes_and_not_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 3);
    let w = open(dir.path());
    let keep = Retention { age: Some(Duration::from_secs(3600)), ..Retention::default() };
    let after = |seconds| SystemTime::now() + Duration::from_secs(seconds);
    assert_eq!(w.expired(&keep, after(0)).unwrap(), None);
    assert_eq!(w.expired(&keep, SystemTime::UNIX_EPOCH).unwrap(), None, "a clock that was set back");
    let gone = w.expired(&keep, after(4000)).unwrap().unwrap();
    assert_eq!((gone.segments, gone.why), (2, "age"));
    assert_eq!(w.expired(&Retention::default(), after(1 << 40)).unwrap(), None, "nothing is asked for");
    let none = Retention { bytes: Some(0), ..Retention::default() };
    assert_eq!(w.expired(&none, after(0)).unwrap().unwrap().segments, 2, "the one that is written stays");
    let some = Retention { at_least: w.size() - gone.before + 1, ..none };
    assert_eq!(w.expired(&some, after(0)).unwrap().unwrap().segments, 1, "those that are needed stay");
}

#[test]
fn what_says_what_was_pruned_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, _) = pruned(dir.path());
    let edge = dir.path().join("edge");
    let text = std::fs::read_to_string(&edge).unwrap();
    let at = text.len() - 20;
    let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
    std::fs::write(&edge, [&text[..at], other, &text[at + 1..]].concat()).unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Tampered);
    assert!(open(dir.path()).first() == gone.before, "tiles say it");
    // Without it, tiles say it.
    std::fs::remove_file(&edge).unwrap();
    intact(dir.path());
    // The leaves left of where it begins now.
    let tile = dir.path().join(format!("tile/0/{:03}", gone.before / 256));
    let whole = std::fs::read(&tile).unwrap();
    let mut wrong = whole.clone();
    wrong[0] ^= 1;
    std::fs::write(&tile, &wrong).unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Tampered);
    std::fs::remove_file(&tile).unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Tampered);
    std::fs::write(&tile, &whole).unwrap();
    intact(dir.path());
}

/// A start need not read what is signed: it took as long as all receipts together.
#[test]
fn a_start_reads_what_no_checkpoint_covers() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 3);
    let first = &segment_files(dir.path())[0];
    let whole = std::fs::read(first).unwrap();
    let mut damaged = whole.clone();
    damaged[5000] ^= 1;
    std::fs::write(first, &damaged).unwrap();
    drop(open(dir.path()));
    assert_eq!(verdict(dir.path()), Verdict::Tampered, "it is for the verifier to find");
    std::fs::write(first, &whole).unwrap();
    // Where tiles are missing everything is read, and they are there again.
    std::fs::remove_dir_all(dir.path().join("tile")).unwrap();
    assert!(intact(dir.path()).tiles_missing > 0);
    open(dir.path()).checkpoint().unwrap();
    assert_eq!(intact(dir.path()).tiles_missing, 0);
}
