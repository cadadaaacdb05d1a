//! AARM's own statements on R1 (before it happens), R3 (policy) and R4 (decisions), one case each, named after it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::asks::{answer, id, next, next_that, shown, waiting, while_it_waits};
use crate::host::{Attempt, Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("r1_a_denied_action_has_no_effect_and_a_receipt_with_rule_and_reason", denied),
    ("r1_a_deferred_action_is_suspended_without_effect_and_has_a_receipt", suspended),
    ("r1_with_the_system_unavailable_an_action_fails", unavailable),
    ("r3_each_classification_works_as_named", classified),
    ("r3_parameters_are_validated", validated),
    ("r3_what_is_not_known_and_what_disagrees_is_deferred", uncertain),
    ("r4_five_decisions", five),
    ("r4_step_up_is_for_its_approvers_and_tells_them_all", told),
    ("r4_step_up_ends_with_its_time_and_goes_to_more_people_before", escalated),
    ("r4_defer_keeps_order_and_lets_others_go_on", ordered),
    ("r4_identity_and_context_are_those_of_submission", submitted),
    ("r4_resolvers_come_before_people_and_each_attempt_is_recorded", resolvers),
];

const RULES: &str = "
- { id: no-make, match: { operation: mkdir, path: '/tmp/c/denied' }, decision: DENY, reason: not here }
- { id: wait-make, match: { operation: mkdir, path: '/tmp/c/deferred*' }, decision: DEFER, timeout: 60s }
- { id: short, match: { operation: mkdir, path: '/tmp/c/short' }, decision: DEFER, timeout: 1s }
- { id: ask-make, match: { operation: mkdir, path: '/tmp/c/asked*' }, decision: STEP_UP, timeout: 60s, risk: HIGH, reason: ask first, approvers: ['uid:0'] }
- { id: escalates, match: { operation: mkdir, path: '/tmp/c/later' }, decision: STEP_UP, timeout: 4s, approvers: ['uid:4711'], escalate: { after: 1s, approvers: ['uid:0'] } }
- { id: never, match: { operation: mkdir, path: '/tmp/c/never' }, decision: DENY, classification: forbidden }
- { id: but-allowed, match: { operation: mkdir, path: '/tmp/c/never' }, when: { labels: { any: [SEEN] } }, decision: ALLOW }
- { id: after-secret, match: { operation: mkdir, path: '/tmp/c/context-deny' }, when: { labels: { any: [SEEN] } }, decision: DENY }
- { id: with-secret, match: { operation: mkdir, path: '/tmp/c/context-allow' }, when: { labels: { any: [SEEN] } }, decision: ALLOW }
- { id: without, match: { operation: mkdir, path: '/tmp/c/context-allow' }, decision: DENY }
- { id: unsure, match: { operation: mkdir, path: '/tmp/c/context-defer' }, when: { labels: { any: [SEEN] } }, decision: DEFER, timeout: 0s }
- { id: yes, match: { operation: rmdir, path: '/tmp/c/tied' }, decision: ALLOW, priority: 7 }
- { id: no, match: { operation: rmdir, path: '/tmp/c/tied' }, decision: DENY, priority: 7 }
- { id: parents, match: { operation: rmdir, path: '/tmp/c/child' }, subject: { container: any }, decision: DENY }
- { id: ports, match: { operation: connect, port: '4000-4010', cidr: 127.0.0.0/8 }, decision: ALLOW }
- { id: other-ports, match: { operation: connect }, decision: DENY }
- { id: only-echo, match: { operation: exec, exe: /tmp/c/tool/busybox, argv: [echo, '**'] }, decision: ALLOW }
- { id: no-other, match: { operation: exec, exe: /tmp/c/tool/busybox, not_args: [{ any: 'echo' }] }, decision: DENY }
- { id: cleaned, match: { operation: exec, exe: /tmp/c/clean/busybox }, decision: MODIFY, modify: { scrub_env: [TOKEN] } }
- { id: found-out, match: { operation: mkdir, path: '/tmp/c/found' }, decision: DEFER, resolve: [hash, knows], timeout: 60s }
";

const SPEC: &str = "  data:
    - { label: SEEN, level: RESTRICTED, on: { read: ['/tmp/c/secret'] } }
";

const SETTINGS: &str = "resolvers:
  knows: { command: [/bin/busybox, echo, '{\"decision\":\"ALLOW\",\"reason\":\"known\"}'], timeout_ms: 20000, user: root }
";

fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/c");
    std::fs::create_dir_all("/tmp/c/tied")?;
    std::fs::create_dir_all("/tmp/c/child")?;
    file("/tmp/c/secret", "x")?;
    for name in ["tool", "clean"] {
        // It is called by its own name.
        std::fs::create_dir_all(format!("/tmp/c/{name}"))?;
        std::fs::copy("/bin/busybox", format!("/tmp/c/{name}/busybox"))?;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !users.lines().any(|line| line.starts_with("root:")) {
        file("/etc/passwd", &(users + "root:x:0:0::/:/bin/sh\n"))?;
    }
    Host::with(&[("test.yaml", &(policy(RULES) + SPEC))], SETTINGS)
}

/// The decision on a path, its rule, and why.
fn decided(a: &Attempt, path: &str) -> Result<(String, String, String)> {
    let r = a.receipts.iter().rev().find(|r| r["action"]["path"] == path).with_context(|| a.tell())?;
    let word = |name: &str| r["decision"][name].as_str().unwrap_or_default().to_owned();
    Ok((word("result"), word("rule"), word("cause")))
}

fn is(a: &Attempt, path: &str, result: &str, rule: &str) -> Result<()> {
    let found = decided(a, path)?;
    ensure!(found.0 == result && found.1 == rule, "{path}: {found:?}\n{}", a.tell());
    Ok(())
}

fn denied() -> Result<()> {
    let h = host()?;
    let a = h.act(&["mkdir", "/tmp/c/denied"])?;
    a.refused("mkdir", "/tmp/c/denied", "no-make")?;
    ensure!(!Path::new("/tmp/c/denied").exists());
    let r = a.receipts.iter().find(|r| r["decision"]["rule"] == "no-make").context("no receipt")?;
    ensure!(r["decision"]["reason"] == "not here", "{r}");
    h.verified()
}

fn suspended() -> Result<()> {
    let h = host()?;
    let a = while_it_waits(&h, &[ME, "actor", "mkdir", "/tmp/c/deferred"], |asked| {
        ensure!(!Path::new("/tmp/c/deferred").exists(), "it happened before the answer");
        let held = h.receipts(&["--decision", "DEFER"])?;
        ensure!(held.iter().any(|r| r["decision"]["hold"] == asked["id"]), "no receipt of the deferral");
        answer(&h, &["deny", id(asked)?])
    })?;
    ensure!(a.status == libc::EPERM && !Path::new("/tmp/c/deferred").exists(), "{}", a.tell());
    h.verified()
}

fn unavailable() -> Result<()> {
    let mut h = host()?;
    let mut child = std::process::Command::new("/usr/local/bin/aarm")
        .args(["run", "--", "/bin/sh", "-c"])
        .arg(format!(
            "{ME} actor mkdir /tmp/c/asked-one; echo $? > /tmp/c/one; {ME} actor mkdir /tmp/c/denied; echo $? > /tmp/c/two"
        ))
        .spawn()?;
    next(&h)?;
    // So that what waits is kept.
    std::thread::sleep(Duration::from_millis(1200));
    h.end(libc::SIGKILL)?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(child.try_wait()?.is_none() && !Path::new("/tmp/c/asked-one").exists(), "it went on by itself");
    let begun = std::process::Command::new("/usr/local/bin/aarm")
        .args(["run", "--", "/bin/busybox", "true"])
        .status()?;
    ensure!(begun.code() == Some(125), "a session began without a daemon: {begun}");
    h.launch()?;
    let asked = next(&h)?;
    answer(&h, &["deny", id(&asked)?])?;
    child.wait()?;
    for name in ["one", "two"] {
        let status = std::fs::read_to_string(format!("/tmp/c/{name}"))?;
        ensure!(status.trim() == libc::EPERM.to_string(), "{name}: {status}");
    }
    h.verified()
}

/// In one session: reads the secret if told to, then makes a directory.
fn in_context(h: &Host, seen: bool, path: &str) -> Result<Attempt> {
    let first = if seen { format!("{ME} actor read /tmp/c/secret; ") } else { String::new() };
    let _ = std::fs::remove_dir(path);
    h.run(&[], &["/bin/sh", "-c", &format!("{first}{ME} actor mkdir {path}")])
}

fn classified() -> Result<()> {
    let h = host()?;
    for (seen, path, result, rule) in [
        (true, "/tmp/c/never", "DENY", "never"),
        (false, "/tmp/c/never", "DENY", "never"),
        (false, "/tmp/c/context-deny", "ALLOW", ""),
        (true, "/tmp/c/context-deny", "DENY", "after-secret"),
        (false, "/tmp/c/context-allow", "DENY", "without"),
        (true, "/tmp/c/context-allow", "ALLOW", "with-secret"),
        (false, "/tmp/c/context-defer", "ALLOW", ""),
        (true, "/tmp/c/context-defer", "DEFER", "unsure"),
    ] {
        let a = in_context(&h, seen, path)?;
        is(&a, path, result, rule).with_context(|| format!("labelled: {seen}"))?;
        ensure!(Path::new(path).exists() == (result == "ALLOW"), "{path}");
    }
    h.verified()
}

