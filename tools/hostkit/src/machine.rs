//! One VM's host side in one piece: partition, VMBus server, NIC, backend.
//!
//! The owner forwards what the guest does ([`msr_read`](Machine::msr_read),
//! [`msr_write`](Machine::msr_write), [`hypercall`](Machine::hypercall)), then
//! calls [`poll`](Machine::poll) and injects
//! [`pending_vector`](Machine::pending_vector)s. Polling is cheap and may be done
//! after every exit; it has to be done when the deadline which it returned has
//! passed, and when the backend may have a frame.
use crate::backend::Backend;
use crate::fault::Faults;
use crate::hv::{HvCounters, Inbound, MsrFault, Partition, PartitionConfig, RegisterHook};
use crate::mem::VmMemory;
use crate::netvsp::{Nic, NicConfig, NicContext};
use crate::scenario;
use crate::trace::{Recorded, Recorder, significant};
use crate::vmbus::{Context, Server, ServerConfig, ServerEvent};
use abi::hyperv::{Control, msr};
use abi::trace::Kind;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// Rounds of inbox, server and NIC in one poll.
const ROUNDS: usize = 8;

/// What a machine is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineConfig {
    /// VPs and clocks.
    pub partition: PartitionConfig,
    /// Versions and connection ids.
    pub server: ServerConfig,
    /// The NIC.
    pub nic: NicConfig,
}

/// One VM's host side. Fields are open to tests.
#[derive(Debug)]
pub struct Machine<M, B> {
    /// Memory of the VM.
    pub mem: Recorded<M>,
    /// The hypervisor's part.
    pub partition: Partition,
    /// The VMBus server.
    pub server: Server,
    /// The NIC.
    pub nic: Nic,
    /// Relid of the NIC's primary channel.
    pub nic_relid: u32,
    /// Indices of its sub-channels, by relid.
    pub subs: BTreeMap<u32, u16>,
    /// The network.
    pub backend: B,
    /// What goes wrong.
    pub faults: Faults,
}

impl<M: VmMemory, B: Backend> Machine<M, B> {
    /// A machine at reference time 0 that offers one NIC.
    pub fn new(mem: M, backend: B, config: MachineConfig) -> Self {
        let mem = Recorded::new(mem);
        let mut partition = Partition::new(config.partition);
        let mut server = Server::new(config.server, &mut partition);
        let mut faults = Faults::default();
        let nic = Nic::new(config.nic);
        let mut cx = Context {
            mem: &mem,
            partition: &mut partition,
            faults: &mut faults,
        };
        let nic_relid = server.offer(&mut cx, nic.offer_params());
        Machine {
            mem,
            partition,
            server,
            nic,
            nic_relid,
            subs: BTreeMap::new(),
            backend,
            faults,
        }
    }

    /// Moves reference time (100 ns) forward; see [`Partition::set_time`].
    pub fn set_time(&mut self, now_100ns: u64) {
        self.partition.set_time(now_100ns);
        if let Some(recorder) = self.mem.recorder() {
            recorder.set_time(now_100ns);
        }
    }

    /// Records everything that is handed over from now on. Registers that say
    /// where the SynIC pages are and that were written before stand at its start.
    pub fn record(&mut self, recorder: Recorder) {
        self.mem.set_recorder(recorder);
        for vp in 0..self.partition.vp_count() {
            for register in [msr::SIMP, msr::SIEFP] {
                let value = self.partition.msr_read(vp, register).unwrap_or(0);
                if value != 0 {
                    let parts = [&register.to_le_bytes()[..], &[0; 4], &value.to_le_bytes()];
                    self.note(Kind::REGISTER_WRITE, vp, &parts);
                }
            }
        }
    }

    /// Ends the recording, if there is one, with a last look at how far the guest
    /// has come.
    pub fn end_recording(&mut self) {
        self.mem.finish();
    }

    fn note(&self, kind: Kind, vp: u32, parts: &[&[u8]]) {
        if let Some(recorder) = self.mem.recorder() {
            recorder.record(kind, vp, parts);
        }
    }

