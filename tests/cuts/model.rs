//! What a run did, operation by operation, and what an image may hold after the power was cut during one of them.
//!
//! Names, links and attributes change in one transaction each, so a recovered tree is the tree after some operation, and not
//! one older than what was synced. File data may be ahead of it: each byte is one that the file had since it was synced last.

use std::collections::BTreeMap;
use std::sync::Arc;

pub const ROOT: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub nlink: u32,
    /// Permissions.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Names and inodes by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub dirs: BTreeMap<u32, BTreeMap<Vec<u8>, u32>>,
    pub nodes: BTreeMap<u32, Node>,
}

/// The contents that a file had, each from the operation on that made it.
#[derive(Default)]
pub struct History {
    versions: Vec<(usize, Vec<u8>)>,
    synced: Vec<usize>,
}

impl History {
    fn latest(&self) -> &[u8] {
        self.versions.last().map_or(&[], |(_, bytes)| bytes)
    }

    /// The last operation before `cut` that made all of it durable, 0 if there is none.
    fn synced_before(&self, cut: usize) -> usize {
        let mut synced = self.synced.iter().rev();
        synced.find(|&&at| at < cut).copied().unwrap_or(0)
    }

    /// What it may hold when the power is cut in operation `cut`, and operation `flushed` is known to have got down.
    fn allowed(&self, cut: usize, flushed: usize) -> Vec<&[u8]> {
        let synced = self.synced_before(cut).max(flushed);
        let first = self
            .versions
            .iter()
            .rposition(|(at, _)| *at <= synced)
            .unwrap_or(0);
        let end = self
            .versions
            .iter()
            .rposition(|(at, _)| *at <= cut)
            .map_or(0, |at| at + 1);
        self.versions[first..end.max(first)]
            .iter()
            .map(|(_, bytes)| bytes.as_slice())
            .collect()
    }

    fn check(&self, cut: usize, flushed: usize, found: &[u8]) -> Result<(), String> {
        let allowed = self.allowed(cut, flushed);
        if allowed.last().is_some_and(|last| *last == found) {
            return Ok(());
        }
        let sizes = allowed.iter().map(|version| version.len());
        let (least, most) = (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0));
        if found.len() < least || found.len() > most {
            return Err(format!("size {} is not in {least}..={most}", found.len()));
        }
        for (index, sector) in found.chunks(SECTOR).enumerate() {
            let at = index * SECTOR;
            if !allowed.iter().any(|version| holds(version, at, sector)) {
                let all: Vec<_> = allowed.iter().map(|v| v.get(at).copied()).collect();
                return Err(format!(
                    "the sector at {at} of {} (it begins with {}) is of none of {} versions: {all:?}",
                    found.len(),
                    sector[0],
                    allowed.len()
                ));
            }
        }
        Ok(())
    }
}

/// What a disk writes whole.
const SECTOR: usize = 512;

/// Whether a version of a file has these bytes there; zeros follow its end.
fn holds(version: &[u8], at: usize, bytes: &[u8]) -> bool {
    let rest = version.get(at..).unwrap_or(&[]);
    let common = rest.len().min(bytes.len());
    rest[..common] == bytes[..common] && bytes[common..].iter().all(|&byte| byte == 0)
}

/// The tree, and the operation that made each file in it.
type State = (Arc<Tree>, Arc<BTreeMap<u32, usize>>);

/// The run so far.
pub struct Model {
    pub tree: Tree,
    /// Which file an inode number is (numbers are used again).
    births: BTreeMap<u32, usize>,
    histories: BTreeMap<(u32, usize), History>,
    /// After each operation.
    states: Vec<State>,
    /// The operation that last changed the names or attributes of an inode.
    touched: BTreeMap<u32, usize>,
    /// All of these changes, with their operations.
    touches: Vec<(usize, u32)>,
    /// Once the first is over, the tree is not older than after the second.
    synced: Vec<(usize, usize)>,
    /// Renames that replaced a file: the data of the new one is down before its name is.
    replaced: Vec<(usize, u32, usize)>,
}

impl Model {
    pub fn new(tree: Tree) -> Self {
        let states = vec![(Arc::new(tree.clone()), Arc::default())];
        Self {
            tree,
            births: BTreeMap::new(),
            histories: BTreeMap::new(),
            states,
            touched: BTreeMap::new(),
            touches: Vec::new(),
            synced: Vec::new(),
            replaced: Vec::new(),
        }
    }

    /// The number of the operation under way.
    pub fn now(&self) -> usize {
        self.states.len()
    }

