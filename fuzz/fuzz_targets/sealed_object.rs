//! Whole sealed objects with a fixed keyring: the first byte says kind and suite, and whether the rest is an object or the plaintext of
//! one, of which then a byte is changed.
#![no_main]

use holdfast::crypto::{Keyring, SeededRandom};
use holdfast::format::header::{SealedKind, Suite};
use holdfast::format::id::RepositoryId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(([choice, at_low, at_high], rest)) = data.split_first_chunk::<3>() else {
        return;
    };
    let suite = if choice & 1 == 0 {
        Suite::None
    } else {
        Suite::Aes256Gcm
    };
    let kind = SealedKind::ALL[usize::from(choice >> 1 & 15) % SealedKind::ALL.len()];
    let repository = RepositoryId([1; 16]);
    let keyring = Keyring::generate(repository, suite, None, &mut SeededRandom::new(1));
    if choice & 0x80 == 0 {
        // 2^-128 or less that it opens by chance.
        assert!(keyring.open_object(kind, rest).is_err());
        return;
    }
    let mut object = keyring
        .seal_object(kind, 7, rest, &mut SeededRandom::new(2))
        .expect("anything can be sealed");
    let (header, plain) = keyring
        .open_object(kind, &object)
        .expect("what was sealed opens");
    assert_eq!((header.session, &plain[..]), (7, rest));
    let position = usize::from(u16::from_le_bytes([*at_low, *at_high])) % object.len();
    object[position] ^= 1 << (choice >> 5 & 3);
    assert!(keyring.open_object(kind, &object).is_err());
});
