//! The core: the one owner of session state, reader of the event ring, and writer of kernel tables.
//!
//! Promises: it never blocks on disk, network or people. What it cannot hand on it leaves in the ring, and a
//! full ring makes the kernel refuse actions: nothing is dropped. Must never: be asked anything except through
//! its queue of [`Command`]s. What each event means is in [`events`], what is answered in [`serve`].

mod command;
mod events;
mod serve;

pub use command::{Choice, Command, Numbers, RegisterError, Registered, Registration};

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use aarm_common::event::Event;
use aarm_common::limits::SESSIONS;
use aarm_common::op::Decision;
use aarm_common::state::{SESSION_ENDED, Stat, session_id, session_slot};
use aarm_receipt::canonical::Encoded;
use aarm_receipt::receipt::{Identity, Seq};
use aarm_receipt::{Body, Common};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use super::batch::{BATCH_RECEIPTS, Batch, Kind, NO_OWNER, Pool};
use super::gaps::{Gap, GapTracker};
use super::policies::{Loaded, Policies, PolicyError};
use super::port::{EventPort, KernelPort};
use super::record::{self, Clock};
use super::sessions::{Session, Sessions};
use super::snapshot::{self, SessionRecord, Snapshot};
use crate::api::types::{ActionCounts, PolicyLabel, SessionStart};
use crate::metrics::Metrics;

/// Events handled in one turn, between which requests are served.
const TURN: usize = BATCH_RECEIPTS;
/// Requests waiting for the core.
pub const COMMANDS: usize = 64;
/// Housekeeping.
const TICK: Duration = Duration::from_millis(500);
/// Between summaries of what is only counted.
const SUMMARY: Duration = Duration::from_secs(10);
/// How long the end of the daemon waits for a log that takes nothing.
const FAREWELL: Duration = Duration::from_secs(5);
/// Exec decisions remembered until their outcome.
const EXECS_MAX: usize = 4096;

/// What the core is made of.
pub struct Parts {
    /// Kernel tables.
    pub kernel: Box<dyn KernelPort>,
    /// Event ring.
    pub events: Box<dyn EventPort>,
    /// Whether kernel state was taken over.
    pub adopted: bool,
    /// Former state, if any belongs to this boot.
    pub snapshot: Snapshot,
    /// Policy directory.
    pub policies: std::path::PathBuf,
    /// Default policy.
    pub default_policy: Option<String>,
    /// Events that have their receipts already, though they may still be in the ring.
    pub recorded: Recorded,
    /// State directory.
    pub state: std::path::PathBuf,
    /// Host and boot, for receipts.
    pub host: Encoded,
    /// Wait after a wake-up.
    pub coalesce: Duration,
    /// To the writer.
    pub batches: mpsc::Sender<Batch>,
    /// Empty batches.
    pub pool: Pool,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Numbers of events that a former daemon has recorded.
#[derive(Debug, Default)]
pub struct Recorded {
    /// By CPU and number.
    seen: std::collections::HashSet<(u32, u64)>,
    /// The next number of each CPU.
    next: Vec<u64>,
}

impl Recorded {
    /// Notes a receipt's event.
    pub fn note(&mut self, cpu: u32, n: u64) {
        let i = cpu as usize;
        if i >= super::gaps::CPUS_MAX {
            return;
        }
        if i >= self.next.len() {
            self.next.resize(i + 1, 0);
        }
        self.next[i] = self.next[i].max(n.saturating_add(1));
        self.seen.insert((cpu, n));
    }
}

/// An exec decision whose outcome is awaited.
struct Exec {
    seq: Seq,
    exe: Vec<u8>,
}

/// The core.
pub struct Core {
    p: Parts,
    sessions: Sessions,
    policies: Policies,
    gaps: GapTracker,
    batch: Batch,
    clock: Clock,
    execs: std::collections::HashMap<u32, Exec, foldhash::fast::RandomState>,
    /// Added to the metric at the end of a turn.
    decided: prometheus::local::LocalHistogram,
    told_lost: u64,
    summarized: std::time::Instant,
    dirty: bool,
}

/// The ring's descriptor for the reactor; the core keeps the ring itself.
struct RingFd(std::os::fd::RawFd);

impl std::os::fd::AsRawFd for RingFd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0
    }
}

