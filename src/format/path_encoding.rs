//! Names of databases, schemas and tables as names in the tree.
//!
//! An identifier may hold any byte but NUL; a name in the tree may not hold `/` or NUL and is not `.` or `..`. So `%`, `/` and NUL
//! are written as `%25`, `%2F` and `%00`, and the two special names as `%2E` and `%2E%2E`. Everything else stays as it is.
//!
//! Invariants: what is encoded is a valid name and decodes to the same bytes (`every_name_comes_back`).

use std::borrow::Cow;

/// Writes an identifier as a name in the tree.
#[must_use]
pub fn encode_name(identifier: &[u8]) -> Vec<u8> {
    match identifier {
        b"." => return b"%2E".to_vec(),
        b".." => return b"%2E%2E".to_vec(),
        _ => {}
    }
    let mut name = Vec::with_capacity(identifier.len());
    for byte in identifier {
        match byte {
            b'%' => name.extend_from_slice(b"%25"),
            b'/' => name.extend_from_slice(b"%2F"),
            0 => name.extend_from_slice(b"%00"),
            byte => name.push(*byte),
        }
    }
    name
}

/// Reads a name in the tree as an identifier; `None` where a `%` is not followed by two hex digits.
#[must_use]
pub fn decode_name(name: &[u8]) -> Option<Vec<u8>> {
    let mut identifier = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            identifier.push(*byte);
            continue;
        }
        let digits = [*bytes.next()?, *bytes.next()?];
        let text = std::str::from_utf8(&digits)
            .ok()
            .filter(|text| !text.starts_with('+'))?;
        identifier.push(u8::from_str_radix(text, 16).ok()?);
    }
    Some(identifier)
}

/// Shows a name for people.
#[must_use]
pub fn shown(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::is_valid_name;

    #[test]
    fn every_name_comes_back() {
        let check = |identifier: &[u8], expected: &[u8]| {
            let name = encode_name(identifier);
            assert_eq!(name, expected);
            assert!(is_valid_name(&name));
            assert_eq!(decode_name(&name).as_deref(), Some(identifier));
        };
        check(b"QSR", b"QSR");
        check(b".", b"%2E");
        check(b"..", b"%2E%2E");
        check(b"...", b"...");
        check(b"a/b%c", b"a%2Fb%25c");
        check(b"%2E", b"%252E");
        check(b"\xff\xfe ", b"\xff\xfe ");
        check("größe".as_bytes(), "größe".as_bytes());
    }

    #[test]
    fn broken_names_have_no_meaning() {
        for name in [&b"%"[..], b"%2", b"%zz", b"%+1"] {
            assert_eq!(decode_name(name), None, "{name:?}");
        }
    }
}
