//! Topic names (spec §7): `owm/1/<network>/checkpoint`, `…/capability/<shard>`, `…/heartbeat/<shard>`.

use std::fmt;

use owm_proto::{PublicKey, genesis::NetworkId, gossip::shard_of};

/// What a topic is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The newest checkpoint.
    Checkpoint,
    /// What the nodes of a shard have, do and hold.
    Capability(u32),
    /// Signs of life of a shard's nodes.
    Heartbeat(u32),
}

/// The topics of one network at one number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topics {
    /// The network.
    pub network: NetworkId,
    /// A power of two.
    pub shards: u32,
}

/// A topic's full name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicName {
    network: NetworkId,
    topic: Topic,
}

impl Topics {
    /// The full name.
    pub fn name(&self, topic: Topic) -> TopicName {
        TopicName {
            network: self.network,
            topic,
        }
    }

    /// Reads a full name; `None` for another network, an unknown topic or a shard that does not exist.
    pub fn parse(&self, name: &str) -> Option<Topic> {
        let rest = name.strip_prefix("owm/1/")?;
        let rest = rest.strip_prefix(&self.network.to_string())?;
        let topic = match rest.strip_prefix('/')?.split_once('/') {
            None if rest == "/checkpoint" => Topic::Checkpoint,
            Some(("capability", shard)) => Topic::Capability(shard.parse().ok()?),
            Some(("heartbeat", shard)) => Topic::Heartbeat(shard.parse().ok()?),
            _ => return None,
        };
        let exists = match topic {
            Topic::Checkpoint => true,
            Topic::Capability(shard) | Topic::Heartbeat(shard) => shard < self.shards,
        };
        // Only the one spelling: `heartbeat/01` is another topic to gossipsub.
        (exists && self.name(topic).to_string() == name).then_some(topic)
    }

    /// What a node subscribes to: its own shard's topics and the checkpoint's.
    pub fn of_node(&self, key: &PublicKey) -> [Topic; 3] {
        let shard = shard_of(key, self.shards);
        [
            Topic::Checkpoint,
            Topic::Capability(shard),
            Topic::Heartbeat(shard),
        ]
    }

    /// All there are (coordinators).
    pub fn all(&self) -> impl Iterator<Item = Topic> {
        let shards = 0..self.shards;
        let of_shard = |shard| [Topic::Capability(shard), Topic::Heartbeat(shard)];
        std::iter::once(Topic::Checkpoint).chain(shards.flat_map(of_shard))
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owm/1/{}/", self.network)?;
        match self.topic {
            Topic::Checkpoint => f.write_str("checkpoint"),
            Topic::Capability(shard) => write!(f, "capability/{shard}"),
            Topic::Heartbeat(shard) => write!(f, "heartbeat/{shard}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::Sha256;

    use super::*;

    #[test]
    fn names_read_back_and_no_other_spelling_does() {
        let topics = Topics {
            network: NetworkId(Sha256::of(b"n")),
            shards: 4,
        };
        assert_eq!(topics.all().count(), 9);
        for topic in topics.all() {
            assert_eq!(topics.parse(&topics.name(topic).to_string()), Some(topic));
        }
        let name = topics.name(Topic::Heartbeat(1)).to_string();
        for wrong in [
            name.replace("heartbeat/1", "heartbeat/01"),
            name.replace("heartbeat/1", "heartbeat/4"),
            name.replace("heartbeat/1", "heartbeat/+1"),
            name.replace("owm/1/", "owm/2/"),
            name.replace("/heartbeat/1", "/checkpoint/"),
            name.replace("/heartbeat/1", ""),
            Topics {
                network: NetworkId(Sha256::of(b"m")),
                shards: 4,
            }
            .name(Topic::Heartbeat(1))
            .to_string(),
        ] {
            assert_eq!(topics.parse(&wrong), None, "{wrong}");
        }
    }
}
