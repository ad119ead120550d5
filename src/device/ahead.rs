//! Reading around: small files that lie together are read together.
//!
//! Source: the design's section on devices (past the page cache, nobody reads ahead for us).
//! Invariants: a track holds what the device holds: whatever writes drops the tracks that it touches, before and after it,
//! and a track on its way in meanwhile is not kept; tracks are given back whenever memory is wanted; who waits for a track
//! waits for the device alone.

use super::Device;
use super::submit::{ReadRequest, WriteRequest};
use crate::error::Result;
use crate::memory::shrinker::Shrinker;
use crate::memory::{Class, Frame, IoBuffer, Memory, Need};
use crate::sync::{Condvar, Mutex, Rank};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Bytes of a track: what is read in one go, aligned to its size.
pub const TRACK: u64 = 256 << 10;
/// Tracks that are kept at most, and the part of the memory cap that they may take.
const TRACKS: u64 = 32;
const SHARE: u64 = 32;
/// A track is read when a second file begins in it while it is among so many.
const RECENT: usize = 16;
/// Tracks that are read behind one that is used.
const NEXT: u64 = 2;

/// A device with a small memory of what lies around the files that are being read.
pub struct Ahead {
    inner: Arc<dyn Device>,
    memory: Arc<Memory>,
    tracks: Arc<Tracks>,
    /// The budget asks it for as long as this lives.
    _shrinker: Arc<dyn Shrinker>,
}

struct Tracks {
    state: Mutex<State>,
    /// One has come in, or does not come.
    settled: Condvar,
    /// How many there are, being read or here: who writes looks for none where there is none.
    count: AtomicUsize,
    max: usize,
}

#[derive(Default)]
struct State {
    /// The least recently used first.
    tracks: Vec<Track>,
    /// Where files began of late.
    recent: VecDeque<u64>,
    /// To be read next.
    due: Vec<u64>,
}

struct Track {
    number: u64,
    held: Held,
    /// Nobody has asked for it yet.
    unused: bool,
}

enum Held {
    Here(Arc<Vec<Frame>>),
    /// With `stale`, something was written there meanwhile.
    Coming {
        stale: bool,
    },
}

impl Ahead {
    pub fn new(inner: Arc<dyn Device>, memory: &Arc<Memory>) -> Arc<Self> {
        let track_cost = TRACK / u64::from(memory.frame_size()).max(1) * memory.frame_cost();
        let max = (memory.cap() / SHARE / track_cost.max(1)).min(TRACKS);
        let tracks = Arc::new(Tracks {
            state: Mutex::new(Rank::Leaf, State::default()),
            settled: Condvar::new(),
            count: AtomicUsize::new(0),
            max: usize::try_from(max).unwrap_or(0),
        });
        let shrinker: Arc<dyn Shrinker> = Arc::new(Unused(Arc::downgrade(&tracks)));
        memory.register(Arc::clone(&shrinker));
        Arc::new(Self {
            inner,
            memory: Arc::clone(memory),
            tracks,
            _shrinker: shrinker,
        })
    }

    /// Fills `buffer` from what has been read around; false: it is to be read from the device. `begins`: a file's first bytes
    /// are asked for. May wait for the device.
    pub fn read_near(&self, offset: u64, buffer: &mut [u8], begins: bool) -> bool {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let Some(frames) = self.track(at / TRACK, begins) else {
                return false;
            };
            let frame_size = self.memory.frame_size() as usize;
            let inside = usize::try_from(at % TRACK).unwrap_or(0);
            let Some(frame) = frames.get(inside / frame_size) else {
                return false;
            };
            let part = &frame[inside % frame_size..];
            let length = part.len().min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&part[..length]);
            done += length;
        }
        true
    }

    fn track(&self, number: u64, begins: bool) -> Option<Arc<Vec<Frame>>> {
        // Twice: something may be written there while it comes in.
        for _ in 0..2 {
            let found = self.tracks.find(number, begins);
            match found {
                Found::Here(frames) => return Some(frames),
                Found::Wanted => self.fetch(number),
                Found::Settled => {}
                Found::Nothing => return None,
            }
        }
        match self.tracks.find(number, false) {
            Found::Here(frames) => Some(frames),
            _ => None,
        }
    }

    /// Reads on behind what was asked for, now that it has been answered; does not wait.
    pub fn read_on(&self) {
        if self.tracks.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let due = std::mem::take(&mut self.tracks.state.lock().due);
        for number in due {
            self.fetch(number);
        }
    }

    /// Starts reading a track, if memory is plentiful.
    fn fetch(&self, number: u64) {
        let Some(offset) = number.checked_mul(TRACK).filter(|&at| at < self.len()) else {
            return;
        };
        let length = usize::try_from((self.len() - offset).min(TRACK)).unwrap_or(0);
        let count = length.div_ceil(self.memory.frame_size() as usize);
        let need = Need::frames(u32::try_from(count).unwrap_or(u32::MAX));
        let need = need.and(self.memory.io_need(length));
        if !self.memory.is_roomy() {
            return;
        }
        let Some(_token) = self.memory.try_admit(need) else {
            return;
        };
        if !self.tracks.expect(number) {
            return;
        }
        // Memory is asked for here, not where the completion runs.
        let mut frames: Vec<Frame> = (0..count).map(|_| self.memory.frame(Class::Io)).collect();
        let tracks = Arc::clone(&self.tracks);
        let done = Box::new(move |read: Result<()>, buffer: IoBuffer| {
            if read.is_ok() {
                let mut rest: &[u8] = &buffer[..length];
                for frame in &mut frames {
                    let (now, later) = rest.split_at(rest.len().min(frame.len()));
                    frame[..now.len()].copy_from_slice(now);
                    rest = later;
                }
            }
            drop(buffer);
            tracks.settle(number, read.is_ok().then_some(frames));
        });
        self.inner.submit_read(ReadRequest {
            offset,
            buffer: self.memory.io_buffer(length),
            range: 0..length,
            done,
        });
    }

    fn around<T>(&self, offset: u64, length: u64, write: impl FnOnce() -> T) -> T {
        self.tracks.forget(offset, length);
        let done = write();
        self.tracks.forget(offset, length);
        done
    }
}

