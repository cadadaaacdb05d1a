//! The policy language: from a document to a decision.
//!
//! ```text
//! document --parse--> Policy --compile--> table (for the kernel) --table::decide--> verdict
//!                        \--------------eval-------------------------------------> explanation
//! ```
//!
//! - [`Policy::parse`] reads a document strictly and reports all that is wrong with it, with places.
//! - [`compile`] turns a policy into the table the kernel reads, or says which rule is too dear.
//! - [`eval`] is the reference: it decides from the policy itself and says why. The table must agree with it
//!   for every action; tests with random policies and actions hold them together.
//! - A decision depends on the action, on who acts (which is part of it), and on the session's [`Context`]: its labels, its
//!   history, its age. The table takes the latter as label bits and condition bits ([`table::TableContext`]); a receipt
//!   carries the same bits, and those of the conditions on who acts; [`Context::recorded`] gives them back to the evaluator.
//! - [`run_tests`] runs the tests a policy ships with.
//! - [`operations_md`] is the generated reference of operations.
//!
//! Owns the meaning of policies. Does no I/O, knows no kernel and no clock: the same input gives the same
//! output, everywhere. Must never panic on any input, and must never accept a field it does not act on.

mod action;
mod args;
mod compile;
mod conditions;
mod data;
mod diagnostic;
mod env;
mod eval;
mod glob;
mod hold;
mod host;
mod model;
mod modify;
mod names;
mod parse;
mod program;
#[cfg(feature = "random")]
pub mod random;
mod reference;
mod subject;
mod suite;
pub mod table;
mod when;
mod yaml;

pub use action::Action;
pub use args::{Arg, BadPattern, FUEL, MAX_LINE, MAX_PATTERN, MAX_WORDS, Position, TooLong, Word, words};
pub use compile::{AgentEntry, CgroupId, Compiled, Report, RuleInfo, Use, compile, compile_agents};
pub use data::{DataEntry, Label, Level, On};
pub use diagnostic::{Code, Diagnostic, MAX_DIAGNOSTICS, Place, Severity};
pub use env::{Env, MAX_HOMES};
pub use eval::{
    Cause, Considered, Context, End, Explanation, Facet, Line, MAX_HISTORY, Past, eval, eval_line, facets,
    wanted,
};
pub use glob::{Atom, ByteSet, Component, Glob, GlobError, MAX_ALTERNATIVES, MAX_GLOB, Pattern, Start};
pub use hold::{
    Approver, CASCADE, DEFER_WAIT, Escalate, Hold, HoldDefaults, MAX_APPROVER, MAX_APPROVERS, MAX_RESOLVER,
    MAX_RESOLVERS, MAX_WAIT, OnTimeout, Risk, RuleHold, STEP_UP_WAIT, is_resolver_name,
};
pub use host::{Host, HostError, MAX_HOST, name as host_name};
pub use model::{
    API_VERSION, AgentSelector, Classification, DEFAULT_RULE, Expect, Given, KIND, Match, Mode,
    OperationName, Policy, Range, Record, Redact, Rule, TestCase, built_in_default,
};
pub use modify::{Changed, MAX_CHANGES, Modify, Replace, Resource};
pub use parse::{MAX_ID, MAX_LABEL, MAX_TESTS};
pub use program::{
    Fact, Facts, Lack, MAX_ASKED, MAX_ENV, MAX_REGEX, MAX_SCRIPT, Program, Regex, Sha256, Told, Undecided,
    Variable, Wanted,
};
pub use reference::operations_md;
pub use subject::{CONTAINERS, Subject, Unknown, renumber_programs};
pub use suite::{TestResult, run_tests};
pub use when::{ElapsedWhen, LabelsWhen, LevelWhen, MAX_SPAN, Prior, Rate, Span, When};
pub use yaml::{MAX_DEPTH, MAX_DOCUMENT};
