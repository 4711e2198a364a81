//! The two processor architectures, and the name that each tool has for them.

use std::env::consts::ARCH;

use anyhow::{Result, bail};
use clap::ValueEnum;
use goblin::elf::header::{EM_AARCH64, EM_X86_64};

/// What a node image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// 64-bit x86. Boots by kernelBoot and from its disk.
    Amd64,
    /// 64-bit ARM. Boots by kernelBoot only: its firmware, UEFI, would need another boot loader than a PC's BIOS.
    Arm64,
}

impl Arch {
    /// That of this machine.
    ///
    /// # Errors
    /// It is neither.
    pub fn of_this_machine() -> Result<Self> {
        match ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("node images are built on x86_64 and aarch64, and this is {other}"),
        }
    }

    /// Debian's and Go's name, and that of OCI images.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's name of it, with Linux and glibc.
    #[must_use]
    pub fn rust_target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Debian's name of the folders of its shared libraries.
    pub(super) fn multiarch(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// The file that loads programs with shared libraries.
    pub(super) fn loader(self) -> &'static str {
        match self {
            Self::Amd64 => "ld-linux-x86-64.so.2",
            Self::Arm64 => "ld-linux-aarch64.so.1",
        }
    }

    /// The number in an ELF file's header.
    pub(super) fn machine(self) -> u16 {
        match self {
            Self::Amd64 => EM_X86_64,
            Self::Arm64 => EM_AARCH64,
        }
    }
}
