//! Settings from a TOML file, a `rabbitmq.conf`, the environment and flags: whatever is written there, it is understood or
//! every mistake has a text.
//!
//! Input: which of them, and the text; variables and flags are lines of `NAME=value`.

use leveret::config::{Config, Host, SETTINGS, Sources};
use std::path::PathBuf;
use std::sync::LazyLock;

/// Where the files are written that are then read.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("leveret-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
});

pub fn target(data: &[u8]) {
    let Some((which, octets)) = data.split_first() else { return };
    let mut sources = Sources { host: Host { name: "host".to_owned(), is_root: false }, ..Sources::default() };
    let lines = || {
        let text = String::from_utf8_lossy(octets);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    match which % 4 {
        0 | 1 => {
            let file = FOLDER.join(if which & 1 == 0 { "fuzz.toml" } else { "fuzz.conf" });
            std::fs::write(&file, octets).expect("a file");
            sources.file = Some(file);
        }
        2 => sources.environment = lines(),
        _ => sources.flags = lines().into_iter().map(|(key, value)| (key, vec![value])).collect(),
    }
    match Config::load(&sources) {
        Ok((_, warnings)) => assert!(warnings.iter().all(|warning| !warning.to_string().is_empty())),
        Err(remarks) => assert!(!remarks.to_string().is_empty()),
    }
    assert_eq!(sources.effective().len(), SETTINGS.len());
}
