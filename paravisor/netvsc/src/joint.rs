//! Fragments of a coalesced packet on their way to one frame: headers in private memory,
//! the payload where the host put it, to be copied from there once.

use crate::offload;
use alloc::vec::Vec;
use memory::Piece;
use validate::Violation;
use validate::frame::{Arrived, Headers, MAX_HEADERS};
use validate::rndis::coalesce::{self, Gathered};

/// Bytes of both addresses of a frame, and of a tag behind them.
const ADDRESSES: usize = 12;
const TAG: usize = 4;

/// What is collected.
pub(crate) struct Joint {
    pub gathered: Gathered,
    /// The first bytes of the frame: its headers, and what was read with them.
    head: [u8; MAX_HEADERS + TAG],
    head_len: usize,
    /// Of all of it, a tag included.
    len: usize,
    /// What came with the first fragment: whether the host has looked at the sums of all
    /// segments (RND-25), and its hash of them.
    arrived: Arrived,
    pieces: Vec<Piece>,
}

impl Joint {
    /// Takes no memory as long as [`Joint::reserve`] was not called.
    pub const fn new() -> Joint {
        Joint {
            gathered: Gathered::new(),
            head: [0; MAX_HEADERS + TAG],
            head_len: 0,
            len: 0,
            arrived: Arrived::PLAIN,
            pieces: Vec::new(),
        }
    }

    /// Room for as many fragments as there are ranges.
    pub fn reserve(&mut self, ranges: usize) {
        self.pieces.reserve_exact(ranges);
    }

    /// Begins with the first fragment's private bytes, and its tag if it has one.
    pub fn begin(&mut self, bytes: &[u8], vlan: Option<u16>, arrived: Arrived) {
        self.pieces.clear();
        self.arrived = arrived;
        let (addresses, rest) = bytes.split_at_checked(ADDRESSES).unwrap_or((bytes, &[]));
        let [high, low] = vlan.unwrap_or(0).to_be_bytes();
        let tag = [0x81, 0x00, high, low];
        let tag = tag.iter().take(if vlan.is_some() { TAG } else { 0 });
        let mut count = 0_usize;
        for (to, from) in (self.head.iter_mut()).zip(addresses.iter().chain(tag).chain(rest)) {
            *to = *from;
            count = count.saturating_add(1);
        }
        self.head_len = count;
        self.len = count;
    }

    /// What lies behind in the receive buffer.
    pub fn push(&mut self, piece: Piece) {
        // One for each range at most, for which there is room.
        if !piece.is_empty() && self.pieces.len() < self.pieces.capacity() {
            self.pieces.push(piece);
            self.len = self.len.saturating_add(piece.len());
        }
    }

    /// The last fragment is here: judges the whole and does to its headers what the host
    /// leaves to us. It sets the lengths, but sums only where it likes (Linux
    /// `netvsc_comp_ipcsum`).
    pub fn finish(&mut self) -> Result<Arrived, Violation> {
        let head = self.head.get_mut(..self.head_len).unwrap_or_default();
        let headers: Headers = coalesce::headers(head, self.len, self.arrived.vouched())?;
        offload::join(head, &headers, self.len);
        let hash = self.arrived.hash().filter(|hash| hash.fits(&headers));
        Ok(Arrived::of_joined(headers).with_hash(hash))
    }

    /// Bytes of the whole.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The whole, in its two parts.
    pub fn parts(&self) -> (&[u8], &[Piece]) {
        let head = self.head.get(..self.head_len).unwrap_or_default();
        (head, &self.pieces)
    }
}
