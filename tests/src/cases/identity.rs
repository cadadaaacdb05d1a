//! A rule protects an object, whatever it is called and however it is held.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use aarm_common::state::MOVES_TRUSTED;
use anyhow::{Result, ensure};

use super::Case;
use crate::bpf;
use crate::host::{Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("a_hard_link_from_before_is_no_way_around", hard_link),
    ("a_hard_link_made_in_the_session_is_no_way_around_a_rule_on_running_it", link_to_run),
    ("a_bind_mount_from_before_is_no_way_around", bind_mount),
    ("a_directory_above_cannot_be_renamed_away", rename_above),
    ("a_descriptor_from_before_is_decided_when_it_is_used", inherited),
    ("a_file_in_the_place_of_another_inherits_no_decision", in_its_place),
    ("what_is_moved_has_its_new_name_at_once", moved),
    ("other_processes_are_beyond_the_session", processes),
];

const RULES: &str = "
- { id: no-secrets, match: { operation: [read, write], path: '/tmp/i/home/secret/**' }, decision: DENY }
- { id: no-signals, match: { operation: signal }, decision: DENY }
";

fn world() -> Result<()> {
    let _ = std::fs::remove_dir_all("/tmp/i");
    file("/tmp/i/home/secret/key", "secret")?;
    file("/tmp/i/home/free", "free")
}

fn hard_link() -> Result<()> {
    world()?;
    std::fs::hard_link("/tmp/i/home/secret/key", "/tmp/i/link")?;
    let h = Host::start(&policy(RULES))?;
    h.act(&["read", "/tmp/i/link"])?.refused("open_read", "/tmp/i/link", "no-secrets")?;
    h.act(&["read", "/tmp/i/home/free"])?.allowed("open_read", "/tmp/i/home/free")
}

/// Found while the differential test was built: the link is decided as reading and writing, which nothing forbids here; and the name that
/// the rule is about was not met while the file had two.
fn link_to_run() -> Result<()> {
    world()?;
    file("/tmp/i/home/tool", "text")?;
    std::fs::set_permissions("/tmp/i/home/tool", std::fs::Permissions::from_mode(0o755))?;
    let h = Host::start(&policy(
        "- { id: no-tool, match: { operation: exec, path: '/tmp/i/home/tool' }, decision: DENY }\n",
    ))?;
    let script =
        format!("{ME} actor link /tmp/i/home/tool /tmp/i/other && exec {ME} actor exec /tmp/i/other");
    h.run(&[], &["/bin/sh", "-c", &script])?.refused("exec", "/tmp/i/other", "no-tool")
}

fn bind_mount() -> Result<()> {
    world()?;
    std::fs::create_dir_all("/tmp/i/mnt")?;
    let mount = |args: &[&str]| Command::new("/bin/busybox").args(args).status();
    ensure!(mount(&["mount", "-o", "bind", "/tmp/i/home/secret", "/tmp/i/mnt"])?.success());
    let a = Host::start(&policy(RULES)).and_then(|h| h.act(&["read", "/tmp/i/mnt/key"]));
    ensure!(mount(&["umount", "/tmp/i/mnt"])?.success());
    let a = a?;
    a.refused("open_read", "/tmp/i/mnt/key", "no-secrets")?;
    // The receipt says what it is on the host.
    a.refused("open_read", "/tmp/i/home/secret/key", "no-secrets")
}

fn rename_above() -> Result<()> {
    world()?;
    let h = Host::start(&policy(RULES))?;
    let a = h.act(&["rename", "/tmp/i/home", "/tmp/i/elsewhere"])?;
    a.refused("rename", "/tmp/i/home", "no-secrets")?;
    ensure!(std::path::Path::new("/tmp/i/home/secret/key").exists());
    h.act(&["rename", "/tmp/i/home/free", "/tmp/i/home/freed"])?.allowed("rename", "/tmp/i/home/free")
}

