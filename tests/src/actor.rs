//! Techniques: each is one attempt at one thing, by the system call itself, so that no library retries or
//! hides an errno. The exit status is the errno; 0 = it worked; 200 = wrong usage.

use std::ffi::CString;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use crate::{meddle, race, reach, resolver, storm};

/// Exit status for a technique that does not exist or lacks arguments.
const USAGE: u8 = 200;

fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// The result of a system call as errno.
pub(crate) fn check(result: libc::c_long) -> Result<i32, i32> {
    if result < 0 {
        Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    } else {
        Ok(result as i32)
    }
}

pub(crate) fn open(path: &str, flags: i32) -> Result<i32, i32> {
    // SAFETY: the path ends in NUL.
    check(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c(path).as_ptr(), flags, 0o644) })
}

/// How often this process was continued.
static CONTINUED: AtomicI32 = AtomicI32::new(0);

extern "C" fn continued(_: i32) {
    CONTINUED.fetch_add(1, Ordering::Relaxed);
}

/// Connects again and again, and says how often that was refused, and how often it was stopped for it, which it is told when it is continued.
fn calls(to: &str, times: &str) -> Result<i32, i32> {
    let times: usize = times.parse().map_err(|_| libc::EINVAL)?;
    // SAFETY: the handler only counts.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = continued as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        check(libc::sigaction(libc::SIGCONT, &action, std::ptr::null_mut()).into())?;
    }
    let mut refused = 0;
    for _ in 0..times {
        match connect(to, libc::SOCK_DGRAM) {
            Err(libc::EPERM) => refused += 1,
            Err(other) => return Err(other),
            Ok(_) => {}
        }
    }
    println!("refused {refused}\ncontinued {}", CONTINUED.load(Ordering::Relaxed));
    Ok(0)
}

/// Connects again and again in many threads at once, and says how often that was allowed and refused. Any other errno is one that a
/// program must never see.
fn hold_many(to: &str, threads: &str, times: &str) -> Result<i32, i32> {
    let (threads, times): (usize, usize) =
        (threads.parse().map_err(|_| libc::EINVAL)?, times.parse().map_err(|_| libc::EINVAL)?);
    let (mut allowed, mut refused) = (0, 0);
    let found: Vec<Vec<Result<i32, i32>>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| (0..times).map(|_| connect(to, libc::SOCK_DGRAM)).collect()))
            .collect();
        all.into_iter().map(|t| t.join().unwrap_or_default()).collect()
    });
    for outcome in found.into_iter().flatten() {
        match outcome {
            Ok(_) => allowed += 1,
            Err(libc::EPERM) => refused += 1,
            Err(other) => return Err(other),
        }
    }
    println!("allowed {allowed}\nrefused {refused}");
    Ok(0)
}

/// A system call on one path.
pub(crate) fn on_path(number: libc::c_long, path: &str, extra: [libc::c_long; 3]) -> Result<i32, i32> {
    // SAFETY: the path ends in NUL; the other arguments are numbers.
    check(unsafe {
        libc::syscall(number, libc::AT_FDCWD as libc::c_long, c(path).as_ptr(), extra[0], extra[1], extra[2])
    })
}

/// A system call on two paths.
pub(crate) fn on_paths(number: libc::c_long, from: &str, to: &str, flags: libc::c_long) -> Result<i32, i32> {
    let at = libc::AT_FDCWD as libc::c_long;
    // SAFETY: both paths end in NUL.
    check(unsafe { libc::syscall(number, at, c(from).as_ptr(), at, c(to).as_ptr(), flags) })
}

pub(crate) fn symlink(target: &str, path: &str) -> Result<i32, i32> {
    // SAFETY: both paths end in NUL.
    check(unsafe { libc::symlink(c(target).as_ptr(), c(path).as_ptr()) }.into())
}

fn socket(family: i32, kind: i32, protocol: i32) -> Result<i32, i32> {
    // SAFETY: numbers only.
    check(unsafe { libc::socket(family, kind, protocol) }.into())
}

