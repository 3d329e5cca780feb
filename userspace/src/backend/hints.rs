// SPDX-License-Identifier: GPL-3.0-only
//! What a backend host needs besides the program, checked when it is attached. Each hint says what is wrong and the
//! command that puts it right; none is run.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::config::Config;
use super::host::{Host, Link, ipv4_conf};

/// Something that keeps the service from working, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    pub problem: String,
    pub fix: String,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    {}", self.problem, self.fix)
    }
}

/// What the hints are drawn from.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) interface: String,
    pub(super) mtu: u32,
    pub(super) rp_filter: u32,
    pub(super) arp_ignore: u32,
    pub(super) arp_announce: u32,
    pub(super) vips: Vec<IpAddr>,
    /// Addresses that the host has.
    pub(super) local: BTreeSet<IpAddr>,
    pub(super) from_any: bool,
    /// The kernel changes a packet's family by flags of its own.
    pub(super) decap_flags: bool,
}

/// GUE over IPv6, the longest of what a gateway writes.
const OVERHEAD_MAX: u32 = 52;
/// What clients send at most on nearly all of the internet.
const CLIENT_MTU: u32 = 1500;
/// IPv6 and TCP without options.
const HEADERS: u32 = 60;

/// `rp_filter`: the packet's source must be reached by the interface it came in by (RFC 3704 section 2.2).
const STRICT: u32 = 1;

impl Facts {
    pub(super) fn read(host: &Host, link: &Link, config: &Config, decap_flags: bool) -> Facts {
        Facts {
            interface: link.name.clone(),
            mtu: link.mtu,
            rp_filter: ipv4_conf(&link.name, "rp_filter"),
            arp_ignore: ipv4_conf(&link.name, "arp_ignore"),
            arp_announce: ipv4_conf(&link.name, "arp_announce"),
            vips: config.vips.clone(),
            local: host.addresses.iter().map(|(_, ip)| *ip).collect(),
            from_any: config.from.is_empty(),
            decap_flags,
        }
    }
}

/// In the order of how surely each breaks the service.
pub(super) fn hints(facts: &Facts) -> Vec<Hint> {
    let mut hints = Vec::new();
    let mut hint = |problem: String, fix: String| hints.push(Hint { problem, fix });
    let interface = &facts.interface;
    let any_v4 = facts.vips.iter().any(IpAddr::is_ipv4);

    for vip in facts.vips.iter().filter(|vip| !facts.local.contains(vip)) {
        let whole = if vip.is_ipv4() { "32" } else { "128" };
        let late = if vip.is_ipv4() { "" } else { " preferred_lft 0" };
        hint(
            format!("{vip} is no address of this host: what is decapsulated for it is not delivered"),
            format!("ip addr add {vip}/{whole} dev lo{late}        (or attach with --add-vips)"),
        );
    }
    if any_v4 && facts.rp_filter == STRICT {
        hint(
            format!(
                "rp_filter is strict: the inner packet comes in by {interface} with the client's address, and is dropped unless the route to the client leaves by {interface} as well"
            ),
            format!("sysctl -w net.ipv4.conf.{interface}.rp_filter=2"),
        );
    }
    if any_v4 && (facts.arp_ignore == 0 || facts.arp_announce < 2) {
        hint(
            format!(
                "this host answers ARP for VIPs on {interface}: on a link that carries the VIP's prefix (always so with forward = \"l2\") it takes the gateway's traffic"
            ),
            format!("sysctl -w net.ipv4.conf.{interface}.arp_ignore=1 net.ipv4.conf.{interface}.arp_announce=2"),
        );
    }
    if facts.mtu < CLIENT_MTU + OVERHEAD_MAX {
        hint(
            format!(
                "mtu {}: tunnels add 20 bytes (IPv4 outside), 40 (IPv6), with GUE 32 and 52, to packets of up to {CLIENT_MTU}",
                facts.mtu
            ),
            format!(
                "ip link set dev {interface} mtu {}        (on the whole path from the gateway), or answer with a smaller MSS: ip route change default … advmss {}",
                CLIENT_MTU + OVERHEAD_MAX,
                facts.mtu.saturating_sub(OVERHEAD_MAX + HEADERS)
            ),
        );
    }
    if facts.from_any {
        hint(
            "encapsulated packets are accepted from any source: whoever can send to this host can deliver packets to the VIPs under forged addresses".into(),
            "attach with --from PREFIX for the gateways' addresses".into(),
        );
    }
    if !facts.decap_flags {
        hint(
            "this kernel (before 6.3) changes a packet's family by bpf_skb_change_proto: 4in6 and 6in4 work, at the cost of one more copy of the header".into(),
            "nothing to do".into(),
        );
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        let vips: Vec<IpAddr> = vec!["203.0.113.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        Facts {
            interface: "eth0".into(),
            mtu: 1600,
            rp_filter: 2,
            arp_ignore: 1,
            arp_announce: 2,
            local: vips.iter().copied().collect(),
            vips,
            from_any: false,
            decap_flags: true,
        }
    }

    fn fixes(facts: &Facts) -> Vec<String> {
        hints(facts).into_iter().map(|hint| hint.fix).collect()
    }

    #[test]
    fn a_host_that_is_set_up_gets_no_hint() {
        assert_eq!(hints(&good()), []);
    }

    #[test]
    fn each_thing_that_is_missing_is_named_with_its_fix() {
        let without_vips = Facts { local: BTreeSet::new(), ..good() };
        let fix = fixes(&without_vips);
        assert!(fix[0].starts_with("ip addr add 203.0.113.7/32 dev lo  "), "{fix:?}");
        assert!(fix[1].starts_with("ip addr add 2001:db8::7/128 dev lo preferred_lft 0  "), "{fix:?}");
        assert_eq!(fix.len(), 2);

        assert_eq!(fixes(&Facts { rp_filter: 1, ..good() }), ["sysctl -w net.ipv4.conf.eth0.rp_filter=2"]);
        let arp = ["sysctl -w net.ipv4.conf.eth0.arp_ignore=1 net.ipv4.conf.eth0.arp_announce=2"];
        assert_eq!(fixes(&Facts { arp_ignore: 0, ..good() }), arp);
        assert_eq!(fixes(&Facts { arp_announce: 1, ..good() }), arp);
        let mtu = fixes(&Facts { mtu: 1500, ..good() });
        assert!(mtu[0].starts_with("ip link set dev eth0 mtu 1552 ") && mtu[0].ends_with(" advmss 1388"), "{mtu:?}");
        assert_eq!(fixes(&Facts { from_any: true, ..good() }).len(), 1);
        assert_eq!(fixes(&Facts { decap_flags: false, ..good() }), ["nothing to do"]);
    }

    #[test]
    fn ipv4_settings_do_not_matter_to_ipv6_vips() {
        let vips: Vec<IpAddr> = vec!["2001:db8::7".parse().unwrap()];
        assert_eq!(hints(&Facts { vips, rp_filter: 1, arp_ignore: 0, arp_announce: 0, ..good() }), []);
    }
}
