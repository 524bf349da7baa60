//! The pool of pages that become shared at run time.
//!
//! Hands out whole, exclusively owned pages (GPD-08), so that no page lies in
//! two buffers (GPD-10); pages are zeroed after they became visible to the host
//! and before anyone writes to them (GPD-09). A page whose conversion failed
//! (GPD-07), or which the host may still write to because its teardown was not
//! answered (GPD-06), is leaked: it is never handed out again.

use crate::{GuestPlace, OutOfRange, PAGE_SIZE, SharedMemory};
use core::ops::Range;

/// What a shared page is for; the key of the `shared_page` counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// GHCB pages.
    Ghcb,
    /// SynIC message and event-flag pages.
    Synic,
    /// Hypercall input and output.
    Hypercall,
    /// Channel rings.
    Ring,
    /// Receive buffers.
    ReceiveBuffer,
    /// Send buffers.
    SendBuffer,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Purpose; 6] = [
        Purpose::Ghcb,
        Purpose::Synic,
        Purpose::Hypercall,
        Purpose::Ring,
        Purpose::ReceiveBuffer,
        Purpose::SendBuffer,
    ];

    /// Name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::Ghcb => "ghcb",
            Purpose::Synic => "synic",
            Purpose::Hypercall => "hypercall",
            Purpose::Ring => "ring",
            Purpose::ReceiveBuffer => "receive-buffer",
            Purpose::SendBuffer => "send-buffer",
        }
    }
}

/// The platform could not make the pages visible to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareFailed;

/// What the platform does for the pool.
pub trait Backing {
    /// A mapped piece of the pool.
    type Region: SharedMemory;
    /// Makes `pages` pages from frame `first_pfn` on visible to the host. After
    /// an error their state is unknown, and the pool leaks them.
    fn share(&mut self, first_pfn: u64, pages: usize) -> Result<(), ShareFailed>;
    /// The shared mapping of these pages. Called once per hand-out; the pool
    /// hands out the same page again only after it was given back. `None` if there
    /// is no such mapping; the pool leaks the pages.
    fn region(&mut self, first_pfn: u64, pages: usize) -> Option<Self::Region>;
}

/// Why the pool gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// No run of free pages is long enough, or zero pages were asked for.
    Exhausted,
    /// The pages could not be shared; they are leaked now.
    ShareFailed,
    /// The platform has no region for these pages, or one that is too small.
    Mapping,
}

/// Shared pages that belong to one owner. Not to be cloned; goes back to the
/// pool by [`SharedPool::give_back`] or [`SharedPool::leak`]. Dropping it
/// leaks the pages, which is the safe side.
#[derive(Debug)]
pub struct Owned<R> {
    region: R,
    first: usize,
    pages: usize,
}

impl<R: SharedMemory> Owned<R> {
    /// The memory.
    pub fn memory(&self) -> &R {
        &self.region
    }
    /// Pages.
    pub fn pages(&self) -> usize {
        self.pages
    }
}

impl<R: SharedMemory> SharedMemory for Owned<R> {
    fn len(&self) -> usize {
        self.region.len()
    }
    fn pfn(&self, index: usize) -> Option<u64> {
        self.region.pfn(index)
    }
    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.region.copy_in(offset, dst)
    }
    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        self.region.copy_out(offset, src)
    }
    fn copy_out_all(
        &self,
        offset: usize,
        heads: [&[u8]; 2],
        parts: &[&[u8]],
        tail: &[u8],
    ) -> Result<(), OutOfRange> {
        self.region.copy_out_all(offset, heads, parts, tail)
    }
    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        self.region.zero(offset, len)
    }
    fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange> {
        self.region.load_u32(offset)
    }
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
        self.region.store_u32(offset, value)
    }
    fn compare_exchange_u32(&self, offset: usize, from: u32, to: u32) -> Result<bool, OutOfRange> {
        self.region.compare_exchange_u32(offset, from, to)
    }
    fn take_u64(&self, offset: usize) -> Result<u64, OutOfRange> {
        self.region.take_u64(offset)
    }
    fn fence(&self) {
        self.region.fence();
    }
    fn copy_to_guest(&self, offset: usize, to: &GuestPlace) -> Result<bool, OutOfRange> {
        self.region.copy_to_guest(offset, to)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// Not visible to the host.
    Private,
    /// Visible to the host, nobody's.
    Free,
    /// Visible to the host and in use.
    Used(Purpose),
    /// Never to be used again.
    Leaked(Purpose),
}

/// Accounts for `N` consecutive pages.
#[derive(Debug)]
pub struct SharedPool<B, const N: usize> {
    backing: B,
    first_pfn: u64,
    pages: [Page; N],
}

