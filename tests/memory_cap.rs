//! Under a small cap, without FUSE: every policy of eviction gives the same blocks back, and nobody waits for ever.
//!
//! Source: the design's sections on memory and on the eviction path.

#[path = "common/without_fuse.rs"]
mod without_fuse;

use std::sync::Arc;
use uext4::evict::{From, PolicyName, Settings};
use uext4::fs::{Fs, Options};
use uext4::memory::sizes::floor;
use without_fuse::{CoreImage, ROOT, directory, file, write};

const MAX_WRITE: u32 = 64 << 10;

/// The floor of a mount where one caller does everything.
fn cap() -> u64 {
    floor(0, 1024, MAX_WRITE)
}

fn mount(image: &CoreImage, policy: PolicyName, from: From) -> Arc<Fs> {
    let options = Options {
        memory: cap(),
        max_write: MAX_WRITE,
        threads: 0,
        writethrough: true,
        evict: Settings {
            policy,
            from,
            ..Settings::default()
        },
        ..Options::default()
    };
    image.mount(options).expect("it mounts")
}

/// Many groups, so that buddies of files that wait are dropped.
fn image() -> CoreImage {
    CoreImage::mke2fs("400M", "-t ext4 -b 1024 -g 1024 -N 8192 -J size=4 -m 0")
}

fn all() -> impl Iterator<Item = (PolicyName, From)> {
    let evictor = [PolicyName::NoFail, PolicyName::Skip, PolicyName::Derive];
    let direct = PolicyName::ALL.map(|policy| (policy, From::Direct));
    direct
        .into_iter()
        .chain(evictor.map(|policy| (policy, From::Evictor)))
}

/// Files that stay open, grown in turns, lose their inodes with preallocations to the pressure of others that are looked at.
fn grow(fs: &Fs, rounds: u64) -> u64 {
    const FILES: u64 = 800;
    let mut growing = Vec::new();
    for index in 0..FILES {
        let dir = directory(fs, ROOT, &format!("d{index}"));
        let ino = file(fs, dir, "f");
        fs.opened(ino, true);
        growing.push(ino);
    }
    for round in 0..rounds {
        for (index, &ino) in growing.iter().enumerate() {
            let body = vec![(index as u8) ^ (round as u8); 5000];
            write(fs, ino, round * 5000, &body);
            let cold = growing[(index * 7 + round as usize) % growing.len()];
            fs.getattr(cold).expect("getattr");
            // What the evictor's thread does in a daemon.
            fs.evict_step();
        }
    }
    for (index, &ino) in growing.iter().enumerate() {
        let read = fs.read(ino, 0, 50_000).expect("read");
        assert_eq!(read.as_slice().len() as u64, rounds * 5000);
        for (round, part) in read.as_slice().chunks(5000).enumerate() {
            assert!(
                part.iter()
                    .all(|&byte| byte == (index as u8) ^ (round as u8))
            );
        }
    }
    FILES
}

#[test]
fn every_policy_loses_nothing_and_gives_every_block_back() {
    for (policy, from) in all() {
        let image = image();
        let fs = mount(&image, policy, from);
        grow(&fs, 4);
        let left = fs.evict_all();
        let stats = fs.stats();
        println!("{policy:?} {from:?}: {left} left: {stats:?}");
        assert!(
            stats.memory.peak <= cap(),
            "{policy:?} {from:?}: {:?}",
            stats.memory
        );
        assert_eq!(
            stats.memory.activity.overdrafts, 0,
            "{policy:?} {from:?}: {:?}",
            stats.memory
        );
        assert!(
            stats.eviction.direct + stats.eviction.evictor > 30,
            "{:?}",
            stats.eviction
        );
        assert!(
            stats.eviction.with_preallocations > 100,
            "{:?}",
            stats.eviction
        );
        let through_buddies = stats.eviction.buddy_loads > 0;
        assert_eq!(through_buddies, policy != PolicyName::Derive);
        fs.unmount().expect("unmount");
        assert_eq!(fs.stats().held_blocks, 0, "{policy:?} {from:?}");
        assert_eq!(fs.memory().snapshot().activity.refused, 0);
        drop(fs);
        image.fsck();
    }
}

/// More groups with blocks set aside than the whole cap could keep buddies of: what policy `pin` keeps has a bound.
#[test]
fn pinned_buddies_never_fill_the_cap() {
    for from in [From::Direct, From::Evictor] {
        let options = "-t ext4 -O ^flex_bg -b 1024 -g 256 -N 16384 -J size=4 -m 0";
        let image = CoreImage::mke2fs("400M", options);
        let fs = mount(&image, PolicyName::Pin, from);
        grow(&fs, 6);
        let stats = fs.stats();
        assert_eq!(stats.memory.activity.overdrafts, 0, "{stats:?}");
        assert!(stats.memory.peak <= cap(), "{:?}", stats.memory);
        let kept = stats.eviction.private_bytes;
        assert!(kept > 0 && kept <= cap() / 8, "{kept}");
        fs.evict_all();
        assert_eq!(fs.stats().eviction.private_bytes, 0);
        fs.unmount().expect("unmount");
        assert_eq!(fs.stats().held_blocks, 0);
        drop(fs);
        image.fsck();
    }
}

#[test]
fn a_cap_under_the_floor_is_refused_with_the_floor_named() {
    let image = CoreImage::mke2fs("8M", "-t ext4 -b 1024");
    let options = |memory| Options {
        memory,
        max_write: MAX_WRITE,
        threads: 0,
        ..Options::default()
    };
    let error = image
        .mount(options(cap() - 1))
        .err()
        .expect("it is refused");
    assert!(error.to_string().contains(&cap().to_string()), "{error}");
    let fs = image.mount(options(cap())).expect("the floor is enough");
    fs.unmount().expect("unmount");
}
