//! `coordinator.toml`: one struct per section, every key documented; `owm-coordinator init` writes the
//! generated sample.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use owm_coordinator_domain::node::{AdmissionPolicy, StakePolicy, TierMinima};
use owm_p2p::Multiaddr;
use owm_proto::{Msat, Sats, Tier};
use owm_service::{
    config::{HumanBytes, HumanDuration},
    dialer::NetworkPolicy,
    gate::GateLimits,
    tls::{
        CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX,
        TlsLimits,
    },
};
use serde::{Deserialize, Serialize};

use crate::{api, http::HttpLimits};

/// Where the swarm listens by default (spec §4).
const LISTEN: [&str; 4] = [
    "/ip4/0.0.0.0/udp/4001/quic-v1",
    "/ip4/0.0.0.0/tcp/4001",
    "/ip6/::/udp/4001/quic-v1",
    "/ip6/::/tcp/4001",
];

owm_service::config! {
    /// A coordinator's configuration.
    pub struct Config {
        /// Where its keys and documents are.
        pub identity: IdentitySection,
        /// Its Postgres.
        pub database: DatabaseSection,
        /// gRPC for nodes.
        pub rpc: RpcSection,
        /// The public HTTP API.
        pub api: ApiSection,
        /// The object store of published files.
        pub blobs: BlobsSection,
        /// The swarm: this coordinator is one peer among its nodes.
        pub p2p: P2pSection,
        /// The loopback port for `/livez`, `/readyz` and `/metrics`.
        pub health: HealthSection,
        /// The socket for `owm-coordinator log-level`.
        pub control: ControlSection,
        /// What invites say.
        pub invite: InviteSection,
        /// Who is admitted.
        pub policy: PolicySection,
        /// How work is handed out.
        pub scheduler: SchedulerSection,
        /// What work earns.
        pub rewards: RewardsSection,
        /// Training: where updates lie.
        pub rounds: RoundsSection,
    }

    /// Where its keys and documents are.
    pub struct IdentitySection {
        /// The folder that `owm-coordinator init` made.
        pub dir: PathBuf = PathBuf::from("."),
    }

    /// Its Postgres.
    pub struct DatabaseSection {
        /// Connection URL, for one without a password.
        pub url: String = "postgres:///owm".to_owned(),
        /// A file (mode 0600) that holds the URL, for one with a password; wins over `url`.
        pub url_file: Option<PathBuf> = None,
        /// Connections at once.
        pub connections_max: u32 = 16,
    }

    /// gRPC for nodes (mutual TLS 1.3).
    pub struct RpcSection {
        /// Address and port to listen on.
        pub listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9000)),
        /// Nodes' connections at the same time; each takes some 48 KB and an open file.
        pub connections_max: u32 = CONNECTIONS_MAX as u32,
        /// Of these from one IPv4 address or IPv6 /64. Loopback (an onion service) counts against
        /// `connections_max` only.
        pub connections_per_address: u32 = CONNECTIONS_PER_ADDRESS_MAX as u32,
        /// TLS handshakes at the same time. When all are taken, the oldest unfinished one is thrown out.
        pub handshakes_max: u32 = HANDSHAKES_MAX as u32,
        /// Of these from one address; loopback as above.
        pub handshakes_per_address: u32 = HANDSHAKES_PER_ADDRESS_MAX as u32,
    }

    /// The public HTTP API.
    pub struct ApiSection {
        /// Address and port to listen on.
        pub listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)),
        /// No API key asked. Devnet only: refused off loopback and for forwarded requests.
        pub open: bool = false,
        /// Connections at the same time. When all are taken, the one that has been idle for the longest
        /// makes room; one with a request in work never does.
        pub connections_max: u32 = 1_024,
        /// Of these from one IPv4 address or IPv6 /64. Loopback (a proxy in front, a devnet) counts
        /// against `connections_max` only: let a proxy limit its clients.
        pub connections_per_address: u32 = 64,
        /// How long a request's head may take to arrive, and how long a connection may be idle.
        pub head_timeout: HumanDuration = HumanDuration::from_secs(20),
        /// How long a reader may take nothing of an answer that is ready before he is cut off.
        pub stall_timeout: HumanDuration = HumanDuration::from_secs(60),
        /// Requests in work at once, streamed answers and downloads included; more are told to come
        /// again.
        pub requests_max: u32 = api::REQUESTS_MAX,
        /// Questions of one asker at once, after a rest.
        pub questions_burst: u32 = api::QUESTIONS.burst,
        /// Questions of one asker per second for good.
        pub questions_per_second: u32 = api::QUESTIONS.per_second,
    }

    /// The object store of published files.
    pub struct BlobsSection {
        /// A local folder; files are named by their SHA-256.
        pub dir: PathBuf = PathBuf::from("blobs"),
    }

    /// The swarm: this coordinator is one peer among its nodes. It hears their heartbeats, and serves newcomers
    /// the network's documents and the newest checkpoint.
    pub struct P2pSection {
        /// Whether it takes part. Without, it hears only nodes that call it, and invites name no peer.
        pub enabled: bool = true,
        /// Where it connects to and listens: `clearnet`: anywhere; `loopback_only`: on this machine only.
        pub network: NetworkPolicy = NetworkPolicy::Clearnet,
        /// Where it listens. A port that is taken stops the start. Open it in the firewall, UDP and TCP.
        pub listen: Vec<Multiaddr> = LISTEN.map(|text| text.parse().expect("a constant of ours")).to_vec(),
        /// Where it can be reached from outside, if that is not the host of `[invite] addresses`:
        /// `["/ip4/203.0.113.7/udp/4001/quic-v1"]`.
        pub external: Vec<Multiaddr> = Vec::new(),
        /// Peers to begin with: addresses that end in `/p2p/12D3KooW…`. Another coordinator of the network is
        /// a good one.
        pub peers: Vec<Multiaddr> = Vec::new(),
        /// Names under which peers listen on port 4001: `["seed.example.org"]`.
        pub dns: Vec<String> = Vec::new(),
        /// Finds peers in the local network, which tells everybody there that a coordinator runs here.
        pub mdns: bool = false,
        /// Carries connections for peers behind NAT.
        pub relay: bool = true,
        /// Connections at most, in both directions.
        pub connections_max: u32 = 1_024,
        /// Shards of the heartbeat and capability topics: a power of two, one for each 1,000 nodes or so. All
        /// peers follow the number that a coordinator signed last: give all coordinators the same.
        pub shards: u32 = 1,
        /// How often a node tells its peers what it has and holds, if nothing changes. All peers follow, as
        /// with `shards`. (`[scheduler] heartbeat` is how often it tells that it lives.)
        pub capability: HumanDuration = HumanDuration::from_secs(600),
    }

    /// The loopback health port.
    pub struct HealthSection {
        /// Address and port to listen on; loopback only.
        pub listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9090)),
    }

    /// What invites say.
    pub struct InviteSection {
        /// `host:port` of gRPC as nodes reach it.
        pub addresses: Vec<String> = vec!["127.0.0.1:9000".to_owned()],
        /// Base URL of the public API as nodes reach it; published files are fetched from there.
        pub web_seed: String = "http://127.0.0.1:8080".to_owned(),
    }

    /// Who is admitted.
    pub struct PolicySection {
        /// Admits nodes without a GPU, as t1, for tasks that a CPU can do.
        pub allow_cpu: bool = false,
        /// `required` or `not required`. Until a treasury is connected only `not required` works, and
        /// it is shown in status and API.
        pub stake: StakeSetting = StakeSetting::NotRequired,
        /// Where stake channels go (pubkey@host:port); with `required`.
        pub treasury_uri: String = String::new(),
        /// Overrides of the tiers' minima: `minima.t1 = { vram_bytes = 0, ram_bytes = 0, bandwidth_kbps = 0 }`.
        pub minima: BTreeMap<Tier, TierMinima> = BTreeMap::new(),
    }

    /// The socket for `owm-coordinator log-level`: this user only, mode 0600.
    pub struct ControlSection {
        /// Where; relative to this file's folder. At most 100 characters in all.
        pub socket: PathBuf = PathBuf::from("control.sock"),
    }

    /// How work is handed out.
    pub struct SchedulerSection {
        /// How long a node may take for one attempt.
        pub lease: HumanDuration = HumanDuration::from_secs(60),
        /// When a question fails for good.
        pub deadline: HumanDuration = HumanDuration::from_secs(180),
        /// How long a lost Work stream may take to come back before its leases move on.
        pub stream_lost: HumanDuration = HumanDuration::from_secs(30),
        /// How often nodes send a heartbeat, to us and to their peers; whole seconds.
        pub heartbeat: HumanDuration = HumanDuration::from_secs(60),
    }

    /// Training: where updates lie.
    pub struct RoundsSection {
        /// The folder in which nodes' updates wait; files are named by their SHA-256.
        pub spool: PathBuf = PathBuf::from("spool"),
        /// Bytes that may lie there; more updates are told to come again.
        pub spool_max: HumanBytes = HumanBytes::new(16 << 30),
        /// The folder in which each round's updates, delta and residue are kept, for `round replay`. What is older
        /// than the newest round of each sub-model may be deleted.
        pub archive: PathBuf = PathBuf::from("rounds"),
        /// How long an update stays there that no open evaluation needs.
        pub spool_kept: HumanDuration = HumanDuration::from_secs(7 * 86_400),
        /// Bytes of such updates that stay; the oldest go first.
        pub spool_kept_max: HumanBytes = HumanBytes::new(8 << 30),
        /// The slowest line that an update is taken from: bytes per second, on the average of a window.
        pub upload_rate_min: HumanBytes = HumanBytes::new(16 << 10),
        /// How long such a window is.
        pub upload_window: HumanDuration = HumanDuration::from_secs(60),
        /// How long after its lease's end the last byte of an update that was committed on time may come.
        pub upload_grace: HumanDuration = HumanDuration::from_secs(1_800),
    }

    /// What work earns. Booked as owed; nothing is paid yet.
    pub struct RewardsSection {
        /// Satoshi for one unit of t1 inference at full quality.
        pub base_rate_sats: u64 = 10,
    }
}

