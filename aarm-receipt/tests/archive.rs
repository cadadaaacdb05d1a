//! What who keeps an archive relies on: at any moment it verifies, it is whole when it says so, and nothing in it is replaced by another history.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use aarm_receipt::archive::{self, ArchiveError, Copied, Store};
use aarm_receipt::cosign::Cosigner;
use aarm_receipt::log::{Retention, compress};
use aarm_receipt::read::Reader;
use aarm_receipt::source::Source;
use aarm_receipt::verify::{How, Report, Verdict, Witnesses, verify};
use aarm_receipt::witnessed::Witnessed;
use aarm_receipt::{Body, Bundle, Keys, LogWriter, Options};
use ring::signature::Ed25519KeyPair;

use common::{ORIGIN, SEGMENT, append, begin, close, intact, open, say, trusted, write, write_segments};

/// A store in memory, which can fail.
#[derive(Default)]
struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What was put, in this order.
    puts: Mutex<Vec<String>>,
    /// After so many, nothing is put any more.
    room: Mutex<Option<usize>>,
    /// What is put under this name is something else afterwards.
    spoils: Mutex<Option<String>>,
}

impl Memory {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.files.lock().unwrap().get(name).cloned()
    }

    fn set(&self, name: &str, content: Vec<u8>) {
        self.files.lock().unwrap().insert(name.to_owned(), content);
    }

    fn all(&self) -> BTreeMap<String, Vec<u8>> {
        self.files.lock().unwrap().clone()
    }

    /// Segments that were put since the last time.
    fn segments_put(&self) -> Vec<String> {
        let puts = std::mem::take(&mut *self.puts.lock().unwrap());
        puts.into_iter().filter(|name| name.starts_with("segment-")).collect()
    }

    fn size(&self) -> u64 {
        trusted().open(&self.get("checkpoint").unwrap()).unwrap().size
    }

    fn report(&self, how: How<'_>) -> Report {
        verify(self, &trusted(), how)
    }

    fn intact(&self) -> Report {
        let report = self.report(How::default());
        assert_eq!(
            (report.verdict, report.unsigned, report.tiles_missing),
            (Verdict::Intact, 0, 0),
            "{report}"
        );
        report
    }
}

impl Source for Memory {
    fn names(&self, below: &str) -> io::Result<Vec<String>> {
        archive::names(self, below)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let content = self.get(name).ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        Ok(Box::new(io::Cursor::new(content)))
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("memory:").join(name)
    }
}

impl Store for Memory {
    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        let mut content = Vec::new();
        from.read_to_end(&mut content)?;
        if let Some(room) = &mut *self.room.lock().unwrap() {
            *room = room.checked_sub(1).ok_or_else(|| Error::other("it broke off"))?;
        }
        if self.spoils.lock().unwrap().as_deref() == Some(name) {
            let middle = content.len() / 2;
            content[middle] ^= 1;
        }
        self.puts.lock().unwrap().push(name.to_owned());
        self.set(name, content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().unwrap().remove(name);
        Ok(())
    }
}

fn copy(log: &Path, to: &Memory) -> Result<Copied, ArchiveError> {
    archive::copy(&log, to, &trusted(), &|_, _| {})
}

fn compress_all(w: &mut LogWriter) {
    while let Some(path) = w.compressible().map(Path::to_owned) {
        w.place_compressed(&compress(&path).unwrap()).unwrap();
    }
}

/// Prunes all but the segment that is written.
fn prune(log: &Path) {
    let mut w = open(log);
    let keep = Retention { bytes: Some(SEGMENT), ..Retention::default() };
    let gone = w.expired(&keep, SystemTime::now()).unwrap().unwrap();
    say(&mut w, &gone);
    w.prune(&gone).unwrap();
}

