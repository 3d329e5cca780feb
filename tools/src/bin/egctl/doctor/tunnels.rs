// SPDX-License-Identifier: GPL-3.0-only
//! Whether backends take the traffic's packets apart, where it reaches them in a tunnel or by their MAC address alone.
//!
//! Each is asked twice: by a marked socket that connects to the VIP, whose packets go the way of the traffic
//! (`bpf/tc/egress.bpf.c`), and at its own address. Who answers the second alone has no decapsulation.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use eg_skel::ProbeMaps;
use eg_skel::abi::{Backend, Forward, PROTO_TCP};
use eg_skel::share::pin_dir;
use expressgateway::datapath::{Host, Kind, Way};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use super::facts::Facts;
use super::report::{Finding, Severity};
use super::subject::Subject;
use crate::kernel::{Pins, at, failed};

/// A SYN that is lost is sent again after a second: two more may be.
const PATIENCE: Duration = Duration::from_millis(3500);

/// Pairs that are asked, two sockets each: a fifth of the descriptors that a process may have as a rule. More take as long
/// again, and are as likely to show what the first do.
const PAIRS_MAX: usize = 100;

/// What `egctl backend attach` listens for where nothing else is said.
const GUE_PORT: u16 = 6080;

/// A VIP's backend.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    pub(crate) vip: SocketAddr,
    /// As `pool/name`.
    pub(crate) backend: String,
    pub(crate) address: SocketAddr,
    pub(crate) forwarding: Forward,
    pub(crate) gue_port: u16,
    /// `None`: only TCP can be asked.
    pub(crate) said: Option<Said>,
}

/// What came back: from the VIP, and from the backend's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Our end of the question: the backend needs a way back to it.
    pub(crate) source: IpAddr,
    pub(crate) through: Answer,
    pub(crate) direct: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Open,
    Refused,
    Silence,
}

/// Asks all of them at once. Nothing pinned, and no VIP without nat: nobody is asked.
pub(super) fn ask(subject: &Subject, host: &Host) -> Result<Vec<Tunnel>, String> {
    if !pin_dir(&subject.pin_root).exists() {
        return Ok(Vec::new());
    }
    let pairs = pairs(subject, host)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut questions = JoinSet::new();
        for (mut tunnel, question) in pairs {
            questions.spawn(async move {
                if let Some((mark, source)) = question {
                    let source = source?;
                    let through = connect(tunnel.vip, Some((mark, source)));
                    let (through, direct) = tokio::join!(through, connect(tunnel.address, None));
                    tunnel.said = Some(Said { source, through: through?, direct: direct? });
                }
                Ok::<Tunnel, String>(tunnel)
            });
        }
        let mut tunnels = questions.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
        tunnels.sort_by(|a, b| (a.vip, &a.backend).cmp(&(b.vip, &b.backend)));
        Ok(tunnels)
    })
}

/// The mark to ask by, and the address to ask from; `None` for who cannot be asked.
type Question = Option<(u32, Result<IpAddr, String>)>;

/// Who can be asked, by what the gateway has written. A UDP VIP beside a TCP one with the same backend is that one's.
fn pairs(subject: &Subject, host: &Host) -> Result<Vec<(Tunnel, Question)>, String> {
    let Some(probes) = ProbeMaps::open(&pin_dir(&subject.pin_root)).map_err(failed)? else { return Ok(Vec::new()) };
    let pins = Pins::open(&subject.pin_root)?;
    let name = |kind, id| pins.names.iter().find(|named| named.kind == kind && named.id == id);
    let (mut tcp, mut others) = (Vec::new(), Vec::new());
    for (mark, probe) in probes.probes.entries().map_err(failed)? {
        let vip = pins.maps.vips.get(probe.vip).map_err(failed)?;
        let backend = pins.maps.backends.get(probe.backend).map_err(failed)?;
        let pool = name(Kind::Pool, vip.pool).map_or("-", |pool| &pool.name);
        // A probe would leave by the network; "vips" speaks about that.
        if host.ways.get(&IpAddr::from(vip.addr)) != Some(&Way::Local) {
            continue;
        }
        let tunnel = Tunnel {
            vip: at(vip.addr, vip.port),
            backend: format!("{pool}/{}", name(Kind::Backend, probe.backend).map_or("-", |backend| &backend.name)),
            address: at(backend.addr, backend.port),
            forwarding: Forward::from_code(vip.forward.into()).unwrap_or(Forward::Nat),
            gue_port: vip.gue_port.into(),
            said: None,
        };
        if vip.proto == PROTO_TCP {
            let source = source(subject, host, &backend, tunnel.vip.is_ipv6());
            tcp.push((tunnel, Some((mark, source))));
        } else {
            others.push((tunnel, None));
        }
    }
    let end = |tunnel: &Tunnel| (tunnel.vip.ip(), tunnel.address.ip(), tunnel.forwarding);
    let asked: HashSet<_> = tcp.iter().map(|(tunnel, _)| end(tunnel)).collect();
    others.retain(|(tunnel, _)| !asked.contains(&end(tunnel)));
    tcp.truncate(PAIRS_MAX);
    tcp.extend(others);
    Ok(tcp)
}

