//! One file for each family of hooks. A hook normalises what the kernel hands it, asks `decide`, and ends in
//! `emit::conclude`; it must never decide by itself.

mod dns;
mod exec;
mod file;
mod inherited;
mod ipc;
mod moves;
mod network;
mod privileged;
mod process;
mod redirects;
mod routes;

use aarm_common::event::{Cause, FLAG_ALIAS, FLAG_DIRECTORY, FLAG_LINKED};
use aarm_common::op::{Family, Operation};
use core::ffi::c_void;

use crate::context::{self, cause_of_status, prepare};
use crate::decide::{Shape, decide, refuses, stricter};
use crate::emit::{conclude, fail_closed, passes};
use crate::hold;
use crate::kernel::*;
use crate::known::Key;
use crate::names;
use crate::scratch::{END, no_hits, zero};
use crate::session::Frame;
use crate::walk::{self, walk};

/// An object that has a name, by typed pointers.
#[derive(Clone, Copy)]
pub struct Object {
    /// `struct vfsmount *`.
    pub mnt: u64,
    /// `struct dentry *`.
    pub dentry: *const c_void,
    /// `struct inode *`; null for a name that does not exist yet.
    pub inode: *const c_void,
}

impl Object {
    /// From a typed `struct path *`.
    #[inline(always)]
    pub unsafe fn of_path(path: *const c_void) -> Self {
        // SAFETY: typed by contract.
        unsafe {
            let dentry: *const c_void = typed(path, &OFF_PATH_DENTRY);
            Self { mnt: typed(path, &OFF_PATH_MNT), dentry, inode: dentry_inode(dentry) }
        }
    }

    /// From a typed `struct file *`. The inode is the file's own, which below an overlay is not the name's.
    #[inline(always)]
    pub unsafe fn of_file(file: *const c_void) -> Self {
        // SAFETY: typed by contract; `f_path` is embedded.
        unsafe {
            let path = file.byte_add(off(&OFF_FILE_F_PATH));
            Self {
                mnt: typed(path, &OFF_PATH_MNT),
                dentry: typed(path, &OFF_PATH_DENTRY),
                inode: typed(file, &OFF_FILE_F_INODE),
            }
        }
    }

    /// The entry `dentry` of the directory with this typed `struct path *`.
    #[inline(always)]
    pub unsafe fn in_dir(dir: *const c_void, dentry: *const c_void) -> Self {
        // SAFETY: typed by contract.
        unsafe { Self { mnt: typed(dir, &OFF_PATH_MNT), dentry, inode: dentry_inode(dentry) } }
    }

    /// The same name, as one that is about to be made.
    #[inline(always)]
    pub fn unborn(self) -> Self {
        Self { inode: core::ptr::null(), ..self }
    }

    /// The mode, or 0.
    #[inline(always)]
    pub unsafe fn mode(&self) -> u32 {
        if self.inode.is_null() {
            return 0;
        }
        // SAFETY: typed, and not null.
        unsafe { typed::<u16>(self.inode, &OFF_INODE_I_MODE) as u32 }
    }

    /// Whether it is a pipe or socket that was never given a name.
    #[inline(always)]
    unsafe fn is_nameless(&self, mode: u32) -> bool {
        let kind = mode & S_IFMT;
        if kind != S_IFIFO && kind != S_IFSOCK {
            return false;
        }
        // SAFETY: typed by contract.
        unsafe {
            let parent: *const c_void = typed(self.dentry, &OFF_DENTRY_D_PARENT);
            parent == self.dentry && typed::<u32>(self.dentry, &OFF_DENTRY_D_NAME_LEN) == 0
        }
    }
}

/// How an object's names are to be taken.
#[derive(Clone, Copy, Default)]
pub struct Naming {
    /// Rules that protect something below it are meant as well.
    pub above: bool,
    /// As a program that would run.
    pub program: bool,
    /// One end of two: only its own name is recorded.
    pub end: bool,
}

