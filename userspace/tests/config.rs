// SPDX-License-Identifier: GPL-3.0-only
//! Configuration files, through the library: what is refused and in which words, and that what `--dump` prints means the
//! same as what was read.

use std::path::{Path, PathBuf};

use expressgateway::config::{self, dump::dump};

#[path = "config/mutate.rs"]
mod mutate;
#[path = "config/wrong.rs"]
mod wrong;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn shipped() -> Vec<PathBuf> {
    let examples = std::fs::read_dir(repository().join("config/examples")).unwrap();
    let mut files: Vec<PathBuf> = examples.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "toml"));
    files.push(repository().join("config/default.toml"));
    assert!(files.len() >= 3, "{files:?}");
    files
}

#[test]
fn every_wrong_file_is_refused_in_exactly_these_words() {
    for (text, expected) in wrong::FILES {
        let error = config::from_text("f.toml", Path::new("/nonexistent"), text).expect_err(text);
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(error.lines(), expected, "for\n{text}");
    }
}

#[test]
fn every_shipped_file_means_the_same_after_a_dump() {
    for path in shipped() {
        let text = std::fs::read_to_string(&path).unwrap();
        let plan =
            config::from_text("shipped", &repository(), &text).unwrap_or_else(|error| panic!("{path:?}\n{error}")).plan;
        let dumped = dump(&plan).unwrap();
        let again =
            config::from_text("dumped", &repository(), &dumped).unwrap_or_else(|error| panic!("{error}\n{dumped}"));
        assert_eq!(again.plan, plan, "{path:?}\n{dumped}");
        assert_eq!(dump(&again.plan).unwrap(), dumped);
    }
}

