//! Reads sections of a TOML document and collects everything that is wrong with them.
//!
//! serde stops at the first error and knows no positions of missing keys; here a site file is read in one go and each
//! error carries its place and the nearest right key. Getters note the key that they are asked for, so that the list of
//! known keys is the code itself and `finish` can name what is left over.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong, at a byte offset of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) message: String,
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults(pub(super) Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, offset: usize, message: impl Into<String>) {
        self.0.push(Fault {
            offset,
            message: message.into(),
        });
    }
}

/// One table of the document, as it is being read.
pub(super) struct Section<'a, 'i, 'f> {
    /// How the section is written, for messages: `[[share]]`.
    title: &'static str,
    table: &'a DeTable<'i>,
    /// Where the section starts, for what is missing in it.
    pub(super) offset: usize,
    known: BTreeSet<&'static str>,
    faults: &'f mut Faults,
}

impl<'a, 'i, 'f> Section<'a, 'i, 'f> {
    /// How the section is written.
    pub(super) fn title(&self) -> &'static str {
        self.title
    }

    pub(super) fn new(
        title: &'static str,
        table: &'a DeTable<'i>,
        offset: usize,
        faults: &'f mut Faults,
    ) -> Self {
        Self {
            title,
            table,
            offset,
            known: BTreeSet::new(),
            faults,
        }
    }

    pub(super) fn fault(&mut self, offset: usize, message: impl Into<String>) {
        self.faults.add(offset, message);
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.known.insert(key);
        self.table.get(key)
    }

    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'i>>, expected: &str) {
        let found = type_name(value.get_ref());
        self.fault(
            value.span().start,
            format!("{key} in {} must be {expected}, not {found}", self.title),
        );
    }

    /// Where the value of a key stands; the section's place if it is absent.
    pub(super) fn offset_of(&self, key: &str) -> usize {
        self.table
            .get(key)
            .map_or(self.offset, |value| value.span().start)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.get(key) else {
            return default;
        };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(key, value, "true or false");
            default
        })
    }

    /// Returns a whole number within the limits given, both included.
    pub(super) fn integer(&mut self, key: &'static str, min: u32, max: u32) -> Option<u32> {
        let value = self.get(key)?;
        let Some(digits) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        match i64::from_str_radix(digits.as_str(), digits.radix())
            .ok()
            .and_then(|n| u32::try_from(n).ok())
        {
            Some(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                self.fault(
                    value.span().start,
                    format!("{key} in {} must be from {min} to {max}", self.title),
                );
                None
            }
        }
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<String> {
        let value = self.get(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                self.wrong_type(key, value, "a string");
                None
            }
        }
    }

    pub(super) fn required_string(&mut self, key: &'static str) -> Option<String> {
        self.require(key);
        self.string(key)
    }

    pub(super) fn require(&mut self, key: &'static str) {
        if !self.has(key) {
            self.fault(self.offset, format!("{} needs {key} = …", self.title));
        }
    }

    /// Returns the strings of an array with their offsets.
    pub(super) fn strings(&mut self, key: &'static str) -> Vec<(String, usize)> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings");
            return Vec::new();
        };
        let mut strings = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_str() {
                Some(text) => strings.push((text.to_owned(), item.span().start)),
                None => self.wrong_type(key, item, "a list of strings"),
            }
        }
        strings
    }

    /// Returns a string, number or truth value as text.
    pub(super) fn scalar(&mut self, key: &'static str) -> Option<String> {
        let value = self.get(key)?;
        let text = scalar_text(value.get_ref());
        if text.is_none() {
            self.wrong_type(key, value, "a string or a number");
        }
        text
    }

    /// Returns the strings, numbers and truth values of an array as text.
    pub(super) fn scalars(&mut self, key: &'static str) -> Vec<String> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of values");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in array.iter() {
            match scalar_text(item.get_ref()) {
                Some(text) => texts.push(text),
                None => self.wrong_type(key, item, "a list of values"),
            }
        }
        texts
    }

    /// Reads a table below this one, given in place or as a section of its own.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        title: &'static str,
        read: impl FnOnce(Section<'a, 'i, '_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table");
            return None;
        };
        read(Section::new(title, table, value.span().start, self.faults))
    }

    /// Reads every table of an array.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        title: &'static str,
        mut read: impl FnMut(Section<'a, 'i, '_>) -> Option<T>,
    ) -> Vec<T> {
        let not_text = |_: &str, offset, faults: &mut Faults| {
            faults.add(offset, format!("{key} holds a text where a table belongs"));
            None
        };
        self.each(key, "a list of tables", not_text, |mut section| {
            section.title = title;
            read(section)
        })
    }

    /// Reads every item of an array, which is a text or a table.
    pub(super) fn each<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        mut text: impl FnMut(&str, usize, &mut Faults) -> Option<T>,
        mut table: impl FnMut(Section<'a, 'i, '_>) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, expected);
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in array.iter() {
            let offset = item.span().start;
            match item.get_ref() {
                DeValue::String(string) => found.extend(text(string, offset, self.faults)),
                DeValue::Table(inner) => {
                    found.extend(table(Section::new(self.title, inner, offset, self.faults)));
                }
                _ => self.wrong_type(key, item, expected),
            }
        }
        found
    }

    /// Returns the section's name, which becomes one name in the snapshot's tree.
    pub(super) fn component_name(&mut self) -> String {
        let Some(name) = self.required_string("name") else {
            return String::new();
        };
        let offset = self.offset_of("name");
        if let Err(reason) = check_name(&name) {
            self.fault(offset, format!("name in {} {reason}", self.title));
        }
        name
    }

    pub(super) fn absolute_path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.string(key)?;
        let offset = self.offset_of(key);
        self.check_path(key, &text, offset)
            .then(|| PathBuf::from(text))
    }

    pub(super) fn required_path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.require(key);
        self.absolute_path(key)
    }

    /// Says whether a path is one that can be used as it stands, and reports why if it can't.
    pub(super) fn check_path(&mut self, key: &str, text: &str, offset: usize) -> bool {
        match check_absolute(Path::new(text)) {
            Ok(()) => true,
            Err(reason) => {
                self.fault(
                    offset,
                    format!("{key} in {}: {text:?} {reason}", self.title),
                );
                false
            }
        }
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let text = self.string(key)?;
        let parsed = parse_duration(&text);
        if parsed.is_none() {
            let offset = self.offset_of(key);
            self.fault(
                offset,
                format!(
                    "{key} in {}: {text:?} is no duration such as \"30d\", \"12h\" or \"90m\"",
                    self.title
                ),
            );
        }
        parsed
    }

    /// Returns a count of bytes, written as a number or as text with a unit.
    pub(super) fn bytes(&mut self, key: &'static str) -> Option<u64> {
        let value = self.get(key)?;
        let parsed = match value.get_ref() {
            DeValue::String(text) => parse_bytes(text),
            DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
            _ => None,
        };
        if parsed.is_none() {
            self.fault(
                value.span().start,
                format!("{key} in {} must be a size such as \"256 MiB\"", self.title),
            );
        }
        parsed
    }

    /// Returns the value that belongs to one of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.string(key)?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let offset = self.offset_of(key);
            let words: Vec<String> = choices
                .iter()
                .map(|(word, _)| format!("{word:?}"))
                .collect();
            self.fault(
                offset,
                format!(
                    "{key} in {} must be one of {}, not {text:?}",
                    self.title,
                    words.join(", ")
                ),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// Reports a key that cannot be there, with a reason that says what to do instead.
    pub(super) fn refuse(&mut self, key: &'static str, reason: &str) {
        self.known.insert(key);
        if let Some((key, _)) = self.table.get_key_value(key) {
            let message = format!("{} in {}: {reason}", key.get_ref(), self.title);
            self.faults.add(key.span().start, message);
        }
        self.known.remove(key);
    }

    /// Reports every key that no getter asked for; `refused` ones were reported already.
    pub(super) fn finish(self, refused: &[&str]) {
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if self.known.contains(name) || refused.contains(&name) {
                continue;
            }
            let hint = nearest_hint(name, self.known.iter().copied());
            self.faults.add(
                key.span().start,
                format!("unknown key {name:?} in {}{hint}", self.title),
            );
        }
    }
}

