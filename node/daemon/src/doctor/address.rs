//! The coordinator's addresses: name, TCP, TLS with the pinned key, protocol, each a finding of its own;
//! what comes after the stage that failed is left out.

use std::time::Duration;

use owm_proto::{
    invite::Invite,
    limits::GRPC_MESSAGE_BYTES_MAX,
    wire::coordinator::{
        GetModelVersionRequest, GetModelVersionResponse, GetNetworkRequest, GetNetworkResponse,
        coordinator_client::CoordinatorClient,
    },
};
use owm_service::{
    clock::SharedClock,
    dialer::{DialError, Dialer, Layer, NetworkPolicy, TcpConnector, split_host_port},
    doctor::{Finding, clock::Compared, shell},
    report::Chain,
    tls::{self, ConnectFailure, GrpcOptions, Identity},
};
use tonic::{Code, Request, Status};

use super::Ground;

/// Time for the name.
const NAME_TIME: Duration = Duration::from_secs(5);
/// Time for TCP, and again for TLS.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Time for one call, connecting included.
const CALL_TIME: Duration = Duration::from_secs(12);

/// The stages in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Name,
    Tcp,
    Tls,
    Version,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Name, Self::Tcp, Self::Tls, Self::Version];

    const fn area(self) -> &'static str {
        match self {
            Self::Name => "address.name",
            Self::Tcp => "address.tcp",
            Self::Tls => "address.tls",
            Self::Version => "address.version",
        }
    }
}

/// Which model version the coordinator has.
#[derive(Debug)]
pub(super) enum Published {
    /// It could not be asked.
    Unknown,
    /// None.
    Nothing,
    /// This one.
    Newest(Box<GetModelVersionResponse>),
}

/// What came of one address.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) target: String,
    /// Where it ended, and why; `None`: it went through.
    failed: Option<(Stage, String)>,
    /// The network's documents.
    pub(super) documents: Option<GetNetworkResponse>,
    /// The newest version's manifest.
    pub(super) manifest: Published,
    /// The clocks.
    pub(super) compared: Option<Compared>,
}

/// Goes through the stages, then asks for what the other checks compare with.
pub(super) async fn reach(
    target: &str,
    invite: &Invite,
    identity: &Identity,
    time: &SharedClock,
) -> Reached {
    let mut reached = Reached {
        target: target.to_owned(),
        failed: None,
        documents: None,
        manifest: Published::Unknown,
        compared: None,
    };
    let work = talk(&mut reached, invite, identity, time);
    if let Err(failed) = work.await {
        reached.failed = Some(failed);
    }
    reached
}

async fn talk(
    reached: &mut Reached,
    invite: &Invite,
    identity: &Identity,
    time: &SharedClock,
) -> Result<(), (Stage, String)> {
    let target = reached.target.clone();
    let malformed = || (Stage::Name, format!("`{target}` is not host:port"));
    let (host, port) = split_host_port(&target).ok_or_else(malformed)?;
    let resolving = TcpConnector::new(NetworkPolicy::Clearnet);
    resolved(resolving.resolve(host, port), NAME_TIME).await?;
    let dialer = Dialer::new(NetworkPolicy::Clearnet);
    let dialled = dialer.dial(host, port, CONNECT_TIME).await;
    drop(dialled.map_err(|error| (dial_stage(&error), Chain(&error).to_string()))?);
    let options = GrpcOptions {
        connect_timeout: CONNECT_TIME,
        ..GrpcOptions::default()
    };
    let channel =
        tls::grpc_channel_with(&dialer, &target, identity, invite.instance_key.0, options)
            .map_err(|_| malformed())?;
    let mut client =
        CoordinatorClient::new(channel).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    let begin = time.now_ms();
    let answer = timely(client.get_network(Request::new(GetNetworkRequest {}))).await;
    let answer = answer.map_err(|status| call_failure(&status))?;
    let date = answer
        .metadata()
        .get("date")
        .and_then(|date| date.to_str().ok());
    reached.compared = date.and_then(|date| Compared::from_date(begin, time.now_ms(), date));
    reached.documents = Some(answer.into_inner());
    let newest = GetModelVersionRequest {
        version: String::new(),
    };
    reached.manifest = match timely(client.get_model_version(Request::new(newest))).await {
        Ok(answer) => Published::Newest(Box::new(answer.into_inner())),
        Err(status) if status.code() == Code::NotFound => Published::Nothing,
        Err(_) => Published::Unknown,
    };
    Ok(())
}

async fn timely<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = || Status::deadline_exceeded(format!("no answer within {} s", CALL_TIME.as_secs()));
    let outcome = tokio::time::timeout(CALL_TIME, call).await;
    outcome.unwrap_or_else(|_| Err(late()))
}

