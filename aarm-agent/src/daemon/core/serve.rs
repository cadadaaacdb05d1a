//! What the core answers, and what it does because it was asked.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use aarm_common::state::{Stat, session_slot};
use aarm_receipt::Body;
use tokio::sync::oneshot;

use super::{
    Choice, Command, Core, Numbers, RegisterError, Registered, Registration, new_session, unknown_policy,
};
use crate::api::redirects::Original;
use crate::api::types::{PolicyInfo, ReloadResponse, SessionInfo, SessionStart};
use crate::daemon::policies::{Loaded, PolicyError};
use crate::daemon::record;
use crate::daemon::sessions::Session;

impl Core {
    fn redirected(&self, inode: u64) -> Option<(Original, SocketAddr)> {
        let r = self.p.kernel.redirected(inode)?;
        let original = Original {
            original: r.original.socket_addr()?,
            session: format!("{:016x}", r.session),
            uuid: self.sessions.get(r.session).map(|s| s.uuid_text.clone()),
            time: record::timestamp(self.clock.unix(r.time_ns)),
        };
        Some((original, r.target.socket_addr()?))
    }

    pub(super) fn serve(&mut self, command: Command) {
        // Whoever asked may be gone: then there is nobody to tell.
        match command {
            Command::Register(r, answer) => {
                let result = self.register(r);
                let _ = answer.send(result);
            }
            Command::SessionOf(pidfd, answer) => {
                let _ = answer.send(self.p.kernel.session_of(pidfd.as_fd()));
            }
            Command::Sessions(ended, answer) => {
                let mut list: Vec<SessionInfo> = self.sessions.iter().map(|s| self.info(s, false)).collect();
                if ended {
                    list.extend(self.sessions.ended().cloned());
                }
                list.sort_by(|a, b| a.started.cmp(&b.started));
                let _ = answer.send(list);
            }
            Command::Session(name, answer) => {
                let live =
                    self.sessions.iter().find(|s| s.uuid_text == name || format!("{:016x}", s.id) == name);
                let found = live.map(|s| self.info(s, true));
                let ended = || self.sessions.ended().find(|s| s.uuid == name || s.session == name).cloned();
                let _ = answer.send(found.or_else(ended));
            }
            Command::Approvals(who, answer) => {
                let _ = answer.send(self.holds.list(&who));
            }
            Command::Answer(id, who, request, answer) => {
                let result = self.answer(&id, &who, &request);
                let _ = answer.send(result);
            }
            Command::Redirected(inode, answer) => {
                let _ = answer.send(self.redirected(inode));
            }
            Command::Approval(id, who, answer) => {
                let _ = answer.send(self.holds.named(&id).filter(|w| w.is_seen_by(&who)).map(|w| w.shown()));
            }
            Command::Requested(request, answer) => {
                let _ = answer.send(self.holds.requested(&request).map(|w| w.about.id.clone()));
            }
            Command::Attempted(attempted) => self.attempted(attempted),
            Command::Say(pidfd, said, answer) => {
                let result = self.said(&pidfd, said);
                let _ = answer.send(result);
            }
            Command::Read(read) => self.was_read(*read),
            Command::Erased(session, values, by, answer) => {
                self.system(&Body::Erasure { session: &session, values, by: &by });
                let (told, durable) = oneshot::channel();
                self.batch.waiters.push(told);
                let _ = answer.send(durable);
            }
            Command::Policies(answer) => {
                let list = self
                    .policies
                    .all()
                    .iter()
                    .map(|l| PolicyInfo {
                        label: l.label.clone(),
                        file: l.file.clone(),
                        slot: l.slot,
                        generation: l.generation,
                        rules: l.rules.len() as u32,
                        agents: l.agents,
                        sessions: self.sessions.iter().filter(|s| s.generation == l.generation).count()
                            as u32,
                    })
                    .collect();
                let _ = answer.send(list);
            }
            Command::Reload(answer) => {
                let _ = answer.send(self.reload());
            }
            Command::Numbers(answer) => {
                let stats = self.p.kernel.stats().unwrap_or_default();
                let _ = answer.send(Numbers {
                    sessions: self.sessions.live(),
                    policies: self.policies.all().iter().filter(|l| !l.retired && l.file != "-").count()
                        as u32,
                    default_policy: self.default_policy().map(|l| l.label.name.clone()),
                    fill: self.p.events.fill(),
                    received: self.p.metrics.received.get(),
                    lost: self.p.metrics.lost.get(),
                    counters: Stat::ALL.iter().map(|s| (s.name(), stats[*s as usize])).collect(),
                });
            }
        }
    }

    fn info(&self, s: &Session, processes: bool) -> SessionInfo {
        s.info(&self.p.kernel.session(session_slot(s.id)).unwrap_or_default(), None, processes)
    }

    fn default_policy(&self) -> Option<&Loaded> {
        match &self.p.default_policy {
            Some(name) => self.policies.named(name),
            None => self.policies.only(),
        }
    }

    fn reload(&mut self) -> Result<ReloadResponse, PolicyError> {
        if self.is_stuck() {
            return Err(PolicyError::NoReceipt(self.p.log.clone()));
        }
        let changes = self.policies.reload(&mut *self.p.kernel, false)?;
        let sessions_moved = self.apply(&changes)?;
        // The next daemon must know which rules decided, whatever happens now.
        self.store(false);
        Ok(ReloadResponse {
            loaded: changes.loaded,
            unchanged: changes.unchanged,
            removed: changes.removed,
            sessions_moved,
        })
    }

    fn register(&mut self, r: Registration) -> Result<Registered, RegisterError> {
        if self.is_stuck() {
            return Err(RegisterError::NoReceipt(self.p.log.clone()));
        }
        let (slot, generation) = match &r.policy {
            Choice::Default => {
                let l = self.default_policy().ok_or(RegisterError::NoDefault)?;
                (l.slot, l.generation)
            }
            Choice::Named(name) => {
                let l =
                    self.policies.named(name).ok_or_else(|| RegisterError::UnknownPolicy(name.clone()))?;
                (l.slot, l.generation)
            }
            Choice::Text(file, text) => {
                let placed = self.policies.load_text(&mut *self.p.kernel, file, text.as_bytes())?;
                if let Some(l) = self.policies.generation(placed.1).cloned() {
                    self.keep_text(&l);
                    self.policy_receipt(&l);
                }
                placed
            }
        };
        let policy = self.policies.generation(generation).map_or_else(unknown_policy, |l| l.label.clone());
        let id = self.p.kernel.register(r.pidfd.as_fd(), slot)?;
        let started = self.clock.unix(crate::kernel::boot_ns());
        let session = new_session(id, policy.clone(), generation, SessionStart::Run, started);
        let uuid = session.uuid_text.clone();
        self.sessions.insert(Session {
            intent: r.intent,
            human: r.human.into(),
            uid: r.uid,
            pid: r.pid,
            ..session
        });
        self.p.metrics.sessions.set(self.sessions.live().into());
        self.open_receipt(id, "run", None);
        let (told, durable) = oneshot::channel();
        self.batch.waiters.push(told);
        // The next daemon must know whose session this is, even if this one ends right now.
        self.store(false);
        Ok(Registered { id, uuid, policy, durable })
    }
}