/// A socket address in the kernel's form.
pub(crate) fn sockaddr(address: &str) -> Result<(libc::sockaddr_storage, u32), i32> {
    let address = address.to_socket_addrs().ok().and_then(|mut a| a.next()).ok_or(libc::EINVAL)?;
    // SAFETY: an all-zero sockaddr_storage is valid, and larger than either kind written into it.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let length = match address {
            SocketAddr::V4(a) => {
                let s = (&raw mut storage).cast::<libc::sockaddr_in>();
                (*s).sin_family = libc::AF_INET as u16;
                (*s).sin_port = a.port().to_be();
                (*s).sin_addr.s_addr = u32::from(*a.ip()).to_be();
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(a) => {
                let s = (&raw mut storage).cast::<libc::sockaddr_in6>();
                (*s).sin6_family = libc::AF_INET6 as u16;
                (*s).sin6_port = a.port().to_be();
                (*s).sin6_addr.s6_addr = a.ip().octets();
                size_of::<libc::sockaddr_in6>()
            }
        };
        Ok((storage, length as u32))
    }
}

fn family(address: &str) -> i32 {
    if address.starts_with('[') { libc::AF_INET6 } else { libc::AF_INET }
}

/// A unix address; a name that begins with `@` is abstract.
pub(crate) fn unix(name: &str) -> (libc::sockaddr_un, u32) {
    // SAFETY: an all-zero sockaddr_un is valid.
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    let mut bytes = name.as_bytes().to_vec();
    if bytes.first() == Some(&b'@') {
        bytes[0] = 0;
    } else {
        bytes.push(0);
    }
    for (to, from) in a.sun_path.iter_mut().zip(&bytes) {
        *to = *from as libc::c_char;
    }
    (a, 2 + bytes.len() as u32)
}

pub(crate) fn connect(address: &str, kind: i32) -> Result<i32, i32> {
    let (a, n) = sockaddr(address)?;
    let s = socket(family(address), kind, 0)?;
    // SAFETY: the address is valid for its length; the socket is ours.
    unsafe {
        let done = check(libc::connect(s, (&raw const a).cast(), n).into());
        libc::close(s);
        done
    }
}

pub(crate) fn send_to(address: &str) -> Result<i32, i32> {
    let (a, n) = sockaddr(address)?;
    let s = socket(family(address), libc::SOCK_DGRAM, 0)?;
    // SAFETY: buffer and address are valid for their lengths; the socket is ours.
    unsafe {
        let done =
            check(libc::sendto(s, b"x".as_ptr().cast(), 1, 0, (&raw const a).cast(), n) as libc::c_long);
        libc::close(s);
        done
    }
}

fn bind(address: &str, listen: bool) -> Result<i32, i32> {
    let s = socket(family(address), libc::SOCK_STREAM, 0)?;
    let (a, n) = sockaddr(address)?;
    // SAFETY: the address is valid for its length.
    check(unsafe { libc::bind(s, (&raw const a).cast(), n) }.into())?;
    // SAFETY: numbers only.
    if listen { check(unsafe { libc::listen(s, 1) }.into()) } else { Ok(0) }
}

fn unix_client(name: &str, kind: i32) -> Result<i32, i32> {
    let s = socket(libc::AF_UNIX, kind, 0)?;
    let (a, n) = unix(name);
    // SAFETY: buffer and address are valid for their lengths.
    unsafe {
        if kind == libc::SOCK_STREAM {
            check(libc::connect(s, (&raw const a).cast(), n).into())
        } else {
            check(libc::sendto(s, b"x".as_ptr().cast(), 1, 0, (&raw const a).cast(), n) as libc::c_long)
        }
    }
}

/// Opens a file, and then makes a directory; a signal that comes meanwhile opens the file once more, which is what counts.
fn read_once_more(path: &str, dir: &str) -> Result<i32, i32> {
    static PATH: AtomicPtr<libc::c_char> = AtomicPtr::new(std::ptr::null_mut());
    static ERRNO: AtomicI32 = AtomicI32::new(libc::EINTR);
    extern "C" fn again(_: libc::c_int) {
        let path = PATH.load(Ordering::Relaxed);
        // SAFETY: set before the handler is, to what lives as long as the process.
        let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY) };
        ERRNO.store(check(fd).err().unwrap_or(0), Ordering::Relaxed);
    }
    PATH.store(c(path).into_raw(), Ordering::Relaxed);
    let again: extern "C" fn(libc::c_int) = again;
    // SAFETY: the handler does nothing but a system call and atomic stores.
    unsafe { libc::signal(libc::SIGUSR1, again as libc::sighandler_t) };
    open(path, libc::O_RDONLY)?;
    on_path(libc::SYS_mkdirat, dir, [0o755, 0, 0])?;
    match ERRNO.load(Ordering::Relaxed) {
        0 => Ok(0),
        errno => Err(errno),
    }
}

