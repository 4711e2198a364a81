//! What programs and libraries need, read from the files themselves: no loader of their architecture has to run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, mem};

use anyhow::{Context, Result};
use goblin::elf::Elf;

/// What an ELF file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its architecture, by the number of the ELF header.
    pub(super) machine: u16,
    /// Path of the loader that runs it; None where it is a library or static.
    pub(super) interpreter: Option<String>,
    /// Names of the shared libraries that it is linked to.
    pub(super) needed: Vec<String>,
}

/// Reads an ELF file; None when it is something else.
///
/// # Errors
/// It begins as one, and is broken.
pub(super) fn facts(content: &[u8]) -> Result<Option<Facts>> {
    if !content.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let elf = Elf::parse(content)?;
    Ok(Some(Facts {
        machine: elf.header.e_machine,
        interpreter: elf.interpreter.map(str::to_owned),
        needed: elf.libraries.iter().map(|&name| name.to_owned()).collect(),
    }))
}

/// The content of a section, by its name.
pub(super) fn section<'a>(content: &'a [u8], name: &str) -> Result<Option<&'a [u8]>> {
    let elf = Elf::parse(content)?;
    let header = elf
        .section_headers
        .iter()
        .find(|header| elf.shdr_strtab.get_at(header.sh_name) == Some(name));
    Ok(header
        .and_then(goblin::elf::SectionHeader::file_range)
        .and_then(|range| content.get(range)))
}

/// The shared libraries that `programs` need, and those that these need, by name; `find` knows where one is.
///
/// # Errors
/// One is nowhere, or cannot be read.
pub(super) fn libraries(
    programs: &[PathBuf],
    find: impl Fn(&str) -> Option<PathBuf>,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut unread = programs.to_vec();
    while !unread.is_empty() {
        for path in mem::take(&mut unread) {
            for name in needs(&path)? {
                if found.contains_key(&name) {
                    continue;
                }
                let library = find(&name)
                    .with_context(|| format!("{} needs {name}, which no package brings", path.display()))?;
                unread.push(library.clone());
                found.insert(name, library);
            }
        }
    }
    Ok(found)
}

fn needs(path: &Path) -> Result<Vec<String>> {
    let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let facts = facts(&content).with_context(|| format!("reading {}", path.display()))?;
    Ok(facts.map(|facts| facts.needed).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    /// This test program: linked to libc as any other.
    fn this() -> PathBuf {
        env::current_exe().unwrap()
    }

    #[test]
    fn a_program_names_its_loader_and_its_libraries() {
        let facts = facts(&fs::read(this()).unwrap()).unwrap().unwrap();
        assert!(facts.interpreter.unwrap().contains("ld-linux"));
        assert!(
            facts.needed.contains(&"libc.so.6".to_owned()),
            "{:?}",
            facts.needed
        );
    }

    #[test]
    fn what_is_no_elf_file_needs_nothing() {
        assert_eq!(facts(b"#!/bin/sh").unwrap(), None);
        assert!(facts(b"\x7fELFxxxx").is_err());
    }

    #[test]
    fn a_library_that_is_nowhere_is_named() {
        let error = libraries(&[this()], |_| None).unwrap_err().to_string();
        assert!(
            error.contains(".so") && error.contains("no package brings"),
            "{error}"
        );
    }

    #[test]
    fn sections_are_found_by_name() {
        let content = fs::read(this()).unwrap();
        let interpreter = section(&content, ".interp").unwrap().unwrap();
        assert!(String::from_utf8_lossy(interpreter).contains("ld-linux"));
        assert_eq!(section(&content, ".no-such-section").unwrap(), None);
    }
}
