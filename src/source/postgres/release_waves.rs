//! Which minor releases of PostgreSQL came out together.
//!
//! A minor release may change what a server keeps in its catalog, and only a `pg_dump` of the same or a later wave knows of
//! that; a higher major version alone says nothing (17.11 writes settings of a 15.20 server that nothing reads back, 17.12 does not).
//! So the wave of a tool is compared with the wave of the server. Nothing here refuses anything: what comes later than the table is unknown.
//!
//! **Layout**: one line for each wave, oldest first; versions are written as `server_version_num`.

/// Date and releases. The date of the last line is that of its quarter's plan.
const WAVES: &[(&str, &[u32])] = &[
    ("2017-10-05", &[100_000]),
    ("2017-11-09", &[100_001]),
    ("2018-02-08", &[100_002]),
    ("2018-03-01", &[100_003]),
    ("2018-05-10", &[100_004]),
    ("2018-08-09", &[100_005]),
    ("2018-10-18", &[110_000]),
    ("2018-11-08", &[100_006, 110_001]),
    ("2019-02-14", &[100_007, 110_002]),
    ("2019-05-09", &[100_008, 110_003]),
    ("2019-06-20", &[100_009, 110_004]),
    ("2019-08-08", &[100_010, 110_005]),
    ("2019-10-03", &[120_000]),
    ("2019-11-14", &[100_011, 110_006, 120_001]),
    ("2020-02-13", &[100_012, 110_007, 120_002]),
    ("2020-05-14", &[100_013, 110_008, 120_003]),
    ("2020-08-13", &[100_014, 110_009, 120_004]),
    ("2020-09-24", &[130_000]),
    ("2020-11-12", &[100_015, 110_010, 120_005, 130_001]),
    ("2021-02-11", &[100_016, 110_011, 120_006, 130_002]),
    ("2021-05-13", &[100_017, 110_012, 120_007, 130_003]),
    ("2021-08-12", &[100_018, 110_013, 120_008, 130_004]),
    ("2021-09-30", &[140_000]),
    ("2021-11-11", &[100_019, 110_014, 120_009, 130_005, 140_001]),
    ("2022-02-10", &[100_020, 110_015, 120_010, 130_006, 140_002]),
    ("2022-05-12", &[100_021, 110_016, 120_011, 130_007, 140_003]),
    ("2022-06-16", &[140_004]),
    ("2022-08-11", &[100_022, 110_017, 120_012, 130_008, 140_005]),
    ("2022-10-13", &[150_000]),
    (
        "2022-11-10",
        &[100_023, 110_018, 120_013, 130_009, 140_006, 150_001],
    ),
    ("2023-02-09", &[110_019, 120_014, 130_010, 140_007, 150_002]),
    ("2023-05-11", &[110_020, 120_015, 130_011, 140_008, 150_003]),
    ("2023-08-10", &[110_021, 120_016, 130_012, 140_009, 150_004]),
    ("2023-09-14", &[160_000]),
    (
        "2023-11-09",
        &[110_022, 120_017, 130_013, 140_010, 150_005, 160_001],
    ),
    ("2024-02-08", &[120_018, 130_014, 140_011, 150_006, 160_002]),
    ("2024-05-09", &[120_019, 130_015, 140_012, 150_007, 160_003]),
    ("2024-08-08", &[120_020, 130_016, 140_013, 150_008, 160_004]),
    ("2024-09-26", &[170_000]),
    (
        "2024-11-14",
        &[120_021, 130_017, 140_014, 150_009, 160_005, 170_001],
    ),
    (
        "2024-11-21",
        &[120_022, 130_018, 140_015, 150_010, 160_006, 170_002],
    ),
    ("2025-02-13", &[130_019, 140_016, 150_011, 160_007, 170_003]),
    ("2025-02-20", &[130_020, 140_017, 150_012, 160_008, 170_004]),
    ("2025-05-08", &[130_021, 140_018, 150_013, 160_009, 170_005]),
    ("2025-08-14", &[130_022, 140_019, 150_014, 160_010, 170_006]),
    ("2025-09-25", &[180_000]),
    (
        "2025-11-13",
        &[130_023, 140_020, 150_015, 160_011, 170_007, 180_001],
    ),
    ("2026-02-12", &[140_021, 150_016, 160_012, 170_008, 180_002]),
    ("2026-02-26", &[140_022, 150_017, 160_013, 170_009, 180_003]),
    ("2026-05-14", &[140_023, 150_018, 160_014, 170_010, 180_004]),
    // There is no 18.5.
    ("2026-08-13", &[140_024, 150_019, 160_015, 170_011, 180_006]),
    ("2026-11-12", &[150_020, 170_012]),
];

/// Returns the place of a release among the waves, and its date. A minor that is newer than all known ones of its
/// major counts behind the table; what is of no known major is unknown.
fn wave(version_num: u32) -> Option<(usize, &'static str)> {
    let known = WAVES
        .iter()
        .position(|(_, releases)| releases.contains(&version_num));
    if let Some(position) = known {
        return Some((position, WAVES[position].0));
    }
    let major = version_num / 10_000;
    let newest = WAVES
        .iter()
        .flat_map(|(_, releases)| *releases)
        .filter(|release| **release / 10_000 == major)
        .max()?;
    (version_num > *newest).then_some((WAVES.len(), "after the last release that is known here"))
}

/// Says how a tool is older than a server by its release, if it is: a sentence for a person.
#[must_use]
pub fn tool_is_older(tool: &str, tool_num: u32, server_num: u32) -> Option<String> {
    let (tool_wave, tool_date) = wave(tool_num)?;
    let (server_wave, server_date) = wave(server_num)?;
    let same_major = tool_num / 10_000 == server_num / 10_000;
    if tool_wave >= server_wave && !(same_major && tool_num < server_num) {
        return None;
    }
    Some(format!(
        "{tool} {} is of an older release ({tool_date}) than the server's {} ({server_date}), and may not know all that the server keeps: \
         update postgresql-client-{}",
        text(tool_num),
        text(server_num),
        tool_num / 10_000
    ))
}

fn text(version_num: u32) -> String {
    format!("{}.{}", version_num / 10_000, version_num % 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_waves_are_named_whatever_the_major() {
        let check = |tool: u32, server: u32, older: bool| {
            let said = tool_is_older("pg_dump", tool, server);
            assert_eq!(said.is_some(), older, "{tool} {server}: {said:?}");
        };
        check(150_020, 150_020, false);
        check(150_018, 150_020, true);
        check(170_011, 150_020, true);
        check(170_012, 150_020, false);
        check(180_006, 150_020, true);
        check(180_006, 150_019, false);
        check(150_020, 150_018, false);
        // Later than the table.
        check(150_020, 150_021, true);
        check(150_022, 150_023, true);
        check(150_023, 150_022, false);
        check(180_007, 150_021, false);
        check(170_011, 150_025, true);
        // Older than the table, or not a release.
        check(100_001, 90_624, false);
        check(90_624, 90_603, false);
        check(180_005, 150_020, false);
        check(190_000, 180_006, false);
    }

    #[test]
    fn every_release_stands_in_one_wave_and_dates_grow() {
        assert!(WAVES.is_sorted_by(|a, b| a.0 < b.0));
        let mut all: Vec<u32> = WAVES.iter().flat_map(|(_, r)| r.iter().copied()).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        let said = tool_is_older("pg_dump", 170_011, 150_020).unwrap();
        assert!(
            said.starts_with(
                "pg_dump 17.11 is of an older release (2026-08-13) than the server's 15.20 (2026-11-12)"
            ),
            "{said}"
        );
    }
}
