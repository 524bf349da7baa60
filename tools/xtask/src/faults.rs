//! Things that go wrong on purpose (`cargo xtask run --fault NAME`). Two spoil the
//! image, two replace the guest's kernel; every other name is handed to the rig,
//! whose host then misbehaves by that scenario.

use std::path::Path;

use anyhow::{Context, Result};

use crate::guest::synthetic::Misdeed;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The image loses its last third.
    ImageTruncated,
    /// One measured byte of the image is flipped after it was measured.
    ImageFlipped,
    /// A tiny kernel instead of Linux.
    Guest(Misdeed),
    /// A scenario of the rig's host.
    Host(String),
}

impl Fault {
    /// By name, as on the command line. Any name is a fault: the rig knows its own.
    pub fn parse(name: &str) -> Result<Fault, std::convert::Infallible> {
        Ok(match name {
            "image-truncated" => Fault::ImageTruncated,
            "image-flipped" => Fault::ImageFlipped,
            "guest-triple-fault" => Fault::Guest(Misdeed::TripleFault),
            "guest-unknown-exit" => Fault::Guest(Misdeed::UnknownExit),
            other => Fault::Host(other.to_owned()),
        })
    }
}

/// Spoils the image file as `faults` ask.
pub fn spoil(image: &Path, faults: &[Fault]) -> Result<()> {
    for fault in faults {
        let mut raw = std::fs::read(image).context("cannot read the image")?;
        match fault {
            Fault::ImageTruncated => raw.truncate(raw.len() / 3 * 2),
            // Far behind the headers, in the guest's initrd or kernel.
            Fault::ImageFlipped => {
                let at = raw.len() / 4 * 3;
                if let Some(byte) = raw.get_mut(at) {
                    *byte ^= 0x10;
                }
            }
            Fault::Guest(_) | Fault::Host(_) => continue,
        }
        std::fs::write(image, raw).context("cannot write the image")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_changes_one_byte_and_a_cut_shortens() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        std::fs::write(&file, vec![0u8; 9000]).unwrap();
        spoil(&file, &[Fault::ImageFlipped]).unwrap();
        let raw = std::fs::read(&file).unwrap();
        assert_eq!(raw.iter().filter(|b| **b != 0).count(), 1);
        spoil(&file, &[Fault::ImageTruncated]).unwrap();
        assert_eq!(std::fs::read(&file).unwrap().len(), 6000);
    }

    #[test]
    fn unknown_names_are_the_rigs() {
        assert_eq!(Fault::parse("image-flipped"), Ok(Fault::ImageFlipped));
        assert_eq!(
            Fault::parse("no-version"),
            Ok(Fault::Host("no-version".into()))
        );
    }
}
