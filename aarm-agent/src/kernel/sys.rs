//! The few bpf(2) calls that aya has no type for: task storage, addressed by pidfd, and whole arrays at once.
//!
//! Must never: be used where aya has a type.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// Create, and fail if it is there.
pub const NOEXIST: u64 = 1;

/// `union bpf_attr` as the element commands use it.
#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same as the batch commands use it.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `A` must be how the command's attribute is laid out.
fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<()> {
    // SAFETY: the attribute is valid for the given size; the callers keep what it points to alive and large enough.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A task's value in a task storage map; `None` if it has none. `V` must be the map's value type.
pub fn task_lookup<V: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    task: BorrowedFd<'_>,
) -> io::Result<Option<V>> {
    let key = task.as_raw_fd();
    let mut value = V::default();
    let mut attr = ElemAttr {
        map_fd: map.as_raw_fd() as u32,
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        ..ElemAttr::default()
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(()) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The number of the process behind `pidfd`; `None` if it has ended.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid.ok_or_else(|| io::Error::other("not a pidfd"))?.trim();
    // -1: it has ended, or is not to be seen from here.
    Ok(pid.parse().ok().filter(|pid| *pid != 0))
}

/// Sets a task's value in a task storage map.
pub fn task_update<V: aya::Pod>(
    map: BorrowedFd<'_>,
    task: BorrowedFd<'_>,
    value: &V,
    flags: u64,
) -> io::Result<()> {
    let key = task.as_raw_fd();
    let mut attr = ElemAttr {
        map_fd: map.as_raw_fd() as u32,
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags,
        ..ElemAttr::default()
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr)
}

/// All values of a per-CPU array of `entries` numbers, entry after entry, with one for each possible CPU:
/// `values` must have room for exactly that.
pub fn lookup_all(map: BorrowedFd<'_>, values: &mut [u64], entries: u32) -> io::Result<()> {
    let mut keys = vec![0u32; entries as usize];
    let mut next = 0u32;
    let mut attr = BatchAttr {
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: entries,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
        // The end of the map is reported as "no more", after everything was copied.
        Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
        _ if attr.count != entries => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        _ => Ok(()),
    }
}
