use super::*;

#[test]
fn pauses_double_up_to_the_limit() {
    let policy = RetryPolicy::default();
    let pauses: Vec<u128> = (1..=8)
        .map(|round| policy.pause_after(round).as_millis())
        .collect();
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
}

#[test]
fn servers_of_the_wrong_kind() {
    let facts = |in_recovery, read_only| ServerFacts {
        in_recovery,
        read_only,
        ..ServerFacts::default()
    };
    let (primary, standby, frozen) = (facts(false, false), facts(true, true), facts(false, true));
    let check = |wanted, expected: [bool; 3]| {
        let found = [&primary, &standby, &frozen].map(|facts| unwanted(wanted, facts).is_none());
        assert_eq!(found, expected, "{wanted:?}");
    };
    check(TargetSessionAttrs::Any, [true, true, true]);
    check(TargetSessionAttrs::ReadWrite, [true, false, false]);
    check(TargetSessionAttrs::ReadOnly, [false, true, true]);
    check(TargetSessionAttrs::Primary, [true, false, true]);
    check(TargetSessionAttrs::Standby, [false, true, false]);
}

#[test]
fn a_shuffled_list_keeps_its_members() {
    let mut list: Vec<u32> = (0..50).collect();
    shuffle(&mut list);
    list.sort_unstable();
    assert_eq!(list, (0..50).collect::<Vec<_>>());
}
