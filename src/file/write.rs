//! Direct writes: into place, into unwritten blocks, into holes.
//!
//! Source: POSIX write; the design's section on writeback.
//! Invariants: new blocks are written while they are reserved and owned by no file; one handle then marks them, maps them and
//! advances the size. Writes inside the file that fill every block they touch run side by side under the shared inode lock:
//! what a handle does goes by the mapping as it is then. No delayed data lies in what is written over. A failed write gives its reservation back and leaves the file as it was up to the last whole run.

use crate::alloc::{Growth, Request, Reserved};
use crate::error::{Posix, Result};
use crate::file::Files;
use crate::format::time::Timestamp;
use crate::ids::{FileBlock, FsBlock};
use crate::inode::NodeRef;
use crate::map::Mapping;
use crate::memory::Token;

/// What is being written where.
#[derive(Clone, Copy)]
struct Job<'a> {
    offset: u64,
    data: &'a [u8],
    /// Both times of the file after it; `None` under the kernel's writeback cache, which sets them itself.
    now: Option<Timestamp>,
}

impl Job<'_> {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

impl Files {
    /// Writes `data` at `offset` straight to the device, or as much of it as there is space for; its length. `now`: see `Job`.
    /// The caller holds the inode lock exclusively.
    pub fn write(
        &self,
        token: &mut Token,
        node: &NodeRef,
        offset: u64,
        data: &[u8],
        now: Option<Timestamp>,
    ) -> Result<usize> {
        self.check_range(node, offset, data.len())?;
        if data.is_empty() {
            return Ok(0);
        }
        self.flush(token, node)?;
        let old_size = node.core.read().size;
        if offset > old_size {
            self.zero_tail(node, old_size)?;
        }
        self.write_segments(token, node, &Job { offset, data, now })
    }

    /// Whether a direct write needs the inode lock only shared: it reads nothing of what it writes over and does not make the
    /// file larger. The caller holds the inode lock shared.
    pub fn may_share(&self, node: &NodeRef, offset: u64, length: usize) -> bool {
        let (mask, core) = (self.block_size() - 1, node.core.read());
        let Some(end) = offset.checked_add(length as u64) else {
            return false;
        };
        let whole = offset & mask == 0 && end & mask == 0;
        whole && length > 0 && core.is_reg() && end <= core.size
    }

    /// As `write`, what `may_share` allowed; the caller holds the inode lock shared.
    pub fn write_shared(
        &self,
        token: &mut Token,
        node: &NodeRef,
        offset: u64,
        data: &[u8],
    ) -> Result<usize> {
        let end = offset + data.len() as u64;
        let range = self.block_of(offset)?.get()..self.block_from(end)?.get();
        // Nobody can delay more meanwhile.
        let delayed = node.delayed.lock().any_in(range);
        if delayed {
            self.flush(token, node)?;
        }
        self.write_segments(
            token,
            node,
            &Job {
                offset,
                data,
                now: None,
            },
        )
    }

    fn write_segments(&self, token: &mut Token, node: &NodeRef, job: &Job<'_>) -> Result<usize> {
        let first = self.block_of(job.offset)?;
        let last = self.block_of(job.end() - 1)?;
        let mut at = first;
        while at <= last {
            let wanted = last.get() - at.get() + 1;
            // Blocks of the map find no place among what is set aside for data: that is given up first.
            let written = self.retry_for_space(|| self.write_segment(token, node, job, at, wanted));
            let len = match written {
                Err(error) if error.is_posix(Posix::NoSpc) && at > first => break,
                written => written?,
            };
            match at.checked_add(len) {
                Some(next) => at = next,
                None => break,
            }
        }
        let mut done = *job;
        if at <= last {
            let fitted = (u64::from(at.get()) << self.geo.block_bits) - job.offset;
            done.data = &job.data[..fitted as usize];
        }
        self.finish_write(token, node, &done)?;
        Ok(done.data.len())
    }

    /// Writes the run with one mapping that starts at `at`; returns its length, 0 when the mapping has changed meanwhile.
    fn write_segment(
        &self,
        token: &mut Token,
        node: &NodeRef,
        job: &Job<'_>,
        at: FileBlock,
        wanted: u32,
    ) -> Result<u32> {
        let (segment, size, _io) = {
            let core = node.core.read();
            (
                self.map.lookup(node.ino, &core, at, wanted)?,
                core.size,
                node.begin_io(),
            )
        };
        match segment.mapping {
            Mapping::Written(block) => {
                self.write_run(job, at, block, segment.len, Some(size))?;
                Ok(segment.len)
            }
            Mapping::Unwritten(block) => {
                self.write_run(job, at, block, segment.len, None)?;
                let credits = self.map.insert_credits(&node.core.read()) + 1;
                let handle = self.journal.start(token, credits)?;
                let mut core = node.core.write();
                if self.map.insert_credits(&core) + 1 > credits {
                    return Ok(0);
                }
                let map = &self.map;
                handle.settle(map.mark_written(&handle, node.ino, &mut core, at, segment.len))?;
                self.advance(&mut core, job, at, segment.len);
                handle.settle(self.save(&handle, node, &core))?;
                Ok(segment.len)
            }
            Mapping::Hole | Mapping::Delayed => self.write_hole(token, node, job, at, segment.len),
        }
    }

