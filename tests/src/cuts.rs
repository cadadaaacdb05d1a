//! The machine that finds a disk as a loss of power has left it, and writes receipts to it: `aarm-vm-tests cuts SEED`.
//!
//! Asks its host for tasks ([`line`]), and says what is on disk and what it has made durable. With each task the disk is another one; that of the
//! last is forgotten with its file system. Must never: say that something is durable before the log does.

mod line;
mod receipts;
mod system;

use std::path::Path;
use std::time::{Instant, SystemTime};

use aarm_receipt::index;
use aarm_receipt::log::{Expired, Retention, SEGMENT_MIN, compress};
use aarm_receipt::note::Checkpoint;
use aarm_receipt::receipt::check;
use aarm_receipt::verify::{How, Report, Verdict, verify_dir};
use aarm_receipt::{Body, Keys, LogError, LogWriter, Opened, Options};
use anyhow::{Context, Result, bail, ensure};

use self::line::{ask, say};
use self::receipts::{exact, receipt};
use crate::differential::rng::Rng;
use crate::escapes::modules;

const LOG: &str = "/mnt/log";
const ORIGIN: &str = "cuts.test/log";
/// Most receipts between two syncs.
const BATCH: u64 = 80;
/// A checkpoint after so many syncs, on average; an old segment is looked after with every so many of those.
const SIGNED: usize = 6;
const TIDY: usize = 6;
/// The writer is killed after so many syncs, on average, when it has written so many receipts more.
const KILLED: usize = 25;
const UNSYNCED: u64 = 700;
/// What is to fail has done so after so many syncs.
const PATIENCE: u64 = 3000;

/// What is there of what was promised.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// All of it.
    Kept,
    /// Some, and nothing else: the disk has lied.
    Lies,
    /// All of it, but writing may fail.
    Fails,
    /// All of it, and there is no room for a while.
    Full,
    /// It fails when the file system is shut down.
    Shutdown,
    /// It fails when the file system becomes read-only.
    ReadOnly,
}

struct Task {
    epoch: u64,
    syncs: u64,
    mode: Mode,
    /// The checkpoint that was promised last.
    seen: Option<Checkpoint>,
}

impl Task {
    fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let ["go", epoch, syncs, mode, size, root] = words[..] else { bail!("a task: {text}") };
        let mode = match mode {
            "kept" => Mode::Kept,
            "lies" => Mode::Lies,
            "fails" => Mode::Fails,
            "full" => Mode::Full,
            "shutdown" => Mode::Shutdown,
            "readonly" => Mode::ReadOnly,
            _ => bail!("a task: {text}"),
        };
        let mut seen = None;
        if root != "-" {
            let bytes =
                (0..64).step_by(2).map(|at| u8::from_str_radix(root.get(at..at + 2).unwrap_or(""), 16));
            let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
            let root = bytes.try_into().ok().context("a root has 32 bytes")?;
            seen = Some(Checkpoint { origin: ORIGIN.to_owned(), size: size.parse()?, root });
        }
        Ok(Self { epoch: epoch.parse()?, syncs: syncs.parse()?, mode, seen })
    }

    /// Whether writing may fail.
    fn may_fail(&self) -> bool {
        !matches!(self.mode, Mode::Kept | Mode::Lies | Mode::Full)
    }
}

fn keys() -> Result<Keys> {
    Keys::from_seeds([1; 32], [2; 32]).context("the seeds are not keys")
}

/// Opens the log, and says what is there.
fn open() -> Result<(LogWriter, Opened)> {
    let began = Instant::now();
    let options = Options { segment_bytes: SEGMENT_MIN };
    let (log, opened) = LogWriter::open(Path::new(LOG), keys()?, ORIGIN, options)?;
    let took = began.elapsed().as_millis();
    say(format_args!("opened {} {} {} {took}", opened.size, opened.signed, opened.bytes_cut))?;
    Ok((log, opened))
}

/// What a verifier says who remembers a checkpoint. Making the index once more takes as long as all else, so it is not asked for each time.
fn verify(task: &Task, seen: Option<&Checkpoint>) -> Result<Report> {
    let how = How { seen, index: task.epoch.is_multiple_of(2), ..How::default() };
    Ok(verify_dir(Path::new(LOG), &keys()?.trusted(ORIGIN), how))
}

