//! What must be asked about waits, without an effect, and goes on or fails as it is answered.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Case;
use crate::asks::{answer, id, next, next_that, waiting, while_it_waits};
use crate::host::{Attempt, Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("an_answer_lets_it_go_on_or_fail", answered),
    ("every_operation_waits_and_goes_on", operations),
    ("an_answer_is_good_for_what_it_says", granted),
    ("time_that_is_over_refuses", over),
    ("what_waits_outlives_the_daemon", outlives),
    ("nobody_answers_for_himself", himself),
    ("signals_neither_free_nor_lose_what_waits", signals),
    ("what_cannot_wait_is_refused_and_says_so", unable),
    ("an_answer_that_is_not_fetched_at_once_stays", frozen),
    ("what_was_made_is_opened_however_long_that_takes", slow),
    ("an_answer_is_for_what_was_asked", another),
    ("what_was_approved_is_not_done_once_more_while_something_else_waits", once_more),
    ("a_call_that_is_asked_about_twice_is_asked_about_once_for_each", twice),
    ("who_answers_for_one_rule_does_not_for_another", several),
    ("many_threads_wait_and_none_is_lost", many),
    ("what_is_decided_at_once_is_not_stopped", at_once),
];

const EPERM: i32 = 1;

/// Runs a technique, and something else while it waits.
fn while_waiting(h: &Host, technique: &[&str], then: impl FnOnce(&Value) -> Result<()>) -> Result<Attempt> {
    while_it_waits(h, &[&[ME, "actor"], technique].concat(), then)
}

/// The receipts of the attempt that have to do with its hold.
fn of_hold<'a>(attempt: &'a Attempt, id: &str) -> Vec<&'a Value> {
    let is = |r: &&Value| r["decision"]["hold"] == id || r["detail"]["hold"] == id;
    attempt.receipts.iter().filter(is).collect()
}

const ASKS: &str = "
- { id: asks, match: { operation: [exec, open_write, open_read, create, mkdir, mknod, symlink, link, rename, unlink, rmdir,
    truncate, chmod, chown, unix_connect], path: ['/tmp/h/**'] }, decision: STEP_UP, risk: HIGH, reason: ask first }
- { id: asks-net, match: { operation: [connect, send, bind, listen], port: [4000-4099] }, decision: STEP_UP }
";

fn host(rules: &str, spec: &str) -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/h");
    std::fs::create_dir_all("/tmp/h")?;
    file("/tmp/h/there", "content")?;
    Host::start(&(policy(rules) + spec))
}

fn answered() -> Result<()> {
    let h = host(ASKS, "")?;
    // Nothing has happened while it waits.
    let (mut name, mut held) = (String::new(), 0.0);
    let a = while_waiting(&h, &["mkdir", "/tmp/h/new"], |asked| {
        name = id(asked)?.to_owned();
        ensure!(!Path::new("/tmp/h/new").exists(), "it was made before the answer");
        ensure!(asked["operation"] == "mkdir" && asked["path"] == "/tmp/h/new", "{asked}");
        ensure!(
            asked["rule"] == "asks" && asked["risk"] == "HIGH" && asked["reason"] == "ask first",
            "{asked}"
        );
        ensure!(asked["approvers"][0] == "uid:0", "{asked}");
        let out = h.aarm(&["approvals", "show", &name])?;
        ensure!(String::from_utf8_lossy(&out.stdout).contains("/tmp/h/new"), "{out:?}");
        held = h.metric("aarm_holds")?;
        answer(&h, &["approve", &name, "--comment", "go on"])
    })?;
    a.allowed("mkdir", "/tmp/h/new")?;
    ensure!(held == 1.0 && h.metric("aarm_holds")? == 0.0, "{held} wait");
    ensure!(Path::new("/tmp/h/new").exists(), "it was not made");
    let [asked, resolved, done] = of_hold(&a, &name)[..] else { bail!("not three receipts: {}", a.tell()) };
    ensure!(asked["decision"]["result"] == "STEP_UP" && asked["decision"]["cause"] == "rule", "{asked}");
    let d = &resolved["detail"];
    ensure!(
        resolved["kind"] == "resolution" && d["answer"] == "ALLOW" && d["method"] == "approval",
        "{resolved}"
    );
    ensure!(d["approver"] == "uid:0" && d["scope"] == "once" && d["comment"] == "go on", "{resolved}");
    ensure!(d["of"] == asked["seq"] && d["waited_ns"].as_u64() > Some(0), "{resolved}");
    ensure!(done["decision"]["result"] == "ALLOW" && done["decision"]["cause"] == "answered", "{done}");
    // Once is once: the same again is asked about again; and refused, it fails cleanly and without a trace.
    let a = while_waiting(&h, &["unlink", "/tmp/h/there"], |asked| {
        name = id(asked)?.to_owned();
        answer(&h, &["deny", &name])
    })?;
    a.refused("unlink", "/tmp/h/there", "asks")?;
    ensure!(Path::new("/tmp/h/there").exists(), "it was refused, and is gone");
    // An answer cannot be given twice, nor to what never was.
    for gone in [name.as_str(), "00000000000000ab"] {
        let out = h.aarm(&["approvals", "approve", gone])?;
        ensure!(out.status.code() == Some(1), "{gone}: {out:?}");
    }
    h.verified()
}

