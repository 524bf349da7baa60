//! One offered channel.
use crate::pages::PageList;
use abi::vmbus::{Guid, OfferChannel, OfferFlags, SINT};
use alloc::sync::Arc;
use zerocopy::FromZeros;

/// What a device offers.
#[derive(Clone, Copy, Debug)]
pub struct OfferParams {
    /// Interface class.
    pub interface: Guid,
    /// Instance of the class.
    pub instance: Guid,
    /// 0 for a primary channel.
    pub sub_channel_index: u16,
    /// Offer flags.
    pub flags: OfferFlags,
    /// Opaque to VMBus.
    pub user_defined: [u8; 120],
}

impl OfferParams {
    /// An ordinary primary channel of `interface`.
    pub fn new(interface: Guid, instance: Guid) -> Self {
        OfferParams {
            interface,
            instance,
            sub_channel_index: 0,
            flags: OfferFlags::ENUMERATE_INTERFACE,
            user_defined: [0; 120],
        }
    }
}

/// An OPENCHANNEL that the server found in order.
#[derive(Clone, Debug)]
pub struct RingRequest {
    /// Which channel.
    pub relid: u32,
    /// Pages of both rings.
    pub ring: Arc<PageList>,
    /// Page at which the host-to-guest ring starts.
    pub downstream_offset: usize,
    /// For the device.
    pub user_data: [u8; 120],
}

/// How the guest is signalled on an open channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wiring {
    pub open_id: u32,
    /// VP for interrupts; `None` = none.
    pub vp: Option<u32>,
    pub sint: u8,
    pub flag: u16,
    /// Connection on which the guest signals.
    pub connection: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Opening(Wiring),
    Open(Wiring),
    /// The device has not let go yet.
    Closing,
    /// The guest gave the relid back; offered again after a reset only.
    Released,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub relid: u32,
    pub offer: OfferParams,
    pub state: State,
    /// The guest knows of it.
    pub offered: bool,
    pub rescinded: bool,
}

impl Channel {
    /// Connection id of the offer (OpenVMM's layout: SINT 2, VTL 0).
    pub fn offer_connection(&self) -> u32 {
        self.relid | u32::from(SINT) << 12
    }

    pub fn message(&self) -> OfferChannel {
        let mut m = OfferChannel::new_zeroed();
        m.header.message_type = abi::vmbus::MessageType::OFFER_CHANNEL.0.into();
        m.interface = self.offer.interface;
        m.instance = self.offer.instance;
        m.flags = self.offer.flags.bits().into();
        m.user_defined = self.offer.user_defined;
        m.sub_channel_index = self.offer.sub_channel_index.into();
        m.relid = self.relid.into();
        m.is_dedicated = 1.into();
        m.connection_id = self.offer_connection().into();
        m
    }

    pub fn wiring(&self) -> Option<Wiring> {
        match self.state {
            State::Opening(w) | State::Open(w) => Some(w),
            _ => None,
        }
    }
}
