//! The network cards that a guest can be given, and what each asks of the guest.

use clap::ValueEnum;

use crate::setup::Flavour;

/// The guest's network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Nic {
    /// virtio-net over PCI
    #[default]
    Virtio,
    /// Intel 82574L
    E1000e,
}

impl Nic {
    /// As on the command line, the image tool's too.
    pub fn name(self) -> &'static str {
        match self {
            Nic::Virtio => "virtio",
            Nic::E1000e => "e1000e",
        }
    }

    /// The driver that Linux binds to it.
    pub fn driver(self) -> &'static str {
        match self {
            Nic::Virtio => "virtio_net",
            Nic::E1000e => "e1000e",
        }
    }

    /// The kernel modules that the guest loads. Built-in ones are skipped.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Nic::Virtio => &["virtio_pci", "virtio_net"],
            Nic::E1000e => &["e1000e"],
        }
    }

    /// Debian's kernel that has them: the cloud kernel has no driver for hardware.
    pub fn flavour(self) -> Flavour {
        match self {
            Nic::Virtio => Flavour::Cloud,
            Nic::E1000e => Flavour::Generic,
        }
    }

    /// QEMU's own card of that kind.
    pub fn device(self) -> &'static str {
        match self {
            Nic::Virtio => "virtio-net-pci,disable-legacy=on",
            Nic::E1000e => "e1000e",
        }
    }
}
