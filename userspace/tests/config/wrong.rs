// SPDX-License-Identifier: GPL-3.0-only
//! Files that must be refused, each with every line that the operator then reads, in order.

/// A file's text, and the errors, one a line.
pub(crate) const FILES: &[(&str, &str)] = &[
    (
        r#""#,
        r#"
f.toml:1:1: no [[listeners]]: there is nothing to serve
"#,
    ),
    (
        r#"a = 
b = "
"#,
        r#"
f.toml:1:5: string values must be quoted, expected literal string
f.toml:2:6: invalid basic string, expected `"`
"#,
    ),
    (
        r#"[[listeners]
name = 1
"#,
        r#"
f.toml:1:13: unclosed array table, expected `]`
"#,
    ),
    (
        r#"a = 1
a = 2
"#,
        r#"
f.toml:2:1: duplicate key
"#,
    ),
    (
        r#"[runtime]
worker = 2
[observabilty]
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:1: runtime.worker: unknown key (did you mean "workers"?)
f.toml:3:2: observabilty: unknown key (did you mean "observability"?)
"#,
    ),
    (
        r#"[runtime]
banana = 2
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:1: runtime.banana: unknown key; known here: workers, max_connections, drain_timeout_ms, drain_settle_ms
"#,
    ),
    (
        r#"[runtime]
workers = "two"
drain_timeout_ms = -1
drain_settle_ms = 1.5
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:11: runtime.workers: expected a whole number from 0 to 64, found a string
f.toml:3:20: runtime.drain_timeout_ms: expected a whole number from 0 to 3600000
f.toml:4:19: runtime.drain_settle_ms: expected a whole number from 0 to 3600000, found a number with a fraction
"#,
    ),
    (
        r#"runtime = 3
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:1:11: runtime: expected a table, found a whole number
"#,
    ),
    (
        r#"[runtime]
workers = 65
drain_timeout_ms = 99999999999999999999
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:11: runtime.workers: expected a whole number from 0 to 64
f.toml:3:20: runtime.drain_timeout_ms: expected a whole number from 0 to 3600000
"#,
    ),
    (
        r#"[observability]
metrics_bind = "localhost:9090"
log = "loud=high"
log_format = "jsn"
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:16: observability.metrics_bind: "localhost:9090" is not an address: expected "ip:port" or "[ip]:port", host names are not resolved
f.toml:3:7: observability.log: "loud=high" is not a log filter: expected error, warn, info, debug or trace, or a list such as "info,eg_l7=debug"
f.toml:4:14: observability.log_format: "jsn" is not one of "text", "json" (did you mean "json"?)
"#,
    ),
    (
        r#"[observability]
metrics_bind = "0.0.0.0:9090"
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:16: observability.metrics_bind: 0.0.0.0:9090 is not on loopback: set admin.api_token_hash first
"#,
    ),
    (
        r#"[observability]
metrics_bind = "127.0.0.1:80"
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:5:9: listeners[0].address: 127.0.0.1:80/tcp is taken by observability.metrics_bind already
"#,
    ),
    (
        r#"[admin]
api_token_hash = "secret"
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:18: admin.api_token_hash: expected "sha256:" and 64 hexadecimal digits, those of `printf %s TOKEN | sha256sum`
"#,
    ),
    (
        r#"[tls]
tls13_only = "yes"
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:14: tls.tls13_only: expected true or false, found a string
"#,
    ),
    (
        r#"listeners = "a"
"#,
        r#"
f.toml:1:13: listeners: expected a list of tables, written [[listeners]], found a string
"#,
    ),
    (
        r#"[[listeners]]
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:1:1: listeners[0]: missing name: what metrics, logs and routes call this listener
f.toml:1:1: listeners[0]: missing address: "ip:port" or a list of them
f.toml:1:1: listeners[0]: missing protocol: "http", "https", "tcp" or "udp"
"#,
    ),
    (
        r#"[[listeners]]
name = "a b"
address = ["127.0.0.1", "::1", "127.0.0.1:70000", "::1:80", "example.com:80", 7]
protocol = "htp"
"#,
        r#"
f.toml:2:8: listeners[0].name: "a b" is not a name: expected 1 to 64 letters, digits, ".", "_" or "-"
f.toml:3:12: listeners[0].address[0]: "127.0.0.1" has no port: expected "127.0.0.1:PORT"
f.toml:3:25: listeners[0].address[1]: "::1" needs brackets around the address and a port: expected "[ip]:port"
f.toml:3:32: listeners[0].address[2]: "127.0.0.1:70000" has the port "70000": expected 0 to 65535
f.toml:3:51: listeners[0].address[3]: "::1:80" needs brackets around the address and a port: expected "[ip]:port"
f.toml:3:61: listeners[0].address[4]: "example.com:80" is not an address: expected "ip:port" or "[ip]:port", host names are not resolved
f.toml:3:79: listeners[0].address[5]: expected a string, found a whole number
f.toml:4:12: listeners[0].protocol: "htp" is not one of "http", "https", "tcp", "udp" (did you mean "http"?)
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address=[]
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:1:1: listeners[0]: missing address: "ip:port" or a list of them
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="b"
pool="q"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:1:1: listeners[0]: no route leads on from here: add [[routes]] with listener = "a"
f.toml:6:10: routes[0].listener: there is no listener "b"
f.toml:7:6: routes[0].pool: there is no pool "q"
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:6:6: listeners[1].name: "a" is already the name of listeners[0]
f.toml:7:9: listeners[1].address: 127.0.0.1:80/tcp is taken by listeners[0].address already
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[listeners]]
name="b"
address="127.0.0.1:80"
protocol="https"
http3=true
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
[[routes]]
listener="b"
pool="p"
"#,
        r#"
f.toml:7:9: listeners[1].address: 127.0.0.1:80/tcp is taken by listeners[0].address already
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="192.0.2.1:443"
protocol="https"
http3=true
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
[datapath]
interfaces=["eth0"]
[[listeners]]
name="u"
address="192.0.2.1:443"
protocol="udp"
pool="p"
"#,
        r#"
f.toml:15:9: listeners[1].address: 192.0.2.1:443/udp is taken by listeners[0].address already
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
http3=true
pool="p"
forward="nat"
snat=true
tls={cert="x",key="y"}
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:5:7: listeners[0].http3: is for https listeners: HTTP/3 is always encrypted
f.toml:6:6: listeners[0].pool: is for tcp and udp listeners; http goes by [[routes]]
f.toml:7:9: listeners[0].forward: is for tcp and udp listeners; http goes by [[routes]]
f.toml:8:6: listeners[0].snat: is for tcp and udp listeners; http goes by [[routes]]
f.toml:9:5: listeners[0].tls: is for https listeners
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="https"
tls={cert="none.pem",key="none.key"}
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:5:11: listeners[0].tls.cert: cannot read "/nonexistent/none.pem": No such file or directory (os error 2)
f.toml:5:26: listeners[0].tls.key: cannot read "/nonexistent/none.key": No such file or directory (os error 2)
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="https"
[listeners.tls]
crt="none.pem"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:5:1: listeners[0].tls: missing cert: a PEM file; leave the whole tls table out for a self-signed certificate
f.toml:5:1: listeners[0].tls: missing key: a PEM file; leave the whole tls table out for a self-signed certificate
f.toml:6:1: listeners[0].tls.crt: unknown key (did you mean "cert"?)
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[pools.p]
[[routes]]
listener="a"
pool="p"
"#,
        r#"
f.toml:5:8: pools.p: missing backends: at least one [[pools.NAME.backends]]
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[pools.p.backends]]
[[routes]]
listener="a"
pool="p"
"#,
        r#"
