// SPDX-License-Identifier: GPL-3.0-only
//! Blocks of a pcapng file (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-05.html>), little-endian: one
//! section, an interface block before the first packet of each interface, and the statistics at the end. Only writes.

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// "If the Section Length is -1 …, this means that the size of the section is not specified" (section 4.1).
const UNKNOWN_LENGTH: u64 = u64::MAX;
const ETHERNET: u16 = 1;

/// Options: of every block, and of one kind.
const END: u16 = 0;
const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const ISB_OSDROP: u16 = 7;
const ISB_USRDELIV: u16 = 8;
/// Timestamps count in units of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// One packet.
pub(super) struct Packet<'a> {
    /// In the order of the interface blocks, from 0.
    pub(super) interface: u32,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    /// Bytes on the wire.
    pub(super) length: u32,
    /// Those that were kept.
    pub(super) bytes: &'a [u8],
    pub(super) comment: &'a str,
}

/// How it ended.
pub(super) struct Statistics<'a> {
    pub(super) time: u64,
    pub(super) captured: u64,
    pub(super) lost: u64,
    pub(super) comment: &'a str,
}

/// Begins the file.
pub(super) fn section(application: &str) -> Vec<u8> {
    let mut body = Body::default();
    body.u32(BYTE_ORDER).u16(1).u16(0).u64(UNKNOWN_LENGTH);
    body.option(SHB_USERAPPL, application.as_bytes()).end();
    body.block(SECTION)
}

/// The next interface.
pub(super) fn interface(name: &str, snap: u32) -> Vec<u8> {
    let mut body = Body::default();
    body.u16(ETHERNET).u16(0).u32(snap);
    body.option(IF_NAME, name.as_bytes()).option(IF_TSRESOL, &[NANOSECONDS]).end();
    body.block(INTERFACE)
}

pub(super) fn packet(packet: &Packet<'_>) -> Vec<u8> {
    let mut body = Body::default();
    body.u32(packet.interface).time(packet.time).u32(length(packet.bytes)).u32(packet.length).padded(packet.bytes);
    body.option(COMMENT, packet.comment.as_bytes()).end();
    body.block(PACKET)
}

/// Ends the file. The numbers are those of all interfaces, under the first.
pub(super) fn statistics(statistics: &Statistics<'_>) -> Vec<u8> {
    let mut body = Body::default();
    body.u32(0).time(statistics.time).option(COMMENT, statistics.comment.as_bytes());
    body.option(ISB_OSDROP, &statistics.lost.to_le_bytes());
    body.option(ISB_USRDELIV, &statistics.captured.to_le_bytes()).end();
    body.block(STATISTICS)
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn u16(&mut self, value: u16) -> &mut Body {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Body {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Body {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// The upper half first, whatever the byte order (section 4.3).
    fn time(&mut self, value: u64) -> &mut Body {
        self.u32((value >> 32) as u32).u32(value as u32)
    }

    /// To a multiple of four bytes.
    fn padded(&mut self, bytes: &[u8]) -> &mut Body {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// An option's length has 16 bits; nothing of ours is longer.
    fn option(&mut self, code: u16, value: &[u8]) -> &mut Body {
        let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
        self.u16(code).u16(u16::try_from(value.len()).unwrap_or(u16::MAX)).padded(value)
    }

    fn end(&mut self) {
        self.u16(END).u16(0);
    }

    /// Type and length before the body, the length behind it once more.
    fn block(self, kind: u32) -> Vec<u8> {
        let total = length(&self.0) + 12;
        let mut block = Body(Vec::with_capacity(total as usize));
        block.u32(kind).u32(total);
        block.0.extend(self.0);
        block.u32(total);
        block.0
    }
}

/// Frames are at most `SNAP_MAX` bytes here.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_the_format_lays_them_out() {
        let packet = packet(&Packet {
            interface: 2,
            time: 0x0102_0304_0506_0708,
            length: 60,
            bytes: &[9, 8, 7, 6, 5],
            comment: "ok",
        });
        let expected: [&[u8]; 10] = [
            &[6, 0, 0, 0, 52, 0, 0, 0],
            &[2, 0, 0, 0],
            &[4, 3, 2, 1, 8, 7, 6, 5],
            &[5, 0, 0, 0],
            &[60, 0, 0, 0],
            &[9, 8, 7, 6, 5, 0, 0, 0],
            &[1, 0, 2, 0],
            b"ok\0\0",
            &[0, 0, 0, 0],
            &[52, 0, 0, 0],
        ];
        assert_eq!(packet, expected.concat());
        for block in [section("a"), interface("eth0", 96), packet] {
            assert_eq!(block.len() % 4, 0);
            let length = (block.len() as u32).to_le_bytes();
            assert_eq!((&block[4..8], &block[block.len() - 4..]), (&length[..], &length[..]));
        }
    }
}
