//! Names of files, the half that needs no name: other mounts of the same object, and descriptors of it.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use super::corpus::{Technique, contained, inherit, open};
use super::names::{Helper, read, wait_for};
use super::sys::*;
use super::{Dirs, INHERITED};

/// Other mounts.
pub const MOUNTS: &[Technique] = &[
    contained(
        "bind-mount",
        "bind mount",
        |d| {
            own_mounts()?;
            std::fs::create_dir(d.desk("m"))?;
            bind(d.path("home/.ssh"), d.desk("m"))?;
            read_secret(d.desk("m/key"))
        },
        "open_read",
        "no-keys",
    ),
    contained(
        "bind-mount-before",
        "bind mount made before the policy loaded",
        |d| read_secret(d.desk("m/key")),
        "open_read",
        "no-keys",
    )
    .before(|d| {
        std::fs::create_dir(d.desk("m"))?;
        bind(d.path("home/.ssh"), d.desk("m"))?;
        Ok(Box::new(Mounted(d.desk("m"))))
    }),
    contained(
        "detached-mount",
        "detached mount (`open_tree` with `OPEN_TREE_CLONE`), never attached",
        |d| {
            let dir = d.path("home/.ssh");
            // SAFETY: the path ends in NUL; 1 is OPEN_TREE_CLONE.
            let fd = ok(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c(&dir).as_ptr(), 1) })?;
            read_secret_fd(openat(fd as i32, "key", libc::O_RDONLY)?.as_raw_fd())
        },
        "open_read",
        "no-keys",
    ),
    contained(
        "lazy-umount",
        "unmounted lazily while it is the working directory",
        |d| {
            unshare(libc::CLONE_NEWNS)?;
            std::env::set_current_dir(d.path("home/.ssh"))?;
            umount(d.path("home/.ssh"), libc::MNT_DETACH)?;
            read_secret("key")
        },
        "open_read",
        "no-keys",
    )
    .before(|d| {
        bind(d.path("home/.ssh"), d.path("home/.ssh"))?;
        Ok(Box::new(Mounted(d.path("home/.ssh"))))
    }),
    contained(
        "overlay",
        "overlayfs",
        |d| {
            own_mounts()?;
            for dir in ["u", "w", "m"] {
                std::fs::create_dir(d.desk(dir))?;
            }
            let (lower, work) = (d.path("home/.ssh"), d.desk(""));
            let data = format!("lowerdir={0},upperdir={1}u,workdir={1}w", lower.display(), work.display());
            mount("overlay", d.desk("m"), "overlay", 0, &data)?;
            read_secret(d.desk("m/key"))
        },
        "open_read",
        "no-keys",
    )
    .setup(|_| super::modules::loaded(&["overlay"]))
    .on(&[("7.2", super::modules::lacks("overlay"))]),
    open(
        "tmpfs-over",
        "tmpfs over the protected directory",
        |d| {
            mount("tmpfs", d.path("etc"), "tmpfs", 0, "")?;
            if d.passwd().exists() { Err(no_effect("still there")) } else { Ok(()) }
        },
        "needs mount",
    )
    .setup(|d| Ok(Box::new(Mounted(d.path("etc"))))),
    open(
        "mount-setattr",
        "attributes of somebody else's mount (mount_setattr)",
        |d| {
            // `struct mount_attr`: MOUNT_ATTR_NOSUID set, nothing cleared.
            let attr = [2u64, 0, 0, 0];
            let (at, path) = (libc::AT_FDCWD, c(d.desk("m")));
            // SAFETY: the path ends in NUL, the structure has the length given.
            ok(unsafe { libc::syscall(libc::SYS_mount_setattr, at, path.as_ptr(), 0, attr.as_ptr(), 32) })?;
            Ok(())
        },
        "needs mount, by something else than the mount hooks: none of them sees it",
    )
    .setup(|d| {
        std::fs::create_dir(d.desk("m"))?;
        bind(d.desk("m"), d.desk("m"))?;
        Ok(Box::new(Mounted(d.desk("m"))))
    }),
    contained("pivot-root", "pivot_root", pivot, "open_read", "no-keys"),
    contained(
        "user-namespace",
        "user and mount namespace of somebody without rights",
        |d| {
            std::fs::create_dir(d.desk("m"))?;
            drop_user()?;
            unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
            bind(d.path("home/.ssh"), d.desk("m"))?;
            read_secret(d.desk("m/key"))
        },
        "open_read",
        "no-keys",
    ),
    contained(
        "another-mount-namespace",
        "setns to a mount namespace in which the file has another name",
        |d| {
            let pid = std::fs::read_to_string(d.desk("pid"))?;
            let ns = super::sys::open(format!("/proc/{}/ns/mnt", pid.trim()), libc::O_RDONLY)?;
            // SAFETY: numbers only.
            ok(unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNS) }.into())?;
            read_secret(d.desk("m/key"))
        },
        "open_read",
        "no-keys",
    )
    .setup(|d| {
        std::fs::create_dir(d.desk("m"))?;
        let script = format!(
            "mount --bind '{0}/home/.ssh' '{0}/desk/m' && echo $$ > '{0}/desk/pid' && exec sleep 60",
            d.path("").display().to_string().trim_end_matches('/')
        );
        let child = Helper(
            std::process::Command::new("/bin/busybox")
                .args(["unshare", "-m", "/bin/busybox", "sh", "-c", &script])
                .spawn()?,
        );
        wait_for(&d.desk("pid"))?;
        Ok(Box::new(child))
    }),
];