#[test]
fn it_grows_with_the_log_and_what_is_final_is_put_once() {
    let (log, to) = (tempfile::tempdir().unwrap(), Memory::default());
    write(log.path(), 300, "1", 7);
    let copied = copy(log.path(), &to).unwrap();
    assert_eq!((copied.receipts, copied.segments), (300, 1), "the one that is written, too");
    assert_eq!(to.intact().receipts, 300);
    // Nothing is new.
    let before = to.all();
    to.puts.lock().unwrap().clear();
    assert_eq!(copy(log.path(), &to).unwrap(), Copied { receipts: 300, ..Copied::default() });
    assert!(to.puts.lock().unwrap().is_empty());
    assert!(to.all() == before);
    write_segments(log.path(), 3);
    copy(log.path(), &to).unwrap();
    let names = |numbers: &[u64]| -> Vec<String> {
        numbers.iter().map(|n| format!("segment-{n:010}.aarm.zst")).collect()
    };
    assert_eq!(to.segments_put(), names(&[0, 1, 2]), "what was written on, and what came");
    to.intact();
    // In the meantime the host compresses them itself.
    write_segments(log.path(), 5);
    compress_all(&mut open(log.path()));
    copy(log.path(), &to).unwrap();
    assert_eq!(to.segments_put(), names(&[2, 3, 4]));
    let report = to.intact();
    assert_eq!(report.receipts, intact(log.path()).receipts);
    let partial = |name: &&String| name.contains(".p/");
    let tree: Vec<String> = to.all().keys().filter(partial).cloned().collect();
    let there = tree.iter().all(|name| log.path().join(name).exists());
    assert!(there, "those of former checkpoints are taken away: {tree:?}");
}

#[test]
fn what_is_not_signed_is_not_archived() {
    let (log, to) = (tempfile::tempdir().unwrap(), Memory::default());
    write(log.path(), 100, "1", 1);
    let checkpoint = std::fs::read(log.path().join("checkpoint")).unwrap();
    write(log.path(), 200, "1", 1);
    std::fs::write(log.path().join("checkpoint"), &checkpoint).unwrap();
    // Of the last one with its signature.
    copy(log.path(), &to).unwrap();
    let report = to.intact();
    assert_eq!((report.receipts, report.signatures), (100, 100));
    // Nor is a checkpoint that is ahead of what was copied of its log.
    let whole = tempfile::tempdir().unwrap();
    write(whole.path(), 300, "1", 1);
    std::fs::copy(whole.path().join("checkpoint"), log.path().join("checkpoint")).unwrap();
    let new = Memory::default();
    assert!(matches!(copy(log.path(), &new), Err(ArchiveError::Log(_))));
    assert!(new.get("checkpoint").is_none());
    assert!(copy(log.path(), &to).is_err());
    assert_eq!(to.intact().receipts, 100);
}

#[test]
fn wherever_it_breaks_off_it_verifies_and_is_gone_on_with() {
    let (log, to) = (tempfile::tempdir().unwrap(), Memory::default());
    write_segments(log.path(), 2);
    copy(log.path(), &to).unwrap();
    let first = to.intact().receipts;
    write_segments(log.path(), 4);
    let all = intact(log.path()).receipts;
    to.puts.lock().unwrap().clear();
    // Each try gets a little further than the one before.
    let mut tries = 0;
    for room in 0.. {
        *to.room.lock().unwrap() = Some(room);
        tries += 1;
        match copy(log.path(), &to) {
            Ok(_) => break,
            Err(ArchiveError::Store { .. }) => {}
            Err(e) => panic!("{e}"),
        }
        let report = to.report(How::default());
        assert_eq!((report.verdict, report.signed), (Verdict::Intact, first), "after {room}: {report}");
    }
    assert_eq!((to.size(), to.intact().receipts), (all, all));
    let puts = to.segments_put();
    let again = puts.len() - puts.iter().collect::<BTreeSet<_>>().len();
    assert!(tries > 10 && again < puts.len(), "{tries} tries: {puts:?}");
    let third = puts.iter().filter(|name| name.starts_with("segment-0000000002")).count();
    let last = puts.iter().filter(|name| name.starts_with("segment-0000000003")).count();
    assert!(third < last, "what was read back is not put again: {puts:?}");
}

#[test]
fn a_first_copy_that_broke_off_is_gone_on_with() {
    let (log, to) = (tempfile::tempdir().unwrap(), Memory::default());
    write_segments(log.path(), 6);
    // Origin, keys, and four segments, each with the list; the edge is not there.
    *to.room.lock().unwrap() = Some(2 + 4 * 2);
    assert!(matches!(copy(log.path(), &to), Err(ArchiveError::Store { .. })));
    assert_eq!(to.segments_put().len(), 4);
    assert_eq!(to.report(How::default()).verdict, Verdict::Tampered, "no checkpoint, no archive");
    *to.room.lock().unwrap() = None;
    copy(log.path(), &to).unwrap();
    assert_eq!(to.segments_put().len(), 3, "the last that was there once more, and the rest");
    to.intact();
}

