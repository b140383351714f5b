//! What a newcomer may find outside: names, closed ports, strangers, silence. All on loopback.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
};

use futures::future::BoxFuture;
use owm_p2p::{Multiaddr, bootstrap::Resolver};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";

/// Knows some names; a name without addresses is never answered.
#[derive(Debug, Default)]
pub(crate) struct Names(pub(crate) BTreeMap<String, Vec<IpAddr>>);

impl Names {
    pub(crate) fn localhost() -> Self {
        Self([("localhost".to_owned(), vec![Ipv4Addr::LOCALHOST.into()])].into())
    }

    pub(crate) fn silent() -> Self {
        Self([("localhost".to_owned(), Vec::new())].into())
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            match self.0.get(name) {
                Some(addresses) if addresses.is_empty() => std::future::pending().await,
                Some(addresses) => Ok(addresses.clone()),
                None => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
            }
        })
    }
}

fn of_port(port: u16) -> Multiaddr {
    format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
}

/// Nobody listens there. The port stays taken until the test's process ends, so that nobody else gets it.
pub(crate) async fn closed_port() -> Multiaddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::mem::forget(socket);
    of_port(port)
}

/// Takes connections and says nothing.
pub(crate) async fn black_hole() -> (Multiaddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (of_port(listener.local_addr().unwrap().port()), listener)
}

/// Says what it hears.
pub(crate) async fn echo() -> (Multiaddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = of_port(listener.local_addr().unwrap().port());
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 1024];
            while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                if stream.write_all(&bytes[..n]).await.is_err() {
                    break;
                }
            }
        }
    });
    (address, task)
}
