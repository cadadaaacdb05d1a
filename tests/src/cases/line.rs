//! What a command line decides: before the first instruction, and exactly.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::asks::{self, next, waiting, while_it_waits};
use crate::host::{Attempt, Host, ME, document, file, policy};

pub const CASES: &[Case] = &[
    ("arguments_decide_before_the_first_instruction", decides),
    ("an_image_that_is_asked_about_waits_whatever_happens", waits),
];

const TOOL: &str = "/tmp/l/busybox";
const KILLED: i32 = 128 + libc::SIGKILL;

const RULES: &str = "
- { id: exactly, match: { operation: exec, exe: /tmp/l/busybox, argv: [echo, ok, '**'] }, decision: ALLOW }
- { id: no-secret, match: { operation: exec, exe: /tmp/l/busybox, args: [echo, { any: 'secret*' }] }, decision: DENY, reason: not that }
- { id: ask-mkdir, match: { operation: exec, exe: /tmp/l/busybox, args: [mkdir] }, decision: STEP_UP }
- { id: never-touch, match: { operation: exec, exe: /tmp/l/busybox, args: [touch] }, decision: STEP_UP, timeout: 0s }
- { id: deploy, match: { operation: exec, exe: /tmp/l/deploy.sh, args: [prod] }, decision: DENY }
- { id: shell, match: { operation: exec, exe: /tmp/l/busybox, args: ['*evil*'] }, decision: DENY }
";

/// A daemon with the rules, and with the same in audit mode.
fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/l");
    std::fs::create_dir_all("/tmp/l")?;
    std::fs::copy("/bin/busybox", TOOL)?;
    let audited = document("audited", "audit", "", RULES);
    Host::with(
        &[("test.yaml", &policy(RULES)), ("audited.yaml", &audited)],
        "run: { default_policy: test }\n",
    )
}

fn decides() -> Result<()> {
    let h = host()?;
    decided(&h)?;
    scripts(&h)?;
    long(&h)?;
    audit(&h)?;
    h.verified()
}

fn waits() -> Result<()> {
    let mut h = host()?;
    asked(&h)?;
    continued(&h)?;
    outlives(&mut h)?;
    h.verified()
}

/// What was said of the command line: the rule, the answer, and how it was reached.
fn resolved(a: &Attempt) -> Option<(String, String, String)> {
    let r = a.receipts.iter().find(|r| r["kind"] == "resolution")?;
    let text = |name: &str| r["detail"][name].as_str().unwrap_or_default().to_owned();
    Some((text("rule"), text("answer"), text("method")))
}

fn is(a: &Attempt, rule: &str, answer: &str, method: &str) -> Result<()> {
    let found = resolved(a);
    let wanted = Some((rule.to_owned(), answer.to_owned(), method.to_owned()));
    ensure!(found == wanted, "{found:?} instead of {wanted:?}\n{}", a.tell());
    Ok(())
}

