//! The library that stands between a broker and the system: see `shim.c`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("../shim.c");

pub struct Shim {
    library: PathBuf,
    told: PathBuf,
}

/// What the shim said.
#[derive(Debug, Default)]
pub struct Told {
    /// It did what it was to do.
    pub fired: bool,
    /// Kinds of files of which a sync failed and was tried again.
    pub synced_again: Vec<String>,
}

impl Shim {
    /// Compiled into a folder that is somebody else's to remove.
    pub fn build(folder: &Path) -> io::Result<Self> {
        let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
        std::fs::write(&source, SOURCE)?;
        let status = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source).status()?;
        if !status.success() {
            return Err(io::Error::other("the shim does not compile"));
        }
        Ok(Self { library, told: folder.join("shim.told") })
    }

    /// Variables for a broker on this folder: `action` is `call:kind:when:nth:what`.
    pub fn variables(&self, data: &Path, action: &str) -> Vec<(String, String)> {
        vec![
            ("LD_PRELOAD".into(), self.library.to_string_lossy().into_owned()),
            ("FAULTS_DATA".into(), data.to_string_lossy().into_owned()),
            ("FAULTS_SHIM_LOG".into(), self.told.to_string_lossy().into_owned()),
            ("FAULTS_SHIM".into(), action.into()),
        ]
    }

    /// Variables for a broker whose clock is wrong by the milliseconds in `file`.
    pub fn clock_variables(&self, file: &Path) -> Vec<(String, String)> {
        vec![
            ("LD_PRELOAD".into(), self.library.to_string_lossy().into_owned()),
            ("FAULTS_CLOCK".into(), file.to_string_lossy().into_owned()),
        ]
    }

    /// What it said since this was asked last.
    pub fn told(&self) -> Told {
        let text = std::fs::read_to_string(&self.told).unwrap_or_default();
        // It opens it anew with the next process.
        let _ = std::fs::remove_file(&self.told);
        Told {
            fired: text.lines().any(|line| line.starts_with("fired ")),
            synced_again: text.lines().filter_map(|line| line.strip_prefix("again sync ")).map(str::to_owned).collect(),
        }
    }
}
