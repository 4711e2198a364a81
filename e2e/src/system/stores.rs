//! Folders in a cache that hold images, of which each change of a recipe leaves another: up to a gigabyte that only checkouts of
//! that recipe use.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// How such a folder's name begins, in the cache.
const PREFIX: &str = "image-";
/// A folder that no test has used for so long is removed. Far longer than any test takes to give its nodes their copy.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The folder in a cache for what these texts are the recipe of.
pub(crate) fn store(cache: &Path, recipe: &[&str]) -> PathBuf {
    let mut digest = Sha256::new();
    for text in recipe {
        digest.update(text);
    }
    let digest = format!("{:x}", digest.finalize());
    cache.join(format!("{PREFIX}{}", &digest[..12]))
}

/// Marks a folder as used now, and removes those beside it that are not used any more. `spare` is a path in the same cache
/// that is not kept. Call it under the cache's lock: then a folder that another test is about to use is marked already.
pub(crate) fn use_one(store: &Path, spare: &Path) -> Result<()> {
    let now = SystemTime::now();
    File::open(store)?
        .set_modified(now)
        .with_context(|| format!("marking {} as used", store.display()))?;
    for entry in fs::read_dir(store.parent().context("the cache is a folder")?)? {
        let entry = entry?;
        let used = entry.metadata()?.modified()?;
        let unused = now.duration_since(used).is_ok_and(|time| time > UNUSED);
        if unused && entry.file_name().to_string_lossy().starts_with(PREFIX) {
            // What is left of it when this process is killed is not taken for the whole of it.
            clear(spare)?;
            fs::rename(entry.path(), spare)?;
            clear(spare)?;
        }
    }
    Ok(())
}

/// Removes a folder, if it is there.
pub(crate) fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_or_was_lately_is_kept() {
        let cache = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(60 * 60);
        let folders = [
            ("image-used", UNUSED + hour),
            ("image-other", UNUSED.checked_sub(hour).unwrap()),
            ("image-old", UNUSED + hour),
            ("image-older", UNUSED * 2),
            ("apt", UNUSED * 2),
        ];
        for (name, age) in folders {
            let folder = cache.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), name).unwrap();
            let used = SystemTime::now().checked_sub(age).unwrap();
            File::open(&folder).unwrap().set_modified(used).unwrap();
        }
        use_one(&cache.path().join("image-used"), &cache.path().join("spare")).unwrap();
        let mut left: Vec<_> = fs::read_dir(cache.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["apt", "image-other", "image-used"]);
        let used = fs::metadata(cache.path().join("image-used"))
            .unwrap()
            .modified()
            .unwrap();
        assert!(used.elapsed().unwrap() < hour);
    }
}
