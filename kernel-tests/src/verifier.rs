// SPDX-License-Identifier: GPL-3.0-only
//! How many instructions the verifier walks for each program, held against `verifier-counts.toml`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use eg_skel::CLANG;
use libbpf_rs::{Object, Program};

/// Kernel series ("6.18"), compiler ("clang-19"), program: instructions.
type Counts = BTreeMap<String, BTreeMap<String, BTreeMap<String, u32>>>;

const HEAD: &str = "\
# SPDX-License-Identifier: GPL-3.0-only
# Instructions that the verifier walks for each program, by kernel series and compiler. The tests
# `the_verifier_has_room_left_for_every_program` and `the_other_objects_load` fail for a program that needs over a tenth
# more than its row, and write the rows that are missing: delete a row to record it anew.

";

/// No program may need more. The verifier gives up at a million; 6.1 walks 569,320 for eg_tc_ingress, 6.18 315,050: three
/// tenths are kept for versions that nobody has tried.
const MOST: u32 = 700_000;

/// What the verifier walked for each program of a loaded object, by name; nothing before 5.16, which does not say.
///
/// # Panics
/// If the kernel does not tell about a program.
pub fn walked(object: &Object) -> Vec<(String, u32)> {
    let walked = |program: Program<'_>| {
        let mut info = libbpf_sys::bpf_prog_info::default();
        let mut size = size_of_val(&info) as u32;
        let fd = program.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most `size` bytes to `info`, in which every pointer and length is zero.
        let code = unsafe { libbpf_sys::bpf_obj_get_info_by_fd(fd, (&raw mut info).cast(), &raw mut size) };
        assert_eq!(code, 0, "ask about a program");
        (program.name().to_string_lossy().into_owned(), info.verified_insns)
    };
    object.progs().map(walked).filter(|(_, walked)| *walked > 0).collect()
}

/// Holds what was `walked` on this kernel against the checked-in counts, and records what these do not know. Where the
/// tree is read-only, as in an emulated guest, the new rows are printed instead.
///
/// # Panics
/// If a program has grown by over a tenth or needs too much, or the file is not what it should be.
pub fn judge(walked: &[(String, u32)]) {
    for (name, walked) in walked {
        println!("{name}: the verifier walked {walked} instructions");
        assert!(*walked < MOST, "{name}: {walked}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("verifier-counts.toml");
    let release = nix::sys::utsname::uname().expect("the kernel's release");
    let series = series(&release.release().to_string_lossy());
    let (mut file, writable) = open(&path);
    // Held until the file is closed: other test binaries record their own rows.
    if writable {
        file.lock().expect("lock the counts");
    }
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read the counts");
    let mut counts: Counts = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let known = counts.entry(series.clone()).or_default().entry(CLANG.to_owned()).or_default();
    let unknown = unknown(known, walked).unwrap_or_else(|why| panic!("Linux {series}, {CLANG}: {why}"));
    if unknown.is_empty() {
        return;
    }
    for (program, count) in unknown {
        println!("not in verifier-counts.toml: [\"{series}\".{CLANG}] {program} = {count}");
        known.insert(program, count);
    }
    if writable {
        let text = format!("{HEAD}{}", toml::to_string(&counts).expect("counts as TOML"));
        file.rewind().and_then(|()| file.set_len(0)).expect("empty the counts");
        file.write_all(text.as_bytes()).expect("write the counts");
    }
}

/// The rows to record, or which program has grown.
fn unknown(known: &BTreeMap<String, u32>, walked: &[(String, u32)]) -> Result<Vec<(String, u32)>, String> {
    let mut unknown = Vec::new();
    for (program, count) in walked {
        match known.get(program) {
            Some(before) if u64::from(*count) * 10 > u64::from(*before) * 11 => {
                return Err(format!("the verifier walks {count} instructions of {program}, {before} before"));
            }
            Some(_) => {}
            None => unknown.push((program.clone(), *count)),
        }
    }
    Ok(unknown)
}

fn open(path: &Path) -> (File, bool) {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => (file, true),
        Err(_) => (File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())), false),
    }
}

/// "6.1" of "6.1.0-40-amd64".
fn series(release: &str) -> String {
    let numbers: Vec<&str> = release.split(|c: char| !c.is_ascii_digit()).take(2).collect();
    numbers.join(".")
}

#[cfg(test)]
mod tests {
    use super::{series, unknown};

    #[test]
    fn a_release_is_of_its_series() {
        assert_eq!(series("6.1.0-40-cloud-amd64"), "6.1");
        assert_eq!(series("6.18.5"), "6.18");
    }

    #[test]
    fn a_tenth_more_is_allowed_and_no_more() {
        let known = [("a".to_owned(), 1000)].into();
        assert_eq!(unknown(&known, &[("a".to_owned(), 1100)]), Ok(Vec::new()));
        assert!(unknown(&known, &[("a".to_owned(), 1101)]).is_err());
        assert_eq!(unknown(&known, &[("b".to_owned(), 5)]), Ok(vec![("b".to_owned(), 5)]));
    }
}
