//! What a policy needs to know of the host it is for.

use aarm_common::limits::RESOLVERS;
use ipnet::IpNet;
use std::net::IpAddr;

/// Facts of a host that give a policy its meaning there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env {
    /// Where `~` points: the home directories, absolute, without a final `/`. The root directory is the
    /// empty path.
    pub homes: Vec<Vec<u8>>,
    /// Resolvers that the host asks: whose answers are believed by a policy that names none.
    pub resolvers: Vec<IpNet>,
}

/// Home directories taken over from one host.
pub const MAX_HOMES: usize = 4096;

/// Directories that some passwd files name as the home of system users. They hold the system and nobody's
/// files: were they homes, `~/**` would be `/dev/**`.
const SYSTEM: &[&[u8]] = &[
    b"/",
    b"/bin",
    b"/boot",
    b"/dev",
    b"/etc",
    b"/lib",
    b"/proc",
    b"/run",
    b"/sbin",
    b"/sys",
    b"/tmp",
    b"/usr",
    b"/usr/bin",
    b"/usr/lib",
    b"/usr/sbin",
    b"/var",
    b"/var/run",
    b"/var/tmp",
];

impl Env {
    /// The environment of a host with these home directories. Relative ones, those with empty, `.` or `..`
    /// components, and duplicates are left out.
    pub fn new(homes: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for mut home in homes {
            while home.last() == Some(&b'/') {
                home.pop();
            }
            if kept.len() < MAX_HOMES && is_plain(&home) && seen.insert(home.clone()) {
                kept.push(home);
            }
        }
        Env { homes: kept, resolvers: Vec::new() }
    }

    /// The environment of a host whose `passwd` file has this content. Every entry counts, of system users
    /// too: services keep keys in their home directories. Left out are the system's own directories, except
    /// as the home of root.
    pub fn from_passwd(text: &[u8]) -> Self {
        let homes = text.split(|b| *b == b'\n').filter_map(|line| {
            let mut fields = line.split(|b| *b == b':').skip(2);
            let uid = fields.next()?;
            let home = fields.nth(2)?;
            let absolute = home.first() == Some(&b'/');
            (absolute && (uid == b"0" || !SYSTEM.contains(&home))).then(|| home.to_vec())
        });
        Env::new(homes)
    }

    /// With the name servers of a resolv.conf of this content. More than a policy can trust, and what is no address, are left
    /// out.
    pub fn with_resolv_conf(mut self, text: &[u8]) -> Self {
        let servers = text.split(|b| *b == b'\n').filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            let mut words = line.split_ascii_whitespace();
            // An address may be of a link: what is after the `%` says of which.
            let address = words.next().filter(|w| *w == "nameserver").and_then(|_| words.next())?;
            address.split('%').next()?.parse::<IpAddr>().ok()
        });
        self.resolvers = servers.take(RESOLVERS).map(|a| IpNet::from(a.to_canonical())).collect();
        self
    }

    /// What the `tests` section of a policy runs with, on any host: the homes are `/root` and `/home/u`, and there is a
    /// resolver.
    pub fn for_tests() -> Self {
        Env { homes: vec![b"/root".to_vec(), b"/home/u".to_vec()], ..Env::default() }
            .with_resolv_conf(b"nameserver 127.0.0.53")
    }
}

/// Whether an absolute path (or the empty one) is made of ordinary components.
fn is_plain(path: &[u8]) -> bool {
    path.is_empty()
        || path.len() < aarm_common::limits::PATH_MAX
            && path.split(|b| *b == b'/').enumerate().all(|(i, part)| match i {
                0 => part.is_empty(),
                _ => !part.is_empty() && part != b"." && part != b".." && !part.contains(&0),
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_gives_resolvers() {
        let text = b"# x\nnameserver 127.0.0.53\nsearch a\n nameserver\tfe80::1%eth0\nnameserver x\n\xff\noptions edns0\n";
        let found = Env::default().with_resolv_conf(text).resolvers;
        assert_eq!(found, ["127.0.0.53/32".parse::<IpNet>().unwrap(), "fe80::1/128".parse().unwrap()]);
        let many = "nameserver 10.0.0.1\n".repeat(40);
        assert_eq!(Env::default().with_resolv_conf(many.as_bytes()).resolvers.len(), RESOLVERS);
    }

    #[test]
    fn passwd_gives_homes() {
        let env = Env::from_passwd(
            b"root:x:0:0:root:/root:/bin/bash\nsys:x:3:3:sys:/dev:/usr/sbin/nologin\nu:x:1000:1000::/home/u/:/bin/sh\n\
              v:x:1001:1001::/home/u:/bin/sh\nbad\nw:x:1:1:::\nrel:x:5:5::home/x:\ndots:x:6:6::/home/../x:\n",
        );
        assert_eq!(env.homes, [b"/root".to_vec(), b"/home/u".to_vec()]);
        assert_eq!(Env::from_passwd(b"root:x:0:0::/:/bin/sh").homes, [b"".to_vec()]);
        assert_eq!(Env::from_passwd(b"\xff\n::::\n:").homes, Vec::<Vec<u8>>::new());
    }
}
