//! What a program is that is about to run: its words, its variables, its file, the package of that, its script.
//!
//! ```text
//! core --Reading--> here: reads what rules ask for, and evaluates --Command::Read--> core (receipt, answer)
//! ```
//! Apart from the core, which waits for no disk. A file is known by what the kernel saw (device and inode), never by its name alone: what
//! has the name by now may be another one. Promises: every reading ends, and its end is told. Must never: take what cannot be read for
//! something that is not there, or put a variable's value anywhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aarm_common::hold::Lines;
use aarm_common::state::ObjectId;
use aarm_policy::{
    Fact, Facts, Lack, Line, MAX_ENV, MAX_LINE, MAX_SCRIPT, Policy, Sha256, Undecided, Wanted, eval_line,
    wanted, words,
};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use tokio::sync::{Semaphore, mpsc};

use super::core::Command;

/// Readings on their way to be begun.
pub const QUEUE: usize = 1024;
/// Readings at once, of one session.
const AT_ONCE: usize = 4;
/// Longest time that one may take.
const TIME: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(30) };
/// Largest program whose hash is made, in bytes.
const PROGRAM_MAX: u64 = 1 << 30;
/// Hashes, and packages, that are kept.
const KEPT: usize = 1024;
/// Seconds after which a change of a file shows in its time for sure.
const SETTLED_SECONDS: i64 = 2;
/// Largest list of files that a package manager has.
const LIST_MAX: u64 = 64 << 20;
/// Largest table of mounts.
const MOUNTS_MAX: u64 = 16 << 20;

/// A program to look at.
pub struct Reading {
    /// What waits, by its key in the kernel.
    pub key: u64,
    /// Since when.
    pub since_ns: u64,
    /// The session.
    pub session: u64,
    /// The process; its image is stopped, unless the policy only audits.
    pub pid: u32,
    /// The path of its program, as the kernel has it.
    pub path: String,
    /// What decides.
    pub policy: Arc<Policy>,
    /// What the kernel found of each program that was asked for.
    pub found: Lines,
}

/// What came of it.
#[derive(Debug)]
pub struct Read {
    /// See [`Reading::key`].
    pub key: u64,
    /// See [`Reading::since_ns`].
    pub since_ns: u64,
    /// What is decided of each program that was asked for.
    pub lines: Vec<Line>,
    /// What was found out: never variables or text.
    pub facts: BTreeMap<String, String>,
    /// Why nothing could be decided.
    pub undecided: Option<Undecided>,
    /// How long it took.
    pub took: Duration,
}

/// The words after a program's name.
pub type Words = Fact<Vec<Vec<u8>>>;

/// How many programs were asked for, in turn.
fn rounds(found: &Lines) -> usize {
    (found.rounds as usize).min(found.matched.len())
}

/// What words alone decide of each program that was asked for; what else is wanted, if it depends on more.
pub fn by_words(policy: &Policy, found: &Lines, words: &Words) -> Result<Vec<Line>, Wanted> {
    let facts = Facts { args: words.as_deref().map_err(|e| *e), ..Facts::default() };
    (0..rounds(found)).map(|n| eval_line(policy, &found.matched[n], &found.unsure[n], &facts)).collect()
}

/// Words as the kernel tells them: of an event, or of a process that is stopped, if the event has not all of them.
pub fn words_of(pid: u32, told: Option<&[u8]>) -> Words {
    let never = Lack::Ever(Undecided::Words);
    if let Some(told) = told {
        return words(told).map_err(|_| never);
    }
    // A program without arguments has an empty line too, but the kernel does not cut that.
    match bounded(Path::new(&format!("/proc/{pid}/cmdline")), MAX_LINE as u64) {
        Some(line) if !line.is_empty() => words(&line).map_err(|_| never),
        _ => Err(never),
    }
}

/// Words that nobody has read yet.
pub fn unread() -> Words {
    Err(Lack::Yet(Wanted::ARGS))
}

/// Reads programs until there are no more.
pub async fn serve(mut readings: mpsc::Receiver<Reading>, core: mpsc::Sender<Command>) {
    while let Some(reading) = readings.recv().await {
        let core = core.clone();
        // As many as the kernel can hold; most of them wait for their session's turn.
        tokio::spawn(async move {
            let (key, since_ns, session) = (reading.key, reading.since_ns, reading.session);
            let began = Instant::now();
            let read = apart(session, move || read(&reading)).await.unwrap_or_else(|| Read {
                key,
                since_ns,
                lines: Vec::new(),
                facts: BTreeMap::new(),
                undecided: Some(Undecided::File),
                took: began.elapsed(),
            });
            // If the core is gone, the next daemon reads it.
            let _ = core.send(Command::Read(Box::new(read))).await;
        });
    }
}

