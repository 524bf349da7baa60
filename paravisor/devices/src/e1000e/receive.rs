//! Frames for the guest: filters, buffers, write-back (datasheet 7.1).

use super::ring::number;
use super::{E1000e, ETHERNET_LEN, TAG_LEN};
use crate::NoBuffer;
use abi::e1000e::{RAH_VALID, RFCTL_EXTEN, cause, ctrl, rctl, reg, rx};
use memory::{GuestMemory, OutOfRange, Parcel};

/// Longest frame without `LPE`: 1522 bytes with tag and FCS.
const SHORT: usize = 1522;
/// Bytes of the FCS.
const FCS_LEN: usize = 4;
/// Offset of the Ethertype, and of a tag.
const TYPE_AT: usize = 12;

/// How the driver wants its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Legacy,
    Extended,
    Split,
}

impl Shape {
    fn len(self) -> usize {
        match self {
            Shape::Legacy | Shape::Extended => rx::LEN,
            Shape::Split => rx::SPLIT_LEN,
        }
    }
}

/// What goes into buffers: a frame, perhaps without its tag, perhaps with an FCS.
struct Content<'p, 'a> {
    frame: &'p mut Parcel<'a>,
    /// Bytes in front of a tag that is to be left out.
    until_tag: Option<usize>,
    fcs: &'p [u8],
}

impl Content<'_, '_> {
    fn len(&self) -> usize {
        let tag = self.until_tag.map_or(0, |_| TAG_LEN);
        let frame = self.frame.len().saturating_sub(tag);
        frame.saturating_add(self.fcs.len())
    }

    /// Puts the next bytes into a buffer of `room` bytes; how many.
    fn fill(
        &mut self,
        guest: &impl GuestMemory,
        buffer: u64,
        room: usize,
    ) -> Result<usize, OutOfRange> {
        let mut have = 0;
        if let Some(left) = self.until_tag {
            have = left.min(room);
            self.put(guest, buffer, 0, have)?;
            self.until_tag = Some(left.saturating_sub(have)).filter(|left| *left != 0);
            if self.until_tag.is_some() {
                return Ok(have);
            }
            self.frame.skip(TAG_LEN)?;
        }
        let count = self.frame.len().min(room.saturating_sub(have));
        self.put(guest, buffer, have, count)?;
        have = have.saturating_add(count);
        let room = room.saturating_sub(have);
        let (now, later) = self.fcs.split_at_checked(room).unwrap_or((self.fcs, &[]));
        self.fcs = later;
        if buffer != 0 && !now.is_empty() {
            guest.write(inside(buffer, have)?, now)?;
        }
        Ok(have.saturating_add(now.len()))
    }

    /// The next `count` bytes of the frame to byte `at` of a buffer. A null address:
    /// counted, not written (datasheet 7.1.4).
    fn put(
        &mut self,
        guest: &impl GuestMemory,
        buffer: u64,
        at: usize,
        count: usize,
    ) -> Result<(), OutOfRange> {
        if buffer == 0 {
            return self.frame.skip(count);
        }
        self.frame.write(guest, inside(buffer, at)?, count)
    }
}

fn inside(buffer: u64, at: usize) -> Result<u64, OutOfRange> {
    buffer.checked_add(at as u64).ok_or(OutOfRange)
}

impl E1000e {
    /// See [`crate::Machine::takes_pieces`]. An FCS is over the whole frame.
    pub(crate) fn takes_pieces(&self) -> bool {
        self.plain.get(reg::RCTL) & rctl::SECRC != 0
    }

    /// See [`crate::Machine::deliver`].
    pub(crate) fn deliver(
        &mut self,
        guest: &impl GuestMemory,
        parcel: &mut Parcel<'_>,
    ) -> Result<(), NoBuffer> {
        let control = self.plain.get(reg::RCTL);
        if !self.running() || control & rctl::EN == 0 {
            return Err(NoBuffer);
        }
        let limit = if control & rctl::LPE != 0 {
            self.max_frame
        } else {
            self.max_frame.min(SHORT.saturating_sub(FCS_LEN))
        };
        let (head, len) = (parcel.head(), parcel.len());
        if len < ETHERNET_LEN || len > limit {
            self.statistics.oversized();
            self.rx_dropped = self.rx_dropped.saturating_add(1);
            return Ok(());
        }
        // A frame in pieces waited for a buffer, and then the driver asked for FCSs.
        let needed = match self.takes_pieces() {
            true => len.min(ETHERNET_LEN.saturating_add(TAG_LEN)),
            false => len,
        };
        if head.len() < needed {
            self.rx_dropped = self.rx_dropped.saturating_add(1);
            return Ok(());
        }
        let tag = self.tag(head);
        if !self.accepts(head, tag) {
            self.rx_filtered = self.rx_filtered.saturating_add(1);
            return Ok(());
        }
        match self.write_frame(guest, parcel, tag, control) {
            Ok(true) => {
                self.starved = false;
                self.rx_frames = self.rx_frames.saturating_add(1);
                self.statistics.received(head, len);
                Ok(())
            }
            Ok(false) => {
                // The owner keeps the frame and tries again: it is counted once, and
                // it is no overrun.
                if !core::mem::replace(&mut self.starved, true) {
                    self.statistics.no_buffer();
                }
                Err(NoBuffer)
            }
            Err(OutOfRange) => {
                // A part of the frame may be written: it is lost.
                self.set_broken();
                self.rx_dropped = self.rx_dropped.saturating_add(1);
                Ok(())
            }
        }
    }

