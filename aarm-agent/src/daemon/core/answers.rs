//! Answers on their way: written, and given to the kernel when they may have an effect.
//!
//! What somebody answers has its effect when its receipt is durable; what rules say when that outlives the daemon. So nothing that waited goes
//! on without a receipt.

use std::borrow::Cow;
use std::os::fd::AsFd;
use std::time::Duration;

use aarm_common::hold::{Grant, GrantKey};
use aarm_common::op::Decision;
use aarm_policy::Changed;
use aarm_receipt::canonical::Encoded;
use aarm_receipt::receipt::{Identity, Modified, Resolution, Seq};
use aarm_receipt::{Body, Common};

use super::Core;
use crate::daemon::batch::{Kind, Whose};
use crate::daemon::holds::{Effect, Given, Waiting};
use crate::daemon::image;
use crate::daemon::record::Clock;
use crate::daemon::resolve::dns::Learnt;
use crate::daemon::sessions::Session;
use crate::daemon::webhooks::{Told, What};
use crate::kernel::Waited;

/// What becomes of what waited.
pub(super) enum Answer {
    Allow,
    Deny,
    /// It happens, but for this.
    Modify(Changed),
    /// It is decided again.
    Anew,
}

impl Answer {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Allow => Decision::Allow.name(),
            Self::Deny => Decision::Deny.name(),
            Self::Modify(_) => Decision::Modify.name(),
            Self::Anew => "ANEW",
        }
    }
}

impl From<bool> for Answer {
    fn from(allow: bool) -> Self {
        if allow { Self::Allow } else { Self::Deny }
    }
}

/// How an answer was reached.
pub(super) struct How<'a> {
    pub method: &'static str,
    pub approver: &'a str,
    pub scope: &'a str,
    pub comment: &'a str,
    /// The rule that decided, where that is not one of those that asked.
    pub rule: Option<&'a str>,
}

impl<'a> How<'a> {
    pub fn by_itself(method: &'static str) -> How<'a> {
        How { method, approver: "", scope: "", comment: "", rule: None }
    }
}

/// What all receipts of something that waits have.
pub(super) fn common_of<'a>(
    clock: Clock,
    host: &'a Encoded,
    session: Option<&'a Session>,
    w: &Waiting,
    now: u64,
) -> Common<'a> {
    let session = match session {
        Some(s) => Cow::Borrowed(&s.encoded),
        None => {
            Cow::Owned(aarm_receipt::receipt::SessionRef { id: w.session, uuid: &w.about.uuid }.encoded())
        }
    };
    Common { time_ns: clock.unix(now), boot_ns: now, host, session: Some(session), seq: None }
}

impl Core {
    /// Changes what waits, as its rules say. Why not, if not.
    fn change(&self, w: &Waiting) -> Result<Changed, String> {
        // Whoever waited may be gone, and its number another's by now.
        let pidfd = crate::kernel::pidfd(w.about.pid).map_err(|e| format!("process {}: {e}", w.about.pid))?;
        match self.p.kernel.session_of(pidfd.as_fd()) {
            Ok(Some(session)) if session == w.session => {
                image::change(w.about.pid, &w.modify).map_err(|e| e.to_string())
            }
            Ok(_) => Err(format!("process {} is not of the session any more", w.about.pid)),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Writes what became of a hold, and what is changed of it; it has its effect when that is durable. What cannot be changed as it is to be
    /// is refused. Returns the answer as receipts have it.
    pub(super) fn resolve(
        &mut self,
        w: Waiting,
        allow: bool,
        grant: Option<(GrantKey, Grant)>,
        how: &How<'_>,
    ) -> &'static str {
        let mut comment = how.comment.to_owned();
        let answer = match allow && !w.modify.is_empty() {
            true => self.change(&w).map_or_else(
                |why| {
                    comment = why;
                    Answer::Deny
                },
                Answer::Modify,
            ),
            false => allow.into(),
        };
        let asked = w.asks.first().and_then(|ask| ask.shown.rule.clone());
        let rule = how.rule.or(asked.as_deref());
        let how = How { comment: &comment, ..*how };
        let effect = if matches!(answer, Answer::Deny) { Effect::Deny } else { Effect::Allow };
        let rule = rule.map(str::to_owned);
        self.give(w, &answer, effect, grant, rule.as_deref(), &how)
    }

    /// Has it decided again, once the session knows a name more.
    pub(super) fn decide_anew(&mut self, w: Waiting, learnt: Learnt, how: &How<'_>) {
        let rule = w.asks.first().and_then(|ask| ask.shown.rule.clone());
        self.give(w, &Answer::Anew, Effect::Anew(learnt), None, rule.as_deref(), how);
    }

    /// Writes an answer, and gives it to the kernel: what somebody has answered when that is durable; what rules say at once, as the kernel
    /// does what they say. Its receipt outlives the daemon, too.
    fn give(
        &mut self,
        w: Waiting,
        answer: &Answer,
        effect: Effect,
        grant: Option<(GrantKey, Grant)>,
        rule: Option<&str>,
        how: &How<'_>,
    ) -> &'static str {
        self.record_answer(&w, answer, rule, 0, how);
        self.p.metrics.answered(how.method, answer.name());
        let told = Told {
            answer: answer.name().into(),
            method: how.method.into(),
            approver: how.approver.to_owned(),
        };
        self.notify(What::Answered, &w, Some(told), 0);
        let given = Given { batch: self.number, waiting: w, effect, grant };
        if how.approver.is_empty() && self.told_journal() {
            self.done(given);
        } else {
            self.batch.urgent = true;
            self.holds.given.push_back(given);
        }
        self.p.metrics.waiting.set(self.holds.count() as i64);
        self.dirty = true;
        answer.name()
    }

