//! How receipts are shown to people, one line each, and which are shown.

use jiff::Timestamp;
use serde_json::Value;

use aarm_common::{Decision, Family, Operation};
use aarm_receipt::index::Wanted;
use aarm_receipt::receipt::time_text;
use aarm_receipt::redact::commitment;

use super::escape;
use super::output::{Output, style};
use super::table::{self, Cell, Column};
use super::time::Clock;

/// Columns of the list; the last takes what is left.
const COLUMNS: [Column; 6] = [
    Column::text("TIME"),
    Column::text("PROCESS"),
    Column::text("ACTION"),
    Column::text("DECISION"),
    Column::text("RULE"),
    Column::text("OBJECT"),
];
const WIDTHS: [usize; 6] = [12, 22, 13, 8, 20, 0];

/// One operation, or all of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operations {
    /// All of a family.
    Family(Family),
    /// One.
    One(Operation),
}

/// Reads `--operation`. A family's name means all of it, as in a policy.
pub fn operations(text: &str) -> Result<Operations, String> {
    Family::from_name(text)
        .map(Operations::Family)
        .or_else(|| Operation::from_name(text).map(Operations::One))
        .ok_or_else(|| {
            let families = Family::ALL.iter().map(|f| f.name());
            let known: Vec<&str> =
                families.chain(Operation::ALL.iter().filter(|o| o.is_decided()).map(|o| o.name())).collect();
            format!("one of {}", known.join(", "))
        })
}

/// Reads `--decision`, in either case.
pub fn decision(text: &str) -> Result<Decision, String> {
    Decision::from_name(&text.to_ascii_uppercase().replace('-', "_")).ok_or_else(|| {
        let known: Vec<&str> = Decision::ALL.iter().map(|d| d.name()).collect();
        format!("one of {}", known.join(", "))
    })
}

/// Which receipts are shown.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these operations.
    pub operations: Option<Operations>,
    /// Only this session, by either id.
    pub session: Option<String>,
    /// Only this decision.
    pub decision: Option<Decision>,
    /// Only from this time on.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only what this rule decided.
    pub rule: Option<String>,
    /// Only on behalf of this human.
    pub human: Option<String>,
    /// Only about this path, or what is below it.
    pub path: Option<PathPrefix>,
}

/// A path as receipts have it: what is not printable is percent-encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// Of a path as a user writes it.
    pub fn new(path: &str) -> Self {
        let mut text = Vec::new();
        aarm_receipt::canonical::bytes(&mut text, path.as_bytes());
        let text: String = serde_json::from_slice(&text).unwrap_or_default();
        Self(text.strip_suffix('/').filter(|rest| !rest.is_empty()).map_or(text.clone(), str::to_owned))
    }

    fn covers(&self, path: &Value) -> bool {
        path.as_str()
            .and_then(|path| path.strip_prefix(&self.0))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || self.0 == "/")
    }
}

/// Reads `--path`.
pub fn path_prefix(text: &str) -> Result<PathPrefix, String> {
    if !text.starts_with('/') {
        return Err("a path is absolute: it begins with /".into());
    }
    Ok(PathPrefix::new(text))
}

/// Reads `--kind`.
pub fn kind(text: &str) -> Result<String, String> {
    let known = aarm_receipt::receipt::schema::SCHEMAS;
    if known.iter().any(|kind| kind.name == text) {
        return Ok(text.to_owned());
    }
    let names: Vec<&str> = known.iter().map(|kind| kind.name).collect();
    Err(format!("one of {}", names.join(", ")))
}

impl Filter {
    /// What a log's index knows of it.
    pub fn wanted(&self) -> Wanted {
        let time = |moment: Option<Timestamp>| {
            moment.and_then(|moment| u64::try_from(moment.as_nanosecond()).ok()).map(time_text)
        };
        let (tool, operation) = match self.operations {
            Some(Operations::Family(family)) => (Some(family.name().to_owned()), None),
            Some(Operations::One(one)) => (None, Some(one.name().to_owned())),
            None => (None, None),
        };
        Wanted {
            session: self.session.clone(),
            kind: self.kind.clone(),
            operation,
            tool,
            decision: self.decision.map(|d| d.name().to_owned()),
            rule: self.rule.clone(),
            human: self.human.clone(),
            path: self.path.as_ref().map(|path| path.0.clone()),
            since: time(self.since),
            until: time(self.until),
        }
    }

