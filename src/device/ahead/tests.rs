//! A device in memory behind it: what is read around, what a write drops, what memory takes back.

use super::*;
use crate::device::submit::WriteSource;
use std::sync::atomic::AtomicBool;

const LEN: usize = 4 * TRACK as usize;

/// Bytes in memory that counts its reads, and can keep submitted ones until they are let go.
struct Bytes {
    bytes: Mutex<Vec<u8>>,
    reads: AtomicUsize,
    holds: AtomicBool,
    held: Mutex<Vec<ReadRequest>>,
}

impl Bytes {
    fn new() -> Arc<Self> {
        let bytes = (0..LEN).map(|at| (at / 512) as u8).collect();
        Arc::new(Self {
            bytes: Mutex::new(Rank::Leaf, bytes),
            reads: AtomicUsize::new(0),
            holds: AtomicBool::new(false),
            held: Mutex::new(Rank::Leaf, Vec::new()),
        })
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// Answers what was kept with what the bytes were at `then`.
    fn let_go(&self, then: &[u8]) {
        let held = std::mem::take(&mut *self.held.lock());
        for request in held {
            request.run(|offset, buffer| {
                buffer.copy_from_slice(&then[offset as usize..][..buffer.len()]);
                Ok(())
            });
        }
    }
}

impl Device for Bytes {
    fn len(&self) -> u64 {
        LEN as u64
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        buffer.copy_from_slice(&self.bytes.lock()[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.bytes.lock()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.write_at(offset, &all)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.write_zeroes(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.write_at(offset, &vec![0; length as usize])
    }

    fn submit_read(&self, request: ReadRequest) {
        if self.holds.load(Ordering::Relaxed) {
            return self.held.lock().push(request);
        }
        request.run(|offset, bytes| self.read_at(offset, bytes));
    }
}

fn ahead(cap: u64) -> (Arc<Bytes>, Arc<Memory>, Arc<Ahead>) {
    let (bytes, memory) = (Bytes::new(), Memory::new(cap, 4096, 1 << 20));
    let ahead = Ahead::new(Arc::clone(&bytes) as Arc<_>, &memory);
    (bytes, memory, ahead)
}

/// What a file at `offset` is read as by way of the tracks, if it is.
fn near(ahead: &Ahead, offset: u64) -> Option<[u8; 1024]> {
    let mut buffer = [0; 1024];
    let found = ahead.read_near(offset, &mut buffer, true);
    ahead.read_on();
    found.then_some(buffer)
}

#[test]
fn the_second_file_of_a_track_brings_all_of_it() {
    let (bytes, _memory, ahead) = ahead(64 << 20);
    assert_eq!(near(&ahead, 0), None);
    assert_eq!(near(&ahead, 2 * TRACK), None, "far from it");
    assert_eq!(bytes.reads(), 0);
    let found = near(&ahead, 8192).expect("read around");
    assert_eq!((found[0], found[1023]), (16, 17));
    assert_eq!(bytes.reads(), 3, "it and the next ones");
    // Across the border of the two.
    let found = near(&ahead, TRACK - 512).expect("both are here");
    assert_eq!((found[0], found[512]), (0xff, 0));
    assert_eq!(bytes.reads(), 4, "what was read ahead is used: one more");
    near(&ahead, 2 * TRACK).expect("here");
    assert_eq!(bytes.reads(), 4, "the last one is here already");
}

#[test]
fn what_is_written_is_what_is_read() {
    let (_bytes, memory, ahead) = ahead(64 << 20);
    let writes: [&dyn Fn(); 5] = [
        &|| ahead.write_at(4096, &[1; 512]).unwrap(),
        &|| {
            ahead
                .write_vectored_at(4096, &[IoSlice::new(&[2; 512])])
                .unwrap()
        },
        &|| ahead.discard(4096, 512).unwrap(),
        &|| {
            let mut buffer = memory.io_buffer(4096);
            buffer.fill(3);
            ahead.submit_write(WriteRequest {
                offset: 4096,
                source: WriteSource::Buffer(buffer, 0..512),
                done: Box::new(|result, _| result.unwrap()),
            });
        },
        &|| ahead.write_zeroes(4096, 512).unwrap(),
    ];
    near(&ahead, 0);
    for (write, wanted) in writes.into_iter().zip([1, 2, 0, 3, 0]) {
        near(&ahead, 0).expect("here");
        write();
        assert_eq!(near(&ahead, 4096).expect("here")[0], wanted);
    }
}

#[test]
fn what_is_written_while_a_track_comes_in_is_not_hidden() {
    let (bytes, _memory, ahead) = ahead(64 << 20);
    near(&ahead, 0);
    bytes.holds.store(true, Ordering::Relaxed);
    let before = bytes.bytes.lock().clone();
    ahead.fetch(0);
    ahead.write_at(4096, &[9; 512]).unwrap();
    bytes.let_go(&before);
    bytes.holds.store(false, Ordering::Relaxed);
    assert_eq!(near(&ahead, 4096).expect("read anew")[0], 9);
}

#[test]
fn tracks_are_few_and_given_back() {
    let (_bytes, memory, ahead) = ahead(64 << 20);
    for number in 0..4 {
        near(&ahead, number * TRACK);
        near(&ahead, number * TRACK);
    }
    let used = || memory.snapshot().class(Class::Io).current;
    assert!(used() > 2 * TRACK, "{}", used());
    memory.drop_clean();
    assert!(used() == 0, "{}", used());
    let (bytes, _memory, small) = super::tests::ahead(4 << 20);
    near(&small, 0);
    assert_eq!((near(&small, 0), bytes.reads()), (None, 0), "no room");
}
