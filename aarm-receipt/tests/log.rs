//! What a user relies on: nothing that was acknowledged is lost, nothing that was changed goes unnoticed.

use std::path::Path;

use aarm_receipt::canonical::Encoded;
use aarm_receipt::receipt::{Identity, Seq};
use aarm_receipt::verify::{How, Verdict, verify_dir};
use aarm_receipt::{Body, Common, Keys, LogError, LogWriter, Options, encode, read};

const ORIGIN: &str = "host.test/log";

fn keys() -> Keys {
    Keys::from_seeds([1; 32], [2; 32]).unwrap()
}

fn options() -> Options {
    Options { segment_bytes: 1 << 20 }
}

fn receipt(n: u64, comm: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let common = Common {
        time_ns: n,
        boot_ns: n,
        host: &Encoded::text(b"h"),
        session: None,
        seq: Some(Seq { cpu: 0, n }),
    };
    let identity = Identity { comm, ..Identity::default() };
    encode(&common, &Body::Process { what: "exit", child: None, status: Some(0), identity }, &mut out);
    out
}

/// A log of `n` receipts; the rest of the bytes it had reserved is given back, so that tests are fast.
fn log(dir: &Path, n: u64) {
    let (mut w, opened) = LogWriter::open(dir, keys(), ORIGIN, options()).unwrap();
    assert!(opened.fresh);
    for i in 0..n {
        assert_eq!(w.append(&mut receipt(i, b"x"), i % 3 == 0).unwrap(), i);
    }
    w.checkpoint().unwrap();
    drop(w);
    std::fs::remove_file(dir.join("next.segment")).unwrap();
}

fn records_end(dir: &Path) -> usize {
    let bytes = std::fs::read(dir.join("segment-0000000000.aarm")).unwrap();
    bytes.iter().rposition(|b| *b != 0).unwrap() + 1
}

fn verdict(dir: &Path) -> Verdict {
    verify_dir(dir, &keys().trusted(ORIGIN), How::default()).verdict
}

#[test]
fn what_is_written_is_read_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), 10);
    let report = verify_dir(dir.path(), &keys().trusted(ORIGIN), How::default());
    assert_eq!(report.verdict, Verdict::Intact, "{report}");
    assert_eq!((report.receipts, report.signed, report.signatures, report.missing), (10, 10, 4, 0));
    let back: Vec<_> = read::Reader::open(dir.path(), 7).unwrap().map(Result::unwrap).collect();
    assert_eq!(back, (7..10).map(|i| (i, receipt(i, b"x"))).collect::<Vec<_>>());
}

#[test]
fn segments_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (mut w, _) = LogWriter::open(dir.path(), keys(), ORIGIN, options()).unwrap();
    let long = vec![0xff; 15_000];
    let n = 200;
    for i in 0..n {
        w.append(&mut receipt(i, &long), false).unwrap();
    }
    w.checkpoint().unwrap();
    drop(w);
    assert!(dir.path().join("segment-0000000008.aarm").exists());
    let report = verify_dir(dir.path(), &keys().trusted(ORIGIN), How::default());
    assert_eq!((report.verdict, report.receipts), (Verdict::Intact, n), "{report}");
    assert_eq!(read::Reader::open(dir.path(), 0).unwrap().count(), n as usize);
    // A middle segment that is gone is not overlooked.
    std::fs::remove_file(dir.path().join("segment-0000000003.aarm")).unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Tampered);
    assert!(LogWriter::open(dir.path(), keys(), ORIGIN, options()).is_err());
}

#[test]
fn no_changed_byte_of_the_log_is_overlooked() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), 6);
    let end = records_end(dir.path());
    for name in ["segment-0000000000.aarm", "checkpoint", "origin", "log.pub"] {
        let path = dir.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        // All of the records, and some of the zeros after them.
        for at in 0..whole.len().min(end + 40) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert_ne!(verdict(dir.path()), Verdict::Intact, "{name} byte {at}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    assert_eq!(verdict(dir.path()), Verdict::Intact);
}

#[test]
fn a_log_cut_at_any_length_is_refused_or_goes_on_with_all_that_was_signed() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), 4);
    // Two more that are not signed.
    let (mut w, _) = LogWriter::open(dir.path(), keys(), ORIGIN, options()).unwrap();
    w.append(&mut receipt(4, b"x"), false).unwrap();
    // One that must have a signature: without it, it was never durable.
    let mut stop = Vec::new();
    let seq = Some(Seq { cpu: 0, n: 5 });
    let common = Common { time_ns: 5, boot_ns: 5, host: &Encoded::text(b"h"), session: None, seq };
    encode(&common, &Body::Stop { version: "1" }, &mut stop);
    w.append(&mut stop, true).unwrap();
    w.sync().unwrap();
    drop(w);
    let path = dir.path().join("segment-0000000000.aarm");
    let whole = std::fs::read(&path).unwrap();
    let end = records_end(dir.path());
    let mut kept = [0; 7];
    // Each byte of the end; before that what is signed is not there, wherever it is cut.
    for cut in (0..end - 800).step_by(7).chain(end - 800..=end) {
        let mut bytes = whole[..cut].to_vec();
        // As a crash leaves it: reserved, but not all written.
        bytes.resize(whole.len(), 0);
        std::fs::write(&path, &bytes).unwrap();
        // Of those at the end, where it may go on.
        let before = (cut + 600 > end).then(|| verdict(dir.path()));
        match LogWriter::open(dir.path(), keys(), ORIGIN, options()) {
            Ok((mut w, opened)) => {
                assert_ne!(before, Some(Verdict::Tampered), "a crash at {cut} is taken for more than that");
                assert!(opened.size >= 4, "cut at {cut} lost signed receipts");
                assert_eq!(w.append(&mut receipt(opened.size, b"y"), false).unwrap(), opened.size);
                w.checkpoint().unwrap();
                drop(w);
                assert_eq!(verdict(dir.path()), Verdict::Intact, "cut at {cut}");
                kept[opened.size as usize] += 1;
                // Back to the four that were signed.
                std::fs::write(&path, &whole).unwrap();
                std::fs::remove_file(dir.path().join("checkpoint")).unwrap();
                let c = checkpoint_of_four();
                std::fs::write(dir.path().join("checkpoint"), c).unwrap();
            }
            Err(LogError::Damaged { .. }) => kept[0] += 1,
            Err(e) => panic!("cut at {cut}: {e}"),
        }
    }
    assert!(kept[0] > 0 && kept[4] > 0 && kept[5] > 0 && kept[6] > 0, "{kept:?}");
}

