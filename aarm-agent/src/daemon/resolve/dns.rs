//! `dns`: by which name an address is known, where nobody has told the session one.
//!
//! Asks this host's resolvers for the address's names, and then for the addresses of those: only a name that leads back counts, because who
//! owns an address can call it what he likes. What is found is the session's as if it had asked itself, and its action is decided
//! anew. Must never: take a name for known that nobody but the address's owner vouches for.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use aarm_common::limits::{HOST_SECONDS_MAX, HOST_SECONDS_MIN};
use aarm_common::state::HostKey;
use aarm_policy::host_name;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

use super::{Answer, Found, Job};

/// Time for all of it.
const TIME: Duration = Duration::from_secs(15);
/// `ioctl_ns(2)`.
const NS_GET_USERNS: libc::Ioctl = 0xb701;
/// Names of one address that are looked at.
const NAMES: usize = 4;

/// A name that a session is to know.
#[derive(Clone, Debug)]
pub struct Learnt {
    /// The address, as the session sees it.
    pub key: HostKey,
    /// The name: lower case, without a final dot.
    pub name: String,
    /// For how long it holds.
    pub seconds: u32,
}

/// Finds it out.
pub(super) async fn resolve(job: &Job) -> Answer {
    match tokio::time::timeout(TIME, look_up(job)).await {
        Ok(answer) => answer.unwrap_or_else(Answer::failed),
        Err(_) => Answer::failed(format!("no answer within {} s", TIME.as_secs())),
    }
}

async fn look_up(job: &Job) -> Result<Answer, String> {
    let about = &job.about;
    let address = about.address.as_deref().and_then(|text| text.parse::<SocketAddr>().ok());
    let ip = address.ok_or("the action has no address")?.ip().to_canonical();
    if let Some(name) = about.hosts.first() {
        return Ok(Answer { detail: format!("{ip} is known as {name}"), ..Answer::default() });
    }
    // The thread's, which is the socket's but for one that was handed over.
    let namespace = format!("/proc/{}/task/{}/ns/net", about.pid, about.tid);
    let namespace = File::open(&namespace).map_err(|e| format!("{namespace}: {e}"))?;
    let netns = namespace.metadata().map_err(|e| e.to_string())?.ino();
    if netns != number("net")? && !(is_public(ip) && is_of_host(&namespace)?) {
        return Err("in its network namespace the address may be another host's".into());
    }
    let resolver = TokioResolver::builder_tokio().and_then(|b| b.build()).map_err(|e| e.to_string())?;
    let names = match resolver.reverse_lookup(ip).await {
        Ok(names) => names,
        Err(e) if e.is_no_records_found() => {
            return Ok(Answer { detail: format!("{ip} has no name"), ..Answer::default() });
        }
        Err(e) => return Err(e.to_string()),
    };
    let names = names.answers().iter().filter_map(|record| match &record.data {
        RData::PTR(name) => host_name(&name.to_string()),
        _ => None,
    });
    for name in names.take(NAMES) {
        // With its final dot, so that no other name is tried in its place.
        let Ok(there) = resolver.lookup_ip(format!("{name}.")).await else { continue };
        if there.iter().any(|one| one.to_canonical() == ip) {
            let seconds = there.valid_until().saturating_duration_since(Instant::now()).as_secs();
            let seconds = seconds.clamp(HOST_SECONDS_MIN.into(), HOST_SECONDS_MAX.into()) as u32;
            let detail = format!("{ip} is {name}, for {seconds} s");
            let facts = [("name".to_owned(), name.clone())].into();
            let key = HostKey { addr: words(ip), session: job.session, netns };
            let learnt = Some(Learnt { key, name, seconds });
            return Ok(Answer { found: Some(Found::Anew), detail, facts, learnt });
        }
    }
    Ok(Answer { detail: format!("{ip} has no name that leads back to it"), ..Answer::default() })
}

/// The number of a namespace of the daemon's.
fn number(kind: &str) -> Result<u64, String> {
    Ok(std::fs::metadata(format!("/proc/self/ns/{kind}")).map_err(|e| e.to_string())?.ino())
}

/// Whether a network namespace was made by who may do so on this host, as container runtimes do; others who make one can be any address
/// there.
fn is_of_host(namespace: &File) -> Result<bool, String> {
    // SAFETY: takes no argument; gives a descriptor of its own.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    if owner < 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: it was just made, and nobody else has it.
    let owner = File::from(unsafe { OwnedFd::from_raw_fd(owner) });
    Ok(owner.metadata().map_err(|e| e.to_string())?.ino() == number("user")?)
}

/// Whether an address is the same host's everywhere.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(shared || v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified())
        }
    }
}

/// An address as the kernel's key has it: in network order, IPv4 mapped.
fn words(ip: IpAddr) -> [u64; 2] {
    let bytes = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let (high, low) = bytes.split_at(8);
    [high, low].map(|half| half.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_keys_as_the_kernel_has_them() {
        assert_eq!(words("127.0.0.10".parse().unwrap()), [0, 0x0a00_007f_ffff_0000]);
        assert_eq!(words("2001:db8::1".parse().unwrap()), [0xb80d_0120, 1 << 56]);
    }

    #[test]
    fn an_address_of_ones_own_network_is_not_everybodys() {
        for ip in ["203.0.113.9", "2001:db8::1", "100.128.0.1", "172.32.0.1"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "10.1.2.3",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.168.0.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "0.0.0.0",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        // Ours was made by the host, or by who runs this test.
        assert!(is_of_host(&File::open("/proc/self/ns/net").unwrap()).is_ok());
    }
}
