//! Reads certificates and keys for what the snapshot record says about them.
//!
//! The files themselves are archived as they are, like any others; here it is read who they belong to, how long they
//! are valid, and which key fits which certificate. Nothing is verified: no chain, no signature, no revocation. A file
//! that can't be understood gives a record that says so; it never stops a run.
//!
//! A private key is compared by its public half. Key bytes are wiped after that, and stand in no record, error or
//! `Debug` output (test `no_key_material_is_shown`).
//!
//! RSA from 2048 to 8192 bits, ECDSA on P-256, P-384, P-521 and secp256k1, and Ed25519 are matched; other keys are
//! recorded without.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use p12_keystore::Pkcs12Archive;
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use zeroize::{Zeroize, Zeroizing};

use crate::format::snapshot::CertificateFact;

/// No certificate file is larger; what is larger is not read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The most files that are looked at below the paths given.
const FILES_MAX: usize = 10_000;

/// How deep directories are entered.
const DEPTH_MAX: usize = 32;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateKind {
    /// The only certificate of a file.
    Certificate,
    /// A private key.
    PrivateKey,
    /// A certificate or key inside a PKCS #12 file, or such a file that could not be opened.
    Pfx,
    /// One of several certificates of a file.
    Chain,
    /// Something else.
    Unknown,
}

/// What was read from one certificate or key. A file gives one record for each that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateFacts {
    /// The file; a path is bytes.
    #[serde(serialize_with = "lossy")]
    pub path: Vec<u8>,
    /// The place in the file, from 0: a chain has several.
    pub position: u32,
    /// What this is.
    pub kind: CertificateKind,
    /// The subject's distinguished name; empty for a key.
    pub subject: String,
    /// The issuer's distinguished name; empty for a key.
    pub issuer: String,
    /// The serial number in hexadecimal digits, without leading zero bytes.
    pub serial: String,
    /// SHA-1 of the certificate in hexadecimal digits: the thumbprint that Windows shows.
    pub sha1: String,
    /// SHA-256 of the certificate in hexadecimal digits.
    pub sha256: String,
    /// Valid from, in seconds since 1970.
    pub not_before: Option<i64>,
    /// Valid until, in seconds since 1970.
    pub not_after: Option<i64>,
    /// Whether it may sign certificates.
    pub is_ca: bool,
    /// For a certificate: the file with its private key; for a key: the file with its certificate.
    #[serde(serialize_with = "lossy_option")]
    pub matches_key: Option<Vec<u8>>,
    /// What could not be read and why, or what kind of key this is.
    pub note: Option<String>,
}

fn lossy<S: serde::Serializer>(path: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(path))
}

fn lossy_option<S: serde::Serializer>(
    path: &Option<Vec<u8>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => lossy(path, serializer),
        None => serializer.serialize_none(),
    }
}

impl CertificateKind {
    /// The word that the snapshot record and people see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private key",
            Self::Pfx => "pfx",
            Self::Chain => "chain",
            Self::Unknown => "unknown",
        }
    }
}

impl CertificateFacts {
    /// Makes the entry of the snapshot record; a key has no dates, which stand as 0 there.
    pub fn into_record(self, component: &str) -> CertificateFact {
        CertificateFact {
            component: component.to_owned(),
            path: self.path,
            kind: self.kind.word().to_owned(),
            subject: self.subject,
            issuer: self.issuer,
            serial: self.serial,
            sha1: self.sha1,
            sha256: self.sha256,
            not_before: self.not_before.unwrap_or(0),
            not_after: self.not_after.unwrap_or(0),
            is_ca: self.is_ca,
            matches: self.matches_key,
            note: self.note.unwrap_or_default(),
        }
    }
}

/// One record with the public key that it is matched by.
struct Found {
    facts: CertificateFacts,
    /// The bits of the public key: what a certificate and its private key have in common.
    public_key: Option<Vec<u8>>,
    is_key: bool,
}

