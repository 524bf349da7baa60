//! Hypercalls: PostMessage, SignalEvent, Get/SetVpRegisters, StartVirtualProcessor.
use super::{Inbound, PORT_BUFFERS, Partition, Port};
use crate::mem::VmMemory;
use abi::hyperv::{
    self, CallResult, Control, PostMessage, RegisterAssignment, RegisterValue, SignalEvent,
    StartVpHeader, VpRegistersHeader, call, msr, reg, status,
};
use zerocopy::{FromBytes, IntoBytes};

/// Registers that the partition does not keep: those of other levels, and
/// platform registers such as SevControl. Errors are [`status`] codes.
pub trait RegisterHook {
    /// Reads register `name` of `vp`; `vtl` as the caller named it.
    fn get(&mut self, vp: u32, vtl: Option<u8>, name: u32) -> Result<RegisterValue, u16>;
    /// Writes register `name` of `vp`.
    fn set(&mut self, vp: u32, vtl: Option<u8>, name: u32, value: RegisterValue)
    -> Result<(), u16>;
    /// StartVirtualProcessor; `context` is the 224-byte initial context.
    fn start_vp(&mut self, vp: u32, vtl: u8, context: &[u8]) -> Result<(), u16> {
        let _ = (vp, vtl, context);
        Err(status::OPERATION_DENIED)
    }
}

/// No further registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl RegisterHook for NoHook {
    fn get(&mut self, _: u32, _: Option<u8>, _: u32) -> Result<RegisterValue, u16> {
        Err(status::INVALID_PARAMETER)
    }
    fn set(&mut self, _: u32, _: Option<u8>, _: u32, _: RegisterValue) -> Result<(), u16> {
        Err(status::INVALID_PARAMETER)
    }
}

/// MSR that a VP register mirrors, for those that the partition keeps.
fn msr_of(name: u32) -> Option<u32> {
    Some(match name {
        reg::GUEST_OS_ID => msr::GUEST_OS_ID,
        reg::VP_INDEX => msr::VP_INDEX,
        reg::TIME_REF_COUNT => msr::TIME_REF_COUNT,
        reg::VP_ASSIST_PAGE => msr::VP_ASSIST_PAGE,
        reg::REFERENCE_TSC => msr::REFERENCE_TSC,
        reg::SINT0..reg::SCONTROL => msr::SINT0 + (name - reg::SINT0),
        reg::SCONTROL => msr::SCONTROL,
        reg::SVERSION => msr::SVERSION,
        reg::SIFP => msr::SIEFP,
        reg::SIPP => msr::SIMP,
        reg::EOM => msr::EOM,
        n if (reg::STIMER0_CONFIG..reg::STIMER0_CONFIG + 8).contains(&n) => {
            msr::STIMER0_CONFIG + (n - reg::STIMER0_CONFIG)
        }
        _ => return None,
    })
}

impl Partition {
    /// One hypercall of `vp`, input inline as in a GHCB hypercall page (bytes
    /// behind the call's own input are ignored). Returns the result value; what
    /// a call puts out is written to the front of `output`.
    pub fn hypercall(
        &mut self,
        mem: &dyn VmMemory,
        hook: &mut dyn RegisterHook,
        vp: u32,
        control: u64,
        input: &[u8],
        output: &mut [u8],
    ) -> u64 {
        let control = Control(control);
        let (status, reps) = if control.0 & Control::RESERVED != 0 || control.variable_header() != 0
        {
            (status::INVALID_HYPERCALL_INPUT, 0)
        } else {
            self.dispatch(mem, hook, vp, control, input, output)
        };
        let code = control.code();
        *self.counters.hypercalls.entry(code).or_default() += 1;
        if status != status::SUCCESS {
            *self
                .counters
                .hypercall_failures
                .entry((code, status))
                .or_default() += 1;
        }
        CallResult::new(status, reps).0
    }

