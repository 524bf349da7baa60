//! What can go wrong below the paravisor.

use abi::record::Outcome;
use core::fmt;

/// Why a request failed. Every variant says what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The host answered with something that the protocol does not have.
    Malformed {
        /// What was asked for.
        request: &'static str,
        /// The answer.
        value: u64,
    },
    /// The host said no.
    Refused {
        /// What was asked for.
        request: &'static str,
        /// The reason it gave.
        status: u64,
    },
    /// The host reports or needs something that this image does not do.
    Unsupported {
        /// What was asked for.
        request: &'static str,
        /// What it said.
        value: u64,
    },
    /// An instruction that changes the owner or the rights of a page failed.
    Page {
        /// Its name.
        instruction: &'static str,
        /// The page.
        gpa: u64,
        /// The instruction's return code.
        code: u32,
    },
    /// A page that was never accepted was already validated: somebody put a used
    /// page back.
    Replayed {
        /// The page.
        gpa: u64,
    },
    /// The caller's input does not fit (a bug of ours, never of the host).
    Input {
        /// What was asked for.
        request: &'static str,
    },
}

impl Error {
    /// How a run ends that cannot go on after this error.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Malformed { .. } | Error::Refused { .. } | Error::Unsupported { .. } => {
                Outcome::HostFailure
            }
            Error::Page { .. } | Error::Replayed { .. } => Outcome::MemoryFailure,
            Error::Input { .. } => Outcome::Panic,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Malformed { request, value } => {
                write!(f, "{request}: malformed answer {value:#x}")
            }
            Error::Refused { request, status } => write!(f, "{request}: refused with {status:#x}"),
            Error::Unsupported { request, value } => write!(f, "{request}: unsupported {value:#x}"),
            Error::Page {
                instruction,
                gpa,
                code,
            } => {
                write!(f, "{instruction} of page {gpa:#x}: code {code}")
            }
            Error::Replayed { gpa } => write!(f, "page {gpa:#x} was validated before"),
            Error::Input { request } => write!(f, "{request}: input does not fit"),
        }
    }
}
