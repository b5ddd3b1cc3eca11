//! Takes passwords out of connection strings, commands and comments, and leaves the rest as typed.
//!
//! The site file goes into every snapshot, so that a site can be rebuilt from the repository alone; whoever may list a
//! snapshot shall not learn passwords from it. Passwords do not belong in a site file, but a connection string may hold
//! one. What a connection string gives is found exactly; commands and comments are searched for the usual forms.
//! In doubt more is taken out than needed.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What stands in the place of a secret; needs no quotes in a connection string, a URI or a shell command.
const MARK: &str = "***";

/// Secrets shorter than this are not looked for elsewhere in the text: they would hit ordinary words.
const SECRET_LEN_SEARCHED: usize = 6;

/// Endings of a name whose value is a secret.
const SECRET_NAMES: &[&str] = &[
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "token",
    "secret_key",
    "secret-key",
];

/// What a string of the site file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Conninfo,
    Command,
    Other,
}

/// Returns the text of a valid site file without the passwords in it.
pub(super) fn redact_site_text(text: &str) -> String {
    let Ok(document) = DeTable::parse(text) else {
        // Only a text that parsed gets here; were it otherwise, nothing may leak.
        return String::new();
    };
    let mut strings = Vec::new();
    for (key, value) in document.get_ref().iter() {
        collect_strings(key.get_ref(), value, &mut strings);
    }
    strings.sort_by_key(|(span, _, _)| span.start);
    let mut secrets: Vec<String> = strings
        .iter()
        .filter(|(_, role, _)| *role == Role::Conninfo)
        .flat_map(|(_, _, value)| conninfo_parts(value).1)
        .filter(|secret| secret.len() >= SECRET_LEN_SEARCHED)
        .collect();
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    rewrite(text, &strings, &secrets)
}

fn rewrite(text: &str, strings: &[(Range<usize>, Role, String)], secrets: &[String]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (span, role, value) in strings {
        out.push_str(&redact_comments(
            text.get(done..span.start).unwrap_or(""),
            secrets,
        ));
        let mut clean = match role {
            Role::Conninfo => redact_conninfo(value),
            Role::Command => redact_command(value),
            Role::Other => redact_uris(value),
        };
        if *role != Role::Conninfo {
            clean = without(&clean, secrets);
        }
        if clean == *value {
            out.push_str(text.get(span.clone()).unwrap_or(""));
        } else {
            out.push_str(&toml::Value::String(clean).to_string());
        }
        done = span.end;
    }
    out.push_str(&redact_comments(text.get(done..).unwrap_or(""), secrets));
    out
}

fn collect_strings(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    found: &mut Vec<(Range<usize>, Role, String)>,
) {
    match value.get_ref() {
        DeValue::String(text) => {
            let role = match key {
                "conninfo" | "server" => Role::Conninfo,
                "command" | "stop" | "start" | "post-commands" | "on-failure" | "on-success"
                | "snapshot-create" | "snapshot-remove" => Role::Command,
                _ if key.ends_with("-command") => Role::Command,
                _ => Role::Other,
            };
            found.push((value.span(), role, text.to_string()));
        }
        DeValue::Array(items) => {
            for item in items.iter() {
                collect_strings(key, item, found);
            }
        }
        DeValue::Table(table) => {
            for (key, value) in table.iter() {
                collect_strings(key.get_ref(), value, found);
            }
        }
        _ => {}
    }
}

fn without(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), MARK);
        }
    }
    text
}

/// Cleans the comments of a stretch of text that holds no string values: keys, signs, white space and comments.
fn redact_comments(gap: &str, secrets: &[String]) -> String {
    let mut out = String::with_capacity(gap.len());
    for line in gap.split_inclusive('\n') {
        let comment = line.find('#').unwrap_or(line.len());
        let (code, comment) = line.split_at(comment);
        out.push_str(code);
        let (comment, end) = comment.split_at(comment.trim_end_matches(['\n', '\r']).len());
        out.push_str(&without(
            &redact_assignments(&redact_uris(comment)),
            secrets,
        ));
        out.push_str(end);
    }
    out
}

