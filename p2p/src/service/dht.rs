//! What is in the DHT: who takes part in a shard (provider records), and the newest checkpoint's signed
//! envelope under a key of the network. Must stay true: a record of somebody else is stored only if a release
//! key has signed it and no higher sequence is known; a lower one never replaces a higher.

use std::{collections::HashMap, time::Duration};

use libp2p::{
    Multiaddr,
    kad::{
        self, GetProvidersOk, GetRecordOk, InboundRequest, PeerRecord, QueryResult, Quorum, Record,
        RecordKey, store::RecordStore as _,
    },
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use owm_proto::{Envelope, Sha256, gossip::shard_of};

use super::Service;
use crate::{
    gossip::Topics,
    peer::group::{Group, may_tell},
};

/// Tells others again that we take part in our shard.
const PROVIDE_EVERY: Duration = Duration::from_mins(20);

/// Looks for peers of the shard so often while it has too few, at first and later: others tell of themselves
/// at the same time as we.
const SEEK_EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(20));

/// Looks whether the record is there and new, and puts it if it is not: so it outlives its publisher.
const RECORD_EVERY: Duration = Duration::from_hours(1);

/// After something changed, wait for so long, so that changes in a row cost one round.
const SOON: Duration = Duration::from_secs(2);

/// Peers of the own shard that are enough: gossipsub's mesh and a few.
const SHARD_PEERS_WANTED: usize = 8;

/// Addresses in our own provider record.
const OWN_ADDRESSES: usize = 8;

/// What was put and asked, and when next.
#[derive(Debug, Default)]
pub(super) struct Dht {
    next_provide: Duration,
    next_seek: Duration,
    seek_wait: Duration,
    next_record: Duration,
    due: bool,
    providing: Option<RecordKey>,
    shard_keys: HashMap<RecordKey, u32>,
    keyed: Option<Topics>,
    reading: Option<kad::QueryId>,
    read_sequence: u64,
}

impl Dht {
    /// Documents, shards or the checkpoint changed.
    pub(super) fn changed(&mut self) {
        self.due = true;
    }
}

/// Under which key the newest checkpoint is found.
fn checkpoint_key(topics: &Topics) -> RecordKey {
    key(&format!("owm/1/{}/checkpoint", topics.network))
}

/// Under which key the nodes of a shard are found.
fn shard_key(topics: &Topics, shard: u32) -> RecordKey {
    let Topics { network, shards } = topics;
    key(&format!("owm/1/{network}/shard/{shard}/{shards}"))
}

fn key(name: &str) -> RecordKey {
    RecordKey::new(&Sha256::of(name.as_bytes()).as_bytes())
}

impl Service {
    pub(super) fn dht_upkeep(&mut self) {
        let Some(topics) = self.topics else { return };
        let now = self.clock.monotonic();
        if self.dht.due {
            self.dht.due = false;
            self.dht.next_provide = now + SOON;
            self.dht.next_record = now + SOON;
            self.dht.next_seek = now + SOON;
            self.dht.seek_wait = SEEK_EVERY.0;
        }
        // Nobody to ask yet: nothing would be found, and nothing stays where it is put.
        let dht = &mut self.swarm.behaviour_mut().others.dht;
        if dht.kbuckets().all(|bucket| bucket.is_empty()) {
            return;
        }
        if now >= self.dht.next_provide {
            self.dht.next_provide = now + PROVIDE_EVERY;
            self.provide(&topics);
        }
        if now >= self.dht.next_seek {
            self.dht.next_seek = now + self.dht.seek_wait;
            self.dht.seek_wait = (self.dht.seek_wait * 2).min(SEEK_EVERY.1);
            self.seek(&topics);
        }
        if now >= self.dht.next_record {
            let jitter = self.choose(600) as u64;
            self.dht.next_record = now + RECORD_EVERY + Duration::from_secs(jitter);
            self.read_record(&topics);
        }
    }

    fn provide(&mut self, topics: &Topics) {
        let key = shard_key(topics, shard_of(&self.me, topics.shards));
        let dht = &mut self.swarm.behaviour_mut().others.dht;
        if let Some(old) = self.dht.providing.take().filter(|old| *old != key) {
            dht.stop_providing(&old);
        }
        match dht.start_providing(key.clone()) {
            Ok(_) => {
                self.dht.providing = Some(key);
                self.name_ourselves();
            }
            Err(error) => tracing::debug!("the shard is not provided: {error}"),
        }
    }

    /// Puts into our own provider record what strangers may be told: who asks us would get all our listening
    /// addresses otherwise.
    pub(super) fn name_ourselves(&mut self) {
        let Some(key) = self.dht.providing.clone() else {
            return;
        };
        let (policy, external) = (self.config.policy, &self.config.external);
        // What the operator has named is for everybody.
        let told = |a: &&Multiaddr| may_tell(policy, Group::Other, a) || external.contains(a);
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in self
            .swarm
            .external_addresses()
            .chain(self.swarm.listeners())
        {
            if told(&address) && !addresses.contains(address) && addresses.len() < OWN_ADDRESSES {
                addresses.push(address.clone());
            }
        }
        let me = *self.swarm.local_peer_id();
        let record = kad::ProviderRecord {
            // Nobody dials that: without any, Kademlia would fill in those that nobody is to be told.
            addresses: if addresses.is_empty() {
                vec![Multiaddr::empty()]
            } else {
                addresses
            },
            ..kad::ProviderRecord::new(key, me, Vec::new())
        };
        // Full only of others' shards, and they are few.
        let _ = self.dht_store().add_provider(record);
    }

