//! Two UARTs: COM1 carries the VM's console, COM2 the record channel.

use super::io::{inb, outb};
use abi::record::{CONSOLE_PORT, RECORD_PORT};

const LSR: u16 = 5;
const LSR_THR_EMPTY: u8 = 1 << 5;
const LSR_ALL_SENT: u8 = 1 << 6;
/// Reads of the line status that a byte may take. QEMU's UART is ready at once
/// unless its reader is stuck; then bytes are lost instead of the run.
const PATIENCE: u32 = 200_000;

/// 115200 8N1, FIFO on, no interrupts.
pub fn init() {
    for base in [CONSOLE_PORT, RECORD_PORT] {
        outb(base + 1, 0);
        outb(base + 3, 0x80);
        outb(base, 1);
        outb(base + 1, 0);
        outb(base + 3, 3);
        outb(base + 2, 7);
        outb(base + 4, 3);
    }
}

fn put(base: u16, byte: u8) {
    for _ in 0..PATIENCE {
        if inb(base + LSR) & LSR_THR_EMPTY != 0 {
            break;
        }
    }
    outb(base, byte);
}

/// One byte of the VM's console.
pub fn console(byte: u8) {
    put(CONSOLE_PORT, byte);
}

/// Bytes of a record.
pub fn record(bytes: &[u8]) {
    for b in bytes {
        put(RECORD_PORT, *b);
    }
}

/// Waits until everything has left.
pub fn drain() {
    for base in [CONSOLE_PORT, RECORD_PORT] {
        for _ in 0..PATIENCE {
            if inb(base + LSR) & LSR_ALL_SENT != 0 {
                break;
            }
        }
    }
}