    /// RDMSR of a synthetic MSR.
    pub fn msr_read(&mut self, vp: u32, register: u32) -> Result<u64, MsrFault> {
        let lie = self.faults.register(self.partition.now(), register);
        let answer = self.partition.msr_read(vp, register);
        let answer = answer.map(|value| lie.unwrap_or(value));
        let (fault, value) = (u32::from(answer.is_err()), answer.unwrap_or(0));
        let parts = [
            &register.to_le_bytes()[..],
            &fault.to_le_bytes(),
            &value.to_le_bytes(),
        ];
        self.note(Kind::REGISTER_READ, vp, &parts);
        answer
    }

    /// WRMSR of a synthetic MSR (or of the x2APIC EOI register).
    pub fn msr_write(&mut self, vp: u32, register: u32, value: u64) -> Result<(), MsrFault> {
        // In front of what the write leads to: it may fill slots.
        let parts = [&register.to_le_bytes()[..], &[0; 4], &value.to_le_bytes()];
        self.note(Kind::REGISTER_WRITE, vp, &parts);
        let result = self.partition.msr_write(&self.mem, vp, register, value);
        if result.is_err() {
            self.note(
                Kind::REGISTER_FAULT,
                vp,
                &[&register.to_le_bytes(), &[0; 4]],
            );
        }
        result
    }

    /// A hypercall; see [`Partition::hypercall`].
    pub fn hypercall(
        &mut self,
        hook: &mut dyn RegisterHook,
        vp: u32,
        control: u64,
        input: &[u8],
        output: &mut [u8],
    ) -> u64 {
        self.note(
            Kind::CALL,
            vp,
            &[&control.to_le_bytes(), significant(input)],
        );
        let code = Control(control).code();
        let result = match self.faults.hypercall(self.partition.now(), code) {
            Some(lie) => lie.0,
            None => self
                .partition
                .hypercall(&self.mem, hook, vp, control, input, output),
        };
        self.note(
            Kind::RESULT,
            vp,
            &[&result.to_le_bytes(), significant(output)],
        );
        result
    }

    /// Vector that may go into `vp` now.
    pub fn pending_vector(&self, vp: u32) -> Option<u8> {
        let vector = self.partition.pending_vector(vp);
        vector.filter(|_| !self.faults.withholds_interrupts())
    }

    /// `vp` took `vector`.
    pub fn accept_vector(&mut self, vp: u32, vector: u8) {
        self.note(Kind::INTERRUPT, vp, &[&u32::from(vector).to_le_bytes()]);
        self.partition.accept_vector(vp, vector);
    }

    /// `vp` may take `vector` without being asked; see [`Partition::offer_vector`].
    pub fn offer_vector(&mut self, vp: u32, vector: Option<u8>) {
        self.partition.offer_vector(vp, vector);
    }

    /// Does everything that is due at `now_100ns`. Returns when it wants to be
    /// polled again without anything else happening.
    pub fn poll(&mut self, now_100ns: u64) -> Option<u64> {
        self.set_time(now_100ns);
        self.partition.poll(&self.mem, now_100ns);
        let mut more = true;
        for _ in 0..ROUNDS {
            if !core::mem::replace(&mut more, false) {
                break;
            }
            more |= self.inbox();
            more |= self.serve_nic();
            let mut cx = Context {
                mem: &self.mem,
                partition: &mut self.partition,
                faults: &mut self.faults,
            };
            self.server.poll(&mut cx);
        }
        let scenario = scenario::turn(self);
        if more {
            Some(self.partition.now())
        } else {
            let deadlines = [self.partition.next_deadline(), scenario];
            deadlines.into_iter().flatten().min()
        }
    }

    /// Handles what the guest posted and signalled.
    fn inbox(&mut self) -> bool {
        let mut any = false;
        while !self.faults.bus_is_silent()
            && !self.server.is_congested(&self.partition)
            && let Some(inbound) = self.partition.take_inbound()
        {
            any = true;
            match inbound {
                Inbound::Message {
                    connection,
                    message_type,
                    payload,
                    ..
                } => {
                    self.faults.heard(&payload);
                    let mut cx = Context {
                        mem: &self.mem,
                        partition: &mut self.partition,
                        faults: &mut self.faults,
                    };
                    self.server
                        .handle_message(&mut cx, connection, message_type, &payload);
                    self.server_events();
                }
                Inbound::Event { connection } => {
                    let relid = self.server.signalled_channel(connection);
                    if let Some(index) = relid.and_then(|relid| self.index_of(relid)) {
                        self.nic.signalled(index);
                    }
                }
            }
        }
        any
    }

