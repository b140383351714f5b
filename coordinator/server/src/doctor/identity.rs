//! The network's documents, the keys and how long they may speak.

use std::path::Path;

use owm_proto::{
    KeyError, NodeKey, UnixMillis,
    genesis::{DelegatedRole, TrustRoot},
};
use owm_service::{
    doctor::{Finding, shell},
    report::Chain,
    secret::SecretFileError,
};

use super::Ground;
use crate::identity::IdentityError;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Before this much time is left, the root key should delegate anew.
const DELEGATION_WARN_MS: u64 = 30 * DAY_MS;
const RESTORE: &str = "restore the folder from a backup (owm-coordinator restore)";

pub(super) fn judge(ground: &Ground) -> Vec<Finding> {
    let dir = &ground.config.identity.dir;
    let mut findings = vec![judge_documents(&ground.trust, dir)];
    let roles = [
        (
            DelegatedRole::Instance,
            "instance.pem",
            "delegation.instance",
        ),
        (DelegatedRole::Release, "release.pem", "delegation.release"),
    ];
    for (role, file, area) in roles {
        let path = dir.join(file);
        let key = NodeKey::load(&path);
        findings.push(judge_key(&key, &path, role));
        if let (Ok(trust), Ok(key)) = (&ground.trust, &key) {
            findings.push(judge_delegation(
                trust,
                role,
                key,
                UnixMillis(ground.now_ms),
                area,
            ));
        }
    }
    if let Err(error) = &ground.vault {
        findings.push(judge_data_key(error, &dir.join("data.key")));
    }
    findings.extend(judge_root(&ground.trust, &dir.join("offline/root.pem")));
    findings
}

fn judge_documents(trust: &Result<TrustRoot, IdentityError>, dir: &Path) -> Finding {
    const AREA: &str = "genesis";
    match trust {
        Ok(trust) => {
            let what = format!("network \"{}\", {}", trust.genesis().name, trust.id());
            Finding::ok(AREA, what)
        }
        Err(IdentityError::Missing(_)) => Finding::problem(
            AREA,
            format!("{} holds no network", shell(dir)),
            format!(
                "owm-coordinator init --dir {} --name <name>, or correct [identity] dir",
                shell(dir)
            ),
        ),
        Err(error) => Finding::problem(AREA, Chain(error).to_string(), RESTORE),
    }
}

fn judge_key(key: &Result<NodeKey, KeyError>, path: &Path, role: DelegatedRole) -> Finding {
    let area = match role {
        DelegatedRole::Instance => "key.instance",
        DelegatedRole::Release => "key.release",
    };
    let file = shell(path);
    match key {
        Ok(key) => Finding::ok(
            area,
            format!("{}, readable by its owner only", key.public()),
        ),
        Err(KeyError::Exposed { mode, .. }) => Finding::problem(
            area,
            format!("{file} has mode {mode:04o}: others on this machine can read the key"),
            format!("chmod 600 {file}"),
        ),
        // A release key may be kept elsewhere: only publishing needs it.
        Err(KeyError::Io { source, .. })
            if role == DelegatedRole::Release && source.kind() == std::io::ErrorKind::NotFound =>
        {
            Finding::ok(area, "not on this machine; publishing a model needs it")
        }
        Err(error) => Finding::problem(area, error.to_string(), RESTORE),
    }
}

fn judge_delegation(
    trust: &TrustRoot,
    role: DelegatedRole,
    key: &NodeKey,
    now: UnixMillis,
    area: &'static str,
) -> Finding {
    let fix = "with the root key: sign a new delegation for this key and put it into delegations/";
    let Some(until) = trust.delegated_until(role, &key.public(), now) else {
        let what = "the root key does not delegate this key now: the delegation has expired, was revoked, or this machine's clock is wrong";
        return Finding::problem(area, what, format!("check the clock; else {fix}"));
    };
    let left_ms = until.0.saturating_sub(now.0);
    let what = format!("holds for {} more days", left_ms / DAY_MS);
    if left_ms < DELEGATION_WARN_MS {
        Finding::warning(area, what, fix)
    } else {
        Finding::ok(area, what)
    }
}

