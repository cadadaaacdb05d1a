//! What who relies on witnesses relies on: of one log they never cosign two histories.

use std::path::Path;

use aarm_receipt::cosign::{Cosigner, CosignerKey, cosigned};
use aarm_receipt::note::{Checkpoint, NoteError, VerifierKey};
use aarm_receipt::witness::{Request, Witness, WitnessError};
use aarm_receipt::{Keys, TrustedKeys, merkle, proof};
use ring::signature::{Ed25519KeyPair, KeyPair};

const ORIGIN: &str = "host.test/log";

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn log_key(seed: u8) -> VerifierKey {
    VerifierKey::new(ORIGIN, pair(seed).public_key().as_ref().try_into().unwrap())
}

/// The keys of the log: those of seed 1.
fn log_keys() -> TrustedKeys {
    Keys::from_seeds([1; 32], [2; 32]).unwrap().trusted(ORIGIN)
}

fn cosigner(seed: u8) -> Cosigner {
    Cosigner::new(&format!("witness.test/{seed}"), pair(seed)).unwrap()
}

fn witness(dir: &Path) -> Witness {
    Witness::open(dir, cosigner(9), vec![log_keys()]).unwrap()
}

/// The leaves of a log; `fork`: they are others from there on.
fn leaves(n: u64, fork: u64) -> Vec<merkle::Hash> {
    (0..n).map(|i| merkle::leaf(&[i as u8, u8::from(i >= fork)])).collect()
}

fn root(leaves: &[merkle::Hash]) -> merkle::Hash {
    let mut tree = merkle::Tree::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

fn head(leaves: &[merkle::Hash]) -> Checkpoint {
    Checkpoint { origin: ORIGIN.into(), size: leaves.len() as u64, root: root(leaves) }
}

/// A request to go on from `old`.
fn request(leaves: &[merkle::Hash], old: u64, key: u8) -> Request {
    let ranges = proof::consistency(old, leaves.len() as u64).unwrap_or_default();
    let proof = ranges.iter().map(|r| root(&leaves[r.start as usize..r.end as usize])).collect();
    Request { old, proof, checkpoint: head(leaves).sign(&pair(key)) }
}

fn ask(w: &Witness, r: &Request) -> (u16, String) {
    assert_eq!(Request::parse(r.to_string().as_bytes()).as_ref(), Some(r));
    let answer = w.add_checkpoint(r.to_string().as_bytes(), 1_700_000_000);
    (answer.status, answer.body)
}

#[test]
fn a_log_that_grows_is_cosigned_and_a_verifier_finds_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let w = witness(dir.path());
    let all = leaves(40, 99);
    for (old, new) in [(0, 0), (0, 3), (3, 3), (3, 4), (4, 40)] {
        let r = request(&all[..new], old, 1);
        let (status, lines) = ask(&w, &r);
        assert_eq!(status, 200, "{lines}");
        let note = format!("{}{lines}", r.checkpoint);
        let checkpoint = Checkpoint::open(note.as_bytes(), &log_key(1)).unwrap();
        let known = [cosigner(8).key().clone(), w.cosigner().key().clone()];
        let found = cosigned(note.as_bytes(), &checkpoint, &known).unwrap();
        assert_eq!(found, [(&known[1], 1_700_000_000)]);
        assert_eq!(cosigned(r.checkpoint.as_bytes(), &checkpoint, &known).unwrap(), []);
        // Not of another tree, and not at another time.
        let other = Checkpoint { size: checkpoint.size + 1, ..checkpoint.clone() };
        assert_eq!(cosigned(note.as_bytes(), &other, &known), Err(NoteError::WrongSignature));
    }
    let key = w.cosigner().key();
    assert_eq!(CosignerKey::parse(&key.to_string()).as_ref(), Some(key));
    let text = format!("# both\n{key}\n\n{}\n", cosigner(8).key());
    assert_eq!(CosignerKey::parse_all(&text).unwrap().len(), 2);
    assert!(CosignerKey::parse_all(&format!("{key}\n{key}\n")).is_none(), "one that would count twice");
    assert!(CosignerKey::parse(&log_key(1).to_string()).is_none(), "a log's key");
}

