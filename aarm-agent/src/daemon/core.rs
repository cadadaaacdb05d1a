//! The core: the one owner of session state, reader of the event ring, and writer of kernel tables.
//!
//! Promises: it never blocks on disk, network or people. What it cannot hand on it leaves in the ring, and a
//! full ring makes the kernel refuse actions: nothing is dropped. While the writer has no room it holds one
//! batch, reads and begins nothing, and goes on answering. Must never: be asked anything except through its queue of
//! [`Command`]s. What each event means is in [`events`], what is answered in [`serve`], what is done without being
//! asked, and what outlives the daemon, in [`keep`]; what waits for an answer, in [`hold`].

mod above;
mod answers;
mod command;
mod events;
mod feed;
mod hold;
mod keep;
mod line;
mod resolve;
mod serve;
#[cfg(test)]
mod tests;

pub use command::{Answering, Choice, Command, Numbers, RegisterError, Registered, Registration};

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aarm_common::event::Event;
use aarm_common::limits::SESSIONS;
use aarm_common::state::{SESSION_ENDED, Stat, session_slot};
use aarm_receipt::canonical::Encoded;
use aarm_receipt::receipt::{Identity, Seq};
use aarm_receipt::{Body, Common};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use super::batch::{BATCH_RECEIPTS, Batch, Kind, NO_OWNER, Pool, Whose};
use super::cgroups::Cgroups;
use super::gaps::GapTracker;
use super::holds::Holds;
use super::journal::Journal;
use super::policies::{Loaded, Policies, PolicyError, QUARANTINE, unknown as unknown_policy};
use super::port::{EventPort, KernelPort};
use super::program::Reading;
use super::quiet::Quiet;
use super::record::{self, Clock};
use super::recorded::Recorded;
use super::resolve::Job;
use super::sessions::{Session, Sessions};
use super::snapshot::{Numbers as Read, Snapshot, Untold};
use super::webhooks::Notice;
use super::writer::Progress;
use crate::api::types::{PolicyLabel, SessionStart};
use crate::metrics::Metrics;

/// Events handled in one turn, between which requests are served.
const TURN: usize = BATCH_RECEIPTS;
/// Requests waiting for the core.
pub const COMMANDS: usize = 64;
/// Housekeeping.
const TICK: Duration = Duration::from_millis(500);
/// Between summaries of what is only counted.
const SUMMARY: Duration = Duration::from_secs(10);
/// Between looks at whether what waits is still there.
const THOROUGH: Duration = Duration::from_secs(2);
/// How long the end of the daemon waits for a log that takes nothing.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long who asks for what needs a receipt waits for a log that is behind.
const BEHIND: Duration = Duration::from_secs(5);
/// Receipts of no event that wait to be durable. The batches on their way hold that many only if events bring them.
const UNTOLD_MAX: usize = 8192;
/// Events after which state is kept, so that the end of the log can make up for those since: see `recorded::TAIL`.
const STORE_EVENTS: u64 = super::recorded::TAIL / 2;
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
    /// What began to wait since state was kept last, and what rules answered; none: it cannot be written.
    pub journal: Option<Journal>,
    /// Policy directory.
    pub policies: std::path::PathBuf,
    /// Default policy.
    pub default_policy: Option<String>,
    /// Events that have their receipts already, though they may still be in the ring.
    pub recorded: Recorded,
    /// State directory.
    pub state: std::path::PathBuf,
    /// Directory of the log, for messages.
    pub log: std::path::PathBuf,
    /// Host and boot, for receipts.
    pub host: Encoded,
    /// Time between two looks at the ring while events keep coming.
    pub coalesce: Duration,
    /// To the writer.
    pub batches: mpsc::Sender<Batch>,
    /// To people elsewhere, if there are any to be told.
    pub notices: Option<mpsc::Sender<Arc<Notice>>>,
    /// The host's name and boot, for them.
    pub host_name: String,
    /// To the resolvers.
    pub jobs: mpsc::Sender<Job>,
    /// To who reads programs.
    pub readings: mpsc::Sender<Reading>,
    /// Names of resolvers that policies can ask.
    pub resolvers: Vec<String>,
    /// How far the writer is.
    pub progress: Arc<Progress>,
    /// Empty batches.
    pub pool: Pool,
    /// Counters.
    pub metrics: Arc<Metrics>,
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
    /// Number of `batch`.
    number: u64,
    /// Position of the ring that batches so far reach to.
    handed: u64,
    /// What was asked for while the log was behind, and needs a receipt.
    postponed: VecDeque<(std::time::Instant, Command)>,
    /// The batch that the writer has no room for. While there is one, `batch` is empty.
    pending: Option<Batch>,
    /// There may be more in the ring than the last turn read.
    more: bool,
    /// Sessions that ended in the batch of this number. Their slots are free once that is on paper: until then the
    /// kernel keeps what the next daemon would need.
    leaving: VecDeque<(u64, Box<Session>)>,
    /// Receipts of no event, in the batch of this number.
    untold: VecDeque<(u64, Untold)>,
    /// Events that a former daemon has read and counted.
    before: Vec<Read>,
    /// Events received when state was kept last.
    stored: u64,
    clock: Clock,
    cgroups: Cgroups,
    execs: std::collections::HashMap<u32, Exec, foldhash::fast::RandomState>,
    /// Added to the metric at the end of a turn.
    decided: prometheus::local::LocalHistogram,
    told_lost: u64,
    summarized: std::time::Instant,
    /// What waits for an answer.
    holds: Holds,
    /// When people elsewhere are told of it.
    quiet: Quiet,
    /// What was held lately, and who may have stopped for it.
    above: Vec<above::Above>,
    /// When the kernel was last asked what waits.
    thorough: std::time::Instant,
    dirty: bool,
    /// Keeping state failed the last time.
    unkept: bool,
}