    fn shape(&self, control: u32) -> Shape {
        if control & rctl::DTYP_PS != 0 {
            Shape::Split
        } else if self.plain.get(reg::RFCTL) & RFCTL_EXTEN != 0 {
            Shape::Extended
        } else {
            Shape::Legacy
        }
    }

    /// Sizes of the buffers of a descriptor (datasheet 10.2.5.1 and 10.2.5.4).
    fn buffer_sizes(&self, shape: Shape, control: u32) -> [usize; rx::SPLIT_BUFFERS] {
        if shape == Shape::Split {
            let sizes = self.plain.get(reg::PSRCTL);
            let kib = |shift: u32| (sizes.wrapping_shr(shift) & 0x3f).wrapping_mul(1024) as usize;
            return [
                (sizes & 0x7f).wrapping_mul(128) as usize,
                kib(8),
                kib(16),
                kib(24),
            ];
        }
        let flexible = control >> rctl::FLXBUF_SHIFT & 0xf;
        let fixed = 2048u32.wrapping_shr(control >> rctl::BSIZE_SHIFT & 3);
        let size = if flexible != 0 {
            flexible.wrapping_mul(1024)
        } else if control & rctl::BSEX != 0 {
            fixed.wrapping_mul(16)
        } else {
            fixed
        };
        [size as usize, 0, 0, 0]
    }

    /// Writes a frame; `false` if there are too few descriptors.
    fn write_frame(
        &mut self,
        guest: &impl GuestMemory,
        frame: &mut Parcel<'_>,
        tag: Option<u16>,
        control: u32,
    ) -> Result<bool, OutOfRange> {
        let shape = self.shape(control);
        let sizes = self.buffer_sizes(shape, control);
        let strip = tag.filter(|_| self.plain.get(reg::CTRL) & ctrl::VME != 0);
        let fcs = fcs(frame.head(), control);
        let mut content = Content {
            frame,
            until_tag: strip.map(|_| TYPE_AT),
            fcs: fcs.as_ref().map_or(&[], |fcs| fcs),
        };

        let per_descriptor = sizes
            .iter()
            .fold(0usize, |sum, size| sum.saturating_add(*size));
        let needed = match content.len().div_ceil(per_descriptor.max(1)) {
            needed if per_descriptor != 0 => needed as u32,
            _ => return Err(OutOfRange),
        };
        if self.rx.available(shape.len()) < needed {
            return Ok(false);
        }
        for index in 1..=needed {
            let mut status = rx::DD | rx::IXSM;
            if index == needed {
                status |= rx::EOP;
                if strip.is_some() {
                    status |= rx::VP;
                }
            }
            let tag = strip.unwrap_or(0);
            self.write_descriptor(guest, shape, sizes, &mut content, status, tag)?;
        }
        self.after_receive(shape, control);
        Ok(true)
    }

