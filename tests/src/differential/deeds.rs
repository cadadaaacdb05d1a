//! What can be done: one system call each, or the few that belong together, with what the kernel is to ask about.
//!
//! Steps are in the order in which the kernel asks; where one is refused those that follow do not happen. A deed that cannot be
//! done in the tree as it is gives its turn to another.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::actor::{Act, Actor, Named, Step, c, errno};
use super::rng::Rng;
use super::world::{BOUND, MOUNTPOINT};

/// How a deed ended, or `None` if it cannot be done.
type Done = Option<Act>;
/// A kind of deed.
type Deed = fn(&mut Actor, &mut Rng) -> Done;

/// Kinds with their weights.
const KINDS: &[(usize, Deed)] = &[
    (16, open_file),
    (5, create),
    (3, make_directory),
    (4, make_node),
    (3, make_symlink),
    (7, link),
    (12, rename),
    (4, unlink),
    (3, remove_directory),
    (3, truncate),
    (3, chmod),
    (3, chown),
    (3, xattr),
    (2, ioctl),
    (6, exec),
    (5, map),
    (2, executable_memory),
    (22, super::sockets::perform),
    (9, super::others::perform),
];

/// Does something.
pub fn perform(actor: &mut Actor, rng: &mut Rng) -> Act {
    let total: usize = KINDS.iter().map(|(weight, _)| weight).sum();
    loop {
        let mut at = rng.below(total);
        let kind = KINDS.iter().find(|(weight, _)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        if let Some((_, deed)) = kind
            && let Some(act) = deed(actor, rng)
        {
            return act;
        }
    }
}

/// A deed that is done.
pub fn done(what: String, steps: Vec<Step>, errno: i32) -> Done {
    Some(Act { what, steps, errno, ambiguous: false })
}

fn is_data(meta: &std::fs::Metadata) -> bool {
    meta.is_file() || meta.file_type().is_fifo()
}

/// A path that is there, the way to it, and the object behind it.
pub fn found(
    a: &mut Actor,
    rng: &mut Rng,
    pass: impl Fn(&std::fs::Metadata) -> bool,
) -> Option<(String, Named, std::fs::Metadata)> {
    let path = a.existing(rng, pass)?;
    let meta = std::fs::symlink_metadata(&path).ok()?;
    let object = a.object(&path, false)?;
    Some((a.by_a_link(rng, &path), object, meta))
}

/// Closes a descriptor that was opened; gives the errno.
pub fn closed(fd: i32) -> i32 {
    let errno = errno(fd.into());
    if errno == 0 {
        // SAFETY: our own descriptor.
        unsafe { libc::close(fd) };
    }
    errno
}

/// Opens without waiting.
pub fn open(path: &str, flags: i32) -> i32 {
    // SAFETY: the path ends in NUL.
    unsafe { libc::open(c(path).as_ptr(), flags | libc::O_NONBLOCK | libc::O_CLOEXEC, 0o755) }
}

/// What opening it is decided as.
pub fn opening(a: &Actor, object: &Named, flags: i32) -> Step {
    let write = flags & libc::O_ACCMODE != libc::O_RDONLY;
    Step {
        also_read: flags & libc::O_ACCMODE == libc::O_RDWR,
        truncates: flags & libc::O_TRUNC != 0,
        raw_memory: object.raw,
        sysctl: write && object.path.starts_with("/proc/sys/"),
        ..a.step(if write { "open_write" } else { "open_read" }, object)
    }
}

fn open_file(a: &mut Actor, rng: &mut Rng) -> Done {
    if rng.one_in(20) {
        // For others than root these are not writable, whatever they may.
        let all = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR];
        let flags = if a.uid == 0 { rng.one(&all) } else { libc::O_RDONLY };
        let object = Named { path: "/proc/sys/kernel/panic".into(), ..Named::default() };
        let step = opening(a, &object, flags);
        return done(
            format!("open {} {flags:#o}", object.path),
            vec![step],
            closed(open(&object.path, flags)),
        );
    }
    let (way, object, meta) = found(a, rng, |m| !m.is_symlink())?;
    let mut flags = match rng.below(6) {
        _ if meta.is_dir() => libc::O_DIRECTORY,
        0..3 => libc::O_RDONLY,
        3 => libc::O_WRONLY,
        _ => libc::O_RDWR,
    };
    if meta.is_file() && rng.one_in(6) {
        flags |= libc::O_TRUNC;
    }
    let step = opening(a, &object, flags);
    let mut steps = vec![step];
    if flags & libc::O_TRUNC != 0 {
        steps.push(a.step("truncate", &object));
    }
    done(format!("open {way} {flags:#o}"), steps, closed(open(&way, flags)))
}

