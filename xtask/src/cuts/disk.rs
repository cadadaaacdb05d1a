//! A disk that remembers in which order it was told what, so that it can be what a loss of power leaves of it at any moment.
//!
//! As disks do, it promises one thing: what was written before a flush is there afterwards. Of what came after the last flush any sectors may be
//! there, and others not: torn, and in another order. Must never: leave out what was flushed, but where flushes are to be lies.

use std::sync::Arc;

use fastrand::Rng;

use super::nbd::{Refused, SECTOR};

/// Most bytes that one history remembers.
const HISTORY_MAX: usize = 1 << 30;

/// What the disk was told, and what the guest said meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These bytes were written there.
    Write(u64, Box<[u8]>),
    /// What was written before is to be kept.
    Flush,
    /// The disk has failed in something.
    Failed,
    /// The guest has said a line.
    Said(String),
}

/// What there was, and what has come since.
#[derive(Clone)]
pub struct History {
    base: Arc<[u8]>,
    /// In the order in which each was done.
    pub events: Vec<Event>,
}

/// What is there of what was not flushed. Chances are of 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything.
    All,
    /// Nothing.
    Nothing,
    /// Each write by itself, whole or not at all.
    Writes(u8),
    /// Each sector by itself.
    Sectors(u8),
}

impl Keep {
    /// Any.
    pub fn any(random: &mut Rng) -> Self {
        let chance = [128, 128, 128, 16, 240][random.usize(..5)];
        match random.u8(..6) {
            0 => Self::All,
            1 => Self::Nothing,
            2 | 3 => Self::Writes(chance),
            _ => Self::Sectors(chance),
        }
    }
}

/// Sector 3 has the checksum of ext4's superblock, which begins in sector 2, and ext4 mounts nothing whose superblock was torn between them: a host
/// needs `fsck` then. What is asked here is what comes after that, so they go together.
const WITH_THE_ONE_BEFORE: u64 = 3;

impl History {
    /// Nothing has come yet.
    pub fn of(base: Vec<u8>) -> Self {
        Self { base: base.into(), events: Vec::new() }
    }

    /// Where the last flush before event `at` is: what comes before it is on disk.
    fn flushed(&self, at: usize) -> usize {
        self.events[..at].iter().rposition(|event| *event == Event::Flush).unwrap_or(0)
    }

    /// What is on disk when the power goes before event `at`. From event `lies` on, flushes have done nothing.
    pub fn image(&self, at: usize, lies: usize, keep: Keep, random: &mut Rng) -> Vec<u8> {
        let flushed = self.flushed(at.min(lies));
        let mut image = self.base.to_vec();
        let mut chance = |of: u8| random.u8(..) < of;
        for (n, event) in self.events[..at].iter().enumerate() {
            let Event::Write(place, bytes) = event else { continue };
            let to = &mut image[*place as usize..][..bytes.len()];
            let whole = match keep {
                _ if n < flushed => true,
                Keep::All => true,
                Keep::Nothing => false,
                Keep::Writes(of) => chance(of),
                Keep::Sectors(of) => {
                    let mut is_there = false;
                    for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                        let number = place / SECTOR as u64 + i as u64;
                        if i == 0 || number != WITH_THE_ONE_BEFORE {
                            is_there = chance(of);
                        }
                        if is_there {
                            to[i * SECTOR..][..sector.len()].copy_from_slice(sector);
                        }
                    }
                    false
                }
            };
            if whole {
                to.copy_from_slice(bytes);
            }
        }
        image
    }

    /// What the guest has said before event `at`, with the place of each line.
    pub fn said(&self, at: usize) -> impl Iterator<Item = (usize, &str)> {
        self.events[..at].iter().enumerate().filter_map(|(n, event)| match event {
            Event::Said(line) => Some((n, line.as_str())),
            _ => None,
        })
    }
}

/// What a disk fails in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    pub reads: bool,
    pub writes: bool,
    pub flushes: bool,
    /// So many of those are done before.
    pub after: u32,
    /// So many fail.
    pub times: u32,
}

/// One of what a fault may be about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

/// The disk that a guest sees.
pub struct Disk {
    pub history: History,
    now: Vec<u8>,
    /// Bytes that the history has.
    remembered: usize,
    /// Whether anything was read since it became what it is.
    pub was_read: bool,
    fault: Option<Fault>,
    random: Rng,
}

impl Disk {
    pub fn of(base: Vec<u8>, seed: u64) -> Self {
        Self {
            now: base.clone(),
            history: History::of(base),
            remembered: 0,
            was_read: false,
            fault: None,
            random: Rng::with_seed(seed),
        }
    }

    pub fn size(&self) -> u64 {
        self.now.len() as u64
    }

