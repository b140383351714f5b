//! The scripted engine: a lease in, the signed result out, as a node makes it. Everything but the model
//! is real: the sealed box is opened, the payload's hash checked, three statements are signed.

use anyhow::{Context as _, Result, ensure};
use owm_proto::{
    NodeKey, Sha256,
    genesis::NetworkId,
    seal,
    statement::{Commit, Finish, Segment, Statement as _, TaskResultStatement, tokens_sha256},
    wire::coordinator as wire,
};
use prost::Message as _;

/// What every answer says.
const WORDS: [&str; 4] = ["one", " two", " three", " four"];

/// The first token's id.
const FIRST_TOKEN: u32 = 1_000;

/// What a node sends up for a lease: chunks if they are wanted, then the result.
pub(crate) fn work(
    key: &NodeKey,
    network: &NetworkId,
    lease: &wire::Lease,
) -> Result<Vec<wire::WorkUp>> {
    let sealed = wire::SealedTask::decode(seal::open(key, &lease.sealed_payload)?.as_slice())?;
    ensure!(
        Sha256::of(&sealed.payload).to_string() == lease.input_hash,
        "a payload that is not what the lease says"
    );
    let payload = wire::TaskPayload::decode(sealed.payload.as_slice())?;
    let Some(wire::task_payload::Task::Inference(asked)) = payload.task else {
        anyhow::bail!("a task that is no question");
    };
    let n = WORDS.len().min(asked.max_tokens as usize);
    let tokens: Vec<u32> = (FIRST_TOKEN..).take(n).collect();
    let made = Made::new(key, network, lease, &asked, &tokens)?;
    let mut said = vec![];
    if asked.stream {
        for i in sealed.forced_prefix.len()..n {
            said.push(wire::work_up::Message::Chunk(wire::Chunk {
                task_id: lease.task_id.clone(),
                epoch: lease.epoch,
                from: i as u32,
                tokens: vec![tokens[i]],
                text: WORDS[i].to_owned(),
                segment: Some(made.segment(sealed.forced_prefix.len(), i + 1)),
            }));
        }
    }
    let from = sealed.forced_prefix.len();
    said.push(wire::work_up::Message::Result(made.result(from)));
    Ok(said
        .into_iter()
        .map(|message| wire::WorkUp {
            message: Some(message),
        })
        .collect())
}

/// An answer about to be signed.
struct Made<'a> {
    key: &'a NodeKey,
    network: &'a NetworkId,
    lease: &'a wire::Lease,
    asked: &'a wire::InferencePayload,
    tokens: &'a [u32],
    models: Vec<Sha256>,
}

impl<'a> Made<'a> {
    fn new(
        key: &'a NodeKey,
        network: &'a NetworkId,
        lease: &'a wire::Lease,
        asked: &'a wire::InferencePayload,
        tokens: &'a [u32],
    ) -> Result<Self> {
        let models = lease.model_sha256.iter().map(|hash| hash.parse());
        let models = models.collect::<Result<_, _>>().context("a weights hash")?;
        Ok(Self {
            key,
            network,
            lease,
            asked,
            tokens,
            models,
        })
    }

    fn task(&self) -> owm_proto::TaskId {
        self.lease
            .task_id
            .parse()
            .expect("the coordinator sends task ids")
    }

    fn segment(&self, from: usize, to: usize) -> wire::SignedEnvelope {
        let said = Segment {
            task_id: self.task(),
            epoch: self.lease.epoch,
            model_sha256: self.models.clone(),
            from: from as u32,
            to: to as u32,
            prefix_sha256: tokens_sha256(&self.tokens[..from]),
            tokens_sha256: tokens_sha256(&self.tokens[..to]),
            seed: self.asked.seed,
        };
        (&said.sign(self.key, self.network)).into()
    }

    fn result(&self, from: usize) -> wire::TaskResult {
        let n = self.tokens.len();
        let text = WORDS[..n].concat();
        let result = TaskResultStatement {
            task_id: self.task(),
            epoch: self.lease.epoch,
            model_sha256: self.models.clone(),
            input_sha256: self.lease.input_hash.parse().expect("checked above"),
            output_sha256: Sha256::of(text.as_bytes()),
            tokens_sha256: tokens_sha256(self.tokens),
            prompt_tokens: 7,
            output_tokens: n as u32,
            finish: if n == WORDS.len() {
                Finish::Stop
            } else {
                Finish::Length
            },
            seed: self.asked.seed,
            backend: "scripted".into(),
            exec_ms: 1,
        }
        .sign(self.key, self.network);
        let commit = Commit {
            task_id: self.task(),
            epoch: self.lease.epoch,
            result_sha256: Sha256::of(result.unverified_payload()),
        };
        wire::TaskResult {
            commit: Some((&commit.sign(self.key, self.network)).into()),
            result: Some((&result).into()),
            output: Some(wire::Output {
                text,
                tokens: self.tokens.to_vec(),
                segment: Some(self.segment(from, n)),
                report: vec![],
            }),
        }
    }
}
