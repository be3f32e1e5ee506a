//! The frame envelope: type, channel, size, payload, end octet (specification 2.3.5).

pub const METHOD: u8 = 1;
pub const HEADER: u8 = 2;
pub const BODY: u8 = 3;
pub const HEARTBEAT: u8 = 8;

/// The octet that ends every frame.
pub const END: u8 = 0xCE;
/// Octets before the payload.
pub const PREFIX_BYTES: usize = 7;
/// Octets a frame has beyond its payload.
pub const OVERHEAD_BYTES: usize = 8;
/// The smallest `frame_max` a peer may ask for (specification 4.2.3). RabbitMQ 4 wants 8192; older clients send 4096.
pub const MIN_FRAME_MAX: u32 = 4096;

/// One frame, borrowed from the read buffer.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Frame<'a> {
    pub kind: u8,
    pub channel: u16,
    pub payload: &'a [u8],
}

/// Why a sequence of octets is no frame. Both end the connection with 501.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Malformed {
    /// The payload is larger than the negotiated frame size allows.
    TooLarge { kind: u8, channel: u16, payload_bytes: u32, frame_max: u32 },
    /// The octet after the payload is not the frame end.
    NoEnd { kind: u8, channel: u16, payload_bytes: u32, found: u8 },
}

/// The first frame in `octets` and its length with the envelope; `None` while it is incomplete.
///
/// Like RabbitMQ, a payload may be as large as `frame_max` itself (8 octets more than the specification allows), and a
/// `frame_max` of 0 means no limit.
pub fn split(octets: &[u8], frame_max: u32) -> Result<Option<(Frame<'_>, usize)>, Malformed> {
    let Some(prefix) = octets.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let kind = prefix[0];
    let channel = u16::from_be_bytes([prefix[1], prefix[2]]);
    let payload_bytes = u32::from_be_bytes([prefix[3], prefix[4], prefix[5], prefix[6]]);
    if frame_max != 0 && payload_bytes > frame_max {
        return Err(Malformed::TooLarge { kind, channel, payload_bytes, frame_max });
    }
    let end = PREFIX_BYTES + payload_bytes as usize;
    match octets.get(end) {
        None => Ok(None),
        Some(&END) => Ok(Some((Frame { kind, channel, payload: &octets[PREFIX_BYTES..end] }, end + 1))),
        Some(&found) => Err(Malformed::NoEnd { kind, channel, payload_bytes, found }),
    }
}

/// Writes a frame whose payload `fill` appends to `out`.
pub fn write(out: &mut Vec<u8>, kind: u8, channel: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let payload_bytes = out.len() - size_at - 4;
    let size = u32::try_from(payload_bytes).expect("a frame is built from parts that are bounded far below 4 GiB");
    out[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
    out.push(END);
}

/// Writes a body of any size as frames of at most `frame_max` octets each (0: one frame).
pub fn write_body(out: &mut Vec<u8>, channel: u16, body: &[u8], frame_max: u32) {
    let limit = match frame_max as usize {
        0 => body.len().max(1),
        max => max - OVERHEAD_BYTES,
    };
    for piece in body.chunks(limit) {
        write(out, BODY, channel, |out| out.extend_from_slice(piece));
    }
}

/// Writes a heartbeat.
pub fn write_heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&[HEARTBEAT, 0, 0, 0, 0, 0, 0, END]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_only_when_it_is_whole() {
        let mut octets = Vec::new();
        write(&mut octets, METHOD, 3, |out| out.extend_from_slice(b"abc"));
        for cut in 0..octets.len() {
            assert_eq!(split(&octets[..cut], 4096), Ok(None), "cut at {cut}");
        }
        let (frame, length) = split(&octets, 4096).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel, frame.payload, length), (METHOD, 3, &b"abc"[..], octets.len()));
    }

    #[test]
    fn a_size_over_the_limit_is_refused_before_the_payload_comes() {
        let octets = [METHOD, 0, 1, 0, 3, 13, 64];
        assert!(matches!(split(&octets, 131_072), Err(Malformed::TooLarge { payload_bytes: 200_000, .. })));
        assert_eq!(split(&octets, 0), Ok(None));
    }

    #[test]
    fn a_wrong_end_octet_is_refused() {
        let octets = [METHOD, 0, 1, 0, 0, 0, 1, b'x', 0xCD];
        assert!(matches!(split(&octets, 4096), Err(Malformed::NoEnd { found: 0xCD, .. })));
    }

    #[test]
    fn a_body_is_split_at_the_frame_size() {
        let mut octets = Vec::new();
        write_body(&mut octets, 1, &[7; 10_000], 4096);
        let mut rest = &octets[..];
        let mut sizes = Vec::new();
        while let Some((frame, length)) = split(rest, 4096).unwrap() {
            sizes.push(frame.payload.len());
            rest = &rest[length..];
        }
        assert_eq!(sizes, [4088, 4088, 1824]);
    }
}
