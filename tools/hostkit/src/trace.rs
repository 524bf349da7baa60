//! Recording what crosses the boundary, in the format of [`abi::trace`].
//!
//! A [`Recorder`] sits at the two places that everything passes: the VM's memory
//! as the host side reaches it ([`Recorded`]) and [`crate::Machine`]'s entry
//! points for registers, hypercalls and interrupts. It knows no protocol, so
//! whatever a fault or a scenario does is in the trace as it was really done.
//! Without a recorder each access costs one test of an `Option`.
use crate::mem::{MemoryFault, VmMemory};
use abi::trace::{
    BYTE_ORDER, CLOCK_UNIT_NS, FileHeader, Kind, MAGIC, MAX_PAYLOAD, RecordHead, VERSION,
};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::mem::{offset_of, size_of};
use zerocopy::IntoBytes;

/// Words of the VM whose last value is remembered, so that a load which finds
/// nothing new leaves no record. Slots and ring headers are a few dozen; a guest
/// that names more makes the trace longer, nothing else.
const MAX_WORDS: usize = 4096;

/// Where records go.
pub trait Sink {
    /// Takes all of `bytes`, or nothing and says `false`. The recorder counts
    /// what was not taken and says so in the trace.
    fn put(&mut self, bytes: &[u8]) -> bool;
    /// Passes on what was kept back.
    fn flush(&mut self) {}
}

/// Keeps everything, for tests.
#[derive(Clone, Debug, Default)]
pub struct VecSink(Rc<RefCell<Vec<u8>>>);

impl VecSink {
    /// What was recorded so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.borrow().clone()
    }
}

impl Sink for VecSink {
    fn put(&mut self, bytes: &[u8]) -> bool {
        self.0.borrow_mut().extend_from_slice(bytes);
        true
    }
}

struct Inner {
    sink: Box<dyn Sink>,
    sequence: u64,
    now: u64,
    /// Records lost since the last one that was taken, and in all.
    lost: u64,
    lost_in_all: u64,
    ended: bool,
    words: BTreeMap<u64, u32>,
    buffer: Vec<u8>,
}

/// Writes one trace. Clones write the same one.
#[derive(Clone)]
pub struct Recorder(Rc<RefCell<Inner>>);

impl core::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let inner = self.0.borrow();
        write!(f, "Recorder {{ records: {} }}", inner.sequence)
    }
}

impl Recorder {
    /// Begins a trace. `creator` is cut to 28 bytes.
    pub fn new(sink: Box<dyn Sink>, creator: &str, start: u64) -> Recorder {
        let mut header = FileHeader {
            magic: MAGIC,
            version: VERSION.into(),
            header_size: (size_of::<FileHeader>() as u16).into(),
            byte_order: BYTE_ORDER.into(),
            clock_unit_ns: CLOCK_UNIT_NS.into(),
            reserved: 0.into(),
            start: start.into(),
            creator: [0; 28],
            crc: 0.into(),
        };
        for (to, from) in header.creator.iter_mut().zip(creator.bytes()) {
            *to = from;
        }
        let crc = checksum(&[&header.as_bytes()[..offset_of!(FileHeader, crc)]]);
        header.crc = crc.into();
        let mut inner = Inner {
            sink,
            sequence: 0,
            now: start,
            lost: 0,
            lost_in_all: 0,
            ended: false,
            words: BTreeMap::new(),
            buffer: Vec::new(),
        };
        if !inner.sink.put(header.as_bytes()) {
            // Without its head nothing in the file can be read.
            inner.ended = true;
        }
        Recorder(Rc::new(RefCell::new(inner)))
    }

    /// Reference time of the records that follow.
    pub fn set_time(&self, now: u64) {
        let mut inner = self.0.borrow_mut();
        inner.now = inner.now.max(now);
    }

    /// Writes one record whose payload is the concatenation of `parts`.
    pub fn record(&self, kind: Kind, subject: u32, parts: &[&[u8]]) {
        self.0.borrow_mut().record(kind, subject, parts);
    }

    /// Records bytes that were written or read, cut into records that fit.
    fn bytes(&self, kind: Kind, gpa: u64, bytes: &[u8]) {
        let mut inner = self.0.borrow_mut();
        let mut at = gpa;
        for piece in bytes.chunks(MAX_PAYLOAD - 8) {
            inner.record(kind, 0, &[&at.to_le_bytes(), piece]);
            at = at.wrapping_add(piece.len() as u64);
        }
        if kind == Kind::WRITE {
            // A word that was written over is news at its next load.
            let end = gpa.saturating_add(bytes.len() as u64);
            let first = gpa.saturating_sub(3);
            while let Some((word, _)) = inner.words.range(first..end).next() {
                let word = *word;
                inner.words.remove(&word);
            }
        }
    }

    fn loaded(&self, gpa: u64, value: u32) {
        let mut inner = self.0.borrow_mut();
        if inner.remember(gpa, value) != Some(value) {
            inner.record(Kind::LOAD, 0, &[&gpa.to_le_bytes(), &value.to_le_bytes()]);
        }
    }

    fn stored(&self, gpa: u64, value: u32) {
        let mut inner = self.0.borrow_mut();
        inner.remember(gpa, value);
        inner.record(Kind::STORE, 0, &[&gpa.to_le_bytes(), &value.to_le_bytes()]);
    }

    fn changed(&self, kind: Kind, gpa: u64, old: u32, operand: u32, new: u32) {
        let mut inner = self.0.borrow_mut();
        inner.remember(gpa, new);
        let parts = [
            &gpa.to_le_bytes()[..],
            &old.to_le_bytes(),
            &operand.to_le_bytes(),
        ];
        inner.record(kind, 0, &parts);
    }

