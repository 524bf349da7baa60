//! The common configuration (virtio 1.2, section 4.1.4.3): feature negotiation, status,
//! the queues' registers, reset.

use super::Transport;
use crate::virtio::queue::Queue;
use abi::virtio::pci::{self, common};
use abi::virtio::{feature, status};

/// Status bits that the driver may set.
const DRIVER_BITS: u8 =
    status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK | status::FEATURES_OK | status::FAILED;

impl Transport {
    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.queue_select))
    }

    pub(super) fn common_read(&self, offset: u64) -> u64 {
        let half = |bits: u64, select: u32| match select {
            0 => bits & 0xffff_ffff,
            1 => bits >> 32,
            _ => 0,
        };
        let queue = self.selected();
        match offset {
            common::DEVICE_FEATURE_SELECT => u64::from(self.device_select),
            common::DEVICE_FEATURE => half(self.offered, self.device_select),
            common::DRIVER_FEATURE_SELECT => u64::from(self.driver_select),
            common::DRIVER_FEATURE => half(self.accepted, self.driver_select),
            common::CONFIG_MSIX_VECTOR => u64::from(self.config_vector),
            common::NUM_QUEUES => self.queues.len() as u64,
            common::DEVICE_STATUS => u64::from(self.shown_status()),
            common::CONFIG_GENERATION => u64::from(self.generation),
            common::QUEUE_SELECT => u64::from(self.queue_select),
            // 4.1.4.3.1: a queue that does not exist has size 0.
            common::QUEUE_SIZE => queue.map_or(0, |q| u64::from(q.size)),
            common::QUEUE_MSIX_VECTOR => {
                queue.map_or(u64::from(pci::NO_VECTOR), |q| u64::from(q.vector))
            }
            common::QUEUE_ENABLE => queue.map_or(0, |q| u64::from(q.enabled())),
            common::QUEUE_NOTIFY_OFF => queue.map_or(0, |_| u64::from(self.queue_select)),
            common::QUEUE_DESC..common::END => queue.map_or(0, |q| {
                let address = match offset & !7 {
                    common::QUEUE_DESC => q.desc,
                    common::QUEUE_DRIVER => q.avail,
                    _ => q.used,
                };
                if offset & 4 == 0 {
                    address
                } else {
                    address >> 32
                }
            }),
            _ => 0,
        }
    }

    pub(super) fn common_write(&mut self, offset: u64, size: u8, value: u64) {
        let select = self.queue_select;
        match (offset, size) {
            (common::DEVICE_FEATURE_SELECT, 4) => self.device_select = value as u32,
            (common::DRIVER_FEATURE_SELECT, 4) => self.driver_select = value as u32,
            // 3.1.1: not after FEATURES_OK.
            (common::DRIVER_FEATURE, 4) if self.status & status::FEATURES_OK != 0 => {}
            (common::DRIVER_FEATURE, 4) => {
                self.accepted = match self.driver_select {
                    0 => (self.accepted & !0xffff_ffff) | value,
                    1 => (self.accepted & 0xffff_ffff) | value << 32,
                    _ => self.accepted,
                };
            }
            (common::CONFIG_MSIX_VECTOR, 2) => {
                self.config_vector = self.checked_vector(value);
            }
            (common::DEVICE_STATUS, 1) => self.write_status(value as u8),
            (common::QUEUE_SELECT, 2) => self.queue_select = value as u16,
            (common::QUEUE_MSIX_VECTOR, 2) => {
                let vector = self.checked_vector(value);
                if let Some(queue) = self.queue(select) {
                    queue.vector = vector;
                }
                if let Some(pair) = self.share.pair(select >> 1) {
                    pair.set_vector(select & 1, vector);
                }
            }
            (common::QUEUE_ENABLE, 2) => {
                let event_idx = self.accepted(feature::EVENT_IDX);
                let indirect = self.accepted(feature::INDIRECT_DESC);
                let Some(queue) = self.queue(select) else {
                    return;
                };
                // 4.1.4.3.2: the driver must not write 0; nothing happens then.
                if value != 1 || queue.enabled() {
                    return;
                }
                if queue.enable(event_idx, indirect).is_err() {
                    self.set_broken();
                    return;
                }
                // A data queue is its owner's from here on.
                let queue = queue.clone();
                if let Some(pair) = self.share.pair(select >> 1) {
                    pair.lay_out(select & 1, self.generation_of_queues, queue);
                }
            }
            (common::QUEUE_SIZE..common::END, _) => {
                // 4.1.4.3.2: all of these before the queue is enabled.
                let Some(queue) = self.queue(select).filter(|q| !q.enabled()) else {
                    return;
                };
                match (offset, size) {
                    (common::QUEUE_SIZE, 2) => queue.size = value as u16,
                    (common::QUEUE_DESC.., 4 | 8) if offset & 3 == 0 => {
                        let address = match offset & !7 {
                            common::QUEUE_DESC => &mut queue.desc,
                            common::QUEUE_DRIVER => &mut queue.avail,
                            _ => &mut queue.used,
                        };
                        *address = match (offset & 4, size) {
                            (0, 8) => value,
                            (0, _) => (*address & !0xffff_ffff) | value,
                            _ => (*address & 0xffff_ffff) | value << 32,
                        };
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut status = value & DRIVER_BITS;
        // 2.2.2 and 6.1: FEATURES_OK stays clear if the choice cannot be served.
        let acceptable =
            self.accepted & !self.offered == 0 && self.accepted & feature::VERSION_1 != 0;
        if !acceptable {
            status &= !status::FEATURES_OK;
        }
        self.status = status | (self.status & status::NEEDS_RESET);
        self.fading = false;
    }

    /// 2.4.2: after a reset the driver waits until this is 0, and then the queues'
    /// memory is its own again. So it is not while an owner has not left them.
    fn shown_status(&self) -> u8 {
        if self.fading && self.share.is_busy(0) {
            status::NEEDS_RESET
        } else {
            self.status
        }
    }

    /// 2.4.1 and 4.1.4.3.1: everything that a driver set is gone.
    fn reset(&mut self) {
        self.accepted = 0;
        self.device_select = 0;
        self.driver_select = 0;
        self.config_vector = pci::NO_VECTOR;
        self.status = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            queue.reset();
        }
        self.isr = 0;
        self.generation_of_queues = self.generation_of_queues.wrapping_add(1).max(1);
        self.fading = true;
        self.publish();
        let share = &self.share;
        share.msix.clear_pending();
        share.set_in_use(1);
        share.set_hash_types(0);
        for pair in share.pairs() {
            pair.note_reset();
            pair.set_vector(0, pci::NO_VECTOR);
            pair.set_vector(1, pci::NO_VECTOR);
        }
        let unused = u64::BITS.saturating_sub(u32::from(self.max_pairs()));
        self.calls = u64::MAX.checked_shr(unused).unwrap_or(0);
    }

    /// 4.1.5.1.2: a vector that is not in the table reads back as NO_VECTOR.
    fn checked_vector(&self, value: u64) -> u16 {
        if value < u64::from(self.vectors) {
            value as u16
        } else {
            pci::NO_VECTOR
        }
    }
}
