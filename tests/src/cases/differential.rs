//! The kernel decides as the reference evaluator. See `crate::differential`.

use super::Case;
use crate::differential;

pub const CASES: &[Case] = &[("kernel_and_evaluator_agree", differential::run)];
