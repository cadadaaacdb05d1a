//! What disks, and those who were killed, leave of a log. With real losses of power: `xtask/src/cuts.rs`, which has found each of these.

mod common;

use aarm_receipt::verify::Verdict;

use common::{open, report, write};

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
