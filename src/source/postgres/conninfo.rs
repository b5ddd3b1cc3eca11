//! Connection strings: keyword/value text and URIs, as libpq reads them.
//!
//! Parsing knows nothing of files or the environment; [`ConnInfo::resolve`] adds the service file,
//! the variables and the defaults. Values of `password` and `sslpassword` are wiped when dropped and
//! are never printed, also not as part of a parse error.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::keywords::{self, Treatment};

/// What is wrong with a connection string, a service file or a value in them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnInfoError {
    /// The text does not have the form of a connection string.
    #[error("cannot read the connection string: {0}")]
    Syntax(String),
    /// A key that libpq does not know either.
    #[error("unknown connection key \"{key}\"{}", suggestion(*.nearest))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A key of libpq whose promise is not kept here.
    #[error("connection key \"{key}\" is not supported")]
    Unsupported {
        /// The key.
        key: &'static str,
    },
    /// A value that its key does not take.
    #[error("invalid value \"{value}\" for connection key \"{key}\": expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as written; never that of a password.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Conflict(String),
    /// A service that no service file defines.
    #[error("definition of service \"{service}\" not found in {}", searched(.files))]
    ServiceNotFound {
        /// The service.
        service: String,
        /// Where we looked.
        files: Vec<PathBuf>,
    },
    /// A service file that cannot be read or understood.
    #[error("service file {}: {message}", file.display())]
    ServiceFile {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!(" (did you mean \"{name}\"?)"))
        .unwrap_or_default()
}

fn searched(files: &[PathBuf]) -> String {
    match files {
        [] => "any service file (no file is configured)".to_owned(),
        _ => files
            .iter()
            .map(|file| file.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// A connection string taken apart; nothing is filled in yet.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnInfo {
    values: BTreeMap<&'static str, Zeroizing<String>>,
}

impl ConnInfo {
    /// Reads a keyword/value string or a `postgresql://` URI.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        let uri = text
            .strip_prefix("postgresql://")
            .or_else(|| text.strip_prefix("postgres://"));
        match uri {
            Some(rest) => parse_uri(rest),
            None => parse_pairs(text),
        }
    }

    /// Sets one key; a later value replaces an earlier one, as in libpq.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConnInfoError> {
        let Some(keyword) = keywords::find(key) else {
            return Err(ConnInfoError::UnknownKey {
                key: key.to_owned(),
                nearest: keywords::nearest(key),
            });
        };
        if let Treatment::Refused(harmless) = keyword.treatment
            && !value.is_empty()
            && !harmless.contains(&value)
        {
            return Err(ConnInfoError::Unsupported { key: keyword.name });
        }
        self.values
            .insert(keyword.name, Zeroizing::new(value.to_owned()));
        Ok(())
    }

    /// Returns the value of a key, if it was given and is not empty.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values
            .get(key)
            .map(|value| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Says whether a key was written, be it with an empty value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Takes from `other` what is not set here.
    pub(super) fn fill_from(&mut self, other: &ConnInfo) {
        for (key, value) in &other.values {
            self.values.entry(key).or_insert_with(|| value.clone());
        }
    }
}

impl fmt::Display for ConnInfo {
    /// Writes the string without its secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self
            .values
            .iter()
            .filter(|(key, _)| !keywords::is_secret(key));
        for (position, (key, value)) in shown.enumerate() {
            let separator = if position == 0 { "" } else { " " };
            write!(f, "{separator}{key}={}", quote(value))?;
        }
        Ok(())
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({self})")
    }
}

/// Quotes a value for a keyword/value string.
pub(super) fn quote(value: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && c != '\'' && c != '\\';
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn parse_pairs(text: &str) -> Result<ConnInfo, ConnInfoError> {
    let mut info = ConnInfo::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let key_end = rest
            .find(|c: char| c == '=' || c.is_whitespace())
            .unwrap_or(rest.len());
        let (key, after) = rest.split_at(key_end);
        // The text behind a key without "=" may be the tail of a badly quoted password, so only keys are named.
        let Some(after) = after.trim_start().strip_prefix('=') else {
            let named = if keywords::find(key).is_some() {
                format!(" after \"{key}\"")
            } else {
                String::new()
            };
            return Err(ConnInfoError::Syntax(format!("missing \"=\"{named}")));
        };
        let (value, after) = read_value(key, after.trim_start())?;
        info.set(key, &value)?;
        rest = after.trim_start();
    }
    Ok(info)
}

