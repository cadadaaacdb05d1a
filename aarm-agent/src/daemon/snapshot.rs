//! What the daemon must remember across its own restarts, while the kernel goes on deciding.
//!
//! The kernel keeps sessions and tables; names, intents and rule ids are the daemon's. They are kept in one
//! file, private to root, replaced as a whole:
//!
//! ```text
//! magic "AARMSNAP" | version u32 | length u32 | crc32 of the payload u32 | payload (bincode)
//! ```
//! All integers little-endian. A file that is not exactly that is refused; the daemon then starts with what
//! the kernel itself knows, and says so in the log. Nothing in it is ever signed or sent anywhere.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};

/// Largest payload, in bytes. A thousand sessions with the longest texts fit.
pub const SNAPSHOT_MAX: usize = 32 << 20;
/// Version of the payload.
pub const SNAPSHOT_VERSION: u32 = 6;
const MAGIC: &[u8; 8] = b"AARMSNAP";
const HEADER: usize = 20;
const FILE: &str = "snapshot";
const NEXT: &str = "snapshot.new";
/// Bytes reserved for the next snapshot at least.
const RESERVED_MIN: u64 = 64 << 10;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else can write the file.
    #[error("{0} can be written by others than the user who runs aarm-agent")]
    Owner(PathBuf),
    /// The bytes are not a snapshot.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not add up.
        what: &'static str,
    },
    /// Another version wrote it.
    #[error("{path} has version {found}, this aarm-agent reads {SNAPSHOT_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// There is more state than [`SNAPSHOT_MAX`].
    #[error("the daemon's state is over {SNAPSHOT_MAX} bytes")]
    TooLarge,
}

/// The state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    /// Boot it belongs to (`/proc/sys/kernel/random/boot_id`): kernel state does not outlive it.
    pub boot_id: String,
    /// The daemon stopped in order: every event it took from the ring has its receipt.
    pub clean: bool,
    /// First number not used for a compilation yet.
    pub next_generation: u32,
    /// Events of each CPU that had been read, and so are in the sessions' counts. Their receipts may not be durable.
    pub read: Vec<Numbers>,
    /// Sessions alive, and those whose end may not be durable.
    pub sessions: Vec<SessionRecord>,
    /// Receipts of no event that may not be durable.
    pub untold: Vec<Untold>,
    /// Compilations in the kernel.
    pub policies: Vec<PolicyRecord>,
    /// Names of labels, by bit.
    pub labels: Vec<String>,
    /// Names of `subject`'s patterns of programs, by bit.
    pub patterns: Vec<String>,
    /// What waits for an answer: `holds::Waiting` as JSON.
    pub holds: Vec<Vec<u8>>,
}

/// Numbers of one CPU's events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Numbers {
    /// All below.
    pub next: u64,
    /// And these.
    pub above: Vec<u64>,
}

impl Numbers {
    /// Whether a number is among them.
    #[inline]
    pub fn contains(&self, n: u64) -> bool {
        n < self.next || self.above.contains(&n)
    }
}

/// An encoded receipt, and what is known of it without parsing it: see `batch::Entry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Untold {
    /// User.
    pub owner: u32,
    /// Session, or 0.
    pub session: u64,
    /// Boot time, in nanoseconds.
    pub time_ns: u64,
    /// The receipt.
    pub bytes: Vec<u8>,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SessionRecord {
    /// Kernel session id.
    pub id: u64,
    /// UUID.
    pub uuid: [u8; 16],
    /// Generation of its policy.
    pub generation: u32,
    /// Begun by an agent selector rather than `aarm run`.
    pub agent: bool,
    /// Intent.
    pub intent: Option<String>,
    /// Human.
    pub human: Option<String>,
    /// Real user id.
    pub uid: u32,
    /// First process.
    pub pid: u32,
    /// Its program.
    pub exe: String,
    /// Unix time of its beginning, in nanoseconds.
    pub started_ns: u64,
    /// Actions by `Decision as u8`, audited ones last.
    pub counts: [u64; 8],
    /// Refused actions that receipts tell of already.
    pub refused: u64,
}

