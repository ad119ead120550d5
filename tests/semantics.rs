//! What POSIX and Linux promise about single operations, asked of a mount.

#[path = "common/harness.rs"]
mod harness;

use harness::{Image, Kind, Mount, Scratch, attempt, judge, run, sh, tree};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// Mounts a fresh image, runs `body`, unmounts; e2fsck judges.
fn on_mount(body: impl FnOnce(&Path)) {
    on_mount_of("-t ext4", body);
}

fn on_mount_of(options: &str, body: impl FnOnce(&Path)) {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "512M", options);
    let mount = Mount::new(Kind::on_trial(), image.path(), &scratch.dir("mnt"), "");
    body(mount.path());
    mount.unmount();
    judge::clean(&image);
}

#[test]
fn an_unlinked_open_file_lives_until_its_close() {
    on_mount(|root| {
        let path = root.join("open");
        let mut file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("create");
        fs::remove_file(&path).expect("unlink");
        file.write_all(b"still here").expect("write");
        file.rewind().expect("rewind");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "still here");
        assert_eq!(file.metadata().expect("stat").nlink(), 0);
        assert!(!path.exists());
    });
}

#[test]
fn rename_flags_are_obeyed() {
    on_mount(|root| {
        let (one, two, three) = (root.join("one"), root.join("two"), root.join("three"));
        fs::write(&one, "1").expect("write");
        fs::create_dir(&two).expect("mkdir");
        assert_eq!(
            renameat_with(CWD, &one, CWD, &two, RenameFlags::NOREPLACE),
            Err(Errno::EXIST)
        );
        renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).expect("exchange");
        assert!(one.is_dir() && fs::read(&two).expect("read") == b"1");
        renameat_with(CWD, &two, CWD, &three, RenameFlags::WHITEOUT).expect("whiteout");
        let left = fs::symlink_metadata(&two).expect("the whiteout");
        assert_eq!((left.mode() & 0o170_000, left.rdev()), (0o020_000, 0));
        assert_eq!(fs::read(&three).expect("read"), b"1");
    });
}

#[test]
fn fallocate_modes_do_what_they_say() {
    on_mount(|root| {
        let path = root.join("file");
        fs::write(&path, vec![7; 65536]).expect("write");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .expect("open");
        let keep = FallocateFlags::KEEP_SIZE;
        fallocate(&file, keep | FallocateFlags::PUNCH_HOLE, 8192, 16384).expect("punch");
        fallocate(&file, keep | FallocateFlags::ZERO_RANGE, 40000, 1000).expect("zero");
        fallocate(&file, keep, 65536, 1 << 20).expect("keep size");
        assert_eq!(file.metadata().expect("stat").len(), 65536);
        fallocate(&file, FallocateFlags::empty(), 65536, 4096).expect("allocate");
        assert_eq!(file.metadata().expect("stat").len(), 69632);
        file.sync_all().expect("fsync");
        let bytes = fs::read(&path).expect("read");
        for (at, byte) in bytes.iter().enumerate() {
            let zero = (8192..24576).contains(&at) || (40000..41000).contains(&at) || at >= 65536;
            assert_eq!(*byte, if zero { 0 } else { 7 }, "byte {at}");
        }
        drop(file);
        let runs = tree::data_runs(&path, 65536);
        assert_eq!(
            runs[..2.min(runs.len())].first(),
            Some(&(0, 8192)),
            "{runs:?}"
        );
    });
}

