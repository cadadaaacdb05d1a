//! Replays the fuzzer's corpora: what it found once holds in every build, without it.

#[path = "../../fuzz/checks/dns.rs"]
mod dns;
#[path = "../../fuzz/checks/event.rs"]
mod event;

fn replay(target: &str, check: fn(&[u8])) {
    let dir = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&std::fs::read(path).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 20, "only {inputs} inputs in {dir}");
}

#[test]
fn events() {
    replay("event", event::check);
}

#[test]
fn dns_messages() {
    replay("dns", dns::check);
}
