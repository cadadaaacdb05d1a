//! Audit mode: everything decided and recorded, nothing blocked.

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Attempt, Host, ME, document, file};

pub const CASES: &[Case] = &[
    ("a_refusal_is_recorded_and_let_through", recorded),
    ("what_is_let_through_leaves_its_labels_and_what_is_refused_does_not", labelled),
];

fn recorded() -> Result<()> {
    file("/tmp/a/secret", "x")?;
    let rules = "- { id: no-secret, match: { operation: read, path: '/tmp/a/secret' }, decision: DENY }";
    let h = Host::start(&document("test", "audit", "", rules))?;
    let a = h.act(&["read", "/tmp/a/secret"])?;
    ensure!(a.status == 0, "{}", a.tell());
    let told = a.receipts.iter().any(|r| {
        r["action"]["path"] == "/tmp/a/secret"
            && r["decision"]["result"] == "DENY"
            && r["decision"]["mode"] == "audit"
    });
    ensure!(told, "{}", a.tell());
    h.verified()
}

/// The same secret is refused and then something is sent, by a policy in either mode.
fn labelled() -> Result<()> {
    file("/tmp/a/secret", "x")?;
    let rules = "- { id: no-secret, match: { operation: read, path: '/tmp/a/secret' }, decision: DENY }
- { id: no-egress, match: { operation: send }, when: { labels: { any: [SECRET] } }, decision: DENY }";
    let data = "  data:\n    - { label: SECRET, level: RESTRICTED, on: { read: [/tmp/a/secret] } }\n";
    let text = |mode: &str| document(mode, mode, "", rules) + data;
    let h = Host::with(&[("audit.yaml", &text("audit")), ("enforce.yaml", &text("enforce"))], "")?;
    let script = format!(
        "{ME} actor read /tmp/a/secret; A=$?; {ME} actor sendto 127.0.0.1:9; B=$?; cat /tmp/a/secret > /tmp/a/copy; echo \"= $A $B\""
    );
    let both = |mode: &str| h.run(&["--policy", mode], &["/bin/sh", "-c", &script]);
    let said = |a: &Attempt, operation: &str| {
        let found = a.receipts.iter().find(|r| {
            r["action"]["operation"] == operation
                && (operation == "send" || r["action"]["path"] == "/tmp/a/secret")
        });
        let r = found.cloned().unwrap_or_default();
        serde_json::json!([
            r["decision"]["result"],
            r["decision"]["mode"],
            r["context"]["adds"],
            r["context"]["labels"]
        ])
    };
    // Let through, the session has seen it; and what follows from that is recorded as well, and let through.
    let a = both("audit")?;
    ensure!(a.output.contains("= 0 0\n"), "{}", a.tell());
    let expected = serde_json::json!(["DENY", "audit", ["SECRET"], null]);
    ensure!(said(&a, "open_read") == expected, "{}", a.tell());
    let expected = serde_json::json!(["DENY", "audit", null, ["SECRET"]]);
    ensure!(said(&a, "send") == expected, "{}", a.tell());
    // So has who reads a copy that was made in that session.
    let copy = format!("cat /tmp/a/copy; {ME} actor sendto 127.0.0.1:9");
    let a = h.run(&["--policy", "enforce"], &["/bin/sh", "-c", &copy])?;
    a.refused("send", "127.0.0.1", "no-egress")?;
    std::fs::remove_file("/tmp/a/copy")?;
    // Refused, it has not.
    let a = both("enforce")?;
    ensure!(a.output.contains("= 1 0\n"), "{}", a.tell());
    ensure!(said(&a, "open_read") == serde_json::json!(["DENY", "enforce", null, null]), "{}", a.tell());
    ensure!(said(&a, "send") == serde_json::json!(["ALLOW", "enforce", null, null]), "{}", a.tell());
    h.verified()
}
