//! What the log has already, for a daemon that takes over.
//!
//! A daemon can end between reading an event and making its receipt durable. The snapshot it leaves may be older
//! than the end of the log, or newer: it may know events whose receipts were never written. So the state is put
//! together from the snapshot, the end of the log, and what is still in the ring. Promises: each event gets one
//! receipt and counts once; a receipt that is of no event is told once. Must never: change the log.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use aarm_common::event::HEADER_BYTES;
use aarm_common::limits::RING_BYTES;
use aarm_receipt::chain;
use aarm_receipt::read::{ReadError, Reader};
use serde_json::Value;

use super::gaps::{CPUS_MAX, GapTracker};
use super::snapshot::{Snapshot, Untold};
use crate::api::types::ActionCounts;

/// Receipts at the end of the log that can be of events still in the ring: as many as the ring holds at most.
pub const TAIL: u64 = RING_BYTES as u64 / HEADER_BYTES as u64;

const _: () = assert!(TAIL == 91_180, "docs/logs.md says how many are always kept");

/// What is known from the end of the log.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Events by CPU and number.
    seen: HashSet<(u32, u64)>,
    /// Numbers that arrived or were declared missing.
    gaps: GapTracker,
    /// Actions that the snapshot does not count yet, by session.
    counts: HashMap<u64, ActionCounts>,
    /// Sessions that are closed on paper.
    closed: HashSet<u64>,
    /// Receipts of no event that the snapshot has and the log has not.
    untold: HashSet<Vec<u8>>,
    /// Answers, by what waited and since when: whether it may happen.
    answers: HashMap<(u64, u64), bool>,
    /// The ring was read to its end: what comes from now on is new.
    all_read: bool,
}

impl Recorded {
    /// Reads the end of a log of `size` receipts.
    pub fn read(log: &Path, size: u64, snapshot: &Snapshot) -> Result<Self, ReadError> {
        let mut found = Self::expecting(snapshot);
        for item in Reader::open(log, size.saturating_sub(TAIL))? {
            found.note(&item?.1, snapshot);
        }
        Ok(found)
    }

    fn expecting(snapshot: &Snapshot) -> Self {
        Self { untold: snapshot.untold.iter().map(|u| u.bytes.clone()).collect(), ..Self::default() }
    }

    /// Nothing that the programs in the kernel have to do with: they are freshly loaded.
    pub fn of_fresh_programs(self) -> Self {
        Self { gaps: GapTracker::fresh(), untold: self.untold, ..Self::default() }
    }

    /// Takes in the log's next receipt.
    fn note(&mut self, bytes: &[u8], snapshot: &Snapshot) {
        let Ok(r) = serde_json::from_slice::<Value>(bytes) else { return };
        let session = r["session"]["id"].as_str().and_then(|id| u64::from_str_radix(id, 16).ok());
        match r["kind"].as_str() {
            // Freshly loaded programs count from 0, and nothing from before is in their ring.
            Some("start") if r["detail"]["adopted"] == false => {
                *self = std::mem::take(self).of_fresh_programs();
            }
            Some("gap") => {
                if let (Some(cpu), Some(n)) = (cpu(&r["detail"]["cpu"]), r["detail"]["missing"].as_u64()) {
                    self.gaps.told(cpu, n);
                }
            }
            Some("session_close") => self.closed.extend(session),
            Some("resolution") => self.answers.extend(answer(&r)),
            _ => {}
        }
        if !self.untold.is_empty() {
            let mut encoded = bytes.to_vec();
            chain::unlink(&mut encoded);
            self.untold.remove(&encoded);
        }
        let (Some(cpu), Some(n)) = (cpu(&r["seq"]["cpu"]), r["seq"]["n"].as_u64()) else { return };
        self.seen.insert((cpu, n));
        self.gaps.note(cpu, n, 0);
        if let Some(session) = session
            && r["kind"] == "action"
            && !snapshot.has_read(cpu, n)
        {
            let counts = self.counts.entry(session).or_default();
            match (r["decision"]["result"].as_str(), r["decision"]["mode"].as_str()) {
                (Some("ALLOW"), _) => counts.allow += 1,
                (_, Some("audit")) => counts.audit += 1,
                (Some("MODIFY"), _) => counts.allow += 1,
                // It is counted when it is answered.
                (Some("STEP_UP" | "DEFER"), _) if !r["decision"]["hold"].is_null() => {}
                _ => counts.deny += 1,
            }
        }
    }