    /// Whether a receipt is shown.
    pub fn passes(&self, r: &Value) -> bool {
        let operation = r["action"]["operation"].as_str();
        let wanted = match self.operations {
            None => true,
            Some(Operations::One(o)) => operation == Some(o.name()),
            Some(Operations::Family(f)) => r["action"]["tool"].as_str() == Some(f.name()),
        };
        let time = || r["time"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        let text_is = |wanted: &Option<String>, value: &Value| wanted.as_deref().is_none_or(|w| value == w);
        wanted
            && text_is(&self.kind, &r["kind"])
            && text_is(&self.human, &r["identity"]["human"])
            // Of an answer, the rule that asked.
            && (text_is(&self.rule, &r["decision"]["rule"]) || text_is(&self.rule, &r["detail"]["rule"]))
            && self.path.as_ref().is_none_or(|p| ["path", "path2"].iter().any(|at| p.covers(&r["action"][*at])))
            && self.session.as_deref().is_none_or(|s| r["session"]["id"] == s || r["session"]["uuid"] == s)
            && self.decision.is_none_or(|d| r["decision"]["result"] == d.name())
            && self.since.is_none_or(|since| time().is_some_and(|t| t >= since))
            && self.until.is_none_or(|until| time().is_some_and(|t| t < until))
    }
}

/// A list that grows.
pub struct Live {
    clock: Clock,
    columns: Option<usize>,
}

/// What stands for a value that a policy has redacted.
const REDACTED: &str = "(redacted)";

/// Text of a receipt, safe to print, or a dash.
fn text(v: &Value) -> String {
    if commitment(v).is_some() {
        return REDACTED.to_owned();
    }
    v.as_str().map_or_else(|| "-".to_owned(), |t| escape::value(t).into_owned())
}

impl Live {
    /// For this output.
    pub fn new(out: &Output) -> Self {
        Self { clock: Clock::local(), columns: out.columns() }
    }

    /// The headings.
    pub fn head(&self, out: &mut Output) -> std::io::Result<()> {
        let line = table::head(out, &COLUMNS, &WIDTHS);
        out.line(&line)
    }

