//! Nodes' calls over real TLS: what is forged, replayed, expired or meant for another network changes
//! nothing, and the caller is told why.

use owm_coordinator_store::{
    ledger::ledger_total_owed,
    replay::{Sequence, sequence_advance},
};
use owm_proto::{
    Envelope, Msat, NodeKey, Purpose, Sha256, UnixMillis, genesis::NetworkId,
    wire::coordinator::coordinator_client::CoordinatorClient,
};
use owm_service::{
    CancellationToken,
    dialer::{Dialer, NetworkPolicy},
    tls::grpc_channel,
};
use prost::Message as _;
use sqlx::PgPool;
use tonic::{Code, transport::Channel};

use super::*;
use crate::{
    app::testing::{Script, TestApp, app, follow},
    ask::{AnswerEvent, Question, QuestionPrompt},
};

const HOUR_MS: u64 = 3_600_000;

/// A coordinator that serves gRPC on a port.
struct Site {
    app: TestApp,
    addr: String,
    _stop: tokio_util::sync::DropGuard,
}

async fn site(pool: PgPool) -> Site {
    let app = app(pool).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let (served, stopped) = (app.app.clone(), stop.clone());
    tokio::spawn(async move {
        let stopped = stopped.cancelled();
        serve(served, listener, GateMetrics::default(), stopped).await
    });
    Site {
        app,
        addr,
        _stop: stop.drop_guard(),
    }
}

impl Site {
    fn client(&self, key: &NodeKey) -> CoordinatorClient<Channel> {
        let identity = Identity::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
        let dialer = Dialer::new(NetworkPolicy::LoopbackOnly);
        let pinned = self.app.instance().0;
        CoordinatorClient::new(grpc_channel(&dialer, &self.addr, &identity, pinned).unwrap())
    }

    fn now(&self) -> u64 {
        self.app.wall().0
    }

    /// A body signed for this network.
    fn signed(
        &self,
        key: &NodeKey,
        purpose: Purpose,
        body: &impl prost::Message,
    ) -> wire::SignedEnvelope {
        let envelope = Envelope::sign(key, purpose, &self.app.network(), body.encode_to_vec());
        (&envelope).into()
    }
}

/// Another network's id.
fn elsewhere() -> NetworkId {
    NetworkId(Sha256::of(b"another genesis"))
}

