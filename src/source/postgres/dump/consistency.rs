//! Whether the snapshots of a cluster's databases agree.

use super::open::SnapshotFacts;
use super::outcome::DatabaseOutcome;

/// How the databases of one cluster fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConsistency {
    /// Name of the cluster in the tree.
    pub cluster: String,
    /// Whether all snapshots show the same transactions.
    pub atomic: bool,
    /// Milliseconds between the first and the last of them.
    pub spread_ms: u64,
}

/// Compares the snapshots of each cluster.
#[must_use]
pub fn cluster_consistency(outcomes: &[&DatabaseOutcome]) -> Vec<ClusterConsistency> {
    let mut clusters: Vec<&str> = outcomes
        .iter()
        .map(|outcome| outcome.cluster.as_str())
        .collect();
    clusters.sort_unstable();
    clusters.dedup();
    clusters
        .into_iter()
        .map(|cluster| {
            let snapshots: Vec<&SnapshotFacts> = outcomes
                .iter()
                .filter(|o| o.cluster == cluster)
                .map(|o| &o.snapshot)
                .collect();
            let times = || snapshots.iter().map(|snapshot| snapshot.time_ms);
            let spread = times().max().unwrap_or(0) - times().min().unwrap_or(0);
            ClusterConsistency {
                cluster: cluster.to_owned(),
                atomic: snapshots
                    .windows(2)
                    .all(|pair| pair[0].visible == pair[1].visible),
                spread_ms: u64::try_from(spread).unwrap_or(0),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_of_a_cluster_agree_or_have_a_spread() {
        let outcome = |cluster: &str, visible: &str, time_ms: i64| DatabaseOutcome {
            cluster: cluster.to_owned(),
            snapshot: SnapshotFacts {
                visible: visible.to_owned(),
                time_ms,
                ..SnapshotFacts::default()
            },
            ..DatabaseOutcome::default()
        };
        let (a, b, c, d) = (
            outcome("x", "1:1:", 10),
            outcome("x", "1:1:", 12),
            outcome("y", "1:1:", 5),
            outcome("y", "1:2:", 9),
        );
        let consistency = |cluster: &str, atomic, spread_ms| ClusterConsistency {
            cluster: cluster.to_owned(),
            atomic,
            spread_ms,
        };
        assert_eq!(
            cluster_consistency(&[&a, &c, &b, &d]),
            [consistency("x", true, 2), consistency("y", false, 4)]
        );
    }
}
