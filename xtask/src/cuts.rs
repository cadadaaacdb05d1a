//! What a loss of power, a disk that lies, and a disk that fails leave of the log, at any moment of writing it.
//!
//! A machine ([`guest`]) writes receipts to ext4 on a disk that is served from here ([`stage`], [`nbd`]) and remembers what it was told ([`disk`]).
//! For each cut the disk becomes what a loss of power would have left at some moment: what was flushed is there, of the rest any sectors. The
//! machine mounts it, and must find all that it had said by then ([`promise`]); what it writes then is cut again. So a cut costs no boot,
//! one may come while the last is being recovered from, and what was not flushed is lost, torn or reordered, which does not come of
//! killing a machine whose disk is a file of this host. The other half is `tests/src/cuts.rs`.
//!
//! Not tried: other file systems, sectors that rot or are torn themselves, and a disk that takes a flush for one of what it still has to write. Must
//! never: hold a guest to a promise that it had not given, or let it off one that it had.

mod disk;
mod guest;
mod nbd;
mod promise;
mod stage;

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use fastrand::Rng;

use self::disk::{Event, Fault, History, Keep};
use self::guest::{Guest, empty_disk};
use self::promise::{Line, Promised, Said};
use crate::build::Built;
use crate::cache;

/// The kernel: one that has ext4 built in.
pub const KERNEL: &str = "6.12";
/// How often each case cuts, if nothing else is asked for.
pub const CUTS: u64 = 20;
/// Bytes of the disk.
const DISK: usize = 64 << 20;
/// Syncs of a guest whose writing is cut many times, of one that fails meanwhile, and of one that shows that it goes on.
const LONG: u64 = 160;
const FAILING: u64 = 48;
const SHORT: u64 = 8;
/// So many cuts are made of one long writing, and after so many of those an empty disk is begun with.
const OF_ONE: u64 = 5;
const ANEW: u64 = 4;
/// The same of one whose disk lies.
const LIES_OF_ONE: u64 = 25;
/// One in so many cuts comes while the log is being opened; of the others, one in so many anywhere, and the rest right after a promise.
const EARLY: u64 = 4;
const ANYWHERE: u64 = 3;
/// So many times as many lies are tried at most until one has lost something.
const LIES_MORE: u64 = 8;
/// Most flushes that a disk has lied about before the power goes.
const LIES: usize = 40;
/// What is not about the disk costs a boot, and is tried once in so many times.
const READ_ONLY: u64 = 32;
/// Most reads, writes and flushes that are done before they fail.
const FAILS_WITHIN: u32 = 30;

/// What is tried, by name, with so many cuts: the last two take half of them. What was found out.
type Case = (&'static str, fn(&mut Theatre<'_>, u64) -> Result<String>);
const CASES: &[Case] = &[
    ("cuts::power", |theatre, cuts| theatre.power(cuts)),
    ("cuts::lies", |theatre, cuts| theatre.lies(cuts.div_ceil(2))),
    ("cuts::faults", |theatre, cuts| theatre.faults(cuts.div_ceil(2))),
];

/// What a guest is to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// All that was promised is there.
    Kept,
    /// The disk has lied: something may be missing, nothing may be wrong.
    Lies,
    /// The disk may fail while it writes.
    Fails,
    /// There is no room while it writes, until it makes some.
    Full,
    /// It has the file system shut down while it writes.
    Shutdown,
    /// It has the file system made read-only while it writes. After that this kernel (6.12) may neither unmount it nor go on: the machine is done.
    ReadOnly,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Lies => "lies",
            Self::Fails => "fails",
            Self::Full => "full",
            Self::Shutdown => "shutdown",
            Self::ReadOnly => "readonly",
        }
    }
}

/// A disk that a guest is to find, and what was promised of it.
struct Left {
    image: Vec<u8>,
    promised: Promised,
    /// How it came about, for whoever reads that something is wrong with it.
    how: String,
}

impl Left {
    fn empty() -> Result<Self> {
        Ok(Self { image: empty_disk()?, promised: Promised::default(), how: "an empty disk".to_owned() })
    }
}

/// What is played, and what was found out.
struct Theatre<'a> {
    built: &'a Built,
    guest: Guest,
    random: Rng,
    seed: u64,
    epoch: u64,
    /// Of all opened logs: the slowest, in milliseconds, and those with a torn tail.
    slowest: u64,
    torn: u64,
    /// Receipts that were durable.
    receipts: u64,
    /// The disk that the guest was given last, and what that was.
    last: Option<(Vec<u8>, String)>,
    /// What it has said of the one before.
    said_before: Vec<String>,
}

