//! The text forms of a repository's keys: what stands in a key file, and what people write down.
//!
//! A **key file** is text: lines that start with `#` and blank lines are skipped; one line is
//! `holdfast-key-1:` and 64 hexadecimal digits, the 256 bits of the key.
//!
//! A **recovery key** is what people write down: 56 signs of Crockford's base 32 in 14 groups of four, joined by
//! hyphens. They hold the 32 bytes of the key and 3 bytes of a BLAKE3 checksum over it, so that a typing error is told
//! from a wrong key. Upper and lower case, `O` for `0`, `I` and `L` for `1`, and any spaces and hyphens are accepted.
//!
//! Does no I/O. Invariant: a wrong sign in a recovery key is found (test `a_typing_error_is_found`).

use zeroize::Zeroizing;

use super::secrets::SecretError;

const KEY_FILE_PREFIX: &str = "holdfast-key-1:";
const RECOVERY_CONTEXT: &str = "holdfast recovery key checksum 1";
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHECKSUM_LEN: usize = 3;
const RECOVERY_SIGNS: usize = 56;
const GROUP_SIGNS: usize = 4;

/// Returns the text of a key file.
pub fn format_key_file(key: &[u8; 32]) -> Zeroizing<String> {
    let head = "# A key of a holdfast repository. Whoever has this file can open the repository.\n# Keep a copy away from the backup itself.\n";
    // The capacity covers the whole text, so that no shorter copy is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(
        head.len() + KEY_FILE_PREFIX.len() + 65,
    ));
    text.push_str(head);
    text.push_str(KEY_FILE_PREFIX);
    for byte in key {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    text.push('\n');
    text
}

/// Parses the text of a key file.
pub fn parse_key_file(bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, &'static str> {
    let mut found = None;
    for line in bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let digits = line.strip_prefix(KEY_FILE_PREFIX.as_bytes());
        let digits = digits.ok_or("a line that does not start with holdfast-key-1:")?;
        if found.replace(parse_hex(digits)?).is_some() {
            return Err("more than one key in it");
        }
    }
    found.ok_or("no line holdfast-key-1: in it")
}

fn parse_hex(digits: &[u8]) -> Result<Zeroizing<[u8; 32]>, &'static str> {
    if digits.len() != 64 {
        return Err("the key does not have 64 hexadecimal digits");
    }
    let mut key = Zeroizing::new([0; 32]);
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = char::from(*digit)
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok());
            *byte =
                *byte << 4 | value.ok_or("the key holds a sign that is no hexadecimal digit")?;
        }
    }
    Ok(key)
}

/// Returns the form of a key that people write down.
pub fn format_recovery_key(key: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(RECOVERY_SIGNS * 2));
    let mut bytes = Zeroizing::new([0; 32 + CHECKSUM_LEN]);
    bytes[..32].copy_from_slice(key);
    bytes[32..].copy_from_slice(&checksum(key));
    let (mut bits, mut bit_count, mut signs) = (0_u32, 0, 0);
    for byte in bytes.iter() {
        bits = bits << 8 | u32::from(*byte);
        bit_count += 8;
        while bit_count >= 5 {
            bit_count -= 5;
            if signs > 0 && signs % GROUP_SIGNS == 0 {
                text.push('-');
            }
            let sign = bits >> bit_count & 31;
            text.push(char::from(
                CROCKFORD[usize::try_from(sign).expect("five bits fit")],
            ));
            signs += 1;
        }
        bits &= (1 << bit_count) - 1;
    }
    text
}

/// Parses what somebody typed as a recovery key.
pub fn parse_recovery_key(typed: &str) -> Result<Zeroizing<[u8; 32]>, SecretError> {
    let mut bytes = Zeroizing::new([0_u8; 32 + CHECKSUM_LEN]);
    let (mut bits, mut bit_count, mut signs, mut filled) = (0_u32, 0, 0, 0);
    for c in typed.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        let value = crockford_value(c).ok_or(SecretError::RecoveryKey(
            "it holds a sign that is never used in one",
        ))?;
        signs += 1;
        bits = (bits << 5 | value) & 0xfff;
        bit_count += 5;
        if bit_count >= 8 {
            bit_count -= 8;
            let byte = u8::try_from(bits >> bit_count & 0xff).expect("eight bits fit");
            if let Some(slot) = bytes.get_mut(filled) {
                *slot = byte;
            }
            filled += 1;
        }
    }
    if signs != RECOVERY_SIGNS {
        return Err(SecretError::RecoveryKey(
            "it does not have 14 groups of 4 signs",
        ));
    }
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(&bytes[..32]);
    if checksum(&key) != bytes[32..] {
        return Err(SecretError::RecoveryKey(
            "its checksum does not fit; there is a typing error in it",
        ));
    }
    Ok(key)
}

fn crockford_value(c: char) -> Option<u32> {
    let c = match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        c => c,
    };
    let position = CROCKFORD.iter().position(|sign| char::from(*sign) == c)?;
    u32::try_from(position).ok()
}

fn checksum(key: &[u8; 32]) -> [u8; CHECKSUM_LEN] {
    let hash = Zeroizing::new(blake3::derive_key(RECOVERY_CONTEXT, key));
    [hash[0], hash[1], hash[2]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn key_files_that_are_none() {
        let key = format_key_file(&[0xab; 32]);
        let line = key.lines().last().unwrap();
        assert_eq!(line, format!("holdfast-key-1:{}", "ab".repeat(32)));
        let check = |text: &str, good: bool| {
            assert_eq!(parse_key_file(text.as_bytes()).is_ok(), good, "{text}")
        };
        check(line, true);
        check(
            &format!(
                "\n# x\r\n  {}\r\n\n",
                line.to_uppercase().replace("HOLDFAST-KEY", "holdfast-key")
            ),
            true,
        );
        check(&format!("{line}\n{line}\n"), false);
        check(&format!("{line}0"), false);
        check(&line.replace("ab", "xy"), false);
        check(&line.replace("key-1", "key-2"), false);
        check("", false);
        check("hunter2", false);
    }

    #[test]
    fn a_recovery_key_looks_like_this() {
        let text = format_recovery_key(&[0; 32]);
        assert_eq!(text.len(), RECOVERY_SIGNS + 13);
        assert!(text.starts_with("0000-0000-"));
        assert!(parse_recovery_key("").is_err());
        assert!(parse_recovery_key(&format!("{}0", *text)).is_err());
    }

    proptest! {
        #[test]
        fn recovery_keys_come_back(key: [u8; 32]) {
            let text = format_recovery_key(&key);
            prop_assert_eq!(*parse_recovery_key(&text).unwrap(), key);
            let sloppy = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
            prop_assert_eq!(*parse_recovery_key(&sloppy).unwrap(), key);
            prop_assert_eq!(*parse_key_file(format_key_file(&key).as_bytes()).unwrap(), key);
        }

        #[test]
        fn a_typing_error_is_found(key: [u8; 32], at in 0..RECOVERY_SIGNS, other in 1..32_usize) {
            let text: String = format_recovery_key(&key).replace('-', "");
            let mut signs: Vec<u8> = text.into_bytes();
            let value = CROCKFORD.iter().position(|sign| *sign == signs[at]).unwrap();
            signs[at] = CROCKFORD[(value + other) % 32];
            // Three bytes of checksum miss one in sixteen million.
            prop_assert!(parse_recovery_key(str::from_utf8(&signs).unwrap()).is_err());
        }
    }
}