/// Puts the object's path before what the event holds already, and the rules its names satisfy into `Scratch::object`.
/// Returns the path's length.
#[inline(always)]
unsafe fn name(f: &Frame, o: Object, how: Naming) -> Result<u16, Cause> {
    // SAFETY: the frame's pointers are valid map values; the object's are typed.
    unsafe {
        let mode = o.mode();
        if o.is_nameless(mode) {
            no_hits(f.s);
            names::satisfied(f.s, f.policy, false);
            return Ok(0);
        }
        let place = Place { mnt: o.mnt, dentry: o.dentry as u64 };
        let plain = !how.above
            && !how.program
            && !how.end
            && (*f.s).pos == END as u32
            && dentry_inode(o.dentry) == o.inode;
        let key = if plain { Key::of(f.task, place, o.dentry, o.inode, (*f.policy).generation) } else { None };
        if let Some(key) = key
            && let Some(len) = key.recall(f.s)
        {
            return Ok(len);
        }
        let sb: *const c_void = typed(o.dentry, &OFF_DENTRY_D_SB);
        let home = names::other_home(f.s, f.scratch, sb, o.mnt);
        let end = (*f.s).pos;
        if home != 0 {
            let status = walk(f.s, f.scratch, f.slot, Place { mnt: home, dentry: place.dentry }, false);
            if status != walk::DONE {
                return Err(cause_of_status(status));
            }
            if how.end || end != END as u32 {
                (*f.s).pos = end;
            } else {
                (*f.s).head.path2_len = end.wrapping_sub((*f.s).pos) as u16;
                (*f.s).head.flags |= FLAG_ALIAS;
            }
        }
        let end = (*f.s).pos;
        let status = walk(f.s, f.scratch, f.slot, place, home != 0);
        if status != walk::DONE {
            (*f.s).pos = end;
            return Err(cause_of_status(status));
        }
        let len = end.wrapping_sub((*f.s).pos) as u16;
        if mode & S_IFMT == S_IFREG && typed::<u32>(o.inode, &OFF_INODE_I_NLINK) > 1 {
            (*f.s).head.flags |= FLAG_LINKED;
            if names::linked(f.scratch, o.inode, (*f.policy).generation).is_err() {
                return Err(Cause::NoMemory);
            }
        }
        names::satisfied(f.s, f.policy, how.above);
        if how.program {
            context::program(f)?;
        }
        if let Some(key) = key
            && home == 0
        {
            key.keep(f.s, len, mode);
        }
        Ok(len)
    }
}

/// No further facets.
const ONLY: [Option<Operation>; 3] = [None; 3];

/// Decides an action on one object: `op`, and whatever is `also` a facet of the same action.
#[inline(always)]
unsafe fn one_object(f: &Frame, op: Operation, also: [Option<Operation>; 3], o: Object, how: Naming) -> i32 {
    // SAFETY: the frame's pointers are valid map values; the object's are typed.
    unsafe {
        (*f.s).head.object = object(o.inode);
        if let Err(cause) = prepare(f) {
            return fail_closed(f, op, cause);
        }
        match name(f, o, how) {
            Ok(len) => (*f.s).head.path_len = len,
            Err(cause) => return fail_closed(f, op, cause),
        }
        decided(f, op, also, o.inode)
    }
}

/// The end of [`one_object`], once the object is named.
#[inline(always)]
unsafe fn decided(f: &Frame, op: Operation, also: [Option<Operation>; 3], inode: *const c_void) -> i32 {
    // SAFETY: as there.
    unsafe {
        let mut verdict = decide(f, op, Shape::Object);
        let mut writes = op.family() as u8 == Family::Write as u8;
        let mut i = 0;
        while i < 3 {
            if let Some(also) = also[i] {
                verdict = stricter(verdict, decide(f, also, Shape::Object));
                writes |= also as u8 == Operation::OpenWrite as u8;
            }
            i += 1;
        }
        let verdict = hold::settle(f, op, verdict);
        if !inode.is_null() && passes(f, verdict) {
            (*f.s).carried = context::carried(inode);
            if writes
                && let Err(cause) = context::carry(inode, (*f.s).head.labels | context::adds(f))
            {
                return fail_closed(f, op, cause);
            }
        }
        conclude(f, op, verdict)
    }
}

/// Decides an action that has no object with a name.
#[inline(always)]
unsafe fn nameless(f: &Frame, op: Operation) -> i32 {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        if let Err(cause) = prepare(f) {
            return fail_closed(f, op, cause);
        }
        names::pathless(f.s, f.policy);
        let verdict = decide(f, op, Shape::Object);
        conclude(f, op, verdict)
    }
}

/// What renaming or mounting over a directory must ask: also the rules that protect something below it.
#[inline(always)]
unsafe fn over(f: &Frame, o: &Object) -> bool {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        let directory = o.mode() & S_IFMT == S_IFDIR;
        if directory {
            (*f.s).head.flags |= FLAG_DIRECTORY;
        }
        directory
    }
}