#[test]
fn a_store_that_gives_back_something_else_is_found_out_before_the_checkpoint_is_put() {
    let log = tempfile::tempdir().unwrap();
    write_segments(log.path(), 2);
    let good = Memory::default();
    copy(log.path(), &good).unwrap();
    let size = good.size();
    write_segments(log.path(), 3);
    let names =
        ["segment-0000000001.aarm.zst", "segment-0000000002.aarm.zst", "tile/0/007", "archive", "log.pub"];
    for name in names {
        let to = Memory { files: Mutex::new(good.all()), ..Memory::default() };
        *to.spoils.lock().unwrap() = Some(name.to_owned());
        let failed = copy(log.path(), &to).unwrap_err();
        assert!(matches!(&failed, ArchiveError::Changed(path) if path.ends_with(name)), "{name}: {failed}");
        assert_eq!((failed.reason(), to.size()), ("changed", size), "{name}");
        *to.spoils.lock().unwrap() = None;
        // What is no list is for people to look at; all else is put again.
        match copy(log.path(), &to) {
            Err(ArchiveError::Damaged { .. }) => assert_eq!(name, "archive"),
            done => assert_eq!(done.map(|c| c.receipts).unwrap(), to.intact().receipts, "{name}"),
        }
    }
}

#[test]
fn every_object_counts() {
    let (log, to) = (tempfile::tempdir().unwrap(), Memory::default());
    write_segments(log.path(), 2);
    copy(log.path(), &to).unwrap();
    let is_tile = |name: &str| name.starts_with("tile/");
    for (name, whole) in to.all() {
        to.remove(&name).unwrap();
        let report = to.report(How::default());
        match is_tile(&name) {
            true => assert_eq!(report.verdict, Verdict::Intact, "without {name}: {report}"),
            false => assert_eq!(report.verdict, Verdict::Tampered, "without {name}: {report}"),
        }
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            to.set(&name, changed);
            let report = to.report(How::default());
            assert_eq!(report.verdict, Verdict::Tampered, "{name}, byte {at}: {report}");
        }
        // A tile says no more then than if it were not there. Of the last segment that may be the end of a frame with all receipts in it.
        to.set(&name, whole[..whole.len() - 1].to_vec());
        let is_intact = to.report(How::default()).verdict == Verdict::Intact;
        assert_eq!(is_intact, is_tile(&name), "{name} is cut");
        to.set(&name, whole);
    }
    to.intact();
    // A list may leave out what it likes.
    let list = String::from_utf8(to.get("archive").unwrap()).unwrap();
    for other in ["segments 0 1", "segments 1 1", "segments 0 3", "segments 0 1048576", "segments 0 0"] {
        to.set("archive", list.replace("segments 0 2", other).into_bytes());
        assert_eq!(to.report(How::default()).verdict, Verdict::Tampered, "{other}");
    }
}

#[test]
fn an_archive_that_is_older_than_what_was_seen_is_found_out() {
    let (log, to) = (tempfile::tempdir().unwrap(), Memory::default());
    write_segments(log.path(), 2);
    copy(log.path(), &to).unwrap();
    let old = to.all();
    write_segments(log.path(), 3);
    copy(log.path(), &to).unwrap();
    let seen = trusted().open(&to.get("checkpoint").unwrap()).unwrap();
    let how = How { seen: Some(&seen), ..How::default() };
    assert_eq!((to.report(how).verdict, to.report(how).seen), (Verdict::Intact, Some(seen.size)));
    *to.files.lock().unwrap() = old;
    assert_eq!(to.intact().receipts, to.size(), "it is genuine");
    assert_eq!(to.report(how).verdict, Verdict::Tampered, "and rolled back");
    // The log goes on with it all the same.
    copy(log.path(), &to).unwrap();
    assert_eq!(to.report(how).verdict, Verdict::Intact);
}

#[test]
fn what_is_archived_is_not_replaced_by_another_history() {
    let to = Memory::default();
    let (log, copied, other) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(log.path(), 1000, "1", 3);
    for name in ["origin", "log.pub", "checkpoint", "segment-0000000000.aarm"] {
        std::fs::copy(log.path().join(name), copied.path().join(name)).unwrap();
    }
    write(log.path(), 1600, "1", 3);
    copy(log.path(), &to).unwrap();
    let before = to.all();
    // The log as it was before, by whoever put that back.
    let failed = copy(copied.path(), &to).unwrap_err();
    assert!(matches!(failed, ArchiveError::Ahead { archived: 1600, signed: 1000 }), "{failed}");
    assert_eq!(failed.reason(), "disagrees");
    // It went on, with the same keys.
    write(copied.path(), 2000, "2", 3);
    assert!(matches!(copy(copied.path(), &to), Err(ArchiveError::Diverged(1600))));
    // Another one.
    let keys = aarm_receipt::Keys::from_seeds([1; 32], [2; 32]).unwrap();
    let options = aarm_receipt::Options { segment_bytes: SEGMENT };
    let (mut w, _) = LogWriter::open(other.path(), keys, "other.test/log", options).unwrap();
    append(&mut w, None, &common::light(1, "x"));
    w.checkpoint().unwrap();
    let done = archive::copy(&other.path(), &to, w.trusted(), &|_, _| {});
    assert!(matches!(done, Err(ArchiveError::Other(_))));
    assert!(to.all() == before, "nothing was changed");
    copy(log.path(), &to).unwrap();
}

