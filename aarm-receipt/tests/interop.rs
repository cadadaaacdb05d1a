//! What we write is what other implementations of the same specifications read, and the other way round.

mod common;

use std::path::Path;

use aarm_receipt::canonical::Encoded;
use aarm_receipt::receipt::Seq;
use aarm_receipt::{Body, Bundle, Common, Keys, LogWriter, Options, encode, merkle, proof, tile};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::Sha256;
use tlog_tiles::{Checkpoint, Hash, Tile, TileHashReader, TileReader};

const ORIGIN: &str = "aarm.test/interop";
/// Whole and partial tiles on two levels.
const SIZE: u64 = 256 * 3 + 77;

fn receipt(n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let seq = Some(Seq { cpu: 0, n });
    let common = Common { time_ns: n, boot_ns: n, host: &Encoded::text(b"h"), session: None, seq };
    encode(&common, &Body::Stop { version: "1" }, &mut out);
    out
}

/// A log of `size` receipts; the text of its public keys.
fn log(dir: &Path, size: u64) -> String {
    let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap();
    let (mut w, _) = LogWriter::open(dir, keys, ORIGIN, Options::default()).unwrap();
    for n in 0..size {
        w.append(&mut receipt(n), false).unwrap();
        // Checkpoints of sizes that are no tile's, too.
        if n == 100 || n == 500 {
            w.checkpoint().unwrap();
        }
    }
    w.checkpoint().unwrap();
    w.trusted().to_string()
}

/// The tiles of a log, as another implementation asks for them.
struct Files<'a>(&'a Path);

impl TileReader for Files<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &Tile| {
            // It names tiles of any height, we have only one.
            let path = tile.path().replacen("tile/8/", "tile/", 1);
            std::fs::read(self.0.join(&path)).map_err(|e| panic!("{path}: {e}"))
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

fn our(hash: &Hash) -> merkle::Hash {
    hash.0
}

#[test]
fn another_reader_of_tiles_finds_the_tree_that_was_signed_and_proves_receipts_from_it() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), SIZE);
    let note = std::fs::read(dir.path().join("checkpoint")).unwrap();
    let head = Checkpoint::from_bytes(signed_note::Note::from_bytes(&note).unwrap().text()).unwrap();
    assert_eq!((head.origin(), head.size()), (ORIGIN, SIZE));
    let files = Files(dir.path());
    let reader = TileHashReader::new(head.size(), *head.hash(), &files);
    assert_eq!(tlog_tiles::tree_hash(SIZE, &reader).unwrap(), *head.hash());
    let mut tiles = tile::Tiles::new(dir.path(), SIZE);
    for index in [0, 1, 255, 256, 511, 767, 768, SIZE - 2, SIZE - 1] {
        let theirs = tlog_tiles::prove_record(SIZE, index, &reader).unwrap();
        let ours: Vec<_> =
            proof::inclusion(index, SIZE).unwrap().iter().map(|r| tiles.subtree(r).unwrap()).collect();
        assert_eq!(theirs.iter().map(our).collect::<Vec<_>>(), ours, "receipt {index}");
    }
    for old in [1, 2, 255, 256, 257, 512, 768, SIZE - 1] {
        let theirs = tlog_tiles::prove_tree(SIZE, old, &reader).unwrap();
        let ours: Vec<_> =
            proof::consistency(old, SIZE).unwrap().iter().map(|r| tiles.subtree(r).unwrap()).collect();
        assert_eq!(theirs.iter().map(our).collect::<Vec<_>>(), ours, "from {old}");
    }
}

