use std::path::Path;

use super::layers::Layers;
use super::settings::{SETTINGS, Setting};
use crate::written::{Field, Place, Remark, Remarks, Tree, nearest, read_toml};

/// Lays the settings of a TOML file over what is there.
pub fn read(text: &str, path: &Path, layers: &mut Layers, remarks: &mut Remarks) {
    match read_toml(text, path) {
        Ok(root) => {
            let Tree::Map(fields) = root.tree else { unreachable!("a TOML document is a table") };
            section("", fields, path, layers, remarks);
        }
        Err(syntax) => remarks.mistakes.extend(syntax.mistakes),
    }
}

fn section(name: &str, fields: Vec<Field>, path: &Path, layers: &mut Layers, remarks: &mut Remarks) {
    for Field { name: key, line, value } in fields {
        let key = if name.is_empty() { key } else { format!("{name}.{key}") };
        let place = Place::file(path, line);
        let is_section = SETTINGS.iter().any(|setting| setting.key.starts_with(&format!("{key}.")));
        match (Setting::of(&key), value.tree) {
            (Some(setting), tree) => layers.set(setting, tree, place, key),
            (None, Tree::Map(fields)) if is_section => section(&key, fields, path, layers, remarks),
            (None, tree) if is_section => {
                remarks.mistake(place, key, format!("is a section of settings, not {}", tree.kind()));
            }
            _ => remarks.mistakes.push(Remark {
                suggestion: nearest(&key, names()).map(str::to_owned),
                place,
                key,
                what: "unknown setting".to_owned(),
            }),
        }
    }
}

/// The keys, and the sections they stand in.
fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().flat_map(|setting| {
        let section = setting.key.split_once('.').map(|(section, _)| section);
        std::iter::once(setting.key).chain(section)
    })
}