fn inherited() -> Result<()> {
    world()?;
    let h = Host::start(&policy(RULES))?;
    let read = |path: &str| -> Result<bool> {
        let mut c = Command::new("/usr/local/bin/aarm");
        c.args(["run", "--", "/bin/busybox", "cat"]).stdin(std::fs::File::open(path)?);
        Ok(c.stdout(Stdio::piped()).output()?.stdout.is_empty())
    };
    ensure!(!read("/tmp/i/home/free")?, "a free file is not read");
    ensure!(read("/tmp/i/home/secret/key")?, "the secret came through a descriptor from before");
    let denied = h.recorded(&["--decision", "DENY"])?;
    let held = |r: &serde_json::Value| {
        r["action"]["path"] == "/tmp/i/home/secret/key"
            && r["action"]["flags"].as_array().is_some_and(|f| f.iter().any(|f| f == "inherited"))
    };
    ensure!(denied.iter().any(held), "{denied:?}");
    Ok(())
}

/// A path that is known must not outlive what it was made from. The moves are made from outside: in the session they would be asked about.
fn moved() -> Result<()> {
    world()?;
    std::fs::create_dir("/tmp/i/closed")?;
    file("/tmp/i/open/d/f", "x")?;
    let h = Host::start(&policy(
        "- { id: closed, match: { operation: open_read, path: '/tmp/i/closed/**' }, decision: DENY }\n",
    ))?;
    // Else each path is built anew, and this shows nothing. (The log tells only if this very daemon loaded the programs.)
    ensure!(bpf::number("/sys/fs/bpf/aarm/maps/MOVES", MOVES_TRUSTED)? == 1, "{}", h.log());
    let (open, closed) = (c"/tmp/i/open".as_ptr(), c"/tmp/i/closed".as_ptr());
    let (at, none) = (libc::AT_FDCWD, std::ptr::null());
    // SAFETY: paths that end in NUL, or null.
    let (rename, back, exchange, bind, mv, unmount) = unsafe {
        (
            || libc::rename(open, closed),
            || libc::rename(closed, open),
            || libc::renameat2(at, open, at, closed, libc::RENAME_EXCHANGE),
            || libc::mount(open, open, none, libc::MS_BIND, none.cast()),
            |from, to| libc::mount(from, to, none, libc::MS_MOVE, none.cast()),
            |from| libc::umount2(from, libc::MNT_DETACH),
        )
    };
    let done = |result: i32| -> Result<()> {
        ensure!(result == 0, "{}", std::io::Error::last_os_error());
        Ok(())
    };
    let again = || -> Result<()> { Ok(std::fs::create_dir("/tmp/i/closed")?) };
    // What is held is the directory where it was opened: in the last rounds that is the mount.
    type Move<'a> = &'a dyn Fn() -> Result<()>;
    let rounds = |moves: &[Move<'_>]| -> Result<String> {
        for name in std::fs::read_dir("/tmp/i")?.flatten().map(|e| e.path()) {
            if name.is_file() {
                std::fs::remove_file(name)?;
            }
        }
        let count = moves.len().to_string();
        std::thread::scope(|scope| {
            let attempt = scope.spawn(|| h.act(&["as-it-moves", "/tmp/i", "/tmp/i/open/d", &count]));
            for (n, act) in moves.iter().enumerate() {
                act()?;
                std::fs::write(format!("/tmp/i/go{n}"), "")?;
                let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
                while !std::path::Path::new(&format!("/tmp/i/done{n}")).exists() {
                    ensure!(std::time::Instant::now() < deadline, "round {n} does not end");
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            let a = attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))??;
            ensure!(a.status == 0, "{}", a.tell());
            Ok(a.output.lines().collect::<Vec<_>>().join(", "))
        })
    };
    let stay: Move<'_> = &|| Ok(());
    std::fs::remove_dir("/tmp/i/closed")?;
    let told = rounds(&[
        stay,
        &|| done(rename()),
        &|| done(back()),
        &|| again().and_then(|()| done(exchange())),
        &|| done(exchange()),
    ])?;
    ensure!(told == "0 0, 1 1, 0 0, 1 1, 0 0", "renamed: {told}");
    done(bind())?;
    let told =
        rounds(&[stay, &|| done(mv(open, closed)), &|| done(mv(closed, open)), &|| done(mv(open, closed))]);
    done(unmount(closed))?;
    let told = told?;
    ensure!(told == "0 0, 1 1, 0 0, 1 1", "mounted: {told}");
    h.verified()
}