fn registration(issued_at_ms: u64, lasts_ms: u64) -> wire::RegisterNodeBody {
    wire::RegisterNodeBody {
        request_id: vec![7; 16],
        issued_at_ms,
        expires_at_ms: issued_at_ms + lasts_ms,
        capabilities: Some(wire::Capabilities::default()),
        ln_node_uri: String::new(),
        software_version: "test".into(),
        owner_binding: vec![],
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn registrations_that_are_not_this_keys_or_of_this_time_are_refused(pool: PgPool) {
    let site = site(pool).await;
    let (alice, mallory) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
    let mut client = site.client(&alice);
    let now = site.now();
    let body = registration(now, 60_000);
    let honest = site.signed(&alice, Purpose::Register, &body);
    let mut altered = honest.clone();
    altered.payload.push(0);
    let mut pretended = site.signed(&mallory, Purpose::Register, &body);
    pretended.public_key.clone_from(&honest.public_key);
    let far = Envelope::sign(
        &alice,
        Purpose::Register,
        &elsewhere(),
        body.encode_to_vec(),
    );
    let old = registration(now - HOUR_MS, 60_000);
    let early = registration(now + HOUR_MS, 60_000);
    let cases = [
        ("altered", altered, Code::PermissionDenied),
        (
            "signed by another",
            site.signed(&mallory, Purpose::Register, &body),
            Code::PermissionDenied,
        ),
        ("in another's name", pretended, Code::PermissionDenied),
        ("of another network", (&far).into(), Code::PermissionDenied),
        (
            "expired",
            site.signed(&alice, Purpose::Register, &old),
            Code::InvalidArgument,
        ),
        (
            "of the future",
            site.signed(&alice, Purpose::Register, &early),
            Code::InvalidArgument,
        ),
        (
            "for another purpose",
            site.signed(&alice, Purpose::Heartbeat, &body),
            Code::InvalidArgument,
        ),
    ];
    let ask = |envelope: &wire::SignedEnvelope| wire::RegisterNodeRequest {
        request: Some(envelope.clone()),
    };
    for (what, envelope, code) in cases {
        let refused = client.register_node(ask(&envelope)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
    }
    let service = NodeService::new(site.app.app.clone());
    let unknown = service.known_node(&alice.public()).await.unwrap_err();
    assert_eq!(
        unknown.code(),
        Code::FailedPrecondition,
        "nothing was written"
    );
    let first = client
        .register_node(ask(&honest))
        .await
        .unwrap()
        .into_inner();
    let again = client
        .register_node(ask(&honest))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, first, "a replay is answered as the first time");
    let stolen = site.client(&mallory).register_node(ask(&honest)).await;
    assert_eq!(stolen.unwrap_err().code(), Code::PermissionDenied);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn heartbeats_count_once_and_never_backwards(pool: PgPool) {
    let site = site(pool).await;
    let (_, key) = site.app.register(1).await;
    let mut client = site.client(&key);
    let now = UnixMillis(site.now()).rounded_for_state().0;
    let beat = |issued_at_ms: u64, sequence: u64| wire::HeartbeatBody {
        issued_at_ms,
        expires_at_ms: issued_at_ms + 300_000,
        sequence,
        session_id: vec![1; 16],
        running_tasks: 0,
        loaded_sha256: vec![],
    };
    let mut send = async |envelope: wire::SignedEnvelope| {
        let request = wire::HeartbeatRequest {
            heartbeat: Some(envelope),
        };
        client.heartbeat(request).await.map(|_| ())
    };
    let signed = |body| site.signed(&key, Purpose::Heartbeat, &body);
    let newest = signed(beat(now, 10));
    send(newest.clone()).await.unwrap();
    send(newest.clone()).await.unwrap();
    let far = Envelope::sign(
        &key,
        Purpose::Heartbeat,
        &elsewhere(),
        beat(now, 11).encode_to_vec(),
    );
    let mut altered = newest;
    altered.signature[0] ^= 1;
    for (what, envelope, code) in [
        (
            "expired",
            signed(beat(now - HOUR_MS, 11)),
            Code::InvalidArgument,
        ),
        ("of another network", (&far).into(), Code::PermissionDenied),
        ("altered", altered, Code::PermissionDenied),
    ] {
        let refused = send(envelope).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
    }
    // Gossip may have brought the one after it first: it is no fault, and counts for nothing.
    send(signed(beat(now, 9))).await.unwrap();
    send(signed(beat(now, 11))).await.unwrap();
    let mut tx = site.app.store.begin("test").await.unwrap();
    let (key, heartbeat) = (key.public(), Purpose::Heartbeat);
    let last = sequence_advance(&mut tx, &key, heartbeat, 11, UnixMillis(now)).await;
    assert_eq!(last.unwrap(), Sequence::Duplicate);
}

fn question() -> Question {
    Question {
        api_key: None,
        sub_model: None,
        prompt: QuestionPrompt::Raw("hello".into()),
        max_tokens: 4,
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: None,
        stop: vec![],
        stream: false,
    }
}

/// Connects as a poller with one slot and takes the first lease.
async fn lease(site: &Site, client: &mut CoordinatorClient<Channel>) -> wire::Lease {
    use wire::{work_down::Message as Say, work_up::Message as Said};
    let say = |message| wire::WorkUp {
        message: Some(message),
    };
    let hello = say(Said::Hello(wire::Hello {
        session_id: vec![1; 16],
        started_at_ms: site.now(),
        software_version: "test".into(),
        running: vec![],
    }));
    let model = site.app.current_model().await.unwrap().unwrap();
    let weights = model
        .manifest
        .weights_sha256(&model.manifest.default_sub_model);
    let offer = say(Said::Offer(wire::Offer {
        role: "infer".into(),
        credits: 1,
        sha256: weights.iter().map(Sha256::to_string).collect(),
    }));
    let poll = |messages, wait_ms| wire::PollWorkRequest {
        messages,
        wait_ms,
        heard: None,
    };
    client
        .poll_work(poll(vec![hello.clone(), offer], 0))
        .await
        .unwrap();
    let heard = client.poll_work(poll(vec![hello], 20_000)).await.unwrap();
    match heard.into_inner().messages.remove(0).message {
        Some(Say::Lease(lease)) => lease,
        other => panic!("{other:?}"),
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn results_are_taken_from_who_has_the_lease_and_paid_once(pool: PgPool) {
    let site = site(pool).await;
    let (_, key) = site.app.register(1).await;
    let (_, thief) = site.app.register(2).await;
    let mut client = site.client(&key);
    // The queue takes a question once a slot is there.
    let (lease, mut asked) = {
        let asking = async {
            loop {
                match site.app.ask(question()).await {
                    Ok(asked) => return asked,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        };
        tokio::join!(lease(&site, &mut client), asking)
    };
    let said = follow(&site.app, &key, &Script::Words(vec!["he", "re"]), &lease);
    let Some(wire::work_up::Message::Result(result)) = said.into_iter().next_back() else {
        panic!("a scripted node ends with a result")
    };
    let submit = |result: &wire::TaskResult| wire::SubmitTaskResultRequest {
        result: Some(result.clone()),
    };
    let stolen = site
        .client(&thief)
        .submit_task_result(submit(&result))
        .await;
    assert_eq!(stolen.unwrap_err().code(), Code::PermissionDenied);
    let stranger = NodeKey::from_seed(&[3; 32]);
    let unknown = site
        .client(&stranger)
        .submit_task_result(submit(&result))
        .await;
    assert_eq!(unknown.unwrap_err().code(), Code::FailedPrecondition);
    let mut altered = result.clone();
    altered.result.as_mut().unwrap().payload.push(0);
    let refused = client.submit_task_result(submit(&altered)).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    for verdict in [
        wire::Verdict::Accepted,
        wire::Verdict::Duplicate,
        wire::Verdict::Duplicate,
    ] {
        let judged = client.submit_task_result(submit(&result)).await.unwrap();
        assert_eq!(judged.into_inner().ack.unwrap().verdict(), verdict);
    }
    assert!(matches!(
        asked.events.recv().await,
        Some(AnswerEvent::Done(_))
    ));
    let mut tx = site.app.store.begin("test").await.unwrap();
    assert_eq!(ledger_total_owed(&mut tx).await.unwrap(), Msat(15_000));
}
