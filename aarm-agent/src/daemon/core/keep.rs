//! What the core does without being asked, and what outlives the daemon: sessions taken over, state kept.

use aarm_common::limits::SESSIONS;
use aarm_common::op::Decision;
use aarm_common::state::{SESSION_ENDED, Stat, session_id, session_slot};
use aarm_receipt::Body;

use super::{Core, Read, STORE_EVENTS, SUMMARY, THOROUGH, unknown_policy};
use crate::api::types::{ActionCounts, SessionStart};
use crate::daemon::batch::{BATCH_RECEIPTS, Kind, Whose};
use crate::daemon::gaps::Gap;
use crate::daemon::journal::Journal;
use crate::daemon::policies::{Loaded, PolicyError};
use crate::daemon::record::Clock;
use crate::daemon::sessions::Session;
use crate::daemon::snapshot::{self, SessionRecord, Snapshot};

impl Core {
    /// Finds the sessions that went on without a daemon.
    pub(super) fn adopt(&mut self) -> Result<(), PolicyError> {
        for slot in 0..SESSIONS as u32 {
            let s = self.p.kernel.session(slot)?;
            if s.generation == 0 || s.tasks == 0 && s.flags & SESSION_ENDED == 0 {
                continue;
            }
            let id = session_id(slot, s.generation);
            if self.p.recorded.is_closed(id) {
                self.recycle(id);
                continue;
            }
            let known = self.p.snapshot.sessions.iter().find(|r| r.id == id).cloned();
            let recovered = known.is_none();
            let r = known.unwrap_or_else(|| SessionRecord {
                id,
                uuid: *uuid::Uuid::now_v7().as_bytes(),
                started_ns: self.clock.unix(s.started_ns),
                ..SessionRecord::default()
            });
            let label = self.policies.slot(s.policy).map(|l| (l.label.clone(), l.generation));
            let (policy, generation) = label.unwrap_or_else(|| (unknown_policy(), 0));
            let uuid = uuid::Uuid::from_bytes(r.uuid);
            let since = self.p.recorded.counts(id);
            let session = Session {
                generation,
                start: match (recovered, r.agent) {
                    (true, _) => SessionStart::Recovered,
                    (_, true) => SessionStart::Agent,
                    _ => SessionStart::Run,
                },
                intent: r.intent.unwrap_or_default(),
                human: r.human.unwrap_or_default().into(),
                uid: r.uid,
                pid: r.pid,
                exe: r.exe.into(),
                started_ns: r.started_ns,
                counts: ActionCounts {
                    allow: r.counts[Decision::Allow as usize] + since.allow,
                    deny: r.counts[Decision::Deny as usize] + since.deny,
                    audit: r.counts[7] + since.audit,
                    refused: 0,
                },
                refused_told: r.refused,
                ..Session::new(id, uuid, policy)
            };
            self.sessions.insert(session);
            if recovered {
                self.open_receipt(id, "recovered", None);
            }
        }
        Ok(())
    }

    /// Writes the receipts that a former daemon could not write and that are of no event.
    pub(super) fn tell_again(&mut self) {
        for u in std::mem::take(&mut self.p.snapshot.untold) {
            if !self.p.recorded.lacks(&u) {
                continue;
            }
            let kind = match aarm_receipt::receipt::check(&u.bytes) {
                Ok(_) if u.session == 0 => Kind::System,
                Ok(facts) if facts.weighs => Kind::Answer,
                Ok(_) => Kind::Session,
                Err(e) => {
                    tracing::warn!("a receipt that a former daemon could not write is not one: {e}");
                    continue;
                }
            };
            // What it must not show was taken out when it was encoded.
            let whose = Whose { owner: u.owner, session: u.session, ..Whose::NOBODY };
            self.batch.push(whose, u.time_ns, 0, kind, |out| out.extend_from_slice(&u.bytes));
            self.p.recorded.is_told(&u.bytes);
            self.untold.push_back((self.number, u));
        }
    }

    /// Housekeeping, twice a second.
    pub(super) fn tick(&mut self) {
        let now = crate::kernel::boot_ns();
        self.clock = Clock::now();
        self.p.metrics.beat(now);
        self.p.metrics.ring_fill.set(self.p.events.fill() as i64);
        self.p.metrics.sessions.set(self.sessions.live().into());
        match self.p.kernel.stats() {
            Ok(stats) => {
                self.p.metrics.set_kernel(&stats);
                let lost = stats[Stat::Lost as usize];
                if lost > self.told_lost {
                    self.p.metrics.lost.inc_by(lost - self.told_lost);
                    tracing::error!("{} events lost in the kernel", lost - self.told_lost);
                    self.told_lost = lost;
                }
            }
            Err(e) => tracing::warn!("kernel counters: {e}"),
        }
        // What makes receipts waits while there is no way for them.
        if self.pending.is_none() {
            self.report(now);
        }
        // What is still in the ring may be of a policy that no session is under any more.
        if !self.is_stuck() && !self.more {
            self.sweep();
        }
        let thorough = self.thorough.elapsed() >= THOROUGH;
        if thorough {
            self.thorough = std::time::Instant::now();
        }
        self.hold_tick(now, thorough);
        self.above_tick();
        // A wake-up can be missed only if a program was interrupted between two words; look anyway.
        self.more = true;
        if let Err(e) = self.policies.refresh_agents(&mut *self.p.kernel) {
            tracing::warn!("agent selectors: {e}");
        }
        let received = self.p.metrics.received.get();
        if self.dirty || received - self.stored >= STORE_EVENTS {
            self.stored = received;
            self.store(false);
        }
    }

