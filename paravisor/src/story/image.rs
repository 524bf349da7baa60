//! What the loop of a VP needs of the image around it.

use super::{Host, others};
use crate::arch::{heap, log as out, traps, tsc};
use abi::record::CONSOLE_PORT;
use paravisor_core::account::Account;
use paravisor_core::audit::Audit;
use paravisor_core::run::{End, Pending, Surroundings};
use platform::Platform as _;

/// The image around the loop.
pub struct Image {
    pub console: bool,
}

impl Surroundings<Host> for Image {
    fn tsc(&self) -> u64 {
        tsc()
    }

    fn pending(&mut self) -> Pending {
        traps::take()
    }

    fn raised(&self) -> bool {
        traps::pending()
    }

    fn console(&mut self, host: &mut Host, bytes: &[u8]) {
        // Wall 8: guest data leave in clear only from an image built for it.
        if self.console {
            for byte in bytes {
                let _ = host.write_port(CONSOLE_PORT, *byte);
            }
        }
    }

    fn audit<T>(&mut self, act: impl FnOnce(&mut Audit) -> T) -> T {
        out::audit(act)
    }

    fn memory(&self, account: &mut Account) {
        account.memory(heap::usage(), out::lost());
    }

    fn records(&mut self, host: &mut Host, budget: usize) {
        out::flush(host, budget);
    }

    fn ended(&self) -> Option<End> {
        others::ended()
    }
}
