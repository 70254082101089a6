//! Another store in the place of this node's own: the old one is kept beside, and the node's id changes with it.
//!
//! Cut short anywhere, the directory either is as it was, or refuses to start until the same command finishes it: a store
//! and `node.json` that name different nodes never run together.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tradewind_api::{ClusterName, NodeId};

use super::{DataDir, DataDirError, STORE_DIR, unwritable};

/// Where a new store is made.
const NEW_STORE: &str = "store.new";
/// Kept stores of one name: nobody recovers as often as this.
const MAX_KEPT: u32 = 1_000;

impl DataDir {
    /// Where a new store may be made, on the same file system as the present one. What an interrupted attempt left there
    /// is gone.
    pub fn room(&self) -> Result<PathBuf, DataDirError> {
        let room = self.path.join(NEW_STORE);
        if room.exists() {
            fs::remove_dir_all(&room).map_err(|error| unwritable(&room, &error))?;
        }
        Ok(room)
    }

    /// Puts the store made in [`DataDir::room`] in the place of the present one, which stays beside under the name `kept`
    /// (or one like it), and takes its node id. Says where the old one is now.
    pub fn replace_store(
        &mut self,
        kept: &str,
        node_id: NodeId,
    ) -> Result<Option<PathBuf>, DataDirError> {
        let (room, store) = (self.path.join(NEW_STORE), self.store());
        let failed = |error: io::Error| unwritable(&store, &error);
        let moved = if store.exists() {
            exchange(&room, &store).map_err(failed)?;
            Some(self.keep(kept)?)
        } else {
            fs::rename(&room, &store).map_err(failed)?;
            None
        };
        sync(&self.path)?;
        self.set_node_id(node_id)?;
        Ok(moved)
    }

    /// Finishes a replacement that was cut short: `held` is whose store lies here now. True when there was one.
    pub fn finish_replacement(
        &mut self,
        held: Option<&(NodeId, ClusterName)>,
    ) -> Result<bool, DataDirError> {
        let Some((node_id, cluster)) = held else {
            return Ok(false);
        };
        // Ids only grow: a store that is newer than the node is one that was put here.
        if *node_id <= self.node.node_id || *cluster != self.node.cluster {
            return Ok(false);
        }
        if self.path.join(NEW_STORE).exists() {
            self.keep(&format!("{STORE_DIR}.before-{node_id}"))?;
        }
        sync(&self.path)?;
        self.set_node_id(*node_id)?;
        Ok(true)
    }

    /// Gives what lies in the room a name that nothing has yet.
    fn keep(&self, name: &str) -> Result<PathBuf, DataDirError> {
        let room = self.path.join(NEW_STORE);
        let names = (1..MAX_KEPT).map(|n| match n {
            1 => name.to_owned(),
            n => format!("{name}-{n}"),
        });
        let free = names
            .map(|name| self.path.join(name))
            .find(|path| !path.exists());
        let free = free.unwrap_or_else(|| self.path.join(name));
        fs::rename(&room, &free).map_err(|error| unwritable(&free, &error))?;
        Ok(free)
    }

    fn set_node_id(&mut self, node_id: NodeId) -> Result<(), DataDirError> {
        let mut node = self.node.clone();
        node.node_id = node_id;
        self.replace(node)
    }
}

/// Swaps two names at once: there is no moment without a store, in which a controller would start with an empty one.
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    Ok(renameat2(
        AT_FDCWD,
        a,
        AT_FDCWD,
        b,
        RenameFlags::RENAME_EXCHANGE,
    )?)
}

fn sync(dir: &Path) -> Result<(), DataDirError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|error| unwritable(dir, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::tests::made;

    fn store(path: &Path, text: &str) {
        fs::create_dir(path).unwrap();
        fs::write(path.join("who"), text).unwrap();
    }

    fn who(path: &Path) -> String {
        fs::read_to_string(path.join("who")).unwrap()
    }

    #[test]
    fn the_old_store_stays_beside_and_the_id_changes() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data");
        made(&path);
        let mut dir = DataDir::open(&path).unwrap();
        let room = dir.room().unwrap();
        store(&room, "first");
        assert_eq!(dir.replace_store("store.kept", 5).unwrap(), None);
        assert_eq!(who(&path.join("store")), "first");
        for (text, kept, old) in [
            ("second", "store.kept", "first"),
            ("third", "store.kept-2", "second"),
        ] {
            let room = dir.room().unwrap();
            store(&room, text);
            let moved = dir.replace_store("store.kept", 9).unwrap();
            assert_eq!(moved, Some(path.join(kept)));
            assert_eq!(
                (who(&path.join("store")), who(&path.join(kept))),
                (text.into(), old.into())
            );
            assert!(!room.exists());
        }
        drop(dir);
        assert_eq!(DataDir::read_node(&path).unwrap().unwrap().node_id, 9);
    }

    #[test]
    fn what_was_cut_short_is_finished_or_forgotten() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data");
        made(&path);
        let mut dir = DataDir::open(&path).unwrap();
        let west = dir.node().cluster.clone();
        // Half a new store: the old one is in its place, and its id is the node's.
        store(&path.join("store"), "old");
        store(&path.join("store.new"), "half");
        assert!(!dir.finish_replacement(Some(&(1, west.clone()))).unwrap());
        assert!(!dir.room().unwrap().exists());
        assert_eq!(who(&path.join("store")), "old");
        // Swapped, and no more: the room holds the old one, which must not be lost.
        store(&path.join("store.new"), "new");
        exchange(&path.join("store.new"), &path.join("store")).unwrap();
        let east = ClusterName::new("east").unwrap();
        assert!(
            !dir.finish_replacement(Some(&(7, east))).unwrap(),
            "a stranger's store"
        );
        assert!(dir.finish_replacement(Some(&(7, west.clone()))).unwrap());
        assert_eq!(who(&path.join("store")), "new");
        assert_eq!(who(&path.join("store.before-7")), "old");
        assert_eq!(dir.node().node_id, 7);
        assert!(!dir.finish_replacement(Some(&(7, west))).unwrap());
    }
}