    /// One receipt.
    pub fn receipt(&self, out: &mut Output, r: &Value) -> std::io::Result<()> {
        let time = r["time"]
            .as_str()
            .and_then(|t| t.parse().ok())
            .map_or_else(|| "-".into(), |t| self.clock.time(t));
        let process = match r["identity"]["pid"].as_u64() {
            Some(pid) => format!("{}[{pid}]", text(&r["identity"]["comm"])),
            None => "-".to_owned(),
        };
        let kind = r["kind"].as_str().unwrap_or("-");
        let (action, decision, how, rule) = if kind == "action" {
            let result = text(&r["decision"]["result"]);
            let audit = r["decision"]["mode"] == "audit" && result != "ALLOW";
            let how = match result.as_str() {
                "ALLOW" => style::GOOD,
                "MODIFY" => style::WARN,
                _ if audit => style::WARN,
                _ => style::BAD,
            };
            let cause = text(&r["decision"]["cause"]);
            let rule = r["decision"]["rule"].as_str().map_or(cause, |t| escape::value(t).into_owned());
            (text(&r["action"]["operation"]), if audit { "AUDIT".to_owned() } else { result }, how, rule)
        } else {
            (escape::value(kind).into_owned(), "-".to_owned(), style::DIM, "-".to_owned())
        };
        let object = object(r);
        let room = self
            .columns
            .map(|c| c.saturating_sub(WIDTHS.iter().sum::<usize>() + 2 * (WIDTHS.len() - 1)).max(20));
        let object = room.map_or_else(|| object.clone(), |room| table::fit(&object, room));
        let fit = |t: String, i: usize| table::fit(&t, WIDTHS[i]);
        let cells: Vec<Cell> = vec![
            time.into(),
            fit(process, 1).into(),
            fit(action, 2).into(),
            Cell::styled(decision, how),
            fit(rule, 4).into(),
            object.into(),
        ];
        let line = table::row(out, &COLUMNS, &WIDTHS, &cells, false);
        out.line(&line)
    }
}

/// What it was about, in a few words.
fn object(r: &Value) -> String {
    let a = &r["action"];
    let d = &r["detail"];
    match r["kind"].as_str().unwrap_or_default() {
        "action" => {
            if commitment(&a["network"]["addr"]).is_some() {
                return format!("{REDACTED}:{}", a["network"]["port"]);
            }
            if let Some(addr) = a["network"]["addr"].as_str() {
                let port = a["network"]["port"].as_u64().unwrap_or(0);
                let addr = escape::value(addr);
                return if addr.contains(':') {
                    format!("[{addr}]:{port}")
                } else {
                    format!("{addr}:{port}")
                };
            }
            let mut what = text(&a["path"]);
            if what == "-"
                && let Some(family) = a["network"]["family"].as_str()
            {
                what = escape::value(family).into_owned();
            }
            if commitment(&a["argv"]).is_some() {
                what = REDACTED.to_owned();
            }
            if let Some(words) = a["argv"].as_array() {
                let words: Vec<_> = words.iter().map(text).collect();
                what = words.join(" ");
            }
            if !a["path2"].is_null() {
                what.push_str(" -> ");
                what.push_str(&text(&a["path2"]));
            }
            if !a["target"].is_null() {
                what.push_str(" -> ");
                what.push_str(&text(&a["target"]));
            }
            what
        }
        "outcome" if commitment(&d["argv"]).is_some() => REDACTED.to_owned(),
        "outcome" => {
            let words: Vec<String> = d["argv"].as_array().into_iter().flatten().map(text).collect();
            words.join(" ")
        }
        "process" => match (d["child"].as_u64(), d["status"].as_u64()) {
            (Some(child), _) => format!("{} {child}", text(&d["what"])),
            (_, Some(status)) if status & 0x7f == 0 => {
                format!("{}, status {}", text(&d["what"]), status >> 8 & 0xff)
            }
            (_, Some(status)) => format!("{}, signal {}", text(&d["what"]), status & 0x7f),
            _ => text(&d["what"]),
        },
        "session_open" => format!("{} under {}", text(&d["program"]), text(&d["policy"]["name"])),
        "session_close" => format!(
            "{} allowed, {} denied, {} audited, {} refused",
            d["allowed"], d["denied"], d["audited"], d["refused"]
        ),
        "summary" => {
            let counts = d["counts"].as_object().into_iter().flatten();
            let counts: Vec<String> = counts.map(|(op, n)| format!("{n} {}", escape::value(op))).collect();
            format!("{} so far", counts.join(", "))
        }
        "policy" => format!("{} {}", text(&d["policy"]["name"]), text(&d["policy"]["version"])),
        "gap" => format!("{} missing: {}", d["missing"], text(&d["why"])),
        _ => d
            .as_object()
            .and_then(|d| d.get("why").or_else(|| d.get("version")))
            .map(text)
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn families_mean_all_their_operations() {
        let filter = Filter { operations: Some(operations("exec").unwrap()), ..Filter::default() };
        assert!(filter.passes(&json!({ "action": { "operation": "mmap_exec", "tool": "exec" } })));
        assert!(!filter.passes(&json!({ "action": { "operation": "connect", "tool": "network" } })));
        assert!(operations("nonsense").is_err());
        assert_eq!(decision("deny"), Ok(Decision::Deny));
    }

    #[test]
    fn hostile_names_do_not_reach_the_terminal() {
        let (mut out, shown) = Output::memory(false);
        let r = json!({ "kind": "action", "time": "2026-11-24T10:00:00Z", "identity": { "pid": 1, "comm": "a\u{1b}[31m" },
            "action": { "operation": "open_read", "path": "/x\u{7}" }, "decision": { "result": "DENY", "rule": "r\n" } });
        Live::new(&out).receipt(&mut out, &r).unwrap();
        out.flush().unwrap();
        let shown = shown.lock().unwrap().clone();
        assert_eq!(
            shown.iter().filter(|b| b.is_ascii_control()).count(),
            1,
            "{}",
            String::from_utf8_lossy(&shown)
        );
    }

    #[test]
    fn filters_select_what_they_say() {
        let r = serde_json::json!({
            "kind": "action", "time": "2026-11-24T10:00:00.5Z",
            "action": { "operation": "rename", "path": "/a/b %C3%A4", "path2": "/c" },
            "decision": { "rule": "no" }, "identity": { "human": "mia" },
        });
        let moment = |text: &str| Some(text.parse().unwrap());
        let path = |text| Filter { path: Some(path_prefix(text).unwrap()), ..Filter::default() };
        for at in ["/", "/a", "/a/", "/a/b ä", "/c", "/c/"] {
            assert!(path(at).passes(&r), "{at}");
        }
        for at in ["/a/b", "/b", "/cc", "/c/d"] {
            assert!(!path(at).passes(&r), "{at}");
        }
        assert!(path_prefix("a").is_err() && kind("nothing").is_err());
        for (filter, passes) in [
            (Filter { rule: Some("no".into()), ..Filter::default() }, true),
            (Filter { rule: Some("yes".into()), ..Filter::default() }, false),
            (Filter { human: Some("mia".into()), ..Filter::default() }, true),
            (Filter { human: Some("ben".into()), ..Filter::default() }, false),
            (Filter { kind: Some(kind("action").unwrap()), ..Filter::default() }, true),
            (Filter { kind: Some(kind("start").unwrap()), ..Filter::default() }, false),
            (Filter { until: moment("2026-11-24T10:00:00.5Z"), ..Filter::default() }, false),
            (Filter { until: moment("2026-11-24T10:00:00.6Z"), ..Filter::default() }, true),
            (Filter { since: moment("2026-11-24T10:00:00.5Z"), ..Filter::default() }, true),
        ] {
            assert_eq!(filter.passes(&r), passes, "{filter:?}");
        }
        // Of an answer, the rule that asked.
        let answer = serde_json::json!({ "kind": "resolution", "detail": { "rule": "no" } });
        assert!(Filter { rule: Some("no".into()), ..Filter::default() }.passes(&answer));
    }
}
