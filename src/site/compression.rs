//! `fast`, `balanced`, `max`: what people say instead of a level of zstd.
//!
//! `benches/README.md` has the figures that they were chosen by: 1 costs least; 2 to 5 gain little on files and nothing on rows of tables; 7 saves
//! most for its time on both; 19 is for lines that are slower than it.

use super::reader::Section;

/// What the words mean, and the levels that may be given instead.
pub const WORDS: [(&str, i32); 3] = [("fast", 1), ("balanced", 7), ("max", 19)];
const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// Reads a word or a level; the error is what may be given.
pub fn level(text: &str) -> Result<i32, String> {
    let text = text.trim();
    let word = WORDS.into_iter().find(|(word, _)| *word == text);
    let number = text.parse().ok().filter(|level| LEVELS.contains(level));
    word.map(|(_, level)| level)
        .or(number)
        .ok_or_else(|| "give it as fast, balanced, max, or a level from 1 to 19".into())
}

/// Reads a setting of a site file: a word, or a level as a number.
pub(super) fn setting(section: &mut Section<'_, '_, '_>, key: &'static str) -> Option<i32> {
    let text = section.scalar(key)?;
    match level(&text) {
        Ok(level) => Some(level),
        Err(expected) => {
            let (offset, title) = (section.offset_of(key), section.title());
            section.fault(offset, format!("{key} in {title}: {expected}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_levels_are_read() {
        for (text, expected) in [("fast", 1), (" max ", 19), ("1", 1), ("12", 12), ("19", 19)] {
            assert_eq!(level(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "20", "-1", "Fast", "3.5", "best"] {
            assert!(level(text).unwrap_err().contains("balanced"), "{text}");
        }
    }
}
