//! Who listens on a port: read from `/proc`, so that nothing is opened and nobody is disturbed.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::Finding;

/// Sockets of one table that are looked at: a machine with more is busy with something else.
const SOCKETS_MAX: usize = 200_000;
/// "LISTEN" in the kernel's tables.
const LISTEN: &str = "0A";

/// A program that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its address.
    pub address: SocketAddr,
    /// Process and name; `None`: another user's, or in another container.
    pub owner: Option<(u32, String)>,
}

/// Everybody who listens on TCP here. An error where the system does not tell.
pub fn probe() -> io::Result<Vec<Listener>> {
    let mut sockets = parse_table(&fs::read_to_string("/proc/net/tcp")?);
    // Without IPv6 there is no such table.
    let v6 = fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    sockets.extend(parse_table(&v6));
    let owners = owners();
    let named = |(address, inode)| Listener {
        address,
        owner: owners.get(&inode).cloned(),
    };
    Ok(sockets.into_iter().map(named).collect())
}

/// Listening sockets of a `/proc/net/tcp` table with their inodes.
fn parse_table(text: &str) -> Vec<(SocketAddr, u64)> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (*state == LISTEN).then_some(())?;
        Some((parse_address(local)?, inode.parse().ok()?))
    };
    let rows = text.lines().skip(1).take(SOCKETS_MAX);
    rows.filter_map(row).collect()
}

/// `0100007F:2328`: 32-bit words in the machine's byte order, the port in hex.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let hex = ip.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut all = [0; 16];
            for (to, from) in all.chunks_mut(4).zip(words) {
                to.copy_from_slice(&from);
            }
            IpAddr::V6(Ipv6Addr::from(all))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Sockets' inodes with the processes that hold them, as far as we may see.
fn owners() -> BTreeMap<u64, (u32, String)> {
    let mut owners = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(open) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        for link in open
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
        {
            let inode = link.to_str().and_then(|link| {
                let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
                inode.parse().ok()
            });
            if let Some(inode) = inode {
                owners.insert(inode, (pid, name.trim().to_owned()));
            }
        }
    }
    owners
}

/// Whether two listeners can't both have their address.
fn collides(a: SocketAddr, b: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (a_ip == b_ip || any(a_ip) || any(b_ip))
}

/// What the daemon looked at is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// Runs; its process id where it is known.
    Runs(Option<u32>),
    /// Does not run.
    Stopped,
}

/// Whether `wanted` (the key `key` of the configuration) is free for the daemon, or its own.
pub fn judge(
    area: &'static str,
    key: &str,
    wanted: SocketAddr,
    listeners: &io::Result<Vec<Listener>>,
    daemon: Daemon,
) -> Finding {
    if wanted.port() == 0 {
        return Finding::ok(area, "any free port");
    }
    let listeners = match listeners {
        Ok(listeners) => listeners,
        Err(error) => {
            let what = format!("{wanted}: this system does not tell who listens ({error})");
            return Finding::ok(area, what);
        }
    };
    let there = listeners.iter().find(|l| collides(l.address, wanted));
    match (there, daemon) {
        (None, Daemon::Stopped) => Finding::ok(area, format!("{wanted} is free")),
        (None, Daemon::Runs(_)) => Finding::warning(
            area,
            format!(
                "the running daemon does not listen on {wanted}: was the configuration changed?"
            ),
            "restart it, so that it takes the configuration as it is now",
        ),
        (Some(there), Daemon::Runs(pid)) if ours(there, pid) => {
            Finding::ok(area, format!("{wanted} is the running daemon's"))
        }
        (Some(there), _) => {
            let (who, stop) = match &there.owner {
                Some((pid, name)) => (format!("{name} (pid {pid})"), format!("stop pid {pid}")),
                None => (
                    "another program".to_owned(),
                    format!(
                        "find it (`ss -ltnp sport = :{}` as root) and stop it",
                        wanted.port()
                    ),
                ),
            };
            Finding::problem(
                area,
                format!("{who} has {wanted}"),
                format!("{stop}, or set {key} to another port"),
            )
        }
    }
}

/// A listener whose process we may not see counts as the daemon that we know to run.
fn ours(there: &Listener, pid: Option<u32>) -> bool {
    match (&there.owner, pid) {
        (Some((owner, _)), Some(pid)) => *owner == pid,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn who_listens_is_read_from_the_kernels_tables() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7777 1 0000 100 0 0 10 0\n\
            1: 0100007F:2329 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 8888 1 0000 100 0 0 10 0\n";
        assert_eq!(
            parse_table(table),
            vec![("127.0.0.1:9000".parse().unwrap(), 7777)]
        );
        let v6 = parse_address("00000000000000000000000001000000:1F90");
        assert_eq!(v6, Some("[::1]:8080".parse().unwrap()));
        assert_eq!(parse_address("01007F:1F90"), None);
    }

    #[test]
    fn this_process_is_found_on_the_port_it_listens_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let all = probe().unwrap();
        let found = all.iter().find(|l| l.address == address).unwrap();
        assert_eq!(found.owner.as_ref().map(|o| o.0), Some(std::process::id()));
    }

    #[test]
    fn a_port_is_free_or_ours_or_somebody_has_it() {
        let wanted: SocketAddr = "127.0.0.1:9091".parse().unwrap();
        let by = |address: &str, owner: Option<(u32, &str)>| {
            Ok(vec![Listener {
                address: address.parse().unwrap(),
                owner: owner.map(|(pid, name)| (pid, name.to_owned())),
            }])
        };
        let judge = |listeners: io::Result<Vec<Listener>>, daemon| {
            judge("port", "[health] listen", wanted, &listeners, daemon)
        };
        let nobody = || by("127.0.0.1:1", None);
        assert_eq!(judge(nobody(), Daemon::Stopped).level, Level::Ok);
        assert_eq!(judge(nobody(), Daemon::Runs(Some(5))).level, Level::Warning);
        let five = || by("0.0.0.0:9091", Some((5, "nginx")));
        assert_eq!(judge(five(), Daemon::Runs(Some(5))).level, Level::Ok);
        let taken = judge(five(), Daemon::Stopped);
        assert_eq!(taken.level, Level::Problem);
        assert_eq!(taken.what, "nginx (pid 5) has 127.0.0.1:9091");
        assert_eq!(judge(five(), Daemon::Runs(Some(6))).level, Level::Problem);
        assert_eq!(
            judge(by("[::]:9091", None), Daemon::Runs(Some(6))).level,
            Level::Ok
        );
        assert_eq!(
            judge(by("127.0.0.2:9091", None), Daemon::Stopped).level,
            Level::Ok
        );
        assert_eq!(
            judge(Err(io::ErrorKind::NotFound.into()), Daemon::Stopped).level,
            Level::Ok
        );
    }
}
