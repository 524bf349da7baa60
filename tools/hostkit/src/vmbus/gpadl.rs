//! GPADLs: page lists that arrive in a header and any number of bodies.
use crate::pages::PageList;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// GPADLs that one guest may have.
const MAX_GPADLS: usize = 256;
/// Ranges in one GPADL.
const MAX_RANGES: u16 = 64;

/// What becomes of a part of a GPADL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More bodies have to come.
    More,
    /// Complete: answer CREATED with success.
    Created,
    /// Bad: answer CREATED with failure.
    Refused,
    /// Not even that: no answer; the name of the error.
    Ignored(&'static str),
}

#[derive(Debug)]
enum State {
    /// Words still come in.
    Building {
        words: Vec<u64>,
        total: usize,
        ranges: u16,
    },
    Ready(Vec<Arc<PageList>>),
    /// The guest wants it back; a device still holds it.
    TearingDown(Vec<Arc<PageList>>),
}

/// All GPADLs of a connection, by (relid, id).
#[derive(Debug, Default)]
pub(super) struct Gpadls {
    map: BTreeMap<(u32, u32), State>,
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|w| u64::from_le_bytes(*w))
}

/// Ranges out of the words; `None` if they make no sense.
fn ranges(words: &[u64], count: u16) -> Option<Vec<Arc<PageList>>> {
    let mut rest = words;
    let mut out = Vec::new();
    for _ in 0..count {
        let (head, tail) = rest.split_first()?;
        let (len, offset) = (*head as u32, (*head >> 32) as u32);
        let pages = (len as usize)
            .checked_add(offset as usize)?
            .div_ceil(abi::vmbus::PAGE_SIZE);
        // The last range may have surplus words.
        let pfns = tail.get(..pages)?.to_vec();
        out.push(Arc::new(PageList::new(pfns, offset, len)?));
        rest = tail.get(pages..)?;
    }
    Some(out)
}

impl Gpadls {
    /// GPADL_HEADER. `data` are the bytes behind its fixed part.
    pub fn header(&mut self, relid: u32, id: u32, length: u16, count: u16, data: &[u8]) -> Step {
        let unfinished =
            |((_, i), s): (&(u32, u32), &State)| *i == id && matches!(s, State::Building { .. });
        if self.map.contains_key(&(relid, id)) || self.map.iter().any(unfinished) {
            return Step::Refused;
        }
        let total = usize::from(length) / 8;
        if count == 0 || count > MAX_RANGES || total < 2 || self.map.len() >= MAX_GPADLS {
            return Step::Refused;
        }
        let state = State::Building {
            words: words(data).take(total).collect(),
            total,
            ranges: count,
        };
        self.map.insert((relid, id), state);
        self.finish(relid, id)
    }

    /// GPADL_BODY. On an answer the relid is given, since a body has none.
    pub fn body(&mut self, id: u32, data: &[u8]) -> (u32, Step) {
        let known = self.map.keys().any(|(_, i)| *i == id);
        let building = self.map.iter_mut().find_map(|((relid, i), s)| match s {
            State::Building { words, total, .. } if *i == id => Some((*relid, words, *total)),
            _ => None,
        });
        match building {
            Some((relid, list, total)) => {
                let room = total.saturating_sub(list.len());
                list.extend(words(data).take(room));
                (relid, self.finish(relid, id))
            }
            None if known => (0, Step::Ignored("gpadl-body-after-end")),
            None => (0, Step::Ignored("gpadl-body-unknown")),
        }
    }

    fn finish(&mut self, relid: u32, id: u32) -> Step {
        let Some(State::Building {
            words,
            total,
            ranges: count,
        }) = self.map.get(&(relid, id))
        else {
            return Step::Ignored("gpadl-lost");
        };
        if words.len() < *total {
            return Step::More;
        }
        match ranges(words, *count) {
            Some(list) => {
                self.map.insert((relid, id), State::Ready(list));
                Step::Created
            }
            None => {
                self.map.remove(&(relid, id));
                Step::Refused
            }
        }
    }

    /// The pages of a complete GPADL with one page-aligned range.
    pub fn single(&self, relid: u32, id: u32) -> Option<Arc<PageList>> {
        match self.map.get(&(relid, id)) {
            Some(State::Ready(list)) => match list.as_slice() {
                [one] if one.is_page_aligned() => Some(one.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// GPADL_TEARDOWN: the name of the error, if it is one. The answer comes
    /// from [`torn_down`](Self::torn_down).
    pub fn teardown(&mut self, relid: u32, id: u32) -> Result<(), &'static str> {
        match self.map.remove(&(relid, id)) {
            Some(State::Ready(list)) => {
                self.map.insert((relid, id), State::TearingDown(list));
                Ok(())
            }
            Some(other) => {
                self.map.insert((relid, id), other);
                Err("gpadl-teardown-state")
            }
            None => Err("gpadl-teardown-unknown"),
        }
    }

    /// Takes out a GPADL that the guest wants back and nobody uses any more.
    pub fn torn_down(&mut self) -> Option<u32> {
        let free = |s: &State| matches!(s, State::TearingDown(l) if l.iter().all(|p| Arc::strong_count(p) == 1));
        let key = self.map.iter().find_map(|(k, s)| free(s).then_some(*k))?;
        self.map.remove(&key);
        Some(key.1)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.map.clear();
    }

    /// Number of complete GPADLs and of the pages in them.
    pub fn totals(&self) -> (u64, u64) {
        let mut pages = 0;
        for s in self.map.values() {
            if let State::Ready(l) | State::TearingDown(l) = s {
                pages += l.iter().map(|p| p.pfns().len() as u64).sum::<u64>();
            }
        }
        (self.map.len() as u64, pages)
    }
}