fn decided(h: &Host) -> Result<()> {
    // What matches decides, the first first.
    let a = h.run(&[], &[TOOL, "echo", "ok", "secret"])?;
    ensure!(a.status == 0 && a.output.contains("ok secret"), "{}", a.tell());
    is(&a, "exactly", "ALLOW", "policy")?;
    let a = h.run(&[], &[TOOL, "echo", "x", "secrets"])?;
    ensure!(a.status == KILLED && !a.output.contains("secrets"), "status {}\n{}", a.status, a.tell());
    is(&a, "no-secret", "DENY", "policy")?;
    // Each has three receipts, under one name: the exec, the image that waits, and the answer.
    let exec = a.receipts.iter().find(|r| r["action"]["operation"] == "exec" && r["action"]["path"] == TOOL);
    let exec = exec.with_context(|| a.tell())?;
    ensure!(exec["decision"]["result"] == "ALLOW" && exec["decision"]["cause"] == "args", "{exec}");
    let image = a.receipts.iter().find(|r| r["action"]["operation"] == "exec_args");
    let image = image.with_context(|| a.tell())?;
    ensure!(image["decision"]["result"] == "DEFER" && image["decision"]["cause"] == "args", "{image}");
    ensure!(image["action"]["argv"] == serde_json::json!([TOOL, "echo", "x", "secrets"]), "{image}");
    ensure!(
        image["action"]["path"] == TOOL && image["decision"]["hold"] == exec["decision"]["hold"],
        "{image}"
    );
    let answer = a.receipts.iter().find(|r| r["kind"] == "resolution").context("no answer")?;
    ensure!(answer["detail"]["hold"] == exec["decision"]["hold"], "{answer}");
    // No rule: the default.
    let a = h.run(&[], &[TOOL, "true"])?;
    ensure!(a.status == 0, "{}", a.tell());
    is(&a, "", "ALLOW", "policy")?;
    // What would be asked about, and may not wait, is refused.
    let a = h.run(&[], &[TOOL, "touch", "/tmp/l/touched"])?;
    ensure!(a.status == KILLED && !Path::new("/tmp/l/touched").exists(), "{}", a.tell());
    is(&a, "never-touch", "DENY", "policy")?;
    // While somebody traces it, who is told of the exec before anything else.
    let traced = |words: &[&str]| h.run(&[], &[&[ME, "actor", "traced", TOOL], words].concat());
    let a = traced(&["echo", "x", "secrets"])?;
    ensure!(a.output.contains("traced 137") && !a.output.contains("x secrets"), "{}", a.tell());
    let a = traced(&["echo", "ok", "then"])?;
    ensure!(a.output.contains("traced 0") && a.output.contains("ok then"), "{}", a.tell());
    // A program that is not there, after one that was asked for by its arguments: nothing is left of it.
    file("/tmp/l/deploy.sh", "#!/tmp/l/missing\n")?;
    std::fs::set_permissions("/tmp/l/deploy.sh", std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let script = format!("{TOOL} echo ok; /tmp/l/deploy.sh; {TOOL} echo ok again");
    let a = h.run(&[], &["/bin/sh", "-c", &script])?;
    ensure!(a.status == 0 && a.output.contains("ok again"), "{}", a.tell());
    // The evaluator agrees with every receipt.
    let id = a.receipts.first().and_then(|r| r["session"]["uuid"].as_str()).context("no session")?;
    let (policies, log) = (h.path("policies"), h.path("log"));
    let (policies, log) = (policies.to_string_lossy(), log.to_string_lossy());
    let out = h.aarm(&["explain", "--session", id, "--policies", &policies, "--log", &log])?;
    ensure!(out.status.success(), "{out:?}");
    Ok(())
}

/// Answers as people do.
fn answer(h: &Host, how: &str, asked: &Value) -> Result<()> {
    asks::answer(h, &[how, asks::id(asked)?])
}

fn asked(h: &Host) -> Result<()> {
    for (how, dir) in [("approve", "/tmp/l/yes"), ("deny", "/tmp/l/no")] {
        let a = while_it_waits(h, &[TOOL, "mkdir", dir], |asked| {
            ensure!(asked["rule"] == "ask-mkdir" && asked["operation"] == "exec_args", "{asked}");
            ensure!(asked["argv"] == serde_json::json!([TOOL, "mkdir", dir]), "{asked}");
            ensure!(asked["decision"] == "STEP_UP" && asked["exe"] == TOOL, "{asked}");
            ensure!(asked["cwd"].as_str().is_some_and(|dir| dir.starts_with('/')), "{asked}");
            ensure!(!Path::new(dir).exists(), "it ran before the answer");
            answer(h, how, asked)
        })?;
        let allowed = how == "approve";
        ensure!(Path::new(dir).exists() == allowed, "{}", a.tell());
        ensure!(a.status == if allowed { 0 } else { KILLED }, "status {}\n{}", a.status, a.tell());
        is(&a, "ask-mkdir", if allowed { "ALLOW" } else { "DENY" }, "approval")?;
    }
    Ok(())
}

fn continued(h: &Host) -> Result<()> {
    let a = while_it_waits(h, &[TOOL, "mkdir", "/tmp/l/early"], |asked| {
        let pid = asked["pid"].as_i64().context("no pid")? as i32;
        for _ in 0..2000 {
            // SAFETY: no memory is involved.
            unsafe { libc::kill(pid, libc::SIGCONT) };
        }
        std::thread::sleep(Duration::from_millis(300));
        ensure!(!Path::new("/tmp/l/early").exists(), "SIGCONT let it run");
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        ensure!(state.contains(") T "), "it is not stopped: {state}");
        answer(h, "approve", asked)
    })?;
    ensure!(a.status == 0 && Path::new("/tmp/l/early").exists(), "{}", a.tell());
    // Continued by the kernel itself: its process group has lost its leader, and nobody is left to continue it.
    let script = format!("trap '' HUP; set -m; {TOOL} mkdir /tmp/l/orphan & sleep 1; exit 0");
    let run = std::thread::scope(|scope| -> Result<Attempt> {
        let attempt = scope.spawn(|| h.run(&[], &["/bin/sh", "-c", &script]));
        let asked = next(h)?;
        std::thread::sleep(Duration::from_secs(3));
        ensure!(!Path::new("/tmp/l/orphan").exists(), "the kernel let it run");
        answer(h, "deny", &asked)?;
        attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))?
    })?;
    ensure!(!Path::new("/tmp/l/orphan").exists(), "{}", run.tell());
    // Killed while it waits: it is gone, and a receipt says so.
    let a = while_it_waits(h, &[TOOL, "mkdir", "/tmp/l/killed"], |asked| {
        let pid = asked["pid"].as_i64().context("no pid")? as i32;
        // SAFETY: no memory is involved.
        ensure!(unsafe { libc::kill(pid, libc::SIGKILL) } == 0);
        Ok(())
    })?;
    ensure!(a.status == KILLED && !Path::new("/tmp/l/killed").exists(), "{}", a.tell());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !h.receipts(&[])?.iter().any(|r| r["detail"]["method"] == "gone") {
        ensure!(Instant::now() < deadline, "no receipt says that it is gone");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn scripts(h: &Host) -> Result<()> {
    let body = format!("#!{TOOL} sh\n{TOOL} echo did $1\n");
    for name in ["deploy.sh", "evil.sh"] {
        let path = format!("/tmp/l/{name}");
        file(&path, &body)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let a = h.run(&[], &["/tmp/l/deploy.sh", "test"])?;
    ensure!(a.status == 0 && a.output.contains("did test"), "{}", a.tell());
    let a = h.run(&[], &["/tmp/l/deploy.sh", "prod"])?;
    ensure!(a.status == KILLED && !a.output.contains("did"), "status {}\n{}", a.status, a.tell());
    is(&a, "deploy", "DENY", "policy")?;
    let a = h.run(&[], &["/tmp/l/evil.sh", "test"])?;
    ensure!(a.status == KILLED && !a.output.contains("did"), "status {}\n{}", a.status, a.tell());
    is(&a, "shell", "DENY", "policy")?;
    Ok(())
}

fn long(h: &Host) -> Result<()> {
    let words = vec!["x".repeat(100); 400];
    for (last, status) in [("harmless", 0), ("secret", KILLED)] {
        let mut command = vec![TOOL, "echo"];
        command.extend(words.iter().map(String::as_str));
        command.push(last);
        let a = h.run(&[], &command)?;
        ensure!(a.status == status, "{last}: status {}\n{}", a.status, a.tell());
    }
    // Longer than is looked at: refused, and says why.
    let words = vec!["x".repeat(1000); 300];
    let mut command = vec![TOOL, "echo"];
    command.extend(words.iter().map(String::as_str));
    let a = h.run(&[], &command)?;
    ensure!(a.status == KILLED, "status {}\n{}", a.status, a.tell());
    let r = a.receipts.iter().find(|r| r["kind"] == "resolution").context("no answer")?;
    ensure!(r["detail"]["comment"].as_str().is_some_and(|c| c.contains("too long")), "{r}");
    Ok(())
}

fn audit(h: &Host) -> Result<()> {
    let a = h.run(&["--policy", "audited"], &[TOOL, "echo", "x", "secrets"])?;
    ensure!(a.status == 0 && a.output.contains("x secrets"), "{}", a.tell());
    is(&a, "no-secret", "DENY", "policy")?;
    ensure!(waiting(h)?.is_empty(), "somebody is asked");
    Ok(())
}

fn outlives(h: &mut Host) -> Result<()> {
    for (signal, how) in [(libc::SIGKILL, "approve"), (libc::SIGTERM, "deny")] {
        let dir = format!("/tmp/l/{how}");
        let mut child = std::process::Command::new("/usr/local/bin/aarm")
            .args(["run", "--", TOOL, "mkdir", &dir])
            .current_dir(h.path(""))
            .spawn()?;
        let before = next(h)?;
        // What is to be kept is kept at the next look.
        std::thread::sleep(Duration::from_millis(1200));
        h.end(signal)?;
        ensure!(child.try_wait()?.is_none() && !Path::new(&dir).exists(), "it did not go on waiting");
        h.launch()?;
        let after = next(h)?;
        ensure!(after == before, "{before}\n{after}");
        answer(h, how, &after)?;
        let status = child.wait()?;
        ensure!(
            status.success() == (how == "approve") && Path::new(&dir).exists() == status.success(),
            "{status}"
        );
    }
    Ok(())
}