/// By itself and within its own time, so that a dial that is late afterwards was late at TCP.
async fn resolved<T>(
    resolving: impl Future<Output = Result<T, DialError>>,
    time: Duration,
) -> Result<(), (Stage, String)> {
    match tokio::time::timeout(time, resolving).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err((dial_stage(&error), Chain(&error).to_string())),
        Err(_) => {
            let seconds = time.as_secs();
            let why = format!("the name is not resolved within {seconds} s (does DNS work?)");
            Err((Stage::Name, why))
        }
    }
}

const fn dial_stage(error: &DialError) -> Stage {
    match error.layer() {
        Layer::Policy | Layer::Name => Stage::Name,
        _ => Stage::Tcp,
    }
}

/// After TCP has worked: TLS, or what is spoken above it.
fn call_failure(status: &Status) -> (Stage, String) {
    match tls::connect_failure(status) {
        Some(ConnectFailure { layer, message }) => match layer {
            Layer::Tls => (Stage::Tls, message),
            Layer::Timeout if message.contains("TLS") => (Stage::Tls, message),
            Layer::Policy | Layer::Name => (Stage::Name, message),
            Layer::Tcp => (Stage::Tcp, message),
            Layer::Http2 | Layer::Timeout => (Stage::Version, message),
        },
        None => (
            Stage::Version,
            format!("{:?}: {}", status.code(), status.message()),
        ),
    }
}

/// A finding for each stage up to the one that failed.
pub(super) fn judge(reached: &Reached, ground: &Ground) -> Vec<Finding> {
    let file = shell(&ground.path);
    let failed = reached.failed.as_ref();
    judge_stages(&reached.target, failed, &file)
}

fn judge_stages(target: &str, failed: Option<&(Stage, String)>, file: &str) -> Vec<Finding> {
    let until = failed.map_or(Stage::Version, |(stage, _)| *stage);
    let stages = Stage::ALL.into_iter().filter(|stage| *stage <= until);
    let one = |stage: Stage| match failed {
        Some((at, why)) if *at == stage => {
            let what = if why.starts_with(target) {
                why.clone()
            } else {
                format!("{target}: {why}")
            };
            Finding::problem(stage.area(), what, fix(stage, target, file))
        }
        _ => Finding::ok(stage.area(), format!("{target}: {}", went_well(stage))),
    };
    stages.map(one).collect()
}

const fn went_well(stage: Stage) -> &'static str {
    match stage {
        Stage::Name => "the name resolves",
        Stage::Tcp => "TCP connects",
        Stage::Tls => "TLS 1.3 with the invite's key",
        Stage::Version => "speaks owm.coordinator.v1",
    }
}

fn fix(stage: Stage, target: &str, file: &str) -> String {
    let anew = format!(
        "ask the operator for a new invite (owm-coordinator invite) and write it to [coordinator] invite in {file}"
    );
    match stage {
        Stage::Name => format!("check DNS (`getent hosts …`) and the spelling; if {target} is outdated, {anew}"),
        Stage::Tcp => format!(
            "check that the coordinator runs there (owm-coordinator doctor) and no firewall is between; if the port is another one now, {anew}"
        ),
        Stage::Tls => format!("another server, or another network's invite: {anew}"),
        Stage::Version => {
            "update owm-node to the coordinator's version; if it is the newer one, tell the operator".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use owm_service::doctor::Level;

    use super::*;

    fn judged(failed: Option<(Stage, &str)>) -> Vec<(&'static str, Level)> {
        let failed = failed.map(|(stage, why)| (stage, why.to_owned()));
        let findings = judge_stages("c:9000", failed.as_ref(), "owm.toml");
        findings.iter().map(|f| (f.area, f.level)).collect()
    }

    #[test]
    fn each_stage_is_a_finding_up_to_the_one_that_fails() {
        use Level::{Ok, Problem};
        assert_eq!(judged(None).len(), 4);
        assert!(judged(None).iter().all(|(_, level)| *level == Ok));
        assert_eq!(
            judged(Some((Stage::Name, "no such name"))),
            [("address.name", Problem)]
        );
        assert_eq!(
            judged(Some((Stage::Tls, "another key"))),
            [
                ("address.name", Ok),
                ("address.tcp", Ok),
                ("address.tls", Problem)
            ]
        );
    }

    #[test]
    fn a_name_that_is_not_resolved_in_time_is_the_name_s_stage() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let hangs = std::future::pending::<Result<(), DialError>>();
        let (stage, why) = runtime
            .block_on(resolved(hangs, Duration::ZERO))
            .unwrap_err();
        assert_eq!(stage, Stage::Name);
        assert!(why.contains("DNS"), "{why}");
    }

    #[test]
    fn a_refusal_of_the_call_is_the_protocol_s_stage() {
        let (stage, why) = call_failure(&Status::unimplemented("no such call"));
        assert_eq!(stage, Stage::Version);
        assert!(why.contains("no such call"));
    }
}
