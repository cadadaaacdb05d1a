//! How long receipts are kept, and how small: what is to go is looked for now and then, told in a receipt, and taken out when that is signed;
//! what is not written any more gets its index, and is compressed, by a thread that gives way to all others.
//!
//! Must never: take out what a daemon that takes over needs to know what is recorded already, or stop the log because something old stays.

use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use aarm_receipt::canonical::Encoded;
use aarm_receipt::index;
use aarm_receipt::log::{Compressed, Expired, Retention, compress};
use aarm_receipt::read::ReadError;
use aarm_receipt::{Body, Common, LogWriter, encode};

use super::record::Clock;

/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(10);

/// How nice the thread is that reads and compresses.
const NICE: libc::c_int = 15;

/// What was done for a segment.
enum Done {
    Compressed(std::io::Result<Compressed>),
    Indexed(u64, Result<(), ReadError>),
}

/// What is kept, and whose log it is.
pub struct Keeping {
    keep: Retention,
    compress: bool,
    host: Encoded,
    working: Option<JoinHandle<Done>>,
    /// When it was looked for last.
    looked: Option<Instant>,
}

impl Keeping {
    /// Keeps what `keep` says of a host's log.
    pub fn new(keep: Retention, compress: bool, host: Encoded) -> Self {
        Self { keep, compress, host, working: None, looked: None }
    }

    /// How long there is nothing to look for.
    pub fn pause(&self) -> Duration {
        let is_done = self.working.as_ref().is_some_and(JoinHandle::is_finished);
        let looked = self.looked.filter(|_| !is_done);
        looked.map_or(Duration::ZERO, |looked| LOOK.saturating_sub(looked.elapsed()))
    }

    /// What is to go, at most once in a while, or when something was done for a segment. Has the next done meanwhile.
    pub fn look(&mut self, log: &mut LogWriter) -> Option<Expired> {
        if !self.pause().is_zero() {
            return None;
        }
        self.looked = Some(Instant::now());
        if let Err(e) = self.work(log) {
            tracing::error!("a segment stays as it is: {e}");
        }
        log.expired(&self.keep, SystemTime::now()).unwrap_or_else(|e| {
            tracing::error!("old receipts are kept: {e}");
            None
        })
    }

    /// Takes over what was done, and begins with the next.
    fn work(&mut self, log: &mut LogWriter) -> Result<(), Box<dyn std::error::Error>> {
        if self.working.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        if let Some(thread) = self.working.take() {
            match thread.join().map_err(|_| "what was done for it panicked")? {
                Done::Compressed(compressed) => {
                    let saved = log.place_compressed(&compressed?)?;
                    tracing::debug!("a segment was compressed: {saved} bytes less");
                }
                Done::Indexed(number, made) => {
                    // Without one it is read by who looks for something.
                    log.indexed(number);
                    made?;
                }
            }
        }
        let dir = log.dir().to_owned();
        let job: Box<dyn FnOnce() -> Done + Send> = if let Some((number, name)) = log.unindexed() {
            Box::new(move || Done::Indexed(number, index::make(&dir, number, &name)))
        } else if let Some(path) = log.compressible().filter(|_| self.compress) {
            let path = path.to_owned();
            Box::new(move || Done::Compressed(compress(&path)))
        } else {
            return Ok(());
        };
        let begun = std::thread::Builder::new().name("aarm-zstd".into()).spawn(move || {
            // SAFETY: numbers only; 0 is the calling thread. It matters little if it is not granted.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
            job()
        });
        self.working = Some(begun?);
        Ok(())
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
        let Expired { before, segments, bytes, why, .. } = *gone;
        let mut out = Vec::new();
        encode(&common, &Body::Prune { before, segments, bytes, why }, &mut out);
        out
    }
}
