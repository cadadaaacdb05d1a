//! Where a redirected connection was to go, for the proxy that has it: over the unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/redirects?client=ADDRESS:PORT&proxy=ADDRESS:PORT` | [`Original`] |
//!
//! Both are as the proxy sees its connection: `client` its peer, `proxy` its own end. They are looked up in the network namespace of
//! the caller, who must be root or the user whose socket the proxy's end is.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use procfs::net::{TcpNetEntry, UdpNetEntry};
use procfs::process::Process;
use serde::{Deserialize, Serialize};

use super::server::{Answer, Api, Peer, Refusal, query};
use super::types::ErrorCode;
use crate::daemon::core::Command;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// Who has connected.
    pub client: SocketAddr,
    /// To whom.
    pub proxy: SocketAddr,
}

/// Where it was to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// The address and port that the program asked for.
    pub original: SocketAddr,
    /// The session, hexadecimal.
    pub session: String,
    /// The session; none: it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// When it was redirected, RFC 3339.
    pub time: String,
}

/// A socket as `/proc` lists it.
#[derive(Clone, Copy, Debug)]
struct Listed {
    local: SocketAddr,
    remote: SocketAddr,
    uid: u32,
    inode: u64,
}

impl From<TcpNetEntry> for Listed {
    fn from(e: TcpNetEntry) -> Self {
        Self::new(e.local_address, e.remote_address, e.uid, e.inode)
    }
}

impl From<UdpNetEntry> for Listed {
    fn from(e: UdpNetEntry) -> Self {
        Self::new(e.local_address, e.remote_address, e.uid, e.inode)
    }
}

impl Listed {
    fn new(local: SocketAddr, remote: SocketAddr, uid: u32, inode: u64) -> Self {
        Self { local: plain(local), remote: plain(remote), uid, inode }
    }
}

/// A mapped IPv4 address as the IPv4 address it is.
fn plain(a: SocketAddr) -> SocketAddr {
    SocketAddr::new(a.ip().to_canonical(), a.port())
}

/// The sockets of a process's network namespace.
fn sockets(pid: u32) -> procfs::ProcResult<Vec<Listed>> {
    let process = Process::new(pid as i32)?;
    let mut all: Vec<Listed> = Vec::new();
    all.extend(process.tcp()?.into_iter().map(Listed::from));
    all.extend(process.udp()?.into_iter().map(Listed::from));
    // A kernel may be without IPv6.
    all.extend(process.tcp6().unwrap_or_default().into_iter().map(Listed::from));
    all.extend(process.udp6().unwrap_or_default().into_iter().map(Listed::from));
    Ok(all)
}

/// The inode of the client's end, if the proxy's is the caller's.
fn client_inode(all: &[Listed], ends: Ends, uid: u32) -> Option<u64> {
    let (client, proxy) = (plain(ends.client), plain(ends.proxy));
    let end = |local, remote| all.iter().find(move |s| s.local == local && s.remote == remote);
    let own = uid == 0 || end(proxy, client).is_some_and(|s| s.uid == uid);
    end(client, proxy).filter(|_| own).map(|s| s.inode)
}

/// Handler.
pub async fn original(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    RawQuery(raw): RawQuery,
) -> Answer<Json<Original>> {
    let ends: Ends = query(raw)?;
    let (pid, uid) = (peer.pid(), peer.uid);
    let inode = tokio::task::spawn_blocking(move || sockets(pid).map(|all| client_inode(&all, ends, uid)))
        .await
        .map_err(Refusal::internal)?
        .map_err(Refusal::internal)?;
    let unknown = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NotFound,
            format!("no connection of {} to {} is known that was redirected", ends.client, ends.proxy),
            Some("ask while the connection is open, from the network namespace that it is in"),
        )
    };
    let inode = inode.ok_or_else(unknown)?;
    let found = api.ask(|a| Command::Redirected(inode, a)).await?;
    match found {
        // The number may have been another socket's before.
        Some((original, target)) if target == plain(ends.proxy) => Ok(Json(original)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_other_end_is_told() {
        let a = |text: &str| text.parse::<SocketAddr>().unwrap();
        let all = [
            Listed::new(a("[::ffff:127.0.0.1]:4000"), a("[::ffff:127.0.0.1]:3128"), 1000, 7),
            Listed::new(a("127.0.0.1:3128"), a("127.0.0.1:4000"), 13, 8),
            Listed::new(a("127.0.0.1:4001"), a("127.0.0.1:3128"), 1000, 9),
        ];
        let ends = |client| Ends { client: a(client), proxy: a("127.0.0.1:3128") };
        assert_eq!(client_inode(&all, ends("127.0.0.1:4000"), 13), Some(7));
        assert_eq!(client_inode(&all, ends("127.0.0.1:4000"), 0), Some(7));
        assert_eq!(client_inode(&all, ends("127.0.0.1:4000"), 1000), None);
        assert_eq!(client_inode(&all, ends("127.0.0.1:4001"), 13), None);
        assert_eq!(client_inode(&all, ends("127.0.0.1:4002"), 0), None);
    }
}
