// SPDX-License-Identifier: GPL-3.0-only
//! Whole frames into fragments and back, and what a gateway hands to its process of those that came too early.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use eg_abi::{Held, Plain};
use libbpf_rs::{PerfBuffer, PerfBufferBuilder};
use pnet::packet::ipv4::{self, Ipv4Packet};

use super::gateway::Gateway;
use super::hook::Writer;
use super::runner::Outcome;

/// A fragment header's length, RFC 8200 section 4.5.
const HEADER6: usize = 8;

/// Which fragment this is, read from its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub id: u32,
    pub offset: usize,
    pub more: bool,
    /// Where its bytes of the datagram begin in the frame.
    pub at: usize,
}

/// Where the IP header begins.
fn l3(frame: &[u8]) -> usize {
    if frame[12..14] == [0x81, 0] { 18 } else { 14 }
}

/// The frames that carry `frame`'s datagram cut at `cuts`, multiples of eight below its length. No extension headers.
pub fn split(frame: &[u8], id: u32, cuts: &[usize]) -> Vec<Vec<u8>> {
    let l3 = l3(frame);
    let v4 = frame[l3] >> 4 == 4;
    let header = if v4 { usize::from(frame[l3] & 15) * 4 } else { 40 };
    let length = frame.len() - l3 - header;
    let ends = cuts.iter().copied().chain([length]);
    let begins = [0].into_iter().chain(cuts.iter().copied());
    begins
        .zip(ends)
        .map(|(from, to)| piece(frame, id, from, &frame[l3 + header + from..l3 + header + to], to < length))
        .collect()
}

