//! Replays the fuzzer's corpora: what it found once holds in every build, without it.

#[path = "../../fuzz/checks/action_json.rs"]
mod action_json;
#[path = "../../fuzz/checks/policy.rs"]
mod policy;

fn replay(dir: &str, least: usize, check: fn(&[u8])) {
    let dir = format!("{}/../{dir}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&std::fs::read(path).unwrap());
        inputs += 1;
    }
    assert!(inputs >= least, "only {inputs} inputs in {dir}");
}

#[test]
fn policies() {
    replay("fuzz/corpus/policy", 8, policy::check);
    replay("policies", 2, policy::check);
}

#[test]
fn actions() {
    replay("fuzz/corpus/action_json", 15, action_json::check);
}
