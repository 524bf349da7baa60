//! SynIC message slots, event flags and the results of posting.

use crate::index::part;
use crate::{Rule, Violation};
use abi::hyperv::{
    MESSAGE_FLAG_PENDING, MESSAGE_PAYLOAD, MESSAGE_SLOT, MESSAGE_TYPE_NONE,
    MESSAGE_TYPE_TIMER_EXPIRED, Message, status,
};
use abi::vmbus::{MAX_CHANNELS, MessageHeader, SYNIC_MESSAGE_TYPE};
use core::mem::size_of;
use zerocopy::FromBytes;

/// The payload of one channel message. At least the 8 bytes of its header are
/// there; bytes that the host did not count are zero (SYN-08).
#[derive(Clone, Debug)]
pub struct Payload {
    bytes: [u8; MESSAGE_PAYLOAD],
    len: usize,
}

impl Payload {
    /// The bytes that count.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// Judges the private copy of a slot. `Ok(None)`: the slot was empty.
pub fn slot(copy: &[u8; MESSAGE_SLOT]) -> Result<Option<Payload>, Violation> {
    let Ok(message) = Message::read_from_bytes(copy) else {
        return Ok(None);
    };
    let kind = message.header.message_type;
    let size = message.header.payload_size;
    match kind {
        // SYN-03: whatever else stands there is old.
        MESSAGE_TYPE_NONE => return Ok(None),
        SYNIC_MESSAGE_TYPE => {}
        MESSAGE_TYPE_TIMER_EXPIRED => return Err(Violation::new(Rule::SYN_05, 0, kind)),
        _ => return Err(Violation::new(Rule::SYN_04, 0, kind)),
    }
    let len = usize::from(size);
    let Some(counted) = part(&message.payload, 0, len) else {
        return Err(Violation::new(Rule::SYN_06, 4, size));
    };
    if len < size_of::<MessageHeader>() {
        return Err(Violation::new(Rule::SYN_07, 4, size));
    }
    let mut bytes = [0; MESSAGE_PAYLOAD];
    for (to, from) in bytes.iter_mut().zip(counted) {
        *to = *from;
    }
    Ok(Some(Payload { bytes, len }))
}

/// Whether the flags of a slot say that another message waits; the other bits
/// mean nothing (SYN-09).
pub const fn pending(flags: u8) -> bool {
    flags & MESSAGE_FLAG_PENDING != 0
}

/// An event flag that may belong to a channel: 1 to 2047.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFlag(u16);

impl EventFlag {
    /// Number of the flag.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// Judges the number of a set event flag (SYN-13, SYN-14).
pub fn event_flag(number: u32) -> Result<EventFlag, Violation> {
    match u16::try_from(number) {
        Ok(0) => Err(Violation::new(Rule::SYN_14, 0, number)),
        Ok(flag) if number < MAX_CHANNELS => Ok(EventFlag(flag)),
        _ => Err(Violation::new(Rule::SYN_13, 0, number)),
    }
}

/// What the result of a PostMessage hypercall asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// The host has the message.
    Accepted,
    /// Try again later.
    Retry,
}

/// Judges the status of PostMessage (SYN-23). `first_contact`: the message was
/// INITIATE_CONTACT, for which an unknown connection is final (a host below 5.0).
pub fn post_status(result: u16, first_contact: bool) -> Result<Posted, Violation> {
    match result {
        status::SUCCESS => Ok(Posted::Accepted),
        status::INSUFFICIENT_MEMORY | status::INSUFFICIENT_BUFFERS => Ok(Posted::Retry),
        // Linux: the host throttles.
        status::INVALID_CONNECTION_ID if !first_contact => Ok(Posted::Retry),
        _ => Err(Violation::new(Rule::SYN_23, 0, result)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(kind: u32, size: u8, flags: u8) -> [u8; MESSAGE_SLOT] {
        let mut slot = [0xee; MESSAGE_SLOT];
        slot[0..4].copy_from_slice(&kind.to_le_bytes());
        slot[4] = size;
        slot[5] = flags;
        slot
    }

    fn rule(kind: u32, size: u8) -> Rule {
        slot(&copy(kind, size, 0)).unwrap_err().rule
    }

    #[test]
    fn syn_03_an_empty_slot_is_empty() {
        assert!(slot(&copy(0, 200, 1)).unwrap().is_none());
    }

    #[test]
    fn syn_04_only_channel_messages() {
        assert_eq!(rule(0x8000_0000, 20), Rule::SYN_04);
        assert_eq!(rule(2, 20), Rule::SYN_04);
        assert!(slot(&copy(1, 20, 0)).unwrap().is_some());
    }

    #[test]
    fn syn_05_no_timer_was_armed() {
        assert_eq!(rule(0x8000_0010, 24), Rule::SYN_05);
    }

    #[test]
    fn syn_06_payload_inside_the_slot() {
        assert_eq!(rule(1, 255), Rule::SYN_06);
        assert_eq!(rule(1, 241), Rule::SYN_06);
        assert_eq!(slot(&copy(1, 240, 0)).unwrap().unwrap().bytes().len(), 240);
    }

    #[test]
    fn syn_07_payload_holds_a_header() {
        assert_eq!(rule(1, 3), Rule::SYN_07);
        assert_eq!(rule(1, 7), Rule::SYN_07);
        assert_eq!(slot(&copy(1, 8, 0)).unwrap().unwrap().bytes().len(), 8);
    }

    #[test]
    fn syn_08_the_tail_is_zero() {
        let payload = slot(&copy(1, 12, 0)).unwrap().unwrap();
        assert!(payload.bytes[..12].iter().all(|b| *b == 0xee));
        assert!(payload.bytes[12..].iter().all(|b| *b == 0));
    }

    #[test]
    fn syn_09_reserved_flags_mean_nothing() {
        assert!(!pending(0xfe));
        assert!(pending(0x01));
        assert!(slot(&copy(1, 8, 0xfe)).unwrap().is_some());
    }

    #[test]
    fn syn_13_flags_end_at_2047() {
        assert_eq!(event_flag(2048).unwrap_err().rule, Rule::SYN_13);
        assert_eq!(event_flag(u32::MAX).unwrap_err().rule, Rule::SYN_13);
        assert_eq!(event_flag(2047).unwrap().number(), 2047);
    }

    #[test]
    fn syn_14_flag_0_is_no_channel() {
        assert_eq!(event_flag(0).unwrap_err().rule, Rule::SYN_14);
        assert_eq!(event_flag(1).unwrap().number(), 1);
    }

    #[test]
    fn syn_23_unknown_statuses_fail() {
        assert_eq!(post_status(0, false), Ok(Posted::Accepted));
        assert_eq!(post_status(0x13, false), Ok(Posted::Retry));
        assert_eq!(post_status(0x0b, true), Ok(Posted::Retry));
        assert_eq!(post_status(0x12, false), Ok(Posted::Retry));
        assert_eq!(post_status(0x12, true).unwrap_err().rule, Rule::SYN_23);
        assert_eq!(post_status(0xbeef, false).unwrap_err().rule, Rule::SYN_23);
        assert_eq!(post_status(0x06, false).unwrap_err().rule, Rule::SYN_23);
    }
}
