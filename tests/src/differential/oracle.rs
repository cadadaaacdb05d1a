//! What the evaluator says about each deed, and whether that is what happened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use aarm_common::op::Family;
use aarm_common::{Decision, Operation};
use aarm_policy::{Action, Context, End, Env, Explanation, Mode, Policy, eval};
use anyhow::{Result, ensure};
use serde_json::Value;

use super::actor::{Act, Step};

/// What was met, so that a run shows what it has tried.
#[derive(Debug, Default)]
pub struct Met {
    /// Decisions held against each other.
    pub decisions: usize,
    counts: BTreeMap<String, usize>,
}

/// What a run must have met to say anything.
const EXPECTED: &[&str] = &[
    "by rule",
    "by default",
    "by conflict",
    "refused",
    "allowed",
    "audit",
    "label added",
    "counted only",
    "condition",
    "above",
    "another name",
    "facet",
    "key",
    "module",
    "kexec",
];

impl Met {
    fn add(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    /// Fails if something was never met.
    pub fn everything(&self) -> Result<()> {
        let never = |what: &&&str| !self.counts.contains_key(**what);
        let never: Vec<&&str> = EXPECTED.iter().filter(never).collect();
        // A short run shows less.
        ensure!(self.decisions < 10_000 || never.is_empty(), "never met: {never:?}");
        Ok(())
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} decisions", self.decisions)?;
        self.counts.iter().try_for_each(|(what, n)| write!(f, ", {what} {n}"))
    }
}

/// Kernel and evaluator say different things.
#[derive(Debug)]
pub struct Disagreement {
    /// Number of the deed.
    pub act: usize,
    what: String,
    why: Vec<String>,
    action: Option<Box<Action>>,
    labels: BTreeSet<String>,
    by_eval: Option<Box<Explanation>>,
    receipt: Option<Value>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "deed {}: {}", self.act, self.what)?;
        self.why.iter().try_for_each(|why| writeln!(f, "  {why}"))?;
        if let Some(action) = &self.action {
            writeln!(f, "action:    {}", serde_json::to_string(action).map_err(|_| fmt::Error)?)?;
            writeln!(f, "labels:    {:?}", self.labels)?;
        }
        if let Some(e) = &self.by_eval {
            writeln!(f, "evaluator: {e}; adds {:?}; counted only: {}", e.adds, e.summarized)?;
            for c in &e.considered {
                let why = c.failed.map_or("matches".to_owned(), |p| format!("no: {p} does not hold"));
                let end = if c.facet.end == End::Target { " of the target" } else { "" };
                writeln!(f, "  {:<10} as {}{end}: {why}", c.rule, c.facet.operation.name())?;
            }
        }
        match &self.receipt {
            Some(receipt) => writeln!(f, "receipt:   {receipt}"),
            None => writeln!(f, "receipt:   none"),
        }
    }
}

/// The program that acts: the suite itself.
const EXE: &[u8] = crate::host::ME.as_bytes();
/// Receipts shown that follow the one that disagrees: what acted at the same time comes there.
const AFTER: usize = 5;
/// History kept of one kind: more than any condition counts.
const ALIKE_MAX: usize = 8;

/// The action of a step.
fn action(step: &Step) -> Option<Action> {
    let bytes = |path: &Option<String>| path.clone().map(String::into_bytes);
    let all = |names: &[String]| names.iter().map(|n| n.clone().into_bytes()).collect();
    Some(Action {
        path: bytes(&step.path),
        names: all(&step.names),
        path2: bytes(&step.path2),
        names2: all(&step.names2),
        exe: Some(EXE.to_vec()),
        uid: step.uid,
        addr: step.addr,
        port: step.addr.map(|_| step.port),
        protocol: step.protocol,
        family: step.family,
        sock_type: step.kind,
        also_read: step.also_read,
        truncates: step.truncates,
        exchange: step.exchange,
        directory: step.directory,
        raw_memory: step.raw_memory,
        sysctl: step.sysctl,
        fast_open: step.fast_open,
        writes: step.writes,
        ..Action::new(Operation::from_name(&step.op)?)
    })
}