/// How the core ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything it has read is on disk.
    Durable,
    /// The writer has it.
    HandedOn,
    /// The writer has not taken all of it. The events are still in the ring.
    Abandoned,
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
    pub fn begin(mut p: Parts, first: impl FnOnce(&mut Self)) -> Result<Self, PolicyError> {
        let records: &[_] = if p.adopted { &p.snapshot.policies } else { &[] };
        let mut policies = Policies::new(
            &p.policies,
            records,
            p.snapshot.next_generation,
            if p.adopted { p.snapshot.labels.clone() } else { Vec::new() },
            if p.adopted { p.snapshot.patterns.clone() } else { Vec::new() },
            p.resolvers.clone(),
        );
        if p.adopted {
            let mut used = std::collections::BTreeSet::new();
            for slot in 0..SESSIONS as u32 {
                let s = p.kernel.session(slot)?;
                if s.tasks > 0 && s.flags & SESSION_ENDED == 0 {
                    used.insert(s.policy);
                }
            }
            policies.adopt(&mut *p.kernel, &used)?;
        }
        let before = std::mem::take(&mut p.snapshot.read);
        let before = if p.adopted { before } else { Vec::new() };
        if !p.adopted {
            p.recorded = std::mem::take(&mut p.recorded).of_fresh_programs();
        }
        let gaps = p.recorded.gaps();
        let handed = p.events.position();
        let batch = p.pool.take();
        let decided = p.metrics.decision.local();
        let mut core = Self {
            p,
            sessions: Sessions::default(),
            policies,
            gaps,
            batch,
            number: 1,
            handed,
            postponed: VecDeque::new(),
            pending: None,
            more: true,
            leaving: VecDeque::new(),
            untold: VecDeque::new(),
            before,
            stored: 0,
            clock: Clock::now(),
            cgroups: Cgroups::at(crate::kernel::cgroup_root()),
            execs: std::collections::HashMap::default(),
            decided,
            told_lost: 0,
            summarized: std::time::Instant::now(),
            holds: Holds::default(),
            quiet: Quiet::default(),
            above: Vec::new(),
            thorough: std::time::Instant::now(),
            dirty: true,
            unkept: false,
        };
        core.tell_again();
        first(&mut core);
        if core.p.adopted {
            core.adopt()?;
            core.adopt_holds();
            core.told_lost = core.p.kernel.stats()?[Stat::Lost as usize];
        }
        // Homes may have changed since: an adopted table that would be another one is made anew.
        let mut changes = core.policies.reload(&mut *core.p.kernel, true);
        if matches!(changes, Err(PolicyError::NoSlot)) {
            // Former daemons did not live until what they had put away could be used again.
            core.sweep();
            std::thread::sleep(QUARANTINE);
            core.sweep();
            changes = core.policies.reload(&mut *core.p.kernel, true);
        }
        let changes = changes?;
        core.apply(&changes)?;
        // A snapshot of a former load of the programs must not be taken for one of this.
        core.store(false);
        Ok(core)
    }

    /// Writes a receipt of the daemon's own, which no event tells again.
    pub fn system(&mut self, body: &Body<'_>) {
        let boot_ns = self.push_system(body);
        self.note_untold(NO_OWNER, 0, boot_ns);
    }

    /// Writes a receipt of the daemon's own; its time.
    fn push_system(&mut self, body: &Body<'_>) -> u64 {
        let boot_ns = crate::kernel::boot_ns();
        let common = Common {
            time_ns: self.clock.unix(boot_ns),
            boot_ns,
            host: &self.p.host,
            session: None,
            seq: None,
        };
        self.batch
            .push(Whose::NOBODY, boot_ns, 0, Kind::System, |out| aarm_receipt::encode(&common, body, out));
        boot_ns
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
        self.policies.all().iter().for_each(|l| self.keep_text(l));
        for generation in &changes.new {
            if let Some(l) = self.policies.generation(*generation).cloned() {
                self.policy_receipt(&l);
            }
        }
        self.p.metrics.policies.set(self.policies.all().iter().filter(|l| !l.retired).count() as i64);
        self.dirty = true;
        Ok(moved)
    }

    /// Keeps the text of a policy beside the log, before receipts name it.
    fn keep_text(&self, l: &Loaded) {
        if let Some(Err(e)) = l.text.as_deref().map(|text| aarm_receipt::policies::place(&self.p.log, text)) {
            tracing::error!("the text of policy {} is not kept with the log: {e}", l.label.name);
        }
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
        let uid = s.uid;
        let whose = Whose::of(Some(s), id, &self.policies);
        self.batch.push(whose, boot_ns, 0, Kind::Session, |out| aarm_receipt::encode(&common, &body, out));
        if event.is_none() {
            self.note_untold(uid, id, boot_ns);
        }
    }

    /// Runs in a thread of its own: nothing else is between an event and its receipt. The receiver is told the end.
    pub fn spawn(
        self,
        commands: mpsc::Receiver<Command>,
        stop: watch::Receiver<bool>,
    ) -> std::io::Result<oneshot::Receiver<std::io::Result<End>>> {
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
    ) -> std::io::Result<End> {
        // SAFETY: the ring's descriptor is open as long as `self.p.events`, which outlives `ring`.
        let ring = unsafe {
            AsyncFd::register_with_interest(RingFd(self.p.events.raw_fd()), tokio::io::Interest::READABLE)?
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let batches = self.p.batches.clone();
        let progress = Arc::clone(&self.p.progress);
        loop {
            self.flush();
            self.settle();
            self.serve_postponed();
            let reads = self.pending.is_none();
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                command = commands.recv() => match command {
                    Some(c) => self.serve_or_postpone(c),
                    None => break,
                },
                // `settle` lets them go.
                () = progress.settled.notified() => {}
                _ = tick.tick() => self.tick(),
                permit = batches.reserve(), if !reads => match (permit, self.pending.take()) {
                    (Ok(permit), Some(batch)) => permit.send(batch),
                    // The writer ends only with the daemon, or because the log failed; then the daemon ends as well.
                    _ => break,
                },
                // Yields, so that timers and requests are served in between.
                () = tokio::task::yield_now(), if reads && self.more => self.turn(),
                // The first event after a pause, or somebody waits.
                ready = ring.readable(), if reads && !self.more => {
                    ready?.clear_ready();
                    self.turn();
                }
                // While something is not released, the kernel does not wake us for more, but for who waits.
                () = tokio::time::sleep(self.p.coalesce), if reads && !self.more && self.p.events.fill() > 0 => {
                    self.turn();
                }
            }
        }
        let end = self.farewell().await;
        self.settle();
        self.store(end == End::Durable);
        Ok(end)
    }

    /// Hands on what there is, for as long as it takes but at most [`FAREWELL`].
    async fn farewell(&mut self) -> End {
        let began = tokio::time::Instant::now();
        let taken = loop {
            if !self.hand_on(began + FAREWELL).await {
                break false;
            }
            // What comes later waits in the ring for the next daemon.
            if !self.more || began.elapsed() > FAREWELL / 2 {
                break true;
            }
            self.turn();
        };
        // If it is not taken, the next daemon tells it.
        self.system(&Body::Stop { version: env!("CARGO_PKG_VERSION") });
        let (told, durable) = oneshot::channel();
        self.batch.waiters.push(told);
        if !taken || !self.hand_on(began + FAREWELL).await {
            return End::Abandoned;
        }
        match tokio::time::timeout_at(began + FAREWELL, durable).await {
            Ok(Ok(())) => End::Durable,
            _ => End::HandedOn,
        }
    }

    /// Waits until the writer has taken what there is: whether it has.
    async fn hand_on(&mut self, until: tokio::time::Instant) -> bool {
        self.flush();
        let Some(batch) = self.pending.take() else { return true };
        match tokio::time::timeout_at(until, self.p.batches.send(batch)).await {
            Ok(sent) => sent.is_ok(),
            Err(_) => false,
        }
    }

    /// Hands the batch to the writer. What it has no room for is pending, and until it has, nothing is added.
    fn flush(&mut self) {
        // Events that had their receipts before give room back, too.
        if self.pending.is_some() || self.batch.is_empty() && self.p.events.position() == self.handed {
            assert!(self.batch.is_empty(), "nothing is read or promised while a batch is pending");
            return;
        }
        let mut batch = std::mem::replace(&mut self.batch, self.p.pool.take());
        batch.number = self.number;
        self.number += 1;
        self.handed = self.p.events.position();
        batch.ring_end = self.handed;
        if let Err(mpsc::error::TrySendError::Full(b) | mpsc::error::TrySendError::Closed(b)) =
            self.p.batches.try_send(batch)
        {
            self.p.metrics.backpressure.inc();
            self.pending = Some(b);
        }
    }

    /// Whether receipts find no way to the disk: then nothing is begun that needs one.
    fn is_stuck(&self) -> bool {
        self.pending.is_some() || self.p.progress.blocked.load(Ordering::Acquire)
    }

    /// Serves a command, unless it needs a receipt and the log is behind: that is a moment's matter, and no lack of room.
    fn serve_or_postpone(&mut self, command: Command) {
        let behind = self.pending.is_some() && !self.p.progress.blocked.load(Ordering::Acquire);
        if behind && command.needs_receipt() && self.postponed.len() < COMMANDS {
            self.postponed.push_back((std::time::Instant::now(), command));
        } else {
            self.serve(command);
        }
    }

    /// Serves what was postponed, if the log has caught up, or does not.
    fn serve_postponed(&mut self) {
        let late = |since: &std::time::Instant| since.elapsed() >= BEHIND;
        let blocked = self.p.progress.blocked.load(Ordering::Acquire);
        while let Some((_, command)) =
            self.postponed.pop_front_if(|(since, _)| self.pending.is_none() || blocked || late(since))
        {
            self.serve(command);
            self.flush();
        }
    }

    /// Lets go of what is durable by now.
    fn settle(&mut self) {
        let durable = self.p.progress.batches.load(Ordering::Acquire);
        while let Some((_, s)) = self.leaving.pop_front_if(|(number, _)| *number <= durable) {
            self.recycle(s.id);
            self.dirty = true;
        }
        self.let_go(durable);
        while self.untold.pop_front_if(|(number, _)| *number <= durable).is_some() {
            self.dirty = true;
        }
    }

    /// Notes that the receipt appended last is of no event, so that nobody else can tell it again.
    fn note_untold(&mut self, owner: u32, session: u64, time_ns: u64) {
        if self.untold.len() >= UNTOLD_MAX {
            tracing::warn!(
                "more than {UNTOLD_MAX} receipts of no event wait for the disk: the oldest is not kept"
            );
            self.untold.pop_front();
        }
        let untold = Untold { owner, session, time_ns, bytes: self.batch.last().to_vec() };
        self.untold.push_back((self.number, untold));
        self.dirty = true;
    }

    /// One turn of reading, of at most a batch. Not while one is pending.
    fn turn(&mut self) {
        let mut events = std::mem::replace(&mut self.p.events, Box::new(NoEvents));
        let n = events.drain(TURN, &mut |record| {
            self.event(record);
            !self.batch.is_full()
        });
        self.p.events = events;
        self.p.metrics.received.inc_by(n as u64);
        self.decided.flush();
        self.more = n == TURN || self.batch.is_full();
        if !self.more {
            self.p.recorded.all_read();
        }
        self.flush();
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

fn new_session(
    id: u64,
    policy: PolicyLabel,
    generation: u32,
    start: SessionStart,
    started_ns: u64,
) -> Session {
    Session { generation, start, started_ns, ..Session::new(id, uuid::Uuid::now_v7(), policy) }
}
