//! What monitors read: one line of a plugin, and Prometheus text.
//!
//! The plugin line follows the Monitoring Plugins guidelines: `SERVICE STATUS - text | label=value…`. The metrics follow the Prometheus text
//! exposition format 0.0.4; times are seconds since 1970.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use super::{Level, Status, age_text};

/// One line as monitoring plugins print it; the exit code is 0, 1 or 2 with the level.
pub fn monitor_line(status: &Status) -> String {
    let word = match status.level {
        Level::Ok => "OK",
        Level::Warning => "WARNING",
        Level::Critical => "CRITICAL",
    };
    let mut problems: Vec<String> = Vec::new();
    for component in &status.components {
        for remark in component.remarks.iter().filter(|r| r.level > Level::Ok) {
            problems.push(format!(
                "{}/{}: {}",
                component.kind, component.name, remark.text
            ));
        }
    }
    for certificate in &status.certificates {
        let word = match certificate.level {
            Level::Critical => "has ended",
            _ => "ends soon",
        };
        problems.push(format!(
            "{}: {} {word}",
            certificate.path, certificate.subject
        ));
    }
    let remarks = status.remarks.iter().filter(|r| r.level > Level::Ok);
    problems.extend(remarks.map(|remark| remark.text.clone()));
    let oldest = status.components.iter().filter_map(|c| c.age).max();
    let text = match problems.as_slice() {
        [] => format!(
            "{} components, the oldest good snapshot is {} old",
            status.components.len(),
            age_text(oldest.unwrap_or(0))
        ),
        problems => problems.join("; "),
    };
    // A bar would begin the performance data.
    let text = text.replace(['|', '\n'], " ");
    format!(
        "HOLDFAST {word} - {text} | age={}s size={}B components={} problems={}",
        oldest.unwrap_or(0),
        status.repository.bytes,
        status.components.len(),
        problems.len()
    )
}

/// Metrics as text. `None` says that the repository could not be read.
pub fn prometheus(status: Option<&Status>, now: i64) -> String {
    let mut text = Metrics::default();
    text.one(
        "holdfast_up",
        "Whether the repository could be read",
        &Vec::new(),
        i64::from(status.is_some()),
    );
    text.one(
        "holdfast_status_timestamp_seconds",
        "When this was written",
        &Vec::new(),
        now,
    );
    let Some(status) = status else {
        return text.0;
    };
    text.one(
        "holdfast_status",
        "The worst of everything: 0 ok, 1 warning, 2 critical",
        &Vec::new(),
        level(status.level),
    );
    let repository = &status.repository;
    text.one(
        "holdfast_repository_bytes",
        "Bytes of all objects",
        &Vec::new(),
        repository.bytes,
    );
    text.one(
        "holdfast_repository_snapshots",
        "Live snapshots",
        &Vec::new(),
        repository.snapshots,
    );
    if let Some(free) = repository.free_bytes {
        text.one(
            "holdfast_repository_free_bytes",
            "Bytes that are free there",
            &Vec::new(),
            free,
        );
    }
    text.many(
        "holdfast_component_status",
        "0 ok, 1 warning, 2 critical",
        status
            .components
            .iter()
            .map(|c| (labels(c), Some(level(c.level)))),
    );
    text.many(
        "holdfast_component_last_good_timestamp_seconds",
        "When the last snapshot in which it is complete was begun",
        status
            .components
            .iter()
            .map(|c| (labels(c), c.last_good_at)),
    );
    text.many(
        "holdfast_component_bytes",
        "Its bytes in that snapshot",
        status
            .components
            .iter()
            .map(|c| (labels(c), c.last_good.as_ref().map(|_| c.bytes))),
    );
    text.many(
        "holdfast_certificate_end_timestamp_seconds",
        "When a certificate ends that has ended or soon will",
        status.certificates.iter().map(|c| {
            let labels = vec![
                ("site", c.site.clone()),
                ("path", c.path.clone()),
                ("subject", c.subject.clone()),
            ];
            (labels, Some(c.not_after))
        }),
    );
    let exercise = |e: &super::ExerciseStatus| {
        vec![
            ("kind", e.kind.to_owned()),
            ("depth", e.depth.to_owned()),
            (
                "scope",
                if e.snapshot.is_some() {
                    "snapshot"
                } else {
                    "all"
                }
                .to_owned(),
            ),
        ]
    };
    text.many(
        "holdfast_exercise_timestamp_seconds",
        "When the last verification or drill of a kind ended",
        status
            .exercises
            .iter()
            .map(|e| (exercise(e), Some(e.finished))),
    );
    text.many(
        "holdfast_exercise_damaged",
        "What it found damaged",
        status
            .exercises
            .iter()
            .map(|e| (exercise(e), Some(e.damaged))),
    );
    text.0
}

fn level(level: Level) -> i64 {
    match level {
        Level::Ok => 0,
        Level::Warning => 1,
        Level::Critical => 2,
    }
}

type Labels = Vec<(&'static str, String)>;

fn labels(component: &super::ComponentStatus) -> Labels {
    vec![
        ("site", component.site.clone()),
        ("kind", component.kind.to_owned()),
        ("component", component.name.clone()),
    ]
}

#[derive(Default)]
struct Metrics(String);

impl Metrics {
    fn one(&mut self, name: &str, help: &str, labels: &Labels, value: impl ToString) {
        self.many(
            name,
            help,
            std::iter::once((labels.clone(), Some(value.to_string()))),
        );
    }

    fn many<V: ToString>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels, Option<V>)>,
    ) {
        let mut begun = false;
        for (labels, value) in samples {
            let Some(value) = value else { continue };
            if !begun {
                self.push(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
                begun = true;
            }
            let labels: Vec<String> = labels
                .iter()
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            let labels = match labels.is_empty() {
                true => String::new(),
                false => format!("{{{}}}", labels.join(",")),
            };
            self.push(&format!("{name}{labels} {}\n", value.to_string()));
        }
    }

    fn push(&mut self, text: &str) {
        self.0.write_str(text).expect("a string takes every text");
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Writes a file so that readers see the old text or the new one, never a part.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".holdfast-status")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
