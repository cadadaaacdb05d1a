//! What holds for a policy document whatever its bytes are.
//!
//! Included by the fuzz target and by the test that replays its corpus.

use aarm_common::Operation;
use aarm_policy::{
    Action, Code, Context, Diagnostic, Env, MAX_DIAGNOSTICS, Policy, compile, eval, table,
    table::TableContext,
};

/// Longer inputs are not looked at: the compiler's cost grows with them, and they show nothing new.
pub const MAX_INPUT: usize = 32 << 10;

/// Panics if something does not hold.
pub fn check(input: &[u8]) {
    if input.len() > MAX_INPUT {
        return;
    }
    let policy = match Policy::parse(input) {
        Ok(policy) => policy,
        Err(errors) => return placed(&errors, input),
    };
    placed(policy.warnings(), input);
    let env = Env::for_tests();
    let compiled = match compile(&policy, &env, 1) {
        Ok(compiled) => compiled,
        Err(errors) => {
            assert!(!errors.is_empty() && errors.iter().all(|e| e.code == Code::TooCostly), "{errors:#?}");
            return placed(&errors, input);
        }
    };
    assert_eq!(compiled.rules.len(), policy.rules().len());
    for (i, action) in policy.tests().iter().map(|t| t.action.clone()).chain(actions()).enumerate() {
        let by_eval = eval(&policy, &env, &action, &Context::default());
        let by_table =
            table::decide(&compiled.table, &action, &TableContext::of(&policy, &Context::default()));
        let rule = by_table.rule.map(|r| compiled.rules[r as usize].id.as_str());
        assert_eq!(
            (by_eval.decision, by_eval.rule.as_deref(), by_eval.facet.operation),
            (by_table.decision, rule, by_table.facet),
            "action {i}: {action:?}\n{by_eval:#?}"
        );
    }
}

/// Diagnostics have places inside the document and can be printed on a terminal.
fn placed(list: &[Diagnostic], input: &[u8]) {
    assert!(list.len() <= MAX_DIAGNOSTICS + 1);
    let lines = input.iter().filter(|b| matches!(b, b'\n' | b'\r')).count() + 1;
    for d in list {
        assert!(d.line >= 1 && d.column >= 1, "{d:?}");
        // The end of the document is a place too.
        assert!(d.line as usize <= lines + 1 && d.column as usize <= input.len() + 2, "{d:?}");
        let text = d.message.chars().chain(d.help.iter().flat_map(|h| h.chars()));
        assert!(!d.message.is_empty() && !text.into_iter().any(char::is_control), "{d:?}");
    }
}

/// Some actions of every operation that is decided.
fn actions() -> impl Iterator<Item = Action> {
    const PATHS: [&str; 4] = ["/", "/home/u/.ssh/id_ed25519", "/a/b", "/a"];
    Operation::ALL.iter().filter(|op| op.is_decided()).flat_map(|op| {
        PATHS.iter().enumerate().map(move |(i, path)| {
            let base = if op.has_address() {
                let addr = if i % 2 == 0 { "10.0.0.1" } else { "fd00::1" };
                let addr = addr.parse().unwrap_or(std::net::IpAddr::from([0; 4]));
                Action::on_address(*op, addr, [0, 22, 443, 65535][i], [6, 17][i / 2])
            } else {
                Action::on_path(*op, *path)
            };
            Action {
                path2: Some(PATHS[3 - i].into()),
                exe: (i > 0).then(|| PATHS[i].into()),
                uid: [0, 1000, 5, u32::MAX - 1][i],
                also_read: i % 2 == 1,
                truncates: i > 1,
                exchange: i == 3,
                ..base
            }
        })
    })
}
