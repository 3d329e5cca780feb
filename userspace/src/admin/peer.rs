// SPDX-License-Identifier: GPL-3.0-only
//! Whose process is at the other end of a connection on this host, as the kernel says (`/proc/net/tcp`, proc_net_tcp in the
//! kernel's documentation).

use std::fs;
use std::net::{IpAddr, SocketAddr};

use nix::unistd::geteuid;

/// Is it root, or who runs the gateway, that is connected from `peer` to `local`? Somebody on another host is not.
pub(super) fn is_trusted(peer: SocketAddr, local: SocketAddr) -> bool {
    let table = if peer.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let owner = fs::read_to_string(table).ok().and_then(|table| owner(&table, peer, local));
    owner.is_some_and(|uid| uid == 0 || uid == geteuid().as_raw())
}

/// The user of the socket that is connected from here to there: the table's second to fourth column (state) and its eighth.
/// Another socket may have the same port and other ends, so both count.
fn owner(table: &str, from: SocketAddr, to: SocketAddr) -> Option<u32> {
    const ESTABLISHED: &str = "01";
    let (from, to) = (words(from), words(to));
    let mut rows = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.get(1..4) == Some(&[from.as_str(), to.as_str(), ESTABLISHED]))?;
    row.get(7)?.parse().ok()
}

/// As the kernel prints an address: in words as they lie in memory, and the port.
fn words(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |word: &[u8]| word.try_into().map_or(0, u32::from_ne_bytes);
    let words: String = bytes.chunks(4).map(|chunk| format!("{:08X}", word(chunk))).collect();
    format!("{words}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connections_other_end_is_ours() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (client, listener) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
            assert!(is_trusted(client, listener), "{any}");
            assert!(!is_trusted(client, "127.0.0.1:1".parse().unwrap()), "it is connected elsewhere");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_strangers_connection_is_his() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n   \
            1: 0100007F:D431 0100007F:2382 01 00000000:00000000 00:00000000 00000000  1000        0 2 1\n";
        let owner = |from: &str, to: &str| super::owner(table, from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(owner("127.0.0.1:54321", "127.0.0.1:9090"), Some(1000));
        assert_eq!(owner("127.0.0.1:54321", "127.0.0.1:80"), None);
        assert_eq!(owner("127.0.0.1:8080", "0.0.0.0:0"), None, "it only listens");
    }
}