impl Theatre<'_> {
    /// Gives the guest a disk.
    fn begin(&mut self, left: &Left, how: How, syncs: u64) {
        self.epoch += 1;
        let Promised { signed, root, .. } = &left.promised;
        let root = if root.is_empty() { "-" } else { root };
        let task = format!("go {} {syncs} {} {signed} {root}", self.epoch, how.word());
        self.last = Some((left.image.clone(), format!("{}, after {:?}", left.how, left.promised)));
        self.guest.stage.give(left.image.clone(), self.random.u64(..), &task);
    }

    /// Waits until the guest is done with it. What has happened, and what it has said.
    fn end(&mut self) -> Result<(History, Said)> {
        self.guest.asks()?;
        self.said_before = self.guest.stage.said();
        let history = self.guest.stage.history()?;
        let said = Said::of(history.said(history.events.len()))?;
        if let Some([_, _, cut, took]) = said.opened {
            self.torn += u64::from(cut > 0);
            self.slowest = self.slowest.max(took);
        }
        Ok((history, said))
    }

    /// Has the guest find all that was promised, and go on. What has happened.
    fn kept(&mut self, left: &Left, syncs: u64) -> Result<History> {
        self.begin(left, How::Kept, syncs);
        let (history, said) = self.end()?;
        let after = left.promised.until(&history.events)?;
        said.whole()?;
        ensure!(after.durable > left.promised.durable, "it did not go on");
        self.receipts += after.durable - left.promised.durable;
        Ok(history)
    }

    /// Cuts somewhere. What is left of the disk.
    fn cut(&mut self, from: &Left, history: &History) -> Result<Left> {
        let all = history.events.len();
        let lines = || history.said(all).map(|(at, line)| (at, Line::parse(line)));
        let opened = lines().find_map(|(at, line)| matches!(line, Line::Opened(_)).then_some(at));
        let promises = lines().filter(|(_, line)| matches!(line, Line::Durable(_) | Line::Signed(..)));
        let promises: Vec<usize> = promises.map(|(at, _)| at).collect();
        let random = &mut self.random;
        let at = if random.u64(..EARLY) == 0 {
            random.usize(..=opened.unwrap_or(all))
        } else if random.u64(..ANYWHERE) == 0 || promises.is_empty() {
            random.usize(..=all)
        } else {
            (promises[random.usize(..promises.len())] + 1 + random.usize(..4)).min(all)
        };
        self.cut_at(from, history, at)
    }

    fn cut_at(&mut self, from: &Left, history: &History, at: usize) -> Result<Left> {
        let keep = Keep::any(&mut self.random);
        let promised = from.promised.until(&history.events[..at])?;
        let how = format!("cut before event {at} of {}, keeping {keep:?}", history.events.len());
        let image = history.image(at, usize::MAX, keep, &mut self.random);
        Ok(Left { image, promised, how })
    }

    /// The power goes.
    fn power(&mut self, cuts: u64) -> Result<String> {
        (self.slowest, self.torn, self.receipts) = (0, 0, 0);
        let mut from = Left::empty()?;
        let mut history = History::of(Vec::new());
        let mut done = 0;
        for writing in 0.. {
            if done >= cuts {
                break;
            }
            from = if writing % ANEW == 0 { Left::empty()? } else { self.cut(&from, &history)? };
            history = self.kept(&from, LONG)?;
            for _ in 0..OF_ONE.min(cuts.saturating_sub(done)) {
                let left = self.cut(&from, &history)?;
                let next = self.kept(&left, SHORT)?;
                done += 1;
                // Some are cut again while they are recovered from, or soon after.
                if self.random.bool() {
                    let again = self.cut(&left, &next)?;
                    self.kept(&again, SHORT)?;
                    done += 1;
                }
            }
        }
        Ok(format!(
            "{done} cuts: {} receipts were durable, and all of them were there; {} torn tails; opened in {} ms at most",
            self.receipts, self.torn, self.slowest
        ))
    }

    /// The disk says that it has flushed, and has not.
    fn lies(&mut self, cuts: u64) -> Result<String> {
        let from = Left::empty()?;
        let (mut whole, mut back, mut refused, mut unmountable) = (0, 0, 0, 0);
        let mut history = History::of(Vec::new());
        let mut flushes = Vec::new();
        let mut tried = 0;
        // Of few, none may have lost anything that counts: then nothing was tried.
        while tried < cuts || back == 0 && tried < cuts * LIES_MORE {
            if tried % LIES_OF_ONE == 0 {
                history = self.kept(&from, LONG)?;
                flushes =
                    (0..history.events.len()).filter(|at| history.events[*at] == Event::Flush).collect();
            }
            tried += 1;
            // It lies from some flush on, and the power goes some flushes later.
            let first = self.random.usize(1..flushes.len());
            let last = (first + self.random.usize(1..=LIES)).min(flushes.len() - 1);
            let (lies, at) = (flushes[first], flushes[last]);
            let keep = Keep::any(&mut self.random);
            let promised = from.promised.until(&history.events[..at])?;
            let how = format!("flushes are lies from event {lies} on, cut before {at}, keeping {keep:?}");
            let image = history.image(at, lies, keep, &mut self.random);
            self.begin(&Left { image, promised, how }, How::Lies, SHORT);
            let (_, said) = self.end()?;
            match said {
                Said { unmountable: Some(_), .. } => unmountable += 1,
                Said { refused: Some(_), .. } => refused += 1,
                Said { rolled_back: true, .. } => back += 1,
                said => {
                    said.whole()?;
                    whole += 1;
                }
            }
        }
        ensure!(back > 0 && whole + back >= tried / 4, "{back} rolled back, {whole} whole, of {tried}");
        Ok(format!(
            "{tried} lies: {whole} went on with everything, {back} with less, which a verifier said that had seen more; {refused} were refused; \
             {unmountable} file systems could not be mounted"
        ))
    }

    /// The disk fails, or the file system goes.
    fn faults(&mut self, cuts: u64) -> Result<String> {
        let once = Fault { times: 1, ..Fault::default() };
        let always = Fault { times: u32::MAX, ..Fault::default() };
        let kinds = [
            (How::Fails, Some(Fault { writes: true, ..once })),
            (How::Full, None),
            (How::Fails, Some(Fault { flushes: true, ..once })),
            (How::Shutdown, None),
            (How::Fails, Some(Fault { writes: true, ..always })),
            (How::Fails, Some(Fault { flushes: true, ..always })),
            (How::Fails, Some(Fault { reads: true, writes: true, flushes: true, ..always })),
            (How::Fails, Some(Fault { writes: true, times: 3, ..once })),
        ];
        let mut from = Left::empty()?;
        let (mut failed, mut silent, mut full) = (0, 0, 0);
        for cut in 0..cuts {
            let (how, fault) = match kinds[cut as usize % kinds.len()] {
                _ if cut % READ_ONLY == 1 => (How::ReadOnly, None),
                kind => kind,
            };
            self.begin(&from, how, FAILING);
            if self.guest.stage.until_said(&mut self.guest.machine, "intact")? {
                let after = self.random.u32(..FAILS_WITHIN);
                self.guest.stage.fail(fault.map(|fault| Fault { after, ..fault }));
            }
            self.guest.asks()?;
            self.guest.stage.fail(None);
            if self.guest.stage.has_said("failed") {
                // Another writer looks at it as it is, before it is unmounted.
                self.guest.stage.answer("mended");
            }
            let (history, said) = self.end()?;
            match &said.failed {
                Some(_) => failed += 1,
                None if how == How::Full => {
                    said.whole()?;
                    full += 1;
                }
                None if fault.is_some_and(|fault| fault.times < always.times) => silent += 1,
                None => bail!("writing went on: {how:?}, {fault:?}"),
            }
            if how == How::ReadOnly {
                self.guest.machine.off()?;
                self.guest = Guest::boot(self.seed, self.built)?;
            }
            from.promised.until(&history.events)?;
            // What is there when it is mounted again, or after a loss of power besides.
            let all = history.events.len();
            let at = if self.random.bool() { all } else { self.random.usize(..=all) };
            let left = self.cut_at(&from, &history, at)?;
            let next = self.kept(&left, SHORT)?;
            from = self.cut_at(&left, &next, next.events.len())?;
        }
        Ok(format!(
            "{cuts} faults: {failed} writers stopped, {full} waited for room, {silent} had nothing to do with it; all that was promised was there"
        ))
    }

    /// What is known of an error. The disk that the guest was given stays, for who looks into it.
    fn tell(&self, e: &anyhow::Error) -> String {
        let mut text = format!("seed {}: {e:#}\n{}", self.seed, self.guest.printed());
        if let Some((image, how)) = &self.last {
            let path = cache::target().join("cuts.img");
            let kept =
                std::fs::write(&path, image).map_or_else(|e| e.to_string(), |()| path.display().to_string());
            let said = self.guest.stage.said();
            text.push_str(&format!(
                "it was given: {how}\n{kept}\nit said: {said:?}\nand of the one before: "
            ));
            text.push_str(&format!("{:?}", self.said_before));
        }
        text
    }
}

/// Plays the cases that are asked for, by names or parts of them, with so many cuts each. How many passed, and how many failed.
pub fn run(cuts: u64, seed: u64, names: &str, built: &Built) -> Result<(usize, usize)> {
    println!("cuts: seed {seed}");
    let wanted: Vec<_> =
        CASES.iter().filter(|case| names.split(',').any(|name| case.0.contains(name))).collect();
    ensure!(!wanted.is_empty(), "no case has {names} in its name");
    let mut theatre = Theatre {
        built,
        guest: Guest::boot(seed, built)?,
        random: Rng::with_seed(seed),
        seed,
        epoch: 0,
        slowest: 0,
        torn: 0,
        receipts: 0,
        last: None,
        said_before: Vec::new(),
    };
    for (passed, (name, case)) in wanted.iter().enumerate() {
        let began = Instant::now();
        match case(&mut theatre, cuts) {
            Ok(what) => println!("{name} ({KERNEL}, ext4): {what}; {} s", began.elapsed().as_secs()),
            Err(e) => {
                // What came after it would be about something else.
                println!("{name}: {}", theatre.tell(&e));
                return Ok((passed, 1));
            }
        }
    }
    theatre.guest.end()?;
    Ok((wanted.len(), 0))
}
