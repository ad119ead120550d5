//! What a mounted file system shows.

use crate::form::WHO;
use crate::model::{Kind, Node, ROOT, Tree};
use crate::op::{FILLER, ino};
use std::collections::BTreeMap;
use uext4::error::Result;
use uext4::fs::Fs;

pub type Contents = BTreeMap<u32, Vec<u8>>;

/// The tree, the contents of its files, and the blocks of 512 bytes that all of it uses.
pub fn dump(fs: &Fs) -> Result<(Tree, Contents, u64)> {
    let mut tree = Tree::default();
    let mut contents = BTreeMap::new();
    let mut todo = vec![ROOT];
    let (root, mut blocks) = node(fs, ROOT, false, &mut contents)?;
    tree.nodes.insert(ROOT, root);
    while let Some(dir) = todo.pop() {
        let mut names = BTreeMap::new();
        fs.readdir(ino(dir), 0, false, &mut |item| {
            if item.name != b"." && item.name != b".." {
                names.insert(item.name.to_vec(), item.ino.get());
            }
            true
        })?;
        for (name, number) in &names {
            assert_eq!(
                fs.lookup(ino(dir), name)?.ino.get(),
                *number,
                "lookup and readdir agree"
            );
            if !tree.nodes.contains_key(number) {
                let filler = name == FILLER.as_bytes();
                let (node, used) = node(fs, *number, !filler, &mut contents)?;
                blocks += used;
                if node.kind == Kind::Directory {
                    todo.push(*number);
                }
                tree.nodes.insert(*number, node);
            }
        }
        tree.dirs.insert(dir, names);
    }
    Ok((tree, contents, blocks))
}

fn node(fs: &Fs, number: u32, read: bool, contents: &mut Contents) -> Result<(Node, u64)> {
    let attr = fs.getattr(ino(number))?;
    let kind = match attr.mode & 0o170_000 {
        0o040_000 => Kind::Directory,
        0o120_000 => Kind::Symlink(fs.readlink(ino(number))?),
        _ => {
            if read {
                let bytes = fs.read(ino(number), 0, attr.size as usize)?;
                contents.insert(number, bytes.as_slice().to_vec());
            }
            Kind::File
        }
    };
    let mut xattrs = BTreeMap::new();
    for key in fs
        .listxattr(WHO, ino(number))?
        .split(|byte| *byte == 0)
        .filter(|key| !key.is_empty())
    {
        xattrs.insert(key.to_vec(), fs.getxattr(ino(number), key)?);
    }
    let node = Node {
        kind,
        nlink: attr.nlink,
        mode: u32::from(attr.mode & 0o7777),
        uid: attr.uid,
        gid: attr.gid,
        xattrs,
    };
    Ok((node, attr.blocks))
}
