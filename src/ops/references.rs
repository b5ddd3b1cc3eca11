//! Rules that tie rows to files: `[[reference]]`.
//!
//! A rule's query runs in the snapshot of its database; each row makes a path of the tree. The names of files come by as the trees are walked.
//! Both are sorted on scratch disk and merged, so that neither millions of rows nor of files are held in memory.
//!
//! | path of a rule | rows make | files are |
//! |---|---|---|
//! | `shares/Apps/{ID}` | that path with the column `ID` in it | everything that stands directly in `shares/Apps` |
//! | `shares/X/{A}/{B}.bin` | that path | what stands at that depth below `shares/X` and is called so |
//! | any, where values of a column hold `/` or `\` | the path with `\` as `/` | all files below the fixed folders |
//!
//! Invariants:
//!
//! 1. A row that makes the path of another counts as a row, but a path is missing once (test `rows_and_files_are_told_apart`).
//! 2. A rule that could not be evaluated says so and never looks like one without findings (test `a_rule_without_its_rows_says_so`).

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Result;
use crate::format::node::{Node, NodeKind};
use crate::format::snapshot::ReferenceResult;
use crate::pipeline::{Observer, TreePath};
use crate::site::config::run::ReferenceSettings;
use crate::sort::{SortedRecords, Sorter};
use crate::source::postgres::{PgError, PgSession};

/// Memory of each list of paths before it spills.
const LIST_BYTES: usize = 4 << 20;

/// How many paths of either kind a result names.
const EXAMPLES_MAX: usize = 5;

/// A piece of a rule's path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Column(String),
}

/// All rules of a run.
#[derive(Debug)]
pub(crate) struct References {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    settings: ReferenceSettings,
    pieces: Vec<Piece>,
    /// The folders before the first column, with a slash at the end.
    fixed: Vec<u8>,
    rows: Sorter,
    files: Sorter,
    row_count: AtomicU64,
    /// Whether a value of a row reaches over several names.
    spans: AtomicBool,
    problem: Mutex<Option<String>>,
}

