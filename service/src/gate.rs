//! Who may hold a connection: a bounded number in total and from one address.
//!
//! Listeners ask a [`Gate`] for a [`Pass`] per connection. A full gate makes room by throwing out the
//! oldest connection that does nothing (half a handshake, half a request's head, idle): so whoever
//! floods it pushes out his own, and a newcomer who goes on at once gets through. Must stay true: no
//! connection in use is ever thrown out; an address is counted, never logged.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::metrics::{Counter, Family, Gauge, Registry};

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateLimits {
    /// Connections at the same time.
    pub total: usize,
    /// Of these, from one IPv4 address or one IPv6 /64.
    pub per_address: usize,
    /// The same for loopback: proxies, onion services and devnets come from there, so it is usually
    /// `total`.
    pub per_loopback: usize,
}

impl GateLimits {
    /// `total` in all, `per_address` from one address that is not loopback.
    pub const fn new(total: usize, per_address: usize) -> Self {
        Self {
            total,
            per_address,
            per_loopback: total,
        }
    }
}

/// Labels of one counter: `listener`, `reason`.
type Labels = Vec<(String, String)>;

/// What gates count. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct GateMetrics {
    refused: Family<Labels, Counter>,
    open: Family<Labels, Gauge>,
}

impl GateMetrics {
    /// Registers them; once per process.
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self::default();
        let scope = registry.scope("service");
        scope.register(
            "connections_refused",
            "Connections turned away or thrown out, by listener and reason: total and per_address are the limits, idle made room for another, time_out stalled, error spoke nonsense",
            &metrics.refused,
        );
        scope.register(
            "connections_open",
            "Connections held now, by listener",
            &metrics.open,
        );
        metrics
    }

    fn refuse(&self, listener: &str, reason: &str) {
        let labels = labels(&[("listener", listener), ("reason", reason)]);
        self.refused.get_or_create(&labels).inc();
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// The network that an address is counted as: IPv6 hands out a /64 as easily as an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) if !v6.is_loopback() => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            other => other,
        })
    }
}

#[derive(Debug)]
struct Entry {
    source: Source,
    /// Uses under way: requests, or the connection as a whole.
    uses: u32,
    /// When the last use ended, as a rising number.
    idle_since: u64,
    out: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// Rises with each opening and each end of a use.
    next: u64,
    entries: HashMap<u64, Entry>,
    by_source: HashMap<Source, usize>,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if let Some(count) = self.by_source.get_mut(&entry.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&entry.source);
            }
        }
        Some(entry)
    }

    /// Throws out the one that does nothing for the longest, of `source` if given. `false`: all are in
    /// use.
    fn make_room(&mut self, source: Option<Source>) -> bool {
        let is_idle =
            |entry: &Entry| entry.uses == 0 && source.is_none_or(|source| entry.source == source);
        let idle = self.entries.iter().filter(|(_, entry)| is_idle(entry));
        let longest = idle.min_by_key(|(_, entry)| entry.idle_since);
        let Some(id) = longest.map(|(id, _)| *id) else {
            return false;
        };
        if let Some(entry) = self.remove(id) {
            entry.out.cancel();
        }
        true
    }

    /// The source with most connections that do nothing: whoever fills the gate makes the room.
    fn greediest(&self) -> Option<Source> {
        let mut idle: HashMap<Source, usize> = HashMap::new();
        for entry in self.entries.values().filter(|entry| entry.uses == 0) {
            *idle.entry(entry.source).or_default() += 1;
        }
        let most = idle.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(source, _)| source)
    }
}

/// The connections of one listener. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    listener: &'static str,
    limits: GateLimits,
    metrics: GateMetrics,
    state: Arc<Mutex<State>>,
}

impl Gate {
    /// An empty gate; `listener` is its label in the metrics.
    pub fn new(listener: &'static str, limits: GateLimits, metrics: GateMetrics) -> Self {
        Self {
            listener,
            limits,
            metrics,
            state: Arc::default(),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place for a connection from `address`. `None`: there is none, close it.
    pub fn enter(&self, address: IpAddr) -> Option<Pass> {
        let source = Source::of(address);
        let limit = if source.0.is_loopback() {
            self.limits.per_loopback
        } else {
            self.limits.per_address
        };
        let entered = self.with(|state| {
            let held = state.by_source.get(&source).copied().unwrap_or(0);
            if held >= limit.max(1) {
                self.make_room(state, Some(source), "per_address")?;
            } else if state.entries.len() >= self.limits.total.max(1) {
                let greediest = state.greediest();
                self.make_room(state, greediest, "total")?;
            }
            let id = state.tick();
            let out = CancellationToken::new();
            let entry = Entry {
                source,
                uses: 0,
                idle_since: id,
                out: out.clone(),
            };
            state.entries.insert(id, entry);
            *state.by_source.entry(source).or_default() += 1;
            Some((id, out, state.entries.len()))
        });
        let (id, out, open) = entered?;
        self.show(open);
        Some(Pass {
            gate: self.clone(),
            id,
            out,
        })
    }

    /// Counts who has to go: an idle one, or (`None`) the newcomer.
    fn make_room(
        &self,
        state: &mut State,
        source: Option<Source>,
        full: &'static str,
    ) -> Option<()> {
        let room = state.make_room(source);
        self.refused(if room { "idle" } else { full });
        room.then_some(())
    }

    /// Counts a connection that ended badly.
    pub fn refused(&self, reason: &'static str) {
        self.metrics.refuse(self.listener, reason);
    }

    /// Connections held now.
    pub fn open(&self) -> usize {
        self.with(|state| state.entries.len())
    }

    fn show(&self, open: usize) {
        let labels = labels(&[("listener", self.listener)]);
        self.metrics.open.get_or_create(&labels).set(open as i64);
    }
}

/// A connection's place; dropping it gives the place back.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
    id: u64,
    out: CancellationToken,
}

impl Pass {
    /// Resolves when this connection has to make room for another. Never while it is in use.
    pub async fn thrown_out(&self) {
        self.out.cancelled().await;
    }