/// Returns a connection string without its passwords. A string that can't be understood is left out whole.
pub fn redact_conninfo(conninfo: &str) -> String {
    conninfo_parts(conninfo).0
}

/// The connection string without passwords, and the passwords, decoded and as typed.
fn conninfo_parts(conninfo: &str) -> (String, Vec<String>) {
    let mut secrets = Vec::new();
    let text = match uri_rest(conninfo) {
        Some(at) => {
            let (scheme, rest) = conninfo.split_at(at);
            let clean = redact_uri(rest, postgres_password(rest), &mut secrets);
            format!("{scheme}{clean}")
        }
        None => redact_words(conninfo, &mut secrets).unwrap_or_else(|| MARK.to_owned()),
    };
    secrets.retain(|secret| !secret.is_empty());
    (text, secrets)
}

/// Where the part after the scheme starts, if this is a URI of PostgreSQL.
fn uri_rest(text: &str) -> Option<usize> {
    ["postgresql://", "postgres://"]
        .iter()
        .find(|scheme| text.starts_with(**scheme))
        .map(|scheme| scheme.len())
}

fn is_secret_keyword(keyword: &str) -> bool {
    let keyword = keyword.to_ascii_lowercase();
    keyword.contains("password") || keyword.contains("secret") || keyword.starts_with("scram_")
}

/// The place of the password in `user:password@host…`, where any scheme may stand before it.
///
/// The user part ends at the first `@` that comes before any `/`. Somebody may have forgotten to encode an `@` or `/`,
/// and the password stands there all the same, so the search goes on to the last `@` that can belong to it.
fn userinfo_password(rest: &str) -> Option<Range<usize>> {
    let first = rest.find(['@', '/'])?;
    let limit = if rest.get(first..)?.starts_with('@') {
        let after = rest.get(first..)?;
        first + after.find(['/', '?']).unwrap_or(after.len())
    } else {
        rest.find('?').unwrap_or(rest.len())
    };
    let end = rest.get(..limit)?.rfind('@')?;
    let start = rest.get(..end)?.find(':')? + 1;
    Some(start..end)
}

/// The place of the password in the part of a PostgreSQL URI after its scheme.
///
/// What libpq can't understand holds a password with signs that should have been encoded: then everything from the
/// first `:` to the last `@` goes, and without an `@` everything.
fn postgres_password(rest: &str) -> Option<Range<usize>> {
    if !is_well_formed(rest) {
        let end = rest.rfind('@').unwrap_or(rest.len());
        let start = rest.get(..end)?.find(':').map_or(0, |colon| colon + 1);
        return Some(start..end);
    }
    let end = rest
        .find(['@', '/'])
        .filter(|end| rest.get(*end..).is_some_and(|at| at.starts_with('@')))?;
    let start = rest.get(..end)?.find(':')? + 1;
    Some(start..end)
}

/// Whether this is `[user[:password]@][host[:port],…][/database][?keyword=value&…]`.
fn is_well_formed(rest: &str) -> bool {
    let authority = match rest.find(['@', '/']) {
        Some(at) if rest.get(at..).is_some_and(|r| r.starts_with('@')) => {
            rest.get(at + 1..).unwrap_or("")
        }
        _ => rest,
    };
    let (place, query) = authority.split_once('?').unwrap_or((authority, ""));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    let host_is_good = |host: &str| {
        let name_end = host.rfind(']').map_or(0, |bracket| bracket + 1);
        let port = host
            .get(name_end..)
            .and_then(|tail| tail.split_once(':'))
            .map_or("", |(_, port)| port);
        port.bytes().all(|byte| byte.is_ascii_digit())
    };
    // The shortest keywords of libpq have four letters.
    let parameter_is_good = |part: &str| {
        part.split_once('=').is_some_and(|(keyword, _)| {
            let keyword = percent_decoded(keyword);
            keyword.len() >= 4
                && keyword
                    .bytes()
                    .all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        })
    };
    !hosts.contains('@')
        && hosts.split(',').all(host_is_good)
        && !database.contains(['@', '/'])
        && (query.is_empty() || query.split('&').all(parameter_is_good))
}

