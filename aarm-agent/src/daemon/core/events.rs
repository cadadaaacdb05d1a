//! What the core makes of each kernel event: a receipt, and what it knows of sessions and processes.

use std::borrow::Cow;

use aarm_common::event::{Event, Kind as EventKind};
use aarm_common::op::Decision;
use aarm_common::state::{SESSION_INHERITS, session_slot};
use aarm_receipt::receipt::Seq;
use aarm_receipt::{Body, Common};

use super::{Core, EXECS_MAX, Exec, new_session, unknown_policy};
use crate::api::types::SessionStart;
use crate::daemon::batch::{Kind, NO_OWNER};
use crate::daemon::record;
use crate::daemon::sessions::{Process, Session};
use crate::metrics::OUTCOME_AUDIT;

impl Core {
    /// One event.
    pub(super) fn event(&mut self, record: &[u8]) {
        let e = match Event::decode(record) {
            Ok(e) => e,
            Err(error) => {
                self.p.metrics.undecodable.inc();
                let detail = &record[..record.len().min(256)];
                self.system(&Body::Gap { cpu: None, missing: 1, why: &error.to_string(), detail });
                return;
            }
        };
        self.gaps.note(e.header.cpu, e.header.seq, e.header.time_ns);
        if !self.p.recorded.seen.is_empty() && self.p.recorded.seen.remove(&(e.header.cpu, e.header.seq)) {
            // Recorded by a daemon that was killed before it could release it.
            if e.kind == EventKind::SessionEnd && self.sessions.remove(e.header.session).is_some() {
                self.recycle(session_slot(e.header.session));
            }
            return;
        }
        match e.kind {
            EventKind::Action => self.action(&e),
            EventKind::ExecCommitted => self.committed(&e),
            EventKind::Fork | EventKind::Exit => self.process(&e),
            EventKind::SessionBegin => self.begun(&e),
            EventKind::SessionEnd => self.ended(e.header.session, Some(&e)),
            EventKind::Name => self.named(&e),
        }
    }

    /// A resolver told a session a name.
    fn named(&mut self, e: &Event<'_>) {
        let id = e.header.session;
        let session = self.sessions.get(id);
        let owner = session.map_or(NO_OWNER, |s| s.uid);
        let (clock, host) = (self.clock, &self.p.host);
        self.batch.push(owner, id, e.header.time_ns, 0, Kind::Session, |out| {
            record::name(e, clock, host, session, out);
        });
    }

    fn action(&mut self, e: &Event<'_>) {
        let outcome = if e.is_audit() { OUTCOME_AUDIT } else { e.decision as usize };
        self.p.metrics.action(e.op, outcome);
        self.decided.observe(f64::from(e.header.took_ns) / 1e9);
        let id = e.header.session;
        if let Some(s) = self.sessions.get_mut(id) {
            match e.decision {
                _ if e.is_audit() => s.counts.audit += 1,
                Decision::Allow => s.counts.allow += 1,
                _ => s.counts.deny += 1,
            }
        }
        if e.op == aarm_common::Operation::Exec
            && e.decision == Decision::Allow
            && self.execs.len() < EXECS_MAX
        {
            let seq = Seq { cpu: e.header.cpu, n: e.header.seq };
            self.execs.insert(e.header.tid, Exec { seq, exe: e.path.to_vec() });
        }
        let session = self.sessions.get(id);
        let policy = self.policies.generation(e.header.policy);
        let labels = self.policies.labels();
        let owner = session.map_or(NO_OWNER, |s| s.uid);
        let decision = e.decision as u8;
        let (clock, host) = (self.clock, &self.p.host);
        self.batch.push(owner, id, e.header.time_ns, decision, Kind::Action, |out| {
            record::action(e, clock, host, session, policy, labels, out);
        });
    }

    fn committed(&mut self, e: &Event<'_>) {
        let exec = self.execs.remove(&e.header.tid);
        let id = e.header.session;
        if let Some(s) = self.sessions.get_mut(id) {
            let exe = exec.as_ref().map(|x| x.exe.as_slice());
            if s.exe.is_empty()
                && let Some(exe) = exe
            {
                s.exe = exe.into();
            }
            s.executed(e.header.pid, e.header.ppid, exe, e.comm(), e.args);
        }
        let session = self.sessions.get(id);
        let owner = session.map_or(NO_OWNER, |s| s.uid);
        let (clock, host) = (self.clock, &self.p.host);
        self.batch.push(owner, id, e.header.time_ns, 0, Kind::Outcome, |out| {
            record::outcome(e, clock, host, session, exec.map(|x| x.seq), out);
        });
    }

