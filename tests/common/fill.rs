//! A tree with one of everything, made by ordinary tools.

use super::sh;
use std::path::Path;
use std::time::Duration;

/// What an image can hold; the rest is left out of the tree.
#[derive(Clone, Copy)]
pub struct Ability {
    /// Extents: fallocate works.
    pub extents: bool,
    /// Inodes have room for nanoseconds and years after 2038.
    pub large_inodes: bool,
    /// Names in the large directory.
    pub names: u32,
    /// Bytes in the largest attribute value.
    pub xattr: u32,
}

impl Ability {
    pub const DEFAULT: Self = Self {
        extents: true,
        large_inodes: true,
        names: 2000,
        xattr: 2500,
    };
}

/// Makes the tree in `root`, then changes part of it, so that freed and reused blocks are among the result.
pub fn fill(root: &Path, ability: Ability) {
    let head = format!(
        "cd '{}'\nNAMES={}\nXATTR={}\nEXTENTS={}\nLARGE_INODES={}\numask 022\n",
        root.display(),
        ability.names,
        ability.xattr,
        u8::from(ability.extents),
        u8::from(ability.large_inodes),
    );
    sh(Duration::from_secs(120), &format!("{head}{TREE}"));
}

const TREE: &str = r#"
# Ordinary files: empty, inside a block, across blocks, some MiB.
mkdir -p files/a/b/c/d
: > files/empty
echo hello > files/small
seq 1 200000 > files/a/numbers
head -c 5000000 /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2>/dev/null > files/a/b/random || seq 1 700000 > files/a/b/random
cp -a files/a/numbers files/a/b/c/copy
tar -cf files/a/b/c/d/archive.tar -C /etc passwd group
for n in $(seq 1 40); do echo "$n" >> files/appended; sync files/appended; done

# Hard links, over directories.
ln files/small files/a/hard1
ln files/small files/a/b/hard2

# Symbolic links: in the inode, and in a block.
ln -s small files/fast
ln -s "$(printf 'x%.0s' $(seq 1 200))/$(printf 'y%.0s' $(seq 1 200))" files/slow
ln -s "$(printf '59%.0s' $(seq 1 29))5" files/longest_fast
ln -s "$(printf '60%.0s' $(seq 1 30))" files/shortest_slow

# Holes: at the start, in the middle, at the end, and one beyond the double indirect range of small blocks.
truncate -s 1M files/hole
for n in 3 50 700; do echo data | dd of=files/sparse bs=4096 seek=$n conv=notrunc status=none; done
truncate -s 8M files/sparse
echo far | dd of=files/far bs=1M seek=300 conv=notrunc status=none

# Cut and grown again: what was behind the cut reads as zeros.
seq 1 20000 > files/cut
truncate -s 5001 files/cut
truncate -s 70000 files/cut

if [ "$EXTENTS" = 1 ]; then
    fallocate -l 2M files/allocated
    echo small > files/small_allocated; fallocate -n -l 3M files/small_allocated
    seq 1 100000 > files/punched
    fallocate -p -o 8192 -l 65536 files/punched
    seq 1 100000 > files/zeroed
    fallocate -z -o 12288 -l 40960 files/zeroed
    # More extents than an inode holds.
    for n in $(seq 0 2 40); do head -c 4096 /etc/passwd | dd of=files/many bs=16384 seek=$n conv=notrunc status=none; done
fi
# Map blocks count as soon as they are there: with the data.
find files -type f -size +11k -exec sync {} +

# Special files.
mkdir special
mkfifo special/fifo
mknod special/char c 1 3
mknod special/block b 7 200
mknod special/large_numbers c 300 70000
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("special/socket")' 2>/dev/null || mknod special/other_fifo p

# Owners, modes, times.
mkdir modes
for mode in 0000 0644 0755 4755 2755 1777 6777 0400; do : > modes/$mode; chmod $mode modes/$mode; done
mkdir modes/sticky modes/setgid
chmod 1777 modes/sticky
chgrp 60000 modes/setgid
chmod 2775 modes/setgid
: > modes/setgid/inherits
: > modes/owned; chown 1234:4321 modes/owned
: > modes/large_ids; chown 400000:500000 modes/large_ids
touch -d '1970-01-01 00:00:01 UTC' modes/early
touch -d '2037-12-31 23:59:59 UTC' modes/late
touch -d '1930-02-03 04:05:06 UTC' modes/before
if [ "$LARGE_INODES" = 1 ]; then
    touch -d '2024-05-06 07:08:09.123456789 UTC' modes/nanoseconds
    touch -d '2100-02-03 04:05:06.5 UTC' modes/after_2038
    touch -d '2446-01-01 00:00:00 UTC' modes/last
fi

# Attributes: in the inode, in a block, shared, empty; ACLs, also inherited.
mkdir xattrs
: > xattrs/one; setfattr -n user.comment -v 'a short one' xattrs/one
: > xattrs/empty; setfattr -n user.empty xattrs/empty
: > xattrs/trusted; setfattr -n trusted.note -v secret xattrs/trusted
BIG=$(head -c "$XATTR" /dev/zero | tr '\0' v)
for n in 1 2 3; do : > xattrs/big$n; setfattr -n user.big -v "$BIG" xattrs/big$n; done
setfattr -n user.more -v 'with another' xattrs/big2
setfattr -x user.big xattrs/big3
: > xattrs/many; for n in $(seq 1 20); do setfattr -n user.n$n -v value$n xattrs/many; done
setfattr -x user.n7 xattrs/many
ln -s one xattrs/link; setfattr -h -n trusted.onlink -v yes xattrs/link
mkdir acls
: > acls/file; setfacl -m u:1234:rw,g:4321:r,m::rw acls/file
mkdir acls/default; setfacl -d -m u:1234:rwx,g:55:rx acls/default
: > acls/default/inherited
mkdir acls/default/dir
: > acls/default/dir/deep

# A large directory, part of it removed again, and long names.
mkdir large names
(cd large; seq -f 'name-%08.0f' 1 "$NAMES" | xargs touch)
(cd large; seq -f 'name-%08.0f' 1 7 "$NAMES" | xargs rm)
for n in $(seq 1 60); do : > "names/$n-$(printf 'n%.0s' $(seq 1 $((254 - ${#n}))))"; done
: > 'names/with blank'; : > 'names/-dash'; : > "names/$(printf '\303\251')"; : > "names/$(printf '\377\376')"

# Moved and replaced.
mkdir moved moved/from moved/to
seq 1 1000 > moved/from/file
mv moved/from/file moved/to/file
echo new > moved/new; echo old > moved/old; mv -f moved/new moved/old
mkdir moved/dir; : > moved/dir/inside; mv moved/dir moved/to/dir
mkdir gone; seq 1 300000 > gone/big; touch gone/{1..50}; rm -r gone
sync -f .
"#;