/// Returns a URI without the password at this place and without those among its parameters.
fn redact_uri(uri: &str, password: Option<Range<usize>>, secrets: &mut Vec<String>) -> String {
    let mut text = uri.to_owned();
    let mut query_from = 0;
    if let Some(password) = password {
        note(uri.get(password.clone()).unwrap_or(""), secrets);
        text.replace_range(password.clone(), MARK);
        query_from = password.start + MARK.len();
    }
    let Some(question) = text.get(query_from..).and_then(|rest| rest.find('?')) else {
        return text;
    };
    let (head, query) = text.split_at(query_from + question + 1);
    let mut parts = Vec::new();
    for part in query.split('&') {
        match part.split_once('=') {
            Some((keyword, value)) if is_secret_keyword(&percent_decoded(keyword)) => {
                note(value, secrets);
                parts.push(format!("{keyword}={MARK}"));
            }
            _ => parts.push(part.to_owned()),
        }
    }
    format!("{head}{}", parts.join("&"))
}

/// Remembers a secret as typed and decoded.
fn note(typed: &str, secrets: &mut Vec<String>) {
    secrets.push(typed.to_owned());
    secrets.push(percent_decoded(typed));
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = text.get(at + 1..at + 3).filter(|_| byte == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Redacts the `keyword = value` form; `None` if it is not that form.
fn redact_words(text: &str, secrets: &mut Vec<String>) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    loop {
        let keyword_start = skip_space(text, at);
        if keyword_start == text.len() {
            out.push_str(text.get(at..)?);
            return Some(out);
        }
        let keyword_len = text
            .get(keyword_start..)?
            .find(|c: char| c == '=' || c.is_ascii_whitespace())?;
        let equals = skip_space(text, keyword_start + keyword_len);
        if !text.get(equals..)?.starts_with('=') {
            return None;
        }
        let value_start = skip_space(text, equals + 1);
        let (value, value_end) = read_value(text, value_start)?;
        let keyword = text.get(keyword_start..keyword_start + keyword_len)?;
        out.push_str(text.get(at..value_start)?);
        if is_secret_keyword(keyword) {
            secrets.push(text.get(value_start..value_end)?.to_owned());
            secrets.push(value);
            out.push_str(MARK);
        } else if keyword.eq_ignore_ascii_case("dbname") && uri_rest(&value).is_some() {
            // A connection string inside of one.
            let (clean, inner) = conninfo_parts(&value);
            secrets.extend(inner);
            out.push_str(&format!(
                "'{}'",
                clean.replace('\\', "\\\\").replace('\'', "\\'")
            ));
        } else {
            out.push_str(text.get(value_start..value_end)?);
        }
        at = value_end;
    }
}

fn skip_space(text: &str, from: usize) -> usize {
    let rest = text.get(from..).unwrap_or("");
    from + (rest.len()
        - rest
            .trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
            .len())
}

/// Reads one value, quoted or not, and returns it decoded and where it ends. `None`: the quote is not closed.
fn read_value(text: &str, from: usize) -> Option<(String, usize)> {
    let quoted = text.get(from..)?.starts_with('\'');
    let start = from + usize::from(quoted);
    let mut value = String::new();
    let mut chars = text.get(start..)?.char_indices();
    while let Some((offset, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, start + offset + 1)),
            c if !quoted && c.is_ascii_whitespace() => return Some((value, start + offset)),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, text.len()))
}

/// Takes out the password of `scheme://user:password@…` anywhere in a text, and passwords among a URI's parameters.
fn redact_uris(text: &str) -> String {
    let mut text = text.to_owned();
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| rest.find("://")) {
        let at = from + found + "://".len();
        let rest = text.get(at..).unwrap_or("");
        let end = at
            + rest
                .find(|c: char| c.is_whitespace() || "'\"`<>".contains(c))
                .unwrap_or(rest.len());
        let mut ignored = Vec::new();
        let uri = text.get(at..end).unwrap_or("");
        let clean = redact_uri(uri, userinfo_password(uri), &mut ignored);
        from = at + clean.len();
        text.replace_range(at..end, &clean);
    }
    text
}

