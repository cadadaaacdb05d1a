//! `bpf(2)` as a program calls it that has no library: what a user with root can see and make of pinned maps.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
/// Removes an entry.
pub const MAP_DELETE_ELEM: i32 = 3;
const MAP_GET_NEXT_KEY: i32 = 4;
/// Loads a program.
pub const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
/// Opens what is pinned.
pub const OBJ_GET: i32 = 7;
const MAP_GET_NEXT_ID: i32 = 12;
const MAP_GET_FD_BY_ID: i32 = 14;
const OBJ_GET_INFO_BY_FD: i32 = 15;

const MAP_TYPE_ARRAY: u64 = 2;

/// `bpf` with a structure of so many bytes.
pub fn bpf(command: i32, attributes: &mut [u64], size: usize) -> io::Result<i32> {
    assert!(size <= size_of_val(attributes));
    // SAFETY: the attributes have at least the length given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn text(path: impl AsRef<OsStr>) -> io::Result<CString> {
    Ok(CString::new(path.as_ref().as_bytes())?)
}

fn descriptor(command: i32, attributes: &mut [u64], size: usize) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes, size)?;
    // SAFETY: the commands that this is called with give a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn opened(pin: &str) -> io::Result<OwnedFd> {
    let path = text(pin)?;
    descriptor(OBJ_GET, &mut [path.as_ptr() as u64, 0], 16)
}

/// An entry of a pinned array of 64-bit numbers.
pub fn number(pin: &str, entry: u32) -> io::Result<u64> {
    let map = opened(pin)?;
    let mut value = 0u64;
    let places = [(&raw const entry) as u64, (&raw mut value) as u64];
    bpf(MAP_LOOKUP_ELEM, &mut [map.as_raw_fd() as u64, places[0], places[1], 0], 32)?;
    Ok(value)
}

/// Whether a pinned map, whose keys are of 16 bytes at most, has no entry.
pub fn is_empty(pin: &str) -> io::Result<bool> {
    let map = opened(pin)?;
    let mut key = [0u64; 2];
    match bpf(MAP_GET_NEXT_KEY, &mut [map.as_raw_fd() as u64, 0, key.as_mut_ptr() as u64], 24) {
        Ok(_) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Makes an array of one entry of so many bytes, and pins it.
pub fn pin_array(pin: &str, value_bytes: u32) -> io::Result<()> {
    const KEY_BYTES: u64 = 4;
    let kind = MAP_TYPE_ARRAY | KEY_BYTES << 32;
    let size = u64::from(value_bytes) | 1 << 32;
    let map = descriptor(MAP_CREATE, &mut [kind, size, 0], 24)?;
    let path = text(pin)?;
    bpf(OBJ_PIN, &mut [path.as_ptr() as u64, map.as_raw_fd() as u64], 16).map(drop)
}

/// A map by the name it was loaded under.
pub fn map_named(name: &[u8]) -> io::Result<OwnedFd> {
    let mut id = 0u32;
    // More maps than any machine of ours has.
    for _ in 0..1000 {
        let mut next = [u64::from(id), 0];
        bpf(MAP_GET_NEXT_ID, &mut next, 12)?;
        id = (next[0] >> 32) as u32;
        let map = descriptor(MAP_GET_FD_BY_ID, &mut [u64::from(id), 0], 12)?;
        let mut info = [0u64; 16];
        let place = info.as_mut_ptr() as u64;
        let about = map.as_raw_fd() as u64 | (size_of_val(&info) as u64) << 32;
        bpf(OBJ_GET_INFO_BY_FD, &mut [about, place], 16)?;
        // The name is at 24 bytes of `struct bpf_map_info`, which the kernel has filled.
        let found: Vec<u8> = info[3..5].iter().flat_map(|w| w.to_ne_bytes()).collect();
        if found.starts_with(name) && found[name.len()] == 0 {
            return Ok(map);
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}