impl References {
    /// The rules of a site file.
    pub(crate) fn new(settings: &[ReferenceSettings], scratch: &Path) -> Self {
        let rule = |settings: &ReferenceSettings| {
            let pieces = pieces(&settings.path);
            let first = match pieces.first() {
                Some(Piece::Text(text)) => text.as_str(),
                _ => "",
            };
            let folders = first.rfind('/').map_or("", |end| &first[..=end]);
            Rule {
                settings: settings.clone(),
                fixed: fold(folders.as_bytes(), settings.ignore_case),
                pieces,
                rows: Sorter::new(LIST_BYTES, scratch),
                files: Sorter::new(LIST_BYTES, scratch),
                row_count: AtomicU64::new(0),
                spans: AtomicBool::new(false),
                problem: Mutex::new(Some("its query was not run".into())),
            }
        };
        Self {
            rules: settings.iter().map(rule).collect(),
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule asks this database.
    pub(crate) fn asks(&self, database: &str) -> bool {
        self.rules.iter().any(|r| r.settings.database == database)
    }

    /// Runs the queries of a database's rules in its snapshot. One that fails is a problem of its rule alone.
    pub(crate) fn ask(&self, database: &str, session: &mut PgSession) -> Result<()> {
        for rule in &self.rules {
            if rule.settings.database != database {
                continue;
            }
            let problem = match rule.ask(session) {
                Ok(()) => None,
                Err(AskError::Server(error)) => Some(error.to_string()),
                Err(AskError::Run(error)) => return Err(error),
            };
            *rule.problem() = problem;
        }
        Ok(())
    }

    /// Notes that the rows of a database can't be relied on.
    pub(crate) fn distrust_rows(&self, database: &str, reason: &str) {
        self.distrust(reason, |settings| settings.database == database);
    }

    /// Notes that the files below a place of the tree can't be relied on.
    pub(crate) fn distrust_files(&self, place: &str, reason: &str) {
        let below = format!("{place}/");
        self.distrust(reason, |settings| settings.path.starts_with(&below));
    }

    fn distrust(&self, reason: &str, which: impl Fn(&ReferenceSettings) -> bool) {
        for rule in &self.rules {
            if which(&rule.settings) {
                *rule.problem() = Some(reason.to_owned());
            }
        }
    }

    /// Compares rows with files.
    pub(crate) fn results(&self) -> Result<Vec<ReferenceResult>> {
        self.rules.iter().map(Rule::result).collect()
    }
}

impl Observer for References {
    fn saw(&self, path: &TreePath, node: &Node) -> Result<()> {
        let mut joined = None;
        for rule in &self.rules {
            let path = joined.get_or_insert_with(|| path.display_bytes());
            rule.saw(path, node.kind)?;
        }
        Ok(())
    }
}

enum AskError {
    Server(PgError),
    Run(crate::error::Error),
}

impl From<PgError> for AskError {
    fn from(error: PgError) -> Self {
        Self::Server(error)
    }
}

impl Rule {
    fn problem(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, session: &mut PgSession) -> std::result::Result<(), AskError> {
        // A statement that fails must not end the transaction that holds the snapshot.
        session.batch_execute("SAVEPOINT holdfast_reference")?;
        let asked = session.query_each(&self.statement(), &[], &mut |row| {
            let mut path = String::new();
            let mut column = 0;
            for piece in &self.pieces {
                match piece {
                    Piece::Text(text) => path.push_str(text),
                    Piece::Column(_) => {
                        // A row whose value is NULL refers to nothing.
                        let Some(value) = row.get::<_, Option<&str>>(column) else {
                            return Ok(());
                        };
                        column += 1;
                        self.push_value(&mut path, value);
                    }
                }
            }
            self.row_count.fetch_add(1, Ordering::Relaxed);
            let key = fold(path.as_bytes(), self.settings.ignore_case);
            self.rows
                .push(&key, path.as_bytes())
                .map(drop)
                .map_err(AskError::Run)
        });
        // After an error of the server the savepoint brings the transaction back.
        session.batch_execute("ROLLBACK TO SAVEPOINT holdfast_reference")?;
        asked.map(drop)
    }

    fn push_value(&self, path: &mut String, value: &str) {
        if !value.contains(['/', '\\']) {
            return path.push_str(value);
        }
        self.spans.store(true, Ordering::Relaxed);
        let value = value.replace('\\', "/");
        let value = match path.ends_with('/') {
            true => value.trim_start_matches('/'),
            false => &value,
        };
        path.push_str(value);
    }

    /// The query with the columns of the path, each as text, in the order of the path.
    fn statement(&self) -> String {
        let columns: Vec<String> = self
            .pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Column(name) => Some(format!(
                    "q.\"{}\"::pg_catalog.text",
                    name.replace('"', "\"\"")
                )),
                Piece::Text(_) => None,
            })
            .collect();
        let sql = self.settings.sql.trim().trim_end_matches(';');
        // A line break ends a comment that the query may end with.
        format!("SELECT {} FROM ({sql}\n) AS q", columns.join(", "))
    }

    fn saw(&self, path: &[u8], kind: NodeKind) -> Result<()> {
        let key = fold(path, self.settings.ignore_case);
        let Some(below) = key.strip_prefix(self.fixed.as_slice()) else {
            return Ok(());
        };
        if below.is_empty() {
            return Ok(());
        }
        let mut value = vec![u8::from(kind == NodeKind::Directory)];
        value.extend_from_slice(path);
        self.files.push(&key, &value).map(drop)
    }