fn exec(program: &str, args: &[String]) -> Result<i32, i32> {
    let words: Vec<CString> =
        std::iter::once(program).chain(args.iter().map(String::as_str)).map(c).collect();
    let mut argv: Vec<*const libc::c_char> = words.iter().map(|w| w.as_ptr()).collect();
    argv.push(std::ptr::null());
    let env = [std::ptr::null::<libc::c_char>()];
    // SAFETY: both arrays end in NULL and their strings live.
    check(unsafe { libc::execve(c(program).as_ptr(), argv.as_ptr(), env.as_ptr()) }.into())
}

/// Copies the program into a memfd and executes that.
fn exec_memfd(program: &str) -> Result<i32, i32> {
    let bytes = std::fs::read(program).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
    // SAFETY: names end in NUL, buffers are valid for their lengths.
    unsafe {
        let fd = check(libc::memfd_create(c("x").as_ptr(), 0).into())?;
        check(libc::write(fd, bytes.as_ptr().cast(), bytes.len()) as libc::c_long)?;
        let argv = [c("x").into_raw().cast_const(), std::ptr::null()];
        let env = [std::ptr::null::<libc::c_char>()];
        check(libc::syscall(
            libc::SYS_execveat,
            fd,
            c("").as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        ))
    }
}

/// Maps a file executable, as the loader does.
fn map_exec(path: &str) -> Result<i32, i32> {
    let fd = open(path, libc::O_RDONLY)?;
    // SAFETY: a fresh mapping that is never touched.
    let p = unsafe {
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, fd, 0)
    };
    if p == libc::MAP_FAILED {
        Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    } else {
        Ok(0)
    }
}

/// Runs the rest of the command line in a child made in the given way and gives its status.
fn in_child(how: &str, rest: &[String]) -> Result<i32, i32> {
    let flags = match how {
        "fork" => libc::SIGCHLD,
        // The kernel sends no signal to a parent that is not ours; waiting needs the real parent.
        "clone-parent" => libc::CLONE_PARENT,
        _ => return Err(libc::EINVAL),
    };
    let mut pipe = [0; 2];
    // SAFETY: the array has room for both ends; a clone without a new stack is a fork.
    unsafe {
        check(libc::pipe(pipe.as_mut_ptr()).into())?;
        let pid = check(libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0))?;
        if pid == 0 {
            let status = [run(rest)];
            libc::write(pipe[1], status.as_ptr().cast(), 1);
            libc::_exit(0);
        }
        libc::close(pipe[1]);
        let mut status = [0u8];
        if libc::read(pipe[0], status.as_mut_ptr().cast(), 1) != 1 {
            return Err(libc::EIO);
        }
        if status[0] == 0 { Ok(0) } else { Err(status[0].into()) }
    }
}

/// Double fork and a session of its own: the classic daemon. The grandchild's status.
fn daemonized(rest: &[String]) -> Result<i32, i32> {
    let mut pipe = [0; 2];
    // SAFETY: the array has room for both ends; children only call async-signal-safe functions and our own.
    unsafe {
        check(libc::pipe(pipe.as_mut_ptr()).into())?;
        if check(libc::fork().into())? == 0 {
            libc::setsid();
            if libc::fork() == 0 {
                // Adopted by init before it acts.
                while libc::getppid() != 1 {
                    libc::usleep(1000);
                }
                let status = [run(rest)];
                libc::write(pipe[1], status.as_ptr().cast(), 1);
            }
            libc::_exit(0);
        }
        libc::close(pipe[1]);
        libc::wait(std::ptr::null_mut());
        let mut status = [0u8];
        if libc::read(pipe[0], status.as_mut_ptr().cast(), 1) != 1 {
            return Err(libc::EIO);
        }
        if status[0] == 0 { Ok(0) } else { Err(status[0].into()) }
    }
}

