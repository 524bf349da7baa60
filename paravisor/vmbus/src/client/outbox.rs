//! Messages on their way to the host: one at a time, in order, tried again for
//! a bounded time when the host has no room. What the host has not taken yet can
//! be taken back, and its answer is not awaited before.

use crate::limits::{MAX_QUEUED_POSTS, POST_PAUSE, POST_PAUSE_MAX, POST_TRIES};
use abi::hyperv::MESSAGE_PAYLOAD;
use abi::vmbus::{
    CloseChannel, Features, GPADL_BODY_PFNS, GPADL_HEADER_PFNS, GpaRange, GpadlBody, GpadlHeader,
    GpadlTeardown, InitiateContact, MessageHeader, MessageType, ModifyChannel,
    OPEN_REDIRECT_INTERRUPT, OpenChannel, OpenChannel2, PAGE_SIZE, RelidReleased, Version,
};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem::size_of;
use core::ops::Range;
use memory::SharedMemory;
use validate::control::gpadl_pages;
use validate::synic::{Posted, post_status};
use validate::{Rule, Violation};
use zerocopy::{Immutable, IntoBytes};

/// A message to be handed to the host by HvCallPostMessage, with message type 1.
#[derive(Clone, Debug)]
pub struct Post {
    connection_id: u32,
    bytes: [u8; MESSAGE_PAYLOAD],
    len: usize,
    first_contact: bool,
}

impl Post {
    /// The message connection.
    pub fn connection_id(&self) -> u32 {
        self.connection_id
    }

    /// The message.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// The message and zeros behind it, as the hypercall's input wants it (SYN-25).
    pub fn padded(&self) -> &[u8; MESSAGE_PAYLOAD] {
        &self.bytes
    }

    fn put(&mut self, bytes: &[u8]) {
        let room = self.bytes.iter_mut().skip(self.len);
        let count = room.zip(bytes).map(|(to, from)| *to = *from).count();
        self.len = self.len.saturating_add(count);
    }
}

/// The pages of a GPADL as runs of consecutive frames.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    runs: Vec<(u64, usize)>,
    count: usize,
}

impl Pages {
    /// All pages of `memory`, which must lie in `frames`.
    pub(super) fn of(memory: &impl SharedMemory, frames: &Range<u64>) -> Result<Pages, Violation> {
        let count = memory.len() / PAGE_SIZE;
        gpadl_pages(count)?;
        let mut runs: Vec<(u64, usize)> = Vec::new();
        for index in 0..count {
            let missing = Violation::new(Rule::GPD_12, 16, index as u64);
            let frame = memory.pfn(index).ok_or(missing)?;
            if !frames.contains(&frame) {
                // Ours: the number of a private page is not told to anyone.
                return Err(Violation::new(Rule::GPD_11, 28, frame));
            }
            match runs.last_mut() {
                Some((first, len)) if first.wrapping_add(*len as u64) == frame => {
                    *len = len.saturating_add(1);
                }
                _ => runs.push((frame, 1)),
            }
        }
        Ok(Pages { runs, count })
    }

    fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs
            .iter()
            .flat_map(|(first, len)| (0..*len as u64).map(|i| first.wrapping_add(i)))
    }
}

/// What is to be said. Turned into bytes when its turn comes.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Contact {
        version: Version,
        target_vp: u32,
        sint: u8,
        vtl: u8,
        features: Features,
    },
    Offers,
    /// Takes as many messages as the pages need; `sent` counts pages.
    Gpadl {
        relid: u32,
        gpadl: u32,
        pages: Pages,
        sent: usize,
        number: u32,
    },
    Open {
        relid: u32,
        open_id: u32,
        gpadl: u32,
        vp: u32,
        downstream_page: u32,
        long: Option<Wiring>,
    },
    Close {
        relid: u32,
    },
    Modify {
        relid: u32,
        vp: u32,
        /// The host answers (5.3).
        answered: bool,
    },
    Teardown {
        relid: u32,
        gpadl: u32,
    },
    Release {
        relid: u32,
    },
    Unload,
}

/// A request that the host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Contact,
    Offers,
    Gpadl(u32),
    /// By its open id.
    Open(u32),
    /// By its GPADL.
    Teardown(u32),
    /// By its relid.
    Modify(u32),
    Unload,
}

/// The guest's part of the long OPENCHANNEL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wiring {
    pub(super) connection_id: u32,
    pub(super) event_flag: u16,
    pub(super) redirect: bool,
}

