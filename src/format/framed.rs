//! The frame around plain objects (`format`, key objects): magic, version, length, body, checksum.
//!
//! The checksum finds accidents, not forgers; it needs no key, so that damage is never taken for a wrong passphrase.
//!
//! Layout, little-endian: offset 0 magic, 8 bytes · 8 version, u16 · 10 length of the body, u32 · 14 body · then BLAKE3 of everything
//! before it, 32 bytes. Later versions keep this frame, so that a damaged version number is not taken for a newer version.
//!
//! Invariants: every single-bit error is damage, never a stranger or a newer version (`every_flip_is_damage`).

use thiserror::Error;

const MAGIC_LEN: usize = 8;
const CHECKSUM_LEN: usize = 32;
/// More than any plain object needs.
const BODY_LEN_MAX: usize = 1 << 20;

/// Why a plain object can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FramedError {
    /// Something else stands there.
    #[error("not a holdfast repository")]
    NotHoldfast,
    /// Intact, and of a later version than this program reads.
    #[error("repository has format version {found}, this program reads up to {known}")]
    Newer {
        /// The version of the object.
        found: u16,
        /// The newest that we know.
        known: u16,
    },
    /// Damaged; there is a copy.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

/// Frames `body`; `None` if it is longer than 1 MiB.
pub fn frame(magic: [u8; MAGIC_LEN], version: u16, body: &[u8]) -> Option<Vec<u8>> {
    if body.len() > BODY_LEN_MAX {
        return None;
    }
    let body_len = u32::try_from(body.len()).ok()?;
    let mut out = Vec::new();
    out.extend_from_slice(&magic);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&body_len.to_le_bytes());
    out.extend_from_slice(body);
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    Some(out)
}

/// Returns the version, 1…`known`, and the body.
pub fn unframe(
    magic: [u8; MAGIC_LEN],
    known: u16,
    bytes: &[u8],
) -> Result<(u16, &[u8]), FramedError> {
    let Some((found_magic, after_magic)) = bytes.split_first_chunk::<MAGIC_LEN>() else {
        let begun = magic.starts_with(bytes);
        return Err(if begun {
            FramedError::Damaged("cut short")
        } else {
            FramedError::NotHoldfast
        });
    };
    let Some((content, checksum)) = after_magic.split_last_chunk::<CHECKSUM_LEN>() else {
        let ours = *found_magic == magic;
        return Err(if ours {
            FramedError::Damaged("cut short")
        } else {
            FramedError::NotHoldfast
        });
    };
    if *found_magic != magic {
        // With our magic in its place the checksum would be right: only the magic is damaged.
        return Err(match checksum_of(magic, content) == *checksum {
            true => FramedError::Damaged("magic"),
            false => FramedError::NotHoldfast,
        });
    }
    if checksum_of(magic, content) != *checksum {
        return Err(FramedError::Damaged("the checksum differs"));
    }
    let (version, rest) = content
        .split_first_chunk::<2>()
        .ok_or(FramedError::Damaged("cut short"))?;
    let version = u16::from_le_bytes(*version);
    if version > known {
        return Err(FramedError::Newer {
            found: version,
            known,
        });
    }
    if version == 0 {
        return Err(FramedError::Damaged("version"));
    }
    let (body_len, body) = rest
        .split_first_chunk::<4>()
        .ok_or(FramedError::Damaged("cut short"))?;
    let exact = usize::try_from(u32::from_le_bytes(*body_len)).is_ok_and(|len| len == body.len());
    if !exact || body.len() > BODY_LEN_MAX {
        return Err(FramedError::Damaged("length"));
    }
    Ok((version, body))
}

/// Decodes `body`, which must be exactly one CBOR item.
pub(crate) fn decode_exact<'b, T: minicbor::Decode<'b, ()>>(
    body: &'b [u8],
) -> Result<T, FramedError> {
    let mut decoder = minicbor::Decoder::new(body);
    match decoder.decode() {
        Ok(value) if decoder.position() == body.len() => Ok(value),
        Ok(_) => Err(FramedError::Damaged("more than one item")),
        Err(_) => Err(FramedError::Damaged("fields")),
    }
}

fn checksum_of(magic: [u8; MAGIC_LEN], content: &[u8]) -> blake3::Hash {
    blake3::Hasher::new()
        .update(&magic)
        .update(content)
        .finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [u8; 8] = *b"HFTESTS!";

    #[test]
    fn every_flip_is_damage() {
        let mut bytes = frame(OURS, 1, b"some body").unwrap();
        assert_eq!(unframe(OURS, 1, &bytes), Ok((1, &b"some body"[..])));
        for position in 0..bytes.len() {
            for bit in 0..8 {
                bytes[position] ^= 1 << bit;
                assert!(
                    matches!(unframe(OURS, 1, &bytes), Err(FramedError::Damaged(_))),
                    "{position}.{bit}"
                );
                bytes[position] ^= 1 << bit;
            }
        }
        for len in 0..bytes.len() {
            assert!(
                matches!(
                    unframe(OURS, 1, &bytes[..len]),
                    Err(FramedError::Damaged(_))
                ),
                "{len}"
            );
        }
        bytes.push(0);
        assert!(matches!(
            unframe(OURS, 1, &bytes),
            Err(FramedError::Damaged(_))
        ));
    }

    #[test]
    fn strangers_and_newer_versions_are_named() {
        assert_eq!(
            unframe(OURS, 1, b"#!/bin/sh"),
            Err(FramedError::NotHoldfast)
        );
        assert_eq!(unframe(OURS, 1, b"no"), Err(FramedError::NotHoldfast));
        assert_eq!(unframe(OURS, 1, &[7; 300]), Err(FramedError::NotHoldfast));
        let bytes = frame(OURS, 9, b"").unwrap();
        assert_eq!(
            unframe(OURS, 1, &bytes),
            Err(FramedError::Newer { found: 9, known: 1 })
        );
    }
}
