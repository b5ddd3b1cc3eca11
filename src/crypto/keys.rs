//! The keyring: the secrets that were unlocked, and the sub-keys that follow from them.
//!
//! It wraps nothing and seals nothing; that is `wrap` and `seal`.
//!
//! Invariants: chunk ids, chunkers and digests depend on the dedup secret alone, so that repositories which share it share them
//! (`sub_keys_follow_from_dedup_alone`); format 1's never change (`known_answers`).

use std::fmt;

use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::envelope;
use super::kdf;
use super::random::{Random, array};
use super::secret::Secret32;
use crate::format::header::Suite;
use crate::format::id::{ChunkId, RepositoryId};
use crate::format::key::SecretSet;

/// The secrets of a repository, as many of them as the key in use gives.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// The repository.
    pub repository_id: RepositoryId,
    /// How its objects are protected.
    pub suite: Suite,
    /// Chunk ids, chunkers, row digests.
    pub dedup: Option<Secret32>,
    /// Index, log and lists.
    pub writer: Option<Secret32>,
    /// Packs and snapshot records are wrapped to this.
    pub seal_public: [u8; 32],
    /// Opens them again.
    pub seal_private: Option<Secret32>,
}

/// The key in use lacks a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this key can't {action}: it does not hold the {secret} secret")]
pub struct MissingSecret {
    /// What was tried.
    pub action: &'static str,
    /// What is missing.
    pub secret: &'static str,
}

impl Keyring {
    /// Fresh secrets for a new repository; `dedup` is given where it is shared with another one.
    pub fn generate(
        repository_id: RepositoryId,
        suite: Suite,
        dedup: Option<Secret32>,
        random: &mut dyn Random,
    ) -> Self {
        let dedup = dedup.unwrap_or_else(|| Secret32::generate(random));
        let writer = Secret32::generate(random);
        let (seal_private, seal_public) = envelope::generate_pair(random);
        Self {
            repository_id,
            suite,
            dedup: Some(dedup),
            writer: Some(writer),
            seal_public,
            seal_private: Some(seal_private),
        }
    }

    /// A fresh repository id.
    pub fn generate_repository_id(random: &mut dyn Random) -> RepositoryId {
        RepositoryId(array(random))
    }

    /// Which secrets it holds.
    pub fn secrets(&self) -> SecretSet {
        SecretSet {
            dedup: self.dedup.is_some(),
            writer: self.writer.is_some(),
            seal_private: self.seal_private.is_some(),
        }
    }

    /// A keyring with at most the secrets of `set`.
    pub fn restricted(&self, set: SecretSet) -> Self {
        Self {
            dedup: self.dedup.clone().filter(|_| set.dedup),
            writer: self.writer.clone().filter(|_| set.writer),
            seal_private: self.seal_private.clone().filter(|_| set.seal_private),
            ..*self
        }
    }

    /// Makes chunk ids.
    pub fn chunk_id_key(&self) -> Result<ChunkIdKey, MissingSecret> {
        Ok(ChunkIdKey(kdf::sub_key(
            kdf::CHUNK_ID,
            self.dedup_for("name chunks")?,
        )))
    }

    /// Keys the chunker of files.
    pub fn file_chunker_secret(&self) -> Result<Secret32, MissingSecret> {
        Ok(kdf::sub_key(
            kdf::FILE_CHUNKER,
            self.dedup_for("cut files")?,
        ))
    }

    /// Keys the chunker of tables.
    pub fn table_chunker_secret(&self) -> Result<Secret32, MissingSecret> {
        Ok(kdf::sub_key(
            kdf::TABLE_CHUNKER,
            self.dedup_for("cut tables")?,
        ))
    }

    /// Keys the digests of rows.
    pub fn row_digest_secret(&self) -> Result<RowDigestSecret, MissingSecret> {
        let mut secret = RowDigestSecret(Box::new([0; 192]));
        kdf::sub_key_into(
            kdf::ROW_DIGEST,
            self.dedup_for("digest rows")?,
            &mut secret.0[..],
        );
        Ok(secret)
    }

    /// Decides where the stream of a directory is cut.
    pub fn directory_split_key(&self) -> Result<Secret32, MissingSecret> {
        Ok(kdf::sub_key(
            kdf::DIRECTORY_SPLIT,
            self.dedup_for("cut directories")?,
        ))
    }

    fn dedup_for(&self, action: &'static str) -> Result<&Secret32, MissingSecret> {
        self.dedup.as_ref().ok_or(MissingSecret {
            action,
            secret: "dedup",
        })
    }
}

