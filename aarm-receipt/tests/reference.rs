//! `docs/receipts.md` and `docs/receipt.schema.json` are what the code generates, and receipts are as the schema says.

use aarm_receipt::receipt::{json_schema, parse, receipts_md};
use serde_json::Value;

fn written(name: &str) -> String {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_documents_are_up_to_date() {
    let how = "run: cargo run -p aarm-receipt --example reference";
    assert!(written("receipts.md") == receipts_md(), "docs/receipts.md: {how}");
    assert!(
        written("receipt.schema.json") == format!("{:#}\n", json_schema()),
        "docs/receipt.schema.json: {how}"
    );
}

/// The receipts that fuzzing starts from are of most kinds, and have most members.
fn samples() -> Vec<Value> {
    let dir = format!("{}/../fuzz/corpus/receipt", env!("CARGO_MANIFEST_DIR"));
    let read = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.unwrap().path()).unwrap();
    let all: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(read).filter_map(|bytes| parse(&bytes).ok()).collect();
    assert!(all.len() >= 5);
    all
}

#[test]
fn another_reader_of_json_schema_takes_what_the_verifier_takes() {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    for receipt in samples() {
        let errors: Vec<_> = validator.iter_errors(&receipt).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{receipt}\n{errors:?}");
    }
}

#[test]
fn what_lacks_a_member_or_has_one_too_many_neither_of_them_takes() {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    let mut needed = 0;
    for receipt in samples() {
        for name in receipt.as_object().unwrap().keys() {
            let mut less = receipt.clone();
            less.as_object_mut().unwrap().remove(name);
            assert_eq!(
                parse(less.to_string().as_bytes()).is_ok(),
                validator.is_valid(&less),
                "without {name}: {less}"
            );
            needed += u32::from(!validator.is_valid(&less));
            let mut other = receipt.clone();
            other[name] = Value::Null;
            assert!(
                parse(other.to_string().as_bytes()).is_err() && !validator.is_valid(&other),
                "{name}: null"
            );
        }
        let mut more = receipt.clone();
        more["zzz"] = 1.into();
        assert!(parse(more.to_string().as_bytes()).is_err() && !validator.is_valid(&more));
    }
    assert!(needed > 30);
}
