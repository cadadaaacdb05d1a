//! An action: what a process is about to do, as the evaluator and the table interpreter see it.

use aarm_common::Operation;
use serde::{Serialize, Serializer};
use std::net::{IpAddr, Ipv4Addr};

use crate::names;
use crate::program::{Sha256, Told};

/// One action. Fields that the operation does not have are ignored by both evaluators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What is done.
    pub operation: Operation,
    /// The object: an absolute path, or `@name` for an abstract unix address, which no glob matches. For
    /// `rename` and `link` the source.
    pub path: Option<Vec<u8>>,
    /// Further paths of the same object: other mounts of it, hard links. Each is as good as `path`.
    pub names: Vec<Vec<u8>>,
    /// The target of `rename` and `link`.
    pub path2: Option<Vec<u8>>,
    /// Further paths of the target, if it exists, and of the place it is made in: each is as good as `path2`.
    pub names2: Vec<Vec<u8>>,
    /// Of an exec, the arguments after the program's name. `None`: not known.
    pub args: Option<Vec<Vec<u8>>>,
    /// Of an exec, what else is known of the program. `None`: nothing.
    pub told: Option<Told>,
    /// The acting program. For the exec family rules ask for the program that would run, which is `path`.
    pub exe: Option<Vec<u8>>,
    /// The acting user.
    pub uid: u32,
    /// Programs of its lineage within the session: of the processes above it, and what it ran itself before. `None`: not
    /// known.
    pub ancestors: Option<Vec<Vec<u8>>>,
    /// Its cgroup, by the path from the root of the unified hierarchy. `None`: not known.
    pub container: Option<Vec<u8>>,
    /// The address, for `connect`, `send`, `bind`, `listen` and `accept`; none where the address is not IP.
    pub addr: Option<IpAddr>,
    /// Names by which the address is known, for `connect` and `send`.
    pub hosts: Vec<String>,
    /// The port that goes with the address.
    pub port: Option<u16>,
    /// The IP protocol of the socket, `IPPROTO_*`; 0 where it has none.
    pub protocol: u8,
    /// The address family, `AF_*`.
    pub family: u16,
    /// The socket type, `SOCK_*`.
    pub sock_type: u16,
    /// An `open_write` that also reads.
    pub also_read: bool,
    /// An open that also truncates, for writing or (`O_RDONLY | O_TRUNC`) for reading only.
    pub truncates: bool,
    /// A `rename` that exchanges the two.
    pub exchange: bool,
    /// The object is a directory; of a `rename` that exchanges, either of the two.
    pub directory: bool,
    /// An open of memory or of a whole disk, past the files on it.
    pub raw_memory: bool,
    /// An `open_write` of a kernel parameter.
    pub sysctl: bool,
    /// A `send` that also connects (TCP fast open).
    pub fast_open: bool,
    /// A `receive_fd` of a descriptor that can write.
    pub writes: bool,
}

/// User id of an action that does not give one.
pub(crate) const DEFAULT_UID: u32 = 1000;

impl Action {
    /// An action of this operation, with nothing else to say: no object, no arguments, no program and none before it, user 1000,
    /// the root cgroup.
    pub fn new(operation: Operation) -> Self {
        Action {
            operation,
            path: None,
            names: Vec::new(),
            path2: None,
            names2: Vec::new(),
            args: Some(Vec::new()),
            told: Some(Told::default()),
            exe: None,
            uid: DEFAULT_UID,
            ancestors: Some(Vec::new()),
            container: Some(b"/".into()),
            addr: None,
            hosts: Vec::new(),
            port: None,
            protocol: 0,
            family: 0,
            sock_type: 0,
            also_read: false,
            truncates: false,
            exchange: false,
            directory: false,
            raw_memory: false,
            sysctl: false,
            fast_open: false,
            writes: false,
        }
    }

    /// An action on a path.
    pub fn on_path(operation: Operation, path: impl Into<Vec<u8>>) -> Self {
        Action { path: Some(path.into()), ..Self::new(operation) }
    }

    /// Whether rules on something below the object are asked as well: names of what they protect change when a
    /// directory is moved or mounted over.
    pub(crate) fn moves_tree(&self) -> bool {
        self.operation == Operation::Rename && self.directory || self.operation == Operation::Mount
    }

    /// An action on an IP address over TCP or another protocol. The address family and the socket type
    /// follow, as the kernel reports them.
    pub fn on_address(operation: Operation, addr: IpAddr, port: u16, protocol: u8) -> Self {
        let addr = canonical(addr);
        Action {
            addr: Some(addr),
            port: Some(port),
            protocol,
            family: family_of(addr),
            sock_type: type_of(protocol),
            ..Self::new(operation)
        }
    }
}

/// An IPv4-mapped IPv6 address as the IPv4 address it is.
pub(crate) fn canonical(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(addr, |v4: Ipv4Addr| IpAddr::V4(v4)),
        IpAddr::V4(_) => addr,
    }
}

/// The address family of an address.
pub(crate) fn family_of(addr: IpAddr) -> u16 {
    match canonical(addr) {
        IpAddr::V4(_) => names::AF_INET,
        IpAddr::V6(_) => names::AF_INET6,
    }
}

