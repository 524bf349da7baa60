//! Virtio over PCI (virtio 1.2, section 4.1), modern interface only: the
//! capabilities, the registers behind them, feature negotiation, and interrupts
//! by MSI-X or INTx. What a device does with its queues is not its business; data
//! queues are worked by others, by way of a [`Share`].

mod registers;

use super::queue::Queue;
use super::share::{NO_QUEUE, Share};
use crate::pci::ConfigSpace;
use abi::pci::{capability, id, msix};
use abi::virtio::pci::{self, common};
use abi::virtio::{feature, net, status};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// BAR of the registers, and its size.
const REGISTERS_BAR: u8 = 0;
const REGISTERS_SIZE: u32 = 0x4000;
/// What lies in it, a page each.
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
/// BAR of the MSI-X table and pending bits.
const MSIX_BAR: u8 = 1;
/// Its size, and where the pending bits are: in a page, half for the table, as long as
/// that is enough; else in two.
const fn msix_layout(vectors: u16) -> (u32, u64) {
    if (vectors as usize).saturating_mul(msix::ENTRY_LEN) <= 0x800 {
        (0x1000, 0x800)
    } else {
        (0x2000, 0x1000)
    }
}

/// Length of the device-specific configuration.
const DEVICE_CONFIG_LEN: usize = net::CONFIG_LEN as usize;

/// What makes one virtio device different from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// Virtio device ID.
    pub device: u16,
    /// PCI class code.
    pub class: [u8; 3],
    /// Features offered.
    pub features: u64,
    /// Queue pairs.
    pub pairs: u16,
    /// Whether a control queue follows them.
    pub control: bool,
    /// Descriptors per queue, a power of two.
    pub queue_size: u16,
    /// Of the control queue.
    pub control_size: u16,
    /// Address that firmware gave to the registers' BAR; the other BAR follows.
    pub address: u32,
    /// I/O APIC pin of INTA.
    pub pin: u8,
}

/// One virtio device on PCI. It has a vector for the configuration and one for each
/// queue.
#[derive(Debug)]
pub(crate) struct Transport {
    config: ConfigSpace,
    /// Offsets of two capabilities in configuration space.
    msix_capability: usize,
    window_capability: usize,
    vectors: u16,
    pending_bits: u64,
    share: Arc<Share>,
    /// Counts resets: which driver's queues these are. From 1 on.
    generation_of_queues: u64,
    offered: u64,
    accepted: u64,
    device_select: u32,
    driver_select: u32,
    config_vector: u16,
    status: u8,
    generation: u8,
    queue_select: u16,
    /// As the registers tell them. Of these, only the control queue is worked here.
    queues: Vec<Queue>,
    isr: u8,
    device_config: [u8; DEVICE_CONFIG_LEN],
    /// The driver has reset the device, and may have to wait for owners of queues.
    fading: bool,
    /// Pairs whose owners have something to look at, by bits.
    calls: u64,
    /// Times that DEVICE_NEEDS_RESET was set.
    pub(crate) broken: u64,
}