/// The turns of each session.
static TURNS: Mutex<BTreeMap<u64, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());

/// Does something that may take for ever, because what is read may be on a filesystem whose server is the agent's: in a thread of its own, so
/// many at once for each session, so that none keeps others waiting. `None`: it took longer than [`TIME`].
pub async fn apart<T: Send + 'static>(session: u64, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let turns = {
        let mut all = TURNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.retain(|_, turns| Arc::strong_count(turns) > 1);
        Arc::clone(all.entry(session).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))))
    };
    let done = async {
        let turn = turns.acquire_owned().await.ok()?;
        let work = move || {
            // Until it is really over, whoever has stopped waiting for it.
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.ok()
    };
    tokio::time::timeout(TIME, done).await.ok().flatten()
}

/// Finds out what rules ask for, and decides.
fn read(r: &Reading) -> Read {
    let began = Instant::now();
    let words = words_of(r.pid, None);
    let wanted: Vec<Wanted> = (0..rounds(&r.found)).map(|n| wanted(&r.policy, &r.found.matched[n])).collect();
    let all = wanted.iter().copied().fold(Wanted::default(), Wanted::and);
    let mut told = BTreeMap::new();
    let env = all.has(Wanted::ENV).then(|| variables(r.pid));
    let script = all.has(Wanted::SCRIPT).then(|| script(r, &words));
    let mut lines = Some(Vec::new());
    for (n, wants) in wanted.iter().enumerate() {
        let file = wants.has(Wanted::HASH) || wants.has(Wanted::PACKAGE);
        let file = file.then(|| file_of(r, &words, n));
        let hash = file.as_ref().filter(|_| wants.has(Wanted::HASH)).map(|file| match file {
            Some((file, _)) => hash(file).map(Some).map_err(|_| Lack::Ever(Undecided::File)),
            None => Err(Lack::Ever(Undecided::File)),
        });
        let package = file.as_ref().filter(|_| wants.has(Wanted::PACKAGE)).map(|file| match file {
            Some((file, path)) => Ok(package(Path::new("/"), file, path)),
            None => Err(Lack::Ever(Undecided::File)),
        });
        // Of a script and its interpreter each has its own.
        let of = |name: &str| if n == 0 { name.to_owned() } else { format!("{name}.{n}") };
        if let Some(Ok(Some(hash))) = hash {
            told.insert(of("sha256"), hash.to_string());
        }
        if let Some(Ok(Some(package))) = &package {
            told.insert(of("package"), package.clone());
        }
        let nothing = Facts::default();
        let facts = Facts {
            args: words.as_deref().map_err(|e| *e),
            env: env.as_ref().map_or(nothing.env, |env| env.as_deref().map_err(|e| *e)),
            hash: hash.unwrap_or(nothing.hash),
            package: package
                .as_ref()
                .map_or(nothing.package, |p| p.as_ref().map(Option::as_deref).map_err(|e| *e)),
            script: script
                .as_ref()
                .map_or(nothing.script, |s| s.as_ref().map(Option::as_deref).map_err(|e| *e)),
        };
        let line = eval_line(&r.policy, &r.found.matched[n], &r.found.unsure[n], &facts);
        lines = lines.zip(line.ok()).map(|(mut all, line)| {
            all.push(line);
            all
        });
    }
    // All that is wanted is there, or never will be; were it not, nothing would be decided.
    let lines = lines.unwrap_or_default();
    let undecided = lines.iter().find_map(|line| line.undecided);
    Read { key: r.key, since_ns: r.since_ns, lines, facts: told, undecided, took: began.elapsed() }
}

/// A file's bytes, if there are no more than that many.
fn bounded(path: &Path, max: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(max + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= max).then_some(bytes)
}

/// The variables of a process that has run nothing yet.
fn variables(pid: u32) -> Fact<Vec<Vec<u8>>> {
    let text = bounded(Path::new(&format!("/proc/{pid}/environ")), MAX_ENV as u64);
    let text = text.ok_or(Lack::Ever(Undecided::Env))?;
    let each = text.strip_suffix(&[0]).unwrap_or(&text);
    Ok(each.split(|b| *b == 0).filter(|v| !v.is_empty()).map(<[u8]>::to_vec).collect())
}