/// The socket type that usually goes with a protocol.
pub(crate) fn type_of(protocol: u8) -> u16 {
    match protocol {
        names::TCP | 132 => names::SOCK_STREAM,
        names::UDP | 136 => names::SOCK_DGRAM,
        _ => 3,
    }
}

/// Whether actions of an operation have a field of that name.
pub(crate) fn op_has(op: Operation, field: &str) -> bool {
    match field {
        "path" | "names" | "directory" => op.has_path(),
        "path2" | "names2" => matches!(op, Operation::Rename | Operation::Link),
        "addr" | "port" => op.has_address(),
        "host" => matches!(op, Operation::Connect | Operation::Send),
        "protocol" | "family" | "type" => op.has_socket(),
        "args" | "program" => op == Operation::Exec,
        "also_read" | "sysctl" => op == Operation::OpenWrite,
        "truncates" | "raw_memory" => matches!(op, Operation::OpenRead | Operation::OpenWrite),
        "exchange" => op == Operation::Rename,
        "fast_open" => op == Operation::Send,
        "writes" => op == Operation::ReceiveFd,
        _ => true,
    }
}

impl Serialize for Action {
    /// The form that [`Action::from_json`] reads: only what the operation has.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // What is not said of the actor is known to be nothing; what is not known is said to be null.
        fn is_none_yet(ancestors: &Option<Vec<String>>) -> bool {
            ancestors.as_ref().is_some_and(Vec::is_empty)
        }
        fn is_root(container: &Option<String>) -> bool {
            container.as_deref() == Some("/")
        }
        fn is_nothing(program: &Option<Program>) -> bool {
            *program == Some(Program::default())
        }
        #[derive(Serialize, Default, PartialEq)]
        struct Program {
            #[serde(skip_serializing_if = "Vec::is_empty")]
            env: Vec<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            hash: Option<Sha256>,
            #[serde(skip_serializing_if = "Option::is_none")]
            package: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            script: Option<String>,
        }
        #[derive(Serialize)]
        struct Fields {
            operation: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            path: Option<String>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            names: Vec<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            path2: Option<String>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            names2: Vec<String>,
            #[serde(skip_serializing_if = "is_none_yet")]
            args: Option<Vec<String>>,
            #[serde(skip_serializing_if = "is_nothing")]
            program: Option<Program>,
            #[serde(skip_serializing_if = "Option::is_none")]
            exe: Option<String>,
            uid: u32,
            #[serde(skip_serializing_if = "is_none_yet")]
            ancestors: Option<Vec<String>>,
            #[serde(skip_serializing_if = "is_root")]
            container: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            addr: Option<IpAddr>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            host: Vec<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            port: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            protocol: Option<u8>,
            #[serde(skip_serializing_if = "Option::is_none")]
            family: Option<u16>,
            #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
            sock_type: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            also_read: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            truncates: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            exchange: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            directory: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            raw_memory: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            sysctl: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            fast_open: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            writes: Option<bool>,
        }
        // Bytes that are not UTF-8 are shown as replacement characters.
        let text = |path: &Option<Vec<u8>>| path.as_deref().map(|p| String::from_utf8_lossy(p).into_owned());
        let op = self.operation;
        // Flags that are rarely set are left out where they are not.
        let rare = |flag: &'static str, value: bool| (value && op_has(op, flag)).then_some(true);
        let texts = |names: &[Vec<u8>], field: &str| -> Vec<String> {
            let names: &[Vec<u8>] = if op_has(op, field) { names } else { &[] };
            names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        };
        let socket = op.has_socket();
        Fields {
            operation: op.name(),
            path: text(&self.path).filter(|_| op.has_path()),
            names: texts(&self.names, "names"),
            names2: texts(&self.names2, "names2"),
            args: match op_has(op, "args") {
                true => self.args.as_ref().map(|all| texts(all, "args")),
                false => Some(Vec::new()),
            },
            program: match op_has(op, "program") {
                true => self.told.as_ref().map(|told| Program {
                    env: told.env.iter().map(|v| String::from_utf8_lossy(v).into_owned()).collect(),
                    hash: told.hash,
                    package: told.package.clone(),
                    script: text(&told.script),
                }),
                false => Some(Program::default()),
            },
            path2: text(&self.path2).filter(|_| matches!(op, Operation::Rename | Operation::Link)),
            exe: text(&self.exe),
            uid: self.uid,
            ancestors: self
                .ancestors
                .as_ref()
                .map(|all| all.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()),
            container: text(&self.container),
            addr: self.addr.filter(|_| op.has_address()),
            host: if op_has(op, "host") { self.hosts.clone() } else { Vec::new() },
            port: self.port.filter(|_| op.has_address() && self.addr.is_some()),
            protocol: socket.then_some(self.protocol),
            family: socket.then_some(self.family),
            sock_type: socket.then_some(self.sock_type),
            also_read: (op == Operation::OpenWrite).then_some(self.also_read),
            truncates: match op {
                Operation::OpenWrite => Some(self.truncates),
                _ => rare("truncates", self.truncates),
            },
            exchange: (op == Operation::Rename).then_some(self.exchange),
            directory: rare("directory", self.directory),
            raw_memory: rare("raw_memory", self.raw_memory),
            sysctl: rare("sysctl", self.sysctl),
            fast_open: rare("fast_open", self.fast_open),
            writes: rare("writes", self.writes),
        }
        .serialize(serializer)
    }
}
