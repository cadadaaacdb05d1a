//! The core against a kernel and a writer that are played.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use aarm_common::event::{Cause, EventHeader, FLAG_HELD, HEADER_BYTES, Kind as EventKind, NO_RULE};
use aarm_common::hold::{Grant, GrantKey, Hold, Lines};
use aarm_common::limits::POLICY_SLOTS;
use aarm_common::policy::{Hits, Policy};
use aarm_common::state::{Given, HostKey, Redirect, STATS, Session as Slot, session_id};
use aarm_common::{ABI_VERSION, Decision, Operation};

use super::answers::How;
use super::*;
use crate::api::approvals::Approval;
use crate::daemon::holds::{Unread, Waiting};
use crate::daemon::writer::QUEUE;
use crate::kernel::{KernelError, Linked, Waited};

/// A kernel with one session that is under way, under the policy in slot 1.
#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<Numbers>>);

#[derive(Default)]
struct Numbers {
    given: Given,
    generations: [u32; POLICY_SLOTS],
    /// What waits, and since when.
    waits: Vec<(u64, u64)>,
    /// What waits or has not come for its answer yet, and since when.
    there: Vec<(u64, u64)>,
    answers: Vec<(u64, bool)>,
}

impl KernelPort for Kernel {
    fn redirected(&self, _: u64) -> Option<Redirect> {
        None
    }

    fn has_cgroups(&self) -> bool {
        true
    }

    fn hold(&self, key: u64) -> Option<Hold> {
        let n = self.0.lock().unwrap();
        let (_, since_ns) = *n.there.iter().find(|(there, _)| *there == key)?;
        Some(Hold { since_ns, ..Hold::default() })
    }

    fn holds(&self) -> Vec<(u64, Hold)> {
        Vec::new()
    }

    fn answer(&mut self, key: u64, since_ns: u64, allow: bool) -> Result<Waited, KernelError> {
        let mut n = self.0.lock().unwrap();
        n.answers.push((key, allow));
        let waited = n.waits.extract_if(.., |w| *w == (key, since_ns)).count() > 0;
        Ok(if waited { Waited::Stopped } else { Waited::Gone })
    }

    fn is_unanswered(&self, key: u64, since_ns: u64) -> bool {
        self.0.lock().unwrap().waits.contains(&(key, since_ns))
    }

    fn again(&mut self, _: u64, _: u64) -> Result<Waited, KernelError> {
        Ok(Waited::Gone)
    }

    fn learn(&mut self, _: HostKey, _: &str, _: u64) -> Result<(), KernelError> {
        Ok(())
    }

    fn forget_hold(&mut self, _: u64) {}

    fn lines(&self, _: u64) -> Option<Lines> {
        None
    }

    fn grant(&mut self, _: GrantKey, _: Grant) -> Result<(), KernelError> {
        Ok(())
    }

    fn revoke_grants(&mut self, _: Option<u64>, _: u64) {}

    fn load_policy(&mut self, slot: u32, policy: &Policy) -> Result<(), KernelError> {
        let mut n = self.0.lock().unwrap();
        assert!(policy.generation <= n.given.generations, "what is not given is not used");
        n.generations[slot as usize] = policy.generation;
        Ok(())
    }

    fn clear_policy(&mut self, slot: u32) -> Result<(), KernelError> {
        self.0.lock().unwrap().generations[slot as usize] = 0;
        Ok(())
    }

    fn generations(&self) -> Result<[u32; POLICY_SLOTS], KernelError> {
        Ok(self.0.lock().unwrap().generations)
    }

    fn given(&self) -> Result<Given, KernelError> {
        Ok(self.0.lock().unwrap().given)
    }

    fn give(&mut self, given: Given) -> Result<(), KernelError> {
        self.0.lock().unwrap().given = given;
        Ok(())
    }

    fn set_agents(&mut self, _: bool) -> Result<(), KernelError> {
        Ok(())
    }

