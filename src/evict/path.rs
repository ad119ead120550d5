//! The eviction path, one function a step, by the kernel's names and in its order.
//!
//! Source: the design's section on the eviction path: prune_icache_sb, evict, inode_wait_for_writeback,
//! ext4_evict_inode, ext4_clear_inode, ext4_discard_preallocations, ext4_mb_load_buddy.
//! Invariants: nobody can find the inode from `evict` to its end, and nobody refers to it; what follows a step that
//! fails is not run: the inode is put back whole.

use super::evictor::Evictor;
use super::policy::Outcome;
use super::stats::{Cause, Step, count};
use crate::error::Result;
use crate::inode::NodeRef;
use crate::inode::table::Freeing;
use crate::memory::Reclaimer;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Inodes looked at in one go, at most, for each that is wanted.
const SCAN: u64 = 8;

impl Evictor {
    /// Evicts inodes until about `bytes` came back or all were looked at; returns the bytes. Called with nothing held.
    pub fn prune_icache(&self, bytes: u64, by: Reclaimer, cause: Cause) -> u64 {
        let _own = self.own_memory(by);
        let at_once = cause == Cause::Asked;
        let node = self.table.node_bytes();
        let scan = bytes.div_ceil(node).saturating_mul(SCAN);
        let scan = scan.min(self.table.len() as u64);
        let mut freed = 0;
        for _ in 0..scan {
            if freed >= bytes {
                break;
            }
            let Some(freeing) = self.table.next_victim(at_once, |_| true) else {
                break;
            };
            freed += self.evict(freeing, by, cause);
        }
        freed
    }

    /// Evicts one inode, or puts it back; returns the bytes that came back.
    fn evict(&self, freeing: Freeing<'_>, by: Reclaimer, cause: Cause) -> u64 {
        let Some(node) = freeing.node().cloned() else {
            return 0;
        };
        if node.is_dirty() {
            // Delayed data refers to its inode, so this one became dirty just now; the flushers have it already.
            count(&self.stats.dirty);
            return 0;
        }
        let has_preallocations = !node.prealloc.lock().is_empty();
        if has_preallocations && !self.policy.may_evict(self, &node, by) {
            count(&self.stats.skipped);
            return 0;
        }
        self.stats.causes[cause as usize].fetch_add(1, Ordering::Relaxed);
        self.timed(Step::WaitForWriteback, || wait_for_writeback(&node));
        self.timed(Step::TruncatePages, || truncate_pages(&node));
        let cleared = self.timed(Step::ClearInode, || {
            self.clear_inode(&node, has_preallocations, by)
        });
        match cleared {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Later) => {
                count(&self.stats.put_back);
                return 0;
            }
            Err(error) => {
                // What U holds is in no bitmap: the next mount finds the blocks free.
                count(&self.stats.failures);
                log::error!(target: "uext4::evict", "inode {}: {error}", node.ino);
                self.alloc.discard_preallocations(&node.prealloc);
            }
        }
        if has_preallocations {
            count(&self.stats.with_preallocations);
        }
        count(&self.stats.evicted);
        log::trace!(target: "uext4::evict", "inode {} by {by:?}", node.ino);
        drop(node);
        self.timed(Step::Release, || freeing.finish())
    }

    /// The kernel's `ext4_clear_inode`: what is in memory alone and belongs to the inode goes.
    fn clear_inode(&self, node: &NodeRef, any: bool, by: Reclaimer) -> Result<Outcome> {
        if !any {
            return Ok(Outcome::Done);
        }
        self.timed(Step::DiscardPreallocations, || {
            self.discard_preallocations(node, by)
        })
    }

    /// The kernel's `ext4_discard_preallocations`: the blocks set aside become free, by the policy's way.
    fn discard_preallocations(&self, node: &NodeRef, by: Reclaimer) -> Result<Outcome> {
        let outcome = self.policy.discard(self, node, by)?;
        if outcome == Outcome::Done {
            count(&self.stats.discarded);
        }
        Ok(outcome)
    }

    pub(super) fn timed<T>(&self, step: Step, run: impl FnOnce() -> T) -> T {
        let start = self.now();
        let result = run();
        self.record(step, self.now().saturating_sub(start));
        result
    }

    pub(super) fn record(&self, step: Step, took: Duration) {
        self.stats.steps[step as usize].record(took);
    }
}

/// The kernel's `inode_wait_for_writeback`: waits for I/O that still runs. What is in flight refers to the inode, so none can be
/// found here that has not just ended.
fn wait_for_writeback(node: &NodeRef) {
    node.drain();
}

/// The kernel's `truncate_inode_pages_final`: delayed data refers to the inode, so there is none left.
fn truncate_pages(node: &NodeRef) {
    debug_assert!(!node.is_dirty(), "inode {} is evicted dirty", node.ino);
}
