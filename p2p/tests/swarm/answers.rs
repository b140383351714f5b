//! Answers to Meet that hold more than was asked for.

use std::sync::Arc;

use futures::StreamExt as _;
use libp2p::{
    request_response::{Event, Message},
    swarm::SwarmEvent,
};
use owm_p2p::{Multiaddr, SwarmView, meet};
use owm_proto::{
    NodeKey, PublicKey,
    wire::{
        coordinator::SignedEnvelope,
        gossip::{MeetRequest, MeetResponse},
    },
};
use tokio::sync::oneshot;

use crate::{
    hostile::swarm_of,
    world::{TCP, World},
};

/// Asks `target` with `question`, and answers its questions; `surplus` to the first one that asks for no node. Tells
/// then how many it has answered, and stays.
async fn lie(
    world: Arc<World>,
    key: NodeKey,
    target: Multiaddr,
    question: MeetRequest,
    surplus: Vec<SignedEnvelope>,
    answered: oneshot::Sender<u64>,
) {
    let mut swarm = swarm_of(&key, meet::behaviour(&world.network));
    swarm.dial(target).unwrap();
    let (mut answers, mut answered) = (0, Some(answered));
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                let question = question.clone();
                swarm.behaviour_mut().send_request(&peer_id, question);
            }
            SwarmEvent::Behaviour(Event::Message {
                message:
                    Message::Request {
                        request, channel, ..
                    },
                ..
            }) => {
                let mut answer = MeetResponse {
                    software_version: "liar".to_owned(),
                    ..MeetResponse::default()
                };
                answers += 1;
                if request.nodes_max == 0
                    && let Some(answered) = answered.take()
                {
                    answer.capabilities.clone_from(&surplus);
                    answered.send(answers).unwrap();
                }
                swarm
                    .behaviour_mut()
                    .send_response(channel, answer)
                    .unwrap();
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn of_an_answer_no_more_is_believed_than_was_asked_for() {
    let world = Arc::new(World::new("surplus"));
    let alice = world.peer(31, TCP);
    let target = alice.address().await;
    let [liar, one, other] = [66, 67, 68].map(|n| NodeKey::from_seed(&[n; 32]));
    // It claims a checkpoint that nobody has, so that it is asked for it, and for nothing else.
    let claim = world.capability_naming(&liar, 1, 9);
    let question = MeetRequest {
        capability: Some((&claim).into()),
        software_version: "liar".to_owned(),
        ..MeetRequest::default()
    };
    let surplus = [&one, &other].map(|key| (&world.capability(key, 1)).into());
    let (tell, answered) = oneshot::channel();
    let liar_itself = liar.public();
    let lying = lie(
        world.clone(),
        liar,
        target,
        question,
        surplus.to_vec(),
        tell,
    );
    let lying = tokio::spawn(lying);
    let answered = answered.await.unwrap();
    let heard = |counts: &owm_p2p::Counts| counts.meets_asked >= answered;
    alice.counted("the answer", heard).await;
    let knows = |view: &Arc<SwarmView>, key: PublicKey| view.nodes.iter().any(|n| n.key == key);
    let view = alice
        .until("the liar itself", |view| knows(view, liar_itself))
        .await;
    for key in [&one, &other] {
        assert!(!knows(&view, key.public()));
    }
    lying.abort();
    alice.stop().await;
}