#[test]
fn of_two_histories_only_one_is_cosigned_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let w = witness(dir.path());
    let all = leaves(40, 99);
    assert_eq!(ask(&w, &request(&all[..20], 0, 1)).0, 200);
    drop(w);
    let w = witness(dir.path());
    let conflict = (409, "20\n".to_owned());
    // From the beginning, from elsewhere, back, another tree of the same size, and one that does not begin with what was.
    assert_eq!(ask(&w, &request(&all[..30], 0, 1)), conflict);
    assert_eq!(ask(&w, &request(&all[..30], 10, 1)), conflict);
    assert_eq!(ask(&w, &request(&all[..10], 10, 1)), conflict);
    assert_eq!(ask(&w, &request(&leaves(20, 15), 20, 1)), conflict);
    let (status, why) = ask(&w, &request(&leaves(30, 15), 20, 1));
    assert_eq!(status, 422, "{why}");
    for at in 0..request(&all, 20, 1).proof.len() {
        let mut r = request(&all, 20, 1);
        r.proof[at][0] ^= 1;
        assert_eq!(ask(&w, &r).0, 422);
    }
    assert_eq!(ask(&w, &request(&all[..10], 20, 1)).0, 400, "smaller than the old one");
    assert_eq!(ask(&w, &request(&all, 20, 2)).0, 403, "another key");
    let mut other = request(&all, 20, 1);
    other.checkpoint = Checkpoint { origin: "other.test".into(), ..head(&all) }.sign(&pair(1));
    assert_eq!(ask(&w, &other).0, 404);
    assert_eq!(ask(&w, &request(&all, 20, 1)).0, 200, "what was refused has changed nothing");
}

#[test]
fn a_witness_whose_memory_is_damaged_does_not_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let w = witness(dir.path());
    assert_eq!(ask(&w, &request(&leaves(20, 99), 0, 1)).0, 200);
    assert!(matches!(Witness::open(dir.path(), cosigner(9), vec![]), Err(WitnessError::Locked(_))));
    let state = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    let path = state.into_iter().find(|path| path.file_name().unwrap() != "lock").unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(ask(&w, &request(&leaves(30, 15), 0, 1)).0, 500, "cut to {length}");
    }
    drop(w);
    assert!(matches!(
        Witness::open(dir.path(), cosigner(9), vec![log_keys()]),
        Err(WitnessError::State { .. })
    ));
    std::fs::write(&path, whole).unwrap();
    assert_eq!(ask(&witness(dir.path()), &request(&leaves(30, 99), 20, 1)).0, 200);
}

#[test]
fn whatever_is_no_request_is_answered_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let w = witness(dir.path());
    let good = request(&leaves(5, 9), 0, 1).to_string();
    let status = |bytes: &[u8]| w.add_checkpoint(bytes, 1).status;
    for bad in ["", "old 0", "old 00\n\nx\n", "old -1\n\nx\n", "old 0\nx\n\nx\n", "old 0\n\n", "new 0\n\nx\n"]
    {
        assert!(matches!(status(bad.as_bytes()), 400 | 404), "{bad:?}");
    }
    let long = format!("old 0\n{}\n{}", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n".repeat(64), good);
    assert_eq!(status(long.as_bytes()), 400);
    assert_eq!(status(&vec![b'o'; 1 << 20]), 400);
    for at in 0..good.len() {
        assert_ne!(status(&good.as_bytes()[..at]), 200, "cut at {at}");
        let mut changed = good.clone().into_bytes();
        changed[at] ^= 2;
        assert_ne!(status(&changed), 200, "byte {at}");
    }
    assert_eq!(status(good.as_bytes()), 200);
}

#[test]
fn a_log_whose_keys_were_exchanged_is_cosigned_when_the_new_ones_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let w = witness(dir.path());
    let all = leaves(40, 99);
    assert_eq!(ask(&w, &request(&all[..20], 0, 1)).0, 200);
    // By the new key, which is good from receipt 20 on.
    assert_eq!(ask(&w, &request(&all[..30], 20, 3)).0, 403);
    let new = Keys::from_seeds([3; 32], [4; 32]).unwrap().trusted(ORIGIN);
    let both = TrustedKeys::parse(&format!("{}since 20\n{new}", log_keys())).unwrap();
    w.know(vec![both]).unwrap();
    assert_eq!(ask(&w, &request(&all[..30], 20, 1)).0, 403);
    assert_eq!(ask(&w, &request(&all[..30], 20, 3)).0, 200);
    // What was seen before is not forgotten with the keys.
    assert_eq!(ask(&w, &request(&leaves(40, 25), 20, 3)).0, 409);
    assert_eq!(ask(&w, &request(&all, 30, 3)).0, 200);
}
