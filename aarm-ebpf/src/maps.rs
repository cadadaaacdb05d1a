//! Every map. Names, types and sizes are part of the ABI: the daemon pins and opens them by name.

use aarm_common::limits::{POLICY_SLOTS, RING_BYTES, SESSIONS as SESSION_SLOTS};
use aarm_common::policy::Policy;
use aarm_common::state::{Config, STATS as STAT_COUNT, Session, Stat, Task};
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::bpf_task_storage_get;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, PerCpuArray, Queue, RingBuf};
use core::ffi::c_void;

use crate::scratch::Scratch;

/// `BPF_MAP_TYPE_TASK_STORAGE` as a BTF map definition, which aya-ebpf does not have.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; 29],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; 1],
}

// SAFETY: the struct is a description for the loader; its pointers are never followed.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// The task's value, or null. `task` must be a `task_struct` pointer that the verifier knows as one.
    #[inline(always)]
    pub fn get(&self, task: *mut c_void) -> *mut T {
        // SAFETY: the verifier checks both arguments.
        unsafe {
            bpf_task_storage_get(core::ptr::from_ref(self).cast_mut().cast(), task.cast(), core::ptr::null_mut(), 0)
                .cast()
        }
    }

    /// The task's value, made (zeroed) if need be; null without memory.
    #[inline(always)]
    pub fn get_or_create(&self, task: *mut c_void) -> *mut T {
        // SAFETY: the verifier checks both arguments.
        unsafe {
            bpf_task_storage_get(core::ptr::from_ref(self).cast_mut().cast(), task.cast(), core::ptr::null_mut(), 1)
                .cast()
        }
    }
}

/// Supervised tasks. A task without a value is outside any session.
#[btf_map]
pub static TASKS: TaskStorage<Task> = TaskStorage::new();
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
/// Counters, one for each cause.
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(STAT_COUNT as u32, 0);
/// Next event sequence number of each CPU.
#[map]
pub static SEQ: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Scratch buffers, `scratch::PER_CPU` for each CPU; the daemon sets the size when it creates the map.
#[map]
pub static SCRATCH: Array<Scratch> = Array::with_max_entries(crate::scratch::PER_CPU, 0);

/// Adds one to a counter.
#[inline(always)]
pub fn count(stat: Stat) {
    if let Some(n) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: a valid per-CPU value. An increment lost to preemption costs a count, nothing else.
        unsafe { *n += 1 }
    }
}
