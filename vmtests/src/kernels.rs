// SPDX-License-Identifier: GPL-3.0-only
//! Debian's kernels, by series, through an apt configuration of our own: nothing of the host's package state is read or
//! written but its archive keys and its way to the mirror.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// A kernel that is ready to boot.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What `uname -r` will say.
    pub(crate) release: String,
    /// The image, with `lib/modules/<release>` beside its `boot`.
    pub(crate) image: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    kernel: Vec<Series>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Series {
    series: String,
    suites: Vec<String>,
}

/// The newest kernel of a series, downloaded and unpacked unless it already is.
pub(crate) fn fetch(workspace: &Path, wanted: &str) -> Result<Kernel, String> {
    let text = fs::read_to_string(workspace.join("vmtests/kernels.toml")).map_err(|e| format!("kernels.toml: {e}"))?;
    let list: List = toml::from_str(&text).map_err(|e| format!("kernels.toml: {e}"))?;
    let known: Vec<&str> = list.kernel.iter().map(|k| k.series.as_str()).collect();
    let known = known.join(", ");
    let series = list.kernel.into_iter().find(|k| k.series == wanted);
    let series = series.ok_or_else(|| format!("no series {wanted} in vmtests/kernels.toml (there are {known})"))?;

    let cache = workspace.join(".cache/kernels");
    let apt = Apt::new(&cache, &series)?;
    let package = apt.newest(&series.series)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let root = cache.join(&release);
    let image = root.join("boot").join(format!("vmlinuz-{release}"));
    if !image.exists() {
        println!("vmtests: downloading {package}");
        unpack(&apt, &package, &root)?;
    }
    if !image.exists() {
        return Err(format!("{package} has no {}", image.display()));
    }
    if !root.join("lib/modules").join(&release).join("modules.dep").exists() {
        let path = "/usr/sbin:/sbin:/usr/bin:/bin";
        output(Command::new("depmod").env("PATH", path).arg("-b").arg(&root).arg(&release))?;
    }
    Ok(Kernel { release, image })
}

/// Unpacks the image's package, and those it was split into (from 7.0 on), into `root`.
fn unpack(apt: &Apt, package: &str, root: &Path) -> Result<(), String> {
    let debs = root.with_extension("debs");
    for directory in [root, &debs] {
        fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    }
    let depends = output(apt.command("apt-cache").args(["depends", package]))?;
    let parts = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let parts = parts.filter(|name| ["linux-binary-", "linux-modules-"].iter().any(|p| name.starts_with(p)));
    output(apt.command("apt-get").current_dir(&debs).args(["download", package]).args(parts))?;
    for deb in fs::read_dir(&debs).map_err(|e| e.to_string())? {
        let deb = deb.map_err(|e| e.to_string())?.path();
        output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(root))?;
    }
    // virtme-ng looks for lib/modules; newer packages have usr/lib/modules.
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).map_err(|e| format!("lib: {e}"))?;
    }
    fs::remove_dir_all(&debs).map_err(|e| format!("{}: {e}", debs.display()))
}

/// apt with lists and cache of its own.
struct Apt {
    configuration: PathBuf,
}

impl Apt {
    fn new(cache: &Path, series: &Series) -> Result<Apt, String> {
        let home = cache.join(format!("apt-{}", series.series));
        for part in ["lists/partial", "archives/partial", "empty"] {
            fs::create_dir_all(home.join(part)).map_err(|e| format!("{}: {e}", home.display()))?;
        }
        let mut sources = String::new();
        for suite in &series.suites {
            let archive = if suite.ends_with("-security") { "debian-security" } else { "debian" };
            sources += &format!("deb http://deb.debian.org/{archive} {suite} main\n");
        }
        let at = |part: &str| home.join(part).display().to_string();
        let configuration = format!(
            "Dir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"{}\";\nDir::State::Lists \"{}\";\n\
             Dir::Cache::Archives \"{}\";\nDir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n\
             Dir::State::status \"{}\";\nAcquire::Languages \"none\";\nAPT::Sandbox::User \"\";\n",
            at("sources.list"),
            at("empty"),
            at("lists"),
            at("archives"),
            at("status"),
        );
        let write = |part: &str, text: &str| fs::write(home.join(part), text).map_err(|e| format!("{part}: {e}"));
        write("sources.list", &sources)?;
        write("status", "")?;
        write("apt.conf", &configuration)?;
        let apt = Apt { configuration: home.join("apt.conf") };
        output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// apt reads the file that APT_CONFIG names after the host's own, so that ours wins and its proxy stays.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration).arg("-qq").args(["-c", &self.configuration.to_string_lossy()]);
        command
    }

    /// The newest image of a series. The cloud flavour: a third of the size, and all that an emulator needs.
    fn newest(&self, series: &str) -> Result<String, String> {
        let pattern = format!("^linux-image-{}[.-].*cloud-amd64$", series.replace('.', "\\."));
        let found = output(self.command("apt-cache").args(["search", "--names-only", &pattern]))?;
        let names = found.lines().filter_map(|line| line.split_whitespace().next());
        let newest = names.max_by_key(|name| numbers(name)).map(str::to_owned);
        newest.ok_or_else(|| format!("no package of series {series} on the mirror"))
    }
}

/// The numbers in a name, in order: 6.1.0-40 is newer than 6.1.0-9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn revisions_compare_as_numbers() {
        assert!(numbers("linux-image-6.1.0-40-cloud-amd64") > numbers("linux-image-6.1.0-9-cloud-amd64"));
    }
}
