//! The words of the rig's command line.

use crate::selftest::Kind;
use abi::vmbus::Version;
use hostkit::fault::Faults;
use loader::layout;

/// What lies behind the VM's NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// QEMU's virtio-net, or nothing if there is none.
    Card,
    /// Every frame comes back.
    Loopback,
    /// Nothing.
    None,
}

/// What the user may say.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `memory=512M`: the VM's memory, bytes.
    pub memory: u64,
    /// `limit=120`: seconds after which the run ends by itself.
    pub limit: u64,
    /// `beat=30`: tell the host's counters every so many seconds, too.
    pub beat: Option<u64>,
    /// `digest=HEX`: refuse an image with another launch digest.
    pub digest: Option<&'static str>,
    /// `vps=4`: virtual processors. QEMU has one processor more (`-smp 5`), but for one.
    pub vps: usize,
    /// `selftest`, `selftest=leak`, `selftest=vps` or `selftest=cores`: the rig's own
    /// tests in place of an image.
    pub selftest: Option<Kind>,
    /// `fault=NAME`: the host misbehaves, see [`Faults::WORDS`].
    fault: Option<&'static str>,
    /// `max-version=5.2`: newest VMBus version of the host.
    pub max_version: Option<Version>,
    /// `plain`: VMBus of a guest that is not redirected.
    pub plain: bool,
    /// `trace`: record what is handed over, to QEMU's virtio console.
    pub trace: bool,
    /// `scenario`: the host plays the scenario that QEMU hands over.
    pub scenario: bool,
    /// `enlightened`: no paravisor; the guest of the image is an ordinary Hyper-V guest.
    pub enlightened: bool,
    /// `net=card|loopback|none`.
    pub network: Network,
}

impl Options {
    /// What goes wrong on the host's side.
    pub fn faults(&self) -> Faults {
        self.fault.and_then(Faults::from_word).unwrap_or_default()
    }
}

/// Reads the words; the error is the word that makes no sense.
pub fn parse(line: &'static str) -> Result<Options, &'static str> {
    let mut options = Options {
        memory: layout::MEMORY_DEFAULT,
        limit: 120,
        beat: None,
        vps: 1,
        digest: None,
        selftest: None,
        fault: None,
        max_version: None,
        plain: false,
        trace: false,
        scenario: false,
        enlightened: false,
        network: Network::Card,
    };
    for word in line.split_ascii_whitespace() {
        if one(&mut options, word).is_none() {
            return Err(word);
        }
    }
    Ok(options)
}

fn one(options: &mut Options, word: &'static str) -> Option<()> {
    match word.split_once('=') {
        Some(("memory", size)) => {
            options.memory = bytes(size).filter(|m| layout::memory_size_ok(*m))?;
        }
        Some(("limit", seconds)) => options.limit = seconds.parse().ok()?,
        Some(("beat", seconds)) => {
            options.beat = Some(seconds.parse().ok().filter(|seconds| *seconds != 0)?);
        }
        Some(("vps", count)) => {
            let known = 1..=crate::metal::smp::MAX_VPS;
            options.vps = count.parse().ok().filter(|vps| known.contains(vps))?;
        }
        Some(("digest", hex)) if hex.len() == 96 => options.digest = Some(hex),
        Some(("fault", name)) => {
            // Built again later: a fault may need the heap.
            options.fault = Faults::WORDS.contains(&name).then_some(Some(name))?;
        }
        Some(("max-version", version)) => {
            let (major, minor) = version.split_once('.')?;
            let number = major.parse::<u32>().ok()? << 16 | minor.parse::<u32>().ok()?;
            options.max_version = Some(Version(number));
        }
        Some(("net", "card")) => options.network = Network::Card,
        Some(("net", "loopback")) => options.network = Network::Loopback,
        Some(("net", "none")) => options.network = Network::None,
        Some(("selftest", "leak")) => options.selftest = Some(Kind::Leak),
        Some(("selftest", "vps")) => options.selftest = Some(Kind::Vps),
        Some(("selftest", "cores")) => options.selftest = Some(Kind::Cores),
        None if word == "selftest" => options.selftest = Some(Kind::Steps),
        None if word == "trace" => options.trace = true,
        None if word == "scenario" => options.scenario = true,
        None if word == "plain" => options.plain = true,
        None if word == "enlightened" => options.enlightened = true,
        // QEMU may put the kernel's name in front.
        _ => return (word.contains('/') || word.ends_with(".elf")).then_some(()),
    }
    Some(())
}

fn bytes(size: &str) -> Option<u64> {
    let (number, shift) = match size.strip_suffix(['M', 'm']) {
        Some(n) => (n, 20),
        None => match size.strip_suffix(['G', 'g']) {
            Some(n) => (n, 30),
            None => (size, 0),
        },
    };
    let number = number.parse::<u64>().ok()?;
    (number <= u64::MAX >> shift).then(|| number << shift)
}
