//! What the core makes of each kernel event: a receipt, and what it knows of sessions and processes.

use std::borrow::Cow;

use aarm_common::event::{Event, FLAG_HELD, Kind as EventKind};
use aarm_common::limits::SESSIONS;
use aarm_common::op::{Decision, Operation};
use aarm_common::state::{SESSION_ENDED, SESSION_INHERITS, session_id, session_slot};
use aarm_receipt::receipt::Seq;
use aarm_receipt::{Body, Common};

use super::{Core, EXECS_MAX, Exec, new_session, unknown_policy};
use crate::api::types::SessionStart;
use crate::daemon::batch::{Kind, Whose};
use crate::daemon::record;
use crate::daemon::sessions::Process;
use crate::metrics::OUTCOME_AUDIT;

impl Core {
    /// One event.
    pub(super) fn event(&mut self, record: &[u8]) {
        let e = match Event::decode(record) {
            Ok(e) => e,
            Err(error) => {
                self.p.metrics.undecodable.inc();
                let detail = &record[..record.len().min(256)];
                // While it is in the ring, the next daemon would find it again.
                self.push_system(&Body::Gap { cpu: None, missing: 1, why: &error.to_string(), detail });
                return;
            }
        };
        self.gaps.note(e.header.cpu, e.header.seq, e.header.time_ns);
        let waits = e.kind == EventKind::Action && e.header.flags & FLAG_HELD != 0;
        let line = e.kind == EventKind::Action && e.op == Operation::ExecArgs;
        // Before its receipt, which whoever looks for his answer should not wait for. Also of one that a former daemon has recorded: it
        // still has to be answered.
        if waits {
            if line { self.line(&e) } else { self.held(&e) }
        }
        if self.p.recorded.take(e.header.cpu, e.header.seq) {
            // Recorded by a daemon that ended before it could release it.
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
        if line && !waits {
            self.line(&e);
        }
    }

    /// A resolver told a session a name.
    fn named(&mut self, e: &Event<'_>) {
        let id = e.header.session;
        let session = self.sessions.get(id);
        let whose = Whose::of(session, id, &self.policies);
        let (clock, host) = (self.clock, &self.p.host);
        self.batch.push(whose, e.header.time_ns, 0, Kind::Session, |out| {
            record::name(e, clock, host, session, out);
        });
    }

    fn action(&mut self, e: &Event<'_>) {
        let outcome = if e.is_audit() { OUTCOME_AUDIT } else { e.decision as usize };
        self.p.metrics.action(e.op, outcome);
        self.decided.observe(f64::from(e.header.took_ns) / 1e9);
        let id = e.header.session;
        let counted = self.before.get(e.header.cpu as usize).is_some_and(|b| b.contains(e.header.seq));
        if let Some(s) = self.sessions.get_mut(id) {
            s.history.note(e);
            match e.decision {
                _ if counted => {}
                // It is counted when it is answered.
                _ if e.header.flags & FLAG_HELD != 0 => {}
                _ if e.is_audit() => s.counts.audit += 1,
                Decision::Allow | Decision::Modify => s.counts.allow += 1,
                _ => s.counts.deny += 1,
            }
        }
        if e.op == Operation::Exec && e.decision == Decision::Allow && self.execs.len() < EXECS_MAX {
            let seq = Seq { cpu: e.header.cpu, n: e.header.seq };
            self.execs.insert(e.header.tid, Exec { seq, exe: e.path.to_vec() });
        }
        let session = self.sessions.get(id);
        let policy = self.policies.generation(e.header.policy);
        let labels = self.policies.labels();
        let whose = Whose::of(session, id, &self.policies);
        let decision = e.decision as u8;
        let (clock, host) = (self.clock, &self.p.host);
        let kind = if e.op == Operation::ExecArgs { Kind::Program } else { Kind::Action };
        self.batch.push(whose, e.header.time_ns, decision, kind, |out| {
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
            if let Some(p) = s.processes.get_mut(&e.header.pid) {
                p.cgroup = self.cgroups.path(e.header.object.ino);
            }
        }
        let session = self.sessions.get(id);
        let whose = Whose::of(session, id, &self.policies);
        let (clock, host) = (self.clock, &self.p.host);
        self.batch.push(whose, e.header.time_ns, 0, Kind::Outcome, |out| {
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
            let cgroup = self.cgroups.path(e.header.object.ino);
            if let Some(child) = s.process(arg, e.header.pid) {
                *child = Process { ppid: e.header.pid, comm: e.comm().to_vec(), cgroup, ..parent };
            }
        }
        let session = self.sessions.get(id);
        let whose = Whose::of(session, id, &self.policies);
        let common = record::common(e, self.clock, &self.p.host, session);
        let body = Body::Process {
            what: e.kind.name(),
            child: fork.then_some(arg),
            status: (!fork).then_some(arg),
            identity: record::identity(e, session),
        };
        self.batch
            .push(whose, e.header.time_ns, 0, Kind::Process, |out| aarm_receipt::encode(&common, &body, out));
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
        // A daemon before may have read this event, and named the session and counted for it.
        if self.sessions.get(id).is_none() {
            let started = self.clock.unix(e.header.time_ns);
            self.sessions.insert(new_session(id, policy, generation, SessionStart::Agent, started));
        }
        if let Some(s) = self.sessions.get_mut(id) {
            (s.start, s.uid, s.pid, s.exe) = (SessionStart::Agent, e.header.uid, e.header.pid, e.path.into());
            if let Some(p) = s.process(e.header.pid, e.header.ppid) {
                p.exe = e.path.into();
                p.comm = e.comm().to_vec();
                p.cgroup = self.cgroups.path(e.header.object.ino);
            }
        }
        self.p.metrics.sessions.set(self.sessions.live().into());
        self.open_receipt(id, "agent", Some(e));
        self.dirty = true;
    }

    /// The last process of a session ended.
    pub(super) fn ended(&mut self, id: u64, event: Option<&Event<'_>>) {
        self.summarize(id);
        let slot = session_slot(id);
        let kernel = self.p.kernel.session(slot).unwrap_or_default();
        if kernel.flags & SESSION_INHERITS != 0
            && let Err(e) = self.p.kernel.forget_inherited(id)
        {
            tracing::warn!("files that session {id:016x} held open: {e}");
        }
        self.p.kernel.revoke_grants(Some(id), crate::kernel::boot_ns());
        let Some(s) = self.sessions.remove(id) else {
            // Unknown to us (begun and ended under a daemon that left no record): still a receipt.
            if let Some(e) = event {
                let common = record::common(e, self.clock, &self.p.host, None);
                let body = Body::SessionClose { allowed: 0, denied: 0, audited: 0, refused: kernel.refused };
                let whose = Whose::of(None, id, &self.policies);
                self.batch.push(whose, e.header.time_ns, 0, Kind::Session, |out| {
                    aarm_receipt::encode(&common, &body, out);
                });
            }
            self.recycle(id);
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
        let totals = s.totals(&kernel);
        let body = Body::SessionClose {
            allowed: totals.allow,
            denied: totals.deny,
            audited: totals.audit,
            refused: totals.refused,
        };
        let whose = Whose::of(Some(&*s), id, &self.policies);
        self.batch.push(whose, boot_ns, 0, Kind::Session, |out| aarm_receipt::encode(&common, &body, out));
        self.sessions.remember(s.info(&kernel, Some(record::timestamp(self.clock.unix(boot_ns))), false));
        self.p.metrics.sessions.set(self.sessions.live().into());
        self.leaving.push_back((self.number, s));
        assert!(self.leaving.len() <= SESSIONS, "each holds a slot of its own");
        self.dirty = true;
    }

    /// Writes what a session was allowed and is only counted, since it began: the kernel counts, so that a restart
    /// of the daemon changes nothing, and a summary that is lost or told again takes nothing away.
    pub(super) fn summarize(&mut self, id: u64) {
        let Some(s) = self.sessions.get_mut(id) else { return };
        let Ok(now) = self.p.kernel.session(session_slot(id)) else { return };
        let counted: u64 = now.summary.iter().sum();
        if counted == s.summarized {
            return;
        }
        s.summarized = counted;
        let all = aarm_common::Operation::ALL.iter().map(|op| (op.name(), now.summary[*op as usize]));
        let mut counts: Vec<_> = all.filter(|(_, n)| *n > 0).collect();
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
        let whose = Whose::of(Some(&*s), id, &self.policies);
        self.batch.push(whose, boot_ns, 0, Kind::Session, |out| aarm_receipt::encode(&common, &body, out));
        self.dirty = true;
    }

    /// Lets the slot of an ended session be used again, unless that has been done before.
    pub(super) fn recycle(&mut self, id: u64) {
        let slot = session_slot(id);
        let ours = |k: &aarm_common::state::Session| {
            session_id(slot, k.generation) == id && k.tasks == 0 && k.flags & SESSION_ENDED != 0
        };
        let result = match self.p.kernel.session(slot) {
            Ok(k) if ours(&k) => self.p.kernel.recycle(slot),
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            tracing::error!("session slot {slot} cannot be used again: {e}");
        }
    }
}