    /// Fails in something from now on, or in nothing any more.
    pub fn fail(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    /// Whether this one fails.
    fn fails(&mut self, kind: Kind) -> bool {
        let Some(fault) = &mut self.fault else { return false };
        let is_about = match kind {
            Kind::Read => fault.reads,
            Kind::Write => fault.writes,
            Kind::Flush => fault.flushes,
        };
        if !is_about || fault.times == 0 {
            return false;
        }
        if fault.after > 0 {
            fault.after -= 1;
            return false;
        }
        fault.times -= 1;
        self.history.events.push(Event::Failed);
        true
    }

    pub fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Refused> {
        self.was_read = true;
        if self.fails(Kind::Read) {
            return Err(Refused::Io);
        }
        into.copy_from_slice(&self.now[at as usize..][..into.len()]);
        Ok(())
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        if self.remembered + bytes.len() > HISTORY_MAX {
            return Err(Refused::Io);
        }
        let failed = self.fails(Kind::Write);
        // Of a write that fails, the beginning may be there.
        let done = if failed { self.random.usize(..=bytes.len() / SECTOR) * SECTOR } else { bytes.len() };
        if done > 0 {
            self.now[at as usize..][..done].copy_from_slice(&bytes[..done]);
            self.remembered += done;
            self.history.events.push(Event::Write(at, bytes[..done].into()));
        }
        if failed { Err(Refused::Io) } else { Ok(()) }
    }

    pub fn flush(&mut self) -> Result<(), Refused> {
        if self.fails(Kind::Flush) {
            return Err(Refused::Io);
        }
        self.history.events.push(Event::Flush);
        Ok(())
    }

    /// Remembers a line that the guest has said.
    pub fn said(&mut self, line: String) {
        self.history.events.push(Event::Said(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTORS: usize = 64;
    const FROM: usize = 8;

    /// A disk of zeros, sectors of ones that are flushed, sectors of twos that are not, some of them threes afterwards.
    fn written() -> Disk {
        let mut disk = Disk::of(vec![0; SECTORS * SECTOR], 1);
        disk.write(0, &[1; SECTORS * SECTOR]).unwrap();
        disk.flush().unwrap();
        disk.said("durable 1".into());
        disk.write((FROM * SECTOR) as u64, &[2; 40 * SECTOR]).unwrap();
        disk.write((FROM * SECTOR) as u64, &[3; 20 * SECTOR]).unwrap();
        disk
    }

    /// How many sectors are of each number; each is of one.
    fn count(image: &[u8]) -> [usize; 4] {
        let mut all = [0; 4];
        for sector in image.chunks(SECTOR) {
            assert!(sector.iter().all(|b| *b == sector[0]));
            all[usize::from(sector[0])] += 1;
        }
        all
    }

    #[test]
    fn what_was_flushed_is_there_and_of_the_rest_anything() {
        let disk = written();
        let mut random = Rng::with_seed(1);
        let mut image = |at, lies, keep| count(&disk.history.image(at, lies, keep, &mut random));
        let (all, never) = (disk.history.events.len(), usize::MAX);
        assert_eq!(all, 5);
        assert_eq!(image(all, never, Keep::All), [0, 24, 20, 20]);
        assert_eq!(image(all, never, Keep::Nothing), [0, 64, 0, 0]);
        assert_eq!(image(4, never, Keep::All), [0, 24, 40, 0], "before the last write");
        assert_eq!(image(0, never, Keep::All), [64, 0, 0, 0]);
        let [none, old, two, three] = image(all, never, Keep::Sectors(128));
        assert!(none == 0 && old > 24 && two > 10 && three > 4, "{old} {two} {three}");
        let mut whole = [false; 4];
        for _ in 0..100 {
            match image(all, never, Keep::Writes(128)) {
                [0, 64, 0, 0] => whole[0] = true,
                [0, 24, 40, 0] => whole[1] = true,
                [0, 44, 0, 20] => whole[2] = true,
                [0, 24, 20, 20] => whole[3] = true,
                torn => panic!("{torn:?}"),
            }
        }
        assert_eq!(whole, [true; 4]);
        // A flush that was a lie keeps nothing.
        let [none, ..] = image(all, 1, Keep::Sectors(128));
        assert!(none > 4);
        assert_eq!(image(all, 1, Keep::Nothing), [64, 0, 0, 0]);
        assert_eq!(image(all, 2, Keep::Nothing), [0, 64, 0, 0], "the last that was none");
    }

    #[test]
    fn the_superblock_is_not_torn() {
        let mut disk = Disk::of(vec![0; SECTORS * SECTOR], 1);
        disk.write(0, &[1; 8 * SECTOR]).unwrap();
        let mut random = Rng::with_seed(2);
        let mut torn = 0;
        for _ in 0..100 {
            let image = disk.history.image(1, usize::MAX, Keep::Sectors(128), &mut random);
            assert_eq!(image[2 * SECTOR], image[3 * SECTOR]);
            torn += usize::from(image[SECTOR] != image[2 * SECTOR]);
        }
        assert!(torn > 20);
    }

    #[test]
    fn it_fails_in_what_it_is_to_fail_in_and_keeps_no_flush_that_failed() {
        let mut disk = written();
        disk.fail(Some(Fault { flushes: true, after: 1, times: 1, ..Fault::default() }));
        disk.flush().unwrap();
        disk.write(0, &[4; SECTOR]).unwrap();
        assert_eq!(disk.flush(), Err(Refused::Io));
        let all = disk.history.events.len();
        let image = disk.history.image(all, usize::MAX, Keep::Nothing, &mut Rng::with_seed(1));
        assert_eq!((image[0], image[FROM * SECTOR]), (1, 3));
        disk.flush().unwrap();
        disk.fail(Some(Fault { writes: true, times: 2, ..Fault::default() }));
        assert_eq!(disk.write(0, &[5; 32 * SECTOR]), Err(Refused::Io));
        assert_eq!(disk.write(0, &[5; 32 * SECTOR]), Err(Refused::Io));
        let mut read = vec![0; 32 * SECTOR];
        disk.read(0, &mut read).unwrap();
        let there = read.iter().filter(|b| **b == 5).count();
        assert!(there % SECTOR == 0 && read[..there].iter().all(|b| *b == 5), "its beginning");
        disk.fail(Some(Fault { reads: true, times: u32::MAX, ..Fault::default() }));
        assert_eq!(disk.read(0, &mut read), Err(Refused::Io));
        disk.fail(None);
        assert!(disk.read(0, &mut read).is_ok() && disk.write(0, &[6; SECTOR]).is_ok());
        assert_eq!(disk.history.events.iter().filter(|event| **event == Event::Failed).count(), 4);
    }
}
