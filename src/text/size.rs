//! Sizes as people write them.
//!
//! Source: mke2fs(8), `fs-size`; units(7) for the binary prefixes.
//! Invariants: no rounding and no overflow; prefixes are powers of 1024.

/// Bytes: a plain number counts bytes; k, m, g, t, also with `B` or `iB` behind it.
pub fn in_bytes(text: &str) -> Option<u64> {
    let text = text
        .strip_suffix("iB")
        .or(text.strip_suffix('B'))
        .unwrap_or(text);
    product(text, |unit| {
        if unit.is_empty() {
            Some(1)
        } else {
            prefix(unit)
        }
    })
}

/// Bytes as mke2fs(8) counts them: a plain number counts `unit` bytes, one with s sectors of 512; k, m, g, t.
pub fn in_units(text: &str, unit: u64) -> Option<u64> {
    product(text, |suffix| match suffix {
        "" => Some(unit),
        "s" | "S" => Some(512),
        suffix => prefix(suffix),
    })
}

/// A number times what stands behind it.
fn product(text: &str, factor: impl FnOnce(&str) -> Option<u64>) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(factor(text.strip_prefix(digits)?)?)
}

fn prefix(letter: &str) -> Option<u64> {
    match letter {
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        "t" | "T" => Some(1 << 40),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(in_bytes("512"), Some(512));
        assert_eq!(in_bytes("512B"), Some(512));
        assert_eq!(in_bytes("64M"), Some(64 << 20));
        assert_eq!(in_bytes("1GiB"), Some(1 << 30));
        assert_eq!(in_bytes("2t"), Some(2 << 40));
        for bad in [
            "",
            "M",
            "1X",
            "-1",
            "1.5G",
            "99999999999T",
            "8s",
            "1 k",
            "1km",
        ] {
            assert_eq!(in_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_plain_number_counts_units() {
        assert_eq!(in_units("100", 4096), Some(409_600));
        assert_eq!(in_units("100K", 4096), Some(102_400));
        assert_eq!(in_units("8s", 1), Some(4096));
        assert_eq!(in_units("2T", 1), Some(2 << 40));
        for wrong in ["", "k", "1x", "-1", "1.5g", "99999999t", "1kb"] {
            assert_eq!(in_units(wrong, 1), None, "{wrong}");
        }
    }
}
