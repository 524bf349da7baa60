//! `cargo xtask miri`: the code nearest to shared memory under Miri, an interpreter
//! that finds undefined behaviour: shared memory itself, the rings, the guest's queues.
//! Tests that repeat themselves do so less often under it, and a few that would take
//! minutes and touch little memory are ignored there (`cfg(miri)` in the tests).

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::{fuzz, paths, process};

/// Packages, what their tests are named after, and what these are about.
const PARTS: [(&str, &[&str], &str); 3] = [
    ("undercroft-memory", &[], "shared memory, pool"),
    ("undercroft-vmbus", &["channel::"], "rings"),
    ("undercroft-devices", &["virtio::"], "the guest's queues"),
];

/// What came out of a package.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tests {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tests {
    /// Takes note of a line like `test result: ok. 13 passed; 0 failed; 1 ignored; …`.
    fn line(&mut self, line: &str) {
        let Some(numbers) = line.strip_prefix("test result: ") else {
            return;
        };
        let mut words = numbers
            .split([' ', ';', '.'])
            .filter(|word| !word.is_empty());
        let mut before = words.next().unwrap_or_default();
        for word in words {
            let number = before.parse().unwrap_or(0);
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
            before = word;
        }
    }
}

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
    let mut table = format!(
        "{:<20} {:<20} {:>6} {:>8} {:>6} {:>6}\n",
        "package", "what", "passed", "left out", "s", "cpu s"
    );
    for (package, filters, what) in PARTS {
        println!("miri: {package}, building");
        // Not of the time that is told: a first build is of the standard library too.
        let built = process::shown(&mut command(package, &["--no-run"]));
        println!("miri: {package}, {what}");
        let (started, cpu) = (Instant::now(), process::cpu_seconds_of_children());
        let mut tests = Tests::default();
        let ran = built.and_then(|()| {
            let mut command = command(package, &[]);
            command.arg("--").args(filters);
            process::shown_by_line(&mut command, |line| tests.line(line))
        });
        let cpu = process::cpu_seconds_of_children() - cpu;
        // No test at all is no success: something was renamed.
        if ran.is_err() || tests.passed == 0 {
            failed.push(package);
        }
        table += &format!(
            "{package:<20} {what:<20} {:>6} {:>8} {:>6.0} {cpu:>6.0}\n",
            tests.passed,
            tests.ignored,
            started.elapsed().as_secs_f64(),
        );
    }
    println!("\n{table}");
    if failed.is_empty() {
        return Ok(());
    }
    bail!("Miri found something in {}", failed.join(", "))
}

fn command(package: &str, arguments: &[&str]) -> Command {
    let mut command = fuzz::nightly("cargo", &["miri", "test", "--quiet", "--lib"]);
    command.args(["-p", package]).args(arguments);
    command.current_dir(paths::root());
    command.env("CARGO_TARGET_DIR", paths::target().join("miri"));
    command.env("MIRIFLAGS", FLAGS).env_remove("RUSTFLAGS");
    command
}

/// Pointers keep where they come from, alignment is judged by the type and not by luck.
/// Tests leak the memory that they share.
const FLAGS: &str = "-Zmiri-strict-provenance -Zmiri-symbolic-alignment-check -Zmiri-ignore-leaks";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_a_test_program_is_read() {
        let mut tests = Tests::default();
        tests.line("running 13 tests");
        tests.line(
            "test result: ok. 27 passed; 1 failed; 2 ignored; 0 measured; 65 filtered out; \
             finished in 27.10s",
        );
        let (passed, failed, ignored) = (27, 1, 2);
        assert_eq!(
            tests,
            Tests {
                passed,
                failed,
                ignored
            }
        );
    }
}
