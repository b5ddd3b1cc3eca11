//! Which `pg_dump`, `pg_dumpall` or `pg_restore` fits a server.
//!
//! A tool of the server's own major version is the best one; else the next higher that is installed. An
//! older one is never used: it refuses the server anyway. Nothing here runs a tool on a server.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where there is one folder for each major version, and what stands before its number: packages of Debian and its kin, and those of
/// PostgreSQL itself for Red Hat and its kin.
pub const VERSION_FOLDERS: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];

/// A tool that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgTool {
    /// The program.
    pub path: PathBuf,
    /// Its version.
    pub version: ToolVersion,
}

/// The version of a tool; ordered, with majors of two numbers before 10.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ToolVersion {
    /// In the form of `server_version_num`.
    pub num: u32,
    /// As the tool prints it.
    pub text: String,
}

impl fmt::Display for ToolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why no tool fits.
#[derive(Debug, thiserror::Error)]
#[error("{tool} for a PostgreSQL {server} server not found: {}; install {package}", found_text(.found))]
pub struct ToolError {
    /// The tool.
    pub tool: String,
    /// The major version of the server.
    pub server: String,
    /// What was found instead.
    pub found: Vec<PgTool>,
    /// The package that would help.
    pub package: String,
}

fn found_text(found: &[PgTool]) -> String {
    match found {
        [] => "none is installed".to_owned(),
        _ => {
            let list: Vec<String> = found
                .iter()
                .map(|tool| format!("{} is version {}", tool.path.display(), tool.version))
                .collect();
            format!("{}, which is too old", list.join(", "))
        }
    }
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct ToolPlaces {
    /// A folder that the user named; nothing else is looked at then.
    pub folder: Option<PathBuf>,
    /// The value of `PATH`.
    pub path: Option<OsString>,
    /// One folder for each major version below it; the usual ones when absent.
    pub version_folders: Option<PathBuf>,
}

/// Finds the best tool of that name for a server of `server_version_num`.
pub fn find_tool(
    tool: &str,
    server_version_num: u32,
    places: &ToolPlaces,
) -> Result<PgTool, ToolError> {
    let mut found: Vec<PgTool> = candidates(tool, places)
        .iter()
        .filter_map(|path| inspect(path))
        .collect();
    found.sort_by_key(|tool| tool.version.num);
    choose(&found, server_version_num).cloned().ok_or_else(|| {
        let server = major_text(server_version_num);
        ToolError {
            tool: tool.to_owned(),
            package: format!("postgresql-client-{server}"),
            server,
            found,
        }
    })
}

/// Chooses the newest minor of the server's major, else of the next higher major.
fn choose(found: &[PgTool], server_version_num: u32) -> Option<&PgTool> {
    let wanted = major(server_version_num);
    let best_major = found
        .iter()
        .map(|tool| major(tool.version.num))
        .filter(|found| *found >= wanted)
        .min()?;
    // Of equal ones the first, which is where its version's folder is.
    found
        .iter()
        .rev()
        .filter(|tool| major(tool.version.num) == best_major)
        .max_by_key(|tool| tool.version.num)
}

fn candidates(tool: &str, places: &ToolPlaces) -> Vec<PathBuf> {
    let folders: Vec<PathBuf> = match &places.folder {
        Some(folder) => vec![folder.clone()],
        None => {
            let named = places.version_folders.as_deref().and_then(Path::to_str);
            let versions = match named {
                Some(root) => version_folders(&[(root, "")]),
                None => version_folders(&VERSION_FOLDERS),
            };
            let mut folders: Vec<PathBuf> =
                versions.into_iter().map(|(_, folder)| folder).collect();
            folders.extend(places.path.iter().flat_map(std::env::split_paths));
            folders
        }
    };
    folders
        .into_iter()
        .map(|folder| folder.join(tool))
        .filter(|path| path.is_file() && !is_wrapper(path))
        .collect()
}

/// What Debian puts into `/usr/bin` is a script that runs another version for each server than the one it says that it is; the programs themselves are in
/// the folders of their versions.
fn is_wrapper(path: &Path) -> bool {
    path.canonicalize()
        .is_ok_and(|real| real.file_name().is_some_and(|name| name == "pg_wrapper"))
}

/// The folders of programs of each version, with the version as their names say it.
pub fn version_folders(places: &[(&str, &str)]) -> Vec<(String, PathBuf)> {
    let mut folders = Vec::new();
    for (root, prefix) in places {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        let mut found: Vec<(String, PathBuf)> = entries
            .filter_map(|entry| {
                let version = entry.file_name().to_str()?.strip_prefix(prefix)?.to_owned();
                Some((version, entry.path().join("bin")))
            })
            .collect();
        found.sort();
        folders.append(&mut found);
    }
    folders
}

/// Asks a tool for its version; one that does not answer is none.
fn inspect(path: &Path) -> Option<PgTool> {
    let output = Command::new(path).arg("--version").output().ok()?;
    let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
    Some(PgTool {
        path: path.to_owned(),
        version,
    })
}

/// Reads `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`.
fn parse_version(text: &str) -> Option<ToolVersion> {
    let text = text
        .split_once("(PostgreSQL)")
        .map(|(_, version)| version.trim())?;
    let number = text.split_whitespace().next()?;
    // Before a release: 19beta1, 19devel.
    let digits = number
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let numeric = if number.contains(|c: char| c.is_ascii_alphabetic()) {
        digits
    } else {
        number
    };
    let mut parts = numeric.split('.').map(|part| part.parse::<u32>().ok());
    let first = parts.next()??;
    let second = parts.next().flatten().unwrap_or(0);
    let num = match first {
        ..10 => first * 10_000 + second * 100 + parts.next().flatten().unwrap_or(0),
        _ => first.checked_mul(10_000)?.checked_add(second)?,
    };
    Some(ToolVersion {
        num,
        text: number.to_owned(),
    })
}

/// Returns what counts as the major version: 150020 → 1500, 90624 → 906.
fn major(version_num: u32) -> u32 {
    if version_num >= 100_000 {
        version_num / 10_000 * 100
    } else {
        version_num / 100
    }
}

/// Writes a major version as packages are named: `15`, `9.6`.
#[must_use]
pub fn major_text(version_num: u32) -> String {
    if version_num >= 100_000 {
        (version_num / 10_000).to_string()
    } else {
        format!("{}.{}", version_num / 10_000, version_num / 100 % 100)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_as_tools_print_them() {
        let check = |text: &str, expected: Option<u32>| {
            assert_eq!(
                parse_version(text).map(|version| version.num),
                expected,
                "{text}"
            );
        };
        check(
            "pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n",
            Some(150_020),
        );
        check("pg_dumpall (PostgreSQL) 9.6.24", Some(90_624));
        check("pg_dump (PostgreSQL) 19beta1", Some(190_000));
        check("pg_dump (PostgreSQL) 19devel", Some(190_000));
        check("something else 1.0", None);
    }

    fn tools(nums: &[u32]) -> Vec<PgTool> {
        let version = |num| ToolVersion {
            num,
            text: String::new(),
        };
        nums.iter()
            .map(|num| PgTool {
                path: PathBuf::new(),
                version: version(*num),
            })
            .collect()
    }

    #[test]
    fn the_same_major_wins_then_the_next_higher_never_an_older() {
        let check = |installed: &[u32], server: u32, expected: Option<u32>| {
            assert_eq!(
                choose(&tools(installed), server).map(|tool| tool.version.num),
                expected,
                "{installed:?} {server}"
            );
        };
        check(
            &[140_005, 150_018, 150_020, 180_006],
            150_020,
            Some(150_020),
        );
        check(&[140_005, 150_018], 150_020, Some(150_018));
        check(&[140_005, 170_012, 180_006], 150_020, Some(170_012));
        check(&[140_005], 150_020, None);
        check(&[], 150_020, None);
        check(&[90_524, 90_624, 100_023], 90_603, Some(90_624));
        check(&[150_020], 90_300, Some(150_020));
    }

    #[test]
    fn scripts_that_run_another_version_are_passed_over() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let [path, versions] = ["path", "versions"].map(|name| folder.path().join(name));
        let own = versions.join("15/bin");
        for place in [&path, &own] {
            std::fs::create_dir_all(place).expect("made");
        }
        let print = |file: &Path| {
            std::fs::write(file, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.9'\n").expect("written");
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))
                .expect("mode set");
        };
        print(&folder.path().join("pg_wrapper"));
        std::os::unix::fs::symlink("../pg_wrapper", path.join("pg_dump")).expect("linked");
        let places = ToolPlaces {
            path: Some(path.clone().into_os_string()),
            version_folders: Some(versions),
            ..ToolPlaces::default()
        };
        assert!(find_tool("pg_dump", 150_000, &places).is_err());
        print(&own.join("pg_dump"));
        let found = find_tool("pg_dump", 150_000, &places).expect("fits");
        assert_eq!(found.path, own.join("pg_dump"));
        // A program of the same version elsewhere does not go before it.
        std::fs::remove_file(path.join("pg_dump")).expect("removed");
        print(&path.join("pg_dump"));
        let found = find_tool("pg_dump", 150_000, &places).expect("fits");
        assert_eq!(found.path, own.join("pg_dump"));
    }

    #[test]
    fn the_error_names_what_was_found_and_the_package() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let script = folder.path().join("pg_dump");
        std::fs::write(&script, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 13.9'\n").expect("written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
            .expect("mode set");
        let places = ToolPlaces {
            folder: Some(folder.path().to_owned()),
            ..ToolPlaces::default()
        };
        assert_eq!(
            find_tool("pg_dump", 130_000, &places)
                .expect("fits")
                .version
                .text,
            "13.9"
        );
        let error = find_tool("pg_dump", 150_020, &places)
            .expect_err("too old")
            .to_string();
        assert!(
            error.contains("is version 13.9, which is too old; install postgresql-client-15"),
            "{error}"
        );
        let error = find_tool("pg_dumpall", 90_603, &places)
            .expect_err("missing")
            .to_string();
        assert!(
            error.contains("none is installed; install postgresql-client-9.6"),
            "{error}"
        );
    }
}