/// Techniques, each about something of its own, and what they are recorded as.
const TECHNIQUES: &[(&str, &[&str], &str)] = &[
    ("read", &["/tmp/h/there"], "open_read"),
    ("write", &["/tmp/h/there"], "open_write"),
    ("read-write", &["/tmp/h/there"], "open_write"),
    ("open-truncate", &["/tmp/h/there"], "open_write"),
    ("create", &["/tmp/h/created"], "create"),
    ("mkdir", &["/tmp/h/d"], "mkdir"),
    ("rmdir", &["/tmp/h/d"], "rmdir"),
    ("mkfifo", &["/tmp/h/fifo"], "mknod"),
    ("symlink", &["target", "/tmp/h/symlink"], "symlink"),
    ("link", &["/tmp/h/there", "/tmp/h/link"], "link"),
    ("rename", &["/tmp/h/link", "/tmp/h/renamed"], "rename"),
    ("truncate", &["/tmp/h/there"], "truncate"),
    ("chmod", &["/tmp/h/there"], "chmod"),
    ("chown", &["/tmp/h/there"], "chown"),
    ("unlink", &["/tmp/h/there"], "unlink"),
    ("udp", &["127.0.0.1:4001"], "connect"),
    ("sendto", &["127.0.0.1:4001"], "send"),
    ("bind", &["127.0.0.1:4002"], "bind"),
    ("exec", &["/tmp/h/tool", "actor", "nothing"], "exec"),
];

