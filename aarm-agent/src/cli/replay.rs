//! Replaying a receipt: the recorded action and context through the reference evaluator.
//!
//! The one place that reads a receipt back into an action. Must never smooth over a difference: what the receipt does not
//! tell is said to be missing, not guessed.

use aarm_common::{Decision, Operation};
use aarm_policy::{Action, Cause, Context, Env, Explanation, Policy};
use aarm_receipt::canonical;
use aarm_receipt::redact::reveal;
use serde_json::Value;

use super::exit::CliError;

const O_TRUNC: u64 = 0o1000;
const FMODE_WRITE: u64 = 2;
const MSG_FASTOPEN: u64 = 0x2000_0000;
const S_IFMT: u64 = 0o170_000;
const S_IFBLK: u64 = 0o060_000;

/// A policy as receipts refer to it.
pub struct Deciding {
    policy: Policy,
    env: Env,
    /// Its labels, by bit.
    labels: Vec<String>,
}

/// What a receipt says again.
pub struct Replay {
    /// What the evaluator says.
    pub explanation: Explanation,
    /// The kernel failed closed, so that no rule was asked: why.
    pub closed: Option<String>,
    /// The evaluator says the same.
    pub agrees: bool,
    /// What the decision may have depended on and the receipt does not have.
    pub missing: Option<&'static str>,
}

impl Deciding {
    /// Takes a policy for this host.
    pub fn new(policy: Policy, env: Env) -> Result<Self, CliError> {
        let compiled = aarm_policy::compile(&policy, &env, 1).map_err(|_| {
            CliError::Usage("the policy does not fit the kernel's tables on this host".into())
        })?;
        let labels = compiled.labels.into_iter().map(|label| label.name).collect();
        Ok(Self { policy, env, labels })
    }

    /// Its hash.
    pub fn hash(&self) -> &str {
        self.policy.hash()
    }

    /// Replays a receipt of kind `action` that names this policy.
    pub fn replay(&self, receipt: &Value) -> Result<Replay, CliError> {
        let action = action(receipt)?;
        let context = self.context(receipt);
        let explain = |action: &Action| aarm_policy::eval(&self.policy, &self.env, action, &context);
        let mut explanation = explain(&action);
        let decision = &receipt["decision"];
        let closed = decision["cause"]
            .as_str()
            .filter(|cause| matches!(*cause, "path_too_long" | "read_failed" | "no_policy" | "no_memory"));
        // What was asked about is for somebody else to decide; that it was to be asked about is not.
        let asked = matches!(decision["cause"].as_str(), Some("answered" | "granted" | "cannot_wait"));
        let recorded = decision["rule"].as_str();
        let same = if asked {
            matches!(explanation.decision, Decision::StepUp | Decision::Defer)
        } else if decision["cause"] == "cannot_modify" {
            explanation.decision == Decision::Modify
        } else {
            decision["result"] == explanation.decision.name()
        };
        let agrees = closed.is_none()
            && same
            && recorded == explanation.rule.as_deref()
            && decision["facet"].as_str().unwrap_or_else(|| action.operation.name())
                == explanation.facet.operation.name();
        let mut agrees = agrees;
        let image = receipt["action"]["operation"] == Operation::ExecArgs.name();
        if image {
            // What is recorded is that the command line decides, and which rule asks for it; shown is what it decides.
            agrees = closed.is_none()
                && explanation.cause == Cause::Args
                && recorded == explanation.rule.as_deref();
            if let Some(args) = arguments(receipt) {
                explanation = explain(&Action { args: Some(args), ..action.clone() });
            }
        }
        let missing = if is_redacted(&receipt["action"]) || is_redacted(&receipt["identity"]) {
            Some("its policy redacts it: give what `aarm receipts --reveal --json` shows of it")
        } else if image {
            Some(
                "of a script, its own rules and those of its interpreter are asked: see the receipts of the exec",
            )
        } else if action.names.is_empty() && has_flag(receipt, "linked") {
            Some(
                "the file has several hard links; a rule may have matched a name that the receipt does not have",
            )
        } else if action.exe.is_none() {
            Some("the receipt does not say which program acted")
        } else {
            None
        };
        Ok(Replay { closed: closed.map(str::to_owned), explanation, agrees, missing })
    }

    /// What the session had seen.
    fn context(&self, receipt: &Value) -> Context {
        let c = &receipt["context"];
        let has = |label: &str| c["labels"].as_array().is_some_and(|all| all.iter().any(|l| l == label));
        let bits = self.labels.iter().enumerate().filter(|(_, l)| has(l)).fold(0, |m, (i, _)| m | 1 << i);
        let number = |name: &str| c[name].as_u64().unwrap_or_default() as u32;
        let subjects = number("subjects") & 0xffff | number("unknown") << 16;
        Context::recorded(bits, number("conditions"), subjects)
    }
}

