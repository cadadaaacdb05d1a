//! Names of address families, socket types and IP protocols, with the numbers Linux gives them.
//!
//! Sources: `linux/socket.h`, `linux/net.h`, the IANA protocol registry.

/// Names of address families (`AF_*`) in lower case.
pub(crate) const FAMILIES: &[(&str, u16)] = &[
    ("unspec", 0),
    ("unix", 1),
    ("inet", 2),
    ("ax25", 3),
    ("ipx", 4),
    ("appletalk", 5),
    ("netrom", 6),
    ("x25", 9),
    ("inet6", 10),
    ("rose", 11),
    ("key", 15),
    ("netlink", 16),
    ("packet", 17),
    ("rds", 21),
    ("pppox", 24),
    ("llc", 26),
    ("ib", 27),
    ("mpls", 28),
    ("can", 29),
    ("tipc", 30),
    ("bluetooth", 31),
    ("iucv", 32),
    ("rxrpc", 33),
    ("isdn", 34),
    ("phonet", 35),
    ("ieee802154", 36),
    ("caif", 37),
    ("alg", 38),
    ("nfc", 39),
    ("vsock", 40),
    ("kcm", 41),
    ("qipcrtr", 42),
    ("smc", 43),
    ("xdp", 44),
    ("mctp", 45),
];

/// Names of socket types (`SOCK_*`) in lower case.
pub(crate) const TYPES: &[(&str, u16)] =
    &[("stream", 1), ("dgram", 2), ("raw", 3), ("rdm", 4), ("seqpacket", 5), ("dccp", 6), ("packet", 10)];

/// Names of IP protocols. MPTCP is number 262 at the socket call and is decided as the TCP it is on the wire.
pub(crate) const PROTOCOLS: &[(&str, u16)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];

/// `AF_INET`.
pub(crate) const AF_INET: u16 = 2;
/// `AF_INET6`.
pub(crate) const AF_INET6: u16 = 10;
/// `SOCK_STREAM`.
pub(crate) const SOCK_STREAM: u16 = 1;
/// `SOCK_DGRAM`.
pub(crate) const SOCK_DGRAM: u16 = 2;
/// `IPPROTO_TCP`.
pub(crate) const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub(crate) const UDP: u8 = 17;

/// The number of a name.
pub(crate) fn number(table: &[(&str, u16)], name: &str) -> Option<u16> {
    table.iter().find(|(n, _)| *n == name).map(|(_, number)| *number)
}
