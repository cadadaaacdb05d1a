//! The kernel side as the daemon sees it: loading or adopting the programs, and the maps behind them.
//!
//! Owns every pin. Promises: programs attach only when their maps are ready; a daemon that dies leaves
//! everything deciding; one that starts again adopts what it finds, or refuses it naming both versions.
//! Must never: hold session meaning (names, intent, receipts); that is the daemon's.

pub mod btf;
#[cfg(feature = "debug-log")]
mod debug_log;
mod error;
mod events;
mod moves;
mod names;
mod offsets;
mod pins;
pub mod preempt;
pub mod probe;
mod programs;
mod sessions;
mod sys;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use aarm_common::ABI_VERSION;
use aarm_common::hold::{Grant, GrantKey, HOLD_STOPPED, Hold, Lines, Verdict};
use aarm_common::limits::{HOLDS_MAX, POLICY_SLOTS, SESSIONS, SPIN_US, SPIN_US_MAX};
use aarm_common::op::Decision;
use aarm_common::policy::{Hits, Policy};
use aarm_common::state::{
    Config, Cpu, Given, HostKey, Inherited, InheritedKey, LinkedKey, Redirect, SESSION_ENDED, STATS, Session,
    Spare, Stat, TASK_COUNTED, TASK_OUTSIDE, Task, session_id, session_slot,
};
use aya::maps::{Array, HashMap, Map, MapData, MapError, Queue};
use aya::{Btf, EbpfLoader};

pub use error::KernelError;
pub use events::{EventSource, Ring};
use names::Names;
use pins::Pins;
pub use programs::cgroup_root;
use sessions::SessionTable;

/// Scratch buffers for each CPU; `scratch::PER_CPU` of the programs.
const SCRATCH_PER_CPU: u32 = 4;

/// Where and how to start.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// The BPF filesystem.
    pub bpffs: PathBuf,
    /// The object to load.
    pub object: &'static [u8],
    /// Told of each program before the kernel verifies it: how many are in force, of how many, and its name. All
    /// of them take a second or two, but minutes on a machine that is emulated.
    pub progress: fn(usize, usize, &str),
    /// For so long, in microseconds, a deferred call looks for its answer before its thread stops; not on one CPU.
    pub spin_us: u32,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf"),
            object: crate::object::OBJECT,
            progress: |_, _, _| {},
            spin_us: SPIN_US,
        }
    }
}

/// How somebody waited who was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// He did not any more.
    Gone,
    /// He was looking for the answer: no signal was needed.
    Looking,
    /// He was stopped, and was continued.
    Stopped,
}

/// A file with several links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linked {
    /// Inode number.
    pub ino: u64,
    /// Device, as the kernel has it.
    pub dev: u32,
}

/// [`Hits`] as a map's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct LinkHits(Hits);

// SAFETY: repr(C), made of integers only.
unsafe impl aya::Pod for LinkHits {}

/// The running kernel side.
pub struct Kernel {
    adopted: bool,
    tasks: MapData,
    spares: HashMap<MapData, u64, Spare>,
    sessions: SessionTable,
    free: Queue<MapData, u32>,
    policies: Array<MapData, Policy>,
    config: Array<MapData, Config>,
    links: HashMap<MapData, LinkedKey, LinkHits>,
    inherited: HashMap<MapData, InheritedKey, Inherited>,
    holds: HashMap<MapData, u64, Hold>,
    verdicts: HashMap<MapData, u64, Verdict>,
    lines: HashMap<MapData, u64, Lines>,
    grants: HashMap<MapData, GrantKey, Grant>,
    redirected: HashMap<MapData, u64, Redirect>,
    names: Names,
    /// Whether some policy redirects.
    globals: Array<MapData, u64>,
    counters: MapData,
    /// CPUs that may come, which per-CPU maps have values for.
    cpus: usize,
    events: Option<EventSource>,
}

fn map_error(map: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |source| KernelError::Map { map, source }
}

