//! Sizes as mke2fs takes them.
//!
//! Source: mke2fs(8), `fs-size`.
//! Invariants: no rounding and no overflow.

/// Bytes: a plain number counts `unit` bytes, a suffix k, m, g, t powers of 1024, s sectors of 512 bytes.
pub fn parse(text: &str, unit: u64) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    let factor = match text.strip_prefix(digits)?.to_ascii_lowercase().as_str() {
        "" => unit,
        "s" => 512,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Hundredths of a percent.
pub fn parse_percent(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let decimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 2 || !decimal(whole) || !decimal(fraction) {
        return None;
    }
    let hundredths: u32 = format!("{fraction:0<2}").parse().ok()?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_number_counts_units() {
        assert_eq!(parse("100", 4096), Some(409_600));
        assert_eq!(parse("100K", 4096), Some(102_400));
        assert_eq!(parse("8s", 1), Some(4096));
        assert_eq!(parse("2T", 1), Some(2 << 40));
        for wrong in ["", "k", "1x", "-1", "1.5g", "99999999t", "1kb"] {
            assert_eq!(parse(wrong, 1), None, "{wrong}");
        }
    }

    #[test]
    fn percents_have_two_decimals() {
        assert_eq!(parse_percent("5"), Some(500));
        assert_eq!(parse_percent("1.5"), Some(150));
        assert_eq!(parse_percent("0.25"), Some(25));
        for wrong in ["", ".5", "1.255", "-1", "x", "+1"] {
            assert_eq!(parse_percent(wrong), None, "{wrong}");
        }
    }
}
