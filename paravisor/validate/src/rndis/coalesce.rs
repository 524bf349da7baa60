//! Receive coalescing: segments of one TCP flow that the host has joined. They come as
//! fragments, one a range, all in one transfer-page packet; the first begins with the
//! headers of the whole (Linux `rndis_filter_receive_data`).

use crate::frame::{Headers, MAX_SEGMENTED, Network, Transport};
use crate::{Rule, Violation};
use abi::nvsp::MAX_RANGES_RSC;
use abi::rndis::packet_id;

/// What a message says about its place in a coalesced packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    pub first: bool,
    last: bool,
    id: u16,
    /// Where in the message they stand.
    at: u16,
}

impl Flags {
    /// `None`: these are of a frame that is whole.
    pub fn of(flags: u8, id: u16, at: usize) -> Option<Flags> {
        (flags & packet_id::SUB_ALLOCATION != 0).then_some(Flags {
            first: flags & packet_id::FIRST != 0,
            last: flags & packet_id::LAST != 0,
            id,
            at: at as u16,
        })
    }
}

/// Which part of a coalesced packet a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub(super) flags: Flags,
    pub(super) len: u32,
}

impl Part {
    /// It begins with the headers.
    pub fn is_first(&self) -> bool {
        self.flags.first
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What is known of the packet whose fragments are being collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    count: u32,
    len: u32,
    id: u16,
}

impl Gathered {
    /// Nothing.
    pub const fn new() -> Gathered {
        Gathered {
            count: 0,
            len: 0,
            id: 0,
        }
    }

    /// Whether a packet was begun and has no last fragment yet.
    pub fn is_open(&self) -> bool {
        self.count != 0
    }

    /// Fragments so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// A frame came in the place of a fragment, or the packet has ended: what was begun
    /// has no end (RND-29).
    pub fn interrupted(&mut self) -> Option<Violation> {
        let was = core::mem::take(self);
        let count = u64::from(was.count);
        was.is_open()
            .then(|| Violation::new(Rule::RND_29, 0, count))
    }

    /// Takes the next fragment; `more` if other ranges follow in its packet. Whether it
    /// was the last. After an error nothing is left (RND-33).
    pub fn add(&mut self, part: &Part, more: bool) -> Result<bool, Violation> {
        let was = core::mem::take(self);
        let flags = part.flags;
        let wrong = |rule, value: u64| Err(Violation::new(rule, flags.at.into(), value));
        // Exactly the first one begins; the last range must not leave it open.
        if flags.first == was.is_open() || !flags.last && !more {
            return wrong(Rule::RND_29, was.count.into());
        }
        if was.is_open() && flags.id != was.id {
            return wrong(Rule::RND_32, flags.id.into());
        }
        if was.count >= MAX_RANGES_RSC {
            return wrong(Rule::RND_30, was.count.into());
        }
        let len = (was.len as usize).saturating_add(part.len());
        if len > MAX_SEGMENTED {
            return wrong(Rule::RND_31, len as u64);
        }
        *self = Gathered {
            count: was.count.saturating_add(1),
            len: len as u32,
            id: flags.id,
        };
        Ok(flags.last)
    }
}

/// Judges a coalesced packet of `len` bytes, of which `head` holds the first: all of its
/// headers, in the first fragment. They must be of TCP and say what there is (RND-31).
/// The sums of its segments are gone, so the host's word that they were right must be
/// one that is believed (RND-25).
pub fn headers(head: &[u8], len: usize, vouched: bool) -> Result<Headers, Violation> {
    if !vouched {
        return Err(Violation::new(Rule::RND_25, 0, len as u64));
    }
    let wrong = |value: usize| Violation::new(Rule::RND_31, 0, value as u64);
    let headers = Headers::of(head)
        .filter(|headers| headers.transport() == Transport::Tcp)
        .ok_or(wrong(head.len()))?;
    let (field, from) = match headers.network() {
        Network::V4 => (2, headers.network_at()),
        Network::V6 => (4, headers.transport_at()),
    };
    let at = headers.network_at().saturating_add(field);
    let said = head.get(at..).and_then(|rest| rest.first_chunk::<2>());
    let said = usize::from(u16::from_be_bytes(said.copied().unwrap_or_default()));
    match from.saturating_add(said) == len && headers.payload_at() < len {
        true => Ok(headers),
        false => Err(wrong(said)),
    }
}