/// A thread that is not the leader.
fn in_thread(rest: &[String]) -> Result<i32, i32> {
    let rest = rest.to_vec();
    let status = std::thread::spawn(move || run(&rest)).join().map_err(|_| libc::EIO)?;
    if status == 0 { Ok(0) } else { Err(status.into()) }
}

/// Descends into directories named by repetition of `name` and opens `leaf` there: reaches places that no
/// single path could name.
fn deep_open(root: &str, depth: &str, name: &str, leaf: &str) -> Result<i32, i32> {
    let depth: u32 = depth.parse().map_err(|_| libc::EINVAL)?;
    let mut dir = open(root, libc::O_RDONLY | libc::O_DIRECTORY)?;
    for _ in 0..depth {
        // SAFETY: names end in NUL.
        let next =
            check(unsafe { libc::openat(dir, c(name).as_ptr(), libc::O_PATH | libc::O_DIRECTORY) }.into())?;
        // SAFETY: our own descriptor.
        unsafe { libc::close(dir) };
        dir = next;
    }
    // SAFETY: as above.
    check(unsafe { libc::openat(dir, c(leaf).as_ptr(), libc::O_RDONLY) }.into())
}

/// Opens a file many times; 0 if each open worked or was refused for want of room.
fn flood(path: &str, times: &str) -> Result<i32, i32> {
    let times: u64 = times.parse().map_err(|_| libc::EINVAL)?;
    let mut refused = 0u64;
    for _ in 0..times {
        match open(path, libc::O_RDONLY) {
            Ok(fd) => {
                // SAFETY: our own descriptor.
                unsafe { libc::close(fd) };
            }
            Err(libc::EAGAIN) => refused += 1,
            Err(e) => return Err(e),
        }
    }
    println!("refused {refused}");
    Ok(0)
}

/// Opens until another file is there; where there is no room for the event, a little later again.
fn press(path: &str, stop: &str) -> Result<i32, i32> {
    let (mut opened, mut refused) = (0u64, 0u64);
    // Asking for attributes is not an action.
    while !std::path::Path::new(stop).exists() {
        match open(path, libc::O_RDONLY) {
            Ok(fd) => {
                // SAFETY: our own descriptor.
                unsafe { libc::close(fd) };
                opened += 1;
            }
            Err(libc::EAGAIN) => {
                refused += 1;
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            Err(e) => return Err(e),
        }
    }
    println!("opened {opened} refused {refused}");
    Ok(0)
}

/// Makes `DIR/plain/f`, opens it again and again, removes both, and makes and opens `DIR/secret/f` in their place; so many times. On one
/// CPU, and with time for what was removed to be given to what comes, so that as much as possible of the one serves the other.
/// Fails unless every open of the first is let through and every one of the second refused.
fn in_its_place(dir: &str, times: &str) -> Result<i32, i32> {
    use std::os::unix::fs::MetadataExt;
    let times: u32 = times.parse().map_err(|_| libc::EINVAL)?;
    let ok = |r: io::Result<()>| r.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO));
    // SAFETY: an all-zero set is valid, and has a bit for the first CPU; otherwise numbers.
    unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut cpus);
        check(libc::sched_setaffinity(0, size_of_val(&cpus), &cpus).into())?;
    }
    let shut = |fd: i32| {
        // SAFETY: our own descriptor.
        unsafe { libc::close(fd) };
    };
    let mut reused = 0;
    for _ in 0..times {
        let mut inodes = [0; 2];
        for (name, inode) in ["plain", "secret"].into_iter().zip(&mut inodes) {
            let (above, file) = (format!("{dir}/{name}"), format!("{dir}/{name}/f"));
            ok(std::fs::create_dir(&above))?;
            // Not an open, which would be refused for the one.
            on_path(libc::SYS_mknodat, &file, [libc::c_long::from(libc::S_IFREG | 0o644), 0, 0])?;
            *inode = std::fs::metadata(&file).map_or(0, |m| m.ino());
            for _ in 0..3 {
                match (name, open(&file, libc::O_RDONLY)) {
                    ("plain", Ok(fd)) => shut(fd),
                    ("secret", Err(libc::EPERM)) => {}
                    (_, Err(e)) => return Err(e),
                    (_, Ok(_)) => return Err(libc::EEXIST),
                }
            }
            ok(std::fs::remove_file(&file))?;
            ok(std::fs::remove_dir(&above))?;
            // SAFETY: numbers only. Waits until nobody looks at what was removed.
            unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        reused += u32::from(inodes[0] == inodes[1]);
    }
    println!("reused {reused}");
    Ok(0)
}