#[test]
fn another_tree_has_the_same_roots_and_proofs() {
    let entries: Vec<Vec<u8>> = (0..130).map(receipt).collect();
    let mut theirs = ct_merkle::mem_backed_tree::MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut ours = merkle::Tree::default();
    for (n, entry) in entries.iter().enumerate() {
        theirs.push(entry.clone());
        ours.push(merkle::leaf(entry));
        assert_eq!(theirs.root().as_bytes()[..], ours.root(), "{} receipts", n + 1);
        let size = n as u64 + 1;
        for index in [0, size / 3, size - 1] {
            let bytes = theirs.prove_inclusion(index as usize);
            let hashes: Vec<merkle::Hash> = bytes.as_bytes().as_chunks().0.to_vec();
            let root = proof::root(&merkle::leaf(&entries[index as usize]), index, size, &hashes);
            assert_eq!(root, Some(ours.root()), "{index} of {size}");
        }
        for old in [1, size / 2].into_iter().filter(|old| *old > 0 && *old < size) {
            let mut older = merkle::Tree::default();
            entries[..old as usize].iter().for_each(|e| older.push(merkle::leaf(e)));
            let bytes = theirs.prove_consistency((size - old) as usize);
            let hashes: Vec<merkle::Hash> = bytes.as_bytes().as_chunks().0.to_vec();
            assert!(
                proof::is_consistent((old, &older.root()), (size, &ours.root()), &hashes),
                "{old} in {size}"
            );
        }
    }
}

#[test]
fn another_reader_of_notes_believes_our_checkpoints_and_no_changed_ones() {
    let dir = tempfile::tempdir().unwrap();
    let keys = log(dir.path(), 5);
    let verifier = signed_note::StandardVerifier::new(keys.lines().next().unwrap()).unwrap();
    let known = signed_note::VerifierList::new(vec![Box::new(verifier)]);
    let note = std::fs::read(dir.path().join("checkpoint")).unwrap();
    let (by_us, by_others) = signed_note::Note::from_bytes(&note).unwrap().verify(&known).unwrap();
    assert_eq!((by_us.len(), by_others.len()), (1, 0));
    let changed = String::from_utf8(note).unwrap().replacen("\n5\n", "\n6\n", 1);
    assert!(signed_note::Note::from_bytes(changed.as_bytes()).unwrap().verify(&known).is_err());
}

/// What `docs/verify-proof.py`, which knows the specifications only, says of a proof.
fn script(log: &Path, proof: &[u8]) -> std::process::Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/verify-proof.py");
    let (file, key) = (log.join("proof"), log.join("log.pub"));
    // The one that comes first need not be the distribution's, whose package it is.
    let has = |python: &&str| {
        let import = std::process::Command::new(python).args(["-c", "import cryptography"]).output();
        import.is_ok_and(|o| o.status.success())
    };
    let python =
        ["python3", "/usr/bin/python3"].into_iter().find(has).expect("`cargo xtask setup` installs it");
    std::fs::write(&file, proof).unwrap();
    std::process::Command::new(python).arg(&script).args([&file, &key]).output().unwrap()
}

#[test]
fn a_script_that_knows_the_specifications_only_believes_a_history_and_no_changed_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = common::open(dir.path());
    common::start(&mut w, false);
    common::begin(&mut w, 1);
    (0..3).for_each(|n| common::append(&mut w, Some(1), &common::light(n, "a")));
    w.checkpoint().unwrap();
    let write = || {
        let mut history = Vec::new();
        let uuid = common::uuid(1);
        aarm_receipt::history::write(dir.path(), &common::trusted(), &uuid, &mut history).unwrap();
        history
    };
    let open = write();
    common::close(&mut w, 1);
    w.checkpoint().unwrap();
    let whole = write();
    let good = script(dir.path(), &whole);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert_eq!(good.stdout.iter().filter(|b| **b == b'\n').count(), 5);
    let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
    let without = |n: usize| [&lines[..n], &lines[n + 1..]].concat().concat();
    let mut changed = whole.clone();
    changed[20] ^= 1;
    for (n, bad) in [open, without(0), without(1), without(3), changed].iter().enumerate() {
        let bad = script(dir.path(), bad);
        assert_eq!(bad.status.code(), Some(1), "change {n}: {}", String::from_utf8_lossy(&bad.stderr));
        assert!(bad.stdout.is_empty());
    }
}