    /// Frees the slots of policies that are out of use.
    pub(super) fn sweep(&mut self) {
        let leaving = self.leaving.iter().map(|(_, s)| s.id);
        let used: Vec<u32> = self
            .sessions
            .iter()
            .map(|s| s.id)
            .chain(leaving)
            .filter_map(|id| self.p.kernel.session(session_slot(id)).ok())
            .map(|k| k.policy)
            .collect();
        // What is decided when a program was read must still be known then.
        let reading = self.holds.reading();
        let is_used = |l: &Loaded| used.contains(&l.slot) || reading.contains(&l.generation);
        if let Err(e) = self.policies.sweep(&mut *self.p.kernel, is_used) {
            tracing::warn!("policy slots: {e}");
        }
    }

    /// Receipts of what no event tells: at most [`BATCH_RECEIPTS`] gaps, and two for each session.
    fn report(&mut self, now: u64) {
        if self.summarized.elapsed() >= SUMMARY {
            self.summarized = std::time::Instant::now();
            let live: Vec<u64> = self.sessions.iter().map(|s| s.id).collect();
            live.into_iter().for_each(|id| self.summarize(id));
        }
        if self.gaps.has_holes() {
            let mut found: Vec<Gap> = Vec::new();
            // A number that is missing may still be in the ring, if that was not read to its end.
            let now = if self.more { 0 } else { now };
            self.gaps.overdue(now, BATCH_RECEIPTS, |g| found.push(g));
            for g in found {
                tracing::warn!(
                    "{} events of CPU {} found no room in the ring: their actions were refused",
                    g.count,
                    g.cpu
                );
                self.system(&Body::Gap {
                    cpu: Some(g.cpu),
                    missing: g.count,
                    why: "no room in the ring: the actions were refused",
                    detail: b"",
                });
            }
        }
        // A session whose end found no room in the ring.
        let ended: Vec<u64> = self
            .sessions
            .iter()
            .filter(|s| {
                self.p.kernel.session(session_slot(s.id)).is_ok_and(|k| {
                    session_id(session_slot(s.id), k.generation) == s.id
                        && k.tasks == 0
                        && k.flags & SESSION_ENDED != 0
                })
            })
            .map(|s| s.id)
            .collect();
        if self.p.events.fill() == 0 && self.batch.is_empty() {
            ended.into_iter().for_each(|id| self.ended(id, None));
        }
    }

    /// Keeps what the next daemon needs.
    pub(super) fn store(&mut self, clean: bool) {
        let (policies, next_generation) = self.policies.records();
        let leaving = self.leaving.iter().map(|(_, s)| &**s);
        let sessions = self
            .sessions
            .iter()
            .chain(leaving)
            .map(|s| {
                let mut counts = [0; 8];
                counts[Decision::Allow as usize] = s.counts.allow;
                counts[Decision::Deny as usize] = s.counts.deny;
                counts[7] = s.counts.audit;
                let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                SessionRecord {
                    id: s.id,
                    uuid: *s.uuid.as_bytes(),
                    generation: s.generation,
                    agent: s.start == SessionStart::Agent,
                    intent: some(&s.intent),
                    human: some(&s.human.shown()),
                    uid: s.uid,
                    pid: s.pid,
                    exe: s.exe.shown(),
                    started_ns: s.started_ns,
                    counts,
                    refused: s.refused_told,
                }
            })
            .collect();
        let snapshot = Snapshot {
            boot_id: snapshot::boot_id(),
            clean,
            next_generation,
            read: self.read(),
            sessions,
            untold: self.untold.iter().map(|(_, u)| u.clone()).collect(),
            policies,
            labels: self.policies.labels().to_vec(),
            patterns: self.policies.patterns().to_vec(),
            holds: self.hold_records(),
        };
        let stored = snapshot.store(&self.p.state);
        if stored.is_ok() {
            self.noted(Journal::clear);
        }
        // Tried again at the next tick, but said once.
        self.dirty = stored.is_err();
        match stored {
            Err(e) if !self.unkept => tracing::error!("state is not kept: {e}"),
            _ => {}
        }
        self.unkept = self.dirty;
    }

    /// All events read by now, by this daemon and those before.
    fn read(&self) -> Vec<Read> {
        let mut all = self.before.clone();
        for (i, (next, above)) in self.gaps.read().enumerate() {
            match all.get_mut(i) {
                Some(r) => {
                    r.next = r.next.max(next);
                    r.above.extend_from_slice(above);
                    r.above.retain(|n| *n >= r.next);
                    r.above.sort_unstable();
                    r.above.dedup();
                }
                None => all.push(Read { next, above: above.to_vec() }),
            }
        }
        all
    }
}
