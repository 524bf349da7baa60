//! The words of the rig's command line.

use loader::layout;

/// What the user may say.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `memory=512M`: the VM's memory, bytes.
    pub memory: u64,
    /// `limit=120`: seconds after which the run ends by itself.
    pub limit: u64,
    /// `digest=HEX`: refuse an image with another launch digest.
    pub digest: Option<&'static str>,
    /// `selftest`: run the rig's own payload instead of an image.
    pub selftest: bool,
}

/// Reads the words; the error is the word that makes no sense.
pub fn parse(line: &'static str) -> Result<Options, &'static str> {
    let mut options = Options {
        memory: layout::MEMORY_DEFAULT,
        limit: 120,
        digest: None,
        selftest: false,
    };
    for word in line.split_ascii_whitespace() {
        let ok = match word.split_once('=') {
            Some(("memory", size)) => bytes(size)
                .filter(|m| layout::memory_size_ok(*m))
                .map(|m| options.memory = m)
                .is_some(),
            Some(("limit", seconds)) => seconds.parse().map(|s| options.limit = s).is_ok(),
            Some(("digest", hex)) => {
                options.digest = Some(hex);
                hex.len() == 96
            }
            None if word == "selftest" => {
                options.selftest = true;
                true
            }
            // QEMU may put the kernel's name in front.
            _ => word.contains('/') || word.ends_with(".elf"),
        };
        if !ok {
            return Err(word);
        }
    }
    Ok(options)
}

fn bytes(size: &str) -> Option<u64> {
    let (number, shift) = match size.strip_suffix(['M', 'm']) {
        Some(n) => (n, 20),
        None => match size.strip_suffix(['G', 'g']) {
            Some(n) => (n, 30),
            None => (size, 0),
        },
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_shl(shift)
        .filter(|m| m >> shift != 0)
}
