//! `owm-coordinator invite`: one string, and as a QR code, with which a newcomer finds the network, through this
//! coordinator or through any of the peers it names.

use std::{io::IsTerminal as _, time::Duration};

use owm_p2p::Multiaddr;
use owm_proto::{UnixMillis, invite::Invite, limits::INVITE_CHARS_MAX};
use owm_service::RunError;
use serde_json::json;

use super::commands::print;
use crate::{config::Config, identity::Authority, serve, swarm::addresses};

/// Addresses of this coordinator in an invite: more make the QR code larger, not the way in safer.
const OWN_MAX: usize = 4;

/// Of the QR code: screens do not tear, and only so does the longest invite fit.
const LEVEL: qrcode::EcLevel = qrcode::EcLevel::L;

/// Time for the database to name other peers; without them the invite is good too.
const OTHERS_TIME: Duration = Duration::from_secs(5);

pub(super) async fn run(
    config: &Config,
    qr: bool,
    json: bool,
    now: UnixMillis,
) -> Result<(), RunError> {
    let authority = Authority::load(&config.identity.dir, now)?;
    let mut own = addresses::configured(config, &authority.instance.public());
    own.truncate(OWN_MAX);
    let others = others(config, now).await;
    let mut invite = Invite {
        genesis: authority.network(),
        instance_key: authority.instance.public(),
        addresses: config.invite.addresses.clone(),
        onion: None,
        peers: own
            .iter()
            .chain(&others)
            .map(Multiaddr::to_string)
            .collect(),
        web_seed: Some(config.invite.web_seed.clone()),
    };
    let text = fitting(&mut invite);
    if invite.peers.is_empty() && config.p2p.enabled && !json {
        let why = "note: the invite names no peer, so it works only while this coordinator runs: give [p2p] listen fixed ports";
        eprint(why);
    }
    print(
        json,
        &json!({"invite": text, "network": invite.genesis, "peers": invite.peers}),
        &text,
    )?;
    if !json && (qr || std::io::stdout().is_terminal()) {
        let code = qrcode::QrCode::with_error_correction_level(text.to_ascii_uppercase(), LEVEL)
            .map_err(RunError::failed)?;
        let drawn = code.render::<qrcode::render::unicode::Dense1x2>().build();
        print(false, &json!(null), &drawn)?;
    }
    Ok(())
}

fn eprint(text: &str) {
    use std::io::Write as _;
    // A note that nobody can read is no reason to fail.
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// A few nodes that can be reached, if the database knows any.
async fn others(config: &Config, now: UnixMillis) -> Vec<Multiaddr> {
    let Ok(store) = serve::store(config) else {
        return Vec::new();
    };
    let looking = addresses::others(&store, config.p2p.network, now);
    match tokio::time::timeout(OTHERS_TIME, looking).await {
        Ok(Ok(others)) if config.p2p.enabled => others,
        _ => Vec::new(),
    }
}

/// The string, without the last peers if it would be too long for a QR code.
fn fitting(invite: &mut Invite) -> String {
    loop {
        let text = invite.to_string();
        if text.len() <= INVITE_CHARS_MAX || invite.peers.pop().is_none() {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::{NodeKey, Sha256, genesis::NetworkId};

    use super::*;

    #[test]
    fn an_invite_with_peers_fits_a_qr_code_and_loses_the_last_ones_first() {
        let mut invite = Invite {
            genesis: NetworkId(Sha256::of(b"g")),
            instance_key: NodeKey::from_seed(&[7; 32]).public(),
            addresses: vec!["coordinator.example.org:9000".into()],
            onion: None,
            peers: (0..OWN_MAX + addresses::OTHERS_MAX)
                .map(|n| {
                    format!(
                        "/ip6/2001:db8:1:2:3:4:5:{n}/udp/4001/quic-v1/p2p/{}",
                        owm_p2p::PeerId::random()
                    )
                })
                .collect(),
            web_seed: Some("https://coordinator.example.org".into()),
        };
        let whole = invite.peers.clone();
        let text = fitting(&mut invite);
        assert_eq!(invite.peers, whole, "a usual invite loses none");
        qrcode::bits::encode_auto(text.to_ascii_uppercase().as_bytes(), LEVEL).unwrap();
        assert_eq!(text.parse(), Ok(invite.clone()));
        invite.peers = (0..100).flat_map(|_| whole.clone()).collect();
        let text = fitting(&mut invite);
        assert!(text.len() <= INVITE_CHARS_MAX && invite.peers.len() > 7);
        qrcode::bits::encode_auto(text.to_ascii_uppercase().as_bytes(), LEVEL).unwrap();
    }
}
