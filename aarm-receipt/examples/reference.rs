//! Writes `docs/receipts.md` and `docs/receipt.schema.json`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::write(docs.join("receipts.md"), aarm_receipt::receipt::receipts_md())?;
    std::fs::write(docs.join("receipt.schema.json"), format!("{:#}\n", aarm_receipt::receipt::json_schema()))
}
