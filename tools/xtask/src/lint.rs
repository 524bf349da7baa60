//! `cargo xtask lint`: formatting and clippy over everything, on this machine's
//! target and on the firmware's. The walls of `docs/architecture.md` against
//! panics are clippy lints: nothing enforces them but this.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::Target;
use crate::ui::Step;
use crate::{firmware, process, setup};

/// The firmware's programs: those that exist for its target only.
const PROGRAMS: [&[&str]; 3] = [
    &[
        "-p",
        "undercroft-loader",
        "--features",
        "stage",
        "--bin",
        "stage",
    ],
    &["-p", "paravisor", "--bin", "paravisor"],
    &["-p", "rig", "--bin", "rig"],
];

/// Lints everything; fails if there is anything to say.
pub fn lint() -> Result<()> {
    components()?;
    let target = setup::target()?;
    step(
        "formatting",
        firmware::cargo().args(["fmt", "--all", "--check"]),
    )?;
    step(
        "lints of what runs here",
        firmware::cargo()
            .args(["clippy", "--quiet", "--workspace", "--all-targets"])
            .args(DENY),
    )?;
    for program in PROGRAMS {
        step(
            &format!("lints of {}", program[program.len() - 1]),
            &mut clippy(&target, program),
        )?;
    }
    Ok(())
}

/// A warning is as bad as an error.
const DENY: [&str; 3] = ["--", "-D", "warnings"];

fn clippy(target: &Target, program: &[&str]) -> Command {
    let mut command = firmware::cargo();
    command.args(["clippy", "--quiet"]).args(program);
    target.apply(&mut command);
    command.args(DENY);
    command
}

fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("lint: {what}");
    process::shown(command).with_context(|| format!("{what}: not clean"))
}

/// rustfmt and clippy, which `rust-toolchain.toml` names; a rustup that installs
/// nothing by itself is asked to.
fn components() -> Result<()> {
    let present = |tool: &str| process::output(firmware::cargo().args([tool, "--version"])).is_ok();
    if present("clippy") && present("fmt") {
        return Ok(());
    }
    let step = Step::new("adding clippy and rustfmt");
    let added =
        process::output(Command::new("rustup").args(["component", "add", "clippy", "rustfmt"]));
    if added.is_err() || !(present("clippy") && present("fmt")) {
        bail!("clippy or rustfmt is missing: run `rustup component add clippy rustfmt`");
    }
    step.done("");
    Ok(())
}
