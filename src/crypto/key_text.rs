//! 256 secret bits as text: what stands in a key file, and on the paper of a recovery key.
//!
//! Layout: `holdfast-key-1:` or `holdfast-recovery-1:`, then 64 hex digits of the secret and 4 of its checksum, in groups of four with
//! dashes between. Reading ignores case, dashes and white space, and the prefix may be missing, because people type it. The checksum tells
//! a slip of the pen from a wrong key.
//!
//! Invariants: one wrong digit is always noticed (`every_slip_is_noticed`).

use zeroize::Zeroizing;

use super::secret::Secret32;
use super::wrap::KeyError;

const KEY_FILE_PREFIX: &str = "holdfast-key-1:";
const RECOVERY_PREFIX: &str = "holdfast-recovery-1:";
const TEXT_LEN_MAX: usize = 1024;
const SECRET_DIGITS: usize = 64;
const CHECK_DIGITS: usize = 4;
const CHECK_CONTEXT: &str = "holdfast 2026-11-20 key text: check digits";

/// The one line of a key file, with its line end.
pub fn key_file_text(secret: &Secret32) -> Zeroizing<String> {
    text(KEY_FILE_PREFIX, secret)
}

/// The line that is printed for a recovery key, with its line end.
pub fn recovery_text(secret: &Secret32) -> Zeroizing<String> {
    text(RECOVERY_PREFIX, secret)
}

/// Reads either.
pub fn parse_key_text(text: &[u8]) -> Result<Secret32, KeyError> {
    if text.len() > TEXT_LEN_MAX {
        return Err(KeyError::Text("too long"));
    }
    let text = std::str::from_utf8(text)
        .map_err(|_invalid| KeyError::Text("not text"))?
        .trim();
    let digits = [KEY_FILE_PREFIX, RECOVERY_PREFIX]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    let mut hex = Zeroizing::new(Vec::with_capacity(TEXT_LEN_MAX));
    for c in digits
        .bytes()
        .filter(|c| *c != b'-' && !c.is_ascii_whitespace())
    {
        if !c.is_ascii_hexdigit() {
            return Err(KeyError::Text("a character that is not a hex digit"));
        }
        hex.push(c.to_ascii_lowercase());
    }
    let Some((secret, check)) = hex
        .split_at_checked(SECRET_DIGITS)
        .filter(|(_, check)| check.len() == CHECK_DIGITS)
    else {
        return Err(KeyError::Text("it does not have 68 digits"));
    };
    let secret = blake3::Hash::from_hex(secret).map_err(|_invalid| KeyError::Text("not hex"))?;
    let secret = Secret32::take(&mut secret.into());
    match check_digits(&secret).as_bytes() == check {
        true => Ok(secret),
        false => Err(KeyError::Text(
            "its check digits differ, so a digit is wrong",
        )),
    }
}

fn text(prefix: &str, secret: &Secret32) -> Zeroizing<String> {
    let check = check_digits(secret);
    let nibbles = secret
        .expose()
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf]);
    let secret_digits = nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16));
    let mut out = Zeroizing::new(String::with_capacity(128));
    out.push_str(prefix);
    for (position, digit) in secret_digits.chain(check.chars()).enumerate() {
        if position > 0 && position % 4 == 0 {
            out.push('-');
        }
        out.push(digit);
    }
    out.push('\n');
    out
}

fn check_digits(secret: &Secret32) -> String {
    let hash = blake3::Hash::from_bytes(blake3::derive_key(CHECK_CONTEXT, secret.expose()));
    hash.to_hex().chars().take(CHECK_DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), KeyError>) {
        let found = parse_key_text(text.as_bytes());
        assert_eq!(
            found.map(|secret| assert_eq!(secret.expose(), &[0xa5; 32])),
            expected,
            "{text}"
        );
    }

    #[test]
    fn both_forms_are_read_as_people_type_them() {
        let secret = Secret32::take(&mut [0xa5; 32]);
        let file = key_file_text(&secret);
        let paper = recovery_text(&secret);
        assert!(file.starts_with("holdfast-key-1:a5a5-a5a5-") && file.ends_with('\n'));
        check(&file, Ok(()));
        check(&paper, Ok(()));
        let digits = paper.trim().strip_prefix(RECOVERY_PREFIX).unwrap();
        check(digits, Ok(()));
        check(&digits.to_uppercase(), Ok(()));
        check(&digits.replace('-', " "), Ok(()));
        check(&digits.replace('-', ""), Ok(()));
        check(
            &digits[..digits.len() - 1],
            Err(KeyError::Text("it does not have 68 digits")),
        );
        check(
            "correct horse",
            Err(KeyError::Text("a character that is not a hex digit")),
        );
        check("", Err(KeyError::Text("it does not have 68 digits")));
    }

    #[test]
    fn every_slip_is_noticed() {
        let paper = recovery_text(&Secret32::take(&mut [0xa5; 32]));
        let digits = paper.trim().strip_prefix(RECOVERY_PREFIX).unwrap();
        let mut noticed = 0;
        for (position, right) in digits.char_indices().filter(|(_, c)| *c != '-') {
            for wrong in "0123456789abcdef".chars().filter(|c| *c != right) {
                let mut slipped = digits.to_owned();
                slipped.replace_range(position..=position, &wrong.to_string());
                noticed += u32::from(parse_key_text(slipped.as_bytes()).is_err());
            }
        }
        assert_eq!(noticed, 68 * 15);
    }
}