    /// What this node keeps for the DHT.
    fn dht_store(&mut self) -> &mut kad::store::MemoryStore {
        self.swarm.behaviour_mut().others.dht.store_mut()
    }

    fn seek(&mut self, topics: &Topics) {
        let topic = topics.name(crate::gossip::Topic::Heartbeat(shard_of(
            &self.me,
            topics.shards,
        )));
        let topic = libp2p::gossipsub::IdentTopic::new(topic.to_string()).hash();
        let behaviour = self.swarm.behaviour_mut();
        let of_shard = behaviour.gossip.all_peers();
        let of_shard = of_shard
            .filter(|(_, theirs)| theirs.contains(&&topic))
            .count();
        if of_shard < SHARD_PEERS_WANTED {
            let key = shard_key(topics, shard_of(&self.me, topics.shards));
            behaviour.others.dht.get_providers(key);
        }
    }

    fn read_record(&mut self, topics: &Topics) {
        let dht = &mut self.swarm.behaviour_mut().others.dht;
        self.dht.read_sequence = 0;
        self.dht.reading = Some(dht.get_record(checkpoint_key(topics)));
    }

    pub(super) fn on_dht(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request } => self.on_dht_request(request),
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => {
                match result {
                    QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) => {
                        self.on_record_found(&found);
                    }
                    QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders {
                        providers,
                        ..
                    })) => self.on_providers(providers.into_iter().collect()),
                    _ => {}
                }
                if step.last && self.dht.reading == Some(id) {
                    self.dht.reading = None;
                    self.mend_record();
                }
            }
            _ => {}
        }
    }

    fn on_dht_request(&mut self, request: InboundRequest) {
        match request {
            InboundRequest::PutRecord {
                record: Some(record),
                ..
            } => {
                if self.is_sound_record(&record) {
                    // Full: the DHT has other places.
                    let _ = self.dht_store().put(record);
                } else {
                    self.counts.records_refused += 1;
                }
            }
            InboundRequest::AddProvider {
                record: Some(mut record),
            } => {
                if self.is_shard(&record.key) {
                    // Kademlia takes it only of the provider itself; what it may not tell us goes to nobody.
                    let teller = record.provider;
                    record.addresses.retain(|a| self.may_tell(&teller, a));
                    let _ = self.dht_store().add_provider(record);
                } else {
                    self.counts.records_refused += 1;
                }
            }
            _ => {}
        }
    }

    /// Whether a record may be stored: the newest checkpoint that we know of, or a newer one.
    fn is_sound_record(&mut self, record: &Record) -> bool {
        let Some(topics) = self.topics else {
            return false;
        };
        if record.key != checkpoint_key(&topics) {
            return false;
        }
        let Some(sequence) = self.sequence_of(&record.value) else {
            return false;
        };
        let store = self.swarm.behaviour_mut().others.dht.store_mut();
        let stored = store.get(&record.key);
        let stored = stored.and_then(|stored| self.known.sequence_of(&stored.value));
        sequence >= self.known.sequence() && stored.is_none_or(|stored| sequence >= stored)
    }

    fn sequence_of(&self, value: &[u8]) -> Option<u64> {
        self.known.sequence_of(value)
    }

    fn is_shard(&mut self, key: &RecordKey) -> bool {
        let Some(topics) = self.topics else {
            return false;
        };
        if self.dht.keyed != Some(topics) {
            let keys = (0..topics.shards).map(|shard| (shard_key(&topics, shard), shard));
            self.dht.shard_keys = keys.collect();
            self.dht.keyed = Some(topics);
        }
        self.dht.shard_keys.contains_key(key)
    }

    fn on_record_found(&mut self, found: &PeerRecord) {
        let Some(sequence) = self.sequence_of(&found.record.value) else {
            self.counts.records_refused += 1;
            return;
        };
        self.dht.read_sequence = self.dht.read_sequence.max(sequence);
        if sequence <= self.known.sequence() {
            return;
        }
        let envelope = Envelope::from_stored(&found.record.value);
        if let (Ok(envelope), Some(peer)) = (envelope, found.peer) {
            // Whoever keeps the record is asked for the manifest.
            self.hear_checkpoint(peer, envelope, None);
        }
    }

    /// Puts our checkpoint where an older one, or none, was found.
    fn mend_record(&mut self) {
        let Some(topics) = self.topics else { return };
        let Some(newest) = self.known.newest() else {
            return;
        };
        if self.dht.read_sequence >= newest.checkpoint.sequence {
            return;
        }
        let record = Record::new(checkpoint_key(&topics), newest.envelope.to_stored());
        let dht = &mut self.swarm.behaviour_mut().others.dht;
        if let Err(error) = dht.put_record(record, Quorum::One) {
            tracing::debug!("the checkpoint's record is not put: {error}");
        }
    }

    fn on_providers(&mut self, providers: Vec<libp2p::PeerId>) {
        // Also when there are peers enough: those of the shard carry what we need.
        let missing = self.config.peers_wanted.saturating_sub(self.peers.len());
        let missing = missing.clamp(2, SHARD_PEERS_WANTED);
        let me = *self.swarm.local_peer_id();
        let strangers = providers.into_iter();
        let strangers = strangers.filter(|peer| *peer != me && !self.peers.contains_key(peer));
        // The DHT knows their addresses.
        let dial = |peer| {
            let opts = DialOpts::peer_id(peer);
            opts.condition(PeerCondition::DisconnectedAndNotDialing)
                .build()
        };
        let dials = strangers.take(missing).map(dial).collect();
        self.dial(dials);
    }
}