    /// Words that were loaded or stored so far.
    fn words(&self) -> Vec<u64> {
        self.0.borrow().words.keys().copied().collect()
    }

    /// Writes the end record and passes everything on. Later records are ignored.
    pub fn finish(&self) {
        let mut inner = self.0.borrow_mut();
        // One that is lost here is told by the end record itself.
        let (records, lost) = (inner.sequence, inner.lost_in_all);
        inner.record(Kind::END, 0, &[&records.to_le_bytes(), &lost.to_le_bytes()]);
        inner.ended = true;
        inner.sink.flush();
    }
}

impl Inner {
    fn remember(&mut self, gpa: u64, value: u32) -> Option<u32> {
        if self.words.len() >= MAX_WORDS {
            self.words.clear();
        }
        self.words.insert(gpa, value)
    }

    fn record(&mut self, kind: Kind, subject: u32, parts: &[&[u8]]) {
        if self.ended {
            return;
        }
        if self.lost != 0 {
            let lost = self.lost.to_le_bytes();
            if !self.put(Kind::DROPPED, 0, &[&lost]) {
                self.lose();
                return;
            }
            self.lost = 0;
        }
        if !self.put(kind, subject, parts) {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.lost += 1;
        self.lost_in_all += 1;
    }

    fn put(&mut self, kind: Kind, subject: u32, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut head = RecordHead {
            length: (length as u32).into(),
            kind: kind.0.into(),
            reserved: 0.into(),
            sequence: self.sequence.into(),
            time: self.now.into(),
            subject: subject.into(),
            crc: 0.into(),
        };
        let mut crc = Checksum::new();
        crc.update(&head.as_bytes()[..offset_of!(RecordHead, crc)]);
        parts.iter().for_each(|part| crc.update(part));
        head.crc = crc.finish().into();
        self.buffer.clear();
        self.buffer.extend_from_slice(head.as_bytes());
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        let taken = self.sink.put(&self.buffer);
        if taken {
            self.sequence += 1;
        }
        taken
    }
}

/// CRC-32 over several pieces.
struct Checksum(crc32fast::Hasher);

impl Checksum {
    fn new() -> Checksum {
        Checksum(crc32fast::Hasher::new())
    }
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// The checksum of a file head or of a record: over `parts` one behind the other.
pub fn checksum(parts: &[&[u8]]) -> u32 {
    let mut crc = Checksum::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.finish()
}

/// `bytes` without the zeros at its end.
pub(crate) fn significant(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    bytes.get(..end).unwrap_or_default()
}

/// The VM's memory with a recorder beside it, if there is one.
#[derive(Debug)]
pub struct Recorded<M> {
    inner: M,
    recorder: Option<Recorder>,
}

impl<M> Recorded<M> {
    /// Memory that nobody records yet.
    pub fn new(inner: M) -> Recorded<M> {
        let recorder = None;
        Recorded { inner, recorder }
    }

    /// Records from now on.
    pub fn set_recorder(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// The recorder.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }
}

impl<M: VmMemory> Recorded<M> {
    /// Looks once more at every word that the guest's side may have changed, then
    /// ends the trace: so it tells how far the guest has read.
    pub fn finish(&mut self) {
        let Some(recorder) = self.recorder.take() else {
            return;
        };
        for gpa in recorder.words() {
            if let Ok(value) = self.inner.load_u32(gpa) {
                recorder.loaded(gpa, value);
            }
        }
        recorder.finish();
    }
}

impl<M> core::ops::Deref for Recorded<M> {
    type Target = M;
    fn deref(&self) -> &M {
        &self.inner
    }
}

impl<M: VmMemory> Recorded<M> {
    /// Runs an access and lets `note` record it.
    fn watch<R>(
        &self,
        result: Result<R, MemoryFault>,
        note: impl FnOnce(&Recorder, &R),
    ) -> Result<R, MemoryFault> {
        if let Some(recorder) = &self.recorder {
            match &result {
                Ok(value) => note(recorder, value),
                Err(MemoryFault::Private(gpa) | MemoryFault::Unmapped(gpa)) => {
                    recorder.record(Kind::REFUSED, 0, &[&gpa.to_le_bytes()]);
                }
            }
        }
        result
    }
}

impl<M: VmMemory> VmMemory for Recorded<M> {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), MemoryFault> {
        let result = self.inner.read(gpa, dst);
        self.watch(result, |r, ()| r.bytes(Kind::READ, gpa, dst))
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), MemoryFault> {
        self.watch(self.inner.write(gpa, src), |r, ()| {
            r.bytes(Kind::WRITE, gpa, src)
        })
    }
    fn load_u32(&self, gpa: u64) -> Result<u32, MemoryFault> {
        self.watch(self.inner.load_u32(gpa), |r, value| r.loaded(gpa, *value))
    }
    fn store_u32(&self, gpa: u64, value: u32) -> Result<(), MemoryFault> {
        self.watch(self.inner.store_u32(gpa, value), |r, ()| {
            r.stored(gpa, value)
        })
    }
    fn fetch_or_u32(&self, gpa: u64, bits: u32) -> Result<u32, MemoryFault> {
        self.watch(self.inner.fetch_or_u32(gpa, bits), |r, old| {
            r.changed(Kind::SET_BITS, gpa, *old, bits, old | bits);
        })
    }
    fn compare_exchange_u32(&self, gpa: u64, from: u32, to: u32) -> Result<bool, MemoryFault> {
        self.watch(self.inner.compare_exchange_u32(gpa, from, to), |r, done| {
            if *done {
                r.changed(Kind::EXCHANGE, gpa, from, to, to);
            }
        })
    }
    fn fence(&self) {
        self.inner.fence();
    }
}
