//! What was made, for a person.
//!
//! Source: none.
//! Invariants: nothing with `-q`; everything that was chosen with `-v`.

use crate::args::Args;
use uext4::format::features;
use uext4::make::{self, Plan};
use uext4::text::say;

pub fn made(args: &Args, plan: &Plan) {
    if args.quiet {
        return;
    }
    let numbers = &plan.numbers;
    let verb = if args.dry_run { "would make" } else { "made" };
    say!(
        "{verb} an ext4 file system of {} blocks of {} bytes, {} inodes, in {} groups",
        numbers.blocks_count,
        numbers.block_size,
        numbers.inodes_count,
        numbers.group_count
    );
    match numbers.journal_blocks {
        0 => say!("no journal"),
        blocks => say!("journal of {blocks} blocks"),
    };
    say!("UUID {}", make::format_uuid(plan.options.uuid));
    let backups: Vec<String> = plan
        .backup_superblocks()
        .map(|block| block.to_string())
        .collect();
    if !backups.is_empty() {
        say!("superblock backups in blocks {}", backups.join(" "));
    }
    if args.verbose {
        details(plan);
    }
}

fn details(plan: &Plan) {
    let numbers = &plan.numbers;
    say!("features {}", features::names(numbers.features).join(" "));
    say!(
        "{} inodes of {} bytes and {} blocks in a group, {} groups in a flex group",
        numbers.inodes_per_group,
        numbers.inode_size,
        numbers.blocks_per_group,
        1_u64 << numbers.log_groups_per_flex
    );
    say!(
        "{} blocks of {} bytes in a cluster, {} blocks reserved for the super-user",
        plan.cluster_blocks(),
        numbers.block_size,
        numbers.reserved_blocks
    );
    say!(
        "{} blocks of descriptors and {} for growth",
        numbers.desc_blocks,
        numbers.reserved_gdt_blocks
    );
    let journal = plan.journal.as_ref().and_then(|place| place.runs.first());
    if let Some(run) = journal {
        say!("journal at block {}", run.start);
    }
}
