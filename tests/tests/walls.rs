//! Walls of `docs/architecture.md` that a look at the source can hold up.

use std::fs;
use std::path::{Path, PathBuf};

/// Crates that see bytes of the host or the guest (wall 5).
const SEE_OUTSIDE_BYTES: [&str; 9] = [
    "loader/src/lib.rs",
    "paravisor/memory/src/lib.rs",
    "paravisor/validate/src/lib.rs",
    "paravisor/vmbus/src/lib.rs",
    "paravisor/netvsc/src/lib.rs",
    "paravisor/devices/src/lib.rs",
    "paravisor/platform/src/lib.rs",
    "paravisor/relay/src/lib.rs",
    "paravisor/src/lib.rs",
];

/// Crates without any `unsafe`.
const SAFE: [&str; 7] = [
    "abi/src/lib.rs",
    "paravisor/validate/src/lib.rs",
    "paravisor/vmbus/src/lib.rs",
    "paravisor/netvsc/src/lib.rs",
    "paravisor/devices/src/lib.rs",
    "paravisor/relay/src/lib.rs",
    "tools/hostkit/src/lib.rs",
];

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

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|why| panic!("{file}: {why}"))
}

/// The crate-level attribute that denies lints: in what runs, if not in its tests.
fn denied(source: &str) -> String {
    let source: String = source.split_whitespace().collect();
    let forms = ["#![deny(", "#![cfg_attr(not(test),deny("];
    let start = forms.iter().find_map(|form| source.find(form));
    let attribute = start.map_or("", |at| &source[at..]);
    attribute.split(")]").next().unwrap_or_default().to_owned()
}

#[test]
fn sys_01_wall_5_no_panic_lints_are_denied_where_outside_bytes_are_seen() {
    for file in SEE_OUTSIDE_BYTES
        .into_iter()
        .chain(["paravisor/src/main.rs", "loader/src/bin/stage/main.rs"])
    {
        let denied = denied(&read(file));
        for lint in NO_PANIC {
            assert!(denied.contains(lint), "SYS-01: {file} does not deny {lint}");
        }
    }
}

#[test]
fn crates_that_need_no_unsafe_forbid_it() {
    for file in SAFE {
        assert!(read(file).contains("#![forbid(unsafe_code)]"), "{file}");
    }
}

#[test]
fn wall_5_firmware_keeps_overflow_checks() {
    let manifest = read("Cargo.toml");
    let release = &manifest[manifest
        .find("[profile.release]")
        .expect("a release profile")..];
    let release = &release[..release.find("\n\n").unwrap_or(release.len())];
    assert!(release.contains("overflow-checks = true"), "{release}");
    assert!(manifest.contains("[profile.firmware]\ninherits = \"release\""));
}

/// The audit surface does no I/O and reads no shared memory (wall 2, and the
/// table of rooms): it knows `abi` and byte conversion, nothing else of ours.
#[test]
fn wall_2_validate_knows_no_memory_and_no_channel() {
    let manifest = read("paravisor/validate/Cargo.toml");
    let dependencies = &manifest[manifest.find("[dependencies]").expect("dependencies")..];
    let dependencies = dependencies.split("\n[").next().unwrap_or_default();
    for room in [
        "memory", "vmbus", "netvsc", "devices", "platform", "relay", "log",
    ] {
        assert!(
            !dependencies.lines().any(|line| line.starts_with(room)),
            "validate depends on {room}"
        );
    }
}

/// The sources of the firmware below `dir`, with their paths from the root.
fn sources(dir: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(dir)).unwrap_or_else(|why| panic!("{dir}: {why}")) {
        let entry = entry.expect("an entry");
        let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a type").is_dir() {
            found.extend(sources(&name));
        } else if name.ends_with(".rs") {
            found.push((name.clone(), read(&name)));
        }
    }
    found
}

/// Everything of `text` that is neither a comment nor in its tests.
fn code(text: &str) -> String {
    let text = text.split("\nmod tests {").next().unwrap_or_default();
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// RNG-21 and the ordering of RNG-07: one file reaches shared memory, by string
/// moves and atomics; nobody else knows where it is mapped; and nothing that the
/// trait offers is a reference into it.
#[test]
fn rng_21_rng_07_shared_memory_is_reached_in_one_place() {
    let files: Vec<_> = ["paravisor", "loader/src"]
        .into_iter()
        .flat_map(sources)
        .collect();
    assert!(files.len() > 80, "{}", files.len());
    let with = |word: &str| -> Vec<&str> {
        let has = |(_, text): &&(String, String)| code(text).contains(word);
        let mut names: Vec<_> = files.iter().filter(has).map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names
    };
    // Beside the firmware's a process' own memory, in builds for tests only.
    assert_eq!(
        with("RawShared::new("),
        [
            "paravisor/memory/src/native.rs",
            "paravisor/src/arch/memory.rs"
        ],
        "RNG-21"
    );
    let room = read("paravisor/memory/src/lib.rs");
    let for_tests = "#[cfg(any(test, feature = \"test-support\"))]\nmod native;";
    assert!(room.contains(for_tests), "RNG-21");
    assert_eq!(
        with("SHARED_WINDOW"),
        [
            "loader/src/layout.rs",
            "loader/src/page_tables.rs",
            "paravisor/src/arch/memory.rs"
        ],
        "RNG-21"
    );

    let raw = code(&read("paravisor/memory/src/raw.rs"));
    for way in [
        "from_raw_parts",
        "&*",
        "&mut *",
        "as_ref(",
        "as_mut(",
        ".read(",
        ".write(",
    ] {
        assert!(!raw.contains(way), "RNG-21: {way}");
    }
    assert!(raw.contains(".load(Ordering::Acquire)"), "RNG-07");
    assert!(raw.contains(".store(value, Ordering::Release)"), "RNG-25");

    let room = code(&read("paravisor/memory/src/lib.rs"));
    let offered = room
        .split("pub trait SharedMemory {")
        .nth(1)
        .expect("the trait");
    let offered = &offered[..offered.find("\n}").expect("its end")];
    let results: Vec<_> = offered
        .lines()
        .filter_map(|line| line.split("->").nth(1))
        .collect();
    assert!(results.len() >= 9, "{offered}");
    for result in results {
        assert!(
            !result.contains('&') && !result.contains('*'),
            "RNG-21: {result}"
        );
    }
}

/// SYN-30: our own code reads no CPUID leaf, neither by the instruction nor by a
/// request to the host. What it knows of the machine is measured, or comes from the
/// page that the firmware has checked.
#[test]
fn syn_30_firmware_asks_nobody_for_a_hypervisor_leaf() {
    let files = ["paravisor", "loader/src"].into_iter().flat_map(sources);
    // A test double asks the machine that the tests run on.
    for (name, text) in files.filter(|(name, _)| !name.ends_with("test_support.rs")) {
        for word in [
            "__cpuid",
            "asm!(\"cpuid",
            "cpuid::LEAF_",
            "code: exit::CPUID",
        ] {
            let text = code(&text);
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(!text.contains(word), "SYN-30: {word} in {name}");
        }
    }
}