#[test]
fn of_a_log_that_is_pruned_it_keeps_all_and_a_new_one_what_is_left() {
    let (log, to) = (tempfile::tempdir().unwrap(), Memory::default());
    write_segments(log.path(), 3);
    copy(log.path(), &to).unwrap();
    write_segments(log.path(), 5);
    let old = to.all();
    copy(log.path(), &to).unwrap();
    prune(log.path());
    write_segments(log.path(), 6);
    copy(log.path(), &to).unwrap();
    let (here, there) = (intact(log.path()), to.intact());
    assert!(here.pruned > 0 && there.pruned == 0);
    assert_eq!(here.receipts, there.receipts);
    // One that begins now has what is left, and what the rest came to.
    let late = Memory::default();
    copy(log.path(), &late).unwrap();
    assert_eq!(late.intact().pruned, here.pruned);
    write_segments(log.path(), 7);
    copy(log.path(), &late).unwrap();
    prune(log.path());
    copy(log.path(), &late).unwrap();
    assert_eq!(late.intact().pruned, here.pruned, "its own beginning");
    // One that has missed something stays what it is.
    let missed = Memory { files: Mutex::new(old), ..Memory::default() };
    let before = missed.all();
    let failed = copy(log.path(), &missed).unwrap_err();
    assert!(matches!(failed, ArchiveError::Gap(3)), "{failed}");
    assert!(missed.all() == before);
    missed.intact();
}

#[test]
fn witnesses_are_heard_from_an_archive_as_from_the_log() {
    let (log, to) = (tempfile::tempdir().unwrap(), Memory::default());
    let pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let witness = Cosigner::new("witness.test/9", pair).unwrap();
    let known = [witness.key().clone()];
    let see = |seconds: u64| {
        let note = std::fs::read_to_string(log.path().join("checkpoint")).unwrap();
        let checkpoint = trusted().open(note.as_bytes()).unwrap();
        let answer = witness.cosign(&checkpoint, seconds);
        let seen = Witnessed::join(&note, &answer, &trusted(), &known[0]).unwrap();
        seen.place(log.path(), &known[0]).unwrap();
    };
    let asked = |since: u64| {
        let witnesses = Some(Witnesses { known: &known, at_least: 1, since: Some(since) });
        to.report(How { witnesses, ..How::default() })
    };
    write(log.path(), 500, "1", 3);
    copy(log.path(), &to).unwrap();
    assert_eq!(asked(100).verdict, Verdict::TooOld);
    see(100);
    write(log.path(), 600, "1", 3);
    copy(log.path(), &to).unwrap();
    assert_eq!((asked(100).verdict, asked(100).witnessed), (Verdict::Intact, Some(500)));
    assert_eq!(asked(101).verdict, Verdict::TooOld);
    // Nothing has come, but it was seen again.
    see(200);
    copy(log.path(), &to).unwrap();
    assert_eq!((asked(200).verdict, asked(200).witnessed), (Verdict::Intact, Some(600)));
    // What it has seen of a later checkpoint is archived with that.
    let checkpoint = std::fs::read(log.path().join("checkpoint")).unwrap();
    write(log.path(), 700, "1", 3);
    see(300);
    std::fs::write(log.path().join("checkpoint"), checkpoint).unwrap();
    copy(log.path(), &to).unwrap();
    assert_eq!((asked(200).verdict, asked(200).witnessed), (Verdict::Intact, Some(600)));
}

