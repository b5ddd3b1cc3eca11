//! What rustls is told for each `sslmode`.
//!
//! | mode | chain | name |
//! |---|---|---|
//! | `allow`, `prefer` | not checked | not checked |
//! | `require` | as `verify-ca` where a root file exists, else not checked | not checked |
//! | `verify-ca` | checked | not checked |
//! | `verify-full` | checked | checked: subjectAltName, the common name only where there is none |
//!
//! A server certificate that stands itself in the root file is trusted as it is, so the usual self-signed
//! certificate, which is its own authority, works in all modes. Certificates of X.509 version 1 are what
//! `openssl x509 -req` makes without an extension file; rustls does not read them, so the signature of the
//! handshake is checked here with the bare key. Their chain cannot be checked: they work in `require` without
//! a root file, or pinned by standing in it.
//!
//! Key exchange by RSA alone and anything below TLS 1.2 are not spoken.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::error::PgError;
use super::settings::{ClientCertificate, RootCertificates, SslMode, TlsSettings, TlsVersion};

/// What encrypts a connection, if anything does.
#[derive(Clone)]
pub enum TlsConnector {
    /// Nothing.
    Plain,
    /// rustls.
    Rustls(MakeRustlsConnect),
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsConnector::Plain => "Plain",
            TlsConnector::Rustls(_) => "Rustls",
        })
    }
}

/// A TLS failure in words, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Explanation {
    pub(super) reason: String,
    pub(super) advice: Option<String>,
}

/// Builds the connector for a mode that encrypts.
pub(super) fn connector(settings: &TlsSettings) -> Result<TlsConnector, PgError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier::new(settings, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(settings))
        .map_err(|error| PgError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client_certificate(settings)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            PgError::Tls(format!(
                "the client certificate and its key cannot be used: {error}"
            ))
        })?,
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = settings.server_name_indication;
    if settings.direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(TlsConnector::Rustls(MakeRustlsConnect::new(config)))
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    [
        (TlsVersion::V1_3, &rustls::version::TLS13),
        (TlsVersion::V1_2, &rustls::version::TLS12),
    ]
    .into_iter()
    .filter(|(version, _)| (settings.version_min..=settings.version_max).contains(version))
    .map(|(_, version)| version)
    .collect()
}

fn client_certificate(
    settings: &TlsSettings,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, PgError> {
    let ClientCertificate::Files {
        certificate,
        key,
        named,
    } = &settings.client
    else {
        return Ok(None);
    };
    if !*named && !certificate.exists() {
        return Ok(None);
    }
    let chain = read_certificates(certificate)?;
    if chain.is_empty() {
        return Err(PgError::Tls(format!(
            "{} holds no certificate",
            certificate.display()
        )));
    }
    check_key_mode(key)?;
    let key = read_key(key, settings.key_password_given)?;
    Ok(Some((chain, key)))
}

/// Refuses a key that others can read, by libpq's rule: root may own it and let its group read it.
fn check_key_mode(key: &Path) -> Result<(), PgError> {
    let metadata = fs::metadata(key).map_err(|error| cannot_read("private key", key, error))?;
    if !metadata.is_file() {
        return Err(PgError::Tls(format!(
            "private key file {} is not a regular file",
            key.display()
        )));
    }
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        return Err(PgError::Tls(format!(
            "private key file {} has group or world access; permissions must be u=rw (0600) or less, \
             or u=rw,g=r (0640) or less if owned by root",
            key.display()
        )));
    }
    Ok(())
}

fn read_key(file: &Path, password_given: bool) -> Result<PrivateKeyDer<'static>, PgError> {
    let pem = zeroize::Zeroizing::new(
        fs::read(file).map_err(|error| cannot_read("private key", file, error))?,
    );
    let text = String::from_utf8_lossy(&pem);
    if text.contains("ENCRYPTED") {
        let given = if password_given {
            ", also not with sslpassword"
        } else {
            ""
        };
        return Err(PgError::Tls(format!(
            "private key file {0} is encrypted, which is not supported{given}; \
             write a plain copy with mode 0600: openssl pkey -in {0} -out NEW",
            file.display()
        )));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        PgError::Tls(format!(
            "private key file {} cannot be read: {error}",
            file.display()
        ))
    })
}

