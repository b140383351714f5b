//! Peers behind NAT, in network namespaces: AutoNAT, relays and hole punching with real packets through
//! real masquerading routers ([`owm_e2e::namespaces`]).

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};
use owm_e2e::namespaces::{Internet, Namespace, Nat};

/// For packets inside one machine's memory.
const PACKET_LIMIT: Duration = Duration::from_secs(2);

/// Sends a datagram from `from` and gives the address that it came from, as the receiver saw it; `None`:
/// it did not come.
fn seen_udp(
    from: &Namespace,
    port: u16,
    to: &Namespace,
    address: Ipv4Addr,
) -> Result<Option<SocketAddr>> {
    let receiver = to.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5000))?))?;
    receiver.set_read_timeout(Some(PACKET_LIMIT))?;
    let sender = from.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))?;
    sender.send_to(b"hello", (address, 5000))?;
    let mut buffer = [0; 16];
    Ok(receiver.recv_from(&mut buffer).ok().map(|(_, from)| from))
}

fn connects(from: &Namespace, address: Ipv4Addr, port: u16) -> Result<bool> {
    let to = SocketAddr::from((address, port));
    from.run(|| Ok(TcpStream::connect_timeout(&to, PACKET_LIMIT).is_ok()))
}

#[test]
#[ignore = "makes network namespaces: `make test` runs it where it may"]
fn netns_a_masquerading_router_lets_out_and_not_in() {
    let internet = Internet::new().unwrap();
    let (public, address) = internet.public("public", 1).unwrap();
    let (other, other_address) = internet.public("other", 2).unwrap();
    let home = internet.home("home", 101, Nat::Masquerade).unwrap();
    let symmetric = internet.home("symmetric", 102, Nat::Symmetric).unwrap();
    // Out, and seen under the router's address; the same port for everybody, or another for each.
    let mapped = |home: &owm_e2e::namespaces::Home| -> Result<[SocketAddr; 2]> {
        let first = seen_udp(&home.machine, 4001, &public, address)?.unwrap();
        let second = seen_udp(&home.machine, 4001, &other, other_address)?.unwrap();
        ensure!(first.ip() == home.outside && second.ip() == home.outside);
        Ok([first, second])
    };
    let [first, second] = mapped(&home).unwrap();
    assert_eq!(first, second);
    let [first, second] = mapped(&symmetric).unwrap();
    assert_ne!(first.port(), second.port());
    // Not in: neither by the private address nor by the router's.
    assert_eq!(
        seen_udp(&public, 4001, &home.machine, home.outside).unwrap(),
        None
    );
    let listen = |namespace: &Namespace| {
        namespace.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 6000))?))
    };
    let _inside = listen(&home.machine).unwrap();
    let _outside = listen(&public).unwrap();
    assert!(connects(&home.machine, address, 6000).unwrap());
    assert!(!connects(&public, home.outside, 6000).unwrap());
    assert!(!connects(&public, home.address, 6000).unwrap());
    // The test's own namespace has no part in it.
    let here = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = here.local_addr().unwrap().port();
    assert!(!connects(&public, Ipv4Addr::LOCALHOST, port).unwrap());
}