/// Reads one value, quoted or not; returns it with the text behind it.
fn read_value<'a>(key: &str, text: &'a str) -> Result<(Zeroizing<String>, &'a str), ConnInfoError> {
    let mut value = Zeroizing::new(String::new());
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                if let Some((_, escaped)) = chars.next() {
                    value.push(escaped);
                }
            }
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(ConnInfoError::Syntax(format!(
            "unterminated quoted value of \"{key}\""
        )));
    }
    Ok((value, ""))
}

fn parse_uri(rest: &str) -> Result<ConnInfo, ConnInfoError> {
    let mut info = ConnInfo::default();
    let (before_query, query) = match rest.split_once('?') {
        // A question mark in the password is not the start of the query.
        Some((before, _))
            if rest
                .find('@')
                .is_some_and(|at| at > before.len() && !before.contains('/')) =>
        {
            let at = rest.find('@').unwrap_or(0);
            match rest[at..].split_once('?') {
                Some((authority, query)) => (&rest[..at + authority.len()], Some(query)),
                None => (rest, None),
            }
        }
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    let (authority, dbname) = match before_query.split_once('/') {
        Some((authority, dbname)) => (authority, Some(dbname)),
        None => (before_query, None),
    };
    let hosts = match authority.split_once('@') {
        Some((user_info, hosts)) => {
            set_user_info(&mut info, user_info)?;
            hosts
        }
        None => authority,
    };
    set_uri_hosts(&mut info, hosts)?;
    if let Some(dbname) = dbname.filter(|name| !name.is_empty()) {
        info.set("dbname", &percent_decode("dbname", dbname)?)?;
    }
    for parameter in query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|p| !p.is_empty())
    {
        set_uri_parameter(&mut info, parameter)?;
    }
    Ok(info)
}

fn set_user_info(info: &mut ConnInfo, user_info: &str) -> Result<(), ConnInfoError> {
    let (user, password) = match user_info.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (user_info, None),
    };
    if !user.is_empty() {
        info.set("user", &percent_decode("user", user)?)?;
    }
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        info.set("password", &percent_decode("password", password)?)?;
    }
    Ok(())
}

fn set_uri_hosts(info: &mut ConnInfo, hosts: &str) -> Result<(), ConnInfoError> {
    if hosts.is_empty() {
        return Ok(());
    }
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = split_uri_host(host)?;
        names.push(percent_decode("host", name)?.to_string());
        ports.push(port);
    }
    if names.iter().any(|name| !name.is_empty()) {
        info.set("host", &names.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        info.set("port", &ports.join(","))?;
    }
    Ok(())
}

fn split_uri_host(host: &str) -> Result<(&str, &str), ConnInfoError> {
    if let Some(inner) = host.strip_prefix('[') {
        let Some((address, after)) = inner.split_once(']') else {
            return Err(ConnInfoError::Syntax(format!(
                "missing \"]\" behind the IPv6 address in \"{host}\""
            )));
        };
        if after.is_empty() {
            return Ok((address, ""));
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None => Err(ConnInfoError::Syntax(format!(
                "unexpected text behind the IPv6 address in \"{host}\""
            ))),
        };
    }
    Ok(host.split_once(':').unwrap_or((host, "")))
}

fn set_uri_parameter(info: &mut ConnInfo, parameter: &str) -> Result<(), ConnInfoError> {
    let Some((key, value)) = parameter.split_once('=') else {
        return Err(ConnInfoError::Syntax(
            "a URI parameter lacks its \"=\"".to_owned(),
        ));
    };
    let key = percent_decode("parameter", key)?;
    let value = percent_decode(&key, value)?;
    // The JDBC spelling, which libpq takes too.
    if key.as_str() == "ssl" && value.as_str() == "true" {
        return info.set("sslmode", "require");
    }
    info.set(&key, &value)
}

