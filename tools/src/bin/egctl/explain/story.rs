// SPDX-License-Identifier: GPL-3.0-only
//! What the twin did, in the order in which it did it and in the operator's names: a line and some facts for each step.

use eg_skel::MapError;
use eg_skel::abi::{
    self, ADDR_PASS, ADDR_RESET, ADDR_VIP, Algorithm, Backend, BackendState, Drop, Flow, FlowDir, FlowState, Forward,
    PROTO_TCP, VIP_GUARD_AMPLIFY, VIP_GUARD_FLOWS, VIP_GUARD_PACKETS, VIP_GUARD_PREFIX, VIP_GUARD_UDP, VIP_SNAT,
    Verdict, Vip, VipKey,
};
use eg_skel::twin::{Action, Chosen, Noted, Outcome, Parsed, Told};
use expressgateway::datapath::{Attached, Kind};
use nix::net::if_::if_indextoname;
use serde_json::{Map, Value, json};

use super::frame::flags;
use super::seen::{self, Seen};
use crate::kernel::{Pins, at};

/// What was asked.
pub(super) struct Asked<'a> {
    pub(super) frame: &'a [u8],
    pub(super) interface: String,
    /// `None`: nothing is attached to that interface.
    pub(super) attached: Option<&'a Attached>,
    pub(super) told: &'a Told,
    /// Jiffies.
    pub(super) now: u32,
}

struct Step {
    name: &'static str,
    text: String,
    facts: Value,
}

pub(super) struct Story {
    steps: Vec<Step>,
}

impl Story {
    pub(super) fn tell(pins: &Pins, asked: &Asked<'_>, said: &Outcome) -> Result<Story, MapError> {
        let noted = &said.noted;
        let teller = Teller {
            pins,
            asked,
            said,
            noted,
            vip: known(noted.vip).map(|id| pins.maps.vips.get(id)).transpose()?,
            backend: known(noted.backend).map(|id| pins.maps.backends.get(id)).transpose()?,
            flow: flow(pins, noted)?,
        };
        let steps = [
            Some(teller.parse()),
            teller.flow_step(),
            teller.vip_step()?,
            teller.guards(),
            teller.pick()?,
            teller.backend_step(),
            teller.rewrite(),
            Some(teller.verdict()),
        ];
        Ok(Story { steps: steps.into_iter().flatten().collect() })
    }

    pub(super) fn render(&self, json: bool) -> String {
        if json {
            let mut whole = Map::new();
            for step in &self.steps {
                let mut facts = Map::from_iter([("text".to_owned(), json!(step.text))]);
                facts.extend(step.facts.as_object().cloned().unwrap_or_default());
                whole.insert(step.name.to_owned(), Value::Object(facts));
            }
            return format!("{}\n", Value::Object(whole));
        }
        let mut text = String::new();
        for step in &self.steps {
            let mut lines = step.text.lines();
            text += &format!("{:<9}{}\n", step.name, lines.next().unwrap_or_default());
            lines.for_each(|line| text += &format!("{:9}{line}\n", ""));
        }
        text
    }
}

/// 0 is nobody's number.
fn known(id: u32) -> Option<u32> {
    (id != 0).then_some(id)
}

/// The entry by which the packet went, or that was found and did not count; and whether it is half-open.
fn flow(pins: &Pins, noted: &Noted) -> Result<Option<(Flow, bool)>, MapError> {
    if !matches!(noted.parsed, Parsed::Whole | Parsed::Fragment) || noted.key.sport == abi::Be16::default() {
        return Ok(None);
    }
    if (!noted.half_open || !noted.misses.is_empty())
        && let Some(flow) = pins.maps.flows.get(&noted.key)?
    {
        return Ok(Some((flow, false)));
    }
    if noted.fresh && noted.misses.is_empty() {
        return Ok(None);
    }
    Ok(pins.maps.opening.get(&noted.key)?.map(|flow| (flow, true)))
}

struct Teller<'a> {
    pins: &'a Pins,
    asked: &'a Asked<'a>,
    said: &'a Outcome,
    noted: &'a Noted,
    vip: Option<Vip>,
    backend: Option<Backend>,
    flow: Option<(Flow, bool)>,
}