    /// The operation under way is over.
    pub fn end(&mut self) {
        let (tree, births) = &self.states[self.states.len() - 1];
        let tree = if **tree == self.tree {
            Arc::clone(tree)
        } else {
            Arc::new(self.tree.clone())
        };
        let births = if **births == self.births {
            Arc::clone(births)
        } else {
            Arc::new(self.births.clone())
        };
        self.states.push((tree, births));
    }

    pub fn touch(&mut self, ino: u32) {
        self.touched.insert(ino, self.now());
        self.touches.push((self.now(), ino));
    }

    pub fn add(&mut self, dir: u32, name: &[u8], ino: u32, kind: Kind) {
        let now = self.now();
        let is_dir = kind == Kind::Directory;
        if is_dir {
            self.tree.dirs.insert(ino, BTreeMap::new());
            self.parent(dir, 1);
        }
        let nlink = if is_dir { 2 } else { 1 };
        let mode = match kind {
            Kind::File => 0o644,
            Kind::Directory => 0o755,
            Kind::Symlink(_) => 0o777,
        };
        self.tree.nodes.insert(
            ino,
            Node {
                kind,
                nlink,
                mode,
                uid: 0,
                gid: 0,
                xattrs: BTreeMap::new(),
            },
        );
        self.births.insert(ino, now);
        self.histories.insert(
            (ino, now),
            History {
                versions: vec![(now, Vec::new())],
                synced: Vec::new(),
            },
        );
        self.enter(dir, name, ino);
    }

    pub fn enter(&mut self, dir: u32, name: &[u8], ino: u32) {
        self.tree
            .dirs
            .get_mut(&dir)
            .expect("a directory")
            .insert(name.to_vec(), ino);
        self.touch(dir);
        self.touch(ino);
    }

    /// Takes a name away, not what it names.
    pub fn leave(&mut self, dir: u32, name: &[u8]) -> u32 {
        self.touch(dir);
        self.tree
            .dirs
            .get_mut(&dir)
            .expect("a directory")
            .remove(name)
            .expect("a name")
    }

    /// One name less; the inode goes with the last.
    pub fn drop_link(&mut self, dir: u32, ino: u32) {
        self.touch(ino);
        if self.tree.dirs.remove(&ino).is_some() {
            self.parent(dir, -1);
            self.tree.nodes.remove(&ino);
            return;
        }
        let node = self.tree.nodes.get_mut(&ino).expect("a node");
        node.nlink -= 1;
        if node.nlink == 0 {
            self.tree.nodes.remove(&ino);
        }
    }

    pub fn is_dir(&self, ino: u32) -> bool {
        self.tree.dirs.contains_key(&ino)
    }

    /// A directory came or went in `dir`.
    pub fn parent(&mut self, dir: u32, links: i32) {
        let node = self.tree.nodes.get_mut(&dir).expect("a directory");
        node.nlink = node.nlink.checked_add_signed(links).expect("links");
    }

    pub fn node(&mut self, ino: u32) -> &mut Node {
        self.touch(ino);
        self.tree.nodes.get_mut(&ino).expect("a node")
    }

    /// Of all files.
    pub fn sizes(&self) -> BTreeMap<u32, u64> {
        let nodes = self.tree.nodes.keys();
        nodes.map(|ino| (*ino, self.size(*ino))).collect()
    }

    fn size(&self, ino: u32) -> u64 {
        let history = self
            .births
            .get(&ino)
            .map(|birth| &self.histories[&(ino, *birth)]);
        history.map_or(0, |history| history.latest().len() as u64)
    }

    pub fn content(&self, ino: u32) -> Vec<u8> {
        self.history(ino).latest().to_vec()
    }

    /// The file's content from this operation on.
    pub fn set_content(&mut self, ino: u32, bytes: Vec<u8>) {
        let now = self.now();
        let birth = self.births[&ino];
        self.histories
            .get_mut(&(ino, birth))
            .expect("a history")
            .versions
            .push((now, bytes));
    }

    /// The operation under way puts this file in the place of another.
    pub fn flush_before_replace(&mut self, ino: u32) {
        if let Some(birth) = self.births.get(&ino) {
            self.replaced.push((self.now(), ino, *birth));
        }
    }

    /// The operation under way makes the file's content durable.
    pub fn sync_data(&mut self, ino: u32) {
        let now = self.now();
        if let Some(birth) = self.births.get(&ino) {
            self.histories
                .get_mut(&(ino, *birth))
                .expect("a history")
                .synced
                .push(now);
        }
    }

    /// The operation under way makes the inode durable.
    pub fn sync(&mut self, ino: u32) {
        self.sync_data(ino);
        let now = self.now();
        let touched = self.touched.get(&ino).copied().unwrap_or(0);
        self.synced.push((now, touched));
    }

