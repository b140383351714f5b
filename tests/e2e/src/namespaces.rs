//! A small internet in network namespaces: a public segment, machines on it, and homes behind routers
//! that masquerade. `tests/nat.rs` puts peers and whole programs into it.
//!
//! A namespace here has no name in the file system: it lives as long as a file descriptor of this process
//! or a child in it, so a test that panics or is killed leaves nothing behind. Each has a tokio runtime of
//! its own whose threads are inside; what they spawn is inside too. Must stay true: nothing of the
//! machine's own network changes, and nothing in here can reach it. Needs root (CAP_SYS_ADMIN and
//! CAP_NET_ADMIN), iproute2 and nftables; `deploy/test.sh` asks first whether that is so.

use std::{
    fs::File,
    future::Future,
    io::Write as _,
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::{Builder, Runtime};

/// The first three bytes of the public segment. Not a documentation range: libp2p takes those for private.
/// Nothing leaves the namespaces, so whose it is on the real internet makes no difference.
const PUBLIC: [u8; 3] = [7, 7, 7];
/// Threads of each namespace's runtime.
const WORKERS: usize = 2;

/// How a home's router translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// `masquerade`: a port is kept while it is free, so the mapping is the same for every destination.
    Masquerade,
    /// `masquerade fully-random`: another port for every destination ("symmetric"), which no hole punching
    /// gets through.
    Symmetric,
}

/// One network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
    // Taken when it is dropped: a runtime may not be dropped inside another one.
    runtime: Option<Runtime>,
}

impl Namespace {
    fn new(name: &str) -> Result<Self> {
        // `unshare` changes the calling thread only, so a thread does it that ends at once.
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("this user may not make a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("a namespace without a file")
        });
        let file = made.join().map_err(|_| anyhow!("the thread died"))??;
        let file = Arc::new(file);
        let inside = file.clone();
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name(name)
            .enable_all()
            .on_thread_start(move || {
                setns(&*inside, CloneFlags::CLONE_NEWNET)
                    .expect("a namespace can be entered again");
            })
            .build()?;
        let namespace = Self {
            name: name.to_owned(),
            file,
            runtime: Some(runtime),
        };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let run = || {
            setns(&*self.file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {}", self.name))?;
            work()
        };
        thread::scope(|scope| scope.spawn(run).join())
            .map_err(|_| anyhow!("the thread in {} died", self.name))?
    }

    /// Runs `future` on the runtime inside; its children are inside too.
    pub async fn enter<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let runtime = self.runtime.as_ref().context("the namespace is gone")?;
        let joined = runtime.spawn(future).await;
        joined.with_context(|| format!("a task in {} died", self.name))
    }

    /// Runs a program inside to its end; what it printed.
    pub fn command(&self, program: &str, args: &[&str], input: &str) -> Result<String> {
        self.run(|| {
            let mut child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start {program}: is it installed?"))?;
            let mut stdin = child.stdin.take().context("its input is a pipe")?;
            stdin.write_all(input.as_bytes())?;
            drop(stdin);
            let output = child.wait_with_output()?;
            ensure!(
                output.status.success(),
                "{}: `{program} {}` failed: {}",
                self.name,
                args.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }

    /// `ip …`, words by spaces.
    fn ip(&self, args: &str) -> Result<()> {
        let args: Vec<&str> = args.split(' ').collect();
        self.command("ip", &args, "").map(drop)
    }

    /// A name that `ip link set … netns` understands.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// A cable from `interface` in here to `far_interface` in `far`.
    fn connect(&self, interface: &str, far: &Self, far_interface: &str) -> Result<()> {
        self.ip(&format!(
            "link add {interface} type veth peer name {far_interface} netns {}",
            far.path()
        ))?;
        self.ip(&format!("link set {interface} up"))?;
        far.ip(&format!("link set {far_interface} up"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A machine behind a router.
#[derive(Debug)]
pub struct Home {
    /// The machine; it has a private address only.
    pub machine: Namespace,
    /// Its address.
    pub address: Ipv4Addr,
    /// The router's address on the public segment: what everybody sees of the machine.
    pub outside: Ipv4Addr,
    _router: Namespace,
}

/// The public segment and what hangs on it.
#[derive(Debug)]
pub struct Internet {
    switch: Namespace,
}

impl Internet {
    /// An empty segment.
    pub fn new() -> Result<Self> {
        let switch = Namespace::new("switch")?;
        switch.ip("link add segment type bridge")?;
        switch.ip("link set segment up")?;
        Ok(Self { switch })
    }

    /// Plugs `namespace` in as the segment's host `host`; its interface is called `wan`.
    fn plug(&self, namespace: &Namespace, host: u8) -> Result<Ipv4Addr> {
        let port = format!("port{host}");
        self.switch.connect(&port, namespace, "wan")?;
        self.switch.ip(&format!("link set {port} master segment"))?;
        let [a, b, c] = PUBLIC;
        let address = Ipv4Addr::new(a, b, c, host);
        namespace.ip(&format!("addr add {address}/24 dev wan"))?;
        Ok(address)
    }

    /// A machine with a public address; `host` is its last byte.
    pub fn public(&self, name: &str, host: u8) -> Result<(Namespace, Ipv4Addr)> {
        let machine = Namespace::new(name)?;
        let address = self.plug(&machine, host)?;
        Ok((machine, address))
    }

    /// A machine in a home network of its own; `host` is the last byte of its router's public address and
    /// the third of the private ones.
    pub fn home(&self, name: &str, host: u8, nat: Nat) -> Result<Home> {
        let router = Namespace::new(&format!("{name}-router"))?;
        let outside = self.plug(&router, host)?;
        let machine = Namespace::new(name)?;
        router.connect("lan", &machine, "eth0")?;
        let (gateway, address) = (
            Ipv4Addr::new(192, 168, host, 1),
            Ipv4Addr::new(192, 168, host, 2),
        );
        router.ip(&format!("addr add {gateway}/24 dev lan"))?;
        machine.ip(&format!("addr add {address}/24 dev eth0"))?;
        machine.ip(&format!("route add default via {gateway}"))?;
        router.command("nft", &["-f", "-"], &rules(nat))?;
        router.run(|| {
            // This file shows the namespace of the thread that opens it.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward packets")
        })?;
        Ok(Home {
            machine,
            address,
            outside,
            _router: router,
        })
    }
}

/// A home router's: everything out, nothing in that was not asked for. Unasked packets are dropped on input
/// too: else the kernel would remember them, and a later connection to their sender would get another port.
fn rules(nat: Nat) -> String {
    let masquerade = match nat {
        Nat::Masquerade => "masquerade",
        Nat::Symmetric => "masquerade fully-random",
    };
    format!(
        "table ip router {{
            chain out {{
                type nat hook postrouting priority srcnat;
                oifname \"wan\" {masquerade}
            }}
            chain own {{
                type filter hook input priority filter;
                iifname \"wan\" ct state established,related accept
                iifname \"wan\" drop
            }}
            chain through {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname \"lan\" oifname \"wan\" accept
            }}
        }}
        "
    )
}
