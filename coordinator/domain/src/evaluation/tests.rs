//! Honest reports agree; the median holds against one liar in three.

use owm_proto::{NodeKey, evaluation::ExactF64};
use proptest::prelude::*;

use super::*;

fn report(n: u8, loss: f64) -> Report {
    Report {
        node: NodeId::from_random([n; 16]),
        owner: NodeKey::from_seed(&[n; 32]).public(),
        backend: "burn-flex/f32".into(),
        said: EvaluationReport {
            candidate: vec![Sha256([1; 32])],
            text: TextSource::Corpus {
                id: "owm-geo".into(),
                shards: vec![],
            },
            window: 64,
            documents: 1,
            bytes: 10,
            tokens: 10,
            tokens_sha256: Sha256([7; 32]),
            finding: Finding::HeldOut {
                loss: ExactF64(loss),
                bits_per_byte: ExactF64(loss * 2.0),
            },
        },
    }
}

fn with_tokens(mut report: Report, tokens: u8) -> Report {
    report.said.tokens_sha256 = Sha256([tokens; 32]);
    report
}

#[test]
fn honest_reports_agree_and_none_is_flagged() {
    let summary = summarise(&[report(1, 2.0), report(2, 2.0), report(3, 2.0)]);
    assert_eq!(
        (summary.loss, summary.bits_per_byte),
        (Some(2.0), Some(4.0))
    );
    assert_eq!((summary.owners, summary.flags), (3, vec![None; 3]));
    assert_eq!(summarise(&[]).loss, None);
}

#[test]
fn who_read_other_tokens_does_not_count() {
    let liar = with_tokens(report(3, 0.1), 9);
    let summary = summarise(&[report(1, 2.0), liar.clone(), report(2, 2.0)]);
    assert_eq!(summary.flags, [None, Some(Flag::OtherTokens), None]);
    assert_eq!((summary.loss, summary.owners), (Some(2.0), 2));
    // One against one: nobody can tell.
    let summary = summarise(&[report(1, 2.0), liar]);
    assert_eq!(summary.flags, [None, None]);
    // Each node has its own private text.
    let mut local = [report(1, 2.0), with_tokens(report(2, 3.0), 9)];
    for report in &mut local {
        report.said.text = TextSource::Local;
    }
    let summary = summarise(&local);
    assert_eq!((summary.flags, summary.loss), (vec![None; 2], Some(2.5)));
}

#[test]
fn one_owner_has_one_voice() {
    let mut second = report(2, 9.0);
    second.owner = report(1, 0.0).owner;
    second.said.tokens_sha256 = Sha256([7; 32]);
    let summary = summarise(&[second, report(1, 2.0), report(3, 2.0)]);
    assert_eq!(summary.owners, 2);
    assert_eq!(
        summary
            .flags
            .iter()
            .flatten()
            .filter(|f| **f == Flag::SecondVoice)
            .count(),
        1
    );
    // Three nodes of one owner are no majority against one of another, and the other way round.
    let mut many: Vec<Report> = (1..=3).map(|n| with_tokens(report(n, 1.0), 9)).collect();
    let owner = many[0].owner;
    for report in &mut many {
        report.owner = owner;
    }
    many.extend([report(7, 2.0), report(8, 2.0)]);
    assert_eq!(summarise(&many).loss, Some(2.0));
}

#[test]
fn another_loss_on_the_same_backend_is_flagged_on_both_and_counts() {
    let summary = summarise(&[report(1, 2.0), report(2, 1.0), report(3, 2.0)]);
    let differs = Some(Flag::OtherLoss);
    assert_eq!(summary.flags, [differs, Some(Flag::FarLoss), differs]);
    assert_eq!(summary.loss, Some(2.0), "the median holds");
    assert!(
        !Flag::OtherLoss.is_unpaid(),
        "which one is right, it does not say"
    );
    let mut gpu = report(2, 2.000_001);
    gpu.backend = "burn-wgpu/f32".into();
    assert_eq!(summarise(&[report(1, 2.0), gpu]).flags, [None, None]);
}

#[test]
fn a_loss_far_from_what_most_found_earns_nothing_on_whatever_backend() {
    let with = |loss: f64| {
        let mut made_up = report(3, loss);
        made_up.backend = "mine".into();
        summarise(&[report(1, 2.0), report(2, 2.001), made_up]).flags[2]
    };
    assert_eq!(with(2.01), None, "backends differ a little");
    assert_eq!(
        (with(2.1), with(1.9)),
        (Some(Flag::FarLoss), Some(Flag::FarLoss))
    );
    assert!(Flag::FarLoss.is_unpaid());
    // Of two nobody can tell; of private texts neither.
    assert_eq!(
        summarise(&[report(1, 2.0), report(2, 3.0)]).flags,
        [Some(Flag::OtherLoss); 2]
    );
    let mut local = [report(1, 2.0), report(2, 2.0), report(3, 9.0)];
    for report in &mut local {
        report.said.text = TextSource::Local;
    }
    assert_eq!(summarise(&local).flags[2], Some(Flag::OtherLoss));
}

proptest! {
    #[test]
    fn the_order_of_reports_does_not_matter(
        reports in proptest::collection::vec((1_u8..6, 1_u8..6, 6_u8..9, 0.0_f64..9.0), 0..9),
        turn in 0_usize..9,
    ) {
        let mut nodes = std::collections::BTreeSet::new();
        let mut reports: Vec<Report> = reports
            .into_iter()
            .filter(|(node, ..)| nodes.insert(*node))
            .map(|(node, owner, tokens, loss)| Report {
                owner: report(owner, 0.0).owner,
                ..with_tokens(report(node, loss), tokens)
            })
            .collect();
        let before = summarise(&reports);
        let turn = turn % reports.len().max(1);
        reports.rotate_left(turn);
        let after = summarise(&reports);
        prop_assert_eq!(before.loss, after.loss);
        let mut flags = before.flags;
        flags.rotate_left(turn);
        prop_assert_eq!(flags, after.flags);
    }
}
