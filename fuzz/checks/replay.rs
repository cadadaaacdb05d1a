//! Runs a check over all inputs of a directory.
//!
//! Included by the tests that replay the fuzzer's corpora.

/// Checks each file in `dir`, of which there must be so many at least.
pub fn replay(dir: &str, least: usize, check: fn(&[u8])) {
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