fn operations() -> Result<()> {
    let h = host(ASKS, "")?;
    std::fs::copy(ME, "/tmp/h/tool")?;
    for (technique, args, operation) in TECHNIQUES {
        let command = [&[*technique], *args].concat();
        let is_asked = |asked: &Value| {
            ensure!(asked["operation"] == *operation, "{command:?} is asked about as {asked}");
            id(asked).map(str::to_owned)
        };
        let a = while_waiting(&h, &command, |asked| answer(&h, &["deny", &is_asked(asked)?]))?;
        ensure!(a.errno() == EPERM, "{command:?}: refused, and errno {}\n{}", a.errno(), a.tell());
        // Where one system call acts twice, it is asked about twice, and neither is asked about again for the other.
        let mut asked = 0;
        let a = while_waiting(&h, &command, |first| {
            answer(&h, &["approve", &is_asked(first)?])?;
            asked = 1;
            let deadline = Instant::now() + Duration::from_secs(3);
            while Instant::now() < deadline && asked < 4 {
                for more in waiting(&h)? {
                    // Answered already, and about to go on.
                    if id(&more)? != id(first)? && answer(&h, &["approve", id(&more)?]).is_ok() {
                        asked += 1;
                    }
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        })?;
        ensure!(a.errno() == 0, "{command:?}: allowed, and errno {}\n{}", a.errno(), a.tell());
        ensure!(asked <= 2, "{command:?}: asked about {asked} times\n{}", a.tell());
    }
    h.verified()
}

fn granted() -> Result<()> {
    let h = host(ASKS, "")?;
    let script = |n: usize| {
        let one = format!("{ME} actor chmod /tmp/h/there; echo =$?; ");
        vec!["/bin/sh".to_owned(), "-c".to_owned(), one.repeat(n)]
    };
    let run = |n: usize, how: &[&str], more: usize| -> Result<Attempt> {
        std::thread::scope(|scope| {
            let words = script(n);
            let h = &h;
            let attempt = scope.spawn(move || {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                h.run(&[], &words)
            });
            let first = next(h)?;
            answer(h, &[&["approve", id(&first)?], how].concat())?;
            for _ in 0..more {
                let again = next(h)?;
                answer(h, &["deny", id(&again)?])?;
            }
            attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))?
        })
    };
    for (n, how, more) in
        [(2, &["--once"][..], 1), (4, &["--session"], 0), (3, &["--for", "10m"], 0), (4, &["--uses", "2"], 2)]
    {
        let a = run(n, how, more)?;
        let errnos: Vec<&str> = a.output.lines().filter_map(|l| l.strip_prefix('=')).collect();
        let expected: Vec<&str> = (0..n).map(|i| if i < n - more { "0" } else { "1" }).collect();
        ensure!(errnos == expected, "{how:?}: {errnos:?}\n{}", a.tell());
        let granted = a.receipts.iter().filter(|r| r["decision"]["cause"] == "granted").count();
        ensure!(granted == n - more - 1, "{how:?}: {granted} receipts say granted\n{}", a.tell());
    }
    // A grant ends with its session, and is for nothing else.
    let a = while_waiting(&h, &["chmod", "/tmp/h/there"], |asked| answer(&h, &["deny", id(asked)?]))?;
    a.refused("chmod", "/tmp/h/there", "asks")
}

fn over() -> Result<()> {
    let rules = "
- { id: short, match: { operation: mkdir, path: /tmp/h/short }, decision: STEP_UP, timeout: 2s,
    escalate: { after: 1s, approvers: ['gid:77'] } }
- { id: later, match: { operation: mkdir, path: /tmp/h/later }, decision: DEFER, timeout: 1s, on_timeout: STEP_UP }
- { id: never, match: { operation: mkdir, path: /tmp/h/never }, decision: STEP_UP, timeout: 0s }
";
    let h = host(rules, "")?;
    for (path, rule, decision) in [("/tmp/h/short", "short", "STEP_UP"), ("/tmp/h/later", "later", "DEFER")] {
        let began = Instant::now();
        let a = h.act(&["mkdir", path])?;
        a.refused("mkdir", path, rule)?;
        ensure!(began.elapsed() > Duration::from_millis(1900), "{path}: it did not wait");
        let asked = a.receipts.iter().find(|r| r["decision"]["result"] == decision).context("no hold")?;
        let hold = asked["decision"]["hold"].as_str().context("no name")?;
        let resolved = of_hold(&a, hold);
        let resolved = resolved.iter().find(|r| r["kind"] == "resolution").context("no resolution")?;
        ensure!(
            resolved["detail"]["method"] == "timeout" && resolved["detail"]["answer"] == "DENY",
            "{resolved}"
        );
    }
    // Nobody is asked where the time is 0.
    let a = h.act(&["mkdir", "/tmp/h/never"])?;
    ensure!(a.errno() == EPERM, "errno {}\n{}", a.errno(), a.tell());
    let found = a.decision("mkdir", "/tmp/h/never");
    ensure!(found == Some(("STEP_UP".into(), Some("never".into()))), "{found:?}");
    ensure!(!Path::new("/tmp/h/short").exists() && !Path::new("/tmp/h/never").exists());
    h.verified()
}