/// A session as it should be.
struct Session<'a> {
    policy: &'a Policy,
    env: &'a Env,
    context: Context,
    /// Labels that files carry.
    carried: HashMap<(u64, u64), BTreeSet<String>>,
    receipts: std::slice::Iter<'a, Value>,
    /// Allowed actions that are only counted.
    counted: BTreeMap<String, u64>,
}

/// Holds the deeds of one session against its receipts, oldest first.
pub fn compare(
    policy: &Policy,
    env: &Env,
    acts: &[Act],
    receipts: &[Value],
    met: &mut Met,
) -> Result<(), Box<Disagreement>> {
    let actions: Vec<Value> = receipts.iter().filter(|r| r["kind"] == "action").cloned().collect();
    let mut session = Session {
        policy,
        env,
        context: Context::default(),
        carried: HashMap::new(),
        receipts: actions.iter(),
        counted: BTreeMap::new(),
    };
    // The last summary has all since the session began; a session that lasts has one every few seconds.
    let summary = receipts.iter().rfind(|r| r["kind"] == "summary");
    let counts = summary.and_then(|s| s["detail"]["counts"].as_object()).into_iter().flatten();
    let told: BTreeMap<String, u64> =
        counts.map(|(op, n)| (op.clone(), n.as_u64().unwrap_or_default())).collect();
    for (i, act) in acts.iter().enumerate() {
        if let Err(mut found) = session.act(act, met) {
            found.act = i;
            found.what = format!("{}, errno {}", act.what, act.errno);
            // What has no receipt of its own has been counted all the same.
            let counted = &session.counted;
            found.why.push(format!(
                "counted only: {told:?} by receipts to the end, {counted:?} by evaluator so far"
            ));
            found.why.push(format!("counted for conditions: {:?}", session.context.history));
            let before = acts[..=i].iter().map(|act| format!("{} ({})", act.what, act.errno));
            found.why.push(format!("done: {}", before.collect::<Vec<_>>().join("; ")));
            let after: Vec<String> =
                session.receipts.as_slice().iter().take(AFTER).map(Value::to_string).collect();
            found.why.push(format!("the receipts after it: {}", after.join("\n    ")));
            return Err(found);
        }
    }
    let end = |why: String, receipt: Option<&Value>| {
        Box::new(Disagreement {
            act: acts.len(),
            what: "after the last deed".into(),
            why: vec![why],
            action: None,
            labels: BTreeSet::new(),
            by_eval: None,
            receipt: receipt.cloned(),
        })
    };
    if let Some(more) = session.receipts.next() {
        return Err(end("a receipt of something that was not done".into(), Some(more)));
    }
    if told != session.counted {
        return Err(end(
            format!("counted only: {told:?} by receipts, {:?} by evaluator", session.counted),
            None,
        ));
    }
    if !receipts.iter().any(|r| r["kind"] == "session_close") {
        return Err(end("the session is not closed".into(), None));
    }
    Ok(())
}

