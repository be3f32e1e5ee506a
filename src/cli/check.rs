//! `leveret check`: what is wrong with a file, before a broker reads it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::EXIT_CONFIG;
use crate::config::{Config, Sources};
use crate::definitions::{Algorithm, Document, SECTIONS, Target};
use crate::written::{Remark, Remarks, Tree, read_toml};

/// Tells about each file what it is and what is wrong with it.
pub fn run(files: &[PathBuf]) -> ExitCode {
    let mut right = true;
    let mut out = std::io::stdout().lock();
    for path in files {
        let report = check(path);
        for line in &report.lines {
            // Whoever stops reading has seen enough; the exit code still tells.
            let _ = writeln!(out, "{line}");
        }
        right &= report.is_right;
    }
    if right { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) }
}

/// What is said about a file.
struct Report {
    lines: Vec<String>,
    is_right: bool,
}

fn check(path: &Path) -> Report {
    let (kind, result) = if holds_definitions(path) {
        (
            "definitions",
            Document::read(path, Target::Nowhere, &Algorithm::Sha256)
                .map(|(document, warnings)| (document.summary(), warnings)),
        )
    } else {
        let sources = Sources { file: Some(path.to_owned()), ..Sources::default() };
        ("settings", Config::load(&sources).map(|(_, warnings)| ("ok".to_owned(), warnings)))
    };
    let (summary, Remarks { mistakes, warnings }) = match result {
        Ok((summary, warnings)) => (Some(summary), Remarks { mistakes: Vec::new(), warnings }),
        Err(remarks) => (None, remarks),
    };
    let mut lines = said("error", &mistakes);
    lines.extend(said("warning", &warnings));
    let is_right = summary.is_some();
    let summary = summary.unwrap_or_else(|| counted(mistakes.len(), "error"));
    let warned = if warnings.is_empty() { String::new() } else { format!(", {}", counted(warnings.len(), "warning")) };
    lines.push(format!("{}: {kind}: {summary}{warned}", path.display()));
    Report { lines, is_right }
}

fn said(weight: &str, remarks: &[Remark]) -> Vec<String> {
    remarks.iter().map(|remark| format!("{weight}: {remark}")).collect()
}

fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// Whether a file is meant to hold definitions: JSON always is, and TOML is if it has a section of them. Settings have
/// no list of tables, so that a misspelt section is recognised too.
fn holds_definitions(path: &Path) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("toml") => {
            let root = fs::read_to_string(path).ok().and_then(|text| read_toml(&text, path).ok());
            let Some(Tree::Map(fields)) = root.map(|root| root.tree) else { return false };
            fields.iter().any(|field| {
                let is_list_of_tables = match &field.value.tree {
                    Tree::List(items) => items.iter().any(|item| matches!(item.tree, Tree::Map(_))),
                    _ => false,
                };
                is_list_of_tables || SECTIONS.contains(&field.name.as_str())
            })
        }
        Some("conf") => false,
        _ => {
            fs::read_to_string(path).is_ok_and(|text| text.trim_start_matches('\u{feff}').trim_start().starts_with('{'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, text: &str) -> (Vec<String>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let Report { lines, is_right } = check(&path);
        let plain = format!("{}/", folder.path().display());
        (lines.iter().map(|line| line.replace(&plain, "")).collect(), is_right)
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_file_is_recognised_by_its_name_and_what_it_holds() {
        let cases = [
            ("a.toml", "heartbeat = 5", "a.toml: settings: ok"),
            ("a.conf", "heartbeat = 5", "a.conf: settings: ok"),
            ("a.toml", "", "a.toml: settings: ok"),
            ("a.json", "{}", "a.json: definitions: nothing"),
            ("export", " {\"vhosts\": [{\"name\": \"/\"}]}", "export: definitions: 1 vhost"),
            ("a.toml", "[[vhosts]]\nname = '/'", "a.toml: definitions: 1 vhost"),
            ("a.toml", "users = []", "a.toml: definitions: nothing"),
        ];
        for (name, text, said) in cases {
            assert_eq!(report(name, text), (lines(&[said]), true), "{name} {text}");
        }
    }

    #[test]
    fn mistakes_and_warnings_are_listed_and_counted() {
        assert_eq!(
            report("a.toml", "hartbeat = 5\nframe_max = 1"),
            (
                lines(&[
                    "error: a.toml:1: hartbeat: unknown setting (did you mean 'heartbeat'?)",
                    "error: a.toml:2: frame_max: 1 is not a size from 4096 to 134217728 bytes; a unit may \
                     follow, as in \"16 MiB\"",
                    "a.toml: settings: 2 errors",
                ]),
                false
            )
        );
        assert_eq!(
            report("a.conf", "delegate_count = 5"),
            (
                lines(&[
                    "warning: a.conf:1: delegate_count: is not supported; ignored",
                    "a.conf: settings: ok, 1 warning"
                ]),
                true
            )
        );
        assert_eq!(
            report("a.toml", "[[quues]]\nname = 'q'"),
            (
                lines(&[
                    "error: a.toml:1: quues: unknown field (did you mean 'queues'?)",
                    "a.toml: definitions: 1 error"
                ]),
                false
            )
        );
    }

    #[test]
    fn an_export_of_one_virtual_host_is_right_by_itself() {
        let text = r#"{"rabbitmq_definition_format": "single_virtual_host", "queues": [{"name": "q"}]}"#;
        assert_eq!(report("v.json", text), (lines(&["v.json: definitions: 1 queue"]), true));
    }
}