/// Opens a pinned map.
fn open(pins: &Pins, name: &'static str) -> Result<MapData, KernelError> {
    MapData::from_pin(pins.map(name)).map_err(map_error(name))
}

/// First 16 bytes of the object's SHA-256.
fn object_id(object: &[u8]) -> [u8; 16] {
    let digest = ring::digest::digest(&ring::digest::SHA256, object);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_ref()[..16]);
    id
}

impl Kernel {
    /// Adopts what a former daemon left, or loads afresh.
    pub fn start(options: &KernelOptions) -> Result<Self, KernelError> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return Err(KernelError::NotRoot);
        }
        if options.object.is_empty() {
            return Err(KernelError::NoObject);
        }
        probe::require_bpf_lsm()?;
        probe::require_no_preemption()?;
        raise_memlock();
        let pins = Pins::at(&options.bpffs)?;
        pins.create()?;
        let object = object_id(options.object);
        let found = pinned_config(&pins)?;
        if let Some(config) = &found
            && config.abi != 0
            && config.abi != u32::from(ABI_VERSION)
        {
            return Err(KernelError::OtherVersion {
                dir: pins.dir().to_path_buf(),
                pinned: config.abi,
                ours: u32::from(ABI_VERSION),
            });
        }
        let ready = found.is_some_and(|c| c.abi == u32::from(ABI_VERSION));
        // Nothing of what is adopted needs the kernel's types, whose reading is most of such a start.
        let adopted = ready && found.is_some_and(|c| c.object == object && c.links == pins.count_links());
        let types = if adopted { None } else { Some(btf::Btf::of_kernel()?) };
        let loaded = types.as_ref().map(|types| load(&pins, options.object, types)).transpose()?;
        let mut kernel = Self {
            adopted: ready,
            tasks: open(&pins, "TASKS")?,
            spares: HashMap::try_from(Map::HashMap(open(&pins, "SPARES")?)).map_err(map_error("SPARES"))?,
            sessions: SessionTable::map(&open(&pins, "SESSIONS")?)?,
            free: Queue::try_from(Map::Queue(open(&pins, "FREE_SLOTS")?)).map_err(map_error("FREE_SLOTS"))?,
            policies: Array::try_from(Map::Array(open(&pins, "POLICIES")?)).map_err(map_error("POLICIES"))?,
            config: Array::try_from(Map::Array(open(&pins, "CONFIG")?)).map_err(map_error("CONFIG"))?,
            links: HashMap::try_from(Map::HashMap(open(&pins, "LINKED")?)).map_err(map_error("LINKED"))?,
            inherited: HashMap::try_from(Map::HashMap(open(&pins, "INHERITED")?))
                .map_err(map_error("INHERITED"))?,
            holds: HashMap::try_from(Map::HashMap(open(&pins, "HOLDS")?)).map_err(map_error("HOLDS"))?,
            verdicts: HashMap::try_from(Map::HashMap(open(&pins, "VERDICTS")?))
                .map_err(map_error("VERDICTS"))?,
            lines: HashMap::try_from(Map::HashMap(open(&pins, "LINES")?)).map_err(map_error("LINES"))?,
            grants: HashMap::try_from(Map::HashMap(open(&pins, "GRANTS")?)).map_err(map_error("GRANTS"))?,
            redirected: HashMap::try_from(Map::LruHashMap(open(&pins, "REDIRECTED")?))
                .map_err(map_error("REDIRECTED"))?,
            names: Names(
                HashMap::try_from(Map::LruHashMap(open(&pins, "HOSTS")?)).map_err(map_error("HOSTS"))?,
            ),
            globals: Array::try_from(Map::Array(open(&pins, pins::GLOBALS.1)?))
                .map_err(map_error("GLOBALS"))?,
            counters: open(&pins, "CPU")?,
            cpus: aya::util::nr_cpus().map_err(|(what, e)| KernelError::io(what)(e))?.max(1),
            events: Some(EventSource::open(open(&pins, "EVENTS")?)?),
        };
        if !ready {
            kernel.fill_free_slots()?;
        }
        if let (Some(object), Some(types)) = (loaded, &types) {
            attach(&pins, object, types, options.progress)?;
            watch_moves(&pins)?;
        }
        let agents = found.map_or(0, |c| c.agents);
        let mount_namespace = host_mount_namespace()?;
        let config = Config {
            abi: u32::from(ABI_VERSION),
            agents,
            daemon: std::process::id(),
            mount_namespace,
            object,
            hold_key: match found.filter(|_| ready) {
                // What waits was named with it.
                Some(c) => c.hold_key,
                None => hold_key()?,
            },
            given: found.filter(|_| ready).map_or_else(Given::default, |c| c.given),
            generations: found.filter(|_| ready).map_or([0; POLICY_SLOTS], |c| c.generations),
            links: pins.count_links(),
            spin_ns: if online_cpus() > 1 { options.spin_us.min(SPIN_US_MAX) * 1000 } else { 0 },
        };
        kernel.config.set(0, config, 0).map_err(map_error("CONFIG"))?;
        Ok(kernel)
    }

    /// Whether state of a former daemon was taken over.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The event ring; once.
    pub fn take_events(&mut self) -> Option<EventSource> {
        self.events.take()
    }

    /// Every slot into the queue, whatever an interrupted start left there.
    fn fill_free_slots(&mut self) -> Result<(), KernelError> {
        while self.free.pop(0).is_ok() {}
        for slot in 0..SESSIONS as u32 {
            self.free.push(slot, 0).map_err(map_error("FREE_SLOTS"))?;
        }
        Ok(())
    }

    /// Writes a compiled policy into a slot. Sessions see it once they are moved there.
    pub fn load_policy(&mut self, slot: u32, policy: &Policy) -> Result<(), KernelError> {
        if slot as usize >= POLICY_SLOTS {
            return Err(KernelError::Slot(slot));
        }
        if policy.redirects[0].family != 0 {
            self.globals.set(0, 1, 0).map_err(map_error("GLOBALS"))?;
        }
        self.policies.set(slot, policy, 0).map_err(map_error("POLICIES"))?;
        let mut config = self.config.get(&0, 0).map_err(map_error("CONFIG"))?;
        config.generations[slot as usize] = policy.generation;
        self.config.set(0, config, 0).map_err(map_error("CONFIG"))
    }

    /// The generation in each slot of the policy table; 0: it is empty.
    pub fn generations(&self) -> Result<[u32; POLICY_SLOTS], KernelError> {
        Ok(self.config.get(&0, 0).map_err(map_error("CONFIG"))?.generations)
    }

    /// Numbers that were given so far, by whichever daemon.
    pub fn given(&self) -> Result<Given, KernelError> {
        Ok(self.config.get(&0, 0).map_err(map_error("CONFIG"))?.given)
    }

    /// Notes that these are given; what uses them comes after.
    pub fn give(&mut self, given: Given) -> Result<(), KernelError> {
        let mut config = self.config.get(&0, 0).map_err(map_error("CONFIG"))?;
        config.given = given;
        self.config.set(0, config, 0).map_err(map_error("CONFIG"))
    }

    /// Empties a slot: sessions still on it are denied everything.
    pub fn clear_policy(&mut self, slot: u32) -> Result<(), KernelError> {
        // SAFETY: a policy of zeros is valid: integers only. On the heap, it is over a megabyte.
        let empty = unsafe { Box::<Policy>::new_zeroed().assume_init() };
        self.load_policy(slot, &empty)
    }

    /// Turns matching of agent selectors at exec on or off.
    pub fn set_agents(&mut self, enabled: bool) -> Result<(), KernelError> {
        let mut config = self.config.get(&0, 0).map_err(map_error("CONFIG"))?;
        config.agents = u32::from(enabled);
        self.config.set(0, config, 0).map_err(map_error("CONFIG"))
    }

    /// Makes the (single-threaded) process behind `pidfd` the first task of a new session; returns its id.
    pub fn register(&mut self, pidfd: BorrowedFd<'_>, policy_slot: u32) -> Result<u64, KernelError> {
        if self.session_of(pidfd)?.is_some() {
            return Err(KernelError::InSession);
        }
        let slot = match self.free.pop(0) {
            Ok(slot) => slot,
            Err(MapError::ElementNotFound) => return Err(KernelError::NoFreeSession),
            Err(source) => return Err(KernelError::Map { map: "FREE_SLOTS", source }),
        };
        let generation = self.sessions.begin(slot, policy_slot, boot_ns())?;
        let id = session_id(slot, generation);
        let task = Task {
            session: id,
            flags: TASK_COUNTED | TASK_OUTSIDE,
            lineage_known: u64::MAX,
            ..Task::default()
        };
        if let Err(e) = sys::task_update(self.tasks.fd().as_fd(), pidfd, &task, sys::NOEXIST) {
            self.sessions.clear(slot)?;
            self.free.push(slot, 0).map_err(map_error("FREE_SLOTS"))?;
            return Err(match e.raw_os_error() {
                Some(libc::EEXIST) => KernelError::InSession,
                _ => KernelError::io("cannot bind the process to its session")(e),
            });
        }
        Ok(id)
    }

    /// What the kernel says of a session slot.
    pub fn session(&self, slot: u32) -> Result<Session, KernelError> {
        self.sessions.get(slot)
    }

    /// Moves a session to another policy slot.
    pub fn move_session(&mut self, slot: u32, policy_slot: u32) -> Result<(), KernelError> {
        self.sessions.set_policy(slot, policy_slot)
    }

    /// Frees the slot of a session that has ended.
    pub fn recycle(&mut self, slot: u32) -> Result<(), KernelError> {
        self.sessions.clear(slot)?;
        self.free.push(slot, 0).map_err(map_error("FREE_SLOTS"))
    }

    /// The session of the process behind `pidfd`.
    pub fn session_of(&self, pidfd: BorrowedFd<'_>) -> Result<Option<u64>, KernelError> {
        let task: Option<Task> = sys::task_lookup(self.tasks.fd().as_fd(), pidfd)
            .map_err(KernelError::io("cannot look the process up"))?;
        let session = match task {
            Some(task) => task.session,
            None => self.spare_of(pidfd)?,
        };
        Ok(Some(session).filter(|id| *id != 0 && (session_slot(*id) as usize) < SESSIONS))
    }

    /// The session of a process whose storage the kernel has freed after a fork that failed, and which has done nothing since; 0:
    /// none. See `spare` of the programs.
    fn spare_of(&self, pidfd: BorrowedFd<'_>) -> Result<u64, KernelError> {
        let spares: Vec<Spare> = self
            .spares
            .iter()
            .map(|entry| entry.map(|(_, spare)| spare))
            .collect::<Result<_, _>>()
            .map_err(map_error("SPARES"))?;
        // Mostly there is none.
        if spares.is_empty() {
            return Ok(0);
        }
        let pid = sys::pid_of(pidfd).map_err(KernelError::io("cannot tell whose pidfd it is"))?;
        Ok(spares.iter().find(|spare| Some(spare.pid) == pid).map_or(0, |spare| spare.session))
    }

    /// Tells the programs which globs other names of files satisfy, under one compilation of a policy.
    pub fn remember_links(&mut self, generation: u32, found: &[(Linked, Hits)]) -> Result<(), KernelError> {
        for (file, hits) in found {
            let key = LinkedKey { ino: file.ino, dev: file.dev, generation };
            self.links.insert(key, LinkHits(*hits), 0).map_err(map_error("LINKED"))?;
        }
        Ok(())
    }

    /// Forgets all names under a compilation that is no longer used.
    pub fn forget_links(&mut self, generation: u32) -> Result<(), KernelError> {
        let gone: Vec<LinkedKey> =
            self.links.keys().flatten().filter(|key| key.generation == generation).collect();
        // One that is gone already is as good.
        gone.iter().for_each(|key| drop(self.links.remove(key)));
        Ok(())
    }

    /// Forgets which files a session that has ended held open since before it began.
    pub fn forget_inherited(&mut self, session: u64) -> Result<(), KernelError> {
        let gone: Vec<InheritedKey> =
            self.inherited.keys().flatten().filter(|key| key.session == session).collect();
        gone.iter().for_each(|key| drop(self.inherited.remove(key)));
        Ok(())
    }

    /// Where the socket with this inode number was to be connected last, before it was redirected.
    pub fn redirected(&self, inode: u64) -> Option<Redirect> {
        self.redirected.get(&inode, 0).ok()
    }

    /// What waits for its answer, by key. One that has it, and whose thread has not come for it yet (it may be stopped by somebody
    /// else), is not among them.
    pub fn holds(&self) -> Vec<(u64, Hold)> {
        // One that went while we looked is as good as one that was not there.
        let all = self.holds.iter().flatten().take(HOLDS_MAX as usize);
        let answered =
            |key: u64, h: &Hold| self.verdicts.get(&key, 0).is_ok_and(|v| v.since_ns == h.since_ns);
        all.filter(|(key, h)| !answered(*key, h)).collect()
    }

    /// What waits under a key.
    pub fn hold(&self, key: u64) -> Option<Hold> {
        self.holds.get(&key, 0).ok()
    }

    /// Answers what waits under `key` since `since_ns`, and lets it go on. How it waited.
    pub fn answer(&mut self, key: u64, since_ns: u64, allow: bool) -> Result<Waited, KernelError> {
        let still = |k: &Self| k.hold(key).filter(|h| h.since_ns == since_ns);
        if still(self).is_none() {
            return Ok(Waited::Gone);
        }
        let decision = if allow { Decision::Allow } else { Decision::Deny };
        let verdict = Verdict { since_ns, decision: decision as u32, reserved: 0 };
        self.verdicts.insert(key, verdict, 0).map_err(map_error("VERDICTS"))?;
        // The program marks the hold as stopped, sends the signal, and then looks for a verdict once more: whichever of
        // us comes first, the thread goes on.
        let waited = match still(self) {
            Some(hold) if hold.flags & HOLD_STOPPED != 0 => {
                go_on(hold.pid);
                Waited::Stopped
            }
            Some(_) => Waited::Looking,
            // Taken, and with it the verdict; or the thread died in between.
            None => {
                drop(self.verdicts.remove(&key));
                Waited::Looking
            }
        };
        // What it was decided by; whoever waited does not wait for that.
        drop(self.lines.remove(&key));
        Ok(waited)
    }

    /// Whether what waits under `key` since `since_ns` still does, and was not answered: it may not have come for its answer yet.
    pub fn is_unanswered(&self, key: u64, since_ns: u64) -> bool {
        let answered = self.verdicts.get(&key, 0).is_ok_and(|v| v.since_ns == since_ns);
        !answered && self.hold(key).is_some_and(|h| h.since_ns == since_ns)
    }

    /// Lets what waits under `key` since `since_ns` go on without an answer, so that it is decided again. How it waited.
    pub fn again(&mut self, key: u64, since_ns: u64) -> Result<Waited, KernelError> {
        let Some(hold) = self.hold(key).filter(|h| h.since_ns == since_ns) else { return Ok(Waited::Gone) };
        self.holds.remove(&key).map_err(map_error("HOLDS"))?;
        // It may have been marked as stopped since, and nobody can see that any more.
        go_on(hold.pid);
        Ok(Waited::Stopped)
    }

    /// Lets a session know an address by a name until then.
    pub fn learn(&mut self, key: HostKey, name: &str, until_ns: u64) -> Result<(), KernelError> {
        self.names.learn(key, name, until_ns)
    }

    /// Forgets what waited, because whoever did it is gone.
    pub fn forget_hold(&mut self, key: u64) {
        // One that is gone already is as good.
        drop(self.holds.remove(&key));
        drop(self.verdicts.remove(&key));
        drop(self.lines.remove(&key));
    }

    /// What the kernel found of an exec whose command line decides.
    pub fn lines(&self, key: u64) -> Option<Lines> {
        self.lines.get(&key, 0).ok()
    }

    /// Makes an answer good for further actions.
    pub fn grant(&mut self, key: GrantKey, grant: Grant) -> Result<(), KernelError> {
        self.grants.insert(key, grant, 0).map_err(map_error("GRANTS"))
    }

    /// Takes grants back: those of a session, and those that have expired by `now_ns`.
    pub fn revoke_grants(&mut self, session: Option<u64>, now_ns: u64) {
        let over =
            |key: &GrantKey, g: &Grant| Some(key.session) == session || g.expires_ns <= now_ns || g.uses == 0;
        let gone: Vec<GrantKey> =
            self.grants.iter().flatten().filter(|(key, g)| over(key, g)).map(|(key, _)| key).collect();
        gone.iter().for_each(|key| drop(self.grants.remove(key)));
    }

    /// Whether there is a unified cgroup hierarchy. At its root answers of resolvers are read, so that sessions can learn names of hosts, and
    /// connections are redirected.
    pub fn has_cgroups(&self) -> bool {
        programs::cgroup_root().is_some()
    }

    /// The kernel's counters, summed over the CPUs.
    pub fn stats(&self) -> Result<[u64; STATS], KernelError> {
        let mut sums = [0u64; STATS];
        const WORDS: usize = size_of::<Cpu>() / 8;
        let mut values = vec![0u64; WORDS * self.cpus];
        sys::lookup_all(self.counters.fd().as_fd(), &mut values, 1)
            .map_err(KernelError::io("cannot read CPU"))?;
        for cpu in values.chunks_exact(WORDS) {
            // `seq`, then the counters; see `Cpu`.
            sums[Stat::Events as usize] += cpu[0];
            sums.iter_mut().zip(&cpu[1..]).for_each(|(sum, n)| *sum += n);
        }
        Ok(sums)
    }
}

