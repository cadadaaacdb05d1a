//! `hash`: what the program is that an action is about: the one that would run, otherwise the one that acts.
//!
//! Reads the very file that the kernel decided about: what has its name by now may be another one, and is not looked at.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use super::{Answer, Job};

/// Largest program that is read.
const PROGRAM_MAX: u64 = 1 << 30;
/// Programs whose hash is kept.
const KEPT: usize = 1024;
/// Seconds after which a change of a file shows in its time for sure.
const SETTLED_SECONDS: i64 = 2;
/// Largest list of files that a package manager has.
const LIST_MAX: u64 = 64 << 20;

/// A file as it was when it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    dev: u64,
    ino: u64,
    size: u64,
    changed: (i64, i64),
}

/// Hashes found lately, the oldest first.
static KNOWN: Mutex<Vec<(Identity, String)>> = Mutex::new(Vec::new());

/// Finds it out.
pub(super) fn resolve(job: &Job) -> Answer {
    let runs = job.about.operation == "exec";
    // Through the root of who acts: a container's program has its path there.
    let path = match runs {
        true => format!("/proc/{}/root{}", job.about.pid, job.about.path),
        false => format!("/proc/{}/exe", job.about.pid),
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) => return Answer::failed(format!("{path}: {e}")),
    };
    let name = if runs { &job.about.path } else { &job.about.exe };
    match hash(file, job.object.filter(|_| runs)) {
        Ok(hash) => {
            let mut facts = std::collections::BTreeMap::from([("sha256".to_owned(), hash.clone())]);
            let package = package(Path::new("/"), name);
            let detail = match &package {
                Some(package) => format!("sha256 {hash}, of package {package}"),
                None => format!("sha256 {hash}, of no package"),
            };
            facts.extend(package.map(|package| ("package".to_owned(), package)));
            Answer { found: None, detail, facts }
        }
        Err(why) => Answer::failed(why),
    }
}

/// SHA-256 of a file, which must be the one with this device (in the kernel's encoding) and inode.
fn hash(mut file: File, is: Option<(u32, u64)>) -> Result<String, String> {
    let identity = |file: &File| -> Result<Identity, String> {
        let m = file.metadata().map_err(|e| e.to_string())?;
        let changed = (m.ctime(), m.ctime_nsec());
        Ok(Identity { dev: m.dev(), ino: m.ino(), size: m.size(), changed })
    };
    let before = identity(&file)?;
    if let Some((dev, ino)) = is {
        let same = libc::major(before.dev) << 20 | libc::minor(before.dev) == dev && before.ino == ino;
        if !same {
            return Err("what has its name is another file by now".into());
        }
    }
    if before.size > PROGRAM_MAX {
        return Err(format!("it has more than {PROGRAM_MAX} bytes"));
    }
    let known = || KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, hash)) = known().iter().find(|(identity, _)| *identity == before) {
        return Ok(hash.clone());
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
    if identity(&file)? != before {
        return Err("it was changed while it was read".into());
    }
    let hash: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    // What was changed just now can be changed again without its time telling so.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    if now.as_secs() as i64 - before.changed.0 < SETTLED_SECONDS {
        return Ok(hash);
    }
    let mut all = known();
    if all.len() >= KEPT {
        all.remove(0);
    }
    all.push((before, hash.clone()));
    Ok(hash)
}

/// The package of the host that a file belongs to, by the lists that dpkg or apk keep.
fn package(root: &Path, path: &str) -> Option<String> {
    // What is in /bin may be listed so, or as in /usr/bin: they are one directory on most hosts.
    let other = match path.strip_prefix("/usr") {
        Some(rest) => rest.to_owned(),
        None => format!("/usr{path}"),
    };
    dpkg(root, &[path, &other]).or_else(|| apk(root, &[path, &other]))
}

fn text(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LIST_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// `NAME.list` or `NAME:ARCH.list`: a path a line.
fn dpkg(root: &Path, paths: &[&str]) -> Option<String> {
    for entry in std::fs::read_dir(root.join("var/lib/dpkg/info")).ok()?.flatten() {
        let name = entry.file_name();
        let Some(package) = name.to_str().and_then(|name| name.strip_suffix(".list")) else { continue };
        let Some(list) = text(&entry.path()) else { continue };
        if list.split(|b| *b == b'\n').any(|line| paths.iter().any(|path| path.as_bytes() == line)) {
            return Some(package.split(':').next().unwrap_or(package).to_owned());
        }
    }
    None
}

/// Blocks of lines: `P:NAME`, then `F:DIRECTORY` without its first slash, each followed by its files as `R:NAME`.
fn apk(root: &Path, paths: &[&str]) -> Option<String> {
    let list = text(&root.join("lib/apk/db/installed"))?;
    let (mut package, mut directory) = (String::new(), String::new());
    for line in String::from_utf8_lossy(&list).lines() {
        match line.split_once(':') {
            Some(("P", name)) => package = name.to_owned(),
            Some(("F", name)) => directory = name.to_owned(),
            Some(("R", name)) if paths.contains(&format!("/{directory}/{name}").as_str()) => {
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

    #[test]
    fn a_file_is_known_by_what_it_is_and_not_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, "abc").unwrap();
        let open = || File::open(&path).unwrap();
        let m = std::fs::metadata(&path).unwrap();
        let dev = libc::major(m.dev()) << 20 | libc::minor(m.dev());
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash(open(), Some((dev, m.ino()))).as_deref(), Ok(abc));
        assert_eq!(hash(open(), None).as_deref(), Ok(abc));
        assert!(hash(open(), Some((dev, m.ino() + 1))).unwrap_err().contains("another file"));
        // Changed in place, at once: the same file, another hash.
        std::fs::write(&path, "abd").unwrap();
        assert_ne!(hash(open(), None).as_deref(), Ok(abc));
    }

    #[test]
    fn packages_by_the_lists_of_dpkg_and_apk() {
        let root = tempfile::tempdir().unwrap();
        let info = root.path().join("var/lib/dpkg/info");
        std::fs::create_dir_all(&info).unwrap();
        std::fs::write(info.join("git:amd64.list"), "/.\n/usr/bin\n/usr/bin/git\n").unwrap();
        std::fs::write(info.join("git.md5sums"), "/bin/other\n").unwrap();
        let found = |path| package(root.path(), path);
        assert_eq!(found("/usr/bin/git").as_deref(), Some("git"));
        assert_eq!(found("/bin/git").as_deref(), Some("git"));
        assert_eq!(found("/bin/other"), None);
        let db = root.path().join("lib/apk/db");
        std::fs::create_dir_all(&db).unwrap();
        std::fs::write(db.join("installed"), "P:curl\nF:usr\nF:usr/bin\nR:curl\nZ:x\n\nP:b\nF:etc\nR:b\n")
            .unwrap();
        assert_eq!(found("/usr/bin/curl").as_deref(), Some("curl"));
        assert_eq!(found("/etc/b").as_deref(), Some("b"));
    }
}
