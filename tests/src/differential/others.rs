//! Deeds upon other processes and upon the system. None has an effect that lasts.

use super::actor::{Act, Actor, errno};
use super::deeds::{closed, done, found, mount, open, opening};
use super::rng::Rng;

/// Users to become.
const USERS: [u32; 5] = [0, 1, 5, 11, 1000];
/// A command of `bpf(2)` that does not exist.
const NO_COMMAND: i32 = 9999;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Any of them.
pub fn perform(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    let outside = a.outside;
    // SAFETY: numbers, and buffers that are valid for their lengths; see each.
    unsafe {
        match rng.below(18) {
            0 => {
                let result = errno(libc::kill(outside, 0).into());
                done("kill -0 a process outside".into(), vec![a.plain("signal")], result)
            }
            1 => {
                let mut byte = 0u8;
                let here = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
                // Where nothing is.
                let there = libc::iovec { iov_base: std::ptr::without_provenance_mut(8), iov_len: 1 };
                let result = errno(libc::process_vm_readv(outside, &here, 1, &there, 1, 0) as i64);
                done("read the memory of a process outside".into(), vec![a.plain("ptrace")], result)
            }
            2 => {
                let mut now: libc::rlimit = std::mem::zeroed();
                libc::prlimit(outside, libc::RLIMIT_CORE, std::ptr::null(), &mut now);
                let result =
                    errno(libc::prlimit(outside, libc::RLIMIT_CORE, &now, std::ptr::null_mut()).into());
                done("set the limits of a process outside".into(), vec![a.plain("prlimit")], result)
            }
            3 => {
                let p = libc::shmat(a.ipc.0, std::ptr::null(), 0);
                let result = errno(p as i64);
                if result == 0 {
                    libc::shmdt(p);
                }
                done("shmat".into(), vec![a.plain("shm")], result)
            }
            4 => {
                let message = [1u64, 0];
                let result =
                    errno(libc::msgsnd(a.ipc.1, message.as_ptr().cast(), 1, libc::IPC_NOWAIT).into());
                done("msgsnd".into(), vec![a.plain("mqueue")], result)
            }
            5 => chroot(a),
            6 | 7 => setuid(a, rng),
            8 => {
                let mut head = [CAPABILITY_VERSION, 0];
                let mut data = [0u32; 6];
                libc::syscall(libc::SYS_capget, head.as_mut_ptr(), data.as_mut_ptr());
                let result = errno(libc::syscall(libc::SYS_capset, head.as_mut_ptr(), data.as_ptr()));
                done("capset to the same".into(), vec![a.plain("capset")], result)
            }
            9 => {
                let attributes = [0u64; 8];
                let result = errno(libc::syscall(libc::SYS_bpf, NO_COMMAND, attributes.as_ptr(), 64));
                done("bpf".into(), vec![a.plain("bpf")], result)
            }
            10 | 11 => mount(a, rng),
            // A fork that is refused.
            12 | 13 => userns(a),
            14 => {
                let mut text = [0u8; 128];
                let (describe, key) = (6 as libc::c_long, a.ipc.2 as libc::c_long);
                let result =
                    errno(libc::syscall(libc::SYS_keyctl, describe, key, text.as_mut_ptr(), text.len(), 0));
                done("describe the key of another".into(), vec![a.plain("key")], result)
            }
            15 => {
                // No module, but as long as the head of one: else the kernel does not ask.
                let image = [0u8; 64];
                let result =
                    errno(libc::syscall(libc::SYS_init_module, image.as_ptr(), image.len(), c"".as_ptr()));
                done("load what is no module".into(), vec![a.plain("module")], result)
            }
            16 => module(a, rng),
            17 => {
                // Asked about before the flags are looked at, of which there are none such.
                let segments = std::ptr::null::<libc::c_void>();
                let result = errno(libc::syscall(libc::SYS_kexec_load, 0, 0, segments, 0xfff8));
                done("kexec nothing".into(), vec![a.plain("kexec")], result)
            }
            _ => None,
        }
    }
}

/// A child in a user namespace of its own, which ends at once.
fn userns(a: &mut Actor) -> Option<Act> {
    let step = a.plain("userns");
    // SAFETY: a clone without a new stack is a fork; the child does nothing but end.
    let result = unsafe {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        if pid == 0 {
            libc::_exit(0);
        }
        let result = errno(pid);
        if result == 0 {
            libc::waitpid(pid as i32, std::ptr::null_mut(), 0);
        }
        result
    };
    done("make a user namespace".into(), vec![step], result)
}

/// A file that is no module, as one.
fn module(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    // Of an empty file the kernel says that it is none, without asking.
    let (way, object, _) = found(a, rng, |m| m.is_file() && m.len() > 0)?;
    let (first, last) = (opening(a, &object, libc::O_RDONLY), a.step("module", &object));
    let fd = open(&way, libc::O_RDONLY);
    let mut result = errno(fd.into());
    if result == 0 {
        // SAFETY: the text ends in NUL; our own descriptor.
        result = errno(unsafe { libc::syscall(libc::SYS_finit_module, fd, c"".as_ptr(), 0) });
        closed(fd);
    }
    done(format!("load {way} as a module"), vec![first, last], result)
}

fn chroot(a: &mut Actor) -> Option<Act> {
    let root = a.unborn("/")?;
    let step = a.step("chroot", &root);
    // SAFETY: the path ends in NUL.
    let result = errno(unsafe { libc::chroot(c"/".as_ptr()) }.into());
    done("chroot /".into(), vec![step], result)
}

fn setuid(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    let user = rng.one(&USERS);
    if user == a.uid {
        return None;
    }
    let step = a.plain("setuid");
    // SAFETY: numbers only.
    let result = errno(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) });
    if result == 0 {
        a.uid = user;
    }
    done(format!("setresuid {user}"), vec![step], result)
}
