// SPDX-License-Identifier: GPL-3.0-only
//! Proof, at compile time, that the types of `eg-abi` lie in memory as those of `bpf/abi.h` do: sizes and the offset of
//! every field, compared with what the compiled objects' type information says. The constants and enum codes, which are
//! not in it, are compared with the header's text by the tests below.

use std::mem::offset_of;

use eg_abi as abi;

use crate::sock_lookup::types as sock;
use crate::xdp_capture::types as capture;
use crate::xdp_ingress::types as xdp;

/// The first struct is ours, the second the generated one; every field of ours is named.
macro_rules! same_layout {
    ($(abi::$ours:ident == $module:ident::$theirs:ident { $($field:ident),* })*) => {$(
        const _: () = {
            assert!(size_of::<abi::$ours>() == size_of::<$module::$theirs>());
            $(assert!(offset_of!(abi::$ours, $field) == offset_of!($module::$theirs, $field));)*
            // A field that is not named above does not compile.
            const fn _every_field(value: abi::$ours) {
                let abi::$ours { $($field: _),* } = value;
            }
        };
    )*};
}

same_layout! {
    abi::Addr == xdp::eg_addr { b }
    abi::VipKey == xdp::eg_vip_key { addr, port, proto, pad }
    abi::Vip == xdp::eg_vip { addr, port, proto, forward, epoch, pool, flags, gue_port, pad }
    abi::Backend == xdp::eg_backend {
        addr, source, port, state, flags, generation, ifindex, dmac, smac, mtu, weight, price
    }
    abi::Latency == xdp::eg_latency { value, seen }
    abi::Load == xdp::eg_load { flows, outstanding, latency }
    abi::Pool == xdp::eg_pool { hash_key, backends, period, algorithm, prefix4, prefix6, pad, affinity_s }
    abi::AffinityKey == xdp::eg_affinity_key { addr, pool }
    abi::Affinity == xdp::eg_affinity { backend, generation, seen }
    abi::Slot == xdp::eg_slot { primary, alternate }
    abi::FlowKey == xdp::eg_flow_key { saddr, daddr, sport, dport, proto, pad }
    abi::Flow == xdp::eg_flow {
        tag, addr, port, dir, state, vip, epoch, backend, generation, seen, next, ifindex, dmac, smac, born
    }
    abi::FragKey == xdp::eg_frag_key { saddr, daddr, id, proto, pad }
    abi::FragRange == xdp::eg_frag_range { from, to }
    abi::Frag == xdp::eg_frag { born, tag, backend, id, total, sport, dport, flags, pad, ranges }
    abi::Held == xdp::eg_held { key, ifindex, length }
    abi::Captured == capture::eg_captured { time, ifindex, length, kept, verdict, reason, vip, backend, reply }
    abi::Stats == xdp::eg_stats { packets, bytes, reply_packets, reply_bytes, flows, drops }
    abi::Count == xdp::eg_count { packets, bytes }
    abi::Prefix == xdp::eg_prefix { len, addr }
    abi::Bucket == xdp::eg_bucket { step, window }
    abi::Guards == xdp::eg_guards { mask4, mask6, packets, flows, udp, amplification, pad }
    abi::Source == xdp::eg_source { packets, flows, udp, debt, forgiven, pad }
    abi::Budget == xdp::eg_budget { step, window, full }
    abi::Event == xdp::eg_event { key, kind, code, vip, backend, ifindex, length }
    abi::Meta == xdp::eg_meta { abi, workers, generation, alive }
    abi::Conf == xdp::eg_conf { flags, pad, outer4, outer6, outer4_bits, outer6_bits }
    abi::ListenerKey == sock::eg_listener_key { addr, port, proto, pad }
    abi::Listener == sock::eg_listener { base, workers }
    abi::Worker == sock::eg_worker { live, pad }
}

#[cfg(test)]
mod tests {
    use super::abi;

    const HEADER: &str = include_str!("../../bpf/abi.h");

    /// `#define NAME value`, `#define NAME (value << bits)` or `NAME = value,` in the header.
    fn header_value(name: &str) -> Option<u32> {
        HEADER.lines().find_map(|line| {
            let mut words = line.split([' ', '\t', ',', '=', '(', ')']).filter(|word| !word.is_empty());
            let first = words.next()?;
            let word = if first == "#define" { words.next()? } else { first };
            let value: Option<u32> = words.next()?.trim_end_matches('u').parse().ok();
            let shift = if words.next() == Some("<<") { words.next()?.parse().ok()? } else { 0u32 };
            (word == name).then(|| value.map(|value| value << shift)).flatten()
        })
    }

