//! Paths of shares that stand in a database of the site, where the site file gives none: `path-sql`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ops::backup::{BackupOptions, Environment};
use crate::ops::connect::{connect, first_rows};
use crate::site::SiteFile;
use crate::site::config::run::{Mapping, PathDiscovery};

/// The options with the paths of all shares found, or why they were not.
pub(super) fn resolved(options: &BackupOptions) -> BackupOptions {
    let mut options = options.clone();
    let Some(site) = &options.site else {
        return options;
    };
    if site.shares.iter().all(|share| !is_unknown(&share.path)) {
        return options;
    }
    let mut found = SiteFile::clone(site);
    for number in 0..found.shares.len() {
        match path_of(&found, number, &options.environment) {
            None => {}
            Some(Ok(path)) => found.shares[number].path = path,
            Some(Err(why)) => {
                let name = found.shares[number].name.clone();
                options.unfound_shares.push((name, why));
            }
        }
    }
    options.site = Some(Arc::new(found));
    options
}

fn is_unknown(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// Where a share lies, if that has to be asked for.
pub(super) fn path_of(
    site: &SiteFile,
    share: usize,
    environment: &Environment,
) -> Option<Result<PathBuf, String>> {
    let share = site.shares.get(share)?;
    let discovery = share.discovery.as_ref()?;
    is_unknown(&share.path).then(|| {
        ask(site, discovery, environment)
            .and_then(|text| mapped(&text, &discovery.map))
            .map_err(|why| {
                format!(
                    "its path could not be found in {}: {why}",
                    discovery.database
                )
            })
    })
}

fn ask(
    site: &SiteFile,
    discovery: &PathDiscovery,
    environment: &Environment,
) -> Result<String, String> {
    let mut databases = site.databases.iter();
    let database = databases
        .find(|database| database.name == discovery.database)
        .ok_or("there is no such [[database]]")?;
    let rows = connect(database, environment).and_then(|mut session| {
        session.batch_execute("BEGIN READ ONLY")?;
        first_rows(&mut session, &discovery.sql, 2)
    });
    match rows.map_err(|error| error.to_string())?.as_slice() {
        [row] => match row.first() {
            Some(Some(text)) if !text.is_empty() => Ok(text.clone()),
            _ => Err("the query gives an empty value".into()),
        },
        [] => Err("the query gives no row".into()),
        _ => Err("the query gives several rows".into()),
    }
}

/// The path on this host. To Windows small and capital letters are the same.
pub(super) fn mapped(text: &str, map: &[Mapping]) -> Result<PathBuf, String> {
    let rest = |mapping: &Mapping| -> Option<String> {
        let head = text.get(..mapping.from.len())?;
        let rest = text.get(mapping.from.len()..)?;
        let slashes = ['/', '\\'];
        let whole = rest.is_empty() || rest.starts_with(slashes) || mapping.from.ends_with(slashes);
        (head.to_lowercase() == mapping.from.to_lowercase() && whole)
            .then(|| format!("{}{rest}", mapping.to))
    };
    let path = map.iter().find_map(rest).unwrap_or_else(|| text.to_owned());
    let path = path.replace('\\', "/");
    let path = path.trim_end_matches('/');
    let local = path.starts_with('/') && !path.starts_with("//");
    match local && !path.split('/').any(|part| part == "..") {
        true => Ok(PathBuf::from(path)),
        false => Err(format!(
            "{text} is no path of this host; say with path-map where it is mounted"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_windows_become_paths_of_this_host() {
        let mapping = |from: &str, to: &str| Mapping {
            from: from.into(),
            to: to.into(),
        };
        let map = [
            mapping(r"\\NAS\qlik", "/mnt/qlik"),
            mapping(r"D:\", "/mnt/d/"),
        ];
        let check = |text: &str, path: Option<&str>| {
            assert_eq!(mapped(text, &map).ok(), path.map(PathBuf::from), "{text}");
        };
        check(r"\\nas\QLIK\Apps", Some("/mnt/qlik/Apps"));
        check(r"\\nas\qlik\", Some("/mnt/qlik"));
        check(r"\\nas\qlik2\Apps", None);
        check(r"D:\Share\Apps", Some("/mnt/d/Share/Apps"));
        check("/srv/apps", Some("/srv/apps"));
        check(r"\\nas\qlik\..\etc", None);
    }
}