    fn register(&mut self, _: BorrowedFd<'_>, _: u32) -> Result<u64, KernelError> {
        Ok(session_id(1, 1))
    }

    fn session(&self, slot: u32) -> Result<Slot, KernelError> {
        let there = u32::from(slot == 1);
        Ok(Slot { generation: there, tasks: there.into(), policy: 1, ..Slot::default() })
    }

    fn move_session(&mut self, _: u32, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    fn recycle(&mut self, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    fn session_of(&self, _: BorrowedFd<'_>) -> Result<Option<u64>, KernelError> {
        Ok(None)
    }

    fn remember_links(&mut self, _: u32, _: &[(Linked, Hits)]) -> Result<(), KernelError> {
        Ok(())
    }

    fn forget_links(&mut self, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    fn forget_inherited(&mut self, _: u64) -> Result<(), KernelError> {
        Ok(())
    }

    fn stats(&self) -> Result<[u64; STATS], KernelError> {
        Ok([0; STATS])
    }
}

/// A ring of allowed opens, none of which was ever released.
struct Opens {
    fd: OwnedFd,
    there: u64,
    read: u64,
}

/// An event of one action, with some fields of its header.
fn event(given: EventHeader) -> [u8; HEADER_BYTES] {
    let header = EventHeader {
        version: ABI_VERSION,
        kind: EventKind::Action as u8,
        op: Operation::OpenRead as u8,
        facet: Operation::OpenRead as u8,
        len: HEADER_BYTES as u32,
        session: session_id(1, 1),
        time_ns: 1,
        decision: if given.hold == 0 { Decision::Allow } else { Decision::StepUp } as u8,
        cause: Cause::Default as u8,
        rule: NO_RULE,
        ..given
    };
    let mut record = [0u8; HEADER_BYTES];
    // SAFETY: the record has room for a header, which is integers only.
    unsafe { record.as_mut_ptr().cast::<EventHeader>().write_unaligned(header) };
    record
}

impl EventPort for Opens {
    fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn drain(&mut self, limit: usize, f: &mut dyn FnMut(&[u8]) -> bool) -> usize {
        let (mut n, mut more) = (0, true);
        while more && n < limit && self.read < self.there {
            let record = event(EventHeader { seq: self.read, ..EventHeader::default() });
            self.read += 1;
            n += 1;
            more = f(&record);
        }
        n
    }

    fn fill(&self) -> u64 {
        self.there
    }

    fn position(&self) -> u64 {
        self.read
    }
}

const OPENS: u64 = 20_000;

/// A core that runs, what it is asked through, and what it hands on.
struct Running {
    commands: mpsc::Sender<Command>,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<std::io::Result<End>>,
    batches: mpsc::Receiver<Batch>,
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
}

fn start(dir: &Path, adopted: bool) -> Running {
    start_on(Kernel::default(), dir, adopted)
}

/// A core that does not run yet, and what it hands on.
struct Begun {
    core: Core,
    batches: mpsc::Receiver<Batch>,
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
}

fn begin_on(kernel: Kernel, dir: &Path, adopted: bool) -> Begun {
    // SAFETY: no preconditions; the result is checked.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: just made, and nobody else's.
    let fd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
    let (to, batches) = mpsc::channel(QUEUE);
    let (metrics, progress) = (Metrics::new().unwrap(), Arc::new(Progress::default()));
    let parts = Parts {
        kernel: Box::new(kernel),
        events: Box::new(Opens { fd, there: OPENS, read: 0 }),
        adopted,
        snapshot: Snapshot::load(dir).unwrap().unwrap_or_default(),
        journal: None,
        policies: dir.join("policies"),
        default_policy: None,
        recorded: Recorded::default(),
        state: dir.into(),
        log: "/the/log".into(),
        host: Encoded::text(b"h"),
        coalesce: Duration::from_millis(1),
        batches: to,
        notices: None,
        host_name: "h".into(),
        jobs: mpsc::channel(1).0,
        readings: mpsc::channel(1).0,
        resolvers: Vec::new(),
        progress: Arc::clone(&progress),
        pool: Pool::default(),
        metrics: Arc::clone(&metrics),
    };
    let core = Core::begin(parts, |_| ()).unwrap();
    Begun { core, batches, metrics, progress }
}

fn start_on(kernel: Kernel, dir: &Path, adopted: bool) -> Running {
    let Begun { mut core, batches, metrics, progress } = begin_on(kernel, dir, adopted);
    if !adopted {
        core.sessions.insert(Session::new(session_id(1, 1), uuid::Uuid::now_v7(), unknown_policy()));
    }
    let (commands, asked) = mpsc::channel(COMMANDS);
    let (stop, stopped) = watch::channel(false);
    let ended = core.spawn(asked, stopped).unwrap();
    Running { commands, stop, ended, batches, metrics, progress }
}

fn ask<T>(r: &Running, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
    let (answer, answered) = oneshot::channel();
    r.commands.blocking_send(make(answer)).ok().unwrap();
    answered.blocking_recv().unwrap()
}

fn allowed(r: &Running) -> u64 {
    ask(r, |a| Command::Sessions(false, a))[0].actions.allow
}

#[test]
fn a_log_that_takes_nothing_stops_neither_answers_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(dir.path(), false);
    let began = Instant::now();
    while first.metrics.backpressure.get() == 0 {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    let read = allowed(&first);
    assert!(read <= ((QUEUE + 1) * BATCH_RECEIPTS) as u64, "{read} read, with nowhere to put them");
    let registration = || Registration {
        pidfd: std::fs::File::open("/dev/null").unwrap().into(),
        pid: 1,
        uid: 0,
        gid: 0,
        policy: Choice::Default,
        intent: String::new(),
        human: String::new(),
    };
    // It may be only behind: who asks waits for that, but not for ever, and others do not wait for him.
    let (answer, mut answered) = oneshot::channel();
    first.commands.blocking_send(Command::Register(registration(), answer)).ok().unwrap();
    assert_eq!(allowed(&first), read);
    assert!(answered.try_recv().is_err(), "refused at once");
    let refused = answered.blocking_recv().unwrap().unwrap_err();
    assert!(refused.to_string().contains("/the/log has no room"), "{refused}");
    assert!(matches!(ask(&first, Command::Reload), Err(PolicyError::NoReceipt(_))));
    std::thread::sleep(2 * TICK);
    assert!(first.metrics.healthy(crate::kernel::boot_ns()));
    assert_eq!(allowed(&first), read, "nothing more is read");
    let began = Instant::now();
    first.stop.send(true).unwrap();
    assert_eq!(first.ended.blocking_recv().unwrap().unwrap(), End::Abandoned);
    assert!(began.elapsed() < 2 * FAREWELL, "{:?}", began.elapsed());
    drop(first.batches);
    let untold = Snapshot::load(dir.path()).unwrap().unwrap().untold;
    let stops = untold.iter().filter(|u| u.bytes.windows(13).any(|w| w == b"\"kind\":\"stop\""));
    assert_eq!(stops.count(), 1, "the next one tells of this one's end");

    // Nothing was written: the next one reads all of it again, and counts it once.
    let mut second = start(dir.path(), true);
    let mut receipts = 0;
    while receipts < OPENS {
        let batch = second.batches.blocking_recv().unwrap();
        receipts += batch.iter().filter(|(e, _)| e.kind == Kind::Action).count() as u64;
        second.progress.batches.store(batch.number, Ordering::Release);
    }
    assert_eq!((receipts, allowed(&second)), (OPENS, OPENS));
}

#[test]
fn a_lost_snapshot_gives_no_number_twice_and_no_slot_that_a_session_is_under() {
    const POLICY: &str = "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: { name: p, version: '1' }\nspec:\n  data:\n    - { label: SECRET, level: PUBLIC, on: { read: ['/s'] } }\n";
    let kernel = Kernel::default();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    std::fs::write(dir.path().join("policies/p.yaml"), POLICY).unwrap();
    let stop = |r: Running| {
        r.stop.send(true).unwrap();
        r.ended.blocking_recv().unwrap().unwrap();
    };
    stop(start_on(kernel.clone(), dir.path(), false));
    let (first, given) = {
        let n = kernel.0.lock().unwrap();
        (n.generations, n.given)
    };
    assert!(first[1] != 0 && given.labels == 1, "{first:?} {given:?}");

    // The state directory is lost, and with it the numbers; the session goes on under what is in slot 1.
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join("policies")).unwrap();
    std::fs::write(other.path().join("policies/p.yaml"), POLICY).unwrap();
    let r = start_on(kernel.clone(), other.path(), true);
    let session = ask(&r, |a| Command::Sessions(false, a)).remove(0);
    assert_eq!(session.policy.name, "unknown", "no other policy is said to be that of the session");
    stop(r);
    let n = kernel.0.lock().unwrap();
    assert_eq!(n.generations[1], first[1], "what the session is under stays");
    let new = n.generations.iter().filter(|g| **g > given.generations).count();
    assert_eq!(new, 1, "{:?}", n.generations);
    assert_eq!(n.given.labels, 2, "the bit of the lost label is that of no other");
}

/// Each start put the policies into other slots, and what was put away had to rest for ten seconds again with each daemon: one that was killed
/// often enough found no room any more, and never started again.
#[test]
fn daemons_that_do_not_live_long_do_not_use_up_the_slots_of_policies() {
    let policy = |version: u32| {
        format!(
            "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{ name: p, version: '{version}' }}\n"
        ) + "spec:\n  rules:\n    - { id: r, match: { operation: exec, args: [x] }, decision: DENY }\n"
    };
    let kernel = Kernel::default();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    let write = |version| std::fs::write(dir.path().join("policies/p.yaml"), policy(version)).unwrap();
    let begin = |adopted| {
        let core = begin_on(kernel.clone(), dir.path(), adopted).core;
        let loaded = core.policies.named("p").unwrap();
        assert!(loaded.source.is_some(), "what decides programs is known");
        (loaded.generation, loaded.label.version.clone())
    };
    write(0);
    let first = begin(false);
    for _ in 0..2 * POLICY_SLOTS {
        assert_eq!(begin(true), first, "a policy that means the same stays where it is");
    }
    for version in 1..2 * POLICY_SLOTS as u32 {
        write(version);
        assert_eq!(begin(true).1, version.to_string());
    }
}

/// Something that waits, and is over at the next look.
fn waiting(key: u64) -> Waiting {
    Waiting {
        key,
        since_ns: 1,
        session: 1,
        action: 1,
        owner: 0,
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
        about: Approval::default(),
    }
}

/// The next daemon asked again: two answers to one question, of which the later one counted.
#[test]
fn what_a_killed_daemon_has_answered_on_paper_is_the_answer() {
    let kernel = Kernel::default();
    kernel.0.lock().unwrap().waits = (1..=4).map(|key| (key, 1)).collect();
    let dir = tempfile::tempdir().unwrap();
    let Begun { mut core, .. } = begin_on(kernel.clone(), dir.path(), false);
    let answer = |hold: u64, since: u64, answer: &str| {
        format!(
            r#"{{"kind":"resolution","boot_ns":{},"detail":{{"hold":"{hold:016x}","answer":"{answer}","waited_ns":7}}}}"#,
            since + 7
        )
    };
    for told in [answer(1, 1, "ALLOW"), answer(2, 1, "DENY"), answer(3, 2, "ALLOW"), answer(5, 1, "ALLOW")] {
        core.p.recorded.is_told(told.as_bytes());
    }
    core.p.snapshot.holds = (1..=5).map(|key| serde_json::to_vec(&waiting(key)).unwrap()).collect();
    core.adopt_holds();
    assert!(kernel.0.lock().unwrap().answers.is_empty(), "not before it is durable");
    core.let_go(core.number);
    let n = kernel.0.lock().unwrap();
    assert_eq!(n.answers, [(1, true), (2, false)]);
    let asked: Vec<u64> = core.holds.keys(|_| true);
    assert_eq!(asked, [3, 4], "asked at another time, and not answered; the fifth does not wait");
}

/// It knew what waited from its journal, refused it because its time was over, and met its event after that: then it asked again.
#[test]
fn what_was_answered_before_its_event_was_read_is_not_asked_about_again() {
    let kernel = Kernel::default();
    {
        let mut n = kernel.0.lock().unwrap();
        n.waits = vec![(1, 1), (2, 1)];
        n.there = n.waits.clone();
    }
    let dir = tempfile::tempdir().unwrap();
    let Begun { mut core, .. } = begin_on(kernel.clone(), dir.path(), false);
    core.p.journal = Some(Journal::open(dir.path()).unwrap().0);
    core.p.snapshot.holds = vec![serde_json::to_vec(&waiting(1)).unwrap()];
    core.adopt_holds();
    core.hold_tick(crate::kernel::boot_ns(), false);
    assert_eq!(kernel.0.lock().unwrap().answers, [(1, false)], "nobody could answer it");
    for key in [1, 2] {
        let held = EventHeader { hold: key, flags: FLAG_HELD, seq: key, ..EventHeader::default() };
        core.event(&event(held));
    }
    assert_eq!(core.holds.keys(|_| true), [2], "the other one is asked about");
    assert!(kernel.0.lock().unwrap().answers.iter().all(|(key, allow)| *key == 1 && !allow));
}

#[test]
fn what_rules_answer_has_its_effect_when_the_next_daemon_would_know_and_not_before() {
    let kernel = Kernel::default();
    kernel.0.lock().unwrap().waits = vec![(1, 1), (2, 1)];
    let dir = tempfile::tempdir().unwrap();
    let Begun { mut core, .. } = begin_on(kernel.clone(), dir.path(), false);
    // Where nothing can be noted, it waits for the disk.
    core.resolve(waiting(1), false, None, &How::by_itself("policy"));
    assert!(kernel.0.lock().unwrap().answers.is_empty());
    core.p.journal = Some(Journal::open(dir.path()).unwrap().0);
    core.resolve(waiting(2), false, None, &How::by_itself("policy"));
    assert_eq!(kernel.0.lock().unwrap().answers, [(2, false)]);
    let told = Journal::open(dir.path()).unwrap().1.told;
    assert!(told.len() == 1 && told[0].bytes == core.batch.last(), "{told:?}");
    // What somebody says waits for the disk in any case.
    core.resolve(waiting(3), true, None, &How { approver: "uid:0", ..How::by_itself("approval") });
    core.let_go(core.number - 1);
    assert_eq!(kernel.0.lock().unwrap().answers.len(), 1);
}

/// It was freed ten seconds after the policy's sessions were moved away: an answer had no rule then, and what was to be changed was not.
#[test]
fn the_policy_of_a_program_that_is_being_read_stays() {
    const POLICY: &str = "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: { name: p, version: '1' }\nspec:\n  rules:\n    - { id: r, match: { operation: exec, package: [p] }, decision: DENY }\n";
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    std::fs::write(dir.path().join("policies/p.yaml"), POLICY).unwrap();
    let Begun { mut core, .. } = begin_on(Kernel::default(), dir.path(), false);
    let generation = core.policies.named("p").unwrap().generation;
    core.holds.add(Waiting {
        seeking: true,
        unread: Some(Unread { generation, audit: false, traced: false }),
        ..waiting(1)
    });
    std::fs::remove_file(dir.path().join("policies/p.yaml")).unwrap();
    core.policies.reload(&mut *core.p.kernel, false).unwrap();
    let mut swept = || {
        core.sweep();
        std::thread::sleep(Duration::from_millis(50));
        core.sweep();
        let known = core.policies.generation(generation).is_some();
        core.holds.take(1);
        known
    };
    assert!(swept(), "while it is being read");
    assert!(!swept(), "afterwards nobody needs it");
}