#[test]
fn a_script_that_knows_the_specifications_only_believes_a_bundle_and_no_changed_one() {
    let dir = tempfile::tempdir().unwrap();
    let keys = log(dir.path(), SIZE);
    let trusted = aarm_receipt::TrustedKeys::parse(&keys).unwrap();
    let bundle = Bundle::make(dir.path(), &trusted, 300).unwrap();
    let run = |text: &str| script(dir.path(), text.as_bytes());
    let good = run(&bundle.to_string());
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert_eq!(good.stdout.trim_ascii_end(), bundle.receipt);
    let mut others = [(); 4].map(|()| bundle.clone());
    others[0].index = 301;
    others[1].receipt[10] ^= 1;
    others[2].proof[0][0] ^= 1;
    others[3].checkpoint = bundle.checkpoint.replacen(&SIZE.to_string(), &(SIZE + 1).to_string(), 1);
    for (n, other) in others.iter().enumerate() {
        let bad = run(&other.to_string());
        assert_eq!(bad.status.code(), Some(1), "change {n}: {}", String::from_utf8_lossy(&bad.stderr));
        assert!(bad.stdout.is_empty());
    }
}

/// The checkpoint's signature is one that openssl finds, too, over the text that the specification names.
#[test]
fn openssl_believes_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let keys = log(dir.path(), 3);
    let note = std::fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    let (text, signatures) = note.split_once("\n\n").unwrap();
    let signature = BASE64.decode(signatures.trim_end().rsplit(' ').next().unwrap()).unwrap();
    let key = BASE64.decode(keys.lines().next().unwrap().rsplit('+').next().unwrap()).unwrap();
    // SubjectPublicKeyInfo of Ed25519 (RFC 8410), and the key.
    let mut der = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    der.extend(&key[1..]);
    let at = |name: &str| dir.path().join(name);
    let run = |message: &str| {
        std::fs::write(at("text"), message).unwrap();
        std::fs::write(at("signature"), &signature[4..]).unwrap();
        std::fs::write(at("key"), &der).unwrap();
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey"]).arg(at("key"));
        openssl.arg("-in").arg(at("text")).arg("-sigfile").arg(at("signature")).output().unwrap()
    };
    let good = run(&format!("{text}\n"));
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(!run(text).status.success());
}

/// A key is for its own checkpoints only, says the script as well.
#[test]
fn a_script_that_knows_the_specifications_only_follows_an_exchange_of_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, keys) = (dir.path().join("log"), dir.path().join("keys"));
    let open = || {
        let keys = aarm_receipt::Keys::open_or_create(&keys).unwrap().0;
        LogWriter::open(&logs, keys, common::ORIGIN, Options { segment_bytes: common::SEGMENT }).unwrap().0
    };
    let mut w = open();
    common::append(&mut w, None, &common::light(0, "a"));
    w.checkpoint().unwrap();
    let first = w.trusted().to_string();
    drop(w);
    aarm_receipt::keys::prepare(&keys, Default::default(), common::ORIGIN).unwrap();
    let mut w = open();
    w.rotate(|next| {
        let (checkpoint, receipt) = (next.log.to_string(), next.receipt.to_string());
        common::encoded(None, &Body::Keys { checkpoint: &checkpoint, receipt: &receipt })
    })
    .unwrap();
    let exchange = std::fs::read(logs.join("rotations/2")).unwrap();
    common::append(&mut w, None, &common::light(1, "b"));
    w.checkpoint().unwrap();
    let all = w.trusted().to_string();
    let newer = Bundle::make(logs.as_path(), w.trusted(), 0).unwrap().to_string();
    let proven = |proof: &[u8], keys: &str| {
        std::fs::write(logs.join("log.pub"), keys).unwrap();
        script(&logs, proof).status.success()
    };
    assert!(proven(&exchange, &first) && proven(&exchange, &all) && proven(newer.as_bytes(), &all));
    assert!(!proven(newer.as_bytes(), &first) && !proven(newer.as_bytes(), &format!("{all}until 2\n")));
}
