//! Finds rules in source text: where code names one (`Rule::RND_16`), where a
//! comment does (`RND-16`), and which tests are named after one
//! (`rnd_16_ppi_size_zero`).
//!
//! The build script of this crate runs it over the workspace, so the command
//! knows the places without the sources, and they cannot be out of date.
//! It reads tokens, not grammar: literals are left out, attributes, modules and
//! functions are followed by their braces.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use tokens::{Kind, Token};

#[path = "tokens.rs"]
mod tokens;

/// Folders with code or tests of rules, from the root of the checkout.
pub const FOLDERS: [&str; 3] = ["paravisor", "tests", "tools/hostkit"];

/// Where the rules are declared: naming one there enforces nothing.
const DECLARATIONS: &str = "paravisor/validate/src/rule/";

/// Only the firmware enforces.
const ENFORCING: &str = "paravisor/";

const PREFIXES: [&str; 9] = [
    "SYN", "CTL", "GPD", "RNG", "PKT", "NVS", "RND", "ICS", "SYS",
];

/// A rule at a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// `RND-16`.
    pub id: String,
    /// From the root of the checkout, with `/`.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// Function, constant or test; empty between items.
    pub item: String,
}

/// What a scan gives, in order of id, file and line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Code outside tests that names a rule; one per rule and function.
    pub uses: Vec<Found>,
    /// Comments in such code that name a rule where no code of the function does.
    pub notes: Vec<Found>,
    /// Tests named after a rule.
    pub tests: Vec<Found>,
    /// Those of them whose text, or that of a helper which they call in the same
    /// file, speaks of the id: as `RND_16` in code or `RND-16` in a string.
    pub checks: Vec<Found>,
}

/// Scans the checkout below `root`.
pub fn scan(root: &Path) -> io::Result<Findings> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut sources = Vec::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap_or(&path);
        let name = name.to_string_lossy().replace('\\', "/");
        sources.push((name, std::fs::read_to_string(&path)?));
    }
    Ok(scan_sources(&sources))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Scans texts; each has its path from the root of the checkout.
pub fn scan_sources(sources: &[(String, String)]) -> Findings {
    let mut seen: Vec<(&str, Source)> = sources
        .iter()
        .map(|(file, text)| (file.as_str(), Source::read(text)))
        .collect();
    // Modules that a `#[cfg(test)] mod name;` puts into files of their own.
    let test_modules: Vec<String> = seen
        .iter()
        .flat_map(|(file, source)| {
            let home = module_folder(file);
            source
                .test_modules
                .iter()
                .map(move |m| format!("{home}{m}"))
        })
        .collect();
    let mut findings = Findings::default();
    for (file, source) in &mut seen {
        let is_test = file.starts_with("tests/")
            || file.contains("/tests/")
            || test_modules.iter().any(|module| {
                file.strip_prefix(module.as_str())
                    .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            });
        let found = |(id, line, item): (String, usize, String)| Found {
            id,
            file: file.to_string(),
            line,
            item,
        };
        let spoken = source.spoken();
        let checks = source
            .tests
            .iter()
            .filter(|(id, _, test)| spoken.get(test).is_some_and(|ids| ids.contains(id)));
        findings.checks.extend(checks.cloned().map(found));
        findings.tests.extend(source.tests.drain(..).map(found));
        if !is_test && file.starts_with(ENFORCING) && !file.starts_with(DECLARATIONS) {
            findings.uses.extend(source.uses.drain(..).map(found));
            findings.notes.extend(source.notes.drain(..).map(found));
        }
    }
    findings.uses.sort();
    findings.notes.sort();
    let mut once = BTreeSet::new();
    let mut first = |f: &Found| once.insert((f.id.clone(), f.file.clone(), f.item.clone()));
    findings.uses.retain(&mut first);
    findings.notes.retain(&mut first);
    findings.tests.sort();
    findings.tests.dedup();
    findings.checks.sort();
    findings.checks.dedup();
    findings
}

/// Where the modules that a file declares are: `a/lib.rs` has them in `a/`,
/// `a/b.rs` in `a/b/`.
fn module_folder(file: &str) -> String {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    match stem {
        "lib" | "main" | "mod" => format!("{folder}/"),
        _ => format!("{folder}/{stem}/"),
    }
}

