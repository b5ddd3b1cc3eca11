//! Keys and sealing: how secrets are made, wrapped and derived, and how bytes become sealed objects and come back.
//!
//! It does no I/O, and it doesn't know what is inside an object. The bytes themselves (headers, key objects, the `format` object) are
//! specified in `format`.
//!
//! A repository has three independent secrets. *dedup*: chunk ids, chunkers, row digests. *writer*: index, log and lists. *seal*: an X25519
//! key pair; packs and snapshot records are wrapped to its public half, so that a host without the private half can back up and can't read.
//!
//! | part | holds |
//! |---|---|
//! | [`random`] | where random bytes come from |
//! | [`secret`] | 32 secret bytes that are zeroed and never shown |
//! | [`kdf`] | every derivation and its context string, argon2id |
//! | [`keys`] | the keyring and its sub-keys |
//! | [`aead`] | the key of one object; frames |
//! | [`envelope`] | HPKE: a data key wrapped to a public key |
//! | [`seal`] | headers with keys, whole objects, segments |
//! | [`wrap`] | key objects: passphrases, key files, recovery keys |
//! | [`process`] | no core dumps |
//! | [`content`] | the plain digest of contents, which needs no key |
//!
//! Invariants:
//! 1. Two objects never share a key: the header's 384 random bits go into it (`equal_plaintexts_give_different_objects`).
//! 2. Nothing of an object can be changed, moved to another repository, kind or position, or cut off without an error
//!    (`every_flip_is_an_error`, `every_truncation_is_an_error`, `swaps_are_errors`).
//! 3. The bytes of format 1 never drift (`known_answers` in [`kdf`], [`keys`] and [`seal`]).
//! 4. A secret is zeroed when it is dropped, and `Debug` shows none (`nothing_secret_is_shown`).
//!
//! Threads: everything here is `Send + Sync` and takes no lock. [`Random`] is passed as `&mut` and belongs to one thread.

pub mod aead;
pub mod content;
pub mod envelope;
pub mod kdf;
pub mod keys;
pub mod process;
pub mod random;
pub mod seal;
pub mod secret;
pub mod wrap;

pub use aead::{ObjectKey, TAG_LEN};
pub use content::ContentHasher;
pub use keys::{ChunkIdKey, Keyring, MissingSecret, RowDigestSecret};
pub use process::disable_core_dumps;
pub use random::{Random, SeededRandom, SystemRandom};
pub use seal::{SEGMENT_LEN, SealError, SegmentLayout, SegmentReader, SegmentWriter};
pub use secret::Secret32;
pub use wrap::{Credential, KeyError, NewKey};