impl Transport {
    pub(crate) fn new(kind: &Kind) -> Self {
        let queues = kind.pairs.max(1).saturating_mul(2);
        let queues = queues.saturating_add(kind.control.into());
        let vectors = queues.saturating_add(1);
        let (msix_size, pending_bits) = msix_layout(vectors);
        let device = pci::DEVICE_ID_BASE.wrapping_add(kind.device);
        let mut config = ConfigSpace::new(id::VENDOR_VIRTIO, device, kind.class, 0x1100);
        // 4.1.2.1: revision 1 for devices without a legacy interface.
        config.put(abi::pci::header::REVISION, &[1]);
        config.add_bar(usize::from(REGISTERS_BAR), REGISTERS_SIZE, kind.address);
        let second = kind.address.wrapping_add(REGISTERS_SIZE);
        config.add_bar(usize::from(MSIX_BAR), msix_size, second);
        config.set_interrupt(kind.pin);

        let msix_capability = {
            let mut body = [0; msix::CAPABILITY_LEN - 2];
            let last = queues.to_le_bytes();
            let table = u32::from(MSIX_BAR).to_le_bytes();
            let pending = (pending_bits as u32 | u32::from(MSIX_BAR)).to_le_bytes();
            fill(&mut body, 0, &last);
            fill(&mut body, 2, &table);
            fill(&mut body, 6, &pending);
            let mask = (msix::ENABLE | msix::FUNCTION_MASK).to_le_bytes();
            config.add_capability(capability::MSIX, &body, &mask)
        };
        let parts = [
            (pci::CAP_COMMON, COMMON, common::END),
            (pci::CAP_ISR, ISR, 1),
            (pci::CAP_DEVICE, DEVICE, DEVICE_CONFIG_LEN as u64),
            (
                pci::CAP_NOTIFY,
                NOTIFY,
                net::DOORBELL_STRIDE.saturating_mul(u64::from(queues)),
            ),
        ];
        for (kind, offset, length) in parts {
            if kind == pci::CAP_NOTIFY {
                let mut body = [0; pci::CAP_LONG_LEN as usize - 2];
                describe(&mut body, kind, pci::CAP_LONG_LEN, offset, length);
                fill(
                    &mut body,
                    pci::cap::EXTRA - 2,
                    &(net::DOORBELL_STRIDE as u32).to_le_bytes(),
                );
                config.add_capability(capability::VENDOR, &body, &[]);
            } else {
                let mut body = [0; pci::CAP_LEN as usize - 2];
                describe(&mut body, kind, pci::CAP_LEN, offset, length);
                config.add_capability(capability::VENDOR, &body, &[]);
            }
        }
        let window_capability = {
            // 4.1.4.9: BAR, offset and length are the driver's; so is the data.
            let mut body = [0; pci::CAP_LONG_LEN as usize - 2];
            describe(&mut body, pci::CAP_PCI_CFG, pci::CAP_LONG_LEN, 0, 0);
            let mut mask = [0; pci::CAP_LONG_LEN as usize - 2];
            fill(&mut mask, pci::cap::BAR - 2, &[0xff]);
            fill(&mut mask, pci::cap::OFFSET - 2, &[0xff; 12]);
            config.add_capability(capability::VENDOR, &body, &mask)
        };
        let made = Transport {
            config,
            msix_capability,
            window_capability,
            vectors,
            pending_bits,
            share: Arc::new(Share::new(kind.pairs.max(1), vectors)),
            generation_of_queues: 1,
            offered: kind.features | feature::VERSION_1,
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            config_vector: pci::NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
            queues: (0..queues)
                .map(|index| match index >> 1 >= kind.pairs.max(1) {
                    true => Queue::new(kind.control_size),
                    false => Queue::new(kind.queue_size),
                })
                .collect(),
            isr: 0,
            device_config: [0; DEVICE_CONFIG_LEN],
            fading: false,
            calls: 0,
            broken: 0,
        };
        made.publish();
        made
    }

    /// What the owners of the queues see of all this.
    pub(crate) fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Most queue pairs that the driver can use.
    pub(crate) fn max_pairs(&self) -> u16 {
        (self.queues.len() as u16 / 2).max(1)
    }

    /// Index of the control queue, if there is one (5.1.2).
    pub(crate) fn control_queue(&self) -> Option<u16> {
        let last = self.max_pairs().saturating_mul(2);
        let index = if self.accepted(feature::NET_MQ) {
            last
        } else {
            2
        };
        self.accepted(feature::NET_CTRL_VQ).then_some(index)
    }

    /// Tells the owners of the queues what they may do: after everything that may
    /// have changed it.
    fn publish(&self) {
        let doorbells = self.config.bar(usize::from(REGISTERS_BAR));
        let control = if self.config.bus_master() {
            self.msix_control()
        } else {
            0
        };
        let share = &self.share;
        share.set_place(
            doorbells.map_or(0, |base| base.wrapping_add(NOTIFY)),
            control,
        );
        share.set_features(self.accepted, self.control_queue().unwrap_or(NO_QUEUE));
        let in_use = if self.running() { share.in_use() } else { 0 };
        let pairs = (0..u16::MAX).zip(share.pairs()).zip(self.queues.chunks(2));
        for ((index, pair), queues) in pairs {
            for (which, queue) in (0..2).zip(queues) {
                let may = queue.enabled() && index < in_use;
                pair.set_ticket(which, if may { self.generation_of_queues } else { 0 });
            }
        }
    }

