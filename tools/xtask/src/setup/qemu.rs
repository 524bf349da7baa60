//! QEMU 10 or newer: the one on PATH, else Debian's backport.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Pretend;
use super::apt::Apt;
use super::guest::archive;
use super::sources::os_release;
use crate::process;
use crate::ui::Step;

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// QEMU 7.2 ignores an intercept which the rig needs (XSETBV); 10.0 is tried.
const OLDEST: u32 = 10;

/// The program's path, after an installation if need be.
pub fn ensure(pretend: Pretend) -> Result<PathBuf> {
    let found = process::on_path(PROGRAM);
    let version = found.as_deref().map(version).transpose()?;
    if let (Some(path), Some(version)) = (&found, &version)
        && *version >= OLDEST
        && !pretend.no_qemu
    {
        return Ok(path.clone());
    }
    let have = match version {
        Some(version) if !pretend.no_qemu => format!("QEMU {version} is too old"),
        _ => "QEMU is missing".to_owned(),
    };
    let want = format!("{have}: install {PROGRAM} {OLDEST} or newer");
    if os_release("ID")? != "debian" || os_release("VERSION_CODENAME")? != "bookworm" {
        bail!("{want} (it is installed by itself on Debian 12 only)");
    }
    if !root()? {
        bail!("{want} (as root this would be done for you, from bookworm-backports)");
    }
    install(pretend.no_qemu)?;
    let path = process::on_path(PROGRAM).with_context(|| want.clone())?;
    if self::version(&path)? < OLDEST {
        bail!("{want} (the one that was installed is too old)");
    }
    Ok(path)
}

fn install(simulate: bool) -> Result<()> {
    let step = Step::new("installing QEMU from Debian's backports");
    let archive = archive()?;
    let suite = format!("{}-backports", archive.codename());
    let apt = Apt::new("qemu", &(archive.stable() + &archive.suite(&suite)))?;
    let result = apt
        .install_only_new(&[PACKAGE], &suite, simulate)
        .context("QEMU was not installed, nothing was changed")?;
    step.done(&result);
    Ok(())
}

/// The major version.
fn version(program: &Path) -> Result<u32> {
    let text = process::output(Command::new(program).arg("--version"))?;
    parse_version(&text).with_context(|| format!("{} tells no version", program.display()))
}

fn parse_version(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("version ")?;
    rest.split('.').next()?.parse().ok()
}

fn root() -> Result<bool> {
    Ok(process::output(Command::new("id").arg("-u"))?.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(
            parse_version("QEMU emulator version 10.0.2 (Debian 1:10)\nx"),
            Some(10)
        );
        assert_eq!(parse_version("QEMU emulator version 7.2.22"), Some(7));
        assert_eq!(parse_version("?"), None);
    }
}
