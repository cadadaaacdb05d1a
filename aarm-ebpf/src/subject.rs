//! Who acts, as `subject` asks: the programs of a task's lineage, and its cgroup.
//!
//! A lineage is a bitmap in the task, of the patterns that some program of it matches: what the processes above it within the
//! session ran when they made the next one, and what the process itself ran before. It is handed on at birth and grows at
//! exec, so nothing that a parent does later, and no change of parents, takes anything out of it. Beside it stands which
//! patterns its programs were held against; a pattern that came with a later policy is unknown for it.
//!
//! The cgroup's path is walked, for the current task only, when the task has another cgroup than last time. In the unified
//! hierarchy cgroups are not renamed and their ids not used again, so a path that was read once stays right. Must never:
//! take a path for another cgroup's; what cannot be read is unknown.

use aarm_common::limits::*;
use aarm_common::policy::*;
use aarm_common::state::*;
use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel_str};
use core::ffi::c_void;

use crate::kernel::*;
use crate::maps::{POLICIES, SCRATCH, TASKS};
use crate::scratch::{END, Scratch, no_hits};
use crate::session::Frame;
use crate::walk::{DONE, RUNNING, STATE_MASK, boundary, hit, step};

const SET_MASK: usize = RULE_SETS - 1;

/// A new task's lineage, from the one that makes it. A thread is no other process.
#[inline(always)]
pub unsafe fn inherit(parent: *const Task, child: *mut Task, thread: bool) {
    // SAFETY: valid map values.
    unsafe {
        (*child).image = (*parent).image;
        (*child).image_known = (*parent).image_known;
        (*child).lineage = (*parent).lineage;
        (*child).lineage_known = (*parent).lineage_known;
        (*child).cgroup = 0;
        let owes = (*parent).flags & TASK_OWES_IMAGE;
        if thread {
            (*child).flags |= owes | (*parent).flags & TASK_OUTSIDE;
        } else if (*parent).exe_generation == 0 {
            (*child).flags |= TASK_OWES_IMAGE;
        } else {
            (*child).lineage |= (*parent).image;
            (*child).lineage_known &= (*parent).image_known;
        }
    }
}

/// The running program becomes an earlier one. Before the image that was checked takes its place.
#[inline(always)]
pub unsafe fn replaced(task: *mut Task) {
    // SAFETY: a valid map value.
    unsafe {
        let flags = (*task).flags;
        if flags & TASK_OUTSIDE == 0 {
            if (*task).exe_generation == 0 {
                (*task).lineage_known = 0;
            } else {
                (*task).lineage |= (*task).image;
                (*task).lineage_known &= (*task).image_known;
            }
        }
        (*task).flags = flags & !(TASK_OUTSIDE | TASK_OWES_IMAGE);
    }
}

/// The running program has been looked at, under the frame's policy.
#[inline(always)]
pub unsafe fn looked_at(f: &Frame) {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        let t = f.task;
        let (image, known) = ((*f.s).hits.exe[DATA_WORD], (*f.policy).subject_patterns);
        (*t).image = image;
        (*t).image_known = known;
        if (*t).flags & TASK_OWES_IMAGE != 0 {
            (*t).lineage |= image;
            (*t).lineage_known &= known;
            (*t).flags &= !TASK_OWES_IMAGE;
        }
    }
}

/// Whether the task is in another cgroup than the one that its `container` is of, where the policy asks.
#[inline(always)]
pub unsafe fn moved(p: *const Policy, task: *const Task) -> bool {
    // SAFETY: valid map values; the helper has no preconditions.
    unsafe { (*p).subject_containers != 0 && bpf_get_current_cgroup_id() != (*task).cgroup }
}