f.toml:5:1: pools.p.backends[0]: missing address: "ip:port", or builtin = "welcome"
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[pools.p.backends]]
address="10.0.0.1:80"
builtin="welcome"
weight=0
[[routes]]
listener="a"
pool="p"
"#,
        r#"
f.toml:5:1: pools.p.backends[0]: address and builtin exclude each other
f.toml:8:8: pools.p.backends[0].weight: expected a whole number from 1 to 1000
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
[[pools.p.backends]]
address="10.0.0.1:80"
[[pools.p.backends]]
address="0.0.0.0:0"
[[pools.p.backends]]
name="x"
address="10.0.0.2:80"
[[pools.p.backends]]
name="x"
address="10.0.0.3:80"
"#,
        r#"
f.toml:11:9: pools.p.backends[1].address: 10.0.0.1:80 is the address of pools.p.backends[0] already
f.toml:13:9: pools.p.backends[2].address: 0.0.0.0:0 is not an address that a backend can have
f.toml:18:6: pools.p.backends[4].name: "x" is the name of pools.p.backends[3] already
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
[pools.p2]
algorithm="least"
drain_timeout="60"
backends=[{address="10.0.0.9:1"}]
"#,
        r#"
f.toml:11:11: pools.p2.algorithm: "least" is not one of "round-robin", "weighted-round-robin", "random", "weighted-random", "p2c", "maglev", "ring-hash", "ewma", "least-connections", "least-requests", "session-affinity"
f.toml:12:15: pools.p2.drain_timeout: "60" is not a duration: expected a whole number and ms, s, m or h, such as "60s"
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
[[routes]]
listener="a"
path="/"
pool="p"
[[routes]]
listener="a"
path="api"
pool="p"
[[routes]]
listener="a"
path="/a?b"
pool="p"
"#,
        r#"