impl<B: Backing, const N: usize> SharedPool<B, N> {
    /// A pool of `N` private pages from frame `first_pfn` on.
    pub const fn new(backing: B, first_pfn: u64) -> Self {
        SharedPool {
            backing,
            first_pfn,
            pages: [Page::Private; N],
        }
    }

    /// The frames that the pool hands out; the host is told of no others (GPD-11).
    pub fn frames(&self) -> Range<u64> {
        self.first_pfn..self.first_pfn.saturating_add(N as u64)
    }

    /// Hands out `count` consecutive pages, visible to the host and zeroed.
    pub fn take(&mut self, count: usize, purpose: Purpose) -> Result<Owned<B::Region>, PoolError> {
        let first = self.find(count).ok_or(PoolError::Exhausted)?;
        let shared = self.share(first, count);
        // From here on the pages are not free any more, whatever happens.
        self.mark(first, count, Page::Leaked(purpose));
        shared.map_err(|ShareFailed| PoolError::ShareFailed)?;
        let region = self.backing.region(self.frame(first), count);
        let region = region.ok_or(PoolError::Mapping)?;
        let bytes = count.checked_mul(PAGE_SIZE).ok_or(PoolError::Mapping)?;
        if region.len() != bytes || region.zero(0, bytes).is_err() {
            return Err(PoolError::Mapping);
        }
        self.mark(first, count, Page::Used(purpose));
        Ok(Owned {
            region,
            first,
            pages: count,
        })
    }

    /// Takes pages back that the host has let go of (GPADL torn down, register
    /// cleared). They stay visible to the host and are zeroed before reuse.
    pub fn give_back(&mut self, owned: Owned<B::Region>) {
        self.mark(owned.first, owned.pages, Page::Free);
    }

    /// Gives pages up that the host may still use (GPD-06).
    pub fn leak(&mut self, owned: Owned<B::Region>) {
        for page in self.pages.iter_mut().skip(owned.first).take(owned.pages) {
            if let Page::Used(purpose) = *page {
                *page = Page::Leaked(purpose);
            }
        }
    }

    /// Pages in use for `purpose`.
    pub fn used(&self, purpose: Purpose) -> usize {
        count_of(self.pages.iter().filter(|p| **p == Page::Used(purpose)))
    }

    /// Pages of `purpose` that were given up.
    pub fn leaked(&self, purpose: Purpose) -> usize {
        count_of(self.pages.iter().filter(|p| **p == Page::Leaked(purpose)))
    }

    /// Pages that the host can see, whatever they are for.
    pub fn shared(&self) -> usize {
        count_of(self.pages.iter().filter(|p| **p != Page::Private))
    }

    fn frame(&self, page: usize) -> u64 {
        self.first_pfn.wrapping_add(page as u64)
    }

    fn mark(&mut self, first: usize, count: usize, state: Page) {
        self.pages
            .iter_mut()
            .skip(first)
            .take(count)
            .for_each(|page| *page = state);
    }

    /// First run of `count` pages that nobody has.
    fn find(&self, count: usize) -> Option<usize> {
        let mut run = 0_usize;
        for (index, page) in self.pages.iter().enumerate() {
            run = match page {
                Page::Private | Page::Free => run.saturating_add(1),
                Page::Used(_) | Page::Leaked(_) => 0,
            };
            if run == count {
                return index.checked_sub(count.checked_sub(1)?);
            }
        }
        None
    }

    /// Shares the private runs among these pages.
    fn share(&mut self, first: usize, count: usize) -> Result<(), ShareFailed> {
        let end = first.saturating_add(count);
        let mut at = first;
        while at < end {
            let rest = end.saturating_sub(at);
            let pages = self.pages.iter().skip(at).take(rest);
            let run = count_of(pages.take_while(|page| **page == Page::Private));
            if run > 0 {
                self.backing.share(self.frame(at), run)?;
            }
            at = at.saturating_add(run.max(1));
        }
        Ok(())
    }
}