    /// Whether a path of the tree is one that a row could make.
    fn fits(&self, path: &[u8], is_directory: bool) -> bool {
        let spans = self.spans.load(Ordering::Relaxed);
        if spans && is_directory {
            return false;
        }
        let folded: Vec<Piece> = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) if self.settings.ignore_case => Piece::Text(text.to_lowercase()),
                piece => piece.clone(),
            })
            .collect();
        matches(&folded, path, spans)
    }

    fn result(&self) -> Result<ReferenceResult> {
        let mut result = ReferenceResult {
            name: self.settings.name.clone(),
            database: self.settings.database.clone(),
            problem: self.problem().clone().unwrap_or_default(),
            ..ReferenceResult::default()
        };
        if !result.problem.is_empty() {
            return Ok(result);
        }
        result.rows = self.row_count.load(Ordering::Relaxed);
        let mut lost = Vec::new();
        let mut surplus = Vec::new();
        let mut rows = Distinct::new(self.rows.drain()?);
        let mut files = Distinct::new(self.files.drain()?);
        let (mut row, mut file) = (rows.next()?, files.next()?);
        loop {
            let order = match (&row, &file) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(row), Some(file)) => row.0.cmp(&file.0),
            };
            if order.is_lt() {
                result.rows_without_file += 1;
                if let Some((_, shown)) = &row {
                    example(&mut lost, "no file", shown);
                }
            }
            if order.is_ge()
                && let Some((key, value)) = &file
            {
                let (is_directory, shown) = value.split_first().unwrap_or((&0, &[]));
                let counts = order.is_eq() || self.fits(key, *is_directory == 1);
                result.files += u64::from(counts);
                if counts && order.is_gt() && self.settings.files_without_row {
                    result.files_without_row += 1;
                    example(&mut surplus, "no row", shown);
                }
            }
            if order.is_le() {
                row = rows.next()?;
            }
            if order.is_ge() {
                file = files.next()?;
            }
        }
        result.examples = lost;
        result.examples.append(&mut surplus);
        Ok(result)
    }
}

fn example(examples: &mut Vec<String>, what: &str, path: &[u8]) {
    if examples.len() < EXAMPLES_MAX {
        examples.push(format!("{what}: {}", String::from_utf8_lossy(path)));
    }
}

/// Sorted records, the first of each key.
struct Distinct {
    records: SortedRecords,
    last: Option<Vec<u8>>,
}

impl Distinct {
    fn new(records: SortedRecords) -> Self {
        Self {
            records,
            last: None,
        }
    }

    fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        for record in self.records.by_ref() {
            let record = record?;
            if self.last.as_ref() != Some(&record.key) {
                self.last = Some(record.key.clone());
                return Ok(Some((record.key, record.value)));
            }
        }
        Ok(None)
    }
}