    /// Whether an event has its receipt. Asked once for each.
    #[inline]
    pub fn take(&mut self, cpu: u32, n: u64) -> bool {
        !self.seen.is_empty() && self.seen.remove(&(cpu, n))
    }

    /// The ring was read to its end: what was seen until now does not come again.
    #[inline]
    pub fn all_read(&mut self) {
        self.all_read = true;
        if !self.seen.is_empty() {
            self.seen = HashSet::new();
        }
    }

    /// Numbers that arrived, to go on from.
    pub fn gaps(&mut self) -> GapTracker {
        std::mem::take(&mut self.gaps)
    }

    /// What the log has of a session and the snapshot has not.
    pub fn counts(&self, session: u64) -> ActionCounts {
        self.counts.get(&session).copied().unwrap_or_default()
    }

    /// Whether a session's end is recorded.
    pub fn is_closed(&self, session: u64) -> bool {
        self.closed.contains(&session)
    }

    /// This daemon answers what it knows of a former one, perhaps before it has read the event of that.
    pub fn answered(&mut self, hold: u64, since_ns: u64, allow: bool) {
        if !self.all_read {
            self.answers.insert((hold, since_ns), allow);
        }
    }

    /// What was answered to what waits since then, whether or not the kernel was told.
    pub fn answer(&self, hold: u64, since_ns: u64) -> Option<bool> {
        self.answers.get(&(hold, since_ns)).copied()
    }

    /// A receipt that a former daemon could not write is written now, and not again: a daemon that is killed between keeping its state and
    /// clearing the journal leaves it in both.
    pub fn is_told(&mut self, bytes: &[u8]) {
        self.untold.remove(bytes);
        if let Ok(r) = serde_json::from_slice::<Value>(bytes) {
            self.answers.extend(answer(&r));
        }
    }

    /// Whether the log lacks a receipt of the snapshot's.
    pub fn lacks(&self, untold: &Untold) -> bool {
        self.untold.contains(&untold.bytes)
    }
}

/// The answer that a receipt tells, if it is the last one that was needed. What was to be decided anew is asked about again.
fn answer(r: &Value) -> Option<((u64, u64), bool)> {
    let d = &r["detail"];
    let allow = match d["answer"].as_str()? {
        "ALLOW" | "MODIFY" => true,
        "DENY" => false,
        _ => return None,
    };
    let hold = u64::from_str_radix(d["hold"].as_str()?, 16).ok()?;
    let since_ns = r["boot_ns"].as_u64()?.checked_sub(d["waited_ns"].as_u64()?)?;
    let is_last = r["kind"] == "resolution" && d["left"].as_u64().unwrap_or(0) == 0;
    is_last.then_some(((hold, since_ns), allow))
}

