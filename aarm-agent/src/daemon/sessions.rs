//! The sessions as the daemon knows them: what the kernel does not need, and receipts do.

use std::collections::{HashMap, VecDeque};

use aarm_common::limits::SESSIONS;
use aarm_common::state::session_slot;

use crate::api::types::{ActionCounts, PolicyLabel, ProcessInfo, SessionInfo, SessionStart};

/// Sessions that ended and are still shown.
const ENDED_MAX: usize = 256;
/// Processes remembered in one session; more are recorded, but not listed.
const PROCESSES_MAX: usize = 4096;
/// Words of a command line remembered for listings.
const ARGV_MAX: usize = 64;

/// A process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Parent.
    pub ppid: u32,
    /// Program, as last executed.
    pub exe: Vec<u8>,
    /// Thread name.
    pub comm: Vec<u8>,
    /// Arguments.
    pub argv: Vec<String>,
}

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Kernel id.
    pub id: u64,
    /// UUID.
    pub uuid: uuid::Uuid,
    /// The same as text, for receipts.
    pub uuid_text: String,
    /// Its policy.
    pub policy: PolicyLabel,
    /// Number of the policy's compilation.
    pub generation: u32,
    /// How it began.
    pub start: SessionStart,
    /// What it is for; may be empty.
    pub intent: String,
    /// On whose behalf; may be empty.
    pub human: String,
    /// User.
    pub uid: u32,
    /// First process.
    pub pid: u32,
    /// First program; empty until it is known.
    pub exe: Vec<u8>,
    /// Unix time of its beginning, nanoseconds.
    pub started_ns: u64,
    /// Decisions.
    pub counts: ActionCounts,
    /// Refused actions that receipts tell of.
    pub refused_told: u64,
    /// Processes by id.
    pub processes: HashMap<u32, Process>,
}

impl Session {
    /// The API's form.
    pub fn info(&self, tasks: u64, refused: u64, ended: Option<String>, processes: bool) -> SessionInfo {
        let mut list: Vec<ProcessInfo> = Vec::new();
        if processes {
            list = self
                .processes
                .iter()
                .map(|(pid, p)| ProcessInfo {
                    pid: *pid,
                    ppid: p.ppid,
                    exe: (!p.exe.is_empty()).then(|| String::from_utf8_lossy(&p.exe).into_owned()),
                    comm: String::from_utf8_lossy(&p.comm).into_owned(),
                    argv: p.argv.clone(),
                })
                .collect();
            list.sort_by_key(|p| p.pid);
        }
        SessionInfo {
            session: format!("{:016x}", self.id),
            uuid: self.uuid_text.clone(),
            policy: self.policy.clone(),
            start: self.start,
            intent: (!self.intent.is_empty()).then(|| self.intent.clone()),
            human: (!self.human.is_empty()).then(|| self.human.clone()),
            uid: self.uid,
            pid: self.pid,
            exe: String::from_utf8_lossy(&self.exe).into_owned(),
            started: super::record::timestamp(self.started_ns),
            ended,
            tasks,
            actions: ActionCounts { refused, ..self.counts },
            processes: list,
        }
    }

    /// Notes an exec.
    pub fn executed(&mut self, pid: u32, ppid: u32, exe: Option<&[u8]>, comm: &[u8], argv: &[u8]) {
        if let Some(p) = self.process(pid, ppid) {
            if let Some(exe) = exe {
                p.exe = exe.to_vec();
            }
            p.comm = comm.to_vec();
            let words = argv.strip_suffix(b"\0").unwrap_or(argv);
            p.argv = words
                .split(|b| *b == 0)
                .take(ARGV_MAX)
                .map(|w| String::from_utf8_lossy(w).into_owned())
                .collect();
        }
    }

    /// A process, noted if it is new.
    pub fn process(&mut self, pid: u32, ppid: u32) -> Option<&mut Process> {
        if !self.processes.contains_key(&pid) {
            if self.processes.len() >= PROCESSES_MAX {
                return None;
            }
            self.processes.insert(pid, Process { ppid, ..Process::default() });
        }
        self.processes.get_mut(&pid)
    }
}

/// All sessions, by slot.
pub struct Sessions {
    slots: Vec<Option<Box<Session>>>,
    /// Sessions that ended, as they were shown last.
    ended: VecDeque<SessionInfo>,
    live: u32,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { slots: (0..SESSIONS).map(|_| None).collect(), ended: VecDeque::new(), live: 0 }
    }
}

impl Sessions {
    /// A live session.
    #[inline]
    pub fn get(&self, id: u64) -> Option<&Session> {
        self.slots.get(session_slot(id) as usize)?.as_deref().filter(|s| s.id == id)
    }

    /// A live session, to change.
    #[inline]
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Session> {
        self.slots.get_mut(session_slot(id) as usize)?.as_deref_mut().filter(|s| s.id == id)
    }

    /// Adds one.
    pub fn insert(&mut self, session: Session) {
        if let Some(slot) = self.slots.get_mut(session_slot(session.id) as usize) {
            self.live += u32::from(slot.is_none());
            *slot = Some(Box::new(session));
        }
    }

    /// Ends one.
    pub fn remove(&mut self, id: u64) -> Option<Box<Session>> {
        let slot = self.slots.get_mut(session_slot(id) as usize)?;
        if slot.as_ref().is_some_and(|s| s.id == id) {
            self.live -= 1;
            return slot.take();
        }
        None
    }

    /// Remembers an ended one for listings.
    pub fn remember(&mut self, info: SessionInfo) {
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(info);
    }

    /// Ended ones, oldest first.
    pub fn ended(&self) -> impl Iterator<Item = &SessionInfo> {
        self.ended.iter()
    }

    /// Live ones.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().flatten().map(|s| &**s)
    }

    /// Live ones, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.slots.iter_mut().flatten().map(|s| &mut **s)
    }

    /// How many live.
    pub fn live(&self) -> u32 {
        self.live
    }
}
