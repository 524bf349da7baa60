//! The host side of the VM: `hostkit`'s machine on the rig's clock, memory and
//! network card.

use crate::metal::clock::Clock;
use crate::options::Options;
use crate::record::{count, log, mark_at};
use crate::vm::vmmem::HostMemory;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use hostkit::backend::{Backend, Loopback, Null};
use hostkit::hv::{MsrFault, PartitionConfig, RegisterHook};
use hostkit::scenario::{Player, Scenario};
use hostkit::trace::Recorder;
use hostkit::vmbus::Target;
use hostkit::{Machine, MachineConfig};
use rig::enlightenment;
use rig::nic::Nic;

/// What lies behind the VM's NIC.
enum Network {
    /// QEMU's virtio-net.
    Card(Box<Nic>),
    /// Every frame comes back.
    Loopback(Loopback),
    /// Nothing.
    Null(Null),
}

impl Network {
    fn backend(&mut self) -> &mut dyn Backend {
        match self {
            Network::Card(b) => &mut **b,
            Network::Loopback(b) => b,
            Network::Null(b) => b,
        }
    }
}

impl Backend for Network {
    fn mac(&self) -> [u8; 6] {
        match self {
            Network::Card(b) => b.mac(),
            Network::Loopback(b) => b.mac(),
            Network::Null(b) => b.mac(),
        }
    }
    fn link_up(&self) -> bool {
        match self {
            Network::Card(b) => b.link_up(),
            Network::Loopback(b) => b.link_up(),
            Network::Null(b) => b.link_up(),
        }
    }
    fn send(&mut self, frame: &[u8]) {
        self.backend().send(frame);
    }
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        self.backend().receive(frame)
    }
}

/// Hyper-V as far as the VM sees it.
pub struct Host {
    machine: Machine<Rc<HostMemory>, Network>,
    /// Something changed: give it a turn before the VM goes on.
    pub wants_turn: bool,
    /// When it wants the next turn (100 ns units).
    pub deadline: u64,
    /// The scenario is over, and that was said.
    over: bool,
}

impl Host {
    /// A host with one NIC.
    pub fn new(memory: Rc<HostMemory>, clock: &Clock, options: &Options) -> Host {
        let mut config = MachineConfig {
            partition: PartitionConfig {
                vp_count: options.vps as u32,
                tsc_hz: clock.tsc_hz,
                tsc_at_start: clock.start,
                ..PartitionConfig::default()
            },
            ..MachineConfig::default()
        };
        if options.plain || options.enlightened {
            config.server.target = Target::PLAIN;
        }
        if options.enlightened {
            config.partition.vtl = 0;
            config.partition.apic_hz = enlightenment::APIC_HZ;
        }
        if let Some(version) = options.max_version {
            config.server.max_version = version;
        }
        let network = match options.network {
            crate::options::Network::Loopback => Network::Loopback(Loopback::default()),
            crate::options::Network::None => Network::Null(Null),
            crate::options::Network::Card => match rig::nic::init() {
                Ok(nic) => Network::Card(Box::new(nic)),
                Err(why) => {
                    log("warn", format_args!("no network: {why}"));
                    Network::Null(Null)
                }
            },
        };
        let mut machine = Machine::new(memory, network, config);
        machine.faults = options.faults();
        if options.trace {
            match rig::trace::Console::new() {
                Ok(sink) => {
                    let creator = concat!("undercroft rig ", env!("CARGO_PKG_VERSION"));
                    machine.record(Recorder::new(Box::new(sink), creator, 0));
                }
                Err(_) => log("warn", format_args!("no trace: no virtio-serial device")),
            }
        }
        Host {
            machine,
            wants_turn: true,
            deadline: u64::MAX,
            over: false,
        }
    }

