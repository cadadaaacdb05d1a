//! How long receipts are kept: what is to go is looked for now and then, told in a receipt, and taken out when that is signed.
//!
//! Must never: take out what a daemon that takes over needs to know what is recorded already, or stop the log because something old stays.

use std::time::{Duration, Instant, SystemTime};

use aarm_receipt::canonical::Encoded;
use aarm_receipt::log::{Expired, Retention};
use aarm_receipt::{Body, Common, LogWriter, encode};

use super::record::Clock;

/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(10);

/// What is kept, and whose log it is.
pub struct Keeping {
    keep: Retention,
    host: Encoded,
    /// When it was looked for last.
    looked: Option<Instant>,
}

impl Keeping {
    /// Keeps what `keep` says of a host's log.
    pub fn new(keep: Retention, host: Encoded) -> Self {
        Self { keep, host, looked: None }
    }

    /// How long there is nothing to look for. `None`: nothing ever goes.
    pub fn pause(&self) -> Option<Duration> {
        let pause = || self.looked.map_or(Duration::ZERO, |looked| LOOK.saturating_sub(looked.elapsed()));
        self.keep.is_asked_for().then(pause)
    }

    /// What is to go, at most once in a while.
    pub fn look(&mut self, log: &LogWriter) -> Option<Expired> {
        if self.pause().is_none_or(|pause| !pause.is_zero()) {
            return None;
        }
        self.looked = Some(Instant::now());
        log.expired(&self.keep, SystemTime::now()).unwrap_or_else(|e| {
            tracing::error!("old receipts are kept: {e}");
            None
        })
    }

    /// The receipt that says so.
    pub fn receipt(&self, gone: &Expired) -> Vec<u8> {
        let boot_ns = crate::kernel::boot_ns();
        let common = Common {
            time_ns: Clock::now().unix(boot_ns),
            boot_ns,
            host: &self.host,
            session: None,
            seq: None,
        };
        let Expired { before, segments, bytes, why } = *gone;
        let mut out = Vec::new();
        encode(&common, &Body::Prune { before, segments, bytes, why }, &mut out);
        out
    }
}
