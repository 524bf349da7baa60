//! Reading a trace: records one after the other, each checked before it is used.

use abi::trace::{
    BYTE_ORDER, CLOCK_UNIT_NS, FileHeader, Kind, MAGIC, MAX_PAYLOAD, RecordHead, VERSION,
};
use std::mem::{offset_of, size_of};
use zerocopy::{FromBytes, IntoBytes};

/// What is wrong with a trace, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("at byte {offset}: {problem}")]
pub struct Broken {
    /// Offset in the file.
    pub offset: u64,
    /// What was found and what was expected.
    pub problem: String,
}

fn broken<T>(offset: usize, problem: impl Into<String>) -> Result<T, Broken> {
    Err(Broken {
        offset: offset as u64,
        problem: problem.into(),
    })
}

/// One record, checked.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where it starts in the file.
    pub offset: usize,
    /// Its number.
    pub sequence: u64,
    /// Reference time, 100 ns.
    pub time: u64,
    /// What it is.
    pub kind: Kind,
    /// VP for registers and calls.
    pub subject: u32,
    /// Its content, at least as long as its kind wants.
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// The u64 at `at` of the payload; 0 beyond its end.
    pub fn u64(&self, at: usize) -> u64 {
        read(self.payload, at)
    }
    /// The u32 at `at` of the payload; 0 beyond its end.
    pub fn u32(&self, at: usize) -> u32 {
        let word: u64 = self.payload.get(at..at + 4).map_or(0, little);
        word as u32
    }
    /// What follows the address.
    pub fn bytes(&self) -> &'a [u8] {
        self.payload.get(8..).unwrap_or_default()
    }
}

/// Little-endian number of up to 8 bytes.
pub fn little(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

fn read(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, little)
}

/// Who wrote the file. It says so itself and may be a liar: nothing of it reaches a
/// terminal but plain letters.
fn creator(field: &[u8]) -> String {
    let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
    let plain = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    };
    name.iter().map(plain).collect()
}

/// A trace that is being read.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    sequence: u64,
    time: u64,
    ended: bool,
    /// Reference time at which it began.
    pub start: u64,
    /// Who wrote it.
    pub creator: String,
}

impl<'a> Reader<'a> {
    /// Checks the file's head.
    pub fn new(bytes: &'a [u8]) -> Result<Reader<'a>, Broken> {
        let Ok((head, _)) = FileHeader::read_from_prefix(bytes) else {
            return broken(
                bytes.len(),
                format!(
                    "the file ends inside its head: {} bytes where a trace has {} at least",
                    bytes.len(),
                    size_of::<FileHeader>()
                ),
            );
        };
        if head.magic != MAGIC {
            return broken(
                0,
                "this is no trace: it does not start with 89 55 43 54 52 0d 0a 1a",
            );
        }
        if head.byte_order.get() != BYTE_ORDER {
            return broken(
                12,
                "byte order mark is not 01020304: written in another byte order",
            );
        }
        let version = head.version.get();
        if version != VERSION {
            return broken(
                8,
                format!("version {version} of the format; this tool reads {VERSION}"),
            );
        }
        let crc = checksum(&[&head.as_bytes()[..offset_of!(FileHeader, crc)]]);
        if crc != head.crc.get() {
            return broken(60, sums("the file's head", head.crc.get(), crc));
        }
        if usize::from(head.header_size.get()) != size_of::<FileHeader>()
            || head.clock_unit_ns.get() != CLOCK_UNIT_NS
        {
            return broken(10, "head of another size, or another unit of time");
        }
        Ok(Reader {
            bytes,
            at: size_of::<FileHeader>(),
            sequence: 0,
            time: 0,
            ended: false,
            start: head.start.get(),
            creator: creator(&head.creator),
        })
    }

    /// The next record; `None` after the end record.
    pub fn next_record(&mut self) -> Result<Option<Record<'a>>, Broken> {
        let at = self.at;
        let rest = self.bytes.get(at..).unwrap_or_default();
        if self.ended {
            return match rest.len() {
                0 => Ok(None),
                more => broken(at, format!("{more} bytes behind the end record")),
            };
        }
        if rest.is_empty() {
            return broken(
                at,
                format!(
                    "the file ends without an end record after {} records: it was cut off",
                    self.sequence
                ),
            );
        }
        let Ok((head, body)) = RecordHead::read_from_prefix(rest) else {
            return broken(
                at,
                format!(
                    "the file ends inside the head of record {}: {} bytes of {}",
                    self.sequence,
                    rest.len(),
                    size_of::<RecordHead>()
                ),
            );
        };
        let length = head.length.get() as usize;
        if length > MAX_PAYLOAD {
            return broken(
                at,
                format!(
                    "record {} says that it has {length} bytes; {MAX_PAYLOAD} is the most",
                    self.sequence
                ),
            );
        }
        let Some(payload) = body.get(..length) else {
            return broken(
                at + size_of::<RecordHead>(),
                format!(
                    "the file ends inside record {}: {} bytes of {length}",
                    self.sequence,
                    body.len()
                ),
            );
        };
        let crc = checksum(&[&head.as_bytes()[..offset_of!(RecordHead, crc)], payload]);
        if crc != head.crc.get() {
            let what = format!("record {}", self.sequence);
            return broken(at, sums(&what, head.crc.get(), crc));
        }
        if head.sequence.get() != self.sequence {
            return broken(
                at + offset_of!(RecordHead, sequence),
                format!(
                    "record number {} where {} should follow: records are missing",
                    head.sequence.get(),
                    self.sequence
                ),
            );
        }
        if head.time.get() < self.time {
            return broken(
                at + offset_of!(RecordHead, time),
                format!(
                    "time {} after {}: it ran backwards",
                    head.time.get(),
                    self.time
                ),
            );
        }
        let kind = Kind(head.kind.get());
        let Some((name, least)) = kind.info() else {
            return broken(
                at + offset_of!(RecordHead, kind),
                format!(
                    "record of kind {:#x}, which version {VERSION} does not have",
                    kind.0
                ),
            );
        };
        if length < least {
            return broken(
                at,
                format!("record {name} with {length} bytes; {least} is the least"),
            );
        }
        let record = Record {
            offset: at,
            sequence: self.sequence,
            time: head.time.get(),
            kind,
            subject: head.subject.get(),
            payload,
        };
        if kind == Kind::END && record.u64(0) != self.sequence {
            return broken(
                at + size_of::<RecordHead>(),
                format!(
                    "the end record counts {} records, {} are there",
                    record.u64(0),
                    self.sequence
                ),
            );
        }
        self.ended = kind == Kind::END;
        self.sequence += 1;
        self.time = record.time;
        self.at = at + size_of::<RecordHead>() + length;
        Ok(Some(record))
    }
}

fn sums(what: &str, said: u32, is: u32) -> String {
    format!("checksum of {what} is {said:08x} in the file and {is:08x} by its bytes: damaged")
}

/// CRC-32 (IEEE 802.3) over `parts` one behind the other.
pub fn checksum(parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize()
}
