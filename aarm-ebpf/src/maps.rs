//! Every map. Names, types and sizes are part of the ABI: the daemon pins and opens them by name.

use aarm_common::hold::{Grant, GrantKey, Hold, Lines, Verdict};
use aarm_common::limits::{
    CARRIED_MAX, GRANTS_MAX, HOLDS_MAX, HOSTS_MAX, INHERITED_MAX, LINKED_MAX, POLICY_SLOTS, REDIRECTED_MAX, REDIRECTING_MAX,
    RING_BYTES,
    SESSIONS as SESSION_SLOTS, SHARED_MAX, SHARES_MAX, SPARES_MAX,
};
use aarm_common::policy::{Hits, Policy, Target};
use aarm_common::state::{
    AnsweringKey, Config, Cpu, HostKey, Hosts, Inherited, InheritedKey, LinkedKey, MOVES_ENTRIES, ObjectKey, Redirect, Resolving, STATS, Session,
    ShareKey, Shared, Spare, Stat, Task,
};
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::generated::{bpf_sk_storage_get, bpf_task_storage_get};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf};
use core::ffi::c_void;

use crate::known::{KNOWN_PATHS, Known};
use crate::names::HomeMount;
use crate::scratch::Scratch;

/// Storage that belongs to a kernel object, as a BTF map definition for LSM programs, which aya-ebpf does not have.
#[repr(C)]
pub struct Storage<T, const TYPE: usize> {
    r#type: *const [i32; TYPE],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; 1],
}

/// `BPF_MAP_TYPE_TASK_STORAGE`.
pub type TaskStorage<T> = Storage<T, 29>;
/// `BPF_MAP_TYPE_SK_STORAGE`.
pub type SocketStorage<T> = Storage<T, 24>;

// SAFETY: the struct is a description for the loader; its pointers are never followed.
unsafe impl<T, const TYPE: usize> Sync for Storage<T, TYPE> {}

impl<T, const TYPE: usize> Storage<T, TYPE> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }
}

impl<T> SocketStorage<T> {
    /// The socket's value, or null. `sk` must be a socket pointer that the verifier knows as one.
    #[inline(always)]
    pub fn get(&self, sk: *mut c_void) -> *mut T {
        // SAFETY: the verifier checks both arguments.
        unsafe {
            bpf_sk_storage_get(core::ptr::from_ref(self).cast_mut().cast(), sk, core::ptr::null_mut(), 0)
                .cast()
        }
    }

    /// The socket's value, made (zeroed) if need be; null without memory.
    #[inline(always)]
    pub fn get_or_create(&self, sk: *mut c_void) -> *mut T {
        // SAFETY: the verifier checks both arguments.
        unsafe {
            bpf_sk_storage_get(core::ptr::from_ref(self).cast_mut().cast(), sk, core::ptr::null_mut(), 1)
                .cast()
        }
    }
}

impl<T> TaskStorage<T> {
    /// The task's value, or null. `task` must be a `task_struct` pointer that the verifier knows as one.
    #[inline(always)]
    pub fn get(&self, task: *mut c_void) -> *mut T {
        // SAFETY: the verifier checks both arguments.
        unsafe {
            bpf_task_storage_get(
                core::ptr::from_ref(self).cast_mut().cast(),
                task.cast(),
                core::ptr::null_mut(),
                0,
            )
            .cast()
        }
    }

    /// The task's value, made (zeroed) if need be; null without memory.
    #[inline(always)]
    pub fn get_or_create(&self, task: *mut c_void) -> *mut T {
        // SAFETY: the verifier checks both arguments.
        unsafe {
            bpf_task_storage_get(
                core::ptr::from_ref(self).cast_mut().cast(),
                task.cast(),
                core::ptr::null_mut(),
                1,
            )
            .cast()
        }
    }
}

