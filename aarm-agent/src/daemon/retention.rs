//! How long receipts are kept, and how small: what is to go is looked for now and then, told in a receipt, and taken out when that is signed;
//! what is not written any more gets its index, and is compressed, by a thread that gives way to all others.
//!
//! Must never: take out what a daemon that takes over needs to know what is recorded already, or what must be archived first; stop the log because
//! something old stays.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use aarm_receipt::canonical::Encoded;
use aarm_receipt::index;
use aarm_receipt::log::{Compressed, Expired, Retention, compress};
use aarm_receipt::read::ReadError;
use aarm_receipt::{Body, Common, LogError, LogWriter, encode};

use super::record::Clock;
use super::writer::Progress;

/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(10);

/// How nice threads are that only read and compress.
const NICE: libc::c_int = 15;

/// Lets all other threads go before this one.
pub(super) fn give_way() {
    // SAFETY: numbers only; 0 is the calling thread. It matters little if it is not granted.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

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
    /// Who knows what is archived, where only that goes.
    archived: Option<Arc<Progress>>,
    /// Something is kept because it is not archived.
    waits: bool,
}

impl Keeping {
    /// Keeps what `keep` says of a host's log.
    pub fn new(keep: Retention, compress: bool, host: Encoded) -> Self {
        Self { keep, compress, host, working: None, looked: None, archived: None, waits: false }
    }

    /// The same, but for what is not archived yet: that is kept.
    pub fn until_archived(self, progress: Arc<Progress>) -> Self {
        Self { archived: Some(progress), ..self }
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
        self.expired(log).unwrap_or_else(|e| {
            tracing::error!("old receipts are kept: {e}");
            None
        })
    }

    /// What is to go, of that what may.
    fn expired(&mut self, log: &LogWriter) -> Result<Option<Expired>, LogError> {
        let now = SystemTime::now();
        let gone = log.expired(&self.keep, now)?;
        let archived = self.archived.as_ref().map_or(u64::MAX, |of| of.archived.load(Ordering::Acquire));
        let waits = gone.as_ref().is_some_and(|gone| gone.before > archived);
        if waits && !std::mem::replace(&mut self.waits, waits) {
            tracing::warn!("old receipts are kept until they are archived: {archived} are");
        }
        self.waits = waits;
        if waits { log.expired(&Retention { below: Some(archived), ..self.keep }, now) } else { Ok(gone) }
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
            give_way();
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

#[cfg(test)]
mod tests {
    use super::*;
    use aarm_receipt::{Keys, Options};

    #[test]
    fn what_is_not_archived_stays_until_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap();
        let (mut log, _) =
            LogWriter::open(dir.path(), keys, "w", Options { segment_bytes: 1 << 20 }).unwrap();
        let host = Encoded::text(b"h");
        while !dir.path().join("segment-0000000004.aarm").exists() {
            let common = Common { time_ns: 1, boot_ns: 1, host: &host, session: None, seq: None };
            let mut bytes = Vec::new();
            encode(&common, &Body::Stop { version: &"x".repeat(900) }, &mut bytes);
            log.append(&mut bytes, true).unwrap();
        }
        log.checkpoint().unwrap();
        let keep = Retention { bytes: Some(2 << 20), ..Retention::default() };
        let all = log.expired(&keep, SystemTime::now()).unwrap().unwrap();
        assert_eq!(all.segments, 3);
        let progress = Arc::new(Progress::default());
        let mut keeping = Keeping::new(keep, false, host).until_archived(Arc::clone(&progress));
        let mut look = |archived: u64| {
            progress.archived.store(archived, Ordering::Release);
            keeping.looked = None;
            let gone = keeping.look(&mut log).map(|gone| (gone.segments, gone.before));
            (gone, keeping.waits)
        };
        assert_eq!(look(0), (None, true));
        // To the end of the second segment, but for a receipt.
        let ends = all.before * 2 / 3;
        let (some, waits) = look(ends - 1);
        assert!(waits && some.is_some_and(|(segments, before)| segments == 1 && before < ends), "{some:?}");
        assert_eq!(look(ends).0, Some((2, ends)));
        assert_eq!(look(all.before), (Some((3, all.before)), false));
    }
}