fn outlives() -> Result<()> {
    let mut h = host(ASKS, "")?;
    let aarm = |h: &Host, path: &str| -> Result<std::process::Child> {
        Ok(std::process::Command::new("/usr/local/bin/aarm")
            .args(["run", "--", ME, "actor", "mkdir", path])
            .current_dir(h.path(""))
            .spawn()?)
    };
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let path = format!("/tmp/h/after-{signal}");
        let mut child = aarm(&h, &path)?;
        let before = next(&h)?;
        // What is to be kept is kept at the next look.
        std::thread::sleep(Duration::from_millis(1200));
        h.end(signal)?;
        ensure!(child.try_wait()?.is_none(), "it did not go on waiting");
        ensure!(!Path::new(&path).exists(), "it went on without an answer");
        h.launch()?;
        let after = next(&h)?;
        ensure!(after == before, "{before}\n{after}");
        answer(&h, &["approve", id(&after)?])?;
        let status = child.wait()?;
        ensure!(status.success() && Path::new(&path).exists(), "{status}");
    }
    h.verified()
}

fn himself() -> Result<()> {
    let rules = "
- { id: other, match: { operation: mkdir, path: /tmp/h/other }, decision: STEP_UP, approvers: ['uid:4711'] }
- { id: group, match: { operation: mkdir, path: /tmp/h/group }, decision: STEP_UP, approvers: ['group:root'] }
- { id: mine, match: { operation: mkdir, path: /tmp/h/mine }, decision: STEP_UP, approvers: [human] }
";
    let h = host(rules, "")?;
    // Somebody else is to answer; and the user whom the session acts for only if he is named.
    for path in ["/tmp/h/other", "/tmp/h/group"] {
        std::thread::scope(|scope| -> Result<()> {
            let attempt = scope.spawn(|| {
                h.run(&[], &["/bin/sh", "-c", &format!("timeout -s KILL 6 {ME} actor mkdir {path}")])
            });
            let asked = next(&h)?;
            let out = h.aarm(&["approvals", "approve", id(&asked)?])?;
            ensure!(!out.status.success(), "{path}: user 0 may answer");
            ensure!(String::from_utf8_lossy(&out.stderr).contains("may not answer"), "{out:?}");
            let a = attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))??;
            ensure!(!Path::new(path).exists(), "{}", a.tell());
            Ok(())
        })?;
        // Whoever waited was killed: that is noticed, and recorded.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !waiting(&h)?.is_empty() {
            ensure!(Instant::now() < deadline, "{path}: it waits, and is dead");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let a = while_waiting(&h, &["mkdir", "/tmp/h/mine"], |asked| {
        // From inside a session, even as root.
        let name = id(asked)?;
        let inside = h.run_only(&[], &["/usr/local/bin/aarm", "approvals", "approve", name])?;
        ensure!(inside.0 != 0 && inside.1.contains("inside a session"), "{inside:?}");
        answer(&h, &["approve", name])
    });
    // The attempt's session file was overwritten by the other run; only its effect counts here.
    drop(a);
    ensure!(Path::new("/tmp/h/mine").exists(), "the human did not get his way");
    Ok(())
}

/// Found with many threads: what had waited for over 5 s and had not come for its answer yet was refused, as if nothing were known
/// of it. Frozen, it comes when it may.
fn frozen() -> Result<()> {
    let h = host(ASKS, "")?;
    let group = Path::new("/sys/fs/cgroup/held");
    std::fs::create_dir_all(group)?;
    let a = while_waiting(&h, &["mkdir", "/tmp/h/late"], |asked| {
        std::fs::write(group.join("cgroup.procs"), asked["pid"].to_string())?;
        std::fs::write(group.join("cgroup.freeze"), "1")?;
        answer(&h, &["approve", id(asked)?])?;
        std::thread::sleep(Duration::from_secs(9));
        ensure!(!Path::new("/tmp/h/late").exists(), "it is not frozen");
        std::fs::write(group.join("cgroup.freeze"), "0")?;
        Ok(())
    });
    std::fs::write(group.join("cgroup.freeze"), "0")?;
    let a = a?;
    a.allowed("mkdir", "/tmp/h/late")?;
    let resolutions = a.receipts.iter().filter(|r| r["kind"] == "resolution").count();
    ensure!(resolutions == 1, "{resolutions} answers to one hold\n{}", a.tell());
    h.verified()
}

