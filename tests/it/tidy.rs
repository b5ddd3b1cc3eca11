//! Keeps the tree in the shape that its docs describe: who may use whom, length of files, words that stay out, docs that name real tests.
//!
//! It reads text, not syntax; where it is fooled, the code is written in a form that confuses people too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may use whom. `error` and `stats` may be used by all; a name with a path allows that part of the module alone.
const DIRECTIONS: [(&str, &[&str]); 13] = [
    ("main", &[]),
    (
        "cli",
        &[
            "ops", "site", "store", "backend", "crypto", "format", "source", "target",
        ],
    ),
    (
        "ops",
        &[
            "site", "source", "target", "pipeline", "store", "backend", "crypto", "format", "sort",
        ],
    ),
    ("site", &[]),
    // What sources hand over goes to the sink and its workers, nothing else of the pipeline.
    (
        "source",
        &[
            "format",
            "pipeline::ContentBuilder",
            "pipeline::ItemWriter",
            "pipeline::Pool",
            "pipeline::ReadAt",
            "pipeline::SegmentedItem",
            "pipeline::SegmentsEnd",
            "pipeline::Sink",
            "pipeline::SourceQueue",
            "pipeline::StoredItem",
            "pipeline::StreamKind",
            "pipeline::TreePath",
            "pipeline::Unreadable",
            "pipeline::Worker",
        ],
    ),
    // Restoring a database talks to a server as its source does.
    ("target", &["format", "source::postgres"]),
    (
        "pipeline",
        &[
            "crypto",
            "format",
            "sort",
            "store::packs",
            "store::chunk_index",
        ],
    ),
    ("store", &["backend", "crypto", "format"]),
    ("backend", &[]),
    ("crypto", &["format"]),
    ("format", &[]),
    ("sort", &[]),
    // How errors of any layer end the program is said in one place.
    ("error", &["backend", "store"]),
];

/// Lines of code that a file may have, unit tests at its end not counted.
const LINES_MAX: usize = 800;

/// Files that are longer: they may shrink, not grow.
const LONGER: [(&str, usize); 2] = [
    ("src/ops/reading_tests.rs", 858),
    ("src/source/postgres/connect/mod.rs", 820),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with this ending, paths relative to the root.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().is_some_and(|path| path.ends_with(ending)) {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
                found.push((name.to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn is_test_file(name: &str) -> bool {
    let stem = name
        .rsplit('/')
        .next()
        .unwrap_or(name)
        .trim_end_matches(".rs");
    name.contains("/tests/")
        || stem.ends_with("tests")
        || ["testing", "simulation", "conformance"].contains(&stem)
}

/// The lines before the unit tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = text.lines().collect();
    let end = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{')
    });
    lines.into_iter().take(end.unwrap_or(usize::MAX))
}

/// The code without comments and unit tests. The program reaches the library by its name.
fn code_text(text: &str) -> String {
    let lines = code(text).filter(|line| !line.trim_start().starts_with("//"));
    let joined = lines.collect::<Vec<_>>().join(" ");
    joined.replace(" holdfast::", " crate::")
}

/// The module at the top that a file belongs to.
fn module_of(name: &str) -> &str {
    name.split(['/', '.']).nth(1).unwrap_or(name)
}

/// The paths below `crate::`; `crate::a::{b, c::d}` gives `a::b` and `a::c`.
fn uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        let (path, rest) = rest.split_at(end.unwrap_or(rest.len()));
        match rest.strip_prefix('{') {
            Some(list) => found.extend(first_names(list).map(|name| format!("{path}{name}"))),
            None => found.push(path.to_owned()),
        }
    }
    found
}