enum Found {
    Here(Arc<Vec<Frame>>),
    /// Worth reading.
    Wanted,
    /// Was being read, and is no more.
    Settled,
    Nothing,
}

impl Tracks {
    fn find(&self, number: u64, begins: bool) -> Found {
        let mut state = self.state.lock();
        let Some(index) = state.index(number) else {
            return if begins && self.max > 1 && state.is_busy(number) {
                Found::Wanted
            } else {
                Found::Nothing
            };
        };
        if let Held::Here(_) = state.tracks[index].held {
            let mut track = state.tracks.remove(index);
            let first_use = std::mem::replace(&mut track.unused, false);
            let Held::Here(frames) = &track.held else {
                return Found::Nothing;
            };
            let frames = Arc::clone(frames);
            state.tracks.push(track);
            if first_use {
                let due = (number + 1..=number + NEXT).filter(|&n| state.index(n).is_none());
                state.due = due.collect();
            }
            return Found::Here(frames);
        }
        while state.is_coming(number) {
            self.settled.wait(&mut state);
        }
        Found::Settled
    }

    /// Makes a place for a track that is about to be read; false when it has one, or there is none to be had.
    fn expect(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        if state.index(number).is_some() {
            return false;
        }
        if state.tracks.len() >= self.max {
            let here = |track: &Track| matches!(track.held, Held::Here(_));
            let Some(oldest) = state.tracks.iter().position(here) else {
                return false;
            };
            state.tracks.remove(oldest);
        }
        state.tracks.push(Track {
            number,
            held: Held::Coming { stale: false },
            unused: true,
        });
        self.count.store(state.tracks.len(), Ordering::SeqCst);
        true
    }

    fn settle(&self, number: u64, frames: Option<Vec<Frame>>) {
        let mut state = self.state.lock();
        if let Some(index) = state.index(number) {
            match (frames, &state.tracks[index].held) {
                (Some(frames), Held::Coming { stale: false }) => {
                    state.tracks[index].held = Held::Here(Arc::new(frames));
                }
                _ => {
                    state.tracks.remove(index);
                }
            }
        }
        self.count.store(state.tracks.len(), Ordering::SeqCst);
        drop(state);
        self.settled.notify_all();
    }

    /// Something is or was being written there.
    fn forget(&self, offset: u64, length: u64) {
        if self.count.load(Ordering::SeqCst) == 0 || length == 0 {
            return;
        }
        let touched = offset / TRACK..=offset.saturating_add(length - 1) / TRACK;
        let mut state = self.state.lock();
        state.tracks.retain_mut(|track| {
            if !touched.contains(&track.number) {
                return true;
            }
            match &mut track.held {
                Held::Here(_) => false,
                Held::Coming { stale } => {
                    *stale = true;
                    true
                }
            }
        });
        self.count.store(state.tracks.len(), Ordering::SeqCst);
    }
}

impl State {
    fn index(&self, number: u64) -> Option<usize> {
        self.tracks.iter().position(|track| track.number == number)
    }

    fn is_coming(&self, number: u64) -> bool {
        let track = self.tracks.iter().find(|track| track.number == number);
        track.is_some_and(|track| matches!(track.held, Held::Coming { .. }))
    }

    /// A file begins there; whether another one did of late.
    fn is_busy(&mut self, number: u64) -> bool {
        if self.recent.contains(&number) {
            return true;
        }
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(number);
        false
    }
}

/// Gives tracks that nobody is reading back to the budget.
struct Unused(Weak<Tracks>);

impl Shrinker for Unused {
    fn shrink(&self, frames: usize) -> usize {
        let Some(tracks) = self.0.upgrade() else {
            return 0;
        };
        let Some(mut state) = tracks.state.try_lock() else {
            return 0;
        };
        let mut freed = 0;
        state.tracks.retain(|track| match &track.held {
            Held::Here(held) if freed < frames && Arc::strong_count(held) == 1 => {
                freed += held.len();
                false
            }
            _ => true,
        });
        tracks.count.store(state.tracks.len(), Ordering::SeqCst);
        freed
    }
}

impl Device for Ahead {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        self.around(offset, length, || self.inner.write_at(offset, bytes))
    }

    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        let length = slices.iter().map(|slice| slice.len() as u64).sum();
        let write = || self.inner.write_vectored_at(offset, slices);
        self.around(offset, length, write)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.around(offset, length, || self.inner.discard(offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.around(offset, length, || self.inner.write_zeroes(offset, length))
    }

    fn submit_read(&self, request: ReadRequest) {
        self.inner.submit_read(request);
    }

    fn submit_write(&self, request: WriteRequest) {
        let WriteRequest {
            offset,
            source,
            done,
        } = request;
        let length = source.slices().iter().map(|slice| slice.len() as u64).sum();
        self.tracks.forget(offset, length);
        let tracks = Arc::clone(&self.tracks);
        self.inner.submit_write(WriteRequest {
            offset,
            source,
            done: Box::new(move |result, source| {
                tracks.forget(offset, length);
                done(result, source);
            }),
        });
    }
}

#[cfg(test)]
mod tests;