/// Returns `; did you mean "…"?` or, where nothing is near, the list of what is possible.
pub(super) fn nearest_hint<'k>(name: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    let lower = name.to_lowercase().replace('_', "-");
    let best = known
        .clone()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, candidate), candidate))
        .min();
    match best {
        Some((distance, candidate)) if distance <= 1 + candidate.chars().count() / 3 => {
            format!("; did you mean {candidate:?}?")
        }
        _ => {
            let all: Vec<&str> = known.collect();
            format!("; known here: {}", all.join(", "))
        }
    }
}

/// The text of a value that is no list, table or date.
fn scalar_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
            .ok()
            .map(|number| number.to_string()),
        DeValue::Float(digits) => Some(digits.as_str().to_owned()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("is empty"),
        "." | ".." => Err("must not be \".\" or \"..\""),
        _ if name.contains('/') => Err("must not contain \"/\""),
        _ if name.contains('\0') => Err("must not contain a NUL"),
        _ if name.chars().any(char::is_control) => Err("must not contain control characters"),
        _ if name.len() > 255 => Err("is longer than 255 bytes"),
        _ => Ok(()),
    }
}

/// Says why a path can't be used as it stands.
pub(super) fn check_absolute(path: &Path) -> Result<(), &'static str> {
    use std::os::unix::ffi::OsStrExt;
    if path.as_os_str().is_empty() {
        return Err("is empty");
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err("contains a NUL");
    }
    if !path.is_absolute() {
        return Err("is not an absolute path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("must not contain \"..\"");
    }
    Ok(())
}

