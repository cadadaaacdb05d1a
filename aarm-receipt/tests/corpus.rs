//! Replays the fuzzer's corpora: what it found once holds in every build, without it.

#[path = "../../fuzz/checks/proof.rs"]
mod proof;
#[path = "../../fuzz/checks/receipt.rs"]
mod receipt;

fn replay(name: &str, least: usize, check: fn(&[u8])) {
    let dir = format!("{}/../fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
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
fn proofs() {
    replay("proof", 5, proof::check);
}

#[test]
fn receipts() {
    replay("receipt", 5, receipt::check);
}
