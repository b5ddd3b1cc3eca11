//! What to do when a server refuses a session: the right that is missing, the databases that there are, the setting that is in the way.
//!
//! It adds words to errors and changes nothing else; where the server can't be asked, there is no advice.

use super::connect::{ConnectOptions, Connector, RetryPolicy};
use super::error::Attempt;

/// Databases from which the others are listed.
const LISTS: [&str; 2] = ["postgres", "template1"];
/// So many names are shown.
const SHOWN: usize = 12;

/// Adds advice to refusals that have none.
pub(super) fn add(connector: &Connector, mut attempts: Vec<Attempt>) -> Vec<Attempt> {
    for attempt in &mut attempts {
        if attempt.advice.is_none()
            && let Some(code) = attempt.code.clone()
        {
            attempt.advice = match code.as_str() {
                "3D000" => databases(connector),
                code => for_refusal(code, &attempt.reason, &connector.settings().user),
            };
        }
    }
    attempts
}

fn for_refusal(code: &str, reason: &str, user: &str) -> Option<String> {
    match code {
        "28000" if reason.contains("not permitted to log in") => {
            Some(format!("ALTER ROLE \"{user}\" LOGIN"))
        }
        "42501" if reason.contains("for database") => {
            Some(format!("GRANT CONNECT ON DATABASE … TO \"{user}\""))
        }
        "58P01" => Some(
            "session_preload_libraries or local_preload_libraries of the role or the database names a library that this server lacks; \
             ALTER ROLE or ALTER DATABASE … RESET it"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Lists the databases that there are instead.
fn databases(connector: &Connector) -> Option<String> {
    let options = ConnectOptions {
        retry: RetryPolicy::once(),
        ..ConnectOptions::default()
    };
    let wanted = &connector.settings().dbname;
    if LISTS.contains(&wanted.as_str()) {
        return None;
    }
    let sql = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datname <> 'template1' ORDER BY 1";
    let names = LISTS.iter().find_map(|name| {
        let mut session = connector.with_dbname(name).connect(&options).ok()?;
        session.simple_column(sql).ok()
    })?;
    let names: Vec<String> = names.into_iter().flatten().collect();
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("the server has {}{more}", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_advice() {
        let check = |code: &str, reason: &str, expected: Option<&str>| {
            let advice = for_refusal(code, reason, "me");
            assert_eq!(advice.is_some(), expected.is_some(), "{code} {reason}");
            assert!(
                advice
                    .unwrap_or_default()
                    .contains(expected.unwrap_or_default())
            );
        };
        check(
            "28000",
            "role \"me\" is not permitted to log in",
            Some("ALTER ROLE \"me\" LOGIN"),
        );
        check("28000", "role \"me\" does not exist", None);
        check(
            "42501",
            "permission denied for database \"d\"",
            Some("GRANT CONNECT"),
        );
        check(
            "58P01",
            "could not access file \"x\"",
            Some("session_preload_libraries"),
        );
        check("53300", "too many clients", None);
    }
}
