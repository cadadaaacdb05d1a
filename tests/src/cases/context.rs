//! What a session has seen decides what it may do next.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::host::{Attempt, Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("what_was_read_decides_the_very_next_action", labels),
    ("a_file_carries_labels_to_who_reads_it", carried),
    ("what_happened_before_counts", prior),
    ("a_contradiction_is_deferred", conflict),
    ("what_explains_a_session_agrees_with_all_its_receipts", explained),
    ("each_receipt_of_a_session_names_the_one_before", chained),
    ("routine_reads_are_only_counted", summary),
    ("routine_reads_are_only_counted_although_rules_ask_for_history", summary_and_history),
];

const DATA: &str = "
data:
  - { label: SECRET, level: RESTRICTED, on: { read: ['/tmp/c/secret/**'] } }
rules:
  - id: no-egress
    match: { operation: [connect, send] }
    when: { labels: { any: [SECRET] } }
    decision: DENY
";

/// A policy whose spec has more than rules.
fn document(spec: &str) -> String {
    let spec: String = spec.trim().lines().map(|l| format!("  {l}\n")).collect();
    policy("") + &spec
}

fn host(spec: &str) -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/c");
    file("/tmp/c/secret/key", "secret")?;
    file("/tmp/c/plain", "plain")?;
    Host::start(&document(spec))
}

fn shell(h: &Host, script: &str) -> Result<Attempt> {
    h.run(&[], &["/bin/sh", "-c", &script.replace("ACT", &format!("{ME} actor"))])
}

fn labels() -> Result<()> {
    let h = host(DATA)?;
    let a = shell(&h, "ACT udp 127.0.0.1:9; cat /tmp/c/plain; ACT sendto 127.0.0.1:9")?;
    a.allowed("send", "127.0.0.1")?;
    let a = shell(&h, "cat /tmp/c/secret/key; ACT sendto 127.0.0.1:9")?;
    a.refused("send", "127.0.0.1", "no-egress")?;
    let read = a.receipts.iter().find(|r| r["action"]["path"] == "/tmp/c/secret/key");
    ensure!(read.is_some_and(|r| r["context"]["adds"][0] == "SECRET"), "{}", a.tell());
    let sent = a.receipts.iter().find(|r| r["action"]["operation"] == "send");
    ensure!(sent.is_some_and(|r| r["context"]["labels"][0] == "SECRET"), "{}", a.tell());
    // Any task of the session, also one that was there before.
    let a = shell(&h, "(sleep 1; ACT sendto 127.0.0.1:9) & cat /tmp/c/secret/key; wait $!")?;
    a.refused("send", "127.0.0.1", "no-egress")
}

fn carried() -> Result<()> {
    let h = host(DATA)?;
    shell(&h, "cat /tmp/c/secret/key > /tmp/c/copy")?;
    let a = shell(&h, "cat /tmp/c/copy; ACT sendto 127.0.0.1:9")?;
    a.refused("send", "127.0.0.1", "no-egress")?;
    let a = shell(&h, "cat /tmp/c/plain; ACT sendto 127.0.0.1:9")?;
    a.allowed("send", "127.0.0.1")
}

fn prior() -> Result<()> {
    let h = host(
        "rules:\n  - id: twice\n    match: { operation: send }\n    when: { prior: { operation: send, count: 2 } }\n    decision: DENY\n",
    )?;
    let a = shell(&h, "ACT sendto 127.0.0.1:9 && ACT sendto 127.0.0.1:9 && ACT sendto 127.0.0.1:9")?;
    a.refused("send", "127.0.0.1", "twice")?;
    let sent = a.receipts.iter().filter(|r| r["action"]["operation"] == "send").count();
    ensure!(sent == 3, "{}", a.tell());
    // Another session has not done it.
    shell(&h, "ACT sendto 127.0.0.1:9")?.allowed("send", "127.0.0.1")
}

fn explained() -> Result<()> {
    let h = host(DATA)?;
    let script = "cat /tmp/c/plain > /tmp/c/copy; mv /tmp/c/copy /tmp/c/moved; ACT sendto 127.0.0.1:9; ln -s x /tmp/c/link
        cat /tmp/c/secret/key; ACT sendto 127.0.0.1:9; ACT udp 127.0.0.1:9; rm /tmp/c/moved; ACT read-write /tmp/c/plain";
    let script = script.replace("ACT", &format!("{ME} actor"));
    let (_, output, session) = h.run_only(&[], &["/bin/sh", "-c", &script])?;
    let decided = h.session_receipts(&session)?.iter().filter(|r| r["kind"] == "action").count();
    let (log, policies) = (h.path("log"), h.path("policies"));
    let places = ["--log", &log.display().to_string(), "--policies", &policies.display().to_string()]
        .map(str::to_owned);
    let mut args = vec!["explain", "--json", "--session", &session];
    args.extend(places.iter().map(String::as_str));
    let out = h.aarm(&args)?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{text}{}\n{output}", String::from_utf8_lossy(&out.stderr));
    let tally: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    let agreed = tally["agree"].as_u64().unwrap_or_default() as usize;
    ensure!(tally["disagree"] == 0 && agreed >= 20 && agreed * 10 >= decided * 9, "{tally} of {decided}");
    Ok(())
}

