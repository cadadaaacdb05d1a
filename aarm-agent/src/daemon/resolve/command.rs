//! A program that is asked: what it is asked on its standard input, its answer on its standard output, as JSON.
//!
//! It runs as another user, without a way to more rights, without network unless its settings say so, within limits, with nothing of the
//! daemon's environment, and ends with its time: it and all that it has started, as far as they stay in its process group.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{Answer, REPLY_MAX, reply};
use crate::daemon::config::Resolver;

/// Most bytes of memory that it can have.
const MEMORY_MAX: u64 = 1 << 30;
/// Most files that it can hold open.
const FILES_MAX: u64 = 64;
/// Most bytes that are told of what it complains about.
const COMPLAINT_MAX: usize = 200;

/// Ends a process group when it goes out of scope.
struct Group(i32);

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: numbers only. Its number is that of a child that was not waited for, or of a group that still has members; otherwise there
        // is none such.
        unsafe { libc::kill(-self.0, libc::SIGKILL) };
    }
}

/// Number and group of a user of this host.
fn user(passwd: &Path, name: &str) -> Result<(u32, u32), String> {
    let text = std::fs::read(passwd).map_err(|e| format!("{}: {e}", passwd.display()))?;
    let text = String::from_utf8_lossy(&text);
    let found = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [known, _, uid, gid, ..] = fields[..] else { return None };
        (known == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?))).flatten()
    });
    found.ok_or_else(|| format!("there is no user `{name}` on this host"))
}

/// In the child, before it becomes the program: nothing but system calls.
fn confine(uid: u32, gid: u32, network: bool) -> std::io::Result<()> {
    let check = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    let limit = |what, value| {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: a valid struct.
        check(unsafe { libc::setrlimit(what, &raw const limit) })
    };
    limit(libc::RLIMIT_AS, MEMORY_MAX)?;
    limit(libc::RLIMIT_NOFILE, FILES_MAX)?;
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_FSIZE, 0)?;
    // SAFETY: numbers and a null that goes with a length of 0.
    unsafe {
        if !network {
            check(libc::unshare(libc::CLONE_NEWNET))?;
        }
        if libc::geteuid() == 0 {
            check(libc::setgroups(0, std::ptr::null()))?;
            check(libc::setresgid(gid, gid, gid))?;
            check(libc::setresuid(uid, uid, uid))?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))
    }
}

/// Asks it.
pub(super) async fn resolve(words: &[String], resolver: &Resolver, question: Vec<u8>) -> Answer {
    let Some((program, arguments)) = words.split_first() else { return Answer::failed("no program") };
    let (uid, gid) = match user(Path::new("/etc/passwd"), &resolver.user) {
        Ok(ids) => ids,
        Err(why) => return Answer::failed(why),
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let network = resolver.network;
    // SAFETY: only system calls.
    unsafe { command.pre_exec(move || confine(uid, gid, network)) };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return Answer::failed(format!("{program}: {e}")),
    };
    // However this ends: with its answer, with its time, or with the daemon.
    let _group = child.id().map(|pid| Group(pid as i32));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Answer::failed("no pipes");
    };
    let asks = async {
        // One that does not read all of it may answer all the same.
        let _ = stdin.write_all(&question).await;
        drop(stdin);
    };
    let mut said = Vec::new();
    let mut complaint = Vec::new();
    let (mut stdout, mut stderr) = (stdout.take(REPLY_MAX as u64 + 1), stderr.take(COMPLAINT_MAX as u64));
    let (_, read, _) = tokio::join!(asks, stdout.read_to_end(&mut said), stderr.read_to_end(&mut complaint));
    if let Err(e) = read {
        return Answer::failed(format!("{program}: {e}"));
    }
    if said.len() > REPLY_MAX {
        return Answer::failed(format!("its answer has more than {REPLY_MAX} bytes"));
    }
    match child.wait().await {
        Ok(status) if status.success() => reply(&said),
        Ok(status) => {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with status {code}"),
                (_, Some(signal)) => format!("was ended by signal {signal}"),
                _ => "did not end well".to_owned(),
            };
            let complaint = String::from_utf8_lossy(&complaint);
            Answer::failed(format!("{program} {how}: {}", complaint.trim()))
        }
        Err(e) => Answer::failed(format!("{program}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;

    #[test]
    fn users_by_the_passwd_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        std::fs::write(&path, "root:x:0:0::/:/bin/sh\nnobody:x:65534:65533::/:/x\nbad:x:a:1::/:/x\n")
            .unwrap();
        assert_eq!(user(&path, "nobody"), Ok((65534, 65533)));
        assert!(user(&path, "bad").is_err() && user(&path, "eve").is_err());
    }

    #[test]
    fn a_program_answers_or_fails() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ask = |script: &str| {
            let words = ["/bin/sh", "-c", script].map(str::to_owned);
            // Namespaces are for root.
            let resolver = Resolver { network: true, user: "root".into(), ..Resolver::default() };
            runtime.block_on(resolve(&words, &resolver, b"{\"v\":1}".to_vec()))
        };
        let a = ask("read q; test \"$q\" = '{\"v\":1}' && echo '{\"decision\":\"DENY\",\"reason\":\"r\"}'");
        assert_eq!((a.found, a.detail.as_str()), (Some(Found::Deny), "r"));
        // One that does not read.
        assert_eq!(ask("exec <&-; echo '{\"decision\":\"ALLOW\"}'").found, Some(Found::Allow));
        for (script, why) in [
            ("echo no >&2; exit 3", "ended with status 3: no"),
            ("kill -9 $$", "ended by signal 9"),
            ("echo nonsense", "not one"),
            ("head -c 70000 /dev/zero", "more than 65536 bytes"),
            ("env | grep -q HOME && echo '{\"decision\":\"ALLOW\"}'", "ended with status 1"),
        ] {
            let a = ask(script);
            assert_eq!(a.found, Some(Found::Failed), "{script}: {}", a.detail);
            assert!(a.detail.contains(why), "{script}: {}", a.detail);
        }
    }
}