/// One fragment with the headers of `whole` and these bytes at this offset.
pub fn piece(whole: &[u8], id: u32, offset: usize, bytes: &[u8], more: bool) -> Vec<u8> {
    let l3 = l3(whole);
    let v4 = whole[l3] >> 4 == 4;
    let field = offset as u16 | u16::from(more);
    let mut frame = whole[..l3 + if v4 { usize::from(whole[l3] & 15) * 4 } else { 40 }].to_vec();
    if v4 {
        let total = (frame.len() - l3 + bytes.len()) as u16;
        frame[l3 + 2..l3 + 4].copy_from_slice(&total.to_be_bytes());
        frame[l3 + 4..l3 + 6].copy_from_slice(&(id as u16).to_be_bytes());
        let field = (offset / 8) as u16 | u16::from(more) << 13;
        frame[l3 + 6..l3 + 8].copy_from_slice(&field.to_be_bytes());
        checksum4(&mut frame[l3..]);
    } else {
        let proto = std::mem::replace(&mut frame[l3 + 6], 44);
        frame[l3 + 4..l3 + 6].copy_from_slice(&((HEADER6 + bytes.len()) as u16).to_be_bytes());
        frame.extend([proto, 0]);
        frame.extend(field.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend(bytes);
    frame
}

fn checksum4(ip: &mut [u8]) {
    ip[10..12].fill(0);
    let sum = ipv4::checksum(&Ipv4Packet::new(ip).expect("an IPv4 header"));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Reads a fragment's place.
pub fn read(frame: &[u8]) -> Piece {
    let l3 = l3(frame);
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[l3] >> 4 == 4 {
        let at = l3 + usize::from(frame[l3] & 15) * 4;
        let field = word(l3 + 6);
        let offset = usize::from(field & 0x1fff) * 8;
        return Piece { id: word(l3 + 4).into(), offset, more: field & 0x2000 != 0, at };
    }
    assert_eq!(frame[l3 + 6], 44, "an IPv6 fragment");
    let header = l3 + 40;
    let id = u32::from(word(header + 4)) << 16 | u32::from(word(header + 6));
    let field = word(header + 2);
    Piece { id, offset: usize::from(field & 0xfff8), more: field & 1 != 0, at: header + HEADER6 }
}

/// What a receiver makes of these frames, in any order: the whole frame, its headers those of the fragments. Every
/// fragment must have the same headers, each byte must be there once, and each IPv4 header's checksum must hold.
pub fn join(frames: &[Vec<u8>]) -> Vec<u8> {
    let first = frames.iter().find(|frame| read(frame).offset == 0).expect("a first fragment");
    let l3 = l3(first);
    let v4 = first[l3] >> 4 == 4;
    let mut parts: Vec<(Piece, &Vec<u8>)> = frames.iter().map(|frame| (read(frame), frame)).collect();
    parts.sort_by_key(|(piece, _)| piece.offset);
    let ids: BTreeSet<u32> = parts.iter().map(|(piece, _)| piece.id).collect();
    assert_eq!(ids.len(), 1, "one identification: {ids:x?}");
    let mut bytes: Vec<u8> = Vec::new();
    for (piece, frame) in &parts {
        assert_eq!(frame[..12], first[..12], "MAC addresses");
        let ends = if v4 { l3 + 12..l3 + 20 } else { l3 + 8..l3 + 40 };
        assert_eq!(frame[ends.clone()], first[ends], "addresses");
        if v4 {
            let ip = Ipv4Packet::new(&frame[l3..]).expect("an IPv4 header");
            assert_eq!(ip.get_checksum(), ipv4::checksum(&ip), "the IPv4 checksum");
        }
        assert_eq!(piece.offset, bytes.len(), "each byte once");
        bytes.extend(&frame[piece.at..]);
    }
    assert!(!parts.last().expect("a fragment").0.more, "the last fragment");
    let mut whole = first[..l3 + if v4 { usize::from(first[l3] & 15) * 4 } else { 40 }].to_vec();
    let length = bytes.len() as u16;
    if v4 {
        let header = (whole.len() - l3) as u16;
        whole[l3 + 2..l3 + 4].copy_from_slice(&(header + length).to_be_bytes());
        whole[l3 + 4..l3 + 8].fill(0);
        checksum4(&mut whole[l3..]);
    } else {
        whole[l3 + 6] = first[l3 + 40];
        whole[l3 + 4..l3 + 6].copy_from_slice(&length.to_be_bytes());
    }
    whole.extend(bytes);
    whole
}

/// Reads what the gateway's programs hand out to be held.
pub struct Holding<'a> {
    gateway: &'a Gateway,
    perf: PerfBuffer<'static>,
    taken: Rc<RefCell<Vec<(Held, Vec<u8>)>>>,
}

impl<'a> Holding<'a> {
    /// From now on early fragments are held.
    pub fn start(gateway: &'a Gateway) -> Holding<'a> {
        let taken: Rc<RefCell<Vec<(Held, Vec<u8>)>>> = Rc::default();
        let sink = Rc::clone(&taken);
        let Writer::Xdp(skel) = gateway.writer() else { panic!("nothing is held under tc") };
        let perf = PerfBufferBuilder::new(&skel.maps.held)
            .pages(16)
            .sample_cb(move |_, bytes| {
                let (head, rest) = bytes.split_at(size_of::<Held>());
                let held = Held::from_bytes(head).expect("a head");
                sink.borrow_mut().push((held, rest[..held.length as usize].to_vec()));
            })
            .build()
            .expect("the perf buffer");
        Holding { gateway, perf, taken }
    }

    /// What was handed out since the last call. It has not been counted, so it is taken from what the gateway was given.
    pub fn take(&self) -> Vec<(Held, Vec<u8>)> {
        self.perf.poll(Duration::ZERO).expect("poll the perf buffer");
        let taken = std::mem::take(&mut *self.taken.borrow_mut());
        taken.iter().for_each(|(_, frame)| self.gateway.forget(frame));
        taken
    }

    /// Gives up a frame as the process would.
    pub fn give_up(&self, frame: &[u8]) -> Outcome {
        let Writer::Xdp(skel) = self.gateway.writer() else { panic!("nothing is held under tc") };
        self.gateway.runner_of(skel.progs.eg_xdp_give_up.as_fd()).receive(frame)
    }
}
