//! Stdout: lines for people or JSON, sizes, times, tables.
//!
//! Invariants: with `--json` every line of stdout is one JSON object whose first field is `message_type` (`it/cli.rs`).

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::time::Duration;

use holdfast::format::node::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value};

/// Stdout could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout")]
pub(super) struct WriteError(#[source] pub(super) io::Error);

/// Stdout of a command.
pub(super) struct Output {
    stdout: BufWriter<Stdout>,
    json: bool,
    terminal: bool,
}

impl Output {
    /// Takes stdout.
    pub(super) fn new(json: bool) -> Self {
        Self {
            stdout: BufWriter::with_capacity(64 << 10, io::stdout()),
            json,
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Whether a person reads it.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether JSON was asked for.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a line for people.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> Result<(), WriteError> {
        self.bytes(text.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    /// Prints bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.stdout.write_all(bytes).map_err(WriteError)
    }

    /// Prints one JSON object; `message_type` stands first.
    pub(super) fn message(
        &mut self,
        message_type: &str,
        fields: &impl Serialize,
    ) -> Result<(), WriteError> {
        let line = json_line(message_type, fields)?;
        self.bytes(&line)
    }

    /// Hands everything to the system.
    pub(super) fn flush(&mut self) -> Result<(), WriteError> {
        self.stdout.flush().map_err(WriteError)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stdout.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// One JSON object and the end of its line; `message_type` stands first.
pub(super) fn json_line(
    message_type: &str,
    fields: &impl Serialize,
) -> Result<Vec<u8>, WriteError> {
    let mut object = Map::new();
    object.insert("message_type".into(), message_type.into());
    match serde_json::to_value(fields) {
        Ok(Value::Object(fields)) => object.extend(fields),
        Ok(other) => drop(object.insert("value".into(), other)),
        Err(error) => return Err(WriteError(error.into())),
    }
    let mut line = serde_json::to_vec(&object).map_err(|error| WriteError(error.into()))?;
    line.push(b'\n');
    Ok(line)
}

/// Whether stderr is a terminal that shows colours.
pub(super) fn colours_on_stderr() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !no_color
}

/// A table for people: columns as wide as their longest cell, numbers to the right, no line longer than it must be.
#[derive(Debug)]
pub(super) struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins a table; a title that starts with `>` belongs to a column of numbers.
    pub(super) fn new(titles: &[&str]) -> Self {
        Self {
            right: titles.iter().map(|title| title.starts_with('>')).collect(),
            rows: vec![
                titles
                    .iter()
                    .map(|title| title.trim_start_matches('>').to_owned())
                    .collect(),
            ],
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let widths: Vec<usize> = (0..self.right.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                let width = *width;
                match right {
                    true => line.push_str(&format!("{cell:>width$}")),
                    false => line.push_str(&format!("{cell:<width$}")),
                }
                line.push_str("  ");
            }
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

/// A number of bytes for people: three digits at least, binary units.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A count for people, with thin groups of three digits.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2 files`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A duration for people.
pub(super) fn duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", elapsed.as_secs_f64()),
        10..60 => format!("{:.0} s", elapsed.as_secs_f64().min(59.4)),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Bytes per second for people.
pub(super) fn rate(count: u64, elapsed: Duration) -> String {
    let per_second = count as f64 / elapsed.as_secs_f64().max(0.001);
    // A float becomes the nearest integer; what is beyond does not occur.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive rate, shown with three digits"
    )]
    let per_second = per_second as u64;
    format!("{}/s", bytes(per_second))
}

/// Local time for people, to the second.
pub(super) fn local_time(time: Timestamp) -> String {
    match jiff::Timestamp::new(time.seconds, 0) {
        Ok(time) => time
            .to_zoned(TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_out_of_range) => format!("@{}", time.seconds),
    }
}

/// RFC 3339 in UTC, to the millisecond.
pub(super) fn rfc3339(time: Timestamp) -> String {
    let nanos = i32::try_from(time.nanos / 1_000_000 * 1_000_000).unwrap_or(0);
    match jiff::Timestamp::new(time.seconds, nanos) {
        Ok(time) => format!("{time:.3}"),
        Err(_out_of_range) => format!("@{}", time.seconds),
    }
}

/// Reads a time: a day, a day and a time (both local), or RFC 3339.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let from = |time: jiff::Timestamp| Timestamp {
        seconds: time.as_second(),
        nanos: 0,
    };
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(from(time));
    }
    let local = |time: jiff::civil::DateTime| time.to_zoned(TimeZone::system());
    match text.parse::<jiff::civil::DateTime>().map(local) {
        Ok(Ok(time)) => Ok(from(time.timestamp())),
        _ => Err("a time looks like 2026-11-20, 2026-11-20T12:30 or 2026-11-20T12:30:00Z".into()),
    }
}

/// Names as they are where a program reads them; on a terminal without what would move its cursor.
pub(super) fn name(bytes: &[u8], terminal: bool) -> Vec<u8> {
    if !terminal {
        return bytes.to_vec();
    }
    let mut shown = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown.into_bytes()
}

/// Reads a size: `16K`, `16KiB`, `4096`; units are binary.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" | "kb" => 10,
        "m" | "mib" | "mb" => 20,
        "g" | "gib" | "gb" => 30,
        "t" | "tib" | "tb" => 40,
        _ => return Err("a size is a number with K, M, G or nothing behind it".into()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_error| "a size begins with a whole number".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "that is too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let seconds = |text: &str| parse_time(text).map(|time| time.seconds).ok();
        assert_eq!(seconds("2023-11-14T22:13:20Z"), Some(1_700_000_000));
        assert_eq!(seconds("2023-11-14T23:13:20+01:00"), Some(1_700_000_000));
        assert!(seconds("2023-11-14").is_some() && seconds("2023-11-14 12:30").is_some());
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn names_do_not_move_the_cursor() {
        assert_eq!(
            name(b"a\x1b[2Jb\xff", true),
            "a\\u{1b}[2Jb\u{fffd}".as_bytes()
        );
        assert_eq!(name(b"a\x1b\xff", false), b"a\x1b\xff");
    }

    #[test]
    fn sizes_are_short_and_right() {
        let check = |count: u64, expected: &str| assert_eq!(bytes(count), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.00 KiB");
        check(10 << 10, "10.0 KiB");
        check(999 << 10, "999 KiB");
        check(1000 << 10, "0.98 MiB");
        check(3_500_000_000, "3.26 GiB");
        check(u64::MAX, "16.0 EiB");
    }

    #[test]
    fn sizes_are_read() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        };
        check("4096", Some(4096));
        check("16K", Some(16 << 10));
        check("2 MiB", Some(2 << 20));
        check("99999999999T", None);
        check("K", None);
        check("1.5M", None);
    }

    #[test]
    fn counts_and_durations() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(123), "123");
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(duration(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(59)), "59 s");
        assert_eq!(duration(Duration::from_secs(61)), "1 min 01 s");
        assert_eq!(duration(Duration::from_secs(7384)), "2 h 03 min");
    }

    #[test]
    fn times_are_rfc_3339() {
        let time = Timestamp {
            seconds: 1_700_000_000,
            nanos: 123_456_789,
        };
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn tables_align() {
        let mut table = Table::new(&["id", ">size", "name"]);
        table.row(vec!["a".into(), "10".into(), "x".into()]);
        table.row(vec!["bcd".into(), "1".into(), String::new()]);
        assert_eq!(
            table.lines(),
            ["id   size  name", "a      10  x", "bcd     1"]
        );
    }
}