/// Supervised tasks. A task without a value is outside any session.
#[btf_map]
pub static TASKS: TaskStorage<Task> = TaskStorage::new();
/// Tasks that are being copied, by address, see `spare`.
#[map]
pub static SPARES: HashMap<u64, Spare> = HashMap::with_max_entries(SPARES_MAX, 0);
/// How many there are.
#[map]
pub static SPARE_COUNT: Array<u64> = Array::with_max_entries(1, 0);
/// Session slots. Mapped into the daemon, so that it can change one field while programs count in another.
#[map]
pub static SESSIONS: Array<Session> = Array::with_max_entries(SESSION_SLOTS as u32, BPF_F_MMAPABLE);
/// Session slots that are free, filled by the daemon.
#[map]
pub static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(SESSION_SLOTS as u32, 0);
/// Compiled policies.
#[map]
pub static POLICIES: Array<Policy> = Array::with_max_entries(POLICY_SLOTS as u32, 0);
/// The daemon's settings.
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Events to the daemon.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
/// What is counted on each CPU: event numbers, and one counter for each cause.
#[map]
pub static CPU: PerCpuArray<Cpu> = PerCpuArray::with_max_entries(1, 0);
/// What changes names, see `hooks::moves`.
#[map]
pub static MOVES: Array<u64> = Array::with_max_entries(MOVES_ENTRIES, 0);
/// Paths met lately, see `known`.
#[map]
pub static KNOWN: Array<Known> = Array::with_max_entries(KNOWN_PATHS, 0);
/// The mount under which an object of a filesystem with several is named, see `names`.
#[map]
pub static HOME_MOUNT: LruHashMap<u64, HomeMount> = LruHashMap::with_max_entries(4096, 0);
/// Globs that some name of a file with several hard links matches: filled by the daemon when it loads a policy, and by
/// the programs for names they meet.
#[map]
pub static LINKED: HashMap<LinkedKey, Hits> = HashMap::with_max_entries(LINKED_MAX, BPF_F_NO_PREALLOC);
/// Labels that files, pipes and sockets carry from the sessions that wrote to them.
#[map]
pub static CARRIED: HashMap<ObjectKey, u64> = HashMap::with_max_entries(CARRIED_MAX, BPF_F_NO_PREALLOC);
/// Not 0: something is in `CARRIED`.
#[map]
pub static CARRIES: Array<u64> = Array::with_max_entries(1, 0);
/// What sessions map shared, and which, see `shares`.
#[map]
pub static SHARED: HashMap<ObjectKey, Shared> = HashMap::with_max_entries(SHARED_MAX, BPF_F_NO_PREALLOC);
/// The same by session: its list.
#[map]
pub static SHARES: HashMap<ShareKey, ObjectKey> = HashMap::with_max_entries(SHARES_MAX, BPF_F_NO_PREALLOC);
/// Files that a session has held open since before it began.
#[map]
pub static INHERITED: HashMap<InheritedKey, Inherited> =
    HashMap::with_max_entries(INHERITED_MAX, BPF_F_NO_PREALLOC);
/// Sessions that own kernel objects (System V IPC, keys), by the object's address.
#[map]
pub static OWNERS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(8192, 0);
/// Names by which sessions know addresses, see `hosts`.
#[map]
pub static HOSTS: LruHashMap<HostKey, Hosts> = LruHashMap::with_max_entries(HOSTS_MAX, 0);
/// Sockets of sessions that ask resolvers.
#[btf_map]
pub static RESOLVING: SocketStorage<Resolving> = SocketStorage::new();
/// Actions that wait, see `hold`.
#[map]
pub static HOLDS: HashMap<u64, Hold> = HashMap::with_max_entries(HOLDS_MAX, BPF_F_NO_PREALLOC);
/// What became of them: written by the daemon.
#[map]
pub static VERDICTS: HashMap<u64, Verdict> = HashMap::with_max_entries(HOLDS_MAX, BPF_F_NO_PREALLOC);
/// Execs whose command line decides, see `line`.
#[map]
pub static LINES: HashMap<u64, Lines> = HashMap::with_max_entries(HOLDS_MAX, BPF_F_NO_PREALLOC);
/// Answers that are good for more than one action: written by the daemon.
#[map]
pub static GRANTS: HashMap<GrantKey, Grant> = HashMap::with_max_entries(GRANTS_MAX, BPF_F_NO_PREALLOC);
/// Threads between a decision to redirect and its effect, by the task's address, see `redirect`.
#[map]
pub static REDIRECTING: HashMap<u64, Redirect> = HashMap::with_max_entries(REDIRECTING_MAX, BPF_F_NO_PREALLOC);
/// Where sockets were to be connected, by the number of their inode: the daemon tells it to whom they are connected.
#[map]
pub static REDIRECTED: LruHashMap<u64, Redirect> = LruHashMap::with_max_entries(REDIRECTED_MAX, 0);
/// Where datagrams were to go, by the socket and by where answers come from.
#[map]
pub static ANSWERING: LruHashMap<AnsweringKey, Target> = LruHashMap::with_max_entries(REDIRECTED_MAX, 0);
/// Not 0: some policy redirects. A global, because to look at it is all that most connections of a host pay.
#[unsafe(no_mangle)]
pub static mut REDIRECTS: u64 = 0;
/// Scratch buffers, `scratch::PER_CPU` for each CPU; the daemon sets the size when it creates the map.
#[map]
pub static SCRATCH: Array<Scratch> = Array::with_max_entries(crate::scratch::PER_CPU, 0);

/// Adds one to a counter.
#[inline(always)]
pub fn count(stat: Stat) {
    if let Some(cpu) = CPU.get_ptr_mut(0) {
        // SAFETY: a valid per-CPU value. An increment lost to preemption costs a count, nothing else.
        unsafe { (*cpu).stats[stat as usize % STATS] += 1 }
    }
}
