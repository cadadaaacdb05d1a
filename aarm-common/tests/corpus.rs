//! Replays the fuzzer's corpora: what it found once holds in every build, without it.

#[path = "../../fuzz/checks/dns.rs"]
mod dns;
#[path = "../../fuzz/checks/event.rs"]
mod event;
#[path = "../../fuzz/checks/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn events() {
    replay("fuzz/corpus/event", 20, event::check);
}

#[test]
fn dns_messages() {
    replay("fuzz/corpus/dns", 20, dns::check);
}