    /// Fills the buffers of the descriptor at the head, then writes it back: its
    /// status last, since that is what the driver waits for.
    fn write_descriptor(
        &mut self,
        guest: &impl GuestMemory,
        shape: Shape,
        sizes: [usize; rx::SPLIT_BUFFERS],
        content: &mut Content<'_, '_>,
        status: u32,
        tag: u16,
    ) -> Result<(), OutOfRange> {
        let mut descriptor = [0u8; rx::SPLIT_LEN];
        let len = shape.len();
        let copy = descriptor.get_mut(..len).ok_or(OutOfRange)?;
        guest.read(self.rx.address(len, 0)?, copy)?;
        let mut lengths = [0u16; rx::SPLIT_BUFFERS];
        for ((at, size), written) in [0, 8, 16, 24].into_iter().zip(sizes).zip(&mut lengths) {
            *written = content.fill(guest, number(&descriptor, at, 8), size)? as u16;
        }
        let [first, others @ ..] = lengths;
        let put = |at: u64, bytes: &[u8]| guest.write(self.rx.address(len, at)?, bytes);
        match shape {
            Shape::Legacy => {
                put(8, &(u32::from(first)).to_le_bytes())?;
                let word = status & 0xff | u32::from(tag) << 16;
                put(12, &word.to_le_bytes())?;
            }
            Shape::Extended | Shape::Split => {
                put(0, &[0; 8])?;
                let word = u32::from(first) | u32::from(tag) << 16;
                put(12, &word.to_le_bytes())?;
                if shape == Shape::Split {
                    // Header status: nothing was split at a header.
                    put(16, &[0; 2])?;
                    for (at, length) in [18, 20, 22].into_iter().zip(others) {
                        put(at, &length.to_le_bytes())?;
                    }
                }
                put(8, &status.to_le_bytes())?;
            }
        }
        self.rx.advance(len);
        Ok(())
    }

    fn after_receive(&mut self, shape: Shape, control: u32) {
        let mut causes = cause::RXT0;
        let threshold = self
            .rx
            .size(shape.len())
            .wrapping_shr((control >> rctl::RDMTS_SHIFT & 3).saturating_add(1));
        if self.rx.available(shape.len()) <= threshold {
            causes |= cause::RXDMT0;
        }
        self.interrupts.received(causes);
    }

    /// The tag of a frame, if it has one of the kind that the driver set.
    fn tag(&self, head: &[u8]) -> Option<u16> {
        let [a, b, c, d, _, _] = *head.get(TYPE_AT..)?.first_chunk()?;
        let kind = self.plain.get(reg::VET) as u16;
        (u16::from_be_bytes([a, b]) == kind).then_some(u16::from_be_bytes([c, d]))
    }

    /// Whether the filters let a frame through (datasheet 7.1.1).
    fn accepts(&self, head: &[u8], tag: Option<u16>) -> bool {
        let control = self.plain.get(reg::RCTL);
        if let Some(tag) = tag
            && control & rctl::VFE != 0
        {
            let id = u32::from(tag & 0xfff);
            let word = self
                .plain
                .get(reg::VFTA.saturating_add((id >> 5).wrapping_mul(4)));
            if word.wrapping_shr(id & 31) & 1 == 0 {
                return false;
            }
        }
        let Some(address) = head.first_chunk::<6>() else {
            return false;
        };
        let [first, ..] = *address;
        if *address == [0xff; 6] {
            return control & (rctl::BAM | rctl::MPE) != 0 || self.exact(address);
        }
        if first & 1 != 0 {
            return control & rctl::MPE != 0
                || self.exact(address)
                || self.hashed(address, control);
        }
        control & rctl::UPE != 0 || self.exact(address)
    }

    /// One of the 16 receive addresses.
    fn exact(&self, address: &[u8; 6]) -> bool {
        let wanted = number(address, 0, 6);
        (0..16u32).any(|index| {
            let at = reg::RA.saturating_add(index.wrapping_mul(8));
            let high = self.plain.get(at.saturating_add(4));
            let have = u64::from(self.plain.get(at)) | u64::from(high & 0xffff) << 32;
            high & RAH_VALID != 0 && have == wanted
        })
    }

    /// The multicast table: 12 bits of the last two bytes choose a bit.
    fn hashed(&self, address: &[u8; 6], control: u32) -> bool {
        let [.., low, high] = *address;
        let bits = u32::from(u16::from_le_bytes([low, high]));
        // Datasheet 10.2.5.1: bits 47:36, 46:35, 45:34 or 43:32 of the address.
        let shift = match control >> rctl::MO_SHIFT & 3 {
            0 => 4,
            1 => 3,
            2 => 2,
            _ => 0,
        };
        let bit = bits.wrapping_shr(shift) & 0xfff;
        let word = self
            .plain
            .get(reg::MTA.saturating_add((bit >> 5).wrapping_mul(4)));
        word.wrapping_shr(bit & 31) & 1 != 0
    }
}

/// The FCS of a frame where the driver wants it in its buffer (IEEE 802.3, 3.2.9).
fn fcs(frame: &[u8], control: u32) -> Option<[u8; FCS_LEN]> {
    if control & rctl::SECRC != 0 {
        return None;
    }
    let mut crc = u32::MAX;
    for byte in frame {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let polynomial = if crc & 1 != 0 { 0xedb8_8320 } else { 0 };
            crc = crc >> 1 ^ polynomial;
        }
    }
    Some((!crc).to_le_bytes())
}