impl Core {
    /// Takes over former state and loads the policies. Every error is one the daemon must not start on.
    /// `first` writes what the log must say before anything else.
    pub fn begin(p: Parts, first: impl FnOnce(&mut Self)) -> Result<Self, PolicyError> {
        let records: &[_] = if p.adopted { &p.snapshot.policies } else { &[] };
        let policies = Policies::new(
            &p.policies,
            records,
            p.snapshot.next_generation,
            if p.adopted { p.snapshot.labels.clone() } else { Vec::new() },
            if p.adopted { p.snapshot.patterns.clone() } else { Vec::new() },
        );
        let gaps = if p.adopted { GapTracker::adopted(&p.recorded.next) } else { GapTracker::fresh() };
        let batch = p.pool.take();
        let decided = p.metrics.decision.local();
        let mut core = Self {
            p,
            sessions: Sessions::default(),
            policies,
            gaps,
            batch,
            clock: Clock::now(),
            execs: std::collections::HashMap::default(),
            decided,
            told_lost: 0,
            summarized: std::time::Instant::now(),
            dirty: true,
        };
        first(&mut core);
        if core.p.adopted {
            core.adopt()?;
            core.told_lost = core.p.kernel.stats()?[Stat::Lost as usize];
        }
        // Homes may have changed since: an adopted table is made anew.
        let changes = core.policies.reload(&mut *core.p.kernel, true)?;
        core.apply(&changes)?;
        Ok(core)
    }

    /// Writes a receipt of the daemon's own.
    pub fn system(&mut self, body: &Body<'_>) {
        let boot_ns = crate::kernel::boot_ns();
        let common = Common {
            time_ns: self.clock.unix(boot_ns),
            boot_ns,
            host: &self.p.host,
            session: None,
            seq: None,
        };
        self.batch
            .push(NO_OWNER, 0, boot_ns, 0, Kind::System, |out| aarm_receipt::encode(&common, body, out));
    }

    /// Finds the sessions that went on without a daemon.
    fn adopt(&mut self) -> Result<(), PolicyError> {
        for slot in 0..SESSIONS as u32 {
            let s = self.p.kernel.session(slot)?;
            if s.generation == 0 || s.tasks == 0 && s.flags & SESSION_ENDED == 0 {
                continue;
            }
            let id = session_id(slot, s.generation);
            let known = self.p.snapshot.sessions.iter().find(|r| r.id == id).cloned();
            let recovered = known.is_none();
            let r = known.unwrap_or_else(|| SessionRecord {
                id,
                uuid: *uuid::Uuid::now_v7().as_bytes(),
                started_ns: self.clock.unix(s.started_ns),
                ..SessionRecord::default()
            });
            let label = self.policies.slot(s.policy).map(|l| (l.label.clone(), l.generation));
            let (policy, generation) = label.unwrap_or_else(|| (unknown_policy(), 0));
            let uuid = uuid::Uuid::from_bytes(r.uuid);
            let session = Session {
                generation,
                start: match (recovered, r.agent) {
                    (true, _) => SessionStart::Recovered,
                    (_, true) => SessionStart::Agent,
                    _ => SessionStart::Run,
                },
                intent: r.intent.unwrap_or_default(),
                human: r.human.unwrap_or_default().into(),
                uid: r.uid,
                pid: r.pid,
                exe: r.exe.into(),
                started_ns: r.started_ns,
                counts: ActionCounts {
                    allow: r.counts[Decision::Allow as usize],
                    deny: r.counts[Decision::Deny as usize],
                    audit: r.counts[7],
                    refused: 0,
                },
                refused_told: r.refused,
                ..Session::new(id, uuid, policy)
            };
            self.sessions.insert(session);
            if recovered {
                self.open_receipt(id, "recovered", None);
            }
        }
        Ok(())
    }

    /// Moves sessions as a reload says and records what is new.
    fn apply(&mut self, changes: &super::policies::Changes) -> Result<u32, PolicyError> {
        let mut moved = 0;
        for s in self.sessions.iter_mut() {
            let slot = session_slot(s.id);
            let at = self.p.kernel.session(slot)?.policy;
            if let Some(to) = changes.moves.get(&at) {
                self.p.kernel.move_session(slot, *to)?;
                if let Some(l) = self.policies.slot(*to) {
                    s.policy = l.label.clone();
                    s.generation = l.generation;
                }
                moved += 1;
            }
        }
        for generation in &changes.new {
            if let Some(l) = self.policies.generation(*generation).cloned() {
                self.policy_receipt(&l);
            }
        }
        self.p.metrics.policies.set(self.policies.all().iter().filter(|l| !l.retired).count() as i64);
        self.dirty = true;
        Ok(moved)
    }

    fn policy_receipt(&mut self, l: &Loaded) {
        let (file, mode) = (l.file.clone(), l.label.mode.clone());
        self.system(&Body::Policy {
            policy: record::policy_ref(&l.label),
            file: file.as_bytes(),
            mode: &mode,
            rules: l.rules.len() as u64,
        });
    }

