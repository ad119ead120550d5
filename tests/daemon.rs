//! The daemon as users and mount(8) meet it: in the background, as an ordinary user, idle, and request by request.

#[path = "common/harness.rs"]
mod harness;

use harness::mount::{UEXT4, is_mounted};
use harness::{Detached, Image, Mount, Scratch, attempt, judge, namespace, run};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn an_ordinary_user_mounts_maps_and_unmounts() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    let dir = scratch.dir("mnt");
    run!("chown", "nobody", image.path(), dir, scratch.path());
    // The root directory is root's; a user makes one of his own.
    image.debugfs(true, "set_inode_field / uid 65534");
    namespace::script(&scratch, "666", Duration::from_secs(100), AS_USER).expect_ok("as a user");
    assert!(!is_mounted(&dir));
    judge::clean(&image);
    let kept = harness::mount::with_kernel(&image, &scratch.dir("kernel"), "ro", |root| {
        (
            fs::read(root.join("moved/text")),
            fs::read(root.join("mapped")),
        )
    });
    assert_eq!(kept.0.expect("text"), b"text\n");
    assert_eq!(kept.1.expect("mapped").len(), 8192);
}

/// The mapping outlives the 30 s after which the kernel writes the page and, as root, sends the time of the write.
const AS_USER: &str = r#"
as_user() { runuser -u nobody -- "$@"; }
as_user ./uext4 mount disk.img mnt
awk -v dir="$PWD/mnt" '$5 == dir { print $8, $9 }' /proc/self/mountinfo | grep -q '^fuse.uext4 '
as_user mkdir mnt/dir
as_user sh -c 'echo text > mnt/dir/text; mv mnt/dir mnt/moved; truncate -s 8192 mnt/mapped; touch -d 2020-01-01 mnt/mapped'
as_user ./uext4 sync mnt
before=$(date +%s)
as_user timeout -s KILL 38 fio --name=map --filename=mnt/mapped --thread --ioengine=mmap --rw=write --bs=4k --size=8k \
    --thinktime=60s --thinktime_blocks=1 --output=/dev/null --allow_file_create=0 || [ $? = 137 ]
echo 3 > /proc/sys/vm/drop_caches
mtime=$(as_user stat -c %Y mnt/mapped)
[ $mtime -ge $before ] && [ $mtime -le $((before + 15)) ] || { echo "mtime $mtime, mapped at $before, now $(date +%s)" >&2; exit 1; }
[ "$(as_user cat mnt/moved/text)" = text ]
[ "$(as_user od -An -tx1 -N16 mnt/mapped)" != " 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00" ]
as_user ./uext4 umount mnt
if pgrep -f "^[.]/uext4 mount"; then exit 1; fi
"#;

#[test]
fn a_killed_daemon_of_a_user_leaves_no_dead_mount() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    run!(
        "chown",
        "nobody",
        image.path(),
        scratch.dir("mnt"),
        scratch.path()
    );
    namespace::script(
        &scratch,
        "666",
        Duration::from_secs(60),
        r#"runuser -u nobody -- ./uext4 mount disk.img mnt
           grep -q "$PWD/mnt " /proc/self/mountinfo
           kill -9 $(pgrep -f "^[.]/uext4 mount")
           for n in $(seq 100); do grep -q "$PWD/mnt " /proc/self/mountinfo || exit 0; sleep 0.1; done
           exit 1"#,
    )
    .expect_ok("the mount went");
}

/// What dumpe2fs lists.
fn needs_recovery(image: &Image) -> bool {
    run!("dumpe2fs", "-h", image.path()).contains("needs_recovery")
}

fn wait_until(limit: u64, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(limit);
    while !condition() {
        assert!(Instant::now() < end, "not after {limit} s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_idle_mount_is_clean_on_disk() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    let mount = harness::Mount::new(harness::Kind::Uext4, image.path(), &scratch.dir("mnt"), "");
    fs::write(mount.at("one"), "one").expect("write");
    run!(UEXT4, "sync", mount.path());
    assert!(needs_recovery(&image), "in use, and not marked");
    wait_until(25, "marked clean", || !needs_recovery(&image));
    // Our checker looks at nothing that is in use.
    let copy = scratch.file("copy.img");
    run!("cp", image.path(), &copy);
    judge::clean_at(&copy);
    fs::write(mount.at("two"), "two").expect("write");
    // The commit timer, without a sync.
    wait_until(12, "marked in use again", || needs_recovery(&image));
    mount.kill();
    let again = Mount::new(
        harness::Kind::Uext4,
        image.path(),
        &scratch.dir("again"),
        "",
    );
    assert_eq!(fs::read(again.at("one")).expect("one"), b"one");
    assert!(again.log().contains("replayed"), "{}", again.log());
    again.unmount();
    judge::clean(&image);
}

/// Requests of one kind in a log.
fn requests<'a>(log: &'a str, kind: &str) -> Vec<&'a str> {
    let word = format!(" {kind} ");
    log.lines()
        .filter(|line| line.contains("FUSE(") && format!("{line} ").contains(&word))
        .collect()
}

