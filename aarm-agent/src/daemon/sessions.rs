//! The sessions as the daemon knows them: what the kernel does not need, and receipts do.

use std::collections::{HashMap, VecDeque};

use aarm_common::limits::SESSIONS;
use aarm_common::state::{self, session_slot};

use aarm_receipt::canonical::Encoded;
use aarm_receipt::receipt::{SessionRef, cut};

use super::prior::History;
use super::statements::Statements;
use crate::api::types::{ActionCounts, PolicyLabel, ProcessInfo, SessionInfo, SessionStart};

/// Sessions that ended and are still shown.
const ENDED_MAX: usize = 256;
/// Processes remembered in one session; more are recorded, but not listed.
const PROCESSES_MAX: usize = 4096;
/// Words of a command line remembered for listings.
const ARGV_MAX: usize = 64;

/// Processes by id. Ids come from the kernel, in an order an agent can steer: the hash is seeded.
pub type Processes = HashMap<u32, Process, foldhash::fast::RandomState>;

/// A text that repeats from receipt to receipt: as it is, and as receipts have it.
#[derive(Clone, Debug, Default)]
pub struct Text {
    raw: Vec<u8>,
    encoded: Encoded,
}

impl Text {
    /// Its form in receipts.
    #[inline]
    pub fn encoded(&self) -> &Encoded {
        &self.encoded
    }

    /// Its form in answers.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}

impl From<&[u8]> for Text {
    fn from(raw: &[u8]) -> Self {
        Self { raw: raw.to_vec(), encoded: Encoded::text(cut(raw)) }
    }
}

impl From<String> for Text {
    fn from(raw: String) -> Self {
        raw.as_bytes().into()
    }
}

impl std::ops::Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.raw
    }
}

/// A process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Parent.
    pub ppid: u32,
    /// Program, as last executed.
    pub exe: Text,
    /// Thread name.
    pub comm: Vec<u8>,
    /// Arguments.
    pub argv: Vec<String>,
    /// Path of the cgroup in which it was born or last ran a program; empty: the root, or unknown.
    pub cgroup: Text,
}

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Kernel id.
    pub id: u64,
    /// UUID.
    pub uuid: uuid::Uuid,
    /// The same as text.
    pub uuid_text: String,
    /// Both ids as receipts have them.
    pub encoded: Encoded,
    /// Its policy.
    pub policy: PolicyLabel,
    /// Number of the policy's compilation.
    pub generation: u32,
    /// How it began.
    pub start: SessionStart,
    /// What it is for; may be empty.
    pub intent: String,
    /// On whose behalf; may be empty.
    pub human: Text,
    /// User.
    pub uid: u32,
    /// First process.
    pub pid: u32,
    /// First program; empty until it is known.
    pub exe: Text,
    /// Unix time of its beginning, nanoseconds.
    pub started_ns: u64,
    /// Decisions.
    pub counts: ActionCounts,
    /// Refused actions that receipts tell of.
    pub refused_told: u64,
    /// Allowed actions that were only counted, as this daemon's last summary has them.
    pub summarized: u64,
    /// Processes by id.
    pub processes: Processes,
    /// What it did last, as far as this daemon saw it.
    pub history: History,
    /// What it said of itself, likewise.
    pub statements: Statements,
}

impl Session {
    /// A session of which nothing else is known.
    pub fn new(id: u64, uuid: uuid::Uuid, policy: PolicyLabel) -> Self {
        let uuid_text = uuid.to_string();
        Self {
            id,
            uuid,
            encoded: SessionRef { id, uuid: &uuid_text }.encoded(),
            uuid_text,
            policy,
            generation: 0,
            start: SessionStart::Recovered,
            intent: String::new(),
            human: Text::default(),
            uid: 0,
            pid: 0,
            exe: Text::default(),
            started_ns: 0,
            counts: ActionCounts::default(),
            refused_told: 0,
            summarized: 0,
            processes: Processes::default(),
            history: History::default(),
            statements: Statements::default(),
        }
    }

    /// Decisions, with those that only the kernel has counted.
    pub fn totals(&self, kernel: &state::Session) -> ActionCounts {
        let counted: u64 = kernel.summary.iter().sum();
        ActionCounts { allow: self.counts.allow + counted, refused: kernel.refused, ..self.counts }
    }

    /// The API's form.
    pub fn info(&self, kernel: &state::Session, ended: Option<String>, processes: bool) -> SessionInfo {
        let ended_now = ended.is_some();
        let mut list: Vec<ProcessInfo> = Vec::new();
        if processes {
            list = self
                .processes
                .iter()
                .map(|(pid, p)| ProcessInfo {
                    pid: *pid,
                    ppid: p.ppid,
                    exe: (!p.exe.is_empty()).then(|| p.exe.shown()),
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
            human: (!self.human.is_empty()).then(|| self.human.shown()),
            uid: self.uid,
            pid: self.pid,
            exe: self.exe.shown(),
            started: super::record::timestamp(self.started_ns),
            ended,
            tasks: if ended_now { 0 } else { kernel.tasks },
            actions: self.totals(kernel),
            processes: list,
        }
    }

    /// Notes an exec.
    pub fn executed(&mut self, pid: u32, ppid: u32, exe: Option<&[u8]>, comm: &[u8], argv: &[u8]) {
        if let Some(p) = self.process(pid, ppid) {
            if let Some(exe) = exe {
                p.exe = exe.into();
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
        // Low slots are taken first: the many behind the last one are not looked at.
        self.slots.iter().flatten().map(|s| &**s).take(self.live as usize)
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
