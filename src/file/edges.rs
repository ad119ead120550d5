//! Blocks that an operation covers only in part: their other bytes are kept or zeroed.
//!
//! Source: the design's section on writeback.
//! Invariants: bytes behind the file's size are zeros in every block written here.

use crate::error::Result;
use crate::file::Files;
use crate::ids::FsBlock;
use crate::inode::NodeRef;
use crate::map::Mapping;

impl Files {
    /// Zeros the bytes `from..to` of the file where they are; both lie in one block.
    pub(super) fn zero_in_block(&self, node: &NodeRef, from: u64, to: u64) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let at = self.block_of(from)?;
        let base = u64::from(at.get()) << self.geo.block_bits;
        let (first, last) = ((from - base) as usize, (to - base) as usize);
        if self.zero_delayed(node, at.get(), first, last) {
            return Ok(());
        }
        let (segment, _io) = {
            let core = node.core.read();
            (self.map.lookup(node.ino, &core, at, 1)?, node.begin_io())
        };
        let Mapping::Written(block) = segment.mapping else {
            return Ok(());
        };
        let mut bytes = self.memory.io_buffer(self.geo.block_size as usize);
        let bytes = &mut bytes[..self.geo.block_size as usize];
        let start = block.get() << self.geo.block_bits;
        self.device.read_at(start, bytes)?;
        if bytes[first..last].iter().any(|&byte| byte != 0) {
            bytes[first..last].fill(0);
            self.device.write_at(start, bytes)?;
        }
        Ok(())
    }

    /// Zeros what lies behind `size` in its block, before the file shows it.
    pub(super) fn zero_tail(&self, node: &NodeRef, size: u64) -> Result<()> {
        let end = size.next_multiple_of(self.block_size());
        self.zero_in_block(node, size, end)
    }

    /// Zeros the parts of `from..to` that do not fill a block; returns the rest as whole bytes ranges of blocks, `None`
    /// when there is none.
    pub(super) fn zero_edges(
        &self,
        node: &NodeRef,
        from: u64,
        to: u64,
    ) -> Result<Option<(u64, u64)>> {
        let inner_from = from.next_multiple_of(self.block_size());
        let inner_to = to - to % self.block_size();
        if inner_from > inner_to {
            self.zero_in_block(node, from, to)?;
            return Ok(None);
        }
        self.zero_in_block(node, from, inner_from)?;
        self.zero_in_block(node, inner_to, to)?;
        Ok((inner_from < inner_to).then_some((inner_from, inner_to)))
    }

    /// Fills an edge block of a write with what must stay of it: the old bytes before the file's size, zeros behind.
    pub(super) fn load_edge(
        &self,
        old: Option<FsBlock>,
        base: u64,
        size: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        let kept = size.saturating_sub(base).min(self.block_size()) as usize;
        match old {
            Some(block) if kept > 0 => {
                self.device
                    .read_at(block.get() << self.geo.block_bits, bytes)?;
                bytes[kept..].fill(0);
            }
            _ => bytes.fill(0),
        }
        Ok(())
    }
}
