//! Receipts as CSV, a line each, for spreadsheets and databases.
//!
//! Must never: give a spreadsheet something to run. A cell that one would take for a formula begins with `'`.

use serde_json::Value;

use aarm_receipt::redact::commitment;

use super::exit::CliError;
use super::output::Output;

/// Where a column's value is in a receipt.
type Place = &'static [&'static str];

/// Columns, and where each is.
const COLUMNS: &[(&str, Place)] = &[
    ("time", &["time"]),
    ("host", &["host"]),
    ("session", &["session", "uuid"]),
    ("kind", &["kind"]),
    ("operation", &["action", "operation"]),
    ("path", &["action", "path"]),
    ("path2", &["action", "path2"]),
    ("address", &["action", "network", "addr"]),
    ("port", &["action", "network", "port"]),
    ("decision", &["decision", "result"]),
    ("mode", &["decision", "mode"]),
    ("cause", &["decision", "cause"]),
    ("rule", &["decision", "rule"]),
    ("reason", &["decision", "reason"]),
    ("policy", &["decision", "policy", "name"]),
    ("hold", &["decision", "hold"]),
    ("human", &["identity", "human"]),
    ("uid", &["identity", "uid"]),
    ("pid", &["identity", "pid"]),
    ("comm", &["identity", "comm"]),
    ("exe", &["identity", "exe"]),
];

fn record<'a>(cells: impl Iterator<Item = std::borrow::Cow<'a, str>>) -> Result<Vec<u8>, CliError> {
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    writer
        .write_record(cells.map(|cell| cell.into_owned()))
        .map_err(|e| CliError::Output(std::io::Error::other(e)))?;
    writer.into_inner().map_err(|e| CliError::Output(std::io::Error::other(e.to_string())))
}

/// The headings.
pub fn head(out: &mut Output) -> Result<(), CliError> {
    let names = std::iter::once("index").chain(COLUMNS.iter().map(|(name, _)| *name));
    Ok(out.raw(&record(names.map(Into::into))?)?)
}

/// A receipt.
pub fn receipt(out: &mut Output, index: u64, receipt: &Value) -> Result<(), CliError> {
    let cells = COLUMNS.iter().map(|(_, place)| {
        let value = place.iter().fold(receipt, |value, name| &value[*name]);
        match value {
            Value::Null => "".into(),
            value if commitment(value).is_some() => "(redacted)".into(),
            Value::String(text) if text.starts_with(['=', '+', '-', '@']) => format!("'{text}").into(),
            Value::String(text) => text.as_str().into(),
            other => other.to_string().into(),
        }
    });
    Ok(out.raw(&record(std::iter::once(index.to_string().into()).chain(cells))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_is_what_another_reader_finds_and_nothing_in_it_is_a_formula() {
        let (mut out, written) = Output::memory(false);
        head(&mut out).unwrap();
        let r = json!({
            "kind": "action", "time": "2026-11-24T10:00:00.000000001Z", "session": { "uuid": "u" },
            "action": { "operation": "open_read", "path": "/a,\"b\"", "network": { "port": 443 } },
            "identity": { "comm": "=HYPERLINK(1)", "pid": 7 },
        });
        receipt(&mut out, 4711, &r).unwrap();
        out.flush().unwrap();
        let bytes = written.lock().unwrap().clone();
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
        let line = reader.records().next().unwrap().unwrap();
        let cell = |name: &str| &line[names.iter().position(|n| n == name).unwrap()];
        assert_eq!((cell("index"), cell("path"), cell("port")), ("4711", "/a,\"b\"", "443"));
        assert_eq!((cell("comm"), cell("pid"), cell("rule")), ("'=HYPERLINK(1)", "7", ""));
    }
}