    #[test]
    fn constants_are_the_headers() {
        for (name, ours) in [
            ("EG_ABI", abi::ABI),
            ("EG_MAX_VIPS", abi::MAX_VIPS),
            ("EG_MAX_POOLS", abi::MAX_POOLS),
            ("EG_MAX_BACKENDS", abi::MAX_BACKENDS),
            ("EG_MAX_WORKERS", abi::MAX_WORKERS),
            ("EG_MAX_SOCKS", abi::MAX_SOCKS),
            ("EG_RING_SLOTS", abi::RING_SLOTS),
            ("EG_MAX_PROBES", abi::MAX_PROBES),
            ("EG_VIP_SNAT", abi::VIP_SNAT),
            ("EG_VIP_STABLE", abi::VIP_STABLE),
            ("EG_FRAG_RANGES", abi::FRAG_RANGES as u32),
            ("EG_FRAG_TIMEOUT_MS", abi::FRAG_TIMEOUT_MS),
            ("EG_FRAG_PORTS", u32::from(abi::FRAG_PORTS)),
            ("EG_FRAG_DONE", u32::from(abi::FRAG_DONE)),
            ("EG_CAPTURED_HELD", abi::CAPTURED_HELD),
            ("EG_VIP_REPICK", abi::VIP_REPICK),
            ("EG_VIP_RESET", abi::VIP_RESET),
            ("EG_ADDR_PASS", abi::ADDR_PASS),
            ("EG_ADDR_RESET", abi::ADDR_RESET),
            ("EG_ADDR_COOKIE", abi::ADDR_COOKIE),
            ("EG_ADDR_VIP", abi::ADDR_VIP),
            ("EG_ADDR_SOURCE", abi::ADDR_SOURCE),
            ("EG_BACKEND_ON_LINK", u32::from(abi::BACKEND_ON_LINK)),
            ("EG_CONF_RETURN_PATH", abi::CONF_RETURN_PATH),
            ("EG_GUARD_TICK_SHIFT", abi::GUARD_TICK_SHIFT),
            ("EG_FLOW_CLAIM", u32::from(abi::FLOW_CLAIM)),
        ] {
            assert_eq!(header_value(name), Some(ours), "{name}");
        }
    }

    /// `#define NAME (1u << bit)` in the header.
    #[test]
    fn flags_are_the_headers() {
        for (name, ours) in [
            ("EG_VIP_GUARD_PREFIX", abi::VIP_GUARD_PREFIX),
            ("EG_VIP_GUARD_PACKETS", abi::VIP_GUARD_PACKETS),
            ("EG_VIP_GUARD_FLOWS", abi::VIP_GUARD_FLOWS),
            ("EG_VIP_GUARD_UDP", abi::VIP_GUARD_UDP),
            ("EG_VIP_GUARD_AMPLIFY", abi::VIP_GUARD_AMPLIFY),
        ] {
            let line = HEADER.lines().find(|line| line.split_whitespace().nth(1) == Some(name));
            let bit = line.and_then(|line| line.split("(1u << ").nth(1)?.split(')').next()?.parse::<u32>().ok());
            assert_eq!(bit.map(|bit| 1 << bit), Some(ours), "{name}");
        }
    }

    /// Every `PREFIX_LABEL = code` of the header is in the Rust enum under that label, and nothing else is.
    fn same_codes(prefix: &str, count: Option<&str>, ours: &[(&str, u32)]) {
        for (label, code) in ours {
            let name = format!("{prefix}_{}", label.to_uppercase().replace('-', "_"));
            assert_eq!(header_value(&name), Some(*code), "{name}");
        }
        if let Some(count) = count {
            let next = ours.iter().map(|(_, code)| code + 1).max();
            assert_eq!(header_value(count), next, "{count}");
        }
    }

    #[test]
    fn enum_codes_are_the_headers() {
        macro_rules! codes {
            ($name:ident) => {
                abi::$name::ALL.iter().map(|v| (v.label(), v.code())).collect::<Vec<_>>()
            };
        }
        same_codes("EG_DROP", Some("EG_DROPS"), &codes!(Drop));
        same_codes("EG_MISS", Some("EG_MISSES"), &codes!(Miss));
        same_codes("EG_VERDICT", Some("EG_VERDICTS"), &codes!(Verdict));
        same_codes("EG_COOKIE", Some("EG_COOKIES"), &codes!(Cookie));
        same_codes("EG_FORWARD", Some("EG_FORWARDS"), &codes!(Forward));
        same_codes("EG_ALGORITHM", Some("EG_ALGORITHMS"), &codes!(Algorithm));
        same_codes("EG_BACKEND", None, &codes!(BackendState));
        same_codes("EG_FLOW", None, &codes!(FlowDir));
        same_codes("EG_FLOW", None, &codes!(FlowState));
        same_codes("EG_EVENT", None, &codes!(EventKind));
        same_codes("EG_PREFIX", None, &codes!(PrefixVerdict));
        same_codes("EG_PROBED", Some("EG_PROBEDS"), &codes!(Probed));
    }
}
