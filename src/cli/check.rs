//! `leveret check`: what is wrong with a file, before a broker reads it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::EXIT_CONFIG;
use crate::config::{Config, Sources};

/// Tells about each file what it is and what is wrong with it.
pub fn run(files: &[PathBuf]) -> ExitCode {
    let mut right = true;
    for path in files {
        let (report, is_right) = check(path);
        print!("{report}");
        right &= is_right;
    }
    if right { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) }
}

/// The lines to print about a file, and whether it can be used.
fn check(path: &Path) -> (String, bool) {
    let sources = Sources { file: Some(path.to_owned()), ..Sources::default() };
    match Config::load(&sources) {
        Ok((_, warnings)) => (format!("{}: settings: ok, {} warnings\n", path.display(), warnings.len()), true),
        Err(remarks) => (remarks.to_string(), false),
    }
}
