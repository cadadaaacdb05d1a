//! Asking resolvers: what the core does before people are asked about a deferred action.
//!
//! One resolver at a time for each action; each attempt has its receipt, and an answer goes the same way as one of people: to the kernel when it
//! is on paper.

use aarm_common::state::ObjectId;
use aarm_receipt::Body;
use aarm_receipt::receipt::Attempt as AttemptBody;

use super::Core;
use super::answers::{Answer, How, common_of};
use crate::api::approvals::{Answered, Attempt};
use crate::daemon::batch::{Kind, Whose};
use crate::daemon::holds::Waiting;
use crate::daemon::record;
use crate::daemon::resolve::{Attempted, DECLARED, Found, INTENT, Job};
use crate::daemon::webhooks::What;

impl Core {
    /// Lets the next resolver try, if there is one and none is trying. One that finds no place is tried again at the next tick.
    pub(super) fn seek(&mut self, key: u64) {
        let Some(w) = self.holds.get_mut(key) else { return };
        if w.seeking {
            return;
        }
        let Some(resolver) = w.asks.iter().find_map(|ask| ask.chain.first()).cloned() else { return };
        if resolver == INTENT || resolver == DECLARED {
            return self.listen(key, &resolver);
        }
        let object = w.object.map(|(dev, ino)| ObjectId { ino, dev, mode: 0 });
        let job = Job { key, since_ns: w.since_ns, session: w.session, resolver, object, about: w.shown() };
        w.seeking = self.p.jobs.try_send(job).is_ok();
    }

    /// Lets resolvers try that have not begun yet.
    pub(super) fn seek_all(&mut self) {
        for key in self.holds.keys(|w| !w.seeking && w.asks.iter().any(|ask| !ask.chain.is_empty())) {
            self.seek(key);
        }
    }

    /// An attempt is over.
    pub(super) fn attempted(&mut self, a: Attempted) {
        let stuck = self.is_stuck();
        // Answered meanwhile, or gone.
        let Some(w) = self.holds.get_mut(a.key).filter(|w| w.since_ns == a.since_ns && w.seeking) else {
            return;
        };
        w.seeking = false;
        if stuck {
            // What has no room for its receipt has no effect: it is tried again when there is.
            return;
        }
        let Some(mut w) = self.holds.take(a.key) else { return };
        self.note_attempt(&mut w, &a);
        let approver = format!("resolver:{}", a.resolver);
        let how =
            How { method: "resolver", approver: &approver, scope: "once", comment: &a.detail, rule: None };
        let asked = w.asks.iter().position(|ask| ask.chain.first() == Some(&a.resolver));
        let Some(at) = asked else { return self.holds.add(w) };
        w.asks[at].chain.remove(0);
        match a.found {
            Found::Deny => {
                w.asks.swap(0, at);
                self.resolve(w, false, None, &how);
            }
            Found::Allow if w.asks.len() == 1 => {
                self.resolve(w, true, None, &how);
            }
            Found::Allow => {
                let ask = w.asks.remove(at);
                let rule = ask.shown.rule;
                self.record_answer(&w, &Answer::Allow, rule.as_deref(), w.asks.len(), &how);
                w.about.answered.push(Answered { rule, approver });
                self.go_on(w);
            }
            // It may not be asked about any more, or by another rule.
            Found::Anew => {
                if let Some(learnt) = a.learnt {
                    self.decide_anew(w, learnt, &how);
                }
            }
            Found::Unknown | Found::Failed | Found::Known => self.exhausted(w, at),
        }
    }

    /// Waits on, and lets the next one try.
    fn go_on(&mut self, w: Waiting) {
        let key = w.key;
        self.holds.add(w);
        self.dirty = true;
        self.seek(key);
    }

    /// A resolver has not found it out. After the last one, what the rule says of a lack of answers is done at once: nobody is left who could
    /// find it out but people, and they are asked only if the rule says so.
    fn exhausted(&mut self, mut w: Waiting, at: usize) {
        let now = crate::kernel::boot_ns();
        let clock = self.clock;
        let ask = &mut w.asks[at];
        if !ask.chain.is_empty() {
            return self.go_on(w);
        }
        if ask.ask_people(now, |ns| record::timestamp(clock.unix(ns))) {
            let key = w.key;
            self.go_on(w);
            return self.tell(key, What::Waiting);
        }
        w.asks.swap(0, at);
        self.resolve(w, false, None, &How::by_itself("unresolved"));
    }

    /// Records an attempt, also for who is asked next.
    pub(super) fn note_attempt(&mut self, w: &mut Waiting, a: &Attempted) {
        self.record_attempt(w, a);
        w.about.attempts.push(Attempt {
            resolver: a.resolver.clone(),
            found: a.found.name().into(),
            detail: a.detail.clone(),
            took_ms: a.took.as_millis() as u64,
        });
        w.about.facts.extend(a.facts.iter().map(|(name, fact)| (name.clone(), fact.clone())));
    }

    fn record_attempt(&mut self, w: &Waiting, a: &Attempted) {
        let now = crate::kernel::boot_ns();
        let common = common_of(self.clock, &self.p.host, self.sessions.get(w.session), w, now);
        let body = Body::Attempt(AttemptBody {
            hold: w.key,
            resolver: &a.resolver,
            found: a.found.name(),
            text: &a.detail,
            facts: &a.facts,
            took_ns: a.took.as_nanos() as u64,
        });
        let session = self.sessions.get(w.session);
        let whose = Whose { owner: w.owner, ..Whose::of(session, w.session, &self.policies) };
        self.batch.push(whose, now, 0, Kind::Session, |out| aarm_receipt::encode(&common, &body, out));
        self.note_untold(w.owner, w.session, now);
    }
}