fn create(a: &mut Actor, rng: &mut Rng) -> Done {
    let path = a.free(rng)?;
    let object = a.unborn(&path)?;
    let flags = rng.one(&[libc::O_WRONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC]) | libc::O_CREAT;
    let made = a.step("create", &object);
    let mut opened = opening(a, &object, flags);
    let way = a.by_a_link(rng, &path);
    let result = closed(open(&way, flags));
    // What it is was not there to be looked at before.
    opened.id = std::fs::symlink_metadata(&path).ok().map(|m| (m.dev(), m.ino()));
    a.paths.push(path);
    done(format!("create {way} {flags:#o}"), vec![made, opened], result)
}

fn make_directory(a: &mut Actor, rng: &mut Rng) -> Done {
    let path = a.free(rng)?;
    let step = a.step("mkdir", &a.unborn(&path)?);
    // SAFETY: the path ends in NUL.
    let result = errno(unsafe { libc::mkdir(c(&path).as_ptr(), 0o755) }.into());
    a.paths.push(path.clone());
    done(format!("mkdir {path}"), vec![step], result)
}

fn make_node(a: &mut Actor, rng: &mut Rng) -> Done {
    let path = a.free(rng)?;
    let kind = rng.one(&[libc::S_IFIFO, libc::S_IFREG, libc::S_IFSOCK, libc::S_IFCHR]);
    let op = if kind == libc::S_IFREG || kind == libc::S_IFSOCK { "create" } else { "mknod" };
    let step = a.step(op, &a.unborn(&path)?);
    // A device that is not there; opened, it is none.
    let device = if kind == libc::S_IFCHR { libc::makedev(1, 1) } else { 0 };
    // SAFETY: the path ends in NUL.
    let result = errno(unsafe { libc::mknod(c(&path).as_ptr(), kind | 0o755, device) }.into());
    if kind != libc::S_IFSOCK {
        a.paths.push(path.clone());
    }
    done(format!("mknod {path} {kind:#o}"), vec![step], result)
}

fn make_symlink(a: &mut Actor, rng: &mut Rng) -> Done {
    let path = a.free(rng)?;
    let target = a.existing(rng, std::fs::Metadata::is_dir)?;
    let step = a.step("symlink", &a.unborn(&path)?);
    // SAFETY: both end in NUL.
    let result = errno(unsafe { libc::symlink(c(&target).as_ptr(), c(&path).as_ptr()) }.into());
    if result == 0 {
        a.links.push((path.clone(), target.clone()));
    }
    a.paths.push(path.clone());
    done(format!("symlink {target} {path}"), vec![step], result)
}

/// The mount that a path is in: those of the tree.
fn mount_of(path: &str) -> &'static str {
    [BOUND, "/ab", "/root/a", "/a", "/b"]
        .into_iter()
        .find(|mount| path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        .unwrap_or("/")
}

/// A second path for something of the same mount: one that is free, or one that is there.
fn second(a: &Actor, rng: &mut Rng, first: &str, there: bool) -> Option<String> {
    for _ in 0..16 {
        let path = if there { a.existing(rng, |_| true) } else { a.free(rng) };
        if let Some(path) = path.filter(|path| mount_of(path) == mount_of(first)) {
            return Some(path);
        }
    }
    None
}

fn link(a: &mut Actor, rng: &mut Rng) -> Done {
    let from = a.existing(rng, |m| !m.is_dir())?;
    let to = second(a, rng, &from, false)?;
    let target = a.unborn(&to)?;
    let source = a.object(&from, true)?;
    let mut step = a.step("link", &source);
    (step.path2, step.names2) = (Some(target.path), target.names);
    let way = a.by_a_link(rng, &from);
    // SAFETY: both end in NUL.
    let result = errno(unsafe { libc::link(c(&way).as_ptr(), c(&to).as_ptr()) }.into());
    a.paths.push(to.clone());
    done(format!("link {way} {to}"), vec![step], result)
}

