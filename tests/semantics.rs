//! What POSIX and Linux promise about single operations, asked of a mount.

#[path = "common/harness.rs"]
mod harness;

use harness::{Image, Kind, Mount, Scratch, attempt, judge, mapping, run, sh, tree};
use rustix::fs::{AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps};
use rustix::fs::{fallocate, renameat_with, utimensat};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Mounts a fresh image, runs `body`, unmounts; e2fsck judges.
fn on_mount(body: impl FnOnce(&Path)) {
    on_mount_of("-t ext4", body);
}

fn on_mount_of(options: &str, body: impl FnOnce(&Path)) {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "512M", options);
    // Other users come in, too.
    run!("chmod", "755", scratch.path());
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
fn setuid_and_setgid_go_with_a_write_a_truncate_and_a_chown() {
    on_mount(|root| {
        let mode = |path: &Path| fs::metadata(path).expect("stat").mode() & 0o7777;
        let fresh = |name: &str, mode: u32| {
            let path = root.join(name);
            fs::write(&path, "text").expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            path
        };
        let path = fresh("chown", 0o6777);
        run!("chown", "1234", path);
        assert_eq!(mode(&path), 0o777);

        let path = fresh("root", 0o6777);
        fs::write(&path, "root may").expect("write");
        assert_eq!(mode(&path), 0o6777);

        // The user's own shell opens the files: the paths are relative to the mount.
        let as_user = |command: &str| {
            let command = format!("cd '{}' && {command}", root.display());
            run!("runuser", "-u", "nobody", "--", "sh", "-c", command);
        };
        let path = fresh("buffered", 0o6777);
        as_user("echo more >> buffered");
        assert_eq!(mode(&path), 0o777);
        let path = fresh("direct", 0o6777);
        as_user("dd if=/dev/zero of=direct bs=4096 count=1 oflag=direct conv=notrunc status=none");
        assert_eq!(mode(&path), 0o777);
        let path = fresh("cut", 0o6777);
        as_user("truncate -s 1 cut");
        assert_eq!(mode(&path), 0o777);
    });
}

#[test]
fn a_mapping_reads_and_writes_of_both_kinds_see_each_other() {
    on_mount(|root| {
        let path = root.join("file");
        fs::write(&path, vec![b'a'; 8 * 4096]).expect("write");
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(flags);
            options.open(&path).expect("open")
        };
        let (cached, direct) = (open(0), open(libc::O_DIRECT));
        let mut mapping = mapping::map(&cached);
        let mut page = mapping::pages(1, b'd');

        direct.write_all_at(&page, 4096).expect("direct write");
        assert_eq!(mapping[4096..4100], *b"dddd", "a direct write, mapped");
        let mut bytes = [0; 4];
        cached.read_exact_at(&mut bytes, 4096).expect("read");
        assert_eq!(bytes, *b"dddd", "a direct write, read");

        mapping[8192..8196].copy_from_slice(b"mmmm");
        cached.read_exact_at(&mut bytes, 8192).expect("read");
        assert_eq!(bytes, *b"mmmm", "a mapped write, read");
        direct.read_exact_at(&mut page, 8192).expect("direct read");
        assert_eq!(page[..5], *b"mmmma", "a mapped write, read directly");

        cached.write_all_at(b"wwww", 12288).expect("write");
        assert_eq!(mapping[12288..12293], *b"wwwwa", "a write, mapped");
        direct.read_exact_at(&mut page, 12288).expect("direct read");
        assert_eq!(page[..5], *b"wwwwa", "a write, read directly");

        // Beyond the old end, and into a hole.
        page.fill(b'e');
        direct.write_all_at(&page, 16 * 4096).expect("direct write");
        assert_eq!(cached.metadata().expect("stat").len(), 17 * 4096);
        cached.read_exact_at(&mut bytes, 12 * 4096).expect("hole");
        assert_eq!(bytes, [0; 4]);
        mapping.flush().expect("msync");
    });
}

#[test]
fn times_from_1901_to_2446_survive_a_remount() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    let dates = [
        ("first", -(1_i64 << 31), 0),
        ("before", -86_400, 0),
        ("epoch", 0, 1),
        ("nanoseconds", 1_714_979_289, 123_456_789),
        ("last_of_32_bits", i64::from(i32::MAX), 999_999_999),
        ("after_2038", 1 << 31, 1),
        ("after_2106", (1 << 32) + 5, 500_000_000),
        ("last", 0x3_7fff_fffe, 999_999_999),
    ];
    let mount = Mount::new(Kind::on_trial(), image.path(), &scratch.dir("mnt"), "");
    for (name, seconds, nanoseconds) in dates {
        File::create(mount.at(name)).expect("create");
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, mount.at(name), &times, AtFlags::empty()).expect("utimensat");
    }
    mount.unmount();
    judge::clean(&image);
    let look = |root: &Path| {
        for (name, seconds, nanoseconds) in dates {
            let found = fs::metadata(root.join(name)).expect("stat");
            let found = (found.mtime(), found.mtime_nsec(), found.atime());
            assert_eq!(found, (seconds, nanoseconds, seconds), "{name}");
        }
    };
    let again = Mount::new(Kind::on_trial(), image.path(), &scratch.dir("mnt"), "ro");
    look(again.path());
    again.unmount();
    harness::mount::with_kernel(&image, &scratch.dir("kernel"), "ro", look);
}

#[test]
fn the_umask_holds_where_no_default_acl_does() {
    on_mount(|root| {
        sh(
            Duration::from_secs(20),
            &format!(
                "cd '{}'; umask 027; mkdir plain acl; setfacl -d -m u::rwx,g::rx,o::r acl
                 : > plain/f; mkdir plain/d; mkfifo plain/p; : > acl/f; mkdir acl/d
                 [ \"$(stat -c %a plain plain/f plain/d plain/p | xargs)\" = '750 640 750 640' ]
                 [ \"$(stat -c %a acl/f acl/d | xargs)\" = '644 754' ]
                 chmod g+s plain; chgrp 4321 plain; mkdir plain/s; : > plain/g
                 [ \"$(stat -c %a:%g plain/s plain/g | xargs)\" = '2750:4321 640:4321' ]",
                root.display()
            ),
        );
    });
}

#[test]
fn readers_see_every_name_that_stays_while_others_come_and_go() {
    on_mount(|root| {
        let dir = root.join("dir");
        fs::create_dir(&dir).expect("mkdir");
        for number in 0..4000 {
            File::create(dir.join(format!("stays-{number}"))).expect("create");
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (dir, stop) = (&dir, &stop);
                scope.spawn(move || {
                    for number in 0_u32.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        // Enough names that leaves split while the readers are in the middle.
                        let path = |number| dir.join(format!("{thread}-comes-and-goes-{number}"));
                        File::create(path(number)).expect("create");
                        if number >= 500 {
                            fs::remove_file(path(number - 500)).expect("unlink");
                        }
                    }
                });
            }
            let rounds = std::panic::catch_unwind(|| {
                for round in 0..6 {
                    let names = tree::list(&dir);
                    let stays = names
                        .iter()
                        .filter(|name| name.to_string_lossy().starts_with("stays-"))
                        .count();
                    assert_eq!(stays, 4000, "round {round}");
                }
            });
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = rounds {
                std::panic::resume_unwind(panic);
            }
        });
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
