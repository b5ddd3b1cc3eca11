//! Every derivation of a key, with its context string.
//!
//! BLAKE3 in its key-derivation mode; a context string is used for one purpose and never changed. Passphrases alone are stretched, with
//! argon2id.
//!
//! Invariants: no two purposes share a context (`contexts_differ`); the outputs of format 1 never change (`known_answers`).

use zeroize::{Zeroize, Zeroizing};

use super::secret::Secret32;
use crate::format::header::BOUND_LEN;
use crate::format::id::RepositoryId;
use crate::format::repository::KdfSettings;

pub(super) const CHUNK_ID: &str = "holdfast 2026-11-20 dedup: chunk id";
pub(super) const FILE_CHUNKER: &str = "holdfast 2026-11-20 dedup: file chunker";
pub(super) const TABLE_CHUNKER: &str = "holdfast 2026-11-20 dedup: table chunker";
pub(super) const ROW_DIGEST: &str = "holdfast 2026-11-20 dedup: row digest";
pub(super) const DIRECTORY_SPLIT: &str = "holdfast 2026-11-20 dedup: directory split";
const OBJECT_FROM_WRITER: &str = "holdfast 2026-11-20 writer: object key and commitment";
const OBJECT_FROM_DATA_KEY: &str = "holdfast 2026-11-20 data key: object key and commitment";
const WRAP_FROM_PASSPHRASE: &str =
    "holdfast 2026-11-20 stretched passphrase: wrapping key and commitment";
const WRAP_FROM_KEY_FILE: &str = "holdfast 2026-11-20 key file: wrapping key and commitment";
const WRAP_PLAIN: &str = "holdfast 2026-11-20 plain: tag";

/// A key and a commitment to it: nobody can make two keys with one commitment.
pub(super) struct Committed {
    pub(super) key: Secret32,
    pub(super) commitment: [u8; 32],
}

/// A sub-key of 32 bytes.
pub(super) fn sub_key(context: &str, secret: &Secret32) -> Secret32 {
    Secret32::filled(|out| sub_key_into(context, secret, out))
}

/// A sub-key of any length.
pub(super) fn sub_key_into(context: &str, secret: &Secret32, out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    let mut output = hasher.update(secret.expose()).finalize_xof();
    output.fill(out);
    output.zeroize();
    hasher.zeroize();
}

/// The key of an object of the writer, from everything that its header says before the commitment.
pub(super) fn object_from_writer(
    writer: &Secret32,
    repository: &RepositoryId,
    bound: &[u8; BOUND_LEN],
) -> Committed {
    committed(
        OBJECT_FROM_WRITER,
        &[writer.expose(), repository.as_bytes(), bound],
    )
}

/// The key of an object with a data key of its own.
pub(super) fn object_from_data_key(
    data_key: &Secret32,
    repository: &RepositoryId,
    bound: &[u8; BOUND_LEN],
) -> Committed {
    committed(
        OBJECT_FROM_DATA_KEY,
        &[data_key.expose(), repository.as_bytes(), bound],
    )
}

/// The key that wraps secrets for a key file or a recovery key.
pub(super) fn wrap_from_key_file(secret: &Secret32, salt: &[u8; 32]) -> Committed {
    committed(WRAP_FROM_KEY_FILE, &[secret.expose(), salt])
}

/// The key that wraps secrets for a passphrase. Fails only where memory does: `settings` must be acceptable.
pub(super) fn wrap_from_passphrase(
    passphrase: &[u8],
    salt: &[u8; 32],
    settings: &KdfSettings,
) -> Result<Committed, argon2::Error> {
    let params = argon2::Params::new(
        settings.memory_kib,
        settings.passes,
        settings.lanes,
        Some(32),
    )?;
    let mut memory: Vec<argon2::Block> = Vec::new();
    memory
        .try_reserve_exact(params.block_count())
        .map_err(|_refused| argon2::Error::OutOfMemory)?;
    memory.resize(params.block_count(), argon2::Block::new());
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut stretched = Zeroizing::new([0; 32]);
    let done =
        argon.hash_password_into_with_memory(passphrase, salt, &mut stretched[..], &mut memory[..]);
    memory.iter_mut().for_each(Zeroize::zeroize);
    done.map(|()| committed(WRAP_FROM_PASSPHRASE, &[&stretched[..]]))
}

/// The tag of secrets that are stored in clear.
pub(super) fn plain_tag(associated: &[u8], secrets: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    let mut hasher = blake3::Hasher::new_derive_key(WRAP_PLAIN);
    hasher
        .update(&u64::to_le_bytes(associated.len() as u64))
        .update(associated)
        .update(secrets);
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Every part has a fixed length, so that their concatenation says where each ends.
fn committed(context: &str, parts: &[&[u8]]) -> Committed {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    let mut output = hasher.finalize_xof();
    let key = Secret32::filled(|out| output.fill(out));
    let mut commitment = [0; 32];
    output.fill(&mut commitment);
    output.zeroize();
    hasher.zeroize();
    Committed { key, commitment }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn check(what: &str, found: &Committed, key: &str, commitment: &str) {
        assert_eq!(
            (
                hex(found.key.expose()).as_str(),
                hex(&found.commitment).as_str()
            ),
            (key, commitment),
            "{what}"
        );
    }

    #[test]
    fn known_answers() {
        let secret = Secret32::take(&mut [5; 32]);
        let repository = RepositoryId([6; 16]);
        check(
            "writer",
            &object_from_writer(&secret, &repository, &[7; 72]),
            "bdd4e0d8177de37d12d51eefaa5322f1b696c54b648845feb8e4a44ae25f7948",
            "bf383c3ffd1d6ec8f479d831649186e8002fed9fa458bf0929c2982a90529b24",
        );
        check(
            "data key",
            &object_from_data_key(&secret, &repository, &[7; 72]),
            "fb6c317f0bf27a79dd3022a2a3fd15767ce7c11de8284a4e45e64d5082663fa1",
            "05229d346c101d460de2d325cd53ca41391fdc7562dbb04e40da11f7e33d401c",
        );
        check(
            "key file",
            &wrap_from_key_file(&secret, &[8; 32]),
            "4ec2316e85f3d3a30cac18597f61e5d62bbde3936f03bb803b9058f15b14275b",
            "f2a2a4d5eae87eb1ceef0723bc19fddcd33cd7f541851a0218da57b61db76311",
        );
        let settings = KdfSettings {
            memory_kib: 64,
            passes: 2,
            lanes: 2,
        };
        check(
            "passphrase",
            &wrap_from_passphrase(b"open sesame", &[8; 32], &settings).unwrap(),
            "519af7f958e5aa51145ccbd2ae9f47e3ac10260bae459a65979e7d8dc2247495",
            "e0cfaaaa49f8101f9af98db805c931bded888f753914a12bc3cdf53bb16adb09",
        );
        assert_eq!(
            hex(&plain_tag(b"ab", b"c")),
            "a5aacca918efa629fcb598c7a0722682"
        );
        assert_ne!(plain_tag(b"ab", b"c"), plain_tag(b"a", b"bc"));
    }

    #[test]
    fn contexts_differ() {
        let all = [
            CHUNK_ID,
            FILE_CHUNKER,
            TABLE_CHUNKER,
            ROW_DIGEST,
            DIRECTORY_SPLIT,
            OBJECT_FROM_WRITER,
            OBJECT_FROM_DATA_KEY,
            WRAP_FROM_PASSPHRASE,
            WRAP_FROM_KEY_FILE,
            WRAP_PLAIN,
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