/// The ids at the head of a test's name. `rnd_02_rnd_53_x`, `syn_15_and_16_x`
/// and `rng_02_to_06_x` name more than one.
pub fn ids_of(test: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut words = test.split('_').peekable();
    let mut prefix = None;
    let mut last = 0;
    while let Some(word) = words.next() {
        let next = words.peek().copied().and_then(number);
        match (PREFIXES.iter().find(|p| p.eq_ignore_ascii_case(word)), next) {
            (Some(found), Some(n)) => {
                prefix = Some(*found);
                ids.push(format!("{found}-{n:02}"));
                last = n;
            }
            (None, Some(n)) if word == "and" || word == "to" => {
                let Some(prefix) = prefix else { break };
                let first = if word == "to" { last + 1 } else { n };
                ids.extend((first..=n).map(|n| format!("{prefix}-{n:02}")));
                last = n;
            }
            _ => break,
        }
        words.next();
    }
    ids
}

fn number(word: &str) -> Option<u8> {
    (word.len() == 2).then(|| word.parse().ok()).flatten()
}

/// `RND_16` as `RND-16`, if it has the form of an id.
fn id_of(name: &str) -> Option<String> {
    let (prefix, digits) = name.split_once('_')?;
    number(digits)?;
    PREFIXES
        .contains(&prefix)
        .then(|| format!("{prefix}-{digits}"))
}

/// What one file holds: id, line, item.
#[derive(Default)]
struct Source {
    uses: Vec<(String, usize, String)>,
    notes: Vec<(String, usize, String)>,
    tests: Vec<(String, usize, String)>,
    test_modules: Vec<String>,
    /// Words of each function.
    words: BTreeMap<String, BTreeSet<String>>,
}

/// The inside of a pair of braces.
#[derive(Clone, Default)]
struct Block {
    test: bool,
    item: String,
    /// Open parentheses and brackets.
    depth: usize,
}

/// What was said about the item that comes next.
#[derive(Default)]
struct Ahead {
    /// `#[cfg(test)]`
    only_tests: bool,
    /// `#[test]`
    is_test: bool,
    /// Its keyword was seen; a comma no longer ends it.
    started: bool,
    item: Option<String>,
    /// Notes in its comment, which get its name.
    notes: usize,
}

impl Ahead {
    fn name(&mut self, name: &str, notes: &mut [(String, usize, String)]) {
        let from = notes.len().saturating_sub(self.notes);
        for (_, _, item) in notes.iter_mut().skip(from).filter(|n| n.2.is_empty()) {
            *item = name.to_string();
        }
        self.notes = 0;
        self.item = Some(name.to_string());
        self.started = true;
    }
}

impl Source {
    /// Ids that each function speaks of, by itself or through functions of this
    /// file that it calls.
    fn spoken(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut all = BTreeMap::new();
        for name in self.words.keys() {
            let (mut ids, mut seen) = (BTreeSet::new(), BTreeSet::new());
            let mut ahead = vec![name];
            while let Some(next) = ahead.pop() {
                let Some(words) = self.words.get(next).filter(|_| seen.insert(next)) else {
                    continue;
                };
                for word in words {
                    ids.extend(id_of(word));
                    ahead.push(word);
                }
            }
            all.insert(name.clone(), ids);
        }
        all
    }