/// Whether stake is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StakeSetting {
    /// No stake is looked at.
    #[serde(rename = "not required")]
    NotRequired,
    /// The tier's minimum must be staked.
    #[serde(rename = "required")]
    Required,
}

impl Config {
    /// Makes relative paths relative to the file at `file`, wherever the command is run.
    pub fn resolve(&mut self, file: &Path) {
        let base = file.parent().unwrap_or(Path::new("."));
        let absolute = |path: &mut PathBuf| {
            if path.is_relative() {
                *path = base.join(&*path);
            }
        };
        absolute(&mut self.identity.dir);
        absolute(&mut self.blobs.dir);
        absolute(&mut self.control.socket);
        absolute(&mut self.rounds.spool);
        absolute(&mut self.rounds.archive);
        self.database.url_file.as_mut().map(absolute);
    }
}

impl RpcSection {
    /// As the listener takes them.
    pub fn limits(&self) -> TlsLimits {
        TlsLimits {
            handshakes: gate(self.handshakes_max, self.handshakes_per_address),
            connections: gate(self.connections_max, self.connections_per_address),
            ..TlsLimits::default()
        }
    }
}

impl ApiSection {
    /// As the listener takes them.
    pub fn limits(&self) -> HttpLimits {
        HttpLimits {
            connections: gate(self.connections_max, self.connections_per_address),
            head_timeout: self.head_timeout.get(),
            stall_timeout: self.stall_timeout.get(),
        }
    }
}

fn gate(total: u32, per_address: u32) -> GateLimits {
    GateLimits::new(total as usize, per_address as usize)
}

impl PolicySection {
    /// As the domain takes it.
    pub fn admission(&self) -> AdmissionPolicy {
        AdmissionPolicy {
            allow_cpu: self.allow_cpu,
            minima: self.minima.clone(),
        }
    }

    /// As the domain takes it.
    pub fn stake_policy(&self) -> StakePolicy {
        match self.stake {
            StakeSetting::NotRequired => StakePolicy::NotRequired,
            StakeSetting::Required => StakePolicy::Required {
                treasury_uri: self.treasury_uri.clone(),
            },
        }
    }
}

impl RewardsSection {
    /// In millisatoshi; saturates far beyond all bitcoin.
    pub fn base_rate(&self) -> Msat {
        Sats(self.base_rate_sats)
            .to_msat()
            .unwrap_or(Msat(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_reads_back_as_the_defaults() {
        let sample = owm_service::config::sample::<Config>();
        let parsed: Config = owm_service::config::parse(&sample, "OWM", []).unwrap();
        assert_eq!(parsed.api.listen, ApiSection::default().listen);
        assert!(!parsed.api.open);
    }
}
