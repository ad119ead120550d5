//! Both engines against plain reads; a device that is dropped with transfers under way.
//!
//! Source: the design's section on devices.
//! Invariants: none.

use super::*;
use crate::device::Device;
use crate::device::file::{Access, FileDevice};
use crate::device::submit::WriteSource;
use crate::memory::{Class, Memory};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;

const BLOCK: usize = 4096;
const BLOCKS: usize = 512;

fn image() -> tempfile::NamedTempFile {
    // /var/tmp is on a disk file system, where O_DIRECT works.
    let file = tempfile::Builder::new().tempfile_in("/var/tmp").unwrap();
    for block in 0..BLOCKS {
        let bytes = [block as u8; BLOCK];
        let at = (block * BLOCK) as u64;
        file.as_file().write_all_at(&bytes, at).unwrap();
    }
    file
}

fn memory() -> Arc<Memory> {
    Memory::new(64 << 20, BLOCK as u32, 1 << 20)
}

fn device(file: &tempfile::NamedTempFile) -> FileDevice {
    FileDevice::open(file.path(), &Access::default()).unwrap()
}

/// Reads every block twice, many at a time.
fn read_all(submit: &dyn Fn(ReadRequest)) {
    let (memory, (told, tells)) = (memory(), channel());
    for block in (0..BLOCKS).chain(0..BLOCKS) {
        let told = told.clone();
        submit(ReadRequest {
            offset: (block * BLOCK) as u64,
            buffer: memory.io_buffer(2 * BLOCK),
            range: BLOCK..2 * BLOCK,
            done: Box::new(move |result, buffer| {
                let right = buffer[BLOCK..].iter().all(|&b| b == block as u8);
                told.send(result.map(|()| right)).unwrap();
            }),
        });
    }
    drop(told);
    let results: Vec<_> = tells.iter().collect();
    assert_eq!(results.len(), 2 * BLOCKS);
    assert!(results.into_iter().all(|result| result.unwrap()));
}

#[test]
fn the_ring_reads_what_is_there() {
    let file = image();
    let device = device(&file);
    read_all(&|request| device.submit_read(request));
}

#[test]
fn the_pool_reads_what_is_there() {
    let file = image();
    let plain = Arc::new(file.reopen().unwrap());
    let finish: Finish = Arc::new(move |transfer| match transfer {
        Transfer::Read(request) => request.run(|offset, bytes| {
            plain.read_exact_at(bytes, offset).unwrap();
            Ok(())
        }),
        Transfer::Write(_) => unreachable!("nothing is written"),
    });
    let pool = Pool::start(&finish);
    read_all(&|request| {
        if let Some(transfer) = pool.submit(Transfer::Read(request)) {
            finish(transfer);
        }
    });
}

#[test]
fn io_uring_works_here() {
    let file = image();
    let finish: Finish = Arc::new(|_| unreachable!("whole transfers"));
    let ring = Ring::start(Arc::new(file.reopen().unwrap()), finish).unwrap();
    read_all(&|mut request| {
        // More than fit are given back.
        let mut offset = request.offset;
        loop {
            match ring.submit(offset, Transfer::Read(request)) {
                Some(Transfer::Read(again)) => request = again,
                _ => return,
            }
            offset = request.offset;
            std::thread::yield_now();
        }
    });
}

#[test]
fn vectored_writes_arrive_before_the_device_is_gone() {
    let file = image();
    let device = device(&file);
    let (memory, written) = (memory(), Arc::new(AtomicU32::new(0)));
    for run in 0..BLOCKS / 8 {
        let frames = (0..8).map(|index| {
            let mut frame = memory.frame(Class::Dirty);
            frame.fill((run * 8 + index) as u8 ^ 0xff);
            Arc::new(frame)
        });
        let written = Arc::clone(&written);
        device.submit_write(crate::device::submit::WriteRequest {
            offset: (run * 8 * BLOCK) as u64,
            source: WriteSource::Frames(frames.collect()),
            done: Box::new(move |result, _| {
                result.unwrap();
                written.fetch_add(1, Ordering::Relaxed);
            }),
        });
    }
    drop(device);
    assert_eq!(written.load(Ordering::Relaxed), (BLOCKS / 8) as u32);
    let bytes = std::fs::read(file.path()).unwrap();
    for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
        assert!(bytes.iter().all(|&b| b == block as u8 ^ 0xff), "{block}");
    }
}

#[test]
fn what_lies_outside_is_refused_and_what_is_not_aligned_is_read() {
    let file = image();
    let device = device(&file);
    let memory = memory();
    let (told, tells) = channel();
    let read = |offset, range| {
        let told = told.clone();
        device.submit_read(ReadRequest {
            offset,
            buffer: memory.io_buffer(BLOCK),
            range,
            done: Box::new(move |result, buffer| told.send((result, buffer[1])).unwrap()),
        });
        tells.recv().unwrap()
    };
    assert!(read((BLOCKS * BLOCK) as u64, 0..BLOCK).0.is_err());
    let (result, byte) = read((3 * BLOCK) as u64 - 1, 1..7);
    result.unwrap();
    assert_eq!(byte, 2);
}

#[test]
fn the_last_owner_may_be_a_callback() {
    let file = image();
    let device = Arc::new(device(&file));
    let (told, tells) = channel();
    let theirs = Arc::clone(&device);
    device.submit_read(ReadRequest {
        offset: 0,
        buffer: memory().io_buffer(BLOCK),
        range: 0..BLOCK,
        done: Box::new(move |result, _| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            drop(theirs);
            told.send(result).unwrap();
        }),
    });
    drop(device);
    tells.recv().unwrap().unwrap();
}