/// Parses `30d`, `1d 12h`, `90 m`; units are w, d, h, m and s.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut seconds: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?.trim_start();
        let unit_end = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let factor = match rest.get(..unit_end)? {
            "w" | "week" | "weeks" => 7 * 86_400,
            "d" | "day" | "days" => 86_400,
            "h" | "hour" | "hours" => 3_600,
            "m" | "min" | "minutes" => 60,
            "s" | "sec" | "seconds" => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(factor)?)?;
        rest = rest.get(unit_end..)?.trim_start();
    }
    Some(Duration::from_secs(seconds))
}

/// Parses `256 MiB`, `1G`, `4096`.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let factor = match text.get(digits..)?.trim() {
        "" | "B" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(
                parse_duration(text),
                expected.map(Duration::from_secs),
                "{text:?}"
            );
        };
        check("30d", Some(30 * 86_400));
        check("1d12h", Some(129_600));
        check("1d 12 h", Some(129_600));
        check("2w", Some(14 * 86_400));
        check("90m", Some(5_400));
        check("0s", Some(0));
        check("", None);
        check("30", None);
        check("d", None);
        check("-1d", None);
        check("30 x", None);
        check("99999999999999999999d", None);
        check("18446744073709551615w", None);
    }

    #[test]
    fn sizes() {
        let check =
            |text: &str, expected: Option<u64>| assert_eq!(parse_bytes(text), expected, "{text:?}");
        check("256 MiB", Some(256 << 20));
        check("1G", Some(1 << 30));
        check("4096", Some(4096));
        check("10 MB", Some(10_000_000));
        check("", None);
        check("ten", None);
        check("18446744073709551615G", None);
    }

    #[test]
    fn names() {
        for bad in ["", ".", "..", "a/b", "a\0b", "a\nb"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["QSR", "a b", "ä", "..."] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }
}
