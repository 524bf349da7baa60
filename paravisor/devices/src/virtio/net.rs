//! The network card (virtio 1.2, section 5.1). Frames go in and out by copies; the
//! relay between them and the host is its owner's business. So is the work that the
//! driver leaves to the card, checksums and segments: here its requests are read and
//! judged against the frame.
//!
//! The card is in two parts: registers and control queue ([`Net`]), which all
//! processors share, and its queue pairs ([`Pair`]), each of which one processor has
//! for its own. [`Share`] is between them.

mod arrived;
mod control;
mod hash;
mod sent;

use super::queue::{Broken, Queue};
use super::share::{Held, MAX_PAIRS, PairShare, Raised, Share, Turn, event};
use super::transport::{Kind, Transport};
use crate::{MachineConfig, NicEvents, NoBuffer, layout};
use abi::virtio::{feature, net};
use alloc::boxed::Box;
use alloc::sync::Arc;
use memory::{GuestMemory, Parcel};
use validate::frame::{Arrived, HASH_KEY, HashKinds, HashRequest, MAX_SEGMENTED, Task};

/// Descriptors per queue.
const QUEUE_SIZE: u16 = 256;
/// Chains that one frame for the guest may take: 64 KiB in the smallest buffers that
/// Linux posts (`GOOD_PACKET_LEN`, 1536 bytes), with room to spare.
const MAX_RX_CHAINS: usize = 64;
/// Ethernet header.
const ETHERNET_LEN: usize = 14;
/// What a frame may have beyond MTU and Ethernet header: one VLAN tag.
const VLAN_LEN: usize = 4;

/// The part of the network card that all processors share.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) transport: Transport,
    link_up: bool,
    /// Hashes that the driver may ask for.
    offers: HashKinds,
    /// Those that it asked for last.
    hash: Option<HashRequest>,
}

/// A queue pair, the property of one processor.
#[derive(Debug)]
pub(crate) struct Pair {
    index: u16,
    share: Arc<Share>,
    rx: Held,
    tx: Held,
    /// Longest frame that the guest is given.
    max_frame: usize,
    /// Where the next frame for the guest goes.
    room: Box<Room>,
    owed: Owed,
}

/// What a pair's work leaves to do for others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owed {
    /// The driver wants an interrupt of the receive queue, and of the transmit queue.
    interrupts: [bool; 2],
    /// The driver broke a rule in a queue of this ticket.
    pub broken: Option<u64>,
}