/// The number behind `name` in a log line.
fn field(line: &str, name: &str) -> u64 {
    let rest = line
        .split(&format!("{name} "))
        .nth(1)
        .unwrap_or_else(|| panic!("no {name}: {line}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

#[test]
fn few_and_large_requests() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "128M", "-t ext4");
    let mount = Mount::verbose(image.path(), &scratch.dir("mnt"));
    let mut file = File::create(mount.at("file")).expect("create");
    for number in 0..4096_u32 {
        file.write_all(&[number as u8; 4096]).expect("write");
    }
    file.sync_all().expect("fsync");
    let log = mount.log();
    let (asked, writes) = (requests(&log, "GETXATTR").len(), requests(&log, "WRITE"));
    assert!(!writes.is_empty(), "no WRITE is logged: {log}");
    assert!(asked <= 1, "{asked} GETXATTR for 4096 writes");
    assert!(writes.len() <= 256, "{} WRITE for 16 MiB", writes.len());

    drop(file);
    let file = File::open(mount.at("file")).expect("open");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
    let mut bytes = Vec::new();
    (&file).read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes.len(), 4096 * 4096);
    drop(file);
    let log = mount.log();
    let sizes: Vec<u64> = requests(&log, "READ")
        .iter()
        .map(|line| field(line, "size"))
        .collect();
    let largest = sizes.iter().max().copied().unwrap_or_default();
    assert!(largest >= 128 << 10, "READs of {sizes:?}");
    assert!(
        sizes.len() <= 160,
        "{} READ for 16 MiB: {sizes:?}",
        sizes.len()
    );
    mount.unmount();
    judge::clean(&image);
}

#[test]
fn info_for_programs_and_people() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4 -L my-label");
    let json = |image: &Image| -> serde_json::Value {
        serde_json::from_str(&run!(UEXT4, "info", "--json", image.path())).expect("json")
    };
    let before = image.sha256();
    let info = json(&image);
    assert_eq!(info["label"], "my-label");
    assert_eq!(info["access"], "read-write");
    assert_eq!(info["journal"]["needs_recovery"], false);
    assert!(info["mount"].is_null(), "{info}");
    let features = info["features"].as_array().expect("features");
    assert!(
        features.iter().any(|name| name == "metadata_csum"),
        "{info}"
    );
    let text = run!(UEXT4, "info", image.path());
    assert!(
        text.contains("my-label") && text.contains("metadata_csum"),
        "{text}"
    );
    assert_eq!(before, image.sha256(), "info changed the image");

    let mount = Mount::new(harness::Kind::Uext4, image.path(), &scratch.dir("mnt"), "");
    fs::write(mount.at("file"), "text").expect("write");
    run!(UEXT4, "sync", mount.path());
    let info = json(&image);
    assert_eq!(
        info["mount"]["directory"],
        mount.path().to_str().expect("utf-8")
    );
    assert_eq!(info["mount"]["pid"], mount.pid());
    assert_eq!(info["mount"]["read_only"], false);
    // What sync made durable is in the journal, at the latest.
    assert_eq!(info["journal"]["needs_recovery"], true);
    mount.unmount();
    let elsewhere = attempt!(UEXT4, "sync", scratch.path());
    assert!(
        !elsewhere.ok() && elsewhere.stderr.lines().count() == 1,
        "{}",
        elsewhere.describe()
    );
}

/// A pipe that nobody reads any more.
fn unread() -> std::io::PipeWriter {
    std::io::pipe().expect("pipe").1
}