    fn dispatch(
        &mut self,
        mem: &dyn VmMemory,
        hook: &mut dyn RegisterHook,
        vp: u32,
        control: Control,
        input: &[u8],
        output: &mut [u8],
    ) -> (u16, u16) {
        let simple = |status| (status, 0);
        let is_rep = matches!(
            control.code(),
            call::GET_VP_REGISTERS | call::SET_VP_REGISTERS
        );
        if is_rep != (control.rep_count() != 0)
            || control.rep_start() != 0 && control.rep_start() >= control.rep_count()
        {
            return simple(status::INVALID_HYPERCALL_INPUT);
        }
        match control.code() {
            call::POST_MESSAGE if control.is_fast() => simple(status::INVALID_HYPERCALL_INPUT),
            call::POST_MESSAGE => simple(self.post_message(vp, input)),
            call::SIGNAL_EVENT => simple(self.signal_event(input)),
            call::GET_VP_REGISTERS => self.get_registers(hook, vp, control, input, output),
            call::SET_VP_REGISTERS => self.set_registers(mem, hook, vp, control, input),
            call::START_VIRTUAL_PROCESSOR => simple(self.start_vp(hook, input)),
            _ => simple(status::INVALID_HYPERCALL_CODE),
        }
    }

    fn post_message(&mut self, vp: u32, input: &[u8]) -> u16 {
        let Ok((post, _)) = PostMessage::read_from_prefix(input) else {
            return status::INVALID_HYPERCALL_INPUT;
        };
        let kind = post.message_type;
        let size = post.payload_size as usize;
        // Hyper-V wants to know the guest before it talks to it.
        if self.guest_os_id == 0 {
            return status::ACCESS_DENIED;
        }
        if kind == 0
            || kind & hyperv::MESSAGE_TYPE_HYPERVISOR != 0
            || size > hyperv::MESSAGE_PAYLOAD
        {
            return status::INVALID_PARAMETER;
        }
        if post.reserved != 0 {
            return status::INVALID_PARAMETER;
        }
        match self.ports.get(&post.connection_id) {
            None => return status::INVALID_CONNECTION_ID,
            Some(Port::Event) => return status::INVALID_PORT_ID,
            Some(Port::Message) => {}
        }
        let waiting = self
            .inbox
            .iter()
            .filter(|i| matches!(i, Inbound::Message { .. }))
            .count();
        if waiting >= PORT_BUFFERS {
            return status::INSUFFICIENT_BUFFERS;
        }
        let payload = post.payload.get(..size).unwrap_or_default().to_vec();
        let connection = post.connection_id;
        self.inbox.push_back(Inbound::Message {
            connection,
            vp,
            message_type: kind,
            payload,
        });
        status::SUCCESS
    }

    fn signal_event(&mut self, input: &[u8]) -> u16 {
        let Ok((signal, _)) = SignalEvent::read_from_prefix(input) else {
            return status::INVALID_HYPERCALL_INPUT;
        };
        if self.guest_os_id == 0 {
            return status::ACCESS_DENIED;
        }
        if signal.reserved != 0 || signal.flag != 0 {
            return status::INVALID_PARAMETER;
        }
        let connection = signal.connection_id;
        match self.ports.get(&connection) {
            None => status::INVALID_CONNECTION_ID,
            Some(Port::Message) => status::INVALID_PORT_ID,
            Some(Port::Event) => {
                // Like the flag behind it, a signal that waits is not queued twice.
                let event = Inbound::Event { connection };
                if !self.inbox.contains(&event) {
                    self.inbox.push_back(event);
                }
                status::SUCCESS
            }
        }
    }