/// The file of a program that was asked for, with the path it has: the last one is what runs, the others are scripts.
fn file_of(r: &Reading, words: &Words, n: usize) -> Option<(File, PathBuf)> {
    if n + 1 == rounds(&r.found) {
        return File::open(format!("/proc/{}/exe", r.pid)).ok().map(|file| (file, PathBuf::from(&r.path)));
    }
    script_file(r, words, &r.found.objects[n])
}

/// A script that the kernel was asked to run, by one of the words that it gave its interpreter.
fn script_file(r: &Reading, words: &Words, is: &ObjectId) -> Option<(File, PathBuf)> {
    // For each interpreter its own path, and at most one word more.
    words.as_ref().ok()?.iter().take(2 * rounds(&r.found)).find_map(|word| {
        let (file, path) = opened(r.pid, word)?;
        is_the_same(&file, r.pid, is).then_some((file, path))
    })
}

/// The text of the script that a program is given: of one that the kernel was asked to run, its own; otherwise of the file that the first
/// word names which is no option. No such file, no script.
fn script(r: &Reading, words: &Words) -> Fact<Option<Vec<u8>>> {
    let file = match rounds(&r.found) {
        0 | 1 => {
            let words = words.as_ref().map_err(|e| *e)?;
            match words.iter().find(|word| !word.starts_with(b"-")).and_then(|word| opened(r.pid, word)) {
                Some((file, _)) => file,
                None => return Ok(None),
            }
        }
        _ => script_file(r, words, &r.found.objects[0]).ok_or(Lack::Ever(Undecided::Script))?.0,
    };
    let mut text = Vec::new();
    let read = file.take(MAX_SCRIPT as u64 + 1).read_to_end(&mut text);
    match read {
        Ok(_) if text.len() <= MAX_SCRIPT => Ok(Some(text)),
        _ => Err(Lack::Ever(Undecided::Script)),
    }
}

/// A regular file as a process would find it by a name; its path there.
pub fn opened(pid: u32, name: &[u8]) -> Option<(File, PathBuf)> {
    // By the number of a descriptor: what is behind it, and not what is behind ours.
    let number = name.strip_prefix(b"/dev/fd/").and_then(|rest| std::str::from_utf8(rest).ok());
    if let Some(number) = number.and_then(|n| n.split('/').next()?.parse::<u32>().ok()) {
        let at = format!("/proc/{pid}/fd/{number}");
        let path = std::fs::read_link(&at).ok()?;
        return Some((regular(&at)?, path));
    }
    let link = |what: &str| std::fs::read_link(format!("/proc/{pid}/{what}")).ok();
    let name = Path::new(std::ffi::OsStr::from_bytes(name));
    let path = if name.is_absolute() {
        name.to_path_buf()
    } else {
        // Both as we see them; what it finds begins at its own root.
        let (root, cwd) = (link("root")?, link("cwd")?);
        Path::new("/").join(cwd.strip_prefix(&root).ok()?).join(name)
    };
    let root = File::open(format!("/proc/{pid}/root")).ok()?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found: OwnedFd = openat2(&root, &path, how).ok()?;
    Some((regular(&format!("/proc/self/fd/{}", found.as_raw_fd()))?, path))
}

/// Opens a regular file: opening anything else may wait, or do something.
fn regular(path: &str) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    // What is behind a descriptor may be another file by now.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    file.metadata().ok().filter(std::fs::Metadata::is_file).map(|_| file)
}

/// Whether a file is what the kernel saw. What `stat` says of device and inode is not what the kernel has for all filesystems (overlays,
/// subvolumes); what it says of a descriptor and its mount is.
pub fn is_the_same(file: &File, pid: u32, is: &ObjectId) -> bool {
    let field = |name: &str| -> Option<u64> {
        let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
        let text = String::from_utf8(bounded(Path::new(&path), 1 << 16)?).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    let same = || -> Option<bool> {
        let (ino, mount) = (field("ino:")?, field("mnt_id:")?);
        let mounts = bounded(Path::new(&format!("/proc/{pid}/mountinfo")), MOUNTS_MAX)?;
        let dev = String::from_utf8_lossy(&mounts).lines().find_map(|line| {
            let mut fields = line.split(' ');
            let id: u64 = fields.next()?.parse().ok()?;
            let (major, minor) = fields.nth(1)?.split_once(':')?;
            let dev = major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?;
            (id == mount).then_some(dev)
        })?;
        Some(ino == is.ino && dev == is.dev)
    };
    same().unwrap_or(false)
}

/// A file as it was when it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    dev: u64,
    ino: u64,
    size: u64,
    changed: (i64, i64),
}