/// Narrows `Task::context` and `Task::who` to the rules whose subject conditions hold or are unknown, and notes which. The
/// end of `context::aarm_who`, for policies that have such conditions. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_subject(slot: u32) -> u32 {
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    let task = TASKS.get(current());
    if task.is_null() {
        return 1;
    }
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        let mut w = 0;
        while w < RULE_WORDS {
            (*task).unsure[w] = 0;
            w += 1;
        }
        (*task).subjects = 0;
        let conditions = (*p).subject_conditions;
        let mut narrow = Narrow { task, p };
        if bpf_loop(conditions, by_condition as *mut c_void, (&raw mut narrow).cast(), 0) != conditions as i64 {
            return 1;
        }
        let mut w = 0;
        while w < RULE_WORDS {
            (*task).who[w] &= (*task).context[w];
            w += 1;
        }
        (*task).who_generation = (*p).generation;
        0
    }
}

/// What the callback of `bpf_loop` needs.
#[repr(C)]
struct Narrow {
    task: *mut Task,
    p: *const Policy,
}

/// Looks at one condition. What has been found so far is kept with the task, not on the stack: see [`aarm_cgroup`].
#[inline(never)]
extern "C" fn by_condition(i: u32, narrow: *mut Narrow) -> i64 {
    // SAFETY: the context is the caller's; the pointers in it are map values; masks keep indices inside.
    unsafe {
        let (task, p) = ((*narrow).task, (*narrow).p);
        if task.is_null() || p.is_null() {
            return 1;
        }
        let i = i & (SUBJECT_CONDITIONS as u32 - 1);
        let c = (*p).subjects[i as usize];
        let (has, known) = match c.kind {
            IMAGE_ANY | IMAGE_NONE => ((*task).image, (*task).image_known),
            ANCESTOR_ANY | ANCESTOR_NONE => ((*task).lineage, (*task).lineage_known),
            _ => ((*task).container, if (*task).cgroup != 0 { u64::MAX } else { 0 }),
        };
        let met = has & c.mask != 0;
        let positive = c.kind == IMAGE_ANY || c.kind == ANCESTOR_ANY || c.kind == CONTAINER_ANY;
        let unknown = !met && known & c.mask != c.mask;
        let needed = c.needed_by as usize & SET_MASK;
        if unknown {
            (*task).subjects |= 0x1_0000 << i;
            let mut w = 0;
            while w < RULE_WORDS {
                let rules = (*p).sets[needed][w];
                (*task).context[w] &= !(rules & (*p).unknown_skip[w]);
                (*task).unsure[w] |= rules;
                w += 1;
            }
        } else if met == positive {
            (*task).subjects |= 1 << i;
        } else {
            let mut w = 0;
            while w < RULE_WORDS {
                (*task).context[w] &= !(*p).sets[needed][w];
                w += 1;
            }
        }
        0
    }
}

/// What the callback of `bpf_loop` needs.
#[repr(C)]
struct Climb {
    s: *mut Scratch,
    p: *const Policy,
    /// The `struct kernfs_node` to look at.
    node: u64,
}

/// Holds the path of the current task's cgroup against the policy's patterns: `Task::cgroup` and `Task::container`. Returns
/// 0, or 1 if the path could not be read: then the cgroup is unknown. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_cgroup(scratch: u32, slot: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    let task = TASKS.get(current());
    if task.is_null() {
        return 1;
    }
    // SAFETY: valid map values; the kernel's structures are read through the helper.
    unsafe {
        (*task).cgroup = 0;
        (*task).container = 0;
        let Some((cgroup, node)) = current_cgroup() else { return 1 };
        let Ok(id) = read::<u64>(node, off(&OFF_KERNFS_NODE_ID)) else { return 1 };
        no_hits(s);
        (*s).state = (*p).dfa_start;
        // How far it has come is kept in the buffer, not on the stack: the verifier of 6.1 looks at one step of a loop, and takes
        // what one step leaves on the stack for what all of them do.
        (*s).status = RUNNING;
        (*s).path_end = 0;
        let mut climb = Climb { s, p, node };
        bpf_loop(CGROUP_DEPTH + 1, step_node as *mut c_void, (&raw mut climb).cast(), 0);
        if (*s).status != DONE {
            return 1;
        }
        if (*s).path_end == 0 {
            // The root cgroup itself.
            boundary(s, p);
        }
        hit(s, p, (*p).hit_end[((*s).state & STATE_MASK) as usize] as u32);
        // A cgroup lives at least as long as it has a task: it is the one that was walked only if it is still this task's.
        if current_cgroup() != Some((cgroup, node)) {
            return 1;
        }
        (*task).container = (*s).hits.not_exe[DATA_WORD];
        (*task).cgroup = id;
        0
    }
}

