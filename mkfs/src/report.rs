//! What was made, for a person.
//!
//! Source: none.
//! Invariants: nothing with `-q`; everything that was chosen with `-v`.

use crate::args::Args;
use uext4::format::features;
use uext4::make::{self, Plan};

pub fn made(args: &Args, plan: &Plan) {
    if args.quiet {
        return;
    }
    let numbers = &plan.numbers;
    let verb = if args.dry_run { "would make" } else { "made" };
    println!(
        "{verb} an ext4 file system of {} blocks of {} bytes, {} inodes, in {} groups",
        numbers.blocks_count, numbers.block_size, numbers.inodes_count, numbers.group_count
    );
    match numbers.journal_blocks {
        0 => println!("no journal"),
        blocks => println!("journal of {blocks} blocks"),
    }
    println!("UUID {}", make::format_uuid(plan.options.uuid));
    let backups: Vec<String> = plan
        .backup_superblocks()
        .map(|block| block.to_string())
        .collect();
    if !backups.is_empty() {
        println!("superblock backups in blocks {}", backups.join(" "));
    }
    if args.verbose {
        details(plan);
    }
}

fn details(plan: &Plan) {
    let numbers = &plan.numbers;
    println!("features {}", features::names(numbers.features).join(" "));
    println!(
        "{} inodes of {} bytes and {} blocks in a group, {} groups in a flex group",
        numbers.inodes_per_group,
        numbers.inode_size,
        numbers.blocks_per_group,
        1_u64 << numbers.log_groups_per_flex
    );
    println!(
        "{} blocks of {} bytes in a cluster, {} blocks reserved for the super-user",
        plan.cluster_blocks(),
        numbers.block_size,
        numbers.reserved_blocks
    );
    println!(
        "{} blocks of descriptors and {} for growth",
        numbers.desc_blocks, numbers.reserved_gdt_blocks
    );
    let journal = plan.journal.as_ref().and_then(|place| place.runs.first());
    if let Some(run) = journal {
        println!("journal at block {}", run.start);
    }
}
