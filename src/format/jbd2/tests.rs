//! What the writers write, the parsers read, in every layout; damage is seen.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)".
//! Invariants: a test here uses no file; journals of the kernel and of debugfs are replayed in `journal::recover`.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

use super::*;
use crate::ids::FsBlock;

fn layouts() -> Vec<Layout> {
    let mut all = Vec::new();
    for checksums in [Checksums::None, Checksums::V1, Checksums::V2, Checksums::V3] {
        for bit64 in [false, true] {
            let uuid = *b"0123456789abcdef";
            all.push(Layout {
                block_size: 1024,
                bit64,
                checksums,
                seed: crc32c(u32::MAX, &uuid),
                uuid,
            });
        }
    }
    all
}

#[test]
fn tags_come_back() {
    for layout in layouts() {
        let mut block = vec![0xaa; 1024];
        let high = if layout.bit64 { 7 << 32 } else { 0 };
        let mut writer = TagWriter::new(&mut block, &layout, Tid::new(9));
        let mut count = 0u32;
        while writer.push(
            FsBlock::new(high | u64::from(count + 100)),
            count.is_multiple_of(3),
            count * 7,
        ) {
            count += 1;
        }
        assert!(writer.is_full());
        writer.finish();
        assert_eq!(count, TagWriter::capacity(&layout), "{layout:?}");
        layout
            .verify_tail(&block, Structure::JournalDescriptor)
            .unwrap();
        assert_eq!(
            Header::parse(&block),
            Some(Header {
                block_type: BlockType::Descriptor,
                tid: Tid::new(9)
            })
        );
        let tags: Vec<Tag> = Tags::new(&block, &layout).map(|tag| tag.unwrap()).collect();
        assert_eq!(tags.len(), count as usize);
        for (i, tag) in (0u32..).zip(tags) {
            let checksum = if layout.has_block_checksums() {
                i * 7
            } else {
                0
            };
            let expected = Tag {
                block: high | u64::from(i + 100),
                escaped: i % 3 == 0,
                checksum,
            };
            assert_eq!(tag, expected);
        }
        block[30] ^= 1;
        let seen = layout
            .verify_tail(&block, Structure::JournalDescriptor)
            .is_err();
        assert_eq!(seen, layout.has_block_checksums());
    }
}

#[test]
fn a_short_descriptor_ends_at_its_last_tag() {
    for layout in layouts() {
        let mut block = vec![0; 1024];
        let mut writer = TagWriter::new(&mut block, &layout, Tid::new(1));
        assert!(writer.push(FsBlock::new(5), false, 0));
        assert!(!writer.is_full());
        assert!(writer.push(FsBlock::new(6), false, 0));
        writer.finish();
        let blocks: Vec<u64> = Tags::new(&block, &layout)
            .map(|tag| tag.unwrap().block)
            .collect();
        assert_eq!(blocks, [5, 6]);
    }
}

#[test]
fn revokes_come_back_and_their_count_is_checked() {
    for layout in layouts() {
        let mut block = vec![0; 1024];
        let mut writer = RevokeWriter::new(&mut block, &layout, Tid::new(3));
        let mut count = 0;
        while writer.push(FsBlock::new(u64::from(count) + 1)) {
            count += 1;
        }
        writer.finish();
        assert_eq!(count, RevokeWriter::capacity(&layout));
        layout
            .verify_tail(&block, Structure::JournalRevoke)
            .unwrap();
        let expected: Vec<u64> = (1..=u64::from(count)).collect();
        assert_eq!(
            Revokes::new(&block, &layout).unwrap().collect::<Vec<_>>(),
            expected
        );
        for bad in [0, 15, 1025, u32::MAX] {
            put_be32(&mut block, 12, bad);
            assert!(Revokes::new(&block, &layout).is_err());
        }
    }
}

#[test]
fn commit_blocks_come_back() {
    for layout in layouts() {
        let crc = (layout.checksums == Checksums::V1).then_some(0x1234_5678);
        let commit = Commit {
            tid: Tid::new(77),
            time: Timestamp {
                seconds: 1 << 33,
                nanoseconds: 5,
            },
            crc,
        };
        let mut block = vec![0xff; 1024];
        commit.write_to(&mut block, &layout);
        Commit::verify(&block, &layout).unwrap();
        assert_eq!(Commit::parse(&block, &layout), commit);
        block[50] ^= 1;
        assert_eq!(
            Commit::verify(&block, &layout).is_err(),
            layout.has_block_checksums()
        );
    }
}

/// A block may be more than the disk writes whole; what follows the fields is what the log held there before.
#[test]
fn a_commit_block_counts_once_its_fields_are_down() {
    for layout in layouts() {
        let mut block = vec![0; layout.block_size];
        let commit = Commit {
            tid: Tid::new(7),
            time: Timestamp {
                seconds: 1_750_000_000,
                nanoseconds: 5,
            },
            crc: None,
        };
        commit.write_to(&mut block, &layout);
        block[512..].fill(0x5a);
        Commit::verify(&block, &layout).unwrap();
        block[55] ^= 1;
        assert_eq!(
            Commit::verify(&block, &layout).is_err(),
            layout.has_block_checksums()
        );
    }
}

#[test]
fn the_crc_of_v1_continues() {
    let mut whole = TransactionCrc::default();
    whole.update(b"123456789");
    assert_eq!(whole.get(), 0x0376_e6e7);
    let mut parts = TransactionCrc::default();
    parts.update(b"1234");
    parts.update(b"56789");
    assert_eq!(parts, whole);
}

#[test]
fn superblocks_are_checked() {
    let mut sb = JournalSuperblock::new(1024, 1024, [7; 16]);
    sb.set_feature_incompat(incompat::REVOKE | incompat::CSUM_V3 | incompat::BIT64);
    sb.set_sequence(Tid::new(12));
    sb.set_start(3);
    let bytes = sb.to_bytes();
    let back = JournalSuperblock::parse(&bytes, 1024, 1024).unwrap();
    assert_eq!(
        (back.sequence(), back.start(), back.first()),
        (Tid::new(12), 3, 1)
    );
    assert_eq!(back.layout().tag_size(), 16);
    assert!(JournalSuperblock::parse(&bytes, 4096, 1024).is_err());
    assert!(JournalSuperblock::parse(&bytes, 1024, 1023).is_err());
    for at in [0, 5, 9, 0x13, 0x1f, 0x2b, 0x31, 0xfc, 1023] {
        let mut damaged = bytes;
        damaged[at] ^= 0x40;
        assert!(
            JournalSuperblock::parse(&damaged, 1024, 1024).is_err(),
            "byte {at}"
        );
    }
}

#[test]
fn hostile_blocks_end() {
    let mut state = 1u32;
    for layout in layouts() {
        for _ in 0..200 {
            let block: Vec<u8> = (0..1024)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            assert!(Tags::new(&block, &layout).count() <= 128);
            if let Ok(revokes) = Revokes::new(&block, &layout) {
                assert!(revokes.count() <= 256);
            }
            let _ = Commit::parse(&block, &layout);
        }
    }
}