    /// Plays a scenario from now on. Segments are not joined meanwhile: what a scenario
    /// does to a message it does to one frame, not to a part of forty.
    pub fn play(&mut self, scenario: &Scenario) {
        self.machine.nic.set_coalesce(false);
        self.machine.faults.play(Player::new(scenario));
    }

    /// Lets timers expire and the far end work. `pci` says that a PCI line was
    /// raised, which the NIC drops here.
    pub fn turn(&mut self, now: u64, pci: bool) {
        if pci && let Network::Card(nic) = &mut self.machine.backend {
            nic.handle_interrupt();
        }
        self.deadline = self.machine.poll(now).unwrap_or(u64::MAX);
        self.wants_turn = false;
        // Who watches the run knows from then on that the host behaves again.
        let over = |player: &Player| player.is_over();
        if !self.over && self.machine.faults.player().is_some_and(over) {
            self.over = true;
            mark_at(now / 10, abi::record::SCENARIO_OVER);
        }
    }

    /// What a guest without paravisor wrote before it gave up: the parameters of its
    /// crash registers.
    pub fn crash(&self) -> Option<[u64; 5]> {
        self.machine.partition.crash()
    }

    /// Vector that VMPL0 of `vp` should take.
    pub fn pending_vector(&self, vp: usize) -> Option<u8> {
        self.machine.pending_vector(vp as u32)
    }

    /// VMPL0 took it.
    pub fn accept_vector(&mut self, vp: usize, vector: u8) {
        self.machine.accept_vector(vp as u32, vector);
    }

    /// VMPL0 may take `vector` while it runs. It has taken `taken` before, of what it
    /// was offered last.
    pub fn offer_vector(&mut self, vp: usize, vector: Option<u8>, taken: Option<u8>) {
        if let Some(taken) = taken {
            self.machine.accept_vector(vp as u32, taken);
        }
        self.machine.offer_vector(vp as u32, vector);
    }

    /// RDMSR of a synthetic MSR.
    pub fn msr_read(&mut self, now: u64, vp: usize, index: u32) -> Result<u64, MsrFault> {
        self.machine.set_time(now);
        self.machine.msr_read(vp as u32, index)
    }

    /// WRMSR of a synthetic MSR.
    pub fn msr_write(
        &mut self,
        now: u64,
        vp: usize,
        index: u32,
        value: u64,
    ) -> Result<(), MsrFault> {
        self.machine.set_time(now);
        self.wants_turn = true;
        self.machine.msr_write(vp as u32, index, value)
    }

    /// A hypercall of VMPL0.
    pub fn hypercall(
        &mut self,
        now: u64,
        vp: usize,
        hook: &mut dyn RegisterHook,
        control: u64,
        input: &[u8],
        output: &mut [u8],
    ) -> u64 {
        self.machine.set_time(now);
        self.wants_turn = true;
        self.machine
            .hypercall(hook, vp as u32, control, input, output)
    }

    /// Ends the trace, if one is written.
    pub fn end_recording(&mut self) {
        self.machine.end_recording();
    }

    /// Counters of the host side, and a mark that they were told.
    pub fn beat(&self, now: u64) {
        self.report();
        mark_at(now / 10, abi::record::HOST_BEAT);
    }

    /// Counters of the host side. Frames are counted from the VM's side by the
    /// paravisor, here under names of their own.
    pub fn report(&self) {
        for (name, key, value) in self.machine.counters() {
            count(name, format_args!("{key}"), value);
        }
        if let Network::Card(nic) = &self.machine.backend {
            let card = nic.counters();
            for (key, value) in [
                ("sent", card.sent),
                ("waiting", card.waiting),
                ("received", card.received),
                ("dropped", card.dropped),
                ("interrupts", card.interrupts),
            ] {
                count("card", format_args!("{key}"), value);
            }
        }
        let lines = self.machine.faults.player().into_iter();
        for (line, times) in lines.flat_map(Player::happened) {
            count(abi::record::SCENARIO_LINE, format_args!("{line}"), times);
        }
    }
}
