//! Key objects, framed and plain, and what opening one does with a key that is not the one.
#![no_main]

use holdfast::crypto::{Credential, Keyring, Secret32};
use holdfast::format::framed;
use holdfast::format::header::Suite;
use holdfast::format::id::{ObjectHash, RepositoryId};
use holdfast::format::key::{KEY_MAGIC, KEY_VERSION, KeyObject};
use holdfast::format::repository::RepositoryFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    if let Some(bytes) = framed::frame(KEY_MAGIC, KEY_VERSION, data) {
        check(&bytes);
    }
});

fn check(bytes: &[u8]) {
    let Ok(object) = KeyObject::decode(bytes) else {
        return;
    };
    let secret = Secret32::take(&mut [7; 32]);
    for suite in [Suite::None, Suite::Aes256Gcm] {
        let format = RepositoryFormat::new(RepositoryId([1; 16]), 0, suite);
        for credential in [Credential::None, Credential::Secret(&secret)] {
            drop(Keyring::unwrap(
                &object,
                credential,
                &format,
                &ObjectHash::default(),
            ));
        }
    }
}
