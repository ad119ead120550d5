//! Where the pages of a table lie in the spill file: a word each, in windows that lie in the file themselves.
//!
//! Source: the design's section on the checker.
//! Invariants: one window is in memory; a word of 0 is no page, a window that never had one is nowhere.

use crate::spill::{Away, Spill};
use uext4::format::raw::le64;

/// Words of a window.
const WORDS: usize = 512;

#[derive(Default)]
pub struct Places {
    /// Where each window lies, as a word.
    windows: Vec<u64>,
    /// The number of the one in memory.
    current: usize,
    /// Empty as long as no page was put.
    words: Vec<u64>,
    changed: bool,
}

impl Places {
    pub fn get(&mut self, spill: &Spill, index: usize) -> Option<Away> {
        let window = index / WORDS;
        if window != self.current {
            // A window without pages needs no turn.
            self.windows.get(window).filter(|word| **word != 0)?;
            self.turn(spill, window);
        }
        Away::from_word(*self.words.get(index % WORDS)?)
    }

    pub fn take(&mut self, spill: &Spill, index: usize) -> Option<Away> {
        let away = self.get(spill, index)?;
        self.words[index % WORDS] = 0;
        self.changed = true;
        Some(away)
    }

    pub fn put(&mut self, spill: &Spill, index: usize, away: Away) {
        self.turn(spill, index / WORDS);
        self.words[index % WORDS] = away.to_word();
        self.changed = true;
    }

    /// Gets a window into memory. One that cannot be written or read fails the run, and is empty.
    fn turn(&mut self, spill: &Spill, window: usize) {
        if self.words.is_empty() {
            self.words = vec![0; WORDS];
            self.current = window;
        }
        if window == self.current {
            return;
        }
        if self.changed {
            if self.windows.len() <= self.current {
                self.windows.resize(self.current + 1, 0);
            }
            let slot = &mut self.windows[self.current];
            if let Some(away) = Away::from_word(*slot) {
                spill.release(&away);
            }
            let bytes: Vec<u8> = self
                .words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            *slot = spill.write(&bytes).map_or(0, |away| away.to_word());
        }
        let word = self.windows.get(window).copied().unwrap_or_default();
        let bytes = Away::from_word(word).and_then(|away| spill.read(&away));
        let bytes = bytes.unwrap_or_default();
        for (at, slot) in self.words.iter_mut().enumerate() {
            *slot = le64(&bytes, 8 * at);
        }
        self.current = window;
        self.changed = false;
    }

    /// Gives back the places of all pages and windows.
    pub fn release_all(&mut self, spill: &Spill) {
        for away in self.words.drain(..).filter_map(Away::from_word) {
            spill.release(&away);
        }
        for (window, word) in std::mem::take(&mut self.windows).into_iter().enumerate() {
            let Some(place) = Away::from_word(word) else {
                continue;
            };
            if window != self.current {
                let bytes = spill.read(&place).unwrap_or_default();
                let words = (0..WORDS).map(|at| le64(&bytes, 8 * at));
                for away in words.filter_map(Away::from_word) {
                    spill.release(&away);
                }
            }
            spill.release(&place);
        }
    }
}
