//! A seeded stream of system calls on few names, so that they meet.

use super::syscalls::{As, Call, SLOTS};
use rustix::fs::{FileType, OFlags};

pub struct Random(u64);

const USERS: [(u32, u32); 3] = [(0, 0), (1234, 4321), (1235, 4321)];
const MODES: [u32; 14] = [
    0o644, 0o666, 0o600, 0o755, 0o777, 0o700, 0o2775, 0o1777, 0o4755, 0o6777, 0o2644, 0, 0o070,
    0o007,
];
const UTIME_NOW: i64 = 0x3fff_ffff;
pub const UTIME_OMIT: i64 = 0x3fff_fffe;

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    fn slot(&mut self) -> usize {
        self.below(SLOTS as u64) as usize
    }

    fn name(&mut self) -> String {
        match self.below(40) {
            0 => "l".repeat(255),
            1 => "l".repeat(256),
            2 => ".".to_string(),
            3 => "..".to_string(),
            4..=12 => format!("name {}", self.below(30)),
            _ => self.pick(&["a", "b", "c", "d", "e", "f"]).to_string(),
        }
    }

    fn path(&mut self) -> String {
        let depth = self.pick(&[1, 1, 1, 2, 2, 3]);
        let mut path = self.name();
        for _ in 1..depth {
            path = format!("{path}/{}", self.name());
        }
        // Not above the root.
        path = path.replace("..", "a/..");
        if self.chance(40) {
            path.push('/');
        }
        path
    }

    fn offset(&mut self) -> u64 {
        match self.below(20) {
            0 => 0,
            1 => self.below(1 << 24),
            2 => self.pick(&[4095, 4096, 4097, 65536, 48 * 1024, 12 * 4096]),
            3 => (1 << 30) + self.below(10_000),
            4..=9 => 512 * self.below(200),
            _ => self.below(100_000),
        }
    }

    fn size(&mut self) -> u64 {
        if self.chance(40) {
            return self.pick(&[
                1 << 40,
                (1 << 44) - 4096,
                (1 << 44) + 1,
                1 << 45,
                i64::MAX as u64,
            ]);
        }
        self.offset()
    }

    fn time(&mut self) -> (i64, i64) {
        match self.below(8) {
            0 => (0, UTIME_NOW),
            1 => (0, UTIME_OMIT),
            2 => (
                self.pick(&[-1, -(1 << 31), -(1 << 31) - 1, -(1 << 40), -86_400]),
                0,
            ),
            3 => {
                let edges = [
                    0,
                    (1 << 31) - 1,
                    1 << 31,
                    1 << 32,
                    15_032_385_535,
                    15_032_385_536,
                ];
                (self.pick(&edges), self.below(1_000_000_000) as i64)
            }
            4 => (1 << 40, 5),
            _ => (self.below(1 << 33) as i64, self.below(1_000_000_000) as i64),
        }
    }

    fn xattr_name(&mut self) -> String {
        let long = format!("user.{}", "n".repeat(250));
        let names = [
            "user.a",
            "user.b",
            "user.c",
            "trusted.t",
            "security.s",
            "system.s",
            "bad",
        ];
        match self.below(24) {
            0 => long,
            1 => format!("user.{}", "n".repeat(251)),
            2 => "user.".to_string(),
            3 | 4 => "system.posix_acl_access".to_string(),
            5 => "system.posix_acl_default".to_string(),
            6 => "security.capability".to_string(),
            _ => self.pick(&names).to_string(),
        }
    }

    fn xattr_value(&mut self, name: &str) -> Vec<u8> {
        if name.starts_with("system.posix_acl") && !self.chance(10) {
            return self.acl();
        }
        if name == "security.capability" {
            // VFS_CAP_REVISION_2, cap_net_raw permitted.
            let mut value = vec![0; 20];
            (value[3], value[5]) = (2, 0x20);
            return value;
        }
        let len = self.pick(&[
            0, 1, 5, 30, 40, 64, 100, 200, 700, 900, 1000, 2000, 3900, 4000, 5000,
        ]);
        let len = if self.chance(100) { 65_537 } else { len };
        vec![self.below(256) as u8; len]
    }

    fn acl(&mut self) -> Vec<u8> {
        let mut acl = 2u32.to_le_bytes().to_vec();
        let mut entry = |tag: u16, perm: u64, id: u32| {
            acl.extend(tag.to_le_bytes());
            acl.extend((perm as u16 & 7).to_le_bytes());
            acl.extend(id.to_le_bytes());
        };
        let perms: Vec<u64> = (0..7).map(|_| self.next()).collect();
        let shape = self.below(6);
        entry(1, perms[0], u32::MAX);
        if shape > 1 {
            entry(2, perms[1], 1234);
        }
        if shape > 2 {
            entry(2, perms[2], 1235);
        }
        entry(4, perms[3], u32::MAX);
        if shape > 3 {
            entry(8, perms[4], 4321);
        }
        if shape > 1 {
            entry(0x10, perms[5], u32::MAX);
        }
        entry(0x20, perms[6], u32::MAX);
        acl
    }

    fn open(&mut self) -> Call {
        let mut flags = self.pick(&[OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR]);
        let extra = [
            (OFlags::CREATE, 2),
            (OFlags::EXCL, 8),
            (OFlags::TRUNC, 8),
            (OFlags::APPEND, 6),
            (OFlags::DIRECTORY, 20),
            (OFlags::NOFOLLOW, 10),
            (OFlags::DSYNC, 30),
            (OFlags::NOATIME, 30),
        ];
        for (flag, one_in) in extra {
            if self.chance(one_in) {
                flags |= flag;
            }
        }
        let (slot, path, mode) = (self.slot(), self.path(), self.pick(&MODES));
        // A fifo would wait for its other end.
        Call::Open {
            slot,
            path,
            flags: flags | OFlags::NONBLOCK,
            mode,
        }
    }

    fn mknod(&mut self) -> Call {
        use FileType::{BlockDevice, CharacterDevice, Fifo, RegularFile, Socket};
        let kind = self.pick(&[
            Fifo,
            Fifo,
            Socket,
            RegularFile,
            CharacterDevice,
            BlockDevice,
        ]);
        let has_number = matches!(kind, CharacterDevice | BlockDevice);
        // Numbers of no driver: opening them fails on both sides.
        let dev = rustix::fs::makedev(self.pick(&[230, 400]), self.pick(&[3, 300, 70_000]));
        let dev = if has_number { dev } else { 0 };
        Call::Mknod {
            path: self.path(),
            kind,
            mode: self.pick(&MODES),
            dev,
        }
    }

    fn on_names(&mut self) -> Call {
        let path = self.path();
        match self.below(20) {
            0..=3 => Call::Mkdir {
                path,
                mode: self.pick(&MODES) | 0o100,
            },
            4..=8 => {
                let flags = self.pick(&[0, 0, 0, 1, 2, 2, 4, 5, 3, 6, 8]);
                Call::Rename {
                    from: path,
                    to: self.path(),
                    flags,
                }
            }
            9..=11 => Call::Link {
                from: path,
                to: self.path(),
                follow: self.chance(3),
            },
            12 | 13 => {
                let long = self.pick(&[59, 60, 300, 1023, 4095]);
                let target = if self.chance(6) {
                    "t".repeat(long)
                } else {
                    self.path()
                };
                Call::Symlink { target, path }
            }
            14..=16 => Call::Unlink { path },
            17 | 18 => Call::Rmdir { path },
            _ => self.mknod(),
        }
    }

    fn on_file(&mut self) -> Call {
        let (slot, offset) = (self.slot(), self.offset());
        let len = self.pick(&[0, 1, 100, 511, 4096, 5000, 20_000, 70_000]);
        let byte = self.below(256) as u8;
        match self.below(22) {
            0..=3 => Call::Pread { slot, offset, len },
            4..=8 => Call::Pwrite {
                slot,
                offset,
                len,
                byte,
            },
            9..=11 => Call::Write { slot, len, byte },
            12 => Call::Copy {
                from: slot,
                to: self.slot(),
                offset,
                len,
            },
            13..=15 => {
                let mode = self.pick(&[0, 1, 3, 3, 16, 17, 2, 64]);
                let len = self.pick(&[0, 1, 5000, 65_536, 300_000]);
                Call::Fallocate {
                    slot,
                    mode,
                    offset,
                    len,
                }
            }
            16 | 17 => Call::Ftruncate {
                slot,
                size: self.size(),
            },
            18 => Call::Seek {
                slot,
                offset,
                hole: self.chance(2),
            },
            19 => Call::Fsync { slot },
            20 => Call::Close { slot },
            _ => Call::Fstat { slot },
        }
    }

    fn on_xattr(&mut self) -> Call {
        let (path, name) = (self.path(), self.xattr_name());
        match self.below(8) {
            0..=3 => {
                let value = self.xattr_value(&name);
                Call::Setxattr {
                    path,
                    name,
                    value,
                    flags: self.pick(&[0, 0, 0, 1, 2, 3]),
                }
            }
            4 | 5 => Call::Getxattr {
                path,
                name,
                room: self.pick(&[0, 10, 5000]),
            },
            6 => Call::Removexattr { path, name },
            _ => Call::Listxattr { path },
        }
    }

    fn on_inode(&mut self) -> Call {
        let path = self.path();
        let follow = self.chance(2);
        match self.below(20) {
            0..=3 => Call::Chmod {
                path,
                mode: self.pick(&MODES),
            },
            4 | 5 => {
                let ids = [
                    None,
                    Some(0),
                    Some(1234),
                    Some(1235),
                    Some(4321),
                    Some(100_000),
                ];
                let (uid, gid) = (self.pick(&ids), self.pick(&ids));
                // A change of neither clears suid in ext4, and is not sent through FUSE.
                let uid = uid.or(gid.is_none().then_some(0));
                Call::Chown {
                    path,
                    uid,
                    gid,
                    follow,
                }
            }
            6 | 7 => Call::Utimens {
                path,
                atime: self.time(),
                mtime: self.time(),
                follow,
            },
            8 => Call::Truncate {
                path,
                size: self.size(),
            },
            9 => Call::Getflags { path },
            10 => {
                // sync, immutable, append, nodump, noatime, dirsync, topdir; immutable ones are freed again soon.
                let set = self.pick(&[0x8, 0x10, 0x20, 0x40, 0x80, 0x1_0000, 0x2_0000, 0x100, 0]);
                Call::Setflags {
                    path,
                    set,
                    clear: 0x300ff & !set,
                }
            }
            11 => Call::Setflags {
                path,
                set: 0,
                clear: 0x300ff,
            },
            12 | 13 => Call::Readdir { path },
            14 => Call::Access {
                path,
                mode: self.below(8) as u32,
            },
            15 => Call::Readlink { path },
            16 => Call::Statfs,
            _ => Call::Stat { path },
        }
    }

    /// The next call, and who makes it.
    pub fn call(&mut self) -> (As, Call) {
        let (uid, gid) = if self.chance(4) {
            self.pick(&USERS)
        } else {
            (0, 0)
        };
        let who = As {
            uid,
            gid,
            umask: self.pick(&[0o022, 0o022, 0, 0o077]),
        };
        let call = match self.below(10) {
            0 | 1 => self.open(),
            2..=4 => self.on_names(),
            5..=7 => self.on_file(),
            8 => self.on_xattr(),
            _ => self.on_inode(),
        };
        // A refused one clears suid in ext4 all the same, and the kernel does not learn that from a FUSE mount.
        let is_fallocate = matches!(call, Call::Fallocate { .. });
        let who = if is_fallocate {
            As {
                uid: 0,
                gid: 0,
                ..who
            }
        } else {
            who
        };
        (who, call)
    }
}
