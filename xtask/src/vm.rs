//! Virtual machines: boots a kernel of the matrix with a root made for this run, runs one command.
//!
//! The machine is emulated (TCG): nothing of the host's virtualisation is needed, and with `icount` the
//! same run counts the same instructions everywhere. Three serial ports: console (kept, shown on failure),
//! the command's output, and its exit status.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::{self, Built, Profile};
use crate::cache;
use crate::image::Image;
use crate::setup;

/// `cargo xtask vm`.
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask vm                                   a shell, daemon running
  cargo xtask vm --kernel 7.2 -- aarm run -- ls /
  cargo xtask vm --add my-policy.yaml=/etc/aarm/policies/mine.yaml -- aarm policy list")]
pub struct VmArgs {
    /// Kernel series.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Root file system.
    #[arg(long, value_enum, default_value = "busybox")]
    root: Root,
    /// Adds a file or directory of this host.
    #[arg(long, value_name = "FILE[=DEST]")]
    add: Vec<String>,
    /// Do not start the daemon.
    #[arg(long)]
    no_agent: bool,
    /// Boot without `bpf` among the security modules.
    #[arg(long, requires = "no_agent")]
    no_bpf: bool,
    /// Kernel programs that log, into the daemon's log.
    #[arg(long)]
    debug_log: bool,
    /// Count one instruction as one nanosecond, on one CPU: measurements repeat exactly.
    #[arg(long)]
    icount: bool,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 3600)]
    timeout: u64,
    /// The command and its arguments; a shell without one.
    #[arg(last = true)]
    command: Vec<String>,
}

/// What the VM's root is.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Root {
    /// busybox and static binaries: boots in seconds.
    Busybox,
    /// Debian with systemd, git, python3, curl.
    Debian,
}

/// What to boot.
pub struct Spec {
    /// Kernel series.
    pub kernel: String,
    /// Root file system.
    pub root: Root,
    /// Files to add: host's path, VM's path.
    pub add: Vec<(PathBuf, String)>,
    /// Start the daemon first.
    pub agent: bool,
    /// systemd as init; the command then runs as a service.
    pub systemd: bool,
    /// Deterministic instruction counts.
    pub icount: bool,
    /// Boot with `bpf` among the security modules, as a host that can enforce does.
    pub bpf: bool,
    /// The command; empty for an interactive shell.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// Where the command's output goes; this process's own if not given.
    pub output: Option<File>,
    /// Disks: Unix sockets at which NBD servers have them.
    pub disks: Vec<PathBuf>,
}

impl Spec {
    /// A busybox VM with the daemon.
    pub fn new(kernel: &str, command: &[&str]) -> Self {
        Self {
            kernel: kernel.to_owned(),
            root: Root::Busybox,
            add: Vec::new(),
            agent: true,
            systemd: false,
            icount: false,
            bpf: true,
            command: command.iter().map(|s| (*s).to_owned()).collect(),
            timeout: Duration::from_secs(1800),
            output: None,
            disks: Vec::new(),
        }
    }
}

/// Quotes a word for the shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:agent:/home/agent:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n";

/// Runs the command as a service, for roots with systemd as init.
const UNIT: &str = "[Unit]\nDescription=command of the VM\nAfter=multi-user.target\n[Service]\nType=oneshot\n\
ExecStart=/etc/aarm-vm/service\nTimeoutStartSec=infinity\n";
const SERVICE: &str = "#!/bin/busybox sh\nbusybox stty -F /dev/ttyS1 raw -echo\n/etc/aarm-vm/command </dev/null >/dev/ttyS1 2>&1\n\
echo \"exit $?\" >/dev/ttyS2\nbusybox sync\nbusybox sleep 0.2\nbusybox poweroff -f\n";

