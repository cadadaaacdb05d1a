//! What receipts do not show, as the log's writer keeps it: before the receipts are there, and no longer than they are.
//!
//! Must never: keep anybody waiting. Receipts are what they are without it: what cannot be kept is as good as erased, and that nobody
//! could act because of it would be worse.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aarm_receipt::LogWriter;
use aarm_receipt::read::Reader;
use aarm_receipt::redact::sidecar::Sidecar;

use super::batch::Batch;
use crate::metrics::Metrics;

/// Receipts are in the order of their times, give or take this.
const SLACK: Duration = Duration::from_secs(3600);

/// Where it is kept.
pub struct Redacted {
    sidecar: Sidecar,
    metrics: Arc<Metrics>,
}

impl Redacted {
    /// In this sidecar; what is lost is counted.
    pub fn new(sidecar: Sidecar, metrics: Arc<Metrics>) -> Self {
        Self { sidecar, metrics }
    }

    /// Keeps what a batch's receipts do not show.
    pub fn keep(&self, batch: &Batch) {
        for (session, values) in &batch.withheld {
            if let Err(e) = self.sidecar.keep(session, values) {
                self.metrics.withheld_lost.inc_by(values.len() as u64);
                tracing::error!("{} redacted values of session {session} are lost: {e}", values.len());
            }
        }
    }

    /// Erases what is kept of sessions whose receipts are all pruned.
    pub fn prune(&self, log: &LogWriter) {
        if let Err(e) = self.try_prune(log) {
            tracing::error!("redacted values of receipts that were pruned are kept: {e}");
        }
    }

    fn try_prune(&self, log: &LogWriter) -> Result<(), Box<dyn std::error::Error>> {
        let sessions = self.sidecar.sessions()?;
        if sessions.is_empty() {
            return Ok(());
        }
        let Some(first) = Reader::open(log.dir(), log.first())?.next() else { return Ok(()) };
        let first: serde_json::Value = serde_json::from_slice(&first?.1)?;
        let first: jiff::Timestamp = first["time"].as_str().unwrap_or_default().parse()?;
        let Some(before) = unix(first).checked_sub(SLACK) else { return Ok(()) };
        for (session, last) in sessions {
            if last < before {
                self.sidecar.erase(&session)?;
                tracing::info!("what was redacted of session {session} went with its receipts");
            }
        }
        Ok(())
    }
}

/// The same instant; those before 1970 are 1970.
fn unix(time: jiff::Timestamp) -> SystemTime {
    let since = Duration::from_nanos(u64::try_from(time.as_nanosecond()).unwrap_or(0));
    SystemTime::UNIX_EPOCH + since
}

#[cfg(test)]
mod tests {
    use super::*;
    use aarm_receipt::canonical::Encoded;
    use aarm_receipt::redact::Withheld;
    use aarm_receipt::{Body, Common, Keys, Options, encode};

    #[test]
    fn what_is_kept_goes_with_the_receipts_that_it_is_of() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap();
        let (mut log, _) =
            LogWriter::open(&dir.path().join("log"), keys, "w", Options { segment_bytes: 1 << 20 }).unwrap();
        let now = SystemTime::now();
        let time_ns = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let common = Common { time_ns, boot_ns: 1, host: &Encoded::text(b"h"), session: None, seq: None };
        let mut bytes = Vec::new();
        encode(&common, &Body::Stop { version: "1" }, &mut bytes);
        log.append(&mut bytes, true).unwrap();
        log.sync().unwrap();
        let sidecar = Sidecar::at(&dir.path().join("redacted"));
        for (session, age) in [("a0", 0), ("b0", 3000), ("c0", 4000)] {
            sidecar.keep(session, &[Withheld { salt: [1; 32], value: b"\"x\"".to_vec() }]).unwrap();
            let file = std::fs::File::options().write(true).open(dir.path().join("redacted").join(session));
            file.unwrap().set_modified(now - Duration::from_secs(age)).unwrap();
        }
        let redacted = Redacted::new(sidecar.clone(), Metrics::new().unwrap());
        redacted.prune(&log);
        let left: Vec<String> = sidecar.sessions().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["a0", "b0"]);
    }
}