fn checkpoint_of_four() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), 4);
    std::fs::read(dir.path().join("checkpoint")).unwrap()
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = LogWriter::open(dir.path(), keys(), ORIGIN, options()).unwrap();
    assert!(matches!(LogWriter::open(dir.path(), keys(), ORIGIN, options()), Err(LogError::Locked(_))));
    drop(first);
    assert!(LogWriter::open(dir.path(), keys(), ORIGIN, options()).is_ok());
}

#[test]
fn other_keys_do_not_go_on_with_a_log() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), 2);
    let other = Keys::from_seeds([3; 32], [4; 32]).unwrap();
    assert!(matches!(LogWriter::open(dir.path(), other, ORIGIN, options()), Err(LogError::Keys)));
}

#[test]
fn events_without_receipts_are_noticed_unless_declared() {
    let dir = tempfile::tempdir().unwrap();
    let (mut w, _) = LogWriter::open(dir.path(), keys(), ORIGIN, options()).unwrap();
    for n in [0, 1, 4] {
        w.append(&mut receipt(n, b"x"), false).unwrap();
    }
    w.checkpoint().unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Incomplete);
    let mut gap = Vec::new();
    let common = Common { time_ns: 0, boot_ns: 0, host: &Encoded::text(b"h"), session: None, seq: None };
    encode(&common, &Body::Gap { cpu: Some(0), missing: 2, why: "ring full", detail: b"" }, &mut gap);
    w.append(&mut gap, true).unwrap();
    w.checkpoint().unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Intact);
}

#[test]
fn a_log_that_took_over_running_programs_does_not_miss_what_was_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut w, _) = LogWriter::open(dir.path(), keys(), ORIGIN, options()).unwrap();
    let mut start = Vec::new();
    let common = Common { time_ns: 0, boot_ns: 0, host: &Encoded::text(b"h"), session: None, seq: None };
    encode(&common, &Body::Start { version: "1", kernel: "k", adopted: true }, &mut start);
    w.append(&mut start, true).unwrap();
    for n in [101, 100, 102] {
        w.append(&mut receipt(n, b"x"), false).unwrap();
    }
    w.checkpoint().unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Intact);
    w.append(&mut receipt(104, b"x"), false).unwrap();
    w.checkpoint().unwrap();
    assert_eq!(verdict(dir.path()), Verdict::Incomplete);
}

#[test]
fn a_checkpoint_without_room_leaves_the_log_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (mut w, _) = LogWriter::open(dir.path(), keys(), ORIGIN, options()).unwrap();
    w.append(&mut receipt(0, b"x"), false).unwrap();
    w.checkpoint().unwrap();
    w.append(&mut receipt(1, b"x"), false).unwrap();
    // What is written there finds a full disk.
    let full = dir.path().join("checkpoint.new");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    assert!(matches!(w.checkpoint(), Err(LogError::NoSpace { .. })));
    assert_eq!((w.durable(), w.signed()), (2, 1));
    w.append(&mut receipt(2, b"x"), false).unwrap();
    std::fs::remove_file(full).unwrap();
    assert_eq!(w.checkpoint().unwrap().size, 3);
    drop(w);
    assert_eq!(verdict(dir.path()), Verdict::Intact);
}

/// The child of `a_killed_writer_loses_nothing_it_acknowledged`.
#[test]
#[ignore = "run by another test"]
fn write_until_killed() {
    let dir = std::env::var_os("AARM_TEST_LOG").unwrap();
    let (mut w, _) = LogWriter::open(Path::new(&dir), keys(), ORIGIN, options()).unwrap();
    let acknowledged = Path::new(&dir).join("acknowledged");
    loop {
        for _ in 0..7 {
            w.append(&mut receipt(w.size(), b"x"), w.size() % 5 == 0).unwrap();
        }
        let durable = w.sync().unwrap();
        std::fs::write(&acknowledged, durable.to_string()).unwrap();
        if durable % 3 == 0 {
            w.checkpoint().unwrap();
        }
    }
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..8u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "write_until_killed", "--ignored", "--quiet"])
            .env("AARM_TEST_LOG", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(150 + 37 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged: u64 = std::fs::read_to_string(dir.path().join("acknowledged"))
            .ok()
            .and_then(|t| t.parse().ok())
            .unwrap_or(0);
        let (mut w, opened) = LogWriter::open(dir.path(), keys(), ORIGIN, options()).unwrap();
        assert!(opened.size >= acknowledged, "{acknowledged} acknowledged, {} found", opened.size);
        w.checkpoint().unwrap();
        drop(w);
        assert_eq!(verdict(dir.path()), Verdict::Intact, "round {round}");
    }
}
