//! Where things are: the checkout, the build directory and what we keep in it.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .components()
        .collect::<PathBuf>()
        .normal()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Kernels and busybox, one folder each.
pub fn guest() -> PathBuf {
    target().join("guest")
}

/// Package lists, downloads and locks of our own apt configurations.
pub fn setup() -> PathBuf {
    target().join("setup")
}

trait Normal {
    fn normal(self) -> PathBuf;
}

impl Normal for PathBuf {
    /// Removes `a/..` pairs, without asking the file system.
    fn normal(self) -> PathBuf {
        let mut out = PathBuf::new();
        for part in self.components() {
            match part {
                std::path::Component::ParentDir => {
                    out.pop();
                }
                other => out.push(other),
            }
        }
        out
    }
}
