//! Debian's kernels and busybox, fetched as packages and unpacked into the build
//! directory; nothing is installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::apt::Apt;
use super::sources::{self, Archive};
use super::{Flavour, KernelVersion};
use crate::paths;
use crate::process;
use crate::ui::Step;

/// The Debian release whose kernels we use.
const RELEASE: &str = "bookworm";
const STAMP: &str = "undercroft.json";

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// `lib/modules/<release>`.
    pub modules: PathBuf,
    /// `uname -r`.
    pub release: String,
    /// The package's version.
    pub version: String,
}

/// Written last: a folder with it is complete.
#[derive(Serialize, Deserialize)]
struct Stamp {
    package: String,
    version: String,
}

/// The kernel of this version, fetched if it is not there.
pub fn kernel(version: KernelVersion, flavour: Flavour) -> Result<Kernel> {
    let (suffix, metapackage) = match flavour {
        Flavour::Cloud => ("", "linux-image-cloud-amd64"),
        Flavour::Generic => ("-generic", "linux-image-amd64"),
    };
    let name = format!("{}{suffix}", version.name());
    let dir = paths::guest().join(&name);
    let stamp = ensure(&dir, &format!("kernel {name}"), || {
        let archive = archive()?;
        let (name, text) = match version {
            KernelVersion::V6_1 => ("stable", archive.stable()),
            KernelVersion::V6_12 => (
                "backports",
                archive.suite(&format!("{}-backports", archive.codename())),
            ),
        };
        let apt = Apt::new(name, &text)?;
        let package = apt.resolve(metapackage, &format!("linux-image-{}.", version.name()))?;
        Ok((apt, package))
    })?;
    let release = stamp.package.trim_start_matches("linux-image-").to_owned();
    let image = dir.join("boot").join(format!("vmlinuz-{release}"));
    let modules = dir.join("lib/modules").join(&release);
    if !image.is_file() || !modules.is_dir() {
        bail!("{} is incomplete: remove it and try again", dir.display());
    }
    Ok(Kernel {
        image,
        modules,
        release,
        version: stamp.version,
    })
}

/// busybox, fetched if it is not there.
pub fn busybox() -> Result<PathBuf> {
    let dir = paths::guest().join("busybox");
    ensure(&dir, "busybox", || {
        Ok((
            Apt::new("stable", &archive()?.stable())?,
            "busybox-static".to_owned(),
        ))
    })?;
    let program = ["bin/busybox", "usr/bin/busybox"]
        .into_iter()
        .map(|name| dir.join(name))
        .find(|path| path.is_file());
    program.with_context(|| format!("{} is incomplete: remove it and try again", dir.display()))
}

fn ensure(dir: &Path, what: &str, find: impl FnOnce() -> Result<(Apt, String)>) -> Result<Stamp> {
    let file = dir.join(STAMP);
    if let Ok(text) = std::fs::read_to_string(&file)
        && let Ok(stamp) = serde_json::from_str(&text)
    {
        return Ok(stamp);
    }
    let step = Step::new(format!("fetching the guest's {what} from Debian"));
    std::fs::create_dir_all(paths::guest()).context("cannot create the guest folder")?;
    let (apt, package) = find()?;
    step.say(&package);
    let version = apt.unpack(&package, dir)?;
    let stamp = Stamp { package, version };
    std::fs::write(&file, serde_json::to_string(&stamp)?).context("cannot write a stamp file")?;
    step.done(&format!("{} {}", stamp.package, stamp.version));
    Ok(stamp)
}

/// Debian's archive as this machine knows it.
pub fn archive() -> Result<Archive> {
    if sources::os_release("VERSION_CODENAME")? != RELEASE || sources::os_release("ID")? != "debian"
    {
        bail!(
            "this is not Debian 12, so the guest's kernel cannot be fetched: \
             give your own with --kernel and --initrd"
        );
    }
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        if process::on_path(program).is_none() {
            bail!("{program} is missing: install the packages apt and dpkg");
        }
    }
    Archive::find(&sources::read(Path::new("/etc/apt"))?, RELEASE)
}