/// Whether the one is the other, or below it.
fn below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn rename(a: &mut Actor, rng: &mut Rng) -> Done {
    let exchange = rng.one_in(3);
    let from = a.existing(rng, |_| true)?;
    let there = exchange || rng.one_in(3);
    let to = second(a, rng, &from, there)?;
    // The kernel asks nothing where one would go into itself, nor about the root of a mount.
    if below(&to, &from) || below(&from, &to) || [&from, &to].iter().any(|p| mount_of(p) == p.as_str()) {
        return None;
    }
    let is_dir = |path: &str| std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let target = if there { a.object(&to, false)? } else { a.unborn(&to)? };
    let source = a.object(&from, false)?;
    let mut step = a.step("rename", &source);
    (step.path2, step.names2) = (Some(target.path), target.names);
    step.exchange = exchange;
    step.directory = is_dir(&from) || exchange && is_dir(&to);
    let way = a.by_a_link(rng, &from);
    let flags = libc::c_uint::from(exchange) * libc::RENAME_EXCHANGE;
    let at = libc::AT_FDCWD;
    // SAFETY: both end in NUL.
    let result = errno(unsafe {
        libc::syscall(libc::SYS_renameat2, at, c(&way).as_ptr(), at, c(&to).as_ptr(), flags)
    });
    if result == 0 && is_dir(&to) {
        // What was below it is there now.
        let moved: Vec<String> =
            a.paths.iter().filter_map(|p| Some(to.clone() + p.strip_prefix(&from)?)).collect();
        a.paths.extend(moved);
    }
    a.paths.push(to.clone());
    done(format!("{} {way} {to}", if exchange { "exchange" } else { "rename" }), vec![step], result)
}

fn unlink(a: &mut Actor, rng: &mut Rng) -> Done {
    let (way, object, _) = found(a, rng, |m| !m.is_dir())?;
    let step = a.step("unlink", &object);
    // SAFETY: the path ends in NUL.
    let result = errno(unsafe { libc::unlink(c(&way).as_ptr()) }.into());
    done(format!("unlink {way}"), vec![step], result)
}

fn remove_directory(a: &mut Actor, rng: &mut Rng) -> Done {
    let (way, object, _) = found(a, rng, |m| m.is_dir())?;
    let step = a.step("rmdir", &object);
    // SAFETY: the path ends in NUL.
    let result = errno(unsafe { libc::rmdir(c(&way).as_ptr()) }.into());
    done(format!("rmdir {way}"), vec![step], result)
}

fn truncate(a: &mut Actor, rng: &mut Rng) -> Done {
    let (way, object, meta) = found(a, rng, |m| m.is_file())?;
    // To the length it has: what was text stays text.
    let length = meta.len() as i64;
    let last = a.step("truncate", &object);
    if rng.one_in(2) {
        // SAFETY: the path ends in NUL.
        let result = errno(unsafe { libc::truncate(c(&way).as_ptr(), length) }.into());
        return done(format!("truncate {way}"), vec![last], result);
    }
    let first = opening(a, &object, libc::O_WRONLY);
    let fd = open(&way, libc::O_WRONLY);
    let mut result = errno(fd.into());
    if result == 0 {
        // SAFETY: numbers only; our own descriptor.
        result = errno(unsafe { libc::ftruncate(fd, length) }.into());
        closed(fd);
    }
    done(format!("ftruncate {way}"), vec![first, last], result)
}

fn chmod(a: &mut Actor, rng: &mut Rng) -> Done {
    let (way, object, _) = found(a, rng, |m| !m.is_symlink())?;
    let step = a.step("chmod", &object);
    // SAFETY: the path ends in NUL.
    let result = errno(unsafe { libc::chmod(c(&way).as_ptr(), rng.one(&[0o755, 0o711, 0o777])) }.into());
    done(format!("chmod {way}"), vec![step], result)
}

fn chown(a: &mut Actor, rng: &mut Rng) -> Done {
    let (way, object, _) = found(a, rng, |_| true)?;
    let step = a.step("chown", &object);
    // SAFETY: the path ends in NUL.
    let result = errno(unsafe { libc::lchown(c(&way).as_ptr(), rng.below(3) as u32, 0) }.into());
    done(format!("lchown {way}"), vec![step], result)
}

/// An extended attribute. The kernel does not say by which mount: the object has its host's name only.
fn xattr(a: &mut Actor, rng: &mut Rng) -> Done {
    let used = a.existing(rng, |m| m.is_file() || m.is_dir())?;
    let home = if mount_of(&used) == BOUND { a.unborn(&used)?.names.first()?.clone() } else { used.clone() };
    let on = a.object(&home, false)?;
    let way = a.by_a_link(rng, &used);
    let step = a.step("setxattr", &on);
    let name = c("trusted.x");
    let remove = rng.one_in(3);
    // SAFETY: all strings end in NUL, the value is one byte.
    let result = errno(unsafe {
        if remove {
            libc::removexattr(c(&way).as_ptr(), name.as_ptr())
        } else {
            libc::setxattr(c(&way).as_ptr(), name.as_ptr(), b"x".as_ptr().cast(), 1, 0)
        }
        .into()
    });
    done(format!("{} {way}", if remove { "removexattr" } else { "setxattr" }), vec![step], result)
}