/// Writes the part of the root that is this run's.
fn overlay(spec: &Spec, built: &Built) -> Result<Vec<u8>> {
    let mut image = Image::new(Vec::new());
    image.file("/init", 0o755, include_bytes!("init.sh"))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find(|p| std::path::Path::new(p).exists())
        .context("no static busybox: run `cargo xtask setup`")?;
    match spec.root {
        Root::Busybox => {
            for dir in [
                "proc",
                "sys",
                "dev",
                "tmp",
                "run",
                "root",
                "bin",
                "sbin",
                "usr/bin",
                "usr/sbin",
                "home/agent",
            ] {
                image.directory(dir)?;
            }
            image.add(busybox.as_ref(), "/bin/busybox")?;
            image.link("/bin/sh", "busybox")?;
            image.file("/etc/passwd", 0o644, PASSWD.as_bytes())?;
            image.file("/etc/group", 0o644, GROUP.as_bytes())?;
            image.file("/etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n")?;
        }
        Root::Debian => {
            // Debian's /bin is a link to usr/bin.
            image.add(busybox.as_ref(), "/usr/bin/busybox")?;
            image.file("/etc/hosts", 0o644, b"127.0.0.1 localhost aarm-vm\n::1 localhost\n")?;
        }
    }
    for name in ["aarm-agent", "aarm"] {
        image.add(&built.bin(name), &format!("/usr/local/bin/{name}"))?;
    }
    image.add(&cache::repository().join("policies"), "/etc/aarm/policies")?;
    let config = cache::repository().join("deploy/agent.yaml");
    if config.exists() {
        image.add(&config, "/etc/aarm/agent.yaml")?;
    }
    for (from, to) in &spec.add {
        image.add(from, to)?;
    }
    let flag = |on: bool| if on { 1 } else { 0 };
    let interactive = spec.command.is_empty();
    image.file(
        "/etc/aarm-vm/config",
        0o644,
        format!(
            "AGENT={}\nINTERACTIVE={}\nSYSTEMD={}\n",
            flag(spec.agent),
            flag(interactive),
            flag(spec.systemd)
        )
        .as_bytes(),
    )?;
    let line = if interactive {
        "/bin/sh -l".to_owned()
    } else {
        spec.command.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" ")
    };
    image.file(
        "/etc/aarm-vm/command",
        0o755,
        format!("#!/bin/busybox sh\ncd /root\nexec {line}\n").as_bytes(),
    )?;
    if spec.systemd {
        image.file("/etc/aarm-vm/service", 0o755, SERVICE.as_bytes())?;
        image.file("/etc/systemd/system/aarm-vm.service", 0o644, UNIT.as_bytes())?;
        image.link("/etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")?;
        // A target of its own: multi-user must be reached before the command runs.
        image.link(
            "/etc/systemd/system/multi-user.target.wants/aarm-vm-start.timer",
            "../aarm-vm-start.timer",
        )?;
        image.file(
            "/etc/systemd/system/aarm-vm-start.timer",
            0o644,
            b"[Timer]\nOnActiveSec=1\nUnit=aarm-vm.service\n",
        )?;
        for waits in [
            "serial-getty@ttyS0.service",
            "getty@tty1.service",
            "systemd-networkd-wait-online.service",
            "systemd-udev-settle.service",
        ] {
            image.link(&format!("/etc/systemd/system/{waits}"), "/dev/null")?;
        }
    }
    image.finish()
}

/// A machine that runs. Ends with its owner.
pub struct Machine {
    child: Child,
    kernel: String,
    console: PathBuf,
    status: PathBuf,
    /// Where all that is.
    _dir: tempfile::TempDir,
}

