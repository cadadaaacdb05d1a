//! Descriptors that were opened elsewhere.
//!
//! A program can act through descriptors from before its session: nobody decided them when they were opened. So the
//! files that a session's first process holds open are written down at its first exec ([`aarm_scan`]), and decided when they
//! are first used. Descriptors that arrive later are decided as `receive_fd`. The same hook sees what flows through pipes,
//! sockets and open files from sessions with labels to others.

use aarm_common::event::FLAG_INHERITED;
use aarm_common::limits::DESCRIPTORS_MAX;
use aarm_common::state::*;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::bpf_loop;

use super::*;
use crate::maps::{INHERITED, SESSIONS};
use crate::session::{Subject, framed};

const MAY_WRITE: u32 = 2;
const MAY_READ: u32 = 4;
const FMODE_WRITE: u32 = 2;
/// Major numbers of terminals, and of the devices that hold nothing (null, zero, full, random).
const TERMINALS: [u32; 2] = [4, 5];
const PSEUDO_TERMINALS: core::ops::Range<u32> = 136..144;
const MEMORY: u32 = 1;

/// What the callback of `bpf_loop` needs.
#[repr(C)]
struct Scan {
    /// The table: `struct file **`.
    files: u64,
    session: u64,
    /// 0, or 1 if something could not be read or kept.
    failed: u64,
    /// 1 if there is something.
    found: u64,
}

/// Whether such a file, given by mode and device number, is decided when it is used.
#[inline(always)]
fn matters(mode: u32, device: u32) -> bool {
    let kind = mode & S_IFMT;
    let (major, minor) = (device >> 20, device & 0xf_ffff);
    match kind {
        S_IFREG | S_IFDIR | S_IFBLK => true,
        S_IFCHR => {
            !(major == TERMINALS[0]
                || major == TERMINALS[1]
                || major >= PSEUDO_TERMINALS.start && major < PSEUDO_TERMINALS.end
                || major == MEMORY && minor >= 3 && minor != 4)
        }
        _ => false,
    }
}

/// Writes down the files that the current process holds open, once for a session. Returns 0, or 1 if that was not possible:
/// then the exec must not happen. Takes a number only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_scan(slot: u32) -> u32 {
    let Some(session) = SESSIONS.get_ptr_mut(slot) else { return 1 };
    // SAFETY: a valid map value; the kernel's structures are read through the helper.
    unsafe {
        let files: u64 = typed(current(), &OFF_TASK_STRUCT_FILES);
        let Ok(table) = read::<u64>(files, off(&OFF_FILES_STRUCT_FDT)) else { return 1 };
        let (Ok(max), Ok(array)) =
            (read::<u32>(table, off(&OFF_FDTABLE_MAX_FDS)), read::<u64>(table, off(&OFF_FDTABLE_FD)))
        else {
            return 1;
        };
        if max > DESCRIPTORS_MAX {
            return 1;
        }
        let mut scan =
            Scan { files: array, session: session_id(slot, (*session).generation), failed: 0, found: 0 };
        bpf_loop(max, look_at_file as *mut c_void, (&raw mut scan).cast(), 0);
        if scan.failed != 0 {
            return 1;
        }
        (*session).flags |= if scan.found != 0 { SESSION_SCANNED | SESSION_INHERITS } else { SESSION_SCANNED };
        0
    }
}

#[inline(never)]
extern "C" fn look_at_file(index: u32, scan: *mut Scan) -> i64 {
    // SAFETY: the context is the caller's.
    unsafe {
        let Ok(file) = read::<u64>((*scan).files, index as usize * 8) else {
            (*scan).failed = 1;
            return 1;
        };
        if file == 0 {
            return 0;
        }
        let known = (|| {
            let inode = read::<u64>(file, off(&OFF_FILE_F_INODE))?;
            let mode = read::<u32>(inode, off(&OFF_INODE_I_MODE))? & 0xffff;
            let device = read::<u32>(inode, off(&OFF_INODE_I_RDEV))?;
            let ino = read::<u64>(inode, off(&OFF_INODE_I_INO))?;
            let sb = read::<u64>(inode, off(&OFF_INODE_I_SB))?;
            let dev = read::<u32>(sb, off(&OFF_SUPER_BLOCK_S_DEV))?;
            Ok::<_, ()>((mode, device, ino, dev))
        })();
        let Ok((mode, device, ino, dev)) = known else {
            (*scan).failed = 1;
            return 1;
        };
        if matters(mode, device) {
            let key = InheritedKey { session: (*scan).session, ino, dev, reserved: 0 };
            let none = Inherited { generation: 0, decided: 0, refused: 0 };
            if INHERITED.insert(key, none, BPF_ANY as u64).is_err() {
                (*scan).failed = 1;
                return 1;
            }
            (*scan).found = 1;
        }
        0
    }
}

/// Nothing is to be decided.
const PASS: i32 = 0;
/// It is to be decided, and the outcome to be remembered.
const DECIDE: i32 = 1;
/// It is to be decided for what flows.
const TAKE_IN: i32 = 2;
/// What must be remembered of it finds no room.
const FULL: i32 = 3;

// The functions below are not inlined: their stacks must be gone when the walk begins.

#[inline(always)]
fn key_of(session: u64, file: *const c_void) -> InheritedKey {
    // SAFETY: `file` is typed.
    let id = unsafe { object(Object::of_file(file).inode) };
    InheritedKey { session, ino: id.ino, dev: id.dev, reserved: 0 }
}

