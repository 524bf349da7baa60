//! Brings what a run needs: the Rust target, QEMU, guest kernels, busybox. Does
//! only what is missing, so that a second call is instant and needs no network.

pub mod apt;
pub mod guest;
pub mod qemu;
pub mod sources;
pub mod target;

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::paths;
use crate::ui::Step;

pub use guest::Kernel;
pub use target::Target;

/// Debian's kernels that we test with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelVersion {
    /// Linux 6.1 of Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Linux 6.12 of Debian 12's backports.
    #[value(name = "6.12")]
    V6_12,
}

impl KernelVersion {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KernelVersion::V6_1 => "6.1",
            KernelVersion::V6_12 => "6.12",
        }
    }
}

/// Which of Debian's kernels of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// For virtual machines.
    Cloud,
    /// For all machines.
    Generic,
}

/// For trying the installers on a machine that has everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pretend {
    /// As if rustup could not bring the target.
    pub no_target: bool,
    /// As if there were no QEMU; only simulates the installation.
    pub no_qemu: bool,
}

/// Held while we change anything: two calls at once wait for each other.
pub struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Takes the lock.
pub fn lock() -> Result<Lock> {
    std::fs::create_dir_all(paths::setup()).context("cannot create the build directory")?;
    let file = File::create(paths::setup().join("lock")).context("cannot create a lock file")?;
    if file.try_lock().is_err() {
        let step = Step::new("waiting for another cargo xtask to finish its setup");
        file.lock().context("cannot take the setup lock")?;
        step.done("");
    }
    Ok(Lock(file))
}

/// The kernels that most runs use.
pub const CLOUD_KERNELS: [(KernelVersion, Flavour); 2] = [
    (KernelVersion::V6_1, Flavour::Cloud),
    (KernelVersion::V6_12, Flavour::Cloud),
];

/// Everything at once, for `cargo xtask setup` and `cargo xtask test`.
pub fn all(kernels: &[(KernelVersion, Flavour)], pretend: Pretend) -> Result<()> {
    let _lock = lock()?;
    target::ensure(pretend)?;
    qemu::ensure(pretend)?;
    guest::busybox()?;
    for (version, flavour) in kernels {
        guest::kernel(*version, *flavour)?;
    }
    Ok(())
}

/// What a boot needs.
pub struct Guest {
    /// busybox, static.
    pub busybox: PathBuf,
    /// The kernel and its modules.
    pub kernel: Kernel,
}

/// QEMU's program, installed if need be.
pub fn qemu() -> Result<PathBuf> {
    let _lock = lock()?;
    qemu::ensure(Pretend::default())
}

/// The Rust target, installed if need be.
pub fn target() -> Result<Target> {
    let _lock = lock()?;
    target::ensure(Pretend::default())
}

/// A kernel with busybox, fetched if need be.
pub fn guest(version: KernelVersion, flavour: Flavour) -> Result<Guest> {
    let _lock = lock()?;
    Ok(Guest {
        busybox: guest::busybox()?,
        kernel: guest::kernel(version, flavour)?,
    })
}
