//! The numbers of `subject`'s patterns of programs.
//!
//! A task's lineage is a bitmap of patterns, and it outlives the policy under which a program was run. So a pattern has one
//! number for all policies of the host, as long as the kernel's tables live. Must never: give a number to another pattern.

use aarm_common::limits::SUBJECT_PATTERNS;
use aarm_common::policy::Policy as Table;
use aarm_policy::{Compiled, Env, renumber_programs};

use super::policies::PolicyError;

/// What a pattern is known by. One in a home directory means other programs when the host gets other homes.
fn name(glob: &str, env: &Env) -> String {
    if !glob.starts_with('~') {
        return glob.to_owned();
    }
    let mut hash = crc32fast::Hasher::new();
    for home in &env.homes {
        hash.update(home);
        hash.update(b"\0");
    }
    format!("{glob} {:08x}", hash.finalize())
}

/// Gives the patterns of a compiled table the numbers they have for all policies. `names` are those given so far, by bit.
pub fn number(
    names: &mut Vec<String>,
    compiled: &Compiled,
    env: &Env,
    table: &mut Table,
) -> Result<(), PolicyError> {
    let mut bits = Vec::new();
    for glob in &compiled.programs {
        let name = name(glob.as_str(), env);
        let bit = match names.iter().position(|known| *known == name) {
            Some(bit) => bit,
            None if names.len() < SUBJECT_PATTERNS => {
                names.push(name);
                names.len() - 1
            }
            None => return Err(PolicyError::TooManyPatterns(glob.as_str().to_owned())),
        };
        bits.push(bit as u8);
    }
    renumber_programs(table, &bits);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aarm_common::limits::DATA_WORD;
    use aarm_policy::{Policy, compile, table};

    fn compiled(subject: &str, env: &Env) -> Compiled {
        let text = format!(
            "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{ name: t, version: '1' }}\nspec:\n  rules:\n    - {{ id: k, match: {{ operation: read }}, subject: {subject}, decision: DENY }}\n"
        );
        let policy = Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e:#?}"));
        compile(&policy, env, 1).unwrap()
    }

    #[test]
    fn a_pattern_keeps_its_number() {
        let env = Env::for_tests();
        let mut names = Vec::new();
        let mut numbered = |subject: &str, env: &Env| {
            let compiled = compiled(subject, env);
            let mut table = compiled.table.clone();
            number(&mut names, &compiled, env, &mut table).unwrap();
            table
        };
        let t = numbered("{ exe: '**/a', ancestors: ['**/b', '~/bin/c'] }", &env);
        assert_eq!(t.subject_patterns, 0b111);
        // Another policy, where the same patterns have other places.
        let t = numbered("{ ancestors: ['**/d', '**/b'], container: '/x/**' }", &env);
        assert_eq!(t.subject_patterns, 0b1010);
        assert_eq!((t.subjects[0].mask, t.subjects[1].mask), (0b1010, 1));
        assert_eq!(table::walk(&t, b"/usr/b").exe[DATA_WORD], 0b10);
        assert_eq!(table::walk(&t, b"/x/b").not_exe[DATA_WORD], 1);
        // The same text in other homes is another pattern.
        let t = numbered("{ ancestors: '~/bin/c' }", &Env::new([b"/srv/new".to_vec()]));
        assert_eq!(t.subject_patterns, 0b1_0000);
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn there_is_an_end_of_numbers() {
        let env = Env::for_tests();
        let mut names: Vec<String> = (0..SUBJECT_PATTERNS).map(|i| format!("/{i}")).collect();
        let mut number = |glob: &str| {
            let compiled = compiled(&format!("{{ exe: {glob} }}"), &env);
            super::number(&mut names, &compiled, &env, &mut compiled.table.clone())
        };
        assert!(number("/63").is_ok());
        assert!(matches!(number("/new"), Err(PolicyError::TooManyPatterns(glob)) if glob == "/new"));
    }
}
