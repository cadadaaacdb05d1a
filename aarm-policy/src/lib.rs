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
//! - [`run_tests`] runs the tests a policy ships with.
//!
//! Owns the meaning of policies. Does no I/O, knows no kernel and no clock: the same input gives the same
//! output, everywhere. Must never panic on any input, and must never accept a field it does not act on.

mod action;
mod compile;
mod diagnostic;
mod env;
mod eval;
mod glob;
mod model;
mod names;
mod parse;
mod suite;
pub mod table;
mod yaml;

pub use action::Action;
pub use compile::{AgentEntry, CgroupId, Compiled, Report, RuleInfo, Use, compile, compile_agents};
pub use diagnostic::{Code, Diagnostic, MAX_DIAGNOSTICS, Place, Severity};
pub use env::{Env, MAX_HOMES};
pub use eval::{Cause, Considered, Context, End, Explanation, Facet, eval, facets};
pub use glob::{Atom, ByteSet, Component, Glob, GlobError, MAX_ALTERNATIVES, MAX_GLOB, Pattern, Start};
pub use model::{
    API_VERSION, AgentSelector, Classification, DEFAULT_RULE, Expect, KIND, Match, Mode, OperationName,
    Policy, Range, Rule, TestCase, built_in_default,
};
pub use parse::{MAX_ID, MAX_TESTS};
pub use suite::{TestResult, run_tests};
pub use yaml::{MAX_DEPTH, MAX_DOCUMENT};
