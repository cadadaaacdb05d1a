//! Audit mode: everything decided and recorded, nothing blocked.

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, document, file};

pub const CASES: &[Case] = &[("a_refusal_is_recorded_and_let_through", recorded)];

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
