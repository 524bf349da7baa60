use super::*;
use crate::mem::VecMemory;
use alloc::vec;

/// Two rings that lie over the same pages, so that what the host writes on one
/// end can be read on the other.
fn pair(data_pages: usize) -> (VecMemory, OutRing, InRing) {
    let pages = data_pages + 1;
    let mem = VecMemory::new(pages * PAGE_SIZE);
    let list = PageList::new(
        (0..pages as u64).rev().collect(),
        0,
        (pages * PAGE_SIZE) as u32,
    )
    .unwrap();
    let list = Arc::new(list);
    let half = Half::new(&list, 0, pages).unwrap();
    let out = OutRing {
        half: half.clone(),
        write: 0,
        published: 0,
        pending: false,
    };
    (
        mem,
        out,
        InRing {
            half,
            read: 0,
            published: 0,
        },
    )
}

#[test]
fn random_sizes_wrap_fill_and_drain_unchanged() {
    let (mem, mut out, mut inn) = pair(3);
    let mut seed = 1u64;
    let mut rand = move || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    let (mut sent, mut got) = (0u64, 0u64);
    let body = |n: u64| -> Vec<u8> { (0..(n * 37) % 1500).map(|i| (i ^ n) as u8).collect() };
    while got < 20_000 {
        for _ in 0..rand() % 8 {
            let p = packet(PacketType::IN_BAND, 1, sent, &[7; 8], &body(sent));
            if !out.write(&mem, &p).unwrap() {
                assert!(out.is_blocked());
                break;
            }
            sent += 1;
        }
        out.publish(&mem).unwrap();
        for _ in 0..rand() % 8 {
            let Some(p) = inn.next(&mem).unwrap() else {
                break;
            };
            assert_eq!(
                (p.kind, p.transaction_id, p.extended()),
                (PacketType::IN_BAND, got, &[7; 8][..])
            );
            let want = body(got);
            assert_eq!(&p.payload()[..want.len()], want);
            got += 1;
        }
        inn.publish(&mem).unwrap();
    }
}

#[test]
fn writer_signals_only_from_empty_and_unmasked() {
    let (mem, mut out, mut inn) = pair(1);
    let p = packet(PacketType::IN_BAND, 0, 0, &[], &[1; 8]);
    let send = |out: &mut OutRing| {
        out.write(&mem, &p).unwrap();
        out.publish(&mem).unwrap()
    };
    assert!(send(&mut out));
    assert!(!send(&mut out));
    while inn.next(&mem).unwrap().is_some() {}
    inn.publish(&mem).unwrap();
    inn.set_mask(&mem, true).unwrap();
    assert!(!send(&mut out));
    inn.set_mask(&mem, false).unwrap();
    assert!(inn.has_data(&mem).unwrap());
}

#[test]
fn reader_signals_when_the_pending_size_fits() {
    let (mem, mut out, mut inn) = pair(1);
    let p = packet(PacketType::IN_BAND, 0, 0, &[], &vec![1; 1000]);
    while out.write(&mem, &p).unwrap() {}
    out.publish(&mem).unwrap();
    inn.next(&mem).unwrap().unwrap();
    assert!(inn.publish(&mem).unwrap());
    inn.next(&mem).unwrap().unwrap();
    // Room was there before: no second signal for the same wait.
    assert!(!inn.publish(&mem).unwrap());
    assert!(out.write(&mem, &p).unwrap());
    assert!(!out.is_blocked());
}

#[test]
fn bad_guest_values_are_named_not_followed() {
    let (mem, mut out, mut inn) = pair(1);
    let base = PAGE_SIZE as u64; // page 0 of the list is frame 1
    for bad in [4096, 4, u32::MAX] {
        mem.store_u32(base, bad).unwrap();
        assert_eq!(inn.next(&mem), Err(RingError::BadIndex(bad)));
    }
    mem.store_u32(base, 8).unwrap();
    assert_eq!(inn.next(&mem), Err(RingError::BadLength(0)));
    mem.store_u32(base, 0).unwrap();
    let mut p = packet(PacketType::IN_BAND, 0, 0, &[], &[1; 8]);
    p[4] = 1;
    out.write(&mem, &p).unwrap();
    out.publish(&mem).unwrap();
    assert_eq!(inn.next(&mem), Err(RingError::BadLength(1)));
    mem.guest(4, 1, |b| b[0] = 200).unwrap();
    assert_eq!(inn.next(&mem), Err(RingError::BadLength(200)));
    mem.guest(2, 3, |b| b.copy_from_slice(&[9, 0, 3])).unwrap();
    assert_eq!(inn.next(&mem), Err(RingError::BadPayloadOffset(9)));
    mem.store_u32(base + 4, 12).unwrap();
    assert_eq!(out.write(&mem, &p), Err(RingError::BadIndex(12)));
    assert_eq!(out.write(&mem, &[0; 5000]), Err(RingError::TooLarge(5008)));
}
