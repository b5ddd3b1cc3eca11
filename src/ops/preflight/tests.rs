use std::path::Path;
use std::sync::Arc;

use super::*;

fn results(text: &str, when: Option<PreflightTime>) -> Vec<(String, Outcome, String)> {
    let site = SiteFile::parse(
        &format!("[site]\nname = \"s\"\n{text}"),
        Path::new("/site.toml"),
    )
    .unwrap();
    let context = PreflightContext {
        site: &site,
        environment: Arc::new(|_| None),
        repository: None,
        now: 0,
    };
    let results = match when {
        Some(when) => preflight(&context, when),
        None => preflight_all(&context),
    };
    results
        .into_iter()
        .map(|result| (result.name, result.outcome, result.text))
        .collect()
}

fn one(check: &str) -> (Outcome, String) {
    let mut all = results(&format!("[[preflight]]\nname = \"p\"\n{check}"), None);
    assert_eq!(all.len(), 1);
    let (_, outcome, text) = all.remove(0);
    (outcome, text)
}

#[test]
fn every_check_gives_a_result() {
    use Outcome::{Fails, Holds, Unknown};
    let dir = tempfile::tempdir().unwrap();
    let pid = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let own = pid("own.pid", &format!("{}\n", std::process::id()));
    let stale = pid("stale.pid", "4194305\n");
    let torn = pid("torn.pid", "");
    for (check, outcome, words) in [
        ("command = \"true\"".to_owned(), Holds, "status 0"),
        (
            "command = \"echo why; exit 3\"".into(),
            Fails,
            "why; status 0 is wanted",
        ),
        ("command = \"exit 3\"\nstatus = 3".into(), Holds, "status 3"),
        (
            "command = \"sleep 60\"\ntimeout = \"1s\"".into(),
            Unknown,
            "took longer than 1 s",
        ),
        (
            format!("no-stale-pid-files = [{own:?}, \"/nowhere/*.pid\"]"),
            Holds,
            "1 PID files",
        ),
        (
            format!("no-stale-pid-files = [{stale:?}]"),
            Fails,
            "process 4194305, which does not run",
        ),
        (
            format!("no-stale-pid-files = [{torn:?}]"),
            Fails,
            "holds no process number",
        ),
        (format!("no-pid-files = [{own:?}]"), Fails, "runs"),
        (
            "no-pid-files = [\"/nowhere/*.pid\"]".into(),
            Holds,
            "none is there",
        ),
        (
            "no-process = [\"no-such-program\"]".into(),
            Holds,
            "none of no-such-program runs",
        ),
        (
            "free-space = \"1 GiB\"".into(),
            Unknown,
            "could not be opened",
        ),
        (
            "certificates-valid-for = \"30d\"".into(),
            Holds,
            "0 certificates",
        ),
        (
            "redis = { url = \"redis://127.0.0.1:1/0\", empty-lists = [\"a\"] }".into(),
            Unknown,
            "127.0.0.1:1",
        ),
    ] {
        let (found, text) = one(&check);
        assert_eq!(found, outcome, "{check}: {text}");
        assert!(text.contains(words), "{check}: {text}");
    }
}

#[test]
fn checks_wait_for_their_time() {
    let text = "[[preflight]]\nname = \"a\"\ncommand = \"true\"\n[[preflight]]\nname = \"b\"\nwhen = \"after-stop\"\ncommand = \"true\"\n";
    let names = |text: &str, when| -> Vec<String> {
        results(text, Some(when)).into_iter().map(|r| r.0).collect()
    };
    assert_eq!(names(text, PreflightTime::BeforeStop), ["a", "b"]);
    assert!(names(text, PreflightTime::AfterStop).is_empty());
    let stopped = format!("{text}[quiesce]\nstop = [\"true\"]\nstart = [\"true\"]");
    assert_eq!(names(&stopped, PreflightTime::BeforeStop), ["a"]);
    assert_eq!(names(&stopped, PreflightTime::AfterStop), ["b"]);
}

#[test]
fn rows_are_compared() {
    let row = |values: &[&str]| values.iter().map(|v| Some((*v).to_owned())).collect();
    let value = |text: &str| SqlExpectation::Value(text.into());
    let check = |rows: &[Vec<Option<String>>], expect: &SqlExpectation, outcome, words: &str| {
        let (found, text) = compare_rows(rows, expect);
        assert_eq!(found, outcome, "{text}");
        assert!(text.contains(words), "{text}");
    };
    check(&[], &SqlExpectation::NoRows, Outcome::Holds, "no rows");
    check(
        &[row(&["1", "x"])],
        &SqlExpectation::NoRows,
        Outcome::Fails,
        "1 row where none should be: 1, x",
    );
    check(&[row(&["0"])], &value("0"), Outcome::Holds, "it is 0");
    check(
        &[row(&["7"])],
        &value("0"),
        Outcome::Fails,
        "it is 7, not 0",
    );
    check(&[vec![None]], &value("0"), Outcome::Fails, "it is NULL");
    check(&[], &value("0"), Outcome::Fails, "0 rows");
    check(
        &[row(&["0", "1"])],
        &value("0"),
        Outcome::Fails,
        "1 rows of 2 columns",
    );
}