fn cannot_read(what: &str, file: &Path, error: io::Error) -> PgError {
    PgError::local(format!("cannot read {what} file {}", file.display()), error)
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, PgError> {
    let pem = fs::read(file).map_err(|error| cannot_read("certificate", file, error))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            PgError::Tls(format!(
                "certificate file {} cannot be read: {error}",
                file.display()
            ))
        })
}

/// Returns the trusted certificates, or none where there is no root file.
fn roots(settings: &TlsSettings) -> Result<Option<Vec<CertificateDer<'static>>>, PgError> {
    let needed = settings.mode >= SslMode::VerifyCa;
    let missing = |file: String| {
        PgError::Tls(format!(
            "root certificate file {file} does not exist; name it by sslrootcert, use sslrootcert=system, \
             or change sslmode to stop the check of the server's certificate"
        ))
    };
    match &settings.roots {
        RootCertificates::System => {
            let found = rustls_native_certs::load_native_certs();
            match (found.certs.is_empty(), found.errors.first()) {
                (false, _) => Ok(Some(found.certs)),
                (true, Some(error)) => Err(PgError::Tls(format!(
                    "cannot load the system's root certificates: {error}"
                ))),
                (true, None) => Err(PgError::Tls(
                    "the system has no root certificates".to_owned(),
                )),
            }
        }
        RootCertificates::File(file) | RootCertificates::Default(Some(file)) if file.exists() => {
            let found = read_certificates(file)?;
            if found.is_empty() {
                return Err(PgError::Tls(format!(
                    "root certificate file {} holds no certificate",
                    file.display()
                )));
            }
            Ok(Some(found))
        }
        RootCertificates::File(file) | RootCertificates::Default(Some(file)) if needed => {
            Err(missing(file.display().to_string()))
        }
        RootCertificates::Default(None) if needed => {
            Err(missing("~/.postgresql/root.crt".to_owned()))
        }
        _ => Ok(None),
    }
}

/// How much of a certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// The check of a server's certificate by libpq's rules.
#[derive(Debug)]
struct Verifier {
    check: Check,
    chain: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(settings: &TlsSettings, provider: &Arc<CryptoProvider>) -> Result<Self, PgError> {
        let algorithms = provider.signature_verification_algorithms;
        let trusted = if settings.mode >= SslMode::Require {
            roots(settings)?
        } else {
            None
        };
        let check = match (settings.mode, &trusted) {
            (SslMode::VerifyFull, _) => Check::ChainAndName,
            (SslMode::VerifyCa | SslMode::Require, Some(_)) => Check::Chain,
            _ => Check::Nothing,
        };
        let trusted = trusted.unwrap_or_default();
        let mut store = RootCertStore::empty();
        // One that rustls cannot read may still be pinned.
        store.add_parsable_certificates(trusted.iter().cloned());
        let chain = if store.is_empty() {
            None
        } else {
            let built =
                WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
                    .build();
            Some(built.map_err(|error| {
                PgError::Tls(format!("the root certificates cannot be used: {error}"))
            })?)
        };
        Ok(Self {
            check,
            chain,
            trusted,
            algorithms,
        })
    }

    fn check_pinned(
        &self,
        certificate: &X509Certificate<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let time = ASN1Time::from_timestamp(seconds)
            .map_err(|_cause| rustls::Error::General("the clock cannot be used".to_owned()))?;
        if time < certificate.validity().not_before {
            return Err(CertificateError::NotValidYet.into());
        }
        if time > certificate.validity().not_after {
            return Err(CertificateError::Expired.into());
        }
        if self.check == Check::ChainAndName && !name_fits(certificate, name) {
            return Err(wrong_name(certificate, name));
        }
        Ok(())
    }

