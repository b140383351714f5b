//! The swarm in `owm-node status`: whom this node has met, what it knows, and who said so.

use owm_p2p::view::SourceView;

use crate::swarm::SwarmPicture;

/// Failures shown of one source; `--json` has all that are kept.
const FAILURES_SHOWN: usize = 3;

/// For people.
pub(super) fn lines(swarm: &SwarmPicture) -> Vec<String> {
    let mut lines = vec![format!("swarm: {}", swarm.summary())];
    if !swarm.running {
        return lines;
    }
    lines.extend(swarm.problems.iter().map(|problem| format!("  {problem}")));
    let each = |name: &str, addresses: &[String]| {
        let line = |address: &String| format!("  {name} {address}");
        addresses.iter().map(line).collect::<Vec<_>>()
    };
    lines.extend(each("listens on", &swarm.listening));
    lines.extend(each("reachable at", &swarm.external));
    lines.push(match &swarm.newest {
        Some(newest) => format!(
            "  newest checkpoint {} (sequence {}, from {})",
            newest.version,
            newest.sequence,
            origin(&newest.from)
        ),
        None => "  no checkpoint known yet".to_owned(),
    });
    lines.push(format!(
        "  nodes known {} ({} members), from gossip",
        swarm.nodes_known, swarm.members_known
    ));
    lines.extend(swarm.sources.iter().flat_map(source));
    lines.extend(
        swarm
            .warnings
            .iter()
            .map(|what| format!("  warning: {what}")),
    );
    lines
}

fn origin(from: &str) -> String {
    match from {
        "disk" | "coordinator" => from.to_owned(),
        // Of an earlier run: this node signs no checkpoints.
        "ourselves" => "disk".to_owned(),
        peer => format!("gossip, told by {peer}"),
    }
}

fn source(source: &SourceView) -> Vec<String> {
    let SourceView {
        name,
        given,
        reached,
        failures,
    } = source;
    let mut lines = vec![format!(
        "  way in {name}: {given} addresses, {reached} reached"
    )];
    let shown = failures.iter().rev().take(FAILURES_SHOWN);
    lines.extend(shown.map(|failure| format!("    failed: {failure}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_has_from_its_own_disk_was_not_told_by_gossip() {
        assert_eq!(origin("ourselves"), "disk");
        assert_eq!(origin("disk"), "disk");
        assert_eq!(origin("ab12"), "gossip, told by ab12");
    }
}