#[test]
fn chattr_immutable_and_append_only_are_enforced() {
    on_mount(|root| {
        let path = root.join("file");
        fs::write(&path, "text").expect("write");
        run!("chattr", "+i", path);
        assert!(run!("lsattr", path).starts_with("----i"));
        assert!(
            OpenOptions::new().write(true).open(&path).is_err(),
            "immutable, and opened for writing"
        );
        assert!(fs::remove_file(&path).is_err(), "immutable, and unlinked");
        run!("chattr", "-i", "+a", path);
        assert!(
            OpenOptions::new().write(true).open(&path).is_err(),
            "append-only, and opened for writing"
        );
        let mut file = OpenOptions::new().append(true).open(&path).expect("append");
        file.write_all(b" more").expect("append");
        assert!(fs::remove_file(&path).is_err(), "append-only, and unlinked");
        run!("chattr", "-a", path);
        assert_eq!(fs::read(&path).expect("read"), b"text more");
    });
}

#[test]
fn acls_are_inherited_and_follow_the_mode() {
    on_mount(|root| {
        sh(
            Duration::from_secs(20),
            &format!(
                "cd '{}'; umask 077; mkdir d plain; setfacl -d -m u:1234:rwx d; : > d/f; mkdir d/s; : > plain/f
                 getfacl -cn d/f | grep -qx 'user:1234:rwx.*effective:rw-' 
                 getfacl -cdn d/s | grep -qx 'user:1234:rwx'
                 [ \"$(stat -c %a plain/f)\" = 600 ]
                 chmod 640 d/f; getfacl -cn d/f | grep -qx 'mask::r--'
                 setfacl -m m::rw d/f; [ \"$(stat -c %a d/f)\" = 660 ]",
                root.display()
            ),
        );
    });
}

#[test]
fn a_write_by_another_user_clears_setuid() {
    on_mount(|root| {
        let path = root.join("suid");
        fs::write(&path, "x").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).expect("chmod");
        let file = OpenOptions::new().write(true).open(&path).expect("open");
        drop(file);
        run!("chown", "1234", path);
        assert_eq!(
            fs::metadata(&path).expect("stat").mode() & 0o6000,
            0,
            "chown keeps setuid"
        );
    });
}

#[test]
fn a_directory_takes_more_than_65000_subdirectories() {
    on_mount_of("-t ext4 -N 80000", |root| {
        let many = root.join("many");
        fs::create_dir(&many).expect("mkdir");
        for number in 0..65_100 {
            fs::create_dir(many.join(number.to_string())).expect("mkdir");
        }
        assert_eq!(
            fs::metadata(&many).expect("stat").nlink(),
            1,
            "dir_nlink: not countable"
        );
        assert_eq!(tree::list(&many).len(), 65_100);
    });
}

#[test]
fn a_reader_sees_every_name_that_stays() {
    on_mount(|root| {
        let dir = root.join("dir");
        fs::create_dir(&dir).expect("mkdir");
        for number in 0..3000 {
            File::create(dir.join(format!("stays-{number}"))).expect("create");
            File::create(dir.join(format!("goes-{number}"))).expect("create");
        }
        let mut seen = Vec::new();
        for (count, entry) in fs::read_dir(&dir).expect("readdir").enumerate() {
            let name = entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned();
            if count < 3000 {
                fs::remove_file(dir.join(format!("goes-{count}"))).expect("unlink");
                File::create(dir.join(format!("comes-{count}"))).expect("create");
            }
            if name.starts_with("stays") {
                seen.push(name);
            }
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(
            (all, seen.len()),
            (3000, 3000),
            "names seen, and different ones"
        );
    });
}

#[test]
fn a_full_image_says_enospc_and_works_again() {
    on_mount(|root| {
        let full = attempt!(
            "dd",
            "if=/dev/zero",
            format!("of={}", root.join("big").display()),
            "bs=1M",
            "count=600",
            "conv=fsync"
        );
        assert!(
            !full.ok() && full.stderr.contains("No space left"),
            "{}",
            full.describe()
        );
        fs::remove_file(root.join("big")).expect("unlink");
        let file = File::create(root.join("after")).expect("create");
        file.write_all_at(&vec![1; 1 << 20], 5).expect("write");
        file.sync_all().expect("fsync");
        let _ = (&file).seek(SeekFrom::Start(0));
    });
}
