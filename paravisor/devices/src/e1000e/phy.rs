//! The PHY behind `MDIC`: a gigabit link that is up at once or down.

use abi::e1000e::{mdic, phy};

/// What an access did beyond its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// What `MDIC` reads from now on.
    pub answer: u32,
    /// The link was negotiated anew, or went down: the driver is told.
    pub renegotiated: bool,
}

/// The PHY's registers, as far as they remember anything.
#[derive(Clone, Debug)]
pub(super) struct Phy {
    words: [u16; 32],
    page: u16,
}

impl Phy {
    pub(super) fn new() -> Phy {
        let mut phy = Phy {
            words: [0; 32],
            page: 0,
        };
        phy.reset();
        phy
    }

    pub(super) fn reset(&mut self) {
        self.words = [0; 32];
        self.page = 0;
        let start = [
            (
                phy::BMCR,
                phy::BMCR_AUTONEGOTIATE | phy::BMCR_FULL_DUPLEX | phy::BMCR_SPEED_1000,
            ),
            // All speeds of 10 and 100, IEEE 802.3.
            (phy::ADVERTISE, 0x01e1),
            // 1000 full duplex.
            (phy::CONTROL_1000, 0x0200),
        ];
        for (register, value) in start {
            self.put(register, value);
        }
    }

    fn put(&mut self, register: u8, value: u16) {
        if let Some(word) = self.words.get_mut(usize::from(register)) {
            *word = value;
        }
    }

    fn get(&self, register: u8) -> u16 {
        let word = self.words.get(usize::from(register));
        word.copied().unwrap_or(u16::MAX)
    }

    /// Whether it holds a link that the other side offers.
    pub(super) fn powered(&self) -> bool {
        self.get(phy::BMCR) & phy::BMCR_POWER_DOWN == 0
    }

    /// A write to `MDIC`, with a partner that is there or not.
    pub(super) fn access(&mut self, request: u32, partner: bool) -> Access {
        let register = (request >> mdic::REGISTER_SHIFT) as u8 & 0x1f;
        let mut answer = request & !mdic::ERROR | mdic::READY;
        let mut renegotiated = false;
        if request >> mdic::PHY_SHIFT & 0x1f != 1 {
            answer |= mdic::ERROR;
        } else if request & mdic::READ != 0 {
            answer = answer & !mdic::DATA | u32::from(self.read(register, partner));
        } else if request & mdic::WRITE != 0 {
            renegotiated = self.write(register, request as u16);
        } else {
            answer |= mdic::ERROR;
        }
        Access {
            answer,
            renegotiated,
        }
    }

    fn read(&self, register: u8, partner: bool) -> u16 {
        let up = partner && self.powered();
        let when_up = |value: u16| if up { value } else { 0 };
        // The first 16 are the same on every page (Linux `MAX_PHY_MULTI_PAGE_REG`).
        if register > 15 && register != phy::PAGE && self.page != 0 {
            return 0;
        }
        match register {
            phy::BMSR => phy::BMSR_ABLE | when_up(phy::BMSR_LINK | phy::BMSR_NEGOTIATED),
            phy::ID1 => (phy::ID >> 16) as u16,
            phy::ID2 => phy::ID as u16,
            // A partner that can do everything, with symmetric pause.
            phy::PARTNER => when_up(0x45e1),
            // The partner negotiates; a page was received.
            phy::EXPANSION => when_up(0x0003),
            // 1000 full duplex, both receivers are well.
            phy::STATUS_1000 => when_up(0x3800),
            // 1000BASE-T, full and half duplex.
            phy::EXTENDED_STATUS => 0x3000,
            phy::SPECIFIC_STATUS => when_up(phy::SPECIFIC_LINK | phy::SPECIFIC_1000_FULL),
            phy::RECEIVE_ERRORS => 0,
            phy::PAGE => self.page,
            _ => self.get(register),
        }
    }

    /// Whether the link was negotiated anew or lost.
    fn write(&mut self, register: u8, value: u16) -> bool {
        match register {
            phy::BMCR if value & phy::BMCR_RESET != 0 => {
                self.reset();
                true
            }
            phy::BMCR => {
                let before = self.powered();
                self.put(phy::BMCR, value & !phy::BMCR_RESTART);
                value & phy::BMCR_RESTART != 0 || before != self.powered()
            }
            phy::ADVERTISE | phy::CONTROL_1000 => {
                self.put(register, value);
                false
            }
            phy::SPECIFIC_CONTROL | phy::EXTENDED_CONTROL if self.page == 0 => {
                self.put(register, value);
                false
            }
            phy::PAGE => {
                self.page = value;
                false
            }
            // Read-only, or none.
            _ => false,
        }
    }
}
