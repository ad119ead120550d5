//! A table in pages, of which those that nobody looked at lately may lie in the spill file.
//!
//! Source: the design's section on the checker.
//! Invariants: a page is in memory or in the file, never in both as the valid one; without a limit no page leaves memory,
//! and reading takes no lock; with one, a page in the file takes no memory but its share of `Places`.

mod places;

use crate::spill::Spill;
use places::Places;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pages of a table that stay in memory, however little there is.
const KEPT: usize = 4;

/// What a page can do: say how large it is, become bytes, and come back from them.
pub trait Page: Sized {
    fn memory(&self) -> usize;
    fn store(&self, bytes: &mut Vec<u8>);
    /// From what `store` wrote.
    fn load(bytes: &[u8]) -> Self;
}

pub struct Pages<T: Page> {
    spill: Arc<Spill>,
    store: Store<T>,
}

enum Store<T> {
    /// Without a limit.
    All(Vec<Option<Box<T>>>),
    Limited(Mutex<Bounded<T>>),
}

struct Bounded<T> {
    here: HashMap<usize, T>,
    /// Those of `here`, the one that came first in front.
    order: VecDeque<usize>,
    places: Places,
    /// The last page that was read from the file for somebody who changes nothing.
    last: Option<(usize, T)>,
    end: usize,
}

impl<T: Page> Pages<T> {
    pub fn new(spill: &Arc<Spill>) -> Self {
        let store = match spill.is_limited() {
            false => Store::All(Vec::new()),
            true => Store::Limited(Mutex::new(Bounded {
                here: HashMap::new(),
                order: VecDeque::new(),
                places: Places::default(),
                last: None,
                end: 0,
            })),
        };
        let spill = Arc::clone(spill);
        Self { spill, store }
    }

    /// One more than the number of the last page.
    pub fn end(&self) -> usize {
        match &self.store {
            Store::All(pages) => pages.len(),
            Store::Limited(some) => lock(some).end,
        }
    }

    /// Looks at a page; `None` where there is none.
    pub fn with<R>(&self, index: usize, look: impl FnOnce(&T) -> R) -> Option<R> {
        match &self.store {
            Store::All(pages) => pages.get(index)?.as_deref().map(look),
            Store::Limited(some) => lock(some).with(&self.spill, index, look),
        }
    }

    /// Changes a page, which is made first if there is none.
    pub fn change<R>(
        &mut self,
        index: usize,
        make: impl FnOnce() -> T,
        change: impl FnOnce(&mut T) -> R,
    ) -> R {
        match &mut self.store {
            Store::All(pages) => {
                if pages.len() <= index {
                    pages.resize_with(index + 1, || None);
                }
                change(pages[index].get_or_insert_with(|| Box::new(make())))
            }
            Store::Limited(some) => whole(some).change(&self.spill, index, make, change),
        }
    }

    /// The same where there is a page.
    pub fn change_old<R>(&mut self, index: usize, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        match &mut self.store {
            Store::All(pages) => pages.get_mut(index)?.as_deref_mut().map(change),
            Store::Limited(some) => {
                let some = whole(some);
                if !some.has(&self.spill, index) {
                    return None;
                }
                // A page that cannot be read has failed the run.
                Some(some.change(&self.spill, index, || T::load(&[]), change))
            }
        }
    }

    /// Takes a page out of the table.
    pub fn take(&mut self, index: usize) -> Option<T> {
        match &mut self.store {
            Store::All(pages) => pages.get_mut(index)?.take().map(|page| *page),
            Store::Limited(some) => whole(some).take(&self.spill, index),
        }
    }
}

fn lock<T>(some: &Mutex<Bounded<T>>) -> MutexGuard<'_, Bounded<T>> {
    some.lock().unwrap_or_else(PoisonError::into_inner)
}

