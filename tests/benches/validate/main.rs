//! What validation costs: each kind of message judged, read without a rule, and
//! only copied, on the same bytes in one run.
//!
//! * *validated*: the functions of `validate` that the paravisor calls;
//! * *unchecked*: the same fields read and believed ([`unchecked`]);
//! * *memcpy*: a plain copy of the same bytes.
//!
//! `cargo bench -p undercroft-benches --bench validate`, or `cargo xtask bench
//! validate`. The table at the end is also written as JSON to the file that
//! `UNDERCROFT_BENCH_REPORT` names. Nothing is asserted about time.

mod batch;
mod bytes;
mod table;
mod unchecked;

use abi::vmbus::{Features, Guid, Version};
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use std::time::Duration;
use table::Table;
use validate::control::{
    self, Admission, Gate, Known, Ledger, Outstanding, Phase, Relid, Standing, Window,
};
use validate::nvsp::{self, Awaited, Carrier, InBandContext, ReceivePhase};
use validate::rndis::{self, Context, PacketContext};
use validate::{packet, synic};

/// A client with one channel, relid 7, that waits for the answer to open 9.
struct Book;

impl Ledger for Book {
    fn channel(&self, relid: Relid) -> Option<Known> {
        (relid.number() == 7).then_some(Known {
            instance: Guid([0xA; 16]),
            standing: Standing::Opening { open_id: 9 },
        })
    }
    fn instance(&self, _: &Guid) -> Option<Standing> {
        None
    }
    fn adopted(&self, _: &Guid) -> bool {
        false
    }
    fn has_connection(&self, id: u32) -> bool {
        id == 0x2007
    }
    fn channels(&self) -> usize {
        1
    }
    fn nics(&self) -> usize {
        1
    }
    fn gpadl(&self, _: u32) -> Option<Outstanding> {
        None
    }
    fn window(&self, _: &Guid) -> Option<Window> {
        None
    }
    fn moving(&self, _: Relid) -> bool {
        false
    }
}

const GATE: Gate = Gate {
    phase: Phase::Running,
    version: Version::V6_0,
    features: Features::empty(),
    message_connection: 4,
    admission: Admission::All,
    max_nics: 2,
    max_channels: 8,
};

/// The NIC as it is while frames flow.
const CONTEXT: Context = Context {
    primary: true,
    ready: true,
    packet: PacketContext {
        mtu: 1500,
        mac: bytes::MAC,
        promiscuous: false,
        vlan: false,
        coalescing: false,
        refuse_oob: true,
    },
    awaited: None,
};

/// Measures the three ways one after another and puts them into the table.
struct Bench<'a> {
    criterion: &'a mut Criterion,
    table: &'a mut Table,
}

impl Bench<'_> {
    /// `judge` must accept `bytes`.
    fn three<J, U>(
        &mut self,
        name: &'static str,
        bytes: &[u8],
        mut judge: impl FnMut(&[u8]) -> Option<J>,
        mut read: impl FnMut(&[u8]) -> U,
    ) {
        assert!(judge(bytes).is_some(), "{name} is refused");
        let mut copy = vec![0; bytes.len()];
        let mut group = self.criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(table::WAYS[0], |b| {
            b.iter(|| {
                black_box(judge(black_box(bytes)));
            });
        });
        group.bench_function(table::WAYS[1], |b| {
            b.iter(|| {
                black_box(read(black_box(bytes)));
            });
        });
        group.bench_function(table::WAYS[2], |b| {
            b.iter(|| {
                copy.copy_from_slice(black_box(bytes));
                black_box(&mut copy);
            });
        });
        group.finish();
        self.table.add(name, bytes.len(), 1);
    }
}

fn control_messages(bench: &mut Bench<'_>) {
    let slot = bytes::slot(&bytes::opened());
    bench.three(
        "slot",
        &slot,
        |bytes| synic::slot(bytes.try_into().ok()?).ok()?,
        |bytes| bytes.try_into().ok().map(unchecked::slot),
    );
    let payload = |bytes: &[u8]| synic::slot(&bytes::slot(bytes)).ok().flatten();
    let offer = payload(&bytes::offer()).expect("a legal slot");
    bench.three(
        "offer",
        &bytes::offer(),
        |_| control::judge(black_box(&offer), &GATE, &Book).ok(),
        |_| unchecked::offer(black_box(&offer).bytes()),
    );
    let opened = payload(&bytes::opened()).expect("a legal slot");
    bench.three(
        "open result",
        &bytes::opened(),
        |_| control::judge(black_box(&opened), &GATE, &Book).ok(),
        |_| unchecked::words::<3>(black_box(&opened).bytes()),
    );
    let rescind = payload(&bytes::rescind()).expect("a legal slot");
    bench.three(
        "rescind",
        &bytes::rescind(),
        |_| control::judge(black_box(&rescind), &GATE, &Book).ok(),
        |_| unchecked::words::<1>(black_box(&rescind).bytes()),
    );
}

