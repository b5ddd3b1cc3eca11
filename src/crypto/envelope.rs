//! HPKE (RFC 9180, base mode: X25519, HKDF-SHA256, AES-256-GCM): a data key wrapped to the seal public key.
//!
//! `info` = repository id, kind, salt; associated data = the header before the commitment.

use std::convert::Infallible;

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use super::random::Random;
use super::secret::Secret32;
use crate::format::header::{BOUND_LEN, Header, WRAP_LEN};
use crate::format::id::RepositoryId;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type Encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey;

const ENCAPSULATED_LEN: usize = 32;

/// A fresh key pair: private, public.
pub(super) fn generate_pair(random: &mut dyn Random) -> (Secret32, [u8; 32]) {
    let seed = Secret32::generate(random);
    let (private, public) = X25519HkdfSha256::derive_keypair(seed.expose());
    let private = Secret32::filled(|out| private.write_exact(out));
    let mut public_bytes = [0; 32];
    public.write_exact(&mut public_bytes);
    (private, public_bytes)
}

/// The public half of a private key; `None` if it is none.
pub(super) fn public_of(private: &Secret32) -> Option<[u8; 32]> {
    let private = PrivateKey::from_bytes(private.expose()).ok()?;
    let mut public = [0; 32];
    X25519HkdfSha256::sk_to_pk(&private).write_exact(&mut public);
    Some(public)
}

/// Wraps `data_key` for `public`; `None` if that is not a usable public key.
pub(super) fn wrap(
    public: &[u8; 32],
    repository: &RepositoryId,
    header: &Header,
    data_key: &Secret32,
    random: &mut dyn Random,
) -> Option<[u8; WRAP_LEN]> {
    let public = PublicKey::from_bytes(public).ok()?;
    let (encapsulated, sealed) =
        hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            &info(repository, header),
            data_key.expose(),
            &header.bound(),
            &mut Adapter(random),
        )
        .ok()?;
    let mut out = [0; WRAP_LEN];
    let (head, tail) = out.split_at_mut(ENCAPSULATED_LEN);
    encapsulated.write_exact(head);
    tail.copy_from_slice(&sealed);
    Some(out)
}

/// Opens what [`wrap`] made; `None` if anything differs.
pub(super) fn unwrap(
    private: &Secret32,
    repository: &RepositoryId,
    header: &Header,
    bound: &[u8; BOUND_LEN],
    wrapped: &[u8; WRAP_LEN],
) -> Option<Secret32> {
    let private = PrivateKey::from_bytes(private.expose()).ok()?;
    let (encapsulated, sealed) = wrapped.split_at(ENCAPSULATED_LEN);
    let encapsulated = Encapsulated::from_bytes(encapsulated).ok()?;
    let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        &info(repository, header),
        sealed,
        bound,
    );
    let opened = Zeroizing::new(opened.ok()?);
    let bytes: &[u8; 32] = opened.as_slice().try_into().ok()?;
    Some(Secret32::filled(|out| out.copy_from_slice(bytes)))
}

fn info(repository: &RepositoryId, header: &Header) -> Vec<u8> {
    let mut info = Vec::with_capacity(16 + 1 + 32);
    info.extend_from_slice(repository.as_bytes());
    info.push(header.kind.code());
    info.extend_from_slice(&header.salt);
    info
}

/// Our source of random bytes as the one that `hpke` wants.
struct Adapter<'a>(&'a mut dyn Random);

impl TryRng for Adapter<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for Adapter<'_> {}