impl Net {
    pub(crate) fn new(config: &MachineConfig) -> Net {
        // Each is served by a processor of its own.
        let most = MAX_PAIRS.min(config.processors.into()).max(1);
        let pairs = config.queue_pairs.clamp(1, most);
        let several = match pairs {
            1 => 0,
            _ => feature::NET_CTRL_VQ | feature::NET_MQ,
        };
        let hashes = match config.hash.is_empty() {
            true => 0,
            false => feature::NET_CTRL_VQ | feature::NET_HASH_REPORT,
        };
        let kind = Kind {
            device: net::DEVICE_ID,
            class: abi::pci::id::CLASS_ETHERNET,
            features: feature::NET_MAC
                | feature::NET_MTU
                | feature::NET_STATUS
                | feature::NET_CSUM
                | feature::NET_GUEST_CSUM
                | feature::NET_MRG_RXBUF
                | feature::NET_GUEST_TSO4
                | feature::NET_GUEST_TSO6
                | feature::NET_HOST_TSO4
                | feature::NET_HOST_TSO6
                | feature::INDIRECT_DESC
                | feature::EVENT_IDX
                | several
                | hashes,
            pairs,
            control: several | hashes != 0,
            queue_size: QUEUE_SIZE,
            control_size: control::QUEUE_SIZE,
            address: layout::PCI_MMIO_BASE as u32,
            pin: layout::NIC_PIN,
        };
        let mut transport = Transport::new(&kind);
        transport.set_device_config(net::CONFIG_MAC, &config.mac);
        transport.set_device_config(net::CONFIG_STATUS, &status_word(config.link_up));
        transport.set_device_config(net::CONFIG_MAX_PAIRS, &pairs.to_le_bytes());
        transport.set_device_config(net::CONFIG_MTU, &config.mtu.to_le_bytes());
        if hashes != 0 {
            let types = hash::types(config.hash).to_le_bytes();
            transport.set_device_config(net::CONFIG_MAX_KEY, &[HASH_KEY as u8]);
            transport.set_device_config(net::CONFIG_HASH_TYPES, &types);
        }
        Net {
            transport,
            link_up: config.link_up,
            offers: config.hash,
            hash: None,
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
}

use arrived::Header;
pub(crate) use arrived::takes_joined;
use sent::{Allowed, Sent, read_frame};

impl Pair {
    /// A queue pair for its owner. `None`: there is none with this number, or somebody
    /// has it already.
    pub(crate) fn claim(share: &Arc<Share>, index: u16, config: &MachineConfig) -> Option<Pair> {
        share.pair(index).filter(|pair| pair.claim())?;
        let mtu = usize::from(config.mtu);
        Some(Pair {
            index,
            share: share.clone(),
            rx: Held::nothing(),
            tx: Held::nothing(),
            max_frame: mtu.saturating_add(ETHERNET_LEN + VLAN_LEN),
            room: Box::new(Room {
                buffers: List::new((0, 0)),
                chains: List::new((0, 0)),
                broken: false,
            }),
            owed: Owed::default(),
        })
    }

    fn shared(&self) -> Option<&PairShare> {
        self.share.pair(self.index)
    }

    /// Whether [`Pair::take_events`] has something to tell.
    pub(crate) fn has_events(&self) -> bool {
        self.shared().is_some_and(PairShare::has_events)
    }

    /// What happened, and whether the control queue was rung.
    pub(crate) fn take_events(&mut self) -> (NicEvents, bool) {
        let events = self.shared().map_or(0, PairShare::take_events);
        let told = NicEvents {
            tx_kicked: events & (event::TX | event::CONTROL) != 0,
            rx_refilled: events & event::RX != 0,
            reset: events & event::RESET != 0,
            pairs_changed: events & event::PAIRS != 0,
            hash_changed: events & event::HASH != 0,
        };
        (told, events & event::CONTROL != 0)
    }

    /// Which pair this is.
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// Whether the control queue was rung; asking takes the event.
    pub(crate) fn take_control_event(&self) -> bool {
        let pair = self.shared().filter(|pair| pair.has_events());
        pair.is_some_and(PairShare::take_control)
    }

    /// Takes what is to be done for others.
    pub(crate) fn take_owed(&mut self) -> Owed {
        core::mem::take(&mut self.owed)
    }

    /// Whether the driver broke a rule, which is to be told at once.
    pub(crate) fn is_broken(&self) -> bool {
        self.owed.broken.is_some()
    }

    /// Tells the driver what went back since the last time: each queue's index is stored
    /// once, and it is asked once whether it wants an interrupt. After a reset there
    /// is nothing to tell; a queue that is out of use is told when it is used again.
    pub(crate) fn publish(&mut self, guest: &impl GuestMemory) {
        for which in [net::QUEUE_RX, net::QUEUE_TX] {
            let held = match which {
                net::QUEUE_RX => &self.rx,
                _ => &self.tx,
            };
            if held.has_unpublished() {
                let wanted = self.with_queue(which, |queue, _, _| queue.publish(guest));
                self.owe(which, wanted.unwrap_or(false));
            }
        }
    }

    /// How the interrupts leave that are owed.
    pub(crate) fn raise(&self, owed: &Owed) -> [Raised; 2] {
        let [rx, tx] = owed.interrupts;
        let raise = |owed, which| match owed {
            true => self.share.interrupt(self.index, which),
            false => Raised::Nothing,
        };
        [raise(rx, net::QUEUE_RX), raise(tx, net::QUEUE_TX)]
    }

    /// Runs `work` on a queue; if the driver broke a rule, the device is to stop. What was
    /// agreed on about the queue is to be read in `work` alone: another driver may have come
    /// since, with a queue of its own.
    fn with_queue<T>(
        &mut self,
        which: u16,
        work: impl FnOnce(&mut Queue, &mut Room, &Share) -> Result<T, Broken>,
    ) -> Option<T> {
        let pair = self.share.pair(self.index)?;
        let held = match which {
            net::QUEUE_RX => &mut self.rx,
            _ => &mut self.tx,
        };
        let room = &mut *self.room;
        match held.work(pair, which, |queue| work(queue, room, &self.share)) {
            Turn::Nothing => None,
            Turn::Done(Ok(value), ticket) => {
                if core::mem::take(&mut self.room.broken) {
                    self.owed.broken = Some(ticket);
                }
                Some(value)
            }
            Turn::Done(Err(Broken), ticket) => {
                self.owed.broken = Some(ticket);
                None
            }
        }
    }

    /// See [`crate::Machine::take_frame`].
    pub(crate) fn take_frame(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Option<(usize, Task)> {
        // A guest that posts nothing but unusable chains is served one queue
        // length of them per call.
        for _ in 0..QUEUE_SIZE {
            let sent = self.with_queue(net::QUEUE_TX, |queue, _, share| {
                let chain = match queue.peek(guest)? {
                    Some(chain) => Some(chain),
                    None if queue.ask_for_notification(guest)? => queue.peek(guest)?,
                    None => None,
                };
                let Some(chain) = chain else {
                    return Ok(None);
                };
                queue.advance();
                let sent = read_frame(queue, chain, guest, buf, Allowed::by(share.features()))?;
                queue.put_back(guest, &[(chain.head, 0)])?;
                Ok(Some(sent))
            })??;
            let counts = self.shared()?;
            match sent {
                Sent::Frame(len, task) => {
                    counts.tx_frames.add();
                    return Some((len, task));
                }
                Sent::Unusable => counts.tx_dropped.add(),
            }
        }
        // There may be more: ring for the guest, so that the owner comes again.
        self.shared()?.note(event::TX);
        None
    }

    /// See [`crate::Machine::deliver`].
    pub(crate) fn deliver(
        &mut self,
        guest: &impl GuestMemory,
        parcel: &mut Parcel<'_>,
        arrived: Arrived,
    ) -> Result<(), NoBuffer> {
        let most = match arrived.joined() {
            None => self.max_frame,
            Some(_) => MAX_SEGMENTED,
        };
        let mtu = self.max_frame.saturating_sub(ETHERNET_LEN + VLAN_LEN);
        if !(ETHERNET_LEN..=most).contains(&parcel.len()) {
            self.count(|pair| pair.rx_dropped.add());
            return Ok(());
        }
        let delivered = self.with_queue(net::QUEUE_RX, |queue, room, share| {
            let Some(mut header) = Header::of(&arrived, share, mtu, parcel.len()) else {
                return Ok(Some(false));
            };
            let several = share.features() & feature::NET_MRG_RXBUF != 0;
            let lens = (header.len(), parcel.len());
            let found = match room.find(queue, guest, lens, several)? {
                Found::Nothing if queue.ask_for_notification(guest)? => {
                    room.find(queue, guest, lens, several)?
                }
                found => found,
            };
            match found {
                Found::Nothing => Ok(None),
                Found::TooSmall => Ok(Some(false)),
                Found::Room => {
                    header.set_buffers(room.chains.len as u16);
                    queue.advance_by(room.chains.len as u16);
                    // From here on the parcel is used up, whatever comes.
                    let written = room.write(guest, header.as_slice(), parcel);
                    let given =
                        written.and_then(|()| queue.put_back(guest, room.chains.as_slice()));
                    room.broken = given.is_err();
                    Ok(Some(given.is_ok()))
                }
            }
        });
        match delivered.flatten() {
            Some(true) => {
                self.count(|pair| pair.rx_frames.add());
                Ok(())
            }
            Some(false) => {
                self.count(|pair| pair.rx_dropped.add());
                Ok(())
            }
            None => Err(NoBuffer),
        }
    }

    fn count(&self, add: impl FnOnce(&PairShare)) {
        if let Some(pair) = self.shared() {
            add(pair);
        }
    }

    fn owe(&mut self, which: u16, interrupt: bool) {
        if interrupt && let Some(owed) = self.owed.interrupts.get_mut(usize::from(which)) {
            *owed = true;
        }
    }
}

/// Buffers of the guest for one frame, found before anything is written.
#[derive(Clone, Debug)]
struct Room {
    buffers: List<(u64, usize), { QUEUE_SIZE as usize }>,
    /// Heads of the chains, and what each of them holds of the frame.
    chains: List<(u16, u32), MAX_RX_CHAINS>,
    /// Writing failed: the driver named memory that is none. The frame is lost.
    broken: bool,
}

/// A list without an allocation.
#[derive(Clone, Debug)]
struct List<T, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy, const N: usize> List<T, N> {
    const fn new(nothing: T) -> List<T, N> {
        List {
            items: [nothing; N],
            len: 0,
        }
    }

    fn as_slice(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or_default()
    }

    /// What is beyond the list is an error: the caller has counted.
    fn push(&mut self, item: T) -> Result<(), Broken> {
        *self.items.get_mut(self.len).ok_or(Broken)? = item;
        self.len = self.len.saturating_add(1);
        Ok(())
    }
}

/// Whether there is room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Room,
    /// No chain, or not enough of them.
    Nothing,
    /// The one chain that a frame may have is too small.
    TooSmall,
}

impl Room {
    /// Walks chains until header and frame of these lengths fit; each descriptor is fetched
    /// once. If they do not, the chains still belong to the device: none was taken.
    fn find(
        &mut self,
        queue: &mut Queue,
        guest: &impl GuestMemory,
        (header, frame): (usize, usize),
        several: bool,
    ) -> Result<Found, Broken> {
        self.buffers.len = 0;
        self.chains.len = 0;
        self.broken = false;
        let mut left = header.saturating_add(frame);
        let mut walked = 0_usize;
        while left != 0 {
            let others = self.chains.len as u16;
            if others != 0 && !several {
                return Ok(Found::TooSmall);
            }
            // More buffers than a frame of 64 KiB needs of any driver; it bounds the
            // work for one frame.
            if usize::from(others) >= MAX_RX_CHAINS {
                return Ok(Found::TooSmall);
            }
            let Some(mut chain) = queue.peek_behind(guest, others)? else {
                return Ok(Found::Nothing);
            };
            let head = chain.head;
            let before = left;
            while left != 0
                && let Some(buffer) = chain.next(queue, guest)?
            {
                // 5.1.6.3: receive buffers are device-writable.
                if !buffer.writable {
                    return Err(Broken);
                }
                walked = walked.saturating_add(1);
                if walked > usize::from(QUEUE_SIZE) {
                    return Ok(Found::TooSmall);
                }
                let len = usize::try_from(buffer.len).map_err(|_| Broken)?.min(left);
                if len != 0 {
                    self.buffers.push((buffer.address, len))?;
                }
                left = left.saturating_sub(len);
            }
            let taken = before.saturating_sub(left);
            // 5.1.6.3.1: the first holds at least the header.
            if several && others == 0 && taken < header {
                return Ok(Found::TooSmall);
            }
            self.chains
                .push((head, u32::try_from(taken).map_err(|_| Broken)?))?;
        }
        Ok(Found::Room)
    }

    /// Writes header and frame into the buffers that were found.
    fn write(
        &self,
        guest: &impl GuestMemory,
        header: &[u8],
        parcel: &mut Parcel<'_>,
    ) -> Result<(), Broken> {
        let mut head = header;
        for (address, len) in self.buffers.as_slice() {
            let (part, rest) = head.split_at_checked(*len).unwrap_or((head, &[]));
            head = rest;
            let behind = address.checked_add(part.len() as u64);
            let left = len.saturating_sub(part.len());
            if !part.is_empty() {
                guest.write(*address, part)?;
            }
            if left != 0 {
                parcel.write(guest, behind.ok_or(Broken)?, left)?;
            }
        }
        Ok(())
    }
}

fn status_word(up: bool) -> [u8; 2] {
    if up {
        net::LINK_UP.to_le_bytes()
    } else {
        [0; 2]
    }
}

#[cfg(test)]
mod tests;
