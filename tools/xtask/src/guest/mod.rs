//! The test guest: its initrd and what it says on its console.

pub mod cpio;
pub mod marks;
pub mod modules;
pub mod synthetic;

use std::path::Path;

use anyhow::{Context, Result};

use crate::nic::Nic;
use crate::setup::Kernel;
use cpio::Cpio;
use modules::Modules;

/// Drivers for a guest that is meant to find Hyper-V.
const ENLIGHTENED_DRIVERS: [&str; 1] = ["hv_netvsc"];
/// Linux's VMBus driver: the guest tries it last, to show that it finds no VMBus.
const WITNESS: &str = "hv_vmbus";

/// The busybox programs that the scripts call.
const APPLETS: [&str; 37] = [
    "awk",
    "basename",
    "cat",
    "cut",
    "dd",
    "dmesg",
    "echo",
    "grep",
    "head",
    "insmod",
    "ip",
    "ls",
    "mount",
    "nc",
    "nproc",
    "ping",
    "poweroff",
    "printf",
    "readlink",
    "reboot",
    "rm",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "stat",
    "stty",
    "tail",
    "taskset",
    "timeout",
    "tr",
    "udhcpc",
    "uname",
    "wc",
    "wget",
    "[",
];

/// What the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Takes a lease, fetches a file, sends it back, looks around.
    Transfer,
    /// The same with Linux's own Hyper-V drivers in place of a card's.
    Enlightened,
    /// Fetches until a scenario is over.
    Scenario,
}

/// Builds the initrd for an errand.
pub fn initrd(kernel: &Kernel, busybox: &Path, errand: Errand, nic: Nic) -> Result<Vec<u8>> {
    let modules = Modules::open(&kernel.modules, busybox)?;
    let (drivers, witness) = match errand {
        Errand::Transfer => (
            modules.load_order(nic.modules())?,
            modules.load_order(&[WITNESS])?,
        ),
        Errand::Enlightened => (modules.load_order(&ENLIGHTENED_DRIVERS)?, Vec::new()),
        Errand::Scenario => (modules.load_order(nic.modules())?, Vec::new()),
    };
    let init: &[u8] = match errand {
        Errand::Scenario => include_bytes!("scenario.sh"),
        Errand::Transfer | Errand::Enlightened => include_bytes!("init.sh"),
    };
    let program = std::fs::read(busybox).context("cannot read busybox")?;

    let mut cpio = Cpio::new();
    for dir in ["bin", "dev", "modules", "proc", "sys", "tmp"] {
        cpio.directory(dir);
    }
    cpio.char_device("dev/console", 5, 1);
    cpio.file("bin/busybox", true, &program);
    for applet in APPLETS {
        cpio.symlink(&format!("bin/{applet}"), "busybox");
    }
    cpio.file("bin/lease", true, include_bytes!("lease.sh"));
    cpio.file("bin/counters", true, include_bytes!("counters.sh"));
    cpio.file("bin/soak", true, include_bytes!("soak.sh"));
    cpio.file("init", true, init);
    let mut order = String::new();
    for module in &drivers {
        cpio.file(&format!("modules/{}.ko", module.name), false, &module.data);
        order.push_str(&module.name);
        order.push('\n');
    }
    cpio.file("modules/order", false, order.as_bytes());
    for module in &witness {
        cpio.file(&format!("modules/{}.ko", module.name), false, &module.data);
    }
    Ok(cpio.finish())
}