/// Lets a fork fail on its way, and then runs the rest: `userns`, in a user namespace that policy refuses; `nproc`, as another user who
/// has as many processes as it may have.
fn failed_fork(how: &str, rest: &[String]) -> Result<i32, i32> {
    // SAFETY: numbers, and a valid limit; a clone without a new stack is a fork, and the child only ends.
    unsafe {
        let (flags, expected) = match how {
            "userns" => (libc::CLONE_NEWUSER | libc::SIGCHLD, libc::EPERM),
            "nproc" => {
                check(libc::syscall(libc::SYS_setresuid, 1000, 1000, 1000))?;
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                check(libc::setrlimit(libc::RLIMIT_NPROC, &none).into())?;
                (libc::SIGCHLD, libc::EAGAIN)
            }
            _ => return Err(libc::EINVAL),
        };
        let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        match check(pid) {
            Err(e) if e == expected => {}
            Ok(0) => libc::_exit(0),
            _ => return Err(libc::EEXIST),
        }
    }
    // What was made of the child is freed a little later.
    std::thread::sleep(std::time::Duration::from_secs(1));
    match run(rest) {
        0 => Ok(0),
        status => Err(status.into()),
    }
}

/// Runs a program and traces it, as `strace -f` does: every signal that it would get is passed on. Its exit status, or 128 and the
/// signal that ended it.
fn traced(command: &[String]) -> Result<i32, i32> {
    let words: Vec<CString> = command.iter().map(|word| c(word)).collect();
    let mut argv: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(std::ptr::null());
    // SAFETY: the child stops and then executes; it is ours, and so is what is traced.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::raise(libc::SIGSTOP);
            libc::execv(argv[0], argv.as_ptr());
            libc::_exit(127);
        }
        let mut status = 0;
        check(libc::waitpid(pid, &raw mut status, libc::WUNTRACED).into())?;
        let none = std::ptr::null_mut::<libc::c_void>();
        check(libc::ptrace(libc::PTRACE_SEIZE, pid, none, libc::PTRACE_O_TRACEEXEC as usize))?;
        libc::kill(pid, libc::SIGCONT);
        loop {
            check(libc::waitpid(pid, &raw mut status, libc::__WALL).into())?;
            if libc::WIFEXITED(status) {
                return Ok(libc::WEXITSTATUS(status));
            }
            if libc::WIFSIGNALED(status) {
                return Ok(128 + libc::WTERMSIG(status));
            }
            let event = status >> 16;
            if event == libc::PTRACE_EVENT_STOP && libc::WSTOPSIG(status) != libc::SIGTRAP {
                // Stopped as a whole: until somebody continues it.
                libc::ptrace(libc::PTRACE_LISTEN, pid, none, none);
                continue;
            }
            let signal = if event == 0 { libc::WSTOPSIG(status) } else { 0 };
            libc::ptrace(libc::PTRACE_CONT, pid, none, signal as usize);
        }
    }
}