/// Found with git on a busy machine: an open whose making was approved was refused where more than 10 ms lay in between, and left an
/// empty file.
fn slow() -> Result<()> {
    let h = host(ASKS, "")?;
    let group = Path::new("/sys/fs/cgroup/slow");
    std::fs::create_dir_all(group)?;
    std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu")?;
    // A hundredth of a CPU: it stands still within most system calls.
    std::fs::write(group.join("cpu.max"), "1000 100000")?;
    for n in 0..6 {
        let path = format!("/tmp/h/slow-{n}");
        let a = while_waiting(&h, &["create", &path], |asked| {
            std::fs::write(group.join("cgroup.procs"), asked["pid"].to_string())?;
            answer(&h, &["approve", id(asked)?])
        })?;
        a.allowed("create", &path)?;
        a.allowed("open_write", &path)?;
    }
    h.verified()
}

/// An answer is for what was asked: another file that is made at once is asked about, or refused, by itself.
fn another() -> Result<()> {
    let rules = "
- { id: one, match: { operation: create, path: /tmp/h/one }, decision: STEP_UP }
- { id: any, match: { operation: open_write, path: '/tmp/h/*' }, decision: STEP_UP }
";
    let h = host(rules, "")?;
    let a = while_waiting(&h, &["create-two", "/tmp/h/one", "/tmp/h/two"], |asked| {
        ensure!(asked["path"] == "/tmp/h/one", "{asked}");
        answer(&h, &["approve", id(asked)?])
    })?;
    ensure!(a.errno() == EPERM, "errno {}\n{}", a.errno(), a.tell());
    let of = |path: &str| {
        let found = a
            .receipts
            .iter()
            .rfind(|r| r["action"]["operation"] == "open_write" && r["action"]["path"] == path);
        found.map(|r| (r["decision"]["result"].clone(), r["decision"]["cause"].clone()))
    };
    ensure!(of("/tmp/h/one") == Some(("ALLOW".into(), "answered".into())), "{}", a.tell());
    ensure!(of("/tmp/h/two") == Some(("DENY".into(), "cannot_wait".into())), "{}", a.tell());
    Ok(())
}

/// Not what an approval is for: while another call of the thread waited, a handler of signals could do once more, without being asked,
/// and as often as it liked, what had been approved within 10 ms before.
fn once_more() -> Result<()> {
    let h = host(ASKS, "")?;
    let asked_about = |operation: &str| next_that(&h, |asked| asked["operation"] == operation);
    let a = while_waiting(&h, &["read-once-more", "/tmp/h/there", "/tmp/h/dir"], |asked| {
        ensure!(asked["operation"] == "open_read", "{asked}");
        answer(&h, &["approve", id(asked)?])?;
        asked_about("mkdir")?;
        signal(asked, libc::SIGUSR1)?;
        signal(asked, libc::SIGCONT)?;
        answer(&h, &["deny", id(&asked_about("open_read")?)?])?;
        answer(&h, &["approve", id(&asked_about("mkdir")?)?])
    })?;
    ensure!(a.errno() == EPERM, "errno {}\n{}", a.errno(), a.tell());
    ensure!(Path::new("/tmp/h/dir").is_dir(), "what was approved is not there\n{}", a.tell());
    h.verified()
}

