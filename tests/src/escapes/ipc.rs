//! What two processes can share without a file or a socket, one of them outside of the session.

use super::corpus::{Keep, Technique, contained, open};
use super::sys::*;

/// What processes share.
pub const IPC: &[Technique] = &[
    contained(
        "shared-memory",
        "System V shared memory of a process outside",
        |d| {
            let id = std::fs::read_to_string(d.desk("id"))?.parse().map_err(std::io::Error::other)?;
            // SAFETY: the segment has one page, which begins with the secret.
            unsafe {
                let p = libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY);
                if p as isize == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                is_secret(std::slice::from_raw_parts(p.cast(), super::SECRET.len()))
            }
        },
        "shm",
        "no-others",
    )
    .setup(|d| {
        // SAFETY: the segment is larger than the secret.
        unsafe {
            let id = ok(libc::shmget(libc::IPC_PRIVATE, 4096, 0o600).into())? as i32;
            let p = libc::shmat(id, std::ptr::null(), 0);
            std::ptr::copy_nonoverlapping(super::SECRET.as_ptr(), p.cast(), super::SECRET.len());
            libc::shmdt(p);
            std::fs::write(d.desk("id"), id.to_string())?;
            Ok(Box::new(Segment(id)) as Keep)
        }
    }),
    contained(
        "message-queue",
        "a System V message queue of a process outside",
        |d| {
            let id = std::fs::read_to_string(d.desk("id"))?.parse().map_err(std::io::Error::other)?;
            let message = [1u64, 2];
            // SAFETY: the message has a type and eight bytes.
            ok(unsafe { libc::msgsnd(id, message.as_ptr().cast(), 8, libc::IPC_NOWAIT) }.into())?;
            Ok(())
        },
        "mqueue",
        "no-others",
    )
    .setup(|d| {
        // SAFETY: numbers only.
        let id = ok(unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) }.into())? as i32;
        std::fs::write(d.desk("id"), id.to_string())?;
        Ok(Box::new(Queue(id)))
    }),
    open(
        "posix-queue",
        "a POSIX message queue of a process outside",
        |_| {
            // SAFETY: the name ends in NUL; the message has one byte.
            unsafe {
                let queue =
                    ok(libc::mq_open(c"/escape".as_ptr(), libc::O_WRONLY | libc::O_NONBLOCK).into())? as i32;
                ok(libc::mq_send(queue, c"x".as_ptr(), 1, 0).into())?;
            }
            Ok(())
        },
        "needs mqueue",
    )
    .setup(|_| {
        let none = std::ptr::null_mut::<libc::mq_attr>();
        // SAFETY: the name ends in NUL.
        let queue = unsafe { libc::mq_open(c"/escape".as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600, none) };
        ok(queue.into())?;
        Ok(Box::new(PosixQueue(queue)))
    }),
    contained(
        "key",
        "a key of the user's in the kernel",
        |_| {
            let mut value = [0u8; 64];
            // SAFETY: all texts end in NUL; the buffer has the length given. 10 is KEYCTL_SEARCH, 11 KEYCTL_READ.
            let n = unsafe {
                let (kind, name) = (c"user".as_ptr(), c"escape".as_ptr());
                let key = ok(libc::syscall(libc::SYS_keyctl, 10, USER_KEYRING, kind, name, 0))?;
                ok(libc::syscall(libc::SYS_keyctl, 11, key, value.as_mut_ptr(), value.len()))?
            };
            is_secret(&value[..n as usize])
        },
        "key",
        "no-others",
    )
    .setup(|_| {
        let secret = super::SECRET;
        // SAFETY: all texts end in NUL; the value has the length given. Possession comes with a link to the session
        // keyring, which is what a login does.
        unsafe {
            let (kind, name) = (c"user".as_ptr(), c"escape".as_ptr());
            let key = libc::SYS_add_key;
            ok(libc::syscall(key, kind, name, secret.as_ptr(), secret.len(), USER_KEYRING))?;
            ok(libc::syscall(libc::SYS_keyctl, KEYCTL_LINK, USER_KEYRING, SESSION_KEYRING))?;
        }
        Ok(Box::new(()))
    }),
];

const USER_KEYRING: libc::c_long = -4;
const SESSION_KEYRING: libc::c_long = -3;
const KEYCTL_LINK: libc::c_long = 8;

struct Segment(i32);

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: a segment of our own.
        unsafe { libc::shmctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

struct Queue(i32);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: a queue of our own.
        unsafe { libc::msgctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

struct PosixQueue(i32);

impl Drop for PosixQueue {
    fn drop(&mut self) {
        // SAFETY: a queue of our own.
        unsafe {
            libc::mq_close(self.0);
            libc::mq_unlink(c"/escape".as_ptr());
        }
    }
}
