//! What who demands witnesses relies on: a log that was cut, replaced, or shown to nobody, is told from one that was seen.

mod common;

use std::path::{Path, PathBuf};

use aarm_receipt::Bundle;
use aarm_receipt::cosign::{Cosigner, CosignerKey, cosigned};
use aarm_receipt::note::{Checkpoint, NoteError};
use aarm_receipt::tile::Tiles;
use aarm_receipt::verify::{How, Report, Verdict, Witnesses, verify_dir};
use aarm_receipt::witness::{Request, Witness, WitnessError, key};
use aarm_receipt::witnessed::Witnessed;
use common::{ORIGIN, open, trusted, write, write_segments};
use ring::signature::Ed25519KeyPair;

fn cosigner(seed: u8) -> Cosigner {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    Cosigner::new(&format!("witness.test/{seed}"), pair).unwrap()
}

/// Witnesses of one log, each with its memory.
struct Others {
    dirs: Vec<tempfile::TempDir>,
}

impl Others {
    fn new(n: usize) -> Self {
        Self { dirs: (0..n).map(|_| tempfile::tempdir().unwrap()).collect() }
    }

    fn keys(&self) -> Vec<CosignerKey> {
        (0..self.dirs.len()).map(|i| cosigner(i as u8 + 10).key().clone()).collect()
    }

    /// Shows the log's checkpoint to one of them, and keeps what it says.
    fn show(&self, log: &Path, i: usize, seconds: u64) -> u16 {
        let w = Witness::open(self.dirs[i].path(), cosigner(i as u8 + 10), vec![trusted()]).unwrap();
        let witness = w.cosigner().key().clone();
        let note = std::fs::read_to_string(log.join("checkpoint")).unwrap();
        let size = trusted().open(note.as_bytes()).unwrap().size;
        let old = Witnessed::read(log, &trusted(), &witness).unwrap().map_or(0, |w| w.checkpoint.size);
        let proof = if old == 0 { Vec::new() } else { Tiles::new(log, size).consistency(old).unwrap() };
        let request = Request { old, proof, checkpoint: note.clone() }.to_string();
        let answer = w.add_checkpoint(request.as_bytes(), seconds);
        if answer.status == 200 {
            let found = Witnessed::join(&note, &answer.body, &trusted(), &witness).unwrap();
            found.place(log, &witness).unwrap();
        }
        answer.status
    }
}

fn demand(log: &Path, known: &[CosignerKey], at_least: usize, since: Option<u64>) -> Report {
    let witnesses = Some(Witnesses { known, at_least, since });
    verify_dir(log, &trusted(), How { witnesses, ..How::default() })
}

