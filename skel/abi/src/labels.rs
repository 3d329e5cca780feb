// SPDX-License-Identifier: GPL-3.0-only
//! The enums of `bpf/abi.h`. A label is the value of a metric's label and the word in a log: one list for all three.

/// Declares an enum of the ABI with its codes, its labels, and the way back from a code.
macro_rules! labels {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $name { $($(#[$variant_doc])* $variant = $code,)* }

        impl $name {
            /// Every value, in the order of their codes.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The name for metrics and logs.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }

            /// The number that the kernel uses.
            pub const fn code(self) -> u32 {
                self as u32
            }

            /// What the kernel's number means; `None` for one that a newer kernel side may use.
            pub const fn from_code(code: u32) -> Option<$name> {
                match code { $($code => Some($name::$variant),)* _ => None }
            }
        }
    };
}
pub(crate) use labels;

labels! {
    /// `enum eg_backend_state`
    pub enum BackendState {
        None = 0 => "none",
        Up = 1 => "up",
        Draining = 2 => "draining",
        Down = 3 => "down",
    }
}

labels! {
    /// `enum eg_forward`: the words of a listener's `forward`
    pub enum Forward {
        Nat = 0 => "nat",
        Ipip = 1 => "ipip",
        Gue = 2 => "gue",
        L2 = 3 => "l2",
    }
}

impl Forward {
    /// Bytes that it puts before a packet to a backend of IPv6 (`v6`) or IPv4: what a packet must leave below the MTU of
    /// the way. RFC 2003, RFC 2473; UDP's header and that of GUE are 8 and 4.
    pub const fn overhead(self, v6: bool) -> u16 {
        let ip = if v6 { 40 } else { 20 };
        match self {
            Forward::Nat | Forward::L2 => 0,
            Forward::Ipip => ip,
            Forward::Gue => ip + 12,
        }
    }
}

labels! {
    /// `enum eg_algorithm`: the words of a pool's `algorithm`
    pub enum Algorithm {
        Maglev = 0 => "maglev",
        RingHash = 1 => "ring-hash",
        SessionAffinity = 2 => "session-affinity",
        RoundRobin = 3 => "round-robin",
        WeightedRoundRobin = 4 => "weighted-round-robin",
        Random = 5 => "random",
        WeightedRandom = 6 => "weighted-random",
        P2c = 7 => "p2c",
        LeastConnections = 8 => "least-connections",
        LeastRequests = 9 => "least-requests",
        Ewma = 10 => "ewma",
    }
}

labels! {
    /// `enum eg_flow_dir`
    pub enum FlowDir {
        Forward = 0 => "forward",
        Reverse = 1 => "reverse",
    }
}

labels! {
    /// `enum eg_flow_state`
    pub enum FlowState {
        Opening = 0 => "opening",
        Open = 1 => "open",
        Closing = 2 => "closing",
        Answered = 3 => "answered",
    }
}

labels! {
    /// `enum eg_verdict`
    pub enum Verdict {
        Forwarded = 0 => "forwarded",
        Passed = 1 => "passed",
        Dropped = 2 => "dropped",
        Answered = 3 => "answered",
    }
}

labels! {
    /// `enum eg_cookie`
    pub enum Cookie {
        Sent = 0 => "sent",
        Declined = 1 => "declined",
        Failed = 2 => "failed",
    }
}

labels! {
    /// `enum eg_drop`, without the 0 that is no reason.
    pub enum Drop {
        Malformed = 1 => "malformed",
        Fragment = 2 => "fragment",
        NoFlow = 3 => "no_flow",
        NoBackend = 4 => "no_backend",
        NoPort = 5 => "no_port",
        NoNextHop = 6 => "no_next_hop",
        StaleReply = 7 => "stale_reply",
        Ttl = 8 => "ttl",
        UnusedPort = 9 => "unused_port",
        Map = 10 => "map",
        Handshake = 11 => "handshake",
        TooBig = 12 => "too_big",
        Tail = 13 => "tail",
        BackendDown = 14 => "backend_down",
        BadSource = 15 => "bad_source",
        BadFlags = 16 => "bad_flags",
        PortZero = 17 => "port_zero",
        Denied = 18 => "denied",
        NotAllowed = 19 => "not_allowed",
        SourceRate = 20 => "source_rate",
        FlowRate = 21 => "flow_rate",
        UdpRate = 22 => "udp_rate",
        Amplification = 23 => "amplification",
        FragmentOverlap = 24 => "fragment_overlap",
        FragmentEarly = 25 => "fragment_early",
        FlowBudget = 26 => "flow_budget",
    }
}

labels! {
    /// `enum eg_miss`
    pub enum Miss {
        Epoch = 0 => "epoch",
        Generation = 1 => "generation",
        Expired = 2 => "expired",
        Reopened = 3 => "reopened",
        Taken = 4 => "taken",
        Down = 5 => "down",
    }
}

labels! {
    /// `enum eg_prefix_verdict`
    pub enum PrefixVerdict {
        Allow = 0 => "allow",
        Deny = 1 => "deny",
        Other = 2 => "other",
    }
}

labels! {
    /// `enum eg_event_kind`
    pub enum EventKind {
        Drop = 1 => "drop",
        NextHop = 2 => "next_hop",
        Mtu = 3 => "mtu",
    }
}

labels! {
    /// `enum eg_probed`
    pub enum Probed {
        Sent = 0 => "sent",
        Answered = 1 => "answered",
        Gone = 2 => "gone",
        NoNextHop = 3 => "no_next_hop",
        TooBig = 4 => "too_big",
        NoRoom = 5 => "no_room",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_values_name_each_other() {
        for drop in Drop::ALL {
            assert_eq!(Drop::from_code(drop.code()), Some(*drop));
        }
        assert_eq!(Drop::from_code(0), None);
        assert_eq!(Drop::from_code(27), None);
        assert_eq!(Drop::NoBackend.label(), "no_backend");
    }
}