/// The first name of each path in a list that ends with its closing brace.
fn first_names(list: &str) -> impl Iterator<Item = String> {
    let (mut depth, mut outer) = (1, String::new());
    for c in list.chars() {
        depth = match c {
            '{' => depth + 1,
            '}' => depth - 1,
            _ => depth,
        };
        match depth {
            0 => break,
            1 => outer.push(c),
            _ => {}
        }
    }
    let names: Vec<String> = outer
        .split(',')
        .filter_map(|path| path.trim().split("::").next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    names.into_iter()
}

fn is_allowed(module: &str, path: &str) -> bool {
    let top = path.split("::").next().unwrap_or(path);
    if top == module || ["error", "stats"].contains(&top) {
        return true;
    }
    let row = DIRECTIONS.iter().find(|(name, _)| *name == module);
    let (_, allowed) = row.unwrap_or_else(|| panic!("{module} has no row in DIRECTIONS"));
    allowed.iter().any(|allowed| is_below(path, allowed))
}

fn is_below(path: &str, top: &str) -> bool {
    let rest = path.strip_prefix(top);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn modules_use_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for (name, text) in files("src", ".rs") {
        let module = module_of(&name);
        if is_test_file(&name) || ["lib", "stats"].contains(&module) {
            continue;
        }
        wrong.extend(
            uses(&code_text(&text))
                .iter()
                .filter(|path| !is_allowed(module, path))
                .map(|path| format!("{name}: crate::{path}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_direction_table_has_no_idle_rows() {
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for (name, text) in files("src", ".rs") {
        if !is_test_file(&name) {
            let paths = uses(&code_text(&text)).into_iter();
            used.extend(paths.map(|path| (module_of(&name).to_owned(), path)));
        }
    }
    let mut idle = Vec::new();
    for (module, allowed) in DIRECTIONS {
        for allowed in allowed {
            let below = |(user, path): &(String, String)| user == module && is_below(path, allowed);
            if !used.iter().any(below) {
                idle.push(format!("{module} -> {allowed}"));
            }
        }
    }
    assert!(idle.is_empty(), "allowed and not used: {idle:?}");
}

#[test]
fn files_are_not_too_long() {
    let mut wrong = Vec::new();
    for (name, text) in files("src", ".rs").into_iter().chain(files("tests", ".rs")) {
        let max = LONGER
            .iter()
            .find(|(longer, _)| *longer == name)
            .map_or(LINES_MAX, |(_, max)| *max);
        let count = code(&text).count();
        if count > max {
            wrong.push(format!("{name}: {count} lines, at most {max}"));
        }
    }
    assert!(wrong.is_empty(), "look for the second subject: {wrong:#?}");
}

#[test]
fn unfinished_things_and_machine_paths_stay_out() {
    // Put together here, so that this file passes too.
    let words = [
        concat!("todo", "!("),
        concat!("dbg", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/home", "/user"),
    ];
    let mut texts = files("src", ".rs");
    texts.extend(
        ["tests/it", "benches", "fuzz/fuzz_targets"]
            .into_iter()
            .flat_map(|folder| files(folder, ".rs")),
    );
    for name in [
        "README.md",
        "CHANGELOG.md",
        "Cargo.toml",
        ".ci/run",
        "fuzz/README.md",
        "fuzz/Cargo.toml",
    ] {
        texts.push((name.into(), fs::read_to_string(root().join(name)).unwrap()));
    }
    let mut wrong = Vec::new();
    for (name, text) in texts {
        for (number, line) in text.lines().enumerate() {
            wrong.extend(
                words
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{name}:{}: {word}", number + 1)),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<String> = files("src", ".rs")
        .into_iter()
        .chain(files("tests/it", ".rs"))
        .filter(|(name, text)| !text.starts_with("//! ") && !is_test_file(name))
        .map(|(name, _)| name)
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

/// Names in parentheses and backticks in module docs, such as (`order_does_not_matter`): the tests of invariants.
fn named_tests(text: &str) -> BTreeSet<String> {
    let docs: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .collect();
    let Some(start) = docs.iter().position(|line| line.contains("Invariants")) else {
        return BTreeSet::new();
    };
    let mut names = BTreeSet::new();
    for group in docs[start..].join(" ").split('(').skip(1) {
        let group = group.split(')').next().unwrap_or_default();
        let quoted = group.split('`').skip(1).step_by(2);
        names.extend(quoted.filter_map(|path| {
            let name = path.rsplit("::").next()?;
            let snake = name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            (snake && name.matches('_').count() >= 2).then(|| name.to_owned())
        }));
    }
    names
}

#[test]
fn invariants_name_tests_that_exist() {
    let sources: Vec<(String, String)> = files("src", ".rs")
        .into_iter()
        .chain(files("tests", ".rs"))
        .collect();
    let all: String = sources.iter().map(|(_, text)| text.as_str()).collect();
    let mut missing = Vec::new();
    for (name, text) in &sources {
        for test in named_tests(text) {
            if !all.contains(&format!("fn {test}(")) {
                missing.push(format!("{name}: {test}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn targets_and_benches_are_registered() {
    for (manifest, folder) in [
        ("Cargo.toml", "benches"),
        ("fuzz/Cargo.toml", "fuzz/fuzz_targets"),
    ] {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        for (name, _) in files(folder, ".rs") {
            if name.contains("/common/") {
                continue;
            }
            let stem = name.rsplit('/').next().unwrap().trim_end_matches(".rs");
            assert!(
                text.contains(&format!("name = \"{stem}\"")),
                "{name} is not in {manifest}"
            );
        }
    }
}

/// The commands of holdfast in the code blocks of README.md and the pages below `docs`, with the page.
fn documented_commands() -> Vec<(String, Vec<String>)> {
    let mut pages = files("docs", ".md");
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    pages.push(("README.md".into(), readme));
    let mut commands = Vec::new();
    for (name, text) in pages {
        for block in text.split("\n```sh\n").skip(1) {
            let block = block.split("\n```").next().unwrap_or_default();
            let parts = block.lines().flat_map(|line| line.split(" && "));
            for command in parts.filter(|part| part.starts_with("holdfast ")) {
                commands.push((name.clone(), words(command)));
            }
        }
    }
    commands
}

/// The words of a command as a shell would make them, up to a comment, a pipe or a redirection.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in command.chars().chain([' ']) {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('\'' | '"', None) => quote = Some(c),
            (' ', None) if ["|", ">", "#", "<"].contains(&word.as_str()) => return words,
            (' ', None) if word.is_empty() => {}
            (' ', None) => words.push(std::mem::take(&mut word)),
            (c, None) => word.push(c),
        }
    }
    words
}

#[test]
fn the_docs_name_commands_and_flags_that_exist() {
    let commands = documented_commands();
    assert!(
        commands.len() > 50,
        "the code blocks are not where they were: {}",
        commands.len()
    );
    // A flag that nobody knows comes last: it is the first that is complained about where all before it are known.
    const UNKNOWN: &str = "--no-such-flag";
    let mut wrong = BTreeSet::new();
    for (page, command) in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(&command[1..])
            .arg(UNKNOWN)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if !said.starts_with(&format!("error: unexpected argument '{UNKNOWN}'")) {
            wrong.insert(format!("{page}: {}: {said}", command.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn continuous_checks_run_what_the_readme_says() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    for (marker, command) in [
        ("demo", "cargo run --release -- demo"),
        ("test", "cargo test"),
    ] {
        let (_, rest) = text
            .split_once(&format!("<!-- command: {marker} -->"))
            .unwrap();
        let block = rest.split("```").nth(1).unwrap();
        assert!(
            block.contains(command) && block.contains("apt-get install -y"),
            "{block}"
        );
    }
}

#[test]
fn the_rules_of_this_file_work() {
    assert!(is_allowed("store", "backend::Backend"));
    assert!(is_allowed("pipeline", "store::packs::NewFrame"));
    assert!(!is_allowed("pipeline", "store::packs_of_others"));
    assert!(!is_allowed("backend", "crypto::Keyring"));
    assert!(!is_allowed("source", "pipeline::dedup::Dedup"));
    let text = "use crate::a::B;\n// crate::c\nlet x = crate::d::e() + crate::f;\n#[cfg(test)]\nmod tests {\nuse crate::g;\n";
    assert_eq!(uses(&code_text(text)), ["a::B", "d::e", "f"]);
    let list = "use crate::a::{b, c::{D, E},\n    f::G,\n};";
    assert_eq!(uses(&code_text(list)), ["a::b", "a::c", "a::f"]);
    let command = r"holdfast a 'b c' -o - | psql -d x";
    assert_eq!(words(command), ["holdfast", "a", "b c", "-o", "-"]);
    assert_eq!(words("holdfast a   # b"), ["holdfast", "a"]);
    let docs =
        "//! Invariants: never torn (`a_name_of_a_test`, `x::another_name_here`), see (`Other`).\n";
    assert_eq!(named_tests(docs).len(), 2);
}