impl Session<'_> {
    fn act(&mut self, act: &Act, met: &mut Met) -> Result<(), Box<Disagreement>> {
        let mut refused = false;
        for step in &act.steps {
            let carried = step.id.and_then(|id| self.carried.get(&id)).cloned().unwrap_or_default();
            let new: BTreeSet<String> = carried.difference(&self.context.labels).cloned().collect();
            if step.if_carried && new.is_empty() {
                continue;
            }
            refused = self.step(step, &new, met)?;
            if refused {
                break;
            }
        }
        if refused == (act.errno == libc::EPERM) || act.ambiguous {
            return Ok(());
        }
        let why = if refused { "it was not refused" } else { "it was refused" };
        Err(self.disagree(vec![why.into()], None, None, None))
    }

    fn disagree(
        &self,
        why: Vec<String>,
        action: Option<Action>,
        by_eval: Option<Explanation>,
        receipt: Option<&Value>,
    ) -> Box<Disagreement> {
        Box::new(Disagreement {
            act: 0,
            what: String::new(),
            why,
            action: action.map(Box::new),
            labels: self.context.labels.clone(),
            by_eval: by_eval.map(Box::new),
            receipt: receipt.cloned(),
        })
    }

    /// One decision. Whether it refuses. `new`: labels that the object carries and the session does not have.
    fn step(
        &mut self,
        step: &Step,
        new: &BTreeSet<String>,
        met: &mut Met,
    ) -> Result<bool, Box<Disagreement>> {
        let Some(action) = action(step) else {
            return Err(self.disagree(vec![format!("no operation {}", step.op)], None, None, None));
        };
        let e = eval(self.policy, self.env, &action, &self.context);
        let audit = self.policy.mode() == Mode::Audit;
        let refused = !audit && cannot_be_changed(&action, &e);
        let passes = matches!(e.decision, Decision::Allow | Decision::Modify) && !refused || audit;
        // What cannot be changed as its rule says leaves nothing behind.
        let e = if refused { Explanation { decision: Decision::Deny, adds: Vec::new(), ..e } } else { e };
        let mut adds: BTreeSet<String> = e.adds.iter().cloned().collect();
        if passes {
            adds.extend(new.iter().cloned());
            adds.extend(self.left_by_others(step));
        }
        if e.summarized && adds.is_empty() {
            *self.counted.entry(step.op.clone()).or_default() += 1;
            met.add("counted only");
        } else {
            let receipt = self.receipts.next();
            let why = self.differences(step, &action, &e, refused, &adds, receipt);
            if !why.is_empty() {
                return Err(self.disagree(why, Some(action), Some(e), receipt));
            }
        }
        self.met(step, &action, &e, new, passes, met);
        self.context.apply(self.policy, &action, &e);
        let last = self.context.history.last().cloned();
        if self.context.history.iter().filter(|past| Some(*past) == last.as_ref()).count() > ALIKE_MAX {
            self.context.history.pop();
        }
        self.context.labels.extend(adds);
        let writes = action.operation.family() == Family::Write || step.writes;
        let one = !matches!(action.operation, Operation::Rename | Operation::Link);
        if let Some(id) = step.id
            && passes
            && writes
            && one
            && !self.context.labels.is_empty()
        {
            self.carried.entry(id).or_default().extend(self.context.labels.iter().cloned());
        }
        Ok(!passes)
    }

    /// What earlier sessions have left in a parameter of the kernel, which no new tree takes away: what the receipt says.
    fn left_by_others(&self, step: &Step) -> BTreeSet<String> {
        let parameter = step.path.as_deref().filter(|path| path.starts_with("/proc/sys/"));
        let receipt = self.receipts.as_slice().first().filter(|r| r["action"]["path"].as_str() == parameter);
        let adds = receipt.filter(|_| parameter.is_some()).and_then(|r| r["context"]["adds"].as_array());
        adds.into_iter().flatten().filter_map(|label| label.as_str().map(str::to_owned)).collect()
    }

    /// How the receipt differs from what is expected.
    fn differences(
        &self,
        step: &Step,
        action: &Action,
        e: &Explanation,
        unchanged: bool,
        adds: &BTreeSet<String>,
        receipt: Option<&Value>,
    ) -> Vec<String> {
        let Some(r) = receipt else { return vec!["there is no receipt".into()] };
        let mut why = Vec::new();
        let mut same = |what: &str, by_receipt: &str, by_eval: &str| {
            if by_receipt != by_eval {
                why.push(format!("{what}: `{by_receipt}` by the receipt, `{by_eval}` by the evaluator"));
            }
        };
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let list = |v: &Value| {
            let words: BTreeSet<String> = v.as_array().into_iter().flatten().map(text).collect();
            format!("{words:?}")
        };
        let (a, d) = (&r["action"], &r["decision"]);
        same("operation", &text(&a["operation"]), &step.op);
        same("path", &text(&a["path"]), step.path.as_deref().unwrap_or_default());
        if step.path2.is_some() {
            same("target", &text(&a["path2"]), step.path2.as_deref().unwrap_or_default());
        }
        let addr = |addr: Option<std::net::IpAddr>| addr.map(|a| a.to_string()).unwrap_or_default();
        same("address", &text(&a["network"]["addr"]), &addr(action.addr));
        if action.operation.has_socket() {
            same("port", &a["network"]["port"].to_string(), &step.port.to_string());
            same("protocol", &a["network"]["protocol"].to_string(), &step.protocol.to_string());
            same("type", &a["network"]["type"].to_string(), &step.kind.to_string());
        }
        same("user", &r["identity"]["uid"].to_string(), &step.uid.to_string());
        if let Some(exe) = r["identity"]["exe"].as_str() {
            same("program", exe, &String::from_utf8_lossy(EXE));
        }
        same("decision", &text(&d["result"]), e.decision.name());
        same("rule", &text(&d["rule"]), e.rule.as_deref().unwrap_or_default());
        let facet = e.facet.operation;
        let other = if facet == action.operation { "" } else { facet.name() };
        same("facet", &text(&d["facet"]), other);
        let cause = serde_json::to_value(e.cause).unwrap_or_default();
        let cause = if unchanged { "cannot_modify".to_owned() } else { text(&cause) };
        same("cause", &text(&d["cause"]), &cause);
        same("labels", &list(&r["context"]["labels"]), &format!("{:?}", self.context.labels));
        same("labels added", &list(&r["context"]["adds"]), &format!("{adds:?}"));
        let mode = if self.policy.mode() == Mode::Audit { "audit" } else { "enforce" };
        same("mode", &text(&d["mode"]), mode);
        why
    }

    fn met(
        &self,
        step: &Step,
        action: &Action,
        e: &Explanation,
        new: &BTreeSet<String>,
        passes: bool,
        met: &mut Met,
    ) {
        met.decisions += 1;
        met.add(&step.op);
        let cause = serde_json::to_value(e.cause).unwrap_or_default();
        met.add(&format!("by {}", cause.as_str().unwrap_or_default()));
        met.add(if e.decision == Decision::Allow { "allowed" } else { "refused" });
        let without = |change: fn(&mut Action)| {
            let mut other = action.clone();
            change(&mut other);
            other != *action && {
                let other = eval(self.policy, self.env, &other, &self.context);
                (other.rule, other.adds) != (e.rule.clone(), e.adds.clone())
            }
        };
        let ruled = self.policy.rules().iter().find(|r| Some(&r.id) == e.rule.as_ref());
        for (what, is) in [
            ("audit", self.policy.mode() == Mode::Audit && e.decision != Decision::Allow),
            ("redirected", e.decision == Decision::Modify),
            ("label added", !e.adds.is_empty()),
            ("label carried", passes && !new.is_empty()),
            ("condition", ruled.is_some_and(|rule| rule.when.is_some())),
            ("above", step.directory && without(|a| a.directory = false)),
            ("another name", !step.names.is_empty() && without(|a| a.names.clear())),
            ("facet", e.facet.operation != action.operation),
            ("target", e.facet.end == End::Target),
        ] {
            if is {
                met.add(what);
            }
        }
    }
}

