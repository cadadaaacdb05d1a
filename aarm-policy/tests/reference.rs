//! `docs/operations.md` is what the code generates.

use std::path::Path;

#[test]
fn the_reference_of_operations_is_generated() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == aarm_policy::operations_md(),
        "docs/operations.md is out of date: cargo run -p aarm-policy --example operations > docs/operations.md"
    );
}
