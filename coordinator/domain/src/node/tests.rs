//! Admission, registration and standing, by table.

use std::collections::BTreeMap;

use owm_proto::{NodeStatus, Permille, Sats, Tier, wire::coordinator as wire};
use proptest::prelude::*;

use super::*;

const GB: u64 = 1_000_000_000;

fn hardware(vram_gb: Option<u64>, ram_gb: Option<u64>, mbps: Option<u64>) -> Capabilities {
    Capabilities {
        vram_bytes: vram_gb.map(|gb| gb * GB),
        ram_bytes: ram_gb.map(|gb| gb * GB),
        bandwidth_kbps: mbps.map(|m| m * 1_000),
        ..Capabilities::default()
    }
}

fn strict() -> AdmissionPolicy {
    AdmissionPolicy::default()
}

fn cpu_allowed() -> AdmissionPolicy {
    AdmissionPolicy {
        allow_cpu: true,
        minima: BTreeMap::new(),
    }
}

#[test]
fn hardware_gets_the_highest_tier_whose_minima_it_meets() {
    let cases = [
        (hardware(Some(80), Some(256), Some(1_000)), Some(Tier::T3)),
        (hardware(Some(80), Some(256), None), Some(Tier::T3)),
        (hardware(Some(80), Some(256), Some(900)), Some(Tier::T2)),
        (hardware(Some(80), Some(64), None), Some(Tier::T2)),
        (hardware(Some(24), Some(16), None), Some(Tier::T1)),
        (hardware(Some(8), Some(16), Some(50)), Some(Tier::T1)),
        (hardware(Some(7), Some(16), None), None),
        (hardware(Some(8), Some(16), Some(46)), None),
        (hardware(None, Some(64), None), None),
        (hardware(Some(0), Some(64), None), None),
        (hardware(Some(8), None, None), None),
    ];
    for (have, tier) in cases {
        assert_eq!(assess(&have, &strict()).tier, tier, "{have:?}");
    }
}

#[test]
fn seven_percent_below_a_minimum_is_met_and_a_byte_less_is_not() {
    let mut have = hardware(Some(8), Some(16), None);
    have.vram_bytes = Some(8 * GB * 93 / 100);
    assert_eq!(assess(&have, &strict()).tier, Some(Tier::T1));
    have.vram_bytes = Some(8 * GB * 93 / 100 - 1);
    assert_eq!(assess(&have, &strict()).tier, None);
}

#[test]
fn allow_cpu_waives_video_memory_only_and_gives_t1_at_most() {
    let big = assess(&hardware(Some(0), Some(512), Some(10_000)), &cpu_allowed());
    assert_eq!((big.tier, big.cpu_only), (Some(Tier::T1), true));
    let unknown = assess(&hardware(None, Some(16), None), &cpu_allowed());
    assert_eq!((unknown.tier, unknown.cpu_only), (Some(Tier::T1), true));
    let card = assess(&hardware(Some(24), Some(64), None), &cpu_allowed());
    assert_eq!((card.tier, card.cpu_only), (Some(Tier::T2), false));
    let small = assess(&hardware(Some(0), Some(4), None), &cpu_allowed());
    assert_eq!((small.tier, small.cpu_only), (None, false));
    assert_eq!(
        small.reasons(),
        ["t1 needs 16.0 GB of memory, found 4.0 GB"]
    );
}

#[test]
fn minima_of_the_config_replace_the_founding_ones() {
    let minima = TierMinima {
        vram_bytes: 0,
        ram_bytes: GB,
        bandwidth_kbps: 0,
    };
    let policy = AdmissionPolicy {
        allow_cpu: false,
        minima: [(Tier::T1, minima)].into(),
    };
    let assessment = assess(&hardware(None, Some(2), Some(1)), &policy);
    assert_eq!(
        (assessment.tier, assessment.cpu_only),
        (Some(Tier::T1), false)
    );
}

#[test]
fn reasons_say_what_is_needed_and_what_was_found() {
    let none = assess(&hardware(None, Some(15), Some(10)), &strict());
    assert_eq!(none.tier, None);
    assert_eq!(
        none.reasons(),
        [
            "t1 needs 8.0 GB of video memory, the probe could not tell (run owm-node doctor)",
            "t1 needs 50.0 Mbit/s of bandwidth, found 10.0 Mbit/s",
        ]
    );
    let t1 = assess(&hardware(Some(12), Some(64), None), &strict());
    assert_eq!(
        t1.reasons(),
        ["t2 needs 24.0 GB of video memory, found 12.0 GB"]
    );
}

#[test]
fn impossible_claims_are_refused_at_the_door() {
    let fine = wire::Capabilities {
        ram_bytes: Some(16 * GB),
        ..Default::default()
    };
    assert_eq!(Capabilities::try_from(fine).unwrap().vram_bytes, None);
    let cases = [
        wire::Capabilities {
            vram_bytes: Some(u64::MAX),
            ..Default::default()
        },
        wire::Capabilities {
            cpu_cores: u32::MAX,
            ..Default::default()
        },
        wire::Capabilities {
            gpus: vec![String::new(); 65],
            ..Default::default()
        },
        wire::Capabilities {
            backend: "x".repeat(2_000),
            ..Default::default()
        },
    ];
    for said in cases {
        assert!(Capabilities::try_from(said).is_err());
    }
}