#[test]
fn every_key_survives_a_dump() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    std::fs::write(directory.path().join("a.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.path().join("a.key"), made.signing_key.serialize_pem()).unwrap();
    for (name, list) in
        [("allow.txt", "# ours\n10.0.0.0/8\n\n  fd00::/8 # and ours\n"), ("deny.txt", ""), ("more.txt", "::1")]
    {
        std::fs::write(directory.path().join(name), list).unwrap();
    }
    let text = include_str!("config/everything.toml");
    let plan = config::from_text("everything", directory.path(), text).unwrap_or_else(|error| panic!("{error}")).plan;
    let dumped = dump(&plan).unwrap();
    // Read from elsewhere: paths must have become absolute.
    let again =
        config::from_text("dumped", Path::new("/"), &dumped).unwrap_or_else(|error| panic!("{error}\n{dumped}"));
    assert_eq!(again.plan, plan, "{dumped}");
    assert!(!format!("{plan:?}").contains("PRIVATE"), "a plan's debug text shows a key");
    let guards = plan.datapath.unwrap().guards;
    assert_eq!((guards.allow.all.len(), guards.deny.all.len()), (5, 2), "what is written and what is in files");
}

#[test]
fn new_flows_have_a_budget_by_default_only_where_nothing_is_refused_for_it() {
    let budget = |forward: &str, algorithm: &str, more: &str| {
        let text = format!(
            "[datapath]\ninterfaces = [\"eth0\"]\n[[listeners]]\nname = \"a\"\naddress = \"192.0.2.1:80\"\n\
             protocol = \"tcp\"\npool = \"p\"\nforward = \"{forward}\"\n{more}[pools.p]\n\
             algorithm = \"{algorithm}\"\n[[pools.p.backends]]\naddress = \"10.0.0.1:80\"\n"
        );
        config::from_text("f", Path::new("/"), &text).unwrap().plan.datapath.unwrap().vips[0].flow_budget
    };
    for algorithm in ["maglev", "ring-hash", "session-affinity"] {
        for forward in ["ipip", "gue", "l2"] {
            assert_eq!(budget(forward, algorithm, ""), 65536, "{forward} {algorithm}");
        }
        assert_eq!(budget("nat", algorithm, ""), 0);
        assert_eq!(budget("l2", algorithm, "flow_budget = 0\n"), 0);
    }
    assert_eq!(budget("l2", "round-robin", ""), 0);
    assert_eq!(budget("nat", "p2c", "flow_budget = 7\n"), 7);
}

#[test]
fn datapath_keys_are_dumped_as_written_while_nothing_uses_them() {
    let rest = "[[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n[[routes]]\nlistener = \"a\"\n\
                pool = \"p\"\n[[pools.p.backends]]\naddress = \"127.0.0.1:2\"\n";
    for head in [
        "[datapath]\ninterfaces = [\"eth7\"]\nxdp = \"off\"\nflows = 4096\n",
        "[datapath]\nxdp = \"tc\"\nflows = 4096\ntimeout_udp = \"7s\"\n",
    ] {
        let plan = config::from_text("f", Path::new("/"), &format!("{head}{rest}")).unwrap().plan;
        assert!(plan.datapath.is_none());
        let dumped = dump(&plan).unwrap();
        for line in head.lines() {
            assert!(dumped.contains(line), "no {line:?} in\n{dumped}");
        }
        assert_eq!(config::from_text("dumped", Path::new("/"), &dumped).unwrap().plan, plan, "{dumped}");
    }
}

#[test]
fn a_certificate_file_that_is_no_file_or_too_long_is_refused_and_nothing_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    std::fs::write(directory.path().join("a.key"), made.signing_key.serialize_pem()).unwrap();
    let load = |cert: &str| {
        let file = format!(
            "[[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nprotocol = \"https\"\n\
             tls = {{ cert = \"{cert}\", key = \"a.key\" }}\n[[routes]]\nlistener = \"a\"\npool = \"p\"\n\
             [[pools.p.backends]]\naddress = \"127.0.0.1:2\"\n"
        );
        config::from_text("f", directory.path(), &file).map_err(|error| error.to_string())
    };
    let pem = made.cert.pem();
    let fill = |length: usize| {
        let long = format!("{pem}{}", "#".repeat(length - pem.len()));
        std::fs::write(directory.path().join("long"), long).unwrap();
    };
    fill(1 << 20);
    assert!(load("long").is_ok(), "the largest that is documented");
    fill((1 << 20) + 1);
    let error = load("long").unwrap_err();
    assert!(error.ends_with("long\": longer than 1048576 bytes"), "{error}");

    nix::unistd::mkfifo(&directory.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, name) in [("fifo", "fifo"), ("/dev/zero", "/dev/zero"), (".", ".")] {
        let error = load(path).unwrap_err();
        assert!(error.ends_with(&format!("{name}\": not a regular file")), "{path}: {error}");
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pem = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(directory.path().join(format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(directory.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    };
    pem("a");
    pem("b");
    let file = |tls: &str| {
        format!(
            "[[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nprotocol = \"https\"\ntls = {tls}\n\
             [[routes]]\nlistener = \"a\"\npool = \"p\"\n[[pools.p.backends]]\naddress = \"127.0.0.1:2\"\n"
        )
    };
    let load = |tls: &str| config::from_text("f", directory.path(), &file(tls));
    assert!(load("{ cert = \"a.pem\", key = \"a.key\" }").is_ok());
    let error = load("{ cert = \"a.pem\", key = \"b.key\" }").unwrap_err().to_string();
    assert!(
        error.starts_with("f:5:7: listeners[0].tls: ") && error.contains("the key does not fit the certificate"),
        "{error}"
    );
    let error = load("{ cert = \"a.key\", key = \"a.key\" }").unwrap_err().to_string();
    assert!(error.ends_with("a.key\" has no PEM block \"CERTIFICATE\""), "{error}");
}

#[test]
fn defaults_are_those_of_the_documents() {
    let text = "[[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nprotocol = \"http\"\n\
                [[routes]]\nlistener = \"a\"\npool = \"p\"\n[[pools.p.backends]]\naddress = \"127.0.0.1:2\"\n";
    let plan = config::from_text("f", Path::new("/"), text).unwrap().plan;
    assert_eq!(plan.runtime.workers, 0);
    assert_eq!(plan.runtime.drain_timeout.as_millis(), 10_000);
    assert_eq!(plan.runtime.drain_settle.as_millis(), 0);
    assert_eq!(plan.observability.metrics_bind, "127.0.0.1:9090".parse().unwrap());
    assert_eq!(plan.observability.log, "info");
    assert_eq!(plan.datapath, None);
    assert_eq!(plan.edge.listeners[0].routes[0].path, "/");
    assert_eq!(plan.edge.pools[0].backends[0].name, "127.0.0.1:2");
    assert_eq!(plan.edge.pools[0].backends[0].weight, 1);
}

#[test]
fn what_has_no_effect_is_noted_and_not_refused() {
    let text = "[[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nprotocol = \"http\"\n\
                [[routes]]\nlistener = \"a\"\npool = \"p\"\n[[pools.p.backends]]\naddress = \"127.0.0.1:2\"\n\
                [[pools.q.backends]]\naddress = \"127.0.0.1:3\"\n";
    let loaded = config::from_text("f", Path::new("/"), text).unwrap();
    assert_eq!(loaded.notes, ["f:10:9: pools.q: no listener and no route uses this pool"]);
    let weighted = |algorithm: &str| {
        let text = text
            .replace("[[pools.p.backends]]\n", &format!("[pools.p]\n{algorithm}\n[[pools.p.backends]]\nweight = 3\n"));
        let text = text.replace("[[pools.q.backends]]\naddress = \"127.0.0.1:3\"\n", "");
        config::from_text("f", Path::new("/"), &text).unwrap().notes
    };
    let note = "f:11:10: pools.p.backends[0].weight: has no effect: round-robin gives every backend its turn, maglev \
                goes by weight";
    assert_eq!(weighted(""), [note]);
    assert_eq!(weighted("algorithm = \"round-robin\""), [note]);
    assert_eq!(weighted("algorithm = \"maglev\""), [""; 0]);
}

#[test]
fn wrong_lines_of_a_list_are_named_by_file_and_line_and_the_rest_of_the_file_is_still_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deny.txt");
    let lines: String = (0..9).map(|number| format!("10.0.0.{number}\n300.0.0.{number} # wrong\n")).collect();
    std::fs::write(&path, lines).unwrap();
    let text = "[datapath.guards]\ndeny_files = [\"deny.txt\", \"none.txt\"]\nsource_pps = \"many\"\n\
                [[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nprotocol = \"http\"\n\
                [[routes]]\nlistener = \"a\"\npool = \"p\"\n[[pools.p.backends]]\naddress = \"127.0.0.1:2\"\n";
    let error = config::from_text("f", directory.path(), text).unwrap_err();
    let shape = "is not a prefix: expected \"192.0.2.0/24\", \"2001:db8::/32\" or an address";
    let mut expected: Vec<String> = (0..5)
        .map(|number| {
            let line = 2 * number + 2;
            format!("f:2:15: datapath.guards.deny_files[0]: {path:?}:{line}: \"300.0.0.{number}\" {shape}")
        })
        .collect();
    expected.push(format!("f:2:15: datapath.guards.deny_files[0]: {path:?}: 4 more lines are wrong"));
    let none = directory.path().join("none.txt");
    let why = "No such file or directory (os error 2)";
    expected.push(format!("f:2:27: datapath.guards.deny_files[1]: cannot read {none:?}: {why}"));
    let number = "expected a whole number from 0 to 10000000, found a string";
    expected.push(format!("f:3:14: datapath.guards.source_pps: {number}"));
    assert_eq!(error.lines(), expected);
}

#[test]
fn guards_that_guard_less_than_it_seems_are_noted() {
    let listeners = "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:1\"\nprotocol = \"http\"\n\
                     [[routes]]\nlistener = \"web\"\npool = \"p\"\n[[pools.p.backends]]\naddress = \"10.0.0.2:2\"\n";
    let l4 = "[[listeners]]\nname = \"l4\"\naddress = \"192.0.2.1:80\"\nprotocol = \"tcp\"\npool = \"p\"\n";
    let notes = |head: &str, l4: &str| {
        config::from_text("f", Path::new("/"), &format!("{head}\n{listeners}{l4}")).unwrap().notes
    };
    let guards = "[datapath.guards]\nallow = [\"2001:db8::/32\"]\nudp_burst = 5";
    let burst = "f:3:13: datapath.guards.udp_burst: has no effect without udp_pps";
    assert_eq!(notes(guards, ""), ["f:1:1: datapath.guards: has no effect: the kernel datapath is off", burst]);
    assert_eq!(
        notes(&format!("datapath.interfaces = [\"eth0\"]\n{guards}"), l4),
        [
            "f:2:1: datapath.guards: guards tcp and udp listeners; not guarded: web",
            "f:2:1: datapath.guards: the allow list has no IPv4 prefix: every IPv4 client is refused",
            &burst.replace(":3:", ":4:"),
        ]
    );
    assert_eq!(notes("[datapath]\ninterfaces = [\"eth0\"]", l4), [""; 0]);
}

#[test]
fn named_addresses_have_syn_cookies_by_default_and_keys_without_effect_are_noted() {
    let read = |head: &str, address: &str, keys: &str| {
        let text = format!(
            "{head}\n[[listeners]]\nname = \"web\"\naddress = {address:?}\nprotocol = \"http\"\n{keys}\n\
             [[routes]]\nlistener = \"web\"\npool = \"p\"\n[[pools.p.backends]]\naddress = \"10.0.0.2:2\"\n"
        );
        let loaded = config::from_text("f", Path::new("/"), &text).unwrap();
        let cookies = loaded.plan.datapath.map(|datapath| datapath.cookies).unwrap_or_default();
        (cookies.iter().map(|it| (it.address.to_string(), it.stack_per_second)).collect::<Vec<_>>(), loaded.notes)
    };
    let (on, off) = ("datapath.interfaces = [\"eth0\"]", "");
    let at = "192.0.2.1:80";
    assert_eq!(read(on, at, ""), (vec![(at.to_owned(), 10_000)], vec![]));
    assert_eq!(read(on, at, "syn_cookie_rate = 7"), (vec![(at.to_owned(), 7)], vec![]));
    assert_eq!(read(on, at, "syn_cookies = \"always\""), (vec![(at.to_owned(), 0)], vec![]));
    assert_eq!(read(on, at, "syn_cookies = \"off\""), (vec![], vec![]));
    assert_eq!(read(on, "0.0.0.0:80", ""), (vec![], vec![]));
    assert_eq!(read(off, "127.0.0.1:80", ""), (vec![], vec![]));
    let note = |what: &str| vec![format!("f:{what}")];
    assert_eq!(
        read(on, "0.0.0.0:80", "syn_cookies = \"flood\""),
        (
            vec![],
            note("6:15: listeners[0].syn_cookies: has no effect at 0.0.0.0:80: cookies are for addresses by name")
        )
    );
    assert_eq!(
        read(off, "127.0.0.1:80", "syn_cookies = \"always\""),
        (vec![], note("6:15: listeners[0].syn_cookies: has no effect: the kernel datapath is off"))
    );
    assert_eq!(
        read(on, at, "syn_cookies = \"off\"\nsyn_cookie_rate = 9"),
        (vec![], note("7:19: listeners[0].syn_cookie_rate: has no effect with syn_cookies = \"off\""))
    );
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.toml");
    let error = config::load(&missing).unwrap_err().to_string();
    assert_eq!(error, format!("{}: cannot open: No such file or directory (os error 2)", missing.display()));
    let binary = directory.path().join("b.toml");
    std::fs::write(&binary, b"a = 1\nb = \xff\n").unwrap();
    let error = config::load(&binary).unwrap_err().to_string();
    assert_eq!(error, format!("{}:2:5: not UTF-8, as TOML must be", binary.display()));
}

/// The fuzz body, run for two seconds from a fixed seed over everything that ships and everything that is refused.
#[test]
fn no_text_panics_the_reader_and_no_accepted_text_changes_by_a_dump() {
    let mut corpus: Vec<String> = shipped().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    corpus.extend(wrong::FILES.iter().map(|(text, _)| (*text).to_owned()));
    let runs = mutate::run(corpus, std::time::Duration::from_secs(2), 0x5eed, |text| {
        let Ok(loaded) = config::from_text("f", Path::new("/nonexistent"), text) else { return false };
        let dumped = dump(&loaded.plan).unwrap();
        let again = config::from_text("dumped", Path::new("/"), &dumped)
            .unwrap_or_else(|error| panic!("{error}\n{dumped}\n{text}"));
        assert_eq!(again.plan, loaded.plan, "{text}\n{dumped}");
        true
    });
    assert!(runs.total > 100 && runs.accepted > 10, "{runs:?}");
}