/// Removes programs and maps from the kernel. Refused while sessions run, unless forced.
pub fn detach(bpffs: &std::path::Path, force: bool) -> Result<(), KernelError> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Err(KernelError::NotRoot);
    }
    let pins = Pins::at(bpffs)?;
    if !force
        && let Ok(map) = open(&pins, "SESSIONS")
        && pinned_config(&pins)?.is_some_and(|c| c.abi == u32::from(ABI_VERSION))
    {
        let table = SessionTable::map(&map)?;
        let mut running = 0;
        for slot in 0..SESSIONS as u32 {
            let s = table.get(slot)?;
            running += usize::from(s.tasks > 0 && s.flags & SESSION_ENDED == 0);
        }
        if running > 0 {
            return Err(KernelError::SessionsRunning(running));
        }
    }
    pins.remove()
}

/// The settings left by a former daemon, of whatever version. `None`: nothing is pinned.
fn pinned_config(pins: &Pins) -> Result<Option<Config>, KernelError> {
    if !pins.map("CONFIG").exists() {
        return Ok(None);
    }
    let map = open(pins, "CONFIG")?;
    let size = map.info().map_err(map_error("CONFIG"))?.value_size();
    if size as usize != size_of::<Config>() {
        // The first field is the version in all versions; without it we can only say that it is not ours.
        return Ok(Some(Config { abi: u32::MAX, ..Config::default() }));
    }
    let map: Array<_, Config> = Array::try_from(Map::Array(map)).map_err(map_error("CONFIG"))?;
    map.get(&0, 0).map(Some).map_err(map_error("CONFIG"))
}