/// Head of a message of this type.
fn header(kind: MessageType) -> MessageHeader {
    MessageHeader {
        message_type: kind.0.into(),
        padding: 0.into(),
    }
}

impl Request {
    /// What it asks, if an answer is due.
    fn asks(&self) -> Option<Asked> {
        match *self {
            Request::Contact { .. } => Some(Asked::Contact),
            Request::Offers => Some(Asked::Offers),
            Request::Gpadl { gpadl, .. } => Some(Asked::Gpadl(gpadl)),
            Request::Open { open_id, .. } => Some(Asked::Open(open_id)),
            Request::Teardown { gpadl, .. } => Some(Asked::Teardown(gpadl)),
            Request::Unload => Some(Asked::Unload),
            Request::Modify {
                relid,
                answered: true,
                ..
            } => Some(Asked::Modify(relid)),
            Request::Close { .. } | Request::Release { .. } | Request::Modify { .. } => None,
        }
    }

    /// Writes the next message of this request; `true` if it was the last.
    fn encode(&mut self, post: &mut Post) -> bool {
        fn whole<T: IntoBytes + Immutable>(post: &mut Post, message: T) -> bool {
            post.put(message.as_bytes());
            true
        }
        match self {
            Request::Contact {
                version,
                target_vp,
                sint,
                vtl,
                features,
            } => {
                post.first_contact = true;
                whole(
                    post,
                    InitiateContact {
                        header: header(MessageType::INITIATE_CONTACT),
                        version: version.0.into(),
                        target_vp: (*target_vp).into(),
                        sint: *sint,
                        vtl: *vtl,
                        reserved: 0.into(),
                        features: features.bits().into(),
                        // No monitor pages: nothing to read from them (SYN-32).
                        parent_to_child_monitor: 0.into(),
                        child_to_parent_monitor: 0.into(),
                    },
                )
            }
            Request::Offers => whole(post, header(MessageType::REQUEST_OFFERS)),
            Request::Gpadl {
                relid,
                gpadl,
                pages,
                sent,
                number,
            } => {
                let fit = if *sent == 0 {
                    post.put(
                        GpadlHeader {
                            header: header(MessageType::GPADL_HEADER),
                            relid: (*relid).into(),
                            gpadl: (*gpadl).into(),
                            // At most 8190 pages (GPD-12), so that it fits 16 bits.
                            range_buffer_length: (pages.count as u16)
                                .wrapping_mul(8)
                                .wrapping_add(8)
                                .into(),
                            range_count: 1.into(),
                        }
                        .as_bytes(),
                    );
                    let bytes = (pages.count as u32).wrapping_mul(PAGE_SIZE as u32);
                    post.put(
                        GpaRange {
                            byte_count: bytes.into(),
                            byte_offset: 0.into(),
                        }
                        .as_bytes(),
                    );
                    GPADL_HEADER_PFNS
                } else {
                    *number = number.saturating_add(1);
                    post.put(
                        GpadlBody {
                            header: header(MessageType::GPADL_BODY),
                            message_number: (*number).into(),
                            gpadl: (*gpadl).into(),
                        }
                        .as_bytes(),
                    );
                    GPADL_BODY_PFNS
                };
                for frame in pages.iter().skip(*sent).take(fit) {
                    post.put(&frame.to_le_bytes());
                }
                *sent = sent.saturating_add(fit);
                *sent >= pages.count
            }
            Request::Open {
                relid,
                open_id,
                gpadl,
                vp,
                downstream_page,
                long,
            } => {
                let open = OpenChannel {
                    header: header(MessageType::OPEN_CHANNEL),
                    relid: (*relid).into(),
                    open_id: (*open_id).into(),
                    ring_gpadl: (*gpadl).into(),
                    target_vp: (*vp).into(),
                    downstream_page_offset: (*downstream_page).into(),
                    user_data: [0; 120],
                };
                match long {
                    None => whole(post, open),
                    Some(wiring) => whole(
                        post,
                        OpenChannel2 {
                            open,
                            connection_id: wiring.connection_id.into(),
                            event_flag: wiring.event_flag.into(),
                            flags: if wiring.redirect {
                                OPEN_REDIRECT_INTERRUPT
                            } else {
                                0
                            }
                            .into(),
                        },
                    ),
                }
            }
            Request::Close { relid } => whole(
                post,
                CloseChannel {
                    header: header(MessageType::CLOSE_CHANNEL),
                    relid: (*relid).into(),
                },
            ),
            Request::Modify { relid, vp, .. } => whole(
                post,
                ModifyChannel {
                    header: header(MessageType::MODIFY_CHANNEL),
                    relid: (*relid).into(),
                    target_vp: (*vp).into(),
                },
            ),
            Request::Teardown { relid, gpadl } => whole(
                post,
                GpadlTeardown {
                    header: header(MessageType::GPADL_TEARDOWN),
                    relid: (*relid).into(),
                    gpadl: (*gpadl).into(),
                },
            ),
            Request::Release { relid } => whole(
                post,
                RelidReleased {
                    header: header(MessageType::RELID_RELEASED),
                    relid: (*relid).into(),
                },
            ),
            Request::Unload => whole(post, header(MessageType::UNLOAD)),
        }
    }
}

