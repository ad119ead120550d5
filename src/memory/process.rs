//! What the process tells the C library and the kernel about itself, before any thread starts.
//!
//! Source: mallopt(3), prctl(2) (PR_SET_IO_FLUSHER), close_range(2).
//! Invariants: called from the main thread, before any other exists.

/// From linux/prctl.h; libc does not name it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// From so many bytes on an allocation is a mapping of its own.
const MAPPED: libc::c_int = 1 << 20;

/// Two malloc arenas: one per thread would keep freed memory where no gauge sees it. And the buffers of many megabytes into
/// which requests are read stay mappings, of which only what is used is in memory: without a word malloc takes the size of a
/// mapping that was freed for a size that should not be mapped, and zeroes the next one by writing to it.
pub fn limit_malloc() {
    for (name, value) in [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, MAPPED)] {
        // SAFETY: mallopt only sets a number inside the allocator; no other thread exists yet.
        let done = unsafe { libc::mallopt(name, value) };
        if done == 0 {
            log::debug!("mallopt({name}) refused");
        }
    }
}

/// Keeps the kernel from writing back through this mount while it allocates memory for this process. Needs
/// CAP_SYS_RESOURCE; returns whether it is in force.
pub fn set_io_flusher() -> bool {
    // SAFETY: this prctl takes plain integers and changes a flag of the calling thread, which later threads
    // inherit.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    result == 0
}

/// Programs that are started from now on inherit the standard streams and nothing else.
pub fn keep_descriptors_from_children() {
    // SAFETY: CLOSE_RANGE_CLOEXEC closes nothing; it marks descriptors, whoever owns them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result != 0 {
        log::debug!("close_range refused");
    }
}
