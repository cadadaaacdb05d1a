//! Replays the fuzzer's corpus: what it found once holds in every build, without it.

#[path = "../../fuzz/checks/event.rs"]
mod event;

#[test]
fn events() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/event");
    let mut inputs = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        event::check(&std::fs::read(path).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 20, "only {inputs} inputs in {dir}");
}
