//! Numbers with a binary point as servers before 12 wrote them, so that rows of an old archive can be compared with what a newer server has restored.
//!
//! From 12 on a server writes the shortest text that is read back as the same number; before, with `extra_float_digits = 3`, it wrote 9 or 18 digits.
//! The number is the same, so a restored one is read from its text and written in the old form; then a comparison of texts is one of numbers again.
//! Covered are both types, arrays, ranges and domains of them and the geometric types; not what lies in a composite type, whose other fields may look alike.

use crate::source::postgres::{PgError, PgSession};

/// The version from which on the shortest form is written.
pub(crate) const SHORTEST: u32 = 120_000;

const DIGITS_SINGLE: usize = 9;
const DIGITS_DOUBLE: usize = 18;

/// Columns of the table `$1` that hold such numbers, and whether they are of single precision.
const COLUMNS: &str = "WITH RECURSIVE held AS (\
    SELECT a.attname, a.atttypid AS type FROM pg_catalog.pg_attribute a WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped \
    UNION SELECT h.attname, CASE y.typtype WHEN 'd' THEN y.typbasetype WHEN 'r' THEN r.rngsubtype ELSE y.typelem END \
    FROM held h JOIN pg_catalog.pg_type y ON y.oid = h.type LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = y.oid \
    WHERE y.typtype IN ('d', 'r') OR y.typcategory = 'A') \
    SELECT attname::text, pg_catalog.bool_or(type = 'pg_catalog.float4'::pg_catalog.regtype) FROM held \
    WHERE type::pg_catalog.regtype::text IN ('real', 'double precision', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle') GROUP BY 1";