/// Descriptors.
pub const DESCRIPTORS: &[Technique] = &[
    contained(
        "passed-descriptor",
        "a descriptor passed over a unix socket by a process outside",
        |d| {
            let stream = UnixStream::connect(d.desk("giver.sock"))?;
            read_secret_fd(receive_fd(&stream)?.as_raw_fd())
        },
        "receive_fd",
        "no-keys",
    )
    .setup(|d| {
        let listener = UnixListener::bind(d.desk("giver.sock"))?;
        let file = std::fs::File::open(d.key())?;
        std::thread::spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                let _ = send_fd(&stream, file.as_raw_fd());
            }
        });
        Ok(Box::new(()))
    }),
    contained(
        "inherited-descriptor",
        "a descriptor opened before the session, inherited",
        |_| read_secret_fd(INHERITED),
        "open_read",
        "no-keys",
    )
    .setup(|d| inherit(std::fs::File::open(d.key())?)),
    read("inherited-reopened", "an inherited descriptor opened again by `/proc/self/fd/N`", |_| {
        read_secret(format!("/proc/self/fd/{INHERITED}"))
    })
    .setup(|d| inherit(std::fs::File::open(d.key())?)),
    read("inherited-directory", "openat relative to a directory opened before the session", |_| {
        read_secret_fd(openat(INHERITED, "key", libc::O_RDONLY)?.as_raw_fd())
    })
    .setup(|d| inherit(std::fs::File::open(d.path("home/.ssh"))?)),
    contained(
        "inherited-map",
        "mmap of a file opened before the session",
        |_| {
            // SAFETY: a fresh private mapping of one page, as long as the file's content.
            unsafe {
                let p =
                    libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE, INHERITED, 0);
                if p == libc::MAP_FAILED {
                    return Err(io::Error::last_os_error());
                }
                is_secret(std::slice::from_raw_parts(p.cast(), super::SECRET.len()))
            }
        },
        "open_read",
        "no-keys",
    )
    .setup(|d| inherit(std::fs::File::open(d.key())?)),
    contained(
        "pidfd-getfd",
        "`pidfd_getfd` from a process outside",
        |d| {
            let place = std::fs::read_to_string(d.desk("where"))?;
            let mut numbers = place.split(' ').filter_map(|n| n.parse::<libc::c_long>().ok());
            let (pid, fd) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            // SAFETY: numbers only.
            unsafe {
                let pidfd = ok(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
                read_secret_fd(ok(libc::syscall(libc::SYS_pidfd_getfd, pidfd, fd, 0))? as i32)
            }
        },
        "receive_fd",
        "no-keys",
    )
    .setup(|d| {
        let file = std::fs::File::open(d.key())?;
        std::fs::write(d.desk("where"), format!("{} {}", std::process::id(), file.as_raw_fd()))?;
        Ok(Box::new(file))
    }),
    read("fanotify", "a descriptor made by fanotify when somebody outside opens the file", fanotify).setup(
        |d| {
            let (key, stop) = (d.key(), d.desk("stop"));
            std::thread::spawn(move || {
                for _ in 0..600 {
                    if stop.exists() || std::fs::read(&key).is_err() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            });
            Ok(Box::new(()))
        },
    ),
];

/// A new root in a namespace of its own, with the protected directory bound into it. The initial root cannot be
/// pivoted, so a root in between comes first.
fn pivot(d: &Dirs) -> io::Result<()> {
    own_mounts()?;
    let between = d.desk("between");
    std::fs::create_dir(&between)?;
    mount("tmpfs", &between, "tmpfs", 0, "")?;
    for dir in ["new", "new/home", "new/old"] {
        std::fs::create_dir(between.join(dir))?;
    }
    bind(between.join("new"), between.join("new"))?;
    bind(d.path("home"), between.join("new/home"))?;
    // SAFETY: the paths end in NUL.
    unsafe {
        ok(libc::chroot(c(&between).as_ptr()).into())?;
        std::env::set_current_dir("/new")?;
        ok(libc::syscall(libc::SYS_pivot_root, c("/new").as_ptr(), c("/new/old").as_ptr()))?;
    }
    read_secret("/home/.ssh/key")
}

fn fanotify(d: &Dirs) -> io::Result<()> {
    let at = libc::AT_FDCWD;
    let mut event = [0u64; 64];
    // SAFETY: the path ends in NUL, the buffer has the length given.
    let result = unsafe {
        let fd = ok(libc::fanotify_init(libc::FAN_CLASS_NOTIF, libc::O_RDONLY as u32).into())? as i32;
        ok(libc::fanotify_mark(fd, libc::FAN_MARK_ADD, libc::FAN_OPEN, at, c(d.key()).as_ptr()).into())?;
        ok(libc::read(fd, event.as_mut_ptr().cast(), size_of_val(&event)) as libc::c_long)
    };
    let _ = std::fs::write(d.desk("stop"), "");
    result?;
    // SAFETY: the kernel has written at least one event.
    let event = unsafe { event.as_ptr().cast::<libc::fanotify_event_metadata>().read() };
    read_secret_fd(event.fd)
}