/// What is known of the use of a file that the session has held open since before it began: [`PASS`], [`DECIDE`], or a
/// refusal. `want`: `INHERITED_*`.
#[inline(never)]
fn known(session: u64, file: *const c_void, want: u32, generation: u32) -> i32 {
    let Some(entry) = INHERITED.get_ptr(key_of(session, file)) else { return PASS };
    // SAFETY: a valid map value.
    unsafe {
        if (*entry).generation != generation || (*entry).decided as u32 & want != want {
            DECIDE
        } else if (*entry).refused as u32 & want != 0 {
            -crate::emit::EPERM
        } else {
            PASS
        }
    }
}

/// Keeps a decision.
#[inline(never)]
fn remember(session: u64, file: *const c_void, want: u32, generation: u32, refused: u32) -> i32 {
    if let Some(entry) = INHERITED.get_ptr_mut(key_of(session, file)) {
        // SAFETY: a valid map value.
        unsafe {
            if (*entry).generation != generation {
                (*entry).decided = 0;
                (*entry).refused = 0;
            }
            (*entry).refused |= refused as u16;
            (*entry).decided |= want as u16;
            (*entry).generation = generation;
        }
    }
    0
}

/// What flows with reading or writing: [`PASS`], [`TAKE_IN`] or [`FULL`].
#[inline(never)]
fn flows(labels: u64, file: *const c_void, want: u32) -> i32 {
    if file.is_null() {
        return PASS;
    }
    // SAFETY: `file` is typed.
    let inode: *const c_void = unsafe { typed(file, &OFF_FILE_F_INODE) };
    if want & INHERITED_WRITE != 0 && context::carry(inode, labels).is_err() {
        return FULL;
    }
    if want & INHERITED_READ != 0 && context::carried(inode) & !labels != 0 {
        // What another session wrote since this was opened: taking it in has a receipt.
        return TAKE_IN;
    }
    PASS
}

/// Decides the use of an open file like its opening.
#[inline(always)]
unsafe fn again(u: &Subject, o: Object, want: u32) -> i32 {
    framed(u, |f| {
        // SAFETY: the frame's pointers are valid map values; the object's are typed.
        unsafe {
            (*f.s).head.flags |= FLAG_INHERITED;
            let mut also = ONLY;
            let op = if want & INHERITED_WRITE != 0 {
                if want & INHERITED_READ != 0 {
                    also[0] = Some(Operation::OpenRead);
                }
                Operation::OpenWrite
            } else {
                Operation::OpenRead
            };
            one_object(f, op, also, o, Naming::default())
        }
    })
}

/// Reading or writing an open file.
#[inline(always)]
pub unsafe fn permission(u: &Subject, file: *const c_void, mask: u32) -> i32 {
    // SAFETY: the subject's pointers are valid map values; `file` is typed.
    unsafe {
        let mut want = 0;
        if mask & MAY_READ != 0 {
            want |= INHERITED_READ;
        }
        if mask & MAY_WRITE != 0 {
            want |= INHERITED_WRITE;
        }
        let session = (*u.task).session;
        let generation = (*u.policy).generation;
        let mut what = PASS;
        if (*u.session).flags & SESSION_INHERITS != 0 {
            what = known(session, file, want, generation);
        }
        if what == PASS {
            let labels = core::ptr::read_volatile(&raw const (*u.session).labels);
            if labels != 0 || context::anything_carries() {
                what = flows(labels, file, want);
            }
        }
        if what <= PASS {
            return what;
        }
        if what == FULL {
            return full(u);
        }
        let result = again(u, Object::of_file(file), if what == TAKE_IN { INHERITED_READ } else { want });
        if what == DECIDE && (result == 0 || result == -crate::emit::EPERM) {
            remember(session, file, want, generation, if result != 0 { want } else { 0 });
        }
        result
    }
}

/// Refuses what cannot be remembered.
#[inline(always)]
fn full(u: &Subject) -> i32 {
    // SAFETY: the frame's pointers are valid map values.
    framed(u, |f| unsafe { fail_closed(f, Operation::OpenWrite, Cause::NoMemory) })
}

/// Mapping an open file. A shared mapping of one that is open for writing can be made writable at any time.
#[inline(always)]
pub unsafe fn mapping(u: &Subject, file: *const c_void, shared: bool) -> i32 {
    // SAFETY: as in `permission`.
    unsafe {
        let mut mask = MAY_READ;
        if shared {
            let mode: u32 = typed(file, &OFF_FILE_F_MODE);
            let writes = mode & FMODE_WRITE != 0;
            if writes {
                mask |= MAY_WRITE;
            }
            // First noted, then looked at: see `shares`.
            if opaque(noted((*u.task).session, file, writes) as u64) != 0 {
                return full(u);
            }
        }
        permission(u, file, mask)
    }
}

/// Notes a shared mapping. Returns 0, or 1 if there was no room.
#[inline(never)]
fn noted(session: u64, file: *const c_void, writes: bool) -> u32 {
    if file.is_null() {
        return 0;
    }
    // SAFETY: `file` is typed.
    let inode: *const c_void = unsafe { typed(file, &OFF_FILE_F_INODE) };
    if context::share(inode, session, writes).is_err() { 1 } else { 0 }
}