/// Reads every certificate and key in these files and, for directories, in the files below; `pfx_password` opens
/// PKCS #12 files. Symbolic links given are followed, those found in directories are not.
pub fn read_certificates(paths: &[PathBuf], pfx_password: Option<&[u8]>) -> Vec<CertificateFacts> {
    let mut found = Vec::new();
    let mut files = 0;
    for path in paths {
        read_path(path, pfx_password, 0, &mut files, &mut found);
    }
    match_keys(found)
}

/// Reads what one file holds; the part of `read_certificates` that does no I/O.
pub fn read_certificate_bytes(
    path: &Path,
    bytes: &[u8],
    pfx_password: Option<&[u8]>,
) -> Vec<CertificateFacts> {
    match_keys(inspect(path, bytes, pfx_password))
}

/// The certificates that have ended at `now` (seconds since 1970) or will within `warn_before`.
pub fn expiring(
    facts: &[CertificateFacts],
    now: i64,
    warn_before: Duration,
) -> Vec<&CertificateFacts> {
    let limit = now.saturating_add(i64::try_from(warn_before.as_secs()).unwrap_or(i64::MAX));
    let ends = |facts: &&CertificateFacts| facts.not_after.is_some_and(|end| end <= limit);
    facts.iter().filter(ends).collect()
}

fn read_path(
    path: &Path,
    password: Option<&[u8]>,
    depth: usize,
    files: &mut usize,
    found: &mut Vec<Found>,
) {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return found.push(unknown(path, format!("cannot be read: {error}"))),
    };
    if metadata.is_dir() && depth < DEPTH_MAX {
        match children(path) {
            Ok(children) => {
                for child in children {
                    read_path(&child, password, depth + 1, files, found);
                }
            }
            Err(error) => found.push(unknown(path, format!("cannot be read: {error}"))),
        }
        return;
    }
    if !metadata.is_file() || *files >= FILES_MAX {
        return;
    }
    *files += 1;
    match read_file(path) {
        Ok(Some(bytes)) => found.extend(inspect(path, &bytes, password)),
        Ok(None) => found.push(unknown(path, "too large for a certificate".to_owned())),
        Err(error) => found.push(unknown(path, format!("cannot be read: {error}"))),
    }
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_symlink() {
            children.push(entry.path());
        }
    }
    children.sort();
    Ok(children)
}

/// Reads a file that may hold a key; `None` if it is too large.
fn read_file(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len().min(FILE_BYTES_MAX + 1);
    // The room is there from the start, so that no shorter copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1));
    file.take(len).read_to_end(&mut bytes)?;
    Ok((len <= FILE_BYTES_MAX).then_some(bytes))
}

fn blank(path: &Path, kind: CertificateKind) -> CertificateFacts {
    CertificateFacts {
        path: path.as_os_str().as_bytes().to_vec(),
        position: 0,
        kind,
        subject: String::new(),
        issuer: String::new(),
        serial: String::new(),
        sha1: String::new(),
        sha256: String::new(),
        not_before: None,
        not_after: None,
        is_ca: false,
        matches_key: None,
        note: None,
    }
}

fn noted(path: &Path, kind: CertificateKind, note: impl Into<String>) -> Found {
    let mut facts = blank(path, kind);
    facts.note = Some(note.into());
    Found {
        facts,
        public_key: None,
        is_key: kind == CertificateKind::PrivateKey,
    }
}

fn unknown(path: &Path, note: impl Into<String>) -> Found {
    noted(path, CertificateKind::Unknown, note)
}

