//! One file for each family of hooks. A hook normalises what the kernel hands it, asks `decide`, and ends in
//! `emit::conclude`; it must never decide by itself.

mod exec;
mod file;
mod network;
mod process;

use aarm_common::event::Cause;

use crate::decide::uid_set;
use crate::kernel::Place;
use crate::scratch::{self, Scratch};
use crate::session::{Frame, refresh_exe};
use crate::walk;
use aya_ebpf::helpers::bpf_get_current_uid_gid;

/// What goes wrong when a path cannot be had, as the cause of a denial.
#[inline(always)]
fn cause_of_status(status: u32) -> Cause {
    if status == walk::TOO_LONG { Cause::PathTooLong } else { Cause::ReadFailed }
}

/// Puts what every decision needs into the scratch buffer: the acting image's rule bits, brought up to date,
/// and the user's.
#[inline(always)]
unsafe fn prepare(f: &Frame) -> Result<(), Cause> {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        if (*f.policy).generation == 0 {
            return Err(Cause::NoPolicy);
        }
        if (*f.task).exe_generation != (*f.policy).generation {
            let status = refresh_exe(f);
            if status != walk::DONE {
                return Err(cause_of_status(status));
            }
        }
        scratch::copy(&raw const (*f.task).exe, &raw mut (*f.s).exe);
        (*f.s).scalars.uid = uid_set(f.policy, bpf_get_current_uid_gid() as u32);
        Ok(())
    }
}

/// Walks to a place; its path goes before what the event holds already. Returns the path's length.
#[inline(always)]
unsafe fn path(f: &Frame, place: Place) -> Result<u16, Cause> {
    // SAFETY: the frame's pointers are valid map values.
    unsafe { path_in(f.s, f.scratch, f.slot, place) }
}

#[inline(always)]
unsafe fn path_in(s: *mut Scratch, scratch: u32, slot: u32, place: Place) -> Result<u16, Cause> {
    // SAFETY: `s` is a valid map value.
    unsafe {
        let end = (*s).pos;
        let status = walk::walk(s, scratch, slot, place);
        if status != walk::DONE {
            (*s).pos = end;
            return Err(cause_of_status(status));
        }
        Ok(end.wrapping_sub((*s).pos) as u16)
    }
}