/// Takes out what a shell command shows openly: assignments, password options, and what is echoed.
pub fn redact_command(command: &str) -> String {
    redact_echo(&redact_assignments(&redact_uris(command)))
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|ending| name.ends_with(ending))
        || name == "pass"
        || name.ends_with("_pass")
        || name.ends_with("-pass")
}

/// Takes out the value after `…password=`, `…password:`, and after the option `--password`.
fn redact_assignments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let (before, word_on) = rest.split_at(start);
        let (word, after) =
            word_on.split_at(word_on.find(|c| !is_word(c)).unwrap_or(word_on.len()));
        out.push_str(before);
        out.push_str(word);
        rest = after;
        if !is_secret_name(word) {
            continue;
        }
        let spaces = after.len() - after.trim_start_matches([' ', '\t']).len();
        let sign = after.get(spaces..).unwrap_or("");
        let gap = if sign.starts_with(['=', ':']) {
            let value = sign.get(1..).unwrap_or("");
            spaces + 1 + (value.len() - value.trim_start_matches([' ', '\t']).len())
        } else if word.starts_with("--") && spaces > 0 && !sign.starts_with('-') {
            spaces
        } else {
            continue;
        };
        let (gap, value) = after.split_at(gap);
        let len = shell_value_len(value);
        out.push_str(gap);
        if len > 0 {
            out.push_str(MARK);
        }
        rest = value.get(len..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

/// The length of a value: up to white space outside of quotes, backslashes heeded.
fn shell_value_len(text: &str) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                chars.next();
            }
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

/// Takes out the arguments of `echo` and `printf`: a passphrase command that echoes holds the passphrase.
fn redact_echo(command: &str) -> String {
    let mut out = String::with_capacity(command.len());
    let mut rest = command;
    while let Some(start) = rest.find(is_word) {
        let (before, word_on) = rest.split_at(start);
        let (word, after) =
            word_on.split_at(word_on.find(|c| !is_word(c)).unwrap_or(word_on.len()));
        out.push_str(before);
        out.push_str(word);
        rest = after;
        if matches!(word, "echo" | "printf") && after.starts_with(char::is_whitespace) {
            let end = simple_command_len(after);
            out.push(' ');
            out.push_str(MARK);
            rest = after.get(end..).unwrap_or("");
        }
    }
    out.push_str(rest);
    out
}