    fn process(&mut self, e: &Event<'_>) {
        let id = e.header.session;
        let fork = e.kind == EventKind::Fork;
        let arg = e.header.arg as u32;
        if let Some(s) = self.sessions.get_mut(id)
            && fork
        {
            let parent = s.processes.get(&e.header.pid).cloned().unwrap_or_default();
            if let Some(child) = s.process(arg, e.header.pid) {
                *child = Process { ppid: e.header.pid, comm: e.comm().to_vec(), ..parent };
            }
        }
        let session = self.sessions.get(id);
        let owner = session.map_or(NO_OWNER, |s| s.uid);
        let common = record::common(e, self.clock, &self.p.host, session);
        let body = Body::Process {
            what: e.kind.name(),
            child: fork.then_some(arg),
            status: (!fork).then_some(arg),
            identity: record::identity(e, session),
        };
        self.batch.push(owner, id, e.header.time_ns, 0, Kind::Process, |out| {
            aarm_receipt::encode(&common, &body, out)
        });
        if !fork {
            self.execs.remove(&e.header.tid);
            if let Some(s) = self.sessions.get_mut(id) {
                s.processes.remove(&e.header.pid);
            }
        }
    }

    /// An agent selector began a session in the kernel; `policy` of the event is the slot.
    fn begun(&mut self, e: &Event<'_>) {
        let loaded = self.policies.slot(e.header.policy);
        let (policy, generation) =
            loaded.map_or_else(|| (unknown_policy(), 0), |l| (l.label.clone(), l.generation));
        let id = e.header.session;
        let session =
            new_session(id, policy, generation, SessionStart::Agent, self.clock.unix(e.header.time_ns));
        let session = Session { uid: e.header.uid, pid: e.header.pid, exe: e.path.into(), ..session };
        self.sessions.insert(session);
        if let Some(s) = self.sessions.get_mut(id)
            && let Some(p) = s.process(e.header.pid, e.header.ppid)
        {
            p.exe = e.path.into();
            p.comm = e.comm().to_vec();
        }
        self.p.metrics.sessions.set(self.sessions.live().into());
        self.open_receipt(id, "agent", Some(e));
        self.dirty = true;
    }

    /// The last process of a session ended.
    pub(super) fn ended(&mut self, id: u64, event: Option<&Event<'_>>) {
        self.summarize(id);
        let slot = session_slot(id);
        if self.p.kernel.session(slot).is_ok_and(|s| s.flags & SESSION_INHERITS != 0)
            && let Err(e) = self.p.kernel.forget_inherited(id)
        {
            tracing::warn!("files that session {id:016x} held open: {e}");
        }
        let refused = self.p.kernel.session(slot).map_or(0, |s| s.refused);
        let Some(s) = self.sessions.remove(id) else {
            // Unknown to us (begun and ended under a daemon that left no record): still a receipt.
            if let Some(e) = event {
                let common = record::common(e, self.clock, &self.p.host, None);
                let body = Body::SessionClose { allowed: 0, denied: 0, audited: 0, refused };
                self.batch.push(NO_OWNER, id, e.header.time_ns, 0, Kind::Session, |out| {
                    aarm_receipt::encode(&common, &body, out);
                });
            }
            self.recycle(slot);
            return;
        };
        let boot_ns = event.map_or_else(crate::kernel::boot_ns, |e| e.header.time_ns);
        let common = Common {
            time_ns: self.clock.unix(boot_ns),
            boot_ns,
            host: &self.p.host,
            session: Some(Cow::Borrowed(&s.encoded)),
            seq: event.map(|e| Seq { cpu: e.header.cpu, n: e.header.seq }),
        };
        let body = Body::SessionClose {
            allowed: s.counts.allow,
            denied: s.counts.deny,
            audited: s.counts.audit,
            refused,
        };
        self.batch
            .push(s.uid, id, boot_ns, 0, Kind::Session, |out| aarm_receipt::encode(&common, &body, out));
        self.sessions.remember(s.info(0, refused, Some(record::timestamp(self.clock.unix(boot_ns))), false));
        self.p.metrics.sessions.set(self.sessions.live().into());
        self.recycle(slot);
        self.dirty = true;
    }

    /// Writes what a session was allowed and is only counted, since the last time.
    pub(super) fn summarize(&mut self, id: u64) {
        let Some(s) = self.sessions.get_mut(id) else { return };
        let Ok(now) = self.p.kernel.session(session_slot(id)) else { return };
        let mut counts = Vec::new();
        for op in aarm_common::Operation::ALL {
            let (n, told) = (now.summary[*op as usize], &mut s.summary_told[*op as usize]);
            if n > *told {
                counts.push((op.name(), n - *told));
                s.counts.allow += n - *told;
                *told = n;
            }
        }
        if counts.is_empty() {
            return;
        }
        // As canonical JSON has them.
        counts.sort_unstable();
        let boot_ns = crate::kernel::boot_ns();
        let common = Common {
            time_ns: self.clock.unix(boot_ns),
            boot_ns,
            host: &self.p.host,
            session: Some(Cow::Borrowed(&s.encoded)),
            seq: None,
        };
        let body = Body::Summary { counts: &counts, policy: record::policy_ref(&s.policy) };
        self.batch
            .push(s.uid, id, boot_ns, 0, Kind::Session, |out| aarm_receipt::encode(&common, &body, out));
        self.dirty = true;
    }

    pub(super) fn recycle(&mut self, slot: u32) {
        if let Err(e) = self.p.kernel.recycle(slot) {
            tracing::error!("session slot {slot} cannot be used again: {e}");
        }
    }
}
