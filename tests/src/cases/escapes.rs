//! The escape corpus holds on this kernel. See `crate::escapes`.

use super::Case;
use crate::escapes::{guard, names, network, programs, run, tree, uring};

pub const CASES: &[Case] = &[
    ("names", || run(&names::FAMILY)),
    ("programs", || run(&programs::FAMILY)),
    ("network", || run(&network::FAMILY)),
    ("tree", || run(&tree::FAMILY)),
    ("guard", || run(&guard::FAMILY)),
    ("uring", || run(&uring::FAMILY)),
];