/// The length of a simple command: up to a pipe, a semicolon, a redirection or a line's end outside of quotes.
fn simple_command_len(text: &str) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                chars.next();
            }
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('|' | ';' | '&' | '>' | '<' | '\n' | ')', None) => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::site::SiteFile;

    #[test]
    fn conninfo_forms() {
        let check =
            |input: &str, expected: &str| assert_eq!(redact_conninfo(input), expected, "{input}");
        check(
            "host=db port=4432 dbname=QSR",
            "host=db port=4432 dbname=QSR",
        );
        check(
            "host=db password=hunter2 dbname=QSR",
            "host=db password=*** dbname=QSR",
        );
        check(
            "password = 'it\\'s a secret' user=x",
            "password = *** user=x",
        );
        check("password=a\\ b user=x", "password=*** user=x");
        check("sslpassword=x sslkey=/k", "sslpassword=*** sslkey=/k");
        check("PASSWORD=x", "PASSWORD=***");
        check("passfile=/etc/pgpass", "passfile=/etc/pgpass");
        check("password='not closed", "***");
        check("no equals sign", "***");
        check("", "");
        check(
            "postgresql://u:p%40ss@h:4432/db",
            "postgresql://u:***@h:4432/db",
        );
        check(
            "postgres://u@h/db?password=x&sslmode=require",
            "postgres://u@h/db?password=***&sslmode=require",
        );
        check(
            "postgresql://h/db?user=u&ssl%70assword=x",
            "postgresql://h/db?user=u&ssl%70assword=***",
        );
        check("postgresql://u:p?w@h/db", "postgresql://u:***@h/db");
        check("postgresql://u:p@w@h/db", "postgresql://u:***@h/db");
        check("postgresql://u:p/w@h/db", "postgresql://u:***@h/db");
        check(
            "postgresql://h:4432/db?user=me@host",
            "postgresql://h:4432/db?user=me@host",
        );
        check("postgresql://h1:1,h2:2/db", "postgresql://h1:1,h2:2/db");
        check(
            "dbname='postgresql://u:p@h/db' user=x",
            "dbname='postgresql://u:***@h/db' user=x",
        );
    }

    #[test]
    fn command_forms() {
        let check =
            |input: &str, expected: &str| assert_eq!(redact_command(input), expected, "{input}");
        check("pass show backup/holdfast", "pass show backup/holdfast");
        check("cat /run/secrets/pw", "cat /run/secrets/pw");
        check("echo hunter2", "echo ***");
        check("printf '%s' \"hunter 2\" | tr -d x", "printf ***| tr -d x");
        check("PGPASSWORD='a b' psql -c x", "PGPASSWORD=*** psql -c x");
        check("vault --token hunter2 read x", "vault --token *** read x");
        check("vault --token=hunter2 read x", "vault --token=*** read x");
        check(
            "openssl rsa -passin pass:hunter2 -in k",
            "openssl rsa -passin pass:*** -in k",
        );
        check(
            "curl https://u:hunter2@vault/x",
            "curl https://u:***@vault/x",
        );
        check("get --password-file /etc/x", "get --password-file /etc/x");
    }

    fn site(extra: &str) -> String {
        format!("[site]\nname = \"s\" # name\n\n{extra}\n")
    }

    fn redacted(text: &str) -> String {
        SiteFile::parse(text, Path::new("site.toml"))
            .unwrap_or_else(|e| panic!("{e}\n{text}"))
            .redacted()
    }

    #[test]
    fn the_rest_stays_as_typed() {
        let text = site(
            "# the old one: conninfo = \"host=x password=former1\"\r\n[[database]] # postgres://me:former2@h/d\nconninfo   =   'host=a password=hunter2x'\nname='x' # hunter2x too\n[repository]\nurl='s3://key:hunter3@bucket/a'\npassphrase-command = '''\necho hunter4'''",
        );
        let expected = site(
            "# the old one: conninfo = \"host=x password=***\r\n[[database]] # postgres://me:***@h/d\nconninfo   =   \"host=a password=***\"\nname='x' # *** too\n[repository]\nurl=\"s3://key:***@bucket/a\"\npassphrase-command = \"echo ***\"",
        );
        assert_eq!(redacted(&text), expected);
        SiteFile::parse(&expected, Path::new("site.toml")).unwrap();
    }

    fn quoted(password: &str) -> String {
        format!("'{}'", password.replace('\\', "\\\\").replace('\'', "\\'"))
    }

    fn encoded(password: &str) -> String {
        password
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_password_survives(tail in "[ -~äß\u{1F512}]{0,12}", form in 0..6) {
            // The head makes it a string that nothing else in the text can contain.
            let password = format!("Zq7{tail}Zq8");
            let conninfo = match form {
                0 => format!("host=h password={} dbname=d", quoted(&password)),
                1 => format!("host=h sslpassword = {}", quoted(&password)),
                2 => format!("postgresql://u:{}@h:1/d?sslmode=require", encoded(&password)),
                3 => format!("postgresql://u@h/d?password={}&user=x", encoded(&password)),
                4 => format!("dbname='postgresql://u:{}@h/d' user=x", encoded(&password)),
                _ => format!("postgresql://u:{}@h/d", password),
            };
            let literal = toml::Value::String(conninfo.clone()).to_string();
            let text = site(&format!("[[database]]\nname = \"d\"\nconninfo = {literal}\n# was {}", password.replace('\n', " ")));
            let out = redacted(&text);
            prop_assert!(!out.contains("Zq7"), "{}", out);
            prop_assert!(!out.contains("Zq8"), "{}", out);
            prop_assert!(!out.contains(&encoded("Zq7")), "{}", out);
            prop_assert!(!out.contains(&encoded("Zq8")), "{}", out);
            prop_assert!(SiteFile::parse(&out, Path::new("site.toml")).is_ok());
        }

        #[test]
        fn any_text_is_taken(text in "\\PC{0,60}") {
            redact_conninfo(&text);
            redact_command(&text);
            redact_comments(&text, &[]);
        }
    }
}
