//! Where the trace of a run goes: QEMU's virtio console, whose far end is a file.
//!
//! Records are gathered and handed over in large pieces, one exit to QEMU for
//! each. Nothing is lost while the device works: handing over waits for it.
use crate::nic::{BAR_WINDOW, Identity, NicError, Ports, place_bars};
use alloc::vec::Vec;
use hostkit::trace::Sink;
use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{Command, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

/// Bytes that are gathered.
const GATHERED: usize = 256 << 10;
/// Where its BARs go, if anywhere: behind those of the network card.
const WINDOW: u64 = BAR_WINDOW + (16 << 20);

/// The console as a sink.
pub struct Console {
    device: VirtIOConsole<Identity, PciTransport>,
    gathered: Vec<u8>,
    failed: bool,
}

impl Console {
    /// Finds the device on bus 0 and starts it.
    pub fn new() -> Result<Console, NicError> {
        let mut root = PciRoot::new(Ports);
        let (function, _) = root
            .enumerate_bus(0)
            .find(|(_, info)| virtio_device_type(info) == Some(DeviceType::Console))
            .ok_or(NicError::NotFound)?;
        place_bars(&mut root, function, WINDOW)?;
        // It shares its interrupt line with others and is never waited for by it.
        root.set_command(
            function,
            Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE,
        );
        let transport = PciTransport::new::<Identity, Ports>(&mut root, function)
            .map_err(|_| NicError::Device)?;
        Ok(Console {
            device: VirtIOConsole::new(transport).map_err(|_| NicError::Device)?,
            gathered: Vec::with_capacity(GATHERED),
            failed: false,
        })
    }
}

impl Sink for Console {
    fn put(&mut self, bytes: &[u8]) -> bool {
        if self.failed {
            return false;
        }
        if self.gathered.len().saturating_add(bytes.len()) > GATHERED {
            self.flush();
        }
        self.gathered.extend_from_slice(bytes);
        true
    }

    fn flush(&mut self) {
        if !self.gathered.is_empty() && !self.failed {
            // A device that fails once would tear the records: nothing more goes
            // there, and the file lacks its end record.
            self.failed = self.device.send_bytes(&self.gathered).is_err();
        }
        self.gathered.clear();
    }
}