/// One compilation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PolicyRecord {
    /// Kernel policy slot.
    pub slot: u32,
    /// Its number.
    pub generation: u32,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Hash.
    pub hash: String,
    /// Audit mode.
    pub audit: bool,
    /// File, `-` for one that came with a session.
    pub file: String,
    /// SHA-256 of its table, see `policies::Loaded`.
    pub inputs: [u8; 32],
    /// New sessions do not get it any more.
    pub retired: bool,
    /// What it says of waiting: `holds::PolicyTerms` as JSON.
    pub terms: Vec<u8>,
    /// What its receipts do not show: `redact::Classes`.
    pub redact: u8,
    /// Agent selectors.
    pub agents: u32,
    /// Rule ids and reasons by the kernel's index.
    pub rules: Vec<(String, Option<String>, Option<String>)>,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<SNAPSHOT_MAX>()
}

/// This boot's id.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Snapshot {
    /// Whether an event had been read.
    #[inline]
    pub fn has_read(&self, cpu: u32, n: u64) -> bool {
        self.read.get(cpu as usize).is_some_and(|numbers| numbers.contains(n))
    }

    /// The file's content.
    pub fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        let payload = bincode::encode_to_vec(self, config()).map_err(|_| SnapshotError::TooLarge)?;
        if payload.len() > SNAPSHOT_MAX {
            return Err(SnapshotError::TooLarge);
        }
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        Ok(bytes)
    }

    /// Reads a file's content.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self, SnapshotError> {
        let damaged = |what| SnapshotError::Damaged { path: path.to_path_buf(), what };
        let (header, payload) = bytes.split_at_checked(HEADER).ok_or_else(|| damaged("it has no header"))?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        if &header[..8] != MAGIC {
            return Err(damaged("it does not start with its magic number"));
        }
        if word(8) != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { path: path.to_path_buf(), found: word(8) });
        }
        if word(12) as usize != payload.len() || payload.len() > SNAPSHOT_MAX {
            return Err(damaged("its length is not the one it states"));
        }
        if word(16) != crc32fast::hash(payload) {
            return Err(damaged("its checksum does not match"));
        }
        match bincode::decode_from_slice(payload, config()) {
            Ok((snapshot, used)) if used == payload.len() => Ok(snapshot),
            Ok(_) => Err(damaged("bytes follow its content")),
            Err(_) => Err(damaged("its content does not decode")),
        }
    }

    /// Reads the snapshot in `dir`; `None` if there is none.
    pub fn load(dir: &Path) -> Result<Option<Self>, SnapshotError> {
        let path = dir.join(FILE);
        let io = |source| SnapshotError::Io { path: path.clone(), source };
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let meta = file.metadata().map_err(io)?;
        // SAFETY: geteuid has no preconditions.
        if meta.uid() != unsafe { libc::geteuid() } || meta.mode() & 0o022 != 0 {
            return Err(SnapshotError::Owner(path));
        }
        let mut bytes = Vec::new();
        file.take((HEADER + SNAPSHOT_MAX) as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        Self::decode(&path, &bytes).map(Some)
    }

    /// Replaces the snapshot in `dir`, durably.
    pub fn store(&self, dir: &Path) -> Result<(), SnapshotError> {
        store_bytes(dir, &self.encode()?)
    }
}

/// Makes the state directory and checks that it can be written.
pub fn prepare(dir: &Path) -> Result<(), SnapshotError> {
    let io = |source| SnapshotError::Io { path: dir.to_path_buf(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let meta = std::fs::symlink_metadata(dir).map_err(io)?;
    // SAFETY: geteuid has no preconditions.
    if !meta.is_dir() || meta.uid() != unsafe { libc::geteuid() } || meta.mode() & 0o022 != 0 {
        return Err(SnapshotError::Owner(dir.to_path_buf()));
    }
    let probe = dir.join("probe");
    File::create(&probe).map_err(io)?;
    std::fs::remove_file(&probe).map_err(io)
}

/// Replaces the snapshot in `dir` by encoded bytes: temporary file, sync, rename, sync of the directory. The temporary
/// file of the next time has its room already, so that this works on a full disk.
pub fn store_bytes(dir: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
    let path = dir.join(FILE);
    let next = dir.join(NEXT);
    let io = |source| SnapshotError::Io { path: path.clone(), source };
    let mut file = temporary(&next).map_err(io)?;
    let done = file.write_all(bytes).and_then(|()| file.set_len(bytes.len() as u64));
    done.and_then(|()| file.sync_all()).map_err(io)?;
    std::fs::rename(&next, &path).map_err(io)?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(io)?;
    // Without room now, the next time asks again.
    if let Ok(file) = temporary(&next) {
        let room = RESERVED_MIN.max(2 * bytes.len() as u64);
        // SAFETY: a valid descriptor.
        unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, room as libc::off_t) };
    }
    Ok(())
}