fn file(log: &Path, key: &CosignerKey) -> PathBuf {
    let id: String = key.id.iter().map(|b| format!("{b:02x}")).collect();
    log.join("witnessed").join(id)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn as_many_as_asked_for_must_have_seen_it_and_lately_enough() {
    let log = tempfile::tempdir().unwrap();
    let others = Others::new(3);
    let keys = others.keys();
    write(log.path(), 700, "a", 50);
    assert_eq!(demand(log.path(), &keys, 1, None).verdict, Verdict::TooOld);
    assert_eq!(others.show(log.path(), 0, 1000), 200);
    write(log.path(), 1000, "b", 50);
    assert_eq!(others.show(log.path(), 1, 2000), 200);
    let of = |at_least, since| {
        let r = demand(log.path(), &keys, at_least, since);
        (r.verdict, r.witnessed)
    };
    assert_eq!(of(1, None), (Verdict::Intact, Some(1000)));
    assert_eq!(of(2, None), (Verdict::Intact, Some(700)));
    assert_eq!(of(3, None), (Verdict::TooOld, None));
    assert_eq!(of(1, Some(2000)), (Verdict::Intact, Some(1000)));
    assert_eq!(of(1, Some(2001)), (Verdict::TooOld, None));
    assert_eq!(of(2, Some(1500)), (Verdict::TooOld, None));
    // The same again, later: nothing is new, but it was seen.
    assert_eq!(others.show(log.path(), 0, 3000), 200);
    assert_eq!(of(2, Some(1500)), (Verdict::Intact, Some(1000)));
    let r = demand(log.path(), &keys, 2, None);
    let seen: Vec<_> = r.witnesses.iter().map(|s| (s.name.as_str(), s.receipts, s.seconds)).collect();
    assert_eq!(seen, [("witness.test/10", 1000, 3000), ("witness.test/11", 1000, 2000)]);
    // What others say counts for nothing.
    assert_eq!(demand(log.path(), &[cosigner(99).key().clone()], 1, None).verdict, Verdict::TooOld);
}

#[test]
fn a_log_whose_end_was_cut_off_is_not_what_was_seen() {
    let log = tempfile::tempdir().unwrap();
    let others = Others::new(1);
    let keys = others.keys();
    write(log.path(), 300, "a", 50);
    let before = tempfile::tempdir().unwrap();
    copy(log.path(), before.path());
    write(log.path(), 600, "b", 50);
    assert_eq!(others.show(log.path(), 0, 5), 200);
    // Back to the copy, whole and genuine; and on from there.
    let witnessed = file(log.path(), &keys[0]);
    std::fs::create_dir_all(before.path().join("witnessed")).unwrap();
    std::fs::copy(&witnessed, file(before.path(), &keys[0])).unwrap();
    let r = demand(before.path(), &keys, 1, None);
    assert!(r.verdict == Verdict::Tampered && r.problems[0].contains("rolled back"), "{r}");
    write(before.path(), 900, "c", 50);
    let r = demand(before.path(), &keys, 1, None);
    assert!(r.verdict == Verdict::Tampered && r.problems[0].contains("witness.test/10"), "{r}");
    // Without what the witness said it is only unseen, and the witness says no.
    std::fs::remove_file(file(before.path(), &keys[0])).unwrap();
    assert_eq!(demand(before.path(), &keys, 1, None).verdict, Verdict::TooOld);
    assert_eq!(others.show(before.path(), 0, 6), 409);
}

#[test]
fn every_byte_of_what_a_witness_said_counts() {
    let log = tempfile::tempdir().unwrap();
    let others = Others::new(1);
    let keys = others.keys();
    write(log.path(), 20, "a", 50);
    assert_eq!(others.show(log.path(), 0, 5), 200);
    let path = file(log.path(), &keys[0]);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        let r = demand(log.path(), &keys, 1, None);
        assert_eq!(r.verdict, Verdict::Tampered, "byte {at}: {r}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(demand(log.path(), &keys, 1, None).verdict, Verdict::Tampered, "cut at {at}");
    }
    std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(demand(log.path(), &keys, 1, None).verdict, Verdict::Tampered);
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(demand(log.path(), &keys, 1, None).verdict, Verdict::Intact);
    // The log's own note is not a witness's.
    std::fs::copy(log.path().join("checkpoint"), &path).unwrap();
    assert_eq!(demand(log.path(), &keys, 1, None).verdict, Verdict::Tampered);
}

#[test]
fn what_was_seen_of_receipts_that_were_pruned_since_still_counts() {
    use aarm_receipt::log::Retention;
    let log = tempfile::tempdir().unwrap();
    let others = Others::new(2);
    let keys = others.keys();
    // A whole tile, whose hash stays; and one that goes with its receipts.
    write(log.path(), 256, "a", 50);
    assert_eq!(others.show(log.path(), 0, 5), 200);
    write(log.path(), 300, "a", 50);
    assert_eq!(others.show(log.path(), 1, 5), 200);
    write_segments(log.path(), 4);
    let mut w = open(log.path());
    let keep = Retention { bytes: Some(2 * common::SEGMENT), ..Retention::default() };
    let gone = w.expired(&keep, std::time::SystemTime::now()).unwrap().unwrap();
    common::say(&mut w, &gone);
    w.prune(&gone).unwrap();
    drop(w);
    let r = demand(log.path(), &keys, 1, None);
    assert_eq!((r.verdict, r.witnessed), (Verdict::Intact, Some(256)), "{r}");
    assert!(r.pruned > 300, "{r}");
    assert_eq!(demand(log.path(), &keys, 2, None).verdict, Verdict::TooOld);
    // Who has seen what is proven goes on; to the other it cannot be proven.
    assert_eq!(others.show(log.path(), 0, 6), 200);
    assert_eq!(Tiles::new(log.path(), r.signed).consistency(300), None);
}

#[test]
fn what_is_not_the_witnesses_own_is_not_kept() {
    let log = tempfile::tempdir().unwrap();
    write(log.path(), 20, "a", 50);
    let note = std::fs::read_to_string(log.path().join("checkpoint")).unwrap();
    let checkpoint = trusted().open(note.as_bytes()).unwrap();
    let (own, other) = (cosigner(1), cosigner(2));
    let join = |answer: &str| Witnessed::join(&note, answer, &trusted(), own.key());
    let both = format!("{}{}junk\n", other.cosign(&checkpoint, 1), own.cosign(&checkpoint, 7));
    let found = join(&both).unwrap();
    assert_eq!((found.seconds, found.note), (7, format!("{note}{}", own.cosign(&checkpoint, 7))));
    assert_eq!(join(&other.cosign(&checkpoint, 1)), Err(NoteError::NotSigned));
    assert_eq!(join(""), Err(NoteError::NotSigned));
    let forged = other.cosign(&checkpoint, 1).replace("witness.test/2", "witness.test/1");
    assert_eq!(join(&forged), Err(NoteError::NotSigned), "under another id");
    let elsewhere = Checkpoint { size: 21, ..checkpoint };
    assert_eq!(join(&own.cosign(&elsewhere, 7)), Err(NoteError::WrongSignature));
}

#[test]
fn a_proof_is_under_the_checkpoint_that_most_have_seen() {
    let log = tempfile::tempdir().unwrap();
    let others = Others::new(3);
    let keys = others.keys();
    let seen_by = |index: u64| {
        let bundle = Bundle::make(log.path(), &trusted(), index).unwrap();
        let head = bundle.verify(&trusted()).unwrap().checkpoint;
        let by = cosigned(bundle.checkpoint.as_bytes(), &head, &keys).unwrap().len();
        (head.size, by)
    };
    write(log.path(), 300, "a", 50);
    assert_eq!(seen_by(7), (300, 0));
    assert_eq!((others.show(log.path(), 0, 5), others.show(log.path(), 1, 6)), (200, 200));
    write(log.path(), 700, "b", 50);
    assert_eq!(seen_by(7), (300, 2));
    assert_eq!(others.show(log.path(), 2, 7), 200);
    assert_eq!(
        (seen_by(7), seen_by(299), seen_by(300), seen_by(699)),
        ((300, 2), (300, 2), (700, 1), (700, 1))
    );
    write(log.path(), 701, "c", 50);
    assert_eq!(seen_by(700), (701, 0));
    // What is no note is nothing; and what is another log's neither.
    std::fs::write(log.path().join("witnessed/00000000"), vec![0xff; 100]).unwrap();
    std::fs::write(file(log.path(), &keys[0]), "another\n1\nAAAA\n\nx\n").unwrap();
    assert_eq!(seen_by(7), (700, 1));
}

#[test]
fn a_witness_has_one_name_and_one_key_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    assert!(matches!(key(&state, None), Err(WitnessError::NoKey(_))));
    assert!(!state.exists(), "nothing is made without a name");
    for bad in ["", "a b", "a+b", &"x".repeat(256)] {
        assert!(matches!(key(&state, Some(bad)), Err(WitnessError::Name(_))), "{bad}");
    }
    let made = key(&state, Some("w.test/a")).unwrap().key().clone();
    assert_eq!(key(&state, None).unwrap().key(), &made);
    assert_eq!(key(&state, Some("w.test/a")).unwrap().key(), &made);
    assert!(matches!(key(&state, Some("w.test/b")), Err(WitnessError::Other { what: "name", .. })));
    std::fs::remove_file(state.join("witness.pk8")).unwrap();
    assert!(matches!(key(&state, None), Err(WitnessError::Other { what: "key", .. })));
    let w = Witness::open(&state, cosigner(1), vec![]).unwrap();
    let other = aarm_receipt::Keys::from_seeds([7; 32], [8; 32]).unwrap().trusted(ORIGIN);
    assert_eq!(w.know(vec![trusted(), trusted()]).unwrap(), 1);
    assert!(matches!(w.know(vec![trusted(), other]), Err(WitnessError::Logs(_))));
}
