//! What sessions ask resolvers, and what they are told: packets of the sockets that `hosts` watches. All others pass after a
//! look at their protocol and port. Nothing is decided here: every packet passes.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;

use crate::hosts::observe;

/// The packet passes.
const PASS: i32 = 1;

#[cgroup_skb(egress)]
pub fn dns_queries(ctx: SkBuffContext) -> i32 {
    observe(ctx.skb.skb, false);
    PASS
}

#[cgroup_skb(ingress)]
pub fn dns_answers(ctx: SkBuffContext) -> i32 {
    observe(ctx.skb.skb, true);
    PASS
}
