//! Asking: what the core does with actions that wait, and with who answers.
//!
//! What becomes of answers is for [`super::answers`] to say.

use aarm_common::event::Event;
use aarm_common::hold::{Asks, Grant, GrantKey, Hold};
use aarm_common::op::{Decision, Operation};
use aarm_receipt::receipt::hold_name;
use std::iter;
use std::sync::Arc;
use tokio::sync::oneshot;

use super::answers::{Answer, How};
use super::{Answering, Core};
use crate::api::approvals::{AnswerRequest, Answered, Approval, Asked, PriorAction, Scope};
use crate::api::signed;
use crate::daemon::holds::{AnswerError, Answerer, Ask, Effect, Given, Waiting};
use crate::daemon::journal::Journal;
use crate::daemon::prior::Prior;
use crate::daemon::record;
use crate::daemon::webhooks::{Notice, Told, What};

/// Good for ever: until the session ends.
const EVER: u64 = u64::MAX / 4;
/// Most that are answered with one because they are like it.
const LIKE_MAX: usize = 1024;
/// What the kernel holds and nobody has told us of is looked at when it is so old.
const ORPHAN_NS: u64 = 5_000_000_000;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Core {
    /// An action began to wait.
    pub(super) fn held(&mut self, e: &Event<'_>) {
        let Some(kernel) = self.new_hold(e) else { return };
        let first = Asks { rule: e.rule, decision: e.decision, cause: e.cause };
        let asks = iter::once(first).chain(e.also.into_iter().flatten());
        let asks = asks.map(|asks| self.ask(e.header.policy, asks, e.header.time_ns)).collect();
        let waiting = self.waiting(e, kernel.action, asks);
        self.wait(waiting);
    }

    /// What waits in the kernel by an event, unless it is known already.
    pub(super) fn new_hold(&mut self, e: &Event<'_>) -> Option<Hold> {
        let (key, since_ns) = (e.header.hold, e.header.time_ns);
        if self.holds.knows(key, since_ns) {
            return None;
        }
        // Whoever waited may have been killed, or answered by a former daemon.
        let hold = self.p.kernel.hold(key).filter(|h| h.since_ns == since_ns)?;
        let Some(allow) = self.p.recorded.answer(key, since_ns) else { return Some(hold) };
        // Who answered was killed before it could say so, or whoever waited has not come for the answer yet.
        match self.p.kernel.answer(key, since_ns, allow) {
            Ok(_) => None,
            Err(e) => {
                tracing::error!(
                    "hold {key:016x} cannot be answered as it was, and is asked about again: {e}"
                );
                Some(hold)
            }
        }
    }

    /// Asks about it.
    pub(super) fn wait(&mut self, mut waiting: Waiting) {
        let key = waiting.key;
        if self.cascades(&waiting) {
            self.resolve(waiting, false, None, &How::by_itself("cascade"));
            return;
        }
        self.remember(&mut waiting);
        waiting.about.like = waiting.like();
        waiting.about.request = signed::hash(&self.p.host_name, &waiting.shown());
        let by_people = waiting.asks.iter().any(|ask| ask.chain.is_empty());
        self.add_hold(waiting);
        if by_people {
            self.tell(key, What::Waiting);
        }
        self.p.metrics.waiting.set(self.holds.count() as i64);
        self.seek(key);
    }

    /// Whether so much of its session is deferred already that it is refused instead.
    fn cascades(&self, w: &Waiting) -> bool {
        let deferred = |w: &Waiting| w.asks.iter().any(|ask| ask.shown.decision == Decision::Defer.name());
        let most = self.sessions.get(w.session).map_or(u32::MAX, |s| self.policies.cascade(s.generation));
        deferred(w) && self.holds.keys(|o| o.session == w.session && deferred(o)).len() >= most as usize
    }

    /// What an event says of an action that waits.
    pub(super) fn waiting(&self, e: &Event<'_>, action: u64, asks: Vec<Ask>) -> Waiting {
        let (key, since_ns) = (e.header.hold, e.header.time_ns);
        let session = self.sessions.get(e.header.session);
        let policy = self.policies.generation(e.header.policy);
        let process = session.and_then(|s| s.processes.get(&e.header.pid));
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let labels = self.policies.labels();
        let about = Approval {
            id: text(&hold_name(key)),
            request: String::new(),
            like: String::new(),
            session: format!("{:016x}", e.header.session),
            uuid: session.map(|s| s.uuid_text.clone()).unwrap_or_default(),
            policy: policy.map_or_else(super::unknown_policy, |p| p.label.clone()),
            asked: Asked::default(),
            also: Vec::new(),
            answered: Vec::new(),
            intent: session.and_then(|s| some(&s.intent)),
            human: session.and_then(|s| some(&s.human.shown())),
            tool: e.op.family().name().into(),
            operation: e.op.name().into(),
            path: text(e.path),
            path2: if e.op == Operation::ExecArgs { String::new() } else { text(e.path2) },
            cwd: if e.op == Operation::ExecArgs { text(e.path2) } else { String::new() },
            address: record::address(e),
            hosts: if e.op.has_address() {
                e.args.split(|b| *b == 0).filter(|n| !n.is_empty()).map(text).collect()
            } else {
                Vec::new()
            },
            uid: e.header.uid,
            pid: e.header.pid,
            tid: e.header.tid,
            comm: text(e.comm()),
            exe: process.map(|p| p.exe.shown()).unwrap_or_default(),
            argv: process.map(|p| p.argv.clone()).unwrap_or_default(),
            labels: (0..64)
                .filter(|bit| e.header.labels >> bit & 1 != 0)
                .filter_map(|bit| labels.get(bit).cloned())
                .collect(),
            prior: Vec::new(),
            attempts: Vec::new(),
            facts: Default::default(),
            requested: record::timestamp(self.clock.unix(since_ns)),
        };
        Waiting {
            key,
            since_ns,
            session: e.header.session,
            action,
            owner: session.map_or(u32::MAX, |s| s.uid),
            seq: Some((e.header.cpu, e.header.seq)),
            gid: e.header.gid,
            ppid: e.header.ppid,
            asks,
            modify: Vec::new(),
            object: Some((e.header.object.dev, e.header.object.ino)).filter(|(_, ino)| *ino != 0),
            seeking: false,
            listens_ns: 0,
            unread: None,
            prior: "".into(),
            about,
        }
    }

    /// Notes what the session did before, unless that was done when it began to wait.
    pub(super) fn remember(&self, w: &mut Waiting) {
        if w.prior.is_empty() {
            w.prior = self.prior(w.session);
        }
    }

    /// What a session did last.
    fn prior(&self, session: u64) -> Box<str> {
        let Some(session) = self.sessions.get(session) else { return "".into() };
        let rule = |p: &Prior| -> Option<String> {
            let policy = self.policies.generation(p.generation)?;
            policy.rules.get(p.rule? as usize).map(|r| r.id.clone())
        };
        let shown = |p: &Prior| PriorAction {
            time: record::timestamp(self.clock.unix(p.time_ns)),
            operation: p.op.name().into(),
            object: p.object(),
            decision: p.decision.name().into(),
            rule: rule(p),
        };
        let all: Vec<PriorAction> = session.history.last().map(shown).collect();
        serde_json::to_string(&all).unwrap_or_default().into()
    }

    /// What a rule, or a default, asks.
    pub(super) fn ask(&self, generation: u32, asks: Asks, since_ns: u64) -> Ask {
        let Asks { rule, decision, cause } = asks;
        let mut terms = self.policies.terms(generation, rule, decision, cause);
        let policy = self.policies.generation(generation);
        let rule = rule.and_then(|r| policy.and_then(|p| p.rules.get(r as usize)));
        let deadline_ns = since_ns.saturating_add(terms.timeout_ns);
        let shown = Asked {
            rule: rule.map(|r| r.id.clone()),
            reason: rule.and_then(|r| r.reason.clone()),
            decision: decision.name().into(),
            cause: cause.name().into(),
            risk: terms.risk.clone(),
            deadline: record::timestamp(self.clock.unix(deadline_ns)),
            on_timeout: if terms.then_ask { "STEP_UP" } else { "DENY" }.into(),
            // Once is enough: there may be many that wait.
            approvers: std::mem::take(&mut terms.approvers),
            escalated: false,
        };
        Ask { deadline_ns, chain: std::mem::take(&mut terms.resolve), terms, shown }
    }

    /// Somebody answers. Told when the answer is durable: until then it has no effect. Also gives how many rules are still to be
    /// answered, by others.
    pub(super) fn answer(
        &mut self,
        id: &str,
        who: &Answerer,
        request: &AnswerRequest,
    ) -> Result<Answering, AnswerError> {
        let w = self.holds.named(id).ok_or_else(|| AnswerError::NotFound(id.to_owned()))?;
        if !w.may_answer(who) {
            // Others do not learn that it is there.
            let seen = who.uid == 0 || who.uid == w.owner;
            return Err(if seen {
                AnswerError::NotYours(who.uid)
            } else {
                AnswerError::NotFound(id.to_owned())
            });
        }
        if self.is_stuck() {
            return Err(AnswerError::NoReceipt(self.p.log.clone()));
        }
        if request.allow && request.scope != Scope::Once && !w.is_only_for(who) {
            return Err(AnswerError::OnlyOnce);
        }
        let Some(mut w) = self.holds.take(w.key) else { return Err(AnswerError::NotFound(id.to_owned())) };
        let now = crate::kernel::boot_ns();
        let (grant, scope) = match request.scope {
            Scope::Like => (None, "like".to_owned()),
            _ if !request.allow => (None, "once".to_owned()),
            Scope::Once => (None, "once".to_owned()),
            Scope::Session => (Some(Grant { expires_ns: EVER, uses: EVER }), "session".to_owned()),
            Scope::Seconds(n) => {
                let expires_ns = now.saturating_add(n.saturating_mul(1_000_000_000));
                let until = record::timestamp(self.clock.unix(expires_ns));
                (Some(Grant { expires_ns, uses: EVER }), format!("until {until}"))
            }
            Scope::Uses(1) => (None, "once".to_owned()),
            // This one is not counted in the kernel.
            Scope::Uses(n) => (Some(Grant { expires_ns: EVER, uses: n - 1 }), format!("{n} times")),
        };
        let grant = grant.map(|g| (GrantKey { session: w.session, action: w.action }, g));
        // The same asked by other threads meanwhile: who answers for all of them is not asked again.
        let more = grant.map(|(_, g)| g.uses);
        let like: Vec<Waiting> = match grant {
            Some(_) => {
                let same = |o: &Waiting| o.session == w.session && o.action == w.action && o.is_only_for(who);
                let most = usize::try_from(more.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
                self.holds.keys(same).into_iter().take(most).filter_map(|key| self.holds.take(key)).collect()
            }
            None if request.scope == Scope::Like => {
                // One refusal is enough for each; an approval is not, where others are to answer too.
                let may = |o: &Waiting| if request.allow { o.is_only_for(who) } else { o.may_answer(who) };
                let same = |o: &Waiting| o.about.like == w.about.like && may(o);
                self.holds
                    .keys(same)
                    .into_iter()
                    .take(LIKE_MAX)
                    .filter_map(|key| self.holds.take(key))
                    .collect()
            }
            None => Vec::new(),
        };
        let others = like.len();
        // They are among those that it is good for.
        let grant = grant.map(|(key, g)| (key, Grant { uses: g.uses - like.len() as u64, ..g }));
        let approver = who.shown();
        let comment = request.comment.as_deref().unwrap_or_default();
        let how = How { method: "approval", approver: &approver, scope: &scope, comment, rule: None };
        let left = self.part(&mut w, who, request.allow, &how);
        let mut answer = if request.allow { Decision::Allow } else { Decision::Deny }.name();
        if left == 0 {
            answer = self.resolve(w, request.allow, grant, &how);
        } else {
            self.holds.add(w);
            self.dirty = true;
        }
        for mut other in like {
            self.part(&mut other, who, request.allow, &how);
            self.resolve(other, request.allow, None, &how);
        }
        let (told, durable) = oneshot::channel();
        self.batch.waiters.push(told);
        Ok(Answering { durable, left, answer, others })
    }

    /// Takes somebody's answers for what he may answer, and records all but the one that has an effect, which stays the first.
    /// How many rules are still to be answered; of a refusal none.
    fn part(&mut self, w: &mut Waiting, who: &Answerer, allow: bool, how: &How<'_>) -> usize {
        let mut answered = w.answered_by(who);
        let left = if allow { w.asks.len() } else { 0 };
        if left == 0 {
            w.asks.splice(0..0, answered.pop());
        }
        for ask in answered.iter().filter(|_| allow) {
            let rule = ask.shown.rule.clone();
            self.record_answer(w, &Answer::Allow, rule.as_deref(), w.asks.len(), how);
            w.about.answered.push(Answered { rule, approver: how.approver.to_owned() });
        }
        left
    }

    /// Tells people elsewhere what waits. Of those that are like each other the first at once.
    pub(super) fn tell(&mut self, key: u64, event: What) {
        let Some(w) = self.holds.get(key).filter(|_| self.p.notices.is_some()) else { return };
        let now = crate::kernel::boot_ns();
        if event != What::Waiting || self.quiet.tells(&w.about.like, key, now) {
            self.notify(event, w, None, 0);
        }
    }

    /// Tells of those that were like one that was told of.
    fn tell_rest(&mut self, now: u64) {
        let holds = &self.holds;
        for kind in self.quiet.over(now, |key| holds.get(key).is_some_and(|w| w.unread.is_none())) {
            if let Some(w) = kind.first().and_then(|key| self.holds.get(*key)) {
                self.notify(What::Waiting, w, None, kind.len() - 1);
            }
        }
    }

    /// Tells them, if there is anybody to tell. Should so much be told already that there is no room, it is counted.
    pub(super) fn notify(&self, event: What, w: &Waiting, answer: Option<Told>, others: usize) {
        let Some(notices) = &self.p.notices else { return };
        let approval = w.shown();
        let notice = Notice { v: 1, event, host: self.p.host_name.clone(), approval, others, answer };
        if notices.try_send(Arc::new(notice)).is_err() {
            self.p.metrics.webhooks(false);
        }
    }

    /// What time does to what waits.
    pub(super) fn hold_tick(&mut self, now: u64, thorough: bool) {
        if self.is_stuck() {
            return;
        }
        let clock = self.clock;
        let (over, passed) = self.holds.tick(now, |ns| record::timestamp(clock.unix(ns)));
        for (key, what) in passed {
            self.tell(key, what);
            self.dirty = true;
        }
        for key in over {
            if let Some(w) = self.holds.take(key) {
                self.over(w, &How::by_itself("timeout"));
            }
        }
        self.tell_rest(now);
        self.seek_all();
        self.read_all();
        if !thorough {
            return;
        }
        // Threads that were killed while they waited tell nobody.
        let kernel = &self.p.kernel;
        let gone = |w: &Waiting| {
            if w.unread.is_some_and(|u| u.audit) {
                return false;
            }
            kernel.hold(w.key).is_none_or(|h| h.since_ns != w.since_ns)
                || !std::path::Path::new(&format!("/proc/{}/task/{}", w.about.pid, w.about.tid)).exists()
        };
        for key in self.holds.keys(gone) {
            if let Some(w) = self.holds.take(key) {
                self.p.kernel.forget_hold(key);
                self.resolve(w, false, None, &How::by_itself("gone"));
            }
        }
        self.p.kernel.revoke_grants(None, now);
        if self.more {
            return;
        }
        // Held under a former daemon that left no word of what was asked: nobody can answer that.
        for (key, h) in self.p.kernel.holds() {
            if self.holds.knows(key, h.since_ns) || now.saturating_sub(h.since_ns) < ORPHAN_NS {
                continue;
            }
            tracing::warn!("hold {key:016x} of process {}: nothing is known of it, and it is refused", h.pid);
            let session = self.sessions.get(h.session);
            let w = Waiting {
                key,
                since_ns: h.since_ns,
                session: h.session,
                action: h.action,
                owner: session.map_or(u32::MAX, |s| s.uid),
                seq: None,
                gid: 0,
                ppid: 0,
                asks: Vec::new(),
                modify: Vec::new(),
                object: None,
                seeking: false,
                listens_ns: 0,
                unread: None,
                prior: "".into(),
                about: Approval { id: text(&hold_name(key)), pid: h.pid, tid: h.tid, ..Approval::default() },
            };
            self.resolve(w, false, None, &How::by_itself("restart"));
        }
    }

    /// What the next daemon must know of what waits.
    pub(super) fn hold_records(&self) -> Vec<Vec<u8>> {
        self.holds.all().filter_map(|w| serde_json::to_vec(w).ok()).collect()
    }

    /// Does something to the journal. One that fails is done without: what waits is kept with the rest of the state.
    pub(super) fn noted(&mut self, what: impl FnOnce(&mut Journal) -> std::io::Result<()>) {
        if let Some(Err(e)) = self.p.journal.as_mut().map(what) {
            tracing::error!("what begins to wait is kept later than it should be: {e}");
            self.p.journal = None;
        }
    }

    /// Adds something that waits, which the next daemon knows from now on.
    pub(super) fn add_hold(&mut self, w: Waiting) {
        let line = serde_json::to_vec(&w);
        self.holds.add(w);
        self.dirty = true;
        if let Ok(line) = line {
            self.noted(|journal| journal.waits(&line));
        }
    }

    /// Takes over what waited under a former daemon, if it still does; of two words about one the later is true. An answer that is on
    /// paper, and that the kernel was not told, is given: nobody is asked twice.
    pub(super) fn adopt_holds(&mut self) {
        for bytes in std::mem::take(&mut self.p.snapshot.holds) {
            let w = match serde_json::from_slice::<Waiting>(&bytes) {
                Ok(w) => w,
                Err(e) => {
                    tracing::warn!("what waited under a former daemon: {e}");
                    continue;
                }
            };
            let audited = w.unread.is_some_and(|u| u.audit);
            let waits = if audited {
                self.p.kernel.lines(w.key).is_some()
            } else {
                self.p.kernel.is_unanswered(w.key, w.since_ns)
            };
            match self.p.recorded.answer(w.key, w.since_ns).filter(|_| waits) {
                _ if !waits => {}
                None => self.holds.add(w),
                Some(_) if audited => self.p.kernel.forget_hold(w.key),
                Some(_) if self.holds.knows(w.key, w.since_ns) => {}
                Some(allow) => {
                    let effect = if allow { Effect::Allow } else { Effect::Deny };
                    // Perhaps its receipt is only now on its way.
                    self.holds.given.push_back(Given { batch: self.number, waiting: w, effect, grant: None });
                }
            }
        }
        self.p.metrics.waiting.set(self.holds.count() as i64);
    }
}