/// Signs the log, and says so.
fn sign(log: &mut LogWriter) -> Result<Checkpoint> {
    let c = log.checkpoint()?;
    signed(&c)?;
    Ok(c)
}

fn signed(c: &Checkpoint) -> Result<()> {
    let root: String = c.root.iter().map(|byte| format!("{byte:02x}")).collect();
    say(format_args!("signed {} {root}", c.size))
}

/// The same as a daemon does it: another thread places the checkpoint, and more is written meanwhile.
fn sign_beside(log: &mut LogWriter, task: &Task, rng: &mut Rng) -> Result<()> {
    let mut signing = log.begin_checkpoint()?.context("there is nothing to sign")?;
    let placing = std::thread::spawn(move || {
        let became = signing.place();
        (signing, became)
    });
    let written = write_some(log, task, rng);
    let (signing, became) = placing.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
    let placed = log.placed(signing, became);
    written?;
    signed(&placed?)
}

/// What a verifier says of a log that nobody has opened since the power went.
fn as_left(task: &Task) -> Result<()> {
    let Some(seen) = &task.seen else { return Ok(()) };
    let report = verify(task, Some(seen))?;
    if task.mode != Mode::Lies {
        // What was not made durable may be half there, which is no tampering.
        ensure!(
            report.verdict != Verdict::Tampered && report.seen == Some(seen.size),
            "as it was left: {report}"
        );
        return Ok(());
    }
    let (there, _) = exact(Path::new(LOG), 0, task.epoch)?;
    let lacks = there < seen.size;
    ensure!(report.verdict != Verdict::Intact || !lacks, "{there} of {} are there: {report}", seen.size);
    Ok(())
}

/// Looks after old segments, as a daemon does by the way.
fn tidy(log: &mut LogWriter, task: &Task, rng: &mut Rng) -> Result<()> {
    // What does not come about is tried again.
    let must = task.mode == Mode::Kept;
    let tolerated = |done: Result<()>| done.or_else(|e| if must { Err(e) } else { Ok(()) });
    if rng.one_in(2) {
        tolerated(index_one(log))?;
    }
    if rng.one_in(TIDY) {
        tolerated(compress_one(log))?;
    }
    let keep = Retention { bytes: Some(2 * SEGMENT_MIN), ..Retention::default() };
    let gone = match log.expired(&keep, SystemTime::now()) {
        Err(_) if !must => return Ok(()),
        gone => gone?,
    };
    let Some(gone) = gone else { return Ok(()) };
    let Expired { before, segments, bytes, why, .. } = gone;
    let mut receipt = Vec::new();
    receipts::encoded(log.size(), task.epoch, &Body::Prune { before, segments, bytes, why }, &mut receipt);
    log.append(&mut receipt, true)?;
    sign(log)?;
    tolerated(log.prune(&gone).map_err(Into::into))
}

fn index_one(log: &mut LogWriter) -> Result<()> {
    let Some((number, name)) = log.unindexed() else { return Ok(()) };
    index::make(Path::new(LOG), number, &name)?;
    log.indexed(number);
    Ok(())
}

fn compress_one(log: &mut LogWriter) -> Result<()> {
    let Some(path) = log.compressible() else { return Ok(()) };
    let compressed = compress(path)?;
    log.place_compressed(&compressed)?;
    Ok(())
}

/// Appends so many receipts.
fn append(log: &mut LogWriter, task: &Task, receipts: u64) -> Result<()> {
    let mut bytes = Vec::new();
    for _ in 0..receipts {
        receipt(log.size(), task.epoch, &mut bytes);
        let weighs = check(&bytes)?.weighs;
        log.append(&mut bytes, weighs)?;
    }
    Ok(())
}

/// Appends some, and makes them durable.
fn write_some(log: &mut LogWriter, task: &Task, rng: &mut Rng) -> Result<()> {
    append(log, task, 1 + rng.number() % BATCH)?;
    say(format_args!("durable {}", log.sync()?))
}

/// The same, and at times what a daemon does besides.
fn turn(log: &mut LogWriter, task: &Task, rng: &mut Rng) -> Result<()> {
    write_some(log, task, rng)?;
    if !rng.one_in(SIGNED) {
        return Ok(());
    }
    if rng.one_in(2) {
        sign_beside(log, task, rng)?
    } else {
        _ = sign(log)?
    }
    tidy(log, task, rng)
}

