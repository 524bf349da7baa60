//! Builds what runs in the virtual machine (stage, paravisor, rig) and the tool
//! that makes an image of it, and calls that tool.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::nic::Nic;
use crate::setup::Target;
use crate::setup::target::TRIPLE;
use crate::ui::Step;
use crate::{paths, process, setup};

/// Cargo profile of the firmware.
const PROFILE: &str = "firmware";
/// Number of the page tables' C bit in the rig: QEMU has 48 physical address bits.
const C_BIT: &str = "47";

/// Paths of what was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// First stage (ELF).
    pub stage: PathBuf,
    /// Paravisor (ELF).
    pub paravisor: PathBuf,
    /// Hypervisor for QEMU (ELF).
    pub rig: PathBuf,
    /// The image tool.
    pub tool: PathBuf,
}

/// Builds everything; what is up to date costs a second.
pub fn build() -> Result<Built> {
    let (stage, paravisor) = in_image()?;
    let built = Built {
        stage,
        paravisor,
        rig: rig()?,
        tool: paths::target().join("debug/undercroft"),
    };
    let mut tool = cargo();
    tool.args(["build", "-p", "undercroft"]);
    run("undercroft", &mut tool)?;
    Ok(built)
}

/// Builds what is in the image: stage and paravisor.
pub fn in_image() -> Result<(PathBuf, PathBuf)> {
    let target = setup::target()?;
    let stage = &[
        "-p",
        "undercroft-loader",
        "--features",
        "stage",
        "--bin",
        "stage",
    ];
    // One call each: together, cargo would unite the features of their dependencies.
    Ok((
        firmware(&target, "stage", stage)?,
        firmware(&target, "paravisor", &["-p", "paravisor"])?,
    ))
}

/// Builds the rig alone.
pub fn rig() -> Result<PathBuf> {
    firmware(&setup::target()?, "rig", &["-p", "rig", "--bin", "rig"])
}

fn firmware(target: &Target, name: &str, what: &[&str]) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--profile", PROFILE]).args(what);
    target.apply(&mut command);
    run(name, &mut command)?;
    let file = paths::target().join(TRIPLE).join(PROFILE).join(name);
    if !file.is_file() {
        bail!("the build of {name} left no {}", file.display());
    }
    Ok(file)
}

fn run(name: &str, command: &mut Command) -> Result<()> {
    let step = Step::new(format!("building {name}"));
    process::output(command.arg("--quiet")).with_context(|| format!("cannot build {name}"))?;
    step.done("");
    Ok(())
}

/// Cargo without flags of the user's that are meant for other targets.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command
        .current_dir(paths::root())
        .env("CARGO_TARGET_DIR", paths::target())
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// The guest's part of an image.
pub struct Payload<'a> {
    /// The bzImage.
    pub kernel: &'a Path,
    /// The initrd, if there is one.
    pub initrd: Option<&'a Path>,
    /// The whole command line.
    pub append: &'a str,
    /// The network card that it sees.
    pub nic: Nic,
}

impl Built {
    /// Makes an image for the rig, with the debug console on.
    pub fn image(&self, payload: &Payload<'_>, out: &Path) -> Result<()> {
        let mut command = Command::new(&self.tool);
        command.args([
            "image",
            "--platform",
            "snp",
            "--debug-console",
            "--c-bit",
            C_BIT,
        ]);
        command
            .arg("--stage")
            .arg(&self.stage)
            .arg("--paravisor")
            .arg(&self.paravisor);
        command
            .arg("--kernel")
            .arg(payload.kernel)
            .args(["--append", payload.append])
            .args(["--nic", payload.nic.name()]);
        if let Some(initrd) = payload.initrd {
            command.arg("--initrd").arg(initrd);
        }
        process::output(command.arg("-o").arg(out)).context("cannot make the image")?;
        Ok(())
    }

    /// The launch digest by the tool, in hex.
    pub fn measure(&self, image: &Path) -> Result<String> {
        let text = process::output(Command::new(&self.tool).arg("measure").arg(image))
            .context("cannot measure the image")?;
        first_digest(&text)
            .with_context(|| format!("undercroft measure printed no digest: {}", text.trim()))
    }
}

/// The first word of 96 hex digits (a SHA-384).
fn first_digest(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .find(|word| word.len() == 96 && word.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_digest_is_found_in_prose() {
        let hex = "AB".repeat(48);
        let text = format!("snp launch digest: {hex}\n");
        assert_eq!(super::first_digest(&text), Some(hex.to_lowercase()));
        assert_eq!(super::first_digest("no digest here"), None);
    }
}