    fn check_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
        parsed: Option<&X509Certificate<'_>>,
    ) -> Result<(), rustls::Error> {
        if parsed.is_some_and(|parsed| parsed.version() == X509Version::V1) {
            return Err(rustls::Error::General(VERSION_1.to_owned()));
        }
        let Some(chain) = &self.chain else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        match chain.verify_server_cert(end_entity, intermediates, name, &[], now) {
            Ok(_) => Ok(()),
            // The name comes last: the chain is good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => match parsed {
                _ if self.check == Check::Chain => Ok(()),
                Some(parsed) if name_fits(parsed, name) => Ok(()),
                Some(parsed) => Err(wrong_name(parsed, name)),
                None => Err(CertificateError::NotValidForName.into()),
            },
            Err(error) => Err(error),
        }
    }

    /// Checks the handshake with the bare key of a version 1 certificate.
    fn check_signature_of_version_1(
        &self,
        message: &[u8],
        certificate: &X509Certificate<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = &certificate.public_key().subject_public_key.data;
        let candidates = self
            .algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signature.scheme);
        let valid = candidates
            .flat_map(|(_, algorithms)| algorithms.iter())
            .any(|algorithm| {
                algorithm
                    .verify_signature(key, message, signature.signature())
                    .is_ok()
            });
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }
}

const VERSION_1: &str =
    "the server's certificate is of X.509 version 1, whose chain cannot be checked";

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = parse(end_entity);
        let pinned = self.trusted.iter().any(|trusted| trusted == end_entity);
        match &parsed {
            Some(parsed) if pinned => self.check_pinned(parsed, server_name, now)?,
            _ => self.check_chain(end_entity, intermediates, server_name, now, parsed.as_ref())?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match parse(cert) {
            Some(parsed) if parsed.version() == X509Version::V1 => {
                self.check_signature_of_version_1(message, &parsed, dss)
            }
            _ => verify_tls12_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match parse(cert) {
            // TLS 1.3 leaves RSA signatures of the old form out.
            Some(parsed) if parsed.version() == X509Version::V1 && !is_pkcs1(dss.scheme) => {
                self.check_signature_of_version_1(message, &parsed, dss)
            }
            _ => verify_tls13_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_pkcs1(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate)
        .ok()
        .map(|(_, parsed)| parsed)
}

fn wrong_name(certificate: &X509Certificate<'_>, name: &ServerName<'_>) -> rustls::Error {
    let names = names_of(certificate);
    let shown = match names.is_empty() {
        true => "no name".to_owned(),
        false => names.join(", "),
    };
    rustls::Error::General(format!(
        "server certificate for {shown} does not match host name \"{}\"",
        name.to_str()
    ))
}

fn alternative_names<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a GeneralName<'a>> {
    certificate
        .iter_extensions()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.iter()),
            _ => None,
        })
        .flatten()
        .collect()
}

fn common_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    certificate
        .subject()
        .iter_common_name()
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect()
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names: Vec<String> = alternative_names(certificate)
        .into_iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("\"{name}\"")),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| format!("\"{address}\"")),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        names = common_names(certificate)
            .into_iter()
            .map(|name| format!("\"{name}\""))
            .collect();
    }
    names
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .ok()
        .or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

/// Compares the name of a host with those of a certificate, as libpq does: the common name counts only
/// where no alternative name is a host name or, for an address, an address.
fn name_fits(certificate: &X509Certificate<'_>, name: &ServerName<'_>) -> bool {
    let mut alternatives = false;
    let wanted_address = match name {
        ServerName::IpAddress(address) => Some(IpAddr::from(*address)),
        _ => None,
    };
    let wanted = name.to_str();
    for alternative in alternative_names(certificate) {
        match alternative {
            GeneralName::DNSName(pattern) => {
                alternatives = true;
                if wanted_address.is_none() && pattern_fits(pattern, &wanted) {
                    return true;
                }
            }
            GeneralName::IPAddress(bytes) => {
                alternatives |= wanted_address.is_some();
                if wanted_address.is_some() && address(bytes) == wanted_address {
                    return true;
                }
            }
            _ => {}
        }
    }
    !alternatives
        && common_names(certificate)
            .iter()
            .any(|pattern| pattern_fits(pattern, &wanted))
}

