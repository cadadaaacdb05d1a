//! Who acts decides: the programs of its lineage, its own program, its cgroup; and what is unknown of it refuses.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::Case;
use crate::host::{Attempt, Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("a_lineage_is_not_shaken_off", lineage),
    ("a_process_is_not_its_own_ancestor", itself),
    ("who_runs_a_program_is_not_the_program_run", acting),
    ("what_a_new_policy_asks_of_an_old_lineage_is_unknown", unknown),
    ("a_cgroup_is_the_one_at_the_time", container),
];

/// A program that is nothing but a name.
const TOOL: &str = "/tmp/u/tool";
/// A shell under a name of its own; it is told what to be by the last part.
const SHELL: &str = "/tmp/u/bin/sh";

fn host(rules: &str) -> Result<Host> {
    host_with("", rules)
}

/// With more in the policy's spec.
fn host_with(spec: &str, rules: &str) -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/u");
    std::fs::create_dir_all("/tmp/u/bin")?;
    for name in [TOOL, "/tmp/u/other"] {
        std::fs::copy(ME, name)?;
    }
    std::fs::copy("/bin/busybox", SHELL)?;
    Host::start(&(policy(rules) + spec))
}

/// Fails unless a replay says the same of every receipt of these operations.
fn explained(h: &Host, receipts: &[Value], operations: &[&str]) -> Result<()> {
    let mut asked = 0;
    for r in receipts.iter().filter(|r| operations.iter().any(|op| r["action"]["operation"] == *op)) {
        file(h.path("receipt.json"), &r.to_string())?;
        let (receipt, policy) = (h.path("receipt.json"), h.path("policies/test.yaml"));
        let (receipt, policy) = (receipt.display().to_string(), policy.display().to_string());
        let out = h.aarm(&["explain", &receipt, "--policy", &policy])?;
        ensure!(
            out.status.success(),
            "{r}\n{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        asked += 1;
    }
    ensure!(asked > 0, "no receipt to explain");
    Ok(())
}

const LINEAGE: &str = "
- { id: below, match: { operation: send }, subject: { ancestors: ['/tmp/u/tool', '**/u/bin/sh'] }, decision: DENY }
- { id: only-below, match: { operation: bind }, subject: { not_ancestors: '/tmp/u/tool' }, decision: DENY }
";

fn lineage() -> Result<()> {
    let h = host(LINEAGE)?;
    let refused = |a: Attempt| a.refused("send", "127.0.0.1", "below").map(|()| a);
    h.act(&["sendto", "127.0.0.1:9"])?.allowed("send", "127.0.0.1")?;
    // A process above, at any distance, whether it is still there or not.
    let script = format!("{ME} actor sendto 127.0.0.1:9; exit $?");
    refused(h.run(&[], &[SHELL, "-c", &script])?)?;
    let script = format!("/bin/sh -c '{ME} actor daemonized sendto 127.0.0.1:9; exit $?'; exit $?");
    refused(h.run(&[], &[SHELL, "-c", &script])?)?;
    for how in ["fork", "daemonized", "clone-parent"] {
        refused(h.run(&[], &[TOOL, "actor", how, "sendto", "127.0.0.1:9"])?)?;
    }
    // What the process itself was, and a chain of both.
    let exec = ["actor", "exec", "/tmp/u/other", "actor", "exec", ME, "actor"];
    let chain = |last: &[&'static str]| [&[TOOL], &exec[..], last].concat();
    let a = refused(h.run(&[], &chain(&["sendto", "127.0.0.1:9"]))?)?;
    refused(h.run(&[], &chain(&["thread", "fork", "thread", "sendto", "127.0.0.1:9"]))?)?;
    explained(&h, &a.receipts, &["send", "exec", "open_read"])?;
    // The other way round.
    h.run(&[], &chain(&["bind", "127.0.0.1:0"]))?.allowed("bind", "127.0.0.1")?;
    let a = h.act(&["fork", "bind", "127.0.0.1:0"])?;
    a.refused("bind", "127.0.0.1", "only-below")?;
    explained(&h, &a.receipts, &["bind"])?;
    h.verified()
}

fn itself() -> Result<()> {
    let h = host(LINEAGE)?;
    for how in [&["sendto"][..], &["thread", "sendto"]] {
        let a = h.run(&[], &[&[TOOL, "actor"], how, &["127.0.0.1:9"]].concat())?;
        a.allowed("send", "127.0.0.1")?;
    }
    // Until it runs itself.
    let a = h.run(&[], &[TOOL, "actor", "exec", TOOL, "actor", "sendto", "127.0.0.1:9"])?;
    a.refused("send", "127.0.0.1", "below")
}

fn acting() -> Result<()> {
    let h = host(
        "- { id: by-tool, match: { operation: exec, exe: '/tmp/u/other' }, subject: { exe: '/tmp/u/tool' }, decision: DENY }\n\
         - { id: not-tool, match: { operation: bind }, subject: { not_exe: ['**/tool'] }, decision: DENY }\n",
    )?;
    let other = ["actor", "exec", "/tmp/u/other", "actor", "nothing"];
    let a = h.run(&[], &[&[TOOL], &other[..]].concat())?;
    a.refused("exec", "/tmp/u/other", "by-tool")?;
    explained(&h, &a.receipts, &["exec"])?;
    h.run(&[], &[&[ME], &other[..]].concat())?.allowed("exec", "/tmp/u/other")?;
    h.run(&[], &[TOOL, "actor", "bind", "127.0.0.1:0"])?.allowed("bind", "127.0.0.1")?;
    h.act(&["bind", "127.0.0.1:0"])?.refused("bind", "127.0.0.1", "not-tool")
}

fn wait_for(path: &str) -> Result<String> {
    for _ in 0..300 {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return Ok(text.trim().to_owned()),
            _ => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
    anyhow::bail!("{path} does not appear")
}

fn unknown() -> Result<()> {
    let h =
        host("- { id: old, match: { operation: send }, subject: { ancestors: '**/gone' }, decision: DENY }")?;
    let acts = format!(
        "{ME} actor sendto 127.0.0.1:9; A=$?; {ME} actor bind 127.0.0.1:0; B=$?; {ME} actor udp 127.0.0.1:9; echo $A $B $?"
    );
    let script = format!(
        "echo $AARM_SESSION > /tmp/u/started; while [ ! -e /tmp/u/go ]; do /bin/busybox sleep 0.1; done; ({acts}) > /tmp/u/done"
    );
    // The first shell is gone when the policy comes that asks for it. (One that is still there would be looked at again.)
    let first = "exec /bin/sh -c \"$0\"";
    let mut session =
        Command::new("/usr/local/bin/aarm").args(["run", "--", "/bin/sh", "-c", first, &script]).spawn()?;
    let id = wait_for("/tmp/u/started")?;
    let newer = "
- { id: defers, match: { operation: send }, subject: { ancestors: '**/newly-asked' }, decision: DENY }
- { id: denies, match: { operation: bind }, subject: { not_ancestors: '**/newly-asked', unknown: deny }, decision: ALLOW }
- { id: skips, match: { operation: connect }, subject: { ancestors: '**/newly-asked', unknown: skip }, decision: DENY }
";
    // Refused at once: how it would wait is for other cases.
    let newer = policy(newer) + "  hold: { defer_timeout: 0s }\n";
    std::fs::write(h.path("policies/test.yaml"), newer)?;
    let out = h.aarm(&["policy", "reload"])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    file("/tmp/u/go", "")?;
    let statuses = wait_for("/tmp/u/done")?;
    session.wait()?;
    let receipts = h.session_receipts(&id)?;
    let decided = |operation: &str| {
        let of = receipts.iter().rev().find(|r| r["action"]["operation"] == operation);
        of.map_or(Value::Null, |r| {
            let d = &r["decision"];
            serde_json::json!([d["result"], d["cause"], d["rule"]])
        })
    };
    ensure!(decided("send") == serde_json::json!(["DEFER", "unknown", "defers"]), "{}", decided("send"));
    ensure!(decided("bind") == serde_json::json!(["DENY", "unknown", "denies"]), "{}", decided("bind"));
    ensure!(decided("connect") == serde_json::json!(["ALLOW", "default", null]), "{}", decided("connect"));
    ensure!(statuses == "1 1 0", "{statuses}");
    explained(&h, &receipts, &["send", "bind", "connect"])?;
    // A session that begins now has a lineage of which all is known.
    let a = h.run(&[], &["/bin/sh", "-c", &acts])?;
    ensure!(a.output.contains("0 0 0"), "{}", a.tell());
    explained(&h, &a.receipts, &["send", "bind", "connect"])?;
    h.verified()
}

fn container() -> Result<()> {
    const ROOT: &str = "/sys/fs/cgroup";
    let h = host_with(
        "  record: { read: summary }\n",
        "- { id: in-pod, match: { operation: send }, subject: { container: '/aarm-pod*/**' }, decision: DENY }\n\
         - { id: in-scope, match: { operation: connect }, subject: { container: '**/docker-*.scope' }, decision: DENY }\n\
         - { id: no-data, match: { operation: open_read, path: /tmp/u/data }, subject: { container: '**/*.scope' }, decision: DENY }\n\
         - { id: contained, match: { operation: mkdir }, subject: { container: any }, decision: DENY }\n\
         - { id: free, match: { operation: symlink }, subject: { container: none }, decision: DENY }\n\
         - { id: outside, match: { operation: bind }, subject: { not_container: ['/aarm-pod/**'] }, decision: DENY }\n",
    )?;
    let scope = format!("{ROOT}/aarm-pod/docker-{}.scope", "0123456789abcdef".repeat(4));
    std::fs::create_dir_all(&scope)?;
    std::fs::create_dir_all(format!("{ROOT}/aarm-other"))?;
    let acts = format!(
        "{ME} actor sendto 127.0.0.1:9; A=$?; {ME} actor udp 127.0.0.1:9; B=$?; {ME} actor bind 127.0.0.1:0; C=$?; {ME} actor mkdir /tmp/u/dir; D=$?; \
         {ME} actor symlink x /tmp/u/link; echo \"= $A $B $C $D $?\"; rm -rf /tmp/u/dir /tmp/u/link"
    );
    let go = |to: &str| format!("echo $$ > {to}/cgroup.procs || exit 99; {acts}; ");
    let script = [
        format!("{acts}; "),
        go(&format!("{ROOT}/aarm-pod")),
        go(&scope),
        go(&format!("{ROOT}/aarm-other")),
        go(&scope),
        go(ROOT),
    ]
    .concat();
    let a = h.run(&[], &["/bin/sh", "-c", &script])?;
    let said: Vec<&str> = a.output.lines().filter(|l| l.starts_with('=')).collect();
    ensure!(
        said == ["= 0 0 1 0 1", "= 1 0 0 0 1", "= 1 1 0 1 0", "= 0 0 1 0 1", "= 1 1 0 1 0", "= 0 0 1 0 1"],
        "{}",
        a.tell()
    );
    explained(&h, &a.receipts, &["send", "connect", "bind", "mkdir", "symlink"])?;
    // Where it was when the program was run; of the root nothing is said.
    let place = |operation: &str| -> Vec<String> {
        let of = a.receipts.iter().filter(|r| r["action"]["operation"] == operation);
        of.map(|r| r["identity"]["cgroup"].as_str().unwrap_or("-").to_owned()).collect()
    };
    let scoped = &scope[ROOT.len()..];
    let expected = ["-", "/aarm-pod", scoped, "/aarm-other", scoped, "-"];
    ensure!(place("bind") == expected && place("mkdir") == expected, "{:?}\n{}", place("bind"), a.tell());
    // One process that opens again and again, which is only counted, moved by another.
    file("/tmp/u/data", "x")?;
    let script = format!(
        "{ME} actor press /tmp/u/data /tmp/u/stop & P=$!; (sleep 10; echo > /tmp/u/stop) & sleep 1; echo $P > {scope}/cgroup.procs; wait $P; echo \"= $?\""
    );
    let a = h.run(&[], &["/bin/sh", "-c", &script])?;
    ensure!(a.output.contains("= 1\n"), "{}", a.tell());
    ensure!(
        a.decision("open_read", "/tmp/u/data") == Some(("DENY".into(), Some("no-data".into()))),
        "{}",
        a.tell()
    );
    for made in [scope.as_str(), "/sys/fs/cgroup/aarm-pod", "/sys/fs/cgroup/aarm-other"] {
        std::fs::remove_dir(made)?;
    }
    h.verified()
}