    /// The connection is in use until the value is dropped. `None`: it has just been thrown out.
    pub fn in_use(&self) -> Option<InUse> {
        self.gate.with(|state| {
            let entry = state.entries.get_mut(&self.id)?;
            entry.uses += 1;
            Some(InUse {
                gate: self.gate.clone(),
                id: self.id,
            })
        })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let open = self.gate.with(|state| {
            state.remove(self.id);
            state.entries.len()
        });
        self.gate.show(open);
    }
}

/// One use of a connection.
#[derive(Debug)]
pub struct InUse {
    gate: Gate,
    id: u64,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.gate.with(|state| {
            let now = state.tick();
            if let Some(entry) = state.entries.get_mut(&self.id) {
                entry.uses -= 1;
                entry.idle_since = now;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const LIMITS: GateLimits = GateLimits::new(4, 2);

    fn gate() -> (Gate, Registry) {
        let registry = Registry::new();
        let metrics = GateMetrics::register(&registry);
        (Gate::new("test", LIMITS, metrics), registry)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_out(pass: &Pass) -> bool {
        pass.thrown_out().now_or_never().is_some()
    }

    #[test]
    fn who_fills_his_share_pushes_out_his_own_oldest_idle_connection() {
        let (gate, registry) = gate();
        let (flood, honest) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let other = gate.enter(honest).unwrap();
        let first = gate.enter(flood).unwrap();
        let second = gate.enter(flood).unwrap();
        let third = gate.enter(flood).unwrap();
        assert!(is_out(&first) && !is_out(&second) && !is_out(&third) && !is_out(&other));
        assert!(first.in_use().is_none(), "it is closing already");
        drop((first, second, third));
        assert_eq!(gate.open(), 1);
        let text = registry.encode();
        let line = "owm_service_connections_refused_total{listener=\"test\",reason=\"idle\"} 1";
        assert!(text.contains(line), "{text}");
        assert!(
            text.contains("owm_service_connections_open{listener=\"test\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn a_connection_in_use_is_never_thrown_out() {
        let (gate, registry) = gate();
        let flood = ip("192.0.2.1");
        let (first, second) = (gate.enter(flood).unwrap(), gate.enter(flood).unwrap());
        let (use_first, use_second) = (first.in_use().unwrap(), second.in_use().unwrap());
        assert!(gate.enter(flood).is_none());
        assert!(
            registry.encode().contains("reason=\"per_address\"} 1"),
            "{}",
            registry.encode()
        );
        drop(use_second);
        let third = gate.enter(flood).unwrap();
        assert!(is_out(&second) && !is_out(&first) && !is_out(&third));
        drop(use_first);
    }

    #[test]
    fn a_full_gate_takes_the_room_from_who_holds_most_of_it() {
        let (gate, _) = gate();
        let honest = gate.enter(ip("192.0.2.9")).unwrap();
        let loopback: Vec<Pass> = (0..3).map(|_| gate.enter(ip("::1")).unwrap()).collect();
        let newcomer = gate.enter(ip("192.0.2.8")).unwrap();
        assert!(is_out(&loopback[0]), "loopback has three, the honest one");
        assert!(!is_out(&honest) && !is_out(&newcomer));
    }

    #[test]
    fn neighbours_in_an_ipv6_network_count_as_one() {
        let (gate, _) = gate();
        let _held = [
            gate.enter(ip("2001:db8::1")).unwrap().in_use(),
            gate.enter(ip("2001:db8::2")).unwrap().in_use(),
        ];
        assert_eq!(gate.open(), 0, "a pass that is dropped holds no place");
        let first = gate.enter(ip("2001:db8::1")).unwrap();
        let second = gate.enter(ip("2001:db8::ffff")).unwrap();
        let _in_use = (first.in_use(), second.in_use());
        assert!(gate.enter(ip("2001:db8::3")).is_none());
        assert!(gate.enter(ip("2001:db8:0:1::1")).is_some());
        assert_eq!(
            Source::of(ip("::ffff:192.0.2.1")),
            Source::of(ip("192.0.2.1"))
        );
    }
}
