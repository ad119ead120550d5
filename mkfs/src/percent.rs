//! Percentages as mke2fs takes them.
//!
//! Source: mke2fs(8), `-m`.
//! Invariants: no rounding and no overflow.

/// Hundredths of a percent.
pub fn parse(text: &str) -> Option<u32> {
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
    fn percents_have_two_decimals() {
        assert_eq!(parse("5"), Some(500));
        assert_eq!(parse("1.5"), Some(150));
        assert_eq!(parse("0.25"), Some(25));
        for wrong in ["", ".5", "1.255", "-1", "x", "+1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
