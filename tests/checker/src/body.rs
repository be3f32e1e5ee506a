//! A body of any length that says which message it is and whether it is whole.
//!
//! ```text
//! id (8) | length of the body (8) | checksum of all else (8) | octets that follow from the id
//! ```
//!
//! The octets are computed again when a body is checked, so that nothing of another message passes for them.

use crate::{Id, Random};

/// The shortest body that can say anything, octets.
pub const HEAD_BYTES: usize = 24;

/// The body of message `id`, `len` octets long, or [`HEAD_BYTES`] if that is more.
pub fn body(id: Id, len: usize) -> Vec<u8> {
    let len = len.max(HEAD_BYTES);
    let mut body = Vec::with_capacity(len + 8);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(&(len as u64).to_be_bytes());
    body.extend_from_slice(&[0; 8]);
    let mut random = Random::new(id);
    while body.len() < len {
        body.extend_from_slice(&random.bits().to_be_bytes());
    }
    body.truncate(len);
    let sum = checksum(&body);
    body[16..24].copy_from_slice(&sum.to_be_bytes());
    body
}

/// Which message this is, or `None` if it is not whole.
pub fn check(found: &[u8]) -> Option<Id> {
    let id = u64::from_be_bytes(found.get(..8)?.try_into().ok()?);
    (found.len() >= HEAD_BYTES && found == body(id, found.len())).then_some(id)
}

/// FNV-1a over eight octets at a time; the place of the checksum itself is empty meanwhile.
fn checksum(octets: &[u8]) -> u64 {
    octets.chunks(8).fold(0xCBF2_9CE4_8422_2325, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_be_bytes(word)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_whose_it_is() {
        for len in [0, 1, 24, 25, 31, 32, 33, 1000, 70_000] {
            let body = body(77, len);
            assert_eq!(body.len(), len.max(HEAD_BYTES));
            assert_eq!(check(&body), Some(77));
        }
    }

    #[test]
    fn a_changed_octet_is_noticed_wherever_it_is() {
        let whole = body(5, 100);
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(check(&changed), None, "octet {at}");
        }
    }

    #[test]
    fn a_body_that_is_cut_or_extended_is_noticed() {
        let whole = body(5, 100);
        for len in 0..whole.len() {
            assert_eq!(check(&whole[..len]), None, "{len} octets");
        }
        assert_eq!(check(&[whole.as_slice(), &[0]].concat()), None);
    }
}
