//! The library behind the `undercroft` command: build an image, measure it,
//! look into it. No console output here; everything returns values or an
//! [`Error`] that says what is wrong, where, and what to do.
//!
//! * [`image::build`] turns firmware, kernel, initrd and command line into the
//!   bytes of an IGVM file. The same inputs give the same bytes.
//! * [`measure::measure`] computes the launch digest twice, independently.
//! * [`inspect::inspect`] describes a file for people and programs.
//! * [`rules::catalogue`] is every rule for host messages, with code and tests.
//! * [`audit::audit`] replays a trace and judges every host message in it.
//! * [`testkit`] makes tiny kernels and firmware for tests.

pub mod audit;
pub mod error;
pub mod file;
pub mod firmware;
pub mod image;
pub mod inspect;
pub mod kernel;
pub mod measure;
pub mod rules;
pub mod testkit;
pub mod vmsa;

pub use error::Error;

/// A file's content together with the name that messages use for it.
#[derive(Clone, Debug)]
pub struct Input {
    /// Path or any other name.
    pub name: String,
    /// Content.
    pub bytes: Vec<u8>,
}

impl Input {
    /// Content that does not come from a file.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Input {
        Input {
            name: name.into(),
            bytes,
        }
    }

    /// Reads a file; `what` names its purpose in messages ("kernel").
    pub fn read(what: &'static str, path: &std::path::Path) -> Result<Input, Error> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Input::new(path.display().to_string(), bytes)),
            Err(source) => Err(Error::Read {
                what,
                path: path.to_owned(),
                source,
            }),
        }
    }
}