    fn server_events(&mut self) {
        while let Some(event) = self.server.next_event() {
            match event {
                ServerEvent::Open(request) => {
                    let refused = self.faults.refuse_opens > 0;
                    self.faults.refuse_opens -= u32::from(refused);
                    let accepted = !refused
                        && match self.index_of(request.relid) {
                            None => false,
                            Some(0) => self.nic.open(&self.mem, &request),
                            Some(index) => self.nic.open_sub(&self.mem, &request, index),
                        };
                    let mut cx = Context {
                        mem: &self.mem,
                        partition: &mut self.partition,
                        faults: &mut self.faults,
                    };
                    self.server.open_result(&mut cx, request.relid, accepted);
                }
                ServerEvent::Close { relid } => {
                    match self.index_of(relid) {
                        Some(0) => {
                            self.nic.close();
                            self.rescind_subs();
                        }
                        Some(index) => self.nic.close_sub(index),
                        None => {}
                    }
                    self.server.channel_closed(relid);
                }
            }
        }
    }

    /// Which of the NIC's channels this is: 0 is the primary.
    fn index_of(&self, relid: u32) -> Option<u16> {
        match relid == self.nic_relid {
            true => Some(0),
            false => self.subs.get(&relid).copied(),
        }
    }

    /// Offers sub-channels that were granted.
    fn offer_subs(&mut self) {
        for index in 1..=self.nic.take_granted() {
            self.offer_sub(index);
        }
    }

    /// Offers a sub-channel of the NIC, whether it was granted or not.
    pub fn offer_sub(&mut self, index: u16) -> u32 {
        let offer = self.nic.sub_offer_params(index);
        let mut cx = Context {
            mem: &self.mem,
            partition: &mut self.partition,
            faults: &mut self.faults,
        };
        let relid = self.server.offer(&mut cx, offer);
        self.subs.insert(relid, index);
        relid
    }

    /// Takes the offer of one channel of the NIC back, and nothing else.
    pub fn rescind(&mut self, relid: u32) {
        let mut cx = Context {
            mem: &self.mem,
            partition: &mut self.partition,
            faults: &mut self.faults,
        };
        self.server.rescind(&mut cx, relid);
        self.server_events();
        self.subs.remove(&relid);
    }

    /// The primary channel is gone, and its sub-channels with it.
    fn rescind_subs(&mut self) {
        let mut cx = Context {
            mem: &self.mem,
            partition: &mut self.partition,
            faults: &mut self.faults,
        };
        for relid in core::mem::take(&mut self.subs).into_keys() {
            self.server.rescind(&mut cx, relid);
        }
    }

    fn serve_nic(&mut self) -> bool {
        let Machine {
            mem,
            partition,
            server,
            nic,
            backend,
            faults,
            nic_relid,
            ..
        } = self;
        let relid = *nic_relid;
        if faults.nic_is_silent() {
            return false;
        }
        let mut cx = NicContext {
            mem,
            faults,
            backend,
            gpadl: &|id| server.gpadl(relid, id),
        };
        let polled = nic.poll(&mut cx);
        for relid in polled.signals {
            if faults.signal() {
                let mut cx = Context {
                    mem,
                    partition,
                    faults,
                };
                server.signal_guest(&mut cx, relid);
            }
        }
        self.offer_subs();
        polled.more
    }

    /// Takes the NIC's offer back: first those of its sub-channels.
    pub fn rescind_nic(&mut self) {
        self.rescind_subs();
        self.server_events();
        self.rescind(self.nic_relid);
    }

    /// Offers the NIC anew, under a new relid.
    pub fn offer_nic(&mut self) -> u32 {
        let mut cx = Context {
            mem: &self.mem,
            partition: &mut self.partition,
            faults: &mut self.faults,
        };
        self.nic_relid = self.server.offer(&mut cx, self.nic.offer_params());
        self.nic_relid
    }

