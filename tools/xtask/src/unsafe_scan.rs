//! Counts `unsafe` in Rust source. Comments and literals are left out, so that
//! prose about unsafe code does not count.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use tokens::Kind;

#[path = "../../undercroft/src/rules/tokens.rs"]
mod tokens;

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
    let mut sum = Unsafe::default();
    let code = tokens::read(source)
        .into_iter()
        .filter(|t| t.kind == Kind::Code);
    let mut words = code.map(|t| t.text).peekable();
    while let Some(word) = words.next() {
        if word != "unsafe" {
            continue;
        }
        match words.peek().map(String::as_str) {
            Some("{") => sum.blocks += 1,
            Some("fn" | "extern") => sum.functions += 1,
            Some("impl" | "trait") => sum.impls += 1,
            Some("(") => sum.attributes += 1,
            _ => {}
        }
    }
    sum
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