fn conflict() -> Result<()> {
    let h = host(
        "hold: { defer_timeout: 0s }\nrules:\n  - { id: yes, priority: 5, match: { operation: open_read, path: '/tmp/c/**' }, decision: ALLOW }\n  - { id: no, priority: 5, match: { operation: open_read, path: '/tmp/**/plain' }, decision: DENY }\n",
    )?;
    h.act(&["read", "/tmp/c/secret/key"])?.allowed("open_read", "/tmp/c/secret/key")?;
    let a = h.act(&["read", "/tmp/c/plain"])?;
    ensure!(a.errno() == libc::EPERM, "{}", a.tell());
    let r = a.receipts.iter().find(|r| r["action"]["path"] == "/tmp/c/plain");
    ensure!(
        r.is_some_and(|r| r["decision"]["result"] == "DEFER" && r["decision"]["cause"] == "conflict"),
        "{}",
        a.tell()
    );
    Ok(())
}

/// Found by the differential test: what no condition counts had receipts as soon as there was a condition.
fn summary_and_history() -> Result<()> {
    let h = host(
        "record: { read: summary }\nrules:\n  - id: twice\n    match: { operation: send }\n    when: { prior: { operation: send, count: 2 } }\n    decision: DENY\n",
    )?;
    let a = shell(&h, "cat /tmp/c/plain; ACT sendto 127.0.0.1:9")?;
    a.allowed("send", "127.0.0.1")?;
    ensure!(a.decision("open_read", "/tmp/c/plain").is_none(), "{}", a.tell());
    h.verified()
}

fn summary() -> Result<()> {
    let h = host(
        "record: { read: summary }\nrules:\n  - { id: no, match: { operation: open_read, path: '/tmp/c/secret/**' }, decision: DENY }\n",
    )?;
    let a = shell(&h, "for i in 1 2 3 4 5 6 7 8 9; do cat /tmp/c/plain; done; cat /tmp/c/secret/key")?;
    ensure!(a.decision("open_read", "/tmp/c/plain").is_none(), "{}", a.tell());
    ensure!(a.decision("open_read", "/tmp/c/secret/key").is_some_and(|d| d.0 == "DENY"), "{}", a.tell());
    // The last one has them all.
    let counted: u64 = a
        .receipts
        .iter()
        .rfind(|r| r["kind"] == "summary")
        .and_then(|r| r["detail"]["counts"]["open_read"].as_u64())
        .unwrap_or_default();
    ensure!(counted >= 9, "{counted}\n{}", a.tell());
    h.verified()
}

fn chained() -> Result<()> {
    file("/tmp/x/chained", "x")?;
    let mut h = Host::start(&policy(
        "- { id: no-chained, match: { operation: read, path: '/tmp/x/chained' }, decision: DENY }",
    ))?;
    let script = format!(
        "{ME} actor read /tmp/x/chained; while [ ! -e /tmp/x/go ]; do /bin/busybox sleep 0.1; done; {ME} actor read /tmp/x/chained"
    );
    let _ = std::fs::remove_file("/tmp/x/go");
    let mut session = std::process::Command::new("/usr/local/bin/aarm")
        .args(["run", "--", "/bin/sh", "-c", &script])
        .spawn()?;
    // Another daemon goes on with it.
    h.recorded(&["--decision", "DENY"])?;
    h.end(libc::SIGKILL)?;
    h.launch()?;
    file("/tmp/x/go", "")?;
    session.wait()?;
    let all = h.recorded(&["--decision", "DENY"])?;
    let id = all[0]["session"]["uuid"].as_str().context("a session")?.to_owned();
    let all = h.session_receipts(&id)?;
    const FIRST: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let prevs: Vec<&str> = all.iter().filter_map(|r| r["prev"].as_str()).collect();
    ensure!(prevs.len() == all.len() && prevs[0] == FIRST, "{all:?}");
    ensure!(!prevs[1..].contains(&FIRST), "one names nothing: {all:?}");
    let denied = all.iter().filter(|r| r["decision"]["result"] == "DENY").count();
    ensure!(denied == 2 && all[all.len() - 1]["kind"] == "session_close", "{all:?}");
    // That each is the hash of the one before, who verifies looks.
    h.verified()?;
    // And so all of it is proven to somebody who has nothing but the key.
    let (log, key) = (h.path("log").display().to_string(), h.path("log/log.pub").display().to_string());
    let began = std::time::Instant::now();
    let found = loop {
        let made = h.aarm(&["prove", "--session", &id, "--log", &log, "-o", "/tmp/x/history"])?;
        let is_late = began.elapsed() > std::time::Duration::from_secs(20);
        ensure!(made.status.success() || !is_late, "{}", String::from_utf8_lossy(&made.stderr));
        let found = h.aarm(&["verify", "/tmp/x/history", "--key", &key])?;
        // Until all of it is under a checkpoint there is less, or nothing.
        if made.status.success() && (found.status.code() != Some(3) || is_late) {
            break found;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    let said = String::from_utf8_lossy(&found.stdout);
    let expected = format!("{} receipts, which are all that it had", all.len());
    ensure!(found.status.success() && said.contains(&expected), "{} {said}", found.status);
    Ok(())
}