/// Writes receipts until there were so many syncs and `enough` says so. Where it fails the writer is left as it is; without one, there was none
/// at that moment.
fn write(
    slot: &mut Option<LogWriter>,
    task: &Task,
    rng: &mut Rng,
    syncs: u64,
    enough: impl Fn(&LogWriter) -> bool,
) -> Result<()> {
    let ends = rng.number() % syncs.max(1);
    let mut is_full = false;
    for sync in 0..PATIENCE {
        let log = slot.as_mut().context("there is no writer")?;
        let goes_on = is_full || matches!(task.mode, Mode::Shutdown | Mode::ReadOnly);
        if sync >= syncs && !goes_on && enough(log) {
            return Ok(());
        }
        if sync == ends {
            // With something that was appended, and is not durable.
            append(log, task, rng.number() % BATCH)?;
            match task.mode {
                Mode::Shutdown => system::shut_down(rng)?,
                Mode::ReadOnly => system::make_readonly()?,
                Mode::Full => system::fill()?,
                _ => {}
            }
            is_full = task.mode == Mode::Full;
        }
        match turn(log, task, rng) {
            Err(e) if is_full && matches!(e.downcast_ref(), Some(LogError::NoSpace { .. })) => {
                // What was appended before can be made durable.
                say(format_args!("durable {}", log.sync()?))?;
                system::make_room()?;
                is_full = false;
            }
            done => done?,
        }
        // Nor would another writer find room.
        if !is_full && rng.one_in(KILLED) {
            killed(slot, task)?;
        }
    }
    bail!("{PATIENCE} syncs are not enough")
}

/// The writer is killed, and another goes on with what it has left.
fn killed(slot: &mut Option<LogWriter>, task: &Task) -> Result<()> {
    let mut log = slot.take().context("there is no writer")?;
    let durable = log.durable();
    let appended = append(&mut log, task, UNSYNCED);
    // Who has failed fails in everything.
    if appended.is_err() {
        *slot = Some(log);
        return appended;
    }
    drop(log);
    let (log, opened) = open()?;
    let (there, failed) = exact(Path::new(LOG), durable, task.epoch)?;
    if let Some(e) = failed.filter(|_| !task.may_fail()) {
        return Err(e.into());
    }
    ensure!(there.max(durable) == opened.size, "{there} receipts are read, and {} are there", opened.size);
    *slot = Some(log);
    Ok(())
}

/// Who could not write once says so whatever is asked of him.
fn poisoned(log: &mut LogWriter, task: &Task) -> Result<()> {
    let mut bytes = Vec::new();
    receipt(log.size(), task.epoch, &mut bytes);
    let asked = [log.append(&mut bytes, true).err(), log.sync().err(), log.checkpoint().err()];
    ensure!(asked.iter().all(|e| matches!(e, Some(LogError::Poisoned))), "after an error: {asked:?}");
    Ok(())
}

/// What a log is like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    Whole,
    /// It lacks something that was seen, and a verifier says so.
    RolledBack,
    /// A verifier says that something is wrong with it.
    Wrong,
}

/// Reads all that is there, signs it, and has it verified. Says what it is like.
fn found(log: &mut LogWriter, opened: &Opened, task: &Task) -> Result<Is> {
    let (there, failed) = exact(Path::new(LOG), log.first(), task.epoch)?;
    failed.map_or(Ok(()), Err)?;
    ensure!(there == opened.size, "{there} receipts are read, and {} are there", opened.size);
    sign(log)?;
    let report = verify(task, task.seen.as_ref())?;
    let lacks = task.seen.as_ref().is_some_and(|seen| there < seen.size);
    if task.mode == Mode::Lies && lacks {
        ensure!(report.verdict == Verdict::Tampered, "of what was seen some is missing, and: {report}");
        say(format_args!("rolled back"))?;
        return Ok(Is::RolledBack);
    }
    whole(task, &report, there, "intact")
}

/// A verifier finds so many receipts, and nothing wrong.
fn whole(task: &Task, report: &Report, size: u64, word: &str) -> Result<Is> {
    // What a disk has lied about may be tiles or an index, or two files that share a block.
    if task.mode == Mode::Lies && report.verdict != Verdict::Intact {
        say(format_args!("refused {report}"))?;
        return Ok(Is::Wrong);
    }
    let is = report.verdict == Verdict::Intact && report.receipts == size && report.tiles_missing == 0;
    ensure!(is, "{report}");
    say(format_args!("{word} {size}"))?;
    Ok(Is::Whole)
}

