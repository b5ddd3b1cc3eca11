//! Settings of columns that a newer minor release keeps in its catalog and that nothing reads back.
//!
//! An older `pg_dump` writes `ALTER TABLE … ALTER COLUMN … SET (pg_attver=7);` into the definition of each table. No server
//! takes that, and the table's other statements fail with it. Such a dump is refused, or the setting is taken out where the
//! user says so: its bytes become spaces, so that no length and no offset of the archive changes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

const SETTING: &[u8] = b"pg_attver=";

/// Finds the statements and returns their number; with `strip` they are gone afterwards.
pub(super) fn settings(file: &File, strip: bool) -> io::Result<u64> {
    let mut found = 0;
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    reader.seek(SeekFrom::Start(0))?;
    let mut offset = 0_u64;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(found);
        }
        if let Some(without) = without_setting(&line) {
            found += 1;
            if strip {
                file.write_all_at(&without, offset)?;
            }
        }
        offset += u64::try_from(read).unwrap_or(0);
    }
}

/// Returns the line with spaces in place of the setting, if it is a statement that sets it.
fn without_setting(line: &[u8]) -> Option<Vec<u8>> {
    let has = |sign: &[u8]| line.windows(sign.len()).any(|window| window == sign);
    if !line.starts_with(b"ALTER ") || !has(SETTING) || !has(b" ALTER COLUMN ") {
        return None;
    }
    let statement = line.strip_suffix(b"\n").unwrap_or(line);
    let list_end = statement.strip_suffix(b");")?.len();
    let opening = b" SET (";
    let list_start = statement
        .windows(opening.len())
        .rposition(|window| window == opening)?
        + opening.len();
    let list = statement.get(list_start..list_end)?;
    let options: Vec<&[u8]> = split(list);
    let kept: Vec<&[u8]> = options
        .iter()
        .copied()
        .filter(|option| !is_setting(option))
        .collect();
    if kept.len() == options.len() {
        return None;
    }
    let mut without = Vec::with_capacity(line.len());
    if !kept.is_empty() {
        without.extend_from_slice(&statement[..list_start]);
        without.extend_from_slice(&kept.join(&b", "[..]));
        without.extend_from_slice(b");");
    }
    without.resize(statement.len(), b' ');
    without.extend_from_slice(&line[statement.len()..]);
    Some(without)
}

fn is_setting(option: &[u8]) -> bool {
    option
        .strip_prefix(SETTING)
        .is_some_and(|value| value.iter().all(u8::is_ascii_digit))
}

/// Splits a list at `, `; values of these settings are numbers, which have no commas.
fn split(list: &[u8]) -> Vec<&[u8]> {
    list.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_setting_goes_and_every_length_stays() {
        let check = |text: &str, expected: &str, count: u64| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            assert_eq!(settings(&file, false).unwrap(), count, "{text}");
            assert_eq!(settings(&file, true).unwrap(), count);
            let mut found = String::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_string(&mut found).unwrap();
            assert_eq!(found, expected);
            assert_eq!(found.len(), text.len());
            assert_eq!(settings(&file, false).unwrap(), 0);
        };
        check("CREATE TABLE t ();\n", "CREATE TABLE t ();\n", 0);
        check(
            "x\nALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=7);\n\n",
            "x\n                                                           \n\n",
            1,
        );
        let both = "ALTER TABLE ONLY t ALTER COLUMN a SET (n_distinct=5, pg_attver=7);";
        check(
            both,
            "ALTER TABLE ONLY t ALTER COLUMN a SET (n_distinct=5);             ",
            1,
        );
        // What only looks like it stays.
        let text = "RAISE 'ALTER TABLE t ALTER COLUMN a SET (pg_attver=7);';\nALTER TABLE t ADD CHECK (a <> ' ALTER COLUMN  SET (pg_attver=7');\n";
        check(text, text, 0);
    }
}