impl State {
    fn of(file: &File) -> Result<Self, String> {
        let m = file.metadata().map_err(|e| e.to_string())?;
        Ok(Self { dev: m.dev(), ino: m.ino(), size: m.size(), changed: (m.ctime(), m.ctime_nsec()) })
    }
}

/// Something found lately, the oldest first.
struct Kept<K, V>(Mutex<Vec<(K, V)>>);

impl<K: PartialEq, V: Clone> Kept<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.iter().find(|(one, _)| one == key).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if all.len() >= KEPT {
            all.remove(0);
        }
        all.push((key, value));
    }
}

static HASHES: Kept<State, Sha256> = Kept(Mutex::new(Vec::new()));

/// SHA-256 of a file.
pub fn hash(mut file: &File) -> Result<Sha256, String> {
    let before = State::of(file)?;
    if before.size > PROGRAM_MAX {
        return Err(format!("it has more than {PROGRAM_MAX} bytes"));
    }
    if let Some(hash) = HASHES.get(&before) {
        return Ok(hash);
    }
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0u8; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => context.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    if State::of(file)? != before {
        return Err("it was changed while it was read".into());
    }
    let mut bytes = [0u8; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    let hash = Sha256::from(bytes);
    // What was changed just now can be changed again without its time telling so.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    if now.as_secs() as i64 - before.changed.0 >= SETTLED_SECONDS {
        HASHES.put(before, hash);
    }
    Ok(hash)
}

/// A path, and the lists when it was looked for in them.
type Listed = (PathBuf, [Option<(i64, i64)>; 2]);
static PACKAGES: Kept<Listed, Option<String>> = Kept(Mutex::new(Vec::new()));

/// The package of the host that a file belongs to, by the lists that dpkg or apk keep. A file that only has the name of one that does, in a
/// container or since a mount, belongs to none.
pub fn package(root: &Path, file: &File, path: &Path) -> Option<String> {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let is = file.metadata().ok()?;
    let there = std::fs::metadata(below(path)).ok()?;
    if (is.dev(), is.ino()) != (there.dev(), there.ino()) {
        return None;
    }
    let changed = |path: &str| std::fs::metadata(root.join(path)).ok().map(|m| (m.mtime(), m.mtime_nsec()));
    let key = (below(path), [changed("var/lib/dpkg/info"), changed("lib/apk/db/installed")]);
    if let Some(package) = PACKAGES.get(&key) {
        return package;
    }
    // What is in /bin may be listed so, or as in /usr/bin: they are one directory on most hosts.
    let other = match path.strip_prefix("/usr") {
        Ok(rest) => Path::new("/").join(rest),
        Err(_) => Path::new("/usr").join(path.strip_prefix("/").unwrap_or(path)),
    };
    let paths = [path.as_os_str().as_bytes(), other.as_os_str().as_bytes()];
    let package = dpkg(root, paths).or_else(|| apk(root, paths));
    PACKAGES.put(key, package.clone());
    package
}

/// `NAME.list` or `NAME:ARCH.list`: a path a line.
fn dpkg(root: &Path, paths: [&[u8]; 2]) -> Option<String> {
    for entry in std::fs::read_dir(root.join("var/lib/dpkg/info")).ok()?.flatten() {
        let name = entry.file_name().into_vec();
        let Some(package) = name.strip_suffix(b".list") else { continue };
        let Some(list) = bounded(&entry.path(), LIST_MAX) else { continue };
        if list.split(|b| *b == b'\n').any(|line| paths.contains(&line)) {
            let package = package.split(|b| *b == b':').next().unwrap_or_default();
            return Some(String::from_utf8_lossy(package).into_owned());
        }
    }
    None
}

