//! Debian packages, fetched and unpacked without touching what is installed: apt with lists, caches and a status of its
//! own, in which nothing is installed. Only where packages come from is taken from the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::command::say;

/// apt for one architecture. Needs no root.
#[derive(Clone, Debug)]
pub struct Apt {
    folder: PathBuf,
}

/// A package, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Debian's name of it.
    pub name: String,
    /// Its version.
    pub(crate) version: String,
    /// Debian's name of its architecture, `all` if it is for any.
    pub(crate) arch: String,
    /// Folder of its files.
    pub root: PathBuf,
}

impl Apt {
    /// Works in `folder`; `sources` is a file of package sources to use in place of the machine's own. Fetches the
    /// lists of packages if there are none of these sources yet, or if told to. Blocks.
    ///
    /// # Errors
    /// The machine has no apt, or the lists cannot be fetched.
    pub(crate) fn new(folder: &Path, arch: &str, sources: Option<&Path>, update: bool) -> Result<Self> {
        for name in ["state/lists/partial", "cache/archives/partial", "unpacked"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::write(folder.join("state/status"), "")?;
        let apt = Self {
            folder: folder.to_owned(),
        };
        // The machine's proxies, but not its hooks, which would act on its own state.
        let acquire = run(Command::new("apt-config").args(["dump", "Acquire"]))?;
        let configuration = format!("{acquire}\n{}", settings(folder, arch, sources));
        fs::write(folder.join("apt.conf"), configuration)?;
        let listed = folder.join("state/listed");
        let of = sources.map(fs::read_to_string).transpose();
        let of = of.context("reading the package sources")?.unwrap_or_default();
        if update || fs::read_to_string(&listed).ok().as_deref() != Some(&of) {
            say(&format!("fetching Debian's lists of packages for {arch}"));
            apt.run("apt-get", &["--quiet=2", "update"])?;
            fs::write(listed, of)?;
        }
        Ok(apt)
    }

    /// [`Self::new`] for another release of Debian than the machine's, from where the machine has its own release; the
    /// lists are fetched again.
    ///
    /// # Errors
    /// As for [`Self::new`], or the machine does not run Debian.
    pub fn of_release(folder: &Path, arch: &str, release: &str) -> Result<Self> {
        let own = debian_release()?;
        let wanted = run(Command::new("apt-get").args(["update", "--print-uris"]))?;
        let archive = archive_of(&wanted, &own)
            .with_context(|| format!("this machine's apt has no source of Debian {own}, which it runs"))?;
        fs::create_dir_all(folder)?;
        let sources = folder.join(format!("{release}.list"));
        let signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        fs::write(&sources, format!("deb {signed} {archive} {release} main\n"))?;
        Self::new(folder, arch, Some(&sources), true)
    }

    /// Fetches and unpacks packages and all that they depend on. Blocks.
    ///
    /// # Errors
    /// apt cannot plan it, fetch it or unpack it.
    pub fn with_dependencies(&self, names: &[&str]) -> Result<Vec<Package>> {
        let install = [&["install", "--yes", "--no-install-recommends"], names].concat();
        let plan = self.run("apt-get", &[&["--simulate"], install.as_slice()].concat())?;
        let wanted: Vec<_> = plan.lines().filter_map(planned).collect();
        ensure!(
            !wanted.is_empty(),
            "apt-get plans nothing for {}",
            names.join(" ")
        );
        if !wanted.iter().all(|wanted| self.archive(wanted).exists()) {
            say(&format!(
                "fetching {} Debian packages: {} …",
                wanted.len(),
                names.join(" ")
            ));
            self.run("apt-get", &[&["--download-only"], install.as_slice()].concat())?;
        }
        wanted.iter().map(|wanted| self.unpack(wanted)).collect()
    }

    /// Fetches and unpacks one package, without what it depends on. Blocks.
    ///
    /// # Errors
    /// As for [`Self::with_dependencies`].
    pub(crate) fn alone(&self, name: &str) -> Result<Package> {
        let shown = self.show(name)?;
        let field = |key| field(&shown, key).with_context(|| format!("apt-cache tells no {key} of {name}"));
        let wanted = Wanted {
            name: name.to_owned(),
            version: field("Version")?.to_owned(),
            arch: field("Architecture")?.to_owned(),
        };
        if !self.archive(&wanted).exists() {
            say(&format!("fetching the Debian package {name} {}", wanted.version));
            self.run("apt-get", &["download", name])?;
        }
        self.unpack(&wanted)
    }

    /// The first package that `name` depends on: how a metapackage says what is newest.
    ///
    /// # Errors
    /// There is no such package, or it depends on nothing.
    pub(crate) fn first_dependency(&self, name: &str) -> Result<String> {
        let shown = self.show(name)?;
        let first = field(&shown, "Depends").and_then(|depends| depends.split([',', ' ', '|']).next());
        Ok(first
            .with_context(|| format!("{name} depends on nothing"))?
            .to_owned())
    }

    fn show(&self, name: &str) -> Result<String> {
        self.run("apt-cache", &["show", "--no-all-versions", name])
    }

    fn archive(&self, wanted: &Wanted) -> PathBuf {
        self.folder.join("cache/archives").join(wanted.file_name())
    }

    fn unpack(&self, wanted: &Wanted) -> Result<Package> {
        let root = self.folder.join("unpacked").join(wanted.file_name());
        if !root.exists() {
            let unfinished = tempfile::tempdir_in(&self.folder)?;
            let archive = self.archive(wanted);
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .arg(archive)
                .arg(unfinished.path()))?;
            fs::rename(unfinished.keep(), &root)?;
        }
        Ok(Package {
            name: wanted.name.clone(),
            version: wanted.version.clone(),
            arch: wanted.arch.clone(),
            root,
        })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(Command::new(program)
            .args(arguments)
            .current_dir(self.folder.join("cache/archives"))
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C"))
    }
}

/// A version of a package.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    name: String,
    version: String,
    arch: String,
}

