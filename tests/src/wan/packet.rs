//! Where an IPv4 packet comes from and goes to (RFC 791, section 3.1). Reads bytes that anybody may have made, and never panics.

use std::net::Ipv4Addr;

/// The shortest header.
const HEADER: usize = 20;

/// Source and destination; none for what is no whole IPv4 packet.
pub fn ends(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header: &[u8; HEADER] = packet.first_chunk()?;
    let [first, _, long, short, ..] = *header;
    let length = usize::from(u16::from_be_bytes([long, short]));
    let header_length = usize::from(first & 0x0f) * 4;
    let whole = first >> 4 == 4
        && header_length >= HEADER
        && (header_length..=packet.len()).contains(&length);
    let [.., a, b, c, d, e, f, g, h] = *header;
    whole.then(|| (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h)))
}

/// The clusters of both ends: the third part of their addresses, where the first two are `prefix`.
pub fn clusters(packet: &[u8], prefix: [u8; 2]) -> Option<(usize, usize)> {
    let (from, to) = ends(packet)?;
    let cluster = |ip: Ipv4Addr| {
        let [a, b, cluster, _] = ip.octets();
        ([a, b] == prefix).then_some(usize::from(cluster))
    };
    Some((cluster(from)?, cluster(to)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[3] = 28;
        packet[12..20].copy_from_slice(&[10, 60, 0, 1, 10, 60, 2, 11]);
        packet
    }

    #[test]
    fn the_ends_and_their_clusters_are_read() {
        let (from, to) = ends(&packet()).unwrap();
        assert_eq!(
            (from.to_string(), to.to_string()),
            ("10.60.0.1".into(), "10.60.2.11".into())
        );
        assert_eq!(clusters(&packet(), [10, 60]), Some((0, 2)));
        assert_eq!(clusters(&packet(), [10, 61]), None, "somebody else's");
    }

    #[test]
    fn whatever_the_bytes_it_answers() {
        let whole = packet();
        for cut in 0..whole.len() {
            assert_eq!(ends(&whole[..cut]), None, "{cut} bytes");
        }
        let mut rng = fastrand::Rng::with_seed(9);
        for _ in 0..20_000 {
            let mut bytes = packet();
            for _ in 0..rng.usize(0..6) {
                let place = rng.usize(0..bytes.len());
                bytes[place] = rng.u8(..);
            }
            bytes.truncate(rng.usize(0..=bytes.len()));
            let _: Option<_> = clusters(&bytes, [10, 60]);
        }
        let mut v6 = packet();
        v6[0] = 0x65;
        assert_eq!(ends(&v6), None);
        let mut long = packet();
        long[3] = 29;
        assert_eq!(ends(&long), None, "longer than it is");
    }
}
