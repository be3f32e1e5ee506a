use std::fmt;
use std::path::{Path, PathBuf};

/// Something that is wrong or odd in what was written: where, what, and what was probably meant.
///
/// Shown as `leveret.toml:12: hartbeat: unknown setting (did you mean 'heartbeat'?)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    pub place: Place,
    /// The setting or field, by the name it has in that place; empty if it's about the place as a whole.
    pub key: String,
    /// What is wrong and what is allowed; lowercase, without a full stop.
    pub what: String,
    /// The known name nearest to a misspelt one.
    pub suggestion: Option<String>,
}

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    File {
        path: PathBuf,
        /// Counted from 1; `None` if it's about the file as a whole.
        line: Option<usize>,
    },
    Environment,
    CommandLine,
}

impl Place {
    pub fn file(path: &Path, line: usize) -> Self {
        Self::File { path: path.to_owned(), line: Some(line) }
    }

    pub fn whole_file(path: &Path) -> Self {
        Self::File { path: path.to_owned(), line: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(out, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(out, "{}", path.display()),
            Self::Environment => out.write_str("environment"),
            Self::CommandLine => out.write_str("command line"),
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        out.write_str(&self.what)?;
        match &self.suggestion {
            Some(suggestion) => write!(out, " (did you mean '{suggestion}'?)"),
            None => Ok(()),
        }
    }
}

/// All remarks about one reading, gathered on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    /// What makes the whole unusable.
    pub mistakes: Vec<Remark>,
    /// What is left aside, and should be known.
    pub warnings: Vec<Remark>,
}

impl Remarks {
    pub fn mistake(&mut self, place: Place, key: impl Into<String>, what: impl Into<String>) {
        self.mistakes.push(Remark { place, key: key.into(), what: what.into(), suggestion: None });
    }

    pub fn warn(&mut self, place: Place, key: impl Into<String>, what: impl Into<String>) {
        self.warnings.push(Remark { place, key: key.into(), what: what.into(), suggestion: None });
    }

    /// The value with its warnings, if nothing is wrong.
    pub fn into_result<T>(self, value: T) -> Result<(T, Vec<Remark>), Remarks> {
        if self.mistakes.is_empty() { Ok((value, self.warnings)) } else { Err(self) }
    }
}

/// One line each: `error: …`, `warning: …`.
impl fmt::Display for Remarks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.mistakes {
            writeln!(out, "error: {mistake}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Remarks {}
