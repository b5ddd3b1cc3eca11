//! Identifiers: repositories, chunks, objects.
//!
//! Layout: fixed-size byte strings, in CBOR as definite byte strings; shown as lower-case hex.
//!
//! Invariants: an id of the wrong length never decodes (`ids_decode_only_their_length`).

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Reads exactly `LEN` bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Parses lower- or upper-case hex of exactly `2 * LEN` digits.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; $len];
                parse_hex(text.as_bytes(), &mut bytes)?;
                Some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                Self::from_slice(d.bytes()?)
                    .ok_or_else(|| decode::Error::message(concat!("length of a ", stringify!($name))))
            }
        }
    };
}

id!(
    /// Names a repository for ever; 128 random bits.
    RepositoryId,
    16
);
id!(
    /// Keyed BLAKE3 of a chunk's plaintext, under the dedup secret.
    ChunkId,
    32
);
id!(
    /// BLAKE3 of all bytes of a stored object: its name.
    ObjectHash,
    32
);
id!(
    /// Plain BLAKE3 of a whole content (`b3`).
    ContentDigest,
    32
);
id!(
    /// 128 random bits that make every object, and so every name, unique.
    Nonce,
    16
);

impl ObjectHash {
    /// The name of an object with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

fn parse_hex(text: &[u8], out: &mut [u8]) -> Option<()> {
    if text.len() != out.len().checked_mul(2)? {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(())
}

fn digit(c: u8) -> Option<u8> {
    char::from(c)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip() {
        let id = ChunkId([0xab; 32]);
        assert_eq!(ChunkId::from_hex(&id.to_string()), Some(id));
        assert_eq!(ChunkId::from_hex("zz"), None);
        assert_eq!(ObjectHash([0x12; 32]).short(), "121212121212");
    }

    #[test]
    fn ids_decode_only_their_length() {
        let bytes = minicbor::to_vec(minicbor::bytes::ByteVec::from(vec![1; 31])).unwrap();
        assert!(minicbor::decode::<ChunkId>(&bytes).is_err());
        let bytes = minicbor::to_vec(ChunkId([7; 32])).unwrap();
        assert_eq!(
            minicbor::decode::<ChunkId>(&bytes).unwrap(),
            ChunkId([7; 32])
        );
    }
}