/// Our address towards the backend, or, where the VIP is of the other family, one of that family beside it.
fn source(subject: &Subject, host: &Host, backend: &Backend, v6: bool) -> Result<IpAddr, String> {
    let known = IpAddr::from(backend.source);
    if backend.ifindex != 0 && known.is_ipv6() == v6 {
        return Ok(known);
    }
    let fits = |address: &IpAddr| match address {
        IpAddr::V4(ip) => !v6 && !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => v6 && !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let vips = subject.local_addresses();
    let own = host.addresses.iter().filter(|(_, address, _)| fits(address) && !vips.contains(address));
    let nearest = own.min_by_key(|(index, ..)| *index != backend.ifindex);
    nearest.map(|(_, address, _)| *address).ok_or_else(|| {
        let family = if v6 { 6 } else { 4 };
        format!("this host has no IPv{family} address to ask from")
    })
}

/// Closed by a reset, so that nothing of it lingers.
async fn connect(to: SocketAddr, probe: Option<(u32, IpAddr)>) -> Result<Answer, String> {
    let prepare = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        if let Some((mark, source)) = probe {
            socket.set_mark(mark)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(TcpSocket::from_std_stream(socket.into()))
    };
    let socket = prepare().map_err(|error: std::io::Error| format!("cannot ask {to}: {error}"))?;
    match tokio::time::timeout(PATIENCE, socket.connect(to)).await {
        Ok(Ok(_)) => Ok(Answer::Open),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Ok(Answer::Refused),
        // A firewall, no way, a reset: whatever it is, nobody serves there, and the others are asked all the same.
        Ok(Err(_)) | Err(_) => Ok(Answer::Silence),
    }
}

pub(super) fn answers(_: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let tunnels = facts.tunnels.as_ref().map_err(Clone::clone)?;
    let accepts = |interface: &str| facts.number(&format!("net/ipv4/conf/{interface}/accept_local")) == Some(1);
    if tunnels.iter().any(|tunnel| tunnel.vip.is_ipv4()) && !accepts("lo") && !accepts("all") {
        return Ok(vec![Finding {
            severity: Severity::Warning,
            what: "this host refuses what backends answer to probes".into(),
            at: "net.ipv4.conf.lo.accept_local".into(),
            why: "their source is a VIP, an address of its own: no backend of an IPv4 VIP without nat can be asked"
                .into(),
            fix: "sysctl -w net.ipv4.conf.lo.accept_local=1".into(),
        }]);
    }
    let ways = &facts.host()?.ways;
    // "ways to backends" has spoken about the others.
    let leads = |tunnel: &&Tunnel| matches!(ways.get(&tunnel.address.ip()), Some(Way::Out { resolved: true, .. }));
    let findings: Vec<Finding> = tunnels.iter().filter(leads).filter_map(judge).collect();
    let untold: Vec<String> =
        tunnels.iter().filter(|tunnel| tunnel.said.is_none()).map(|tunnel| tunnel.vip.to_string()).collect();
    match untold.first() {
        Some(vip) if findings.is_empty() => {
            Err(format!("{vip} is UDP alone: what its backends answer is known to who speaks their protocol"))
        }
        _ => Ok(findings),
    }
}

fn judge(tunnel: &Tunnel) -> Option<Finding> {
    let Tunnel { vip, backend, address, forwarding, .. } = tunnel;
    let (host, mode) = (address.ip(), forwarding.label());
    let said = tunnel.said?;
    let source = said.source;
    let (what, why, fix) = match said {
        Said { through: Answer::Open, .. } => return None,
        Said { through: Answer::Refused, .. } => (
            format!("{backend} has no server at {vip}"),
            format!("what comes by {mode} arrives there, and the connection is refused"),
            format!(
                "ss -ltn 'sport = :{}'  # on {host}: the server must listen on the VIP, or on every address",
                vip.port()
            ),
        ),
        Said { direct: Answer::Silence, .. } => (
            format!("{backend} does not answer"),
            format!(
                "neither {source} at {vip} by {mode}, as clients reach it, nor at its own address: they wait in vain"
            ),
            format!("ping -c 3 {host}  # if it answers, a firewall there drops what comes to port {}", address.port()),
        ),
        Said { .. } if *forwarding == Forward::L2 => (
            format!("{backend} does not take {vip} for its own"),
            format!(
                "it answers at {address}, but not what {source} sends to the VIP, as clients do: they wait in vain"
            ),
            format!("{}  # on {host}", vip_on_lo(vip.ip())),
        ),
        Said { .. } => {
            let port = match tunnel.gue_port {
                port if *forwarding == Forward::Gue && port != GUE_PORT => format!(" --gue-port {port}"),
                _ => String::new(),
            };
            (
                format!("no decapsulation at {backend}"),
                format!(
                    "it answers at {address}, but not what comes by {mode} from {source} for {vip}: clients wait in vain"
                ),
                format!("{}; egctl backend attach INTERFACE{port}  # on {host}", vip_on_lo(vip.ip())),
            )
        }
    };
    Some(Finding {
        severity: Severity::Error,
        what,
        at: format!("backend {backend} at {address}, vip {vip}"),
        why,
        fix,
    })
}

fn vip_on_lo(vip: IpAddr) -> String {
    match vip {
        IpAddr::V4(vip) => format!("ip addr add {vip}/32 dev lo"),
        IpAddr::V6(vip) => format!("ip addr add {vip}/128 dev lo preferred_lft 0"),
    }
}