    fn registers_header(&self, vp: u32, input: &[u8]) -> Result<(u32, Option<u8>), u16> {
        let (head, _) = VpRegistersHeader::read_from_prefix(input)
            .map_err(|_| status::INVALID_HYPERCALL_INPUT)?;
        if head.partition_id != hyperv::PARTITION_ID_SELF {
            return Err(status::ACCESS_DENIED);
        }
        let target = if head.vp_index == hyperv::VP_INDEX_SELF {
            vp
        } else {
            head.vp_index
        };
        if target >= self.vp_count() {
            return Err(status::INVALID_VP_INDEX);
        }
        let named = head.target_vtl & hyperv::TARGET_VTL_VALID != 0;
        Ok((target, named.then_some(head.target_vtl & 0xf)))
    }

    fn get_registers(
        &mut self,
        hook: &mut dyn RegisterHook,
        vp: u32,
        control: Control,
        input: &[u8],
        output: &mut [u8],
    ) -> (u16, u16) {
        let (target, vtl) = match self.registers_header(vp, input) {
            Ok(t) => t,
            Err(status) => return (status, control.rep_start()),
        };
        let own = vtl.is_none_or(|vtl| vtl == self.config.vtl);
        for rep in control.rep_start()..control.rep_count() {
            let at = size_of::<VpRegistersHeader>() + usize::from(rep) * 4;
            let Some(Ok((name, _))) = input.get(at..).map(u32::read_from_prefix) else {
                return (status::INVALID_HYPERCALL_INPUT, rep);
            };
            let value = match msr_of(name).filter(|_| own) {
                Some(m) => self
                    .msr_read(target, m)
                    .map(|low| RegisterValue { low, high: 0 })
                    .map_err(|_| status::INVALID_PARAMETER),
                None => hook.get(target, vtl, name),
            };
            let value = match value {
                Ok(v) => v,
                Err(status) => return (status, rep),
            };
            let at = usize::from(rep) * size_of::<RegisterValue>();
            match output.get_mut(at..at + size_of::<RegisterValue>()) {
                Some(out) => out.copy_from_slice(value.as_bytes()),
                None => return (status::INVALID_HYPERCALL_INPUT, rep),
            }
        }
        (status::SUCCESS, control.rep_count())
    }

    fn set_registers(
        &mut self,
        mem: &dyn VmMemory,
        hook: &mut dyn RegisterHook,
        vp: u32,
        control: Control,
        input: &[u8],
    ) -> (u16, u16) {
        let (target, vtl) = match self.registers_header(vp, input) {
            Ok(t) => t,
            Err(status) => return (status, control.rep_start()),
        };
        let own = vtl.is_none_or(|vtl| vtl == self.config.vtl);
        for rep in control.rep_start()..control.rep_count() {
            let at =
                size_of::<VpRegistersHeader>() + usize::from(rep) * size_of::<RegisterAssignment>();
            let Some(Ok((set, _))) = input.get(at..).map(RegisterAssignment::read_from_prefix)
            else {
                return (status::INVALID_HYPERCALL_INPUT, rep);
            };
            let done = match msr_of(set.name).filter(|_| own) {
                Some(m) => {
                    let written = self.msr_write(mem, target, m, set.value.low);
                    written.map_err(|_| status::INVALID_PARAMETER)
                }
                None => hook.set(target, vtl, set.name, set.value),
            };
            if let Err(status) = done {
                return (status, rep);
            }
        }
        (status::SUCCESS, control.rep_count())
    }

    fn start_vp(&mut self, hook: &mut dyn RegisterHook, input: &[u8]) -> u16 {
        let Ok((head, rest)) = StartVpHeader::read_from_prefix(input) else {
            return status::INVALID_HYPERCALL_INPUT;
        };
        let Some(context) = rest.get(..hyperv::START_VP_INPUT - size_of::<StartVpHeader>()) else {
            return status::INVALID_HYPERCALL_INPUT;
        };
        if head.partition_id != hyperv::PARTITION_ID_SELF {
            return status::ACCESS_DENIED;
        }
        if head.vp_index >= self.vp_count() {
            return status::INVALID_VP_INDEX;
        }
        hook.start_vp(head.vp_index, head.target_vtl & 0xf, context)
            .err()
            .unwrap_or(status::SUCCESS)
    }
}
