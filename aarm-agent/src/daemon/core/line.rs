//! Execs that stopped before their first instruction, because what the kernel cannot see of their program decides.
//!
//! The kernel has found which rules hold but for what they ask of the program. Where its words are enough, the rest is decided here, as the
//! reference evaluator would; where a rule asks for more, the program is read first, by [`crate::daemon::program`]. What cannot be
//! decided is refused.

use std::os::fd::AsFd;
use std::sync::Arc;

use aarm_common::event::{Event, FLAG_ARGS_CUT, FLAG_HELD, FLAG_TRACED};
use aarm_common::hold::Asks;
use aarm_common::op::Decision;
use aarm_policy::{Changed, Line, Modify, Policy, Undecided};

use super::Core;
use super::answers::{Answer, How};
use crate::daemon::holds::{AUDITED_MAX, Ask, Unread, Waiting};
use crate::daemon::program::{self, Read, Reading};
use crate::daemon::resolve::{Attempted, Found};

/// What is read of programs, as an attempt to find something out.
const READER: &str = "program";
/// Why nobody is asked about, and nothing is changed of, what its own session may change after it was shown.
const TRACED: &str = "it is traced by its own session, which can change its arguments";

impl Core {
    /// Decides one. In audit mode it runs already, and what would have become of it is recorded.
    pub(super) fn line(&mut self, e: &Event<'_>) {
        let held = e.header.flags & FLAG_HELD != 0;
        if held && self.new_hold(e).is_none() {
            return;
        }
        let key = e.header.hold;
        if !held && self.p.recorded.answer(key, e.header.time_ns).is_some() {
            self.p.kernel.forget_hold(key);
            return;
        }
        let told = (e.header.flags & FLAG_ARGS_CUT == 0).then_some(e.args);
        let traced = held && e.header.flags & FLAG_TRACED != 0 && !self.is_traced_from_outside(e.header.pid);
        let unread = Unread { generation: e.header.policy, audit: !held, traced };
        let mut w = self.waiting(e, key, Vec::new());
        let lines = match (self.source(unread.generation), self.p.kernel.lines(key)) {
            (Some(policy), Some(found)) => {
                // What runs on may have made its words whatever keeps a reader waiting: then they are read elsewhere.
                let words = match told {
                    None if !held => program::unread(),
                    _ => program::words_of(e.header.pid, told),
                };
                program::by_words(policy, &found, &words)
            }
            _ => Ok(Vec::new()),
        };
        match lines {
            Ok(lines) => self.lined(w, unread, &lines, None),
            // The kernel bounds those that it holds.
            Err(_) if held || self.holds.audited() < AUDITED_MAX => {
                w.unread = Some(unread);
                self.remember(&mut w);
                self.add_hold(w);
                self.read_program(key);
            }
            Err(_) => {
                w.unread = Some(unread);
                self.over(w, &How::by_itself("timeout"));
            }
        }
    }