fn judge_data_key(error: &IdentityError, path: &Path) -> Finding {
    const AREA: &str = "key.data";
    let file = shell(path);
    match error {
        IdentityError::Secret(SecretFileError::Exposed { mode, .. }) => Finding::problem(
            AREA,
            format!(
                "{file} has mode {mode:04o}: others on this machine can read users' text with it"
            ),
            format!("chmod 600 {file}"),
        ),
        other => Finding::problem(
            AREA,
            Chain(other).to_string(),
            format!(
                "restore {file} from a backup (owm-coordinator restore): without it stored answers can't be read"
            ),
        ),
    }
}

/// Where there is money, the root key has nothing to seek on a machine that serves.
fn judge_root(trust: &Result<TrustRoot, IdentityError>, path: &Path) -> Option<Finding> {
    let is_main = trust
        .as_ref()
        .is_ok_and(|t| t.genesis().bitcoin_chain == "main");
    let warning = Finding::warning(
        "key.root",
        format!(
            "the root key is still here ({}): whoever takes it takes the network",
            shell(path)
        ),
        format!("mv {} <somewhere offline>", shell(path)),
    );
    (is_main && path.exists()).then_some(warning)
}

#[cfg(test)]
mod tests {
    use owm_proto::genesis::{Delegation, Genesis, network_id};
    use owm_service::doctor::Level;

    use super::*;

    fn world(chain: &str) -> (TrustRoot, NodeKey) {
        let [root, instance] = [1, 2].map(|n| NodeKey::from_seed(&[n; 32]));
        let genesis = Genesis {
            name: "t".into(),
            bitcoin_chain: chain.into(),
            root_public_key: root.public(),
            created_at: UnixMillis(0),
        }
        .to_bytes();
        let delegation = Delegation {
            role: DelegatedRole::Instance,
            key: instance.public(),
            issued_at_ms: UnixMillis(0),
            expires_at_ms: UnixMillis(100 * DAY_MS),
        }
        .sign(&root, &network_id(&genesis));
        let trust = TrustRoot::from_documents(None, &genesis, &[delegation], &[]).unwrap();
        (trust, instance)
    }

    #[test]
    fn a_delegation_holds_ends_soon_or_has_ended() {
        let (trust, key) = world("regtest");
        let level = |role, day: u64| {
            judge_delegation(&trust, role, &key, UnixMillis(day * DAY_MS), "d").level
        };
        assert_eq!(level(DelegatedRole::Instance, 1), Level::Ok);
        assert_eq!(level(DelegatedRole::Instance, 71), Level::Warning);
        assert_eq!(level(DelegatedRole::Instance, 101), Level::Problem);
        assert_eq!(level(DelegatedRole::Release, 1), Level::Problem);
    }

    #[test]
    fn a_key_that_others_can_read_says_how_to_close_it() {
        let path = Path::new("d/instance.pem");
        let exposed = Err(KeyError::Exposed {
            path: path.into(),
            mode: 0o644,
        });
        let finding = judge_key(&exposed, path, DelegatedRole::Instance);
        assert_eq!(finding.fix.as_deref(), Some("chmod 600 d/instance.pem"));
        let missing = || {
            Err(KeyError::Io {
                path: path.into(),
                source: std::io::ErrorKind::NotFound.into(),
            })
        };
        let level = |role| judge_key(&missing(), path, role).level;
        assert_eq!(level(DelegatedRole::Instance), Level::Problem);
        assert_eq!(level(DelegatedRole::Release), Level::Ok);
        let short = IdentityError::DataKey(path.into());
        assert_eq!(judge_data_key(&short, path).level, Level::Problem);
    }

    #[test]
    fn a_root_key_beside_money_is_a_warning() {
        let here = tempfile::NamedTempFile::new().unwrap();
        let judge = |chain| judge_root(&Ok(world(chain).0), here.path());
        assert_eq!(judge("regtest"), None);
        assert_eq!(judge("main").unwrap().level, Level::Warning);
        assert_eq!(judge_root(&Ok(world("main").0), Path::new("/none")), None);
    }
}
