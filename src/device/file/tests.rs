//! Transfers of every alignment against a plain copy in memory, on files and loop devices; claims.
//!
//! Source: the design's section on devices.
//! Invariants: what a test attaches it detaches, by its own name.

use super::*;
use std::process::Command;
use std::time::Instant;

const SIZE: usize = 1 << 20;

fn image() -> tempfile::NamedTempFile {
    // /var/tmp is on a disk file system, where O_DIRECT works.
    let file = tempfile::Builder::new().tempfile_in("/var/tmp").unwrap();
    file.as_file().set_len(SIZE as u64).unwrap();
    file
}

fn at_once() -> Access {
    Access {
        wait: Duration::ZERO,
        ..Access::default()
    }
}

/// A loop device that ends with its owner.
struct Loop(String);

impl Loop {
    fn attach(path: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("losetup");
        let output = command
            .args(["--find", "--show"])
            .args(arguments)
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A small generator: the tests need variety, not quality.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}

/// Random transfers, aligned and not, compared with a copy after each read and at the end.
fn compare_with_a_copy(device: &FileDevice) {
    let size = device.len() as usize;
    let mut copy = vec![0u8; size];
    device.read_at(0, &mut copy).unwrap();
    let mut numbers = Numbers(42);
    for round in 0..300 {
        let offset = numbers.below(size);
        let limit = if round % 10 == 0 { size } else { 10_000 };
        let mut length = numbers.below(limit.min(size - offset)) + 1;
        let mut offset = offset;
        if round % 3 == 0 {
            offset &= !4095;
            length = (length.next_multiple_of(4096)).min(size - offset);
        }
        let bytes: Vec<u8> = (0..length).map(|i| (i + round) as u8).collect();
        match numbers.below(4) {
            0 => {
                let (first, second) = bytes.split_at(length / 3);
                let slices = [IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(second)];
                device.write_vectored_at(offset as u64, &slices).unwrap();
                copy[offset..offset + length].copy_from_slice(&bytes);
            }
            1 => {
                device.write_zeroes(offset as u64, length as u64).unwrap();
                copy[offset..offset + length].fill(0);
            }
            2 => {
                device.write_at(offset as u64, &bytes).unwrap();
                copy[offset..offset + length].copy_from_slice(&bytes);
            }
            _ => {
                let mut read = vec![0u8; length];
                device.read_at(offset as u64, &mut read).unwrap();
                assert!(
                    read == copy[offset..offset + length],
                    "{length} bytes at {offset}"
                );
            }
        }
    }
    device.sync().unwrap();
    let mut all = vec![0u8; size];
    device.read_at(0, &mut all).unwrap();
    assert!(all == copy);
}

#[test]
fn a_file_keeps_what_was_written() {
    let file = image();
    let device = FileDevice::open(file.path(), &at_once()).unwrap();
    assert_eq!((device.len(), device.sector_size()), (SIZE as u64, 512));
    compare_with_a_copy(&device);
}

#[test]
fn a_part_of_a_file_leaves_the_rest_alone() {
    let file = image();
    let access = Access {
        offset: 1000,
        length: Some(300_000),
        ..at_once()
    };
    let device = FileDevice::open(file.path(), &access).unwrap();
    assert_eq!(device.len(), 300_000);
    compare_with_a_copy(&device);
    device.write_at(0, &[1; 300_000]).unwrap();
    drop(device);
    let all = std::fs::read(file.path()).unwrap();
    assert!(all[..1000].iter().all(|&b| b == 0));
    assert!(all[1000..301_000].iter().all(|&b| b == 1));
    assert!(all[301_000..].iter().all(|&b| b == 0));
}

#[test]
fn loop_devices_keep_what_was_written() {
    for sector in [512u32, 4096] {
        let file = image();
        let device_file = Loop::attach(file.path(), &["-b", &sector.to_string()]);
        let device = FileDevice::open(device_file.path(), &at_once()).unwrap();
        assert_eq!(device.sector_size(), sector);
        assert!(device.is_block_device() && device.direct() && !device.read_only());
        compare_with_a_copy(&device);
        device.discard(0, 65536).unwrap();
    }
}

#[test]
fn nothing_happens_beyond_the_end() {
    let file = image();
    let device = FileDevice::open(file.path(), &at_once()).unwrap();
    assert!(device.read_at(SIZE as u64 - 10, &mut [0; 11]).is_err());
    assert!(device.write_at(SIZE as u64, &[0]).is_err());
    assert!(device.write_at(u64::MAX, &[0]).is_err());
    assert_eq!(file.as_file().metadata().unwrap().len(), SIZE as u64);
    let far = Access {
        offset: SIZE as u64,
        ..at_once()
    };
    drop(device);
    assert!(matches!(
        FileDevice::open(file.path(), &far),
        Err(OpenError::Beyond { .. })
    ));
}

#[test]
fn a_read_only_device_says_so_and_takes_no_writes() {
    let file = image();
    let device_file = Loop::attach(file.path(), &["-r"]);
    let device = FileDevice::open(device_file.path(), &at_once()).unwrap();
    assert!(device.read_only());
    assert!(device.write_at(0, &[0; 512]).is_err());
    assert!(device.write_zeroes(0, 512).is_err());
}

fn refusal(path: &Path, access: &Access) -> String {
    match FileDevice::open(path, access) {
        Ok(_) => panic!("opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn writers_exclude_all_and_readers_share() {
    let file = image();
    let writer = FileDevice::open(file.path(), &at_once()).unwrap();
    assert!(refusal(file.path(), &at_once()).contains("in use"));
    drop(writer);
    let read = Access {
        read_only: true,
        ..at_once()
    };
    let first = FileDevice::open(file.path(), &read).unwrap();
    let second = FileDevice::open(file.path(), &read).unwrap();
    assert!(first.read_only() && refusal(file.path(), &at_once()).contains("in use"));
    drop((first, second));
}

#[test]
fn an_open_waits_for_a_lock_that_ends() {
    let file = image();
    let writer = FileDevice::open(file.path(), &at_once()).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            drop(writer);
        });
        FileDevice::open(file.path(), &Access::default()).unwrap();
    });
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[test]
fn users_are_named_at_once() {
    let file = image();
    let device_file = Loop::attach(file.path(), &[]);
    let patient = Access::default();
    let start = Instant::now();
    let message = refusal(&file.path().canonicalize().unwrap(), &patient);
    assert!(
        message.contains(&format!("backing file of {}", device_file.0)),
        "{message}"
    );
    let holder = std::fs::File::options();
    let _held = { holder }
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(device_file.path())
        .unwrap();
    assert!(refusal(device_file.path(), &at_once()).contains("in use"));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_is_no_device_is_refused() {
    assert!(matches!(
        FileDevice::open(Path::new("/dev/null"), &at_once()),
        Err(OpenError::NotADevice(_))
    ));
    assert!(
        refusal(Path::new("/nonexistent"), &at_once()).starts_with("/nonexistent: No such file")
    );
}
