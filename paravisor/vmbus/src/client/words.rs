//! What owner and client say to each other: configuration, actions, events.

use super::{ChannelId, Post};
use abi::vmbus::{
    CONNECTION_MESSAGE, CONNECTION_MESSAGE_REDIRECTED, Features, Guid, SINT, SINT_REDIRECTED,
    Version,
};
use core::ops::Range;
use validate::Violation;

/// Which host we talk to: connections, SINTs and VTLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Connection to which messages are posted.
    pub message_connection: u32,
    /// SINT on which messages and event flags arrive.
    pub sint: u8,
    /// SINT that INITIATE_CONTACT names.
    pub contact_sint: u8,
    /// VTL that INITIATE_CONTACT names.
    pub contact_vtl: u8,
    /// VP on which messages and event flags arrive.
    pub vp: u32,
    /// The host redirects to our VTL: we stay on our message connection, and
    /// ask for channels with our own connection ids.
    pub redirected: bool,
}

impl Target {
    /// A guest that owns its whole VM.
    pub const PLAIN: Target = Target {
        message_connection: CONNECTION_MESSAGE,
        sint: SINT,
        contact_sint: SINT,
        contact_vtl: 0,
        vp: 0,
        redirected: false,
    };
    /// A paravisor in VTL2, to which Hyper-V redirects the VTL0 guest's bus.
    pub const REDIRECTED: Target = Target {
        message_connection: CONNECTION_MESSAGE_REDIRECTED,
        sint: SINT_REDIRECTED,
        contact_sint: SINT,
        contact_vtl: 0,
        vp: 0,
        redirected: true,
    };

    pub(super) fn features(&self) -> Features {
        if self.redirected {
            Features::GUEST_SIGNAL_PARAMETERS.union(Features::INTERRUPT_REDIRECTION)
        } else {
            Features::empty()
        }
    }
}

/// What the measured configuration says about the bus.
#[derive(Clone, Debug)]
pub struct Config {
    /// The host.
    pub target: Target,
    /// Network cards that are accepted (SYS-14).
    pub nics: usize,
    /// What is taken once the boot-time set is complete.
    pub late_offers: LateOffers,
    /// Versions in the order in which they are proposed; none below 5.2.
    pub versions: &'static [Version],
    /// Frames that may be told to the host: the pool of shared pages (GPD-11).
    pub frames: Range<u64>,
}

impl Config {
    /// One network card, which may come back, all versions that we speak.
    pub const fn new(target: Target) -> Config {
        Config {
            target,
            nics: 1,
            late_offers: LateOffers::Returning,
            versions: &VERSIONS,
            frames: 0..FRAMES,
        }
    }
}

/// Offers after the boot-time set (CTL-29). How many an hour at the most, CTL-28
/// says; how often the card's owner goes along, SYS-05.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateOffers {
    /// None: a card that was taken back is gone for good.
    Nothing,
    /// A card of the boot-time set that the host has taken back, known by class and
    /// instance. Honest hosts do that when their switch or their service starts
    /// anew and when the VM moves; without it such upkeep would cost the guest its
    /// network for good. No new device comes in by it, and nothing is believed of
    /// the old one: everything is negotiated again, and the owner insists on the
    /// address that the guest knows (SYS-14, RND-49).
    Returning,
    /// Any card, as far as the number of cards allows.
    Anything,
}

/// Frame numbers end here: addresses have 52 bits, and a C bit among them would
/// name private memory.
const FRAMES: u64 = 1 << 40;

/// Versions that we speak, newest first.
pub const VERSIONS: [Version; 3] = [Version::V6_0, Version::V5_3, Version::V5_2];

/// What the owner has to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Post this message and report the status to [`Client::on_post_result`].
    PostMessage(Post),
}

/// Connection and flag for SignalEvent; from a validated offer or our own
/// choice (SYN-33).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalTarget {
    /// Connection id.
    pub connection_id: u32,
    /// Flag number.
    pub flag: u16,
}

/// Names a GPADL of ours. Layers above pass its number to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpadlId(pub(super) u32);

impl GpadlId {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A version was agreed on; offers are requested.
    Connected {
        /// The version.
        version: Version,
        /// Features of both sides.
        features: Features,
    },
    /// A network card was offered.
    Offered {
        /// Its channel.
        channel: ChannelId,
        /// Which card.
        instance: Guid,
    },
    /// A sub-channel came that was asked for
    /// ([`Client::expect_sub_channels`](super::Client::expect_sub_channels)).
    SubChannel {
        /// The card's primary channel.
        primary: ChannelId,
        /// The new one.
        channel: ChannelId,
        /// Which of those that were asked for, from 1 on.
        index: u16,
    },
    /// The boot-time offers are complete.
    OffersDelivered,
    /// The offer is taken back, or that of its primary channel: stop using the
    /// channel and call [`Client::close`], unless it never was opened.
    /// [`Event::Released`] ends it.
    Rescinded {
        /// Which channel.
        channel: ChannelId,
    },
    /// A channel that was to be closed never will be: the host keeps memory of it.
    /// It can neither be opened again nor released; its card may be offered anew.
    Lost {
        /// Which channel.
        channel: ChannelId,
    },
    /// The relid is released and the channel forgotten.
    Released {
        /// Which channel.
        channel: ChannelId,
    },
    /// The channel is open: its rings carry packets now.
    Opened {
        /// Which channel.
        channel: ChannelId,
        /// How to signal the host.
        signal: SignalTarget,
    },
    /// The channel could not be opened.
    OpenFailed {
        /// Which channel.
        channel: ChannelId,
        /// Why; CTL-48 and GPD-03 carry the host's status.
        violation: Violation,
    },
    /// The channel's interrupts come on this VP from now on.
    Moved {
        /// Which channel.
        channel: ChannelId,
        /// The VP.
        vp: u32,
        /// The host has said so. Before 5.3 it says nothing, and the old VP may
        /// still get interrupts: it has to look too, until one came on the new.
        sure: bool,
    },
    /// The channel's interrupts stay where they were (CTL-52), or nobody knows
    /// where they are (CTL-50): both VPs have to look.
    MoveFailed {
        /// Which channel.
        channel: ChannelId,
        /// Why.
        violation: Violation,
    },
    /// The channel is closed and may be opened again, unless it is a sub-channel
    /// whose primary is closed.
    Closed {
        /// Which channel.
        channel: ChannelId,
    },
    /// The host knows this buffer now.
    GpadlCreated {
        /// Which.
        gpadl: GpadlId,
    },
    /// The host refused this buffer, or did not answer.
    GpadlFailed {
        /// Which.
        gpadl: GpadlId,
        /// Why.
        violation: Violation,
    },
    /// The host has let go of the memory of this GPADL: it may go back to the pool.
    MemoryReleased {
        /// Which.
        gpadl: GpadlId,
    },
    /// The host may use the memory of this GPADL for ever: leak it (GPD-06). Its
    /// channel will neither be released nor opened again.
    MemoryLeaked {
        /// Which.
        gpadl: GpadlId,
    },
    /// The connection was ended on our wish.
    Unloaded {
        /// The host has confirmed it. If not, all shared memory is leaked (CTL-54).
        answered: bool,
    },
    /// The connection is over; all shared memory is leaked.
    Failed {
        /// Why.
        violation: Violation,
    },
}

/// Why a call of the owner was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The channel or the connection is not in a state for it.
    State,
    /// A limit of our own, or memory that cannot be described (GPD-12).
    Limit(Violation),
}