/// CPUs that run something now.
fn online_cpus() -> libc::c_long {
    // SAFETY: a number in, a number out.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }
}

/// Loads the object on pinned maps, making those that are not there.
fn load(pins: &Pins, object: &[u8], types: &btf::Btf) -> Result<aya::Ebpf, KernelError> {
    let offsets = offsets::resolve(types)?;
    let cpus = aya::util::nr_cpus().map_err(|(what, e)| KernelError::io(what)(e))?;
    let names = pins::MAPS.iter().map(|name| (*name, *name)).chain([pins::GLOBALS]);
    let paths: Vec<_> = names.map(|(name, pinned)| (name, pins.map(pinned))).collect();
    let mut loader = EbpfLoader::new();
    loader.allow_unsupported_maps().map_max_entries("SCRATCH", cpus as u32 * SCRATCH_PER_CPU);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    for (global, offset) in &offsets {
        loader.override_global(global, offset, true);
    }
    Ok(loader.load(object)?)
}

/// Attaches every program and pins its link; a former link of the same name is replaced after the new one is
/// in force, so that nothing is ever undecided.
fn attach(
    pins: &Pins,
    mut object: aya::Ebpf,
    types: &btf::Btf,
    progress: fn(usize, usize, &str),
) -> Result<(), KernelError> {
    #[cfg(feature = "debug-log")]
    debug_log::follow(&mut object)?;
    let btf = Btf::from_sys_fs().map_err(|e| KernelError::Load(aya::EbpfError::BtfError(e)))?;
    let names: Vec<_> = programs::names(types).collect();
    programs::load(&mut object, &names, &btf, |done, name| progress(done, names.len(), name))?;
    for name in names {
        let link = programs::attach(&mut object, name)?;
        let path = pins.link(name);
        // bpffs refuses names with a dot.
        let next = pins.link(&format!("{name}_new"));
        let _ = std::fs::remove_file(&next);
        link.pin(&next)
            .map_err(|e| KernelError::io(format!("cannot pin {name}"))(std::io::Error::other(e)))?;
        if path.exists() {
            std::fs::remove_file(&path)
                .map_err(KernelError::io(format!("cannot replace {}", path.display())))?;
        }
        std::fs::rename(&next, &path).map_err(KernelError::io(format!("cannot place {}", path.display())))?;
    }
    pins.remove_other_links(types)
}

