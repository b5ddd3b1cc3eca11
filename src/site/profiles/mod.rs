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
const LISTS: &[(&str, &str)] = &[("eclecticiq", include_str!("eclecticiq.list"))];

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
            .replace("host=localhost", "host=db1.example,db2.example sslmode=verify-full target_session_attrs=prefer-standby")
            .replace("/mnt/qlik", "/srv/share/qlik")
            .replace("# password-file", "password-file");
        let site = SiteFile::parse(&text, Path::new("site.toml")).unwrap();
        assert!(site.certificates[0].password.is_some());
        assert!(site.databases[0].conninfo.expose().contains("db2.example"));
    }

    #[test]
    fn commented_out_settings_of_the_plain_profile_are_known_keys() {
        // Every line that looks like a setting behind its comment sign is switched on, but for the two other ways to
        // give the repository's key.
        let text: String = profile("plain")
            .unwrap()
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") && !rest.starts_with("passphrase") => {
                    format!("{rest}\n")
                }
                Some(rest) if rest.starts_with("[[") => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        SiteFile::parse(&text, Path::new("site.toml")).unwrap_or_else(|e| panic!("{e}\n{text}"));
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
    }

    #[test]
    fn every_builtin_list_parses() {
        for name in builtin_list_names() {
            let text = builtin_list(name).unwrap();
            let entries = parse_list(text.as_bytes(), Path::new(name)).unwrap();
            assert!(entries.len() > 60, "{name}: {}", entries.len());
        }
    }
}
