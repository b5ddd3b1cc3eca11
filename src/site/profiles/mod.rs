//! The profiles: commented site files and path lists that come with holdfast.
//!
//! A profile is text, not code: what `site new` prints is what the administrator edits, and it parses as it stands
//! (test `every_profile_parses`). A profile does not look at the host; `site check` does.

/// A kind of site that holdfast knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The name that `site new --profile` takes.
    pub name: &'static str,
    /// One line for the help text.
    pub summary: &'static str,
    /// The commented site file.
    pub site_toml: &'static str,
}

/// All profiles, in the order in which they are listed.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "qlik-sense",
        summary: "Qlik Sense Enterprise with shared persistence",
        site_toml: include_str!("qlik-sense.toml"),
    },
    Profile {
        name: "eclecticiq",
        summary: "EclecticIQ platform on Rocky Linux",
        site_toml: include_str!("eclecticiq.toml"),
    },
    Profile {
        name: "plain",
        summary: "one database, one share, some configuration files",
        site_toml: include_str!("plain.toml"),
    },
];

/// The path lists that a site file can name as `builtin:NAME`.
const LISTS: &[(&str, &str)] = &[
    ("eclecticiq", include_str!("eclecticiq.list")),
    (
        "eclecticiq-elasticsearch-data",
        include_str!("eclecticiq-elasticsearch-data.list"),
    ),
];

/// Returns the site file of the profile of this name.
pub fn profile(name: &str) -> Option<&'static str> {
    PROFILES
        .iter()
        .find(|profile| profile.name == name)
        .map(|profile| profile.site_toml)
}

/// Returns the text of the path list that a site file names as `builtin:NAME`.
pub fn builtin_list(name: &str) -> Option<&'static str> {
    LISTS
        .iter()
        .find(|(list, _)| *list == name)
        .map(|(_, text)| *text)
}