fn validated() -> Result<()> {
    let h = host()?;
    let _server = std::net::TcpListener::bind("127.0.0.1:4005")?;
    // A range, an allow list of command lines, and a block list.
    h.act(&["tcp", "127.0.0.1:4005"])?.allowed("connect", "127.0.0.1")?;
    h.act(&["tcp", "127.0.0.1:4011"])?.refused("connect", "127.0.0.1", "other-ports")?;
    let a = h.run(&[], &["/tmp/c/tool/busybox", "echo", "fine"])?;
    ensure!(a.status == 0 && a.output.contains("fine"), "{}", a.tell());
    let a = h.run(&[], &["/tmp/c/tool/busybox", "id"])?;
    ensure!(a.status == 128 + libc::SIGKILL, "{}", a.tell());
    h.verified()
}

fn uncertain() -> Result<()> {
    let h = host()?;
    let a = while_it_waits(&h, &[ME, "actor", "rmdir", "/tmp/c/tied"], |asked| {
        ensure!(asked["decision"] == "DEFER" && asked["cause"] == "conflict", "{asked}");
        answer(&h, &["deny", id(asked)?])
    })?;
    ensure!(a.status == libc::EPERM && Path::new("/tmp/c/tied").exists(), "{}", a.tell());
    h.verified()
}

fn five() -> Result<()> {
    let h = host()?;
    let a = h.act(&["mkdir", "/tmp/c/plain"])?;
    is(&a, "/tmp/c/plain", "ALLOW", "")?;
    ensure!(Path::new("/tmp/c/plain").exists());
    h.act(&["mkdir", "/tmp/c/denied"])?.refused("mkdir", "/tmp/c/denied", "no-make")?;
    let a = h.run(&[], &["/bin/busybox", "env", "TOKEN=t", "KEPT=k", "/tmp/c/clean/busybox", "env"])?;
    ensure!(a.status == 0 && a.output.contains("KEPT=k") && !a.output.contains("TOKEN"), "{}", a.tell());
    let resolved = a.receipts.iter().find(|r| r["kind"] == "resolution").context("no resolution")?;
    ensure!(resolved["detail"]["answer"] == "MODIFY", "{resolved}");
    ensure!(resolved["detail"]["modified"]["env"] == serde_json::json!(["TOKEN"]), "{resolved}");
    for (path, decision) in [("/tmp/c/asked", "STEP_UP"), ("/tmp/c/deferred", "DEFER")] {
        let a = while_it_waits(&h, &[ME, "actor", "mkdir", path], |asked| {
            ensure!(asked["decision"] == decision && !Path::new(path).exists(), "{asked}");
            answer(&h, &["approve", id(asked)?])
        })?;
        ensure!(a.status == 0 && Path::new(path).exists(), "{}", a.tell());
        // One when it was asked, one of the answer, one of what then happened.
        let of = |r: &&Value| r["decision"]["hold"].is_string() || r["kind"] == "resolution";
        ensure!(a.receipts.iter().filter(of).count() == 3, "{}", a.tell());
    }
    h.verified()
}

fn told() -> Result<()> {
    let h = host()?;
    let script = format!(
        "{ME} actor read /tmp/c/secret; {ME} actor mkdir /tmp/c/denied; {ME} actor mkdir /tmp/c/asked"
    );
    let command = ["--intent", "tidy up", "--", "/bin/sh", "-c", &script];
    let seen = std::thread::scope(|scope| -> Result<Value> {
        let attempt = scope
            .spawn(|| std::process::Command::new("/usr/local/bin/aarm").arg("run").args(command).status());
        let asked = next(&h).and_then(|asked| shown(&h, &asked));
        if let Ok(asked) = &asked {
            answer(&h, &["approve", id(asked)?])?;
        }
        let status = attempt.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        ensure!(status.success(), "{status}");
        asked
    })?;
    // Request, action, prior actions, classifications, risk, identity, rule, and whether it comes from a deferral.
    let text = |name: &str| seen[name].as_str().unwrap_or_default();
    ensure!(
        text("intent") == "tidy up" && text("operation") == "mkdir" && text("path") == "/tmp/c/asked",
        "{seen}"
    );
    ensure!(text("rule") == "ask-make" && text("reason") == "ask first" && text("risk") == "HIGH", "{seen}");
    ensure!(text("decision") == "STEP_UP" && seen["labels"] == serde_json::json!(["SEEN"]), "{seen}");
    ensure!(seen["uid"] == 0 && seen["pid"].as_u64() > Some(1) && text("exe") == ME, "{seen}");
    let prior = seen["prior"].as_array().context("no prior actions")?;
    let before = |op: &str, object: &str, decision: &str| {
        prior.iter().any(|p| p["operation"] == op && p["object"] == object && p["decision"] == decision)
    };
    ensure!(before("open_read", "/tmp/c/secret", "ALLOW"), "{prior:?}");
    ensure!(before("mkdir", "/tmp/c/denied", "DENY"), "{prior:?}");
    h.verified()
}

