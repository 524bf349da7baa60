//! The channel's life: what the client's events lead to, and the memory that
//! comes and goes with it.

use super::{Buffer, Held, Link, RING_PAGES, Running, State, Uplink, add_channel, add_nic, gone};
use crate::run::{End, Why};
use crate::turns::Turns;
use abi::record::Outcome;
use alloc::boxed::Box;
use alloc::sync::Arc;
use memory::{Backing, Owned, PoolError, Purpose};
use netvsc::{Nic, limits as nic_limits};
use relay::NetDevice;
use relay::limits::OPEN_PAUSE;
use validate::{Rule, Violation};
use vmbus::{Channel, ChannelId, Event, GpadlId, RequestError, SignalTarget};

impl<B: Backing, const N: usize> Uplink<B, N> {
    pub(super) fn handle_events(
        &mut self,
        device: &mut impl NetDevice,
        now: u64,
    ) -> Result<(), End> {
        while let Some(event) = self.client.next_event() {
            match event {
                Event::Connected { version, features } => {
                    self.connected = true;
                    log::info!(
                        "VMBus version {}.{} features {features:?}",
                        version.0 >> 16,
                        version.0 & 0xffff
                    );
                }
                Event::Offered { channel, .. } => {
                    self.offered = true;
                    if matches!(self.state, State::Waiting) {
                        self.open(channel, now)?;
                    }
                }
                Event::OffersDelivered => self.offers_complete = true,
                Event::Opened { channel, signal } if self.is_sub(channel) => {
                    self.sub_opened(channel, signal, now);
                }
                Event::Opened { channel, signal } => self.opened(channel, signal, now)?,
                Event::OpenFailed { channel, violation } => {
                    log::warn!("channel could not be opened: {violation}");
                    // The NIC goes on without one of its sub-channels.
                    self.sub_lost(channel, false, now);
                    if self.channel_id() == Some(channel) {
                        // The client closes it by itself; then once more (CTL-48).
                        self.failed_opens = self.failed_opens.saturating_add(1);
                        self.dismantle(device, now);
                        self.state = State::Closing { id: channel };
                    }
                }
                Event::GpadlCreated { gpadl } => self.buffer_ready(gpadl, now)?,
                Event::GpadlFailed { violation, .. } => {
                    log::warn!("buffer could not be shared: {violation}");
                    if let Some(id) = self.channel_id() {
                        self.give_up(device, id, now);
                    }
                }
                Event::Rescinded { channel } if self.is_sub(channel) => {
                    log::warn!("sub-channel was taken back");
                    self.sub_lost(channel, true, now);
                }
                Event::Rescinded { channel } => {
                    log::warn!("NIC was taken back");
                    self.give_up(device, channel, now);
                }
                Event::Closed { channel } => {
                    // Once more, if there is reason to hope.
                    if matches!(self.state, State::Closing { id } if id == channel) {
                        match self.pause() {
                            0 => self.open(channel, now)?,
                            pause => {
                                let until = now.saturating_add(pause);
                                self.state = State::Pausing {
                                    id: channel,
                                    until,
                                    lanes: false,
                                };
                            }
                        }
                    }
                }
                Event::Released { channel } | Event::Lost { channel } => {
                    if matches!(self.state, State::Closing { id } | State::Pausing { id, .. } if id == channel)
                    {
                        self.state = State::Waiting;
                        // It may have been offered anew already.
                        if let Some(next) = self.client.on_offer() {
                            self.open(next, now)?;
                        }
                    }
                }
                Event::SubChannel {
                    primary,
                    channel,
                    index,
                } => self.sub_offered(primary, channel, index),
                // A VP of ours works even while the guest has taken its own half offline,
                // so no channel is moved (docs/architecture.md).
                Event::Moved { .. } | Event::MoveFailed { .. } => {}
                Event::MemoryReleased { gpadl } => self.host_let_go(gpadl, true),
                Event::MemoryLeaked { gpadl } => self.host_let_go(gpadl, false),
                Event::Unloaded { .. } => {
                    self.ended = true;
                    self.abandon(device, now);
                }
                Event::Failed { violation } => {
                    log::error!("VMBus connection ended: {violation}");
                    self.failed = Some(violation);
                    self.ended = true;
                    self.abandon(device, now);
                }
            }
        }
        Ok(())
    }

    pub(super) fn channel_id(&self) -> Option<ChannelId> {
        match &self.state {
            State::Opening { id, .. } | State::Closing { id } => Some(*id),
            State::Sharing { link, .. } | State::Running(Running { link, .. }) => Some(link.id),
            State::Waiting | State::Pausing { .. } | State::Gone => None,
        }
    }

    /// How long to wait before the next try to open the channel (CTL-48).
    fn pause(&self) -> u64 {
        match self.failed_opens.checked_sub(1) {
            Some(doubled) => OPEN_PAUSE.saturating_mul(2_u64.saturating_pow(doubled)),
            None => 0,
        }
    }

