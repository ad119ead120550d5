//! A Rust source file as the house rules see it: code without comments and literals, line for line.
//!
//! Invariants: stripping keeps every newline, so a line number in the stripped text is one in the file.

/// `text` with comments and the insides of string and character literals replaced by blanks.
pub fn strip(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match literal_end(bytes, at) {
            Some(end) => end.min(bytes.len()),
            None => {
                // An identifier is passed as a whole, so that the `r` of `for"` never opens a raw string.
                at += identifier_len(bytes, at).max(1);
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The end of the comment or literal that starts at `at`, if one does.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment_len(rest));
    }
    let prefix = rest
        .iter()
        .take_while(|b| matches!(b, b'b' | b'c' | b'r'))
        .count();
    if prefix <= 2 && rest[..prefix].contains(&b'r') {
        let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
        if rest.get(prefix + hashes) == Some(&b'"') {
            return Some(at + raw_string_len(rest, prefix + hashes + 1, hashes));
        }
    }
    match rest.get(prefix) {
        Some(b'"') if prefix <= 1 => Some(at + quoted_len(rest, prefix + 1, b'"')),
        Some(b'\'') if prefix <= 1 => char_len(&rest[prefix..]).map(|len| at + prefix + len),
        _ => None,
    }
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn raw_string_len(rest: &[u8], start: usize, hashes: usize) -> usize {
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    rest[start..]
        .windows(close.len())
        .position(|w| w == close)
        .map_or(rest.len(), |p| start + p + close.len())
}

fn quoted_len(rest: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a character literal; `None` for a lifetime.
fn char_len(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted_len(rest, 1, b'\''));
    }
    let text = std::str::from_utf8(&rest[1..rest.len().min(6)])
        .unwrap_or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]).unwrap_or(""));
    let width = text.chars().next()?.len_utf8();
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

fn identifier_len(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().take_while(|b| is_word(**b)).count()
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Byte offsets at which `word` stands alone in `text`.
pub fn words(text: &str, word: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let alone = |at: usize| {
        let before = at == 0 || !is_word(bytes[at - 1]);
        let after = bytes.get(at + word.len()).is_none_or(|b| !is_word(*b));
        before && after
    };
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| alone(*at))
        .collect()
}

/// The line number, from 1, of a byte offset.
pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
        + 1
}

/// Where the unit tests start (`#[cfg(test)]` before a `mod`), or the text's length.
pub fn tests_start(stripped: &str) -> usize {
    let mark = "#[cfg(test)]";
    let starts_module = |at: usize| {
        let rest = stripped[at + mark.len()..].trim_start();
        rest.starts_with("mod ") || rest.starts_with("pub mod ")
    };
    stripped
        .match_indices(mark)
        .map(|(at, _)| at)
        .find(|at| starts_module(*at))
        .unwrap_or(stripped.len())
}

/// The paths under `root::` that `stripped` names, up to two segments deep, with their offsets: `use root::{a, b::c};`
/// gives `a` and `b::c`.
pub fn paths_under(stripped: &str, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(stripped, root) {
        if let Some(tree) = stripped[at + root.len()..].strip_prefix("::") {
            let mut paths = Vec::new();
            expand(tree, "", 0, &mut paths);
            found.extend(paths.into_iter().map(|path| (at, path)));
        }
    }
    found
}

/// Expands the use tree at the start of `tree` and returns how many bytes of it were read.
fn expand(tree: &str, prefix: &str, depth: usize, out: &mut Vec<String>) -> usize {
    let blank = tree.len() - tree.trim_start().len();
    let rest = &tree[blank..];
    if let Some(list) = rest.strip_prefix('{') {
        let mut at = 0;
        while at < list.len() && !list[at..].starts_with('}') {
            let step = expand(&list[at..], prefix, depth, out);
            at += step + skip_to_separator(&list[at + step..]);
        }
        return blank + 1 + at + 1;
    }
    let len = identifier_len(rest.as_bytes(), 0);
    let path = if prefix.is_empty() {
        rest[..len].to_string()
    } else {
        format!("{prefix}::{}", &rest[..len])
    };
    match rest[len..].strip_prefix("::") {
        Some(inner) if depth == 0 && len > 0 => blank + len + 2 + expand(inner, &path, 1, out),
        _ => {
            if len > 0 {
                out.push(path);
            }
            blank + len
        }
    }
}

