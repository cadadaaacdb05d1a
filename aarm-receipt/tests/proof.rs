//! What who gets a proof, or a log for the second time, relies on.

mod common;

use std::path::Path;

use aarm_receipt::bundle::{BundleError, ProveError};
use aarm_receipt::note::Checkpoint;
use aarm_receipt::verify::{How, Report, Verdict, verify_dir};
use aarm_receipt::{Bundle, Keys};

use common::{ORIGIN, trusted};

/// Goes on with a log until it has so many receipts, of which some have a signature of their own.
fn write(dir: &Path, size: u64, text: &str) {
    common::write(dir, size, text, 50);
}

fn report(dir: &Path, seen: Option<&Checkpoint>) -> Report {
    verify_dir(dir, &trusted(), How { seen, ..How::default() })
}

fn proves(dir: &Path, index: u64) {
    let bundle = Bundle::make(dir, &trusted(), index).unwrap();
    let text = bundle.to_string();
    assert_eq!(Bundle::parse(text.as_bytes()), Ok(bundle.clone()));
    let proven = bundle.verify(&trusted()).unwrap();
    assert_eq!(proven.receipt["seq"]["n"], index);
    assert!(text.len() < 4096, "{} bytes", text.len());
}

#[test]
fn every_receipt_is_proven_also_without_tiles_and_with_wrong_ones() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(900);
    write(dir.path(), 1300, &long);
    assert!(dir.path().join("segment-0000000001.aarm").exists(), "more than one segment");
    let some = || (0..1300).step_by(97).chain([255, 256, 1279, 1280, 1299]);
    some().for_each(|index| proves(dir.path(), index));
    // A tile that is wrong, and a proof made without it, by all receipts.
    let tile = dir.path().join("tile/0/001");
    let mut hashes = std::fs::read(&tile).unwrap();
    hashes[40] ^= 1;
    std::fs::write(&tile, hashes).unwrap();
    some().for_each(|index| proves(dir.path(), index));
    assert_eq!(report(dir.path(), None).verdict, Verdict::Tampered);
    std::fs::remove_dir_all(dir.path().join("tile")).unwrap();
    some().for_each(|index| proves(dir.path(), index));
    let without = report(dir.path(), None);
    assert_eq!((without.verdict, without.tiles_missing), (Verdict::Intact, 5), "{without}");
    assert!(matches!(
        Bundle::make(dir.path(), &trusted(), 1300),
        Err(ProveError::NotSigned { index: 1300, size: 1300 })
    ));
}

#[test]
fn the_next_writer_mends_tiles() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 1000, "1");
    let at = |name: &str| dir.path().join("tile/0").join(name);
    let before = std::fs::read(at("000")).unwrap();
    std::fs::remove_file(at("000")).unwrap();
    std::fs::write(at("001"), [7; 8192]).unwrap();
    std::fs::write(at("002"), b"").unwrap();
    assert_eq!(report(dir.path(), None).verdict, Verdict::Tampered);
    write(dir.path(), 1030, "1");
    assert_eq!(std::fs::read(at("000")).unwrap(), before);
    let mended = report(dir.path(), None);
    assert_eq!((mended.verdict, mended.tiles_missing), (Verdict::Intact, 0), "{mended}");
    assert!(!at("003.p").exists(), "the tile is whole");
    assert!(at("004.p/6").exists());
}

#[test]
fn no_changed_or_cut_bundle_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 9, "1");
    let text = Bundle::make(dir.path(), &trusted(), 3).unwrap().to_string().into_bytes();
    let believed = |bytes: &[u8]| Bundle::parse(bytes).and_then(|bundle| bundle.verify(&trusted())).is_ok();
    assert!(believed(&text));
    for at in 0..text.len() {
        assert!(!believed(&text[..at]), "cut at {at}");
        for bit in 0..8 {
            let mut changed = text.clone();
            changed[at] ^= 1 << bit;
            assert!(!believed(&changed), "byte {at} bit {bit}");
        }
    }
    let other = Keys::from_seeds([3; 32], [4; 32]).unwrap().trusted(ORIGIN);
    let bundle = Bundle::parse(&text).unwrap();
    assert!(matches!(bundle.verify(&other), Err(BundleError::Checkpoint(_))));
    assert_eq!(Bundle::parse(&vec![b'x'; 1 << 20]), Err(BundleError::TooLong));
}

#[test]
fn a_log_that_was_rolled_back_or_replaced_is_not_the_one_that_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let note = |dir: &Path| trusted().open(&std::fs::read(dir.join("checkpoint")).unwrap()).unwrap();
    write(dir.path(), 300, "1");
    let seen = note(dir.path());
    assert_eq!(report(dir.path(), Some(&seen)).seen, Some(300));
    write(dir.path(), 500, "1");
    let grown = report(dir.path(), Some(&seen));
    assert_eq!((grown.verdict, grown.seen), (Verdict::Intact, Some(300)), "{grown}");
    // The same keys, from an earlier state and from the beginning, both as good as any by themselves.
    for (size, version) in [(299, "1"), (500, "2")] {
        let other = tempfile::tempdir().unwrap();
        write(other.path(), size, version);
        assert_eq!(report(other.path(), None).verdict, Verdict::Intact);
        let found = report(other.path(), Some(&seen));
        assert_eq!((found.verdict, found.seen), (Verdict::Tampered, None), "{found}");
    }
    let empty = tempfile::tempdir().unwrap();
    write(empty.path(), 0, "1");
    let before = note(empty.path());
    assert_eq!(report(dir.path(), Some(&before)).seen, Some(0), "everything begins with nothing");
}