/// A task, once its disk is mounted.
fn on_disk(task: &Task, rng: &mut Rng) -> Result<()> {
    as_left(task)?;
    // The power may have gone while there was none.
    system::make_room()?;
    let (mut log, opened) = open()?;
    let is = found(&mut log, &opened, task)?;
    let rolled_back = is == Is::RolledBack;
    if is == Is::Wrong {
        return Ok(());
    }
    let mut slot = Some(log);
    // What was rolled back grows until it is as large as it was.
    let size = task.seen.as_ref().map_or(0, |seen| seen.size);
    let written = write(&mut slot, task, rng, task.syncs, |log| !rolled_back || log.size() > size);
    if let Err(e) = written {
        if !task.may_fail() {
            return Err(e);
        }
        ensure!(matches!(e.downcast_ref(), Some(LogError::Io { .. })), "{e:?}");
        if let Some(mut log) = slot {
            poisoned(&mut log, task)?;
        }
        say(format_args!("failed {e:#}"))?;
        ensure!(ask()? == "mended");
        return again(task, rng);
    }
    let mut log = slot.context("there is no writer")?;
    let c = sign(&mut log)?;
    drop(log);
    if rolled_back {
        let report = verify(task, task.seen.as_ref())?;
        ensure!(report.verdict == Verdict::Tampered, "it grew after it was rolled back, and: {report}");
        return Ok(());
    }
    whole(task, &verify(task, Some(&c))?, c.size, "verified").map(drop)
}

/// Who comes after a writer that has failed, on the same file system: if that can still be written, he goes on with what is there.
fn again(task: &Task, rng: &mut Rng) -> Result<()> {
    let (log, _) = match open() {
        Ok(opened) => opened,
        Err(e) => return say(format_args!("refused {e:#}")),
    };
    let (there, failed) = exact(Path::new(LOG), log.first(), task.epoch)?;
    ensure!(
        failed.is_some() || there == log.size(),
        "{there} receipts are read, and {} are there",
        log.size()
    );
    let task = &Task { mode: Mode::Fails, seen: None, ..*task };
    let mut slot = Some(log);
    // The kernel may have given up the file system without having said so yet.
    match write(&mut slot, task, rng, 4, |_| true) {
        Ok(()) => Ok(()),
        Err(e) => say(format_args!("refused {e:#}")),
    }
}

fn perform(task: &Task, rng: &mut Rng) -> Result<()> {
    system::writeback(rng)?;
    let mounted = system::mount();
    if task.mode == Mode::Lies
        && let Err(e) = &mounted
    {
        return say(format_args!("unmountable {e:#}"));
    }
    mounted?;
    say(format_args!("mounted"))?;
    match on_disk(task, rng) {
        // A disk that has lied may have taken the file system's own order with it.
        Err(e) if task.mode == Mode::Lies && is_said(&e) => say(format_args!("refused {e:#}"))?,
        done => done?,
    }
    // After that, this kernel gets stuck on it.
    if task.mode == Mode::ReadOnly { Ok(()) } else { system::unmount() }
}

/// Whether an error is one with which the log says that it cannot go on.
fn is_said(e: &anyhow::Error) -> bool {
    let by_log = e.downcast_ref().is_some_and(|e| {
        use LogError as E;
        matches!(e, E::Damaged { .. } | E::Checkpoint { .. } | E::Read(_) | E::Io { .. } | E::Tiles(_))
    });
    by_log || e.is::<aarm_receipt::read::ReadError>()
}

/// Does what it is told, until that is to end.
pub fn run(args: &[String]) -> Result<()> {
    let [seed] = args else { bail!("usage: cuts SEED") };
    let seed = seed.parse()?;
    modules::load("virtio_blk").context("virtio_blk")?;
    loop {
        let text = ask()?;
        if text == "end" {
            return Ok(());
        }
        let task = Task::parse(&text)?;
        perform(&task, &mut Rng::of(seed, task.epoch as usize, 0)).with_context(|| text.clone())?;
    }
}