/// The names of the path lists that come with holdfast.
pub fn builtin_list_names() -> impl Iterator<Item = &'static str> {
    LISTS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::site::config::SiteFile;
    use crate::site::config::run::{PreflightCheck, PreflightTime};
    use crate::site::lists::parse_list;

    fn parsed(name: &str) -> SiteFile {
        SiteFile::parse(profile(name).unwrap(), Path::new("site.toml"))
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    #[test]
    fn every_profile_parses() {
        for profile in PROFILES {
            let site = parsed(profile.name);
            assert_eq!(site.redacted(), profile.site_toml, "{}", profile.name);
        }
        assert_eq!(profile("nonesuch"), None);
    }

    #[test]
    fn a_filled_in_profile_parses() {
        let text = profile("qlik-sense")
            .unwrap()
            .replace("host=central.example", "host=db1.example,db2.example sslmode=verify-full target_session_attrs=prefer-standby")
            .replace("/mnt/qlik", "/srv/share/qlik")
            .replace("# password-file", "password-file");
        let site = SiteFile::parse(&text, Path::new("site.toml")).unwrap();
        assert!(site.certificates[0].password.is_some());
        assert!(site.databases[0].conninfo.expose().contains("db2.example"));
    }

    /// The text of a profile with every line switched on that looks like a setting behind its comment sign, but for the two other
    /// ways to give the repository's key.
    fn switched_on(name: &str) -> String {
        let is_setting = |text: &str| {
            let (key, value) = text.split_once(" = ").unwrap_or((text, ""));
            let key_signs = |c: char| c.is_ascii_lowercase() || c == '-';
            let named = !value.is_empty() && key.chars().all(key_signs);
            let heads = text.starts_with('[') && text.ends_with(']');
            (named || heads) && !text.starts_with("passphrase")
        };
        let lines = profile(name).unwrap().lines();
        let text: String = lines
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if is_setting(rest) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        // The longer of the two lists of files takes the place of the shorter one.
        text.replace("lists = [\"builtin:eclecticiq\"]\n", "")
    }

    #[test]
    fn commented_out_settings_are_known_keys() {
        for profile in PROFILES {
            let text = switched_on(profile.name);
            let site = SiteFile::parse(&text, Path::new("site.toml"))
                .unwrap_or_else(|e| panic!("{}: {e}\n{text}", profile.name));
            assert!(site.replicate.is_some(), "{}", profile.name);
        }
    }

    #[test]
    fn the_profiles_of_sites_use_every_part_of_a_site_file() {
        for name in ["qlik-sense", "eclecticiq"] {
            let site = parsed(name);
            assert_eq!(site.profile.as_deref(), Some(name));
            let quiesce = site.quiesce.unwrap();
            assert_eq!(quiesce.stop.len(), quiesce.start.len(), "{name}");
            assert!(!quiesce.stop.is_empty(), "{name}");
            let times: Vec<PreflightTime> = site.preflight.iter().map(|p| p.when).collect();
            assert!(times.contains(&PreflightTime::BeforeStop), "{name}");
            assert!(times.contains(&PreflightTime::AfterStop), "{name}");
            assert!(!site.restore.queries.is_empty(), "{name}");
            assert!(site.hooks.on_failure.is_some(), "{name}");
            assert!(site.drill.scratch.is_some(), "{name}");
            assert!(site.status.drilled_within.is_some(), "{name}");
            assert!(site.retention.yearly.is_some(), "{name}");
            let all = SiteFile::parse(&switched_on(name), Path::new("site.toml")).unwrap();
            assert_eq!(all.relocate.len(), 1, "{name}");
            assert!(!all.restore.post_commands.is_empty(), "{name}");
        }
    }

    #[test]
    fn the_eclecticiq_profile_follows_the_vendors_order() {
        let site = parsed("eclecticiq");
        let quiesce = site.quiesce.unwrap();
        let stop: Vec<&str> = quiesce.stop.iter().map(|c| c.command.expose()).collect();
        assert!(stop[0].ends_with("eclecticiq-platform-backend-services"));
        assert!(stop[1].contains("eclecticiq-platform-backend-worker*.service"));
        let start: Vec<&str> = quiesce.start.iter().map(|c| c.command.expose()).collect();
        assert!(start[1].ends_with("eclecticiq-platform-backend-services"));
        let queues = site.preflight.iter().find_map(|p| match &p.check {
            PreflightCheck::Redis { empty_lists, .. } => Some((p.when, empty_lists.len())),
            _ => None,
        });
        assert_eq!(queues, Some((PreflightTime::AfterStop, 8)));
        assert!(site.restore.queries[0].sql.contains("FROM blob"));
        assert_eq!(site.restore.queries[0].expect, None);
        let commands = &site.restore.post_commands;
        assert!(
            commands
                .iter()
                .any(|c| c.command.expose().contains("search reindex"))
        );
    }

    #[test]
    fn the_qlik_profile_has_what_the_vendor_names() {
        let site = parsed("qlik-sense");
        let names: Vec<&str> = site.databases.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["QSR", "SenseServices", "QSMQ", "Licenses", "QLogs"]);
        assert!(
            site.databases
                .iter()
                .all(|d| d.conninfo.expose().contains("port=4432"))
        );
        let shares: Vec<&str> = site.shares.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(
            shares,
            ["Apps", "StaticContent", "ArchivedLogs", "CustomData"]
        );
        assert_eq!(site.shares[1].exclude.len(), 4);
        assert_eq!(site.shares[3].exclude, ["*.log"]);
        assert!(site.shares.iter().all(|s| s.discovery.is_some()));
        assert_eq!(site.references[0].path, "shares/Apps/{ID}");
    }

    #[test]
    fn every_builtin_list_parses() {
        for name in builtin_list_names() {
            let text = builtin_list(name).unwrap();
            let entries = parse_list(text.as_bytes(), Path::new(name)).unwrap();
            let least = if name == "eclecticiq" { 60 } else { 1 };
            assert!(entries.len() > least, "{name}: {}", entries.len());
        }
    }
}