#[test]
fn proofs_and_receipts_are_read_from_an_archive_as_from_the_log() {
    let (log, to) = (tempfile::tempdir().unwrap(), Memory::default());
    write_segments(log.path(), 2);
    let mut w = open(log.path());
    begin(&mut w, 7);
    for n in 0..500 {
        append(&mut w, Some(7), &common::light(n, "x"));
    }
    close(&mut w, 7);
    w.checkpoint().unwrap();
    copy(log.path(), &to).unwrap();
    let all = |source: &dyn Source, from| -> Vec<(u64, Vec<u8>)> {
        Reader::open(source, from).unwrap().map(Result::unwrap).collect()
    };
    let size = w.size();
    assert!(all(&to, 0) == all(&log.path(), 0));
    assert!(all(&to, size - 3) == all(&log.path(), size - 3));
    for index in [0, 255, size / 2, size - 1] {
        let bundle = Bundle::make(&to, &trusted(), index).unwrap();
        assert_eq!(bundle, Bundle::make(log.path(), &trusted(), index).unwrap());
        bundle.verify(&trusted()).unwrap();
    }
    let history = |source: &dyn Source| {
        let mut out = Vec::new();
        let n = aarm_receipt::history::write(source, &trusted(), &common::uuid(7), &mut out).unwrap();
        (n, out)
    };
    assert!(history(&to) == history(&log.path()) && history(&to).0 == 502);
    assert_eq!(to.intact().origin, ORIGIN);
}

#[test]
fn a_log_whose_keys_were_exchanged_is_archived_and_verifies_wherever_that_breaks_off() {
    let dir = tempfile::tempdir().unwrap();
    let (log, keys) = (dir.path().join("log"), dir.path().join("keys"));
    let open = || {
        let keys = Keys::open_or_create(&keys).unwrap().0;
        LogWriter::open(&log, keys, ORIGIN, Options { segment_bytes: SEGMENT }).unwrap().0
    };
    let more = |n: u64| {
        let mut w = open();
        w.rotate(|next| {
            let (checkpoint, receipt) = (next.log.to_string(), next.receipt.to_string());
            common::encoded(None, &Body::Keys { checkpoint: &checkpoint, receipt: &receipt })
        })
        .unwrap();
        (0..n).for_each(|_| append(&mut w, None, &Body::Stop { version: "1" }));
        w.checkpoint().unwrap();
        w.trusted().clone()
    };
    let first = more(5);
    let early = Memory::default();
    archive::copy(&log.as_path(), &early, &first, &|_, _| {}).unwrap();
    aarm_receipt::keys::prepare(&keys, Default::default(), ORIGIN).unwrap();
    more(300);
    aarm_receipt::keys::prepare(&keys, Default::default(), ORIGIN).unwrap();
    more(7);
    // One that was there before, and one that is made now; each breaks off after every file.
    for begun in [early.all(), BTreeMap::new()] {
        let whole = Memory::default();
        *whole.files.lock().unwrap() = begun.clone();
        archive::copy(&log.as_path(), &whole, &first, &|_, _| {}).unwrap();
        let report = verify(&whole, &first, How::default());
        assert_eq!((report.verdict, report.signed), (Verdict::Intact, 314), "{report}");
        assert_eq!(report.keys_since, [0, 6, 307]);
        let puts = whole.puts.lock().unwrap().len();
        for room in 0..puts {
            let part = Memory::default();
            *part.files.lock().unwrap() = begun.clone();
            *part.room.lock().unwrap() = Some(room);
            assert!(archive::copy(&log.as_path(), &part, &first, &|_, _| {}).is_err(), "{room}");
            if part.get("checkpoint").is_some() {
                let report = verify(&part, &first, How::default());
                assert_ne!(report.verdict, Verdict::Tampered, "after {room} of {puts}: {report}");
            }
            *part.room.lock().unwrap() = None;
            archive::copy(&log.as_path(), &part, &first, &|_, _| {}).unwrap();
            let (part, whole) = (part.all(), whole.all());
            let same = whole.iter().all(|(name, content)| part.get(name) == Some(content));
            // Tiles that are not whole may stay from where it broke off.
            let more = part.keys().filter(|name| !whole.contains_key(*name) && !name.contains(".p/")).count();
            assert!(same && more == 0, "after {room} of {puts}");
        }
    }
}

#[test]
fn the_texts_of_policies_are_archived_before_the_receipts_that_name_them() {
    let log = tempfile::tempdir().unwrap();
    let mut w = open(log.path());
    aarm_receipt::policies::place(log.path(), "{}").unwrap();
    let hash = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let policy = aarm_receipt::receipt::PolicyRef { name: "p", version: "1", hash };
    append(&mut w, None, &Body::Policy { policy, file: b"/f", mode: "enforce", rules: 1 });
    w.checkpoint().unwrap();
    let to = Memory::default();
    copy(log.path(), &to).unwrap();
    assert_eq!(to.intact().policies, 1);
    let puts = to.puts.lock().unwrap();
    let at = |begin: &str| puts.iter().position(|name| name.starts_with(begin)).unwrap();
    assert!(at("policies/") < at("segment-"));
}
