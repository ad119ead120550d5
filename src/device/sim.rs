//! A disk in memory whose power can be cut: what is durable, what is not yet, and every image that a cut may leave.
//!
//! Source: the design's section on devices; the issue on crashes.
//! Invariants: an `Image` is cheap to clone and shares what was not written since. What was synced is in every image; of
//! what was not, any part may be, in whole sectors: a disk may write in any order, and a reordering of writes that do not
//! overlap, cut anywhere, is a subset of them. Writes of one sector keep their order. The superblock's 1024 bytes are atomic,
//! as ext4 takes them to be; `torn_superblock` alone is the exception.

use super::record::Event;
use super::{Device, io_error};
use crate::clock::Clock;
use crate::error::Result;
use crate::sync::{Mutex, Rank};
use std::fs::File;
use std::io::{ErrorKind, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PAGE: usize = 4096;
/// The least that a disk writes whole.
pub const SECTOR: usize = 512;
/// What is read where the disk was told that nothing is kept: even, so that no test's data looks like it.
const DISCARDED: u8 = 0xda;
/// The primary superblock.
const SUPERBLOCK: Range<u64> = 1024..2048;

type Page = [u8; PAGE];

/// The bytes of a disk, shared page by page with the images it was cloned from, and a fingerprint of all of them.
#[derive(Clone)]
pub struct Image {
    pages: Vec<Arc<Page>>,
    len: u64,
    fingerprint: u128,
}

impl Image {
    /// A length that is no multiple of the page is made one; the rest is zeros.
    pub fn new(bytes: &[u8]) -> Self {
        let zeros = Arc::new([0; PAGE]);
        let page = |bytes: &[u8]| {
            if bytes.iter().all(|&byte| byte == 0) {
                return Arc::clone(&zeros);
            }
            let mut page = [0; PAGE];
            page[..bytes.len()].copy_from_slice(bytes);
            Arc::new(page)
        };
        let pages: Vec<_> = bytes.chunks(PAGE).map(page).collect();
        let all = pages.iter().zip(0..);
        let fingerprint = all.fold(0, |sum: u128, (page, index)| {
            sum.wrapping_add(fingerprint(index, page))
        });
        Self {
            len: (pages.len() * PAGE) as u64,
            pages,
            fingerprint,
        }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Two images with the same bytes have the same, others do not.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.pages.len() * PAGE);
        for page in &self.pages {
            bytes.extend_from_slice(page.as_slice());
        }
        bytes
    }

    /// Makes an empty file the same; pages of zeros become holes.
    pub fn save(&self, file: &File) -> std::io::Result<()> {
        file.set_len(self.len)?;
        for (page, index) in self.pages.iter().zip(0..) {
            if page.iter().any(|&byte| byte != 0) {
                file.write_all_at(page.as_slice(), index * PAGE as u64)?;
            }
        }
        Ok(())
    }

    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check("read", offset, buffer.len() as u64)?;
        let mut done = 0;
        while done < buffer.len() {
            let (page, from, count) = place(offset + done as u64, buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&self.pages[page][from..from + count]);
            done += count;
        }
        Ok(())
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check("write", offset, bytes.len() as u64)?;
        let mut done = 0;
        while done < bytes.len() {
            let (page, from, count) = place(offset + done as u64, bytes.len() - done);
            self.change(page, |page| {
                page[from..from + count].copy_from_slice(&bytes[done..done + count]);
            });
            done += count;
        }
        Ok(())
    }

    /// Does to it what was done to the disk.
    pub fn apply(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Write { offset, bytes } => self.write(*offset, bytes),
            Event::Zeroes { offset, length } => self.write(*offset, &vec![0; *length as usize]),
            Event::Discard { offset, length } => {
                self.write(*offset, &vec![DISCARDED; *length as usize])
            }
            Event::Sync => Ok(()),
        }
    }

    fn change(&mut self, index: usize, work: impl FnOnce(&mut Page)) {
        let page = &mut self.pages[index];
        let before = fingerprint(index as u64, page);
        let page = Arc::make_mut(page);
        work(page);
        let after = fingerprint(index as u64, page);
        self.fingerprint = self.fingerprint.wrapping_sub(before).wrapping_add(after);
    }

    fn check(&self, operation: &'static str, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io_error(
                operation,
                offset,
                length,
                ErrorKind::UnexpectedEof.into(),
            )),
        }
    }
}

/// Page, offset in it, and how many of `length` bytes lie in it.
fn place(at: u64, length: usize) -> (usize, usize, usize) {
    let from = (at % PAGE as u64) as usize;
    ((at / PAGE as u64) as usize, from, length.min(PAGE - from))
}

