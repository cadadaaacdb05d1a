//! Keys give way to others, and whoever trusts the old ones can follow, and nobody else.

mod common;

use std::path::{Path, PathBuf};

use aarm_receipt::keys::{self, Brought};
use aarm_receipt::log::LogError;
use aarm_receipt::note::NoteError;
use aarm_receipt::trust::Epoch;
use aarm_receipt::verify::{How, Report, Verdict, verify_dir};
use aarm_receipt::{Body, Bundle, Keys, LogWriter, Options, TrustedKeys, rotation};
use common::{ORIGIN, SEGMENT, encoded, light, segment_files};

/// A log with keys in files, as a host has them.
struct Host {
    dir: tempfile::TempDir,
}

fn named(epoch: &Epoch) -> Vec<u8> {
    let (checkpoint, receipt) = (epoch.log.to_string(), epoch.receipt.to_string());
    encoded(None, &Body::Keys { checkpoint: &checkpoint, receipt: &receipt })
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn keys(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    fn try_open(&self) -> Result<LogWriter, LogError> {
        let keys = Keys::open_or_create(&self.keys()).unwrap().0;
        LogWriter::open(&self.log(), keys, ORIGIN, Options { segment_bytes: SEGMENT }).map(|(log, _)| log)
    }

    fn open(&self) -> LogWriter {
        self.try_open().unwrap()
    }

    /// So many more receipts, one in three with a signature of its own.
    fn write(&self, more: u64) {
        let mut w = self.open();
        for n in w.size()..w.size() + more {
            let is = n.is_multiple_of(3);
            let body = if is { Body::Stop { version: "1" } } else { light(n, "a") };
            w.append(&mut encoded(None, &body), is).unwrap();
        }
        w.checkpoint().unwrap();
    }

    fn prepare(&self) {
        keys::prepare(&self.keys(), Brought::default(), ORIGIN).unwrap();
    }

    fn rotate(&self) -> u64 {
        self.prepare();
        self.open().rotate(named).unwrap().unwrap()
    }

    fn public(&self) -> TrustedKeys {
        TrustedKeys::parse(&std::fs::read_to_string(self.log().join("log.pub")).unwrap()).unwrap()
    }

    fn verify(&self, trusted: &TrustedKeys) -> Report {
        verify_dir(&self.log(), trusted, How::default())
    }

    fn copy(&self) -> Self {
        let copy = Self::new();
        copy_all(self.dir.path(), copy.dir.path());
        copy
    }
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_all(&path, &to) } else { _ = std::fs::copy(&path, &to).unwrap() }
    }
}

/// A log whose keys were exchanged twice, and what was trusted at its beginning.
fn exchanged() -> (Host, TrustedKeys) {
    let host = Host::new();
    host.write(10);
    let first = host.public();
    assert_eq!(host.rotate(), 11);
    host.write(20);
    assert_eq!(host.rotate(), 32);
    host.write(5);
    (host, first)
}

/// A writer that could not keep the proof of an exchange went on, and signed with the old keys what comes after it: `aarm verify` said TAMPERED.
#[test]
fn who_could_not_exchange_the_keys_writes_nothing_any_more() {
    let host = Host::new();
    host.write(3);
    let trusted = host.public();
    host.prepare();
    let mut w = host.open();
    let in_the_way = host.log().join(rotation::DIR);
    std::fs::write(&in_the_way, "").unwrap();
    assert!(w.rotate(named).is_err());
    std::fs::remove_file(&in_the_way).unwrap();
    let more = w.append(&mut encoded(None, &light(9, "a")), false);
    assert!(matches!(more, Err(LogError::Poisoned)), "{more:?}");
    assert!(matches!(w.checkpoint(), Err(LogError::Poisoned)));
    drop(w);
    assert_eq!(host.open().rotate(named).unwrap(), Some(4), "the next one goes on with it");
    host.write(3);
    let report = host.verify(&trusted);
    assert_eq!((report.verdict, report.receipts), (Verdict::Intact, 7), "{report}");
}

