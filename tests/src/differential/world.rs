//! The small tree in which rounds are played: few names, and each kind of alias.
//!
//! `/a`, `/b` and `/root/a` are filesystems of their own, in which everything may change; `/ab` is one in which nothing does:
//! it has the sockets, and a directory of `/a` mounted a second time. Made anew for each round.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::rng::Rng;

/// Filesystems that change.
pub const ROOTS: [&str; 3] = ["/a", "/b", "/root/a"];
/// The one that does not.
pub const FIXED: &str = "/ab";
/// A directory of [`ROOTS`]`[0]`, mounted once more.
pub const BOUND: &str = "/ab/bb";
/// Where something may be mounted for a moment.
pub const MOUNTPOINT: &str = "/ab/aa";
/// Files that do not move: those whose descriptors are handed over. The last two are one.
pub const HELD: [&str; 4] = ["/ab/ba/a", "/ab/ba/bab", "/ab/ba/ba", "/ab/ba/aa"];
/// Names of entries.
pub const NAMES: [&str; 6] = ["a", "b", "ab", "ba", "aa", "bab"];
/// Unix sockets that listen: at a path, and without one.
pub const STREAMS: [&str; 3] = ["/ab/a", "/ab/ba/ab", "@ab"];
/// Unix sockets that take messages.
pub const DATAGRAMS: [&str; 2] = ["/ab/b", "@ba"];
/// Directories, files, symbolic links and hard links made in each of [`ROOTS`]. Some coincide and are left out.
const MADE: [usize; 4] = [7, 10, 3, 5];

/// The tree of one round.
pub struct World {
    /// Every path in it.
    pub paths: Vec<String>,
    /// Symbolic links that lead to directories, with these.
    pub links: Vec<(String, String)>,
    /// The names of files that have several.
    pub known: HashMap<(u64, u64), BTreeSet<String>>,
    /// What is mounted at [`BOUND`], by the path it had then.
    pub source: String,
    /// Sockets that listen.
    pub sockets: Vec<i32>,
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// A C call that says -1.
fn done(what: &str, result: libc::c_int) -> Result<i32> {
    ensure!(result >= 0, "{what}: {}", std::io::Error::last_os_error());
    Ok(result)
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> Result<i32> {
    let (s, t, k) = (c(source), c(target), c(kind));
    // SAFETY: all three end in NUL.
    let result = unsafe { libc::mount(s.as_ptr(), t.as_ptr(), k.as_ptr(), flags, std::ptr::null()) };
    done(&format!("mount {source} on {target}"), result)
}

/// Takes away what is mounted there, as often as it takes.
fn clear(target: &str) {
    let t = c(target);
    // SAFETY: ends in NUL.
    while unsafe { libc::umount2(t.as_ptr(), libc::MNT_DETACH) } == 0 {}
}

impl World {
    /// Makes a tree.
    pub fn new(rng: &mut Rng) -> Result<Self> {
        for root in [MOUNTPOINT, BOUND, FIXED].iter().chain(&ROOTS) {
            clear(root);
        }
        let mut world = World {
            paths: Vec::new(),
            links: Vec::new(),
            known: HashMap::new(),
            source: String::new(),
            sockets: Vec::new(),
        };
        let mut dirs = Vec::new();
        for root in ROOTS.iter().chain([&FIXED]) {
            std::fs::create_dir_all(root)?;
            mount("tmpfs", root, "tmpfs", 0)?;
        }
        for root in ROOTS {
            dirs.extend(world.fill(root, rng)?);
        }
        for dir in [BOUND, MOUNTPOINT, "/ab/ba"] {
            std::fs::DirBuilder::new().mode(0o755).create(dir)?;
        }
        for path in &HELD[..3] {
            std::fs::write(path, "text\n")?;
        }
        std::fs::hard_link(HELD[2], HELD[3])?;
        let below: Vec<&String> = dirs.iter().filter(|d| d.starts_with("/a/")).collect();
        world.source = rng.of_list(&below).context("there are directories")?.to_string();
        mount(&world.source, BOUND, "none", libc::MS_BIND)?;
        for name in STREAMS {
            world.sockets.push(listening(name, libc::SOCK_STREAM)?);
        }
        for name in DATAGRAMS {
            world.sockets.push(listening(name, libc::SOCK_DGRAM)?);
        }
        for root in ROOTS.iter().chain([&FIXED]) {
            world.look(Path::new(root))?;
        }
        Ok(world)
    }

    /// Fills a filesystem; gives its directories.
    fn fill(&mut self, root: &str, rng: &mut Rng) -> Result<Vec<String>> {
        let mut dirs = vec![root.to_owned()];
        let place = |dirs: &[String], rng: &mut Rng| {
            let dir = rng.of_list(dirs).map_or(root, String::as_str);
            let path = format!("{dir}/{}", rng.one(&NAMES));
            (!Path::new(&path).is_symlink() && !Path::new(&path).exists()).then_some(path)
        };
        for _ in 0..MADE[0] {
            if let Some(path) = place(&dirs, rng) {
                std::fs::create_dir(&path)?;
                dirs.push(path);
            }
        }
        let mut files = Vec::new();
        for i in 0..MADE[1] {
            let Some(path) = place(&dirs, rng) else { continue };
            let at = c(&path);
            // SAFETY: ends in NUL.
            unsafe {
                match i {
                    8 => done("mkfifo", libc::mkfifo(at.as_ptr(), 0o666))?,
                    // The kernel's memory, which is opened and not read.
                    9 => done("mknod", libc::mknod(at.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 1)))?,
                    _ => {
                        let mut options = std::fs::File::options();
                        let mut file = options.write(true).create_new(true).mode(0o755).open(&path)?;
                        // No program, whatever the kernel tries.
                        std::io::Write::write_all(&mut file, b"text\n")?;
                        files.push(path);
                        0
                    }
                };
            }
        }
        for _ in 0..MADE[2] {
            let (Some(path), Some(target)) = (place(&dirs, rng), rng.of_list(&dirs).cloned()) else {
                continue;
            };
            symlink(&target, &path)?;
            self.links.push((path, target));
        }
        for _ in 0..MADE[3] {
            if let (Some(path), Some(file)) = (place(&dirs, rng), rng.of_list(&files)) {
                std::fs::hard_link(file, &path)?;
            }
        }
        dirs.remove(0);
        Ok(dirs)
    }

    /// Writes down what is there, and which files have several names.
    fn look(&mut self, path: &Path) -> Result<()> {
        let meta = std::fs::symlink_metadata(path)?;
        let text = path.to_string_lossy().into_owned();
        if meta.is_dir() {
            for entry in std::fs::read_dir(path)? {
                self.look(&entry?.path())?;
            }
        } else if meta.is_file() && meta.nlink() > 1 {
            self.known.entry((meta.dev(), meta.ino())).or_default().insert(text.clone());
        }
        if !text.starts_with(FIXED) || text.starts_with("/ab/bb/") {
            self.paths.push(text);
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for fd in &self.sockets {
            // SAFETY: our own descriptors.
            unsafe { libc::close(*fd) };
        }
    }
}

/// A socket with a name.
fn listening(name: &str, kind: i32) -> Result<i32> {
    let (address, len) = crate::actor::unix(name);
    // SAFETY: the address is valid for its length.
    unsafe {
        let fd = done("socket", libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0))?;
        done(&format!("bind {name}"), libc::bind(fd, (&raw const address).cast(), len))?;
        if kind == libc::SOCK_STREAM {
            done("listen", libc::listen(fd, 4096))?;
        }
        Ok(fd)
    }
}