f.toml:12:6: routes[1].path: is never reached: routes[0] has "/" on "a" already
f.toml:16:6: routes[2].path: "api" is not a path prefix: expected it to start with "/"
f.toml:20:6: routes[3].path: "/a?b" has '?', which no request path has: write it percent-encoded
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[pools.p.backends]]
address="10.0.0.1:80"
[[routes]]
listener="a"
path="/a/../b"
pool="p"
[[routes]]
listener="a"
path="/a/./b"
pool="p"
[[routes]]
listener="a"
path="//"
pool="p"
[[routes]]
listener="a"
path="/%70ublic"
pool="p"
[[routes]]
listener="a"
path="/%2f"
pool="p"
[[routes]]
listener="a"
path="/%zz"
pool="p"
[[routes]]
listener="a"
path="/a%00"
pool="p"
[[routes]]
listener="a"
path="/.."
pool="p"
"#,
        r#"
f.toml:9:6: routes[0].path: "/a/../b" is never matched: requests for it are requests for "/b", write that
f.toml:13:6: routes[1].path: "/a/./b" is never matched: requests for it are requests for "/a/b", write that
f.toml:17:6: routes[2].path: "//" is never matched: requests for it are requests for "/", write that
f.toml:21:6: routes[3].path: "/%70ublic" is never matched: requests for it are requests for "/public", write that
f.toml:25:6: routes[4].path: "/%2f" is never matched: requests for it are requests for "/%2F", write that
f.toml:29:6: routes[5].path: "/%zz" has a "%" without two hexadecimal digits behind it: requests for it are refused
f.toml:33:6: routes[6].path: "/a%00" has %00: requests for it are refused
f.toml:37:6: routes[7].path: "/.." goes above the root: requests for it are refused
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:1:1: listeners[0]: no route leads on from here: add [[routes]] with listener = "a"
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
[pools."a b"]
backends=[{address="10.0.0.9:1"}]
"#,
        r#"