/// Which fields of a row are rewritten.
#[derive(Debug, Default)]
pub(crate) struct FloatColumns(Vec<(usize, Precision)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precision {
    Single,
    Double,
}

impl FloatColumns {
    /// Asks the server which of the columns are such; `table` in quotes.
    pub(crate) fn of(
        session: &mut PgSession,
        table: &str,
        columns: &[String],
    ) -> Result<Self, PgError> {
        let mut found = Vec::new();
        for row in session.query(COLUMNS, &[&table])? {
            let name: String = row.get(0);
            let precision = match row.get(1) {
                true => Precision::Single,
                false => Precision::Double,
            };
            found.extend(
                columns
                    .iter()
                    .position(|column| *column == name)
                    .map(|position| (position, precision)),
            );
        }
        found.sort_unstable_by_key(|(position, _)| *position);
        Ok(Self(found))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A row of COPY with its numbers in the old form.
    pub(crate) fn rewrite(&self, row: &[u8]) -> Vec<u8> {
        let row = row.strip_suffix(b"\n").unwrap_or(row);
        let mut wanted = self.0.iter().peekable();
        let mut written = Vec::with_capacity(row.len() * 2);
        for (position, field) in row.split(|byte| *byte == b'\t').enumerate() {
            if position > 0 {
                written.push(b'\t');
            }
            match wanted.next_if(|(column, _)| *column == position) {
                Some((_, precision)) => rewrite_field(field, *precision, &mut written),
                None => written.extend_from_slice(field),
            }
        }
        written
    }
}

/// Numbers stand alone or between the marks of arrays, ranges and geometric types.
fn rewrite_field(field: &[u8], precision: Precision, written: &mut Vec<u8>) {
    const MARKS: &[u8] = b"()[]<>{},;:=\"";
    for token in field.chunk_by(|a, b| !MARKS.contains(a) && !MARKS.contains(b)) {
        match std::str::from_utf8(token)
            .ok()
            .and_then(|text| in_old_form(text, precision))
        {
            Some(text) => written.extend_from_slice(text.as_bytes()),
            None => written.extend_from_slice(token),
        }
    }
}

/// Nothing for what is no finite number; `NaN` and `Infinity` are written alike by all.
fn in_old_form(text: &str, precision: Precision) -> Option<String> {
    let (value, digits) = match precision {
        Precision::Single => (f64::from(text.parse::<f32>().ok()?), DIGITS_SINGLE),
        Precision::Double => (text.parse::<f64>().ok()?, DIGITS_DOUBLE),
    };
    value.is_finite().then(|| general(value, digits))
}

/// As C's `%.*g` writes it: fixed or with an exponent, without zeros at the end.
fn general(value: f64, digits: usize) -> String {
    let sign = if value.is_sign_negative() { "-" } else { "" };
    let text = format!("{:.*e}", digits - 1, value.abs());
    let (mantissa, exponent) = text.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    let mantissa: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = mantissa.trim_end_matches('0');
    let limit = i32::try_from(digits).expect("few digits");
    match usize::try_from(exponent) {
        _ if significant.is_empty() => format!("{sign}0"),
        Ok(whole) if exponent < limit => {
            let (whole, fraction) = mantissa.split_at(whole + 1);
            with_point(sign, whole, fraction.trim_end_matches('0'))
        }
        Err(_) if exponent >= -4 => {
            let zeros = usize::try_from(-exponent - 1).expect("the exponent is negative");
            format!("{sign}0.{}{significant}", "0".repeat(zeros))
        }
        _ => {
            let (first, rest) = significant.split_at(1);
            let power = if exponent < 0 { '-' } else { '+' };
            format!(
                "{}e{power}{:02}",
                with_point(sign, first, rest),
                exponent.abs()
            )
        }
    }
}

fn with_point(sign: &str, whole: &str, fraction: &str) -> String {
    match fraction {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server 11 writes with `extra_float_digits = 3` for what a server 15 writes.
    #[test]
    fn numbers_as_old_servers_write_them() {
        let check = |precision, new: &str, old: &str| {
            let mut written = Vec::new();
            rewrite_field(new.as_bytes(), precision, &mut written);
            assert_eq!(String::from_utf8_lossy(&written), old, "{new}");
        };
        for (new, old) in [
            ("0", "0"),
            ("-0", "-0"),
            ("5", "5"),
            ("1.5", "1.5"),
            ("100", "100"),
            ("0.1", "0.100000000000000006"),
            ("1e+300", "1.00000000000000005e+300"),
            ("5e-324", "4.94065645841246544e-324"),
            ("1.7976931348623157e+308", "1.79769313486231571e+308"),
            ("1e+15", "1000000000000000"),
            ("1e+17", "100000000000000000"),
            ("1e+18", "1e+18"),
            ("0.0001", "0.000100000000000000005"),
            ("1e-05", "1.00000000000000008e-05"),
            // Halfway between two texts of 18 digits: the even one.
            ("1.4901161193847656e-08", "1.49011611938476562e-08"),
            ("123456789.12345679", "123456789.123456791"),
            ("NaN", "NaN"),
            ("-Infinity", "-Infinity"),
            ("\\N", "\\N"),
            ("{0.1,NULL,NaN}", "{0.100000000000000006,NULL,NaN}"),
            ("(0.1,-0)", "(0.100000000000000006,-0)"),
            ("<(0,0),Infinity>", "<(0,0),Infinity>"),
            ("{\"(0.1,1)\"}", "{\"(0.100000000000000006,1)\"}"),
            ("[-1:0]={0.1,2}", "[-1:0]={0.100000000000000006,2}"),
            ("[0.1,)", "[0.100000000000000006,)"),
            ("empty", "empty"),
        ] {
            check(Precision::Double, new, old);
        }
        for (new, old) in [
            ("0.1", "0.100000001"),
            ("1.5", "1.5"),
            ("0.00012207031", "0.000122070312"),
            ("3.4028235e+38", "3.40282347e+38"),
            ("1e-45", "1.40129846e-45"),
            ("1e+09", "1e+09"),
            ("1e+08", "100000000"),
        ] {
            check(Precision::Single, new, old);
        }
    }

    #[test]
    fn only_the_columns_that_hold_numbers_are_rewritten() {
        let columns = FloatColumns(vec![(1, Precision::Double), (3, Precision::Single)]);
        assert_eq!(
            columns.rewrite(b"0.1\t0.1\t0.1\t0.1\t0.1\n"),
            b"0.1\t0.100000000000000006\t0.1\t0.100000001\t0.1"
        );
        assert_eq!(columns.rewrite(b"\n"), b"");
    }
}