impl Wanted {
    /// As apt names what it fetched.
    fn file_name(&self) -> String {
        format!(
            "{}_{}_{}.deb",
            self.name,
            self.version.replace(':', "%3a"),
            self.arch
        )
    }
}

fn settings(folder: &Path, arch: &str, sources: Option<&Path>) -> String {
    let folder = folder.display();
    let own_sources = sources.map_or_else(String::new, |sources| {
        format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\n",
            sources.display()
        )
    });
    format!(
        "Dir::State \"{folder}/state\";
Dir::State::status \"{folder}/state/status\";
Dir::Cache \"{folder}/cache\";
Dir::Etc::parts \"/dev/null\";
{own_sources}APT::Architecture \"{arch}\";
APT::Architectures {{ \"{arch}\"; }};
APT::Sandbox::User \"\";
"
    )
}

/// The release of Debian that this machine runs, such as `bookworm`.
///
/// # Errors
/// It does not run Debian.
pub fn debian_release() -> Result<String> {
    let file = "/etc/os-release";
    let text = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    let release = codename(&text).map(str::to_owned);
    release.context("this machine does not run Debian: build on Debian, or in a container of it")
}

fn codename(os_release: &str) -> Option<&str> {
    let mut lines = os_release.lines();
    let name = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.filter(|_| os_release.lines().any(|line| line == "ID=debian"))
}

/// Where a release comes from, by what apt would fetch: lines such as `'http://a/debian/dists/bookworm/InRelease' …`.
fn archive_of<'a>(wanted: &'a str, release: &str) -> Option<&'a str> {
    let tail = format!("dists/{release}/InRelease'");
    wanted.lines().find_map(|line| {
        let (archive, _) = line.strip_prefix('\'')?.split_once(&tail)?;
        Some(archive)
    })
}

/// Reads a line such as `Inst libc6 (2.36-9 Debian:12.1/stable [amd64]) []` of a simulated installation.
fn planned(line: &str) -> Option<Wanted> {
    let mut words = line.strip_prefix("Inst ")?.split_whitespace();
    let name = words.next()?.to_owned();
    let version = words.next()?.strip_prefix('(')?.to_owned();
    let arch = words.find_map(|word| word.strip_prefix('[')?.strip_suffix("])"))?;
    Some(Wanted {
        name,
        version,
        arch: arch.to_owned(),
    })
}

/// The value of a field in what `apt-cache show` prints.
fn field<'a>(shown: &'a str, key: &str) -> Option<&'a str> {
    shown
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "{program} is not on this machine: images are made of Debian packages, so build them on Debian, or in a container of it"
        ),
        output => output.with_context(|| format!("running {program}"))?,
    };
    ensure!(
        output.status.success(),
        "{program} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_versions_and_architectures() {
        let line =
            "Inst libgmp10 (2:6.2.1+dfsg1-1.1 Debian:12.12/oldstable, Debian-Security:12/x [amd64]) []";
        let wanted = planned(line).unwrap();
        assert_eq!(wanted.file_name(), "libgmp10_2%3a6.2.1+dfsg1-1.1_amd64.deb");
        for other in ["Conf libgmp10 (2:6.2.1 Debian:12 [amd64])", "Inst odd", ""] {
            assert_eq!(planned(other), None, "{other:?}");
        }
    }

    #[test]
    fn releases_come_from_where_the_machines_own_does() {
        let wanted = "'http://a/security/dists/bookworm-security/InRelease' a_security 0 \n'http://b/debian/dists/bookworm/InRelease' b 0 \n";
        assert_eq!(archive_of(wanted, "bookworm"), Some("http://b/debian/"));
        assert_eq!(archive_of(wanted, "trixie"), None);
    }

    #[test]
    fn only_debian_has_releases_of_debian() {
        assert_eq!(
            codename("VERSION_CODENAME=bookworm\nID=debian\n"),
            Some("bookworm")
        );
        assert_eq!(
            codename("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n"),
            None
        );
        assert_eq!(codename("ID=debian\n"), None);
    }

    #[test]
    fn fields_are_whole_words() {
        let shown = "Package: linux-image-cloud-amd64\nPre-Depends: x\nDepends: linux-image-6.1 (= 1), y\n";
        assert_eq!(field(shown, "Depends"), Some("linux-image-6.1 (= 1), y"));
        assert_eq!(field(shown, "Version"), None);
    }

    #[test]
    fn own_sources_take_the_place_of_the_machines() {
        let settings = settings(Path::new("/folder"), "arm64", Some(Path::new("/my.sources")));
        assert!(settings.contains("sourcelist \"/my.sources\""), "{settings}");
        assert!(settings.contains("sourceparts \"/dev/null\""), "{settings}");
    }
}
