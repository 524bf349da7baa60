//! The serial port: a 16550A (National Semiconductor PC16550D data sheet, section
//! 8) whose transmitter is always ready. Bytes that the guest sends are collected
//! until the owner drains them.

/// Bytes kept until the owner drains them.
const OUTPUT_LEN: usize = 4096;
/// Depth of the receive FIFO.
const INPUT_LEN: usize = 16;

/// Interrupt enable: data available, transmitter empty, line status.
const IER_DATA: u8 = 1;
const IER_TRANSMIT: u8 = 2;
/// Interrupt identification: nothing pending, and the sources.
const IIR_NONE: u8 = 1;
const IIR_TRANSMIT: u8 = 2;
const IIR_DATA: u8 = 4;
const IIR_FIFO: u8 = 0xc0;
/// FIFO control.
const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RECEIVE: u8 = 2;
/// Line control: the divisor latch answers at 0 and 1.
const LCR_DIVISOR: u8 = 0x80;
/// Modem control: loopback; OUT2 is the interrupt gate on a PC.
const MCR_LOOP: u8 = 0x10;
const MCR_OUT2: u8 = 0x08;
/// Line status: data ready, overrun, transmitter holding and shift register empty.
const LSR_DATA: u8 = 1;
const LSR_OVERRUN: u8 = 2;
const LSR_EMPTY: u8 = 0x60;
/// Modem status of a connected terminal: CTS, DSR, DCD.
const MSR_CONNECTED: u8 = 0xb0;

/// One 16550A.
#[derive(Clone, Debug)]
pub(crate) struct Uart {
    ier: u8,
    fifo: bool,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    divisor: u16,
    /// The transmitter ran empty and nobody has been told yet.
    transmit_pending: bool,
    overrun: bool,
    input: Ring<INPUT_LEN>,
    output: Ring<OUTPUT_LEN>,
    /// Output bytes that found no room.
    pub(crate) lost: u64,
}

impl Uart {
    pub(crate) fn new() -> Uart {
        Uart {
            ier: 0,
            fifo: false,
            lcr: 0,
            mcr: 0,
            scratch: 0,
            divisor: 12,
            transmit_pending: false,
            overrun: false,
            input: Ring::new(),
            output: Ring::new(),
            lost: 0,
        }
    }

    fn loopback(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    /// Reads register 0 to 7.
    pub(crate) fn read(&mut self, register: u16) -> u8 {
        let latch = self.lcr & LCR_DIVISOR != 0;
        match register & 7 {
            0 if latch => self.divisor as u8,
            1 if latch => (self.divisor >> 8) as u8,
            0 => self.input.pop().unwrap_or(0),
            1 => self.ier,
            2 => {
                let source = self.source();
                if source == IIR_TRANSMIT {
                    self.transmit_pending = false;
                }
                source | if self.fifo { IIR_FIFO } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let mut status = LSR_EMPTY;
                if !self.input.is_empty() {
                    status |= LSR_DATA;
                }
                if core::mem::take(&mut self.overrun) {
                    status |= LSR_OVERRUN;
                }
                status
            }
            6 if self.loopback() => {
                // DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD.
                let out = self.mcr;
                (out & 1) << 5 | (out & 2) << 3 | (out & 4) << 4 | (out & 8) << 4
            }
            6 => MSR_CONNECTED,
            _ => self.scratch,
        }
    }

    /// Writes register 0 to 7.
    pub(crate) fn write(&mut self, register: u16, value: u8) {
        let latch = self.lcr & LCR_DIVISOR != 0;
        match register & 7 {
            0 if latch => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            1 if latch => self.divisor = (self.divisor & 0xff) | u16::from(value) << 8,
            0 => {
                if self.loopback() {
                    self.overrun |= !self.input.push(value);
                } else if !self.output.push(value) {
                    self.lost = self.lost.saturating_add(1);
                }
                self.transmit_pending = true;
            }
            1 => {
                let rising = value & !self.ier;
                self.ier = value & 0x0f;
                if rising & IER_TRANSMIT != 0 {
                    self.transmit_pending = true;
                }
            }
            2 => {
                self.fifo = value & FCR_ENABLE != 0;
                if value & FCR_CLEAR_RECEIVE != 0 {
                    self.input = Ring::new();
                }
            }
            3 => self.lcr = value,
            4 => self.mcr = value & 0x1f,
            5 | 6 => {}
            _ => self.scratch = value,
        }
    }

    fn source(&self) -> u8 {
        if self.ier & IER_DATA != 0 && !self.input.is_empty() {
            IIR_DATA
        } else if self.ier & IER_TRANSMIT != 0 && self.transmit_pending {
            IIR_TRANSMIT
        } else {
            IIR_NONE
        }
    }

    /// State of the interrupt line: on a PC it passes a gate that OUT2 opens.
    pub(crate) fn line(&self) -> bool {
        self.source() != IIR_NONE && self.mcr & MCR_OUT2 != 0 && !self.loopback()
    }

    /// Whether there is collected output.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Moves collected output into `buf`; how many bytes.
    pub(crate) fn take_output(&mut self, buf: &mut [u8]) -> usize {
        let mut count = 0usize;
        for slot in buf {
            let Some(byte) = self.output.pop() else { break };
            *slot = byte;
            count = count.wrapping_add(1);
        }
        count
    }

    /// Bytes for which the receive FIFO has room.
    pub(crate) fn input_room(&self) -> usize {
        INPUT_LEN.saturating_sub(self.input.len)
    }

    /// Bytes typed at the other end; how many found room.
    pub(crate) fn put_input(&mut self, bytes: &[u8]) -> usize {
        bytes
            .iter()
            .take_while(|byte| self.input.push(**byte))
            .count()
    }
}

/// A byte queue of fixed size.
#[derive(Clone, Debug)]
struct Ring<const N: usize> {
    bytes: [u8; N],
    first: usize,
    len: usize,
}

impl<const N: usize> Ring<N> {
    const fn new() -> Ring<N> {
        Ring {
            bytes: [0; N],
            first: 0,
            len: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, byte: u8) -> bool {
        if self.len >= N {
            return false;
        }
        let at = self
            .first
            .wrapping_add(self.len)
            .checked_rem(N)
            .unwrap_or(0);
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
        }
        self.len = self.len.wrapping_add(1);
        true
    }

    fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes.get(self.first).copied();
        self.first = self.first.wrapping_add(1).checked_rem(N).unwrap_or(0);
        self.len = self.len.wrapping_sub(1);
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(uart: &mut Uart) -> Vec<u8> {
        let mut buf = [0; 8192];
        let count = uart.take_output(&mut buf);
        buf[..count].to_vec()
    }

    #[test]
    fn bytes_come_out_in_order_and_surplus_is_counted() {
        let mut uart = Uart::new();
        for i in 0..5000u32 {
            uart.write(0, i as u8);
        }
        assert_eq!(uart.lost, 904);
        let out = drained(&mut uart);
        assert_eq!(out.len(), OUTPUT_LEN);
        assert!(out.iter().enumerate().all(|(i, b)| *b == i as u8));
        uart.write(0, b'x');
        assert_eq!(drained(&mut uart), b"x");
    }

    #[test]
    fn linux_autoconfig_finds_a_16550a() {
        // The probes of serial8250's autoconfig, in its order.
        let mut uart = Uart::new();
        uart.write(1, 0);
        assert_eq!(uart.read(1) & 0x0f, 0);
        uart.write(1, 0x0f);
        assert_eq!(uart.read(1) & 0x0f, 0x0f);
        uart.write(1, 0);
        uart.write(4, MCR_LOOP | 0x0a);
        assert_eq!(uart.read(6) & 0xf0, 0x90);
        uart.write(4, 0);
        uart.write(2, FCR_ENABLE);
        assert_eq!(uart.read(2) >> 6, 3);
        uart.write(7, 0x55);
        assert_eq!(uart.read(7), 0x55);
    }

    #[test]
    fn divisor_latch_hides_data_and_interrupt_enable() {
        let mut uart = Uart::new();
        uart.write(3, LCR_DIVISOR);
        uart.write(0, 1);
        uart.write(1, 0);
        assert_eq!((uart.read(0), uart.read(1)), (1, 0));
        uart.write(3, 3);
        assert!(drained(&mut uart).is_empty());
        assert_eq!(uart.read(1), 0);
    }

    #[test]
    fn transmit_interrupt_is_raised_by_enabling_and_by_each_write() {
        let mut uart = Uart::new();
        uart.write(4, MCR_OUT2);
        assert!(!uart.line());
        uart.write(1, IER_TRANSMIT);
        assert!(uart.line());
        assert_eq!(uart.read(2) & 0x0f, IIR_TRANSMIT);
        assert!(!uart.line());
        assert_eq!(uart.read(2) & 0x0f, IIR_NONE);
        uart.write(0, b'a');
        assert!(uart.line());
        uart.write(1, 0);
        assert!(!uart.line());
    }

    #[test]
    fn received_bytes_raise_the_line_until_read() {
        let mut uart = Uart::new();
        uart.write(4, MCR_OUT2);
        uart.write(1, IER_DATA);
        assert_eq!(uart.put_input(&[b'k'; 20]), 16);
        assert!(uart.line());
        assert_eq!(uart.read(2) & 0x0f, IIR_DATA);
        for _ in 0..16 {
            assert_eq!(uart.read(5) & LSR_DATA, LSR_DATA);
            assert_eq!(uart.read(0), b'k');
        }
        assert!(!uart.line());
        assert_eq!(uart.read(5) & LSR_DATA, 0);
    }
}