/// Of one page at its place; a page of zeros counts nothing.
fn fingerprint(index: u64, page: &Page) -> u128 {
    let (mut a, mut b, mut any) = (0_u64, 0_u64, 0_u64);
    for (low, high) in page.as_chunks::<16>().0.iter().map(|chunk| {
        (
            u128::from_le_bytes(*chunk) as u64,
            (u128::from_le_bytes(*chunk) >> 64) as u64,
        )
    }) {
        any |= low | high;
        a = (a ^ low)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
            ^ high;
        b = (b.rotate_left(23) ^ high)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
            .wrapping_add(low);
    }
    if any == 0 {
        return 0;
    }
    let place = mix(index.wrapping_add(1));
    u128::from(mix(a ^ place)) << 64 | u128::from(mix(b.wrapping_add(place)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A device over an image. It has no cache of its own: what must be known of syncs, `record::Record` keeps.
pub struct Disk {
    image: Mutex<Image>,
    len: u64,
}

impl Disk {
    pub fn new(image: Image) -> Arc<Self> {
        Arc::new(Self {
            len: image.len(),
            image: Mutex::new(Rank::Memory, image),
        })
    }

    /// What it holds now.
    pub fn image(&self) -> Image {
        self.image.lock().clone()
    }
}

impl Device for Disk {
    fn len(&self) -> u64 {
        self.len
    }
    fn sector_size(&self) -> u32 {
        SECTOR as u32
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.image.lock().read(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.image.lock().write(offset, bytes)
    }
    fn write_vectored_at(&self, mut offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        let mut image = self.image.lock();
        for slice in slices {
            image.write(offset, slice)?;
            offset += slice.len() as u64;
        }
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.image.lock().apply(&Event::Discard { offset, length })
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.image.lock().write(offset, &vec![0; length as usize])
    }
}

/// How much of what was not synced a cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    All,
    /// Any of the writes, each whole or not at all.
    Writes,
    /// All but one.
    AllButOne,
    /// The newest one alone.
    Newest,
    /// Any pieces of this many bytes of any of the writes.
    Pieces(usize),
    /// A newer superblock's first half on an older one's second half.
    TornSuperblock,
}

/// A disk on its way through recorded events: at any place the power may go.
#[derive(Clone)]
pub struct Power {
    durable: Image,
    live: Image,
    /// Written since the last sync.
    pending: Vec<Event>,
}

impl Power {
    pub fn new(image: Image) -> Self {
        Self {
            durable: image.clone(),
            live: image,
            pending: Vec::new(),
        }
    }

    pub fn apply(&mut self, event: &Event) -> Result<()> {
        self.live.apply(event)?;
        if *event == Event::Sync {
            self.durable = self.live.clone();
            self.pending.clear();
        } else {
            self.pending.push(event.clone());
        }
        Ok(())
    }

    /// How many writes have not been synced.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What the disk holds when the power goes here.
    pub fn cut(&self, kept: Kept, rng: &mut Rng) -> Result<Image> {
        let count = self.pending.len();
        let odds = 1 + rng.below(4);
        match kept {
            Kept::All => Ok(self.live.clone()),
            Kept::Writes => self.some(usize::MAX, |_| rng.below(odds + 1) > 0),
            Kept::Pieces(unit) => self.some(unit, |_| rng.below(odds + 1) > 0),
            Kept::AllButOne => {
                let lost = rng.below(count as u64) as usize;
                self.some(usize::MAX, |index| index != lost)
            }
            Kept::Newest => self.some(usize::MAX, |index| index + 1 == count),
            Kept::TornSuperblock => {
                Ok(self.torn_superblock()?.unwrap_or_else(|| self.live.clone()))
            }
        }
    }

    /// Those pieces of unsynced writes of which `keep` says so; it is asked with the number of the write.
    fn some(&self, unit: usize, mut keep: impl FnMut(usize) -> bool) -> Result<Image> {
        let mut image = self.durable.clone();
        for (index, event) in self.pending.iter().enumerate() {
            let Event::Write { offset, bytes } = event else {
                if keep(index) {
                    image.apply(event)?;
                }
                continue;
            };
            let end = offset + bytes.len() as u64;
            let mut at = *offset;
            while at < end {
                let next = piece_end(at, unit).min(end);
                if keep(index) {
                    let piece = (at - offset) as usize..(next - offset) as usize;
                    image.write(at, &bytes[piece])?;
                }
                at = next;
            }
        }
        Ok(image)
    }

    /// The newest unsynced superblock, of which only the first half was written; `None` if there is none.
    fn torn_superblock(&self) -> Result<Option<Image>> {
        let covers = |event: &&Event| {
            matches!(event, Event::Write { offset, bytes }
                if *offset <= SUPERBLOCK.start && offset + bytes.len() as u64 >= SUPERBLOCK.end)
        };
        if !self.pending.iter().any(|event| covers(&event)) {
            return Ok(None);
        }
        let half = SECTOR as u64;
        let mut second = [0; SECTOR];
        self.durable.read(SUPERBLOCK.start + half, &mut second)?;
        let mut image = self.live.clone();
        image.write(SUPERBLOCK.start + half, &second)?;
        Ok(Some(image))
    }
}

/// Where the piece of `unit` bytes ends that `at` lies in.
fn piece_end(at: u64, unit: usize) -> u64 {
    let unit = unit as u64;
    let end = (at / unit).saturating_add(1).saturating_mul(unit);
    if SUPERBLOCK.contains(&at) {
        end.max(SUPERBLOCK.end)
    } else {
        end
    }
}

/// Milliseconds since some day in 2025; each look takes one.
#[derive(Default)]
pub struct Ticks(AtomicU64);

impl Ticks {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for Ticks {
    fn wall(&self) -> (i64, u32) {
        let now = self.monotonic();
        (1_750_000_000 + now.as_secs() as i64, now.subsec_nanos())
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A seeded generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        (!all.is_empty()).then(|| &all[self.below(all.len() as u64) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, byte: u8, length: usize) -> Event {
        Event::Write {
            offset,
            bytes: vec![byte; length],
        }
    }

    #[test]
    fn equal_images_have_equal_fingerprints() {
        let mut bytes = vec![0; 64 << 10];
        let mut image = Image::new(&bytes);
        let clone = image.clone();
        image.write(4000, &[7; 200]).unwrap();
        bytes[4000..4200].fill(7);
        assert!(image.bytes() == bytes);
        let file = tempfile::NamedTempFile::new().unwrap();
        image.save(file.as_file()).unwrap();
        assert!(std::fs::read(file.path()).unwrap() == bytes);
        assert_eq!(image.fingerprint(), Image::new(&bytes).fingerprint());
        assert_ne!(image.fingerprint(), clone.fingerprint());
        image.write(4000, &[0; 200]).unwrap();
        assert_eq!(image.fingerprint(), clone.fingerprint());
        image.write((64 << 10) - 1, &[0; 2]).unwrap_err();
        let mut moved = clone.clone();
        moved.write(8192 + 4000, &[7; 96]).unwrap();
        let mut other = clone;
        other.write(4000, &[7; 96]).unwrap();
        assert_ne!(moved.fingerprint(), other.fingerprint());
    }

    #[test]
    fn a_cut_keeps_what_was_synced_and_whole_pieces_of_the_rest() {
        let mut power = Power::new(Image::new(&vec![0; 64 << 10]));
        power.apply(&write(8192, 1, 4096)).unwrap();
        power.apply(&Event::Sync).unwrap();
        power.apply(&write(8192, 2, 4096)).unwrap();
        power.apply(&write(12288, 3, 8192)).unwrap();
        let mut rng = Rng(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let image = power.cut(Kept::Pieces(SECTOR), &mut rng).unwrap();
            let bytes = image.bytes();
            for sector in bytes[8192..12288].chunks(SECTOR) {
                assert!(sector == [1; SECTOR] || sector == [2; SECTOR]);
            }
            seen.insert(image.fingerprint());
        }
        assert!(seen.len() > 150, "{}", seen.len());
        let newest = power.cut(Kept::Newest, &mut rng).unwrap().bytes();
        assert_eq!((newest[8192], newest[12288]), (1, 3));
        let all = power.cut(Kept::All, &mut rng).unwrap().bytes();
        assert_eq!((all[8192], all[12288]), (2, 3));
    }

    #[test]
    fn a_superblock_is_torn_only_where_that_is_asked_for() {
        let mut power = Power::new(Image::new(&vec![1; 64 << 10]));
        power.apply(&write(0, 2, 4096)).unwrap();
        let mut rng = Rng(3);
        for _ in 0..100 {
            let bytes = power.cut(Kept::Pieces(SECTOR), &mut rng).unwrap().bytes();
            assert_eq!(bytes[1024], bytes[2047]);
        }
        let torn = power.cut(Kept::TornSuperblock, &mut rng).unwrap().bytes();
        assert_eq!(
            (torn[1024], torn[1535], torn[1536], torn[2047]),
            (2, 2, 1, 1)
        );
    }
}