fn percent_decode(what: &str, text: &str) -> Result<Zeroizing<String>, ConnInfoError> {
    let invalid =
        || ConnInfoError::Syntax(format!("invalid percent-encoding in the {what} of the URI"));
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digit = |position: usize| {
            tail.get(position)
                .and_then(|&byte| char::from(byte).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(invalid());
        };
        let byte = high * 16 + low;
        if byte == 0 {
            return Err(invalid());
        }
        bytes.push(byte);
        rest = &tail[2..];
    }
    match std::str::from_utf8(&bytes) {
        Ok(decoded) => Ok(Zeroizing::new(decoded.to_owned())),
        Err(_) => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows all that was parsed, the secrets too.
    fn plain(text: &str) -> Result<Vec<(String, String)>, String> {
        ConnInfo::parse(text)
            .map(|info| {
                info.values
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), v.to_string()))
                    .collect()
            })
            .map_err(|error| error.to_string())
    }

    fn check(text: &str, expected: &[(&str, &str)]) {
        let expected = expected
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(plain(text), Ok(expected), "{text}");
    }

    fn check_error(text: &str, expected: &str) {
        let error = plain(text).expect_err(text);
        assert!(error.contains(expected), "{text}: {error}");
    }

    #[test]
    fn keyword_value_strings() {
        check("", &[]);
        check("   ", &[]);
        check("host=db1", &[("host", "db1")]);
        check(
            " host = db1  port\t=\n5433 ",
            &[("host", "db1"), ("port", "5433")],
        );
        check("host=", &[("host", "")]);
        check("host= dbname=a", &[("host", "dbname=a")]);
        check("host='' dbname=a", &[("dbname", "a"), ("host", "")]);
        check(r"password='it\'s \\ mine'", &[("password", r"it's \ mine")]);
        check(r"password=a\ b\'c", &[("password", "a b'c")]);
        check("host=a host=b", &[("host", "b")]);
        check(
            "options='-c geqo=off -c a=b'",
            &[("options", "-c geqo=off -c a=b")],
        );
        check_error("host", "missing \"=\" after \"host\"");
        check_error("password=my secret", "missing \"=\"");
        check_error("password='it''s'", "missing \"=\"");
        check_error("password='abc", "unterminated quoted value of \"password\"");
        check_error("hots=db1", "did you mean \"host\"");
        check_error("ssl_mode=require", "did you mean \"sslmode\"");
        check_error("xyzzy=1", "unknown connection key \"xyzzy\"");
        check_error("sslcrl=/x", "\"sslcrl\" is not supported");
        check_error("gssencmode=require", "\"gssencmode\" is not supported");
        check(
            "gssencmode=disable krbsrvname=x",
            &[("gssencmode", "disable"), ("krbsrvname", "x")],
        );
    }

    #[test]
    fn uris() {
        check("postgresql://", &[]);
        check("postgres://db1", &[("host", "db1")]);
        check(
            "postgresql://db1:5433/QSR",
            &[("dbname", "QSR"), ("host", "db1"), ("port", "5433")],
        );
        check("postgresql:///QSR", &[("dbname", "QSR")]);
        check(
            "postgresql://me:p%40ss%3A@db1/a%20b?sslmode=verify-full&application_name=x",
            &[
                ("application_name", "x"),
                ("dbname", "a b"),
                ("host", "db1"),
                ("password", "p@ss:"),
                ("sslmode", "verify-full"),
                ("user", "me"),
            ],
        );
        check(
            "postgresql://a:1,b:2,c/x",
            &[("dbname", "x"), ("host", "a,b,c"), ("port", "1,2,")],
        );
        check(
            "postgresql://[::1]:5433/x",
            &[("dbname", "x"), ("host", "::1"), ("port", "5433")],
        );
        check(
            "postgresql://[2001:db8::1],[::2]:7/",
            &[("host", "2001:db8::1,::2"), ("port", ",7")],
        );
        check(
            "postgresql://%2Frun%2Fpg:5433/x",
            &[("dbname", "x"), ("host", "/run/pg"), ("port", "5433")],
        );
        check(
            "postgresql:///x?host=/run/pg&port=7",
            &[("dbname", "x"), ("host", "/run/pg"), ("port", "7")],
        );
        check(
            "postgresql://me@/x?ssl=true",
            &[("dbname", "x"), ("sslmode", "require"), ("user", "me")],
        );
        check(
            "postgresql://me:a?b@h/x",
            &[
                ("dbname", "x"),
                ("host", "h"),
                ("password", "a?b"),
                ("user", "me"),
            ],
        );
        check_error("postgresql://[::1", "missing \"]\"");
        check_error("postgresql://[::1]x", "unexpected text");
        check_error(
            "postgresql://h/%zz",
            "invalid percent-encoding in the dbname",
        );
        check_error("postgresql://h/%00", "invalid percent-encoding");
        check_error(
            "postgresql://u:%f@h/",
            "invalid percent-encoding in the password",
        );
        check_error(
            "postgresql://h/x?sslmod=require",
            "did you mean \"sslmode\"",
        );
        check_error("postgresql://h/x?sslmode", "lacks its \"=\"");
    }

    #[test]
    fn errors_and_debug_show_no_password() {
        let info =
            ConnInfo::parse("host=h password=sesame sslpassword=open user='a b'").expect("parses");
        assert_eq!(info.to_string(), "host=h user='a b'");
        assert_eq!(format!("{info:?}"), "ConnInfo(host=h user='a b')");
        for text in [
            "password=x sesame",
            "password='sesame",
            "postgres://u:sesame%zz@h",
            "password='a' sesame host=x",
        ] {
            let error = plain(text).expect_err(text);
            assert!(!error.contains("sesame"), "{error}");
        }
    }
}
