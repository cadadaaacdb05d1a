//! Names of files, the writing half: every way to change something below `etc`.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use super::corpus::{Expect, Technique, contained, open, write};
use super::sys::*;
use super::{Dirs, ORIGINAL};

/// What changes something that must not be written.
pub const WRITES: &[Technique] = &[
    write(
        "copy-file-range",
        "`copy_file_range` from a permitted descriptor",
        |d| {
            let (from, to) = permitted(d)?;
            let (f, t) = (from.as_raw_fd(), to.as_raw_fd());
            let none = std::ptr::null_mut();
            // SAFETY: the kernel keeps the positions.
            ok(unsafe { libc::copy_file_range(f, none, t, none, 4, 0) } as libc::c_long)?;
            is_changed(d)
        },
        "open_write",
    ),
    write(
        "sendfile",
        "`sendfile` from a permitted descriptor",
        |d| {
            let (from, to) = permitted(d)?;
            // SAFETY: the kernel keeps the position.
            ok(unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), 4) }
                as libc::c_long)?;
            is_changed(d)
        },
        "open_write",
    ),
    write(
        "splice",
        "`splice` through a pipe from a permitted descriptor",
        |d| {
            let (from, to) = permitted(d)?;
            let (out, inp) = pipe()?;
            let none = std::ptr::null_mut();
            // SAFETY: the kernel keeps the positions.
            unsafe {
                ok(libc::splice(from.as_raw_fd(), none, inp.as_raw_fd(), none, 4, 0) as libc::c_long)?;
                ok(libc::splice(out.as_raw_fd(), none, to.as_raw_fd(), none, 4, 0) as libc::c_long)?;
            }
            is_changed(d)
        },
        "open_write",
    ),
    write(
        "shared-map",
        "a shared writable mapping",
        |d| {
            let fd = super::sys::open(d.passwd(), libc::O_RDWR)?;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a fresh mapping of the file's first page; its first byte exists.
            unsafe {
                let p = libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0);
                if p == libc::MAP_FAILED {
                    return Err(io::Error::last_os_error());
                }
                *p.cast::<u8>() = b'X';
            }
            is_changed(d)
        },
        "open_write",
    ),
    write(
        "truncate",
        "truncate",
        |d| {
            // SAFETY: the path ends in NUL.
            ok(unsafe { libc::truncate(c(d.passwd()).as_ptr(), 0) }.into())?;
            is_changed(d)
        },
        "truncate",
    ),
    write(
        "open-truncate",
        "`O_TRUNC`",
        |d| {
            super::sys::open(d.passwd(), libc::O_WRONLY | libc::O_TRUNC)?;
            is_changed(d)
        },
        "open_write",
    ),
    // The kernel truncates on this, though the descriptor can only be read from.
    write(
        "read-truncate",
        "`O_RDONLY` with `O_TRUNC`",
        |d| {
            super::sys::open(d.passwd(), libc::O_RDONLY | libc::O_TRUNC)?;
            is_changed(d)
        },
        "open_read",
    ),
    write(
        "fallocate",
        "fallocate that punches a hole",
        |d| {
            let fd = super::sys::open(d.passwd(), libc::O_WRONLY)?;
            let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: numbers only.
            ok(unsafe { libc::fallocate(fd.as_raw_fd(), how, 0, 4) }.into())?;
            is_changed(d)
        },
        "open_write",
    ),
    write(
        "exchange",
        "renameat2 with `RENAME_EXCHANGE`",
        |d| {
            std::fs::write(d.desk("x"), "other")?;
            rename(d.desk("x"), d.passwd(), 2)?;
            is_changed(d)
        },
        "rename",
    ),
    write(
        "rename-over",
        "rename of another file over it",
        |d| {
            std::fs::write(d.desk("x"), "other")?;
            rename(d.desk("x"), d.passwd(), 0)?;
            is_changed(d)
        },
        "rename",
    ),
    write(
        "rename-away",
        "rename of its directory, and another in its place",
        |d| {
            rename(d.path("etc"), d.desk("x"), 0)?;
            std::fs::create_dir(d.path("etc"))?;
            std::fs::write(d.passwd(), "other")
        },
        "rename",
    ),
    write("unlink", "unlink", |d| std::fs::remove_file(d.passwd()), "unlink"),
    write(
        "tmpfile",
        "`O_TMPFILE`, linked into place",
        |d| {
            let file = super::sys::open(d.desk(""), libc::O_WRONLY | libc::O_TMPFILE)?;
            let from = c(format!("/proc/self/fd/{}", file.as_raw_fd()));
            let (at, to) = (libc::AT_FDCWD, c(d.path("etc/new")));
            // SAFETY: both paths end in NUL.
            ok(unsafe { libc::linkat(at, from.as_ptr(), at, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) }.into())?;
            Ok(())
        },
        "link",
    ),
    contained(
        "fifo",
        "a FIFO made with mknod",
        |d| {
            // SAFETY: the path ends in NUL.
            ok(unsafe { libc::mknod(c(d.path("etc/fifo")).as_ptr(), libc::S_IFIFO | 0o644, 0) }.into())?;
            Ok(())
        },
        "mknod",
        "no-etc",
    ),
    contained(
        "device",
        "a device node made with mknod, to read what stands behind it",
        |d| {
            // SAFETY: the path ends in NUL.
            ok(unsafe {
                libc::mknod(c(d.desk("zero")).as_ptr(), libc::S_IFCHR | 0o644, libc::makedev(1, 5))
            }
            .into())?;
            Ok(())
        },
        "mknod",
        "no-nodes",
    ),
    contained(
        "setxattr",
        "a write of an extended attribute",
        |d| {
            let (path, name) = (c(d.passwd()), c("trusted.mark"));
            // SAFETY: both texts end in NUL; the value has one byte.
            ok(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), b"x".as_ptr().cast(), 1, 0) }.into())?;
            Ok(())
        },
        "setxattr",
        "no-etc",
    ),
    contained(
        "removexattr",
        "removal of an extended attribute",
        |d| {
            // SAFETY: both texts end in NUL.
            ok(unsafe { libc::removexattr(c(d.passwd()).as_ptr(), c("trusted.there").as_ptr()) }.into())?;
            Ok(())
        },
        "setxattr",
        "no-etc",
    )
    .setup(|d| {
        let (path, name) = (c(d.passwd()), c("trusted.there"));
        // SAFETY: both texts end in NUL; the value has one byte.
        ok(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), b"x".as_ptr().cast(), 1, 0) }.into())?;
        Ok(Box::new(()))
    }),
    contained(
        "file-flags",
        "ioctl that makes it append-only, on a descriptor for reading",
        |d| {
            let fd = super::sys::open(d.passwd(), libc::O_RDONLY)?;
            // FS_APPEND_FL, and back, so that the directory can be removed.
            let flags: libc::c_int = 0x20;
            // SAFETY: FS_IOC_SETFLAGS reads one int.
            ok(unsafe { libc::ioctl(fd.as_raw_fd(), 0x4008_6602, &raw const flags) }.into())?;
            // SAFETY: as above.
            ok(unsafe { libc::ioctl(fd.as_raw_fd(), 0x4008_6602, &raw const NO_FLAGS) }.into())?;
            Ok(())
        },
        "ioctl_write",
        "no-etc",
    ),
    write(
        "chmod",
        "chmod",
        |d| {
            // SAFETY: the path ends in NUL.
            ok(unsafe { libc::chmod(c(d.passwd()).as_ptr(), 0o666) }.into())?;
            Ok(())
        },
        "chmod",
    ),
    write(
        "fchmod",
        "fchmod of a descriptor for reading",
        |d| {
            let fd = super::sys::open(d.passwd(), libc::O_RDONLY)?;
            // SAFETY: numbers only.
            ok(unsafe { libc::fchmod(fd.as_raw_fd(), 0o666) }.into())?;
            Ok(())
        },
        "chmod",
    ),
    write(
        "chown",
        "chown",
        |d| {
            // SAFETY: the path ends in NUL.
            ok(unsafe { libc::chown(c(d.passwd()).as_ptr(), 1000, 1000) }.into())?;
            Ok(())
        },
        "chown",
    ),
    write(
        "fchown",
        "fchown of a descriptor for reading",
        |d| {
            let fd = super::sys::open(d.passwd(), libc::O_RDONLY)?;
            // SAFETY: numbers only.
            ok(unsafe { libc::fchown(fd.as_raw_fd(), 1000, 1000) }.into())?;
            Ok(())
        },
        "chown",
    ),
    contained(
        "acl",
        "an access control list that changes its permission bits",
        |d| {
            // Version 2; owner, group and others, each with permissions and no id.
            let mut value = 2u32.to_le_bytes().to_vec();
            for (tag, may) in [(1u16, 6u16), (4, 4), (0x20, 7)] {
                value.extend(tag.to_le_bytes());
                value.extend(may.to_le_bytes());
                value.extend(u32::MAX.to_le_bytes());
            }
            let (path, name) = (c(d.passwd()), c("system.posix_acl_access"));
            // SAFETY: both texts end in NUL; the value has the length given.
            ok(unsafe {
                libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
            }
            .into())?;
            if std::fs::metadata(d.passwd())?.mode() & 7 == 7 { Ok(()) } else { Err(no_effect("other bits")) }
        },
        "setxattr",
        "no-etc",
    ),
    open(
        "file-setattr",
        "flags by the system call file_setattr",
        |d| {
            // `struct file_attr`: FS_XFLAG_NODUMP, and nothing else.
            let attr = [0x80u64, 0, 0];
            let at = libc::AT_FDCWD;
            // SAFETY: the path ends in NUL, the structure has the length given.
            ok(unsafe { libc::syscall(469, at, c(d.passwd()).as_ptr(), attr.as_ptr(), 24, 0) })?;
            Ok(())
        },
        "needs an operation for inode_file_setattr",
    )
    .on(&[("6.1", NO_SETATTR), ("6.12", NO_SETATTR)]),
    write(
        "acct",
        "the kernel's process accounting into it (acct)",
        |d| {
            // SAFETY: the path ends in NUL.
            unsafe {
                ok(libc::acct(c(d.passwd()).as_ptr()).into())?;
                ok(libc::acct(std::ptr::null()).into())?;
            }
            Ok(())
        },
        "open_write",
    ),
    open(
        "getxattr",
        "an extended attribute of the file that must not be read",
        |d| {
            let (path, name, mut value) = (c(d.key()), c("trusted.secret"), [0u8; 64]);
            // SAFETY: both texts end in NUL; the buffer has the length given.
            let n = ok(unsafe {
                libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
            } as libc::c_long)?;
            is_secret(&value[..n as usize])
        },
        "no operation covers reading attributes yet",
    )
    .setup(|d| {
        let (path, name, value) = (c(d.key()), c("trusted.secret"), super::SECRET);
        // SAFETY: both texts end in NUL; the value has the length given.
        ok(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
            .into())?;
        Ok(Box::new(()))
    }),
    open(
        "stat",
        "the size and times of the file that must not be read",
        |d| {
            let size = std::fs::metadata(d.key())?.len();
            if size == super::SECRET.len() as u64 { Ok(()) } else { Err(no_effect("another size")) }
        },
        "no operation covers reading attributes yet",
    ),
    open(
        "inotify",
        "watching who does what in a directory that must not be read",
        |d| {
            // SAFETY: the path ends in NUL.
            unsafe {
                let fd = ok(libc::inotify_init1(0).into())? as i32;
                ok(libc::inotify_add_watch(fd, c(d.path("home/.ssh")).as_ptr(), libc::IN_ALL_EVENTS).into())?;
            }
            Ok(())
        },
        "no operation covers watching yet",
    ),
    open(
        "utimes",
        "a change of its times",
        |d| {
            let times = [libc::timespec { tv_sec: 1, tv_nsec: 0 }; 2];
            // SAFETY: the path ends in NUL, the array has two times.
            ok(unsafe { libc::utimensat(libc::AT_FDCWD, c(d.passwd()).as_ptr(), times.as_ptr(), 0) }.into())?;
            if std::fs::metadata(d.passwd())?.mtime() == 1 { Ok(()) } else { Err(no_effect("other times")) }
        },
        "no operation covers times yet",
    ),
];

const NO_SETATTR: Expect = Expect::Absent("this kernel has no such system call");
static NO_FLAGS: libc::c_int = 0;

/// A file that may be read, and the guarded one to write it to.
fn permitted(d: &Dirs) -> io::Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
    std::fs::write(d.desk("from"), ORIGINAL.to_uppercase())?;
    let from = super::sys::open(d.desk("from"), libc::O_RDONLY)?;
    Ok((from, super::sys::open(d.passwd(), libc::O_WRONLY)?))
}
