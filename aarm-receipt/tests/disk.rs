//! What disks, and those who were killed, leave of a log. With real losses of power: `xtask/src/cuts.rs`, which has found each of these.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aarm_receipt::verify::Verdict;
use aarm_receipt::{LogError, LogWriter, Options};

use common::{ORIGIN, SEGMENT, keys, light, open, receipt, report, write};

const FIRST: &str = "segment-0000000000.aarm";

fn try_open(dir: &Path) -> Result<LogWriter, LogError> {
    LogWriter::open(dir, keys(), ORIGIN, Options { segment_bytes: SEGMENT }).map(|(log, _)| log)
}

/// A writer that was killed, or told by the kernel that a write had failed, leaves receipts in the kernel's memory that are not on disk. The next one
/// took them for durable because it could read them, and signed them.
#[test]
fn what_another_has_written_is_written_anew_before_it_counts_as_durable() {
    let dir = tempfile::tempdir().unwrap();
    let segment = dir.path().join(FIRST);
    let inode = || std::fs::metadata(&segment).unwrap().ino();
    write(dir.path(), 300, "x", 3);
    let signed = inode();
    drop(open(dir.path()));
    assert_eq!(inode(), signed, "what is signed was durable");
    let mut log = open(dir.path());
    for n in 300..310 {
        log.append(&mut receipt(n, &light(n, "x")), false).unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let before = std::fs::read(&segment).unwrap();
    // A kill may leave the copy half written.
    std::fs::write(dir.path().join("renewing.segment"), &before[..999]).unwrap();
    let mut log = open(dir.path());
    assert_eq!((log.durable(), log.signed()), (310, 300));
    assert_ne!(inode(), signed, "what is not may be nowhere");
    assert!(std::fs::read(&segment).unwrap() == before && !dir.path().join("renewing.segment").exists());
    log.checkpoint().unwrap();
    assert_eq!(common::intact(dir.path()).receipts, 310);
    // It goes on in the file that is there.
    log.append(&mut receipt(310, &light(310, "x")), false).unwrap();
    log.checkpoint().unwrap();
    drop(log);
    assert_eq!(common::intact(dir.path()).receipts, 311);
    let next = std::fs::read(dir.path().join("next.segment")).unwrap();
    assert!(next.len() as u64 == SEGMENT && next.iter().all(|byte| *byte == 0));
}

/// `aarm verify` said TAMPERED of a log that nobody had opened since the power went: tiles that were written lately were empty, or had zeros.
#[test]
fn what_a_loss_of_power_leaves_of_tiles_is_no_tampering() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 600, "x", 3);
    let names = ["tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"].map(|name| dir.path().join(name));
    let leave = |what: fn(Vec<u8>) -> Vec<u8>| {
        open(dir.path()).checkpoint().unwrap();
        assert_eq!(common::intact(dir.path()).tiles_missing, 0, "the next writer mends them");
        for name in &names {
            std::fs::write(name, what(std::fs::read(name).unwrap())).unwrap();
        }
        report(dir.path())
    };
    let nothing: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |_| Vec::new(),
        |tile| vec![0; tile.len()],
        |tile| tile[..tile.len() / 2].to_vec(),
        |tile| [&tile[..tile.len() / 64 * 32], &vec![0; tile.len() - tile.len() / 64 * 32]].concat(),
    ];
    for what in nothing {
        let left = leave(what);
        assert_eq!((left.verdict, left.tiles_missing), (Verdict::Intact, 1), "{left}");
    }
    // Something else is.
    let something: [fn(Vec<u8>) -> Vec<u8>; 3] = [
        |tile| vec![7; tile.len()],
        |tile| [&[1], &vec![0; tile.len() - 1][..]].concat(),
        |tile| [&tile[..], &[0]].concat(),
    ];
    for what in something {
        assert_eq!(leave(what).verdict, Verdict::Tampered);
    }
}

/// A checkpoint that could not be placed, or a segment that could not be begun, was an error, but the writer went on when asked again.
#[test]
fn who_could_not_write_once_writes_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 3, "x", 3);
    let mut log = open(dir.path());
    log.append(&mut receipt(3, &light(3, "x")), false).unwrap();
    let in_the_way = dir.path().join("checkpoint.new");
    std::fs::create_dir(&in_the_way).unwrap();
    assert!(matches!(log.checkpoint(), Err(LogError::Io { .. })));
    std::fs::remove_dir(&in_the_way).unwrap();
    assert!(matches!(log.append(&mut receipt(4, &light(4, "x")), false), Err(LogError::Poisoned)));
    assert!(matches!(log.sync(), Err(LogError::Poisoned)));
    assert!(matches!(log.checkpoint(), Err(LogError::Poisoned)));
    drop(log);
    // The same where another thread places it, and more is appended meanwhile.
    let mut log = open(dir.path());
    let mut signing = log.begin_checkpoint().unwrap().unwrap();
    std::fs::create_dir(&in_the_way).unwrap();
    let became = signing.place();
    std::fs::remove_dir(&in_the_way).unwrap();
    log.append(&mut receipt(4, &light(4, "x")), false).unwrap();
    assert!(matches!(log.placed(signing, became), Err(LogError::Io { .. })));
    assert!(matches!(log.sync(), Err(LogError::Poisoned)));
    drop(log);
    let mut log = open(dir.path());
    assert_eq!(log.size(), 4);
    // The same where the next segment is to begin.
    std::fs::create_dir(dir.path().join("segment-0000000001.aarm")).unwrap();
    let long = "x".repeat(60_000);
    let failed = (4..40).find_map(|n| log.append(&mut receipt(n, &light(n, &long)), false).err());
    assert!(matches!(failed, Some(LogError::Io { .. })), "{failed:?}");
    std::fs::remove_dir(dir.path().join("segment-0000000001.aarm")).unwrap();
    assert!(matches!(log.sync(), Err(LogError::Poisoned)));
}

/// A segment whose beginning the disk could not read was called damaged, "never repaired": start with an empty one.
#[test]
fn a_disk_that_cannot_be_read_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 3, "x", 3);
    let segment = dir.path().join(FIRST);
    std::fs::rename(&segment, dir.path().join("aside")).unwrap();
    // Reading a directory is an error of the system's.
    std::fs::create_dir(&segment).unwrap();
    assert!(matches!(try_open(dir.path()), Err(LogError::Io { .. })));
    std::fs::remove_dir(&segment).unwrap();
    std::fs::write(&segment, [7; 20]).unwrap();
    assert!(matches!(try_open(dir.path()), Err(LogError::Damaged { .. })));
}
