//! The network card (virtio 1.2, section 5.1): one queue pair. Frames go in and
//! out by copies; the relay between them and the host is its owner's business. So
//! is the work that the driver leaves to the card, checksums and segments: here
//! its requests are read and judged against the frame.

use super::queue::{Broken, Chain, Queue};
use super::transport::{Kind, Transport};
use crate::{MachineConfig, NicEvents, NoBuffer, layout};
use abi::virtio::{feature, net};
use memory::GuestMemory;
use validate::frame::{Network, PartialSum, Request, Task};

/// Descriptors per queue.
const QUEUE_SIZE: u16 = 256;
/// A vector for the configuration and one for each queue.
const VECTORS: usize = 3;
const QUEUES: usize = 2;
/// Ethernet header.
const ETHERNET_LEN: usize = 14;
/// What a frame may have beyond MTU and Ethernet header: one VLAN tag.
const VLAN_LEN: usize = 4;

/// The card's registers, configuration space and queues.
pub(crate) type NetTransport = Transport<QUEUES, VECTORS>;

/// The network card.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) transport: NetTransport,
    link_up: bool,
    /// Longest frame that the guest is given.
    max_frame: usize,
    pub(crate) tx_frames: u64,
    pub(crate) rx_frames: u64,
    pub(crate) tx_dropped: u64,
    pub(crate) rx_dropped: u64,
}

/// What became of a chain that the guest sent.
enum Sent {
    /// A frame of this many bytes lies in the buffer, and this is left to do.
    Frame(usize, Task),
    /// It cannot be sent.
    Unusable,
}

impl Net {
    pub(crate) fn new(config: &MachineConfig) -> Net {
        let kind = Kind {
            device: net::DEVICE_ID,
            class: abi::pci::id::CLASS_ETHERNET,
            features: feature::NET_MAC
                | feature::NET_MTU
                | feature::NET_STATUS
                | feature::NET_CSUM
                | feature::NET_HOST_TSO4
                | feature::NET_HOST_TSO6
                | feature::INDIRECT_DESC
                | feature::EVENT_IDX,
            queue_size: QUEUE_SIZE,
            address: layout::PCI_MMIO_BASE as u32,
            pin: layout::NIC_PIN,
        };
        let mut transport = NetTransport::new(&kind);
        transport.set_device_config(net::CONFIG_MAC, &config.mac);
        transport.set_device_config(net::CONFIG_STATUS, &status_word(config.link_up));
        transport.set_device_config(net::CONFIG_MAX_PAIRS, &1u16.to_le_bytes());
        transport.set_device_config(net::CONFIG_MTU, &config.mtu.to_le_bytes());
        Net {
            transport,
            link_up: config.link_up,
            max_frame: usize::from(config.mtu).saturating_add(ETHERNET_LEN + VLAN_LEN),
            tx_frames: 0,
            rx_frames: 0,
            tx_dropped: 0,
            rx_dropped: 0,
        }
    }

    /// 5.1.4.2 and 5.1.6.5: `status` changes and the driver is told.
    pub(crate) fn set_link(&mut self, up: bool) {
        if up != self.link_up {
            self.link_up = up;
            self.transport
                .set_device_config(net::CONFIG_STATUS, &status_word(up));
            if self.transport.accepted(feature::NET_STATUS) {
                self.transport.interrupt_config();
            }
        }
    }

    pub(crate) fn take_events(&mut self) -> NicEvents {
        let kicked = self.transport.take_kicked();
        NicEvents {
            tx_kicked: kicked >> net::QUEUE_TX & 1 != 0,
            rx_refilled: kicked >> net::QUEUE_RX & 1 != 0,
            reset: self.transport.take_reset(),
        }
    }

    /// Whether [`Net::take_events`] has something to tell.
    pub(crate) fn has_events(&self) -> bool {
        self.transport.has_events()
    }

    /// Runs `work` on a queue of a running device; if the driver broke a rule,
    /// the device stops.
    fn with_queue<T>(
        &mut self,
        index: u16,
        work: impl FnOnce(&mut Queue) -> Result<T, Broken>,
    ) -> Option<T> {
        if !self.transport.running() {
            return None;
        }
        let outcome = work(self.transport.queue(index)?);
        outcome
            .inspect_err(|Broken| self.transport.set_broken())
            .ok()
    }