    /// When the pause before the next try is over.
    pub(super) fn pause_end(&self) -> Option<u64> {
        match self.state {
            State::Pausing { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Tries again, when it is time.
    pub(super) fn end_pause(&mut self, now: u64) -> Result<(), End> {
        match self.state {
            State::Pausing { id, until, lanes }
                if until <= now || lanes && !self.awaits_lanes() =>
            {
                self.open(id, now)
            }
            _ => Ok(()),
        }
    }

    /// Pages to be shared. `None` if there are none left: a host that never lets go
    /// of pages costs the guest its link, not its life.
    pub(super) fn take(
        &mut self,
        pages: usize,
        purpose: Purpose,
    ) -> Result<Option<Owned<B::Region>>, End> {
        match self.pool.take(pages, purpose) {
            Ok(memory) => Ok(Some(memory)),
            Err(PoolError::Exhausted) => {
                log::warn!("pool of shared pages is exhausted");
                Ok(None)
            }
            Err(error @ (PoolError::ShareFailed | PoolError::Mapping)) => {
                if error == PoolError::ShareFailed {
                    // The pool has leaked them.
                    self.client
                        .note(Violation::new(Rule::GPD_07, 0, pages as u64));
                }
                Err(End {
                    outcome: Outcome::MemoryFailure,
                    why: Why::Told("page could not be shared"),
                })
            }
        }
    }

    /// Opens the channel, if the host has not used up its hour (SYS-05). An offer
    /// that was taken back and made anew counts like a channel that failed.
    fn open(&mut self, id: ChannelId, now: u64) -> Result<(), End> {
        if now < self.home_until && self.awaits_lanes() {
            // What they hold has room beside nothing that is as large.
            let until = self.home_until;
            self.state = State::Pausing {
                id,
                until,
                lanes: true,
            };
            return Ok(());
        }
        self.channel_number = self
            .client
            .audit_number(id)
            .and_then(|number| u16::try_from(number).ok());
        if core::mem::replace(&mut self.opened_once, true) {
            if let Err(violation) = self.resets.take(now) {
                log::warn!("NIC is given up: {violation}");
                self.retired.validation.violation(violation);
                self.state = State::Gone;
                return Ok(());
            }
            self.retired.restarts = self.retired.restarts.saturating_add(1);
        }
        let Some(memory) = self.take(RING_PAGES.saturating_mul(2), Purpose::Ring)? else {
            self.state = State::Gone;
            return Ok(());
        };
        let Ok(channel) = Channel::new(memory, RING_PAGES as u32, netvsc::POLICY) else {
            return Err(End {
                outcome: Outcome::Panic,
                why: Why::Told("ring geometry"),
            });
        };
        match self
            .client
            .open(id, channel.memory(), RING_PAGES as u32, 0, now)
        {
            Ok(ring) => self.state = State::Opening { id, ring, channel },
            Err(error) => {
                log::warn!("channel cannot be opened: {error:?}");
                self.pool.give_back(channel.into_memory());
                // It was taken back before its turn came: another may be offered.
                self.state = match error {
                    RequestError::State => State::Waiting,
                    RequestError::Limit(_) => State::Gone,
                };
            }
        }
        Ok(())
    }

    fn opened(&mut self, opened: ChannelId, signal: SignalTarget, now: u64) -> Result<(), End> {
        let (id, ring, channel) = match core::mem::replace(&mut self.state, State::Gone) {
            State::Opening { id, ring, channel } if id == opened => (id, ring, channel),
            other => {
                self.state = other;
                return Ok(());
            }
        };
        self.failed_opens = 0;
        let link = Link {
            id,
            ring,
            channel,
            signal,
        };
        let pages = |bytes: usize| bytes.div_ceil(memory::PAGE_SIZE);
        let receive = self.take(pages(nic_limits::RECEIVE_BUFFER), Purpose::ReceiveBuffer)?;
        let send = nic_limits::send_buffer(self.config.sub_channels);
        let send = self.take(pages(send), Purpose::SendBuffer)?;
        let receive = self.share_buffer(id, receive, now);
        let send = self.share_buffer(id, send, now);
        match (receive, send) {
            (Some(receive), Some(send)) => {
                self.state = State::Sharing {
                    link,
                    receive,
                    send,
                };
            }
            (receive, send) => {
                // No memory, or the channel or the connection is just ending.
                log::warn!("buffers cannot be shared");
                for buffer in [receive, send].into_iter().flatten() {
                    self.park(buffer.gpadl, Held::Own(buffer.memory));
                }
                self.retire(link);
                self.close(id, now);
            }
        }
        Ok(())
    }

    /// Makes a buffer known to the host. If that cannot be done, the host never
    /// heard of its pages, and they go back to the pool.
    fn share_buffer(
        &mut self,
        id: ChannelId,
        memory: Option<Owned<B::Region>>,
        now: u64,
    ) -> Option<Buffer<B::Region>> {
        let memory = memory?;
        match self.client.create_gpadl(id, &memory, now) {
            Ok(gpadl) => Some(Buffer {
                gpadl,
                memory,
                ready: false,
            }),
            Err(_) => {
                self.pool.give_back(memory);
                None
            }
        }
    }

    fn buffer_ready(&mut self, gpadl: GpadlId, now: u64) -> Result<(), End> {
        let State::Sharing { receive, send, .. } = &mut self.state else {
            return Ok(());
        };
        for buffer in [&mut *receive, &mut *send] {
            buffer.ready |= buffer.gpadl == gpadl;
        }
        if !(receive.ready && send.ready) {
            return Ok(());
        }
        let State::Sharing {
            link,
            receive,
            send,
        } = core::mem::replace(&mut self.state, State::Gone)
        else {
            return Ok(());
        };
        let config = netvsc::Config {
            receive_gpadl: receive.gpadl.number(),
            send_gpadl: send.gpadl.number(),
            mtu: self.config.mtu,
            // After a restart the address must be the one that the guest knows (RND-49).
            mac: self.mac,
            promiscuous: false,
            enforce_unmeasured: self.config.enforce_unmeasured,
            trust_checksums: true,
            coalescing: self.config.coalescing,
            // Ids of an earlier NIC do not come again soon (PKT-17).
            seed: (self.config.seed)
                .wrapping_add(self.retired.restarts.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            sub_channels: self.config.sub_channels,
        };
        let receive = (receive.gpadl, Arc::new(receive.memory));
        let send = (send.gpadl, Arc::new(send.memory));
        let Ok(nic) = Nic::new(config, receive.1.clone(), send.1.clone()) else {
            return Err(End {
                outcome: Outcome::Panic,
                why: Why::Told("NIC buffers"),
            });
        };
        let mut nic = Box::new(nic);
        nic.start(now);
        self.relay.nic_replaced();
        self.state = State::Running(Running {
            link,
            receive,
            send,
            nic,
        });
        Ok(())
    }

    /// Stops using the channel. Its memory is parked until the host lets go of it.
    pub(super) fn give_up(&mut self, device: &mut impl NetDevice, id: ChannelId, now: u64) {
        if self.channel_id() != Some(id) || matches!(self.state, State::Closing { .. }) {
            return;
        }
        self.dismantle(device, now);
        self.close(id, now);
    }

    fn close(&mut self, id: ChannelId, now: u64) {
        self.state = State::Closing { id };
        if self.client.close(id, now).is_err() {
            // Not known to the client any more, or broken for good.
            self.state = State::Gone;
        }
    }

    /// Takes channel and NIC apart: counters are kept, memory is parked.
    pub(super) fn dismantle(&mut self, device: &mut impl NetDevice, now: u64) {
        self.rings = Turns::default();
        // The lanes are called home; nobody waits for them.
        self.dismantle_subs(now);
        // The guest's link goes down, whatever the NIC had to say.
        let _ = self.relay.poll(&mut gone::Gone::new(), device, now, 0);
        match core::mem::replace(&mut self.state, State::Gone) {
            State::Opening {
                ring, mut channel, ..
            } => {
                self.find(self.channel_number, channel.take_news());
                add_channel(&mut self.retired, &channel);
                self.park(ring, Held::Own(channel.into_memory()));
            }
            State::Sharing {
                link,
                receive,
                send,
            } => {
                self.retire(link);
                self.park(receive.gpadl, Held::Own(receive.memory));
                self.park(send.gpadl, Held::Own(send.memory));
            }
            State::Running(Running {
                link,
                receive,
                send,
                mut nic,
            }) => {
                self.retire(link);
                self.find(self.channel_number, nic.take_news());
                add_nic(&mut self.retired, &nic);
                // The NIC's views go here, the lanes' when they are home.
                drop(nic);
                self.park(receive.0, Held::Seen(receive.1));
                self.park(send.0, Held::Seen(send.1));
            }
            State::Waiting | State::Closing { .. } | State::Pausing { .. } | State::Gone => {}
        }
    }

    /// A channel that is no more: its counters and findings are kept, its memory is
    /// parked.
    fn retire(&mut self, link: Link<B::Region>) {
        let mut channel = link.channel;
        self.find(self.channel_number, channel.take_news());
        add_channel(&mut self.retired, &channel);
        self.park(link.ring, Held::Own(channel.into_memory()));
    }

    /// The connection is over; the client's events tell which memory is lost.
    fn abandon(&mut self, device: &mut impl NetDevice, now: u64) {
        self.dismantle(device, now);
        self.state = State::Gone;
        self.lose_all();
    }
}
