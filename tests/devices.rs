//! Block devices: loop devices with small and large sectors, partitions, read-only ones.

#[path = "common/harness.rs"]
mod harness;

use harness::fill::{self, Ability};
use harness::{Image, Kind, LoopDevice, Mount, Scratch, judge, run, sh, tree};
use std::path::Path;
use std::time::Duration;

/// Fills a device through the mount on trial; e2fsck and the kernel judge it by the same node.
fn filled(scratch: &Scratch, node: &Path) {
    let mount = Mount::new(Kind::on_trial(), node, &scratch.dir("mnt"), "");
    fill::fill(mount.path(), Ability::DEFAULT);
    let live = tree::read(mount.path());
    mount.unmount();
    judge::clean_at(node);
    let kernel = Mount::new(Kind::Kernel, node, &scratch.dir("kernel"), "ro");
    tree::same(&live, &tree::read(kernel.path()));
    kernel.unmount();
}

#[test]
fn a_loop_device() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    let device = LoopDevice::attach(image.path(), &[]);
    filled(&scratch, device.path());
}

#[test]
fn a_loop_device_with_sectors_of_4k() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    let device = LoopDevice::attach(image.path(), &["-b", "4096"]);
    filled(&scratch, device.path());
}

#[test]
fn a_partition_by_its_node() {
    let scratch = Scratch::new();
    let image = partitioned(&scratch);
    let device = LoopDevice::attach(image.path(), &[]);
    let partition = device.first_partition();
    run!("mke2fs", "-q", "-F", "-t", "ext4", partition);
    let table = image.sectors(0, 2048);
    filled(&scratch, &partition);
    assert!(
        table == image.sectors(0, 2048),
        "bytes before the partition were changed"
    );
}

#[test]
fn a_partition_by_its_offset() {
    let scratch = Scratch::new();
    let image = partitioned(&scratch);
    run!(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-E",
        format!("offset={OFFSET}"),
        image.path(),
        "600M"
    );
    let table = image.sectors(0, 2048);
    let options = if Kind::on_trial() == Kind::Kernel {
        String::new()
    } else {
        format!("offset={OFFSET}")
    };
    let device = (Kind::on_trial() == Kind::Kernel)
        .then(|| LoopDevice::attach(image.path(), &["-o", OFFSET]));
    let source = device.as_ref().map_or(image.path(), LoopDevice::path);
    let mount = Mount::new(Kind::on_trial(), source, &scratch.dir("mnt"), &options);
    fill::fill(mount.path(), Ability::DEFAULT);
    mount.unmount();
    drop(device);
    assert!(
        table == image.sectors(0, 2048),
        "bytes before the partition were changed"
    );
    let device = LoopDevice::attach(image.path(), &["-o", OFFSET, "-r"]);
    judge::clean_at(device.path());
}

#[test]
fn a_read_only_loop_device() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    let before = image.sha256();
    let device = LoopDevice::attach(image.path(), &["-r"]);
    let mount = Mount::new(Kind::on_trial(), device.path(), &scratch.dir("mnt"), "ro");
    assert!(mount.is_read_only());
    run!("ls", "-la", mount.path());
    mount.unmount();
    drop(device);
    assert_eq!(before, image.sha256());
}

/// Where the first partition starts, in bytes.
const OFFSET: &str = "1048576";

fn partitioned(scratch: &Scratch) -> Image {
    let image = Image::blank(scratch, "disk.img", "700M");
    let script = format!("echo '2048,,L' | sfdisk -q '{}'", image.path().display());
    sh(Duration::from_secs(20), &script);
    image
}
