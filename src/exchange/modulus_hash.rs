//! Modulus hash: the hash of the message's keys, modulo the number of bindings, says which of them takes the message
//! (`rabbit_exchange_type_modulus_hash`). The bindings' keys and arguments do not count. Unlike with a consistent hash,
//! another binding moves nearly all keys.

use super::Subject;
use super::hash::Hash;

/// The number of the binding, before the modulus. All keys count, those of `CC` and `BCC` too.
pub(super) fn number(subject: &Subject<'_>) -> u64 {
    Hash::default().texts(subject.keys.iter().copied()).finish()
}
