//! The host side of the VM: `hostkit`'s partition on the rig's clock and memory.

use crate::metal::clock::Clock;
use crate::record::count;
use crate::vm::vmmem::HostMemory;
use alloc::rc::Rc;
use hostkit::hv::{MsrFault, Partition, PartitionConfig, RegisterHook};

/// Hyper-V as far as the VM sees it.
pub struct Host {
    memory: Rc<HostMemory>,
    partition: Partition,
    /// Something changed: give it a turn before the VM goes on.
    pub wants_turn: bool,
    /// When it wants the next turn (100 ns units).
    pub deadline: u64,
}

impl Host {
    /// A partition with one processor.
    pub fn new(memory: Rc<HostMemory>, clock: &Clock) -> Host {
        let config = PartitionConfig {
            tsc_hz: clock.tsc_hz,
            tsc_at_start: clock.start,
            ..PartitionConfig::default()
        };
        Host {
            memory,
            partition: Partition::new(config),
            wants_turn: true,
            deadline: u64::MAX,
        }
    }

    /// Lets timers expire and the far end work. `network` says that QEMU's NIC
    /// raised its interrupt.
    pub fn turn(&mut self, now: u64, network: bool) {
        let _ = network;
        self.partition.poll(&*self.memory, now);
        self.deadline = self.partition.next_deadline().unwrap_or(u64::MAX);
        self.wants_turn = false;
    }

    /// Vector that VMPL0 should take.
    pub fn pending_vector(&self) -> Option<u8> {
        self.partition.pending_vector(0)
    }

    /// VMPL0 took it.
    pub fn accept_vector(&mut self, vector: u8) {
        self.partition.accept_vector(0, vector);
    }

    /// RDMSR of a synthetic MSR.
    pub fn msr_read(&mut self, now: u64, index: u32) -> Result<u64, MsrFault> {
        self.partition.set_time(now);
        self.partition.msr_read(0, index)
    }

    /// WRMSR of a synthetic MSR.
    pub fn msr_write(&mut self, now: u64, index: u32, value: u64) -> Result<(), MsrFault> {
        self.partition.set_time(now);
        self.wants_turn = true;
        self.partition.msr_write(&*self.memory, 0, index, value)
    }

    /// A hypercall of VMPL0.
    pub fn hypercall(
        &mut self,
        now: u64,
        hook: &mut dyn RegisterHook,
        control: u64,
        input: &[u8],
        output: &mut [u8],
    ) -> u64 {
        self.partition.set_time(now);
        self.wants_turn = true;
        self.partition
            .hypercall(&*self.memory, hook, 0, control, input, output)
    }

    /// Counters of the host side.
    pub fn report(&self) {
        let c = self.partition.counters();
        for (code, n) in &c.hypercalls {
            count("hypercall", format_args!("{code:#x}"), *n);
        }
        for ((code, status), n) in &c.hypercall_failures {
            count(
                "hypercall_failure",
                format_args!("{code:#x} status {status:#x}"),
                *n,
            );
        }
        for (msr, n) in &c.msr_faults {
            count("msr_fault", format_args!("{msr:#x}"), *n);
        }
        count("host_msr", format_args!(""), c.msr_accesses);
        count(
            "host_message",
            format_args!("delivered"),
            c.messages_delivered,
        );
        count(
            "host_interrupt",
            format_args!("requested"),
            c.interrupts_requested,
        );
        count("host_timer", format_args!("expired"), c.timer_expiries);
    }
}