/// Bytes up to and with the comma that ends this branch, or up to the brace that ends the list.
fn skip_to_separator(list: &str) -> usize {
    let mut depth = 0usize;
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return at,
            b'}' => depth -= 1,
            b',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    list.len()
}

/// Functions with a body: name, first line, number of lines.
pub fn functions(stripped: &str) -> Vec<(String, usize, usize)> {
    let bytes = stripped.as_bytes();
    let mut found = Vec::new();
    for at in words(stripped, "fn") {
        let name_at = at + 2 + (stripped[at + 2..].len() - stripped[at + 2..].trim_start().len());
        let name = &stripped[name_at..name_at + identifier_len(bytes, name_at)];
        let Some(open) = body_start(bytes, at) else {
            continue;
        };
        if name.is_empty() {
            continue;
        }
        let mut depth = 0usize;
        let close = bytes[open..].iter().position(|b| {
            depth = match b {
                b'{' => depth + 1,
                b'}' => depth - 1,
                _ => depth,
            };
            depth == 0
        });
        let end = close.map_or(bytes.len(), |len| open + len);
        let first = line_of(stripped, at);
        found.push((name.to_string(), first, line_of(stripped, end) + 1 - first));
    }
    found
}

/// The `{` that opens the body of the function at `at`; `None` for a declaration or a function pointer type.
fn body_start(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0isize;
    for (offset, byte) in bytes[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' if depth == 0 => return None,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at + offset),
            b';' | b',' | b'=' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripping_blanks_comments_and_literals_and_keeps_lines() {
        let text = "let a = \"unsafe \\\" {\"; // unsafe\n/* un /* nested */\nsafe */ let b = 'x'; fn f<'a>(c: &'a str) {}\n";
        let stripped = strip(text);
        assert!(!stripped.contains("unsafe") && !stripped.contains("nested"));
        assert!(stripped.contains("fn f<'a>(c: &'a str) {}"));
        assert_eq!(stripped.lines().count(), text.lines().count());
    }

    #[test]
    fn stripping_knows_raw_strings_and_byte_literals() {
        let stripped =
            strip("r#\"a \" unsafe\"# + br\"unsafe\" + b'{' + '\\'' + b\"{\" ; for_r\"{\"; keep");
        assert!(!stripped.contains("unsafe") && !stripped.contains('{'));
        assert!(stripped.ends_with("keep"));
    }

    #[test]
    fn use_trees_become_paths() {
        let paths = |text: &str| {
            paths_under(text, "crate")
                .into_iter()
                .map(|(_, p)| p)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            paths("use crate::cache::{Buffer, meta::X};"),
            ["cache::Buffer", "cache::meta"]
        );
        assert_eq!(
            paths("use crate::{ids, journal::{Handle, tx::T}, map};"),
            ["ids", "journal::Handle", "journal::tx", "map"]
        );
        assert_eq!(
            paths("use crate::{\n fs::a::b::c as d,\n error,\n};"),
            ["fs::a", "error"]
        );
        assert_eq!(
            paths("pub(crate) fn f() { crate::sync::lock(); mycrate::x(); }"),
            ["sync::lock"]
        );
    }

    #[test]
    fn functions_are_measured_with_their_closing_brace() {
        let text = "fn one() {}\nfn two(a: [u8; 3]) -> u8 {\n  if x {\n  }\n}\ntype F = fn(u8) -> u8;\ntrait T { fn none(&self); }\n";
        assert_eq!(
            functions(text),
            [("one".into(), 1, 1), ("two".into(), 2, 4)]
        );
    }

    #[test]
    fn tests_start_at_their_module_only() {
        let text = "#[cfg(test)]\nfn helper() {}\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(line_of(text, tests_start(text)), 3);
        assert_eq!(tests_start("fn a() {}"), 9);
    }
}
