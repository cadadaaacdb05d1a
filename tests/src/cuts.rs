//! The machine whose power is cut while it writes receipts: `aarm-vm-tests cuts SEED ROUND`.
//!
//! Says on its output, a line each, what is on disk and what it has made durable, until somebody ends the machine. What receipt number N is
//! follows from N, so that the next boot knows each of them. Must never: say that something is durable before the log does.

use std::ffi::CString;
use std::io::Write;
use std::path::Path;
use std::time::{Instant, SystemTime};

use aarm_receipt::canonical::Encoded;
use aarm_receipt::log::{Expired, Retention, SEGMENT_MIN, compress};
use aarm_receipt::read::Reader;
use aarm_receipt::receipt::check;
use aarm_receipt::verify::{How, Verdict, verify_dir};
use aarm_receipt::{Body, Common, Keys, LogWriter, Options, encode};
use anyhow::{Context, Result, bail, ensure};

use crate::differential::rng::Rng;
use crate::escapes::modules;

const DISK: &str = "/dev/vda";
const AT: &str = "/mnt";
const LOG: &str = "/mnt/log";
/// Most receipts between two syncs.
const BATCH: u64 = 200;
/// A checkpoint after so many syncs, on average.
const SIGNED: u64 = 6;

/// Receipt number `n`: some long, some of a length that comes to the end of a page.
fn receipt(n: u64, out: &mut Vec<u8>) {
    let mut rng = Rng::of(7, n as usize, 0);
    let length = if rng.one_in(40) { rng.number() % 4000 } else { rng.number() % 200 };
    let version = format!("{n} {}", "x".repeat(length as usize));
    let host = Encoded::text(b"cut");
    let common = Common { time_ns: n + 1, boot_ns: n, host: &host, session: None, seq: None };
    // The one has a signature of its own, the other not.
    let body = match n.is_multiple_of(3) {
        true => Body::Stop { version: &version },
        false => Body::Name {
            name: version.as_bytes(),
            addresses: &[9; 16],
            resolver: [127, 0, 0, 1].into(),
            seconds: 1,
        },
    };
    out.clear();
    encode(&common, &body, out);
}

fn mount() -> Result<()> {
    modules::load("virtio_blk").context("virtio_blk")?;
    std::fs::create_dir_all(AT)?;
    let (from, to, kind) = (CString::new(DISK)?, CString::new(AT)?, CString::new("ext4")?);
    // SAFETY: the strings end in NUL, and there is no data.
    let done = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    ensure!(done == 0, "{DISK}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Holds each receipt of the log, from the first that was not pruned, against what it must be; where they end.
fn checked(first: u64) -> Result<u64> {
    let (mut n, mut expected) = (first, Vec::new());
    for item in Reader::open(Path::new(LOG), first)? {
        let (index, bytes) = item?;
        receipt(n, &mut expected);
        let is = bytes == expected || check(&bytes)?.kind() == "prune";
        ensure!(index == n && is, "receipt {index} is not number {n} as it was written");
        n += 1;
    }
    Ok(n)
}

/// Compresses a segment now and then, and takes out what is too much.
fn tidy(log: &mut LogWriter, rng: &mut Rng) -> Result<()> {
    if let Some(path) = log.compressible().filter(|_| rng.one_in(12)) {
        let compressed = compress(path)?;
        log.place_compressed(&compressed)?;
    }
    let keep = Retention { bytes: Some(2 * SEGMENT_MIN), ..Retention::default() };
    let Some(gone) = log.expired(&keep, SystemTime::now())? else { return Ok(()) };
    let Expired { before, segments, bytes, why, .. } = gone;
    let host = Encoded::text(b"cut");
    let common = Common { time_ns: 1, boot_ns: 1, host: &host, session: None, seq: None };
    let mut receipt = Vec::new();
    encode(&common, &Body::Prune { before, segments, bytes, why }, &mut receipt);
    log.append(&mut receipt, true)?;
    say(format_args!("signed {}", log.checkpoint()?.size))?;
    Ok(log.prune(&gone)?)
}

fn say(line: std::fmt::Arguments<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// Says what is there, and writes until the machine ends.
pub fn run(args: &[String]) -> Result<()> {
    let [seed, round] = args else { bail!("usage: cuts SEED ROUND") };
    let mut rng = Rng::of(seed.parse()?, round.parse()?, 0);
    mount()?;
    say(format_args!("mounted"))?;
    let keys = Keys::from_seeds([1; 32], [2; 32]).context("the seeds are not keys")?;
    let began = Instant::now();
    let (mut log, opened) =
        LogWriter::open(Path::new(LOG), keys, "cuts.test/log", Options { segment_bytes: SEGMENT_MIN })?;
    let took = began.elapsed().as_millis();
    say(format_args!("opened {} {} {} {took}", opened.size, opened.signed, opened.bytes_cut))?;
    let there = if opened.fresh { 0 } else { checked(log.first())? };
    ensure!(there == opened.size, "{there} receipts are read, and {} are there", opened.size);
    log.checkpoint()?;
    let report = verify_dir(Path::new(LOG), log.trusted(), How::default());
    ensure!(report.verdict == Verdict::Intact && report.receipts == there, "{report}");
    say(format_args!("intact {there}"))?;
    let mut bytes = Vec::new();
    loop {
        for _ in 0..=rng.number() % BATCH {
            let n = log.size();
            receipt(n, &mut bytes);
            let weighs = check(&bytes)?.weighs;
            log.append(&mut bytes, weighs)?;
        }
        say(format_args!("durable {}", log.sync()?))?;
        if rng.one_in(SIGNED as usize) {
            say(format_args!("signed {}", log.checkpoint()?.size))?;
            tidy(&mut log, &mut rng)?;
        }
    }
}
