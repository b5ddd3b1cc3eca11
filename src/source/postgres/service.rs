//! The service file of libpq: `[name]` sections of `key=value` lines.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::conninfo::{ConnInfo, ConnInfoError};

/// Returns the definition of a service from the first file that has it.
///
/// A file that was named by the user must exist; the usual places need not.
pub(super) fn look_up(
    service: &str,
    named: Option<PathBuf>,
    usual: &[PathBuf],
) -> Result<ConnInfo, ConnInfoError> {
    let files: Vec<(PathBuf, bool)> = named
        .into_iter()
        .map(|file| (file, true))
        .chain(usual.iter().map(|file| (file.clone(), false)))
        .collect();
    for (file, must_exist) in &files {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => continue,
            Err(error) => return Err(bad_file(file, error.to_string())),
        };
        if let Some(info) = find(&text, service, file)? {
            return Ok(info);
        }
    }
    Err(ConnInfoError::ServiceNotFound {
        service: service.to_owned(),
        files: files.into_iter().map(|(file, _)| file).collect(),
    })
}

fn bad_file(file: &Path, message: String) -> ConnInfoError {
    ConnInfoError::ServiceFile {
        file: file.to_owned(),
        message,
    }
}

fn find(text: &str, service: &str, file: &Path) -> Result<Option<ConnInfo>, ConnInfoError> {
    let mut found: Option<ConnInfo> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if header.strip_suffix(']') == Some(service) {
                found = Some(ConnInfo::default());
            }
            continue;
        }
        if let Some(info) = &mut found {
            add_line(info, line)
                .map_err(|message| bad_file(file, format!("line {}: {message}", number + 1)))?;
        }
    }
    Ok(found)
}

fn add_line(info: &mut ConnInfo, line: &str) -> Result<(), String> {
    if line.starts_with("ldap://") {
        return Err("services from LDAP are not supported".to_owned());
    }
    let Some((key, value)) = line.split_once('=') else {
        return Err("expected key=value".to_owned());
    };
    if matches!(key, "service" | "servicefile") {
        return Err("a service may not name another service".to_owned());
    }
    info.set(key, value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\n[a]\nhost=db1\nport=5433\n\n[b]\nhost = db2\n[c]\nldap://x\n[d]\nservice=a\n[e]\nhots=x\n";

    fn check(service: &str, expected: Result<Option<&str>, &str>) {
        let found =
            find(TEXT, service, Path::new("/f")).map(|info| info.map(|info| info.to_string()));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{service}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{service}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn sections() {
        check("a", Ok(Some("host=db1 port=5433")));
        // libpq does not trim around "=" either.
        check("b", Err("line 7: unknown connection key \"host \""));
        check("c", Err("LDAP"));
        check("d", Err("may not name another service"));
        check("e", Err("did you mean \"host\""));
        check("f", Ok(None));
    }

    #[test]
    fn a_named_file_must_exist_and_a_missing_service_names_the_files() {
        let named = look_up("a", Some(PathBuf::from("/nowhere/services")), &[]);
        assert!(
            matches!(named, Err(ConnInfoError::ServiceFile { .. })),
            "{named:?}"
        );
        let error =
            look_up("a", None, &[PathBuf::from("/nowhere/services")]).expect_err("no such service");
        assert_eq!(
            error.to_string(),
            "definition of service \"a\" not found in /nowhere/services"
        );
    }
}