    /// Writes an answer. `left`: so many rules are still to be answered before it has an effect.
    pub(super) fn record_answer(
        &mut self,
        w: &Waiting,
        answer: &Answer,
        rule: Option<&str>,
        left: usize,
        how: &How<'_>,
    ) {
        let now = crate::kernel::boot_ns();
        let session = self.sessions.get(w.session);
        let common = common_of(self.clock, &self.p.host, session, w, now);
        // By its policy, as every exec is; whatever else answers, and every refusal, weighs.
        let kind = match answer {
            Answer::Allow if how.method == "policy" => Kind::Program,
            _ => Kind::Answer,
        };
        let exe = Encoded::text(aarm_receipt::receipt::cut(w.about.exe.as_bytes()));
        let body = Body::Resolution(Resolution {
            hold: w.key,
            of: w.seq.map(|(cpu, n)| Seq { cpu, n }),
            answer: answer.name(),
            modified: match answer {
                Answer::Modify(c) if *c != Changed::default() => {
                    Some(Modified { env: &c.env, limits: &c.limits, args: &c.args })
                }
                _ => None,
            },
            method: how.method,
            approver: how.approver,
            scope: how.scope,
            comment: how.comment,
            rule: rule.unwrap_or_default(),
            left: left as u64,
            waited_ns: now.saturating_sub(w.since_ns),
            identity: Identity {
                human: session.map(|s| s.human.encoded()),
                uid: w.about.uid,
                gid: w.gid,
                pid: w.about.pid,
                tid: w.about.tid,
                ppid: w.ppid,
                comm: w.about.comm.as_bytes(),
                exe: (!w.about.exe.is_empty()).then_some(&exe),
                agent: session.map(|s| s.exe.encoded()),
                cgroup: session.and_then(|s| s.processes.get(&w.about.pid)).map(|p| p.cgroup.encoded()),
            },
        });
        let whose = Whose { owner: w.owner, ..Whose::of(session, w.session, &self.policies) };
        self.batch.push(whose, now, 0, kind, |out| aarm_receipt::encode(&common, &body, out));
        self.note_untold(w.owner, w.session, now);
        match answer {
            Answer::Allow | Answer::Modify(_) if left == 0 => {
                self.p.recorded.answered(w.key, w.since_ns, true);
            }
            Answer::Deny => self.p.recorded.answered(w.key, w.since_ns, false),
            // What is answered in part, or decided anew, is asked about further.
            _ => {}
        }
    }

    /// Notes the receipt of an answer where the next daemon finds it. Whether that could be done.
    fn told_journal(&mut self) -> bool {
        let Some((_, told)) = self.untold.back().cloned() else { return false };
        self.noted(|journal| journal.told(&told));
        self.p.journal.is_some()
    }

    /// Gives the kernel the answers that are durable.
    pub(super) fn let_go(&mut self, durable: u64) {
        while let Some(g) = self.holds.given.pop_front_if(|g| g.batch <= durable) {
            self.done(g);
        }
    }

    /// Gives the kernel an answer.
    fn done(&mut self, g: Given) {
        if let Some((key, grant)) = g.grant
            && let Err(e) = self.p.kernel.grant(key, grant)
        {
            tracing::error!("an answer is good for one action only: {e}");
        }
        let (key, since_ns) = (g.waiting.key, g.waiting.since_ns);
        let done = match &g.effect {
            Effect::Allow => self.p.kernel.answer(key, since_ns, true),
            Effect::Deny => self.p.kernel.answer(key, since_ns, false),
            Effect::Anew(learnt) => {
                let until = crate::kernel::boot_ns() + u64::from(learnt.seconds) * 1_000_000_000;
                let kernel = &mut self.p.kernel;
                kernel.learn(learnt.key, &learnt.name, until).and_then(|()| kernel.again(key, since_ns))
            }
        };
        match done {
            Ok(Waited::Looking) => {}
            Ok(waited) => {
                if waited == Waited::Gone {
                    tracing::debug!("hold {key:016x} ended before its answer");
                }
                let waited_ns = crate::kernel::boot_ns().saturating_sub(since_ns);
                self.look_above(&g.waiting, Duration::from_nanos(waited_ns));
            }
            Err(e) => {
                tracing::error!("hold {:016x} cannot be answered, and goes on waiting: {e}", g.waiting.key);
                self.holds.add(g.waiting);
            }
        }
        self.dirty = true;
    }
}
