//! The control queue (virtio 1.2, section 5.1.6.5): how many queue pairs the driver
//! uses, and which hashes it wants to know. Every other command is answered with an error.

use super::{Net, hash};
use crate::virtio::queue::{Broken, Chain, Queue};
use abi::virtio::{feature, net};
use memory::GuestMemory;
use validate::frame::{HASH_KEY, HashRequest};

/// Descriptors of the control queue, a power of two: a driver has one command at a time.
pub(super) const QUEUE_SIZE: u16 = 64;
/// Commands that are served per turn.
const BUDGET: usize = 8;
/// Class and command.
const HEAD: usize = 2;
/// These and the data that are looked at: how hashes are made, with the longest key.
const LOOKED_AT: usize = HEAD + net::HASH_CONFIG_KEY + HASH_KEY;

/// A command, and where its answer goes.
struct Command {
    /// Its first bytes, as far as there are any.
    bytes: [u8; LOOKED_AT],
    len: usize,
    answer: u64,
}

impl Net {
    /// Serves the commands that wait. If there may be more, or one is not done yet, the
    /// control queue is rung again.
    pub(crate) fn serve_control(&mut self, guest: &impl GuestMemory) {
        for _ in 0..BUDGET {
            if !self.transport.running() {
                return;
            }
            let Some(index) = self.transport.control_queue() else {
                return;
            };
            let Some(queue) = self.transport.queue(index) else {
                return;
            };
            let (head, command) = match next(queue, guest) {
                Ok(Some(found)) => found,
                Ok(None) => return,
                Err(Broken) => {
                    self.transport.set_broken();
                    return;
                }
            };
            let Some(answer) = self.execute(&command) else {
                self.transport.ring(index);
                return;
            };
            let Some(queue) = self.transport.queue(index) else {
                return;
            };
            queue.advance();
            let given = guest
                .write(command.answer, &[answer])
                .map_err(Broken::from)
                .and_then(|()| queue.give_back(guest, head, 1));
            match given {
                Ok(true) => self.transport.interrupt_queue(index),
                Ok(false) => {}
                Err(Broken) => {
                    self.transport.set_broken();
                    return;
                }
            }
        }
        if let Some(index) = self.transport.control_queue() {
            self.transport.ring(index);
        }
    }

    /// The answer; `None`: not yet.
    fn execute(&mut self, command: &Command) -> Option<u8> {
        let bytes = command.bytes.get(..command.len).unwrap_or_default();
        let Some((kind, data)) = bytes.split_first_chunk::<HEAD>() else {
            return Some(net::CTRL_ERR);
        };
        let accepted = |feature| self.transport.accepted(feature);
        match *kind {
            [net::CTRL_MQ, net::CTRL_MQ_PAIRS_SET] if accepted(feature::NET_MQ) => {
                self.set_pairs(data)
            }
            [net::CTRL_MQ, net::CTRL_MQ_HASH_CONFIG] if accepted(feature::NET_HASH_REPORT) => {
                Some(self.set_hash(data))
            }
            _ => Some(net::CTRL_ERR),
        }
    }

    fn set_pairs(&mut self, data: &[u8]) -> Option<u8> {
        let asked = data
            .first_chunk()
            .map_or(0, |asked| u16::from_le_bytes(*asked));
        // 5.1.6.5.5.1: from 1 to the most that there are.
        if asked == 0 || asked > self.transport.max_pairs() {
            return Some(net::CTRL_ERR);
        }
        // 5.1.6.5.5.2: once it is answered no other receive queue is used. An owner that
        // is at it ends with its frame.
        self.transport.use_pairs(asked).then_some(net::CTRL_OK)
    }

    /// 5.1.6.5.6.4. Whether hashes come is another matter: the host makes them.
    fn set_hash(&mut self, data: &[u8]) -> u8 {
        let Some(request) = hash::request(data, self.offers) else {
            return net::CTRL_ERR;
        };
        self.hash = Some(request);
        self.transport
            .share()
            .set_hash_types(hash::types(request.kinds));
        net::CTRL_OK
    }

    /// What the driver asked for; a reset has ended it if no type is wanted any more.
    pub(crate) fn hash_request(&self) -> Option<HashRequest> {
        let wanted = self.transport.share().hash_types() != 0;
        self.hash.filter(|_| wanted)
    }
}

/// The next command, without taking it.
fn next(queue: &mut Queue, guest: &impl GuestMemory) -> Result<Option<(u16, Command)>, Broken> {
    let chain = match queue.peek(guest)? {
        Some(chain) => chain,
        None if queue.ask_for_notification(guest)? => match queue.peek(guest)? {
            Some(chain) => chain,
            None => return Ok(None),
        },
        None => return Ok(None),
    };
    let head = chain.head;
    Ok(Some((head, read(queue, chain, guest)?)))
}

/// Copies a command; its chain is walked to the end, each descriptor once.
fn read(queue: &Queue, mut chain: Chain, guest: &impl GuestMemory) -> Result<Command, Broken> {
    let mut bytes = [0; LOOKED_AT];
    let mut have = 0_usize;
    let mut answer = None;
    while let Some(buffer) = chain.next(queue, guest)? {
        if buffer.writable {
            if buffer.len != 0 {
                answer.get_or_insert(buffer.address);
            }
            continue;
        }
        // 2.7.4.2: what the device reads comes before what it writes.
        if answer.is_some() {
            return Err(Broken);
        }
        let len = usize::try_from(buffer.len).map_err(|_| Broken)?;
        let rest = bytes.get_mut(have..).unwrap_or_default();
        let count = len.min(rest.len());
        if let Some(part) = rest.get_mut(..count) {
            guest.read(buffer.address, part)?;
        }
        have = have.saturating_add(count);
    }
    Ok(Command {
        bytes,
        len: have,
        // 5.1.6.5: every command has room for an answer.
        answer: answer.ok_or(Broken)?,
    })
}
