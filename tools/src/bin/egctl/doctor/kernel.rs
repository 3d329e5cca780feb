// SPDX-License-Identifier: GPL-3.0-only
//! What the kernel and this process can do at all.

use super::facts::Facts;
use super::report::{Finding, Severity};
use super::subject::Subject;

pub(super) fn privilege(_: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let missing = &facts.capabilities.missing;
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Finding {
        severity: Severity::Error,
        what: format!("this process lacks {}", missing.join(" and ")),
        at: "the process that runs this command".into(),
        why: "a gateway started like this refuses L4 listeners, and most of what follows cannot be seen without it"
            .into(),
        fix: format!(
            "sudo egctl doctor; for the gateway: systemctl edit expressgateway, and under [Service] AmbientCapabilities={}",
            missing.join(" ")
        ),
    }])
}

pub(super) fn features(_: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let can = &facts.capabilities;
    if !can.missing.is_empty() {
        return Err(format!("the kernel cannot be asked without {}", can.missing.join(" and ")));
    }
    let features = [
        (can.xdp, "XDP", "5.9"),
        (can.sk_lookup, "sk_lookup", "5.9"),
        (can.ring_buffer, "BPF ring buffers", "5.8"),
        (can.lru_hash, "LRU hash maps", "4.10"),
    ];
    let lacking = features.iter().filter(|(present, ..)| !present);
    Ok(lacking
        .map(|(_, feature, since)| Finding {
            severity: Severity::Error,
            what: format!("this kernel lacks {feature}"),
            at: "kernel".into(),
            why: format!("the datapath cannot start; Linux has it since {since}, unless it was configured out"),
            fix: "apt install linux-image-amd64 && reboot".into(),
        })
        .collect())
}

pub(super) fn bpffs(subject: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let (existing, is) = facts.bpffs.clone()?;
    if is {
        return Ok(Vec::new());
    }
    let at = if subject.pin_root.starts_with("/sys/fs/bpf") { "/sys/fs/bpf".into() } else { existing };
    Ok(vec![Finding {
        severity: Severity::Error,
        what: format!("{} is not on a BPF file system", subject.pin_root.display()),
        at: "datapath.pin_root".into(),
        why: "maps and programs are pinned there: the datapath does not start without it".into(),
        fix: format!("mount -t bpf bpf {}", at.display()),
    }])
}

/// The setting is visible in the host's own network namespace only; in another, the program itself tells.
pub(super) fn jit(_: &Subject, facts: &Facts) -> Result<Vec<Finding>, String> {
    let off = facts.number("net/core/bpf_jit_enable") == Some(0);
    let interpreted = matches!(facts.pinned(), Ok(Some(pinned)) if pinned.jited == Some(false));
    if !off && !interpreted {
        return Ok(Vec::new());
    }
    let restart =
        if interpreted { "; the program that runs was loaded without it and stays so until a restart" } else { "" };
    Ok(vec![Finding {
        severity: Severity::Warning,
        what: "the kernel does not compile BPF programs".into(),
        at: "net.core.bpf_jit_enable".into(),
        why: format!("every packet is interpreted, several times slower{restart}"),
        fix: "sysctl -w net.core.bpf_jit_enable=1 && systemctl restart expressgateway".into(),
    }])
}
