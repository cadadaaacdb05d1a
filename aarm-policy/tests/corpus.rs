//! Replays the fuzzer's corpora: what it found once holds in every build, without it.

#[path = "../../fuzz/checks/action_json.rs"]
mod action_json;
#[path = "../../fuzz/checks/policy.rs"]
mod policy;
#[path = "../../fuzz/checks/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn policies() {
    replay("fuzz/corpus/policy", 8, policy::check);
    replay("policies", 2, policy::check);
}

#[test]
fn actions() {
    replay("fuzz/corpus/action_json", 15, action_json::check);
}
