//! The generated reference of operations.

use aarm_common::{Family, Operation};
use std::fmt::Write;

use crate::model::built_in_default;

/// `docs/operations.md`: every operation with its family, the kernel hooks that decide it, whether it can be held, and the
/// predicates that a rule on it can have.
pub fn operations_md() -> String {
    let mut out = String::from(
        "# Operations\n\nGenerated from the code: `cargo run -p aarm-policy --example operations > docs/operations.md`.\n\n\
         A family's name stands for all its operations in `operation`, `record` and `prior`; `exec` is always the family there. Every \
         rule can also have `exe` (for the family `exec` the program that would run, otherwise the one that acts) and `uid`, and \
         every predicate has a `not_` form. Who acts (program, lineage, user, cgroup) is asked for in `subject`, whatever the \
         operation.\n\n\
         Hooks without a release are in every kernel from 6.1 on; where one came later, others decide before it. *Held*: whether the \
         system call can wait for an answer where a policy says STEP_UP or DEFER. What cannot is refused: an operation of an io_uring, \
         and an open that has made its file, where making it was not asked about. A receipt says so (`cannot_wait`).\n",
    );
    for family in Family::ALL {
        let members: Vec<Operation> =
            Operation::ALL.iter().copied().filter(|op| op.family() == *family).collect();
        let default = built_in_default(*family).name();
        let _ = write!(out, "\n## {}\n\n", family.name());
        if !members.iter().any(|op| op.is_decided()) {
            let _ = writeln!(out, "Not decided yet: rules on it are refused.");
            continue;
        }
        let _ = writeln!(out, "Default, where a policy gives none: {default}.\n");
        let _ =
            writeln!(out, "| operation | hook | further hooks | held | predicates |\n|---|---|---|---|---|");
        for op in members {
            let hook = match op.is_decided() || op == Operation::ExecArgs {
                true => format!("`{}`", op.hook()),
                false => "not decided yet".to_owned(),
            };
            let held = match (op.is_decided(), op.cannot_wait()) {
                (false, _) => "at the first instruction; a rule names `exec`".to_owned(),
                (true, "") => "yes".to_owned(),
                (true, why) => format!("no: {why}"),
            };
            let (name, others) = (op.name(), op.other_hooks());
            let _ = writeln!(out, "| `{name}` | {hook} | {others} | {held} | {} |", predicates(op));
        }
    }
    out.push_str(
        "\n## Containers\n\nA task is in a container (`subject: { container: any }`; `none` is the contrary) if the path of its cgroup, \
         from the root of the unified hierarchy, is one that container runtimes make:\n\n",
    );
    for glob in crate::CONTAINERS {
        let _ = writeln!(out, "- `{glob}`");
    }
    out.push_str(
        "\nThese are Docker, containerd (CRI and nerdctl), CRI-O, Podman, BuildKit, Kubernetes, Amazon ECS, runc and crun by themselves, \
         LXC and systemd-nspawn, with systemd as their cgroup manager or without. What watches a container (conmon, a supervisor, a \
         monitor) is not in it, nor is a virtual machine; `ctr` of containerd gives its cgroups no form that could be told: name them by a \
         glob.\n",
    );
    out
}

/// The predicates on the object of an operation.
fn predicates(op: Operation) -> String {
    let mut found = Vec::new();
    if op.has_path() {
        found.push("`path`");
    }
    if op == Operation::Exec {
        found.extend(["`args`", "`argv`", "`env`", "`hash`", "`package`", "`script`"]);
    }
    if op.has_address() {
        found.extend(["`cidr`", "`port`"]);
    }
    if matches!(op, Operation::Connect | Operation::Send) {
        found.push("`host`");
    }
    if op.has_socket() {
        found.extend(["`protocol`", "`family`", "`type`"]);
    }
    found.join(", ")
}