fn packets(bench: &mut Bench<'_>) {
    bench.three(
        "packet, completion",
        &bytes::completion_packet(),
        |bytes| {
            let packet = packet::judge(bytes, &netvsc::POLICY).ok()?;
            black_box((packet.kind(), packet.transaction_id()));
            Some(packet.payload().len())
        },
        |bytes| {
            let packet = unchecked::packet(bytes);
            black_box((packet.kind, packet.flags, packet.transaction_id));
            packet.payload.len()
        },
    );
    let geometry = batch::geometry();
    for (name, count) in [("packet, 1 range", 1), ("packet, 8 ranges", 8)] {
        let ranges: Vec<_> = (0..count).map(|n| (1500, n * bytes::SLOT)).collect();
        let mut slots = nvsp::Slots::new();
        let mut taken = Vec::new();
        bench.three(
            name,
            &bytes::transfer_packet(&ranges),
            |bytes| {
                let packet = packet::judge(bytes, &netvsc::POLICY).ok()?;
                batch::ranges(&packet, &geometry, &mut slots, &mut taken)?;
                batch::release(&mut slots, &taken);
                Some(black_box(taken.len()))
            },
            |bytes| {
                let packet = unchecked::packet(bytes);
                packet.ranges().for_each(|range| {
                    black_box(range);
                });
                black_box((packet.kind, packet.flags, packet.transaction_id));
                (packet.set_id, packet.payload.len())
            },
        );
    }
}

fn nvsp_messages(bench: &mut Bench<'_>) {
    bench.three(
        "NVSP receive",
        &bytes::receive(),
        |bytes| nvsp::carrier(bytes, black_box(ReceivePhase::Open)).ok(),
        unchecked::nvsp::<2>,
    );
    bench.three(
        "NVSP transmitted",
        &bytes::transmitted(),
        |bytes| nvsp::completion(bytes, black_box(Awaited::Rndis)).ok(),
        unchecked::nvsp::<2>,
    );
    let awaited = Awaited::ReceiveBuffer { len: bytes::BUFFER };
    bench.three(
        "NVSP receive buffer",
        &bytes::receive_buffer(),
        |bytes| nvsp::completion(bytes, black_box(awaited)).ok(),
        unchecked::nvsp::<7>,
    );
    let context = InBandContext {
        primary: true,
        channels: 4,
    };
    bench.three(
        "NVSP indirection table",
        &bytes::table(),
        |bytes| nvsp::in_band(bytes, black_box(&context)).ok(),
        unchecked::table,
    );
}

fn rndis_messages(bench: &mut Bench<'_>) {
    let judge = |carrier| {
        move |bytes: &[u8]| {
            rndis::message(bytes, carrier, black_box(&CONTEXT))
                .ok()
                .map(|judged| match judged.value {
                    rndis::Message::Packet(packet) => {
                        black_box((packet.checksum(), packet.vlan(), packet.hash()));
                        packet.frame().len()
                    }
                    other => {
                        black_box(&other);
                        0
                    }
                })
        }
    };
    let read = |bytes: &[u8]| {
        let found = unchecked::frame(bytes);
        black_box((found.head, found.address, found.ethertype));
        black_box((found.checksum, found.vlan, found.hash, found.packet_id));
        found.frame.len()
    };
    for (name, len, information) in [
        ("RNDIS frame of 60", 60, false),
        ("RNDIS frame of 60, 3 PPI", 60, true),
        ("RNDIS frame of 1514", 1514, false),
        ("RNDIS frame of 1514, 3 PPI", 1514, true),
    ] {
        let bytes = bytes::frame(len, information);
        bench.three(name, &bytes, judge(Carrier::Data), read);
    }
    bench.three(
        "RNDIS link event",
        &bytes::event(),
        judge(Carrier::Control),
        unchecked::nvsp::<5>,
    );
}

fn main() {
    // Where cargo lets a bench write.
    let home = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("validate");
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .output_directory(&home)
        .configure_from_args();
    let mut table = Table::new(home);
    let mut bench = Bench {
        criterion: &mut criterion,
        table: &mut table,
    };
    control_messages(&mut bench);
    packets(&mut bench);
    nvsp_messages(&mut bench);
    rndis_messages(&mut bench);
    batch::bench(&mut bench);
    criterion.final_summary();
    table.print();
}
