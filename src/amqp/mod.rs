//! The wire: AMQP 0-9-1 as bytes, and the values they stand for. No IO, no async, nothing of the house.
//!
//! Two kinds of methods are told apart. The few that come by the million (publish, deliver, acknowledgements) are read
//! and written here by hand, in place. The rare ones go through `amq-protocol`, after [`method`] has walked over them
//! once: that crate recurses without bound on nested tables and cannot say *what* is wrong with a method, and a
//! broker's peers may send anything.

pub mod frame;
pub mod method;
pub mod properties;
pub mod reply_code;
pub mod table;
pub mod term;
pub mod term_hash;

pub use method::Method;
pub use properties::Properties;
pub use reply_code::ReplyCode;
pub use table::{Table, Value};

/// What the client sends first: `AMQP` 0 0 9 1.
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The class id of `basic`, the only class that carries content.
pub const BASIC: u16 = 60;

/// A text as a short string for `amq-protocol`; what does not fit is cut.
pub fn short(text: &str) -> amq_protocol::types::ShortString {
    let mut text = text.to_owned();
    reply_code::truncate(&mut text, 255);
    text.as_str().into()
}
