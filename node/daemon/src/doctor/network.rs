//! The network: the invite, the documents on the disk and at the coordinator, who may speak for it and
//! how long.

use owm_proto::{
    UnixMillis,
    genesis::{DelegatedRole, NetworkId, TrustRoot},
    invite::Invite,
};
use owm_service::doctor::{Finding, shell};

use super::{Ground, address::Reached, documents};
use crate::{
    home::Home,
    network::{Network, NetworkError},
};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Before this much time is left, the operator should have delegated anew.
const DELEGATION_WARN_MS: u64 = 30 * DAY_MS;

/// The documents on the disk.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) network: Result<Network, NetworkError>,
}

impl Known {
    pub(super) fn probe(home: &Home, invite: Option<&Invite>) -> Self {
        let expected = invite.map(|invite| invite.genesis);
        Self {
            network: Network::load(&home.network(), expected),
        }
    }
}

/// The first coordinator's documents that hold.
pub(super) fn live(ground: &Ground, reached: &[Reached]) -> Option<Network> {
    let expected = ground.invite.as_ref()?.genesis;
    let mut documents = reached.iter().filter_map(|r| r.documents.clone());
    documents.find_map(|documents| Network::verify(Some(expected), documents).ok())
}

pub(super) fn judge(ground: &Ground, reached: &[Reached]) -> Vec<Finding> {
    if !ground.parsed {
        return Vec::new(); // `settings` has told; what the file says of the invite is not known.
    }
    let file = shell(&ground.path);
    let (invite, finding) = judge_invite(&ground.config.coordinator.invite, &file);
    let mut findings = vec![finding];
    let Some(invite) = invite else {
        return findings;
    };
    findings.push(judge_known(&ground.known.network, &invite.genesis, &file));
    for reached in reached {
        let Some(documents) = reached.documents.clone() else {
            continue;
        };
        if let Err(error) = Network::verify(Some(invite.genesis), documents) {
            findings.push(Finding::problem(
                "network",
                format!(
                    "{} serves another network or false documents: {error}",
                    reached.target
                ),
                new_invite(&file),
            ));
        }
    }
    let live = live(ground, reached);
    if let Some(network) = documents(ground, live.as_ref()) {
        let now = UnixMillis(ground.now_ms);
        findings.push(judge_delegation(&network.trust, &invite, now, &file));
    }
    findings
}

fn new_invite(file: &str) -> String {
    format!(
        "ask the operator for the invite (owm-coordinator invite prints it) and write it to [coordinator] invite in {file}"
    )
}

fn judge_invite(text: &str, file: &str) -> (Option<Invite>, Finding) {
    const AREA: &str = "invite";
    if text.is_empty() {
        let what = "[coordinator] invite is empty: the node knows no network";
        return (None, Finding::problem(AREA, what, new_invite(file)));
    }
    match text.parse::<Invite>() {
        Ok(invite) if invite.addresses.is_empty() => {
            let what = "the invite names no address";
            (None, Finding::problem(AREA, what, new_invite(file)))
        }
        Ok(invite) => {
            let what = format!(
                "whole; network {}, {}",
                invite.genesis,
                invite.addresses.join(", ")
            );
            (Some(invite), Finding::ok(AREA, what))
        }
        Err(error) => (
            None,
            Finding::problem(AREA, error.to_string(), new_invite(file)),
        ),
    }
}

fn judge_known(known: &Result<Network, NetworkError>, id: &NetworkId, file: &str) -> Finding {
    const AREA: &str = "genesis";
    match known {
        Ok(network) => {
            let name = &network.trust.genesis().name;
            let what = format!("the documents on the disk are the invite's network, \"{name}\"");
            Finding::ok(AREA, what)
        }
        Err(NetworkError::Missing { .. }) => Finding::ok(
            AREA,
            format!("no documents on the disk yet; the first connection brings network {id}"),
        ),
        Err(NetworkError::Documents(owm_proto::genesis::GenesisError::WrongNetwork {
            got,
            ..
        })) => Finding::problem(
            AREA,
            format!("this node belongs to network {got}, the invite is for {id}"),
            format!(
                "one folder, one network: put the old invite back into {file}, or make another node: owm-node init --join <invite> --dir <other folder>"
            ),
        ),
        Err(error) => Finding::warning(
            AREA,
            format!("the documents on the disk are not usable: {error}"),
            "start the node while the coordinator can be reached: it fetches them again",
        ),
    }
}