    /// The driver uses so many pairs from now on. `false`: owners of others still work,
    /// and it is not done before they have stopped.
    pub(crate) fn use_pairs(&mut self, count: u16) -> bool {
        if self.share.set_in_use(count) {
            self.calls |= 1;
        }
        self.publish();
        !self.share.is_busy(count)
    }

    /// Takes the pairs whose owners have something to look at, by bits.
    pub(crate) fn take_calls(&mut self) -> u64 {
        core::mem::take(&mut self.calls)
    }

    /// Features that the driver accepted.
    pub(crate) fn accepted(&self, feature: u64) -> bool {
        self.accepted & feature != 0
    }

    /// Whether the device may touch its queues: the driver said DRIVER_OK (3.1.2),
    /// nothing is broken, and PCI lets the function access memory.
    pub(crate) fn running(&self) -> bool {
        let needed = status::DRIVER_OK | status::FEATURES_OK;
        self.status & (needed | status::NEEDS_RESET | status::FAILED) == needed
            && self.config.bus_master()
    }

    pub(crate) fn queue(&mut self, index: u16) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(index))
    }

    /// Rings a queue's doorbell.
    pub(crate) fn ring(&mut self, queue: u16) {
        if let Some(pair) = self.share.ring(queue) {
            self.calls |= 1u64.wrapping_shl(pair.into());
        }
    }

    /// The driver broke a rule in a queue of this ticket ([`Share`]).
    pub(crate) fn set_broken_by(&mut self, ticket: u64) {
        // A late word about queues that were reset meanwhile is void.
        if ticket == self.generation_of_queues {
            self.set_broken();
        }
    }

    /// The driver broke a rule: DEVICE_NEEDS_RESET and a configuration interrupt (2.1.2).
    pub(crate) fn set_broken(&mut self) {
        if self.status & status::NEEDS_RESET == 0 {
            self.status |= status::NEEDS_RESET;
            self.broken = self.broken.saturating_add(1);
            self.publish();
            self.interrupt_config();
        }
    }

    /// Changes the device-specific configuration.
    pub(crate) fn set_device_config(&mut self, offset: u64, bytes: &[u8]) {
        let Ok(offset) = usize::try_from(offset) else {
            return;
        };
        fill(&mut self.device_config, offset, bytes);
        self.generation = self.generation.wrapping_add(1);
    }

    fn msix_control(&self) -> u16 {
        self.config
            .word(self.msix_capability.saturating_add(msix::CONTROL))
    }

    fn raise(&mut self, vector: u16, isr: u8) {
        if self.msix_control() & msix::ENABLE != 0 {
            // 4.1.5.1.2: NO_VECTOR means no interrupt; it is not in the table.
            self.share.msix.raise(vector);
        } else {
            self.isr |= isr;
        }
    }

    /// Tells the driver that buffers of a queue were used.
    pub(crate) fn interrupt_queue(&mut self, index: u16) {
        let Some(queue) = self.queues.get(usize::from(index)) else {
            return;
        };
        self.raise(queue.vector, pci::ISR_QUEUE);
    }

    /// Tells the driver that the configuration changed; only a driver that is
    /// there (2.1.2, 3.1.2).
    pub(crate) fn interrupt_config(&mut self) {
        if self.status & status::DRIVER_OK != 0 {
            self.raise(self.config_vector, pci::ISR_CONFIG);
        }
    }

    /// The next MSI-X message that leaves the device.
    pub(crate) fn next_message(&mut self) -> Option<(u64, u32)> {
        if !self.config.bus_master() {
            return None;
        }
        self.share.msix.next_message(self.msix_control())
    }

    /// State of INTA.
    pub(crate) fn intx(&mut self) -> bool {
        let wanted = self.isr != 0 && self.msix_control() & msix::ENABLE == 0;
        self.config.set_intx_status(wanted);
        wanted && self.config.intx_enabled()
    }

    /// Which BAR answers at `gpa`.
    pub(crate) fn decode(&self, gpa: u64) -> Option<(u8, u64)> {
        self.config.decode(gpa)
    }

    /// Reads configuration space.
    pub(crate) fn config_read(&mut self, offset: usize, size: u8) -> u32 {
        if let Some((bar, at, length)) = self.window(offset) {
            let value = self.bar_read(bar, at, length) as u32;
            let data = self.window_capability.saturating_add(pci::cap::EXTRA);
            self.config.put(data, &value.to_le_bytes());
        }
        self.config.read(offset, size)
    }

    /// Writes configuration space.
    pub(crate) fn config_write(&mut self, offset: usize, size: u8, value: u32) {
        self.config.write(offset, size, value);
        self.publish();
        if let Some((bar, at, length)) = self.window(offset) {
            let data = self.window_capability.saturating_add(pci::cap::EXTRA);
            let value = self.config.read(data, length);
            self.bar_write(bar, at, length, u64::from(value));
        }
    }

    /// If `offset` is the window's data register: the access it stands for (4.1.4.9).
    fn window(&self, offset: usize) -> Option<(u8, u64, u8)> {
        let at = |field: usize| self.window_capability.saturating_add(field);
        if offset != at(pci::cap::EXTRA) {
            return None;
        }
        let bar = self.config.read(at(pci::cap::BAR), 1) as u8;
        let target = self.config.read(at(pci::cap::OFFSET), 4);
        let length = self.config.read(at(pci::cap::LENGTH), 4);
        // 4.1.4.9.2: 1, 2 or 4 bytes, aligned to themselves.
        if !matches!(length, 1 | 2 | 4) || target & length.wrapping_sub(1) != 0 {
            return None;
        }
        Some((bar, u64::from(target), length as u8))
    }

    /// Reads a BAR.
    pub(crate) fn bar_read(&mut self, bar: u8, offset: u64, size: u8) -> u64 {
        let value = match (bar, offset) {
            (REGISTERS_BAR, COMMON..ISR) => self.common_read(offset),
            // 4.1.4.5: reading takes the status and lowers INTx.
            (REGISTERS_BAR, ISR) => u64::from(core::mem::take(&mut self.isr)),
            (REGISTERS_BAR, DEVICE..NOTIFY) => {
                let start = usize::try_from(offset.wrapping_sub(DEVICE)).unwrap_or(usize::MAX);
                let bytes = self.device_config.iter().skip(start).take(8);
                bytes
                    .rev()
                    .fold(0, |value, byte| value << 8 | u64::from(*byte))
            }
            (MSIX_BAR, offset) if offset >= self.pending_bits => {
                let at = offset.wrapping_sub(self.pending_bits);
                self.share.msix.read_pending(at, size)
            }
            (MSIX_BAR, offset) if offset < self.share.msix.table_len() => {
                self.share.msix.read_table(offset, size)
            }
            _ => 0,
        };
        value & low_bytes(size)
    }

    /// Writes a BAR.
    pub(crate) fn bar_write(&mut self, bar: u8, offset: u64, size: u8, value: u64) {
        let value = value & low_bytes(size);
        match (bar, offset) {
            (REGISTERS_BAR, COMMON..ISR) => {
                self.common_write(offset, size, value);
                self.publish();
            }
            (REGISTERS_BAR, NOTIFY..) => {
                let queue = offset.wrapping_sub(NOTIFY) / net::DOORBELL_STRIDE;
                self.ring(u16::try_from(queue).unwrap_or(u16::MAX));
            }
            (MSIX_BAR, offset) if offset < self.pending_bits => {
                self.share.msix.write_table(offset, size, value);
            }
            _ => {}
        }
    }
}

/// A mask of `size` bytes.
fn low_bytes(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

fn fill(target: &mut [u8], offset: usize, bytes: &[u8]) {
    for (slot, byte) in target.iter_mut().skip(offset).zip(bytes) {
        *slot = *byte;
    }
}

/// Writes `struct virtio_pci_cap` from its third byte on (4.1.4).
fn describe(body: &mut [u8], kind: u8, len: u8, offset: u64, length: u64) {
    fill(body, 0, &[len, kind, REGISTERS_BAR]);
    fill(body, pci::cap::OFFSET - 2, &(offset as u32).to_le_bytes());
    fill(body, pci::cap::LENGTH - 2, &(length as u32).to_le_bytes());
}

#[cfg(test)]
mod tests;