/// The current task's cgroup in the unified hierarchy (`struct cgroup *`), and its node.
#[inline(always)]
unsafe fn current_cgroup() -> Option<(u64, u64)> {
    // SAFETY: the task is typed.
    let set: u64 = unsafe { typed(current(), &OFF_TASK_STRUCT_CGROUPS) };
    let cgroup = read::<u64>(set, off(&OFF_CSS_SET_DFL_CGRP)).ok()?;
    Some((cgroup, read::<u64>(cgroup, off(&OFF_CGROUP_KN)).ok()?))
}

/// Id of a task's cgroup in the unified hierarchy, given by typed pointer; 0: unknown.
#[inline(always)]
pub unsafe fn cgroup_of(task: *const c_void) -> u64 {
    // SAFETY: the task is typed by contract.
    let set: u64 = unsafe { typed(task, &OFF_TASK_STRUCT_CGROUPS) };
    (|| {
        let cgroup = read::<u64>(set, off(&OFF_CSS_SET_DFL_CGRP))?;
        let node = read::<u64>(cgroup, off(&OFF_CGROUP_KN))?;
        read::<u64>(node, off(&OFF_KERNFS_NODE_ID))
    })()
    .unwrap_or(0)
}

/// One component. Its name is read to where events end: that part of the buffer is nobody's.
#[inline(never)]
extern "C" fn step_node(_index: u32, climb: *mut Climb) -> i64 {
    // SAFETY: the context is the caller's; the pointers in it are map values.
    unsafe {
        let (s, p) = ((*climb).s, (*climb).p);
        if s.is_null() || p.is_null() {
            return 1;
        }
        let node = (*climb).node;
        let Ok(parent) = read::<u64>(node, off(&OFF_KERNFS_NODE_PARENT)) else { return 1 };
        if parent == 0 {
            (*s).status = DONE;
            return 1;
        }
        let Ok(name) = read::<u64>(node, off(&OFF_KERNFS_NODE_NAME)) else { return 1 };
        let buf = (&raw mut (*s).buf).cast::<u8>().add(END);
        let got = bpf_probe_read_kernel_str(buf.cast(), NAME_MAX as u32 + 1, name as *const c_void);
        // The length counts the NUL; a name that fills the buffer may have been cut.
        if got < 2 || got > NAME_MAX as i64 + 1 {
            return 1;
        }
        let len = opaque(got as u64 - 1) as u32;
        (*s).path_end += len + 1;
        if (*s).path_end > PATH_MAX as u32 {
            return 1;
        }
        let mut name = Name { s, p, len };
        bpf_loop(len, step_byte as *mut c_void, (&raw mut name).cast(), 0);
        boundary(s, p);
        (*climb).node = parent;
        0
    }
}

/// What the callback of `bpf_loop` needs.
#[repr(C)]
struct Name {
    s: *mut Scratch,
    p: *const Policy,
    len: u32,
}

/// One byte of a name, from its end.
#[inline(never)]
extern "C" fn step_byte(i: u32, name: *mut Name) -> i64 {
    // SAFETY: the context is the caller's; the pointers in it are map values; the mask keeps the index inside.
    unsafe {
        let (s, p) = ((*name).s, (*name).p);
        if s.is_null() || p.is_null() {
            return 1;
        }
        let buf = (&raw const (*s).buf).cast::<u8>().add(END);
        let at = (*name).len.wrapping_sub(1).wrapping_sub(i) & 0xff;
        (*s).state = step(p, (*s).state, *buf.add(at as usize));
        0
    }
}