/// Whether the invite's key may speak for the network, and how long.
fn judge_delegation(trust: &TrustRoot, invite: &Invite, now: UnixMillis, file: &str) -> Finding {
    const AREA: &str = "delegation";
    let key = &invite.instance_key;
    match trust.delegated_until(DelegatedRole::Instance, key, now) {
        None => Finding::problem(
            AREA,
            format!(
                "the coordinator's key {} is not delegated by the network's root key now (expired, revoked, or this machine's clock is wrong)",
                key.short()
            ),
            format!("check the clock; else {}", new_invite(file)),
        ),
        Some(until) => {
            let left_ms = until.0.saturating_sub(now.0);
            let days = left_ms / DAY_MS;
            let what = format!("the coordinator's key holds for {days} more days");
            if left_ms < DELEGATION_WARN_MS {
                let fix = "tell the operator: the root key has to delegate the instance key anew";
                Finding::warning(AREA, what, fix)
            } else {
                Finding::ok(AREA, what)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::{
        NodeKey,
        genesis::{Delegation, Genesis, network_id},
    };
    use owm_service::doctor::Level;

    use super::*;

    fn world(expires: u64) -> (TrustRoot, Invite) {
        let [root, instance] = [1, 2].map(|n| NodeKey::from_seed(&[n; 32]));
        let genesis = Genesis {
            name: "t".into(),
            bitcoin_chain: "regtest".into(),
            root_public_key: root.public(),
            created_at: UnixMillis(0),
        }
        .to_bytes();
        let id = network_id(&genesis);
        let delegation = Delegation {
            role: DelegatedRole::Instance,
            key: instance.public(),
            issued_at_ms: UnixMillis(0),
            expires_at_ms: UnixMillis(expires),
        };
        let delegations = [delegation.sign(&root, &id)];
        let trust = TrustRoot::from_documents(None, &genesis, &delegations, &[]).unwrap();
        let invite = Invite {
            genesis: id,
            instance_key: instance.public(),
            addresses: vec!["127.0.0.1:9000".into()],
            onion: None,
            peers: vec![],
            web_seed: None,
        };
        (trust, invite)
    }

    #[test]
    fn a_delegation_holds_ends_soon_or_has_ended() {
        let (trust, invite) = world(100 * DAY_MS);
        let level =
            |day| judge_delegation(&trust, &invite, UnixMillis(day * DAY_MS), "owm.toml").level;
        assert_eq!(level(1), Level::Ok);
        assert_eq!(level(71), Level::Warning);
        assert_eq!(level(100), Level::Problem);
    }

    #[test]
    fn an_invite_is_whole_or_says_where_to_write_another() {
        let (_, invite) = world(1);
        let text = invite.to_string();
        let judge = |text: &str| judge_invite(text, "owm.toml").1;
        assert_eq!(judge(&text).level, Level::Ok);
        for wrong in ["", "owm1abc", "hello", &text[..text.len() - 2]] {
            let finding = judge(wrong);
            assert_eq!(finding.level, Level::Problem, "{wrong}");
            assert!(finding.fix.unwrap().contains("owm.toml"));
        }
    }

    #[test]
    fn a_folder_of_another_network_is_a_problem() {
        let (_, invite) = world(1);
        let wrong = owm_proto::genesis::GenesisError::WrongNetwork {
            expected: invite.genesis,
            got: network_id(b"other"),
        };
        let level = |known| judge_known(&known, &invite.genesis, "owm.toml").level;
        assert_eq!(level(Err(NetworkError::Documents(wrong))), Level::Problem);
        let missing = NetworkError::Missing {
            folder: String::new(),
        };
        assert_eq!(level(Err(missing)), Level::Ok);
        let damaged = NetworkError::Damaged {
            file: String::new(),
        };
        assert_eq!(level(Err(damaged)), Level::Warning);
    }
}
