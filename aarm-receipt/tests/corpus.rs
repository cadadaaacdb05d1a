//! Replays the fuzzer's corpora: what it found once holds in every build, without it.

#[path = "../../fuzz/checks/index.rs"]
mod index;
#[path = "../../fuzz/checks/proof.rs"]
mod proof;
#[path = "../../fuzz/checks/receipt.rs"]
mod receipt;
#[path = "../../fuzz/checks/replay.rs"]
mod replay;

use aarm_receipt::cosign::CosignerKey;
use aarm_receipt::index::Index;
use aarm_receipt::witness::Request;
use aarm_receipt::witnessed::Witnessed;
use aarm_receipt::{Bundle, Keys, history};
use replay::replay;

#[test]
fn indices() {
    replay("fuzz/corpus/index", 2, index::check);
}

#[test]
fn proofs() {
    replay("fuzz/corpus/proof", 10, proof::check);
}

/// Otherwise what is fuzzed would be how they are refused.
#[test]
fn there_is_one_of_each_that_is_believed() {
    let read = |name: &str| {
        std::fs::read(format!("{}/../fuzz/corpus/proof/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let trusted = Keys::from_seeds([1; 32], [2; 32]).unwrap().trusted("aarm.test/log");
    assert!(Bundle::parse(&read("receipt-3")).unwrap().verify(&trusted).is_ok());
    let found = history::verify(&read("history")[..], &trusted).unwrap();
    assert!(found.begins && found.ends);
    let keys = CosignerKey::parse_all(&String::from_utf8(read("witnesses")).unwrap()).unwrap();
    assert!(Witnessed::open(&read("witnessed"), &trusted, &keys[0]).is_ok());
    assert!(Request::parse(&read("request")).is_some());
    assert!(Index::parse(&read("../index/some")).is_some());
}

#[test]
fn receipts() {
    replay("fuzz/corpus/receipt", 8, receipt::check);
}

/// One byte less, one more, or another one.
#[test]
fn whatever_is_changed_of_a_receipt_it_is_another_one_or_none() {
    let dir = format!("{}/../fuzz/corpus/receipt", env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(dir).unwrap() {
        let whole = std::fs::read(entry.unwrap().path()).unwrap();
        for at in 0..whole.len() {
            receipt::check(&whole[..at]);
            let mut less = whole.clone();
            less.remove(at);
            receipt::check(&less);
            for byte in *b"\0 \"%,0:A[\\]a{}~\x7f\xff" {
                let mut other = whole.clone();
                other[at] = byte;
                receipt::check(&other);
                other.insert(at, whole[at]);
                receipt::check(&other);
            }
        }
    }
}

#[test]
fn what_need_not_be_encoded_may_not_be() {
    use aarm_receipt::receipt::parse;
    let path = format!("{}/../fuzz/corpus/receipt/gap", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    assert!(parse(text.as_bytes()).is_ok());
    for (from, to) in
        [("ring full", "ring%20full"), ("%01", "%1"), ("%01", "%0G"), ("%01", "%7e"), ("%01", "%")]
    {
        let other = text.replacen(from, to, 1);
        assert!(other != text && parse(other.as_bytes()).is_err(), "{other}");
    }
    let lower = text.replacen("%01", "%ff", 1);
    assert!(parse(lower.as_bytes()).is_err() && parse(lower.replace("%ff", "%FF").as_bytes()).is_ok());
}