/// Takes a path apart: text and `{column}` places.
fn pieces(path: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = path;
    while let Some((text, after)) = rest.split_once('{')
        && let Some((column, after)) = after.split_once('}')
    {
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        pieces.push(Piece::Column(column.to_owned()));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    pieces
}

/// Whether text and columns can make this path; a column takes at least one sign, and `/` only where `spans`.
fn matches(pieces: &[Piece], path: &[u8], spans: bool) -> bool {
    match pieces.split_first() {
        None => path.is_empty(),
        Some((Piece::Text(text), rest)) => path
            .strip_prefix(text.as_bytes())
            .is_some_and(|path| matches(rest, path, spans)),
        Some((Piece::Column(_), rest)) => {
            let reach = match spans {
                true => path.len(),
                false => path.iter().position(|b| *b == b'/').unwrap_or(path.len()),
            };
            if rest.is_empty() {
                return reach == path.len() && reach > 0;
            }
            (1..=reach).any(|taken| matches(rest, &path[taken..], spans))
        }
    }
}

/// The form in which paths are compared.
fn fold(path: &[u8], ignore_case: bool) -> Vec<u8> {
    match std::str::from_utf8(path) {
        Ok(text) if ignore_case => text.to_lowercase().into_bytes(),
        _ => path.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, ignore_case: bool) -> References {
        let settings = ReferenceSettings {
            name: "apps".into(),
            database: "QSR".into(),
            sql: "SELECT 1".into(),
            path: path.into(),
            ignore_case,
            files_without_row: true,
        };
        References::new(&[settings], &std::env::temp_dir())
    }

    fn compared(references: &References, rows: &[&str], files: &[&str]) -> ReferenceResult {
        let rule = &references.rules[0];
        *rule.problem() = None;
        for row in rows {
            let mut path = String::new();
            for piece in &rule.pieces {
                match piece {
                    Piece::Text(text) => path.push_str(text),
                    Piece::Column(_) => rule.push_value(&mut path, row),
                }
            }
            rule.row_count.fetch_add(1, Ordering::Relaxed);
            rule.rows
                .push(
                    &fold(path.as_bytes(), rule.settings.ignore_case),
                    path.as_bytes(),
                )
                .unwrap();
        }
        for file in files {
            let kind = match file.ends_with('/') {
                true => NodeKind::Directory,
                false => NodeKind::File,
            };
            rule.saw(file.trim_end_matches('/').as_bytes(), kind)
                .unwrap();
        }
        references.results().unwrap().remove(0)
    }

    fn counts(result: &ReferenceResult) -> (u64, u64, u64, u64) {
        (
            result.rows,
            result.files,
            result.rows_without_file,
            result.files_without_row,
        )
    }

    #[test]
    fn rows_and_files_are_told_apart() {
        let result = compared(
            &rules("shares/Apps/{ID}", false),
            &["a", "b", "b", "c"],
            &[
                "shares/Apps/",
                "shares/Apps/a",
                "shares/Apps/d",
                "shares/Apps/d/deeper",
                "shares/Other/c",
            ],
        );
        assert_eq!(counts(&result), (4, 2, 2, 1));
        assert_eq!(
            result.examples,
            [
                "no file: shares/Apps/b",
                "no file: shares/Apps/c",
                "no row: shares/Apps/d"
            ]
        );
    }

    #[test]
    fn letter_case_may_not_matter() {
        let files = ["shares/Apps/AB-1"];
        let same = compared(&rules("shares/Apps/{ID}", true), &["ab-1"], &files);
        assert_eq!(counts(&same), (1, 1, 0, 0));
        let other = compared(&rules("shares/Apps/{ID}", false), &["ab-1"], &files);
        assert_eq!(counts(&other), (1, 1, 1, 1));
    }

    #[test]
    fn values_may_be_paths() {
        let result = compared(
            &rules("shares/StaticContent/{Path}", false),
            &["\\content\\a.png", "content/b.png"],
            &[
                "shares/StaticContent/content/",
                "shares/StaticContent/content/a.png",
                "shares/StaticContent/content/c.png",
            ],
        );
        assert_eq!(counts(&result), (2, 2, 1, 1));
    }

    #[test]
    fn a_rule_without_its_rows_says_so() {
        let references = rules("shares/Apps/{ID}", false);
        let result = references.results().unwrap().remove(0);
        assert_eq!(result.problem, "its query was not run");
        references.rules[0].problem().take();
        references.distrust_files("shares/Apps", "the share failed");
        assert_eq!(references.results().unwrap()[0].problem, "the share failed");
    }

    #[test]
    fn the_statement_quotes_its_columns() {
        let mut references = rules("shares/{a\"b}/x{c}", false);
        references.rules[0].settings.sql = "SELECT 1 -- note\n;".into();
        assert_eq!(
            references.rules[0].statement(),
            "SELECT q.\"a\"\"b\"::pg_catalog.text, q.\"c\"::pg_catalog.text FROM (SELECT 1 -- note\n\n) AS q"
        );
    }

    #[test]
    fn patterns() {
        let check = |pattern: &str, path: &str, spans, fits: bool| {
            assert_eq!(
                matches(&pieces(pattern), path.as_bytes(), spans),
                fits,
                "{pattern} {path}"
            );
        };
        check("s/{A}/{B}.bin", "s/1/2.bin", false, true);
        check("s/{A}/{B}.bin", "s/1/2/3.bin", false, false);
        check("s/{A}/{B}.bin", "s/1/.bin", false, false);
        check("s/{A}.{B}", "s/a.b.c", false, true);
        check("s/{A}", "s/a/b", false, false);
        check("s/{A}", "s/a/b", true, true);
    }
}