    fn read(text: &str) -> Source {
        let tokens = tokens(text);
        let word = |n: usize| tokens.get(n).map_or("", |t: &Token| t.text.as_str());
        let mut source = Source::default();
        let mut blocks = vec![];
        let mut block = Block::default();
        let mut ahead = Ahead::default();
        let mut i = 0;
        while i < tokens.len() {
            let line = tokens[i].line;
            if !block.item.is_empty() && is_name(word(i)) {
                let words = source.words.entry(block.item.clone()).or_default();
                words.insert(word(i).to_string());
            }
            match word(i) {
                "#" if word(i + 1) == "[" => {
                    let end = closing(&tokens, i + 1);
                    let inside: Vec<&str> = (i + 2..end).map(word).collect();
                    ahead.only_tests |= inside.first() == Some(&"cfg")
                        && inside.contains(&"test")
                        && !inside.contains(&"not");
                    ahead.is_test |= inside == ["test"];
                    i = end;
                }
                "mod" if is_name(word(i + 1)) => {
                    if ahead.only_tests && word(i + 2) == ";" {
                        source.test_modules.push(word(i + 1).to_string());
                    }
                    ahead.started = true;
                }
                "fn" if is_name(word(i + 1)) => {
                    let name = word(i + 1).to_string();
                    if ahead.is_test {
                        let ids = ids_of(&name);
                        let tests = ids.into_iter().map(|id| (id, line, name.clone()));
                        source.tests.extend(tests);
                    }
                    ahead.name(&name, &mut source.notes);
                }
                "const" | "static"
                    if is_name(word(i + 1))
                        && word(i + 2) == ":"
                        && !matches!(word(i.wrapping_sub(1)), "<" | ",") =>
                {
                    ahead.name(word(i + 1), &mut source.notes);
                }
                "struct" | "enum" | "trait" | "type" if is_name(word(i + 1)) => {
                    ahead.name(word(i + 1), &mut source.notes);
                }
                "impl" => ahead.started = true,
                note if note.starts_with("//")
                    && !(block.test || ahead.only_tests || ahead.is_test) =>
                {
                    let item = ahead.item.clone().unwrap_or_else(|| block.item.clone());
                    source.notes.push((note[2..].to_string(), line, item));
                    ahead.notes += 1;
                }
                "Rule" if word(i + 1) == ":" && word(i + 2) == ":" => {
                    let test = block.test || ahead.only_tests;
                    if let Some(id) = id_of(word(i + 3)).filter(|_| !test) {
                        let item = ahead.item.clone().unwrap_or_else(|| block.item.clone());
                        source.uses.push((id, line, item));
                    }
                }
                "(" | "[" => block.depth += 1,
                ")" | "]" => block.depth = block.depth.saturating_sub(1),
                "{" => {
                    let inner = Block {
                        test: block.test || ahead.only_tests || ahead.is_test,
                        item: ahead.item.take().unwrap_or_else(|| block.item.clone()),
                        depth: 0,
                    };
                    blocks.push(std::mem::replace(&mut block, inner));
                    ahead = Ahead::default();
                }
                "}" => {
                    block = blocks.pop().unwrap_or_default();
                    ahead = Ahead::default();
                }
                ";" if block.depth == 0 => ahead = Ahead::default(),
                "," if block.depth == 0 && !ahead.started => ahead = Ahead::default(),
                _ => {}
            }
            i += 1;
        }
        source
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Position of the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (n, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "[" => depth += 1,
            "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return n;
        }
    }
    tokens.len()
}

