//! A path is the object's, however it was named.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("symlinks_chains_and_dots_lead_to_the_object", links),
    ("the_process_root_is_no_way_around", proc_root),
    ("a_chroot_is_no_way_around", chroot),
    ("mounts_are_crossed", mounts),
    ("depth_has_no_bound_but_the_length", deep),
    ("a_path_over_the_bound_is_refused", too_long),
    ("hostile_names_are_recorded_exactly", hostile_names),
    ("the_root_directory_is_slash", root),
];

const RULES: &str = "
- { id: no-secrets, match: { operation: [read, write], path: '/tmp/p/secret/**' }, decision: DENY }
- { id: no-leaf, match: { operation: read, path: '**/forbidden-leaf' }, decision: DENY }
";

fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/p");
    file("/tmp/p/secret/key", "secret")?;
    Host::start(&policy(RULES))
}

fn links() -> Result<()> {
    let h = host()?;
    std::os::unix::fs::symlink("/tmp/p/secret/key", "/tmp/p/one")?;
    std::os::unix::fs::symlink("/tmp/p/one", "/tmp/p/two")?;
    std::os::unix::fs::symlink("/tmp/p/secret", "/tmp/p/dir")?;
    for name in [
        "/tmp/p/one",
        "/tmp/p/two",
        "/tmp/p/dir/key",
        "/tmp/p/x/../secret/./key",
        "/tmp/p/../../tmp/p/secret/key",
    ] {
        std::fs::create_dir_all("/tmp/p/x")?;
        h.act(&["read", name])?.refused("open_read", "/tmp/p/secret/key", "no-secrets")?;
    }
    Ok(())
}

fn proc_root() -> Result<()> {
    let h = host()?;
    for name in ["/proc/self/root/tmp/p/secret/key", "/proc/self/cwd/../tmp/p/secret/key"] {
        h.act(&["read", name])?.refused("open_read", "/tmp/p/secret/key", "no-secrets")?;
    }
    Ok(())
}

fn chroot() -> Result<()> {
    let h = host()?;
    h.act(&["chroot-read", "/tmp/p", "/secret/key"])?.refused("open_read", "/tmp/p/secret/key", "no-secrets")
}

fn mounts() -> Result<()> {
    let h = host()?;
    std::fs::create_dir_all("/tmp/p/mnt")?;
    ensure!(
        Command::new("/bin/busybox").args(["mount", "-t", "tmpfs", "t", "/tmp/p/mnt"]).status()?.success()
    );
    file("/tmp/p/mnt/d/forbidden-leaf", "x")?;
    file("/tmp/p/mnt/d/free", "x")?;
    let refused = h.act(&["read", "/tmp/p/mnt/d/forbidden-leaf"])?;
    let allowed = h.act(&["read", "/tmp/p/mnt/d/free"])?;
    ensure!(Command::new("/bin/busybox").args(["umount", "/tmp/p/mnt"]).status()?.success());
    refused.refused("open_read", "/tmp/p/mnt/d/forbidden-leaf", "no-leaf")?;
    allowed.allowed("open_read", "/tmp/p/mnt/d/free")
}

/// Makes `depth` directories of one name, one inside the other, and a file in the last: step by step, because
/// no single path could name them.
fn nest(root: &str, depth: usize, name: &str, leaf: &str) -> Result<()> {
    std::fs::create_dir_all(root)?;
    let (root, name, leaf) = (CString::new(root)?, CString::new(name)?, CString::new(leaf)?);
    let check = |fd: i32| if fd < 0 { Err(std::io::Error::last_os_error()) } else { Ok(fd) };
    // SAFETY: names end in NUL; the descriptors are our own.
    unsafe {
        let mut dir = check(libc::open(root.as_ptr(), libc::O_PATH | libc::O_DIRECTORY))?;
        for _ in 0..depth {
            check(libc::mkdirat(dir, name.as_ptr(), 0o755))?;
            let next = check(libc::openat(dir, name.as_ptr(), libc::O_PATH | libc::O_DIRECTORY))?;
            libc::close(dir);
            dir = next;
        }
        let file = check(libc::openat(dir, leaf.as_ptr(), libc::O_WRONLY | libc::O_CREAT, 0o644))?;
        libc::close(file);
        libc::close(dir);
    }
    Ok(())
}

fn deep() -> Result<()> {
    let h = host()?;
    nest("/tmp/p/deep", 40, "directory", "forbidden-leaf")?;
    let path = format!("/tmp/p/deep{}/forbidden-leaf", "/directory".repeat(40));
    h.act(&["read", &path])?.refused("open_read", &path, "no-leaf")?;
    // The deepest a path of that length can be: 2,000 names of one byte.
    nest("/tmp/p/narrow", 2000, "d", "forbidden-leaf")?;
    let path = format!("/tmp/p/narrow{}/forbidden-leaf", "/d".repeat(2000));
    ensure!(path.len() < 4096);
    let a = h.act(&["deep-open", "/tmp/p/narrow", "2000", "d", "forbidden-leaf"])?;
    a.refused("open_read", &path, "no-leaf")
}

fn too_long() -> Result<()> {
    let h = host()?;
    nest("/tmp/p/long", 30, &"n".repeat(200), "free")?;
    let a = h.act(&["deep-open", "/tmp/p/long", "30", &"n".repeat(200), "free"])?;
    ensure!(a.errno() == libc::EPERM, "errno {}\n{}", a.errno(), a.tell());
    let told = a
        .receipts
        .iter()
        .any(|r| r["decision"]["cause"] == "path_too_long" && r["decision"]["result"] == "DENY");
    ensure!(told, "{}", a.tell());
    Ok(())
}

fn hostile_names() -> Result<()> {
    let h = host()?;
    let long = "l".repeat(255);
    for (name, recorded) in [
        (b"new\nline \"quoted\"".to_vec(), "/tmp/p/names/new%0Aline \"quoted\"".to_owned()),
        (vec![0xff, 0xfe, b'x'], "/tmp/p/names/%FF%FEx".to_owned()),
        (b"per%cent".to_vec(), "/tmp/p/names/per%25cent".to_owned()),
        (long.clone().into_bytes(), format!("/tmp/p/names/{long}")),
    ] {
        let path = PathBuf::from("/tmp/p/names").join(std::ffi::OsString::from_vec(name));
        std::fs::create_dir_all("/tmp/p/names")?;
        std::fs::write(&path, "x")?;
        // By a shell glob, since arguments of cases are text.
        let a = h.run(
            &[],
            &[
                "/bin/sh",
                "-c",
                &format!("cd /tmp/p/names && for f in *; do {ME} actor nothing; read x < \"$f\"; done"),
            ],
        )?;
        let seen = a.decision("open_read", &recorded);
        std::fs::remove_file(&path)?;
        ensure!(seen.as_ref().is_some_and(|s| s.0 == "ALLOW"), "{recorded}: {seen:?}\n{}", a.tell());
    }
    h.verified()
}

fn root() -> Result<()> {
    let h = host()?;
    h.act(&["list", "/"])?.allowed("open_read", "/")?;
    ensure!(Path::new("/").is_dir());
    Ok(())
}
