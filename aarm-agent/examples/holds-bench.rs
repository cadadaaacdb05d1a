//! What 10,000 actions that wait cost the daemon: memory for each, and the time to list them all.
//!
//! `cargo xtask bench holds`; one line of JSON.

use std::time::Instant;

use aarm_agent::api::approvals::{Approval, Asked, PriorAction};
use aarm_agent::api::types::PolicyLabel;
use aarm_agent::daemon::holds::{Answerer, Ask, Holds, Terms, Waiting};

const HOLDS: u64 = 10_000;

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
    pages * 4096
}

fn ask() -> Ask {
    let approvers = vec!["user:mia".to_owned(), "group:release".to_owned(), "human".to_owned()];
    Ask {
        deadline_ns: u64::MAX,
        terms: Terms { timeout_ns: 1, ..Terms::default() },
        chain: Vec::new(),
        shown: Asked {
            rule: Some("release-is-for-people".into()),
            reason: Some("Uploads are public at once.".into()),
            decision: "STEP_UP".into(),
            cause: "rule".into(),
            risk: Some("HIGH".into()),
            deadline: "2026-11-27T14:10:36.127138723Z".into(),
            on_timeout: "DENY".into(),
            approvers,
            escalated: false,
        },
    }
}

fn waiting(key: u64) -> Waiting {
    let prior = |n: u64| PriorAction {
        time: "2026-11-27T14:10:36.127138723Z".into(),
        operation: "open_read".into(),
        object: format!("/home/dev/project/src/some/module-{n}.rs"),
        decision: "ALLOW".into(),
        rule: None,
    };
    let all: Vec<PriorAction> = (0..aarm_agent::daemon::prior::PRIOR as u64).map(prior).collect();
    let about = Approval {
        id: format!("{key:016x}"),
        request: "ca4cb079cd80ae19a739c76462e710137b6b9342b5e6cb49165db407d1c90d6b".into(),
        session: "0000000100000012".into(),
        uuid: "01a21d57-ffde-71fe-9d73-5e13fa36d954".into(),
        policy: PolicyLabel {
            name: "coding-agent".into(),
            version: "2026.11".into(),
            hash: "ca4cb079cd80ae19a739c76462e710137b6b9342b5e6cb49165db407d1c90d6b".into(),
            mode: "enforce".into(),
        },
        tool: "network".into(),
        operation: "connect".into(),
        address: Some("203.0.113.9:443".into()),
        hosts: vec!["uploads.example.org".into()],
        comm: "curl".into(),
        exe: "/usr/bin/curl".into(),
        argv: ["curl", "--upload-file", "dist/release-1.2.3.tar.gz", "https://uploads.example.org/"]
            .map(str::to_owned)
            .into(),
        labels: vec!["SECRET".into()],
        requested: "2026-11-27T14:10:36.127138723Z".into(),
        ..Approval::default()
    };
    Waiting {
        key,
        since_ns: key,
        session: 1,
        action: key,
        owner: 1000,
        seq: Some((0, key)),
        gid: 1000,
        ppid: 1,
        asks: vec![ask()],
        object: None,
        seeking: false,
        listens_ns: 0,
        unread: None,
        modify: Vec::new(),
        prior: serde_json::to_string(&all).unwrap_or_default().into(),
        about,
    }
}

fn main() {
    let before = resident();
    let mut holds = Holds::default();
    (1..=HOLDS).for_each(|key| holds.add(waiting(key)));
    let each = (resident() - before) / HOLDS;
    let root = Answerer::default();
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..5 {
        let began = Instant::now();
        bytes = holds.list(&root).len();
        times.push(began.elapsed().as_micros() as u64);
    }
    times.sort_unstable();
    println!(
        "{}",
        serde_json::json!({ "holds": HOLDS, "bytes_each": each, "list_us": times[times.len() / 2], "list_bytes": bytes })
    );
}
