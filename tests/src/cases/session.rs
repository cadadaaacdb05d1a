//! What belongs to a session, from its first action to its last process.

use std::process::Command;

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, ME, document, file, policy};

pub const CASES: &[Case] = &[
    ("not_one_action_is_missed", first_action),
    ("children_threads_and_daemons_stay_inside", inherited),
    ("a_fork_that_fails_leaves_its_parent_inside", failed_fork),
    ("a_child_with_another_parent_stays_inside", clone_parent),
    ("the_session_is_closed_when_the_last_process_ends", closed),
    ("a_session_cannot_begin_another", nested),
    ("processes_outside_are_left_alone", outside),
    ("agents_are_recognised_by_program", agent_exe),
    ("agents_are_recognised_by_user", agent_uid),
    ("agents_are_recognised_by_cgroup", agent_cgroup),
    ("a_process_with_threads_is_not_registered", threads_refused),
];

const RULES: &str = "- { id: no-secret, match: { operation: read, path: '/tmp/s/secret' }, decision: DENY }";

fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/s");
    file("/tmp/s/secret", "x")?;
    Host::start(&policy(RULES))
}

fn first_action() -> Result<()> {
    let h = host()?;
    let a = h.act(&["nothing"])?;
    let kinds: Vec<&str> = a.receipts.iter().filter_map(|r| r["kind"].as_str()).collect();
    ensure!(kinds.first() == Some(&"session_open"), "{kinds:?}");
    // The very first thing the command does is to execute itself.
    let first = a.receipts.iter().find(|r| r["kind"] == "action").map(|r| r["action"]["operation"].clone());
    ensure!(first == Some("exec".into()), "{first:?}\n{}", a.tell());
    ensure!(kinds.last() == Some(&"session_close"), "{kinds:?}");
    Ok(())
}

/// Found by the differential test on 6.1, where a fork that failed took the session of its parent away.
fn failed_fork() -> Result<()> {
    file("/tmp/s/secret", "x")?;
    let h = Host::start(&policy(
        "- { id: no-secret, match: { operation: read, path: '/tmp/s/secret' }, decision: DENY }\n- { id: no-userns, match: { operation: userns }, decision: DENY }\n",
    ))?;
    for how in ["userns", "nproc"] {
        let a = h.act(&["failed-fork", how, "read", "/tmp/s/secret"])?;
        a.refused("open_read", "/tmp/s/secret", "no-secret").map_err(|e| anyhow::anyhow!("{how}: {e}"))?;
        ensure!(a.receipts.last().is_some_and(|r| r["kind"] == "session_close"), "{how}: {}", a.tell());
    }
    // Again and again; in what it makes, and in what becomes of it.
    let failed = ["failed-fork", "userns"];
    for (count, rest) in
        [(3, &["read"][..]), (1, &["fork", "read"]), (2, &["thread", "read"]), (1, &["daemonized", "read"])]
    {
        let words: Vec<&str> =
            failed.repeat(count).into_iter().chain(rest.iter().copied()).chain(["/tmp/s/secret"]).collect();
        let a = h.act(&words)?;
        a.refused("open_read", "/tmp/s/secret", "no-secret")
            .map_err(|e| anyhow::anyhow!("{words:?}: {e}"))?;
    }
    let a =
        h.run(&[], &[ME, "actor", "failed-fork", "userns", "exec", ME, "actor", "read", "/tmp/s/secret"])?;
    a.refused("open_read", "/tmp/s/secret", "no-secret")?;
    // One that does nothing which could be seen, while another of its threads speaks for it.
    let socket = "/run/aarm/aarm.sock";
    let outside = Command::new(ME).args(["actor", "failed-fork-ask", socket]).output()?;
    let told = String::from_utf8_lossy(&outside.stdout).into_owned();
    ensure!(told.contains("200 OK"), "outside: {outside:?}");
    let a = h.run(&[], &[ME, "actor", "failed-fork-ask", socket])?;
    ensure!(a.output.contains("403 Forbidden"), "{}", a.tell());
    h.verified()
}

fn inherited() -> Result<()> {
    let h = host()?;
    for how in ["fork", "thread", "daemonized"] {
        let a = h.act(&[how, "read", "/tmp/s/secret"])?;
        a.refused("open_read", "/tmp/s/secret", "no-secret")?;
    }
    h.act(&["fork", "thread", "daemonized", "read", "/tmp/s/secret"])?.refused(
        "open_read",
        "/tmp/s/secret",
        "no-secret",
    )
}

