//! Where a lint against panics is lifted, the reason stands beside it (wall 5).

use std::fs;
use std::path::{Path, PathBuf};

const NO_PANIC: [&str; 5] = [
    "clippy::indexing_slicing",
    "clippy::unwrap_used",
    "clippy::expect_used",
    "clippy::panic",
    "clippy::arithmetic_side_effects",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Source folders of the crates that see bytes of the host or the guest.
const FOLDERS: [&str; 9] = [
    "loader/src",
    "paravisor/memory/src",
    "paravisor/validate/src",
    "paravisor/vmbus/src",
    "paravisor/netvsc/src",
    "paravisor/devices/src",
    "paravisor/platform/src",
    "paravisor/relay/src",
    "paravisor/src",
];

/// SYS-01: where one of these lints is lifted, the reason stands in the attribute
/// itself. In tests none needs to be: each crate denies them in what runs.
#[test]
fn sys_01_a_lifted_lint_has_its_reason() {
    let mut lifted = 0;
    for folder in FOLDERS {
        sources(&root().join(folder), &mut |path, source| {
            let lines = without_reason(source, &mut lifted);
            assert!(
                lines.is_empty(),
                "SYS-01: {}: a lint against panics is lifted without `reason` in lines {lines:?}",
                path.display()
            );
        });
    }
    assert!(lifted > 0, "the scan finds nothing any more");
}

/// Every Rust file below a folder.
fn sources(folder: &Path, see: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).expect("a folder of ours") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, see);
        } else if path.extension().is_some_and(|e| e == "rs") {
            see(&path, &fs::read_to_string(&path).expect("readable source"));
        }
    }
}

/// Lines of attributes that lift a lint against panics and do not say why.
fn without_reason(source: &str, lifted: &mut usize) -> Vec<usize> {
    let mut lines = Vec::new();
    let starts = ["[allow(", "[expect(", " allow(", " expect("];
    let mut found: Vec<usize> = starts
        .iter()
        .flat_map(|start| source.match_indices(start).map(|(at, _)| at))
        .collect();
    found.sort_unstable();
    for at in found {
        let rest = &source[at..];
        let attribute = &rest[..rest.find(")]").unwrap_or(rest.len())];
        let line_start = source[..at].rfind('\n').map_or(0, |n| n + 1);
        let is_code = source[line_start..at].trim_start().starts_with('#');
        if !is_code || !NO_PANIC.iter().any(|lint| attribute.contains(lint)) {
            continue;
        }
        *lifted += 1;
        if !attribute.contains("reason = \"") {
            lines.push(source[..at].matches('\n').count() + 1);
        }
    }
    lines
}

#[test]
fn the_scan_for_reasons_tells_apart() {
    for (source, expected) in [
        ("#[allow(clippy::panic)]\nfn f() {}", vec![1]),
        ("\n#![expect(\n    clippy::unwrap_used\n)]", vec![2]),
        ("#[cfg_attr(x, allow(clippy::panic))]\nfn f() {}", vec![1]),
        (
            "#[allow(clippy::panic, reason = \"a bug of ours\")]",
            vec![],
        ),
        (
            "#[cfg(test)]\n#[allow(clippy::panic)]\nmod tests {}",
            vec![2],
        ),
        (
            "#[cfg(test)]\nmod tests {\n    #![allow(clippy::panic)]\n}",
            vec![3],
        ),
        ("// #[allow(clippy::panic)] in a comment", vec![]),
        ("#[allow(dead_code)]", vec![]),
    ] {
        assert_eq!(without_reason(source, &mut 0), expected, "{source}");
    }
}