    /// See [`crate::Machine::take_frame`].
    pub(crate) fn take_frame(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Option<(usize, Task)> {
        let may = Allowed {
            sums: self.transport.accepted(feature::NET_CSUM),
            segments: [
                self.transport.accepted(feature::NET_HOST_TSO4),
                self.transport.accepted(feature::NET_HOST_TSO6),
            ],
        };
        // A guest that posts nothing but unusable chains is served one queue
        // length of them per call.
        for _ in 0..QUEUE_SIZE {
            let (sent, interrupt) = self.with_queue(net::QUEUE_TX, |queue| {
                let chain = match queue.peek(guest)? {
                    Some(chain) => Some(chain),
                    None if queue.ask_for_notification(guest)? => queue.peek(guest)?,
                    None => None,
                };
                let Some(chain) = chain else {
                    return Ok((None, false));
                };
                queue.advance();
                let sent = read_frame(queue, chain, guest, buf, may)?;
                Ok((Some(sent), queue.give_back(guest, chain.head, 0)?))
            })?;
            if interrupt {
                self.transport.interrupt_queue(net::QUEUE_TX);
            }
            match sent? {
                Sent::Frame(len, task) => {
                    self.tx_frames = self.tx_frames.saturating_add(1);
                    return Some((len, task));
                }
                Sent::Unusable => self.tx_dropped = self.tx_dropped.saturating_add(1),
            }
        }
        // There may be more: ring for the guest, so that the owner comes again.
        self.transport.ring(net::QUEUE_TX);
        None
    }

    /// See [`crate::Machine::deliver_rx`].
    pub(crate) fn deliver_rx(
        &mut self,
        guest: &impl GuestMemory,
        frame: &[u8],
    ) -> Result<(), NoBuffer> {
        if frame.len() < ETHERNET_LEN || frame.len() > self.max_frame {
            self.rx_dropped = self.rx_dropped.saturating_add(1);
            return Ok(());
        }
        let delivered = self.with_queue(net::QUEUE_RX, |queue| {
            let chain = match queue.peek(guest)? {
                Some(chain) => chain,
                None if queue.ask_for_notification(guest)? => match queue.peek(guest)? {
                    Some(chain) => chain,
                    None => return Ok(None),
                },
                None => return Ok(None),
            };
            match write_frame(queue, chain, guest, frame)? {
                Some(len) => {
                    queue.advance();
                    queue
                        .give_back(guest, chain.head, len)
                        .map(|interrupt| Some((true, interrupt)))
                }
                None => Ok(Some((false, false))),
            }
        });
        match delivered.flatten() {
            Some((true, interrupt)) => {
                self.rx_frames = self.rx_frames.saturating_add(1);
                if interrupt {
                    self.transport.interrupt_queue(net::QUEUE_RX);
                }
                Ok(())
            }
            Some((false, _)) => {
                self.rx_dropped = self.rx_dropped.saturating_add(1);
                Ok(())
            }
            None => Err(NoBuffer),
        }
    }
}

fn status_word(up: bool) -> [u8; 2] {
    if up {
        net::LINK_UP.to_le_bytes()
    } else {
        [0; 2]
    }
}

/// What the driver may leave to the card: what was agreed on.
#[derive(Clone, Copy)]
struct Allowed {
    sums: bool,
    /// Over IPv4 and IPv6.
    segments: [bool; 2],
}

/// What the driver's header asks for (5.1.6.2). `None`: something that was not
/// agreed on.
fn request(header: &[u8; net::HEADER_LEN], may: Allowed) -> Option<Request> {
    let field = |at: usize| {
        let word = header.get(at..).and_then(|rest| rest.first_chunk::<2>());
        u16::from_le_bytes(word.copied().unwrap_or_default())
    };
    let [flags, gso, ..] = *header;
    let [v4, v6] = may.segments;
    // 5.1.6.2.1: without the features, flags and gso_type are 0; the driver has no
    // other flag, and ECN segments are not offered.
    let sum = match flags {
        0 => None,
        net::FLAG_NEEDS_CSUM if may.sums => Some(PartialSum {
            start: field(net::HEADER_CSUM_START),
            offset: field(net::HEADER_CSUM_OFFSET),
        }),
        _ => return None,
    };
    let size = field(net::HEADER_GSO_SIZE);
    let segment = match gso {
        net::GSO_NONE => None,
        net::GSO_TCPV4 if v4 => Some((Network::V4, size)),
        net::GSO_TCPV6 if v6 => Some((Network::V6, size)),
        _ => return None,
    };
    Some(Request { sum, segment })
}

/// Copies the frame of a chain into `buf`.
fn read_frame(
    queue: &Queue,
    mut chain: Chain,
    guest: &impl GuestMemory,
    buf: &mut [u8],
    may: Allowed,
) -> Result<Sent, Broken> {
    let mut header = [0u8; net::HEADER_LEN];
    // Bytes of header and of frame copied so far.
    let mut have_header = 0usize;
    let mut have = 0usize;
    let mut fits = true;
    while let Some(buffer) = chain.next(queue, guest)? {
        // 5.1.6.2: a sent frame lies in device-readable buffers.
        if buffer.writable {
            return Err(Broken);
        }
        let mut address = buffer.address;
        let mut left = usize::try_from(buffer.len).map_err(|_| Broken)?;
        let rest = header.get_mut(have_header..).unwrap_or_default();
        let count = left.min(rest.len());
        if let Some(part) = rest.get_mut(..count) {
            guest.read(address, part)?;
        }
        have_header = have_header.saturating_add(count);
        address = address.checked_add(count as u64).ok_or(Broken)?;
        left = left.saturating_sub(count);
        if left == 0 || !fits {
            continue;
        }
        let end = have.checked_add(left).ok_or(Broken)?;
        match buf.get_mut(have..end) {
            Some(part) => {
                guest.read(address, part)?;
                have = end;
            }
            // Too long for us: walk on, to find a broken chain all the same.
            None => fits = false,
        }
    }
    let whole = have_header == net::HEADER_LEN && have >= ETHERNET_LEN;
    let frame = buf.get(..have).filter(|_| fits && whole);
    let sent = frame.and_then(|frame| {
        let request = request(&header, may)?;
        Task::judge(&request, frame).ok()
    });
    Ok(sent.map_or(Sent::Unusable, |task| Sent::Frame(have, task)))
}

/// Copies header and frame into a chain; the bytes written, or `None` if they do
/// not fit.
fn write_frame(
    queue: &Queue,
    chain: Chain,
    guest: &impl GuestMemory,
    frame: &[u8],
) -> Result<Option<u32>, Broken> {
    let mut header = [0u8; net::HEADER_LEN];
    // 5.1.6.4.1: without NET_MRG_RXBUF num_buffers is 1.
    if let Some(count) = header.get_mut(net::HEADER_NUM_BUFFERS) {
        *count = 1;
    }
    let total = frame.len().checked_add(net::HEADER_LEN).ok_or(Broken)?;
    // One walk, each descriptor fetched once. If the chain ends too early, the
    // buffers written so far still belong to the device: they are not given back.
    let mut header_left: &[u8] = &header;
    let mut frame_left = frame;
    let mut walk = chain;
    while !header_left.is_empty() || !frame_left.is_empty() {
        let Some(buffer) = walk.next(queue, guest)? else {
            return Ok(None);
        };
        // 5.1.6.3: receive buffers are device-writable.
        if !buffer.writable {
            return Err(Broken);
        }
        let mut address = buffer.address;
        let mut left = usize::try_from(buffer.len).map_err(|_| Broken)?;
        for source in [&mut header_left, &mut frame_left] {
            let (part, rest) = source.split_at_checked(left).unwrap_or((source, &[]));
            if !part.is_empty() {
                guest.write(address, part)?;
            }
            address = address.checked_add(part.len() as u64).ok_or(Broken)?;
            left = left.saturating_sub(part.len());
            *source = rest;
        }
    }
    u32::try_from(total).map(Some).map_err(|_| Broken)
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects
)]
mod tests;