/// Lets the programs rely on seeing whatever changes names, if they do.
fn watch_moves(pins: &Pins) -> Result<(), KernelError> {
    let mut moves: Array<_, u64> =
        Array::try_from(Map::Array(open(pins, "MOVES")?)).map_err(map_error("MOVES"))?;
    if let Err(why) = moves::watch(&mut moves, pins.dir()) {
        tracing::warn!(
            "paths are built anew at each access, which costs more: cannot see what changes names ({why})"
        );
    }
    Ok(())
}

/// Number of the host's mount namespace: that of process 1, as this one sees it.
fn host_mount_namespace() -> Result<u32, KernelError> {
    use std::os::unix::fs::MetadataExt;
    let path = "/proc/1/ns/mnt";
    let found = std::fs::metadata(path).map_err(KernelError::io(format!("cannot read {path}")))?;
    Ok(found.ino() as u32)
}

/// A descriptor of a process. One that is gone is an error, and one that has taken its number is another process.
pub fn pidfd(pid: u32) -> std::io::Result<std::os::fd::OwnedFd> {
    // SAFETY: numbers only; the descriptor is ours if the call succeeds.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(std::os::fd::FromRawFd::from_raw_fd(fd as libc::c_int))
    }
}

/// Nanoseconds since boot, on the clock the programs use.
pub fn boot_ns() -> u64 {
    // SAFETY: a local of the right type.
    unsafe {
        let mut t: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }
}

/// A key that nobody can guess.
fn hold_key() -> Result<[u64; 2], KernelError> {
    use ring::rand::SecureRandom;
    let mut bytes = [0u8; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KernelError::io("no random numbers")(std::io::Error::other("the kernel gave none")))?;
    let (a, b) = bytes.split_at(8);
    let word = |b: &[u8]| b.iter().fold(0, |n, b| n << 8 | u64::from(*b));
    Ok([word(a), word(b)])
}

/// Continues a stopped process.
fn go_on(pid: u32) {
    // SAFETY: no memory is involved. It may be gone.
    unsafe { libc::kill(pid as i32, libc::SIGCONT) };
}

/// Kernels before 5.11 count maps against this limit; later ones ignore it.
fn raise_memlock() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid struct. Failure shows when maps are made.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
}
