use std::path::Path;

use super::*;
use crate::format::id::ObjectHash;
use crate::format::node::{Subtree, Timestamp};
use crate::format::snapshot::{CertificateFact, Component, ComponentState, Record};

const DAY: i64 = 86_400;
const NOW: i64 = 1_000 * DAY;

const SITE: &str = "[site]\nname = \"s\"\n[[share]]\nname = \"Apps\"\npath = \"/a\"\n[status]\nmax-age = \"26h\"\ndrilled-within = \"40d\"";

fn night(number: u8, days_ago: i64, state: ComponentState, bytes: u64) -> Snapshot {
    Snapshot {
        id: ObjectHash([number; 32]),
        seq: u64::from(number),
        record: Record {
            site: "s".into(),
            started: Timestamp {
                seconds: NOW - days_ago * DAY,
                nanos: 0,
            },
            components: vec![Component {
                kind: ComponentKind::Share,
                name: "Apps".into(),
                state,
                totals: Subtree {
                    files: 1,
                    directories: 0,
                    bytes,
                },
                ..Component::default()
            }],
            ..Record::default()
        },
    }
}

fn assessed(all: &[Snapshot], entries: &[LedgerEntry], site: Option<&SiteFile>) -> Status {
    let options = StatusOptions {
        site,
        only: None,
        now: NOW,
    };
    let chosen: Vec<&Snapshot> = all.iter().collect();
    let mut status = Status::default();
    assess::components(&mut status, &options, &chosen);
    assess::certificates(&mut status, &options, &chosen);
    assess::exercises(&mut status, &options, entries, &chosen);
    status.level = worst(&status);
    status
}

fn site() -> SiteFile {
    SiteFile::parse(SITE, Path::new("/site.toml")).unwrap()
}

fn texts(status: &Status) -> String {
    monitor_line(status)
}

use ComponentState::{Complete, Failed, Incomplete};

#[test]
fn a_good_site_is_ok() {
    let status = assessed(&[night(1, 0, Complete, 100)], &[], None);
    assert_eq!(status.level, Level::Ok, "{status:?}");
    assert!(texts(&status).starts_with("HOLDFAST OK - 1 components"));
}

#[test]
fn what_is_not_there_is_critical() {
    assert_eq!(assessed(&[], &[], None).level, Level::Critical);
    let status = assessed(&[], &[], Some(&site()));
    assert_eq!(status.level, Level::Critical);
    assert!(texts(&status).contains("shares/Apps: there is no good snapshot of it"));
    let mut vanished = night(2, 0, Complete, 1);
    vanished.record.components.clear();
    let status = assessed(&[night(1, 1, Complete, 100), vanished], &[], Some(&site()));
    assert!(texts(&status).contains("does not have it"), "{status:?}");
}

#[test]
fn a_failed_night_is_a_warning_until_it_is_too_old() {
    let nights = [night(1, 1, Complete, 100), night(2, 0, Failed, 0)];
    let status = assessed(&nights, &[], None);
    assert_eq!(status.level, Level::Warning);
    assert_eq!(
        status.components[0].last_good.as_deref(),
        Some("010101010101")
    );
    let nights = [night(1, 2, Complete, 100), night(2, 0, Incomplete, 0)];
    let status = assessed(&nights, &[], None);
    assert_eq!(status.level, Level::Critical);
    assert!(
        texts(&status).contains("2 days old, more than 26 hours"),
        "{}",
        texts(&status)
    );
}

#[test]
fn what_shrank_is_a_warning() {
    let mut nights: Vec<Snapshot> = (1..=5)
        .map(|n| night(n, 6 - i64::from(n), Complete, 100))
        .collect();
    nights.push(night(6, 0, Complete, 51));
    assert_eq!(assessed(&nights, &[], None).level, Level::Ok);
    nights.push(night(7, 0, Complete, 49));
    let status = assessed(&nights, &[], None);
    assert_eq!(status.level, Level::Warning);
    assert_eq!(status.components[0].median_bytes, Some(100));
}

#[test]
fn certificates_end() {
    let with = |days: i64| {
        let mut night = night(1, 0, Complete, 1);
        night.record.certificates.push(CertificateFact {
            subject: "CN=x".into(),
            not_after: NOW + days * DAY,
            ..CertificateFact::default()
        });
        assessed(&[night], &[], None).level
    };
    assert_eq!(with(31), Level::Ok);
    assert_eq!(with(29), Level::Warning);
    assert_eq!(with(-1), Level::Critical);
}

fn entry(kind: LedgerKind, depth: LedgerDepth, days_ago: i64, damaged: u64) -> LedgerEntry {
    LedgerEntry {
        kind,
        depth,
        site: "s".into(),
        finished: Timestamp {
            seconds: NOW - days_ago * DAY,
            nanos: 0,
        },
        damaged,
        ..LedgerEntry::default()
    }
}

#[test]
fn verifications_and_drills_grow_old() {
    let nights = [night(1, 100, Complete, 1), night(2, 0, Complete, 1)];
    let level = |entries: &[LedgerEntry], site: Option<&SiteFile>| {
        let status = assessed(&nights, entries, site);
        (status.level, texts(&status))
    };
    let (never, text) = level(&[], None);
    assert_eq!(never, Level::Warning);
    assert!(text.contains("never verified whole"), "{text}");
    let deep = entry(LedgerKind::Verify, LedgerDepth::Data, 3, 0);
    assert_eq!(level(std::slice::from_ref(&deep), None).0, Level::Ok);
    let shallow = entry(LedgerKind::Verify, LedgerDepth::Structure, 1, 0);
    assert_eq!(
        level(std::slice::from_ref(&shallow), None).0,
        Level::Warning
    );
    let damaged = entry(LedgerKind::Verify, LedgerDepth::Structure, 0, 2);
    assert_eq!(level(&[deep.clone(), damaged], None).0, Level::Critical);
    let site = site();
    assert!(
        level(std::slice::from_ref(&deep), Some(&site))
            .1
            .contains("never a drill")
    );
    let drill = entry(LedgerKind::Drill, LedgerDepth::Restored, 3, 0);
    assert_eq!(level(&[deep.clone(), drill], Some(&site)).0, Level::Ok);
    let failed = entry(LedgerKind::Drill, LedgerDepth::Restored, 1, 1);
    assert_eq!(level(&[deep, failed], None).0, Level::Critical);
}

#[test]
fn metrics_are_text() {
    let mut status = assessed(&[night(1, 0, Complete, 100)], &[], None);
    status.components[0].name = "a\"b\\c\nd".into();
    let text = prometheus(Some(&status), NOW);
    assert!(text.contains("# TYPE holdfast_up gauge\nholdfast_up 1\n"));
    assert!(
        text.contains(
            "holdfast_component_bytes{site=\"s\",kind=\"shares\",component=\"a\\\"b\\\\c\\nd\"} 100\n"
        ),
        "{text}"
    );
    assert!(prometheus(None, NOW).contains("holdfast_up 0\n"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("holdfast.prom");
    for text in ["one", "two"] {
        write_atomically(&path, text).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
