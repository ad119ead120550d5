//! What already lies on a device that is about to be overwritten.
//!
//! Source: the signatures of ext4, XFS, Btrfs, swap and of partition tables (MBR, GPT), each by its own format.
//! Invariants: reads only; a device too short for a signature does not have it.

use crate::device::Device;
use crate::error::Result;
use crate::format::raw::{le16, le32};

const EXT_MAGIC: u16 = 0xef53;
const EXT_JOURNAL: u32 = 0x4;
const EXT4_INCOMPAT: u32 = 0x40 | 0x80 | 0x200;

/// Magic bytes at a fixed offset.
const SIGNATURES: &[(&str, u64, &[u8])] = &[
    ("an XFS file system", 0, b"XFSB"),
    ("a Btrfs file system", 0x1_0040, b"_BHRfS_M"),
    (
        "a bcachefs file system",
        0x1018,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    ("an F2FS file system", 0x400, b"\x10\x20\xf5\xf2"),
    ("an EROFS file system", 0x400, b"\xe2\xe1\xf5\xe0"),
    ("a SquashFS file system", 0, b"hsqs"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a FAT file system", 54, b"FAT"),
    ("a FAT file system", 82, b"FAT32"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an LVM physical volume", 0x218, b"LVM2 001"),
    ("an ISO 9660 file system", 0x8001, b"CD001"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("swap space", 65526, b"SWAPSPACE2"),
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
];

/// Names what the device holds, if that is known.
pub fn find_signature(device: &dyn Device) -> Result<Option<String>> {
    if let Some(name) = find_ext(device)? {
        return Ok(Some(name));
    }
    for &(name, offset, magic) in SIGNATURES {
        let mut found = vec![0; magic.len()];
        if read(device, offset, &mut found)? && found == magic {
            return Ok(Some(name.to_owned()));
        }
    }
    find_mbr(device)
}

fn find_ext(device: &dyn Device) -> Result<Option<String>> {
    let mut bytes = [0u8; 1024];
    if !read(device, 1024, &mut bytes)? || le16(&bytes, 0x38) != EXT_MAGIC {
        return Ok(None);
    }
    let kind = match (
        le32(&bytes, 0x60) & EXT4_INCOMPAT,
        le32(&bytes, 0x5c) & EXT_JOURNAL,
    ) {
        (0, 0) => "ext2",
        (0, _) => "ext3",
        _ => "ext4",
    };
    let label: String = String::from_utf8_lossy(&bytes[0x78..0x88])
        .chars()
        .take_while(|&c| c != '\0')
        .filter(|c| !c.is_control())
        .collect();
    let named = if label.is_empty() {
        String::new()
    } else {
        format!(" labelled {label}")
    };
    Ok(Some(format!("an {kind} file system{named}")))
}

/// A boot sector ends the same way, so at least one entry of the table must make sense.
fn find_mbr(device: &dyn Device) -> Result<Option<String>> {
    let mut sector = [0u8; 512];
    if !read(device, 0, &mut sector)? || le16(&sector, 510) != 0xaa55 {
        return Ok(None);
    }
    let entries = sector[446..510].chunks_exact(16);
    let valid = entries.clone().all(|entry| entry[0] & 0x7f == 0);
    let used = entries
        .clone()
        .any(|entry| entry[4] != 0 && le32(entry, 12) != 0);
    Ok((valid && used).then(|| "an MBR partition table".to_owned()))
}

/// Whether the device is long enough; then `bytes` is filled.
fn read(device: &dyn Device, offset: u64, bytes: &mut [u8]) -> Result<bool> {
    if device.len() < offset + bytes.len() as u64 {
        return Ok(false);
    }
    device.read_at(offset, bytes)?;
    Ok(true)
}