/// Whether an action is refused because it cannot be redirected, as its rule says, to 127.0.0.1: what is neither TCP nor UDP, and a single
/// datagram to the other version of IP.
fn cannot_be_changed(action: &Action, e: &Explanation) -> bool {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    if e.decision != Decision::Modify {
        return false;
    }
    match action.addr {
        // Being told to forget whom it is connected to, a socket of IP reaches nobody.
        None => action.family != 0,
        Some(addr) => match action.protocol {
            TCP => false,
            UDP => action.operation == Operation::Send && addr.to_canonical().is_ipv6(),
            _ => true,
        },
    }
}

#[cfg(test)]
mod tests {
    use aarm_common::policy::{MODE_AUDIT, Policy as Table};
    use aarm_policy::table::{self, TableContext};
    use aarm_policy::{Compiled, compile};
    use serde_json::json;

    use super::*;

    const TEXT: &str = "apiVersion: aarm.dev/v1alpha1
kind: AgentPolicy
metadata: {name: t, version: \"1\"}
spec:
  defaults: {read: ALLOW, write: DENY, network: ALLOW}
  data:
    - {label: SECRET, level: RESTRICTED, on: {read: \"/a/secret/**\"}}
    - {label: OTHER, level: PUBLIC, on: {read: \"/b/**\"}}
  rules:
    - {id: no-key, match: {operation: read, path: \"**/key\"}, decision: DENY}
    - {id: no-egress, match: {operation: connect}, when: {labels: {any: [SECRET]}}, decision: DENY}
";

    /// What breaks a table.
    type Break = fn(&mut Table);

    fn compiled(text: &str) -> (Policy, Compiled) {
        let policy = Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e:#?}"));
        let compiled = compile(&policy, &Env::for_tests(), 1).unwrap();
        (policy, compiled)
    }

    /// A kernel that decides by a table, and tells it truly.
    fn played(policy: &Policy, compiled: &Compiled, table: &Table) -> (Vec<Act>, Vec<Value>) {
        let names = policy.labels();
        let named = |bits: u64| -> Vec<&str> {
            let on = names.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
            on.map(|(_, label)| label.name.as_str()).collect()
        };
        let on = |op: &str, path: &str| Step { op: op.into(), path: Some(path.into()), ..Step::default() };
        let connect = Step {
            op: "connect".into(),
            addr: Some([127, 0, 0, 1].into()),
            port: 9,
            family: 2,
            kind: 1,
            protocol: 6,
            ..Step::default()
        };
        let steps = [
            on("open_read", "/c/plain"),
            on("open_read", "/c/key"),
            on("open_write", "/c/plain"),
            connect.clone(),
            on("open_read", "/a/secret/x"),
            connect,
            on("open_read", "/b/x"),
        ];
        let audit = table.mode == MODE_AUDIT;
        let (mut labels, mut acts, mut receipts) = (0, Vec::new(), Vec::new());
        for step in steps {
            let action = action(&step).unwrap();
            let v = table::decide(table, &action, &TableContext { labels, conditions: 0 });
            let facet = if v.facet == action.operation { Value::Null } else { v.facet.name().into() };
            receipts.push(json!({
                "kind": "action",
                "action": {
                    "operation": step.op,
                    "path": step.path,
                    "network": { "addr": step.addr, "port": step.port, "protocol": step.protocol, "type": step.kind },
                },
                "context": { "labels": named(labels), "adds": named(v.adds) },
                "decision": {
                    "result": v.decision.name(),
                    "cause": v.cause,
                    "facet": facet,
                    "mode": if audit { "audit" } else { "enforce" },
                    "rule": v.rule.map(|i| compiled.rules[i as usize].id.clone()),
                },
                "identity": { "uid": step.uid, "exe": String::from_utf8_lossy(EXE) },
            }));
            let refused = !matches!(v.decision, Decision::Allow | Decision::Modify) && !audit;
            let errno = if refused { libc::EPERM } else { 0 };
            acts.push(Act { what: step.op.clone(), steps: vec![step], errno, ambiguous: false });
            labels |= v.adds;
        }
        receipts.push(json!({ "kind": "session_close" }));
        (acts, receipts)
    }

    fn held(policy: &Policy, acts: &[Act], receipts: &[Value]) -> Result<(), Box<Disagreement>> {
        compare(policy, &Env::for_tests(), acts, receipts, &mut Met::default())
    }

    #[test]
    fn a_broken_table_is_found() {
        let (policy, compiled) = compiled(TEXT);
        let (acts, receipts) = played(&policy, &compiled, &compiled.table);
        held(&policy, &acts, &receipts).unwrap_or_else(|found| panic!("{found}"));
        let breaks: [(&str, Break); 8] = [
            ("a rule's decision", |t| t.rule_decision[0] = Decision::Allow as u8),
            ("a default", |t| t.defaults[Family::Write as usize] = Decision::Allow as u8),
            ("the mode", |t| t.mode = MODE_AUDIT),
            ("labels of an entry", |t| t.data_labels.swap(0, 1)),
            ("no labels", |t| t.data_labels.fill(0)),
            ("a condition's labels", |t| t.labels[0].mask = 2),
            ("rules of an operation", |t| t.op_rules[Operation::Connect as usize].fill(0)),
            ("the automaton", |t| t.hit_end.fill(0)),
        ];
        for (what, broken) in breaks {
            let mut table = compiled.table.clone();
            broken(&mut table);
            let (acts, receipts) = played(&policy, &compiled, &table);
            assert!(held(&policy, &acts, &receipts).is_err(), "{what}");
        }
    }

    #[test]
    fn another_policy_than_the_one_loaded_is_found() {
        let (policy, loaded) = compiled(TEXT);
        let (acts, receipts) = played(&policy, &loaded, &loaded.table);
        for (from, to) in [
            ("write: DENY", "write: ALLOW"),
            ("**/key", "**/keys"),
            ("any: [SECRET]", "any: [OTHER]"),
            ("/b/**", "/c/**"),
            ("id: no-key", "id: other"),
            ("operation: connect", "operation: bind"),
            ("defaults:", "mode: audit\n  defaults:"),
        ] {
            let other = compiled(&TEXT.replacen(from, to, 1)).0;
            assert!(held(&other, &acts, &receipts).is_err(), "{to}");
        }
    }

    #[test]
    fn what_is_told_of_a_deed_must_be_so() {
        let (policy, loaded) = compiled(TEXT);
        let (acts, receipts) = played(&policy, &loaded, &loaded.table);
        let changed: [(&str, Value); 6] = [
            ("/identity/exe", json!("/bin/other")),
            ("/identity/uid", json!(7)),
            ("/action/path", json!("/c/other")),
            ("/context/labels", json!(["SECRET"])),
            ("/decision/cause", json!("default")),
            ("/decision/rule", json!("no-egress")),
        ];
        for (at, value) in changed {
            let mut receipts = receipts.clone();
            *receipts[1].pointer_mut(at).unwrap() = value;
            let found = held(&policy, &acts, &receipts).expect_err(at);
            assert_eq!(found.act, 1, "{at}: {found}");
        }
        // One too few, one too many, an errno that does not fit.
        assert!(held(&policy, &acts, &receipts[1..]).is_err());
        assert!(held(&policy, &acts[1..], &receipts[1..]).is_ok());
        assert!(held(&policy, &acts[1..], &receipts).is_err());
        let mut lied = acts.clone();
        lied[1].errno = 0;
        assert!(held(&policy, &lied, &receipts).is_err());
    }

    /// The summaries were added up once: then a session that lived through two of them disagreed.
    #[test]
    fn the_last_summary_has_all() {
        let text = TEXT.replace("defaults:", "record: {read: summary}\n  defaults:");
        let (policy, _) = compiled(&text);
        let summary = |n: u64| json!({"kind": "summary", "detail": {"counts": {"open_read": n}}});
        let close = json!({"kind": "session_close"});
        let compared = |receipts: &[Value]| {
            compare(&policy, &Env::for_tests(), &[], receipts, &mut Met::default()).is_ok()
        };
        assert!(compared(std::slice::from_ref(&close)));
        assert!(!compared(&[summary(3), close.clone()]));
        let nothing = json!({"kind": "summary", "detail": {"counts": {}}});
        assert!(!compared(&[nothing.clone(), summary(3), close.clone()]));
        assert!(compared(&[summary(3), nothing, close]), "only the last one counts");
    }
}
