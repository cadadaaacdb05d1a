//! What a table knows of hosts: globs over names, and whose answers are believed.

use aarm_common::limits::RESOLVERS;
use aarm_common::policy::{Network, Policy as Table};
use ipnet::IpNet;

use super::nfa::Predicate;
use crate::diagnostic::{Code, Diagnostic};
use crate::env::Env;
use crate::host::Host;
use crate::model::{Match, Policy};

/// The globs over names in a match, with what they are for: no rule asks for a path as well.
pub(super) fn globs(m: &Match) -> impl Iterator<Item = (Predicate, &Host)> {
    debug_assert!(m.path.is_empty() && m.not_path.is_empty() || m.host.is_empty() && m.not_host.is_empty());
    let of = |predicate| move |host| (predicate, host);
    m.host.iter().map(of(Predicate::Path)).chain(m.not_host.iter().map(of(Predicate::NotPath)))
}

/// Fills in the resolvers, if any rule asks for a name.
pub(super) fn resolvers(table: &mut Table, policy: &Policy, env: &Env) -> Option<Diagnostic> {
    if !policy.asks_for_hosts() {
        return None;
    }
    let own = policy.resolvers();
    let all = if own.is_empty() { &env.resolvers[..] } else { own };
    if all.is_empty() {
        let place = policy
            .rules()
            .iter()
            .find(|rule| !rule.matches.host.is_empty() || !rule.matches.not_host.is_empty())
            .map(|rule| rule.place)
            .or_else(|| policy.data().first().map(|entry| entry.place))
            .unwrap_or_default();
        let message = "rules ask for names of hosts, and there is no resolver whose answers are believed";
        return Some(
            Diagnostic::error(place, Code::NoResolver, message)
                .help("this host names none (resolv.conf): write spec.resolvers: [127.0.0.53]"),
        );
    }
    for (to, net) in table.resolvers.iter_mut().zip(all) {
        *to = network(net);
    }
    // The parser and `Env` let through no more.
    table.resolver_count = all.len().min(RESOLVERS) as u32;
    None
}

fn network(net: &IpNet) -> Network {
    let (addr, bits) = match net {
        IpNet::V4(net) => (net.network().to_ipv6_mapped().to_bits(), net.prefix_len() + 96),
        IpNet::V6(net) => (net.network().to_bits(), net.prefix_len()),
    };
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
    let halves = |n: u128| [(n >> 64) as u64, n as u64];
    Network { addr: halves(addr), mask: halves(mask) }
}