#[test]
fn it_goes_on_when_nobody_reads_what_it_says() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    let mount = Mount::new(harness::Kind::Uext4, image.path(), &scratch.dir("mnt"), "");
    // The watchdog: a watch that nobody reads ends by itself.
    let uext4 = |args: &[&str], at: &Path| {
        let mut command = Command::new("timeout");
        command.arg("60").arg(UEXT4).args(args).arg(at);
        command
    };
    for (args, at) in [
        (&["info"][..], image.path()),
        (&["info", "--json"], image.path()),
        (&["info", "--help"], image.path()),
        (&["stats"], mount.path()),
        (&["stats", "--watch"], mount.path()),
        (&["stats", "--watch", "--json"], mount.path()),
        (&["evict"], mount.path()),
    ] {
        let status = uext4(args, at).stdout(unread()).status().expect("run");
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
    let missing = scratch.file("missing");
    let code = |stderr: Stdio| {
        let status = uext4(&["info"], &missing).stderr(stderr).status();
        status.expect("run").code()
    };
    assert_eq!(code(unread().into()), code(Stdio::null()));
    mount.unmount();
    judge::clean(&image);
}

#[test]
fn mount_8_finds_mounts_and_remounts_it() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    scratch.dir("mnt");
    namespace::script(&scratch, "600", Duration::from_secs(60), BY_MOUNT_8).expect_ok("mount(8)");
    judge::clean(&image);
}

/// mount.fuse3 looks for the program in the system's own directories.
const BY_MOUNT_8: &str = r#"
mkdir sbin; mv uext4 sbin/uext4; mount --bind sbin /usr/local/sbin
options() { awk -v dir="$PWD/mnt" '$5 == dir { print $6, $8, $9 }' /proc/self/mountinfo; }
daemons() { pgrep -cf "uext4 $PWD/disk.img" || true; }
mount -t fuse.uext4 -o noatime,commit=3 "$PWD/disk.img" mnt
options | grep -q "^rw,noatime fuse.uext4 $PWD/disk.img"
[ "$(daemons)" = 1 ]
[ "$(df --output=fstype mnt | tail -1)" = fuse.uext4 ]
echo text > mnt/file
mount -o remount,ro mnt
options | grep -q '^ro,'
if echo no 2>/dev/null > mnt/file; then exit 1; fi
mount -o remount,rw mnt
options | grep -q '^rw,'
echo again >> mnt/file
[ "$(daemons)" = 1 ]
if mount -t fuse.uext4 -o nodelalloc "$PWD/disk.img" mnt 2> said; then exit 1; fi
grep -q nodelalloc said
uext4 umount mnt
[ -z "$(options)" ] && [ "$(daemons)" = 0 ]
mount -t fuse.uext4 -o ro "$PWD/disk.img" mnt
[ "$(cat mnt/file)" = $'text\nagain' ]
uext4 umount mnt
"#;

#[test]
fn create_mounts_in_the_background_and_says_how_to_end_it() {
    let scratch = Scratch::new();
    let (source, dir) = (scratch.file("new.img"), scratch.dir("mnt"));
    let detached = Detached::on(&dir);
    let outcome = attempt!(UEXT4, "mount", "--create", "64M", source, dir).expect_ok("create");
    let line = outcome.stdout.trim();
    assert!(
        line.ends_with(&format!("uext4 umount {}", dir.display())),
        "{line}"
    );
    fs::write(dir.join("file"), "text").expect("write");
    let second = attempt!(UEXT4, "mount", source, scratch.dir("second"));
    assert_eq!(second.code, Some(32));
    assert!(
        second.stderr.contains("mounted on"),
        "{}",
        second.describe()
    );
    // Busy: said, and still mounted.
    let open = File::open(dir.join("file")).expect("open");
    let busy = attempt!(UEXT4, "umount", dir);
    assert!(
        !busy.ok() && busy.stderr.contains("busy"),
        "{}",
        busy.describe()
    );
    drop(open);
    detached.unmount();
    judge::clean_at(&source);
}

#[test]
fn a_signal_unmounts_and_leaves_a_clean_image() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    let dir = scratch.dir("mnt");
    let mount = Mount::new(harness::Kind::Uext4, image.path(), &dir, "");
    fs::write(mount.at("file"), "text").expect("write");
    let open = File::open(mount.at("file")).expect("open");
    let pid = mount.pid().to_string();
    run!("kill", "-TERM", pid);
    // In use: detached, served on, and the user is named.
    wait_until(10, "detached", || !is_mounted(&dir));
    let mut text = String::new();
    (&open).read_to_string(&mut text).expect("served on");
    assert_eq!(text, "text");
    let this = format!("process {}", std::process::id());
    assert!(mount.log().contains(&this), "{}", mount.log());
    drop(open);
    wait_until(20, "the daemon's end", || mount.has_ended());
    judge::clean(&image);
}