/// Ids in a comment, each with the number of lines before it.
fn named(comment: &str) -> impl Iterator<Item = (String, usize)> {
    comment.lines().enumerate().flat_map(|(below, line)| {
        line.split(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_')))
            .filter_map(|word| id_of(&word.replacen('-', "_", 1)))
            .map(move |id| (id, below))
    })
}

/// The tokens of a text. A comment is a `//RND-16` for each rule that it names,
/// a string a `RND_16` for each; other literals are left out.
fn tokens(text: &str) -> Vec<Token> {
    let ids = |token: Token, write: fn(String) -> String| -> Vec<Token> {
        named(&token.text)
            .map(|(id, below)| Token {
                kind: token.kind,
                text: write(id),
                line: token.line + below,
            })
            .collect()
    };
    let some = |token: Token| match token.kind {
        Kind::Code => vec![token],
        Kind::Comment => ids(token, |id| format!("//{id}")),
        Kind::String => ids(token, |id| id.replace('-', "_")),
        Kind::Literal => vec![],
    };
    tokens::read(text).into_iter().flat_map(some).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(found: &[Found]) -> Vec<(&str, &str, usize, &str)> {
        found
            .iter()
            .map(|f| (f.id.as_str(), f.file.as_str(), f.line, f.item.as_str()))
            .collect()
    }

    fn source(file: &str, text: &str) -> (String, String) {
        (file.to_string(), text.to_string())
    }

    #[test]
    fn code_counts_and_tests_do_not() {
        let text = r##"
            //! Rule::SYN_01 in prose, XSYN-01 and SYN-011 too
            use crate::Rule;
            const DOUBTED: [Rule; 2] = [Rule::NVS_25, Rule::NVS_26];
            fn judge<'a>(x: [u8; 4]) -> bool {
                let text = "Rule::SYN_02 { } #[cfg(test)]"; // Rule::SYN_03
                let raw = r#"Rule::SYN_04 " {"#;
                let quote = ('"', '\'', '{');
                if x[0] == 0 { return refuse(Rule::RND_16); }
                // RND-16: known already.
                refuse(Rule::RND_16) && refuse(Rule::all())
            }
            #[cfg(test)]
            fn helper() { refuse(Rule::SYN_05) }
            #[cfg(not(test))]
            fn real() { refuse(Rule::SYN_06) }
            struct S { #[cfg(test)] a: u8, b: u8 }
            fn after() { refuse(Rule::SYN_07) }
            #[cfg(test)]
            mod tests {
                fn inside() { refuse(Rule::SYN_08) }
                #[test]
                fn rnd_16_size() { assert!(refuse(Rule::RND_16)); }
                fn rnd_17_no_test() {}
            }
            #[cfg(test)]
            mod more;
        "##;
        let found = scan_sources(&[
            source("paravisor/x/src/a.rs", text),
            source("paravisor/x/src/a/more.rs", "fn f() { Rule::SYN_09 }"),
            source("paravisor/x/src/a/more/b.rs", "fn f() { Rule::SYN_09 }"),
            source("paravisor/x/src/a/morelike.rs", "fn f() { Rule::SYN_10 }"),
            source("paravisor/tests/t.rs", "fn f() { Rule::SYN_11 }"),
            source(
                "paravisor/validate/src/rule/syn.rs",
                "fn f() { Rule::SYN_12 }",
            ),
            source("tools/hostkit/src/lib.rs", "fn f() { Rule::SYN_13 }"),
        ]);
        let file = "paravisor/x/src/a.rs";
        assert_eq!(
            places(&found.uses),
            [
                ("NVS-25", file, 4, "DOUBTED"),
                ("NVS-26", file, 4, "DOUBTED"),
                ("RND-16", file, 9, "judge"),
                ("SYN-06", file, 16, "real"),
                ("SYN-07", file, 18, "after"),
                ("SYN-10", "paravisor/x/src/a/morelike.rs", 1, "f"),
            ]
        );
        assert_eq!(places(&found.tests), [("RND-16", file, 23, "rnd_16_size")]);
        assert_eq!(
            places(&found.notes),
            [("SYN-01", file, 2, ""), ("SYN-03", file, 6, "judge")]
        );
    }

    #[test]
    fn comments_belong_to_what_they_stand_at() {
        let text = "\
            /// Never read back (RNG-12),\n\
            /// RNG-13 neither.\n\
            pub fn mask() { /* x\n RNG-14 */ }\n\
            /// NVS-43\n\
            enum Message {\n\
                /// NVS-44\n\
                Gone,\n\
            }\n\
            /// SYN-02\n\
            impl Message {\n\
                /// SYN-03\n\
                const ALL: [u8; 2] = [0; 2];\n\
            }\n\
            #[cfg(test)]\n\
            mod tests { /* SYN-04 */ }\n";
        let file = "paravisor/x/src/a.rs";
        assert_eq!(
            places(&scan_sources(&[source(file, text)]).notes),
            [
                ("NVS-43", file, 5, "Message"),
                ("NVS-44", file, 7, "Message"),
                ("RNG-12", file, 1, "mask"),
                ("RNG-13", file, 2, "mask"),
                ("RNG-14", file, 4, "mask"),
                ("SYN-02", file, 10, ""),
                ("SYN-03", file, 12, "ALL"),
            ]
        );
    }

    #[test]
    fn tests_that_look_for_their_id() {
        let text = "\
            mod tests {\n\
                fn helper() { deeper() }\n\
                fn deeper() { assert(Rule::SYN_01) }\n\
                #[test] fn syn_01_by_helper() { helper() }\n\
                #[test] fn syn_02_by_code() { let x = [Rule::SYN_02]; }\n\
                #[test] fn syn_03_in_a_string() { says(\"SYN-03 at 4\") }\n\
                #[test] fn syn_04_of_another() { says(Rule::SYN_05) } // SYN-04\n\
            }\n";
        let found = scan_sources(&[source("tests/x.rs", text)]);
        let ids: Vec<&str> = found.checks.iter().map(|f| f.id.as_str()).collect();
        assert_eq!(ids, ["SYN-01", "SYN-02", "SYN-03"]);
        assert_eq!(found.tests.len(), 4);
    }

    #[test]
    fn names_of_tests() {
        assert_eq!(ids_of("rnd_16_ppi_size_zero"), ["RND-16"]);
        assert_eq!(ids_of("rnd_02_rnd_53_old_hosts"), ["RND-02", "RND-53"]);
        assert_eq!(ids_of("ctl_53_and_54_unload"), ["CTL-53", "CTL-54"]);
        assert_eq!(ids_of("rng_02_to_04_lies"), ["RNG-02", "RNG-03", "RNG-04"]);
        assert_eq!(ids_of("gpd_12_are_split_26_and_28"), ["GPD-12"]);
        assert_eq!(ids_of("rnd_16"), ["RND-16"]);
        for other in ["", "rnd", "rnd_x", "and_12", "x_rnd_16", "rnd_160", "_"] {
            assert!(ids_of(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn broken_source_ends() {
        for text in ["\"", "r#\"", "/*", "'\\", "#[", "fn", "}}}", "Rule::", "]"] {
            assert_eq!(
                scan_sources(&[source("paravisor/a.rs", text)]),
                Findings::default()
            );
        }
    }
}
