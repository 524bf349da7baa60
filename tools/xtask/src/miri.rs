//! `cargo xtask miri`: the code nearest to shared memory under Miri, an interpreter
//! that finds undefined behaviour: shared memory itself, the rings, the guest's queues.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::{fuzz, paths, process};

/// Packages with the tests that are worth their time: Miri is some hundred times slower
/// than the machine, and sweeps over every value show it nothing new.
const PARTS: [(&str, &[&str], &[&str]); 3] = [
    ("undercroft-memory", &[], &[]),
    (
        "undercroft-vmbus",
        &["channel::"],
        &["sweep", "every_", "random"],
    ),
    (
        "undercroft-devices",
        &["virtio::"],
        &["sweep", "every_", "random"],
    ),
];

/// Why Miri cannot run here.
fn missing() -> Option<&'static str> {
    let present = process::output(&mut fuzz::nightly("cargo", &["miri", "--version"])).is_ok();
    (!present).then_some(
        "Miri is left out, there is none: \
         `rustup toolchain install nightly --profile minimal --component miri,rust-src`",
    )
}

/// Runs the tests.
pub fn miri() -> Result<()> {
    if let Some(why) = missing() {
        println!("{why}");
        return Ok(());
    }
    let mut failed = Vec::new();
    for (package, filters, skipped) in PARTS {
        println!("miri: {package}");
        let started = Instant::now();
        if process::shown(&mut command(package, filters, skipped)).is_err() {
            failed.push(package);
        }
        println!("miri: {package}: {:.0} s", started.elapsed().as_secs_f64());
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("Miri found something in {}", failed.join(", "))
}

fn command(package: &str, filters: &[&str], skipped: &[&str]) -> Command {
    let mut command = fuzz::nightly("cargo", &["miri", "test", "--quiet", "--lib"]);
    command.args(["-p", package, "--"]).args(filters);
    command.args(skipped.iter().flat_map(|name| ["--skip", name]));
    command.current_dir(paths::root());
    command.env("CARGO_TARGET_DIR", paths::target().join("miri"));
    command.env("MIRIFLAGS", FLAGS).env_remove("RUSTFLAGS");
    command
}

/// Pointers keep where they come from, alignment is judged by the type and not by luck.
/// Tests leak the memory that they share.
const FLAGS: &str = "-Zmiri-strict-provenance -Zmiri-symbolic-alignment-check -Zmiri-ignore-leaks";
