//! Cuts the power of a machine while it writes receipts, again and again, and holds what the next boot finds against what it had promised.
//!
//! The other half is `tests/src/cuts.rs`. What the guest has not written to its disk is lost with it; what it has is with this host, which goes
//! on running: a disk that forgets what it was told to keep is not played here. Must never: count a promise that did not arrive whole.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::build::Built;
use crate::command::run as run_command;
use crate::vm::{self, Machine, Spec};

/// The kernel: one that has ext4 built in.
pub const KERNEL: &str = "6.12";
/// How often, if nothing else is asked for.
pub const CUTS: u64 = 20;
/// Bytes of the disk.
const DISK: u64 = 256 << 20;
/// Receipts after which another log is begun: each boot reads all.
const FULL: u64 = 60_000;
/// For so long nothing may be said.
const PATIENCE: Duration = Duration::from_secs(180);
/// Longest time between the first promise and the cut, in milliseconds.
const WRITES: u64 = 2000;
/// One in so many cuts comes while the log is being opened, at most so many milliseconds after the disk is mounted.
const EARLY: (u64, u64) = (4, 150);
/// How long opening the log may take, which is what a host waits for after a crash. It is to be 2 s; an emulated machine beside two others has
/// taken 1.5, and is not to fail for that.
const RECOVERY: Duration = Duration::from_secs(8);

/// What a machine says, as far as it has said it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    mounted: bool,
    /// Receipts found, receipts signed, bytes cut off, milliseconds.
    opened: Option<[u64; 4]>,
    /// Receipts that were all as written, in a log that verifies.
    intact: Option<u64>,
    /// Receipts promised to be durable.
    durable: u64,
    /// Receipts promised to be under a checkpoint.
    signed: u64,
    /// Anything else, which is wrong.
    other: Option<String>,
}

impl Said {
    fn parse(text: &str) -> Self {
        let mut said = Self::default();
        // A line that has no end did not arrive whole.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let line = line.trim_end_matches('\r');
            let numbers: Vec<u64> = line.split(' ').skip(1).filter_map(|n| n.parse().ok()).collect();
            match (line.split(' ').next().unwrap_or_default(), numbers[..].as_ref()) {
                ("mounted", []) => said.mounted = true,
                ("opened", [size, signed, cut, took]) => said.opened = Some([*size, *signed, *cut, *took]),
                ("intact", [n]) => said.intact = Some(*n),
                ("durable", [n]) => said.durable = *n,
                ("signed", [n]) => said.signed = *n,
                _ => _ = said.other.get_or_insert_with(|| line.to_owned()),
            }
        }
        said
    }
}

/// What the next boot must find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Promised {
    durable: u64,
    signed: u64,
}

impl Promised {
    /// Whether it was kept.
    fn kept(&self, said: &Said) -> Result<()> {
        let Some([size, signed, _, took]) = said.opened else { return Ok(()) };
        ensure!(size >= self.durable, "{size} receipts, and {} were durable", self.durable);
        ensure!(signed >= self.signed, "{signed} receipts signed, and {} were", self.signed);
        ensure!(u128::from(took) <= RECOVERY.as_millis(), "the log was opened after {took} ms");
        Ok(())
    }

    /// What is promised from now on.
    fn and(&self, said: &Said) -> Self {
        let [size, signed, ..] = said.opened.unwrap_or_default();
        Self {
            durable: self.durable.max(size).max(said.durable),
            signed: self.signed.max(signed).max(said.signed),
        }
    }
}

/// One machine, and what it says.
struct Round {
    machine: Machine,
    output: PathBuf,
}

impl Round {
    fn boot(disk: &Path, seed: u64, number: u64, built: &Built) -> Result<Self> {
        let output = disk.with_extension(format!("said-{number}"));
        let mut spec = Spec::new(
            KERNEL,
            &["/usr/local/bin/aarm-vm-tests", "cuts", &seed.to_string(), &number.to_string()],
        );
        spec.agent = false;
        spec.add = vec![(built.bin("aarm-vm-tests"), "/usr/local/bin/aarm-vm-tests".into())];
        for module in crate::setup::kernel(KERNEL)?.modules(&["virtio_blk"]) {
            let name = module.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            spec.add.push((module, format!("/lib/aarm-modules/{name}")));
        }
        spec.disk = Some(disk.to_owned());
        spec.output = Some(File::create(&output)?);
        Ok(Self { machine: vm::boot(&mut spec, built)?, output })
    }

