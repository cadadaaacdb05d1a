//! System calls whose arguments another one rewrites while the kernel reads them.
//!
//! Each technique does one thing many times, looks each time at what has really become of it, and prints how often that was `right` (the
//! first of two values), `wrong` (anything else), `refused`, and whether it came to `nothing` for other reasons: a value read
//! while it changed is neither of the two, and may name nothing.

use std::ffi::CString;
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::actor::{check, on_paths, symlink};

/// Where it happens.
pub const DIR: &str = "/tmp/race";
/// Where to: the first may be, the second not.
pub const ADDRESSES: [([u8; 4], u16); 2] = [([127, 0, 0, 1], 4101), ([127, 0, 0, 2], 4102)];
/// Words that are asked of a program.
pub const WORDS: [&str; 2] = ["aaaaaaa", "bbbbbbb"];

/// Memory that all processes made from here on share.
struct Shared(*mut AtomicU64);

// SAFETY: it is atomic, and never unmapped.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Result<Self, i32> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a mapping of our own, at the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED { Err(libc::ENOMEM) } else { Ok(Self(at.cast())) }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: within the page.
        unsafe { &*self.0.add(at % 512) }
    }

    fn text(&self, text: &str) {
        for (at, bytes) in text.as_bytes().chunks(8).enumerate() {
            self.word(at).store(packed(bytes), Ordering::Relaxed);
        }
    }
}

fn packed(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

/// Rewrites for ever, out of step with whoever reads.
fn flip(word: &AtomicU64, values: [u64; 2]) -> ! {
    for n in 0u32.. {
        for (value, pause) in values.into_iter().zip([n * 7 % 61, n * 13 % 59]) {
            word.store(value, Ordering::Relaxed);
            (0..pause).for_each(|_| std::hint::spin_loop());
        }
    }
    unreachable!()
}

/// Who rewrites.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// A thread beside.
    Thread,
    /// A process, which goes on while this one is stopped.
    Process,
}

/// Rewrites the `at`th word, or does what it is told, while `body` runs.
fn against<T>(who: Who, rewrite: impl Fn() + Send + 'static, body: impl FnOnce() -> T) -> Result<T, i32> {
    if who == Who::Thread {
        // Ends with the process.
        std::thread::spawn(rewrite);
        return Ok(body());
    }
    // SAFETY: nothing else runs in this process yet; the child ends here.
    let pid = check(unsafe { libc::fork() }.into())?;
    if pid == 0 {
        // SAFETY: numbers only. It must not outlive this one.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        rewrite();
        std::process::exit(0);
    }
    let done = body();
    // SAFETY: a child of ours.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    Ok(done)
}

/// What became of all tries.
#[derive(Default)]
struct Became {
    right: u64,
    wrong: u64,
    refused: u64,
    nothing: u64,
}

