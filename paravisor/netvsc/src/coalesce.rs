//! Receive coalescing is switched on when the guest's driver can take the frames, and
//! off when it no longer can (Linux `netvsc_set_features`). A host that refuses is none
//! the worse: all frames come one by one then.

use crate::handshake::Phase;
use crate::limits;
use crate::nic::Nic;
use abi::nvsp::channel_type;
use abi::rndis::{self, ObjectHeader, object, offload_parameter, oid};
use memory::SharedMemory;
use validate::rndis::Request;
use validate::{Rule, Violation};
use vmbus::Channel;
use zerocopy::IntoBytes;

const REQUEST: Request = Request::Set(oid::TCP_OFFLOAD_PARAMETERS);

/// What is wanted of the host, and what it was told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coalesce {
    /// Over IPv4 and IPv6.
    wanted: [bool; 2],
    told: [bool; 2],
    /// When, as long as it has not answered.
    sent: Option<u64>,
    /// Fragments may come: it was switched on once. What the host had under way when it
    /// is switched off comes, too.
    pub expected: bool,
}

impl<M: SharedMemory> Nic<M> {
    /// Whether the host may be asked for it.
    pub(crate) fn may_coalesce(&self) -> bool {
        self.config.coalescing && self.config.trust_checksums && self.offloads.coalescing()
    }

    /// Whether segments of TCP over IPv4 and over IPv6 may come joined, as one frame.
    pub fn coalesce(&mut self, wanted: [bool; 2]) {
        self.coalesce.wanted = wanted;
    }

    /// Whether [`Nic::coalesce`] has left something that the next poll can say.
    pub fn coalesce_due(&self) -> bool {
        let changed = self.coalesce.wanted != self.coalesce.told;
        changed && self.phase == Phase::Ready && self.awaited.is_none() && self.may_coalesce()
    }

    /// When the host's answer is overdue.
    pub(crate) fn coalesce_deadline(&self) -> Option<u64> {
        let sent = self.coalesce.sent?;
        Some(sent.saturating_add(limits::REQUEST_DEADLINE))
    }

    /// Says what is wanted, and gives up waiting.
    pub(crate) fn step_coalesce<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        if let Some(since) = self.coalesce.sent {
            let age = now.saturating_sub(since);
            if self.awaited.is_none_or(|of| of.request != REQUEST) {
                self.coalesce.sent = None;
            } else if age > limits::REQUEST_DEADLINE {
                self.awaited = None;
                self.coalesce.sent = None;
                let late = Violation::new(Rule::RND_65, 0, age);
                self.counters.validation.violation(late);
            }
        }
        if !self.coalesce_due() {
            return Ok(());
        }
        let wanted = self.coalesce.wanted;
        let [v4, v6] = wanted.map(|on| match on {
            true => offload_parameter::TX_OR_ON,
            false => offload_parameter::OFF,
        });
        // Everything else stays as it is.
        let parameters = rndis::OffloadParameters {
            header: ObjectHeader::new(object::DEFAULT, 3, size_of::<rndis::OffloadParameters>()),
            rsc_ipv4: v4,
            rsc_ipv6: v6,
            ..Default::default()
        };
        let request = REQUEST;
        let request_id = self.next_request_id;
        let message =
            crate::handshake::RequestMessage::new(request, request_id, parameters.as_bytes());
        if self.send_rndis(channel, channel_type::CONTROL, &message.parts(), 0, now)? {
            self.next_request_id = request_id.wrapping_add(1);
            self.awaited = Some(self.awaits(request_id, request));
            self.coalesce.sent = Some(now);
            self.coalesce.told = wanted;
            self.coalesce.expected |= wanted != [false; 2];
        }
        Ok(())
    }
}
