//! What does not fit the kernel's tables is refused, and the rules that cost most are named. And the agents
//! matcher, whose bounds are its own.

use aarm_common::limits::*;
use aarm_common::policy::{MODE_AUDIT, MODE_ENFORCE};
use aarm_policy::{AgentEntry, CgroupId, Code, Diagnostic, Env, Policy, compile, compile_agents, table};
use std::time::{Duration, Instant};

fn policy(spec: &str) -> Policy {
    let text = format!(
        "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p, version: \"1\"}}\nspec:\n{spec}"
    );
    Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e:#?}"))
}

fn rules(list: &[(String, String)]) -> Policy {
    let rules: Vec<String> =
        list.iter().map(|(id, m)| format!("    - {{id: {id}, match: {{{m}}}, decision: DENY}}\n")).collect();
    policy(&format!("  rules:\n{}", rules.concat()))
}

fn refused(policy: &Policy) -> Diagnostic {
    let mut errors = compile(policy, &Env::for_tests(), 1).map(|c| c.report).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!(errors[0].code, Code::TooCostly);
    errors.remove(0)
}

#[test]
fn too_many_address_ranges_name_the_dearest_rule() {
    let nets = |n: u32, step: u32| -> String {
        let list: Vec<String> =
            (0..n).map(|i| format!("\"{}\"", std::net::Ipv4Addr::from((10 << 24) + i * step))).collect();
        format!("operation: connect, cidr: [{}]", list.join(", "))
    };
    let fits = rules(&[("big".into(), nets(500, 2))]);
    let report = compile(&fits, &Env::default(), 1).unwrap().report;
    assert_eq!(report.v4_ranges.used, 1001);
    let error = refused(&rules(&[("small".into(), nets(3, 64)), ("big".into(), nets(600, 2))]));
    assert_eq!(error.line, 7);
    assert!(
        error.message.starts_with("1201 ranges of IPv4 addresses, and the kernel's table holds 1024"),
        "{error}"
    );
    assert!(error.message.contains("\"big\" has 1200 boundaries, \"small\" has 6"), "{error}");
}

#[test]
fn too_many_user_ranges() {
    let list: Vec<String> = (0..200).map(|i| (i * 2).to_string()).collect();
    let error = refused(&rules(&[("users".into(), format!("operation: read, uid: [{}]", list.join(", ")))]));
    assert!(
        error.message.contains("400 ranges of user ids") && error.message.contains("\"users\""),
        "{error}"
    );
}

#[test]
fn too_many_rule_sets() {
    // Each port range in which another combination of rules holds is a set of its own.
    let list: Vec<(String, String)> = (0..512)
        .map(|i| {
            let ports: Vec<String> = (0..5)
                .map(|k| (i * 7919 + k * 104_729) % 65_000)
                .map(|first| format!("{first}-{}", first + 300))
                .collect();
            (format!("r{i}"), format!("operation: connect, port: [{}]", ports.join(", ")))
        })
        .collect();
    let error = refused(&rules(&list));
    assert!(error.message.contains("combinations of rules over addresses"), "{error}");
}

#[test]
fn too_many_states_name_the_rule_without_which_it_fits() {
    let mut list: Vec<(String, String)> =
        (0..20).map(|i| (format!("small-{i}"), format!("operation: read, path: \"**/file-{i}\""))).collect();
    // Remembering which of many names were met doubles the states for each.
    let names: Vec<String> = (0..14).map(|i| format!("\"/{i}/**/x{i}/**/y{i}/**\"")).collect();
    list.insert(7, ("greedy".into(), format!("operation: read, path: [{}]", names.join(", "))));
    let start = Instant::now();
    let error = refused(&rules(&list));
    assert!(error.message.contains("\"greedy\" alone more than that"), "{error}");
    assert_eq!(error.help.as_deref(), Some("without \"greedy\" it fits"));
    assert_eq!(error.line, 13);
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
}

#[test]
fn too_many_states_together_name_the_last_straw() {
    let list: Vec<(String, String)> = (0..30)
        .map(|i| (format!("r{i}"), format!("operation: read, path: \"/{i}/**/x{i}/**/y{i}/**\"")))
        .collect();
    let error = refused(&rules(&list));
    let help = error.help.clone().unwrap_or_default();
    let last: usize = error.line as usize - 6;
    assert!(help.contains(&format!("the rules before \"r{last}\" fit")), "{error}");
    assert!(compile(&rules(&list[..last]), &Env::for_tests(), 1).is_ok());
    assert!(compile(&rules(&list[..=last]), &Env::for_tests(), 1).is_err());
}

