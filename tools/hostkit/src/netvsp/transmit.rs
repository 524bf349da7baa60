//! Guest to host: send-buffer sections, GPA direct ranges, RNDIS PACKETs in them.
use super::control::{ALIGNMENT_FACTOR, Rndis};
use super::offload::{self, Limits, Notes};
use super::{Bytes, Env, NicError, parse, part};
use crate::mem::VmMemory;
use crate::pages::PageList;
use crate::ring::Packet;
use abi::rndis::{self, message};
use abi::vmbus::PAGE_SIZE;
use alloc::vec::Vec;

/// Size of a send-buffer section.
pub const SEND_SECTION: usize = 6144;
/// Most RNDIS messages in one buffer, as INITIALIZE_COMPLETE says.
pub const MAX_PACKETS: u32 = 8;
/// Most pages in one GPA direct packet.
const MAX_DIRECT_PAGES: usize = 64;

/// Bytes of one section.
pub(super) fn section(
    mem: &dyn VmMemory,
    pages: &PageList,
    index: u32,
    size: u32,
) -> Result<Bytes, NicError> {
    let size = size as usize;
    if size > SEND_SECTION || index as usize >= pages.len() / SEND_SECTION {
        return Err(NicError::Protocol("send-section"));
    }
    let mut bytes = alloc::vec![0; size];
    pages.read(mem, index as usize * SEND_SECTION, &mut bytes)?;
    Ok(bytes)
}

/// Bytes of all ranges that a GPA direct packet names.
pub(super) fn gather(mem: &dyn VmMemory, p: &Packet) -> Result<Bytes, NicError> {
    const ERROR: &str = "gpa-direct";
    let word = |b: &[u8]| {
        b.as_chunks::<4>()
            .0
            .first()
            .map_or(0, |w| u32::from_le_bytes(*w))
    };
    if p.kind != abi::vmbus::PacketType::GPA_DIRECT {
        return Err(NicError::Protocol("no-data"));
    }
    let head = part(p.extended(), 0, 8, ERROR)?;
    let count = word(&head[4..]);
    let mut at = 8;
    let mut pages = 0;
    let mut bytes = Vec::new();
    for _ in 0..count {
        let range = part(p.extended(), at, 8, ERROR)?;
        let (len, offset) = (word(range), word(&range[4..]));
        let frames = (len as usize)
            .saturating_add(offset as usize)
            .div_ceil(PAGE_SIZE);
        pages += frames;
        if pages > MAX_DIRECT_PAGES {
            return Err(NicError::Protocol("gpa-direct-pages"));
        }
        at += 8;
        let list = part(p.extended(), at, frames * 8, ERROR)?;
        at += frames * 8;
        let pfns = list
            .as_chunks::<8>()
            .0
            .iter()
            .map(|w| u64::from_le_bytes(*w))
            .collect();
        let list = PageList::new(pfns, offset, len).ok_or(NicError::Protocol(ERROR))?;
        let start = bytes.len();
        bytes.resize(start + list.len(), 0);
        list.read(mem, 0, &mut bytes[start..])?;
    }
    Ok(bytes)
}

/// Sends every frame of the RNDIS PACKETs that follow one another in `bytes`.
pub(super) fn frames(
    env: &mut Env<'_>,
    rndis: &Rndis,
    limits: Limits,
    bytes: &[u8],
) -> Result<(), NicError> {
    if !rndis.initialized {
        return Err(NicError::Protocol("data-before-initialize"));
    }
    let mut rest = bytes;
    let mut count = 0;
    loop {
        count += 1;
        if count > MAX_PACKETS {
            return Err(NicError::Protocol("too-many-packets"));
        }
        let head: rndis::Header = parse(rest, "rndis-short")?;
        let length = head.length.get() as usize;
        if head.message_type.get() != message::PACKET {
            return Err(NicError::Protocol("rndis-data-type"));
        }
        let one = part(rest, 0, length, "rndis-length")?;
        let (frame, notes) = frame(one)?;
        let Env {
            backend, counters, ..
        } = env;
        let cut = notes.large_send.is_some();
        counters.messages_tx += 1;
        if cut {
            counters.large_sends += 1;
        } else if notes.checksum.unwrap_or(0) > 0b11 {
            counters.checksums += 1;
        }
        offload::finish(frame, &notes, &rndis.enabled, limits, |frame| {
            counters.frames_tx += 1;
            counters.segments += u64::from(cut);
            counters.bytes_tx += frame.len() as u64;
            backend.send(frame);
        })?;
        rest = rest.get(length..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        // Padding in front of the next message is a part of this one.
        if !length.is_multiple_of(1 << ALIGNMENT_FACTOR) {
            return Err(NicError::Protocol("rndis-alignment"));
        }
    }
}

/// The frame inside one RNDIS PACKET, and what is said beside it.
fn frame(one: &[u8]) -> Result<(&[u8], Notes), NicError> {
    let p: rndis::Packet = parse(one, "rndis-packet-head")?;
    if p.oob_length.get() != 0 || p.oob_count.get() != 0 || p.vc_handle.get() != 0 {
        return Err(NicError::Protocol("rndis-oob"));
    }
    let body = one.get(rndis::OFFSET_BASE..).unwrap_or_default();
    let data = part(
        body,
        p.data_offset.get() as usize,
        p.data_length.get() as usize,
        "rndis-data",
    )?;
    if data.len() < 14 {
        return Err(NicError::Protocol("frame-size"));
    }
    if (p.data_offset.get() as usize) < size_of::<rndis::Packet>() - rndis::OFFSET_BASE {
        return Err(NicError::Protocol("rndis-data-offset"));
    }
    let mut notes = Notes::default();
    if p.ppi_length.get() != 0 {
        notes = offload::notes(part(
            body,
            p.ppi_offset.get() as usize,
            p.ppi_length.get() as usize,
            "ppi-area",
        )?)?;
    }
    Ok((data, notes))
}
