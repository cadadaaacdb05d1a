//! Whether the programs see everything that changes the name of something: tried out, in a mount namespace that nobody else has,
//! before they rely on it. A kernel whose compiler has put one of the watched functions into another one shows it here.
//!
//! Must never: touch a mount that others see.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aarm_common::state::{MOVES_BEGUN, MOVES_DONE, MOVES_TRUSTED};
use aya::maps::{Array, MapData};

/// How often each move is tried: one that somebody else makes meanwhile counts as well.
const TRIES: u32 = 3;

/// How often it is tried to find the counts even, 2 ms apart.
const LEVELS: u32 = 100;

/// Lets the programs rely on seeing all moves, if they do: tried out below `dir`, an existing directory. `Err`: what was not seen, or
/// could not be tried.
pub fn watch(moves: &mut Array<MapData, u64>, dir: &Path) -> Result<(), String> {
    moves.set(MOVES_TRUSTED, 0, 0).map_err(|e| e.to_string())?;
    // There the locks do not keep others off the CPU, and a program that interrupts itself is skipped.
    if std::fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1") {
        return Err("a real-time kernel".into());
    }
    level(moves)?;
    for _ in 0..TRIES {
        std::thread::scope(|scope| {
            // The namespace, the root and the working directory are this thread's, and end with it.
            let tried = scope.spawn(|| once(&*moves, dir));
            tried.join().unwrap_or_else(|_| Err("the trial broke off".into()))
        })?;
    }
    moves.set(MOVES_TRUSTED, 1, 0).map_err(|e| e.to_string())
}

fn look(moves: &Array<MapData, u64>) -> Result<(u64, u64), String> {
    let at = |entry| moves.get(&entry, 0).map_err(|e| e.to_string());
    Ok((at(MOVES_BEGUN)?, at(MOVES_DONE)?))
}

/// Begins the counts anew, even, and where they have never been: what began before one of its two programs was there was counted by
/// half, and a count that was there already may stand for something that is known no more.
fn level(moves: &mut Array<MapData, u64>) -> Result<(), String> {
    let text = |e: aya::maps::MapError| e.to_string();
    for _ in 0..LEVELS {
        let next = (look(moves)?.0 | u64::from(u32::MAX)) + 1;
        moves.set(MOVES_BEGUN, next, 0).map_err(text)?;
        moves.set(MOVES_DONE, next, 0).map_err(text)?;
        std::thread::sleep(std::time::Duration::from_millis(2));
        // What was under way just then is over by now, and shows.
        let (begun, done) = look(moves)?;
        if begun == done {
            return Ok(());
        }
    }
    Err("there is always something that moves".into())
}

fn once(moves: &Array<MapData, u64>, dir: &Path) -> Result<(), String> {
    let at = |name: &str| CString::new(dir.join(name).as_os_str().as_bytes()).map_err(|e| e.to_string());
    let (top, a, b, c) = (at("")?, at("a")?, at("b")?, at("c")?);
    let none = std::ptr::null();
    let mount = |from: Option<&CString>, to: &CString, kind: Option<&CString>, flags| {
        let text = |t: Option<&CString>| t.map_or(none, |t| t.as_ptr());
        // SAFETY: paths end in NUL or are null.
        unsafe { libc::mount(text(from), to.as_ptr(), text(kind), flags, std::ptr::null()) }
    };
    let root = c"/".to_owned();
    let tmpfs = c"tmpfs".to_owned();
    // SAFETY: this thread alone gets a namespace of its own.
    done("unshare", unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    done("make everything private", mount(None, &root, None, libc::MS_REC | libc::MS_PRIVATE))?;
    let seen = |what: &str, act: &dyn Fn() -> libc::c_int| -> Result<(), String> {
        let before = look(moves)?;
        done(what, act())?;
        let after = look(moves)?;
        if after.0 == before.0 || after.1 == before.1 {
            return Err(format!("{what}: not seen"));
        }
        Ok(())
    };
    seen("mount", &|| mount(Some(&tmpfs), &top, Some(&tmpfs), 0))?;
    for name in [&a, &b, &c] {
        // SAFETY: a path that ends in NUL.
        done("mkdir", unsafe { libc::mkdir(name.as_ptr(), 0o700) })?;
    }
    // SAFETY: paths that end in NUL.
    unsafe {
        let exchange =
            || libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE);
        seen("rename", &|| libc::rename(a.as_ptr(), b.as_ptr()))?;
        done("mkdir", libc::mkdir(a.as_ptr(), 0o700))?;
        seen("exchange", &exchange)?;
        seen("bind", &|| mount(Some(&a), &b, None, libc::MS_BIND))?;
        seen("move", &|| mount(Some(&b), &c, None, libc::MS_MOVE))?;
        seen("umount", &|| libc::umount2(c.as_ptr(), libc::MNT_DETACH))?;
        done("chdir", libc::chdir(top.as_ptr()))?;
        let here = c".".as_ptr();
        let pivot = || libc::syscall(libc::SYS_pivot_root, here, here) as libc::c_int;
        match seen("pivot_root", &pivot) {
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => {
                // The root is the one that the kernel booted with, and cannot be left so; from another one that is.
                done("chroot", libc::chroot(here))?;
                done("mount", mount(Some(&tmpfs), &c"/b".to_owned(), Some(&tmpfs), 0))?;
                done("chdir", libc::chdir(c"/b".as_ptr()))?;
                seen("pivot_root", &pivot)?;
            }
            other => other?,
        }
        seen("umount of the old root", &|| libc::umount2(here, libc::MNT_DETACH))
    }
}

fn done(what: &str, result: libc::c_int) -> Result<(), String> {
    if result == 0 { Ok(()) } else { Err(format!("{what}: {}", io::Error::last_os_error())) }
}