    /// The same for everything.
    pub fn sync_all(&mut self) {
        let now = self.now();
        for history in self.histories.values_mut() {
            history.synced.push(now);
        }
        self.synced.push((now, now - 1));
    }

    /// How many files were synced before operation `cut` and not touched since; an error if one is not whole.
    pub fn judge_synced(
        &self,
        cut: usize,
        contents: &BTreeMap<u32, Vec<u8>>,
    ) -> Result<usize, String> {
        let mut files = 0;
        for (ino, birth) in self.states[cut.min(self.states.len() - 1)].1.iter() {
            let history = &self.histories[&(*ino, *birth)];
            let synced = history.synced_before(cut);
            let untouched = self
                .touches
                .iter()
                .all(|(at, what)| what != ino || !(synced + 1..=cut).contains(at));
            let (tree, _) = &self.states[synced];
            let is_file = tree
                .nodes
                .get(ino)
                .is_some_and(|node| node.kind == Kind::File);
            let allowed = history.allowed(cut, 0);
            if synced < *birth || !untouched || !is_file || allowed.len() != 1 {
                continue;
            }
            files += 1;
            match contents.get(ino) {
                Some(found) if *found == allowed[0] => {}
                Some(found) => {
                    let lengths = (found.len(), allowed[0].len());
                    return Err(format!(
                        "inode {ino}, synced by operation {synced}, differs: {lengths:?}"
                    ));
                }
                None => {
                    return Err(format!(
                        "inode {ino}, synced by operation {synced}, is lost"
                    ));
                }
            }
        }
        Ok(files)
    }

    fn history(&self, ino: u32) -> &History {
        &self.histories[&(ino, self.births[&ino])]
    }

    /// Whether an image cut in operation `cut` may hold `tree` with these contents.
    pub fn judge(
        &self,
        cut: usize,
        tree: &Tree,
        contents: &BTreeMap<u32, Vec<u8>>,
    ) -> Result<(), String> {
        let last = cut.min(self.states.len() - 1);
        let oldest = self
            .synced
            .iter()
            .filter(|(at, _)| *at < cut)
            .map(|(_, to)| *to)
            .max()
            .unwrap_or(0);
        let Some(at) = (oldest..=last)
            .rev()
            .find(|&at| *self.states[at].0 == *tree)
        else {
            let near = &self.states[last].0;
            return Err(format!(
                "the tree is of no operation in {oldest}..={last}: {}",
                difference(near, tree)
            ));
        };
        // Equal trees of several operations: a number may have been another file's, and only the oldest is sure.
        let births = &self.states[at].1;
        let sure = (oldest..=at)
            .find(|&at| *self.states[at].0 == *tree)
            .unwrap_or(at);
        for (ino, found) in contents {
            let Some(birth) = births.get(ino) else {
                continue;
            };
            let replaced = self.replaced.iter().rev();
            let flushed = replaced
                .filter(|(at, which, born)| *at <= sure && (which, born) == (ino, birth))
                .map(|(at, _, _)| *at)
                .next();
            self.histories[&(*ino, *birth)]
                .check(cut, flushed.unwrap_or(0), found)
                .map_err(|error| format!("inode {ino}, made by operation {birth}: {error}"))?;
        }
        Ok(())
    }
}

/// Where two trees differ, in short.
fn difference(wanted: &Tree, found: &Tree) -> String {
    let mut all = Vec::new();
    for (ino, names) in &wanted.dirs {
        let other = found.dirs.get(ino);
        for (name, to) in names {
            let is = other.and_then(|o| o.get(name));
            if is != Some(to) {
                all.push(format!(
                    "{ino}/{} {to} is {is:?}",
                    String::from_utf8_lossy(name)
                ));
            }
        }
        for (name, is) in other
            .into_iter()
            .flatten()
            .filter(|(name, _)| !names.contains_key(*name))
        {
            all.push(format!("{ino}/{} is {is}", String::from_utf8_lossy(name)));
        }
    }
    for (ino, node) in &wanted.nodes {
        if let Some(is) = found.nodes.get(ino)
            && is != node
        {
            let (links, attributes) = (is.nlink, is.xattrs.len());
            all.push(format!(
                "{ino} {:?} with {} links, {} xattrs, mode {:o} is {:?} with {links}, {attributes}, {:o}",
                node.kind,
                node.nlink,
                node.xattrs.len(),
                node.mode,
                is.kind,
                is.mode
            ));
        }
    }
    all.truncate(12);
    all.join("; ")
}