/// Finds out what the bytes are, and reads them.
fn inspect(path: &Path, bytes: &[u8], password: Option<&[u8]>) -> Vec<Found> {
    let mut found = if contains(bytes, b"-----BEGIN ") {
        inspect_pem(path, bytes)
    } else if let Some(certificate) = certificate(path, bytes) {
        vec![certificate]
    } else if is_pfx(bytes) {
        inspect_pfx(path, bytes, password)
    } else if let Some(key) = private_key(path, bytes) {
        vec![key]
    } else {
        vec![unknown(
            path,
            "neither a certificate nor a key that holdfast reads",
        )]
    };
    let certificates = found
        .iter()
        .filter(|f| f.facts.kind == CertificateKind::Certificate)
        .count();
    for (position, found) in found.iter_mut().enumerate() {
        found.facts.position = u32::try_from(position).unwrap_or(u32::MAX);
        if certificates > 1 && found.facts.kind == CertificateKind::Certificate {
            found.facts.kind = CertificateKind::Chain;
        }
    }
    found
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn inspect_pem(path: &Path, bytes: &[u8]) -> Vec<Found> {
    // Keys that OpenSSL encrypted the old way have header lines that the PEM reader does not know.
    if contains(bytes, b"Proc-Type: 4,ENCRYPTED") {
        let mut found = pem_blocks(path, &without_old_encrypted(bytes));
        found.push(encrypted_key(path));
        return found;
    }
    pem_blocks(path, bytes)
}

fn encrypted_key(path: &Path) -> Found {
    noted(
        path,
        CertificateKind::PrivateKey,
        "the key is encrypted; it was not looked into",
    )
}

/// Drops blocks with an encryption header.
fn without_old_encrypted(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut kept = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut block: Vec<&[u8]> = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"-----BEGIN ") {
            kept.extend(block.drain(..).flatten());
        }
        block.push(line);
        if line.starts_with(b"-----END ") {
            let is_encrypted = block
                .iter()
                .any(|line| line.starts_with(b"Proc-Type: 4,ENCRYPTED"));
            let lines = block.drain(..);
            if !is_encrypted {
                kept.extend(lines.flatten());
            }
        }
    }
    kept
}

fn pem_blocks(path: &Path, bytes: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(bytes) {
        match block {
            Ok(mut block) => {
                found.extend(pem_block(path, &block));
                block.contents.zeroize();
            }
            Err(error) => {
                found.push(unknown(path, format!("a damaged PEM block: {error}")));
                // The reader can't tell where the next block starts.
                break;
            }
        }
    }
    found
}

fn pem_block(path: &Path, block: &Pem) -> Option<Found> {
    match block.label.as_str() {
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => Some(
            certificate(path, &block.contents)
                .unwrap_or_else(|| unknown(path, "a certificate that can't be read")),
        ),
        "ENCRYPTED PRIVATE KEY" => Some(encrypted_key(path)),
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => {
            Some(private_key(path, &block.contents).unwrap_or_else(|| {
                noted(
                    path,
                    CertificateKind::PrivateKey,
                    "a kind of key that holdfast does not read",
                )
            }))
        }
        // Stand beside keys and certificates and say nothing about them.
        "EC PARAMETERS" | "DH PARAMETERS" => None,
        label => Some(unknown(path, format!("a block named {label}"))),
    }
}

fn certificate(path: &Path, der: &[u8]) -> Option<Found> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let der = der.get(..der.len() - rest.len())?;
    let mut facts = blank(path, CertificateKind::Certificate);
    facts.subject = certificate.subject().to_string();
    facts.issuer = certificate.issuer().to_string();
    facts.serial = serial(certificate.raw_serial());
    facts.sha1 = hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref());
    facts.sha256 = hex(digest::digest(&digest::SHA256, der).as_ref());
    facts.not_before = Some(certificate.validity().not_before.timestamp());
    facts.not_after = Some(certificate.validity().not_after.timestamp());
    facts.is_ca = certificate.is_ca();
    Some(Found {
        facts,
        public_key: Some(certificate.public_key().subject_public_key.data.to_vec()),
        is_key: false,
    })
}

