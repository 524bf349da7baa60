//! The Rust target of the firmware: installed, or brought by rustup, or its `core`
//! and `alloc` built from source.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::Pretend;
use super::apt::Apt;
use super::guest::archive;
use crate::ui::Step;
use crate::{paths, process};

/// The firmware's target.
pub const TRIPLE: &str = "x86_64-unknown-none";
/// The suite that had the source of our compiler's library.
const SOURCE_SUITE: &str = "trixie-backports";
/// The compiler's version, as `rust-toolchain.toml` has it.
const RUST: &str = "1.95.0";

/// How the firmware is built.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The library's source if `core` has to be built from it.
    source: Option<PathBuf>,
}

impl Target {
    /// Adds what `cargo build` needs for the target.
    pub fn apply(&self, command: &mut Command) {
        command.args(["--target", TRIPLE]);
        let flags: Vec<String> = self
            .renamed()
            .iter()
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
            .collect();
        // Cargo joins this list to that of `.cargo/config.toml`.
        command
            .arg("--config")
            .arg(format!("target.{TRIPLE}.rustflags={flags:?}"));
        if let Some(source) = &self.source {
            command
                .env("RUSTC_BOOTSTRAP", "1")
                .env("__CARGO_TESTS_ONLY_SRC_ROOT", source)
                .arg("-Zbuild-std=core,alloc,compiler_builtins")
                .arg("-Zbuild-std-features=compiler-builtins-mem");
        }
    }
}

impl Target {
    /// Folders of the builder's machine, and what panic messages in the image call them
    /// instead: who builds elsewhere, or gets crates from a mirror, gets the same bytes.
    /// Of two that match, rustc takes the later one.
    fn renamed(&self) -> Vec<(PathBuf, &'static str)> {
        let home = cargo_home();
        let mut out = vec![(home.clone(), "/cargo")];
        // A folder for each registry, named after its host.
        let registries = std::fs::read_dir(home.join("registry/src"));
        let mut registries: Vec<PathBuf> = registries
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        registries.sort();
        out.extend(registries.into_iter().map(|dir| (dir, "/crates")));
        if let Some(source) = &self.source {
            out.push((source.clone(), "/rust/library"));
        }
        out
    }
}

/// Cargo's own folder.
pub fn cargo_home() -> PathBuf {
    let home = || std::env::home_dir().map(|home| home.join(".cargo"));
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_default()
}

/// Finds a way to build for the target.
pub fn ensure(pretend: Pretend) -> Result<Target> {
    if !pretend.no_target {
        if installed()? {
            return Ok(Target::default());
        }
        if process::on_path("rustup").is_some() {
            let step = Step::new(format!("adding the Rust target {TRIPLE}"));
            let added = process::output(
                Command::new("rustup")
                    .args(["target", "add", TRIPLE])
                    .current_dir(paths::root()),
            );
            if added.is_ok() && installed()? {
                step.done("");
                return Ok(Target::default());
            }
        }
    }
    // Somebody may have added rustup's rust-src component.
    let component = sysroot()?.join("lib/rustlib/src/rust/library");
    if component.join("core/src/lib.rs").is_file() {
        return Ok(Target {
            source: Some(component),
        });
    }
    let dir = paths::setup().join(format!("rust-src-{RUST}"));
    let library = dir.join(format!("usr/src/rustc-{RUST}/library"));
    if !library.is_dir()
        && let Err(why) = from_debian(&dir, &library)
    {
        bail!(
            "the Rust target {TRIPLE} is missing: run `rustup target add {TRIPLE}` \
             (its source as another way out: {why:#})"
        );
    }
    Ok(Target {
        source: Some(library),
    })
}

fn from_debian(dir: &Path, library: &Path) -> Result<()> {
    let step = Step::new("fetching the source of Rust's core library from Debian");
    let apt = Apt::new("rust", &archive()?.suite(SOURCE_SUITE))?;
    let version = apt.version("rust-src")?;
    if !version.starts_with(RUST) {
        bail!("Debian has Rust {version} now, not {RUST}");
    }
    apt.unpack("rust-src", dir)?;
    if !library.is_dir() {
        bail!(
            "the package rust-src {version} has no {}",
            library.display()
        );
    }
    step.done(&version);
    Ok(())
}

fn sysroot() -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    let root = process::output(
        rustc
            .args(["--print", "sysroot"])
            .current_dir(paths::root()),
    )?;
    Ok(PathBuf::from(root.trim()))
}

fn installed() -> Result<bool> {
    Ok(sysroot()?
        .join("lib/rustlib")
        .join(TRIPLE)
        .join("lib")
        .is_dir())
}
