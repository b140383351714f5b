//! The plan against a world in which only some peers answer; time is moved by hand.

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::bootstrap::{COORDINATOR, DNS, STATIC};
use owm_proto::UnixMillis;

/// A plan with a clock and a world in which only some peers answer.
struct Bench {
    plan: Plan,
    now: Moment,
    rng: ChaCha20Rng,
    dialled: Vec<(Duration, Option<PeerId>, &'static str)>,
}

fn peer(n: u8) -> PeerId {
    let key = libp2p::identity::Keypair::ed25519_from_bytes([n; 32]).unwrap();
    key.public().to_peer_id()
}

fn address(n: u8) -> Multiaddr {
    format!("/ip4/203.{n}.113.7/tcp/4001").parse().unwrap()
}

fn with_peer(n: u8) -> Multiaddr {
    address(n).with_p2p(peer(n)).unwrap()
}

fn unreachable(address: &Multiaddr) -> DialFailure {
    DialFailure {
        address: Some(address.clone()),
        told: Unavailable {
            target: address.to_string(),
            layer: FailedLayer::Timeout,
            reason: "silence".into(),
        },
    }
}

impl Bench {
    fn new(seed: u8, book: Book, sources: &[&'static str]) -> Self {
        let config = PlanConfig {
            policy: NetworkPolicy::Clearnet,
            ourselves: peer(255),
            peers_wanted: 4,
        };
        Self {
            plan: Plan::new(config, book, sources),
            now: Moment {
                wall: UnixMillis(1_800_000_000_000),
                monotonic: Duration::from_secs(1),
            },
            rng: ChaCha20Rng::from_seed([seed; 32]),
            dialled: Vec::new(),
        }
    }

    fn empty(sources: &[&'static str]) -> Self {
        Self::new(1, Book::new(NetworkPolicy::Clearnet), sources)
    }

    fn give(&mut self, source: &'static str, addresses: &[Multiaddr]) {
        let answer = Ok(addresses.to_vec());
        self.plan.given(source, answer, self.now, &mut self.rng);
    }

    /// Everybody in `alive` answers, everybody else is silent; sources give what `given` says.
    fn turn(&mut self, alive: &[u8], given: &dyn Fn(&'static str) -> Vec<Multiaddr>) -> usize {
        let steps = self.plan.step(self.now, &mut self.rng);
        let count = steps.len();
        for step in steps {
            match step {
                Step::Ask(source) => self.give(source, &given(source)),
                Step::Dial(order) => self.answer(&order, alive),
            }
        }
        count
    }

    fn answer(&mut self, order: &Order, alive: &[u8]) {
        self.dialled
            .push((self.now.monotonic, order.peer, order.source));
        let there = alive
            .iter()
            .find(|n| order.addresses.contains(&address(**n)));
        if let Some(n) = there {
            let dialled = Some((order.id, order.source));
            self.plan
                .connected(dialled, peer(*n), &address(*n), self.now);
            self.plan.met(peer(*n), self.now);
        } else {
            let failures = order.addresses.iter().map(unreachable).collect();
            self.plan
                .dial_failed(order.id, failures, self.now, &mut self.rng);
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now.wall = self.now.wall.after(span);
        self.now.monotonic += span;
    }

    fn run(
        &mut self,
        span: Duration,
        alive: &[u8],
        given: &dyn Fn(&'static str) -> Vec<Multiaddr>,
    ) {
        let end = self.now.monotonic + span;
        while self.now.monotonic < end {
            let steps = self.turn(alive, given);
            let due = self.plan.due(self.now).min(end);
            let wait = due.saturating_sub(self.now.monotonic);
            assert!(
                steps > 0 || !wait.is_zero(),
                "due at once, and nothing to do: the loop would spin"
            );
            self.pass(wait);
        }
    }
}

fn nothing(_: &'static str) -> Vec<Multiaddr> {
    Vec::new()
}

#[test]
fn any_one_way_in_is_enough_however_many_dead_addresses_the_others_give() {
    for alive in [STATIC, DNS, COORDINATOR, REMEMBERED] {
        let mut book = Book::new(NetworkPolicy::Clearnet);
        let origin = Origin::source("dns");
        let now = UnixMillis(1_800_000_000_000);
        let remembered = if alive == REMEMBERED { 1 } else { 100 };
        book.reached(peer(remembered), &address(remembered), &origin, now);
        let mut bench = Bench::new(1, book, &[STATIC, DNS]);
        let given = |source: &'static str| match source {
            source if source == alive => vec![with_peer(1)],
            STATIC => (10..70).map(with_peer).collect(),
            _ => (120..180).map(address).collect(),
        };
        bench.give(COORDINATOR, &given(COORDINATOR));
        bench.run(Duration::from_secs(10), &[1], &given);
        assert_eq!(bench.plan.met_count(), 1, "{alive} alone");
        let views = bench.plan.views();
        let view = views.iter().find(|view| view.name == alive).unwrap();
        assert_eq!(view.reached, 1, "{alive}");
        let dead = views.iter().filter(|view| view.name != alive);
        for view in dead {
            assert_eq!(view.reached, 0, "{}", view.name);
            assert!(!view.failures.is_empty(), "{} says why", view.name);
        }
    }
}

#[test]
fn a_dead_address_is_dialled_ever_more_rarely_and_never_forgotten() {
    let mut bench = Bench::empty(&[STATIC]);
    let given = |_| vec![with_peer(1), with_peer(2)];
    bench.run(Duration::from_hours(1), &[2], &given);
    let of_dead: Vec<_> = bench
        .dialled
        .iter()
        .filter(|d| d.1 == Some(peer(1)))
        .collect();
    assert!(
        (8..40).contains(&of_dead.len()),
        "{} dials in an hour",
        of_dead.len()
    );
    let gaps: Vec<_> = of_dead
        .windows(2)
        .map(|w| w[1].0.saturating_sub(w[0].0))
        .collect();
    assert!(
        gaps.iter().all(|gap| *gap >= Duration::from_millis(500)),
        "{gaps:?}"
    );
    assert!(gaps[6] > gaps[0] * 4, "{gaps:?}");
    assert!(
        gaps.iter().all(|gap| *gap <= Duration::from_secs(616)),
        "{gaps:?}"
    );
    bench.dialled.clear();
    bench.run(Duration::from_mins(11), &[1, 2], &given);
    assert_eq!(bench.plan.met_count(), 2, "it came back");
}

#[test]
fn alone_it_tries_more_often() {
    let mut bench = Bench::empty(&[STATIC]);
    bench.run(Duration::from_hours(1), &[], &|_| vec![with_peer(1)]);
    assert!(bench.dialled.len() > 100, "{}", bench.dialled.len());
    assert!(bench.dialled.len() < 260, "{}", bench.dialled.len());
}

#[test]
fn after_a_sleep_everything_is_tried_at_once() {
    let mut bench = Bench::empty(&[STATIC]);
    let given = |_| vec![with_peer(1), with_peer(2)];
    bench.run(Duration::from_mins(30), &[2], &given);
    bench.dialled.clear();
    // The laptop sleeps: its wall clock goes on, its monotonic one does not.
    bench.now.wall = bench.now.wall.after(Duration::from_hours(8));
    bench.turn(&[1, 2], &given);
    assert_eq!(bench.plan.met_count(), 2, "no pause is waited for");
    // A clock set back is no sleep.
    bench.plan.closed(peer(1), bench.now, &mut bench.rng);
    bench.now.wall = bench.now.wall.before(Duration::from_hours(8));
    bench.dialled.clear();
    bench.turn(&[1, 2], &given);
    assert!(bench.dialled.is_empty());
}

#[test]
fn who_hangs_up_at_once_is_not_dialled_in_a_circle() {
    let mut bench = Bench::empty(&[STATIC]);
    let mut dials = 0;
    for _ in 0..6_000 {
        bench.turn(&[1], &|_| vec![with_peer(1)]);
        if bench.plan.met_count() == 1 {
            dials += 1;
            bench.plan.closed(peer(1), bench.now, &mut bench.rng);
        }
        bench.pass(Duration::from_millis(100));
    }
    assert!(
        (5..60).contains(&dials),
        "{dials} connections in ten minutes"
    );
}

#[test]
fn it_stops_when_it_has_enough_and_counts_those_from_outside_half() {
    let mut bench = Bench::empty(&[STATIC]);
    for n in 100..110 {
        bench.plan.connected(None, peer(n), &address(n), bench.now);
        bench.plan.met(peer(n), bench.now);
    }
    let all: Vec<u8> = (1..10).collect();
    let given = |_| (1..10).map(with_peer).collect();
    bench.run(Duration::from_mins(5), &all, &given);
    assert_eq!(
        bench.dialled.len(),
        2,
        "half of the four wanted, whoever else is here"
    );
    let mut bench = Bench::empty(&[STATIC]);
    bench.run(Duration::from_mins(5), &all, &given);
    assert_eq!(bench.plan.met_count(), 4);
    assert_eq!(bench.dialled.len(), 4);
}

#[test]
fn never_ourselves_nor_the_barred_nor_another_networks_peer() {
    let mut bench = Bench::empty(&[STATIC]);
    bench.plan.bar(peer(3));
    bench.give(STATIC, &[with_peer(255), with_peer(3)]);
    bench.run(Duration::from_mins(1), &[255, 3], &nothing);
    assert!(bench.dialled.is_empty());
    bench.give(STATIC, &[address(4)]);
    let steps = bench.plan.step(bench.now, &mut bench.rng);
    let [Step::Dial(order)] = steps.as_slice() else {
        panic!("{steps:?}")
    };
    bench.plan.is_ourselves(order.id);
    bench.run(Duration::from_mins(30), &[4], &nothing);
    assert!(
        bench.dialled.is_empty(),
        "an address of ourselves is forgotten"
    );
    bench.give(STATIC, &[with_peer(5)]);
    bench.turn(&[5], &nothing);
    let told = crate::bootstrap::diagnose::other_network("5");
    bench
        .plan
        .refused(peer(5), &told, bench.now, &mut bench.rng);
    bench.dialled.clear();
    bench.run(Duration::from_mins(29), &[5], &nothing);
    assert!(
        bench.dialled.is_empty(),
        "another network does not heal in minutes"
    );
    let views = bench.plan.views();
    assert_eq!(views[0].failures[0].layer, FailedLayer::Version);
}

#[test]
fn the_same_seed_makes_the_same_dials() {
    let run = |seed| {
        let mut book = Book::new(NetworkPolicy::Clearnet);
        for n in 60..90 {
            let now = UnixMillis(1_800_000_000_000);
            book.learn(peer(n), &[address(n)], &Origin::source("dns"), now);
        }
        let mut bench = Bench::new(seed, book, &[STATIC, DNS]);
        let given = |source: &'static str| match source {
            STATIC => (1..20).map(with_peer).collect(),
            _ => (20..50).map(address).collect(),
        };
        bench.run(Duration::from_mins(2), &[7, 30], &given);
        bench.dialled
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_silent_source_is_asked_ever_more_rarely() {
    let mut bench = Bench::empty(&[DNS]);
    let mut asked = Vec::new();
    while bench.now.monotonic < Duration::from_hours(1) {
        for step in bench.plan.step(bench.now, &mut bench.rng) {
            let Step::Ask(source) = step else { continue };
            asked.push(bench.now.monotonic);
            let told = vec![crate::bootstrap::diagnose::too_slow("seed.example", SLEPT)];
            bench
                .plan
                .given(source, Err(told), bench.now, &mut bench.rng);
        }
        bench.pass(Duration::from_millis(500));
    }
    assert!((50..260).contains(&asked.len()), "{}", asked.len());
    assert_eq!(bench.plan.views()[0].failures.len(), 1, "told once");
}

#[test]
fn a_drawn_peer_that_the_book_forgot_does_not_make_the_loop_spin() {
    let mut book = Book::new(NetworkPolicy::Clearnet);
    let now = UnixMillis(1_800_000_000_000);
    for n in 1..4 {
        book.learn(peer(n), &[address(n)], &Origin::source("dns"), now);
    }
    let mut bench = Bench::new(1, book, &[STATIC]);
    // Claims that never answer are forgotten after a few dials; one is a source's candidate meanwhile.
    bench.run(Duration::from_mins(2), &[], &|_| vec![with_peer(2)]);
    assert!(bench.plan.book().get(&peer(1)).is_none());
    assert!(bench.dialled.iter().any(|d| d.1 == Some(peer(1))));
    bench.run(Duration::from_hours(1), &[], &|_| vec![with_peer(2)]);
    assert!(bench.plan.drawn.is_empty(), "{:?}", bench.plan.drawn);
}

#[test]
fn a_clock_that_jumps_ahead_costs_no_remembered_peer() {
    let mut book = Book::new(NetworkPolicy::Clearnet);
    let now = UnixMillis(1_800_000_000_000);
    book.learn(peer(1), &[address(1)], &Origin::source("dns"), now);
    book.reached(peer(2), &address(2), &Origin::source("dns"), now);
    let mut bench = Bench::new(1, book, &[]);
    bench.plan.config.peers_wanted = 0;
    bench.turn(&[], &nothing);
    bench.now.wall = bench.now.wall.after(Duration::from_hours(10 * 365 * 24));
    // The first to see the new time is a peer's word, before any step.
    bench
        .plan
        .heard(peer(3), &[address(3)], peer(4), None, bench.now);
    bench.turn(&[], &nothing);
    let known = |n| bench.plan.book().get(&peer(n)).is_some();
    assert!((1..4).all(known));
}
