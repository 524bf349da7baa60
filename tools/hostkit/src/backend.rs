//! The far end of the NIC: frames in, frames out.
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// A network behind the NIC. Frames are Ethernet without FCS.
pub trait Backend {
    /// Address of the NIC that the guest gets.
    fn mac(&self) -> [u8; 6];
    /// Whether the link is up.
    fn link_up(&self) -> bool {
        true
    }
    /// Takes a frame of the guest. A frame that cannot be sent now is dropped.
    fn send(&mut self, frame: &[u8]);
    /// Puts the next frame for the guest into `frame` (cleared before); `false`
    /// if there is none. Never waits.
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool;
}

impl<B: Backend + ?Sized> Backend for Box<B> {
    fn mac(&self) -> [u8; 6] {
        (**self).mac()
    }
    fn link_up(&self) -> bool {
        (**self).link_up()
    }
    fn send(&mut self, frame: &[u8]) {
        (**self).send(frame);
    }
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        (**self).receive(frame)
    }
}

/// A locally administered address for backends without one of their own.
pub const DEFAULT_MAC: [u8; 6] = [0x02, 0x15, 0x5d, 0x00, 0x00, 0x01];

fn pop(queue: &mut VecDeque<Vec<u8>>, frame: &mut Vec<u8>) -> bool {
    match queue.pop_front() {
        Some(f) => {
            *frame = f;
            true
        }
        None => false,
    }
}

/// No network: swallows everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl Backend for Null {
    fn mac(&self) -> [u8; 6] {
        DEFAULT_MAC
    }
    fn send(&mut self, _: &[u8]) {}
    fn receive(&mut self, _: &mut Vec<u8>) -> bool {
        false
    }
}

/// Every frame comes back unchanged. Tests may push frames and look at those sent.
#[derive(Clone, Debug)]
pub struct Loopback {
    /// Address of the NIC.
    pub mac: [u8; 6],
    /// Link state.
    pub link_up: bool,
    /// Whether sent frames come back.
    pub echo: bool,
    /// Frames for the guest.
    pub to_guest: VecDeque<Vec<u8>>,
    /// Frames of the guest, kept when `echo` is off.
    pub from_guest: VecDeque<Vec<u8>>,
}

impl Default for Loopback {
    fn default() -> Self {
        Loopback {
            mac: DEFAULT_MAC,
            link_up: true,
            echo: true,
            to_guest: VecDeque::new(),
            from_guest: VecDeque::new(),
        }
    }
}

impl Backend for Loopback {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }
    fn link_up(&self) -> bool {
        self.link_up
    }
    fn send(&mut self, frame: &[u8]) {
        let queue = if self.echo {
            &mut self.to_guest
        } else {
            &mut self.from_guest
        };
        queue.push_back(frame.to_vec());
    }
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        pop(&mut self.to_guest, frame)
    }
}

/// Answers ARP requests and ICMP echo requests for one IPv4 address.
#[derive(Clone, Debug)]
pub struct Scripted {
    /// Address of the guest's NIC.
    pub mac: [u8; 6],
    /// Address of the responder.
    pub peer_mac: [u8; 6],
    /// IPv4 address of the responder.
    pub peer_ip: [u8; 4],
    answers: VecDeque<Vec<u8>>,
    /// Requests answered.
    pub answered: u64,
}

impl Default for Scripted {
    fn default() -> Self {
        Scripted {
            mac: DEFAULT_MAC,
            peer_mac: [0x02, 0x15, 0x5d, 0x00, 0x00, 0xfe],
            peer_ip: [10, 0, 2, 2],
            answers: VecDeque::new(),
            answered: 0,
        }
    }
}

impl Scripted {
    fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut out = frame.to_vec();
        let sender: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
        out.get_mut(0..6)?.copy_from_slice(&sender);
        out.get_mut(6..12)?.copy_from_slice(&self.peer_mac);
        match frame.get(12..14)? {
            // ARP: IPv4 over Ethernet, request, for our address.
            [0x08, 0x06] => {
                let known = frame.get(14..22)? == [0, 1, 8, 0, 6, 4, 0, 1];
                if !known || frame.get(38..42)? != self.peer_ip {
                    return None;
                }
                let asker: [u8; 10] = frame.get(22..32)?.try_into().ok()?;
                *out.get_mut(21)? = 2;
                out.get_mut(22..28)?.copy_from_slice(&self.peer_mac);
                out.get_mut(28..32)?.copy_from_slice(&self.peer_ip);
                out.get_mut(32..42)?.copy_from_slice(&asker);
                Some(out)
            }
            // IPv4 without options, ICMP echo request to our address.
            [0x08, 0x00] => {
                let icmp = *frame.get(14)? == 0x45 && *frame.get(23)? == 1;
                if !icmp || frame.get(30..34)? != self.peer_ip || frame.get(34..36)? != [8, 0] {
                    return None;
                }
                let asker: [u8; 4] = frame.get(26..30)?.try_into().ok()?;
                out.get_mut(26..30)?.copy_from_slice(&self.peer_ip);
                out.get_mut(30..34)?.copy_from_slice(&asker);
                *out.get_mut(34)? = 0;
                // Type 8 became 0: the one's complement sum grows by 0x0800.
                let sum =
                    u32::from(u16::from_be_bytes([*frame.get(36)?, *frame.get(37)?])) + 0x0800;
                let sum = (sum & 0xffff) + (sum >> 16);
                out.get_mut(36..38)?
                    .copy_from_slice(&(sum as u16).to_be_bytes());
                Some(out)
            }
            _ => None,
        }
    }
}

impl Backend for Scripted {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }
    fn send(&mut self, frame: &[u8]) {
        if let Some(answer) = self.answer(frame) {
            self.answered += 1;
            self.answers.push_back(answer);
        }
    }
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        pop(&mut self.answers, frame)
    }
}
