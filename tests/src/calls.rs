//! What a paravisor asks of its host: the calls by which VMBus is carried.

use crate::HostView;
use abi::hyperv::{CallResult, Control, PostMessage, SignalEvent, Sint, call, msr};
use hostkit::Machine;
use hostkit::backend::Backend;
use hostkit::hv::NoHook;
use vmbus::{Action, Client, SignalTarget};
use zerocopy::{FromZeros, IntoBytes};

/// The host that tests talk to.
pub type Host<B> = Machine<HostView, B>;

/// Turns the SynIC of a VP on: its message page lies at `simp`, its flags behind that.
pub fn start_synic<B: Backend>(host: &mut Host<B>, vp: u32, simp: u64, sint: u8, vector: u8) {
    for (register, value) in [
        (msr::GUEST_OS_ID, 1 << 63),
        (msr::SIMP, simp | 1),
        (msr::SIEFP, (simp + abi::hyperv::PAGE_SIZE as u64) | 1),
        (msr::SINT0 + u32::from(sint), Sint::new(vector, true).0),
        (msr::SCONTROL, 1),
    ] {
        host.msr_write(vp, register, value).unwrap();
    }
}

fn status<B: Backend>(host: &mut Host<B>, code: u16, input: &[u8]) -> u16 {
    let control = Control::simple(code).0;
    let result = host.hypercall(&mut NoHook, 0, control, input, &mut []);
    CallResult(result).status()
}

/// Posts what the client has to say, as far as the host takes it; whether there was
/// anything.
pub fn post_all<B: Backend>(client: &mut Client, host: &mut Host<B>, now: u64) -> bool {
    let mut any = false;
    while let Some(Action::PostMessage(post)) = client.poll(now) {
        any = true;
        let mut input = PostMessage::new_zeroed();
        input.connection_id = post.connection_id();
        input.message_type = abi::vmbus::SYNIC_MESSAGE_TYPE;
        input.payload_size = post.payload().len() as u32;
        input.payload = *post.padded();
        let status = status(host, call::POST_MESSAGE, input.as_bytes());
        client.on_post_result(status, now);
        if status != 0 {
            break;
        }
    }
    any
}

/// Signals a channel of the host's.
pub fn signal<B: Backend>(host: &mut Host<B>, target: SignalTarget) {
    let input = SignalEvent {
        connection_id: target.connection_id,
        flag: target.flag,
        reserved: 0,
    };
    assert_eq!(status(host, call::SIGNAL_EVENT, input.as_bytes()), 0);
}