f.toml:10:8: pools."a b": "a b" is not a name: expected 1 to 64 letters, digits, ".", "_" or "-"
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="192.0.2.1:80"
protocol="tcp"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:4:10: listeners[0].protocol: tcp is carried by the kernel, and datapath.interfaces is empty
"#,
    ),
    (
        r#"[datapath]
xdp="off"
interfaces=["eth0"]
[[listeners]]
name="a"
address="192.0.2.1:80"
protocol="tcp"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:7:10: listeners[0].protocol: tcp is carried by the kernel, and datapath.xdp is "off"
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0"]
[[listeners]]
name="a"
address="192.0.2.1:80"
protocol="tcp"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:3:1: listeners[0]: missing pool: the [pools.NAME] that takes this listener's connections
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0"]
[[listeners]]
name="a"
address="192.0.2.1:80"
protocol="tcp"
pool="p"
[pools.p]
algorithm="round-robin"
backends=[{address="10.0.0.1:80"},{builtin="welcome"},{address="127.0.0.1:80"},{address="[2001:db8::1]:80"}]
"#,
        r#"
f.toml:5:9: listeners[0].address: forward = "nat" keeps the address family: VIP 192.0.2.1:80 and pools.p.backends[3].address [2001:db8::1]:80 differ
f.toml:10:44: pools.p.backends[1].builtin: "welcome" is for routes; listeners[0] uses this pool at L4, out of the process's reach
f.toml:10:64: pools.p.backends[2].address: 127.0.0.1:80 is on loopback, where the kernel datapath of listeners[0] cannot send
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0"]
[[listeners]]
name="a"
address=["0.0.0.0:80","127.0.0.1:80","192.0.2.1:0"]
protocol="tcp"
pool="p"
forward="dsr"
http3=false
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:5:10: listeners[0].address[0]: 0.0.0.0 cannot be a VIP: expected an address that packets are sent to
f.toml:5:23: listeners[0].address[1]: 127.0.0.1 cannot be a VIP: expected an address that packets are sent to
f.toml:5:38: listeners[0].address[2]: port 0 cannot be a VIP: expected 1 to 65535
f.toml:8:9: listeners[0].forward: "dsr" is not one of "nat", "ipip", "gue", "l2"
f.toml:9:7: listeners[0].http3: is for https listeners, this one is tcp
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0"]
[[listeners]]
name="a"
address="192.0.2.1:80"
protocol="tcp"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
[[routes]]
listener="a"
pool="p"
"#,
        r#"
f.toml:11:10: routes[0].listener: "a" is tcp: it has a pool of its own, routes are for http and https
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0"]
[[listeners]]
name="a"
address="192.0.2.1:0"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:5:9: listeners[0].address: port 0 (any free port) is impossible while datapath.interfaces is set
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0","eth0","much-too-long-a-name","a/b"]
pin_root="bpf"
flows=1
hash_seed="xyz"
snat_ports="9-5"
detach_on_exit=1
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:20: datapath.interfaces[1]: "eth0" is datapath.interfaces[0] already
f.toml:2:27: datapath.interfaces[2]: "much-too-long-a-name" is not an interface name: expected 1 to 15 characters without "/", ":" or spaces
f.toml:2:50: datapath.interfaces[3]: "a/b" is not an interface name: expected 1 to 15 characters without "/", ":" or spaces
f.toml:3:10: datapath.pin_root: "bpf" is not an absolute path
f.toml:4:7: datapath.flows: expected a whole number from 1024 to 16777216
f.toml:5:11: datapath.hash_seed: expected 32 hexadecimal digits, such as those of `openssl rand -hex 16`
f.toml:6:12: datapath.snat_ports: "9-5" ends before it starts
f.toml:7:16: datapath.detach_on_exit: expected true or false, found a whole number
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0"]
[datapath.guards]
allow=["10.0.0.1/8","::ffff:10.0.0.0/104"]
deny=["10.0.0.0/33","example.com"]
deny_files="bad.txt"
source_pps=1000000
source_burst=50
source_flows_per_s=10000001
udp_burst=0
udp_amplification=1.5
source_prefix_v4=33
source_prefix_v6=8
sources=1
udp_pp=5
[[listeners]]
name="a"
address="192.0.2.1:80"
protocol="tcp"
pool="p"
guards=["prefixes","udp_pps","source_flow"]
flow_budget=10000001
[[listeners]]
name="b"
address="192.0.2.1:81"
protocol="http"
guards=[]
flow_budget=0
[[routes]]
listener="b"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:4:8: datapath.guards.allow[0]: "10.0.0.1/8" has bits behind its length: expected "10.0.0.0/8", or "10.0.0.1" alone
f.toml:4:21: datapath.guards.allow[1]: "::ffff:10.0.0.0/104" is an IPv4 address in disguise: expected it as "10.0.0.0"
f.toml:5:7: datapath.guards.deny[0]: "10.0.0.0/33" has the length "33": expected 0 to 32
f.toml:5:21: datapath.guards.deny[1]: "example.com" is not a prefix: expected "192.0.2.0/24", "2001:db8::/32" or an address
f.toml:6:12: datapath.guards.deny_files: expected a list of strings, found a string
f.toml:8:14: datapath.guards.source_burst: expected at least 10000, what source_pps = 1000000 lets through in 10 ms
f.toml:9:20: datapath.guards.source_flows_per_s: expected a whole number from 0 to 10000000
f.toml:10:11: datapath.guards.udp_burst: expected a whole number from 1 to 10000000
f.toml:11:19: datapath.guards.udp_amplification: expected a whole number from 0 to 1000, found a number with a fraction
f.toml:12:18: datapath.guards.source_prefix_v4: expected a whole number from 8 to 32
f.toml:13:18: datapath.guards.source_prefix_v6: expected a whole number from 16 to 128
f.toml:14:9: datapath.guards.sources: expected a whole number from 1024 to 16777216
f.toml:15:1: datapath.guards.udp_pp: unknown key (did you mean "udp_pps"?)
f.toml:21:20: listeners[0].guards[1]: "udp_pps" is for udp listeners, this one is tcp
f.toml:21:30: listeners[0].guards[2]: "source_flow" is not one of "prefixes", "source_pps", "source_flows", "udp_pps", "udp_amplification" (did you mean "source_flows"?)
f.toml:22:13: listeners[0].flow_budget: expected a whole number from 0 to 10000000
f.toml:27:8: listeners[1].guards: is for tcp and udp listeners; http goes by [[routes]]
f.toml:28:13: listeners[1].flow_budget: is for tcp and udp listeners; http goes by [[routes]]
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0"]
[[listeners]]
name="a"
address="192.0.2.1:80"
protocol="tcp"
pool="p"
syn_cookies="always"
syn_cookie_rate=5
[[listeners]]
name="b"
address="192.0.2.1:81"
protocol="http"
syn_cookies="on"
syn_cookie_rate=0
[[routes]]
listener="b"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:8:13: listeners[0].syn_cookies: is for http and https listeners, this one is tcp
f.toml:9:17: listeners[0].syn_cookie_rate: is for http and https listeners, this one is tcp
f.toml:14:13: listeners[1].syn_cookies: "on" is not one of "off", "flood", "always"
f.toml:15:17: listeners[1].syn_cookie_rate: expected a whole number from 1 to 10000000
"#,
    ),
    (
        r#"[datapath]
interfaces="eth0"
xdp="hw"
snat_ports="1-5000"
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:12: datapath.interfaces: expected a list of strings, found a string
f.toml:3:5: datapath.xdp: "hw" is not one of "auto", "native", "generic", "tc", "off"
f.toml:4:12: datapath.snat_ports: "1-5000" starts below 1024, among the ports of services
"#,
    ),
    (
        r#"[datapath]
snat_ports="20000-20100"
[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
[[routes]]
listener="a"
pool="p"
[[pools.p.backends]]
address="10.0.0.1:80"
"#,
        r#"
f.toml:2:12: datapath.snat_ports: "20000-20100" has fewer than 1024 ports: they would run out
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0"]
[[listeners]]
name="a"
address=["192.0.2.1:53","192.0.2.2:53"]
protocol="udp"
pool="p"
fragments="stable"
[[listeners]]
name="b"
address="192.0.2.1:54"
protocol="udp"
pool="p"
[[listeners]]
name="c"
address="192.0.2.3:53"
protocol="udp"
pool="q"
fragments="stable"
[[listeners]]
name="d"
address="192.0.2.1:53"
protocol="tcp"
pool="p"
fragments="hold"
[[listeners]]
name="e"
address="192.0.2.4:53"
protocol="udp"
pool="p"
fragments="pass"
[pools.p]
backends=[{address="10.0.0.1:53"}]
[pools.q]
algorithm="p2c"
backends=[{address="10.0.0.1:53"}]
"#,
        r#"
f.toml:8:11: listeners[0].fragments: "stable" needs 192.0.2.1 for port 53 alone; listeners[1] has port 54 of it
f.toml:19:11: listeners[2].fragments: "stable" needs "maglev", "ring-hash" or "session-affinity", which choose by addresses; pools.q is "p2c"
f.toml:25:11: listeners[3].fragments: is for udp listeners, this one is tcp
f.toml:31:11: listeners[4].fragments: "pass" is not one of "hold", "stable"
"#,
    ),
    (
        r#"[datapath]
interfaces=["eth0"]
flows=16777217
timeout_udp="1500ms"
timeout_closing="0s"
tunnel_sources=["10.0.0.0/8","10.1.0.0/16","10.0.0.1/8","fd00::/200","here"]
[[listeners]]
name="a"
address="192.0.2.1:80"
protocol="tcp"
pool="p"
forward="ipip"
snat=false
gue_port=6081
unused_ports="reset"
[[listeners]]
name="b"
address=["192.0.2.1:81","[2001:db8::1]:80"]
protocol="tcp"
pool="p"
forward="l2"
unused_ports="pass"
[[listeners]]
name="c"
address="192.0.2.2:80"
protocol="udp"
pool="p"
forward="gre"
gue_port=0
[pools.p]
algorithm="p2c"
affinity_timeout="10m"
affinity_prefix_v4=33
on_backend_down="wait"
backends=[{address="10.0.0.1:80"}]
"#,
        r#"
f.toml:3:7: datapath.flows: expected a whole number from 1024 to 16777216
f.toml:4:13: datapath.timeout_udp: expected whole seconds, at least "1s"
f.toml:5:17: datapath.timeout_closing: expected whole seconds, at least "1s"
f.toml:6:30: datapath.tunnel_sources[1]: at most one prefix of each family
f.toml:6:44: datapath.tunnel_sources[2]: "10.0.0.1/8" has bits behind its length: expected "10.0.0.0/8", or "10.0.0.1" alone
f.toml:6:57: datapath.tunnel_sources[3]: "fd00::/200" has the length "200": expected 0 to 128
f.toml:6:70: datapath.tunnel_sources[4]: "here" is not a prefix: expected "192.0.2.0/24", "2001:db8::/32" or an address
f.toml:13:6: listeners[0].snat: is for forward = "nat", this one is "ipip"
f.toml:14:10: listeners[0].gue_port: is for forward = "gue", this one is "ipip"
f.toml:18:10: listeners[1].address[0]: forward = "l2" keeps the port: VIP 192.0.2.1:81 and pools.p.backends[0].address 10.0.0.1:80 differ
f.toml:18:25: listeners[1].address[1]: forward = "l2" keeps the address family: VIP [2001:db8::1]:80 and pools.p.backends[0].address 10.0.0.1:80 differ
f.toml:22:14: listeners[1].unused_ports: listeners[0] says "reset" for the rest of 192.0.2.1
f.toml:28:9: listeners[2].forward: "gre" is not one of "nat", "ipip", "gue", "l2" (did you mean "gue"?)
f.toml:29:10: listeners[2].gue_port: expected a whole number from 1 to 65535
f.toml:32:18: pools.p.affinity_timeout: is for algorithm = "session-affinity"
f.toml:33:20: pools.p.affinity_prefix_v4: expected a whole number from 0 to 32
f.toml:34:17: pools.p.on_backend_down: "wait" is not one of "keep", "repick", "reset"
"#,
    ),
    (
        r#"[[listeners]]
name="a"
address="127.0.0.1:80"
protocol="http"
unused_ports="drop"
[[routes]]
listener="a"
pool="p"
[pools.p]
algorithm="ewma"
backends=[{address="10.0.0.1:80"}]
"#,
        r#"
f.toml:5:14: listeners[0].unused_ports: is for tcp and udp listeners; http goes by [[routes]]
f.toml:10:11: pools.p.algorithm: "ewma" is for tcp and udp listeners; a route uses this pool, which takes "round-robin" or "maglev"
"#,
    ),
];