/// A path is remembered under the addresses and numbers that it was made from, all of which may serve another file later.
fn in_its_place() -> Result<()> {
    const DIR: &str = "/tmp/i/disk";
    const TIMES: &str = "200";
    world()?;
    std::fs::create_dir(DIR)?;
    let busybox = |args: &[&str]| -> Result<()> {
        let out = Command::new("/bin/busybox").args(args).output()?;
        ensure!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    };
    // A filesystem that uses a number again at once. Without a module for it this kernel can only try one that does not.
    crate::escapes::modules::loaded(&["loop"])?;
    let image = "/tmp/i/image";
    let has_disk = std::path::Path::new("/dev/loop-control").exists();
    if has_disk {
        std::fs::File::create(image)?.set_len(8 << 20)?;
        busybox(&["mke2fs", "-F", image])?;
        busybox(&["mount", "-t", "ext2", "-o", "loop", image, DIR])?;
    }
    let tried = Host::start(&policy(
        "- { id: no-secret, match: { operation: [open_read, open_write], path: '/tmp/i/disk/secret/**' }, decision: DENY }\n",
    ))
    .and_then(|h| {
        let a = h.act(&["in-its-place", DIR, TIMES])?;
        h.verified()?;
        Ok(a)
    });
    if has_disk {
        busybox(&["umount", "-d", DIR])?;
    }
    let a = tried?;
    let reused = a.output.lines().find_map(|l| l.strip_prefix("reused ")?.parse::<u32>().ok());
    ensure!(
        a.status == 0 && reused.is_some_and(|n| n > 100 || !has_disk),
        "{} {reused:?}: {}",
        a.status,
        a.output
    );
    // Each has the path that it had.
    let opens = a.receipts.iter().filter(|r| r["action"]["operation"] == "open_read");
    let of = |r: &serde_json::Value| (r["action"]["path"].clone(), r["decision"]["result"].clone());
    let mut counts = [0; 2];
    for (path, result) in opens.map(of) {
        match (path.as_str(), result.as_str()) {
            (Some("/tmp/i/disk/plain/f"), Some("ALLOW")) => counts[0] += 1,
            (Some("/tmp/i/disk/secret/f"), Some("DENY")) => counts[1] += 1,
            (Some(path), _) if path.starts_with(DIR) => anyhow::bail!("{path}: {result}"),
            _ => {}
        }
    }
    ensure!(counts == [600, 600], "{counts:?}");
    Ok(())
}

fn processes() -> Result<()> {
    world()?;
    let h = Host::start(&policy(RULES))?;
    let mut victim = Command::new("/bin/busybox").args(["sleep", "60"]).process_group(0).spawn()?;
    let script = format!("kill -TERM {0}; kill -0 $$ && exec {ME} actor nothing", victim.id());
    let a = h.run(&[], &["/bin/sh", "-c", &script])?;
    let alive = victim.try_wait()?.is_none();
    victim.kill()?;
    victim.wait()?;
    ensure!(alive, "a process outside was ended\n{}", a.tell());
    ensure!(a.decision("signal", "").is_some_and(|d| d.0 == "DENY"), "{}", a.tell());
    // Within the session nothing is recorded of it.
    ensure!(a.receipts.iter().filter(|r| r["action"]["operation"] == "signal").count() == 1, "{}", a.tell());
    Ok(())
}
