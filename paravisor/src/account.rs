//! The account of a run: frames at every hop between the host and the guest's device,
//! frames that were lost and why, and memory in use. Rows of fixed names, without
//! guest data. At the end of a run they are records (`abi::record`); the guest asks
//! for them at any time on its second serial port ([`crate::audit::Port`]).
//!
//! The rows are taken between two turns of the loop, so they fit each other: what one
//! hop has given, the next one has taken, dropped with a count, or holds with a count.

use crate::report::SharedPages;
use crate::uplink::Totals;
use memory::Purpose;
use platform::Exit;

/// Counter, key, value.
pub type Row = (&'static str, &'static str, u64);

/// Most rows. More than there are, so that none is left out.
pub const MOST: usize = 80;

/// Bytes of the private heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heap {
    /// In use now.
    pub used: u64,
    /// In use at most so far.
    pub peak: u64,
}

/// Rows. They take no memory of the heap, so that asking does not change what is told.
#[derive(Debug)]
pub struct Account {
    rows: [Row; MOST],
    count: usize,
}

impl Account {
    /// Without rows.
    pub const fn new() -> Account {
        Account {
            rows: [("", "", 0); MOST],
            count: 0,
        }
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        self.rows.get(..self.count).unwrap_or(&[])
    }

    /// Adds a row, unless there are [`MOST`].
    pub fn add(&mut self, name: &'static str, key: &'static str, value: u64) {
        if let Some(row) = self.rows.get_mut(self.count) {
            *row = (name, key, value);
            self.count = self.count.saturating_add(1);
        }
    }

    fn add_all(&mut self, name: &'static str, rows: &[(&'static str, u64)]) {
        for (key, value) in rows {
            self.add(name, key, *value);
        }
    }

    /// What the NIC towards the host and the relay have counted; frames of the guest
    /// that the relay holds because the NIC has no room.
    pub fn network(&mut self, totals: &Totals, relayed: &relay::Counters, held: u64) {
        self.add_all(
            "frame",
            &[("rx", totals.rx_frames), ("tx", totals.tx_frames)],
        );
        self.add_all(
            "frame_bytes",
            &[("rx", totals.rx_bytes), ("tx", totals.tx_bytes)],
        );
        self.add_all(
            "netvsc",
            &[
                ("rx_not_ready", totals.rx_not_ready),
                ("rx_refused", totals.rx_refused),
                ("tx_refused", totals.tx_refused),
                ("tx_errors", totals.tx_errors),
                ("tx_messages", totals.tx_messages),
                ("tx_packets", totals.tx_packets),
            ],
        );
        self.add_all(
            "relay",
            &[
                ("rx_frames", relayed.rx_frames),
                ("rx_dropped_unplugged", relayed.rx_dropped_unplugged),
                ("rx_dropped_no_buffer", relayed.rx_dropped_no_buffer),
                ("rx_dropped_link_down", relayed.rx_dropped_link_down),
                ("rx_waits", relayed.rx_waits),
                ("rx_paced", relayed.rx_paced),
                ("tx_frames", relayed.tx_frames),
                ("tx_waits", relayed.tx_waits),
                ("tx_held", held),
                ("tx_dropped_length", relayed.tx_dropped_length),
                ("tx_dropped_no_nic", relayed.tx_dropped_no_nic),
                ("tx_dropped_reset", relayed.tx_dropped_reset),
            ],
        );
        let broken = totals.validation.violations();
        let broken = broken.fold(0u64, |sum, (_, times)| sum.saturating_add(times.into()));
        self.add("rules_broken", "", broken);
        self.add("host_signal", "sent", totals.signals_sent);
        self.add("host_signal", "needed", totals.signals_needed);
        self.add("nic_restart", "", totals.restarts);
        self.add("host_call_refused", "", totals.calls_refused);
    }

    /// Why the guest's half of this VP has left so far.
    pub fn exits(&mut self, exits: &[u64; Exit::NAMES.len()]) {
        for (name, count) in Exit::NAMES.iter().zip(exits) {
            if *count != 0 {
                self.add("guest_exit", name, *count);
            }
        }
    }

    /// What the guest's devices have counted.
    pub fn devices(&mut self, devices: &devices::Counters) {
        self.add_all(
            "device",
            &[
                ("tx_frames", devices.tx_frames),
                ("rx_frames", devices.rx_frames),
                ("tx_dropped", devices.tx_dropped),
                ("rx_dropped", devices.rx_dropped),
                ("rx_filtered", devices.rx_filtered),
                ("nic_broken", devices.nic_broken),
                ("console_lost", devices.console_lost),
                ("unknown_port", devices.unknown_port),
                ("unknown_mmio", devices.unknown_mmio),
                ("unknown_msr", devices.unknown_msr),
            ],
        );
        let registers = devices.registers;
        for (key, value) in [
            ("interrupt-end", registers.interrupt_end),
            ("timer", registers.timer),
            ("card", registers.card),
            ("other", registers.other),
        ] {
            if value != 0 {
                self.add("guest_register", key, value);
            }
        }
    }

    /// Pages shared with the host, by purpose.
    pub fn pages(&mut self, pages: &SharedPages) {
        for (purpose, count) in pages {
            self.add("shared_page", Purpose::name(*purpose), *count);
        }
    }

    /// The heap, and records that were lost.
    pub fn memory(&mut self, heap: Heap, records_lost: u64) {
        self.add("heap_used", "", heap.used);
        self.add("heap_peak", "", heap.peak);
        self.add("record_lost", "", records_lost);
    }
}

impl Default for Account {
    fn default() -> Self {
        Account::new()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_place_and_none_is_left_out() {
        let mut account = Account::new();
        let totals = Totals {
            rx_frames: 7,
            tx_errors: 3,
            ..Totals::default()
        };
        let relayed = relay::Counters {
            rx_dropped_no_buffer: 5,
            ..relay::Counters::default()
        };
        account.network(&totals, &relayed, 1);
        let mut devices = devices::Counters::default();
        devices.registers.timer = 4;
        account.devices(&devices);
        account.pages(&Purpose::ALL.map(|purpose| (purpose, 2)));
        let heap = Heap { used: 9, peak: 11 };
        account.memory(heap, 0);
        let value = |name: &str, key: &str| {
            let mut found = account
                .rows()
                .iter()
                .filter(|row| (row.0, row.1) == (name, key));
            let value = found.next().unwrap().2;
            assert!(found.next().is_none(), "{name} {key} twice");
            value
        };
        for (name, key, expected) in [
            ("frame", "rx", 7),
            ("netvsc", "tx_errors", 3),
            ("relay", "rx_dropped_no_buffer", 5),
            ("relay", "tx_held", 1),
            ("device", "rx_frames", 0),
            ("guest_register", "timer", 4),
            ("shared_page", "ring", 2),
            ("heap_used", "", 9),
            ("heap_peak", "", 11),
            ("record_lost", "", 0),
        ] {
            assert_eq!(value(name, key), expected, "{name} {key}");
        }
        assert!(account.rows().len() < MOST);
        account.clear();
        assert!(account.rows().is_empty());
    }
}