/// The key of chunk ids.
#[derive(Clone)]
pub struct ChunkIdKey(Secret32);

impl ChunkIdKey {
    /// The id of a chunk: keyed BLAKE3 of its plaintext.
    pub fn id(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(self.0.expose(), plaintext).as_bytes())
    }

    /// The key itself, for hashers that take many chunks at once.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

impl fmt::Debug for ChunkIdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkIdKey")
    }
}

/// The secret of XXH3 for digests of rows.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RowDigestSecret(Box<[u8; 192]>);

impl RowDigestSecret {
    /// The secret, long enough for XXH3 (136 bytes and more).
    pub fn expose(&self) -> &[u8; 192] {
        &self.0
    }
}

impl fmt::Debug for RowDigestSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowDigestSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SeededRandom;

    fn example() -> Keyring {
        Keyring::generate(
            RepositoryId([1; 16]),
            Suite::Aes256Gcm,
            None,
            &mut SeededRandom::new(1),
        )
    }

    #[test]
    fn known_answers() {
        let keyring = Keyring {
            dedup: Some(Secret32::take(&mut [9; 32])),
            ..example()
        };
        let hash = |bytes: &[u8]| ChunkId(*blake3::hash(bytes).as_bytes()).to_string();
        let found = [
            keyring.chunk_id_key().unwrap().id(b"").to_string(),
            keyring.chunk_id_key().unwrap().id(b"holdfast").to_string(),
            hash(keyring.file_chunker_secret().unwrap().expose()),
            hash(keyring.table_chunker_secret().unwrap().expose()),
            hash(keyring.directory_split_key().unwrap().expose()),
            hash(keyring.row_digest_secret().unwrap().expose()),
        ];
        assert_eq!(
            found,
            [
                "d0b312457413611baf0a33db78858f2f75d48215375aaa2f0cfd9b9ea9387530",
                "a2fef109975cbbea4837629a46ff71b8f2fa6e7a291d360c2b8ba5c4f0d3acff",
                "f37448c4374ec1bbbb269a41c34c2cffa4d5fe06a6b1f57f5a78594b546d950b",
                "522d6c0819a3529f57629013dd4feb41c4c1938db993212e4bcacc48b4a548ee",
                "97d867f5c2f942b3a58588d3ccaf3f134806a999d1eb26b401bd19ca46a20954",
                "aa097f068f7b9f30a16c7cdc8e4cbebfd72d000f26da4d34888a12159e43c4d1"
            ]
        );
    }

    #[test]
    fn sub_keys_follow_from_dedup_alone() {
        let one = example();
        let shared = Keyring::generate(
            RepositoryId([2; 16]),
            Suite::None,
            one.dedup.clone(),
            &mut SeededRandom::new(2),
        );
        assert_ne!(one.writer, shared.writer);
        assert_ne!(one.seal_public, shared.seal_public);
        assert_eq!(
            one.chunk_id_key().unwrap().id(b"x"),
            shared.chunk_id_key().unwrap().id(b"x")
        );
        assert_eq!(one.file_chunker_secret(), shared.file_chunker_secret());
        let other = Keyring::generate(
            RepositoryId([2; 16]),
            Suite::None,
            None,
            &mut SeededRandom::new(3),
        );
        assert_ne!(
            one.chunk_id_key().unwrap().id(b"x"),
            other.chunk_id_key().unwrap().id(b"x")
        );
    }

    #[test]
    fn nothing_secret_is_shown() {
        let keyring = example();
        let shown = format!(
            "{keyring:?}{:?}{:?}",
            keyring.chunk_id_key(),
            keyring.row_digest_secret()
        );
        let writer = keyring.writer.as_ref().unwrap().expose();
        assert!(
            !shown.contains(
                &format!("{:?}", &writer[..4])
                    .trim_matches(['[', ']'])
                    .to_owned()
            ),
            "{shown}"
        );
        assert!(shown.contains("writer: Some(Secret32)"), "{shown}");
    }

    #[test]
    fn a_missing_secret_is_named() {
        let none = example().restricted(SecretSet::default());
        assert_eq!(none.secrets(), SecretSet::default());
        let error = none.chunk_id_key().unwrap_err();
        assert_eq!(
            error.to_string(),
            "this key can't name chunks: it does not hold the dedup secret"
        );
        assert_eq!(
            example().restricted(SecretSet::WRITE_ONLY).secrets(),
            SecretSet::WRITE_ONLY
        );
    }
}