/// `Iterator::count`, which panics where it would overflow, without that.
fn count_of(pages: impl Iterator) -> usize {
    pages.fold(0, |count: usize, _| count.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doubles::PlainShared;
    extern crate std;
    use std::vec::Vec;

    struct Machine {
        memory: PlainShared,
        shared: Vec<(u64, usize)>,
        fail: bool,
    }

    impl Backing for Machine {
        type Region = PlainShared;
        fn share(&mut self, first_pfn: u64, pages: usize) -> Result<(), ShareFailed> {
            self.shared.push((first_pfn, pages));
            if self.fail { Err(ShareFailed) } else { Ok(()) }
        }
        fn region(&mut self, first_pfn: u64, pages: usize) -> Option<PlainShared> {
            self.memory
                .window((first_pfn as usize - 16) * PAGE_SIZE, pages * PAGE_SIZE)
        }
    }

    fn pool() -> SharedPool<Machine, 8> {
        let memory = PlainShared::new(8, 16);
        memory.copy_out(0, &[0xaa; 8 * PAGE_SIZE]).unwrap();
        SharedPool::new(
            Machine {
                memory,
                shared: Vec::new(),
                fail: false,
            },
            16,
        )
    }

    #[test]
    fn gpd_09_pages_are_shared_then_zeroed() {
        let mut pool = pool();
        let a = pool.take(2, Purpose::Ring).unwrap();
        let mut bytes = [1; 2 * PAGE_SIZE];
        a.copy_in(0, &mut bytes).unwrap();
        assert!(bytes == [0; 2 * PAGE_SIZE]);
        a.copy_out(0, &[7; 100]).unwrap();
        pool.give_back(a);
        let a = pool.take(2, Purpose::Synic).unwrap();
        a.copy_in(0, &mut bytes).unwrap();
        assert!(bytes == [0; 2 * PAGE_SIZE]);
        // Shared once, although handed out twice.
        assert_eq!(pool.backing.shared, [(16, 2)]);
    }

    #[test]
    fn gpd_10_no_page_has_two_owners() {
        let mut pool = pool();
        let mut frames = Vec::new();
        let mut owners = Vec::new();
        for count in [1, 3, 2, 2] {
            let owned = pool.take(count, Purpose::Ring).unwrap();
            frames.extend((0..count).map(|i| owned.pfn(i).unwrap()));
            owners.push(owned);
        }
        frames.sort_unstable();
        frames.dedup();
        assert_eq!(frames.len(), 8);
        assert_eq!(
            pool.take(1, Purpose::Ring).unwrap_err(),
            PoolError::Exhausted
        );
        assert_eq!(
            pool.take(0, Purpose::Ring).unwrap_err(),
            PoolError::Exhausted
        );
    }

    /// GPD-08: whole pages, and no byte that another owner can write.
    #[test]
    fn gpd_08_buffers_are_whole_pages_of_one_owner() {
        let mut pool = pool();
        let owners: Vec<_> = [1, 3, 2, 2]
            .into_iter()
            .map(|pages| pool.take(pages, Purpose::Ring).unwrap())
            .collect();
        for (tag, owned) in owners.iter().enumerate() {
            assert!(owned.len().is_multiple_of(PAGE_SIZE), "GPD-08");
            let bytes = [tag as u8 + 1; 3 * PAGE_SIZE];
            owned
                .copy_out(0, bytes.get(..owned.len()).unwrap())
                .unwrap();
            assert!(owned.copy_out(owned.len(), &[0]).is_err(), "GPD-08");
            assert_eq!(owned.pfn(owned.len() / PAGE_SIZE), None, "GPD-08");
        }
        for (tag, owned) in owners.iter().enumerate() {
            let mut bytes = [0; 3 * PAGE_SIZE];
            let bytes = bytes.get_mut(..owned.len()).unwrap();
            owned.copy_in(0, bytes).unwrap();
            let written = [tag as u8 + 1; 3 * PAGE_SIZE];
            assert!(written.starts_with(bytes), "GPD-08");
        }
    }

    #[test]
    fn gpd_07_a_failed_conversion_leaks() {
        let mut pool = pool();
        pool.backing.fail = true;
        assert_eq!(
            pool.take(3, Purpose::SendBuffer).unwrap_err(),
            PoolError::ShareFailed
        );
        pool.backing.fail = false;
        assert_eq!(pool.leaked(Purpose::SendBuffer), 3);
        assert_eq!(pool.take(5, Purpose::Ring).unwrap().pfn(0), Some(19));
        assert_eq!(
            pool.take(1, Purpose::Ring).unwrap_err(),
            PoolError::Exhausted
        );
    }

    #[test]
    fn gpd_06_leaked_pages_never_come_back() {
        let mut pool = pool();
        let owned = pool.take(8, Purpose::ReceiveBuffer).unwrap();
        assert_eq!(pool.used(Purpose::ReceiveBuffer), 8);
        pool.leak(owned);
        assert_eq!(pool.leaked(Purpose::ReceiveBuffer), 8);
        assert_eq!(pool.shared(), 8);
        assert_eq!(
            pool.take(1, Purpose::Ring).unwrap_err(),
            PoolError::Exhausted
        );
    }

    #[test]
    fn only_private_runs_are_converted() {
        let mut pool = pool();
        let a = pool.take(1, Purpose::Ring).unwrap();
        let b = pool.take(1, Purpose::Ring).unwrap();
        let c = pool.take(1, Purpose::Ring).unwrap();
        pool.give_back(b);
        pool.give_back(c);
        pool.take(4, Purpose::Ring).unwrap();
        assert_eq!(pool.backing.shared, [(16, 1), (17, 1), (18, 1), (19, 2)]);
        drop(a);
    }
}