    fn said(&self) -> Result<Said> {
        let said = Said::parse(&std::fs::read_to_string(&self.output)?);
        match &said.other {
            Some(line) => bail!("it says: {line}"),
            None => Ok(said),
        }
    }

    /// Waits until it has said something.
    fn until(&mut self, has: impl Fn(&Said) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !has(&self.said()?) {
            ensure!(!self.machine.has_ended()?, "the machine ended by itself\n{}", self.machine.tail());
            ensure!(
                Instant::now() < deadline,
                "{:?} after {PATIENCE:?}\n{}",
                self.said()?,
                self.machine.tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn make_disk(path: &Path) -> Result<()> {
    let _ = std::fs::remove_file(path);
    File::create(path)?.set_len(DISK)?;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["-q", "-F", "-t", "ext4"]).arg(path);
    run_command(&mut mke2fs).context("mke2fs: run `cargo xtask setup`")
}

/// Cuts the power so often. Says what came of it.
pub fn run(cuts: u64, seed: u64, built: &Built) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = dir.path().join("disk");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut promised, mut lost_tails, mut slowest, mut receipts) = (Promised::default(), 0, 0, 0);
    let began = Instant::now();
    println!("cuts: seed {seed}");
    // The last boot shows what the last cut has left.
    for number in 0..=cuts {
        if promised.durable > FULL || number == 0 {
            receipts += promised.durable;
            make_disk(&disk)?;
            promised = Promised::default();
        }
        let told = || format!("seed {seed}, cut {number}, after {promised:?}");
        let mut round = Round::boot(&disk, seed, number, built).with_context(told)?;
        let early = number < cuts && random.u64(..EARLY.0) == 0;
        let (after, most) = if early { ("mounted", EARLY.1) } else { ("durable", WRITES) };
        round
            .until(|said| {
                if early { said.mounted } else { said.durable > promised.durable && said.intact.is_some() }
            })
            .with_context(|| format!("{} before anything is {after}", told()))?;
        std::thread::sleep(Duration::from_millis(random.u64(..most)));
        round.machine.cut()?;
        let said = round.said().with_context(told)?;
        promised.kept(&said).with_context(told)?;
        if let Some([_, _, cut, took]) = said.opened {
            lost_tails += u64::from(cut > 0);
            slowest = slowest.max(took);
        }
        promised = promised.and(&said);
    }
    receipts += promised.durable;
    println!(
        "cuts: {cuts} of {KERNEL} with ext4: {receipts} receipts were durable, and all of them are there; {lost_tails} torn tails; opened in {slowest} ms \
         at most; {} s",
        began.elapsed().as_secs()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_that_did_not_arrive_whole_is_none() {
        let said =
            Said::parse("mounted\r\nopened 7 5 0 12\r\nintact 7\r\ndurable 90\r\nsigned 90\r\ndurable 1234");
        assert!(said.mounted && said.other.is_none());
        assert_eq!((said.opened, said.intact), (Some([7, 5, 0, 12]), Some(7)));
        assert_eq!((said.durable, said.signed), (90, 90));
        assert_eq!(Said::parse("thread panicked\n").other.as_deref(), Some("thread panicked"));
    }

    #[test]
    fn what_is_not_there_was_not_kept() {
        let promised = Promised { durable: 90, signed: 80 };
        let said = |opened: [u64; 4]| Said { opened: Some(opened), ..Said::default() };
        assert!(promised.kept(&said([90, 80, 0, 3])).is_ok() && promised.kept(&said([91, 90, 9, 3])).is_ok());
        assert!(
            promised.kept(&said([89, 80, 0, 3])).is_err() && promised.kept(&said([90, 79, 0, 3])).is_err()
        );
        assert!(promised.kept(&said([90, 80, 0, 8001])).is_err());
        assert!(promised.kept(&Said::default()).is_ok(), "cut before it was opened");
        assert_eq!(promised.and(&Said::default()), promised);
        let grown = promised.and(&Said { durable: 100, ..said([95, 80, 0, 1]) });
        assert_eq!(grown, Promised { durable: 100, signed: 80 });
    }
}