impl Teller<'_> {
    fn parse(&self) -> Step {
        let (noted, seen) = (self.noted, Seen::of(self.asked.frame, None));
        let what = match noted.parsed {
            Parsed::Whole if noted.key.proto == PROTO_TCP => format!("TCP {}", flags(noted.tcp_flags)),
            Parsed::Whole => "UDP".to_owned(),
            Parsed::NotOurs => {
                "nothing that an L4 VIP takes: neither TCP, UDP nor an ICMP error to one host".to_owned()
            }
            Parsed::Malformed => "headers that contradict the frame or each other".to_owned(),
            Parsed::Fragment => format!("a fragment of {}", seen::protocol(noted.key.proto)),
            Parsed::Icmp => "an ICMP error".to_owned(),
        };
        let program = match self.asked.attached {
            Some(at) if at.by_tc => "by tc, answered by its XDP twin",
            Some(_) => "by XDP",
            None => "where no program is attached: this is what the others would do",
        };
        let text = format!("{seen}\ncomes in by {} ({program}): {what}", self.asked.interface);
        let parsed = match noted.parsed {
            Parsed::Whole => "whole",
            Parsed::NotOurs => "not ours",
            Parsed::Malformed => "malformed",
            Parsed::Fragment => "fragment",
            Parsed::Icmp => "icmp error",
        };
        let family = matches!(noted.parsed, Parsed::NotOurs).then_some(Value::Null);
        let facts = json!({
            "interface": self.asked.interface,
            "parsed": parsed,
            "family": family.unwrap_or_else(|| json!(if noted.v6 { 6 } else { 4 })),
            "protocol": seen.packets.first().map(|packet| seen::protocol(packet.protocol)),
            "vlans": seen.vlans,
            "source": at(noted.key.saddr, noted.key.sport).to_string(),
            "destination": at(noted.key.daddr, noted.key.dport).to_string(),
            "l3_bytes": noted.length,
        });
        Step { name: "packet", text, facts }
    }

    fn flow_step(&self) -> Option<Step> {
        let noted = self.noted;
        let misses: Vec<&str> = noted.misses.iter().map(|miss| miss.label()).collect();
        let Some((flow, half_open)) = self.flow else {
            let asked = noted.parsed == Parsed::Whole;
            let facts = json!({ "found": false });
            return asked.then(|| Step { name: "flow", text: "none is known".to_owned(), facts });
        };
        let idle = self.asked.now.wrapping_sub(flow.seen);
        // Seen since we asked for the time.
        let idle = if idle > u32::MAX / 2 { 0 } else { idle / self.asked.told.eg_jiffies_hz.max(1) };
        let state = FlowState::from_code(flow.state.into()).map_or("unknown", FlowState::label);
        let dir = FlowDir::from_code(flow.dir.into()).map_or("unknown", FlowDir::label);
        let table = if half_open { "half-open" } else { "established" };
        let counts = misses.is_empty();
        let other = at(flow.addr, flow.port);
        let mut text = format!("{table}, {state}, idle {idle} s, {dir} half; the other end is {other}");
        if !counts {
            text += &format!("\nit does not count any more: {}", misses.join(", "));
        }
        let facts = json!({
            "found": true, "counts": counts, "misses": misses, "table": table, "state": state, "idle_s": idle,
            "direction": dir, "other_end": other.to_string(),
        });
        Some(Step { name: "flow", text, facts })
    }

    fn vip_step(&self) -> Result<Option<Step>, MapError> {
        let noted = self.noted;
        if let Some(vip) = &self.vip {
            let address = at(vip.addr, vip.port).to_string();
            let name = self.pins.name(Kind::Vip, noted.vip);
            let text = format!(
                "{} {address}/{} (id {}, epoch {})",
                name.as_str().unwrap_or("?"),
                seen::protocol(vip.proto),
                noted.vip,
                vip.epoch
            );
            let facts = json!({ "name": name, "address": address, "protocol": seen::protocol(vip.proto), "id": noted.vip, "epoch": vip.epoch });
            return Ok(Some(Step { name: "vip", text, facts }));
        }
        if noted.parsed == Parsed::NotOurs {
            return Ok(None);
        }
        let used = self.pins.maps.vip_ids.get(&VipKey::any_port(noted.key.daddr))?.unwrap_or(0);
        let address = at(noted.key.daddr, noted.key.dport).ip();
        let text = if used & ADDR_VIP == 0 {
            format!("{address} carries none")
        } else {
            let rest = match (used & ADDR_PASS, used & ADDR_RESET) {
                (0, 0) => "dropped",
                (0, _) => "reset",
                _ => "the host's",
            };
            format!("{address} carries others, not this port and protocol; what else comes there is {rest}")
        };
        Ok(Some(Step {
            name: "vip",
            text,
            facts: json!({ "name": Value::Null, "address_in_use": used & ADDR_VIP != 0 }),
        }))
    }

    fn guards(&self) -> Option<Step> {
        let vip = self.vip.as_ref()?;
        let all = [
            (VIP_GUARD_PREFIX, "prefixes"),
            (VIP_GUARD_PACKETS, "packets by source"),
            (VIP_GUARD_FLOWS, "new flows by source"),
            (VIP_GUARD_UDP, "UDP by source"),
            (VIP_GUARD_AMPLIFY, "amplification"),
        ];
        let on: Vec<&str> = all.iter().filter(|(flag, _)| vip.flags & flag != 0).map(|(_, name)| *name).collect();
        let refused = self.noted.reason.filter(|reason| is_guards(*reason)).map(Drop::label);
        let what = if on.is_empty() { "those that are always on".to_owned() } else { on.join(", ") };
        let text = match refused {
            Some(reason) => format!("{what}: refused, {reason}"),
            None => format!("{what}: not refused"),
        };
        Some(Step { name: "guards", text, facts: json!({ "on": on, "refused": refused }) })
    }

    fn pick(&self) -> Result<Option<Step>, MapError> {
        let (Some(chosen), Some(vip)) = (self.noted.chosen, &self.vip) else { return Ok(None) };
        let pool = self.pins.maps.pools.get(vip.pool)?;
        let name = self.pins.name(Kind::Pool, vip.pool);
        let algorithm = Algorithm::from_code(pool.algorithm.into()).map_or("unknown", Algorithm::label);
        let (mut slot, mut stands_in) = (Value::Null, Value::Null);
        let how = match chosen {
            Chosen::Slot(number) => {
                slot = json!(number);
                let ring = self.pins.maps.rings.get(vip.pool)?.unwrap_or_default();
                let owner =
                    usize::try_from(number).ok().and_then(|number| ring.get(number)).map_or(0, |slot| slot.primary);
                if owner != self.noted.backend && owner != 0 {
                    stands_in = self.pins.name(Kind::Backend, owner);
                }
                format!("slot {number}")
            }
            Chosen::Affinity => "where the source's last flow went".to_owned(),
            Chosen::Load => "by load".to_owned(),
            Chosen::Closing => "the closing flow's backend takes it again".to_owned(),
        };
        let mut text = format!("{}, {algorithm}: {how}", name.as_str().unwrap_or("?"));
        if let Some(owner) = stands_in.as_str() {
            text += &format!(", whose owner {owner} takes no new flows");
        }
        if self.noted.random {
            text += "; by chance: another packet may get another";
        }
        let facts = json!({
            "name": name, "algorithm": algorithm, "slot": slot, "stands_in_for": stands_in, "by_chance": self.noted.random,
        });
        Ok(Some(Step { name: "pool", text, facts }))
    }

    fn backend_step(&self) -> Option<Step> {
        let backend = self.backend.as_ref()?;
        let name = self.pins.name(Kind::Backend, self.noted.backend);
        let address = at(backend.addr, backend.port).to_string();
        let state = BackendState::from_code(backend.state.into()).map_or("unknown", BackendState::label);
        let hop =
            (backend.ifindex != 0).then(|| format!("{} by {}", seen::mac(backend.dmac), interface(backend.ifindex)));
        let text = format!(
            "{} {address}, {state}, next hop {}",
            name.as_str().unwrap_or("?"),
            hop.as_deref().unwrap_or("unknown")
        );
        let facts =
            json!({ "name": name, "address": address, "state": state, "id": self.noted.backend, "next_hop": hop });
        Some(Step { name: "backend", text, facts })
    }

    fn rewrite(&self) -> Option<Step> {
        if !matches!(self.said.action, Action::Tx | Action::Redirect) {
            return None;
        }
        let mode = self.vip.as_ref().and_then(|vip| Forward::from_code(vip.forward.into()));
        let gue = self.vip.as_ref().filter(|_| mode == Some(Forward::Gue)).map(|vip| u16::from(vip.gue_port));
        let (before, after) = (Seen::of(self.asked.frame, None), Seen::of(&self.said.bytes, gue));
        let snat = self.vip.as_ref().is_some_and(|vip| vip.flags & VIP_SNAT != 0);
        let how = match (self.noted.verdict, mode) {
            (Some(Verdict::Forwarded), Some(Forward::Nat)) if snat => "nat, source rewritten".to_owned(),
            (Some(Verdict::Forwarded), Some(mode)) => mode.label().to_owned(),
            _ => "an answer of our own".to_owned(),
        };
        let text = format!("{how}\nbefore  {before}\nafter   {after}");
        let facts = json!({ "mode": mode.map(Forward::label), "before": facts(&before), "after": facts(&after) });
        Some(Step { name: "rewrite", text, facts })
    }

    fn verdict(&self) -> Step {
        let noted = self.noted;
        let reason = noted.reason.map(Drop::label);
        let sent = matches!(self.said.action, Action::Tx | Action::Redirect);
        let out = sent.then(|| self.out()).flatten();
        let verdict = match noted.verdict {
            Some(Verdict::Forwarded) if sent => "forwarded",
            Some(Verdict::Passed) => "passed",
            Some(Verdict::Dropped) if sent => "answered",
            Some(Verdict::Answered) => "answered",
            Some(Verdict::Dropped) => "dropped",
            _ => "aborted",
        };
        let mut text = match (verdict, &out) {
            ("forwarded", Some(out)) => format!("forwarded by {out}"),
            ("forwarded", None) => "forwarded by another interface".to_owned(),
            ("passed", _) if noted.local => "passed to the stack: a socket of this host takes it".to_owned(),
            ("passed", _) => "passed to the stack, as it came".to_owned(),
            ("answered", _) if noted.cookie => {
                "answered with a SYN cookie, if the kernel makes one (net.ipv4.tcp_syncookies is \
                 2, or the listener's queue is full); otherwise passed to the stack"
                    .to_owned()
            }
            ("answered", _) => format!(
                "dropped ({}), and its sender is told, unless such answers are beyond their rate",
                reason.unwrap_or("?")
            ),
            ("dropped", _) => format!("dropped: {}", reason.unwrap_or("?")),
            _ => "aborted: the program found no room in the frame".to_owned(),
        };
        if noted.held {
            text = format!(
                "held until the first fragment of its datagram comes, while the process runs; otherwise {text}"
            );
        }
        let facts =
            json!({ "is": verdict, "reason": reason, "interface": out, "held": noted.held, "to_client": noted.reply });
        Step { name: "verdict", text, facts }
    }

    /// The interface that the frame leaves by; `None`: one that only the program knows.
    fn out(&self) -> Option<String> {
        if self.said.action == Action::Tx {
            return Some(self.asked.interface.clone());
        }
        if self.noted.parsed == Parsed::Icmp {
            return None;
        }
        let index = match (self.noted.reply, self.flow, &self.backend) {
            (true, Some((flow, _)), _) => flow.ifindex,
            (false, _, Some(backend)) => backend.ifindex,
            _ => return None,
        };
        Some(interface(index))
    }
}