impl Machine {
    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Switches it off.
    pub fn off(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it has ended. The exit status of its command.
    pub fn ended(&mut self, timeout: Duration) -> Result<u8> {
        let deadline = Instant::now() + timeout;
        while !self.has_ended()? {
            if Instant::now() > deadline {
                bail!("kernel {}: no end after {} s\n{}", self.kernel, timeout.as_secs(), self.tail());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.status()
    }

    /// What its console said last, where the reason usually is.
    pub fn tail(&self) -> String {
        tail(&self.console)
    }

    /// The exit status of its command, once it has ended.
    fn status(&mut self) -> Result<u8> {
        let ended = self.child.wait()?;
        let said = std::fs::read_to_string(&self.status).unwrap_or_default();
        let code = parse_status(&said);
        code.with_context(|| {
            format!("kernel {}: the machine ended ({ended}) without a status\n{}", self.kernel, self.tail())
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended, or nobody waits for it any more.
        let _ = self.off();
    }
}

/// Boots it and runs its command. The command's exit status.
pub fn run(spec: &mut Spec, built: &Built) -> Result<u8> {
    boot(spec, built)?.ended(spec.timeout)
}

/// Boots it; it runs its command, and ends.
pub fn boot(spec: &mut Spec, built: &Built) -> Result<Machine> {
    let kernel = setup::kernel(&spec.kernel)?;
    let dir = tempfile::tempdir()?;
    let initrd = dir.path().join("initrd");
    {
        let mut out = File::create(&initrd)?;
        if spec.root == Root::Debian {
            let mut base = File::open(setup::debian_root()?)?;
            let length = std::io::copy(&mut base, &mut out)?;
            // Archives follow each other at multiples of four bytes.
            out.write_all(&[0; 4][..((4 - length % 4) % 4) as usize])?;
        }
        out.write_all(&overlay(spec, built)?)?;
    }
    let (console, status) = (dir.path().join("console"), dir.path().join("status"));
    let mut q = Command::new("qemu-system-x86_64");
    q.args(["-accel", if spec.icount { "tcg,thread=single" } else { "tcg,thread=multi" }]);
    if spec.icount {
        q.args(["-icount", "shift=0,sleep=off", "-smp", "1"]);
    } else {
        q.args(["-smp", "2"]);
    }
    q.args(["-m", if spec.root == Root::Debian { "3072" } else { "2048" }]);
    q.args([
        "-cpu",
        "max",
        "-display",
        "none",
        "-no-reboot",
        "-nodefaults",
        "-no-user-config",
        "-nic",
        "none",
    ]);
    q.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initrd);
    let lsm = if spec.bpf { "lockdown,capability,landlock,bpf" } else { "lockdown,capability,landlock" };
    // Where nothing can be enforced anyway, doctor is asked about that, too.
    let preempt = if spec.bpf { "" } else { " preempt=full" };
    // The CPU's counter for a clock: each read of the next best one, hpet, leaves the guest.
    q.arg("-append").arg(format!("console=ttyS0 lsm={lsm}{preempt} panic=-1 quiet tsc=reliable mitigations=off random.trust_cpu=on systemd.log_target=console systemd.show_status=no"));
    q.arg("-serial").arg(format!("file:{}", console.display()));
    q.args(["-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"]);
    q.arg("-serial").arg(format!("file:{}", status.display()));
    for (n, socket) in spec.disks.iter().enumerate() {
        // In QEMU's lists of options a comma is written twice.
        let path = socket.display().to_string().replace(',', ",,");
        q.arg("-blockdev").arg(format!("driver=nbd,node-name=disk{n},server.type=unix,server.path={path}"));
        // Whatever fails is the guest's to deal with.
        q.arg("-device").arg(format!("virtio-blk-pci,drive=disk{n},werror=report,rerror=report"));
    }
    let interactive = spec.command.is_empty();
    q.stdin(if interactive { Stdio::inherit() } else { Stdio::null() });
    if let Some(output) = spec.output.take() {
        q.stdout(Stdio::from(output));
    }
    let child = q.spawn().context("cannot run qemu-system-x86_64: run `cargo xtask setup`")?;
    Ok(Machine { child, kernel: spec.kernel.clone(), console, status, _dir: dir })
}

/// The status port says `exit N`.
fn parse_status(text: &str) -> Option<u8> {
    text.lines().find_map(|l| l.trim().strip_prefix("exit ")?.parse().ok())
}

/// The end of the console, where the reason usually is.
fn tail(console: &std::path::Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(console).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(40);
    format!("console:\n{}", lines[from..].join("\n"))
}

/// `cargo xtask vm`.
pub fn command(args: VmArgs) -> Result<u8> {
    let built = build::all(Profile::Suites, args.debug_log)?;
    let add = args
        .add
        .iter()
        .map(|a| match a.split_once('=') {
            Some((from, to)) => Ok((PathBuf::from(from), to.to_owned())),
            None => {
                let from = PathBuf::from(a);
                let name = from.file_name().with_context(|| format!("{a} has no file name"))?;
                let to = format!("/root/{}", name.to_string_lossy());
                Ok((from, to))
            }
        })
        .collect::<Result<_>>()?;
    let mut spec = Spec {
        kernel: args.kernel,
        root: args.root,
        add,
        agent: !args.no_agent,
        systemd: false,
        icount: args.icount,
        bpf: !args.no_bpf,
        command: args.command,
        timeout: Duration::from_secs(args.timeout),
        output: None,
        disks: Vec::new(),
    };
    run(&mut spec, &built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quote("a'b c"), r"'a'\''b c'");
    }

    #[test]
    fn the_status_port_is_read_whatever_surrounds_it() {
        assert_eq!(parse_status("\r\nexit 3\r\n"), Some(3));
        assert_eq!(parse_status("exit 300"), None);
        assert_eq!(parse_status(""), None);
    }
}
