//! The VMBus server: what a Hyper-V host answers to channel messages. It follows
//! OpenVMM's server (`vmbus_server/src/channels.rs`) where that is stricter than
//! the rest. Devices see [`ServerEvent`]s and the pages of their GPADLs.
mod channel;
mod gpadl;
mod server;

pub use channel::{OfferParams, RingRequest};
pub use server::Server;

use crate::fault::Faults;
use crate::hv::Partition;
use crate::mem::VmMemory;
use abi::hyperv::message_connection;
use abi::vmbus::{
    CONNECTION_MESSAGE, CONNECTION_MESSAGE_LEGACY, CONNECTION_MESSAGE_REDIRECTED, Features, SINT,
    SINT_REDIRECTED, Version,
};
use alloc::collections::BTreeMap;

/// Which client the server talks to: connection ids and SINTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Message connections that lead to the server.
    pub connections: &'static [u32],
    /// What VERSION_RESPONSE names for later messages.
    pub response_connection: u32,
    /// SINT for messages, and for events of channels that are redirected.
    pub sint: u8,
    /// SINT that INITIATE_CONTACT has to name.
    pub contact_sint: u8,
    /// VTL that INITIATE_CONTACT has to name.
    pub contact_vtl: u8,
}

impl Target {
    /// A guest that owns its whole VM: connection 1 or 4, SINT 2.
    pub const PLAIN: Target = Target {
        connections: &[CONNECTION_MESSAGE_LEGACY, CONNECTION_MESSAGE],
        response_connection: CONNECTION_MESSAGE_LEGACY,
        sint: SINT,
        contact_sint: SINT,
        contact_vtl: 0,
    };
    /// A paravisor in VTL2 to which the host redirects: connection 0x800074, SINT 7.
    pub const REDIRECTED: Target = Target {
        connections: &[CONNECTION_MESSAGE_REDIRECTED],
        response_connection: CONNECTION_MESSAGE_REDIRECTED,
        sint: SINT_REDIRECTED,
        contact_sint: SINT,
        contact_vtl: 0,
    };
}

const _: () = assert!(CONNECTION_MESSAGE_REDIRECTED == message_connection(2, 0, SINT_REDIRECTED));

/// What the server supports.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// The client it expects.
    pub target: Target,
    /// Newest version it accepts.
    pub max_version: Version,
    /// Oldest version it accepts.
    pub min_version: Version,
    /// Feature flags it offers (6.0).
    pub features: Features,
    /// Relid of the first offer.
    pub first_relid: u32,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            target: Target::REDIRECTED,
            max_version: Version::V6_0,
            min_version: Version::V5_0,
            features: Features::GUEST_SIGNAL_PARAMETERS
                .union(Features::INTERRUPT_REDIRECTION)
                .union(Features::MODIFY_CONNECTION)
                .union(Features::CLIENT_ID),
            first_relid: 1,
        }
    }
}

/// What the server needs from its surroundings for one step.
pub struct Context<'a> {
    /// Memory of the VM.
    pub mem: &'a dyn VmMemory,
    /// The partition that the client lives in.
    pub partition: &'a mut Partition,
    /// What goes wrong.
    pub faults: &'a mut Faults,
}

/// Something that a device has to do.
#[derive(Clone, Debug)]
pub enum ServerEvent {
    /// The guest wants to open the channel: answer with [`Server::open_result`].
    Open(RingRequest),
    /// The channel is closed (by the guest, a rescind or a reset): drop the rings
    /// and every buffer, then call [`Server::channel_closed`].
    Close {
        /// Which channel.
        relid: u32,
    },
}

/// What the server counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// Messages of the guest by type.
    pub messages_in: BTreeMap<u32, u64>,
    /// Messages to the guest by type (copies by faults included).
    pub messages_out: BTreeMap<u32, u64>,
    /// What the guest did wrong, by name.
    pub errors: BTreeMap<&'static str, u64>,
    /// GPADLs that exist at the moment.
    pub gpadls: u64,
    /// Pages in them.
    pub gpadl_pages: u64,
}