    /// Every counter as (name, key, value), for records.
    pub fn counters(&self) -> Vec<(&'static str, String, u64)> {
        let hv = self.partition.counters();
        let server = self.server.counters();
        let nic = self.nic.counters();
        let mut out = Vec::new();
        hv_rows(&hv, &mut out);
        let mut row = |name, key: String, value: u64| out.push((name, key, value));
        for (kind, n) in &server.messages_in {
            row("vmbus_in", alloc::format!("{kind}"), *n);
        }
        for (kind, n) in &server.messages_out {
            row("vmbus_out", alloc::format!("{kind}"), *n);
        }
        row("gpadl_pages", String::new(), server.gpadl_pages);
        for (kind, n) in &nic.nvsp_in {
            row("nvsp_in", alloc::format!("{kind}"), *n);
        }
        for (kind, n) in &nic.rndis_in {
            row("rndis_in", alloc::format!("{kind:#x}"), *n);
        }
        for (name, n) in server.errors.iter().chain(&nic.errors) {
            row("guest_error", String::from(*name), *n);
        }
        for (name, n) in &nic.dropped {
            row("frame_dropped", String::from(*name), *n);
        }
        row(
            "channel_signal_in",
            String::from("needed"),
            nic.signals_needed,
        );
        row(
            "channel_signal_in",
            String::from("not-needed"),
            nic.signals_not_needed,
        );
        row("channel_signal_out", String::new(), nic.signals_sent);
        row("frame", String::from("rx"), nic.frames_rx);
        row("frame", String::from("tx"), nic.frames_tx);
        let lanes = [
            ("frame_rx_on", &nic.channel_rx),
            ("frame_tx_on", &nic.channel_tx),
        ];
        for (name, lanes) in lanes {
            // Without sub-channels there is nothing to tell apart.
            for (index, n) in lanes.iter().filter(|_| lanes.len() > 1) {
                row(name, alloc::format!("{index}"), *n);
            }
        }
        // Those that went into a packet, and those that wait for that.
        let given = nic.channel_rx.values().sum();
        row("frame_given", String::new(), given);
        row(
            "frame_waiting",
            String::new(),
            self.nic.frames_waiting() as u64,
        );
        row("frame_message", String::new(), nic.messages_tx);
        row("frame_bytes", String::from("rx"), nic.bytes_rx);
        row("frame_bytes", String::from("tx"), nic.bytes_tx);
        row("transmit", String::from("section"), nic.tx_sections);
        row("transmit", String::from("direct"), nic.tx_direct);
        row("transmit", String::from("section-and-pages"), nic.tx_mixed);
        row("offload", String::from("large-send"), nic.large_sends);
        row("offload", String::from("segment"), nic.segments);
        row("offload", String::from("checksum"), nic.checksums);
        row("offload", String::from("joined"), nic.joined);
        row("offload", String::from("coalesced"), nic.coalesced);
        row("offload", String::from("bytes-saved"), nic.bytes_saved);
        out
    }
}

fn hv_rows(hv: &HvCounters, out: &mut Vec<(&'static str, String, u64)>) {
    for (code, n) in &hv.hypercalls {
        out.push(("hypercall", alloc::format!("{code:#x}"), *n));
    }
    for ((code, status), n) in &hv.hypercall_failures {
        out.push((
            "hypercall_failed",
            alloc::format!("{code:#x}/{status:#x}"),
            *n,
        ));
    }
    for (msr, n) in &hv.msr_faults {
        out.push(("msr_fault", alloc::format!("{msr:#x}"), *n));
    }
    let plain = [
        ("msr_access", hv.msr_accesses),
        ("eom", hv.eom),
        ("message_delivered", hv.messages_delivered),
        ("event_flag_new", hv.flags_new),
        ("event_flag_again", hv.flags_again),
        ("event_flag_off", hv.flags_off),
        ("interrupt_requested", hv.interrupts_requested),
        ("timer_expired", hv.timer_expiries),
        ("synic_memory_fault", hv.memory_faults),
    ];
    out.extend(plain.map(|(name, n)| (name, String::new(), n)));
}
