//! What receipts say of a policy can be read: its text is beside the log, and is the one that they name.

mod common;

use std::path::{Path, PathBuf};

use aarm_receipt::receipt::PolicyRef;
use aarm_receipt::verify::Verdict;
use aarm_receipt::{Body, policies};
use common::{append, open, report};

const TEXT: &str = "{\"apiVersion\":\"aarm.dev/v1alpha1\",\"metadata\":{\"name\":\"p\"}}";

/// A log that names a policy, and the file of its text.
fn log(dir: &Path) -> PathBuf {
    let mut w = open(dir);
    policies::place(dir, TEXT).unwrap();
    let file = std::fs::read_dir(dir.join(policies::DIR)).unwrap().next().unwrap().unwrap().path();
    let hash = file.file_name().unwrap().to_str().unwrap();
    for name in ["p", "the same by another name"] {
        let policy = PolicyRef { name, version: "1", hash };
        append(&mut w, None, &Body::Policy { policy, file: b"/f", mode: "enforce", rules: 1 });
    }
    w.checkpoint().unwrap();
    file
}

#[test]
fn the_text_is_the_one_that_receipts_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let file = log(&path);
    let found = report(&path);
    assert_eq!((found.verdict, found.policies, found.policies_missing), (Verdict::Intact, 1, 0), "{found}");
    for at in 0..TEXT.len() {
        let mut other = TEXT.as_bytes().to_vec();
        other[at] ^= 1;
        std::fs::write(&file, other).unwrap();
        assert_eq!(report(&path).verdict, Verdict::Tampered, "byte {at}");
    }
    std::fs::remove_file(&file).unwrap();
    let found = report(&path);
    assert_eq!((found.verdict, found.policies_missing), (Verdict::Incomplete, 1), "{found}");
    // It can be given back by anybody who has it.
    policies::place(&path, TEXT).unwrap();
    assert_eq!(report(&path).verdict, Verdict::Intact);
}