fn required() -> StakePolicy {
    StakePolicy::Required {
        treasury_uri: "02ab@treasury:9735".to_owned(),
    }
}

fn decide(stake: StakeView, known: Option<NodeStatus>, policy: &StakePolicy) -> Registration {
    let capabilities = hardware(Some(24), Some(64), None);
    let applicant = Applicant {
        capabilities: &capabilities,
        stake,
        known,
        status_reason: "",
    };
    decide_registration(&applicant, &strict(), policy)
}

#[test]
fn without_a_stake_policy_good_hardware_is_active_at_once() {
    let Registration::Active {
        tier,
        stake_bonus,
        cpu_only,
        ..
    } = decide(StakeView::NotAsked, None, &StakePolicy::NotRequired)
    else {
        panic!("not active")
    };
    assert_eq!(
        (tier, stake_bonus, cpu_only),
        (Tier::T2, Permille::ONE, false)
    );
}

#[test]
fn a_missing_stake_is_pending_with_amount_address_and_how() {
    let Registration::Pending { tier, reasons, .. } =
        decide(StakeView::NoChannel, None, &required())
    else {
        panic!("not pending")
    };
    assert_eq!(tier, Some(Tier::T2));
    for part in [
        "500000 sats",
        "02ab@treasury:9735",
        "open a Lightning channel",
    ] {
        assert!(reasons[0].contains(part), "{reasons:?}");
    }
    let short = decide(
        StakeView::Channel {
            stake: Sats(499_999),
        },
        None,
        &required(),
    );
    assert!(
        matches!(&short, Registration::Pending { reasons, .. } if reasons[0].contains("at least 1 sats"))
    );
    assert!(matches!(
        decide(StakeView::Unavailable, None, &required()),
        Registration::Pending { .. }
    ));
    let staked = decide(
        StakeView::Channel {
            stake: Sats(1_500_000),
        },
        None,
        &required(),
    );
    assert!(matches!(
        staked,
        Registration::Active {
            stake_bonus: Permille(2_000),
            ..
        }
    ));
}

#[test]
fn a_suspended_key_is_refused_and_stays_suspended() {
    let answer = decide(
        StakeView::NotAsked,
        Some(NodeStatus::Suspended),
        &StakePolicy::NotRequired,
    );
    assert!(matches!(
        answer,
        Registration::Refused {
            code: RefusalCode::Banned,
            ..
        }
    ));
    assert_eq!(answer.status_after(Some(NodeStatus::Suspended)), None);
}

#[test]
fn an_active_node_that_loses_what_is_asked_is_degraded_not_pending() {
    let answer = decide(StakeView::NoChannel, Some(NodeStatus::Active), &required());
    assert_eq!(
        answer.status_after(Some(NodeStatus::Active)),
        Some(NodeStatus::Degraded)
    );
    assert_eq!(answer.status_after(None), Some(NodeStatus::Pending));
}

#[test]
fn standing_moves_only_along_its_arrows() {
    use NodeStatus::{Active, Degraded, Pending, Suspended};
    use StatusEvent as E;
    let allowed = [
        (Pending, E::Admitted, Active),
        (Active, E::Admitted, Active),
        (Degraded, E::Admitted, Active),
        (Pending, E::RequirementLost, Pending),
        (Active, E::RequirementLost, Degraded),
        (Degraded, E::RequirementLost, Degraded),
        (Degraded, E::GraceOver, Suspended),
        (Pending, E::Suspended, Suspended),
        (Active, E::Suspended, Suspended),
        (Degraded, E::Suspended, Suspended),
        (Suspended, E::Suspended, Suspended),
        (Suspended, E::Reinstated, Pending),
    ];
    let events = [
        E::Admitted,
        E::RequirementLost,
        E::GraceOver,
        E::Suspended,
        E::Reinstated,
    ];
    for from in NodeStatus::ALL.iter().copied() {
        for event in events {
            let to = allowed
                .iter()
                .find(|a| (a.0, a.1) == (from, event))
                .map(|a| a.2);
            assert_eq!(next_status(from, event).ok(), to, "{from} {event:?}");
        }
    }
}

proptest! {
    #[test]
    fn more_hardware_never_means_a_lower_tier(
        vram in 0..200_u64, ram in 0..600_u64, mbps in 0..3_000_u64,
        more in 0..100_u64, allow_cpu: bool,
    ) {
        let policy = AdmissionPolicy { allow_cpu, minima: BTreeMap::new() };
        let less = assess(&hardware(Some(vram), Some(ram), Some(mbps)), &policy);
        let more = assess(&hardware(Some(vram + more), Some(ram + more), Some(mbps + more)), &policy);
        prop_assert!(more.tier >= less.tier);
    }
}
