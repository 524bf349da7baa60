//! Counts `unsafe` in Rust source. Comments, strings and character literals are
//! taken out first, so that prose about unsafe code does not count.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// How often, by what follows the word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unsafe {
    /// `unsafe { … }`
    pub blocks: usize,
    /// `unsafe fn`, also with `extern` between.
    pub functions: usize,
    /// `unsafe impl` and `unsafe trait`.
    pub impls: usize,
    /// `#[unsafe(no_mangle)]` and the like.
    pub attributes: usize,
}

impl Unsafe {
    fn add(&mut self, other: Unsafe) {
        self.blocks += other.blocks;
        self.functions += other.functions;
        self.impls += other.impls;
        self.attributes += other.attributes;
    }
}

/// Counts in all `.rs` files below `dir`. Folders with a manifest of their own are
/// other crates, `tests` is not part of the product.
pub fn scan_crate(dir: &Path) -> Result<Unsafe> {
    let mut sum = Unsafe::default();
    scan_dir(&dir.join("src"), &mut sum)
        .with_context(|| format!("cannot scan {}", dir.display()))?;
    Ok(sum)
}

fn scan_dir(dir: &Path, sum: &mut Unsafe) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            scan_dir(&path, sum)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            sum.add(count(&std::fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// Counts in one source text.
pub fn count(source: &str) -> Unsafe {
    let code = strip(source);
    let mut sum = Unsafe::default();
    let mut words = tokens(&code).peekable();
    while let Some(word) = words.next() {
        if word != "unsafe" {
            continue;
        }
        match words.peek().copied() {
            Some("{") => sum.blocks += 1,
            Some("fn" | "extern") => sum.functions += 1,
            Some("impl" | "trait") => sum.impls += 1,
            Some("(") => sum.attributes += 1,
            _ => {}
        }
    }
    sum
}

/// Words, and every other visible character by itself.
fn tokens(code: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = code;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = match word(first) {
            true => rest.find(|c| !word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (token, after) = rest.split_at(end);
        rest = after;
        Some(token)
    })
}

/// The source without comments, and with empty literals.
fn strip(source: &str) -> String {
    let text: Vec<char> = source.chars().collect();
    let at = |n: usize| text.get(n).copied().unwrap_or('\0');
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    while i < text.len() {
        let before = if i == 0 { '\0' } else { at(i - 1) };
        let in_word = before.is_alphanumeric() || before == '_';
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < text.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => i = after_block_comment(&text, i),
            '"' => {
                out.push_str("\"\"");
                i = after_string(&text, i + 1);
            }
            'r' if raw_hashes(&text, i).is_some()
                && (!in_word || before == 'b' || before == 'c') =>
            {
                let hashes = raw_hashes(&text, i).unwrap_or(0);
                out.push_str("\"\"");
                i = after_raw_string(&text, i + hashes + 2, hashes);
            }
            // A character, not a lifetime: 'x' or an escape.
            '\'' if at(i + 1) == '\\' => {
                out.push_str("''");
                i += 3; // the quote, the backslash and what it escapes
                while i < text.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => {
                out.push_str("''");
                i += 3;
            }
            other => {
                out.push(other);
                i += 1;
            }
        }
    }
    out
}

/// `r"`, `r#"`, …: the number of hashes.
fn raw_hashes(text: &[char], from: usize) -> Option<usize> {
    let hashes = text
        .iter()
        .skip(from + 1)
        .take_while(|c| **c == '#')
        .count();
    (text.get(from + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn after_raw_string(text: &[char], from: usize, hashes: usize) -> usize {
    let mut i = from;
    while i < text.len() {
        let closing = text[i] == '"'
            && text
                .get(i + 1..i + 1 + hashes)
                .is_some_and(|part| part.iter().all(|c| *c == '#'));
        if closing {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

fn after_string(text: &[char], from: usize) -> usize {
    let mut i = from;
    while i < text.len() {
        match text[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    i
}

fn after_block_comment(text: &[char], from: usize) -> usize {
    let mut depth = 0usize;
    let mut i = from;
    while i < text.len() {
        match (text[i], text.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    i
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_counts() {
        let source = r###"
            //! unsafe { in a comment }
            /* unsafe { /* nested */ unsafe { */
            const A: &str = "unsafe { \" unsafe {";
            const B: &str = r#"unsafe { " unsafe {"#;
            const C: char = '"';
            const D: &[u8] = b"unsafe {";
            const E: char = '\'';
            fn f<'a>(x: &'a u8) -> u8 { unsafe { *x } }
            unsafe fn g() {}
            unsafe extern "C" fn h() {}
            unsafe impl Sync for X {}
            #[unsafe(no_mangle)]
            #![forbid(unsafe_code)]
        "###;
        let expected = Unsafe {
            blocks: 1,
            functions: 2,
            impls: 1,
            attributes: 1,
        };
        assert_eq!(count(source), expected);
    }

    #[test]
    fn broken_source_ends() {
        for source in ["\"", "r#\"", "/*", "'\\", "unsafe"] {
            assert_eq!(count(source), Unsafe::default());
        }
    }
}