#[test]
fn five_hundred_twelve_rules_fit() {
    let list: Vec<(String, String)> = (0..512)
        .map(|i| (format!("r{i}"), format!("operation: [read, write], path: \"**/f{i:x}/**\", uid: \"{i}\"")))
        .collect();
    let mut list = list;
    // Users beyond the table's ranges would be another test.
    list.iter_mut().skip(100).for_each(|(_, m)| *m = m.split(", uid").next().unwrap().to_owned());
    let compiled = compile(&rules(&list), &Env::for_tests(), 7).unwrap();
    assert_eq!((compiled.table.rules, compiled.rules.len(), compiled.table.generation), (512, 512, 7));
    assert_eq!(compiled.rules[511].id, "r511");
}

#[test]
fn the_head_of_the_table() {
    let compiled = compile(&policy("  mode: audit\n  defaults: {exec: DENY}\n"), &Env::default(), 3).unwrap();
    let t = &compiled.table;
    assert_eq!((t.mode, t.generation, t.rules), (MODE_AUDIT, 3, 0));
    // exec, read, write, network, and what this version does not decide.
    assert_eq!(t.defaults, [2, 1, 1, 2, 2, 2, 2, 2]);
    // The padding of range tables: the largest start, the last set.
    assert_eq!((t.v4_start[0], t.v4_start[1], t.v6_start[1]), (0, u32::MAX, [u64::MAX; 2]));
}

#[test]
fn agents_are_selected_by_all_that_is_given() {
    let p = policy(
        "  agents:
    - {exe: \"**/claude\", uid: 1500}
    - {cgroup: [/kube/**, /x]}
    - {exe: [\"~/bin/agent\", \"/opt/{a,b}/run\"]}
    - {cgroup: /gone}
    - {uid: 7-9}
",
    );
    let kube = CgroupId { id: 77, level: 1 };
    let x = CgroupId { id: 88, level: 1 };
    let groups = [vec![], vec![kube, x], vec![], vec![], vec![]];
    let entries: Vec<AgentEntry<'_>> = p
        .agents()
        .iter()
        .zip(groups)
        .enumerate()
        .map(|(i, (selector, cgroups))| AgentEntry { selector, slot: i as u32 + 1, cgroups })
        .collect();
    let compiled = compile_agents(&entries, &Env::for_tests(), 9).unwrap();
    let t = &compiled.table;
    assert_eq!((t.mode, t.generation, t.cgroup_count), (MODE_ENFORCE, 9, 2));
    let select = |exe: &str, uid, groups: &[CgroupId]| {
        table::select_agent(t, exe.as_bytes(), uid, groups).map(|i| (i, t.rule_slot[i as usize]))
    };
    let root = CgroupId { id: 1, level: 0 };
    assert_eq!(select("/usr/bin/claude", 1500, &[root]), Some((0, 1)));
    assert_eq!(select("/usr/bin/claude", 1501, &[root]), None);
    assert_eq!(select("/bin/sh", 1, &[root, kube]), Some((1, 2)));
    assert_eq!(select("/bin/sh", 1, &[root, x]), Some((1, 2)));
    assert_eq!(select("/home/u/bin/agent", 1, &[root]), Some((2, 3)));
    assert_eq!(select("/opt/b/run", 1, &[root]), Some((2, 3)));
    assert_eq!(select("/bin/sh", 8, &[root]), Some((4, 5)));
    assert_eq!(select("/bin/sh", 10, &[root]), None);
}

#[test]
fn agents_have_bounds() {
    let p = policy("  agents: [{uid: 1}, {cgroup: /a}]\n");
    let entry = |i: usize, slot, cgroups| AgentEntry { selector: &p.agents()[i], slot, cgroups };
    let refuse = |entries: &[AgentEntry<'_>]| {
        let errors = compile_agents(entries, &Env::default(), 1).map(|c| c.report).unwrap_err();
        assert_eq!(errors[0].code, Code::TooMany);
        errors[0].message.clone()
    };
    let many: Vec<AgentEntry<'_>> = (0..AGENT_SELECTORS + 1).map(|_| entry(0, 1, vec![])).collect();
    assert!(refuse(&many).contains("65 agent selectors"));
    assert!(refuse(&[entry(0, POLICY_SLOTS as u32, vec![])]).contains("policy slot"));
    let groups: Vec<CgroupId> = (1..=CGROUPS as u64 + 1).map(|id| CgroupId { id, level: 1 }).collect();
    assert!(refuse(&[entry(1, 1, groups)]).contains("33 cgroups"));
    assert!(refuse(&[entry(1, 1, vec![CgroupId { id: 0, level: 0 }])]).contains("id 0"));
    let empty = compile_agents(&[], &Env::default(), 1).unwrap();
    assert_eq!(table::select_agent(&empty.table, b"/bin/sh", 0, &[]), None);
}
