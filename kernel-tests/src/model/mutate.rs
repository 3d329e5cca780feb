// SPDX-License-Identifier: GPL-3.0-only
//! What goes wrong with a frame on its way, or is meant to.

use crate::packet::random::Random;

/// Values that limits are made of.
const BYTES: [u8; 12] = [0, 1, 2, 4, 5, 6, 17, 0x45, 0x7f, 0x80, 0xfe, 0xff];

/// The same frame, damaged one to three times. At least an Ethernet header stays: the kernel runs nothing on less.
pub(super) fn mutate(random: &mut Random, frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    for _ in 0..1 + random.below(3) {
        once(random, &mut bytes);
    }
    bytes
}

fn once(random: &mut Random, bytes: &mut Vec<u8>) {
    // Where the headers are, mostly.
    let near = bytes.len().min(if random.below(8) == 0 { usize::MAX } else { 80 });
    let at = random.below(near);
    // Behind one tag more or less.
    let l3 = if bytes[12] == 0x81 || bytes[12] == 0x88 { 18 } else { 14 };
    match random.below(12) {
        0..3 => bytes[at] ^= 1 << random.below(8),
        3 => bytes[at] = random.draw() as u8,
        4 => bytes[at] = BYTES[random.below(BYTES.len())],
        5 => bytes.truncate(14 + random.below(bytes.len() - 13)),
        6 => {
            let more = random.below(60);
            bytes.extend((0..more).map(|_| random.draw() as u8));
        }
        7 => turn_round(bytes, l3),
        8 => field(random, bytes, l3),
        // The flags of TCP behind the shortest headers.
        9 => {
            let at = l3 + if is_v6(bytes, l3) { 53 } else { 33 };
            set(bytes, at, random.draw() as u8 & 0x3f);
        }
        // The length, a little off.
        10 => {
            let at = l3 + if is_v6(bytes, l3) { 5 } else { 3 };
            let was = bytes.get(at).copied().unwrap_or_default();
            set(bytes, at, was.wrapping_add(random.below(9) as u8).wrapping_sub(4));
        }
        _ => {
            // No EtherType of ours, or a tag too many.
            let tag = [[0x81, 0, 0, 1], [0x88, 0xa8, 0, 1], [0x08, 0x06, 0, 1]][random.below(3)];
            bytes.splice(12..12, tag);
        }
    }
}

fn is_v6(bytes: &[u8], l3: usize) -> bool {
    bytes.get(l3).is_some_and(|byte| byte >> 4 == 6)
}

fn set(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = value;
    }
}

/// One field of the IP header, or the next one's ports.
fn field(random: &mut Random, bytes: &mut [u8], l3: usize) {
    let fields: &[usize] = if is_v6(bytes, l3) {
        // Class, length, next header, hop limit, addresses, ports, offset.
        &[1, 4, 5, 6, 7, 8, 23, 24, 39, 40, 41, 42, 43, 52]
    } else {
        // Header length, length, TTL, protocol, checksum, addresses, ports, offset.
        &[0, 2, 3, 8, 9, 10, 12, 13, 15, 16, 19, 20, 21, 22, 23, 32]
    };
    let value = BYTES[random.below(BYTES.len())];
    set(bytes, l3 + fields[random.below(fields.len())], value);
}

/// Source and destination change places.
fn turn_round(bytes: &mut [u8], l3: usize) {
    let (at, size) = if is_v6(bytes, l3) { (l3 + 8, 16) } else { (l3 + 12, 4) };
    if let Some(both) = bytes.get_mut(at..at + 2 * size) {
        let (source, destination) = both.split_at_mut(size);
        source.swap_with_slice(destination);
    }
}