/// The message that is being posted.
#[derive(Clone, Debug)]
struct Current {
    post: Post,
    asks: Option<Asked>,
    /// It is the first of its request's messages.
    first: bool,
    /// It is the last of them.
    last: bool,
    tries: u32,
    pause: u64,
    /// When to try; `None` while the result of a try is awaited.
    at: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Request>,
    current: Option<Current>,
}

impl Outbox {
    /// Adds a request at the end.
    pub(super) fn push(&mut self, request: Request) -> Result<(), Violation> {
        if self.queue.len() >= MAX_QUEUED_POSTS {
            return Err(Violation::new(Rule::CTL_59, 0, self.queue.len() as u64));
        }
        self.queue.push_back(request);
        Ok(())
    }

    /// The message to post now, if one is due.
    pub(super) fn poll(&mut self, now: u64, connection_id: u32) -> Option<Post> {
        if self.current.is_none() {
            let request = self.queue.front_mut()?;
            let asks = request.asks();
            let first = !matches!(request, Request::Gpadl { sent, .. } if *sent != 0);
            let bytes = [0; MESSAGE_PAYLOAD];
            let mut post = Post {
                connection_id,
                bytes,
                len: 0,
                first_contact: false,
            };
            let last = request.encode(&mut post);
            if last {
                self.queue.pop_front();
            }
            self.current = Some(Current {
                post,
                asks,
                first,
                last,
                tries: 0,
                pause: POST_PAUSE,
                at: Some(0),
            });
        }
        let current = self.current.as_mut()?;
        if current.at? > now {
            return None;
        }
        current.at = None;
        current.tries = current.tries.saturating_add(1);
        Some(current.post.clone())
    }

    /// The hypercall's status for the message that `poll` gave last. Gives what the
    /// host has been asked by it: from now on it may answer.
    pub(super) fn result(&mut self, status: u16, now: u64) -> Result<Option<Asked>, Violation> {
        let Some(current) = self.current.as_mut().filter(|current| current.at.is_none()) else {
            return Ok(None);
        };
        match post_status(status, current.post.first_contact)? {
            Posted::Accepted => {
                let asked = current.asks.filter(|_| current.last);
                self.current = None;
                return Ok(asked);
            }
            Posted::Retry if current.tries < POST_TRIES => {
                current.at = Some(now.saturating_add(current.pause));
                current.pause = current.pause.saturating_mul(2).min(POST_PAUSE_MAX);
            }
            Posted::Retry => return Err(Violation::new(Rule::SYN_23, 0, status)),
        }
        Ok(None)
    }

    /// Takes a request out of which the host has heard nothing, not even a part.
    /// `false`: it has, or may just be hearing it.
    pub(super) fn withdraw(&mut self, asked: Asked) -> bool {
        if let Some(current) = &self.current
            && current.asks == Some(asked)
        {
            if !current.first || current.at.is_none() {
                return false;
            }
            self.current = None;
        } else {
            let begun =
                |request: &Request| matches!(request, Request::Gpadl { sent, .. } if *sent != 0);
            let waits = |request: &Request| request.asks() == Some(asked) && !begun(request);
            if !self.queue.iter().any(waits) {
                return false;
            }
        }
        self.queue.retain(|request| request.asks() != Some(asked));
        true
    }

    /// When the next try is due.
    pub(super) fn deadline(&self) -> Option<u64> {
        match &self.current {
            Some(current) => current.at,
            None => self.queue.front().map(|_| 0),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.current = None;
    }
}

const _: () = assert!(size_of::<OpenChannel2>() <= MESSAGE_PAYLOAD);