fn clone_parent() -> Result<()> {
    let h = host()?;
    h.act(&["clone-parent", "read", "/tmp/s/secret"])?.refused("open_read", "/tmp/s/secret", "no-secret")
}

fn closed() -> Result<()> {
    let h = host()?;
    // A process that outlives the command keeps the session open.
    let a = h.run(&[], &["/bin/sh", "-c", &format!("{ME} actor sleep 2 & exit 0")])?;
    let exits = a.receipts.iter().filter(|r| r["kind"] == "process").count();
    ensure!(a.status == 0 && exits >= 3, "{}", a.tell());
    ensure!(a.receipts.last().is_some_and(|r| r["kind"] == "session_close"), "{}", a.tell());
    Ok(())
}

fn nested() -> Result<()> {
    let h = host()?;
    let a = h.run(&[], &["/usr/local/bin/aarm", "run", "--", "/bin/busybox", "true"])?;
    ensure!(a.status == 125, "status {}\n{}", a.status, a.tell());
    Ok(())
}

fn outside() -> Result<()> {
    let _h = host()?;
    let s = Command::new(ME).args(["actor", "read", "/tmp/s/secret"]).status()?;
    ensure!(s.code() == Some(0), "{s}");
    Ok(())
}

/// Waits for a closed session whose receipts mention a rule's refusal of the secret.
fn refused_somewhere(h: &Host) -> Result<()> {
    for _ in 0..100 {
        let all = h.receipts(&["--decision", "DENY"])?;
        if all.iter().any(|r| r["action"]["path"] == "/tmp/s/secret" && r["decision"]["rule"] == "no-secret")
        {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    anyhow::bail!("no refusal recorded: {:?}\n{}", h.receipts(&[])?, h.log())
}

fn agent_exe() -> Result<()> {
    let _ = std::fs::remove_dir_all("/tmp/s");
    file("/tmp/s/secret", "x")?;
    std::fs::copy(ME, "/tmp/s/agent")?;
    let h = Host::start(&document("test", "enforce", "- exe: /tmp/s/agent", RULES))?;
    let s = Command::new("/tmp/s/agent").args(["actor", "fork", "read", "/tmp/s/secret"]).status()?;
    ensure!(s.code() == Some(libc::EPERM), "{s}\n{}", h.log());
    refused_somewhere(&h)?;
    // The same content under another name is not the agent.
    let s = Command::new(ME).args(["actor", "read", "/tmp/s/secret"]).status()?;
    ensure!(s.code() == Some(0), "{s}");
    Ok(())
}

fn agent_uid() -> Result<()> {
    use std::os::unix::process::CommandExt;
    let _ = std::fs::remove_dir_all("/tmp/s");
    file("/tmp/s/secret", "x")?;
    let h = Host::start(&document("test", "enforce", "- uid: 1000", RULES))?;
    let s = Command::new(ME).args(["actor", "read", "/tmp/s/secret"]).uid(1000).status()?;
    ensure!(s.code() == Some(libc::EPERM), "{s}\n{}", h.log());
    let s = Command::new(ME).args(["actor", "read", "/tmp/s/secret"]).uid(1001).status()?;
    ensure!(s.code() == Some(0), "{s}");
    refused_somewhere(&h)
}

fn agent_cgroup() -> Result<()> {
    let _ = std::fs::remove_dir_all("/tmp/s");
    file("/tmp/s/secret", "x")?;
    std::fs::create_dir_all("/sys/fs/cgroup/agents/one")?;
    let h = Host::start(&document("test", "enforce", "- cgroup: /agents/**", RULES))?;
    let script =
        format!("echo $$ > /sys/fs/cgroup/agents/one/cgroup.procs; exec {ME} actor read /tmp/s/secret");
    let s = Command::new("/bin/sh").args(["-c", &script]).status()?;
    ensure!(s.code() == Some(libc::EPERM), "{s}\n{}", h.log());
    refused_somewhere(&h)
}

fn threads_refused() -> Result<()> {
    let h = host()?;
    // A process that registers itself by hand while it has a second thread.
    let socket = "/run/aarm/aarm.sock";
    let request = "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let second = std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(1)));
    let mut s = std::os::unix::net::UnixStream::connect(socket)?;
    std::io::Write::write_all(&mut s, request.as_bytes())?;
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut s, &mut answer)?;
    let _ = second.join();
    ensure!(answer.starts_with("HTTP/1.1 409"), "{answer}\n{}", h.log());
    Ok(())
}