/// What a system call does first is asked about once, however long its second action waits and whatever comes between.
fn twice() -> Result<()> {
    let h = host(ASKS, "")?;
    let a = while_waiting(&h, &["open-truncate", "/tmp/h/there"], |asked| {
        let first = asked["operation"].clone();
        answer(&h, &["approve", id(asked)?])?;
        let second = next_that(&h, |other| other["operation"] != first)?;
        for _ in 0..50 {
            signal(&second, libc::SIGCONT)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        ensure!(waiting(&h)?.len() == 1, "the first one is asked about again: {:?}", waiting(&h)?);
        answer(&h, &["approve", id(&second)?])
    })?;
    ensure!(a.errno() == 0, "errno {}\n{}", a.errno(), a.tell());
    let asked = a.receipts.iter().filter(|r| r["decision"]["result"] == "STEP_UP").count();
    ensure!(asked == 2, "{asked} questions\n{}", a.tell());
    h.verified()
}

/// Sends a signal to what waits.
fn signal(asked: &Value, number: i32) -> Result<()> {
    let pid = asked["pid"].as_i64().context("no pid")? as i32;
    // SAFETY: no memory is involved.
    ensure!(unsafe { libc::kill(pid, number) } == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

fn signals() -> Result<()> {
    let h = host(ASKS, "")?;
    let a = while_waiting(&h, &["mkdir", "/tmp/h/cont"], |asked| {
        for _ in 0..200 {
            signal(asked, libc::SIGCONT)?;
            signal(asked, libc::SIGSTOP)?;
            signal(asked, libc::SIGCONT)?;
        }
        std::thread::sleep(Duration::from_millis(200));
        ensure!(!Path::new("/tmp/h/cont").exists(), "SIGCONT let it go on");
        ensure!(waiting(&h)? == std::slice::from_ref(asked), "it is asked about otherwise");
        answer(&h, &["approve", id(asked)?])?;
        signal(asked, libc::SIGCONT).or(Ok(()))
    })?;
    a.allowed("mkdir", "/tmp/h/cont")?;
    let holds = a.receipts.iter().filter(|r| r["decision"]["result"] == "STEP_UP").count();
    ensure!(holds == 1, "{holds} receipts of one hold\n{}", a.tell());
    let a = while_waiting(&h, &["mkdir", "/tmp/h/kill"], |asked| signal(asked, libc::SIGKILL))?;
    ensure!(a.status == 128 + libc::SIGKILL, "status {}\n{}", a.status, a.tell());
    ensure!(!Path::new("/tmp/h/kill").exists(), "{}", a.tell());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !h.receipts(&[])?.iter().any(|r| r["detail"]["method"] == "gone") {
        ensure!(Instant::now() < deadline, "no receipt says that it is gone");
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(waiting(&h)?.is_empty());
    Ok(())
}

fn unable() -> Result<()> {
    // An open that has made its file cannot be begun anew; one whose making was asked about need not.
    let rules = "- { id: asks, match: { operation: open_write, path: '/tmp/h/**' }, decision: STEP_UP }";
    let h = host(rules, "")?;
    let a = h.act(&["create", "/tmp/h/new"])?;
    ensure!(a.errno() == EPERM, "errno {}\n{}", a.errno(), a.tell());
    let refused = a.receipts.iter().find(|r| r["decision"]["cause"] == "cannot_wait");
    let refused = refused.with_context(|| a.tell())?;
    ensure!(refused["decision"]["result"] == "DENY" && refused["decision"]["rule"] == "asks", "{refused}");
    // One without a name is another file each time: it would be asked about for ever.
    let a = h.act(&["open-nameless", "/tmp/h"])?;
    ensure!(a.errno() == EPERM, "errno {}\n{}", a.errno(), a.tell());
    ensure!(a.receipts.iter().any(|r| r["decision"]["cause"] == "cannot_wait"), "{}", a.tell());
    ensure!(waiting(&h)?.is_empty(), "somebody is asked");
    Ok(())
}

/// Answers with the command line, as somebody.
fn answer_as(uid: u32, args: &[&str]) -> Result<std::process::Output> {
    use std::os::unix::process::CommandExt;
    let mut aarm = std::process::Command::new("/usr/local/bin/aarm");
    Ok(aarm.arg("approvals").args(args).uid(uid).gid(uid).output()?)
}

fn several() -> Result<()> {
    // Moving a file is also reading it, writing it, and writing where it goes.
    let rules = "
- { id: reads, match: { operation: open_read, path: '/tmp/h/from/**' }, decision: STEP_UP, approvers: ['uid:2001'] }
- { id: moves, match: { operation: rename, path: '/tmp/h/to/**' }, decision: DEFER, approvers: ['uid:2002'], timeout: 5m }
- { id: never, match: { operation: open_write, path: '/tmp/h/never/**' }, decision: STEP_UP, timeout: 0s }
";
    let h = host(rules, "")?;
    for dir in ["from", "to", "never"] {
        std::fs::create_dir_all(format!("/tmp/h/{dir}"))?;
    }
    for (n, refuse) in [(1, false), (2, true)] {
        let (from, to) = (format!("/tmp/h/from/{n}"), format!("/tmp/h/to/{n}"));
        file(&from, "content")?;
        let mut name = String::new();
        let a = while_waiting(&h, &["rename", &from, &to], |asked| {
            name = id(asked)?.to_owned();
            ensure!(asked["rule"] == "moves" && asked["also"][0]["rule"] == "reads", "{asked}");
            ensure!(asked["also"].as_array().is_some_and(|all| all.len() == 1), "{asked}");
            let out = answer_as(2001, &["approve", &name, "--session"])?;
            ensure!(!out.status.success(), "one of two answers for the session");
            let out = answer_as(2001, &["approve", &name])?;
            let told = String::from_utf8_lossy(&out.stdout).into_owned();
            ensure!(out.status.success() && told.contains("1 more"), "{out:?}");
            ensure!(!answer_as(2001, &["approve", &name])?.status.success(), "2001 answers for both");
            let left = next(&h)?;
            ensure!(left["id"] == name.as_str() && left["also"].is_null(), "{left}");
            ensure!(left["answered"][0]["approver"] == "uid:2001", "{left}");
            std::thread::sleep(Duration::from_millis(300));
            ensure!(Path::new(&from).exists(), "it happened on one answer of two");
            let out = answer_as(2002, &[if refuse { "deny" } else { "approve" }, &name])?;
            ensure!(out.status.success(), "{out:?}");
            Ok(())
        })?;
        ensure!(Path::new(&to).exists() != refuse && (a.status == 0) != refuse, "{}", a.tell());
        let of_hold = of_hold(&a, &name);
        let answers: Vec<(&str, &str, u64)> = of_hold
            .iter()
            .filter(|r| r["kind"] == "resolution")
            .map(|r| &r["detail"])
            .map(|d| {
                let text = |name: &str| d[name].as_str().unwrap_or_default();
                (text("rule"), text("answer"), d["left"].as_u64().unwrap_or(0))
            })
            .collect();
        let last = if refuse { "DENY" } else { "ALLOW" };
        ensure!(answers == [("reads", "ALLOW", 1), ("moves", last, 0)], "{answers:?}\n{}", a.tell());
    }
    // What is refused at once for one of them is not asked about for another.
    file("/tmp/h/from/3", "content")?;
    let a = h.act(&["rename", "/tmp/h/from/3", "/tmp/h/never/3"])?;
    ensure!(a.errno() == EPERM && Path::new("/tmp/h/from/3").exists(), "{}", a.tell());
    ensure!(a.receipts.iter().all(|r| r["kind"] != "resolution"), "it was asked about\n{}", a.tell());
    h.verified()
}

/// Calls that are decided at once.
const CALLS: usize = 50;

fn at_once() -> Result<()> {
    // While one is deferred, the daemon refuses what comes.
    let rules =
        "- { id: asks, match: { operation: connect, port: [4001, 4002] }, decision: DEFER, timeout: 1h }";
    let policy = policy(rules) + "  hold: { cascade: 1 }\n";
    let command = format!(
        "{ME} actor udp 127.0.0.1:4001 & sleep 2; {ME} actor calls 127.0.0.1:4002 {CALLS}; code=$?; kill -9 $!; exit $code"
    );
    for (settings, looks) in [("holds: { spin_us: 10000 }\n", true), ("holds: { spin_us: 0 }\n", false)] {
        let h = Host::with(&[("test.yaml", &policy)], settings)?;
        let a = h.run(&[], &["/bin/sh", "-c", &command])?;
        ensure!(a.status == 0, "status {}\n{}", a.status, a.tell());
        let of = |name: &str| -> Option<usize> {
            a.output.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
        };
        let (refused, continued) =
            (of("refused").context("no output")?, of("continued").context("no output")?);
        println!("hold: {continued} of {CALLS} were stopped; looks: {looks}");
        ensure!(refused == CALLS, "{refused} refused\n{}", a.tell());
        // One processor may be busy otherwise; mostly it is not.
        let fits = if looks { continued <= CALLS / 2 } else { continued > CALLS / 2 };
        ensure!(fits, "{continued} of {CALLS} were stopped, though it looks: {looks}");
        // Either way each is asked about once, answered once, and done once.
        let asked = |r: &&Value| r["action"]["network"]["port"] == 4002 && r["decision"]["result"] == "DEFER";
        let count = |is: &dyn Fn(&Value) -> bool| a.receipts.iter().filter(|r| is(r)).count();
        let holds = count(&|r| asked(&r));
        let answers = count(&|r| r["detail"]["method"] == "cascade" && r["detail"]["answer"] == "DENY");
        let done = count(&|r| r["action"]["network"]["port"] == 4002 && r["decision"]["cause"] == "answered");
        ensure!((holds, answers, done) == (CALLS, CALLS, CALLS), "{holds} {answers} {done}\n{}", a.tell());
        h.verified()?;
    }
    Ok(())
}

/// Threads that wait at once, and how often each does.
const THREADS: usize = 16;
const TIMES: usize = 12;

fn many() -> Result<()> {
    let h = host(ASKS, "")?;
    let (threads, times) = (THREADS.to_string(), TIMES.to_string());
    std::thread::scope(|scope| -> Result<()> {
        let attempt = scope.spawn(|| h.act(&["hold-many", "127.0.0.1:4001", &threads, &times]));
        let (mut allow, mut n) = (true, 0);
        let mut answered: std::collections::HashMap<String, bool> = std::collections::HashMap::new();
        while !attempt.is_finished() {
            for asked in waiting(&h)? {
                let args = if allow { ["approve", id(&asked)?] } else { ["deny", id(&asked)?] };
                if answer(&h, &args).is_ok() {
                    answered.insert(format!("{}-{}", id(&asked)?, asked["requested"]), allow);
                    allow = n % 3 != 0;
                    n += 1;
                    if n % 7 == 0 {
                        signal(&asked, libc::SIGCONT).or_else(|_| Ok::<_, anyhow::Error>(()))?;
                    }
                }
            }
        }
        let a = attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))??;
        ensure!(a.status == 0, "status {}\n{}", a.status, a.tell());
        let of = |name: &str| -> Option<usize> {
            a.output.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
        };
        let (allowed, refused) = (of("allowed").context("no output")?, of("refused").context("no output")?);
        // Each ends as one or the other: no errno that only the kernel understands, and none that waits for ever.
        ensure!(
            allowed + refused == THREADS * TIMES && allowed > 0 && refused > 0,
            "{allowed} allowed and {refused} refused of {}\n{}",
            THREADS * TIMES,
            a.output
        );
        let approved = answered.values().filter(|a| **a).count();
        ensure!(
            allowed == approved && refused == answered.len() - approved,
            "{allowed} allowed and {refused} refused; approved {approved} of {}\n{}",
            answered.len(),
            a.output
        );
        Ok(())
    })?;
    h.verified()
}