/// Opens the temporary file: the one with its room reserved, if that is ours alone.
fn temporary(next: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    if let Ok(file) = options.open(next) {
        let meta = file.metadata()?;
        // SAFETY: geteuid has no preconditions.
        let ours = meta.uid() == unsafe { libc::geteuid() } && meta.mode() & 0o077 == 0;
        if meta.is_file() && meta.nlink() == 1 && ours {
            return Ok(file);
        }
    }
    match std::fs::remove_file(next) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    options.create_new(true).open(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Snapshot {
        Snapshot {
            boot_id: "b".into(),
            clean: true,
            next_generation: 7,
            read: vec![Numbers { next: 1, above: vec![3] }],
            untold: vec![Untold { session: 9, bytes: b"{}".to_vec(), ..Untold::default() }],
            sessions: vec![SessionRecord {
                id: 1 << 32 | 5,
                uuid: [7; 16],
                intent: Some("fix the build".into()),
                ..SessionRecord::default()
            }],
            labels: vec!["SECRET".into()],
            patterns: vec!["**/npm".into()],
            holds: vec![b"{}".to_vec()],
            policies: vec![PolicyRecord {
                slot: 1,
                rules: vec![
                    ("no-keys".into(), Some("why".into()), None),
                    ("x".into(), None, Some("127.0.0.1:1".into())),
                ],
                ..PolicyRecord::default()
            }],
        }
    }

    #[test]
    fn it_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Snapshot::load(dir.path()).unwrap(), None);
        for _ in 0..2 {
            sample().store(dir.path()).unwrap();
            assert_eq!(Snapshot::load(dir.path()).unwrap(), Some(sample()));
        }
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_next_one_has_its_room_already() {
        let dir = tempfile::tempdir().unwrap();
        let next = dir.path().join(NEXT);
        std::os::unix::fs::symlink("/dev/null", &next).unwrap();
        sample().store(dir.path()).unwrap();
        assert_eq!(Snapshot::load(dir.path()).unwrap(), Some(sample()));
        let reserved = std::fs::symlink_metadata(&next).unwrap();
        assert!(reserved.is_file() && reserved.blocks() * 512 >= RESERVED_MIN);
        sample().store(dir.path()).unwrap();
        let kept = std::fs::metadata(dir.path().join(FILE)).unwrap();
        assert_eq!(kept.ino(), reserved.ino(), "the reserved file became the snapshot");
        assert_eq!(Snapshot::load(dir.path()).unwrap(), Some(sample()));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let bytes = sample().encode().unwrap();
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                assert!(Snapshot::decode(Path::new("s"), &bad).is_err(), "byte {i} bit {bit}");
            }
            assert!(Snapshot::decode(Path::new("s"), &bytes[..i]).is_err());
        }
        let mut long = bytes;
        long.push(0);
        assert!(Snapshot::decode(Path::new("s"), &long).is_err());
    }

    #[test]
    fn a_length_bomb_is_refused() {
        // A vector that claims 2^60 elements, with a valid checksum around it.
        let payload = [1, b'b', 1, 7, 253, 0, 0, 0, 0, 0, 0, 0, 16];
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        assert!(matches!(Snapshot::decode(Path::new("s"), &bytes), Err(SnapshotError::Damaged { .. })));
    }

    #[test]
    fn a_file_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        sample().store(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o622)).unwrap();
        assert!(matches!(Snapshot::load(dir.path()), Err(SnapshotError::Owner(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = Vec::new();
            bytes.extend_from_slice(MAGIC);
            bytes.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
            bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            bytes.extend_from_slice(&payload);
            let _ = Snapshot::decode(Path::new("s"), &bytes);
            let _ = Snapshot::decode(Path::new("s"), &payload);
        }
    }
}
