//! Shared writable mappings of files, and buffers for O_DIRECT.

use memmap2::MmapMut;
use std::fs::File;

/// The whole file, shared and writable.
pub fn map(file: &File) -> MmapMut {
    // SAFETY: the tests that use this never shorten the file while it is mapped.
    unsafe { MmapMut::map_mut(file) }.expect("mmap")
}

/// A page-aligned buffer, as O_DIRECT wants it.
pub fn pages(count: usize, byte: u8) -> MmapMut {
    let mut pages = MmapMut::map_anon(count * 4096).expect("pages");
    pages.fill(byte);
    pages
}
