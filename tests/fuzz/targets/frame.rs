//! The frame envelope: the same frames whatever the chunks they come in, and each of them writes itself again.
//!
//! Input: which `frame_max`, how large the chunks are, and the octets of a stream.

use leveret::amqp::frame;

const FRAME_MAX: [u32; 4] = [0, 64, frame::MIN_FRAME_MAX, 131_072];
/// Looks at each frame while it comes, at most.
const LOOKS_MAX: usize = 16;

pub fn target(data: &[u8]) {
    let Some((&[which, chunk], mut stream)) = data.split_first_chunk::<2>() else { return };
    let frame_max = FRAME_MAX[usize::from(which) % FRAME_MAX.len()];
    let mut written = Vec::new();
    loop {
        let found = frame::split(stream, frame_max);
        let end = match found {
            Ok(Some((frame, length))) => {
                assert!(frame_max == 0 || frame.payload.len() <= frame_max as usize, "larger than allowed");
                assert_eq!(length, frame.payload.len() + frame::OVERHEAD_BYTES);
                written.clear();
                frame::write(&mut written, frame.kind, frame.channel, |out| out.extend_from_slice(frame.payload));
                assert_eq!(written, stream[..length], "written otherwise than it was read");
                length
            }
            Ok(None) | Err(_) => stream.len(),
        };
        let step = (usize::from(chunk) + 1).max(end / LOOKS_MAX);
        for come in (0..end).step_by(step) {
            let so_far = frame::split(&stream[..come], frame_max);
            // A mistake may show before all has come, and is then the same.
            assert!(so_far == Ok(None) || so_far.is_err() && so_far == found, "{come} octets: {so_far:?}, {found:?}");
        }
        match found {
            Ok(Some(_)) => stream = &stream[end..],
            Ok(None) => return,
            Err(_) => return,
        }
    }
}