    fn write_hole(
        &self,
        token: &mut Token,
        node: &NodeRef,
        job: &Job<'_>,
        at: FileBlock,
        wanted: u32,
    ) -> Result<u32> {
        let wanted = wanted.min(self.map.run_max(&node.core.read()));
        let reserved = self.reserve(node, at, wanted, job.end())?;
        let len = reserved.len().min(wanted);
        self.write_run(job, at, reserved.start(), len, None)?;
        // Map tree, data bitmap and descriptor, inode.
        let credits = self.map.insert_credits(&node.core.read()) + 3;
        let handle = self.journal.start(token, credits)?;
        let mut core = node.core.write();
        let now = self.map.lookup(node.ino, &core, at, len)?;
        let is_hole = now.len == len && matches!(now.mapping, Mapping::Hole | Mapping::Delayed);
        if !is_hole || self.map.insert_credits(&core) + 3 > credits {
            return Ok(0);
        }
        let start = reserved.start();
        let inserted = self
            .map
            .insert(&handle, node.ino, &mut core, at, start, len, false);
        handle.settle(inserted.and_then(|_| self.alloc.mark(&handle, reserved, len)))?;
        self.advance(&mut core, job, at, len);
        handle.settle(self.save(&handle, node, &core))?;
        Ok(len)
    }

    /// Hands out up to `wanted` blocks for a hole at `at`; makes space first when there seems to be none.
    pub(super) fn reserve(
        &self,
        node: &NodeRef,
        at: FileBlock,
        wanted: u32,
        end: u64,
    ) -> Result<Reserved> {
        // One after the other, so that the second finds what the first has set aside for the file.
        let _allocating = node.allocating.lock();
        let request = {
            let core = node.core.read();
            Request {
                ino: node.ino,
                logical: Some(at),
                goal: self.map.goal(node.ino, &core, at),
                len: wanted,
                file_blocks: core.size.max(end).div_ceil(self.block_size()),
                growth: Growth::Open,
                privileged: self.is_privileged(&core),
            }
        };
        self.retry_for_space(|| self.alloc.reserve(&request, Some(&node.prealloc)))
    }

    /// Puts the job's bytes that lie in the run `at..at+len` onto the device at `block`. `old_size`: the run holds data
    /// of a file of that size; `None`: it holds nothing.
    fn write_run(
        &self,
        job: &Job<'_>,
        at: FileBlock,
        block: FsBlock,
        len: u32,
        old_size: Option<u64>,
    ) -> Result<()> {
        let bits = self.geo.block_bits;
        let base = u64::from(at.get()) << bits;
        let limit = base + (u64::from(len) << bits);
        let from = job.offset.max(base);
        let to = job.end().min(limit);
        let mut buffer = self.memory.io_buffer((limit - base) as usize);
        let bytes = &mut buffer[..(limit - base) as usize];
        let block_size = self.geo.block_size as usize;
        let (head, tail) = ((from - base) as usize, (to - base) as usize);
        let old = |index: usize| old_size.and_then(|_| block.checked_add(index as u64));
        let size = old_size.unwrap_or(0);
        if head > 0 || (bytes.len() == block_size && tail < block_size) {
            self.load_edge(old(0), base, size, &mut bytes[..block_size])?;
        }
        if tail % block_size != 0 && bytes.len() > block_size {
            let index = tail / block_size;
            let start = index * block_size;
            let edge = base + start as u64;
            self.load_edge(
                old(index),
                edge,
                size,
                &mut bytes[start..start + block_size],
            )?;
        }
        let source = (from - job.offset) as usize;
        bytes[head..tail].copy_from_slice(&job.data[source..source + (tail - head)]);
        self.device.write_at(block.get() << bits, bytes)
    }

    /// The size and times once the job has come as far as the end of this run.
    fn advance(
        &self,
        inode: &mut crate::format::inode::Inode,
        job: &Job<'_>,
        at: FileBlock,
        len: u32,
    ) {
        let reached = (u64::from(at.get()) + u64::from(len)) << self.geo.block_bits;
        inode.size = inode.size.max(reached.min(job.end()));
        if let Some(now) = job.now {
            inode.mtime = now;
            inode.ctime = now;
        }
    }

    /// What no run's handle has recorded yet: a size that grew inside a block, times of an overwrite.
    fn finish_write(&self, token: &mut Token, node: &NodeRef, job: &Job<'_>) -> Result<()> {
        let done = {
            let core = node.core.read();
            core.size >= job.end() && job.now.is_none_or(|now| core.mtime == now)
        };
        if done {
            return Ok(());
        }
        let handle = self.journal.start(token, 1)?;
        let mut core = node.core.write();
        core.size = core.size.max(job.end());
        if let Some(now) = job.now {
            core.mtime = now;
            core.ctime = now;
        }
        self.save(&handle, node, &core)
    }
}
