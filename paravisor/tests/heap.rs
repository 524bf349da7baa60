//! What a host can make the paravisor allocate: a global allocator that counts the
//! client's, the NIC's and the relay's bytes, and a host that says the greatest value
//! in each place of each of its messages, one after the other.

#![allow(unsafe_code)]

mod world;

use hostkit::fault::{Layer, OutgoingMessage};
use memory::SharedMemory;
use memory::doubles::PlainShared;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use validate::Rule;
use world::{FIRST_PFN, INSIDE, PAGES, World};

/// Most bytes that client, NIC and relay have at a time, whatever the host says. The
/// tables and buffers that they begin with are 101 KB of it, two thirds of them the
/// longest frame that a guest sends; the image has a heap of more than 5 MB.
const MOST: usize = 120 << 10;

/// Bytes that the paravisor has, and the most that it had.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The largest single piece.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// Puts a mark in front of each piece, by which its end is counted on the side that
/// it was made on.
struct Counting;

/// Room for the mark, at any alignment.
fn marked(layout: Layout) -> Option<(Layout, usize)> {
    let front = layout.align().max(size_of::<usize>());
    let size = layout.size().checked_add(front)?;
    Some((Layout::from_size_align(size, front).ok()?, front))
}

// SAFETY: hands on what `System` gives, behind a mark of `front` bytes, which keeps
// the alignment; `dealloc` finds the same start again from the same layout.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((whole, front)) = marked(layout) else {
            return std::ptr::null_mut();
        };
        // SAFETY: the size is not zero, by the mark.
        let start = unsafe { System.alloc(whole) };
        if start.is_null() {
            return start;
        }
        let counted = INSIDE.try_with(|inside| inside.get()).unwrap_or(false);
        if counted {
            let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
            PEAK.fetch_max(live, Relaxed);
            LARGEST.fetch_max(layout.size(), Relaxed);
        }
        // SAFETY: `front` bytes lie in front of the piece, aligned for the mark.
        unsafe {
            start.cast::<usize>().write(usize::from(counted));
            start.add(front)
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let Some((whole, front)) = marked(layout) else {
            return;
        };
        // SAFETY: `alloc` made it with the same layout.
        unsafe {
            let start = piece.sub(front);
            if start.cast::<usize>().read() == 1 {
                LIVE.fetch_sub(layout.size(), Relaxed);
            }
            System.dealloc(start, whole);
        }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// What comes behind is a frame's data: no message has fields so far from its start.
const FIELDS: usize = size_of::<abi::vmbus::OfferChannel>();

/// Kinds of messages: layer, type, and what a ring packet carries.
type Kind = (u8, u32, u32);

fn kind(message: &OutgoingMessage) -> Kind {
    let word = |at: usize| {
        let bytes = message.bytes.get(at..at + 4);
        bytes.map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()))
    };
    match message.layer {
        Layer::Control => (0, word(0), 0),
        Layer::Packet => (1, word(0) & 0xffff, word(8 * (word(0) >> 16) as usize)),
        Layer::ReceiveBuffer => (2, word(0), 0),
    }
}

/// What the host does to one place: of a message, of its slot, or of a ring's header.
#[derive(Clone, Copy, Debug)]
enum Lie {
    None,
    /// The greatest value in a field of so many bytes.
    Field(Kind, usize, usize),
    /// A slot that says to be full to the end and beyond.
    SlotSize(u32),
    /// A word in the header of a ring.
    Ring(usize),
}

/// A bring-up, frames each way, the end; gives the kinds that passed, with their
/// lengths, and the peak.
fn run(memory: &PlainShared, lie: Lie) -> (BTreeMap<Kind, usize>, usize) {
    PEAK.store(LIVE.load(Relaxed), Relaxed);
    let passed = Rc::new(RefCell::new(BTreeMap::new()));
    let noted = passed.clone();
    let mut world = World::over(memory.clone(), 0);
    world.hook(move |message| {
        let of = kind(message);
        let mut noted = noted.borrow_mut();
        let longest: &mut usize = noted.entry(of).or_default();
        *longest = message.bytes.len().max(*longest);
        match lie {
            Lie::Field(wanted, at, width) if wanted == of => {
                if let Some(field) = message.bytes.get_mut(at..at + width) {
                    field.fill(0xff);
                }
            }
            Lie::SlotSize(wanted) if (0, wanted, 0) == of => message.slot.size = Some(0xff),
            _ => {}
        }
    });
    world.uplink.start(world.now);
    for turn in 0..80 {
        if turn > 40 && turn % 4 == 0 && world.uplink.link_up() {
            world.device.out.push_back(vec![0xff; 1514]);
        }
        if let Lie::Ring(at) = lie
            && turn > 40
        {
            world.memory.store_u32(at, u32::MAX).unwrap();
        }
        world.turn();
        world.device.received.clear();
    }
    let passed = passed.borrow().clone();
    (passed, PEAK.load(Relaxed))
}

/// SYS_02: no size that the host says makes the paravisor allocate more.
#[test]
fn sys_02_the_greatest_value_in_every_size_stays_within_the_heap() {
    // The counter sees what it is to see.
    INSIDE.set(true);
    drop(vec![0_u8; MOST + 1]);
    INSIDE.set(false);
    assert!(PEAK.load(Relaxed) > MOST && LIVE.load(Relaxed) == 0);
    LARGEST.store(0, Relaxed);
    let memory = PlainShared::new(PAGES, FIRST_PFN);
    let (passed, honest) = run(&memory, Lie::None);
    assert!(honest > 4096, "nothing was counted");
    let mut lies = Vec::new();
    for (of, length) in &passed {
        let step = if of.0 == 1 { 2 } else { 4 };
        let fields = (0..length.min(&FIELDS).div_ceil(step)).map(|n| n * step);
        lies.extend(fields.clone().map(|at| Lie::Field(*of, at, step)));
        if of.0 == 0 {
            lies.push(Lie::SlotSize(of.1));
        }
    }
    // Both control pages of the rings, the first piece behind the SynIC's two pages.
    for page in [2, 2 + 17] {
        lies.extend(
            (0..5)
                .chain([16])
                .map(|word| Lie::Ring(page * 4096 + word * 4)),
        );
    }
    println!(
        "{} kinds, {} lies, honest peak {honest}",
        passed.len(),
        lies.len()
    );
    let mut most = honest;
    for lie in lies {
        let (_, peak) = run(&memory, lie);
        most = most.max(peak);
        assert!(peak <= MOST, "{}: {lie:?}: {peak} bytes", Rule::SYS_02);
    }
    let largest = LARGEST.load(Relaxed);
    println!("most {most}, largest piece {largest}");
    assert_eq!(
        LIVE.load(Relaxed),
        0,
        "SYS_02: something was never given back"
    );
}
