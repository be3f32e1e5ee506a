//! What people write: files as trees that know their lines, and remarks about what is wrong in them.
//!
//! Settings and definitions come in several notations (TOML, JSON, `rabbitmq.conf`, variables, flags), and whoever wrote
//! them wants to hear about *every* mistake at once, with its line. Deserialising into structs stops at the first one and
//! forgets lines, so files are read into a [`Node`] tree first, and the rooms that know the meaning walk over that.

mod json;
mod remark;
mod spelling;
mod toml;
mod tree;

pub use json::read as read_json;
pub use remark::{Place, Remark, Remarks};
pub use spelling::nearest;
pub use toml::read as read_toml;
pub use tree::{Field, Node, Tree};
