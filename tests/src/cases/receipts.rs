//! The log is complete, and says when it is not what it was.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::host::{Host, file, policy};

pub const CASES: &[Case] = &[
    ("the_log_verifies_elsewhere_without_the_daemon", elsewhere),
    ("one_changed_byte_is_found", tampered),
    ("filters_select", filters),
    ("who_follows_sees_each_once", follow),
    ("metrics_count_what_receipts_tell", metrics),
    ("keys_are_exchanged_when_the_daemon_starts_and_who_trusts_the_old_ones_follows", keys),
    ("what_a_policy_redacts_is_in_no_file_of_the_log_and_can_be_erased", redacted),
    ("a_witness_has_seen_the_log_and_finds_out_that_it_was_cut", witnessed),
];

const RULES: &str = "- { id: no-secret, match: { operation: read, path: '/tmp/r/secret' }, decision: DENY }";

fn host() -> Result<Host> {
    file("/tmp/r/secret", "x")?;
    Host::start(&policy(RULES))
}

fn copy(from: &std::path::Path, to: &str) -> Result<()> {
    let _ = std::fs::remove_dir_all(to);
    ensure!(Command::new("/bin/busybox").args(["cp", "-r"]).arg(from).arg(to).status()?.success());
    Ok(())
}

fn elsewhere() -> Result<()> {
    let mut h = host()?;
    h.act(&["read", "/tmp/r/secret"])?;
    h.end(libc::SIGTERM)?;
    copy(&h.path("log"), "/tmp/r/copy")?;
    let out = h.aarm(&["verify", "/tmp/r/copy"])?;
    ensure!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

fn tampered() -> Result<()> {
    let mut h = host()?;
    h.act(&["read", "/tmp/r/secret"])?;
    h.end(libc::SIGTERM)?;
    copy(&h.path("log"), "/tmp/r/copy")?;
    // The first place in any file of the copy that says what was refused.
    let mut changed = false;
    for entry in std::fs::read_dir("/tmp/r/copy")?.flatten() {
        let Ok(mut bytes) = std::fs::read(entry.path()) else { continue };
        if let Some(at) = bytes.windows(13).position(|w| w == b"/tmp/r/secret") {
            bytes[at + 7] = b'S';
            std::fs::write(entry.path(), bytes)?;
            changed = true;
            break;
        }
    }
    ensure!(changed, "the log does not contain the path in the clear");
    let out = h.aarm(&["verify", "/tmp/r/copy"])?;
    ensure!(out.status.code() == Some(1), "{}\n{}", out.status, String::from_utf8_lossy(&out.stdout));
    Ok(())
}

fn keys() -> Result<()> {
    let mut h = host()?;
    h.act(&["read", "/tmp/r/secret"])?;
    std::fs::copy(h.path("log/log.pub"), "/tmp/r/host.pub")?;
    let (keys, log) = (h.path("keys").display().to_string(), h.path("log").display().to_string());
    let prepared = h.aarm(&["keys", "rotate", "--keys", &keys, "--log", &log])?;
    ensure!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
    h.end(libc::SIGTERM)?;
    h.launch()?;
    h.act(&["read", "/tmp/r/secret"])?.refused("open_read", "/tmp/r/secret", "no-secret")?;
    h.end(libc::SIGTERM)?;
    ensure!(!h.path("keys/next").exists(), "{}", h.log());
    for _ in 0..2 {
        let out = h.aarm(&["verify", &log, "--key", "/tmp/r/host.pub", "--renew-key"])?;
        let said = String::from_utf8_lossy(&out.stdout);
        ensure!(out.status.success() && said.contains("its keys were exchanged"), "{} {said}", out.status);
    }
    ensure!(std::fs::read("/tmp/r/host.pub")? == std::fs::read(h.path("log/log.pub"))?);
    Ok(())
}

/// Whether a file below a directory has these bytes.
fn has(dir: &std::path::Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let entry = entry?;
        let found = if entry.file_type()?.is_dir() {
            has(&entry.path(), text)?
        } else {
            std::fs::read(entry.path())?.windows(text.len()).any(|bytes| bytes == text.as_bytes())
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

fn redacted() -> Result<()> {
    const RULES: &str = "
- { id: no-taxes, match: { operation: read, path: '/tmp/r/taxes-of-mia' }, decision: DENY }
- { id: words, match: { operation: exec, args: ['word-of-mia'] }, decision: DENY }
";
    file("/tmp/r/taxes-of-mia", "x")?;
    let mut h = Host::start(&(policy(RULES) + "  redact: [paths, arguments, human]\n"))?;
    let attempts = [
        h.run(&["--as", "mia@example"], &[crate::host::ME, "actor", "read", "/tmp/r/taxes-of-mia"])?,
        h.run(&[], &["/bin/sh", "-c", "/bin/busybox echo word-of-mia"])?,
    ];
    let text = |out: &std::process::Output| {
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    };
    let dir = h.path("redacted").display().to_string();
    for (a, rule, secret) in
        [(&attempts[0], "no-taxes", "/tmp/r/taxes-of-mia"), (&attempts[1], "words", "word-of-mia")]
    {
        let decided = |r: &&Value| r["decision"]["rule"] == rule || r["detail"]["rule"] == rule;
        ensure!(a.receipts.iter().any(|r| decided(&r)), "nothing was refused\n{}", a.tell());
        let uuid = a.receipts[0]["session"]["uuid"].as_str().context("no session")?;
        let shown = |more: &[&str]| h.aarm(&[&["receipts", "--json", "--session", uuid], more].concat());
        let out = shown(&[])?;
        let plain = text(&out);
        ensure!(out.status.success() && plain.contains("\"redacted\":\""), "{plain}");
        ensure!(!plain.contains("mia"), "it is shown: {plain}");
        let out = shown(&["--reveal", "--redacted", &dir])?;
        ensure!(out.status.success() && text(&out).contains(secret), "it is not revealed: {}", text(&out));
        ensure!(!text(&out).contains("\"redacted\":"), "something is not revealed: {}", text(&out));
        let out = h.aarm(&["receipts", "--session", uuid])?;
        ensure!(out.status.success() && text(&out).contains("(redacted)"), "{}", text(&out));
    }
    let uuid = attempts[0].receipts[0]["session"]["uuid"].as_str().context("no session")?.to_owned();
    h.verified()?;
    // Whoever takes over tells it no more than the one before.
    h.end(libc::SIGKILL)?;
    h.launch()?;
    h.verified()?;
    // The policy's own text, which is there too, is not redacted.
    copy(&h.path("log"), "/tmp/r/copy")?;
    std::fs::remove_dir_all("/tmp/r/copy/policies")?;
    for word in ["taxes-of-mia", "word-of-mia", "mia@example"] {
        ensure!(!has("/tmp/r/copy".as_ref(), word)?, "{word} is in the log");
    }
    ensure!(has("/tmp/r/copy".as_ref(), "{\"redacted\":\"")?, "nothing is found at all");
    let out = h.aarm(&["redacted", "list", "--dir", &dir])?;
    ensure!(out.status.success() && text(&out).contains(&uuid), "{}", text(&out));
    let out = h.aarm(&["redacted", "erase", &uuid, "--dir", &dir])?;
    ensure!(out.status.success() && text(&out).contains("would be erased"), "{}", text(&out));
    let out = h.aarm(&["redacted", "erase", &uuid, "--yes"])?;
    ensure!(out.status.success() && text(&out).contains("erased"), "{}", text(&out));
    let out = h.aarm(&["receipts", "--json", "--session", &uuid, "--reveal", "--redacted", &dir])?;
    ensure!(out.status.success() && !text(&out).contains("mia"), "it is not erased: {}", text(&out));
    let erasures = h.recorded(&["--kind", "erasure"])?;
    let [erasure] = &erasures[..] else { anyhow::bail!("{erasures:?}") };
    let detail = &erasure["detail"];
    ensure!(detail["session"] == uuid.as_str() && detail["by"] == "uid:0", "{erasure}");
    ensure!(detail["values"].as_u64().is_some_and(|n| n > 0), "{erasure}");
    let out = h.aarm(&["redacted", "erase", &uuid, "--yes"])?;
    ensure!(!out.status.success() && text(&out).contains("nothing redacted is kept"), "{}", text(&out));
    h.verified()
}

fn filters() -> Result<()> {
    let h = host()?;
    let a = h.act(&["read", "/tmp/r/secret"])?;
    h.act(&["nothing"])?;
    let denied = h.receipts(&["--decision", "DENY"])?;
    ensure!(denied.iter().all(|r| r["decision"]["result"] == "DENY") && !denied.is_empty());
    let recent = h.receipts(&["--since", "10m"])?;
    ensure!(recent.len() >= a.receipts.len());
    Ok(())
}

fn follow() -> Result<()> {
    let h = host()?;
    h.act(&["read", "/tmp/r/secret"])?;
    let mut following = Command::new("/usr/local/bin/aarm")
        .args(["receipts", "--follow", "--json", "--rule", "no-secret"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let out = following.stdout.take().context("piped above")?;
    let lines = std::thread::spawn(move || std::io::read_to_string(out));
    let ended = Ended(following);
    // While it lists those before, and after.
    for _ in 0..5 {
        h.act(&["read", "/tmp/r/secret"])?;
    }
    let all = h.receipts(&["--rule", "no-secret"])?.len();
    std::thread::sleep(Duration::from_secs(1));
    // SAFETY: our own child.
    unsafe { libc::kill(ended.0.id() as i32, libc::SIGINT) };
    let text = lines.join().map_err(|_| anyhow::anyhow!("reading panicked"))??;
    let shown: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut indices: Vec<u64> = shown.iter().filter_map(|line| line["index"].as_u64()).collect();
    ensure!(indices.is_sorted(), "{indices:?}");
    indices.dedup();
    ensure!(
        all == 6 && indices.len() == 6 && shown.len() == 6,
        "{all} are there, and shown are {indices:?}: {text}"
    );
    Ok(())
}

fn metrics() -> Result<()> {
    let h = host()?;
    h.act(&["read", "/tmp/r/secret"])?;
    ensure!(h.http("/healthz")?.contains("200") && h.http("/readyz")?.contains("200"));
    let denied = h.metric("aarm_actions_total{decision=\"DENY\",operation=\"open_read\"}")?;
    ensure!(denied >= 1.0, "{denied}");
    ensure!(h.metric("aarm_events_lost_total")? == 0.0);
    ensure!(h.metric("aarm_events_received_total")? > 5.0);
    Ok(())
}

/// A process of this machine, ended with its case.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const WITNESS: &str = "127.0.0.1:9467";

/// `aarm witness serve`, for the keys in a directory.
fn witness(state: &str, logs: &str) -> Result<Ended> {
    let child = Command::new("/usr/local/bin/aarm")
        .args(["witness", "serve", "--state", state, "--logs", logs, "--listen", WITNESS])
        .spawn()?;
    let witness = Ended(child);
    let began = Instant::now();
    while std::net::TcpStream::connect(WITNESS).is_err() {
        ensure!(began.elapsed() < Duration::from_secs(20), "the witness does not serve");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(witness)
}

/// Waits until the daemon says something of its witness.
fn until(h: &Host, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
    let began = Instant::now();
    loop {
        let status: Value = serde_json::from_slice(&h.aarm(&["status", "--json"])?.stdout)?;
        if is(&status["log"]["witnesses"][0]) {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "{what}: {}\n{}", status["log"], h.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn witnessed() -> Result<()> {
    file("/tmp/r/secret", "x")?;
    for dir in ["state", "hosts", "copy", "back"] {
        let _ = std::fs::remove_dir_all(format!("/tmp/r/{dir}"));
    }
    std::fs::create_dir_all("/tmp/r/hosts")?;
    let aarm = |args: &[&str]| Command::new("/usr/local/bin/aarm").args(args).output();
    let made = aarm(&["witness", "key", "--state", "/tmp/r/state", "--name", "vm.test/witness"])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::write("/tmp/r/witnesses.pub", &made.stdout)?;
    let key = String::from_utf8(made.stdout)?;
    let settings = format!(
        "receipts: {{ witness_s: 1, heartbeat_s: 2 }}\nwitnesses: [{{ url: \"http://{WITNESS}\", key: \"{}\" }}]\n",
        key.trim()
    );
    let mut h = Host::with(&[("test.yaml", &policy(RULES))], &settings)?;
    // It works as well without one, and says what is wrong.
    until(&h, "nobody serves", |w| w["problem"].is_string() && w["receipts"] == 0)?;
    std::fs::copy(h.path("log/log.pub"), "/tmp/r/hosts/host.pub")?;
    let witness = witness("/tmp/r/state", "/tmp/r/hosts")?;
    until(&h, "the first", |w| w["receipts"].as_u64() > Some(0) && w["problem"].is_null())?;
    copy(&h.path("log"), "/tmp/r/back")?;
    let act = h.act(&["read", "/tmp/r/secret"])?;
    act.refused("open_read", "/tmp/r/secret", "no-secret")?;
    let size = || -> Result<u64> {
        let status: Value = serde_json::from_slice(&h.aarm(&["status", "--json"])?.stdout)?;
        Ok(status["log"]["size"].as_u64().unwrap_or_default())
    };
    let all = size()?;
    until(&h, "all of it", |w| w["receipts"].as_u64() >= Some(all))?;
    ensure!(h.http("/checkpoint")?.contains("\n\n\u{2014} "), "no checkpoint is served");
    ensure!(h.metric("aarm_witness_receipts{witness=\"vm.test/witness\"}")? >= all as f64);
    copy(&h.path("log"), "/tmp/r/copy")?;
    let keys = std::fs::read("/tmp/r/hosts/host.pub")?;
    std::fs::write("/tmp/r/host.pub", keys)?;
    let verify = |dir: &str| {
        aarm(&[
            "verify",
            dir,
            "--key",
            "/tmp/r/host.pub",
            "--witnesses",
            "/tmp/r/witnesses.pub",
            "--max-age",
            "5m",
        ])
    };
    let seen = verify("/tmp/r/copy")?;
    let said = String::from_utf8_lossy(&seen.stdout);
    ensure!(seen.status.success() && said.contains("vm.test/witness has seen"), "{} {said}", seen.status);
    // Root puts the log back to before the refusal: whole, signed, and not what was seen.
    h.end(libc::SIGTERM)?;
    std::fs::remove_dir_all(h.path("log"))?;
    copy(std::path::Path::new("/tmp/r/back"), &h.path("log").display().to_string())?;
    let bare = aarm(&["verify", &h.path("log").display().to_string()])?;
    ensure!(bare.status.success(), "{}", String::from_utf8_lossy(&bare.stdout));
    std::fs::remove_file(h.path("state/snapshot"))?;
    h.launch()?;
    until(&h, "cut", |w| {
        w["problem"].as_str().is_some_and(|p| p.contains("cut off") || p.contains("not those"))
    })?;
    ensure!(
        h.metric("aarm_witness_requests_total{result=\"disagrees\",witness=\"vm.test/witness\"}")? >= 1.0
    );
    copy(std::path::Path::new("/tmp/r/copy/witnessed"), &h.path("log/witnessed").display().to_string())?;
    let cut = verify(&h.path("log").display().to_string())?;
    ensure!(cut.status.code() == Some(1), "{} {}", cut.status, String::from_utf8_lossy(&cut.stdout));
    drop(witness);
    Ok(())
}