fn escalated() -> Result<()> {
    let h = host()?;
    // Nobody answers in time.
    let began = Instant::now();
    let a = h.act(&["mkdir", "/tmp/c/later"])?;
    a.refused("mkdir", "/tmp/c/later", "escalates")?;
    ensure!(began.elapsed() > Duration::from_millis(3900), "{:?}", began.elapsed());
    // After a while others may.
    let a = while_it_waits(&h, &[ME, "actor", "mkdir", "/tmp/c/later"], |asked| {
        let early = h.aarm(&["approvals", "approve", id(asked)?])?;
        ensure!(asked["escalated"] == true || !early.status.success(), "{early:?}");
        if !early.status.success() {
            let now = next_that(&h, |asked| asked["escalated"] == true)?;
            answer(&h, &["approve", id(&now)?])?;
        }
        Ok(())
    })?;
    ensure!(a.status == 0, "{}", a.tell());
    h.verified()
}

fn ordered() -> Result<()> {
    let h = host()?;
    let script = format!(
        "({ME} actor mkdir /tmp/c/other; echo other) & {ME} actor mkdir /tmp/c/deferred; {ME} actor mkdir /tmp/c/after; wait"
    );
    let a = while_it_waits(&h, &["/bin/sh", "-c", &script], |asked| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !Path::new("/tmp/c/other").exists() {
            ensure!(Instant::now() < deadline, "what does not depend on it does not go on");
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(!Path::new("/tmp/c/after").exists(), "what comes after it came before");
        answer(&h, &["approve", id(asked)?])
    })?;
    ensure!(Path::new("/tmp/c/deferred").exists() && Path::new("/tmp/c/after").exists(), "{}", a.tell());
    // Time that is over is never a yes.
    let a = h.act(&["mkdir", "/tmp/c/short"])?;
    a.refused("mkdir", "/tmp/c/short", "short")?;
    h.verified()
}

fn submitted() -> Result<()> {
    let h = host()?;
    // Labels that come while it waits do not change what was asked.
    let script = format!(
        "({ME} actor mkdir /tmp/c/deferred) & while [ ! -e /tmp/c/go ]; do /bin/busybox sleep 0.1; done; {ME} actor read /tmp/c/secret; wait"
    );
    let _ = std::fs::remove_file("/tmp/c/go");
    let a = while_it_waits(&h, &["/bin/sh", "-c", &script], |asked| {
        file("/tmp/c/go", "")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while h.receipts(&[])?.iter().all(|r| r["action"]["path"] != "/tmp/c/secret") {
            ensure!(Instant::now() < deadline, "the other does not go on");
            std::thread::sleep(Duration::from_millis(50));
        }
        let now = waiting(&h)?.into_iter().find(|w| w["id"] == asked["id"]).context("it is gone")?;
        ensure!(now == *asked && now.get("labels").is_none(), "{now}");
        answer(&h, &["approve", id(asked)?])
    })?;
    let asked = a.receipts.iter().find(|r| r["decision"]["result"] == "DEFER").context("no deferral")?;
    let end = a.receipts.iter().find(|r| r["kind"] == "resolution").context("no resolution")?;
    ensure!(
        asked.get("context").is_none() && asked["identity"]["pid"] == end["identity"]["pid"],
        "{asked} {end}"
    );
    h.verified()
}

fn resolvers() -> Result<()> {
    let h = host()?;
    let a = h.act(&["mkdir", "/tmp/c/found"])?;
    ensure!(a.status == 0 && Path::new("/tmp/c/found").exists(), "{}", a.tell());
    let attempts: Vec<&Value> =
        a.receipts.iter().filter(|r| r["kind"] == "attempt").map(|r| &r["detail"]).collect();
    let [hash, knows] = attempts[..] else { anyhow::bail!("{}", a.tell()) };
    ensure!(
        hash["resolver"] == "hash" && knows["found"] == "ALLOW" && knows["text"] == "known",
        "{hash} {knows}"
    );
    h.verified()
}