fn whole<T>(some: &mut Mutex<Bounded<T>>) -> &mut Bounded<T> {
    some.get_mut().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Page> Bounded<T> {
    /// What a page costs beside its own memory: `here` may be half empty, and the allocator rounds up.
    const EXTRA: usize = 2 * size_of::<(usize, T)>() + 32;

    fn cost(page: &T) -> usize {
        page.memory() + Self::EXTRA
    }

    fn has(&mut self, spill: &Spill, index: usize) -> bool {
        self.here.contains_key(&index) || self.places.get(spill, index).is_some()
    }

    fn with<R>(&mut self, spill: &Spill, index: usize, look: impl FnOnce(&T) -> R) -> Option<R> {
        if let Some(page) = self.here.get(&index) {
            return Some(look(page));
        }
        if self.last.as_ref().is_none_or(|(of, _)| *of != index) {
            let away = self.places.get(spill, index)?;
            self.last = Some((index, T::load(&spill.read(&away)?)));
        }
        self.last.as_ref().map(|(_, page)| look(page))
    }

    fn change<R>(
        &mut self,
        spill: &Spill,
        index: usize,
        make: impl FnOnce() -> T,
        change: impl FnOnce(&mut T) -> R,
    ) -> R {
        self.end = self.end.max(index + 1);
        // First, since it needs more of `self` than the entry leaves.
        let from_file = match self.here.contains_key(&index) {
            true => None,
            false => self.fetch(spill, index),
        };
        let page = match self.here.entry(index) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let page = from_file.unwrap_or_else(make);
                spill.count(0, Self::cost(&page));
                self.order.push_back(index);
                entry.insert(page)
            }
        };
        let before = page.memory();
        let done = change(page);
        spill.count(before, page.memory());
        if spill.is_over() {
            self.make_room(spill, index);
        }
        done
    }

    fn take(&mut self, spill: &Spill, index: usize) -> Option<T> {
        let Some(page) = self.here.remove(&index) else {
            return self.fetch(spill, index);
        };
        spill.count(Self::cost(&page), 0);
        if let Some(at) = self.order.iter().position(|page| *page == index) {
            self.order.remove(at);
        }
        Some(page)
    }

    /// Takes a page out of the file.
    fn fetch(&mut self, spill: &Spill, index: usize) -> Option<T> {
        let away = self.places.take(spill, index)?;
        if self.last.as_ref().is_some_and(|(of, _)| *of == index) {
            self.last = None;
        }
        let bytes = spill.read(&away);
        spill.release(&away);
        bytes.map(|bytes| T::load(&bytes))
    }

    /// Puts pages into the file, but not the one that is in use.
    fn make_room(&mut self, spill: &Spill, current: usize) {
        let mut bytes = Vec::new();
        while spill.is_over() && self.order.len() > KEPT {
            let Some(index) = self.order.pop_front() else {
                return;
            };
            if index == current {
                self.order.push_back(index);
                continue;
            }
            let Some(page) = self.here.get(&index) else {
                continue;
            };
            bytes.clear();
            page.store(&mut bytes);
            let Some(away) = spill.write(&bytes) else {
                self.order.push_front(index);
                return;
            };
            spill.count(Self::cost(page), 0);
            self.here.remove(&index);
            self.places.put(spill, index, away);
        }
    }
}

impl<T: Page> Drop for Pages<T> {
    fn drop(&mut self) {
        let Store::Limited(some) = &mut self.store else {
            return;
        };
        let some = whole(some);
        for page in some.here.values() {
            self.spill.count(Bounded::cost(page), 0);
        }
        some.places.release_all(&self.spill);
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
        let largest = model.iter().map(|words| words.len() * 8).max().unwrap();
        let held = spill.held();
        assert!(
            held <= spill.limit().max((KEPT + 1) * (largest + 96)),
            "{held}"
        );
        assert!(spill.spilled() > 0 && spill.check().is_ok());
        drop(pages);
        assert!(!spill.is_over());
    }
    /// So many that where they lie does not stay in memory either.
    #[test]
    fn places_of_many_pages() {
        let spill = Spill::new(Some(0));
        let mut pages: Pages<Words> = Pages::new(&spill);
        let count = 5000;
        // Neighbours are far apart in time.
        let order = |step: usize| (0..count).map(move |index| index * step % count);
        for index in order(1019) {
            pages.change(index, || Words(vec![index as u32]), |_| ());
        }
        assert_eq!(pages.end(), count);
        for index in order(2003) {
            assert_eq!(pages.with(index, |words| words.0[0]), Some(index as u32));
            let pushed = pages.change_old(index, |words| words.0.push(7));
            assert!(pushed.is_some());
        }
        for index in order(3001).filter(|index| index % 3 == 0) {
            let taken = pages.take(index).map(|words| words.0);
            assert_eq!(taken, Some(vec![index as u32, 7]));
        }
        let left = (0..count).filter(|&index| pages.with(index, |_| ()).is_some());
        assert_eq!(left.count(), count - count.div_ceil(3));
        assert_eq!(pages.with(count * 9, |_| ()), None);
        let spilled = spill.spilled();
        drop(pages);
        assert!(spill.check().is_ok() && spill.held() == 0);
        // What was released is used again.
        let mut pages: Pages<Words> = Pages::new(&spill);
        for index in order(1019) {
            pages.change(index, || Words(vec![index as u32]), |_| ());
        }
        assert_eq!(spill.spilled(), spilled);
    }
}
