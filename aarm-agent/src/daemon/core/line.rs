//! Execs that stopped before their first instruction, because their command line decides.
//!
//! The kernel has found which rules hold but for what they ask of the command line; here it is read, and the rest is decided as
//! the reference evaluator would. What cannot be decided is refused.

use aarm_common::event::{Event, FLAG_ARGS_CUT, FLAG_HELD};
use aarm_common::hold::Asks;
use aarm_common::op::Decision;
use aarm_policy::{Cause, Changed, Line, MAX_LINE, Modify, TooLong, eval_line, words};
use std::io::Read;

use super::Core;
use super::hold::{Answer, How};
use crate::daemon::holds::Ask;

impl Core {
    /// Decides one. In audit mode it runs already, and what would have become of it is recorded.
    pub(super) fn line(&mut self, e: &Event<'_>) {
        let held = e.header.flags & FLAG_HELD != 0;
        if held && self.new_hold(e).is_none() {
            return;
        }
        let key = e.header.hold;
        let lines = self.decide_line(e);
        let strictest = lines.iter().copied().max_by_key(Line::strictness);
        let asks = match strictest {
            Some(line) if held && line.waits => self.asks(e, &lines),
            _ => Vec::new(),
        };
        let mut w = self.waiting(e, key, asks);
        w.modify = self.changes(e, &lines);
        if !w.asks.is_empty() {
            return self.wait(w);
        }
        let loaded = self.policies.generation(e.header.policy);
        let rule = strictest.and_then(|line| loaded?.rules.get(line.rule? as usize)).map(|r| r.id.clone());
        let too_long = strictest.is_some_and(|line| line.cause == Cause::Args);
        let comment = if too_long { TooLong.to_string() } else { String::new() };
        // Of one that a former daemon loaded the policy nothing can be said any more.
        let method = if strictest.is_some() { "policy" } else { "restart" };
        let how = How { rule: rule.as_deref(), comment: &comment, ..How::by_itself(method) };
        let allow = strictest.is_some_and(|line| matches!(line.decision, Decision::Allow | Decision::Modify));
        if held {
            self.resolve(w, allow, None, &how);
        } else {
            // Nothing is changed of what is only looked at.
            let answer =
                if allow && !w.modify.is_empty() { Answer::Modify(Changed::default()) } else { allow.into() };
            self.record_answer(&w, &answer, how.rule, 0, &how);
            self.p.kernel.forget_hold(key);
        }
    }

    /// What is decided of each program that was asked for.
    fn decide_line(&self, e: &Event<'_>) -> Vec<Line> {
        let policy = self.policies.generation(e.header.policy).and_then(|l| l.source.as_ref());
        let (Some(policy), Some(found)) = (policy, self.p.kernel.lines(e.header.hold)) else {
            return Vec::new();
        };
        let words = match e.header.flags & FLAG_ARGS_CUT {
            0 => words(e.args),
            _ => whole(e.header.pid).and_then(|line| words(&line)),
        };
        let rounds = (found.rounds as usize).min(found.matched.len());
        let each = found.matched.iter().zip(&found.unsure).take(rounds);
        each.map(|(matched, unsure)| eval_line(policy, matched, unsure, words.as_deref().map_err(|e| *e)))
            .collect()
    }

    /// What is changed, should it run: of a script, what its own rules say and what those of its interpreter say.
    fn changes(&self, e: &Event<'_>, lines: &[Line]) -> Vec<Modify> {
        let source = self.policies.generation(e.header.policy).and_then(|l| l.source.as_ref());
        let Some(policy) = source else { return Vec::new() };
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
    fn asks(&self, e: &Event<'_>, lines: &[Line]) -> Vec<Ask> {
        let mut asks: Vec<Asks> = Vec::new();
        for line in lines.iter().filter(|line| line.waits) {
            let one = Asks { rule: line.rule, decision: line.decision, cause: line.cause.into() };
            if !asks.contains(&one) {
                asks.push(one);
            }
        }
        asks.into_iter().map(|one| self.ask(e.header.policy, one, e.header.time_ns)).collect()
    }
}

/// The command line of a process that is stopped, where the event has not all of it.
fn whole(pid: u32) -> Result<Vec<u8>, TooLong> {
    let mut line = Vec::new();
    let file = std::fs::File::open(format!("/proc/{pid}/cmdline"));
    match file.and_then(|file| file.take(MAX_LINE as u64 + 1).read_to_end(&mut line)) {
        // A program without arguments has an empty one too, but the kernel does not cut that.
        Ok(0) | Err(_) => Err(TooLong),
        Ok(_) => Ok(line),
    }
}