fn ioctl(a: &mut Actor, rng: &mut Rng) -> Done {
    let (way, object, _) = found(a, rng, is_data)?;
    let (first, last) = (opening(a, &object, libc::O_RDONLY), a.step("ioctl_write", &object));
    let fd = open(&way, libc::O_RDONLY);
    let mut result = errno(fd.into());
    if result == 0 {
        // SAFETY: a command that nothing knows; our own descriptor.
        result = errno(unsafe { libc::ioctl(fd, 0x4004_aaaa, 0) }.into());
        closed(fd);
    }
    done(format!("ioctl {way}"), vec![first, last], result)
}

/// Runs what is no program: it is decided, and then the kernel finds no format.
fn exec(a: &mut Actor, rng: &mut Rng) -> Done {
    // The kernel asks for a module where the first bytes are no text.
    let (way, object, _) = found(a, rng, |m| m.is_file() && m.len() == 5 && m.mode() & 0o111 != 0)?;
    let reads = Step { if_carried: true, ..a.step("open_read", &object) };
    let step = a.step("exec", &object);
    let null = [std::ptr::null::<libc::c_char>()];
    // SAFETY: the path ends in NUL, both lists in NULL.
    let result = errno(unsafe { libc::execve(c(&way).as_ptr(), null.as_ptr(), null.as_ptr()) }.into());
    done(format!("exec {way}"), vec![reads, step], result)
}

/// Maps a file executable, at once or by a change of its protection.
fn map(a: &mut Actor, rng: &mut Rng) -> Done {
    let (way, object, _) = found(a, rng, |m| m.is_file())?;
    let later = rng.one_in(3);
    let first = opening(a, &object, libc::O_RDONLY);
    let last = a.step(if later { "mprotect_exec" } else { "mmap_exec" }, &object);
    let fd = open(&way, libc::O_RDONLY);
    let mut result = errno(fd.into());
    if result == 0 {
        let (read, run) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_EXEC);
        // SAFETY: a mapping of our own, which is not touched.
        unsafe {
            let first = if later { read } else { run };
            let p = libc::mmap(std::ptr::null_mut(), 4096, first, libc::MAP_PRIVATE, fd, 0);
            result = errno(if p == libc::MAP_FAILED { -1 } else { 0 });
            if result == 0 && later {
                result = errno(libc::mprotect(p, 4096, run).into());
            }
            if p != libc::MAP_FAILED {
                libc::munmap(p, 4096);
            }
        }
        closed(fd);
    }
    done(format!("map {way}{}", if later { ", then mprotect" } else { "" }), vec![first, last], result)
}

fn executable_memory(a: &mut Actor, _rng: &mut Rng) -> Done {
    let step = a.plain("mprotect_exec");
    let (run, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a mapping of our own, which is not touched.
    let result = unsafe {
        let p = libc::mmap(std::ptr::null_mut(), 4096, run, flags, -1, 0);
        let result = errno(if p == libc::MAP_FAILED { -1 } else { 0 });
        if result == 0 {
            libc::munmap(p, 4096);
        }
        result
    };
    done("map memory executable".into(), vec![step], result)
}

/// Mounts a directory at a place for it, and takes it away.
pub fn mount(a: &mut Actor, rng: &mut Rng) -> Done {
    let source = a.existing(rng, |m| m.is_dir())?;
    // What is mounted already would be found by its host's name: there, or here, where it could not be taken away.
    if a.mounted || mount_of(&source) == BOUND {
        return None;
    }
    let on = a.object(MOUNTPOINT, false)?;
    let first = Step { directory: true, ..a.step("mount", &on) };
    let last = a.step("umount", &Named { names: vec![source.clone()], ..on });
    let (s, t) = (c(&source), c(MOUNTPOINT));
    // SAFETY: both end in NUL.
    let result = unsafe {
        let null = std::ptr::null();
        let mut result = errno(libc::mount(s.as_ptr(), t.as_ptr(), null, libc::MS_BIND, null.cast()).into());
        if result == 0 {
            result = errno(libc::umount2(t.as_ptr(), libc::MNT_DETACH).into());
            a.mounted = result != 0;
        }
        result
    };
    done(format!("mount {source} on {MOUNTPOINT}, umount"), vec![first, last], result)
}
