use std::collections::BTreeMap;
use std::path::PathBuf;

use super::settings::Setting;
use crate::written::{Place, Tree};

/// A setting's value as it was written; not `Debug`, as it may be a password.
#[derive(Clone)]
pub struct Written {
    pub value: Tree,
    pub place: Place,
    /// What the setting is called in that place.
    pub name: String,
}

/// What was written for each setting; a later source covers an earlier one.
#[derive(Default)]
pub struct Layers {
    settings: BTreeMap<&'static str, Written>,
    /// The files that were read, in their order.
    pub files: Vec<PathBuf>,
}

impl Layers {
    pub fn set(&mut self, setting: &'static Setting, value: Tree, place: Place, name: impl Into<String>) {
        self.settings.insert(setting.key, Written { value, place, name: name.into() });
    }

    pub fn get(&self, key: &str) -> Option<&Written> {
        self.settings.get(key)
    }
}