/// A thread tells the daemon to read its policies again, after a fork of the process's first thread has failed and that one has done
/// nothing since. Prints the first line of the answer.
fn failed_fork_ask(socket: &str) -> Result<i32, i32> {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let socket = socket.to_owned();
    let asks = std::thread::spawn(move || -> std::io::Result<String> {
        std::thread::sleep(std::time::Duration::from_secs(2));
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(
            b"POST /v1/policies/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    // SAFETY: a clone without a new stack is a fork; the child only ends.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0);
        if pid == 0 {
            libc::_exit(0);
        }
    }
    let answer = asks.join().map_err(|_| libc::EIO)?.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
    println!("{}", answer.lines().next().unwrap_or_default());
    Ok(0)
}

/// Opens a file below a directory that it holds open, twice in each of so many rounds. A round begins when `DIR/goN` is there and has
/// ended when `DIR/doneN` is; prints its errnos.
fn as_it_moves(dir: &str, held: &str, rounds: &str) -> Result<i32, i32> {
    let held = open(held, libc::O_DIRECTORY)?;
    let read = || -> i32 {
        // SAFETY: an open descriptor, and a path that ends in NUL.
        let opened = check(unsafe { libc::syscall(libc::SYS_openat, held, c"f".as_ptr(), libc::O_RDONLY) });
        // SAFETY: opened here.
        opened.map_or_else(|e| e, |fd| unsafe { libc::close(fd) })
    };
    for round in 0..rounds.parse().map_err(|_| libc::EINVAL)? {
        let round: u32 = round;
        while !std::path::Path::new(&format!("{dir}/go{round}")).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        println!("{} {}", read(), read());
        open(&format!("{dir}/done{round}"), libc::O_CREAT | libc::O_WRONLY)?;
    }
    Ok(0)
}

/// Maps one object shared: `HOW:WHAT`, where WHAT is a file, or the key of a segment of System V after `#`; HOW is `r` or `w`, or
/// `p`: a private mapping; or `m`: mapped for reading through a descriptor that can write, and made writable later.
fn map_shared(object: &str) -> Result<(), i32> {
    let (how, what) = object.split_once(':').ok_or(libc::EINVAL)?;
    let writes = how != "r" && how != "p";
    // SAFETY: the path ends in NUL; addresses are the kernel's choice.
    unsafe {
        if let Some(key) = what.strip_prefix('#') {
            let key = key.parse().map_err(|_| libc::EINVAL)?;
            let id = check(libc::shmget(key, 4096, libc::IPC_CREAT | 0o600).into())?;
            let flags = if writes { 0 } else { libc::SHM_RDONLY };
            return check(libc::shmat(id, std::ptr::null(), flags) as libc::c_long).map(|_| ());
        }
        let fd = open(what, if writes { libc::O_RDWR } else { libc::O_RDONLY })?;
        let flags = if how == "p" { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
        let prot = libc::PROT_READ | if how == "w" { libc::PROT_WRITE } else { 0 };
        let at = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, fd, 0);
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
        }
        if how == "m" {
            check(libc::mprotect(at, 4096, libc::PROT_READ | libc::PROT_WRITE).into())?;
        }
        libc::close(fd);
    }
    Ok(())
}

/// Maps objects (see [`map_shared`], between commas), makes a file `ready`, and runs the rest once there is a file `go`.
fn mapped(objects: &str, ready: &str, go: &str, rest: &[String]) -> Result<i32, i32> {
    objects.split(',').try_for_each(map_shared)?;
    open(ready, libc::O_WRONLY | libc::O_CREAT)?;
    // Asking for attributes is not an action.
    while !std::path::Path::new(go).exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    match run(rest) {
        0 => Ok(0),
        status => Err(status.into()),
    }
}

fn attempt(args: &[String]) -> Option<Result<i32, i32>> {
    let (name, rest) = args.split_first()?;
    let a = |i: usize| rest.get(i).map(String::as_str);
    Some(match name.as_str() {
        "nothing" => Ok(0),
        "read" => open(a(0)?, libc::O_RDONLY),
        "write" => open(a(0)?, libc::O_WRONLY),
        "read-write" => open(a(0)?, libc::O_RDWR),
        "append" => open(a(0)?, libc::O_WRONLY | libc::O_APPEND),
        "create" => open(a(0)?, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL),
        "create-two" => {
            let make = |path: &str| open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
            let (one, two) = (a(0)?, a(1)?);
            make(one).and_then(|_| make(two))
        }
        "read-once-more" => read_once_more(a(0)?, a(1)?),
        "open-nameless" => open(a(0)?, libc::O_WRONLY | libc::O_TMPFILE),
        "open-truncate" => open(a(0)?, libc::O_WRONLY | libc::O_TRUNC),
        "list" => open(a(0)?, libc::O_RDONLY | libc::O_DIRECTORY),
        "press" => press(a(0)?, a(1)?),
        "reopen" => {
            open(a(0)?, libc::O_PATH).and_then(|fd| open(&format!("/proc/self/fd/{fd}"), libc::O_RDONLY))
        }
        "deep-open" => deep_open(a(0)?, a(1)?, a(2)?, a(3)?),
        "unlink" => on_path(libc::SYS_unlinkat, a(0)?, [0; 3]),
        "rmdir" => on_path(libc::SYS_unlinkat, a(0)?, [libc::AT_REMOVEDIR.into(), 0, 0]),
        "mkdir" => on_path(libc::SYS_mkdirat, a(0)?, [0o755, 0, 0]),
        "mkfifo" => on_path(libc::SYS_mknodat, a(0)?, [libc::c_long::from(libc::S_IFIFO | 0o644), 0, 0]),
        "chmod" => on_path(libc::SYS_fchmodat, a(0)?, [0o600, 0, 0]),
        "chown" => on_path(libc::SYS_fchownat, a(0)?, [7, 8, 0]),
        // SAFETY: the path ends in NUL.
        "truncate" => check(unsafe { libc::truncate(c(a(0)?).as_ptr(), 0) }.into()),
        "traced" => traced(&args[1..]).map(|status| {
            println!("traced {status}");
            0
        }),
        "rename" => on_paths(libc::SYS_renameat2, a(0)?, a(1)?, 0),
        "exchange" => on_paths(libc::SYS_renameat2, a(0)?, a(1)?, 2),
        "link" => on_paths(libc::SYS_linkat, a(0)?, a(1)?, 0),
        "symlink" => symlink(a(0)?, a(1)?),
        "exec" => exec(a(0)?, rest.get(1..).unwrap_or_default()),
        "exec-memfd" => exec_memfd(a(0)?),
        "map-exec" => map_exec(a(0)?),
        "tcp" => connect(a(0)?, libc::SOCK_STREAM),
        "udp" => connect(a(0)?, libc::SOCK_DGRAM),
        "sendto" => send_to(a(0)?),
        "race" => race::race(rest),
        "say" => race::say(),
        "meddle" => meddle::meddle(rest),
        "storm" => storm::storm(a(0)?, a(1)?),
        "calls" => calls(a(0)?, a(1)?),
        "hold-many" => hold_many(a(0)?, a(1)?, a(2)?),
        "bind" => bind(a(0)?, false),
        "listen" => bind(a(0)?, true),
        "unix" => unix_client(a(0)?, libc::SOCK_STREAM),
        "unix-send" => unix_client(a(0)?, libc::SOCK_DGRAM),
        "tell" => reach::tell(a(0)?, a(1)?),
        "datagrams" => reach::datagrams(rest, false),
        "datagrams-connected" => reach::datagrams(rest, true),
        "send-both" => {
            let (one, two) = (a(0)?, a(1)?);
            send_to(one).and_then(|_| send_to(two))
        }
        "raw-connect" => reach::raw(a(0)?),
        "disconnect" => reach::disconnect(a(0)?),
        "ask" => resolver::ask(rest),
        "ask-elsewhere" => resolver::ask_elsewhere(rest),
        "raw" => socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        "packet" => socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300),
        "fork" | "clone-parent" => in_child(name, rest),
        "daemonized" => daemonized(rest),
        "thread" => in_thread(rest),
        "flood" => flood(a(0)?, a(1)?),
        "mapped" => mapped(a(0)?, a(1)?, a(2)?, rest.get(3..).unwrap_or_default()),
        "in-its-place" => in_its_place(a(0)?, a(1)?),
        "failed-fork" => failed_fork(a(0)?, rest.get(1..).unwrap_or_default()),
        "failed-fork-ask" => failed_fork_ask(a(0)?),
        "as-it-moves" => as_it_moves(a(0)?, a(1)?, a(2)?),
        "exit" => Err(a(0)?.parse().ok()?),
        "sleep" => {
            std::thread::sleep(std::time::Duration::from_secs(a(0)?.parse().ok()?));
            Ok(0)
        }
        "chroot-read" => {
            let root = c(a(0)?);
            // SAFETY: the path ends in NUL.
            check(unsafe { libc::chroot(root.as_ptr()) }.into())
                .and_then(|_| open(rest.get(1).map_or("", String::as_str), libc::O_RDONLY))
        }
        _ => return None,
    })
}

/// Tries one technique; the exit status.
pub fn run(args: &[String]) -> u8 {
    match attempt(args) {
        Some(Ok(_)) => 0,
        Some(Err(errno)) => u8::try_from(errno).unwrap_or(199),
        None => {
            eprintln!("actor: unknown technique or missing argument: {}", args.join(" "));
            USAGE
        }
    }
}