    /// Whether who traces a process is outside any session. Who has let it go meanwhile may have been inside.
    fn is_traced_from_outside(&self, pid: u32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok());
        let tracer =
            tracer.filter(|tracer| *tracer != 0).and_then(|tracer| crate::kernel::pidfd(tracer).ok());
        tracer.is_some_and(|tracer| matches!(self.p.kernel.session_of(tracer.as_fd()), Ok(None)))
    }

    /// The policy of a generation; of one that a former daemon loaded, one that says the same.
    fn source(&self, generation: u32) -> Option<&Arc<Policy>> {
        let loaded = self.policies.generation(generation)?;
        loaded.source.as_ref().or_else(|| {
            let same = |policy: &&Arc<Policy>| policy.hash() == loaded.label.hash;
            self.policies.all().iter().filter_map(|l| l.source.as_ref()).find(same)
        })
    }

    /// Has a program read, if nobody does. One that finds no place is read at the next tick.
    fn read_program(&mut self, key: u64) {
        let Some(w) = self.holds.get(key).filter(|w| !w.seeking) else { return };
        let Some(unread) = w.unread else { return };
        let (policy, found) = (self.source(unread.generation).cloned(), self.p.kernel.lines(key));
        let (Some(policy), Some(found)) = (policy, found) else {
            if let Some(w) = self.holds.take(key) {
                self.lined(w, unread, &[], None);
            }
            return;
        };
        let reading = Reading {
            key,
            since_ns: w.since_ns,
            session: w.session,
            pid: w.about.pid,
            path: w.about.path.clone(),
            policy,
            found,
        };
        let begun = self.p.readings.try_send(reading).is_ok();
        if let Some(w) = self.holds.get_mut(key) {
            w.seeking = begun;
        }
    }

    /// Has those read that nobody reads yet.
    pub(super) fn read_all(&mut self) {
        for key in self.holds.keys(|w| !w.seeking && w.unread.is_some()) {
            self.read_program(key);
        }
    }

    /// A program was read.
    pub(super) fn was_read(&mut self, read: Read) {
        let stuck = self.is_stuck();
        // Over meanwhile, or gone.
        let Some(w) = self.holds.get_mut(read.key).filter(|w| w.since_ns == read.since_ns && w.seeking)
        else {
            return;
        };
        w.seeking = false;
        let Some(unread) = w.unread.filter(|_| !stuck) else { return };
        let Some(mut w) = self.holds.take(read.key) else { return };
        w.unread = None;
        let attempted = Attempted {
            key: read.key,
            since_ns: read.since_ns,
            resolver: READER.into(),
            found: if read.undecided.is_some() { Found::Failed } else { Found::Known },
            detail: read.undecided.map(|why| why.to_string()).unwrap_or_default(),
            facts: read.facts,
            learnt: None,
            took: read.took,
        };
        self.note_attempt(&mut w, &attempted);
        self.lined(w, unread, &read.lines, read.undecided);
    }

    /// Its time is over before anything was decided.
    pub(super) fn over(&mut self, w: Waiting, how: &How<'_>) {
        match w.unread {
            Some(Unread { audit: true, .. }) => {
                self.record_answer(&w, &Answer::Deny, None, 0, how);
                self.p.kernel.forget_hold(w.key);
                self.dirty = true;
            }
            _ => {
                self.resolve(w, false, None, how);
            }
        }
    }

    /// Does what is decided of each program that was asked for. `undecided`: why nothing could be.
    fn lined(&mut self, mut w: Waiting, unread: Unread, lines: &[Line], undecided: Option<Undecided>) {
        // Of a policy that is not known any more neither names nor changes can be told.
        let is_known =
            self.policies.generation(unread.generation).is_some() && self.source(unread.generation).is_some();
        let lines = if is_known { lines } else { &[] };
        let strictest = lines.iter().copied().max_by_key(Line::strictness);
        w.modify = self.changes(unread.generation, lines);
        let asks = strictest.is_some_and(|line| line.waits);
        if unread.traced && (asks || !w.modify.is_empty()) {
            w.modify.clear();
            let how = How { comment: TRACED, ..How::by_itself("policy") };
            self.resolve(w, false, None, &how);
            return;
        }
        if asks && !unread.audit {
            w.asks = self.asks(unread.generation, w.since_ns, lines);
            return self.wait(w);
        }
        let loaded = self.policies.generation(unread.generation);
        let rule = strictest.and_then(|line| loaded?.rules.get(line.rule? as usize)).map(|r| r.id.clone());
        let undecided = strictest.map_or(undecided, |line| line.undecided);
        // Of one that a former daemon loaded the policy nothing can be said any more.
        let method = if strictest.is_some() || undecided.is_some() { "policy" } else { "restart" };
        let undecided = undecided.map(|why| why.to_string());
        let how = How {
            rule: rule.as_deref(),
            comment: undecided.as_deref().unwrap_or_default(),
            ..How::by_itself(method)
        };
        let allow = strictest.is_some_and(|line| matches!(line.decision, Decision::Allow | Decision::Modify));
        if !unread.audit {
            self.resolve(w, allow, None, &how);
            return;
        }
        // Nothing is changed of what is only looked at.
        let answer =
            if allow && !w.modify.is_empty() { Answer::Modify(Changed::default()) } else { allow.into() };
        self.record_answer(&w, &answer, how.rule, 0, &how);
        self.p.kernel.forget_hold(w.key);
        self.dirty = true;
    }

    /// What is changed, should it run: of a script, what its own rules say and what those of its interpreter say.
    fn changes(&self, generation: u32, lines: &[Line]) -> Vec<Modify> {
        let Some(policy) = self.source(generation) else { return Vec::new() };
        let rules =
            lines.iter().filter(|line| line.decision == Decision::Modify).filter_map(|line| line.rule);
        let mut changes: Vec<Modify> = Vec::new();
        for modify in rules.filter_map(|rule| policy.compiled(rule)?.modify.clone()) {
            if !changes.contains(&modify) {
                changes.push(modify);
            }
        }
        changes
    }

    /// Whom to ask.
    fn asks(&self, generation: u32, since_ns: u64, lines: &[Line]) -> Vec<Ask> {
        let mut asks: Vec<Asks> = Vec::new();
        for line in lines.iter().filter(|line| line.waits) {
            let one = Asks { rule: line.rule, decision: line.decision, cause: line.cause.into() };
            if !asks.contains(&one) {
                asks.push(one);
            }
        }
        asks.into_iter().map(|one| self.ask(generation, one, since_ns)).collect()
    }
}
