//! What can go wrong, in words for the person at the console: what, where, and
//! what to do about it.

use std::path::PathBuf;

/// An error of this library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read the {what} {}: {source}; check the path and its permissions", path.display())]
    Read {
        /// What the file is for.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}; check the directory and its permissions", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Firmware that is not where it is looked for.
    #[error(
        "no {what} found, looked at: {}; build the firmware first (cargo xtask build) or name the file with --{what}",
        looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    FirmwareMissing {
        /// `stage` or `paravisor`.
        what: &'static str,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A kernel that cannot be started.
    #[error("kernel {name}: {problem}")]
    Kernel {
        /// Which file.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An initrd that cannot be used.
    #[error("initrd {name}: {problem}")]
    Initrd {
        /// Which file.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A command line that cannot be passed on.
    #[error("kernel command line: {0}")]
    CommandLine(String),
    /// A firmware ELF that cannot be placed.
    #[error("firmware {name}: {problem}")]
    Firmware {
        /// Which file.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An option without sense.
    #[error("{option}: {problem}")]
    Option {
        /// Which one.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An IGVM file that is damaged or not one.
    #[error("{name}: byte {offset:#x}: {problem}")]
    Igvm {
        /// Which file.
        name: String,
        /// Where in it.
        offset: usize,
        /// What is wrong there.
        problem: String,
    },
    /// An IGVM file for something else.
    #[error("{name}: {0}; this tool handles images for SEV-SNP", problem)]
    Platform {
        /// Which file.
        name: String,
        /// What it is for.
        problem: String,
    },
    /// Our measurement and the one of the `igvm` crate differ.
    #[error(
        "{name}: two calculations of the launch digest differ ({ours} and {theirs}); do not use this image, report it as a defect"
    )]
    DigestsDiffer {
        /// Which file.
        name: String,
        /// Ours, in hex.
        ours: String,
        /// The crate's, in hex.
        theirs: String,
    },
    /// An id that the catalogue of rules does not have.
    #[error("no rule {0}: {1}; `undercroft rules` shows what there is")]
    Rule(String, String),
    /// Something that cannot be: a defect of this tool.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