/// Whether something of it is redacted.
fn is_redacted(part: &Value) -> bool {
    reveal(&mut part.clone(), &|_| None).1 > 0
}

fn has_flag(receipt: &Value, flag: &str) -> bool {
    receipt["action"]["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == flag))
}

/// The arguments of an image, if the receipt has all of them.
fn arguments(receipt: &Value) -> Option<Vec<Vec<u8>>> {
    if has_flag(receipt, "args_cut") {
        return None;
    }
    let words = receipt["action"]["argv"].as_array()?;
    words.iter().skip(1).map(|word| word.as_str().and_then(canonical::decode)).collect()
}

/// The action as the evaluator takes it.
fn action(receipt: &Value) -> Result<Action, CliError> {
    let a = &receipt["action"];
    let name = a["operation"].as_str().unwrap_or_default();
    let op = Operation::from_name(name).ok_or_else(|| {
        CliError::Usage(format!("the receipt's operation `{name}` is not one this version knows"))
    })?;
    // Rules name the exec; its command line is another receipt's.
    let op = if op == Operation::ExecArgs { Operation::Exec } else { op };
    let bytes = |v: &Value| v.as_str().and_then(canonical::decode);
    let number = |v: &Value| v.as_u64().unwrap_or_default();
    let mut action = Action::new(op);
    action.args = action.args.filter(|_| op != Operation::Exec);
    action.path = bytes(&a["path"]);
    let other = bytes(&a["path2"]);
    if has_flag(receipt, "alias") {
        action.names.extend(other);
    } else {
        action.path2 = other;
    }
    action.exe = bytes(&receipt["identity"]["exe"]);
    action.uid = number(&receipt["identity"]["uid"]) as u32;
    let n = &a["network"];
    if n.is_object() {
        action.addr = n["addr"].as_str().and_then(|t| t.parse().ok());
        let hosts = n["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str);
        action.hosts = hosts.map(str::to_owned).collect();
        action.port = action.addr.map(|_| number(&n["port"]) as u16);
        action.protocol = number(&n["protocol"]) as u8;
        action.sock_type = number(&n["type"]) as u16;
        action.family = match &n["family"] {
            Value::String(name) => aarm_receipt::receipt::family_number(name).unwrap_or_default(),
            other => number(other) as u16,
        };
    }
    let arg = number(&a["arg"]);
    let opens = matches!(op, Operation::OpenRead | Operation::OpenWrite);
    let facet = receipt["decision"]["facet"].as_str();
    action.also_read = has_flag(receipt, "also_read");
    action.exchange = has_flag(receipt, "exchange");
    action.directory = has_flag(receipt, "directory");
    action.truncates = opens && arg & O_TRUNC != 0;
    action.writes = op == Operation::ReceiveFd && arg & FMODE_WRITE != 0;
    action.fast_open = op == Operation::Send && arg & MSG_FASTOPEN != 0;
    action.sysctl = op == Operation::OpenWrite
        && action.path.iter().chain(&action.names).any(|p| p.starts_with(b"/proc/sys/"));
    action.raw_memory = opens
        && (number(&a["object"]["mode"]) & S_IFMT == S_IFBLK || facet == Some(Operation::RawMemory.name()));
    Ok(action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_redacted_is_said_to_be_missing() {
        let policy = "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: { name: p, version: '1' }\nspec:\n  \
            rules:\n    - { id: r, match: { operation: open_read, path: /secret }, decision: DENY }\n";
        let policy = Policy::parse(policy.as_bytes()).unwrap();
        let deciding = Deciding::new(policy, Env::default()).unwrap();
        let mut receipt = json!({
            "action": { "arg": 0, "object": { "dev": 1, "ino": 2, "mode": 0o100_644 }, "operation": "open_read",
                "path": "/secret", "tool": "read" },
            "decision": { "cause": "rule", "mode": "enforce", "result": "DENY", "rule": "r" },
            "identity": { "comm": "c", "exe": "/bin/c", "pid": 1, "uid": 1 }, "kind": "action",
        });
        let told = deciding.replay(&receipt).unwrap();
        assert!(told.agrees && told.missing.is_none());
        receipt["action"]["path"] = json!({ "redacted": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" });
        let told = deciding.replay(&receipt).unwrap();
        assert!(!told.agrees && told.missing.is_some_and(|missing| missing.contains("--reveal")));
    }
}