/// Without the zero bytes that DER puts in front of a number with its first bit set.
fn serial(raw: &[u8]) -> String {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    let digits = hex(raw.get(zeros..).unwrap_or(&[]));
    if digits.is_empty() {
        "00".to_owned()
    } else {
        digits
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn private_key(path: &Path, der: &[u8]) -> Option<Found> {
    let (public_key, name) = public_half(der)?;
    let mut found = noted(path, CertificateKind::PrivateKey, name);
    found.public_key = Some(public_key);
    Some(found)
}

/// The public half of a key in PKCS #8, PKCS #1 or SEC 1 form, and what kind of key it is.
fn public_half(der: &[u8]) -> Option<(Vec<u8>, String)> {
    if let Ok(key) = rsa::KeyPair::from_pkcs8(der).or_else(|_| rsa::KeyPair::from_der(der)) {
        let name = format!("RSA, {} bits", key.public_modulus_len() * 8);
        return Some((key.public_key().as_ref().to_vec(), name));
    }
    if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Some((key.public_key().as_ref().to_vec(), "Ed25519".to_owned()));
    }
    let curves = [
        (&signature::ECDSA_P256_SHA256_ASN1_SIGNING, "P-256"),
        (&signature::ECDSA_P384_SHA384_ASN1_SIGNING, "P-384"),
        (&signature::ECDSA_P521_SHA512_ASN1_SIGNING, "P-521"),
        (&signature::ECDSA_P256K1_SHA256_ASN1_SIGNING, "secp256k1"),
    ];
    curves.iter().find_map(|(algorithm, name)| {
        let key = EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?;
        Some((key.public_key().as_ref().to_vec(), format!("EC, {name}")))
    })
}

/// A PKCS #12 file is a sequence that starts with the number 3.
fn is_pfx(bytes: &[u8]) -> bool {
    let Some((0x30, rest)) = bytes.split_first().map(|(first, rest)| (*first, rest)) else {
        return false;
    };
    let length_bytes = match rest.first() {
        Some(short) if *short < 0x80 => 1,
        Some(long) => 1 + usize::from(*long & 0x7f),
        None => return false,
    };
    rest.get(length_bytes..)
        .is_some_and(|body| body.starts_with(&[2, 1, 3]))
}

fn inspect_pfx(path: &Path, bytes: &[u8], password: Option<&[u8]>) -> Vec<Found> {
    let archive = match open_pfx(bytes, password) {
        Ok(archive) => archive,
        Err(note) => return vec![noted(path, CertificateKind::Pfx, note)],
    };
    let mut found: Vec<Found> = Vec::new();
    for bag in &archive.certs {
        found.extend(certificate(path, bag.cert.as_der()));
    }
    for bag in &archive.keys {
        let unread = || {
            noted(
                path,
                CertificateKind::PrivateKey,
                "a kind of key that holdfast does not read",
            )
        };
        found.push(private_key(path, bag.key.as_der()).unwrap_or_else(unread));
    }
    for found in &mut found {
        if found.is_key {
            let name = found.facts.note.take().unwrap_or_default();
            found.facts.note = Some(format!("private key: {name}"));
        }
        found.facts.kind = CertificateKind::Pfx;
    }
    if found.is_empty() {
        found.push(noted(path, CertificateKind::Pfx, "no certificate in it"));
    }
    found
}

fn open_pfx(bytes: &[u8], password: Option<&[u8]>) -> Result<Pkcs12Archive, &'static str> {
    let Some(password) = password else {
        // Files with an empty password need none.
        return Pkcs12Archive::from_pkcs12(bytes, "").or(Err("password needed"));
    };
    let password = str::from_utf8(password).or(Err("the password is not UTF-8"))?;
    let hopeless =
        "cannot be opened: the password is wrong or the form is not one that holdfast reads";
    Pkcs12Archive::from_pkcs12(bytes, password).or(Err(hopeless))
}

/// Says of each certificate where its key is, and of each key where its certificate is.
fn match_keys(mut found: Vec<Found>) -> Vec<CertificateFacts> {
    for position in 0..found.len() {
        let (Some(this), others) = (found.get(position), &found) else {
            continue;
        };
        let Some(public_key) = &this.public_key else {
            continue;
        };
        let fits = |other: &&Found| {
            other.is_key != this.is_key && other.public_key.as_ref() == Some(public_key)
        };
        // The same file first: a PKCS #12 file holds both.
        let same_file = others
            .iter()
            .filter(|other| other.facts.path == this.facts.path)
            .find(fits);
        let partner = same_file
            .or_else(|| others.iter().find(fits))
            .map(|other| other.facts.path.clone());
        if let Some(this) = found.get_mut(position) {
            this.facts.matches_key = partner;
        }
    }
    found.into_iter().map(|found| found.facts).collect()
}

#[cfg(test)]
mod tests;
