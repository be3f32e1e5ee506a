//! What people write: files as trees that know their lines, and remarks about what is wrong in them.
//!
//! Settings and definitions come in several notations (TOML, JSON, `rabbitmq.conf`, variables, flags), and whoever
//! wrote them wants to hear about *every* mistake at once, with its line. Deserialising into structs stops at the
//! first one and forgets lines, so files are read into a [`Node`] tree first, and the rooms that know the meaning walk
//! over that.

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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(
            any in any::<String>(),
            json in r#"[{}\[\]:,"\\au019.eE+\-ntrl \n]{0,40}"#,
            toml in r#"[a=.'"\[\]{},#019_x\n -]{0,40}"#,
        ) {
            for text in [&any, &json, &toml] {
                let _ = super::read_json(text, Path::new("x"));
                let _ = super::read_toml(text, Path::new("x"));
            }
        }

        #[test]
        fn what_serde_json_reads_is_read_the_same(
            text in r#"(\{"a":|\[1,)?("[a-z\\/nt]{0,3}"|-?[0-9]{1,3}(\.[0-9])?|null|true|\[\]|\{ \})(\}|\])?"#
        ) {
            let ours = super::read_json(&text, Path::new("x")).ok().map(|node| node.tree.to_json());
            let theirs: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            prop_assert_eq!(ours, theirs);
        }
    }
}
