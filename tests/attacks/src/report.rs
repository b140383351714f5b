//! The report: tables, what is short of the bars, where it breaks.

use std::fmt::Write as _;

use owm_aggregate::StrategyName;

use crate::{Args, attack::Attack, cell::Cell};

/// Below this a step is of no use: the breakdown point is the first share of attackers that takes it there.
const BROKEN: f64 = 0.5;

/// What `owm_robust` must reach with 30 % attackers, by size.
const BARS: [(usize, f64); 2] = [(20, 0.78), (50, 0.85)];

/// Share of the honest that may be lost without an attack, from 20 updates on.
const LOST_MAX: f64 = 0.02;

const HEAD: &str = "# Robustness of one round

Written by `make bench-attacks` (`tests/attacks`); do not edit. Synthetic steps, the real codec (10 %, 2 bits), the real
gates, weights and strategies; the second pass's packing is left out, for its residue comes back in the next round.

- The truth is heavy-tailed (Student's t, three degrees of freedom). A node's step is the truth and noise of 1.4 to 2.6
  times its deviation. **Two distributions**: the data of 30 % of the honest have a truth of their own, whose cosine to the
  rest's is 0.5; what the round is to find is then the mean of both.
- 30 % of the updates lie (at least one). They know every honest update, and commit after the honest. Each node is its own
  owner, with the same samples, tier and stake, and no audit. `fedavg` clips to 1.5 times the median norm of the honest.
- The liars of inner product, under 3σ, ALIE, unpopular and copy all hand in the same update, so that the copy gate leaves
  one of them: their breakdown points say nothing of liars who each add something of their own. Sign flip shows those: half.
- Below six updates a reference update of the first distribution tells the direction (`reduced protection`).
- ×10 is let in here to see what the gates make of it; a round's published clip refuses such an update at the door.
- Each cell: cosine of the step to the truth, mean over the seeds; in brackets the share of honest updates lost and of lies
  that count, where a strategy rejects any.

**Not tested here**: attacks over several rounds (slow drift, backdoors, lies adapted to these gates), more than one node per
owner, unequal weights.
";

pub(crate) fn write(args: &Args, cells: &[Cell], shares: &[Cell]) -> String {
    let mut text = String::from(HEAD);
    let _ = writeln!(text, "\n{} seeds, {} elements.", args.seeds, args.elements);
    bars(&mut text, args, cells);
    breakdown(&mut text, args, shares);
    for (other, title) in [(false, "IID"), (true, "Two distributions")] {
        let _ = writeln!(text, "\n## {title}");
        for n in &args.sizes {
            table(&mut text, cells, *n, other);
        }
    }
    text
}

fn find(
    cells: &[Cell],
    n: usize,
    other: bool,
    attack: Attack,
    strategy: StrategyName,
) -> Option<&Cell> {
    cells.iter().find(|cell| {
        cell.setting.n == n
            && cell.setting.other == other
            && cell.attack == attack
            && cell.strategy == strategy
    })
}

fn table(text: &mut String, cells: &[Cell], n: usize, other: bool) {
    let attackers = crate::attackers(n);
    let _ = writeln!(text, "\n### {n} updates, {attackers} of them lie\n");
    let names: Vec<&str> = Attack::ALL.iter().map(|attack| attack.name()).collect();
    let _ = writeln!(text, "| strategy | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(names.len()));
    for strategy in StrategyName::ALL {
        let _ = write!(text, "| {strategy} |");
        for attack in Attack::ALL {
            match find(cells, n, other, attack, *strategy) {
                Some(cell) => {
                    let _ = write!(text, " {} |", said(cell));
                }
                None => text.push_str(" – |"),
            }
        }
        text.push('\n');
    }
}

fn said(cell: &Cell) -> String {
    let (lost, kept) = (100.0 * cell.mean.lost, 100.0 * cell.mean.kept);
    let rejects = lost > 0.0 || (cell.attack != Attack::None && kept < 100.0);
    let cosine = format!("{:.2}", cell.mean.cosine);
    match (rejects, cell.attack) {
        (false, _) => cosine,
        (true, Attack::None) => format!("{cosine} ({lost:.0} %)"),
        (true, _) => format!("{cosine} ({lost:.0}, {kept:.0} %)"),
    }
}

fn bars(text: &mut String, args: &Args, cells: &[Cell]) {
    let _ = writeln!(text, "\n## The bars\n");
    let _ = writeln!(
        text,
        "`owm_robust`, IID, 30 % lie, mean of {} seeds; the worst seed beside it.\n",
        args.seeds
    );
    let _ = writeln!(
        text,
        "| updates | bar | lowest under an attack | worst seed | |"
    );
    let _ = writeln!(text, "|---|---|---|---|---|");
    let robust = StrategyName::OwmRobust;
    let mut short = Vec::new();
    for (n, bar) in BARS {
        let under = Attack::ALL[1..].iter();
        let under: Vec<&Cell> = under
            .filter_map(|a| find(cells, n, false, *a, robust))
            .collect();
        let Some(lowest) = under
            .iter()
            .min_by(|a, b| a.mean.cosine.total_cmp(&b.mean.cosine))
        else {
            continue;
        };
        let worst = under.iter().map(|cell| cell.worst).fold(1.0, f64::min);
        let held = if lowest.mean.cosine >= bar {
            "held"
        } else {
            "**short**"
        };
        let _ = writeln!(
            text,
            "| {n} | {bar} | {:.3} ({}) | {worst:.3} | {held} |",
            lowest.mean.cosine,
            lowest.attack.name()
        );
        short.extend(
            under
                .iter()
                .filter(|cell| cell.mean.cosine < bar)
                .map(|cell| {
                    format!(
                        "- {n} updates, {}: {:.3}, not {bar}",
                        cell.attack.name(),
                        cell.mean.cosine
                    )
                }),
        );
    }
    text.push('\n');
    for n in args.sizes.iter().filter(|n| **n >= 20) {
        let Some(cell) = find(cells, *n, false, Attack::None, robust) else {
            continue;
        };
        let lost = cell.mean.lost;
        let held = if lost <= LOST_MAX {
            "held"
        } else {
            "**short**"
        };
        let _ = writeln!(
            text,
            "- Honest updates lost without an attack at n = {n}: {:.2} % (at most 2 %): {held}.",
            100.0 * lost
        );
    }
    if !short.is_empty() {
        let _ = writeln!(text, "\nWhat falls short:\n\n{}", short.join("\n"));
    }
}

fn breakdown(text: &mut String, args: &Args, shares: &[Cell]) {
    if shares.is_empty() {
        return;
    }
    let n = args.breakdown;
    let _ = writeln!(text, "\n## Where it breaks\n");
    let _ = writeln!(
        text,
        "The least number of liars among {n} (IID) that takes the mean cosine below {BROKEN}; – : none up to {}.\n",
        n * 3 / 5
    );
    let attacks = &Attack::ALL[1..];
    let names: Vec<&str> = attacks.iter().map(|attack| attack.name()).collect();
    let _ = writeln!(text, "| strategy | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(names.len()));
    for strategy in StrategyName::ALL {
        let _ = write!(text, "| {strategy} |");
        for attack in attacks {
            let of = |cell: &&Cell| cell.attack == *attack && cell.strategy == *strategy;
            let broken = shares
                .iter()
                .filter(of)
                .find(|cell| cell.mean.cosine < BROKEN);
            match broken {
                Some(cell) => {
                    let liars = cell.setting.attackers;
                    let _ = write!(text, " {liars} ({} %) |", 100 * liars / n);
                }
                None => text.push_str(" – |"),
            }
        }
        text.push('\n');
    }
}