/// Blocks of lines: `P:NAME`, then `F:DIRECTORY` without its first slash, each followed by its files as `R:NAME`.
fn apk(root: &Path, paths: [&[u8]; 2]) -> Option<String> {
    let list = bounded(&root.join("lib/apk/db/installed"), LIST_MAX)?;
    let (mut package, mut directory) = (String::new(), String::new());
    for line in String::from_utf8_lossy(&list).lines() {
        match line.split_once(':') {
            Some(("P", name)) => package = name.to_owned(),
            Some(("F", name)) => directory = name.to_owned(),
            Some(("R", name)) if paths.contains(&format!("/{directory}/{name}").as_bytes()) => {
                return Some(package);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as the kernel sees it, where it is not an overlay's.
    fn object(file: &File) -> ObjectId {
        let m = file.metadata().unwrap();
        ObjectId { ino: m.ino(), dev: libc::major(m.dev()) << 20 | libc::minor(m.dev()), mode: m.mode() }
    }

    fn m_dev(file: &File) -> String {
        let dev = file.metadata().unwrap().dev();
        format!("{}:{}", libc::major(dev), libc::minor(dev))
    }

    #[test]
    fn a_file_is_known_by_what_it_is_and_not_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, "abc").unwrap();
        let me = std::process::id();
        let open = || opened(me, path.as_os_str().as_bytes()).unwrap().0;
        let shown = |file: &File| hash(file).unwrap().to_string();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(shown(&open()), abc);
        let text = String::from_utf8(bounded(Path::new("/proc/self/mountinfo"), 1 << 20).unwrap()).unwrap();
        // Where `stat` tells the device of a mount, it tells what the kernel has.
        let dev = m_dev(&open());
        let plain = text.lines().any(|line| line.split(' ').nth(2) == Some(&dev));
        let is = object(&open());
        assert!(!plain || is_the_same(&open(), me, &is));
        assert!(!is_the_same(&open(), me, &ObjectId { ino: is.ino + 1, ..is }));
        // Changed in place, at once: the same file, another hash.
        std::fs::write(&path, "abd").unwrap();
        assert_ne!(shown(&open()), abc);
    }

    #[test]
    fn only_regular_files_are_opened_and_by_the_names_that_a_process_has_for_them() {
        let me = std::process::id();
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Would wait for somebody to write.
        assert!(opened(me, pipe.as_os_str().as_bytes()).is_none());
        for name in
            [&b"/dev/null"[..], b"/proc", b"/nowhere", b"", b"a\0b", b"/dev/fd/x", b"/dev/fd/4294967295"]
        {
            assert!(opened(me, name).is_none(), "{}", name.escape_ascii());
        }
        let file = File::open("/proc/self/exe").unwrap();
        let (found, path) = opened(me, format!("/dev/fd/{}/x", file.as_raw_fd()).as_bytes()).unwrap();
        assert_eq!(found.metadata().unwrap().ino(), file.metadata().unwrap().ino());
        assert_eq!(path, std::env::current_exe().unwrap());
        assert!(opened(me, b"Cargo.toml").is_some(), "from where it works");
    }

    #[tokio::test]
    async fn a_session_whose_files_do_not_answer_keeps_no_other_waiting() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let stuck = |held: &Arc<Mutex<std::sync::mpsc::Receiver<()>>>| {
            let held = Arc::clone(held);
            tokio::spawn(apart(1, move || held.lock().unwrap().recv().is_ok()))
        };
        let all: Vec<_> = (0..AT_ONCE + 2).map(|_| stuck(&held)).collect();
        assert_eq!(apart(2, || 7).await, Some(7));
        for one in all {
            assert_eq!(one.await.unwrap(), None, "it took too long");
        }
        drop(hold);
    }

    #[test]
    fn packages_by_the_lists_of_dpkg_and_apk() {
        let root = tempfile::tempdir().unwrap();
        let info = root.path().join("var/lib/dpkg/info");
        std::fs::create_dir_all(&info).unwrap();
        std::fs::write(info.join("git:amd64.list"), "/.\n/usr/bin\n/usr/bin/git\n").unwrap();
        std::fs::write(info.join("git.md5sums"), "/bin/other\n").unwrap();
        let put = |path: &str| {
            let at = root.path().join(&path[1..]);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(&at, path).unwrap();
            File::open(at).unwrap()
        };
        let found = |file: &File, path: &str| package(root.path(), file, Path::new(path));
        let (git, link, other) = (put("/usr/bin/git"), put("/bin/git"), put("/bin/other"));
        assert_eq!(found(&git, "/usr/bin/git").as_deref(), Some("git"));
        assert_eq!(found(&link, "/bin/git").as_deref(), Some("git"));
        assert_eq!(found(&other, "/bin/other"), None);
        // It has the name only.
        assert_eq!(found(&other, "/usr/bin/git"), None);
        let db = root.path().join("lib/apk/db");
        std::fs::create_dir_all(&db).unwrap();
        std::fs::write(db.join("installed"), "P:curl\nF:usr\nF:usr/bin\nR:curl\nZ:x\n\nP:b\nF:etc\nR:b\n")
            .unwrap();
        assert_eq!(found(&put("/usr/bin/curl"), "/usr/bin/curl").as_deref(), Some("curl"));
        assert_eq!(found(&put("/etc/b"), "/etc/b").as_deref(), Some("b"));
    }
}