/// Reasons that a guard gives.
fn is_guards(reason: Drop) -> bool {
    matches!(
        reason,
        Drop::BadSource
            | Drop::BadFlags
            | Drop::PortZero
            | Drop::Denied
            | Drop::NotAllowed
            | Drop::SourceRate
            | Drop::FlowRate
            | Drop::UdpRate
            | Drop::Amplification
            | Drop::FlowBudget
    )
}

fn facts(seen: &Seen) -> Value {
    let packets: Vec<Value> = seen
        .packets
        .iter()
        .map(|packet| {
            json!({
                "protocol": seen::protocol(packet.protocol),
                "source": packet.source.to_string(),
                "destination": packet.destination.to_string(),
                "source_port": packet.ports.map(|ports| ports.0),
                "destination_port": packet.ports.map(|ports| ports.1),
                "ttl": packet.ttl,
            })
        })
        .collect();
    json!({
        "source_mac": seen.source_mac.map(seen::mac),
        "destination_mac": seen.destination_mac.map(seen::mac),
        "vlans": seen.vlans,
        "packets": packets,
        "bytes": seen.length,
    })
}

fn interface(ifindex: u32) -> String {
    if_indextoname(ifindex).map_or_else(|_| format!("#{ifindex}"), |name| name.to_string_lossy().into_owned())
}
