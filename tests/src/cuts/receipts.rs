//! Receipts whose bytes follow from their number and from the epoch in which they were written, so that whoever finds one knows what it must be.
//!
//! An epoch is what is written on one disk that a loss of power has left: what is lost of one is not written once more in the next.

use std::path::Path;

use aarm_receipt::canonical::Encoded;
use aarm_receipt::read::{ReadError, Reader};
use aarm_receipt::receipt::check;
use aarm_receipt::{Body, Common, encode};
use anyhow::{Context, Result, ensure};

use crate::differential::rng::Rng;

/// How a receipt says its epoch.
const HOST: &str = "\"host\":\"cut-";

/// One in so many receipts has a signature of its own: to check one takes an emulated machine as long as many receipts.
const WEIGHS: u64 = 12;

/// Encodes something that an epoch has to say.
pub fn encoded(n: u64, epoch: u64, body: &Body<'_>, out: &mut Vec<u8>) {
    let host = Encoded::text(format!("cut-{epoch}").as_bytes());
    let common = Common { time_ns: n + 1, boot_ns: n, host: &host, session: None, seq: None };
    out.clear();
    encode(&common, body, out);
}

/// Receipt number `n`: some long, some of a length that comes to the end of a page.
pub fn receipt(n: u64, epoch: u64, out: &mut Vec<u8>) {
    let mut rng = Rng::of(7, n as usize, epoch as usize);
    let length = if rng.one_in(40) { rng.number() % 6000 } else { rng.number() % 900 };
    let version = format!("{n} {}", "x".repeat(length as usize));
    // Some have a signature of their own.
    let body = match n.is_multiple_of(WEIGHS) {
        true => Body::Stop { version: &version },
        false => Body::Name {
            name: version.as_bytes(),
            addresses: &[9; 16],
            resolver: [127, 0, 0, 1].into(),
            seconds: 1,
        },
    };
    encoded(n, epoch, &body, out);
}

fn epoch_of(bytes: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(bytes)?;
    let (_, rest) = text.split_once(HOST).context("it has no epoch")?;
    let (epoch, _) = rest.split_once('"').context("its epoch has no end")?;
    Ok(epoch.parse()?)
}

/// Holds each receipt of a log, from one on, against what it must be. Where they end, and what has ended them before there were none.
pub fn exact(log: &Path, from: u64, epoch: u64) -> Result<(u64, Option<ReadError>)> {
    let reader = match Reader::open(log, from) {
        Ok(reader) => reader,
        Err(e) => return Ok((from, Some(e))),
    };
    let (mut end, mut last, mut expected) = (None, 0, Vec::new());
    for item in reader {
        let (n, bytes) = match item {
            Ok(item) => item,
            Err(e) => return Ok((end.unwrap_or(from), Some(e))),
        };
        ensure!(end.is_none_or(|end| end == n), "receipt {n} follows number {end:?}");
        receipt(n, last, &mut expected);
        if bytes != expected {
            let is_of = epoch_of(&bytes).with_context(|| format!("receipt {n}"))?;
            ensure!((last..=epoch).contains(&is_of), "receipt {n} is of epoch {is_of}, after {last}");
            receipt(n, is_of, &mut expected);
            let is = bytes == expected || check(&bytes)?.kind() == "prune";
            ensure!(is, "receipt {n} is not as it was written: {}", String::from_utf8_lossy(&bytes));
            last = is_of;
        }
        end = Some(n + 1);
    }
    Ok((end.unwrap_or(from), None))
}
