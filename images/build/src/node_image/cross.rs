//! Rust for another architecture than this machine's: Debian's, of packages that are unpacked and not installed. There
//! is no C compiler in it, so crates that compile C cannot be built.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::arch::Arch;
use super::host::Host;
use crate::apt::{Apt, Package};
use crate::cargo::Rust;

/// The package of the compiler. Debian keeps it new enough for browsers, in its stable releases too.
const COMPILER: &str = "rustc-web";
/// The package of the standard library; the compiler's own library comes with it.
const STANDARD_LIBRARY: &str = "libstd-rust-web-dev";
/// The oldest Rust that our code compiles with.
const NEEDED: &str = env!("CARGO_PKG_RUST_VERSION");

/// Fetches the Rust that builds for `arch`: what runs here by `machine`, what is linked in by `image`, which is apt for
/// `arch`.
///
/// # Errors
/// Debian has none that is new enough, or packages cannot be fetched.
pub(super) fn rust(machine: &Apt, image: &Apt, arch: Arch, work: &Path) -> Result<Rust> {
    let compiler = machine.alone(COMPILER).with_context(|| unavailable(arch))?;
    ensure!(
        is_at_least(&compiler.version, NEEDED),
        "{COMPILER} here is {}: {}",
        compiler.version,
        unavailable(arch)
    );
    let target_library = image.alone(STANDARD_LIBRARY)?;
    ensure!(
        compiler.version == target_library.version,
        "{COMPILER} is {} here and {} for {}: fetch newer lists of both with --update",
        compiler.version,
        target_library.version,
        arch.name()
    );
    // The compiler's dependencies without a C compiler: cargo takes this machine's for what runs while it builds.
    let binutils = format!("binutils-{}", arch.multiarch().replace('_', "-"));
    let mut tools = machine.with_dependencies(&[STANDARD_LIBRARY, &binutils])?;
    let host_library = tools.iter().find(|package| package.name == STANDARD_LIBRARY);
    let host_library = host_library
        .with_context(|| format!("apt brought no {STANDARD_LIBRARY}"))?
        .clone();
    tools.push(compiler);
    let tools = Host::new(tools)?;

    let folder = work.join(format!("rust-{}", arch.name()));
    fs::create_dir_all(&folder)?;
    let sysroot = sysroot(&folder, &[host_library, target_library])?;
    let mut rustc = tools.command("rustc")?;
    rustc.arg("--sysroot").arg(sysroot);
    let c = CLibrary::fetch(image, arch)?;
    let mut linker = tools.command(&format!("{}-ld.bfd", arch.multiarch()))?;
    linker.args(c.start());
    Ok(Rust {
        rustc: script(&folder.join("rustc"), &rustc, &[])?,
        // By this name rustc knows that it is not a C compiler.
        linker: script(&folder.join("ld"), &linker, &c.end())?,
        target: folder.join("target"),
        glibc: c.version,
    })
}

/// What to do where Debian has no such Rust.
fn unavailable(arch: Arch) -> String {
    format!(
        "the boot program for {} is built with Debian's package {COMPILER}, version {NEEDED} or newer; name package \
         sources that have it with --sources, such as Debian 12's with its security updates, or build on a machine of \
         that architecture",
        arch.name()
    )
}

/// Whether a Debian version is of a Rust (or other) release that is `needed` or newer.
fn is_at_least(version: &str, needed: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(|character: char| !character.is_ascii_digit())
            .map_while(|number| number.parse().ok())
            .take(2)
            .collect()
    };
    numbers(version) >= numbers(needed)
}

/// A folder in which the compiler finds several packages' standard libraries.
fn sysroot(folder: &Path, libraries: &[Package]) -> Result<PathBuf> {
    let sysroot = folder.join("sysroot");
    if sysroot.exists() {
        fs::remove_dir_all(&sysroot)?;
    }
    let to = sysroot.join("lib/rustlib");
    fs::create_dir_all(&to)?;
    for library in libraries {
        let from = library.root.join("usr/lib/rustlib");
        for target in fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))? {
            let target = target?;
            symlink(target.path(), to.join(target.file_name()))?;
        }
    }
    Ok(sysroot)
}

/// What a C compiler would have linked in.
struct CLibrary {
    version: String,
    /// glibc's and GCC's folders.
    folders: [PathBuf; 2],
}

impl CLibrary {
    fn fetch(image: &Apt, arch: Arch) -> Result<Self> {
        let glibc = image.alone("libc6-dev")?;
        // Such as gcc-12-base: the release that this Debian is built with.
        let base = image.first_dependency("libgcc-s1")?;
        let release = base
            .strip_prefix("gcc-")
            .and_then(|name| name.strip_suffix("-base"))
            .with_context(|| format!("libgcc-s1 depends on {base}, which names no release of GCC"))?;
        let gcc = image.alone(&format!("libgcc-{release}-dev"))?;
        let folder = |package: &Package, path: &str| package.root.join(path).join(arch.multiarch());
        Ok(Self {
            version: upstream(&glibc.version).to_owned(),
            folders: [
                folder(&glibc, "usr/lib"),
                folder(&gcc, "usr/lib/gcc").join(release),
            ],
        })
    }

    /// The linker's first arguments, for a static program at a fixed address.
    fn start(&self) -> Vec<String> {
        let [glibc, gcc] = self.folders.each_ref().map(|folder| folder.display());
        vec![
            format!("{glibc}/crt1.o"),
            format!("{glibc}/crti.o"),
            format!("{gcc}/crtbeginT.o"),
            format!("-L{glibc}"),
            format!("-L{gcc}"),
        ]
    }

    /// The linker's last arguments.
    fn end(&self) -> Vec<String> {
        let [glibc, gcc] = self.folders.each_ref().map(|folder| folder.display());
        // They need one another.
        let mut arguments = ["--start-group", "-lgcc", "-lgcc_eh", "-lc", "--end-group"]
            .map(str::to_owned)
            .to_vec();
        arguments.extend([format!("{gcc}/crtend.o"), format!("{glibc}/crtn.o")]);
        arguments
    }
}

/// Debian's version without what is Debian's in it.
fn upstream(version: &str) -> &str {
    version.rsplit_once('-').map_or(version, |(upstream, _)| upstream)
}

/// Writes a program that runs `command` with its own arguments and then `last`.
fn script(path: &Path, command: &Command, last: &[String]) -> Result<PathBuf> {
    let first = [command.get_program()].into_iter().chain(command.get_args());
    let first: Vec<_> = first.map(|word| quoted(&word.to_string_lossy())).collect();
    let last: Vec<_> = last.iter().map(|word| quoted(word)).collect();
    let text = format!("#!/bin/sh\nexec {} \"$@\" {}\n", first.join(" "), last.join(" "));
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_owned())
}

/// A word for the shell, taken as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert!(is_at_least("1.96.0+dfsg1-1~deb12u2", "1.90"));
        assert!(is_at_least("1.100.0+dfsg1-1", "1.90"));
        assert!(is_at_least("1.90.0", "1.90"));
        assert!(!is_at_least("1.85.0+dfsg3-1~deb12u3", "1.90"));
        assert!(!is_at_least("odd", "1.90"));
    }

    #[test]
    fn a_script_passes_on_every_word_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut echo = Command::new("printf");
        echo.args(["%s;", "it's \"one\" $word"]);
        let script = script(&folder.path().join("script"), &echo, &["the last".to_owned()]).unwrap();
        let told = Command::new(script).args(["a b", "*"]).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert_eq!(told, "it's \"one\" $word;a b;*;the last;");
    }
}