/// A CPU's number, if it can be one.
fn cpu(v: &Value) -> Option<u32> {
    v.as_u64().filter(|n| *n < CPUS_MAX as u64).map(|n| n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::gaps::{GRACE_NS, Gap};
    use crate::daemon::snapshot::Numbers;

    fn receipts(found: &mut Recorded, snapshot: &Snapshot, lines: &[&str]) {
        lines.iter().for_each(|l| found.note(l.as_bytes(), snapshot));
    }

    fn overdue(found: &mut Recorded) -> Vec<Gap> {
        let (mut gaps, mut all) = (found.gaps(), Vec::new());
        gaps.overdue(2 * GRACE_NS, usize::MAX, |g| all.push(g));
        all
    }

    const START: &str = r#"{"kind":"start","detail":{"adopted":false}}"#;

    #[test]
    fn a_gap_that_was_not_told_is_told_by_the_next_daemon_and_no_other() {
        let first = r#"{"kind":"process","seq":{"cpu":0,"n":0}}"#;
        let later = r#"{"kind":"process","seq":{"cpu":0,"n":4}}"#;
        let gap = r#"{"kind":"gap","detail":{"cpu":0,"missing":3}}"#;
        let mut found = Recorded::default();
        receipts(&mut found, &Snapshot::default(), &[START, first, later]);
        assert_eq!(overdue(&mut found), [Gap { cpu: 0, first: 1, count: 3 }]);
        let mut found = Recorded::default();
        receipts(&mut found, &Snapshot::default(), &[START, first, later, gap]);
        assert_eq!(overdue(&mut found), []);
        assert!(found.take(0, 4) && !found.take(0, 4) && !found.take(0, 2));
    }

    #[test]
    fn an_action_counts_once_whether_snapshot_or_log_is_newer() {
        let snapshot = Snapshot { read: vec![Numbers { next: 2, above: vec![5] }], ..Snapshot::default() };
        let action = |n: u64, decision: &str| {
            format!(
                r#"{{"kind":"action","session":{{"id":"000000010000002a"}},"seq":{{"cpu":0,"n":{n}}},"decision":{decision}}}"#
            )
        };
        let mut found = Recorded::default();
        for (n, d) in [
            (1, r#"{"result":"ALLOW","mode":"enforce"}"#),
            (2, r#"{"result":"ALLOW","mode":"audit"}"#),
            (3, r#"{"result":"DENY","mode":"enforce"}"#),
            (4, r#"{"result":"DENY","mode":"audit"}"#),
            (5, r#"{"result":"DENY","mode":"enforce"}"#),
            (6, r#"{"result":"MODIFY","mode":"enforce"}"#),
            (7, r#"{"result":"MODIFY","mode":"audit"}"#),
        ] {
            found.note(action(n, d).as_bytes(), &snapshot);
        }
        let c = found.counts(0x1_0000_002a);
        assert_eq!((c.allow, c.deny, c.audit), (2, 1, 2));
        assert!(!found.is_closed(0x1_0000_002a));
        found.note(br#"{"kind":"session_close","session":{"id":"000000010000002a"}}"#, &snapshot);
        assert!(found.is_closed(0x1_0000_002a));
        found.note(START.as_bytes(), &snapshot);
        assert!(!found.is_closed(0x1_0000_002a), "another load of the programs");
    }

    #[test]
    fn the_answer_to_what_waits_is_the_one_on_paper() {
        let answer = |hold: u64, boot: u64, detail: &str| {
            format!(
                r#"{{"kind":"resolution","boot_ns":{boot},"detail":{{"hold":"{hold:016x}","waited_ns":10,{detail}}}}}"#
            )
        };
        let mut found = Recorded::default();
        for (hold, detail) in [
            (1, r#""answer":"ALLOW""#),
            (2, r#""answer":"DENY""#),
            (3, r#""answer":"MODIFY""#),
            (4, r#""answer":"ANEW""#),
            (5, r#""answer":"ALLOW","left":1"#),
        ] {
            found.note(answer(hold, 30, detail).as_bytes(), &Snapshot::default());
        }
        let all: Vec<_> = (1..=5).map(|hold| found.answer(hold, 20)).collect();
        assert_eq!(all, [Some(true), Some(false), Some(true), None, None]);
        assert_eq!(found.answer(1, 21), None, "the same was asked again later");
        found.is_told(answer(6, 40, r#""answer":"DENY""#).as_bytes());
        assert_eq!(found.answer(6, 30), Some(false));
        // Of other programs in the kernel, or cut short by hand.
        found.note(START.as_bytes(), &Snapshot::default());
        assert_eq!(found.answer(1, 20), None);
        found.is_told(
            br#"{"kind":"resolution","boot_ns":5,"detail":{"hold":"1","waited_ns":9,"answer":"ALLOW"}}"#,
        );
        assert!(found.answers.is_empty());
    }

    #[test]
    fn what_the_log_has_is_not_told_again() {
        let untold = |bytes: &[u8]| Untold { bytes: bytes.to_vec(), ..Untold::default() };
        let (a, b) = (untold(br#"{"kind":"policy","v":1}"#), untold(br#"{"kind":"policy","v":2}"#));
        let snapshot = Snapshot { untold: vec![a.clone(), b.clone()], ..Snapshot::default() };
        let mut found = Recorded::expecting(&snapshot);
        found.note(&b.bytes, &snapshot);
        let mut found = found.of_fresh_programs();
        assert!(found.lacks(&a) && !found.lacks(&b));
        found.is_told(&a.bytes);
        assert!(!found.lacks(&a), "state and journal have it both");
    }
}
