//! A round of synthetic steps: heavy-tailed truth, noise of twice its deviation, packed as nodes pack.

use owm_proto::{Permille, PublicKey, Sha256, UnixMillis, genesis::NetworkId};
use owm_update::{Codec, Layout, Mode, Origin, Subject, Update, encode_update};

use crate::{
    Base, DecideError, Decision, MemoryParent, MemorySpool, Policy, Released, Spool, Statistics,
    StrategyName, Submission, Work, aggregate,
    gates::{Field, NormHistory},
};

/// What `a_known_round_has_a_known_answer` comes to.
pub(crate) const KNOWN: [&str; 3] = [
    "deeb62f8a42f33f128886c96ba8ceb61078be06da26ff09397ad59631363226e",
    "226fe18118b1deb030484194df6fc16ee82c880f600243d38e93f54ae2fccf09",
    "f73fd283cd7ae57f241dde3f24c70c835ebe8150bc3a88672aed71dedbcdacaa",
];

/// Uniform in (0, 1) from a counter.
fn uniform(i: u64) -> f64 {
    let mut x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (((x ^ (x >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// A sum of four uniforms, of deviation 1: no logarithm, so the same on every machine.
fn noise(i: u64) -> f64 {
    let sum: f64 = (0..4).map(|j| uniform(i * 4 + j)).sum();
    (sum - 2.0) * 1.732_050_807_568_877_2
}

/// The cube of one: heavy tails.
fn truth(i: u64) -> f64 {
    let one = noise(i + (1 << 40));
    one * one * one * 1e-4
}

pub(crate) fn key(i: usize) -> PublicKey {
    PublicKey([i as u8 + 1; 32])
}

pub(crate) fn owner(i: usize) -> Sha256 {
    Sha256([i as u8 + 101; 32])
}

/// Each its own owner, one second after the other.
pub(crate) fn submissions(n: usize) -> Vec<Submission> {
    (0..n)
        .map(|i| Submission {
            node: key(i),
            owner: owner(i),
            committed_at: UnixMillis(1_000 * (i as u64 + 1)),
            samples: 100,
            tier: Permille::ONE,
            stake_bonus: Permille::ONE,
            audited: true,
        })
        .collect()
}

pub(crate) fn threads(count: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    pool.build().unwrap()
}

pub(crate) fn memory(updates: &[Vec<u8>]) -> MemorySpool {
    MemorySpool::new(updates.iter().cloned()).unwrap()
}

pub(crate) fn dense(bytes: &[u8]) -> Vec<f32> {
    let update = Update::parse(bytes).unwrap();
    let mut dense = vec![0.0; update.header().elements as usize];
    update.add_to(&mut dense).unwrap();
    dense
}

pub(crate) fn decide(
    name: StrategyName,
    statistics: &Statistics,
    submissions: &[Submission],
) -> Result<Decision, DecideError> {
    name.strategy().decide(&Field {
        submissions,
        statistics,
        policy: &Policy::default(),
        history: NormHistory::default(),
        reference: None,
    })
}

/// A safetensors file of one vector of this type, all of the same bytes.
pub(crate) fn parent(elements: usize, dtype: &str, element: &[u8]) -> Vec<u8> {
    let end = elements * element.len();
    let json =
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[0,{end}]}}}}"#);
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.extend(element.repeat(elements));
    file
}

/// Steps of so many nodes.
pub(crate) struct Steps {
    pub(crate) n: usize,
    pub(crate) elements: usize,
    pub(crate) parent: Vec<u8>,
}

impl Steps {
    pub(crate) fn new(n: usize, elements: usize) -> Self {
        let parent = parent(elements, "F32", &0.01_f32.to_le_bytes());
        Self {
            n,
            elements,
            parent,
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::parse(&self.parent).unwrap()
    }

    pub(crate) fn subject(&self, origin: Origin) -> Subject {
        Subject {
            network: NetworkId(Sha256([1; 32])),
            round: 3,
            sub_model: "owm-geo".parse().unwrap(),
            base: Sha256::of(&self.parent),
            layout: self.layout().id(),
            mode: Mode::Full,
            origin,
        }
    }

    fn step(&self, node: usize) -> impl Iterator<Item = f64> {
        let loud = 2e-4 * (0.7 + 0.6 * uniform(node as u64 + 7));
        (0..self.elements as u64)
            .map(move |i| truth(i) + loud * noise(i + ((node as u64 + 1) << 32)))
    }

    fn encode(&self, signer: usize, step: Vec<f32>) -> Vec<u8> {
        let subject = self.subject(Origin::Node {
            node: key(signer),
            samples: 100,
            steps: 30,
            clip: 1e9,
        });
        encode_update(subject, Codec::DEFAULT, step, None)
            .unwrap()
            .bytes
    }

    /// Node `node`'s step, changed.
    pub(crate) fn encode_one(&self, node: usize, change: impl Fn(f64) -> f64) -> Vec<u8> {
        let step = self.step(node).map(|value| change(value) as f32).collect();
        self.encode(node, step)
    }

    /// Another's step under `node`'s name.
    pub(crate) fn encode_as(&self, node: usize, other: usize) -> Vec<u8> {
        let step = self.step(other).map(|value| value as f32).collect();
        self.encode(node, step)
    }

    pub(crate) fn encoded(&self) -> Vec<Vec<u8>> {
        (0..self.n).map(|node| self.encode_as(node, node)).collect()
    }

    /// A whole round by the default strategy.
    pub(crate) fn aggregate(
        &self,
        spool: &dyn Spool,
        submissions: &[Submission],
    ) -> (Decision, Released) {
        let layout = self.layout();
        let work = Work {
            subject: self.subject(Origin::Aggregate {
                updates: submissions.len() as u32,
            }),
            codec: Codec::DEFAULT,
        };
        let base = Base {
            layout: &layout,
            parent: &MemoryParent(&self.parent),
        };
        let by = |statistics: &Statistics| decide(StrategyName::OwmRobust, statistics, submissions);
        aggregate(spool, &Policy::default(), by, work, None, &base).unwrap()
    }
}