/// A star stands for the first label only, and for exactly one.
fn pattern_fits(pattern: &str, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    if pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    match (pattern.strip_prefix("*."), name.split_once('.')) {
        (Some(domain), Some((label, rest))) => {
            !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

/// Says in words why a handshake failed.
pub(super) fn explain(error: &rustls::Error) -> Explanation {
    let text = |advice: &str| Explanation {
        reason: error.to_string(),
        advice: Some(advice.to_owned()),
    };
    match error {
        rustls::Error::General(reason) if reason == VERSION_1 => Explanation {
            reason: reason.clone(),
            advice: Some(
                "make a version 3 certificate with subjectAltName (openssl x509 -req -extfile …), put the \
                 certificate itself into sslrootcert, or use sslmode=require without a root file"
                    .to_owned(),
            ),
        },
        rustls::Error::General(reason) => Explanation { reason: reason.clone(), advice: None },
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => Explanation {
            reason: "the dates of the server's certificate do not fit: it has expired".to_owned(),
            advice: Some(
                "renew it on the server; sslmode=require without a root file checks no dates"
                    .to_owned(),
            ),
        },
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => Explanation {
            reason: "the dates of the server's certificate do not fit: it is not valid yet"
                .to_owned(),
            advice: Some("are the clocks of both hosts right?".to_owned()),
        },
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            text("the certificate's authority is not in sslrootcert")
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string().contains("CaUsedAsEndEntity") => {
            text("the server shows the certificate of an authority; put that certificate itself into sslrootcert")
        }
        rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure) => {
            text("no common cipher; servers that offer RSA key exchange alone are not supported")
        }
        rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion) => {
            text("no common TLS version; see ssl_min_protocol_version and ssl_max_protocol_version, TLS 1.2 is the oldest")
        }
        rustls::Error::PeerIncompatible(_) => text("the server speaks no TLS version or cipher that is allowed here"),
        rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
            text("the server asks for a client certificate: sslcert and sslkey")
        }
        rustls::Error::AlertReceived(
            rustls::AlertDescription::UnknownCA
            | rustls::AlertDescription::BadCertificate
            | rustls::AlertDescription::CertificateUnknown
            | rustls::AlertDescription::CertificateExpired,
        ) => text("the server does not accept the client certificate of sslcert"),
        _ => Explanation { reason: error.to_string(), advice: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_stars() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(pattern_fits(pattern, name), expected, "{pattern} {name}");
        };
        check("db1.example.org", "DB1.example.org", true);
        check("db1.example.org", "db1.example.org.", true);
        check("db1.example.org", "db2.example.org", false);
        check("*.example.org", "db1.example.org", true);
        check("*.example.org", "a.db1.example.org", false);
        check("*.example.org", "example.org", false);
        check("*.org", "example.org", false);
        check("*", "db1", false);
        check("d*.example.org", "db1.example.org", false);
    }

    #[test]
    fn a_missing_root_file_matters_only_where_it_is_needed() {
        let mut settings = TlsSettings {
            mode: SslMode::Require,
            direct: false,
            roots: RootCertificates::File("/nowhere/root.crt".into()),
            client: ClientCertificate::Off,
            key_password_given: false,
            version_min: TlsVersion::V1_2,
            version_max: TlsVersion::V1_3,
            server_name_indication: true,
        };
        assert!(connector(&settings).is_ok());
        settings.mode = SslMode::VerifyCa;
        let error = connector(&settings).expect_err("no root file").to_string();
        assert!(
            error.contains("/nowhere/root.crt does not exist"),
            "{error}"
        );
        settings.roots = RootCertificates::Default(None);
        assert!(connector(&settings).is_err());
    }

    #[test]
    fn version_limits() {
        let mut settings = TlsSettings {
            mode: SslMode::Require,
            direct: false,
            roots: RootCertificates::Default(None),
            client: ClientCertificate::Off,
            key_password_given: false,
            version_min: TlsVersion::V1_3,
            version_max: TlsVersion::V1_3,
            server_name_indication: true,
        };
        assert_eq!(versions(&settings), [&rustls::version::TLS13]);
        settings.version_min = TlsVersion::V1_2;
        assert_eq!(versions(&settings).len(), 2);
    }
}
