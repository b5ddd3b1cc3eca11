//! The connection keywords of libpq, and what becomes of each.

/// What happens to a keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// It has its effect.
    Used,
    /// It changes nothing that we do, so any value is accepted.
    Ignored,
    /// It promises something that is not kept here; the values in the list promise nothing.
    Refused(&'static [&'static str]),
}

/// One keyword.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyword {
    pub(super) name: &'static str,
    /// The variable that gives its value when neither the string nor the service does.
    pub(super) variable: Option<&'static str>,
    pub(super) treatment: Treatment,
}

const fn used(name: &'static str, variable: Option<&'static str>) -> Keyword {
    Keyword {
        name,
        variable,
        treatment: Treatment::Used,
    }
}

const fn ignored(name: &'static str, variable: Option<&'static str>) -> Keyword {
    Keyword {
        name,
        variable,
        treatment: Treatment::Ignored,
    }
}

const fn refused(
    name: &'static str,
    variable: Option<&'static str>,
    harmless: &'static [&'static str],
) -> Keyword {
    Keyword {
        name,
        variable,
        treatment: Treatment::Refused(harmless),
    }
}

pub(super) const KEYWORDS: &[Keyword] = &[
    used("service", Some("PGSERVICE")),
    used("servicefile", Some("PGSERVICEFILE")),
    used("host", Some("PGHOST")),
    used("hostaddr", Some("PGHOSTADDR")),
    used("port", Some("PGPORT")),
    used("dbname", Some("PGDATABASE")),
    used("user", Some("PGUSER")),
    used("password", Some("PGPASSWORD")),
    used("passfile", Some("PGPASSFILE")),
    used("channel_binding", Some("PGCHANNELBINDING")),
    used("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    used("options", Some("PGOPTIONS")),
    used("application_name", Some("PGAPPNAME")),
    used("fallback_application_name", None),
    used("keepalives", None),
    used("keepalives_idle", None),
    used("keepalives_interval", None),
    used("keepalives_count", None),
    used("tcp_user_timeout", None),
    used("sslmode", Some("PGSSLMODE")),
    used("sslnegotiation", Some("PGSSLNEGOTIATION")),
    used("sslcert", Some("PGSSLCERT")),
    used("sslkey", Some("PGSSLKEY")),
    used("sslcertmode", Some("PGSSLCERTMODE")),
    used("sslpassword", None),
    used("sslrootcert", Some("PGSSLROOTCERT")),
    used("sslsni", Some("PGSSLSNI")),
    used("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    used("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    used("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    used("load_balance_hosts", Some("PGLOADBALANCEHOSTS")),
    // Sessions set the encoding that each task needs.
    ignored("client_encoding", Some("PGCLIENTENCODING")),
    ignored("sslcompression", Some("PGSSLCOMPRESSION")),
    ignored("krbsrvname", Some("PGKRBSRVNAME")),
    ignored("gsslib", Some("PGGSSLIB")),
    ignored("gssdelegation", Some("PGGSSDELEGATION")),
    ignored("min_protocol_version", Some("PGMINPROTOCOLVERSION")),
    ignored("max_protocol_version", Some("PGMAXPROTOCOLVERSION")),
    ignored("sslkeylogfile", None),
    // These promise a check or a way to log in that does not exist here.
    refused("gssencmode", Some("PGGSSENCMODE"), &["disable", "prefer"]),
    refused("sslcrl", Some("PGSSLCRL"), &[]),
    refused("sslcrldir", Some("PGSSLCRLDIR"), &[]),
    refused("requirepeer", Some("PGREQUIREPEER"), &[]),
    refused("require_auth", Some("PGREQUIREAUTH"), &[]),
    refused("replication", None, &["false", "off", "no", "0"]),
    refused("scram_client_key", None, &[]),
    refused("scram_server_key", None, &[]),
    refused("oauth_issuer", None, &[]),
    refused("oauth_client_id", None, &[]),
    refused("oauth_client_secret", None, &[]),
    refused("oauth_scope", None, &[]),
];

/// Variables that libpq reads and that must not leak into a child beside those that we set.
pub(super) const OTHER_VARIABLES: &[&str] = &[
    "PGSYSCONFDIR",
    "PGREQUIRESSL",
    "PGGSSENCMODE",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
];

/// Returns the keyword of that name.
pub(super) fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// Returns the keyword that was probably meant.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    KEYWORDS
        .iter()
        .map(|keyword| (strsim::jaro_winkler(keyword.name, &name), keyword.name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity > 0.75)
        .map(|(_, name)| name)
}

/// Says whether the value of a keyword is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    matches!(
        name,
        "password"
            | "sslpassword"
            | "scram_client_key"
            | "scram_server_key"
            | "oauth_client_secret"
    )
}