impl Became {
    /// Takes in a try: whether it was right, or its errno.
    fn take(&mut self, became: Result<bool, i32>) -> Result<(), i32> {
        match became {
            Ok(true) => self.right += 1,
            Ok(false) => self.wrong += 1,
            Err(libc::EPERM) => self.refused += 1,
            // No room for its event: a little later again.
            Err(libc::EAGAIN) => {
                self.nothing += 1;
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            Err(libc::ENOENT) => self.nothing += 1,
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn tell(&self) {
        println!("{} {} {} {}", self.right, self.wrong, self.refused, self.nothing);
    }
}

fn times(tries: &str, mut one: impl FnMut() -> Result<bool, i32>) -> Result<i32, i32> {
    let (mut became, tries): (_, u64) = (Became::default(), tries.parse().map_err(|_| libc::EINVAL)?);
    for _ in 0..tries {
        became.take(one())?;
    }
    became.tell();
    Ok(0)
}

fn errno(e: std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// Connects, and asks the socket where to.
fn connects(who: Who, tries: &str) -> Result<i32, i32> {
    let shared: &'static Shared = Box::leak(Box::new(Shared::new()?));
    let values = ADDRESSES.map(|(ip, port)| {
        let [p, q] = port.to_be_bytes();
        let [f, g] = (libc::AF_INET as u16).to_ne_bytes();
        u64::from_ne_bytes([f, g, p, q, ip[0], ip[1], ip[2], ip[3]])
    });
    shared.word(0).store(values[0], Ordering::Relaxed);
    let right = std::net::SocketAddr::from(ADDRESSES[0]);
    let one = || {
        // SAFETY: numbers only; what is opened is owned at once.
        let socket = unsafe {
            UdpSocket::from_raw_fd(check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).into())?)
        };
        // SAFETY: a page, of which an address is the beginning.
        check(unsafe { libc::connect(socket.as_raw_fd(), shared.0.cast(), 16) }.into())?;
        Ok(socket.peer_addr().map_err(errno)? == right)
    };
    against(who, move || flip(shared.word(0), values), || times(tries, one))?
}

/// Opens a path, and reads what is there.
fn opens(who: Who, tries: &str) -> Result<i32, i32> {
    let shared: &'static Shared = Box::leak(Box::new(Shared::new()?));
    // The last word is rewritten.
    let path = format!("{:/<1$}", format!("{DIR}/"), (DIR.len() + 1).next_multiple_of(8));
    shared.text(&path);
    let last = path.len() / 8;
    let values = WORDS.map(|word| packed(word.as_bytes()));
    shared.word(last).store(values[0], Ordering::Relaxed);
    against(who, move || flip(shared.word(last), values), || times(tries, || read(shared.0.cast())))?
}

/// Whether the file at a path is the first of the two.
fn read(path: *const libc::c_char) -> Result<bool, i32> {
    // SAFETY: the path ends in NUL, whatever is rewritten of it; what is opened is owned at once.
    let mut file = unsafe {
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY);
        std::fs::File::from_raw_fd(check(fd)?)
    };
    let mut content = String::new();
    file.read_to_string(&mut content).map_err(errno)?;
    Ok(content == WORDS[0])
}

/// Opens a link that leads to the one and to the other.
fn links(tries: &str) -> Result<i32, i32> {
    let link = format!("{DIR}/link");
    symlink(WORDS[0], &link)?;
    let path = CString::new(link.clone()).map_err(|_| libc::EINVAL)?;
    let rewrite = move || {
        for n in 0usize.. {
            let next = format!("{DIR}/next");
            // Should there be no room for its event, the next one comes.
            let _ = symlink(WORDS[n % 2], &next).and_then(|_| on_paths(libc::SYS_renameat2, &next, &link, 0));
            let _ = std::fs::remove_file(&next);
        }
    };
    against(Who::Process, rewrite, || times(tries, || read(path.as_ptr())))?
}

/// Runs a program that says its words, of which one is rewritten; prints what it says. `how`: `same`, both words have one length; `cut`, of the
/// one the other is cut into several.
fn execs(how: &str, tool: &str, tries: &str) -> Result<i32, i32> {
    let shared: &'static Shared = Box::leak(Box::new(Shared::new()?));
    let values = match how {
        "same" => WORDS.map(|word| packed(word.as_bytes())),
        "cut" => [packed(b"aaaaaaa"), packed(b"b\0c\0d\0e")],
        _ => return Err(libc::EINVAL),
    };
    shared.word(0).store(values[0], Ordering::Relaxed);
    let c = |text: &str| CString::new(text).map_err(|_| libc::EINVAL);
    let fixed = [c(tool)?, c("actor")?, c("say")?, c("last")?];
    let mut argv: Vec<*mut libc::c_char> = fixed.iter().map(|w| w.as_ptr().cast_mut()).collect();
    argv.insert(3, shared.0.cast());
    argv.push(std::ptr::null_mut());
    let one = || {
        let (mut pipe, mut pid) = ([0; 2], 0);
        // SAFETY: arrays that end in NULL, and strings that end in NUL whatever is rewritten of them. The child shares this memory until
        // it has its own image.
        let mut said = unsafe {
            check(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC).into())?;
            let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
            libc::posix_spawn_file_actions_init(&raw mut actions);
            libc::posix_spawn_file_actions_adddup2(&raw mut actions, pipe[1], 1);
            let env = [std::ptr::null_mut()];
            let (none, argv, env) = (std::ptr::null(), argv.as_ptr(), env.as_ptr());
            let failed =
                libc::posix_spawn(&raw mut pid, fixed[0].as_ptr(), &raw const actions, none, argv, env);
            libc::posix_spawn_file_actions_destroy(&raw mut actions);
            libc::close(pipe[1]);
            let said = std::fs::File::from_raw_fd(pipe[0]);
            if failed != 0 {
                return Err(failed);
            }
            said
        };
        let (mut text, mut status) = (String::new(), 0);
        said.read_to_string(&mut text).map_err(errno)?;
        // SAFETY: a child of ours.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if text.is_empty() {
            return if libc::WIFSIGNALED(status) { Err(libc::EPERM) } else { Err(libc::EIO) };
        }
        print!("{text}");
        Ok(text.contains(WORDS[0]))
    };
    against(Who::Thread, move || flip(shared.word(0), values), || times(tries, one))?
}

/// Says its words.
pub fn say() -> Result<i32, i32> {
    let words: Vec<String> = std::env::args().collect();
    println!("said {}", serde_json::json!(words));
    Ok(0)
}

/// One technique.
pub fn race(args: &[String]) -> Result<i32, i32> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["connects", tries] => connects(Who::Thread, tries),
        ["connects-held", tries] => connects(Who::Process, tries),
        ["opens", tries] => opens(Who::Thread, tries),
        ["opens-held", tries] => opens(Who::Process, tries),
        ["links", tries] => links(tries),
        ["execs", how, tool, tries] => execs(how, tool, tries),
        _ => Err(libc::EINVAL),
    }
}