    /// The receipt of a session's beginning.
    fn open_receipt(&mut self, id: u64, how: &str, event: Option<&Event<'_>>) {
        let Some(s) = self.sessions.get(id) else { return };
        let boot_ns = event.map_or_else(crate::kernel::boot_ns, |e| e.header.time_ns);
        let common = Common {
            time_ns: self.clock.unix(boot_ns),
            boot_ns,
            host: &self.p.host,
            session: Some(Cow::Borrowed(&s.encoded)),
            seq: event.map(|e| Seq { cpu: e.header.cpu, n: e.header.seq }),
        };
        let identity = match event {
            Some(e) => record::identity(e, Some(s)),
            None => Identity {
                human: Some(s.human.encoded()),
                uid: s.uid,
                pid: s.pid,
                tid: s.pid,
                agent: Some(s.exe.encoded()),
                ..Identity::default()
            },
        };
        let body = Body::SessionOpen {
            how,
            program: event.map_or(&s.exe, |e| e.path),
            intent: &s.intent,
            policy: record::policy_ref(&s.policy),
            audit: s.policy.mode == "audit",
            identity,
        };
        self.batch
            .push(s.uid, id, boot_ns, 0, Kind::Session, |out| aarm_receipt::encode(&common, &body, out));
    }

    /// Runs in a thread of its own: nothing else is between an event and its receipt. The receiver is told the end.
    pub fn spawn(
        self,
        commands: mpsc::Receiver<Command>,
        stop: watch::Receiver<bool>,
    ) -> std::io::Result<oneshot::Receiver<std::io::Result<()>>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (running, ended) = oneshot::channel();
        std::thread::Builder::new().name("aarm-core".into()).spawn(move || {
            let result = runtime.block_on(self.run(commands, stop));
            // Whoever waited may be gone.
            let _ = running.send(result);
        })?;
        Ok(ended)
    }

    /// Runs until `stop` changes or everybody who could ask is gone.
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut stop: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        // SAFETY: the ring's descriptor is open as long as `self.p.events`, which outlives `ring`.
        let ring = unsafe {
            AsyncFd::register_with_interest(RingFd(self.p.events.raw_fd()), tokio::io::Interest::READABLE)?
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What waited while there was no daemon.
        self.drain().await;
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                command = commands.recv() => match command {
                    Some(c) => self.serve(c),
                    None => break,
                },
                ready = ring.readable() => {
                    ready?.clear_ready();
                    tokio::time::sleep(self.p.coalesce).await;
                    self.drain().await;
                }
                // While something is not released, the kernel does not wake us for more.
                () = tokio::time::sleep(self.p.coalesce), if self.p.events.fill() > 0 => self.drain().await,
                _ = tick.tick() => self.tick().await,
            }
            self.flush().await;
        }
        let last = async {
            self.drain().await;
            let version = env!("CARGO_PKG_VERSION");
            self.system(&Body::Stop { version });
            self.flush().await;
        };
        if tokio::time::timeout(FAREWELL, last).await.is_err() {
            tracing::error!(
                "the log takes no more; what it has not taken waits in the kernel for the next daemon"
            );
        }
        self.store(true);
        Ok(())
    }

    /// Hands the batch to the writer; waits while the writer is behind.
    async fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::replace(&mut self.batch, self.p.pool.take());
        batch.ring_end = self.p.events.position();
        let batch = match self.p.batches.try_send(batch) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(b) | mpsc::error::TrySendError::Closed(b)) => b,
        };
        self.p.metrics.backpressure.inc();
        if self.p.batches.send(batch).await.is_err() {
            // The writer ends only with the daemon, or because the log failed; then the daemon ends as well.
            tracing::error!("the receipt log is closed");
        }
    }

    /// Reads what is in the ring.
    async fn drain(&mut self) {
        loop {
            let mut events = std::mem::replace(&mut self.p.events, Box::new(NoEvents));
            let n = events.drain(TURN, &mut |record| {
                self.event(record);
                !self.batch.is_full()
            });
            self.p.events = events;
            self.p.metrics.received.inc_by(n as u64);
            self.decided.flush();
            let more = n == TURN || self.batch.is_full();
            self.flush().await;
            if !more {
                return;
            }
            // Requests are served in between.
            tokio::task::yield_now().await;
        }
    }

    /// Housekeeping, twice a second.
    async fn tick(&mut self) {
        let now = crate::kernel::boot_ns();
        self.clock = Clock::now();
        self.p.metrics.beat(now);
        self.p.metrics.ring_fill.set(self.p.events.fill() as i64);
        self.p.metrics.sessions.set(self.sessions.live().into());
        // A wake-up can be missed only if a program was interrupted between two words; look anyway.
        self.drain().await;
        match self.p.kernel.stats() {
            Ok(stats) => {
                self.p.metrics.set_kernel(&stats);
                let lost = stats[Stat::Lost as usize];
                if lost > self.told_lost {
                    self.p.metrics.lost.inc_by(lost - self.told_lost);
                    tracing::error!("{} events lost in the kernel", lost - self.told_lost);
                    self.told_lost = lost;
                }
            }
            Err(e) => tracing::warn!("kernel counters: {e}"),
        }
        if self.summarized.elapsed() >= SUMMARY {
            self.summarized = std::time::Instant::now();
            let live: Vec<u64> = self.sessions.iter().map(|s| s.id).collect();
            live.into_iter().for_each(|id| self.summarize(id));
        }
        if self.gaps.has_holes() {
            let mut found: Vec<Gap> = Vec::new();
            self.gaps.overdue(now, |g| found.push(g));
            for g in found {
                tracing::warn!(
                    "{} events of CPU {} found no room in the ring: their actions were refused",
                    g.count,
                    g.cpu
                );
                self.system(&Body::Gap {
                    cpu: Some(g.cpu),
                    missing: g.count,
                    why: "no room in the ring: the actions were refused",
                    detail: b"",
                });
            }
        }
        // A session whose end found no room in the ring.
        let ended: Vec<u64> = self
            .sessions
            .iter()
            .filter(|s| {
                self.p.kernel.session(session_slot(s.id)).is_ok_and(|k| {
                    session_id(session_slot(s.id), k.generation) == s.id
                        && k.tasks == 0
                        && k.flags & SESSION_ENDED != 0
                })
            })
            .map(|s| s.id)
            .collect();
        if self.p.events.fill() == 0 && self.batch.is_empty() {
            ended.into_iter().for_each(|id| self.ended(id, None));
        }
        if let Err(e) = self.policies.refresh_agents(&mut *self.p.kernel) {
            tracing::warn!("agent selectors: {e}");
        }
        let used: Vec<u32> = self
            .sessions
            .iter()
            .filter_map(|s| self.p.kernel.session(session_slot(s.id)).ok())
            .map(|k| k.policy)
            .collect();
        if let Err(e) = self.policies.sweep(&mut *self.p.kernel, |slot| used.contains(&slot)) {
            tracing::warn!("policy slots: {e}");
        }
        if self.dirty {
            self.store(false);
        }
    }

    /// Keeps what the next daemon needs.
    fn store(&mut self, clean: bool) {
        self.dirty = false;
        let (policies, next_generation) = self.policies.records();
        let sessions = self
            .sessions
            .iter()
            .map(|s| {
                let mut counts = [0; 8];
                counts[Decision::Allow as usize] = s.counts.allow;
                counts[Decision::Deny as usize] = s.counts.deny;
                counts[7] = s.counts.audit;
                let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                SessionRecord {
                    id: s.id,
                    uuid: *s.uuid.as_bytes(),
                    generation: s.generation,
                    agent: s.start == SessionStart::Agent,
                    intent: some(&s.intent),
                    human: some(&s.human.shown()),
                    uid: s.uid,
                    pid: s.pid,
                    exe: s.exe.shown(),
                    started_ns: s.started_ns,
                    counts,
                    refused: s.refused_told,
                }
            })
            .collect();
        let snapshot = Snapshot {
            boot_id: snapshot::boot_id(),
            clean,
            next_generation,
            seq_next: self.gaps.next(),
            sessions,
            policies,
            labels: self.policies.labels().to_vec(),
            patterns: self.policies.patterns().to_vec(),
        };
        if let Err(e) = snapshot.store(&self.p.state) {
            tracing::error!("state is not kept: {e}");
        }
    }
}

/// Stands in for the ring while it is being read.
struct NoEvents;

impl EventPort for NoEvents {
    fn raw_fd(&self) -> std::os::fd::RawFd {
        -1
    }

    fn drain(&mut self, _: usize, _: &mut dyn FnMut(&[u8]) -> bool) -> usize {
        0
    }

    fn fill(&self) -> u64 {
        0
    }

    fn position(&self) -> u64 {
        0
    }
}

/// A policy of which nothing is known but that it decided.
fn unknown_policy() -> PolicyLabel {
    PolicyLabel {
        name: "unknown".into(),
        version: String::new(),
        hash: String::new(),
        mode: "enforce".into(),
    }
}

fn new_session(
    id: u64,
    policy: PolicyLabel,
    generation: u32,
    start: SessionStart,
    started_ns: u64,
) -> Session {
    Session { generation, start, started_ns, ..Session::new(id, uuid::Uuid::now_v7(), policy) }
}