#[test]
fn who_trusts_the_first_keys_follows_to_the_newest() {
    let (host, first) = exchanged();
    let report = host.verify(&first);
    assert_eq!(report.verdict, Verdict::Intact, "{report}");
    assert_eq!((report.keys_since.as_slice(), report.kinds["keys"]), (&[0, 11, 32][..], 2));
    assert_eq!((report.receipts, report.signed), (37, 37));
    assert_eq!(report.keys, host.public());
    // And who has got the newer ones needs not.
    assert_eq!(host.verify(&host.public()).verdict, Verdict::Intact);
    // The old keys are gone.
    let names: Vec<_> = std::fs::read_dir(host.keys()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_proof_by_newer_keys_needs_newer_trust() {
    let (host, first) = exchanged();
    let all = host.public();
    for index in [0, 10, 11, 31, 32, 36] {
        let bundle = Bundle::make(host.log().as_path(), &all, index).unwrap();
        assert!(bundle.verify(&all).is_ok(), "{index}");
        let refused = bundle.verify(&first).unwrap_err();
        assert_eq!(refused, aarm_receipt::bundle::BundleError::Checkpoint(NoteError::NotSigned));
    }
    // What was proven before stays so.
    let before = Bundle::parse(&std::fs::read(host.log().join("rotations/11")).unwrap()).unwrap();
    assert_eq!((before.index, before.verify(&first).unwrap().checkpoint.size), (10, 11));
}

#[test]
fn old_keys_sign_nothing_newer() {
    let host = Host::new();
    host.write(10);
    let old = Keys::open_or_create(&host.keys()).unwrap().0;
    let first = host.public();
    host.rotate();
    host.write(10);
    // Who has stolen the old keys goes on with the log as it was.
    let thief = Host::new();
    copy_all(&host.log(), &thief.log());
    let options = Options { segment_bytes: SEGMENT };
    assert!(matches!(LogWriter::open(&thief.log(), old, ORIGIN, options), Err(LogError::Keys)));
    let forged = Host::new();
    std::fs::create_dir_all(forged.keys()).unwrap();
    forged.write(1);
    let trusted = host.public();
    for file in ["checkpoint", "log.pub"] {
        let copy = host.copy();
        std::fs::copy(forged.log().join(file), copy.log().join(file)).unwrap();
        assert_eq!(copy.verify(&trusted).verdict, Verdict::Tampered, "{file}");
        assert_eq!(copy.verify(&first).verdict, Verdict::Tampered, "{file}");
    }
}

#[test]
fn a_thief_of_old_keys_cannot_exchange_them_where_the_new_ones_are_known() {
    let host = Host::new();
    host.write(10);
    let thief = host.copy();
    host.rotate();
    host.write(10);
    thief.write(3);
    thief.rotate();
    thief.write(10);
    assert_eq!(thief.verify(&host.public()).verdict, Verdict::Tampered);
    assert_eq!(host.verify(&thief.public()).verdict, Verdict::Tampered);
}

#[test]
fn each_part_of_an_exchange_counts() {
    let (host, first) = exchanged();
    let names = ["rotations/11", "rotations/32"];
    for name in names {
        let bytes = std::fs::read(host.log().join(name)).unwrap();
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            std::fs::write(host.log().join(name), &wrong).unwrap();
            assert_eq!(host.verify(&first).verdict, Verdict::Tampered, "{name} byte {at}");
        }
        std::fs::remove_file(host.log().join(name)).unwrap();
        assert_eq!(host.verify(&first).verdict, Verdict::Tampered, "{name}");
        std::fs::write(host.log().join(name), &bytes).unwrap();
    }
    let copy = |from: &str, to: &str| _ = std::fs::copy(host.log().join(from), host.log().join(to)).unwrap();
    for other in ["rotations/12", "rotations/33", "rotations/x", "rotations/011"] {
        copy("rotations/11", other);
        assert_eq!(host.verify(&first).verdict, Verdict::Tampered, "{other}");
        std::fs::remove_file(host.log().join(other)).unwrap();
    }
    // What is being placed is none yet.
    copy("rotations/11", "rotations/99.new");
    assert_eq!(host.verify(&first).verdict, Verdict::Intact);
}

#[test]
fn new_keys_that_have_not_signed_themselves_are_not_believed() {
    let (host, first) = exchanged();
    let path = host.log().join("rotations/32");
    let text = std::fs::read_to_string(&path).unwrap();
    // The last line is the new key's.
    let end = text.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(&path, &text[..end]).unwrap();
    let why = rotation::follow(&host.log().as_path(), &first).unwrap_err().to_string();
    assert!(why.contains("the new key: no signature"), "{why}");
}

#[test]
fn nothing_is_believed_after_the_end_that_was_set() {
    let (host, _) = exchanged();
    let until = |n: u64| TrustedKeys::parse(&format!("{}until {n}\n", host.public())).unwrap();
    assert_eq!(host.verify(&until(37)).verdict, Verdict::Intact);
    let report = host.verify(&until(36));
    assert_eq!(report.verdict, Verdict::Tampered);
    assert!(report.problems[0].contains("after the end"), "{report}");
    let bundle = Bundle::make(host.log().as_path(), &host.public(), 3).unwrap();
    assert!(bundle.verify(&until(37)).is_ok() && bundle.verify(&until(36)).is_err());
}

#[test]
fn an_exchange_goes_on_wherever_it_was_interrupted() {
    let host = Host::new();
    host.write(10);
    let first = host.public();
    host.prepare();
    let before = host.copy();
    assert_eq!(host.open().rotate(named).unwrap(), Some(11));
    // What each step has left, as the next start finds it.
    let (old_keys, new_keys) = (before.keys(), host.keys());
    let put = |to: &Host, name: &str| {
        let to = to.log().join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(host.log().join(name), to).unwrap();
    };
    for step in 0..7 {
        let half = before.copy();
        if step > 0 {
            // The receipt is there.
            let mut w = half.open();
            let epoch = host.public().latest().clone();
            w.append(&mut named(&epoch), true).unwrap();
            w.sync().unwrap();
        }
        let files = ["checkpoint", "rotations/11", "log.pub"];
        // The receipt above is signed by the same key, and is the same.
        files.iter().take(usize::max(step, 1) - 1).for_each(|name| put(&half, name));
        for name in ["log.pk8", "receipt.pk8"].iter().take(usize::max(step, 4) - 4) {
            std::fs::rename(half.keys().join("next").join(name), half.keys().join(name)).unwrap();
        }
        let mut w = half.open();
        let done = w.rotate(named).unwrap();
        assert_eq!(done.is_some(), step < 3, "{step}");
        drop(w);
        assert!(!half.keys().join("next").exists());
        half.write(4);
        let report = half.verify(&first);
        assert_eq!(report.verdict, Verdict::Intact, "{step}: {report}");
        assert_eq!((report.kinds["keys"], report.keys_since.as_slice()), (1, &[0, 11][..]), "{step}");
        let is = |keys: &Path, other: &Path| {
            std::fs::read(keys.join("log.pk8")).unwrap() == std::fs::read(other.join("log.pk8")).unwrap()
        };
        assert!(is(&half.keys(), &new_keys) && !is(&half.keys(), &old_keys), "{step}");
    }
}

#[test]
fn a_checkpoint_asked_for_at_once_is_still_by_both_keys() {
    let host = Host::new();
    host.write(10);
    let first = host.public();
    host.prepare();
    let mut w = host.open();
    w.rotate(named).unwrap();
    w.checkpoint().unwrap();
    drop(w);
    let mut w = host.open();
    assert_eq!(w.checkpoint().unwrap().size, 11);
    drop(w);
    let note = std::fs::read(host.log().join("checkpoint")).unwrap();
    assert_eq!(first.open(&note).unwrap().size, 11);
    assert_eq!(host.verify(&first).verdict, Verdict::Intact);
}

#[test]
fn keys_are_followed_past_what_was_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host { dir };
    std::fs::create_dir_all(host.keys()).unwrap();
    host.write(10);
    let first = host.public();
    host.rotate();
    let text = "x".repeat(900);
    let mut w = host.open();
    while segment_files(&host.log()).len() < 4 {
        for _ in 0..256 {
            let n = w.size();
            w.append(&mut encoded(None, &light(n, &text)), false).unwrap();
        }
        w.checkpoint().unwrap();
    }
    let keep = aarm_receipt::log::Retention { bytes: Some(2 * SEGMENT), ..Default::default() };
    let gone = w.expired(&keep, std::time::SystemTime::now()).unwrap().unwrap();
    common::say(&mut w, &gone);
    w.prune(&gone).unwrap();
    drop(w);
    let report = host.verify(&first);
    assert_eq!(report.verdict, Verdict::Intact, "{report}");
    assert!(report.pruned > 11 && report.keys_since == [0, 11], "{report}");
}

#[test]
fn a_log_whose_public_keys_are_gone_is_not_gone_on_with() {
    let host = Host::new();
    host.write(3);
    std::fs::write(host.log().join("log.pub"), "nothing").unwrap();
    assert!(matches!(host.try_open(), Err(LogError::Public(_))));
}
