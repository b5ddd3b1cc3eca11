//! `init`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use holdfast::crypto::{Random, Secret32, SystemRandom};
use holdfast::ops::init::{Created, FirstKey, InitOptions, Passphrase, init};
use holdfast::site::SiteFile;
use holdfast::site::key_text::format_recovery_key;
use holdfast::site::secrets::{COMMAND_TIMEOUT, RepositoryKey, Secret, create_key_file};
use holdfast::store::{Repository, StoreError};
use serde_json::json;
use zeroize::Zeroizing;

use super::Context;
use crate::cli::args::{Encryption, Init};
use crate::cli::open::{self, HOLDFAST, HOLDFAST_FROM, Usage};
use crate::cli::output::Output;
use crate::cli::progress;

/// A key file that this run has created, so that it can be taken back.
struct NewKeyFile(PathBuf);

/// Creates the repository and shows the recovery key.
pub(super) fn run(context: &Context<'_>, args: &Init) -> anyhow::Result<u8> {
    let site = context.site_file()?;
    let place = open::place(context.global, site.as_ref())?;
    let other = args
        .dedup_from
        .as_deref()
        .map(|url| open_other(context, args, url))
        .transpose()?;
    let backend = open::backend(&place)?;
    let (key, new_file) = first_key(context, args, site.as_ref())?;
    let encrypted = !matches!(key, FirstKey::Nothing);
    let label = args
        .label
        .clone()
        .unwrap_or_else(|| format!("{}@{}", open::user(), open::host()));
    let options = InitOptions {
        place: &place,
        key,
        label: &label,
        chunk_bytes: args.chunk_size,
        table_chunk_bytes: args.table_chunk_size,
        dedup_from: other.as_ref(),
    };
    let created = init(backend, &options, open::ambient());
    if created.is_err()
        && let Some(NewKeyFile(path)) = &new_file
        && let Err(error) = std::fs::remove_file(path)
    {
        progress::warning(&format!("cannot remove {}: {error}", path.display()));
    }
    let created = created?;
    let key_file = new_file.as_ref().map(|file| file.0.as_path());
    show(context, &place, &created, encrypted, key_file)?;
    Ok(0)
}

fn open_other(context: &Context<'_>, args: &Init, url: &str) -> anyhow::Result<Repository> {
    let key = open::key_source(args.dedup_from_key_file.as_deref(), HOLDFAST_FROM, None);
    open::open_at(url, key, HOLDFAST_FROM, context.signals)
}

fn first_key(
    context: &Context<'_>,
    args: &Init,
    site: Option<&SiteFile>,
) -> anyhow::Result<(FirstKey, Option<NewKeyFile>)> {
    let flag = context.global.key_file.as_deref();
    if args.encryption == Encryption::None {
        return match flag {
            Some(_) => Err(Usage(
                "--encryption none takes no key: leave out --key-file or --encryption".into(),
            )
            .into()),
            None => Ok((FirstKey::Nothing, None)),
        };
    }
    match open::key_source(flag, HOLDFAST, site) {
        Some(RepositoryKey::KeyFile(path)) => key_of_file(path),
        Some(RepositoryKey::Passphrase(source)) => {
            let secret = source.read("the passphrase", COMMAND_TIMEOUT)?;
            if let Some(warning) = &secret.warning {
                progress::warning(warning);
            }
            Ok((passphrase(&secret.value), None))
        }
        None if std::io::stdin().is_terminal() => {
            let typed = open::prompt("passphrase for the new repository: ", context.signals)?;
            let again = open::prompt("the same again: ", context.signals)?;
            match typed == again {
                true => Ok((passphrase(&typed), None)),
                false => Err(anyhow::anyhow!(
                    "the two passphrases differ; nothing was created"
                )),
            }
        }
        None => Err(StoreError::WrongKey {
            what: format!(
                "{}; or give --key-file FILE, which is created",
                open::no_key(HOLDFAST)
            ),
        }
        .into()),
    }
}

fn passphrase(secret: &Secret) -> FirstKey {
    FirstKey::Passphrase(Passphrase(Zeroizing::new(secret.expose().to_vec())))
}

/// Reads the key file, or creates it.
fn key_of_file(path: PathBuf) -> anyhow::Result<(FirstKey, Option<NewKeyFile>)> {
    if path.exists() {
        let key = holdfast::site::secrets::read_key_file(&path)?;
        if let Some(warning) = &key.warning {
            progress::warning(warning);
        }
        return Ok((FirstKey::KeyFile(open::secret(&key.value)), None));
    }
    let mut bits = Zeroizing::new([0; 32]);
    SystemRandom.fill(&mut bits[..]);
    create_key_file(&path, &bits)?;
    Ok((
        FirstKey::KeyFile(Secret32::take(&mut bits)),
        Some(NewKeyFile(path)),
    ))
}

fn show(
    context: &Context<'_>,
    place: &str,
    created: &Created,
    encrypted: bool,
    new_key_file: Option<&Path>,
) -> anyhow::Result<()> {
    let mut output = Output::new(context.global.json);
    let recovery = created
        .recovery
        .as_ref()
        .map(|secret| format_recovery_key(secret.expose()));
    let id = created.repository.format().id;
    if output.is_json() {
        output.message(
            "summary",
            &json!({
                "repository": place,
                "id": id.to_string(),
                "encrypted": encrypted,
                "key_file_created": new_key_file,
                "recovery_key": recovery.as_ref().map(|text| text.as_str()),
                "kdf_ms": created.repository.kdf_ms(),
            }),
        )?;
        return Ok(output.flush()?);
    }
    let told = !context.global.quiet;
    if told {
        output.line(format!("created repository {id} at {place}"))?;
    }
    match (encrypted, new_key_file) {
        _ if !told => {}
        (false, _) => output.line("it is not encrypted: who reaches it can read it")?,
        (true, Some(path)) => output.line(format!(
            "key file: {} (new; keep a copy away from the repository)",
            path.display()
        ))?,
        (true, None) => {}
    }
    if let Some(recovery) = recovery {
        output.line("")?;
        output
            .line("recovery key, shown this once; it opens the repository when the key is lost:")?;
        output.line("")?;
        let groups: Vec<&str> = recovery.split('-').collect();
        for line in groups.chunks(7) {
            output.line(format!("    {}", line.join("-")))?;
        }
    }
    Ok(output.flush()?)
}
