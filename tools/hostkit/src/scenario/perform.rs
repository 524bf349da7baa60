//! Does what a scenario wants the host to do of its own accord.
use super::{Action, Ring, player};
use crate::backend::Backend;
use crate::fault::{Layer, OutgoingMessage};
use crate::machine::Machine;
use crate::mem::VmMemory;
use crate::vmbus::{Context, OfferParams};
use abi::hyperv::EVENT_FLAGS;
use abi::vmbus::{Guid, class};

/// A turn at the end of a poll. Returns when the scenario wants the next one.
pub(crate) fn turn<M: VmMemory, B: Backend>(machine: &mut Machine<M, B>) -> Option<u64> {
    let now = machine.partition.now();
    let state = machine.nic.state();
    let frames = machine.nic.counters().frames_tx;
    let relid = machine.nic_relid;
    let player = machine.faults.player_mut()?;
    let (acts, late, signal) = player.tick(now, relid, state.filter != 0, frames);
    let busy = !late.is_empty();
    for message in late {
        send(machine, &message);
    }
    let mut again = busy;
    for action in acts {
        again |= act(machine, &action);
        if let Some(player) = machine.faults.player_mut() {
            player.last(&action);
        }
    }
    if signal {
        with(machine, |server, cx| {
            server.signal_guest(cx, relid);
        });
    }
    if again {
        return Some(now);
    }
    machine.faults.player_mut()?.next_due()
}

fn with<M: VmMemory, B: Backend>(
    machine: &mut Machine<M, B>,
    f: impl FnOnce(&mut crate::vmbus::Server, &mut Context<'_>),
) {
    let Machine {
        mem,
        partition,
        server,
        faults,
        ..
    } = machine;
    f(
        server,
        &mut Context {
            mem,
            partition,
            faults,
        },
    );
}

/// Sends it past the player.
fn send<M: VmMemory, B: Backend>(machine: &mut Machine<M, B>, message: &OutgoingMessage) {
    for _ in 0..message.copies {
        match message.layer {
            Layer::Control => with(machine, |server, cx| server.send_raw(cx, message)),
            Layer::Packet => machine.nic.inject_packet(&message.bytes),
            Layer::ReceiveBuffer => machine.nic.inject_rndis(&message.bytes),
        }
    }
}

/// Whether the NIC or the bus has something to do because of it.
fn act<M: VmMemory, B: Backend>(machine: &mut Machine<M, B>, action: &Action) -> bool {
    let relid = machine.nic_relid;
    match action {
        Action::Rescind => machine.rescind_nic(),
        Action::OfferNic(mac) => {
            if let Some(mac) = mac {
                machine.nic.set_mac(*mac);
            }
            machine.offer_nic();
        }
        Action::OfferSub(index) => {
            machine.offer_sub(*index);
        }
        Action::Offer(interface) => {
            // Another instance than the NIC's own.
            let instance = Guid::new(0x7363_656e, 0x6172, 0x696f, 1 + u64::from(relid));
            debug_assert!(*interface != class::NIC || instance.0 != [0; 16]);
            let offer = OfferParams::new(*interface, instance);
            with(machine, |server, cx| {
                server.offer(cx, offer);
            });
        }
        Action::Send(made) => {
            let mut message = player::invent(made, relid);
            message.copies = made.times;
            send(machine, &message);
        }
        Action::Poke(ring, at, value) => {
            machine
                .nic
                .poke(&machine.mem, *ring == Ring::Incoming, *at, *value);
            with(machine, |server, cx| {
                server.signal_guest(cx, relid);
            });
            return false;
        }
        Action::Flag(flag) => with(machine, |server, cx| server.raise_flag(cx, *flag)),
        Action::AllFlags => with(machine, |server, cx| {
            (0..EVENT_FLAGS as u16).for_each(|flag| server.raise_flag(cx, flag));
        }),
        Action::Vector(vector) => machine.partition.inject_vector(0, *vector),
        Action::Storm(_)
        | Action::SilentNic(_)
        | Action::SilentBus(_)
        | Action::NoInterrupts(_) => {}
    }
    true
}
