//! Reaching out and being reachable: by address, port, protocol, family, and the object behind a name.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, policy};

pub const CASES: &[Case] = &[
    ("only_the_allowed_address_and_port_is_reached", tcp),
    ("ipv6_and_mapped_addresses_are_no_way_around", v6),
    ("udp_is_decided_connected_or_not", udp),
    ("binding_and_listening_are_decided", bind),
    ("socket_families_are_decided", families),
    ("unix_sockets_are_decided_by_their_object", unix),
    ("abstract_unix_names_are_recorded", abstract_names),
];

const RULES: &str = "
- { id: local-web, match: { operation: [connect, send], cidr: ['127.0.0.1/32', '::1/128'], port: 8080 }, decision: ALLOW, priority: 5 }
- { id: no-egress, match: { operation: [connect, send] }, decision: DENY }
- { id: no-low-ports, match: { operation: [bind, listen], port: '1-1023' }, decision: DENY }
- { id: no-raw, match: { operation: socket, type: raw }, decision: DENY }
- { id: no-docker, match: { operation: [unix_connect, unix_send], path: '/tmp/n/docker.sock' }, decision: DENY }
";

fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/n");
    std::fs::create_dir_all("/tmp/n")?;
    Host::start(&policy(RULES))
}

fn tcp() -> Result<()> {
    let h = host()?;
    let _server = TcpListener::bind("127.0.0.1:8080")?;
    h.act(&["tcp", "127.0.0.1:8080"])?.allowed("connect", "127.0.0.1")?;
    h.act(&["tcp", "127.0.0.1:8081"])?.refused("connect", "127.0.0.1", "no-egress")?;
    h.act(&["tcp", "127.0.0.2:8080"])?.refused("connect", "127.0.0.2", "no-egress")?;
    h.act(&["tcp", "203.0.113.9:443"])?.refused("connect", "203.0.113.9", "no-egress")?;
    h.verified()
}

fn v6() -> Result<()> {
    let h = host()?;
    let _server = TcpListener::bind("[::1]:8080")?;
    h.act(&["tcp", "[::1]:8080"])?.allowed("connect", "::1")?;
    h.act(&["tcp", "[2001:db8::1]:8080"])?.refused("connect", "2001:db8::1", "no-egress")?;
    h.act(&["tcp", "[::ffff:203.0.113.9]:8080"])?.refused("connect", "203.0.113.9", "no-egress")
}

fn udp() -> Result<()> {
    let h = host()?;
    let _server = UdpSocket::bind("127.0.0.1:8080")?;
    h.act(&["udp", "127.0.0.1:8080"])?.allowed("connect", "127.0.0.1")?;
    h.act(&["sendto", "127.0.0.1:8080"])?.allowed("send", "127.0.0.1")?;
    h.act(&["udp", "203.0.113.9:53"])?.refused("connect", "203.0.113.9", "no-egress")?;
    h.act(&["sendto", "203.0.113.9:53"])?.refused("send", "203.0.113.9", "no-egress")?;
    h.act(&["sendto", "[2001:db8::1]:53"])?.refused("send", "2001:db8::1", "no-egress")
}

fn bind() -> Result<()> {
    let h = host()?;
    h.act(&["bind", "127.0.0.1:80"])?.refused("bind", "127.0.0.1", "no-low-ports")?;
    h.act(&["bind", "127.0.0.1:8088"])?.allowed("bind", "127.0.0.1")?;
    h.act(&["listen", "127.0.0.1:8089"])?.allowed("listen", "127.0.0.1")
}

fn families() -> Result<()> {
    let h = host()?;
    h.act(&["raw"])?.refused("socket", "", "no-raw")?;
    h.act(&["packet"])?.refused("socket", "", "no-raw")
}

fn unix() -> Result<()> {
    let h = host()?;
    let _docker = UnixListener::bind("/tmp/n/docker.sock")?;
    let _other = UnixListener::bind("/tmp/n/other.sock")?;
    std::os::unix::fs::symlink("/tmp/n/docker.sock", "/tmp/n/innocent.sock")?;
    h.act(&["unix", "/tmp/n/docker.sock"])?.refused("unix_connect", "/tmp/n/docker.sock", "no-docker")?;
    h.act(&["unix", "/tmp/n/innocent.sock"])?.refused("unix_connect", "/tmp/n/docker.sock", "no-docker")?;
    h.act(&["unix", "/tmp/n/other.sock"])?.allowed("unix_connect", "/tmp/n/other.sock")?;
    std::fs::remove_file("/tmp/n/docker.sock")?;
    let _datagram = UnixDatagram::bind("/tmp/n/docker.sock")?;
    h.act(&["unix-send", "/tmp/n/docker.sock"])?.refused("unix_send", "/tmp/n/docker.sock", "no-docker")
}

fn abstract_names() -> Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let h = host()?;
    let name = std::os::unix::net::SocketAddr::from_abstract_name("aarm-test")?;
    let _server = UnixListener::bind_addr(&name)?;
    let a = h.act(&["unix", "@aarm-test"])?;
    ensure!(a.decision("unix_connect", "@aarm-test").is_some_and(|d| d.0 == "ALLOW"), "{}", a.tell());
    Ok(())
}
