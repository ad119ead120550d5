//! A table in pages, of which those that nobody looked at lately may lie in the spill file.
//!
//! Source: the design's section on the checker.
//! Invariants: a page is in memory or in the file, never in both as the valid one; without a limit no page leaves memory,
//! and reading takes no lock.

use crate::spill::{Away, Spill};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Pages of a table that stay in memory, however little there is.
const KEPT: usize = 4;

/// What a page can do: say how large it is, become bytes, and come back from them.
pub trait Page: Sized {
    fn memory(&self) -> usize;
    fn store(&self, bytes: &mut Vec<u8>);
    /// From what `store` wrote.
    fn load(bytes: &[u8]) -> Self;
}

enum Slot<T> {
    Empty,
    Here(Box<T>),
    Away(Box<Away>),
}

pub struct Pages<T: Page> {
    slots: Vec<Slot<T>>,
    spill: Arc<Spill>,
    /// Pages in memory, the one that came first in front. Empty without a limit.
    here: VecDeque<u32>,
    /// The last page that was read for somebody who changes nothing.
    last: Mutex<Option<(usize, T)>>,
}

impl<T: Page> Pages<T> {
    pub fn new(spill: &Arc<Spill>) -> Self {
        Self {
            slots: Vec::new(),
            spill: Arc::clone(spill),
            here: VecDeque::new(),
            last: Mutex::new(None),
        }
    }

    /// One more than the number of the last page.
    pub fn end(&self) -> usize {
        self.slots.len()
    }

    /// Looks at a page; `None` where there is none.
    pub fn with<R>(&self, index: usize, look: impl FnOnce(&T) -> R) -> Option<R> {
        match self.slots.get(index)? {
            Slot::Empty => None,
            Slot::Here(page) => Some(look(page)),
            Slot::Away(away) => {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.as_ref().is_none_or(|(of, _)| *of != index) {
                    *last = Some((index, T::load(&self.spill.read(away)?)));
                }
                last.as_ref().map(|(_, page)| look(page))
            }
        }
    }

    /// Changes a page, which is made first if there is none.
    pub fn change<R>(
        &mut self,
        index: usize,
        make: impl FnOnce() -> T,
        change: impl FnOnce(&mut T) -> R,
    ) -> R {
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || Slot::Empty);
        }
        self.bring(index, make);
        let spill = &self.spill;
        let limited = spill.is_limited();
        let Slot::Here(page) = &mut self.slots[index] else {
            unreachable!("the page was brought in");
        };
        if !limited {
            return change(page);
        }
        let before = page.memory();
        let done = change(page);
        spill.count(before, page.memory());
        if spill.is_over() {
            self.make_room(index);
        }
        done
    }

    /// The same where there is a page.
    pub fn change_old<R>(&mut self, index: usize, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        if matches!(self.slots.get(index)?, Slot::Empty) {
            return None;
        }
        // A page that cannot be read has failed the run.
        Some(self.change(index, || T::load(&[]), change))
    }

    /// Takes a page out of the table.
    pub fn take(&mut self, index: usize) -> Option<T> {
        let slot = self.slots.get_mut(index)?;
        match std::mem::replace(slot, Slot::Empty) {
            Slot::Empty => None,
            Slot::Here(page) => {
                self.left(index, page.memory());
                Some(*page)
            }
            Slot::Away(away) => {
                let bytes = self.spill.read(&away);
                self.spill.release(&away);
                self.forget(index);
                bytes.map(|bytes| T::load(&bytes))
            }
        }
    }

    fn bring(&mut self, index: usize, make: impl FnOnce() -> T) {
        if matches!(self.slots[index], Slot::Here(_)) {
            return;
        }
        let page = match self.take(index) {
            Some(page) => page,
            None => make(),
        };
        if self.spill.is_limited() {
            self.spill.count(0, page.memory());
            self.here.push_back(index as u32);
        }
        self.slots[index] = Slot::Here(Box::new(page));
    }

    /// The page is no longer in memory.
    fn left(&mut self, index: usize, memory: usize) {
        if !self.spill.is_limited() {
            return;
        }
        self.spill.count(memory, 0);
        if let Some(at) = self.here.iter().position(|page| *page as usize == index) {
            self.here.remove(at);
        }
    }

    fn forget(&self, index: usize) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|(of, _)| *of == index) {
            *last = None;
        }
    }

    /// Puts pages into the file, but not the one that is in use.
    fn make_room(&mut self, current: usize) {
        while self.spill.is_over() && self.here.len() > KEPT {
            let Some(index) = self.here.pop_front() else {
                return;
            };
            let at = index as usize;
            if at == current {
                self.here.push_back(index);
                continue;
            }
            let Some(Slot::Here(page)) = self.slots.get(at) else {
                continue;
            };
            let mut bytes = Vec::new();
            page.store(&mut bytes);
            let Some(away) = self.spill.write(&bytes) else {
                self.here.push_front(index);
                return;
            };
            self.spill.count(page.memory(), 0);
            self.slots[at] = Slot::Away(Box::new(away));
        }
    }
}

impl<T: Page> Drop for Pages<T> {
    fn drop(&mut self) {
        if !self.spill.is_limited() {
            return;
        }
        for slot in self.slots.drain(..) {
            match slot {
                Slot::Empty => {}
                Slot::Here(page) => self.spill.count(page.memory(), 0),
                Slot::Away(away) => self.spill.release(&away),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words(Vec<u32>);

    impl Page for Words {
        fn memory(&self) -> usize {
            self.0.capacity() * 4
        }
        fn store(&self, bytes: &mut Vec<u8>) {
            bytes.extend(self.0.iter().flat_map(|word| word.to_le_bytes()));
        }
        fn load(bytes: &[u8]) -> Self {
            let word = |part: &[u8]| u32::from_le_bytes(part.try_into().unwrap());
            Self(bytes.chunks_exact(4).map(word).collect())
        }
    }

    #[test]
    fn pages_come_back_as_they_went() {
        let spill = Spill::new(Some(0));
        let mut pages: Pages<Words> = Pages::new(&spill);
        let mut model = vec![Vec::new(); 60];
        let mut random = 3_u32;
        for round in 0..200_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let page = (random >> 16) as usize % model.len();
            match random >> 26 {
                0 if random >> 18 & 0xff < 4 => {
                    let taken = pages.take(page).map_or(Vec::new(), |words| words.0);
                    assert_eq!(taken, std::mem::take(&mut model[page]));
                }
                1..20 => {
                    let seen = pages.with(page, |words| words.0.clone());
                    assert_eq!(seen.unwrap_or_default(), model[page]);
                }
                _ => {
                    pages.change(page, || Words(Vec::new()), |words| words.0.push(round));
                    model[page].push(round);
                }
            }
        }
        let held: usize = (0..model.len())
            .filter_map(|page| match &pages.slots[page] {
                Slot::Here(words) => Some(words.memory()),
                _ => None,
            })
            .sum();
        let largest = model.iter().map(|words| words.len() * 8).max().unwrap();
        assert!(held <= spill.limit().max((KEPT + 1) * largest), "{held}");
        assert!(spill.spilled() > 0 && spill.check().is_ok());
        drop(pages);
        assert!(!spill.is_over());
    }
}
